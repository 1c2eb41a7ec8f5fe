"""Data to measure the effects of neurons at all positions: StereoSet's clusters, ordinary text, and other sources.

A batch contains ``number``, ``input_ids`` ``[sequence, token]``; the queries' ``row``, ``position`` and ``target_ids``
``[query]``, and ``weights`` ``[sum, query]``, as :func:`biaslab.attribution.importance.first_order_effects` takes them.
The effects on the sums in ``sum`` ``[part]`` are multiplied by ``share`` and added to ``quantity``, an index into
:func:`quantities_of`, both ``[part, sequence]``. A batch of text also has ``tokens``, their number: its effects are
squared first. If a batch has ``pair`` ``[sequence]``, its only sum is that of the absolute values of the pairs' sums.
Floating-point numbers are float32, since some devices lack float64. The sources "pairs", "panda-pairs" and "knowledge"
are in :mod:`biaslab.data.pair_effects`.
"""

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from biaslab.data import pair_effects
from biaslab.data.corpus import SPLITS, TEXTS, read_sentences
from biaslab.data.queries import causal_queries, group_queries, masked_queries
from biaslab.data.stereoset import DOMAINS, Terms, candidate_word, half_of, read_clusters, spread
from biaslab.errors import InputError
from biaslab.models.positions import cut_tokens
from biaslab.models.tokens import Bos, beginning, by_length, is_masked

MASKED_SHARE = 0.15  # share of a sentence's tokens that are masked at once, so that one pass serves them all
_LONGEST, _FEWEST_WORDS = 64, 5
_SENTENCES = 300  # maximum per source; each has several queries
_OTHERS, _TIMES = 100, 3  # sentences per source to measure costs on, and repetitions with other masked tokens
# weights of the log-likelihoods of stereotype, anti-stereotype and unrelated candidates in each sum
SUMS = {"bias": (1.0, -1.0, 0.0), "guard": (0.5, 0.5, -1.0)}
TEXT, PROMPTS = "text", "prompts"
SOURCES = ("stereoset", *TEXTS, *pair_effects.QUANTITIES)  # names; anything else is a text file


def quantities_of(sources: Sequence[str]) -> list[str]:
    """Return the names of the measured quantities, in order.

    >>> quantities_of(["stereoset", "bold"])[:3]
    ['gender/bias', 'gender/guard', 'profession/bias']
    """
    of_stereoset = [f"{domain}/{name}" for domain in DOMAINS for name in SUMS]
    of_pairs = [name for source, names in pair_effects.QUANTITIES.items() if source in sources for name in names]
    return [*of_stereoset * ("stereoset" in sources), *[TEXT] * bool(text_sources(sources)), *of_pairs]


def text_sources(sources: Sequence[str]) -> list[str]:
    """Return the sources that are ordinary text.

    >>> text_sources(["stereoset", "bold", "pairs"])
    ['bold']
    """
    return [source for source in sources if source != "stereoset" and source not in pair_effects.QUANTITIES]


def make_batches(
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[str],
    limit: int,
    tokens_per_batch: int,
    terms: Terms = "all",
    bos: Bos = "tokenizer",
) -> list[dict[str, Any]]:
    """Return the batches of all sources.

    Sources are "stereoset" (its test split), plain sentences (their "contrast" split), "pairs", "panda-pairs" and
    "knowledge". Each provides at most ``limit`` clusters, sentences, pairs or facts; plain sentences and PANDA's pairs
    at most 300. ``bos`` defines what a causal model's sentences are conditioned on; tokens without context are only
    queried in "pairs".

    Raises:
        InputError: if a source has no usable sentence.
    """
    batches: list[dict[str, Any]] = []
    for source in sources:
        if source == "stereoset":
            batches += _stereoset(tokenizer, limit, tokens_per_batch, terms, bos)
        elif source in pair_effects.QUANTITIES:
            first = quantities_of(sources).index(pair_effects.QUANTITIES[source][0])
            batches += pair_effects.make_batches(tokenizer, source, limit, tokens_per_batch, first, bos)
        else:
            _sentences(source, "train")  # checks that costs can be measured at the end
            sentences = _tokens(tokenizer, source, limit, bos)
            batches += _text(tokenizer, sentences, tokens_per_batch, quantities_of(sources).index(TEXT), bos)
    return batches


def _stereoset(
    tokenizer: PreTrainedTokenizerBase, limit: int, tokens_per_batch: int, terms: Terms, bos: Bos
) -> Iterator[dict[str, Any]]:
    """Yield batches with each candidate's queries; target terms of a domain, and clusters of a term, weigh the same."""
    clusters = [c for c in read_clusters("test") if terms in ("all", half_of(c.target))]
    clusters = list(islice(spread(clusters), limit))
    counts = Counter((cluster.domain, cluster.target) for cluster in clusters)
    of_domain = Counter(domain for domain, _ in counts)
    masked, front = is_masked(tokenizer), 0
    candidates = [(cluster.context, sentence) for cluster in clusters for sentence in cluster.sentences]
    if masked:
        queries = masked_queries(tokenizer, [(context, candidate_word(context, text)) for context, text in candidates])
    else:
        start = beginning(tokenizer, bos)
        front, queries = len(start.front), causal_queries(tokenizer, [text for _, text in candidates], start)
    sizes = [counts[cluster.domain, cluster.target] * of_domain[cluster.domain] for cluster in clusters]
    shares = 1 / torch.tensor(sizes, dtype=torch.float64)
    pieces = torch.tensor([len(candidate) for candidate in queries])
    domains = torch.tensor([DOMAINS.index(cluster.domain) for cluster in clusters])
    of_role = torch.tensor(list(SUMS.values()), dtype=torch.float64)  # [sum, role]
    for group in group_queries(queries):
        candidate, row = group["candidate"], group["row"]
        weights = of_role[:, candidate % 3] * (shares[candidate // 3] / pieces[candidate])  # [sum, query]
        domain = torch.zeros(len(group["input_ids"]), dtype=torch.long)
        domain[row] = domains[candidate // 3]
        quantity = domain * len(SUMS) + torch.arange(len(SUMS))[:, None]
        for rows in torch.arange(len(domain)).split(max(1, tokens_per_batch // group["input_ids"].shape[1])):
            chosen = (row >= rows[0]) & (row <= rows[-1])
            own, input_ids = row[chosen] - rows[0], group["input_ids"][rows]
            if masked:
                position, target_ids = group["position"][rows][own], group["target_ids"][chosen]
                asked = {"row": own, "position": position, "target_ids": target_ids}
                parts = {"sum": torch.arange(len(SUMS)), "share": torch.ones(len(SUMS), len(rows))}
                yield {
                    "input_ids": input_ids, **asked, "weights": weights[:, chosen].float(), **parts,
                    "quantity": quantity[:, rows],
                }  # fmt: skip
            elif input_ids.shape[1] > 1:
                yield from _causal(input_ids, own, weights[:, chosen], quantity[:, rows], max(front, 1))


def _causal(input_ids: Tensor, row: Tensor, weights: Tensor, quantity: Tensor, given: int) -> Iterator[dict[str, Any]]:
    """Yield a batch that queries every token after the given ones, in one sum, with a weight per sentence."""
    later = input_ids.shape[1] - given
    share = torch.zeros(len(weights), len(input_ids), dtype=torch.float64).index_add_(1, row, weights)
    yield {
        "input_ids": input_ids,
        "row": torch.arange(len(input_ids)).repeat_interleave(later),
        "position": torch.arange(given - 1, given - 1 + later).repeat(len(input_ids)),
        "target_ids": input_ids[:, given:].flatten(),
        "weights": torch.full((1, later * len(input_ids)), 1 / later),
        "sum": torch.zeros(len(weights), dtype=torch.long),
        "share": share.float(),
        "quantity": quantity,
    }


def _sentences(source: str, split: str) -> list[str]:
    """Return a source's sentences of a split, shuffled."""
    sentences = [s for s in read_sentences(source, split, "contrast") if len(s.split()) >= _FEWEST_WORDS]
    random.Random(0).shuffle(sentences)
    if not sentences:
        raise InputError(
            f"`contrast` is expected to contain sentences of at least {_FEWEST_WORDS} words, but {source!r} has none "
            f"in its {split} split, {len(SPLITS[split])} % of its lines. Give a longer text."
        )
    return sentences


def other_batches(
    tokenizer: PreTrainedTokenizerBase, sources: Sequence[str], tokens_per_batch: int, bos: Bos = "tokenizer"
) -> Iterator[dict[str, Any]]:
    """Yield batches to measure costs on: from all plain-text sources, with no sentence of :func:`make_batches`.

    For a masked model, each sentence occurs three times with other masked tokens.
    """
    encoded = [ids for source in text_sources(sources) for ids in _tokens(tokenizer, source, _OTHERS, bos, "train")]
    yield from _text(tokenizer, encoded * (_TIMES if is_masked(tokenizer) else 1), tokens_per_batch, 0, bos)


def _tokens(
    tokenizer: PreTrainedTokenizerBase, source: str, limit: int, bos: Bos, split: str = "contrast"
) -> list[list[int]]:
    """Return the tokens of a source's sentences, for a causal model with the prepended tokens."""
    special, chosen = is_masked(tokenizer), _sentences(source, split)[: min(limit, _SENTENCES)]
    front = () if special else beginning(tokenizer, bos).front
    called = f"sentences of {source} ({split} split)"
    return [[*front, *ids] for ids in cut_tokens(tokenizer, chosen, _LONGEST, called, special)]


def plain_batches(
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[str],
    limit: int,
    tokens_per_batch: int,
    bos: Bos = "tokenizer",
) -> Iterator[Tensor]:
    """Yield the unmasked plain-text sentences of :func:`make_batches`, ``[sequence, token]``.

    Raises:
        InputError: if no source is plain text, or one has no sentences.
    """
    of_text = text_sources(sources)
    if not of_text:
        raise InputError(
            '`contrast` is expected to include a source of ordinary text, such as "bold", for the replacement "mean" '
            f"but got {', '.join(sources) or 'none'}. Add one."
        )
    encoded = [ids for source in of_text for ids in _tokens(tokenizer, source, limit, bos)]
    for batch in by_length([len(ids) for ids in encoded], tokens_per_batch):
        yield torch.tensor([encoded[number] for number in batch])


def _text(
    tokenizer: PreTrainedTokenizerBase, encoded: Sequence[list[int]], tokens_per_batch: int, quantity: int, bos: Bos
) -> Iterator[dict[str, Any]]:
    """Yield sentences whose queries have random signs; for a masked model, some tokens of each are masked at once."""
    masked, draw = is_masked(tokenizer), random.Random(0)
    given = 1 if masked else max(1, len(beginning(tokenizer, bos).front))
    asked = [_places(tokenizer, ids, draw) if masked else range(given - 1, len(ids) - 1) for ids in encoded]
    signs = [[draw.choice((-1.0, 1.0)) for _ in places] for places in asked]
    for batch in by_length([len(ids) for ids in encoded], tokens_per_batch):
        used = [number for number in batch if asked[number]]
        if not used:
            continue
        input_ids = torch.tensor([encoded[number] for number in used])
        row = torch.tensor([row for row, number in enumerate(used) for _ in asked[number]])
        position = torch.tensor([place for number in used for place in asked[number]])
        target_ids = input_ids[row, position if masked else position + 1]
        if masked:
            input_ids = input_ids.index_put((row, position), torch.tensor(tokenizer.mask_token_id))
        weights = torch.tensor([[sign for number in used for sign in signs[number]]])
        yield {
            "input_ids": input_ids, "row": row, "position": position, "target_ids": target_ids, "weights": weights,
            **_parts(len(used), quantity), "tokens": len(row),
        }  # fmt: skip


def _parts(sequences: int, quantity: int) -> dict[str, Tensor]:
    """Return the fields that add the effects on a single sum to a quantity."""
    share = torch.ones(1, sequences)
    return {"sum": torch.zeros(1, dtype=torch.long), "share": share, "quantity": torch.full(share.shape, quantity)}


def _places(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], draw: random.Random) -> list[int]:
    """Return the positions of a sentence's tokens to mask."""
    ordinary = [place for place, token in enumerate(ids) if token not in tokenizer.all_special_ids]
    if not ordinary:
        return []
    return sorted(draw.sample(ordinary, max(1, round(MASKED_SHARE * len(ordinary)))))


def of_prompts(batch: Mapping[str, Any], logs: Tensor, share: float, quantity: int) -> Iterator[dict[str, Any]]:
    """Yield the queries for a batch of prompts: each prompt's mean of |log P(d1) - log P(d2)| over the pairs.

    Args:
        batch: a batch of :class:`biaslab.data.prompts.PromptDataModule` whose pairs have two targets.
        logs: log-probabilities of the targets, ``[batch, target]``; they determine the sign of each difference.
        share: weight of a prompt.
        quantity: index of the quantity to which the effects are added.
    """
    ends, size = batch["pairs"].cpu(), len(logs)
    signs = (logs[:, ends[:, 0]] - logs[:, ends[:, 1]]).sign() * share / len(ends)  # [batch, pair]
    of_targets = torch.zeros(logs.shape, dtype=torch.float64)
    of_targets.index_add_(1, ends[:, 0], signs).index_add_(1, ends[:, 1], -signs)
    start = 0
    for inputs in (batch, *batch["longer"]):
        targets = inputs["target_ids"].cpu().reshape(size, inputs["target_ids"].shape[1], -1)  # [batch, target, slot]
        position = inputs["position"].cpu().reshape(size, 1, -1).expand_as(targets)
        weights = of_targets[:, start : start + targets.shape[1], None].expand_as(targets)
        row = torch.arange(size)[:, None, None].expand_as(targets)
        start += targets.shape[1]
        flat = {"row": row, "position": position, "target_ids": targets}
        yield {
            "input_ids": inputs["input_ids"], **{name: tensor.flatten() for name, tensor in flat.items()},
            "weights": weights.flatten()[None].float(), **_parts(size, quantity),
        }  # fmt: skip
