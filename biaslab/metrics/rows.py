"""Base classes of metrics that collect rows, gather them from all processes on any device, and drop duplicates."""

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, get_args

import torch
from lightning_utilities import apply_to_collection
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from biaslab.errors import InputError

Scale: TypeAlias = Literal["probability", "log_probability"]  # of scores
_ROUNDING = 1e-3  # tolerance for probabilities above 1, or log-probabilities above 0


class ShapedMetric(Metric):
    """A metric whose results keep their shapes; torchmetrics squeezes tensors of one element to scalars."""

    _shapes: list[torch.Size]

    def _wrap_compute(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            value, self._shapes = compute(*args, **kwargs), []
            apply_to_collection(value, Tensor, lambda tensor: self._shapes.append(tensor.shape))
            return value

        wrapped = super()._wrap_compute(functools.wraps(compute)(noted))

        @functools.wraps(compute)
        def shaped(*args: Any, **kwargs: Any) -> Any:
            value = wrapped(*args, **kwargs)  # cached if there was no update since
            shapes = iter(self._shapes)
            return apply_to_collection(value, Tensor, lambda tensor: tensor.view(next(shapes)))

        return shaped


class RowMetric(ShapedMetric):
    """Collects rows in states that are gathered from all processes; a process without data contributes empty ones."""

    is_differentiable = False
    full_state_update = False

    def add_rows(self, **empty: Tensor) -> None:
        """Add states by name, each given as a tensor with zero rows of the right shape and dtype."""
        self._empty = empty
        for name in empty:
            self.add_state(name, [], dist_reduce_fx="cat")

    def collected(self, name: str) -> Tensor:
        """Return the rows of a state, as one tensor."""
        parts = getattr(self, name)
        return dim_zero_cat(parts) if len(parts) else self._empty[name].to(self.device)

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the states of all processes."""
        for name, empty in self._empty.items():
            if not self._is_synced and not len(getattr(self, name)):
                setattr(self, name, [empty.to(self.device)])
        super().sync(*args, **kwargs)


class ExampleMetric(RowMetric):
    """Collects rows of examples; the last state holds the integer ids of the examples."""

    def add(self, *rows: Tensor) -> None:
        """Add rows, one tensor per state."""
        for name, values in zip(self._empty, rows, strict=True):
            getattr(self, name).append(values.detach())

    def distinct_rows(self) -> list[Tensor]:
        """Return the rows sorted by id; of duplicates, such as those of a distributed sampler, the first."""
        *values, examples = map(self.collected, self._empty)
        ids, inverse = torch.unique(examples, return_inverse=True)
        where = torch.arange(len(examples), device=examples.device)
        first = where.new_full((len(ids),), len(examples)).scatter_reduce(0, inverse, where, "amin")
        return [*(value[first] for value in values), ids]


class ExampleScores(ExampleMetric):
    """Collects the scores of numbered examples from all processes, for resampling.

    Duplicate examples, such as those of a distributed sampler, count once. Scores are stored as the bits of float64, so
    that every device can gather them.

    Args:
        columns: number of scores per example, or their names.
        kind: name of an example in error messages.
        kwargs: see ``torchmetrics.Metric``.

    >>> metric = ExampleScores(1)
    >>> metric.update(torch.tensor([[0.5], [0.25]]), torch.tensor([7, 3]))
    >>> scores, examples = metric.compute()
    >>> scores.tolist(), examples.tolist()
    ([[0.25], [0.5]], [3, 7])
    """

    def __init__(self, columns: int | Sequence[str], kind: str = "example", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kind = kind
        self.names = [f"score {n}" for n in range(columns)] if isinstance(columns, int) else list(columns)
        scores = torch.zeros(0, len(self.names), dtype=torch.long)
        self.add_rows(scores=scores, examples=torch.zeros(0, dtype=torch.long))

    def update(self, scores: Tensor, examples: Tensor) -> None:
        """Add examples: scores, ``[example, column]``, and integer ids, ``[example]``.

        Raises:
            InputError: if an argument has the wrong shape or dtype, or a score is NaN.
        """
        require_scores(self.kind, self.names, scores, examples=examples)
        require_numbers(scores, examples)
        self.add(to_bits(scores).to(self.device), examples.to(self.device))

    def compute(self) -> tuple[Tensor, Tensor]:
        """Return scores (float64) and ids on the CPU, sorted by id and without duplicates."""
        scores, examples = self.distinct_rows()
        return from_bits(scores), examples.cpu()


def to_bits(values: Tensor) -> Tensor:
    """Return the bits of the values in float64, as integers on the CPU, which any device can hold without loss.

    Apple's GPUs don't support float64, and NCCL can't gather tensors on the CPU.

    >>> from_bits(to_bits(torch.tensor([0.5, -20.1], dtype=torch.float64)))
    tensor([  0.5000, -20.1000], dtype=torch.float64)
    """
    return values.detach().cpu().double().view(torch.long)


def from_bits(bits: Tensor) -> Tensor:
    """Return the float64 values of :func:`to_bits`, on the CPU."""
    return bits.cpu().view(torch.float64)


def require_scores(kind: str, columns: Sequence[str], scores: Tensor, **ids: Tensor) -> None:
    """Check that scores have one column per candidate, and that there is one integer id per example.

    Raises:
        InputError: if a shape or dtype is wrong.
    """
    if scores.ndim != 2 or scores.shape[1] != len(columns):
        raise InputError(
            f"`scores` is expected to have the shape [{kind}, {len(columns)}] ({', '.join(columns)}) but got "
            f"{list(scores.shape)}."
        )
    for name, value in ids.items():
        if value.shape != scores.shape[:1] or value.is_floating_point():
            raise InputError(
                f"`{name}` is expected to hold one integer id per {kind}, [{len(scores)}], but got {list(value.shape)} "
                f"of {value.dtype}."
            )


def require_numbers(scores: Tensor, examples: Tensor) -> None:
    """Check that no score is NaN.

    Raises:
        InputError: if a score is NaN; the message names the examples.
    """
    missing = examples[scores.isnan().any(1).to(examples.device)].tolist()
    if missing:
        raise InputError(
            f"`scores` is expected to hold numbers but has NaN for {len(missing)} of {len(scores)} examples: "
            f"{', '.join(map(str, missing[:10]))}{', …' if len(missing) > 10 else ''}. "
            "Check the model's weights and dtype."
        )


def log_probabilities(scores: Tensor, scale: Scale) -> Tensor:
    """Return scores as natural log-probabilities, in float64 if the scores are, else in float32.

    Probabilities below the smallest normal number of the dtype (1.2e-38 for float32), such as 0, are replaced by that
    number, with a warning.

    Args:
        scores: scores of any shape.
        scale: scale of the scores.

    Raises:
        InputError: if ``scale`` is unknown, or a score is NaN, infinite or out of range for the scale.

    >>> log_probabilities(torch.tensor([1.0, 0.5]), "probability")
    tensor([ 0.0000, -0.6931])
    """
    if scale not in get_args(Scale):
        raise InputError(f'`scale` is expected to be "probability" or "log_probability" but got {scale!r}.')
    scores = scores if scores.dtype == torch.float64 else scores.float()
    low, high, kind = (0.0, 1.0, "from 0 to 1") if scale == "probability" else (-math.inf, 0.0, "at most 0")
    wrong = scores[~((scores >= low) & (scores <= high + _ROUNDING) & scores.isfinite())].tolist()
    if wrong:
        raise InputError(
            f'`scores` is expected to hold finite numbers {kind} for the scale "{scale}" but got {wrong[0]:g}. Use '
            "the scale that matches the scoring rule, or check the model's weights and dtype."
        )
    if scale == "log_probability":
        return scores
    least = torch.finfo(scores.dtype).tiny
    if bool((scores < least).any()):
        warnings.warn(
            f"`scores` has probabilities of 0 or below {least:.2g}, the smallest normal number of {scores.dtype}. They "
            "are replaced by that number, which makes the log-ratio smaller in magnitude.", stacklevel=2,
        )  # fmt: skip
    return scores.clamp(min=least).log()
