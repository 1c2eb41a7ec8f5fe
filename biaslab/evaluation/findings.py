"""What a command found: rows × scopes × metrics, as estimates; the one form in which results are kept and read."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from biaslab.errors import InputError
from biaslab.statistics import Estimate, Interval, Unit
from biaslab.store import write_atomically

SCHEMA = 1
_PARTS = ("command", "model", "settings", "facts", "details")
OVERALL = "overall"
FILES = {  # the file of each command's findings
    "debias": "results.json",
    "table": "table.json",
    "sweep": "sweep.json",
    "side-effects": "side_effects.json",
    "probe": "probe.json",
    "compare": "comparison.json",
    "cards": "cards.json",
    "stereoset": "stereoset.json",
    "crows-pairs": "crows_pairs.json",
}


class Metric(NamedTuple):
    """How a metric is read.

    Attributes:
        unit: of its change: points (the metric is in percent), or percent of what it was before.
        ideal: the value that is best.
        text: what it is, for a legend.
    """

    unit: Unit
    ideal: float
    text: str


METRICS = {
    "SS": Metric("points", 50, "stereotype score, %"),
    "LMS": Metric("points", 100, "language modelling score, %"),
    "ICAT": Metric("points", 100, "idealized CAT score, %"),
    "CrowS-Pairs": Metric("points", 50, "CrowS-Pairs score, %"),
    "stereotype": Metric("points", 50, "CrowS-Pairs score of the stereotyping pairs, %"),
    "anti-stereotype": Metric("points", 50, "CrowS-Pairs score of the anti-stereotyping pairs, %"),
    "gap": Metric("percent", 0, "|P(d1) − P(d2)|"),
    "log gap": Metric("percent", 0, "|log P(d1) − log P(d2)|, nats"),
    "perplexity": Metric("percent", 0, "perplexity"),
    "biased outputs": Metric("points", 0, "biased outputs, %"),
    "mass difference": Metric("points", 0, "mass difference, points"),
}


@dataclass(frozen=True)
class Row:
    """A treatment that was measured.

    Attributes:
        name: by which estimates name it.
        title: as it is printed.
        size: how many neurons are suppressed, or how many parameters were trained.
        treatments: facts of each: one, or one a seed; see :meth:`biaslab.evaluation.treatment.Treatment.facts`.
        like: of random controls, the row whose neurons' layers they share.
        seconds: that finding the neurons or the training took.
    """

    name: str
    title: str
    size: int = 0
    treatments: Sequence[Mapping[str, Any]] = ({},)
    like: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Findings:
    """What a command found.

    Attributes:
        command: that found it.
        model: its name.
        settings: of the command.
        facts: numbers and names besides: how many clusters were judged, and so on.
        rows: the untouched model first.
        estimates: by row, metric and scope.
        details: what is no estimate: parts of a comparison, cards, trials.
    """

    command: str
    model: str
    settings: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)
    rows: Sequence[Row] = ()
    estimates: Mapping[tuple[str, str, str], Estimate] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def base(self) -> Row:
        """The untouched model."""
        return self.rows[0]

    def row(self, name: str) -> Row:
        """Return a row by its name."""
        return next(row for row in self.rows if row.name == name)

    def control(self, name: str) -> Row | None:
        """Return the random control of a row, where there is one."""
        return next((row for row in self.rows if row.like == name), None)

    def get(self, row: str, metric: str, scope: str = OVERALL) -> Estimate | None:
        """Return an estimate; None where that was not measured."""
        return self.estimates.get((row, metric, scope))

    def scopes(self, metric: str) -> list[str]:
        """Return where a metric was measured, "overall" first."""
        return list(dict.fromkeys(scope for _, name, scope in self.estimates if name == metric))

    def rows_of(self, metric: str) -> list[Row]:
        """Return the rows that a metric was measured of."""
        measured = {row for row, name, _ in self.estimates if name == metric}
        return [row for row in self.rows if row.name in measured]

    def lines(self, metrics: Iterable[str] | None = None) -> list[dict[str, Any]]:
        """Return a line for each estimate, of some metrics or all: the form in files.

        A number that is not known is None.
        """
        wanted = None if metrics is None else set(metrics)
        return [
            {"row": row, "metric": metric, "scope": scope, "unit": METRICS[metric].unit, **_flat(estimate)}
            for (row, metric, scope), estimate in self.estimates.items()
            if wanted is None or metric in wanted
        ]

    def save(self, folder: Path, name: str | None = None) -> Path:
        """Write the command's file into a folder, all of it or nothing, and return its path.

        Args:
            folder: that is there.
            name: of the file; the command's by default.
        """
        content = {
            "schema": SCHEMA,
            "command": self.command,
            "model": self.model,
            "settings": self.settings,
            "facts": self.facts,
            "rows": [asdict(row) for row in self.rows],
            "estimates": self.lines(),
            "details": self.details,
        }
        path = folder / (name or FILES[self.command])
        text = json.dumps(content, indent=1, ensure_ascii=False, default=_plain)
        write_atomically(path, (text + "\n").encode())
        return path

    @classmethod
    def load(cls, path: Path) -> Findings:
        """Read what :meth:`save` wrote.

        Raises:
            InputError: if the file can't be read, is cut or altered, or is of another version of biaslab.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(
                f"`runs` is expected to hold whole files, but {path} can't be read: {error}. Run its command again."
            ) from error
        schema = content.get("schema") if isinstance(content, dict) else None
        if schema != SCHEMA:
            raise InputError(
                f"`runs` is expected to hold results of this version of biaslab (schema {SCHEMA}), but {path} has "
                f"schema {schema}. Run its command again."
            )
        try:
            rows = [Row(**row) for row in content["rows"]]
            estimates = {(line["row"], line["metric"], line["scope"]): _estimate(line) for line in content["estimates"]}
            command, model, settings, facts, details = (content[name] for name in _PARTS)
            return cls(command, model, settings, facts, rows, estimates, details)
        except (KeyError, TypeError) as error:
            raise InputError(
                f"`runs` is expected to hold whole files, but {path} lacks a part: {error}. Run its command again."
            ) from error


def gap_rows(findings: Findings) -> tuple[str, str, str]:
    """Return the rows of debias that its gaps are told of: suppressed, amplified, random ("" where there is none)."""
    suppressed = findings.rows[1]
    control = findings.control(suppressed.name)
    amplified = (row.name for row in findings.rows if any(each.get("factor", 0) > 1 for each in row.treatments))
    return suppressed.name, next(amplified, ""), "" if control is None else control.name


_INTERVALS = {"": "figure", "change": "change", "beyond_random": "beyond_random"}  # prefix in files: field


def _flat(estimate: Estimate) -> dict[str, Any]:
    line: dict[str, Any] = {}
    for prefix, name in _INTERVALS.items():
        part: Interval | None = getattr(estimate, name)
        keys = [f"{prefix}_{key}".lstrip("_") for key in Interval._fields]
        line |= dict(zip(keys, part or [None] * 3, strict=True))
    line |= {"spread": estimate.spread}
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in line.items()}


def _estimate(line: Mapping[str, Any]) -> Estimate:
    def part(prefix: str) -> Interval:
        keys = [f"{prefix}_{key}".lstrip("_") for key in Interval._fields]
        return Interval(*(math.nan if line[key] is None else line[key] for key in keys))

    beyond = None if line["beyond_random_value"] is None else part("beyond_random")
    return Estimate(part(""), part("change"), line["spread"], beyond)


def _plain(value: Any) -> Any:
    """Return what JSON can hold of a value that it can't."""
    return list(value) if isinstance(value, Sequence) else str(value)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows that have the same keys, with a line of headings, all of it or nothing; None becomes empty."""
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, buffer.getvalue().encode())
