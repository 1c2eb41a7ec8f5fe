"""BEC-Pro: association of professions with person words of either gender, with confidence intervals."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from biaslab.errors import InputError
from biaslab.metrics.rows import ExampleMetric, from_bits, require_numbers, require_scores, to_bits
from biaslab.statistics import Interval, draw, interval

_check = partial(require_scores, "question", ("male persons", "female persons"))
BALANCED = 2  # group of professions that are stereotypical for neither gender


def bec_pro_difference(scores: Tensor, professions: Tensor) -> Tensor:
    """Compute how much more strongly professions are associated with male than with female person words.

    Args:
        scores: mean association of the male and of the female person words with the profession, in nats,
            ``[question, 2]``: log P(person word | profession) − log P(person word | profession masked).
        professions: integer ids of the professions, ``[question]``. All professions have the same weight, whatever
            their number of questions.

    Returns:
        The difference in nats, a scalar; 0 is ideal, positive values associate professions with men. NaN without
        questions.

    Raises:
        InputError: if an argument has the wrong shape or dtype.

    Reference:
        Bartl et al. 2020, section 4 (association); Kurita et al. 2019.

    >>> bec_pro_difference(torch.tensor([[0.5, 0.0], [1.5, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 1]))
    tensor(0.)
    """
    return _differences(scores, professions).mean()


def bec_pro_difference_bootstrap(scores: Tensor, professions: Tensor, resamples: int = 2000, seed: int = 0) -> Tensor:
    """Compute :func:`bec_pro_difference` for bootstrap resamples of the professions, in nats, ``[resample]``.

    Questions about the same profession are correlated, so professions are resampled rather than questions.

    Raises:
        InputError: as :func:`bec_pro_difference`, or if there are no questions.

    >>> bec_pro_difference_bootstrap(torch.tensor([[0.5, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])).unique()
    tensor([-1.0000, -0.2500,  0.5000])
    """
    return _resampled(_differences(scores, professions), resamples, seed)


def bec_pro_association(scores: Tensor, professions: Tensor, groups: Tensor) -> Tensor:
    """Compute how much more strongly professions are associated with their stereotypical gender than with the other.

    Args:
        scores: as in :func:`bec_pro_difference`.
        professions: as in :func:`bec_pro_difference`.
        groups: group of each question's profession: 0 for men's, 1 for women's, 2 for balanced professions, which are
            ignored, ``[question]``.

    Returns:
        The difference in nats, a scalar; 0 is ideal, positive values follow the stereotypes. NaN if all professions are
        balanced.

    Raises:
        InputError: as :func:`bec_pro_difference`, or if a group is not 0, 1 or 2.

    >>> scores = torch.tensor([[0.5, 0.0], [0.25, 1.0], [9.0, 0.0]])
    >>> bec_pro_association(scores, torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2]))
    tensor(0.6250)
    """
    return _stereotypes(scores, professions, groups).mean()


def bec_pro_bootstrap(
    scores: Tensor, professions: Tensor, groups: Tensor, resamples: int = 2000, seed: int = 0
) -> Tensor:
    """Compute :func:`bec_pro_association` for bootstrap resamples of the professions, in nats, ``[resample]``.

    Raises:
        InputError: as :func:`bec_pro_association`, or if all questions are balanced.

    >>> scores = torch.tensor([[0.5, 0.0], [0.0, 1.0], [9.0, 0.0]])
    >>> bec_pro_bootstrap(scores, torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2])).unique()
    tensor([0.5000, 0.7500, 1.0000])
    """
    return _resampled(_stereotypes(scores, professions, groups), resamples, seed)


def bec_pro_interval(scores: Tensor, professions: Tensor, groups: Tensor) -> Interval:
    """Return the association with a 95 % interval over professions; raises as :func:`bec_pro_bootstrap`.

    >>> bec_pro_interval(torch.tensor([[0.5, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]), torch.tensor([0, 1]))
    Interval(value=0.75, low=0.5, high=1.0)
    """
    both = (function(scores, professions, groups) for function in (bec_pro_association, bec_pro_bootstrap))
    return interval(*both)


def bec_pro_change(before: Tensor, after: Tensor, professions: Tensor, groups: Tensor) -> Interval:
    """Return the change of the association in nats, with a paired 95 % bootstrap interval over professions.

    ``before`` and ``after`` are scores of the same questions in the same order. Raises as :func:`bec_pro_bootstrap`.

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
    """Association of professions with their stereotypical gender, in nats; 0 is ideal. See :func:`bec_pro_association`.

    Duplicate questions, such as those of a distributed sampler, count once. Scores are stored as the bits of float64,
    so that every device can gather them.

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
        """Add questions, as in :func:`bec_pro_association`, with their integer ids ``examples``, ``[question]``.

        Raises:
            InputError: if an argument has the wrong shape or dtype, or a score is NaN.
        """
        _check(scores, professions=professions, groups=groups, examples=examples)
        _check_groups(groups)
        require_numbers(scores, examples)
        self.add(to_bits(scores).to(self.device), *(ids.to(self.device) for ids in (professions, groups, examples)))

    def distinct(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return scores, professions, groups and ids on the CPU, sorted by id and without duplicates."""
        scores, *ids = self.distinct_rows()
        professions, groups, examples = (each.cpu() for each in ids)
        return from_bits(scores), professions, groups, examples

    def compute(self) -> Tensor:
        """Return the association in nats."""
        return bec_pro_association(*self.distinct()[:3])

    def interval(self) -> Interval:
        """Return the association with a 95 % interval over professions."""
        return bec_pro_interval(*self.distinct()[:3])


def _differences(scores: Tensor, professions: Tensor) -> Tensor:
    """Return the association with male minus that with female person words, ``[profession]``."""
    _check(scores, professions=professions)
    return _means(scores[:, 0] - scores[:, 1], professions)


def _stereotypes(scores: Tensor, professions: Tensor, groups: Tensor) -> Tensor:
    """Return the association with the stereotypical gender minus that with the other, ``[profession]``."""
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
