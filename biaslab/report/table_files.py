"""The results table: on the terminal, as CSV, JSON, Markdown and LaTeX."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from biaslab.commands.treatments import BASE_ROW
from biaslab.evaluation.findings_old import (
    Estimate,
    Estimates,
    cell,
    estimates,
    new_table,
    perplexities,
    signed,
    write_csv,
)
from biaslab.evaluation.judging import Judged
from biaslab.metrics.stereoset import NAMES
from biaslab.report.paper import PaperRow, paper_rows
from biaslab.statistics import Interval
from biaslab.store import write_atomically

_LATEX = {"%": r"\%", "&": r"\&", "_": r"\_", "#": r"\#", "±": r"$\pm$", "×": r"$\times$"}


class Row(NamedTuple):
    """A row that was judged.

    Attributes:
        title: as it is printed.
        size: how many neurons are suppressed, or how many parameters were trained.
        seconds: that finding the neurons or the training took.
        judged: once, or once a seed.
    """

    title: str
    size: int
    seconds: float
    judged: Sequence[Judged]


class Results:
    """The rows of a model, compared with the untouched one.

    Args:
        model_name: of the model.
        rows: by key, ``base`` among them.
        left_out: why a row is not there, by key.
        settings: of the command, to be written beside the figures.
    """

    def __init__(
        self, model_name: str, rows: Mapping[str, Row], left_out: Mapping[str, str], settings: Mapping[str, Any]
    ) -> None:
        self.model_name, self.rows, self.left_out, self.settings = model_name, rows, left_out, settings
        self.estimates: Estimates = estimates(
            {key: [j.evaluation for j in row.judged] for key, row in rows.items()}, BASE_ROW
        )
        self.perplexities = perplexities({k: [j.likelihoods for j in row.judged] for k, row in rows.items()}, BASE_ROW)
        self.paper_model, self.paper = paper_rows(model_name)

    def write(self, folder: Path) -> None:
        """Write table.csv, table.json, table.md and table.tex into a folder."""
        content = {
            "model": self.model_name,
            "settings": {k: list(v) if isinstance(v, tuple) else v for k, v in self.settings.items()},
            "rows": {key: self._facts(key) for key in self.rows},
            "left_out": self.left_out,
            "paper": {"model": self.paper_model, "rows": {key: row._asdict() for key, row in self.paper.items()}},
        }
        texts = {"json": json.dumps(content, indent=1) + "\n", "md": self.markdown(), "tex": self.latex()}
        for suffix, text in texts.items():
            write_atomically(folder / f"table.{suffix}", text.encode())
        write_csv(folder / "table.csv", list(self._flat()))

    def _facts(self, key: str) -> dict[str, Any]:
        row = self.rows[key]
        figures = {
            scope: {name: estimate.plain() for name, estimate in of_scope.items()}
            for scope, of_scope in self.estimates[key].items()
        }
        facts = {"title": row.title, "size": row.size, "seconds": row.seconds, "seeds": len(row.judged)}
        return facts | {"stereoset": figures, "perplexity": self.perplexities[key]}

    def _flat(self) -> Iterator[dict[str, Any]]:
        """Yield a line a row, scope and metric; the pseudo-perplexity has the scope "text"."""
        for key, row in self.rows.items():
            facts = {"row": key, "size": row.size, "seconds": row.seconds}
            for scope, of_scope in self.estimates[key].items():
                for name, e in of_scope.items():
                    paper = self._paper_figure(key, name) if scope == "overall" else None
                    yield facts | {"scope": scope, "metric": name} | _line(e.figure, e.spread, e.change, paper)
            found = self.perplexities[key]
            figure = Interval(found["value"], float("nan"), float("nan"))
            change = Interval(**found["change_percent"])
            yield facts | {"scope": "text", "metric": "perplexity"} | _line(figure, found["spread"], change, None)

    def _paper_figure(self, key: str, metric: str) -> float | None:
        row = self.paper.get(key)
        return None if row is None else PaperRow._asdict(row)[metric.lower()]

    def print(self, console: Console) -> None:
        """Print the tables, at most 80 columns wide."""
        clusters = len(self.rows[BASE_ROW].judged[0].evaluation.scores)
        table = new_table(f"StereoSet, {clusters} clusters: value [95 %], change [95 %]", "", *NAMES)
        for key, row in self.rows.items():
            cells = [cell(self.estimates[key]["overall"][name], with_change=key != BASE_ROW) for name in NAMES]
            table.add_row(row.title, *cells)
        console.print(table)
        self._print_costs(console)
        self._print_domains(console)
        for key, why in self.left_out.items():
            console.print(f"left out {key}: {why}", markup=False)

    def _print_costs(self, console: Console) -> None:
        title = f"""Cost: neurons or trained parameters, seconds to find or train, perplexity;
and the paper's figures for {self.paper_model}: ICAT, and its change"""
        table = new_table(title, "", "size", "s", "perplexity", "change, % [95 %]", "ICAT", "change")
        for key, row in self.rows.items():
            found, paper = self.perplexities[key], self._paper_cells(key)
            change = "" if key == BASE_ROW else signed(Interval(**found["change_percent"]))
            table.add_row(row.title, _short(row.size), f"{row.seconds:.0f}", f"{found['value']:.1f}", change, *paper)
        console.print(table)

    def _paper_cells(self, key: str) -> tuple[str, str]:
        if key not in self.paper:
            return "", ""
        change = self.paper[key].icat - self.paper[BASE_ROW].icat
        return f"{self.paper[key].icat:.1f}", "" if key == BASE_ROW else f"{change:+.1f}"

    def _print_domains(self, console: Console) -> None:
        scopes = list(self.estimates[BASE_ROW])[1:]
        table = new_table("ICAT by domain, and its change", "", *scopes)
        for key, row in self.rows.items():
            table.add_row(row.title, *(_domain_cell(self.estimates[key][scope]["ICAT"], key) for scope in scopes))
        console.print(table)

    def markdown(self) -> str:
        """Return the table as Markdown."""
        header, rows = self._cells()
        lines = [header, ["---"] * len(header), *rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{self._caption()}\n"

    def latex(self) -> str:
        """Return the table as LaTeX; it needs the package booktabs."""
        header, rows = self._cells()
        body = [" & ".join(map(_escaped, line)) + r" \\" for line in (header, *rows)]
        columns = "l" + "r" * (len(header) - 1)
        lines = [f"% {self._caption()}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule", body[0], r"\midrule"]
        return "\n".join([*lines, *body[1:], r"\bottomrule", r"\end{tabular}"]) + "\n"

    def _cells(self) -> tuple[list[str], list[list[str]]]:
        domains = list(self.estimates[BASE_ROW])[1:]
        names = ["", "size", "s", *NAMES, "ICAT change", *(f"ICAT {d}" for d in domains), "perplexity", "change, %"]
        rows = []
        for key, row in self.rows.items():
            overall, found = self.estimates[key]["overall"], self.perplexities[key]
            figures = [cell(overall[name]).replace("\n", " ") for name in NAMES]
            other = key != BASE_ROW
            change = signed(overall["ICAT"].change) if other else ""
            by_domain = [f"{self.estimates[key][domain]['ICAT'].figure.value:.1f}" for domain in domains]
            text = [f"{found['value']:.1f}", signed(Interval(**found["change_percent"])) if other else ""]
            paper = "/".join(f"{value:.1f}" for value in self.paper.get(key, ()))
            start = [row.title, f"{row.size:,}", f"{row.seconds:.0f}"]
            rows.append([*start, *figures, change, *by_domain, *text, paper])
        return [*names, f"paper, {self.paper_model}: SS/LMS/ICAT"], rows

    def _caption(self) -> str:
        clusters = len(self.rows[BASE_ROW].judged[0].evaluation.scores)
        sentences = len(self.rows[BASE_ROW].judged[0].likelihoods)
        return (
            f"{self.model_name}, preset {self.settings['preset']}; StereoSet, {clusters} clusters, macro over target "
            f"terms, 95 % bootstrap intervals over terms, changes paired; perplexity on {sentences} sentences of "
            f"{self.settings['text']}; random rows are means of {self.settings['seeds']} seeds."
        )


def _line(figure: Interval, spread: float | None, change: Interval, paper: float | None) -> dict[str, Any]:
    value = {"value": figure.value, "low": figure.low, "high": figure.high, "spread": spread}
    return value | {f"change_{key}": number for key, number in change._asdict().items()} | {"paper": paper}


def _domain_cell(estimate: Estimate, key: str) -> str:
    change = "" if key == BASE_ROW else f" {estimate.change.value:+.1f}"
    return f"{estimate.figure.value:.1f}{change}"


def _short(count: int) -> str:
    """Return a number of at most five characters.

    >>> [_short(n) for n in (0, 184, 99999, 22_700_000, 109_000_000)]
    ['0', '184', '99999', '22.7M', '109M']
    """
    return str(count) if count < 100_000 else f"{count / 1e6:.3g}M"


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)
