"""The chapter of a sweep: the settings tried, and the chosen one on held-out data."""

from collections.abc import Mapping
from typing import Any

from biaslab.evaluation.findings import SS_LOG_RATIO
from biaslab.report.plots.stereoset import sweep_settings, trial_dot
from biaslab.report.plots.style import Drawing
from biaslab.report.runs import Run
from biaslab.report.sections import shared
from biaslab.report.sections.shared import Cell, Chapter, Section, Table
from biaslab.report.tables import LOG_RATIO_DIGITS
from biaslab.report.words import number

_COLUMNS = ("factor", "positions", "neurons", "SS", SS_LOG_RATIO, "LMS", "ICAT", "perplexity")


def chapter(run: Run) -> Chapter:
    """Return the chapter of a sweep."""
    findings = run.findings["sweep"]
    trials, chosen = findings.details["trials"], findings.details["chosen"]
    question = (
        f"Which of {number(len(trials) - 1, 0)} ways to select and suppress neurons of {findings.model} is best? "
        f"Chosen on StereoSet's test split: {chosen['selection']}, ×{chosen['factor']:g}, {chosen['neurons']} neurons. "
        "The results are for data that was not used for this choice."
    )
    held_out = shared.stereoset_section(findings, "Held-out results", "StereoSet dev")
    tables = [*held_out.tables, shared.cost_table(findings, "Perplexity and its change")]
    held_out = held_out._replace(tables=tables, folded=[shared.domain_table(findings, "icat-domains", "ICAT")])
    sections = [held_out, *shared.benchmark_sections(findings), _tried(findings.details)]
    sentences = shared.answer(findings, "on ordinary sentences")
    return Chapter(f"Sweep of {findings.model}", question, sentences, sections, tiles=shared.tiles(findings))


def _tried(details: Mapping[str, Any]) -> Section:
    """Return the section of all settings, on the data used for the choice."""
    trials = details["trials"]
    base, *dots, chosen = (trial_dot(trial, trials[0]["perplexity"]) for trial in (*trials, details["chosen"]))
    icat, lms = [dot.icat for dot in dots], [dot.lms for dot in dots]
    gist = (
        f"ICAT from {number(min(icat))} to {number(max(icat))}, LMS from {number(min(lms))} to {number(max(lms))}; "
        f"untouched: ICAT {number(base.icat)}, LMS {number(base.lms)}; chosen: ICAT {number(chosen.icat)}, LMS "
        f"{number(chosen.lms)}."
    )
    caption = "All settings: ICAT against LMS on the data used for the choice"
    drawing = Drawing("settings-tried", caption, gist, sweep_settings, [base, dots, chosen])
    columns = [column for column in _COLUMNS if column in trials[0]]  # no log-ratio in earlier versions
    rows = [(trial["selection"], [Cell(_text(trial, column)) for column in columns]) for trial in trials]
    table = Table("grid", "All settings on the data used for the choice", ["selection", *columns], rows)
    return Section("tried", "Settings tried", (), [drawing], folded=[table])


def _text(trial: Mapping[str, Any], column: str) -> str:
    """Return a value of a trial, formatted.

    >>> trial = {"SS": 52.92957, "SS log-ratio": 0.12345, "neurons": 184, "positions": "all", "factor": None}
    >>> [_text(trial, column) for column in trial]
    ['52.9', '0.123', '184', 'all', '']
    """
    value = trial[column]
    if isinstance(value, float):
        return number(value, LOG_RATIO_DIGITS if column == SS_LOG_RATIO else 1)
    return "" if value is None else str(value)
