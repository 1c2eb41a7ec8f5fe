"""The chapter of a sweep: the settings that were tried, and the chosen one on data that it was not chosen on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from biaslab.report.parts import Cell, Chapter, Draw, Section, Table, domain_table
from biaslab.report.plots.stereoset import sweep_settings, trial_dot
from biaslab.report.runs import Run
from biaslab.report.sections.shared import answer, cost_table, stereoset_section, tiles
from biaslab.report.words import number

_COLUMNS = ("factor", "positions", "neurons", "SS", "LMS", "ICAT", "perplexity")


def chapter(run: Run, key: str, draw: Draw) -> Chapter:
    """Return what a sweep found."""
    findings = run.findings["sweep"]
    trials, chosen = findings.details["trials"], findings.details["chosen"]
    question = (
        f"Which of {number(len(trials) - 1, 0)} ways to choose and suppress neurons of {findings.model} serves best? "
        f"Chosen on StereoSet's test split: {chosen['selection']}, ×{chosen['factor']:g}, {chosen['neurons']} neurons. "
        "The figures are of data that it was not chosen on."
    )
    held_out = stereoset_section(findings, key, draw, "On data that it was not chosen on", "StereoSet dev")
    held_out = replace(
        held_out,
        tables=[*held_out.tables, cost_table(findings, key, "Perplexity, and its change")],
        folded=[domain_table(findings, f"{key}-icat-domains", "ICAT")],
    )
    return Chapter(
        key, f"Sweep of {findings.model}", question, answer(findings, "on ordinary sentences"),
        [held_out, _tried(findings.details, key, draw)], tiles=tiles(findings),
    )  # fmt: skip


def _tried(details: Mapping[str, Any], key: str, draw: Draw) -> Section:
    """Return the settings that were tried, where the choice was made."""
    trials = details["trials"]
    base, *dots = (trial_dot(trial, trials[0]["perplexity"]) for trial in trials)
    chosen = trial_dot(details["chosen"], trials[0]["perplexity"])
    icat, lms = ([getattr(dot, name) for dot in dots] for name in ("icat", "lms"))
    gist = (
        f"ICAT from {number(min(icat))} to {number(max(icat))}, LMS from {number(min(lms))} to {number(max(lms))}; "
        f"untouched: ICAT {number(base.icat)}, LMS {number(base.lms)}; chosen: ICAT {number(chosen.icat)}, LMS "
        f"{number(chosen.lms)}."
    )
    caption = "All settings: ICAT against LMS where the choice was made"
    drawing = draw("settings-tried", caption, gist, sweep_settings, base, dots, chosen)
    rows = [(trial["selection"], [Cell(_short(trial[column])) for column in _COLUMNS]) for trial in trials]
    table = Table(f"{key}-grid", "All settings, judged where the choice was made", ["selection", *_COLUMNS], rows)
    return Section(f"{key}-tried", "Settings that were tried", (), [drawing], folded=[table])


def _short(value: Any) -> str:
    """Return a value of a trial with one digit after the point.

    >>> _short(52.92957), _short(184), _short("all"), _short(None)
    ('52.9', '184', 'all', '')
    """
    return number(value) if isinstance(value, float) else "" if value is None else str(value)
