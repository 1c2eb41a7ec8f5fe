"""The chapter of a sweep: the settings that were tried, and the chosen one where it was not chosen."""

from __future__ import annotations

from typing import Any

from biaslab.report.parts import Cell, Chapter, Draw, Section, Table, icat_drawing, metric_table, scope_table
from biaslab.report.runs import Run
from biaslab.report.sections.debias import answer, tiles
from biaslab.report.words import number, settings_facts

_COLUMNS = ("factor", "positions", "neurons", "SS", "LMS", "ICAT", "perplexity")


def sweep_chapter(run: Run, key: str, draw: Draw) -> Chapter:
    """Return what a sweep tells.

    Args:
        run: with the part "sweep".
        key: goes before the keys of all its elements.
        draw: makes the plots.
    """
    findings = run.parts["sweep"]
    chosen, trials = findings.details["chosen"], findings.details["trials"]
    asked = (
        f"Which of {number(len(trials) - 1, 0)} ways to choose and suppress neurons of {run.model} serves best? Chosen "
        f"on StereoSet's test split: {chosen['selection']}, ×{chosen['factor']:g}, {chosen['neurons']} neurons. The "
        "figures are of what it was not chosen on."
    )
    caption = "The chosen setting where it was not chosen: ICAT against LMS with 95 % intervals"
    sections = [
        Section(
            f"{key}-stereoset", "On what it was not chosen on", [], [icat_drawing(findings, draw, caption)],
            [metric_table(f"{key}-overall", "StereoSet dev", findings)],
            [scope_table(f"{key}-icat-domains", "ICAT", findings)],
        ),
        _grid(trials, chosen, key, draw),
        Section(f"{key}-settings", "Settings", facts=settings_facts(findings.settings)),
    ]  # fmt: skip
    text = answer(findings, "on ordinary sentences")
    return Chapter(key, f"Sweep of {run.model}", run.place, asked, text, tiles(findings), sections)


def _grid(trials: list[dict[str, Any]], chosen: dict[str, Any], key: str, draw: Draw) -> Section:
    """Return the settings that were tried, where the choice was made."""
    from biaslab.report.plots.stereoset import sweep_settings, trial_dot

    rows = [(trial["selection"], [_cell(trial[column]) for column in _COLUMNS]) for trial in trials]
    caption = "All settings, judged where the choice was made"
    table = Table(f"{key}-grid", caption, ["selection", *_COLUMNS], rows)
    base, *dots = (trial_dot(trial, trials[0]["perplexity"]) for trial in trials)
    ring = trial_dot(chosen, trials[0]["perplexity"])
    icat, lms = ([getattr(dot, name) for dot in dots] for name in ("icat", "lms"))
    gist = (
        f"ICAT from {number(min(icat))} to {number(max(icat))}, LMS from {number(min(lms))} to {number(max(lms))}; "
        f"untouched: ICAT {number(base.icat)}, LMS {number(base.lms)}; chosen: ICAT {number(ring.icat)}, LMS "
        f"{number(ring.lms)}."
    )
    caption = "All settings: ICAT against LMS where the choice was made"
    drawings = [draw("settings-tried", caption, gist, sweep_settings, base, dots, ring)]
    return Section(f"{key}-tried", "Settings that were tried", [], drawings, folded=[table])


def _cell(value: Any) -> Cell:
    return Cell(number(value) if isinstance(value, float) else "" if value is None else str(value))
