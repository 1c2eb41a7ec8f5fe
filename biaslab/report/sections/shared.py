"""What the chapters of several commands share: StereoSet overall and by domain, the cost, the answer in short."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from biaslab.evaluation.findings import METRICS, OVERALL, Findings, Row
from biaslab.report import words
from biaslab.report.drawings import Drawing
from biaslab.report.parts import Section, Table, Tile, domain_table, domains, estimate_table, title_of
from biaslab.report.plots.stereoset import icat_against_lms, icat_before_after
from biaslab.report.tables import STEREOSET
from biaslab.report.words import change_text, control_sentence, figure_text, moved, number
from biaslab.statistics import Interval


def figures(
    findings: Findings, metric: str, scopes: Sequence[str], rows: Sequence[Row] | None = None
) -> dict[str, dict[str, Interval]]:
    """Return a metric's figures by the row's title and the scope."""
    return {
        title_of(row): {scope: findings.estimates[row.name, metric, scope].figure for scope in scopes}
        for row in rows or findings.rows_of(metric)
    }


def lms_and_icat(findings: Findings) -> dict[str, tuple[Interval, Interval]]:
    """Return LMS and ICAT of each row, by its title."""
    lms, icat = (figures(findings, metric, [OVERALL]) for metric in ("LMS", "ICAT"))
    return {title: (lms[title][OVERALL], icat[title][OVERALL]) for title in icat}


def stereoset_section(findings: Findings, title: str, caption: str, text: Sequence[str] = ()) -> Section:
    """Return ICAT against LMS of all rows, and the table of SS, LMS and ICAT."""
    gist = []
    for row in findings.rows_of("ICAT"):
        icat, lms = (findings.estimates[row.name, metric, OVERALL] for metric in ("ICAT", "LMS"))
        outcome = "significant" if icat.change.excludes_zero else "not significant"
        change = "" if row is findings.base else f" (change of ICAT {outcome})"
        gist.append(f"{title_of(row)}: LMS {figure_text('LMS', lms)}, ICAT {figure_text('ICAT', icat)}{change}")
    drawing = Drawing(
        "icat-lms", "ICAT against LMS with 95 % intervals: upper right is best", f"{'; '.join(gist)}.",
        icat_against_lms, [lms_and_icat(findings)],
    )  # fmt: skip
    note = "In percent, with 95 % intervals; below them the change against the untouched model, on the same resamples."
    columns = {f"{metric} (ideal {METRICS[metric].ideal:g})": (metric, OVERALL) for metric in STEREOSET}
    return Section(
        "stereoset", title, text, [drawing], [estimate_table(findings, "overall", caption, columns, note=note)]
    )


def domain_section(
    findings: Findings, shown: Sequence[Row] | None = None, folded: Sequence[str] = ("SS", "LMS")
) -> Section:
    """Return ICAT by domain of all rows as a table and of those that are shown as a figure; other metrics folded."""
    icat = figures(findings, "ICAT", domains(findings), shown)
    gist = " ".join(
        f"{title}: {', '.join(f'{scope} {number(figure.value)}' for scope, figure in by_scope.items())}."
        for title, by_scope in icat.items()
    )
    caption = "ICAT by domain with 95 % intervals"
    if len(icat) < len(findings.rows_of("ICAT")):
        caption += ": untouched, and the rows with the largest changes of ICAT"
    tables = [domain_table(findings, f"{metric.lower()}-domains", metric) for metric in ("ICAT", *folded)]
    drawing = Drawing("domains", caption, gist, icat_before_after, [icat])
    return Section("domains", "By domain", (), [drawing], tables[:1], tables[1:])


def cost_table(findings: Findings, caption: str, size: str = "neurons") -> Table:
    """Return what each row takes, and its perplexity; of random controls, how many seeds that is of."""

    def name(row: Row) -> str:
        estimate = findings.get(row.name, "perplexity")
        return "random, one seed" if row.like and estimate and estimate.spread is None else title_of(row)

    first: dict[str, Callable[[Row], str]] = {size: lambda row: number(row.size, 0)}
    if any(row.seconds for row in findings.rows):
        first["seconds to find or train"] = lambda row: number(row.seconds, 0)
    return estimate_table(findings, "text", caption, {"perplexity": ("perplexity", OVERALL)}, name, first=first)


def tiles(findings: Findings) -> list[Tile]:
    """Return the figures that a reader sees first, of the first row after the untouched model."""
    titles = {"SS": "stereotype score", "LMS": "language", "ICAT": "both together", "perplexity": "ordinary text"}
    made = []
    for metric, title in titles.items():
        before, after = (findings.get(row.name, metric) for row in findings.rows[:2])
        if before is not None and after is not None:
            ideal = f"ideal {METRICS[metric].ideal:g}" if METRICS[metric].ideal else "lower is better"
            texts = (figure_text(metric, before), figure_text(metric, after), change_text(metric, after.change))
            made.append(Tile(metric, f"{title}, {ideal}", *texts, words.verdict(metric, after)))
    return made


def answer(findings: Findings, text: str) -> list[str]:
    """Return the outcome of the first row after the untouched model, whatever it is; perplexity is of the text."""
    base, row = (each.name for each in findings.rows[:2])
    control = findings.control(row)
    ss, lms, icat = (findings.estimates[row, metric, OVERALL] for metric in STEREOSET)
    ss_before, icat_before = (findings.estimates[base, metric, OVERALL].figure.value for metric in ("SS", "ICAT"))
    icat_text = (
        f"ICAT (100 is ideal), which combines bias and language modelling, went from {number(icat_before)} to "
        f"{figure_text('ICAT', icat)}: it {moved('ICAT', icat.change)}."
    )
    if control is not None and (random := findings.get(control.name, "ICAT")) is not None:
        icat_text += f" {control_sentence('ICAT', random, icat.beyond_random, control.title)}"
    language = f"Language: LMS (100 is ideal) {moved('LMS', lms.change)}"
    if (perplexity := findings.get(row, "perplexity")) is not None:
        language += f"; perplexity (lower is better) {text} {moved('perplexity', perplexity.change)}"
        if control is not None and (random := findings.get(control.name, "perplexity")) is not None:
            language += f"; random neurons change that by {change_text('perplexity', random.change)}"
    return [words.stereotype_sentence(ss_before, ss), icat_text, _domain_sentence(findings, row), f"{language}."]


def _domain_sentence(findings: Findings, row: str) -> str:
    changes = [(scope, findings.estimates[row, "ICAT", scope].change) for scope in domains(findings)]
    phrases = ("ICAT rose for", "ICAT fell for", "the change is not significant for")
    return f"By domain, {'; '.join(words.by_direction(changes, *phrases))}." if changes else "No domains were judged."
