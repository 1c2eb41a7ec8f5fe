"""One page that tells a reader who was not there what runs found: HTML that needs no network, figures beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from biaslab import __version__
from biaslab.report.about import commands, limits, provenance, sources
from biaslab.report.drawings import Drawing, drawing
from biaslab.report.parts import Chapter, Draw, Missing
from biaslab.report.runs import Run
from biaslab.report.sections.cards import cards_chapter
from biaslab.report.sections.compare import compare_chapter
from biaslab.report.sections.debias import debias_chapter
from biaslab.report.sections.probe import probe_chapter
from biaslab.report.sections.side_by_side import side_by_side
from biaslab.report.sections.side_effects import effects_chapter
from biaslab.report.sections.sweep import sweep_chapter
from biaslab.report.sections.table import table_chapter
from biaslab.report.words import LABELS, kept_together, number, signed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CHAPTERS: dict[str, Callable[[Run, str, Draw], Chapter]] = {
    "debias": debias_chapter,
    "table": table_chapter,
    "sweep": sweep_chapter,
    "compare": compare_chapter,
    "probe": probe_chapter,
    "side-effects": effects_chapter,
    "cards": cards_chapter,
}
_WITHIN_DEBIAS = ("side-effects", "cards")  # sections of its chapter, where there is one
_ELSEWHERE = {  # what no chapter tells, and how to get it; FOLDER is the first run's
    "debias": Missing("Neurons found, suppressed and judged", "biaslab debias --model {model}"),
    "table": Missing("Other treatments of the model, judged alike", "biaslab table --model {model}"),
    "probe": Missing("Answers to plain questions", "biaslab probe --model {model} --neurons {folder}/neurons.json"),
    "compare": Missing("Another model's neurons, or another run's", "biaslab compare {folder}/neurons.json OTHER"),
}


def page(runs: Sequence[Run], figures: Path, title: str | None = None) -> str:
    """Return the page, and write its figures.

    Args:
        runs: that it tells of.
        figures: the folder of the figures.
        title: of the page.
    """
    chapters = _told_apart(list(_chapters(runs, figures)))
    models = list(dict.fromkeys(run.model for run in runs if set(run.parts) - {"compare"})) or [runs[0].model]
    environment = Environment(
        loader=PackageLoader("biaslab.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {"number": number, "signed": signed}
    environment.filters["kept"] = kept_together
    environment.globals["css"] = Markup(environment.get_template("report.css").render())
    return environment.get_template("report.html").render(
        title=title or f"Bias neurons of {', '.join(models)}",
        models=models,
        runs=len(runs),
        chapters=chapters,
        side=side_by_side(runs),
        missing=list(_missing(runs)),
        limits=limits(runs),
        commands=commands(runs),
        provenance=provenance(runs),
        sources=sources(runs),
        labels=LABELS,
        version=__version__,
    )


def _chapters(runs: Sequence[Run], figures: Path) -> Iterator[Chapter]:
    for place, run in enumerate(runs, 1):
        for part, make in _CHAPTERS.items():
            if part in run.parts and not (part in _WITHIN_DEBIAS and "debias" in run.parts):
                key = f"{part}-{place}"
                yield make(run, key, _draws(figures, key))


def _told_apart(chapters: list[Chapter]) -> list[Chapter]:
    """Give chapters that have the same title their folders' names."""
    titles = Counter(chapter.title for chapter in chapters)
    return [
        replace(chapter, title=f"{chapter.title}, {chapter.place}") if titles[chapter.title] > 1 else chapter
        for chapter in chapters
    ]


def _draws(folder: Path, key: str) -> Draw:
    """Return a function that draws figures whose names start with a chapter's key."""

    def draw(name: str, caption: str, gist: str, function: Callable[..., Figure], *arguments: Any) -> Drawing:
        return drawing(folder, f"{key}-{name}", caption, gist, function, *arguments)

    return draw


def _missing(runs: Sequence[Run]) -> Iterator[Missing]:
    there = {part for run in runs for part in run.parts}
    first = next((run for run in runs if run.neurons is not None), runs[0])
    for part, missing in _ELSEWHERE.items():
        if part not in there:
            yield missing._replace(command=missing.command.format(model=first.model, folder=first.folder))
