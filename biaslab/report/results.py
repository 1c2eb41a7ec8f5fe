"""What a run found: estimates with intervals, and their way to the terminal, to files and to TensorBoard."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from torch import Tensor

from biaslab.evaluation.findings_old import (
    BASE,
    Estimates,
    cell,
    new_table,
    perplexities,
    random_row,
    signed,
    write_csv,
)
from biaslab.evaluation.gaps import Gaps, gap_change, mean_change
from biaslab.metrics.stereoset import NAMES
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.report import tensorboard as boards
from biaslab.statistics import Interval

GAPS = {"probability": "|P(d1) - P(d2)|", "log_probability": "|log P(d1) - log P(d2)|"}
TREATMENTS = ("suppressed", "amplified", "random")  # of the gap


class Row(NamedTuple):
    """A way to treat the model.

    Attributes:
        name: as it is printed.
        neurons: one set, or one a seed; none for the untouched model.
        factor: what they are multiplied by.
        like: of random controls, the neurons whose layers they share.
    """

    name: str
    neurons: tuple[NeuronSet, ...] = ()
    factor: float = 0.0
    like: NeuronSet | None = None

    @property
    def size(self) -> int:
        """How many neurons are treated."""
        return len(self.neurons[0]) if self.neurons else 0

    def facts(self) -> dict[str, Any]:
        """Return what tells the treatment from others; sets of neurons by their fingerprints."""
        like = None if self.like is None else self.like.fingerprint
        neurons = [one.fingerprint for one in self.neurons]
        return {"count": self.size, "neurons": neurons, "factor": self.factor, "like": like}


class Outcome(NamedTuple):
    """All that ``biaslab debias`` found.

    Attributes:
        rows: what was done to the model, by the row's name.
        estimates: of StereoSet.
        pairs: names of the held-out pairs.
        gaps: of the model "untouched", "suppressed", "amplified", and with "random" neurons suppressed, one a seed.
        likelihoods: of the sentences, by row, one a set.
        neurons: the bias neurons.
        facts: numbers and names besides.
    """

    rows: dict[str, Row]
    estimates: Estimates
    pairs: list[str]
    gaps: dict[str, list[Gaps]]
    likelihoods: dict[str, list[Tensor]]
    neurons: NeuronSet
    facts: dict[str, Any]

    def perplexities(self) -> dict[str, dict[str, Any]]:
        """Return each row's perplexity, its change in percent with the 95 % interval, and the spread over seeds."""
        return perplexities(self.likelihoods)

    def gap_rows(self) -> Iterator[dict[str, Any]]:
        """Yield a row a pair, and last their mean: gaps, and changes in percent when suppressed, amplified, random."""
        (before,) = self.gaps["untouched"]
        changes = {name: [one.change_from(before) for one in self.gaps[name]] for name in TREATMENTS}
        for index, pair in enumerate([*self.pairs, "mean of the pairs"]):
            place = slice(None) if index == len(self.pairs) else slice(index, index + 1)
            row: dict[str, Any] = {"pair": pair}
            for number, field in enumerate(GAPS):
                row[f"{field}_gap"] = float(before[number][place].nanmean((1, 2)).mean())
                for name, of in changes.items():
                    value, low, high = mean_change([both[number] for both in of]).interval(place)
                    row |= {f"{field}_{name}_percent": value, f"{field}_{name}_low": low, f"{field}_{name}_high": high}
                seeds = [float(both[number].value[place].mean()) for both in changes["random"]]
                row[f"{field}_random_spread"] = statistics.stdev(seeds) if len(seeds) > 1 else 0.0
            yield row

    def write(self, folder: Path) -> None:
        """Write results.json, table.csv and gaps.csv."""
        gaps = list(self.gap_rows())
        content = {
            "facts": self.facts,
            "rows": {name: row.facts() for name, row in self.rows.items()},
            "neurons": {
                "count": len(self.neurons),
                "fingerprint": self.neurons.fingerprint,
                "by_layer": self.neurons.layers(),
            },
            "stereoset": {
                row: {
                    scope: {name: estimate.plain() for name, estimate in of_scope.items()}
                    for scope, of_scope in of_row.items()
                }
                for row, of_row in self.estimates.items()
            },
            "gaps": gaps,
            "perplexity": self.perplexities(),
        }
        (folder / "results.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        write_csv(folder / "table.csv", list(self._flat()))
        write_csv(folder / "gaps.csv", gaps)

    def _flat(self) -> Iterator[dict[str, Any]]:
        for row, of_row in self.estimates.items():
            count = self.rows[row].size
            for scope, of_scope in of_row.items():
                for name, e in of_scope.items():
                    figure = {"value": e.figure.value, "low": e.figure.low, "high": e.figure.high, "spread": e.spread}
                    change = {f"change_{key}": value for key, value in e.change._asdict().items()}
                    yield {"row": row, "neurons": count, "scope": scope, "metric": name} | figure | change

    def log(self, writer: Any, settings: Mapping[str, Any], samples: Mapping[str, Sequence[boards.Sample]]) -> None:
        """Write to TensorBoard, beside what the attribution pass wrote.

        Args:
            writer: of the run's folder.
            settings: of the command.
            samples: the same prompts' answers, "untouched" and "suppressed".
        """
        boards.log_stereoset(
            writer,
            {
                row: {scope: {name: e.figure for name, e in of_scope.items()} for scope, of_scope in of_row.items()}
                for row, of_row in self.estimates.items()
            },
        )
        gaps = list(self.gap_rows())
        boards.log_gaps(writer, gaps)
        perplexities = self.perplexities()
        boards.log_perplexities(writer, {row: of_row["value"] for row, of_row in perplexities.items()})
        boards.log_samples(writer, samples)
        boards.log_settings(writer, settings, self._gist(perplexities, gaps[-1]))

    def _gist(self, perplexities: Mapping[str, Any], gap: Mapping[str, Any]) -> dict[str, float]:
        """Return what runs are compared by: figures of the first row after the untouched one, under the same names."""
        row = next(name for name in self.estimates if name != BASE)
        overall = self.estimates[row]["overall"]
        return {
            "run/ICAT": overall["ICAT"].figure.value,
            "run/ICAT change": overall["ICAT"].change.value,
            "run/SS": overall["SS"].figure.value,
            "run/LMS": overall["LMS"].figure.value,
            "run/LMS change": overall["LMS"].change.value,
            "run/perplexity change, %": perplexities[row]["change_percent"]["value"],
            "run/gap suppressed, %": gap["probability_suppressed_percent"],
            "run/gap amplified, %": gap["probability_amplified_percent"],
            "run/neurons": len(self.neurons),
        }

    def print(self, console: Console) -> None:
        """Print the tables, at most 80 columns wide."""
        console.print(self._stereoset_table())
        console.print(self._domain_table())
        console.print(self._perplexity_table())
        gaps = list(self.gap_rows())
        console.print(self._gap_table(gaps))
        console.print(self._mean_gap_table(gaps[-1]))
        layers = ", ".join(f"{layer}: {count}" for layer, count in self.neurons.layers().items())
        console.print(f"\n{len(self.neurons)} neurons; by layer {layers}.\n{self.facts['attribution']}.")
        for pair, why in self.facts["dropped"].items():
            console.print(f"dropped {pair}: {why}", markup=False)

    def _stereoset_table(self) -> Table:
        table = new_table(
            f"StereoSet dev, {self.facts['clusters']} clusters: value [95 %], change [95 %]", "", "n", *NAMES
        )
        for row, of_row in self.estimates.items():
            cells = [cell(of_row["overall"][name], with_change=row != BASE) for name in NAMES]
            table.add_row(row, str(self.rows[row].size), *cells)
        return table

    def _domain_table(self) -> Table:
        table = new_table("By domain: value [95 %]", "", *NAMES)
        for scope in list(self.estimates[BASE])[1:]:
            table.add_row(scope)
            for row, of_row in self.estimates.items():
                table.add_row(f"  {row}", *(cell(of_row[scope][name]) for name in NAMES))
        return table

    def _perplexity_table(self) -> Table:
        table = new_table(
            f"Perplexity on {self.facts['sentences']} ordinary sentences", "", "value", "change, percent [95 %]"
        )
        for row, of_row in self.perplexities().items():
            change = Interval(**of_row["change_percent"])
            table.add_row(row, f"{of_row['value']:.2f}", "" if row == BASE else signed(change))
        return table

    def _mean_gap_table(self, mean: Mapping[str, Any]) -> Table:
        title = "Mean change of the gap, percent [95 %]"
        table = new_table(title, "", *GAPS.values())
        seeds = len(self.gaps["random"])
        for how, name in zip(TREATMENTS, ("×0", "×2", f"{random_row(seeds)}, ×0"), strict=True):
            table.add_row(name, *(signed(gap_change(mean, field, how), 0) for field in GAPS))
        if seeds > 1:
            table.add_row("", *(f"± {mean[f'{field}_random_spread']:.0f} over seeds" for field in GAPS))
        return table

    def _gap_table(self, rows: Sequence[Mapping[str, Any]]) -> Table:
        prompts = self.facts["held_out_prompts"]
        title = f"""Gap on {prompts} held-out prompts: |P(d1) - P(d2)|, |log P(d1) - log P(d2)|;
changes in percent: neurons suppressed (×0), amplified (×2),
random ones suppressed"""
        table = new_table(title, "pair", "gap", "×0", "×2", "random", "log", "×0", "×2", "rand.")
        shown = ""
        for row in rows:
            dimension, slash, words = row["pair"].partition("/")
            if slash and dimension != shown:
                table.add_row(shown := dimension)
            cells = []
            for field, digits in (("probability", 4), ("log_probability", 2)):
                changes = [f"{row[f'{field}_{how}_percent']:+.0f}" for how in ("suppressed", "amplified")]
                cells += [f"{row[f'{field}_gap']:.{digits}f}", *changes, f"{row[f'{field}_random_percent']:+.0f}"]
            cells[3] += f"±{row['probability_random_spread']:.0f}"  # the other spread has no room: see gaps.csv
            table.add_row(f"  {words}" if slash else dimension, *cells)
        return table
