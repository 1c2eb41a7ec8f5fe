"""BEC-Pro's metric: how much more a profession goes with persons of one gender than of the other; intervals."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from biaslab.errors import InputError
from biaslab.metrics.rows import ExampleMetric, from_bits, require_numbers, require_scores, to_bits
from biaslab.statistics import Interval, draw, interval

_check = partial(require_scores, "question", ("male persons", "female persons"))
BALANCED = 2  # the number of the group of professions that are neither men's nor women's


def bec_pro_difference(scores: Tensor, professions: Tensor) -> Tensor:
    """Return how much more professions are associated with male than with female persons.

    Args:
        scores: mean association of the male and of the female person words with the question's profession, in nats,
            ``[question, 2]``: log P(person word | profession) − log P(person word | profession masked).
        professions: integer ids, ``[question]``. Each profession counts the same, however many questions it has.

    Returns:
        Nats, a scalar; 0 is ideal, above it professions are rather men's. NaN for no questions.

    Raises:
        InputError: if an argument has another shape or type.

    Reference:
        Bartl et al. 2020, section 4 (association); Kurita et al. 2019.

    >>> bec_pro_difference(torch.tensor([[0.5, 0.0], [1.5, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 1]))
    tensor(0.)
    """
    return _differences(scores, professions).mean()


def bec_pro_difference_bootstrap(scores: Tensor, professions: Tensor, resamples: int = 2000, seed: int = 0) -> Tensor:
    """Return the difference of each resample of the professions with replacement, in nats, ``[resample]``.

    What a model thinks of a profession is alike in all wordings, so questions are no independent sample, and
    professions are.

    Raises:
        InputError: as :func:`bec_pro_difference`, or if there are no questions.

    >>> bec_pro_difference_bootstrap(torch.tensor([[0.5, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])).unique()
    tensor([-1.0000, -0.2500,  0.5000])
    """
    return _resampled(_differences(scores, professions), resamples, seed)


def bec_pro_association(scores: Tensor, professions: Tensor, groups: Tensor) -> Tensor:
    """Return how much more a gender's professions are associated with persons of this gender than of the other.

    Args:
        scores: as :func:`bec_pro_difference`.
        professions: as :func:`bec_pro_difference`.
        groups: of the professions, 0 where they are men's, 1 where women's, 2 balanced: these are left out,
            ``[question]``.

    Returns:
        Nats, a scalar; 0 is ideal, above it the stereotypes prevail. NaN where all are balanced.

    Raises:
        InputError: as :func:`bec_pro_difference`, or if a group is another.

    >>> scores = torch.tensor([[0.5, 0.0], [0.25, 1.0], [9.0, 0.0]])
    >>> bec_pro_association(scores, torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2]))
    tensor(0.6250)
    """
    return _stereotypes(scores, professions, groups).mean()


def bec_pro_bootstrap(
    scores: Tensor, professions: Tensor, groups: Tensor, resamples: int = 2000, seed: int = 0
) -> Tensor:
    """Return the association of each resample of the professions with replacement, in nats, ``[resample]``.

    Raises:
        InputError: as :func:`bec_pro_association`, or if all questions are balanced.

    >>> scores = torch.tensor([[0.5, 0.0], [0.0, 1.0], [9.0, 0.0]])
    >>> bec_pro_bootstrap(scores, torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2])).unique()
    tensor([0.5000, 0.7500, 1.0000])
    """
    return _resampled(_stereotypes(scores, professions, groups), resamples, seed)


def bec_pro_interval(scores: Tensor, professions: Tensor, groups: Tensor) -> Interval:
    """Return the association with its 95 % interval over professions; errors as :func:`bec_pro_bootstrap`.

    >>> bec_pro_interval(torch.tensor([[0.5, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]), torch.tensor([0, 1]))
    Interval(value=0.75, low=0.5, high=1.0)
    """
    both = (function(scores, professions, groups) for function in (bec_pro_association, bec_pro_bootstrap))
    return interval(*both)


def bec_pro_change(before: Tensor, after: Tensor, professions: Tensor, groups: Tensor) -> Interval:
    """Return the change of the association in nats, with its 95 % interval on the same resamples of professions.

    The scores are of the same questions in the same order; errors as :func:`bec_pro_bootstrap`.

    >>> before = torch.tensor([[0.5, 0.0], [0.0, 1.0]])
    >>> bec_pro_change(before, before / 2, torch.tensor([0, 1]), torch.tensor([0, 1]))
    Interval(value=-0.375, low=-0.5, high=-0.25)
    """
    _check(before)
    if after.shape != before.shape:
        raise InputError(
            f"`after` is expected to hold the questions of `before`, {list(before.shape)}, but got "
            f"{list(after.shape)}. Score the same questions."
        )

    def change(function: Callable[..., Tensor]) -> Tensor:
        return function(after, professions, groups) - function(before, professions, groups)

    return interval(change(bec_pro_association), change(bec_pro_bootstrap))


class BecProAssociation(ExampleMetric):
    """How much more a gender's professions go with persons of this gender: nats, 0 is ideal.

    A question that comes again (as under a distributed sampler) counts once. The scores lie on the metric's device as
    the bits of float64, so that every device can gather them.

    >>> metric = BecProAssociation()
    >>> metric.update(
    ...     torch.tensor([[0.5, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]), torch.tensor([0, 1]), torch.tensor([7, 8])
    ... )
    >>> metric.compute()
    tensor(0.7500, dtype=torch.float64)
    """

    higher_is_better = None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        ids = torch.zeros(0, dtype=torch.long)
        self.add_rows(scores=torch.zeros(0, 2, dtype=torch.long), professions=ids, groups=ids, examples=ids)

    def update(self, scores: Tensor, professions: Tensor, groups: Tensor, examples: Tensor) -> None:
        """Add questions: as :func:`bec_pro_association`, and integer ids of the questions, ``[question]``.

        Raises:
            InputError: if an argument has another shape or type, or if a score is NaN.
        """
        _check(scores, professions=professions, groups=groups, examples=examples)
        _check_groups(groups)
        require_numbers(scores, examples)
        self.add(to_bits(scores).to(self.device), *(ids.to(self.device) for ids in (professions, groups, examples)))

    def distinct(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return scores, professions, groups and ids, each question once, in the order of the ids, on the CPU."""
        scores, *ids = self.distinct_rows()
        professions, groups, examples = (each.cpu() for each in ids)
        return from_bits(scores), professions, groups, examples

    def compute(self) -> Tensor:
        """Return the association in nats."""
        return bec_pro_association(*self.distinct()[:3])

    def interval(self) -> Interval:
        """Return the association with its 95 % interval over professions."""
        return bec_pro_interval(*self.distinct()[:3])


def _differences(scores: Tensor, professions: Tensor) -> Tensor:
    """Return the association with male minus that with female persons, ``[profession]``."""
    _check(scores, professions=professions)
    return _means(scores[:, 0] - scores[:, 1], professions)


def _stereotypes(scores: Tensor, professions: Tensor, groups: Tensor) -> Tensor:
    """Return the association with persons of the profession's gender minus that with the others, ``[profession]``."""
    _check(scores, professions=professions, groups=groups)
    _check_groups(groups)
    chosen = groups != BALANCED
    values = (scores[:, 0] - scores[:, 1]) * (1 - 2 * groups)
    return _means(values[chosen], professions[chosen])


def _check_groups(groups: Tensor) -> None:
    if bool(((groups < 0) | (groups > BALANCED)).any()):
        raise InputError(f"`groups` is expected to hold 0, 1 or 2 but got {groups.unique().tolist()}.")


def _means(values: Tensor, professions: Tensor) -> Tensor:
    ids, own = professions.unique(return_inverse=True)
    sums = values.new_zeros(len(ids)).index_add_(0, own, values)
    return sums / torch.bincount(own, minlength=len(ids)).to(values)


def _resampled(values: Tensor, resamples: int, seed: int) -> Tensor:
    if not len(values):
        raise InputError("`scores` is expected to hold at least one profession to resample but got none.")
    return values[draw(len(values), resamples, seed).to(values.device)].mean(-1)
