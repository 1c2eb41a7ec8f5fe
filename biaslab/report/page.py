"""One page that tells a reader who was not there what runs found: HTML that needs no network, figures beside it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from biaslab import __version__
from biaslab.report.about import commands, limits, provenance, sources
from biaslab.report.drawings import Drawing, drawing
from biaslab.report.parts import Chapter, Draw, Missing
from biaslab.report.runs import Run, read_runs
from biaslab.report.sections.compare import cards_chapter, compare_chapter, effects_chapter, probe_chapter
from biaslab.report.sections.debias import debias_chapter
from biaslab.report.sections.side_by_side import side_by_side
from biaslab.report.sections.sweep import sweep_chapter
from biaslab.report.sections.table import table_chapter
from biaslab.report.words import LABELS, kept_together, number, signed
from biaslab.store import write_atomically

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


def report(runs: list[str], output: str = "report", title: str | None = None) -> None:
    """Write one page of what runs found: report.html, which needs no network, and its figures for papers.

    The page gathers what lies in the folders: results of debias, tables, comparisons, sweeps and probing, neuron cards
    and side effects. What is missing is named with the command that makes it.

    Args:
        runs: folders of runs, such as runs/debias/version_0 and runs/table/minilm-mlm.
        output: the folder that report.html and figures/ are written to.
        title: of the page; made from the models' names by default.

    Raises:
        InputError: if a folder holds no results, or the output can't be written.
    """
    found = read_runs(runs)
    folder = Path(output).expanduser()
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    text = page(found, folder / "figures", title)
    write_atomically(folder / "report.html", text.encode())
    print(f"The report lies in {folder / 'report.html'}, its figures for papers in {folder / 'figures'}.")


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


def joined(arguments: Sequence[str]) -> list[str]:
    """Return the command's arguments with its folders as the one list that the command line wants.

    >>> joined(["runs/a", "runs/b", "--output", "there"])
    ['["runs/a", "runs/b"]', '--output', 'there']
    """
    folders, options = [], []
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("-"):
            folders.append(argument)
            continue
        options.append(argument)
        if "=" not in argument and argument not in ("-h", "--help"):
            options += [value for value in [next(rest, None)] if value is not None]
    return [json.dumps(folders, ensure_ascii=False), *options] if folders else options
