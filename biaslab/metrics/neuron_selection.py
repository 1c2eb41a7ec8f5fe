"""Collects what neurons are selected from: mean scores of each pair, and the votes of each prompt."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from biaslab.errors import InputError
from biaslab.metrics.rows import RowMetric

_ONE = 2**40  # normalised scores are summed as multiples of 1/2^40: exact in any order and for any number of processes
_ROWS = 32  # number of prompts normalised at a time, which limits the memory


class NeuronSelection(RowMetric):
    """Collects the attribution scores of prompts as sums and votes; memory does not grow with prompts times neurons.

    Args:
        pairs: names of the demographic pairs.
        kinds: names of the kinds of modifiers.
        shape: (layers, neurons per layer).
        threshold: a prompt votes for a neuron whose score is at least this share of the prompt's largest score.
        kwargs: see ``torchmetrics.Metric``.

    Raises:
        InputError: if an argument is out of range.

    Reference:
        "The Devil is in the Neurons" (ICLR 2024), section 3.2; voting as in Dai et al. 2022, section 3.3.

    >>> metric = NeuronSelection(["gender/female-male"], ["negative"], shape=(2, 2))
    >>> scores = torch.tensor([[[4.0, 1.0], [0.0, -2.0]]]).expand(4, 2, 2)  # [prompt, layer, neuron]
    >>> zeros = torch.zeros(4, dtype=torch.long)
    >>> metric.update(scores, pairs=zeros, kinds=zeros, groups=zeros)
    >>> metric.mean_scores()
    tensor([[ 1.0000,  0.2500],
            [ 0.0000, -0.5000]], dtype=torch.float64)
    >>> metric.compute()["votes"][:2]  # pair, kind, group, neuron
    tensor([[0, 0, 0, 0],
            [0, 0, 0, 1]], dtype=torch.int32)
    """

    higher_is_better = None
    sums: Tensor
    counts: Tensor
    silent: Tensor
    votes: list[Tensor]
    prompts: list[Tensor]

    def __init__(
        self, pairs: Sequence[str], kinds: Sequence[str], shape: tuple[int, int], threshold: float = 0.2, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not 0 < threshold <= 1:
            raise InputError(f"`threshold` is expected to be in (0, 1] but got {threshold}.")
        for name, names in (("pairs", pairs), ("kinds", kinds)):
            if not names or len(set(names)) < len(names):
                raise InputError(f"`{name}` is expected to hold unique names but got {list(names)}.")
        if len(shape) != 2 or min(shape) < 1:
            raise InputError(f"`shape` is expected to be (layers, width), two positive integers, but got {shape!r}.")
        self.pairs, self.kinds, self.threshold, self.shape = tuple(pairs), tuple(kinds), threshold, shape
        self.add_state("sums", torch.zeros(len(pairs), *shape, dtype=torch.long), dist_reduce_fx="sum")
        for name in ("counts", "silent"):
            self.add_state(name, torch.zeros(len(pairs), dtype=torch.long), dist_reduce_fx="sum")
        votes, prompts = torch.zeros(0, 4, dtype=torch.int32), torch.zeros(0, 3, dtype=torch.int32)
        self.add_rows(votes=votes, prompts=prompts)  # (pair, kind, group, neuron) and (pair, kind, group)

    def update(self, scores: Tensor, pairs: Tensor, kinds: Tensor, groups: Tensor) -> None:
        """Add the scores of prompts, each for one pair.

        Args:
            scores: attribution scores, ``[prompt, layer, neuron]``; positive if the neuron widens the gap.
            pairs: index of each prompt's pair, ``[prompt]``.
            kinds: index of each prompt's kind of modifier, ``[prompt]``.
            groups: id of each prompt's group, shared by all wordings of a statement, ``[prompt]``.

        Raises:
            InputError: if a score is not finite, an argument has the wrong shape or dtype, or an index is out of range.
        """
        if scores.ndim != 3 or scores.shape[1:] != torch.Size(self.shape):
            layers, width = self.shape
            raise InputError(
                f"`scores` is expected to be of shape [prompt, {layers}, {width}] but got {list(scores.shape)}."
            )
        if prompts := int((~scores.isfinite().flatten(1).all(1)).sum()):
            raise InputError(
                f"`scores` is expected to be finite but has NaN or infinite values for {prompts} of {len(scores)} "
                "prompts. Check the model's weights and dtype."
            )
        limits = (len(self.pairs), len(self.kinds), 2**31)
        for name, values, limit in zip(("pairs", "kinds", "groups"), (pairs, kinds, groups), limits, strict=True):
            _check_indices(name, values, len(scores), limit)
        rows = torch.stack([pairs, kinds, groups], 1).to(scores.device, torch.int32)
        self.prompts.append(rows)
        for part, labels in zip(*(torch.split(t, _ROWS) for t in (scores.detach().flatten(1), rows)), strict=True):
            self._add(_double(part), labels)

    def update_batch(self, scores: Tensor, batch: Mapping[str, Any]) -> None:
        """Add the scores of a batch of :class:`biaslab.data.prompts.PromptDataModule`, each prompt for each pair.

        Args:
            scores: attribution scores, ``[prompt, pair, layer, neuron]``.
            batch: with the numbers of its pairs, ``pair`` ``[pair]``, and ``kind`` and ``group`` ``[prompt]``.
        """
        prompts, pairs = scores.shape[:2]
        kinds, groups = (batch[name].repeat_interleave(pairs) for name in ("kind", "group"))
        self.update(scores.flatten(0, 1), batch["pair"].repeat(prompts), kinds, groups)

    def _add(self, scores: Tensor, rows: Tensor) -> None:
        """Add scores, ``[prompt, layer * neuron]``, to the sums and votes."""
        largest = scores.amax(1, keepdim=True)
        speaks = largest > 0
        size = torch.maximum(largest, -scores.amin(1, keepdim=True))
        normalised = scores / size.where(size > 0, 1.0)
        pair = rows[:, 0].to(self.sums.device, torch.long)
        self.sums.index_add_(0, pair, (normalised * _ONE).round().long().view(-1, *self.shape).to(pair.device))
        self.counts.index_add_(0, pair, torch.ones_like(pair))
        self.silent.index_add_(0, pair, (~speaks[:, 0]).long().to(pair.device))
        votes = ((scores >= self.threshold * largest) & speaks).nonzero().to(rows.device)
        prompt, neuron = votes.unbind(1)
        self.votes.append(torch.cat([rows[prompt], neuron[:, None].int()], 1))

    def part(self) -> dict[str, Tensor]:
        """Return the collected data for :meth:`add_part` of another instance; empty before the first update.

        Returns:
            "pairs" ``[k]``, the pairs with prompts; their "sums" ``[k, layer, neuron]``, "counts" and "silent"
            ``[k]``; "votes" ``[vote, 4]`` and "prompts" ``[prompt, 3]``.
        """
        if not len(self.prompts):
            return {}
        pairs = self.counts.nonzero()[:, 0]
        whole = {name: getattr(self, name)[pairs] for name in ("sums", "counts", "silent")}
        return {"pairs": pairs, **whole, "votes": self.collected("votes"), "prompts": self.collected("prompts")}

    def add_part(self, part: Mapping[str, Tensor]) -> None:
        """Add the :meth:`part` of a metric with the same pairs, kinds and shape, in any order."""
        if not part:
            return
        self._update_count, self._computed = self._update_count + 1, None  # as after an update
        moved = {name: tensor.to(self.device) for name, tensor in part.items()}
        for name in ("sums", "counts", "silent"):
            getattr(self, name).index_add_(0, moved["pairs"], moved[name])
        self.votes.append(moved["votes"])
        self.prompts.append(moved["prompts"])

    def compute(self) -> dict[str, Tensor]:
        """Return the collected data of all processes, cached until the next update.

        Returns:
            "scores", see :meth:`pair_scores`; "counts" and "silent" ``[pair]``, the number of prompts, and of prompts
            without votes; "prompts" ``[prompt, 3]`` and "votes" ``[vote, 4]``.
        """
        scores = _double(self.sums) / _ONE / _double(self.counts)[:, None, None]
        rows = {name: self.collected(name) for name in ("prompts", "votes")}
        return {"scores": scores, "counts": self.counts, "silent": self.silent} | rows

    def pair_scores(self) -> Tensor:
        """Return the mean scores of each pair, ``[pair, layer, neuron]``; NaN for a pair without prompts.

        The scores of each prompt are first divided by its largest absolute score.
        """
        scores: Tensor = self.compute()["scores"]
        return scores

    def mean_scores(self) -> Tensor:
        """Return b(n), the unweighted mean over the pairs with prompts, ``[layer, neuron]``."""
        return self.pair_scores().nanmean(0)


def _double(values: Tensor) -> Tensor:
    """Return values as float64, moved to the CPU if their device may not support it (as Apple's GPUs)."""
    return (values if values.device.type in ("cpu", "cuda") else values.cpu()).double()


def _check_indices(name: str, values: Tensor, prompts: int, limit: int) -> None:
    if values.shape != (prompts,) or values.is_floating_point() or values.dtype == torch.bool:
        raise InputError(
            f"`{name}` is expected to hold one integer per prompt, [{prompts}], but got {list(values.shape)} of "
            f"{values.dtype}."
        )
    if prompts and not 0 <= int(values.min()) <= int(values.max()) < limit:
        raise InputError(
            f"`{name}` is expected to be between 0 and {limit - 1} but got {int(values.min())} to {int(values.max())}."
        )
