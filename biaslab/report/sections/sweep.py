"""The chapter of a sweep: the settings that were tried, and the chosen one where it was not chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from biaslab.evaluation.findings_old import BASE
from biaslab.report.parts import OVERALL, Cell, Chapter, Draw, Section, Table, domain_table, icat_gist, stereoset_table
from biaslab.report.plots.stereoset import Dot, icat_against_lms, sweep_settings
from biaslab.report.runs import Run, figures
from biaslab.report.sections.debias import answer, tiles
from biaslab.report.words import number, settings_facts

_COLUMNS = ("factor", "positions", "neurons", "SS", "LMS", "ICAT", "perplexity")


def sweep_chapter(run: Run, key: str, draw: Draw) -> Chapter:
    """Return what a sweep tells.

    Args:
        run: with the part "sweep".
        key: goes before the keys of all its elements.
        draw: makes the figures.
    """
    content = run.parts["sweep"]
    found, text = figures(content["held_out"]), content["held_out_perplexity"]
    setting, names = content["chosen"], {name: name for name in found}
    tried = number(len(run.trials) - 1, 0) if run.trials else "several"
    asked = (
        f"Which of {tried} ways to choose and suppress neurons of {run.model} serves best? Chosen on StereoSet's test "
        f"split: {setting['selection']}, ×{setting['factor']:g}, {setting['neurons']} neurons. The figures are of what "
        "it was not chosen on."
    )
    points = {name: (of[OVERALL]["LMS"].figure, of[OVERALL]["ICAT"].figure) for name, of in found.items()}
    caption = "The chosen setting where it was not chosen: ICAT against LMS with 95 % intervals"
    sections = [
        Section(
            f"{key}-stereoset", "On what it was not chosen on", [],
            [draw("icat-lms", caption, icat_gist(found, BASE, names), icat_against_lms, points)],
            [stereoset_table(f"{key}-overall", "StereoSet dev", found, BASE, names)],
            [domain_table(f"{key}-icat-domains", "ICAT", found, BASE, names)],
        ),
        *_grid(run, key, draw),
        Section(f"{key}-settings", "Settings", facts=settings_facts(content["settings"])),
    ]  # fmt: skip
    sentences = answer(found, text, "on ordinary sentences")
    return Chapter(key, f"Sweep of {run.model}", run.place, asked, sentences, tiles(found, text), sections)


def _grid(run: Run, key: str, draw: Draw) -> list[Section]:
    """Return the settings that were tried, where the choice was made."""
    if len(run.trials) < 2:
        return []
    columns = [name for name in _COLUMNS if name in run.trials[0]]
    rows = [(line["selection"], [Cell(_short(line[column])) for column in columns]) for line in run.trials]
    table = Table(f"{key}-grid", "All settings, judged where the choice was made", ["selection", *columns], rows)
    base, *dots = _dots(run.trials)
    chosen = run.parts["sweep"]["chosen"]
    ring = _dot(chosen, float(run.trials[0]["perplexity"]))
    gist = (
        f"ICAT from {number(min(d.icat for d in dots))} to {number(max(d.icat for d in dots))}, LMS from "
        f"{number(min(d.lms for d in dots))} to {number(max(d.lms for d in dots))}; untouched: ICAT "
        f"{number(base.icat)}, LMS {number(base.lms)}; chosen: ICAT {number(ring.icat)}, LMS {number(ring.lms)}."
    )
    caption = "All settings: ICAT against LMS where the choice was made"
    drawings = [draw("settings-tried", caption, gist, sweep_settings, base, dots, ring)]
    return [Section(f"{key}-tried", "Settings that were tried", [], drawings, folded=[table])]


def _dots(trials: Sequence[Mapping[str, str]]) -> list[Dot]:
    """Return the untouched model and the settings as a figure's points."""
    return [_dot(line, float(trials[0]["perplexity"])) for line in trials]


def _dot(line: Mapping[str, Any], before: float) -> Dot:
    change = 100 * (float(line["perplexity"]) / before - 1)
    return Dot(float(line["LMS"]), float(line["ICAT"]), change, float(line["factor"] or 1))


def _short(text: str) -> str:
    """Return a figure of a CSV file with one digit after the point; other text as it is.

    >>> _short("52.92957"), _short("184"), _short("all")
    ('52.9', '184', 'all')
    """
    return number(float(text)) if text.replace(".", "", 1).isdigit() and "." in text else text
