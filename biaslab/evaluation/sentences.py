"""Log-probabilities of sentences under a causal language model; common beginnings are computed once."""

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

_ROW = 96  # maximum tokens of a row shared by sentences; attention cost grows with its square, and rows are padded
_LONG_ROW = 256  # the same if only the last tokens are queried: such sentences share long beginnings
_TOKENS_AT_ONCE = 1024  # tokens per forward pass; logits at all positions take 200 MB for GPT-2's vocabulary
_LOGITS_AT_ONCE = 32  # positions per logsumexp, to fit into a CPU's cache
_pad = partial(pad_sequence, batch_first=True)


class _Tree:
    """A prefix tree of sentences: tokens with the same preceding tokens share a node.

    The inner nodes form one row of model input; nothing is predicted after the last token of a sentence. ``asked`` is
    the number of last tokens queried for each sentence, ``[sentence]``; None for all.
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
        wanted = sorted({node for end in ends for node in end if parents[node] >= 0})  # roots are not predicted
        above = torch.tensor([place[parents[node]] for node in wanted], dtype=torch.long)
        self.predicts = torch.zeros(len(inner), dtype=torch.bool)  # whether a child is queried, [place]
        self.predicts[above] = True
        # the queried nodes, [node]; index of the place that predicts each, and its token, [node, 2]
        self.wanted = torch.tensor(wanted, dtype=torch.long)
        after = (self.predicts.cumsum(0) - 1)[above]
        self.predicted = torch.stack([after, torch.tensor([tokens[node] for node in wanted], dtype=torch.long)], 1)


def sequence_log2_probabilities(
    model: PreTrainedModel, sentences: Sequence[Sequence[int]], start_id: int | None, front: int = 0
) -> list[Tensor]:
    """Compute log₂ P(token | preceding tokens) for each token of each sentence under a causal model.

    All tokens are conditioned on the tokens in front of the sentence, such as BOS. If there are none, the rule is that
    of StereoSet's own script: the first token is conditioned on the start token only, and later tokens on the tokens of
    the sentence only, without the start token.

    Common beginnings are computed once: sentences share a row, in which each token has its position in its sentence,
    and attends only to the tokens before it in its sentence. If the model does not support custom masks, each sentence
    gets its own row. Rows of similar length are padded on the right, where no token attends to the padding.

    Args:
        model: a causal language model of a supported architecture.
        sentences: non-empty lists of token ids, ``[sentence][token]``, including the tokens in front.
        start_id: id of the start token; None if there are tokens in front.
        front: number of tokens in front of each sentence, which are not scored.

    Returns:
        For each sentence ``[token]``, float64 on the CPU.

    Raises:
        InputError: if the model has no embedding of the start token.
    """
    if start_id is not None and start_id >= (rows := embeddings_of(model)):
        raise InputError(
            f"`start_id` is expected to be one of the model's {rows} tokens but got {start_id}. Use the model's own "
            "tokenizer, or one whose `bos_token` is among the model's tokens."
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
    """Compute the log-probability of each sentence's last tokens, each given all tokens before it, in nats.

    Like :func:`sequence_log2_probabilities`, but only the positions before the last tokens are projected to the
    vocabulary, and longer beginnings can be shared, such as those of questions about the same text.

    Args:
        model: a causal language model of a supported architecture.
        sentences: token ids, ``[sentence][token]``, including the tokens in front.
        asked: number of last tokens to score, at least one and fewer than the sentence has, ``[sentence]``.

    Returns:
        For each sentence ``[asked token]``, float64 on the CPU.
    """
    later = _later_log_probabilities(model, sentences, asked)
    return [values[-count:] for values, count in zip(later, asked, strict=True)]


def _later_log_probabilities(
    model: PreTrainedModel, sentences: Sequence[Sequence[int]], asked: Sequence[int] | None = None
) -> list[Tensor]:
    """Return the log-probabilities, in nats, of all tokens but the first of each sentence, ``[token - 1]``.

    With ``asked``, ``[sentence]``, only that many last tokens are computed; the others are NaN.
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
    """Group sentences into shared rows: neighbours in sorted order, as long as they fit or add no tokens."""
    rows: list[list[int]] = []
    read: set[tuple[int, ...]] = set()  # beginnings of the row's sentences
    for number in sorted(range(len(sentences)), key=lambda number: tuple(sentences[number])):
        own = {tuple(sentences[number][:end]) for end in range(1, len(sentences[number]))}
        if not rows or (own - read and len(read | own) > size):
            rows.append([])
            read = set()
        rows[-1].append(number)
        read |= own
    return rows


def _batches(lengths: Sequence[int]) -> list[list[int]]:
    """Group non-empty rows of similar length into batches within the limit of tokens, including padding."""
    batches: list[list[int]] = []
    for number in sorted(range(len(lengths)), key=lengths.__getitem__):
        if not lengths[number]:
            continue
        if not batches or (len(batches[-1]) + 1) * lengths[number] > _TOKENS_AT_ONCE:
            batches.append([])
        batches[-1].append(number)
    return batches


def _logits(model: PreTrainedModel, trees: Sequence[_Tree]) -> Tensor:
    """Return the logits at the predicting places of the trees, concatenated, ``[place, vocabulary]``."""
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
    """Return an additive attention mask with which a place attends only to itself and its ancestors.

    Args:
        parents: the parent of each place, an earlier place, or a root itself, ``[row, place]``.
        dtype: dtype of the model.

    Returns:
        0 or the lowest number of the dtype, ``[row, 1, place, place]``.
    """
    rows, places = parents.shape
    seen = torch.eye(places, dtype=torch.bool).repeat(rows, 1, 1)
    for place in range(places):
        seen[:, place] |= seen[torch.arange(rows), parents[:, place]]
    return torch.zeros(rows, 1, places, places, dtype=dtype).masked_fill(~seen[:, None], torch.finfo(dtype).min)
