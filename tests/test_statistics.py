"""Intervals, paired changes, spreads over seeds, and what goes beyond a random control, against loops."""

import statistics

import pytest
import torch

from biaslab.statistics import Estimate, Interval, Samples, draw, estimate, interval, mean


def samples(values: torch.Tensor) -> Samples:
    """The mean of some numbers, and its bootstrap."""
    return Samples(values.mean()[None], values[draw(len(values))].mean(1)[:, None])


@pytest.fixture
def numbers() -> torch.Tensor:
    return 50 + 10 * torch.randn(40, generator=torch.Generator().manual_seed(0)).double()


def test_an_interval_has_the_percentiles():
    assert interval(0.5, torch.arange(1001).double() / 1000) == pytest.approx((0.5, 0.025, 0.975))


def test_a_resample_without_a_figure_is_left_out():
    resamples = torch.cat([torch.arange(1001).double() / 1000, torch.full((50,), torch.nan)])
    assert interval(0.5, resamples) == pytest.approx((0.5, 0.025, 0.975))


@pytest.mark.parametrize("unit", ["points", "nats", "percent"])
def test_changes_are_paired(numbers, unit):
    """All numbers rise alike: the change is certain, though the mean is not."""
    after = 1.1 * numbers if unit == "percent" else numbers + 5
    found = estimate(samples(numbers), [samples(after)], unit)
    assert found.change == pytest.approx((10 if unit == "percent" else 5,) * 3)
    assert found.figure.high - found.figure.low > 3
    assert found.spread is None
    assert found.beyond_random is None


def test_the_interval_of_several_seeds_is_that_of_their_mean(numbers):
    """B3: the mean of the intervals' ends would be wider, by the root of the number of seeds."""
    noise = torch.randn(5, 40, generator=torch.Generator().manual_seed(1)).double()
    runs = [samples(numbers + 1 + 10 * each) for each in noise]
    found = estimate(samples(numbers), runs, "points")
    every = torch.stack([run.resamples[:, 0] - samples(numbers).resamples[:, 0] for run in runs]).mean(0)
    assert found.change.low == pytest.approx(float(every.quantile(0.025)))
    assert found.change.high == pytest.approx(float(every.quantile(0.975)))
    alone = [estimate(samples(numbers), [run], "points").change for run in runs]
    ends = [statistics.fmean(getattr(each, end) for each in alone) for end in ("low", "high")]
    assert found.change.high - found.change.low < 0.7 * (ends[1] - ends[0])
    assert found.spread == pytest.approx(statistics.stdev(each.value for each in alone))


def test_beyond_random_is_the_paired_difference(numbers):
    """B9: two intervals that overlap can differ for certain, since both are of the same resamples."""
    noise = 3 * torch.randn(40, generator=torch.Generator().manual_seed(2)).double()
    chosen, control = samples(numbers + noise + 1), samples(numbers + noise)
    found = estimate(samples(numbers), [chosen], "points", [control])
    random = estimate(samples(numbers), [control], "points")
    assert found.change.low < random.change.high  # they overlap
    assert found.beyond_random == pytest.approx((1, 1, 1))
    assert found.beyond_random.excludes_zero


def test_beyond_random_knows_that_seeds_vary(numbers):
    """Controls that differ from one another make the difference uncertain, though each is certain by itself."""
    controls = [samples(numbers + shift) for shift in (-4.0, 0.0, 4.0)]
    found = estimate(samples(numbers), [samples(numbers + 1)], "points", controls)
    assert found.beyond_random.value == pytest.approx(1)
    assert found.beyond_random.low < 0 < found.beyond_random.high


def test_the_mean_of_seeds_is_taken_resample_by_resample(numbers):
    both = [samples(numbers), samples(numbers.flip(0))]
    assert torch.equal(mean(both).resamples, (both[0].resamples + both[1].resamples) / 2)


def test_an_estimate_has_no_spread_and_no_control_by_default():
    assert Estimate(Interval(1, 0, 2), Interval(0, 0, 0))[2:] == (None, None)
