"""One page that tells a reader who was not there what runs found: HTML that needs no network, figures beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from biaslab import __version__
from biaslab.report.about import commands, limits, provenance, sources
from biaslab.report.parts import Chapter, Missing, Section
from biaslab.report.runs import Run, models_of, read_runs
from biaslab.report.sections import cards, compare, debias, probe, side_effects, sweep, table
from biaslab.report.sections.side_by_side import side_by_side
from biaslab.report.words import LABELS, kept_together, number, setting, signed
from biaslab.store import write_atomically

CHAPTERS: dict[str, Callable[[Run], Chapter]] = {  # by the command whose findings they show
    "debias": debias.chapter, "table": table.chapter, "sweep": sweep.chapter, "compare": compare.chapter,
    "probe": probe.chapter, "cards": cards.chapter, "side-effects": side_effects.chapter,
}  # fmt: skip
_WITHIN_DEBIAS = ("cards", "side-effects")  # sections of its chapter, where there is one
_ELSEWHERE = {  # what no chapter shows, and how to get it; {folder} is the first run's that has neurons
    "debias": Missing("Neurons found, suppressed and judged", "biaslab debias --model {model}"),
    "table": Missing("Other treatments of the model, judged alike", "biaslab table --model {model}"),
    "probe": Missing("Answers to plain questions", "biaslab probe --model {model} --neurons {folder}/neurons.json"),
    "compare": Missing("Another model's neurons, or another run's", "biaslab compare {folder}/neurons.json OTHER"),
}


def write_report(folders: Sequence[str], output: Path, title: str | None = None) -> Path:
    """Write report.html into a folder, and its figures into "figures" there; return the page's path.

    Raises:
        InputError: if a folder holds no results or a damaged file.
    """
    runs = read_runs(folders, CHAPTERS)
    figures = output / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    write_atomically(output / "report.html", page(runs, figures, title).encode())
    return output / "report.html"


def page(runs: Sequence[Run], figures: Path, title: str | None = None) -> str:
    """Return the page, and write its figures into a folder; the title is made from the models' names by default."""
    loader = PackageLoader("biaslab.report")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["kept"] = kept_together
    css = Markup(environment.get_template("report.css").render())
    environment.globals |= {"number": number, "signed": signed, "labels": LABELS, "version": __version__, "css": css}
    models = models_of(runs)
    chapters = [chapter for place, run in enumerate(runs, 1) for chapter in _chapters(run, place, figures)]
    titles = Counter(chapter.title for chapter in chapters)
    return environment.get_template("report.html").render(
        title=title or f"Bias neurons of {', '.join(models)}",
        models=models,
        runs=len(runs),
        chapters=[c if titles[c.title] == 1 else c._replace(title=f"{c.title}, {c.place}") for c in chapters],
        side=side_by_side(runs),
        missing=list(_missing(runs)),
        limits=limits(runs),
        commands=commands(runs),
        provenance=provenance(runs),
        sources=sources(runs),
    )


def _chapters(run: Run, place: int, figures: Path) -> list[Chapter]:
    """Return the chapters of a run; some belong to that of debias."""
    chapters = {}
    for command, make in CHAPTERS.items():
        if command in run.findings:
            key, chapter, settings = f"{command}-{place}", make(run), run.findings[command].settings
            known = [(name, setting(value)) for name, value in settings.items() if value is not None]
            sections = [_drawn(section, key, figures) for section in chapter.sections]
            facts = [*known, *chapter.facts]
            chapters[command] = chapter._replace(key=key, place=run.place, facts=facts, sections=sections)
    if "debias" in chapters:
        within = [chapters.pop(command) for command in _WITHIN_DEBIAS if command in chapters]
        sections = [section for chapter in (chapters["debias"], *within) for section in chapter.sections]
        chapters["debias"] = chapters["debias"]._replace(sections=sections)
    return list(chapters.values())


def _drawn(section: Section, key: str, figures: Path) -> Section:
    """Return a section with its figures drawn, and with the chapter's key before all keys."""
    tables, folded = (
        [table._replace(key=f"{key}-{table.key}") for table in tables] for tables in (section.tables, section.folded)
    )
    drawings = [drawing.drawn(figures, key) for drawing in section.drawings]
    return section._replace(key=f"{key}-{section.key}", drawings=drawings, tables=tables, folded=folded)


def _missing(runs: Sequence[Run]) -> Iterator[Missing]:
    there = {command for run in runs for command in run.findings}
    first = next((run for run in runs if run.neurons is not None), runs[0])
    for command, missing in _ELSEWHERE.items():
        if command not in there:
            yield missing._replace(command=missing.command.format(model=first.models[0], folder=first.folder))
