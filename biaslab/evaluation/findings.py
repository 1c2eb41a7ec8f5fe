"""What a command found: rows × scopes × metrics, as estimates; the one form in which results are kept and read."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

from biaslab.errors import InputError
from biaslab.evaluation.benchmarks import BENCHMARKS
from biaslab.statistics import OVERALL as OVERALL
from biaslab.statistics import Estimate, Interval, Unit
from biaslab.store import write_atomically

SCHEMA = 1
FILES = {  # the file of each command's findings
    "debias": "results.json",
    "table": "table.json",
    "sweep": "sweep.json",
    "side-effects": "side_effects.json",
    "probe": "probe.json",
    "compare": "comparison.json",
    "cards": "cards.json",
} | {name: f"{name.replace('-', '_')}.json" for name in BENCHMARKS}


SS_LOG_RATIO, PAIRS_LOG_RATIO = "SS log-ratio", "CrowS-Pairs log-ratio"


class Metric(NamedTuple):
    """How a metric is read."""

    unit: Unit  # of its change: points (the metric is in percent), nats, or percent of what it was before
    ideal: float
    text: str  # for a legend
    signed: bool = False  # points that lie below and above an ideal of 0

    @property
    def has_sides(self) -> bool:
        """Whether values lie below and above the ideal: what is nearer to it is better, and changes can go past it."""
        return self.ideal == 50 or self.unit == "nats" or self.signed


METRICS = {
    "SS": Metric("points", 50, "stereotype score, %"),
    SS_LOG_RATIO: Metric("nats", 0, "mean of log P(stereotype) − log P(anti-stereotype), nats"),
    "LMS": Metric("points", 100, "language modelling score, %"),
    "ICAT": Metric("points", 100, "idealized CAT score, %"),
    "CrowS-Pairs": Metric("points", 50, "CrowS-Pairs score, %"),
    PAIRS_LOG_RATIO: Metric("nats", 0, "mean of log P(more stereotyping) − log P(less stereotyping), nats"),
    "stereotype": Metric("points", 50, "CrowS-Pairs score of the stereotyping pairs, %"),
    "anti-stereotype": Metric("points", 50, "CrowS-Pairs score of the anti-stereotyping pairs, %"),
    "BBQ accuracy, ambiguous": Metric("points", 100, "BBQ's right answers, the unknown ones, in ambiguous contexts, %"),
    "BBQ accuracy, disambiguated": Metric("points", 100, "BBQ's right answers in disambiguated contexts, %"),
    "BBQ bias, ambiguous": Metric("points", 0, "BBQ's bias score in ambiguous contexts, s_AMB, %", signed=True),
    "BBQ bias, disambiguated": Metric("points", 0, "BBQ's bias score in disambiguated ones, s_DIS, %", signed=True),
    "gap": Metric("percent", 0, "|P(d1) − P(d2)|"),
    "log gap": Metric("percent", 0, "|log P(d1) − log P(d2)|, nats"),
    "pairs": Metric("nats", 0, "log P(stereotyping sentence) − log P(other) of minimal pairs, nats"),
    "pairs preferred": Metric("points", 50, "minimal pairs whose stereotyping sentence is likelier, %"),
    "panda": Metric("percent", 0, "|log P(original) − log P(rewrite)| of PANDA's pairs, nats"),
    "perplexity": Metric("percent", 0, "perplexity"),
    "knowledge": Metric("points", 100, "sentences whose right word is likelier than the wrong one, %"),
    "biased outputs": Metric("points", 0, "biased outputs, %"),
    "mass difference": Metric("points", 0, "mass difference, points"),
}


@dataclass(frozen=True)
class Row:
    """A treatment that was measured."""

    name: str  # by which estimates name it
    title: str  # as it is printed
    size: int = 0  # how many neurons are suppressed, or how many parameters were trained
    treatments: Sequence[Mapping[str, Any]] = ({},)  # facts of one, or of one a seed: see Treatment.facts
    like: str | None = None  # of random controls, the row whose neurons' layers they share
    seconds: float = 0.0  # that finding the neurons or the training took


@dataclass(frozen=True)
class Findings:
    """What a command found."""

    command: str
    model: str  # its name
    settings: Mapping[str, Any]  # of the command
    facts: Mapping[str, Any] = field(default_factory=dict)  # besides: how many clusters were judged, and so on
    rows: Sequence[Row] = ()  # the untouched model first
    estimates: Mapping[tuple[str, str, str], Estimate] = field(default_factory=dict)  # by row, metric and scope
    details: Mapping[str, Any] = field(default_factory=dict)  # no estimates: parts of a comparison, cards, trials

    @property
    def base(self) -> Row:
        """The untouched model."""
        return self.rows[0]

    @property
    def rule(self) -> str:
        """What a title or caption adds where a causal model's sentences were not scored by the default rule."""
        authors = self.settings.get("bos") == "authors"
        return " Causal sentences by the authors' rule (bos: authors)." if authors else ""

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
        """Return a line for each estimate, of some metrics or all: the form in files; an unknown number is None."""
        wanted = None if metrics is None else set(metrics)
        return [
            {"row": row, "metric": metric, "scope": scope, "unit": METRICS[metric].unit, **_flat(estimate)}
            for (row, metric, scope), estimate in self.estimates.items()
            if wanted is None or metric in wanted
        ]

    def save(self, folder: Path, name: str | None = None) -> Path:
        """Write the file, named as the command's by default, into a folder, all of it or nothing; return its path."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        parts |= {"rows": [asdict(row) for row in self.rows], "estimates": self.lines()}
        path = folder / (name or FILES[self.command])
        text = json.dumps({"schema": SCHEMA, **parts}, indent=1, ensure_ascii=False, default=_plain)
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
            schema = content.get("schema") if isinstance(content, dict) else None
            if schema == SCHEMA:
                parts = {field.name: content[field.name] for field in fields(cls)}
                lines = {(line["row"], line["metric"], line["scope"]): _estimate(line) for line in parts["estimates"]}
                return cls(**parts | {"rows": [Row(**row) for row in parts["rows"]], "estimates": lines})
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            fault = "lacks a part" if isinstance(error, KeyError | TypeError) else "can't be read"
            raise InputError(
                f"`runs` is expected to hold whole files, but {path} {fault}: {error}. Run its command again."
            ) from error
        raise InputError(
            f"`runs` is expected to hold results of this version of biaslab (schema {SCHEMA}), but {path} has "
            f"schema {schema}. Run its command again."
        )


def gap_rows(findings: Findings) -> tuple[str, str, str]:
    """Return the rows of debias that its gaps are told of: suppressed, amplified, random ("" where there is none)."""
    suppressed = findings.rows[1]
    control = findings.control(suppressed.name)
    amplified = (row.name for row in findings.rows if any(each.get("factor", 0) > 1 for each in row.treatments))
    return suppressed.name, next(amplified, ""), "" if control is None else control.name


# the names in files of an estimate's figure, change, and change beyond random
_KEYS = [[f"{prefix}{key}" for key in Interval._fields] for prefix in ("", "change_", "beyond_random_")]


def _flat(estimate: Estimate) -> dict[str, Any]:
    line: dict[str, Any] = {}
    for keys, part in zip(_KEYS, (estimate.figure, estimate.change, estimate.beyond_random), strict=True):
        line |= dict(zip(keys, part or [None] * 3, strict=True))
    line["spread"] = estimate.spread
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in line.items()}


def _estimate(line: Mapping[str, Any]) -> Estimate:
    parts = ([math.nan if line[key] is None else line[key] for key in keys] for keys in _KEYS)
    figure, change, beyond = (Interval(*part) for part in parts)
    return Estimate(figure, change, line["spread"], None if line["beyond_random_value"] is None else beyond)


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
