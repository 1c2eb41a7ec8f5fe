"""How likely sentences are under a causal language model; what several of them begin with is computed once."""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from biaslab.errors import InputError
from biaslab.models.architectures import takes_own_mask, without_cache
from biaslab.models.fit import embeddings_of
from biaslab.models.heads import places_only

_ROW = 96  # tokens that sentences share a row up to: what is left of it is padded, and attention grows with its square
_LONG_ROW = 256  # of sentences whose last tokens alone are asked for: they share long beginnings
_TOKENS_AT_ONCE = 1024  # of a forward pass, whose logits at all places are needed: 200 MB for GPT-2's vocabulary
_LOGITS_AT_ONCE = 32  # places whose exponentials are summed: what fits into a CPU's cache
_pad = partial(pad_sequence, batch_first=True)


class _Tree:
    """Sentences as paths of a tree, in which tokens are one node where all tokens before them are the same.

    The model reads the inner nodes, each at a place of one row: nothing is asked after the last token of a sentence.
    ``asked`` is how many of a sentence's last tokens are asked for, ``[sentence]``; None for all.
    """

    def __init__(self, sentences: Sequence[Sequence[int]], asked: Sequence[int] | None = None) -> None:
        nodes: dict[tuple[int, int], int] = {}  # by parent, -1 for none, and token
        self.paths = []  # the nodes of each sentence
        for sentence in sentences:
            path = [-1]
            for token in sentence:
                path.append(nodes.setdefault((path[-1], token), len(nodes)))
            self.paths.append(path[1:])
        self.nodes = len(nodes)
        parents, tokens = zip(*nodes, strict=True)
        depths: list[int] = []
        for parent in parents:
            depths.append(0 if parent < 0 else depths[parent] + 1)
        inner = sorted({*parents} - {-1})
        place = {node: place for place, node in enumerate(inner)}
        self.branches = [depths[node] for node in inner] != list(range(len(inner)))
        self.tokens = torch.tensor([tokens[node] for node in inner])  # [place]
        self.depths = torch.tensor([depths[node] for node in inner])  # [place]
        self.parents = torch.tensor([place.get(parents[node], place[node]) for node in inner])  # [place]
        ends = (path if asked is None else path[-asked[number] :] for number, path in enumerate(self.paths))
        wanted = sorted({node for end in ends for node in end if parents[node] >= 0})  # nothing predicts a root
        above = torch.tensor([place[parents[node]] for node in wanted], dtype=torch.long)
        self.predicts = torch.zeros(len(inner), dtype=torch.bool)  # whether what is below it is asked for, [place]
        self.predicts[above] = True
        # the nodes that are asked for, [node]; which of the predicting places predicts each, and its token, [node, 2]
        self.wanted = torch.tensor(wanted, dtype=torch.long)
        after = (self.predicts.cumsum(0) - 1)[above]
        self.predicted = torch.stack([after, torch.tensor([tokens[node] for node in wanted], dtype=torch.long)], 1)


def sequence_log2_probabilities(
    model: PreTrainedModel, sentences: Sequence[Sequence[int]], start_id: int | None, front: int = 0
) -> list[Tensor]:
    """Return log₂ of each token's probability after the tokens before it under a causal model, sentence by sentence.

    All tokens are conditioned on what is in front of the sentence, such as BOS. Where nothing is in front, it is as in
    StereoSet's own script: the first token is conditioned on the start token alone, and the later ones on the tokens of
    the sentence alone, without the start token.

    What sentences begin with is computed once: they share a row, in which each token has its place in its sentence as
    position, and sees the tokens before it in its sentence alone. Under a model that may not be told so, each sentence
    has a row. Rows of about equal length are padded on the right, where none of their tokens sees it.

    Args:
        model: a causal language model of the table.
        sentences: token ids, ``[sentence][token]``, after those in front of each; none is empty.
        start_id: id of the start token; None where tokens are in front.
        front: how many tokens are in front of each sentence; these are not asked for.

    Returns:
        Of each sentence ``[token]``, float64 on the CPU.

    Raises:
        InputError: if the model has no embedding of the start token.
    """
    if start_id is not None and start_id >= (rows := embeddings_of(model)):
        raise InputError(
            f"`start_id` is expected to be one of the model's {rows} tokens but got {start_id}. Give the tokenizer of "
            "this very model, or one whose `bos_token` is among its tokens."
        )
    if start_id is None:
        return [after[front - 1 :] / math.log(2) for after in _later_log_probabilities(model, sentences)]
    starts = list(dict.fromkeys((start_id, sentence[0]) for sentence in sentences))
    later = _later_log_probabilities(model, [*sentences, *starts])
    first = dict(zip([token for _, token in starts], later[len(sentences) :], strict=True))
    pairs = zip(sentences, later[: len(sentences)], strict=True)
    return [torch.cat([first[sentence[0]], after]) / math.log(2) for sentence, after in pairs]


def ending_log_probabilities(
    model: PreTrainedModel, sentences: Sequence[Sequence[int]], asked: Sequence[int]
) -> list[Tensor]:
    """Return the natural log-probability of each sentence's last tokens, each after all tokens before it.

    As :func:`sequence_log2_probabilities`, but only the places before the last tokens are projected to the vocabulary,
    and longer beginnings are shared: those of questions about one text.

    Args:
        model: a causal language model of the table.
        sentences: token ids, ``[sentence][token]``, with what is in front of them.
        asked: how many of a sentence's last tokens are asked for, at least one and fewer than it has, ``[sentence]``.

    Returns:
        Of each sentence ``[asked token]``, float64 on the CPU.
    """
    later = _later_log_probabilities(model, sentences, asked)
    return [values[-count:] for values, count in zip(later, asked, strict=True)]


def _later_log_probabilities(
    model: PreTrainedModel, sentences: Sequence[Sequence[int]], asked: Sequence[int] | None = None
) -> list[Tensor]:
    """Return of each sentence the natural log-probability of each token but the first, ``[token - 1]``.

    Where only some last tokens are asked for, ``[sentence]``, those of the others are NaN.
    """
    longest = _ROW if asked is None else _LONG_ROW
    rows = _rows(sentences, longest if takes_own_mask(model, max(map(len, sentences))) else 0)
    trees = [
        _Tree([sentences[number] for number in row], None if asked is None else [asked[number] for number in row])
        for row in rows
    ]
    found = [torch.empty(0, dtype=torch.float64) for _ in sentences]
    for batch in _batches([len(tree.tokens) for tree in trees]):
        logits = _logits(model, [trees[number] for number in batch])
        normalizers = torch.cat([part.float().logsumexp(1) for part in logits.split(_LOGITS_AT_ONCE)])
        start = 0
        for number in batch:
            tree = trees[number]
            place, token = tree.predicted.T.to(logits.device)
            values = torch.full((tree.nodes,), math.nan, dtype=torch.float64)
            values[tree.wanted] = (logits[start + place, token].float() - normalizers[start + place]).cpu().double()
            for sentence, path in zip(rows[number], tree.paths, strict=True):
                found[sentence] = values[path[1:]]
            start += int(tree.predicts.sum())
    return found


def _rows(sentences: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """Return which sentences share a row: neighbours, sorted by their tokens, that fit into it or add nothing."""
    rows: list[list[int]] = []
    read: set[tuple[int, ...]] = set()  # what the row's sentences begin with
    for number in sorted(range(len(sentences)), key=lambda number: tuple(sentences[number])):
        own = {tuple(sentences[number][:end]) for end in range(1, len(sentences[number]))}
        if not rows or (own - read and len(read | own) > size):
            rows.append([])
            read = set()
        rows[-1].append(number)
        read |= own
    return rows


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Return rows of about equal length, those of none left out, in batches of at most so many tokens with padding."""
    batches: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not lengths[number]:
            continue
        if not batches or (len(batches[-1]) + 1) * lengths[number] > _TOKENS_AT_ONCE:
            batches.append([])
        batches[-1].append(number)
    return batches


def _logits(model: PreTrainedModel, trees: Sequence[_Tree]) -> Tensor:
    """Return the logits at the predicting places of the trees, one tree after the other, ``[place, vocabulary]``."""
    inputs = {"input_ids": _pad([tree.tokens for tree in trees])}
    if any(tree.branches for tree in trees):
        inputs["position_ids"] = _pad([tree.depths for tree in trees])
        inputs["attention_mask"] = _mask(_pad([tree.parents for tree in trees]), model.dtype)
    places = _pad([tree.predicts for tree in trees])
    with places_only(model, places.to(model.device)):
        inputs = {name: tensor.to(model.device) for name, tensor in inputs.items()}
        logits: Tensor = model(**inputs, **without_cache(model)).logits
    return logits


def _mask(parents: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what is added to attention's scores, so that a place sees itself and those above it alone.

    Args:
        parents: the place above each, an earlier one, or of a root itself, ``[row, place]``.
        dtype: of the model.

    Returns:
        0 or the type's lowest number, ``[row, 1, place, place]``.
    """
    rows, places = parents.shape
    seen = torch.eye(places, dtype=torch.bool).repeat(rows, 1, 1)
    for place in range(places):
        seen[:, place] |= seen[torch.arange(rows), parents[:, place]]
    return torch.zeros(rows, 1, places, places, dtype=dtype).masked_fill(~seen[:, None], torch.finfo(dtype).min)
