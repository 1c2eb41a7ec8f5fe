"""Results of a command: estimates for rows × scopes × metrics, and the JSON format they are stored in."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from biaslab.errors import InputError
from biaslab.evaluation.benchmarks import BENCHMARKS, Metric
from biaslab.evaluation.benchmarks import PAIRS_LOG_RATIO as PAIRS_LOG_RATIO
from biaslab.statistics import OVERALL as OVERALL
from biaslab.statistics import Estimate, Interval
from biaslab.store import write_atomically

SCHEMA = 1
FILES = {  # file name of each command's findings
    "debias": "results.json",
    "table": "table.json",
    "sweep": "sweep.json",
    "side-effects": "side_effects.json",
    "probe": "probe.json",
    "compare": "comparison.json",
    "cards": "cards.json",
} | {name: f"{name.replace('-', '_')}.json" for name in BENCHMARKS}


SS_LOG_RATIO = "SS log-ratio"


METRICS = {
    "SS": Metric("points", 50, "stereotype score, %"),
    SS_LOG_RATIO: Metric("nats", 0, "mean of log P(stereotype) − log P(anti-stereotype), nats"),
    "LMS": Metric("points", 100, "language modelling score, %"),
    "ICAT": Metric("points", 100, "idealized CAT score, %"),
    "stereotype": Metric("points", 50, "CrowS-Pairs score of the stereotyping pairs, %"),
    "anti-stereotype": Metric("points", 50, "CrowS-Pairs score of the anti-stereotyping pairs, %"),
    "gap": Metric("percent", 0, "|P(d1) − P(d2)|"),
    "log gap": Metric("percent", 0, "|log P(d1) − log P(d2)|, nats"),
    "pairs": Metric("nats", 0, "log P(stereotyping sentence) − log P(other) of minimal pairs, nats"),
    "pairs preferred": Metric("points", 50, "minimal pairs whose stereotyping sentence is likelier, %"),
    "panda": Metric("percent", 0, "|log P(original) − log P(rewrite)| of PANDA pairs, nats"),
    "perplexity": Metric("percent", 0, "perplexity"),
    "knowledge": Metric("points", 100, "sentences whose correct word is likelier than the wrong one, %"),
    "biased outputs": Metric("points", 0, "biased outputs, %"),
    "mass difference": Metric("points", 0, "mass difference, points"),
} | {name: metric for benchmark in BENCHMARKS.values() for name, metric in benchmark.metrics.items()}


@dataclass(frozen=True)
class Row:
    """A measured treatment.

    Attributes:
        name: key in the estimates.
        title: printed name.
        size: number of suppressed neurons, or of trained parameters.
        treatments: facts of the treatment, or of one per seed; see
            :meth:`biaslab.evaluation.treatment.Treatment.facts`.
        like: for random controls, the row whose distribution over layers they share.
        seconds: time to find the neurons or to train.
    """

    name: str
    title: str
    size: int = 0
    treatments: Sequence[Mapping[str, Any]] = ({},)
    like: str | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Findings:
    """The results of a command.

    Attributes:
        command: name of the command.
        model: name of the model.
        settings: settings of the command.
        facts: other facts, such as the number of clusters.
        rows: measured treatments, the untouched model first.
        estimates: estimates by (row, metric, scope).
        details: other results: comparisons, cards, trials.
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

    @property
    def rule(self) -> str:
        """Note for titles and captions if causal sentences were not scored by the default rule; else empty."""
        authors = self.settings.get("bos") == "authors"
        return " Causal sentences by the authors' rule (bos: authors)." if authors else ""

    def row(self, name: str) -> Row:
        """Return the row with this name."""
        return next(row for row in self.rows if row.name == name)

    def control(self, name: str) -> Row | None:
        """Return the random control of a row; None if there is none."""
        return next((row for row in self.rows if row.like == name), None)

    def get(self, row: str, metric: str, scope: str = OVERALL) -> Estimate | None:
        """Return an estimate; None if it was not measured."""
        return self.estimates.get((row, metric, scope))

    def scopes(self, metric: str) -> list[str]:
        """Return the scopes in which a metric was measured, "overall" first."""
        return list(dict.fromkeys(scope for _, name, scope in self.estimates if name == metric))

    def rows_of(self, metric: str) -> list[Row]:
        """Return the rows for which a metric was measured."""
        measured = {row for row, name, _ in self.estimates if name == metric}
        return [row for row in self.rows if row.name in measured]

    def by_benchmark(self) -> dict[str, list[str]]:
        """Return the measured metrics of each benchmark that has its own table."""
        found = {name: [m for m in each.metrics if self.rows_of(m)] for name, each in BENCHMARKS.items()}
        return {name: metrics for name, metrics in found.items() if metrics}

    def lines(self, metrics: Iterable[str] | None = None) -> list[dict[str, Any]]:
        """Return one dictionary per estimate, of some metrics or all, as stored in files; unknown numbers are None."""
        wanted = None if metrics is None else set(metrics)
        return [
            {"row": row, "metric": metric, "scope": scope, "unit": METRICS[metric].unit, **_flat(estimate)}
            for (row, metric, scope), estimate in self.estimates.items()
            if wanted is None or metric in wanted
        ]

    def save(self, folder: Path, name: str | None = None) -> Path:
        """Write the findings to a folder atomically; return the path. The default name is that of the command."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        parts |= {"rows": [asdict(row) for row in self.rows], "estimates": self.lines()}
        path = folder / (name or FILES[self.command])
        text = json.dumps({"schema": SCHEMA, **parts}, indent=1, ensure_ascii=False, default=_plain)
        write_atomically(path, (text + "\n").encode())
        return path

    @classmethod
    def load(cls, path: Path) -> Findings:
        """Read a file written by :meth:`save`.

        Raises:
            InputError: if the file can't be read, is incomplete, or was written by an incompatible version of biaslab.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            schema = content.get("schema") if isinstance(content, dict) else None
            if schema == SCHEMA:
                parts = {field.name: content[field.name] for field in fields(cls)}
                lines = {(line["row"], line["metric"], line["scope"]): _estimate(line) for line in parts["estimates"]}
                return cls(**parts | {"rows": [Row(**row) for row in parts["rows"]], "estimates": lines})
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            fault = "is incomplete" if isinstance(error, KeyError | TypeError) else "can't be read"
            raise InputError(
                f"`runs` is expected to hold complete result files, but {path} {fault}: {error}. Run its command again."
            ) from error
        raise InputError(
            f"`runs` is expected to hold results of this version of biaslab (schema {SCHEMA}), but {path} has "
            f"schema {schema}. Run its command again."
        )


def gap_rows(findings: Findings) -> tuple[str, str, str]:
    """Return the rows shown for the gaps of debias: suppressed, amplified and random ("" if missing)."""
    suppressed = findings.rows[1]
    control = findings.control(suppressed.name)
    amplified = (row.name for row in findings.rows if any(each.get("factor", 0) > 1 for each in row.treatments))
    return suppressed.name, next(amplified, ""), "" if control is None else control.name


# names in files of an estimate's value, change, and change beyond random
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
    """Convert a value that JSON can't represent."""
    return list(value) if isinstance(value, Sequence) else str(value)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the same keys and a header line atomically; None becomes an empty cell."""
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path, buffer.getvalue().encode())
