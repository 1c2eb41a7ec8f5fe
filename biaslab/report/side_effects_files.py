"""What suppressing the neurons of a dimension does to the others: figures, files, and a matrix a measure."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import Tensor

from biaslab.commands.side_effects_measures import Measured
from biaslab.data.words import DIMENSIONS
from biaslab.evaluation.findings_old import BASE, Estimate, Estimates, estimates, perplexities, write_csv
from biaslab.evaluation.gaps import Gaps, mean_change
from biaslab.metrics.crows_pairs import crows_pairs_bootstrap, crows_pairs_score
from biaslab.metrics.stereoset import NAMES
from biaslab.report.side_effects_tables import OVERALL, Line, print_tables
from biaslab.statistics import Interval
from biaslab.store import write_atomically

ALL, RANDOM = "all", "random"
_UNKNOWN = (float("nan"), float("nan"))  # no interval
CROWS_PAIRS, GAP, LOG_GAP = "CrowS-Pairs", "gap", "log gap"
# Where a dimension's own bias shows. CrowS-Pairs' "socioeconomic" is of status and of occupation; politics has no home.
_DOMAINS = {"gender": "gender", "ethnicity": "race", "religion": "religion", "occupation": "profession"}
_CATEGORIES = {
    "gender": "gender",
    "ethnicity": "race-color",
    "religion": "religion",
    "sexuality": "sexual-orientation",
    "age": "age",
    "physical_appearance": "physical-appearance",
    "socioeconomic_status": "socioeconomic",
    "occupation": "socioeconomic",
}


class Row(NamedTuple):
    """A treatment that was measured.

    Attributes:
        neurons: how many are suppressed.
        measured: once, or once a seed.
    """

    neurons: int
    measured: Sequence[Measured]


class Gap(NamedTuple):
    """How far apart the demographics of a dimension are, on average over its pairs; of random controls over the seeds.

    Attributes:
        value: mean of ``|P(d1) - P(d2)|``, or of ``|log P(d1) - log P(d2)|`` in nats.
        change: of each pair's against the untouched model, in percent; then the mean, with its 95 % interval.
        spread: of the change over the seeds, of random controls.
    """

    value: float
    change: Interval
    spread: float | None


class Results:
    """The figures of all rows, compared with the untouched model's.

    Args:
        model: its name.
        rows: by name; the untouched model is among them.
        categories: of CrowS-Pairs' pairs.
        pair_names: of the held-out prompts' demographics.
        settings: of the command, to be written beside the figures.
        counts: how much was measured, by name.
    """

    def __init__(
        self,
        model: str,
        rows: Mapping[str, Row],
        categories: Sequence[str],
        pair_names: Sequence[str],
        settings: Mapping[str, Any],
        counts: Mapping[str, int],
    ) -> None:
        self.model, self.rows, self.settings, self.counts = model, rows, settings, counts
        judged = {name: [run.judged for run in row.measured] for name, row in rows.items()}
        self.stereoset: Estimates = estimates({name: [j.evaluation for j in runs] for name, runs in judged.items()})
        self.perplexities = perplexities({name: [j.likelihoods for j in runs] for name, runs in judged.items()})
        self.crows_pairs = _crows_pairs(rows, categories)
        self.gaps = {name: _gaps(rows[BASE].measured[0], row.measured, pair_names) for name, row in rows.items()}
        self.own = {name: _own(name) for name in dict.fromkeys([*DIMENSIONS, *rows]) if name not in (BASE, ALL, RANDOM)}

    def write(self, folder: Path) -> None:
        """Write side_effects.json and side_effects.csv into a folder."""
        content = {
            "model": self.model,
            "settings": {key: list(v) if isinstance(v, tuple) else v for key, v in self.settings.items()},
            "counts": self.counts,
            "rows": [self._facts(name) for name in self.rows],
            "own": self.own,
        }
        write_atomically(folder / "side_effects.json", (json.dumps(content, indent=1) + "\n").encode())
        write_csv(folder / "side_effects.csv", [line.flat() for line in self.lines()])

    def _facts(self, name: str) -> dict[str, Any]:
        stereoset = {
            scope: {metric: estimate.plain() for metric, estimate in of_scope.items()}
            for scope, of_scope in self.stereoset[name].items()
        }
        gaps = {
            dimension: {
                key: {"value": gap.value, "change_percent": gap.change._asdict(), "spread": gap.spread}
                for key, gap in of.items()
            }
            for dimension, of in self.gaps[name].items()
        }
        return {
            "name": name,
            "neurons": self.rows[name].neurons,
            "stereoset": stereoset,
            "crows_pairs": {scope: estimate.plain() for scope, estimate in self.crows_pairs[name].items()},
            "gaps": gaps,
            "perplexity": self.perplexities[name],
        }

    def lines(self) -> Iterator[Line]:
        """Yield a line a measure, row and scope."""
        for name, row in self.rows.items():
            domain, category = self.own.get(name, {"stereoset": None, "crows_pairs": None}).values()
            for scope, of_scope in self.stereoset[name].items():
                for metric in NAMES:
                    yield _line(name, row, metric, scope, domain, of_scope[metric])
            for scope, estimate in self.crows_pairs[name].items():
                yield _line(name, row, CROWS_PAIRS, scope, category, estimate)
            for dimension, of in self.gaps[name].items():
                for measure, gap in zip((GAP, LOG_GAP), of.values(), strict=True):
                    estimate = Estimate(Interval(gap.value, *_UNKNOWN), gap.change, gap.spread)
                    yield _line(name, row, measure, dimension, name.partition("/")[0], estimate, "percent")
            text = self.perplexities[name]
            figure, change = Interval(text["value"], *_UNKNOWN), Interval(**text["change_percent"])
            yield _line(name, row, "perplexity", "text", None, Estimate(figure, change, text["spread"]), "percent")

    def print(self, console: Console) -> None:
        """Print the tables, at most 80 columns wide."""
        print_tables(console, list(self.lines()), self.counts)


def _own(name: str) -> dict[str, str | None]:
    dimension = name.partition("/")[0]
    return {"stereoset": _DOMAINS.get(dimension), "crows_pairs": _CATEGORIES.get(dimension)}


def _line(
    name: str, row: Row, measure: str, scope: str, own: str | None, estimate: Estimate, unit: str = "points"
) -> Line:
    return Line(name, row.neurons, measure, scope, scope == own, estimate, unit)


def _crows_pairs(rows: Mapping[str, Row], categories: Sequence[str]) -> dict[str, dict[str, Estimate]]:
    """Return each row's CrowS-Pairs score by scope."""
    scopes = {OVERALL: torch.ones(len(categories), dtype=torch.bool)}
    scopes |= {name: torch.tensor([c == name for c in categories]) for name in sorted(set(categories))}
    found: dict[str, dict[str, Estimate]] = {name: {} for name in rows}
    for scope, inside in scopes.items():
        figures = {name: _points([run.pairs[inside] for run in row.measured]) for name, row in rows.items()}
        for name, (points, samples) in figures.items():
            before, samples_before = figures[BASE]
            change = _interval(points.mean() - before.mean(), samples - samples_before)
            spread = float(points.std()) if len(points) > 1 else None
            found[name][scope] = Estimate(_interval(points.mean(), samples), change, spread)
    return found


def _points(runs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the score of each run ``[run]``, and the runs' mean bootstrap ``[resample]``."""
    samples = torch.stack([crows_pairs_bootstrap(run) for run in runs])
    return torch.stack([crows_pairs_score(run) for run in runs]), samples.mean(0)


def _interval(value: Tensor, samples: Tensor) -> Interval:
    return Interval(float(value), float(samples.quantile(0.025)), float(samples.quantile(0.975)))


def _gaps(base: Measured, runs: Sequence[Measured], pair_names: Sequence[str]) -> dict[str, dict[str, Gap]]:
    """Return both gaps by dimension."""
    of = [name.partition("/")[0] for name in pair_names]
    changes = [run.gaps.change_from(base.gaps) for run in runs]
    found: dict[str, dict[str, Gap]] = {}
    for dimension in dict.fromkeys(of):
        inside = torch.tensor([name == dimension for name in of])
        found[dimension] = {}
        for number, key in enumerate(Gaps._fields):
            value = statistics.fmean(float(run.gaps[number][inside].nanmean((1, 2)).mean()) for run in runs)
            of_runs = [both[number] for both in changes]
            percent = [float(change.value[inside].mean()) for change in of_runs]
            spread = statistics.stdev(percent) if len(percent) > 1 else None
            found[dimension][key] = Gap(value, mean_change(of_runs).interval(inside), spread)
    return found
