"""What a sweep found: on the terminal, in files, and as a picture of ICAT against LMS."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from biaslab.commands.trials import Trial
from biaslab.evaluation.findings_old import BASE, Estimates, cell, estimates, new_table, perplexities, signed, write_csv
from biaslab.evaluation.judging import Judged
from biaslab.metrics.stereoset import NAMES
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.report.plots.stereoset import Dot, sweep_settings
from biaslab.report.plots.style import save
from biaslab.statistics import Interval
from biaslab.store import write_atomically

CHOSEN = "chosen"
_SHOWN = 15  # settings on the terminal, the best ones; all are in sweep.csv


class Outcome(NamedTuple):
    """All that a sweep found.

    Attributes:
        base: the untouched model, where settings are chosen.
        trials: of the grid, there.
        chosen: one of them.
        perplexity_percent: how much perplexity might rise.
        held_out: the untouched model, the chosen setting and random controls, judged on what nothing was chosen on.
    """

    base: Trial
    trials: Sequence[Trial]
    chosen: Trial
    perplexity_percent: float
    held_out: Mapping[str, Sequence[Judged]]

    def estimates(self) -> Estimates:
        """Return the held-out figures of StereoSet."""
        return estimates({name: [j.evaluation for j in runs] for name, runs in self.held_out.items()})

    def perplexities(self) -> dict[str, dict[str, Any]]:
        """Return the held-out perplexities."""
        return perplexities({name: [j.likelihoods for j in runs] for name, runs in self.held_out.items()})

    def write(self, folder: Path, neurons: NeuronSet, settings: Mapping[str, Any]) -> None:
        """Write sweep.csv, sweep.json, the picture and the chosen neurons."""
        assert self.chosen.setting is not None
        write_csv(folder / "sweep.csv", [self._line(trial) for trial in [self.base, *self.trials]])
        content = {
            "settings": {key: list(v) if isinstance(v, tuple) else v for key, v in settings.items()},
            "chosen": self._line(self.chosen) | {"fingerprint": neurons.fingerprint},
            "held_out": {
                row: {
                    scope: {
                        name: {"figure": e.figure._asdict(), "change": e.change._asdict()} for name, e in of.items()
                    }
                    for scope, of in scopes.items()
                }
                for row, scopes in self.estimates().items()
            },
            "held_out_perplexity": self.perplexities(),
        }
        write_atomically(folder / "sweep.json", (json.dumps(content, indent=1) + "\n").encode())
        how = {"factor": self.chosen.setting.factor, "positions": self.chosen.setting.positions}
        provenance = dict(neurons.provenance) | {"suppression": how}
        neurons.with_details(neurons.subsets, provenance).save(folder / "neurons.json")
        dots = [self._dot(trial) for trial in self.trials]
        save(sweep_settings(self._dot(self.base), dots, self._dot(self.chosen)), folder / "sweep")

    def _dot(self, trial: Trial) -> Dot:
        factor = 1.0 if trial.setting is None else trial.setting.factor
        return Dot(trial.lms, trial.icat, 100 * (trial.perplexity / self.base.perplexity - 1), factor)

    def _line(self, trial: Trial) -> dict[str, Any]:
        setting = trial.setting
        return {
            "selection": BASE if setting is None else setting.selection,
            "factor": "" if setting is None else setting.factor,
            "positions": "" if setting is None else setting.positions,
            "neurons": trial.neurons,
            "SS": trial.ss,
            "LMS": trial.lms,
            "ICAT": trial.icat,
            "perplexity": trial.perplexity,
            **{f"ICAT {domain}": value for domain, value in trial.domains.items()},
            "keeps": trial.keeps(self.base, self.perplexity_percent),
        }

    def print(self, console: Console) -> None:
        """Print the best settings and the choice's held-out figures, at most 80 columns wide."""
        console.print(self._grid())
        domains = list(self.base.domains)
        console.print(
            f"\nMarked *: LMS and every domain's ICAT kept ({', '.join(domains)}), perplexity at most "
            f"{self.perplexity_percent:g} % higher. {self._choice()}"
        )
        table = new_table("The choice on what it was not chosen on: value [95 %], change [95 %]", "", *NAMES)
        for row, scopes in self.estimates().items():
            table.add_row(row, *(cell(scopes["overall"][name], with_change=row != BASE) for name in NAMES))
        console.print(table)
        table = new_table("ICAT by domain, and perplexity there", "", *domains, "perpl.", "change, %")
        figures, text = self.estimates(), self.perplexities()
        for row, scopes in figures.items():
            change = "" if row == BASE else signed(Interval(**text[row]["change_percent"]))
            by_domain = [f"{scopes[domain]['ICAT'].figure.value:.1f}" for domain in domains if domain in scopes]
            table.add_row(row, *by_domain, f"{text[row]['value']:.1f}", change)
        console.print(table)

    def _grid(self) -> Any:
        title = f"{len(self.trials)} settings, the best {min(_SHOWN, len(self.trials))} by ICAT"
        table = new_table(title, "selection", "×", "n", "SS", "LMS", "ICAT", "perpl.")
        ordered = sorted(
            self.trials, key=lambda t: (t is self.chosen, t.keeps(self.base, self.perplexity_percent), t.icat)
        )
        for trial in [self.base, *ordered[::-1][:_SHOWN]]:
            mark = "*" if trial.setting and trial.keeps(self.base, self.perplexity_percent) else ""
            name = BASE if trial.setting is None else _short(trial.setting.selection, trial.setting.positions)
            factor = "" if trial.setting is None else f"{trial.setting.factor:g}"
            figures = [f"{value:.1f}" for value in (trial.ss, trial.lms, trial.icat, trial.perplexity)]
            table.add_row(mark + name, factor, str(trial.neurons), *figures)
        return table

    def _choice(self) -> str:
        setting = self.chosen.setting
        assert setting is not None
        kept = self.chosen.keeps(self.base, self.perplexity_percent)
        how = "The best of these" if kept else "No setting does; the highest ICAT"
        return f"{how}: {setting.selection}, factor {setting.factor:g}, positions {setting.positions}."


def _short(selection: str, positions: str) -> str:
    """Return a name that leaves room for the figures."""
    name = selection.replace("stereoset", "ss").replace("guarded-", "").replace("profession", "prof")
    name += "" if positions == "all" else f" {positions}"
    return name if len(name) <= 38 else f"{name[:37]}…"
