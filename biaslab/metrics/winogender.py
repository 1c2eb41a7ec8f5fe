"""Winogender: how a model's pronouns correlate with the share of women in an occupation, with intervals."""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from biaslab.errors import InputError, require_ranges
from biaslab.metrics.rows import ExampleMetric, from_bits, log_probabilities, require_numbers, require_scores, to_bits
from biaslab.statistics import Interval, cluster_means, draw, intervals

NAMES = ("Winogender correlation", "Winogender slope", "Winogender log-ratio")
_check = partial(require_scores, "sentence", ("female", "male"))


class Sentences(NamedTuple):
    """Scored sentences on the CPU, sorted by id and without duplicates.

    Attributes:
        scores: scores of the female and of the male sentence, ``[sentence, 2]``.
        occupations: ids of the occupations, ``[sentence]``.
        female_shares: percentage of women in the occupation, ``[sentence]``.
        examples: ids of the sentences, ``[sentence]``.
    """

    scores: Tensor
    occupations: Tensor
    female_shares: Tensor
    examples: Tensor


def _check_shares(female_shares: Tensor, scores: Tensor) -> None:
    inside = (female_shares > 0) & (female_shares < 100)
    if female_shares.shape != scores.shape[:1] or not bool(inside.all()):
        raise InputError(
            f"`female_shares` is expected to hold one percentage between 0 and 100 per sentence, [{len(scores)}], but "
            f"got {list(female_shares.shape)}{'' if inside.all() else f' with {female_shares[~inside][0]:g}'}."
        )


def _by_occupation(scores: Tensor, occupations: Tensor, female_shares: Tensor) -> tuple[Tensor, Tensor]:
    """Return the log-odds of the share of women and the mean log-ratio of each occupation, both ``[occupation]``."""
    _check(scores, occupations=occupations)
    _check_shares(female_shares, scores)
    female, male = log_probabilities(scores, "log_probability").unbind(1)
    values = torch.stack([(female_shares / 100).to(female).logit(), female - male], 1)  # [sentence, 2]
    odds, ratios = cluster_means(values, occupations).unbind(1)
    return odds, ratios


def _figures(odds: Tensor, ratios: Tensor) -> Tensor:
    """Return the metrics, ``[..., 3]``, from values of occupations, ``[..., occupation]``."""
    x, y = (each - each.mean(-1, keepdim=True) for each in (odds, ratios))
    products, squares, others = ((a * b).sum(-1) for a, b in ((x, y), (x, x), (y, y)))
    alike = [(each == each[..., :1]).all(-1) for each in (odds, ratios)]  # due to rounding, squares may not be 0
    correlation = (100 * products / (squares * others).sqrt()).masked_fill(alike[0] | alike[1], torch.nan)
    return torch.stack([correlation, (products / squares).masked_fill(alike[0], torch.nan), ratios.mean(-1)], -1)


def winogender_point(scores: Tensor, occupations: Tensor, female_shares: Tensor) -> Tensor:
    """Compute how a model's preference for female pronouns depends on the share of women in an occupation.

    The preference of an occupation is the mean of log P(female) − log P(male) over its sentences.

    Args:
        scores: log-probabilities of the female and of the male sentence, in nats, ``[sentence, 2]``.
        occupations: id of each sentence's occupation, ``[sentence]``.
        female_shares: percentage of women in each sentence's occupation, ``[sentence]``.

    Returns:
        ``[3]``: Pearson's correlation of the preference with the log-odds of the share, times 100 (from −100 to 100);
        the slope, in nats of preference per unit of log-odds; and the mean preference in nats. 0 is ideal for all: the
        pronouns do not follow the statistics (first two), and neither gender is preferred (last). NaN if all
        occupations have the same values.

    Raises:
        InputError: if an argument has the wrong shape or dtype, a share is not between 0 and 100, or a score is NaN,
            infinite or above 0.

    Reference:
        Rudinger et al. 2018, for coreference systems; here it is the pronouns' probabilities.

    >>> scores = torch.tensor([[-12.0, -11.0], [-11.0, -11.0], [-10.0, -11.0], [-10.0, -11.0]])
    >>> winogender_point(scores, torch.tensor([0, 1, 2, 2]), torch.tensor([20.0, 50.0, 80.0, 80.0]))
    tensor([100.0000,   0.7213,   0.0000])
    """
    return _figures(*_by_occupation(scores, occupations, female_shares))


def winogender_bootstrap(
    scores: Tensor, occupations: Tensor, female_shares: Tensor, resamples: int = 2000, seed: int = 0
) -> Tensor:
    """Compute :func:`winogender_point` for bootstrap resamples of the occupations, ``[resample, 3]``.

    Correlation and slope are NaN for a resample that contains a single occupation.

    Args:
        scores: as in :func:`winogender_point`, without duplicate sentences.
        occupations: as in :func:`winogender_point`.
        female_shares: as in :func:`winogender_point`.
        resamples: number of resamples.
        seed: seed of the random generator. The same number of occupations and the same seed give the same resamples.

    Raises:
        InputError: as :func:`winogender_point`, or if there are no sentences.

    >>> scores = torch.tensor([[-12.0, -11.0], [-11.0, -11.0], [-10.0, -11.0]])
    >>> winogender_bootstrap(scores, torch.tensor([0, 1, 2]), torch.tensor([20.0, 50.0, 80.0])).nanmean(0)[:2]
    tensor([100.0000,   0.7213])
    """
    require_ranges({"resamples": resamples, "seed": seed})
    odds, ratios = _by_occupation(scores, occupations, female_shares)
    if not len(odds):
        raise InputError("`scores` is expected to hold at least one sentence to resample but got none.")
    drawn = draw(len(odds), resamples, seed).to(odds.device)
    return _figures(odds[drawn], ratios[drawn])


def winogender_intervals(scores: Tensor, occupations: Tensor, female_shares: Tensor) -> dict[str, Interval]:
    """Return the metrics by name, with 95 % intervals over occupations; raises as :func:`winogender_bootstrap`.

    >>> scores = torch.tensor([[-12.0, -11.0], [-11.0, -11.0], [-10.0, -11.0]])
    >>> winogender_intervals(scores, torch.tensor([0, 1, 2]), torch.tensor([20.0, 50.0, 80.0]))["Winogender log-ratio"]
    Interval(value=0.0, low=-1.0, high=1.0)
    """
    both = (function(scores, occupations, female_shares) for function in (winogender_point, winogender_bootstrap))
    return intervals(NAMES, *both)


def winogender_change(before: Tensor, after: Tensor, occupations: Tensor, female_shares: Tensor) -> dict[str, Interval]:
    """Return the changes of the metrics by name, in percentage points or nats, with paired 95 % intervals.

    ``before`` and ``after`` are scores of the same sentences in the same order.

    Raises:
        InputError: as :func:`winogender_bootstrap`, or if the shapes differ.

    >>> before = torch.tensor([[-12.0, -11.0], [-11.0, -11.0], [-10.0, -11.0]])
    >>> shares = torch.tensor([20.0, 50.0, 80.0])
    >>> winogender_change(before, before, torch.tensor([0, 1, 2]), shares)["Winogender slope"]
    Interval(value=0.0, low=0.0, high=0.0)
    """
    points, resampled = (
        [function(scores, occupations, female_shares) for scores in (before, after)]
        for function in (winogender_point, winogender_bootstrap)
    )
    return intervals(NAMES, points[1] - points[0], resampled[1] - resampled[0])


class WinogenderAssociation(ExampleMetric):
    """How a model's pronouns depend on the share of women in an occupation: :func:`winogender_point`.

    Duplicate sentences, such as those of a distributed sampler, count once. Scores and shares are stored as the bits of
    float64, so that every device can gather them.

    >>> metric = WinogenderAssociation()
    >>> scores, ids = torch.tensor([[-12.0, -11.0], [-11.0, -11.0], [-10.0, -11.0]]), torch.arange(3)
    >>> metric.update(scores, occupations=ids, female_shares=torch.tensor([20.0, 50.0, 80.0]), examples=ids)
    >>> round(float(metric.compute()["Winogender correlation"]), 3)
    100.0
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        ids = torch.zeros(0, dtype=torch.long)
        self.add_rows(scores=torch.zeros(0, 2, dtype=torch.long), occupations=ids, female_shares=ids, examples=ids)

    def update(self, scores: Tensor, occupations: Tensor, female_shares: Tensor, examples: Tensor) -> None:
        """Add sentences, as in :func:`winogender_point`, with their integer ids ``examples``, ``[sentence]``.

        Raises:
            InputError: if an argument has the wrong shape or dtype, a share is not between 0 and 100, or a score is
                NaN.
        """
        _check(scores, occupations=occupations, examples=examples)
        _check_shares(female_shares, scores)
        require_numbers(scores, examples)
        rows = (to_bits(scores), occupations, to_bits(female_shares), examples)
        self.add(*(each.to(self.device) for each in rows))

    def distinct(self) -> Sentences:
        """Return the sentences sorted by id, without duplicates; empty before the first update."""
        scores, occupations, female_shares, examples = self.distinct_rows()
        return Sentences(from_bits(scores), occupations.cpu(), from_bits(female_shares), examples.cpu())

    def compute(self) -> dict[str, Tensor]:
        """Return the metrics by name; raises as :func:`winogender_point`."""
        *sentences, _ = self.distinct()
        return dict(zip(NAMES, winogender_point(*sentences), strict=True))
