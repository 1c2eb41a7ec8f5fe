"""The chapter of a sweep: the settings that were tried, and the chosen one on data that it was not chosen on."""

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
    """Return what a sweep found."""
    findings = run.findings["sweep"]
    trials, chosen = findings.details["trials"], findings.details["chosen"]
    question = (
        f"Which of {number(len(trials) - 1, 0)} ways to choose and suppress neurons of {findings.model} serves best? "
        f"Chosen on StereoSet's test split: {chosen['selection']}, ×{chosen['factor']:g}, {chosen['neurons']} neurons. "
        "The figures are of data that it was not chosen on."
    )
    held_out = shared.stereoset_section(findings, "On data that it was not chosen on", "StereoSet dev")
    tables = [*held_out.tables, shared.cost_table(findings, "Perplexity, and its change")]
    held_out = held_out._replace(tables=tables, folded=[shared.domain_table(findings, "icat-domains", "ICAT")])
    sections = [held_out, *shared.benchmark_sections(findings), _tried(findings.details)]
    sentences = shared.answer(findings, "on ordinary sentences")
    return Chapter(f"Sweep of {findings.model}", question, sentences, sections, tiles=shared.tiles(findings))


def _tried(details: Mapping[str, Any]) -> Section:
    """Return the settings that were tried, where the choice was made."""
    trials = details["trials"]
    base, *dots, chosen = (trial_dot(trial, trials[0]["perplexity"]) for trial in (*trials, details["chosen"]))
    icat, lms = [dot.icat for dot in dots], [dot.lms for dot in dots]
    gist = (
        f"ICAT from {number(min(icat))} to {number(max(icat))}, LMS from {number(min(lms))} to {number(max(lms))}; "
        f"untouched: ICAT {number(base.icat)}, LMS {number(base.lms)}; chosen: ICAT {number(chosen.icat)}, LMS "
        f"{number(chosen.lms)}."
    )
    caption = "All settings: ICAT against LMS where the choice was made"
    drawing = Drawing("settings-tried", caption, gist, sweep_settings, [base, dots, chosen])
    columns = [column for column in _COLUMNS if column in trials[0]]  # earlier versions wrote no log-ratio
    rows = [(trial["selection"], [Cell(_text(trial, column)) for column in columns]) for trial in trials]
    table = Table("grid", "All settings, judged where the choice was made", ["selection", *columns], rows)
    return Section("tried", "Settings that were tried", (), [drawing], folded=[table])


def _text(trial: Mapping[str, Any], column: str) -> str:
    """Return a value of a trial as it is printed.

    >>> trial = {"SS": 52.92957, "SS log-ratio": 0.12345, "neurons": 184, "positions": "all", "factor": None}
    >>> [_text(trial, column) for column in trial]
    ['52.9', '0.123', '184', 'all', '']
    """
    value = trial[column]
    if isinstance(value, float):
        return number(value, LOG_RATIO_DIGITS if column == SS_LOG_RATIO else 1)
    return "" if value is None else str(value)
