"""More sources to measure effects at all positions: minimal pairs, PANDA's pairs, and knowledge.

The batches have the format of :mod:`biaslab.data.effects`; quantity indices start at ``first``.
"""

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from transformers import PreTrainedTokenizerBase

from biaslab.data.knowledge import Fact, known_facts, word_queries
from biaslab.data.knowledge_to_spare import FACTS_TO_SPARE
from biaslab.data.minimal_pairs import DIMENSIONS, PAIRS, MinimalPair, known_pairs, pair_queries
from biaslab.data.panda_pairs import PandaPair, encoded_pairs, hidden_queries, one_each, read_panda_pairs
from biaslab.data.queries import Queries, group_places, later_queries
from biaslab.errors import InputError
from biaslab.models.tokens import Bos, beginning, is_masked

INFORMATION = "known/information"
_KNOWN = tuple(dict.fromkeys(fact.dimension for fact in FACTS_TO_SPARE))
QUANTITIES = {  # by source
    "pairs": [f"{dimension}/pairs" for dimension in DIMENSIONS],
    "panda-pairs": ["panda"],
    "knowledge": [*(f"{dimension}/known" for dimension in _KNOWN), INFORMATION],
}
_MOST = 300  # maximum number of PANDA pairs
_Example = TypeVar("_Example", MinimalPair, Fact)


def make_batches(
    tokenizer: PreTrainedTokenizerBase,
    source: str,
    limit: int,
    tokens_per_batch: int,
    first: int,
    bos: Bos = "tokenizer",
) -> Iterator[dict[str, Any]]:
    """Yield the batches of a source in QUANTITIES, from its part for finding neurons, at most ``limit`` examples.

    Raises:
        InputError: if every example has words unknown to the tokenizer.
    """
    if source == "pairs":
        pairs = _in_turn(known_pairs(tokenizer, PAIRS["find"]), limit)
        batches = of_minimal_pairs(tokenizer, pairs, tokens_per_batch, first, bos)
    elif source == "panda-pairs":
        pairs_of_panda, most = read_panda_pairs("find"), min(limit, _MOST)
        batches = of_panda_pairs(tokenizer, pairs_of_panda, most, tokens_per_batch, first, bos=bos)
    else:
        facts = _in_turn(known_facts(tokenizer, FACTS_TO_SPARE), limit)
        batches = of_facts(tokenizer, facts, tokens_per_batch, first)
    made = list(batches)
    if not made:
        raise InputError(f"`contrast` is expected to contain words that the tokenizer knows, but {source!r} has none.")
    yield from made


def _in_turn(examples: Iterable[_Example], limit: int) -> list[_Example]:
    """Return the first examples, alternating between dimensions."""
    before: Counter[str] = Counter()
    ranked = []
    for example in examples:
        ranked.append((before[example.dimension], example))
        before[example.dimension] += 1
    return [example for _, example in sorted(ranked, key=lambda both: both[0])[:limit]]


def of_minimal_pairs(
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[MinimalPair],
    tokens_per_batch: int,
    first: int = 0,
    bos: Bos = "tokenizer",
) -> Iterator[dict[str, Any]]:
    """Yield the queries for minimal pairs: the mean score difference over the pairs of a dimension.

    A score is the sum over :func:`biaslab.data.minimal_pairs.pair_queries`; the stereotyping sentence is positive.
    """
    if pairs:
        counts = Counter(pair.dimension for pair in pairs)
        weights = [sign / counts[pair.dimension] for pair in pairs for sign in (1, -1)]
        quantities = [first + DIMENSIONS.index(pair.dimension) for pair in pairs for _ in range(2)]
        yield from _weighted(pair_queries(tokenizer, pairs, bos), weights, quantities, tokens_per_batch)


def of_facts(
    tokenizer: PreTrainedTokenizerBase, facts: Sequence[Fact], tokens_per_batch: int, first: int = 0
) -> Iterator[dict[str, Any]]:
    """Yield the queries for knowledge: the mean over a dimension's facts of log P(right) - log P(wrong).

    The log-probability of a word is the mean over its tokens, as in :func:`biaslab.evaluation.scoring.score_words`.
    Batches whose effects are squared follow: for each fact alone, the difference of the two words' first tokens, in
    one pass; without facts whose words start with the same token.
    """
    queries = word_queries(tokenizer, facts)
    counts = Counter(fact.dimension for fact in facts)
    own = [fact for fact in facts for _ in range(2)]
    signs = [1.0, -1.0] * len(facts)
    weights = [
        sign / counts[fact.dimension] / len(asked) for sign, fact, asked in zip(signs, own, queries, strict=True)
    ]
    yield from _weighted(queries, weights, [first + _KNOWN.index(fact.dimension) for fact in own], tokens_per_batch)
    begun = [asked[:1] if asked[0] != queries[number ^ 1][0] else [] for number, asked in enumerate(queries)]
    apart = [number // 2 for number in range(len(queries))]  # the fact of each query list
    for batch in _weighted(begun, signs, [first + len(_KNOWN)] * len(queries), tokens_per_batch, apart):
        yield batch | {"tokens": len(batch["input_ids"])}


def of_panda_pairs(
    tokenizer: PreTrainedTokenizerBase,
    pairs: Sequence[PandaPair],
    limit: int,
    tokens_per_batch: int,
    quantity: int = 0,
    absolute: bool = True,
    bos: Bos = "tokenizer",
) -> Iterator[dict[str, Any]]:
    """Yield the queries for PANDA's pairs: the mean of log P(original) - log P(rewrite), or of its absolute value.

    A masked model is queried for a fifth of the tokens that both share, masked at once; a causal model for each token
    with context. Only pairs of equal length are used, one per original, so that both sentences are in one batch. Its
    ``pair`` ``[sequence]`` identifies the pairs if the sign is that of the model's own difference.
    """
    masked, draw = is_masked(tokenizer), random.Random(0)
    equal = {pair: (one, other) for pair, one, other in encoded_pairs(tokenizer, pairs) if len(one) == len(other)}
    chosen = one_each(equal)[:limit]
    front = () if masked else beginning(tokenizer, bos).front
    queries: Queries = []
    for both in (equal[pair] for pair in chosen):
        hidden = hidden_queries(tokenizer, both, draw, folds=1) if masked else None
        queries += hidden or [later_queries(ids, front) for ids in both]
    weights = [sign / max(1, len(chosen)) for _ in chosen for sign in (1, -1)]
    for batch in _weighted(queries, weights, [quantity] * len(queries), tokens_per_batch, range(len(queries)), 2):
        own = torch.arange(len(batch["input_ids"])) // 2
        yield batch | ({"pair": own} if absolute else {})


def _weighted(
    queries: Queries,
    weights: Sequence[float],
    quantities: Sequence[int],
    tokens_per_batch: int,
    apart: Sequence[int] | None = None,
    together: int = 1,
) -> Iterator[dict[str, Any]]:
    """Yield batches in which each candidate's queries have its weight, in one sum, and contribute to its quantity.

    Identical inputs are merged within a quantity, or within a value of ``apart`` if given. Groups of ``together``
    inputs (of equal length) stay in one batch.
    """
    weight, quantity = torch.tensor(weights), torch.tensor(quantities)
    for group in group_places(queries, quantities if apart is None else apart):
        row, candidate, inputs = group["row"], group["candidate"], group["input_ids"]
        of_row = torch.zeros(len(inputs), dtype=torch.long).index_put((row,), quantity[candidate])
        size = max(1, tokens_per_batch // (together * inputs.shape[1])) * together
        for rows in torch.arange(len(inputs)).split(size):
            chosen = (row >= rows[0]) & (row <= rows[-1])
            yield {
                "input_ids": inputs[rows],
                "row": row[chosen] - rows[0],
                "position": group["position"][chosen],
                "target_ids": group["target_ids"][chosen],
                "weights": weight[candidate[chosen]][None],
                "sum": torch.zeros(1, dtype=torch.long),
                "share": torch.ones(1, len(rows)),
                "quantity": of_row[rows][None],
            }
