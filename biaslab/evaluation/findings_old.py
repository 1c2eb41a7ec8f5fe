"""Figures of evaluations with their intervals and paired changes, and how they are printed."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor

from biaslab.evaluation.gaps import perplexity, perplexity_change
from biaslab.metrics.stereoset import NAMES, bootstrap, idealized_cat, language_modeling_score, stereotype_score
from biaslab.statistics import Interval
from biaslab.tasks.evaluation import Evaluation

BASE = "untouched"


def random_row(seeds: int) -> str:
    """Return how the row of random controls is called.

    >>> random_row(1), random_row(3)
    ('random, one seed', 'random, 3 seeds')
    """
    return f"random, {'one seed' if seeds == 1 else f'{seeds} seeds'}"


def control_row(rows: Iterable[str]) -> str | None:
    """Return the row of random controls, where there is one."""
    return next((row for row in rows if row.startswith("random")), None)


class Estimate(NamedTuple):
    """A figure of a row, in percent.

    Attributes:
        figure: with its 95 % interval; of random controls the mean over the seeds.
        change: against the untouched model, on the same resamples.
        spread: standard deviation over the seeds, of random controls.
    """

    figure: Interval
    change: Interval
    spread: float | None

    def plain(self) -> dict[str, Any]:
        """Return what files hold of it; :meth:`read` is the way back."""
        return {"figure": self.figure._asdict(), "change": self.change._asdict(), "spread": self.spread}

    @classmethod
    def read(cls, content: Mapping[str, Any]) -> Estimate:
        """Return the estimate that a file holds.

        >>> Estimate.read(Estimate(Interval(1.0, 0.0, 2.0), Interval(0.5, 0.1, 0.9), None).plain()).change.low
        0.1
        """
        return cls(Interval(**content["figure"]), Interval(**content["change"]), content.get("spread"))


Estimates = dict[str, dict[str, dict[str, Estimate]]]  # row -> scope -> metric


def estimates(evaluations: Mapping[str, Sequence[Evaluation]], base: str = BASE) -> Estimates:
    """Return each row's figures by scope.

    Args:
        evaluations: of each row: one, or one a seed.
        base: the row that the others are compared with.
    """
    before = evaluations[base]
    return {
        name: {scope: _estimate(before, runs, scope) for scope in before[0].scopes()}
        for name, runs in evaluations.items()
    }


def _estimate(base: Sequence[Evaluation], runs: Sequence[Evaluation], scope: str) -> dict[str, Estimate]:
    before, resampled_before = _points(base, scope)
    after, resampled_after = _points(runs, scope)
    found = {}
    for column, name in enumerate(NAMES):
        value, samples = after[:, column].mean(), resampled_after[:, column]
        change = _interval(value - before[:, column].mean(), samples - resampled_before[:, column])
        spread = float(after[:, column].std()) if len(runs) > 1 else None
        found[name] = Estimate(_interval(value, samples), change, spread)
    return found


def _points(runs: Sequence[Evaluation], scope: str) -> tuple[Tensor, Tensor]:
    """Return SS, LMS and ICAT of each run ``[run, 3]``, and the runs' mean bootstrap ``[resample, 3]``."""
    points, samples = [], []
    for run in runs:
        inside = run.within(scope)
        scores, terms = run.scores[inside], run.terms[inside]
        points.append(
            torch.stack([f(scores, terms) for f in (stereotype_score, language_modeling_score, idealized_cat)])
        )
        samples.append(bootstrap(scores, terms))
    return torch.stack(points), torch.stack(samples).mean(0)


def _interval(value: Tensor, samples: Tensor) -> Interval:
    return Interval(float(value), float(samples.quantile(0.025)), float(samples.quantile(0.975)))


def perplexities(likelihoods: Mapping[str, Sequence[Tensor]], base: str = BASE) -> dict[str, dict[str, Any]]:
    """Return each row's perplexity, its change in percent with the 95 % interval, and the spread over seeds.

    Args:
        likelihoods: of each row, one a seed: ``[sentence, 2]``, see
            :func:`biaslab.evaluation.gaps.negative_log_likelihoods`.
        base: the row that the others are compared with.
    """
    (before,) = likelihoods[base]
    found = {}
    for row, runs in likelihoods.items():
        changes = [perplexity_change(before, run) for run in runs]
        mean = Interval(*(statistics.fmean(column) for column in zip(*changes, strict=True)))
        values = [perplexity(run) for run in runs]
        spread = statistics.stdev(values) if len(values) > 1 else None
        found[row] = {"value": statistics.fmean(values), "change_percent": mean._asdict(), "spread": spread}
    return found


def new_table(title: str, *columns: str) -> Table:
    """Return an empty table for the terminal, without a frame; numbers stand to the right."""
    table = Table(title=f"\n{title}", title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.pad_edge = table.show_edge = False
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    return table


def cell(estimate: Estimate, with_change: bool = False) -> str:
    """Return "value [low, high]" and, below it, the change and the spread over seeds."""
    value = f"{estimate.figure.value:.1f} [{estimate.figure.low:.1f}, {estimate.figure.high:.1f}]"
    spread = "" if estimate.spread is None else f"\n± {estimate.spread:.1f} over seeds"
    return value + (f"\n{signed(estimate.change)}{spread}" if with_change else "")


def signed(change: Interval, digits: int = 1) -> str:
    """Return "+value [low, high]"."""
    return f"{change.value:+.{digits}f} [{change.low:+.{digits}f}, {change.high:+.{digits}f}]"


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows that have the same keys, with a line of headings."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
