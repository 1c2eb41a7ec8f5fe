"""The parts of chapters, and sections that several chapters share: StereoSet, domains, cost, benchmarks, answer."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from biaslab.evaluation.findings import METRICS, OVERALL, SS_LOG_RATIO, Findings, Row
from biaslab.report import words
from biaslab.report.plots.stereoset import icat_against_lms, icat_before_after
from biaslab.report.plots.style import Drawing
from biaslab.report.tables import LOG_RATIO_DIGITS, STEREOSET, cost_metrics, is_of_one_seed, stereoset_metrics
from biaslab.report.words import Verdict, change_text, figure_interval, figure_text, number, verdict
from biaslab.statistics import Interval


class Cell(NamedTuple):
    """A cell of a table: its text, lines below in small type, and the verdict on the change."""

    text: str
    more: tuple[str, ...] = ()
    verdict: Verdict = ""


class Table(NamedTuple):
    """A table: its key, its column headings (first that of the row names), and rows of a name and cells."""

    key: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    note: str = ""


class Section(NamedTuple):
    """A section of a chapter; ``folded`` tables are collapsed, ``cards`` are neuron cards."""

    key: str
    title: str
    text: Sequence[str] = ()
    drawings: Sequence[Drawing] = ()
    tables: Sequence[Table] = ()
    folded: Sequence[Table] = ()
    facts: Sequence[tuple[str, str]] = ()
    cards: Sequence[Mapping[str, Any]] = ()


class Chapter(NamedTuple):
    """The chapter of one command's findings: the question, the short answer and the sections.

    ``facts`` are shown with the settings. ``tiles`` come first: a metric, its ideal, its change. ``missing`` names what
    other commands could add. The page sets ``place``, the run's folder, and ``key``, the prefix of all keys.
    """

    title: str
    question: str
    answer: Sequence[str]
    sections: Sequence[Section]
    facts: Sequence[tuple[str, str]] = ()
    tiles: Sequence[tuple[str, str, Cell]] = ()
    missing: Sequence[tuple[str, str]] = ()
    place: str = ""
    key: str = ""


def title_of(row: Row) -> str:
    """Return a row's name as printed."""
    return row.title.removeprefix("+ ")


def title_and_size(row: Row) -> str:
    """Return a row's name with the number of its neurons."""
    return f"{title_of(row)} ({row.size})" if row.size else title_of(row)


def estimate_cell(findings: Findings, row: str, metric: str, scope: str = OVERALL, more: Sequence[str] = ()) -> Cell:
    """Return a row's value with interval, change and spread (no change for the untouched model), and more lines."""
    estimate = findings.get(row, metric, scope)
    if estimate is None:
        return Cell("n/a")
    lines = [figure_interval(metric, estimate)] if math.isfinite(estimate.figure.low) else []
    if row == findings.base.name:
        return Cell(figure_text(metric, estimate), (*lines, *more))
    lines.append(change_text(metric, estimate.change))
    digits = LOG_RATIO_DIGITS if METRICS[metric].unit == "nats" else 1
    lines += [] if estimate.spread is None else [f"± {number(estimate.spread, digits)} over seeds"]
    return Cell(figure_text(metric, estimate), (*lines, *more), verdict(metric, estimate))


def scope_table(
    findings: Findings, key: str, caption: str, metric: str, scopes: Sequence[str], with_size: bool = False
) -> Table:
    """Return a table of a metric with a column per scope, and the number of neurons next to row names, if wanted."""
    rows, name = [], title_and_size if with_size else title_of
    for row in findings.rows_of(metric) if scopes else []:
        rows.append((name(row), [estimate_cell(findings, row.name, metric, scope) for scope in scopes]))
    return Table(key, f"{caption}, with changes", ["", *scopes], rows)


def domain_table(findings: Findings, key: str, metric: str) -> Table:
    """Return a table of SS, its log-ratio, LMS or ICAT by domain, for all rows."""
    unit = "nats" if METRICS[metric].unit == "nats" else "percent"
    return scope_table(findings, key, f"{metric} by domain, in {unit}", metric, domains(findings))


def domains(findings: Findings) -> list[str]:
    """Return the evaluated StereoSet domains."""
    return [scope for scope in findings.scopes("ICAT") if scope != OVERALL]


def figures(
    findings: Findings, metric: str, scopes: Sequence[str], rows: Sequence[Row] | None = None
) -> dict[str, dict[str, Interval]]:
    """Return a metric's values by row title and scope."""
    return {
        title_of(row): {scope: findings.estimates[row.name, metric, scope].figure for scope in scopes}
        for row in rows or findings.rows_of(metric)
    }


def lms_and_icat(findings: Findings) -> dict[str, tuple[Interval, Interval]]:
    """Return LMS and ICAT by row title."""
    lms, icat = (figures(findings, metric, [OVERALL]) for metric in ("LMS", "ICAT"))
    return {title: (lms[title][OVERALL], icat[title][OVERALL]) for title in icat}


def stereoset_section(findings: Findings, title: str, caption: str, text: Sequence[str] = ()) -> Section:
    """Return the section of StereoSet: ICAT against LMS as a figure, and the table of all metrics."""
    gist, rows, metrics = [], [], stereoset_metrics(findings)
    for row in findings.rows_of("ICAT"):
        rows.append((title_of(row), [estimate_cell(findings, row.name, metric) for metric in metrics]))
        icat, lms = (findings.estimates[row.name, metric, OVERALL] for metric in ("ICAT", "LMS"))
        outcome = "significant" if icat.change.excludes_zero else "not significant"
        change = "" if row is findings.base else f" (change of ICAT {outcome})"
        gist.append(f"{title_of(row)}: LMS {figure_text('LMS', lms)}, ICAT {figure_text('ICAT', icat)}{change}")
    drawing = Drawing(
        "icat-lms", "ICAT against LMS with 95 % intervals: upper right is best", f"{'; '.join(gist)}.",
        icat_against_lms, [lms_and_icat(findings)],
    )  # fmt: skip
    note = "In percent, with 95 % intervals. Below: the change from the untouched model, on the same resamples."
    if SS_LOG_RATIO in metrics:
        note += " The log-ratio is the mean of log P(stereotype) − log P(anti-stereotype), in nats; SS counts its sign."
    columns = ["", *(f"{metric} (ideal {METRICS[metric].ideal:g})" for metric in metrics)]
    return Section("stereoset", title, text, [drawing], [Table("overall", caption, columns, rows, note)])


def domain_section(
    findings: Findings, shown: Sequence[Row] | None = None, folded: Sequence[str] = ("SS", "LMS")
) -> Section:
    """Return the section by domain: ICAT as a table, and as a figure for the ``shown`` rows; other metrics folded."""
    icat = figures(findings, "ICAT", domains(findings), shown)
    gist = " ".join(
        f"{title}: {', '.join(f'{scope} {number(figure.value)}' for scope, figure in by_scope.items())}."
        for title, by_scope in icat.items()
    )
    caption = "ICAT by domain with 95 % intervals"
    if len(icat) < len(findings.rows_of("ICAT")):
        caption += ": the untouched model and the rows with the largest changes of ICAT"
    if "SS" in folded and findings.rows_of(SS_LOG_RATIO):
        folded = [SS_LOG_RATIO, *folded]
    keys = {metric: f"{metric.lower().replace(' ', '-')}-domains" for metric in ("ICAT", *folded)}
    tables = [domain_table(findings, key, metric) for metric, key in keys.items()]
    drawing = Drawing("domains", caption, gist, icat_before_after, [icat])
    return Section("domains", "By domain", (), [drawing], tables[:1], tables[1:])


def cost_table(findings: Findings, caption: str, size: str = "neurons") -> Table:
    """Return a table of each row's size, seconds and perplexity, and knowledge if it was measured."""
    rows, seconds = [], ["seconds to find or train"] if any(row.seconds for row in findings.rows) else []
    metrics = cost_metrics(findings)
    for row in findings.rows_of("perplexity"):
        cells = [Cell(number(cost, 0)) for cost in (row.size, row.seconds)[: 1 + len(seconds)]]
        for metric in metrics:
            one_seed = is_of_one_seed(row, findings.estimates[row.name, metric, OVERALL])
            cells.append(estimate_cell(findings, row.name, metric, more=["one seed"] if one_seed else []))
        rows.append((title_of(row), cells))
    return Table("text", caption, ["", size, *seconds, *metrics], rows)


def cost_section(findings: Findings, text: Sequence[str], table: Table) -> Section:
    """Return the section of a :func:`cost_table`; if knowledge was measured, it is explained and shown by dimension."""
    scopes = findings.scopes("knowledge")
    if not scopes:
        return Section("cost", "Cost", text, tables=[table])
    count = number(findings.facts["knowledge_sentences"], 0)
    meaning = (
        f"Knowledge: in {count} sentences, a demographic word follows from the meaning, as in “My sister is a grown "
        "___”. Knowledge is the percentage in which the right word (woman) is more likely than the wrong one (man). A "
        "model that always prefers the same word of a pair scores 50. StereoSet and CrowS-Pairs do not test this."
    )
    by_dimension = scope_table(findings, "knowledge", "Knowledge by dimension, in percent", "knowledge", scopes)
    return Section("cost", "Cost", [*text, meaning], tables=[table], folded=[by_dimension])


def benchmark_sections(findings: Findings, without: Sequence[str] = ()) -> list[Section]:
    """Return the section of benchmarks other than StereoSet; empty if none were measured."""
    by_benchmark = {name: own for name, own in findings.by_benchmark().items() if name not in without}
    if not by_benchmark:
        return []
    tables, folded = [], []
    for benchmark, metrics in by_benchmark.items():
        rows = []
        for row in findings.rows_of(metrics[0]):
            rows.append((title_of(row), [estimate_cell(findings, row.name, metric) for metric in metrics]))
        note = " ".join(f"{name}: {METRICS[name].text} (ideal {METRICS[name].ideal:g})." for name in metrics)
        tables.append(Table(f"benchmark-{benchmark}", benchmark, ["", *metrics], rows, note))
        for place, metric in enumerate(metrics):
            if len(scopes := findings.scopes(metric)) > 1:
                key, caption = f"benchmark-{benchmark}-{place}", f"{metric}, by part"
                folded.append(scope_table(findings, key, caption, metric, scopes))
    return [Section("benchmarks", "Other benchmarks", tables=tables, folded=folded)]


def tiles(findings: Findings) -> list[tuple[str, str, Cell]]:
    """Return the headline figures, for the first row after the untouched model."""
    titles = {
        "SS": "stereotype score", SS_LOG_RATIO: "stereotype preference, nats", "LMS": "language modelling",
        "ICAT": "SS and LMS combined", "perplexity": "ordinary text", "knowledge": "meaning of words",
    }  # fmt: skip
    made = []
    for metric, title in titles.items():
        before, after = (findings.get(row.name, metric) for row in findings.rows[:2])
        if before is not None and after is not None:
            about = METRICS[metric]
            ideal = f"ideal {about.ideal:g}" if about.ideal or about.has_sides else "lower is better"
            text = f"{figure_text(metric, before)} → {figure_text(metric, after)}"
            change = (change_text(metric, after.change),)
            made.append((metric, f"{title}, {ideal}", Cell(text, change, verdict(metric, after))))
    return made


def answer(findings: Findings, text: str) -> list[str]:
    """Return the outcome of the first row after the untouched model in sentences; ``text`` names that of perplexity."""
    base, row = (each.name for each in findings.rows[:2])
    control = findings.control(row)
    ss, lms, icat = (findings.estimates[row, metric, OVERALL] for metric in STEREOSET)
    ss_before, icat_before = (findings.estimates[base, metric, OVERALL].figure.value for metric in ("SS", "ICAT"))
    icat_text = (
        f"ICAT (100 is ideal), which combines bias and language modelling, went from {number(icat_before)} to "
        f"{figure_text('ICAT', icat)}: it {words.moved('ICAT', icat.change)}."
    )
    if control is not None and (random := findings.get(control.name, "ICAT")) is not None:
        icat_text += f" {words.control_sentence('ICAT', random, icat.beyond_random, control.title)}"
    language = f"Language: LMS (100 is ideal) {words.moved('LMS', lms.change)}"
    costs = {"perplexity": f"perplexity (lower is better) {text}", "knowledge": "knowledge of words (100 is ideal)"}
    for metric, name in costs.items():
        if (cost := findings.get(row, metric)) is not None:
            language += f"; {name} {words.moved(metric, cost.change)}"
            if control is not None and (random := findings.get(control.name, metric)) is not None:
                language += f" (random neurons: {change_text(metric, random.change)})"
    stereotypes = words.stereotype_sentence(ss_before, ss)
    if (after := findings.get(row, SS_LOG_RATIO)) is not None:
        stereotypes += f" {words.log_ratio_sentence(findings.estimates[base, SS_LOG_RATIO, OVERALL], after)}"
    return [stereotypes, icat_text, _domain_sentence(findings, row), f"{language}."]


def _domain_sentence(findings: Findings, row: str) -> str:
    changes = [(scope, findings.estimates[row, "ICAT", scope].change) for scope in domains(findings)]
    phrases = ("ICAT rose for", "ICAT fell for", "the change is not significant for")
    return (
        f"By domain, {'; '.join(words.by_direction(changes, *phrases))}." if changes else "No domains were evaluated."
    )
