"""The report: one self-contained HTML page with the results of runs, and its figures as files."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from biaslab.evaluation.findings import Findings, gap_rows
from biaslab.report.about import commands, limits, provenance, sources
from biaslab.report.runs import Run, models_of, read_runs
from biaslab.report.sections import compare, debias, probe, side_effects, sweep, table
from biaslab.report.sections.shared import Cell, Chapter, Section, Table, estimate_cell, title_of
from biaslab.report.tables import COSTS, stereoset_metrics
from biaslab.report.words import change_text, figure_text, number, setting, template
from biaslab.store import write_atomically

CHAPTERS: dict[str, Callable[[Run], Chapter]] = {  # by command
    "debias": debias.chapter, "table": table.chapter, "sweep": sweep.chapter, "compare": compare.chapter,
    "probe": probe.chapter, "cards": debias.cards_chapter, "side-effects": side_effects.chapter,
}  # fmt: skip
_WITHIN_DEBIAS = ("cards", "side-effects")  # merged into its chapter, if there is one
_ELSEWHERE = {  # missing chapters and the commands that add them; {folder}: the first run's with neurons
    "debias": ("Neurons found, suppressed and evaluated", "biaslab debias --model {model}"),
    "table": ("Other treatments of the model", "biaslab table --model {model}"),
    "probe": ("Black-box probing", "biaslab probe --model {model} --neurons {folder}/neurons.json"),
    "compare": ("Comparison with the neurons of another model or run", "biaslab compare {folder}/neurons.json OTHER"),
}
_ALIKE = (
    "preset",
    "limit",
    "stereoset",
    "text",
    "sentences",
    "factor",
    "positions",
    "bos",
)  # equal in comparable tables


def write_report(folders: Sequence[str], output: Path, title: str | None = None) -> Path:
    """Write report.html and a folder "figures" into a folder; return the page's path.

    The title is made from the models' names by default.

    Raises:
        InputError: if a folder holds no results or a corrupt file.
    """
    runs = read_runs(folders, CHAPTERS)
    (figures := output / "figures").mkdir(parents=True, exist_ok=True)
    models = models_of(runs)
    chapters = [chapter for place, run in enumerate(runs, 1) for chapter in _chapters(run, place, figures)]
    titles = Counter(chapter.title for chapter in chapters)
    page = template("report.html").render(
        title=title or f"Bias neurons of {', '.join(models)}", models=models, runs=len(runs),
        chapters=[c if titles[c.title] == 1 else c._replace(title=f"{c.title}, {c.place}") for c in chapters],
        side=side_by_side(runs), missing=list(_missing(runs)), limits=limits(runs), commands=commands(runs),
        provenance=provenance(runs), sources=sources(runs),
    )  # fmt: skip
    write_atomically(output / "report.html", page.encode())
    return output / "report.html"


def _chapters(run: Run, place: int, figures: Path) -> list[Chapter]:
    """Return the chapters of a run; some are merged into that of debias."""
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
    """Return a section with its figures drawn and all keys prefixed with the chapter's key."""
    tables, folded = (
        [table._replace(key=f"{key}-{table.key}") for table in tables] for tables in (section.tables, section.folded)
    )
    drawings = [drawing.drawn(figures, key) for drawing in section.drawings]
    return section._replace(key=f"{key}-{section.key}", drawings=drawings, tables=tables, folded=folded)


def _missing(runs: Sequence[Run]) -> Iterator[tuple[str, str]]:
    there = {command for run in runs for command in run.findings}
    first = next((run for run in runs if run.neurons is not None), runs[0])
    for command, (what, line) in _ELSEWHERE.items():
        if command not in there:
            yield what, line.format(model=first.models[0], folder=first.folder)


def side_by_side(runs: Sequence[Run]) -> Section | None:
    """Return tables that compare runs of the same command, if there are two or more."""
    sentences, tables = [], []
    for command, make in (("debias", _debias_side), ("table", _tables_side)):
        of_command = [run for run in runs if command in run.findings]
        if len(of_command) > 1:
            sentence, table = make([run.findings[command] for run in of_command])
            sentences.append(sentence)
            tables.append(table._replace(columns=["", *(run.place for run in of_command)]))
    return Section("side", "Side by side", sentences, tables=tables) if tables else None


def _debias_side(found: Sequence[Findings]) -> tuple[str, Table]:
    """Return whether runs are comparable, and a table of their first rows after the untouched one, a column per run."""
    clusters = [number(findings.facts["clusters"], 0) for findings in found]
    alike = f"All runs were evaluated on {clusters[0]} clusters of StereoSet."
    differ = (
        f"The runs differ in the number of StereoSet clusters ({', '.join(clusters)}): their results can't be compared."
    )
    rows: dict[str, list[Cell]] = {
        "model": [Cell(findings.model) for findings in found],
        "selection": [Cell(str(findings.settings.get("selection", "n/a"))) for findings in found],
        "neurons": [Cell(number(findings.facts["neurons"]["count"], 0)) for findings in found],
    }
    for metric in (*max(map(stereoset_metrics, found), key=len), *COSTS):
        before = [findings.get(findings.base.name, metric) for findings in found]
        rows[f"{metric}, untouched"] = [Cell(figure_text(metric, e) if e else "n/a") for e in before]
        rows[f"{metric}, suppressed"] = [estimate_cell(f, f.rows[1].name, metric) for f in found]
    random = [findings.get(gap_rows(findings)[2], "ICAT") for findings in found]
    rows["ICAT, random neurons"] = [Cell(change_text("ICAT", e.change) if e else "n/a") for e in random]
    table = Table("side-debias", "Debias runs", (), list(rows.items()))
    return alike if len(set(clusters)) == 1 else differ, table


def _tables_side(found: Sequence[Findings]) -> tuple[str, Table]:
    """Return whether tables are comparable, and ICAT with a row per treatment and a column per table."""
    settings = [findings.settings for findings in found]
    other = [name for name in _ALIKE if any(settings[0].get(name) != others.get(name) for others in settings)]
    alike = "The tables were made with the same settings."
    differ = f"The tables were made with different settings ({', '.join(other)}): compare them with care."
    titles = {row.name: title_of(row) for findings in found for row in findings.rows}
    rows = {title: [estimate_cell(findings, name, "ICAT") for findings in found] for name, title in titles.items()}
    table = Table("side-tables", "ICAT of each treatment, with changes", (), list(rows.items()))
    return differ if other else alike, table
