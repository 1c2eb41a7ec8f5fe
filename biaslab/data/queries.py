"""Queries: the inputs and target tokens with which candidates are scored."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from biaslab.errors import InputError, require_positive
from biaslab.models.positions import say_unknown
from biaslab.models.tokens import Beginning

BLANK = "BLANK"


class Query(NamedTuple):
    """An input and the token to predict."""

    input_ids: tuple[int, ...]
    position: int  # of the mask token; in a causal model's sentence, of its last token
    target_id: int  # the token to predict


Queries = list[list[Query]]


def masked_queries(
    tokenizer: PreTrainedTokenizerBase, candidates: Sequence[tuple[str, str]], rule: str = "authors"
) -> Queries:
    """Return a masked language model's queries for each piece of each candidate word, ``[candidate][piece]``.

    A candidate is a context with BLANK and the word that fills it. The rule "authors" fills it with the pieces before
    the queried one and one mask, as text; "pll" with one mask and all other pieces.

    Raises:
        InputError: if a word has no pieces.

    Reference:
        Nadeem et al. 2021 and the authors' script; for "pll", Salazar et al. 2020.
    """
    words, contexts = word_pieces(tokenizer, candidates), [context for context, _ in candidates]
    return (_pll_queries if rule == "pll" else _authors_queries)(tokenizer, contexts, words)


def causal_queries(tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str], start: Beginning) -> Queries:
    """Return a causal language model's queries for whole sentences, with prepended tokens, ``[sentence][1]``."""
    tokens = tokenizer(list(sentences), add_special_tokens=False)["input_ids"]
    if [] in tokens:
        text = sentences[tokens.index([])]
        raise InputError(f"`sentences` is expected to contain texts that have tokens but got {text!r}. Remove it.")
    return [
        [Query((*start.front, *sentence), len(start.front) + len(sentence) - 1, sentence[-1])] for sentence in tokens
    ]


def token_queries(tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str], start: Beginning) -> Queries:
    """Return a causal language model's queries for each token of sentences, ``[sentence][token]``.

    Positions are those of the preceding tokens; for the context of each token, see
    :func:`biaslab.evaluation.sentences.sequence_log2_probabilities`.
    """
    tokens = tokenizer(list(sentences), add_special_tokens=False)["input_ids"]
    alone = [] if start.start_id is None else [start.start_id]
    first = [[Query(tuple(alone), 0, ids[0])] if alone else [] for ids in tokens]
    return [[*own, *later_queries(ids, start.front)] for own, ids in zip(first, tokens, strict=True)]


def later_queries(sentence: Sequence[int], front: Sequence[int]) -> list[Query]:
    """Return a causal model's queries for each token with context, prepended or in the sentence."""
    ids = (*front, *sentence)
    return [Query(ids[:-1], place, ids[place + 1]) for place in range(max(0, len(front) - 1), len(ids) - 1)]


def word_pieces(tokenizer: PreTrainedTokenizerBase, candidates: Sequence[tuple[str, str]]) -> list[list[int]]:
    """Return the token ids of each word in BLANK's place; candidates as in :func:`masked_queries`."""
    alone, twice = tokenizer(["a", "a a"], add_special_tokens=False)["input_ids"]
    space = "" if twice == alone + alone else " "  # in a byte-level BPE, words within a sentence have other tokens
    words = [space * context.partition(BLANK)[0].endswith(" ") + word for context, word in candidates]
    pieces: list[list[int]] = tokenizer(words, add_special_tokens=False)["input_ids"]
    if [] in pieces:
        word = candidates[pieces.index([])][1]
        raise InputError(f"`candidates` is expected to contain words that have tokens but got {word!r}. Remove it.")
    return pieces


def masked_in_turn(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int], places: Iterable[int]) -> list[Query]:
    """Return the queries for the tokens at the given positions, each masked in turn."""
    mask_id = tokenizer.mask_token_id
    return [Query((*tokens[:place], mask_id, *tokens[place + 1 :]), place, tokens[place]) for place in places]


def _authors_queries(tokenizer: PreTrainedTokenizerBase, contexts: Sequence[str], words: list[list[int]]) -> Queries:
    places = [(context, word[:end]) for context, word in zip(contexts, words, strict=True) for end in range(len(word))]
    before = tokenizer.batch_decode([pieces for _, pieces in places])
    texts = [
        context.replace(BLANK, f"{text.lstrip()}{tokenizer.mask_token}")  # the context already has the space
        for (context, _), text in zip(places, before, strict=True)
    ]
    inputs = iter(zip(map(tuple, tokenizer(texts)["input_ids"]), (context for context, _ in places), strict=True))
    queries: Queries = []
    for word in words:
        queries.append([])
        for piece in word:
            ids, context = next(inputs)
            queries[-1].append(Query(ids, blanks(tokenizer, context, ids)[0], piece))
    return queries


def blanks(tokenizer: PreTrainedTokenizerBase, context: str, ids: Sequence[int]) -> list[int]:
    """Return the positions of the masks that replaced BLANK, not those written in the context."""
    marks = re.findall(f"{BLANK}|{re.escape(str(tokenizer.mask_token))}", context)
    places = [place for place, token in enumerate(ids) if token == tokenizer.mask_token_id]
    return [place for mark, place in zip(marks, places, strict=False) if mark == BLANK]


def say_unknown_words(tokenizer: PreTrainedTokenizerBase, queries: Queries, what: str) -> None:
    """Report how many words or sentences have unknown tokens among those queried."""
    unknown = sum(any(query.target_id == tokenizer.unk_token_id for query in each) for each in queries)
    if tokenizer.unk_token_id not in (None, tokenizer.eos_token_id, tokenizer.bos_token_id):
        say_unknown(what, unknown, len(queries), "are scored as the unknown token")


def _pll_queries(tokenizer: PreTrainedTokenizerBase, contexts: Sequence[str], words: list[list[int]]) -> Queries:
    inputs = tokenizer([context.replace(BLANK, str(tokenizer.mask_token)) for context in contexts])["input_ids"]
    queries = []
    for text, context, word in zip(contexts, inputs, words, strict=True):
        own = blanks(tokenizer, text, context)
        start = own[0]
        filled = [piece for at, token in enumerate(context) for piece in (word if at in own else [token])]
        queries.append(masked_in_turn(tokenizer, filled, range(start, start + len(word))))
    return queries


def group_queries(candidates: Sequence[Iterable[Query]]) -> list[dict[str, Tensor]]:
    """Group the queries of candidates by length, without padding and with identical inputs merged.

    Returns:
        For each length ``input_ids`` ``[input, sequence]`` and ``position`` ``[input]``, and for each query its input's
        index ``row``, its ``target_ids`` and its ``candidate`` index, ``[query]``.
    """
    groups: dict[int, list[tuple[int, Query]]] = {}
    for candidate, queries in enumerate(candidates):
        for query in queries:
            groups.setdefault(len(query.input_ids), []).append((candidate, query))
    return [_tensors(group) for _, group in sorted(groups.items())]


def _tensors(group: list[tuple[int, Query]]) -> dict[str, Tensor]:
    rows: dict[tuple[tuple[int, ...], int], int] = {}
    row = [rows.setdefault((query.input_ids, query.position), len(rows)) for _, query in group]
    return {
        "input_ids": torch.tensor([input_ids for input_ids, _ in rows]),
        "position": torch.tensor([position for _, position in rows]),
        "row": torch.tensor(row),
        "target_ids": torch.tensor([query.target_id for _, query in group]),
        "candidate": torch.tensor([candidate for candidate, _ in group]),
    }


def group_places(candidates: Sequence[Iterable[Query]], apart: Sequence[Any] = ()) -> list[dict[str, Tensor]]:
    """Group queries like :func:`group_queries`, but merge identical inputs with different positions too.

    Inputs of candidates with different values in ``apart``, ``[candidate]``, are not merged.

    Returns:
        For each length ``input_ids`` ``[input, sequence]``, and for each query its input's index ``row``, its
        ``position``, its ``target_ids`` and its ``candidate`` index, ``[query]``.
    """
    groups: dict[int, tuple[dict[Any, int], list[tuple[int, ...]]]] = {}
    for candidate, queries in enumerate(candidates):
        for query in queries:
            rows, asked = groups.setdefault(len(query.input_ids), ({}, []))
            row = rows.setdefault((query.input_ids, apart[candidate] if apart else None), len(rows))
            asked.append((row, query.position, query.target_id, candidate))
    names = ("row", "position", "target_ids", "candidate")
    return [
        {"input_ids": torch.tensor([ids for ids, _ in rows]), **dict(zip(names, torch.tensor(asked).T, strict=True))}
        for _, (rows, asked) in sorted(groups.items())
    ]


def whole_examples(
    queries: Sequence[Sequence[Query]],
    candidates: int,
    tokens_per_batch: int,
    key: Callable[[list[int]], Any],
    group: Callable[[Sequence[Iterable[Query]]], list[dict[str, Tensor]]] = group_queries,
) -> list[dict[str, Any]]:
    """Return batches of whole examples with at most ``tokens_per_batch`` tokens (but at least one example).

    The queries are grouped by candidate, ``[candidate][query]``; an example has ``candidates`` consecutive candidates.
    Identical inputs of an example count once. Examples are sorted by ``key``, which takes their inputs' lengths.

    Returns:
        For each batch ``inputs`` (of ``group``; candidate indices are relative to the batch, example by example) and
        ``examples`` (their indices, ``[example]``).
    """
    require_positive(tokens_per_batch=tokens_per_batch)
    examples = [queries[start : start + candidates] for start in range(0, len(queries), candidates)]
    inputs = [{query.input_ids for candidate in example for query in candidate} for example in examples]
    lengths = [[len(ids) for ids in each] for each in inputs]
    batches: list[list[int]] = []
    room = 0
    for number in sorted(range(len(lengths)), key=lambda number: key(lengths[number])):
        cost = sum(lengths[number])
        if cost > room or not batches:
            batches.append([])
            room = tokens_per_batch
        batches[-1].append(number)
        room -= cost
    return [
        {"inputs": group([one for n in batch for one in examples[n]]), "examples": torch.tensor(batch)}
        for batch in batches
    ]
