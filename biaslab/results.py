"""What a run found: estimates with intervals, and their way to the terminal, to files and to TensorBoard."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from torch import Tensor

from biaslab.metrics.stereoset import (
    NAMES,
    Interval,
    bootstrap,
    idealized_cat,
    language_modeling_score,
    stereotype_score,
)
from biaslab.neurons import NeuronSet
from biaslab.tasks.evaluation import Evaluation
from biaslab.verification import Gaps, perplexity, perplexity_change

BASE = "untouched"


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


Estimates = dict[str, dict[str, dict[str, Estimate]]]  # row -> scope -> metric


def estimates(evaluations: Mapping[str, Sequence[Evaluation]]) -> Estimates:
    """Return each row's figures by scope, from its evaluations (one, or one a seed); ``BASE`` is among the rows."""
    base = evaluations[BASE]
    return {
        name: {scope: _estimate(base, runs, scope) for scope in base[0].scopes()} for name, runs in evaluations.items()
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


class Outcome(NamedTuple):
    """All that ``biaslab debias`` found.

    Attributes:
        rows: how each row is called, and its number of neurons.
        estimates: of StereoSet.
        pairs: names of the held-out pairs.
        gaps: "untouched" in absolute terms; "suppressed", "amplified" and "random" (one a seed) as changes in percent.
        likelihoods: of the sentences, by row, one a set.
        neurons: the bias neurons.
        facts: numbers and names besides.
    """

    rows: dict[str, int]
    estimates: Estimates
    pairs: list[str]
    gaps: dict[str, list[Gaps]]
    likelihoods: dict[str, list[Tensor]]
    neurons: NeuronSet
    facts: dict[str, Any]

    def perplexities(self) -> dict[str, dict[str, Any]]:
        """Return each row's perplexity, its change in percent with the 95 % interval, and the spread over seeds."""
        base = self.likelihoods[BASE][0]
        found = {}
        for row, runs in self.likelihoods.items():
            changes = [perplexity_change(base, run) for run in runs]
            mean = Interval(*(statistics.fmean(column) for column in zip(*changes, strict=True)))
            values = [perplexity(run) for run in runs]
            spread = statistics.stdev(values) if len(values) > 1 else None
            found[row] = {"value": statistics.fmean(values), "change_percent": mean._asdict(), "spread": spread}
        return found

    def gap_rows(self) -> Iterator[dict[str, Any]]:
        """Yield a row a pair, and last their mean: gaps, and changes when suppressed, amplified, random."""
        for index, pair in enumerate([*self.pairs, "mean of the pairs"]):
            place = slice(None) if index == len(self.pairs) else slice(index, index + 1)
            row: dict[str, Any] = {"pair": pair}
            for field in Gaps._fields:
                of = {name: [float(getattr(g, field)[place].mean()) for g in gaps] for name, gaps in self.gaps.items()}
                row |= {
                    f"{field}_gap": of["untouched"][0],
                    f"{field}_suppressed_percent": of["suppressed"][0],
                    f"{field}_amplified_percent": of["amplified"][0],
                    f"{field}_random_percent": statistics.fmean(of["random"]),
                    f"{field}_random_spread": statistics.stdev(of["random"]) if len(of["random"]) > 1 else 0.0,
                }
            yield row

    def write(self, folder: Path) -> None:
        """Write results.json, table.csv and gaps.csv."""
        content = {
            "facts": self.facts,
            "neurons": {"count": len(self.neurons), "by_layer": self.neurons.layers()},
            "stereoset": {
                row: {
                    scope: {
                        name: {"figure": e.figure._asdict(), "change": e.change._asdict(), "spread": e.spread}
                        for name, e in of_scope.items()
                    }
                    for scope, of_scope in of_row.items()
                }
                for row, of_row in self.estimates.items()
            },
            "gaps": list(self.gap_rows()),
            "perplexity": self.perplexities(),
        }
        (folder / "results.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        _write_csv(folder / "table.csv", list(self._flat()))
        _write_csv(folder / "gaps.csv", list(self.gap_rows()))

    def _flat(self) -> Iterator[dict[str, Any]]:
        for row, of_row in self.estimates.items():
            for scope, of_scope in of_row.items():
                for name, e in of_scope.items():
                    figure = {"value": e.figure.value, "low": e.figure.low, "high": e.figure.high, "spread": e.spread}
                    change = {f"change_{key}": value for key, value in e.change._asdict().items()}
                    yield {"row": row, "neurons": self.rows[row], "scope": scope, "metric": name} | figure | change

    def log(self, writer: Any) -> None:
        """Write scalars to TensorBoard, beside those of the attribution pass."""
        for row, of_row in self.estimates.items():
            for scope, of_scope in of_row.items():
                for name, estimate in of_scope.items():
                    writer.add_scalar(f"{name}/{scope}/{row}", estimate.figure.value)
        for field, values in list(self.gap_rows())[-1].items():
            if field.endswith("_percent"):
                writer.add_scalar(f"gap/{field}", values)
        for row, of_row in self.perplexities().items():
            writer.add_scalar(f"perplexity/{row}", of_row["value"])

    def print(self, console: Console) -> None:
        """Print the tables, at most 80 columns wide."""
        console.print(self._stereoset_table())
        console.print(self._domain_table())
        console.print(self._perplexity_table())
        console.print(self._gap_table())
        layers = ", ".join(f"{layer}: {count}" for layer, count in self.neurons.layers().items())
        console.print(f"\n{len(self.neurons)} neurons; by layer {layers}.\n{self.facts['attribution']}.")
        for pair, why in self.facts["dropped"].items():
            console.print(f"dropped {pair}: {why}", markup=False)

    def _stereoset_table(self) -> Table:
        table = _table(
            f"StereoSet dev, {self.facts['clusters']} clusters: value [95 %], change [95 %]", "", "n", *NAMES
        )
        for row, of_row in self.estimates.items():
            cells = [_cell(of_row["overall"][name], with_change=row != BASE) for name in NAMES]
            table.add_row(row, str(self.rows[row]), *cells)
        return table

    def _domain_table(self) -> Table:
        table = _table("By domain: value [95 %]", "", *NAMES)
        for scope in list(self.estimates[BASE])[1:]:
            table.add_row(scope)
            for row, of_row in self.estimates.items():
                table.add_row(f"  {row}", *(_cell(of_row[scope][name]) for name in NAMES))
        return table

    def _perplexity_table(self) -> Table:
        table = _table(
            f"Perplexity on {self.facts['sentences']} ordinary sentences", "", "value", "change, percent [95 %]"
        )
        for row, of_row in self.perplexities().items():
            change = Interval(**of_row["change_percent"])
            table.add_row(row, f"{of_row['value']:.2f}", "" if row == BASE else _signed(change))
        return table

    def _gap_table(self) -> Table:
        prompts = self.facts["held_out_prompts"]
        title = f"""Gap on {prompts} held-out prompts: |P(d1) - P(d2)| and |log P(d1) - log P(d2)|,
and the change in percent when the neurons are suppressed (×0), amplified (×2),
and when random ones are suppressed"""
        table = _table(title, "pair", "gap", "×0", "×2", "random", "log", "×0", "×2", "rand.")
        for row in self.gap_rows():
            cells = []
            for field, digits in (("probability", 4), ("log_probability", 2)):
                changes = [f"{row[f'{field}_{how}_percent']:+.0f}" for how in ("suppressed", "amplified")]
                cells += [f"{row[f'{field}_gap']:.{digits}f}", *changes, f"{row[f'{field}_random_percent']:+.0f}"]
            cells[3] += f"±{row['probability_random_spread']:.0f}"  # the other spread has no room: see gaps.csv
            table.add_row(row["pair"], *cells)
        return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=f"\n{title}", title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.pad_edge = table.show_edge = False
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    return table


def _cell(estimate: Estimate, with_change: bool = False) -> str:
    value = f"{estimate.figure.value:.1f} [{estimate.figure.low:.1f}, {estimate.figure.high:.1f}]"
    spread = "" if estimate.spread is None else f"\n± {estimate.spread:.1f} over seeds"
    return value + (f"\n{_signed(estimate.change)}{spread}" if with_change else "")


def _signed(change: Interval) -> str:
    return f"{change.value:+.1f} [{change.low:+.1f}, {change.high:+.1f}]"


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
