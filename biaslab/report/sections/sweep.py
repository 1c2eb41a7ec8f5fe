"""The chapter of a sweep: the settings that were tried, and the chosen one on data that it was not chosen on."""

from collections.abc import Mapping
from typing import Any

from biaslab.report.plots.stereoset import sweep_settings, trial_dot
from biaslab.report.plots.style import Drawing
from biaslab.report.runs import Run
from biaslab.report.sections import shared
from biaslab.report.sections.shared import Cell, Chapter, Section, Table
from biaslab.report.words import number

_COLUMNS = ("factor", "positions", "neurons", "SS", "LMS", "ICAT", "perplexity")


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
    sections = [held_out, _tried(findings.details)]
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
    rows = [(trial["selection"], [Cell(_short(trial[column])) for column in _COLUMNS]) for trial in trials]
    table = Table("grid", "All settings, judged where the choice was made", ["selection", *_COLUMNS], rows)
    return Section("tried", "Settings that were tried", (), [drawing], folded=[table])


def _short(value: Any) -> str:
    """Return a value of a trial with one digit after the point.

    >>> _short(52.92957), _short(184), _short("all"), _short(None)
    ('52.9', '184', 'all', '')
    """
    return number(value) if isinstance(value, float) else "" if value is None else str(value)
