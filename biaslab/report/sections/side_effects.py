"""The chapter of side effects: neurons of one dimension suppressed, all dimensions measured."""

from collections.abc import Sequence

from biaslab.evaluation.findings import OVERALL, PAIRS_LOG_RATIO, SS_LOG_RATIO, Findings
from biaslab.report.plots.stereoset import effects_matrix
from biaslab.report.plots.style import Drawing
from biaslab.report.runs import Run
from biaslab.report.sections.shared import (
    Chapter,
    Section,
    benchmark_sections,
    cost_table,
    domains,
    scope_table,
    title_of,
)
from biaslab.report.words import figure_text, listed, number, signed

_COUNTS = {
    "clusters": "clusters of StereoSet", "pairs": "pairs of CrowS-Pairs", "held_out_prompts": "held-out prompts",
    "sentences": "sentences",
}  # fmt: skip
_TABLES = {  # metric and caption by key
    "icat": ("ICAT", "ICAT by domain, in percent"),
    "crows": ("CrowS-Pairs", "CrowS-Pairs score (ideal 50) by category, in percent"),
    "log-ratio": (SS_LOG_RATIO, "SS log-ratio (ideal 0) by domain, in nats"),
    "crows-log-ratio": (PAIRS_LOG_RATIO, "CrowS-Pairs log-ratio (ideal 0) by category, in nats"),
    "gap": ("gap", "Gap |P(d1) − P(d2)| on held-out prompts, by dimension"),
    "log-gap": ("log gap", "Log-odds gap |log P(d1) − log P(d2)| on held-out prompts, by dimension"),
}


def chapter(run: Run) -> Chapter:
    """Return the chapter of side effects."""
    findings = run.findings["side-effects"]
    before, *after = ((title_of(row), findings.estimates[row.name, "ICAT", OVERALL]) for row in findings.rows)
    icats = listed(f"{title} {figure_text('ICAT', icat)} ({signed(icat.change.value)})" for title, icat in after)
    answer = [f"ICAT is {figure_text('ICAT', before[1])} in the untouched model. By suppressed neurons: {icats}."]
    sections = [_effects(findings), *benchmark_sections(findings, without=["crows-pairs"])]
    question = f"How does suppressing the neurons of one dimension affect the others in {findings.model}?"
    return Chapter(f"Side effects in {findings.model}", question, answer, sections)


def _effects(findings: Findings) -> Section:
    rows, scopes, own_scopes = findings.rows[1:], domains(findings), findings.details["own"]
    changes = [[findings.estimates[row.name, "ICAT", scope].change for scope in scopes] for row in rows]
    values = [[change.value for change in line] for line in changes]
    significant = [[change.excludes_zero for change in line] for line in changes]
    own = [[scope == own_scopes.get(row.name, {}).get("stereoset") for scope in scopes] for row in rows]
    titles = [title_of(row) for row in rows]
    gist = " ".join(
        f"{title}: {', '.join(f'{scope} {signed(value)}' for scope, value in zip(scopes, line, strict=True))}."
        for title, line in zip(titles, values, strict=True)
    )
    caption = "Change of ICAT by domain (columns) when the neurons of a row are suppressed"
    drawing = Drawing("effects", caption, gist, effects_matrix, [titles, scopes, values, significant, own])
    text, facts = [sentence(significant, own)], findings.facts
    if counts := [f"{number(facts[name], 0)} {what}" for name, what in _COUNTS.items() if name in facts]:
        text.append(f"Measured on {listed(counts)}. The number after a name is its number of neurons.")
    tables = []
    for key, (metric, caption) in _TABLES.items():
        if "log-ratio" in key and not findings.rows_of(metric):  # not measured by earlier versions
            continue
        overall = "crows" in key
        columns = [s for s in findings.scopes(metric) if "/" not in s and (s != OVERALL or overall)]
        tables.append(scope_table(findings, key, caption, metric, columns, with_size=True))
    tables.append(cost_table(findings, "Perplexity and its change"))
    return Section("effects", "Side effects", text, [drawing], tables[:2], tables[2:])


def sentence(significant: Sequence[Sequence[bool]], own: Sequence[Sequence[bool]]) -> str:
    """Say how often the change of ICAT is significant, in a row's own domain and in others.

    >>> sentence([[True, False], [False, False]], [[True, False], [False, True]])
    'The change of ICAT is significant in 1 of 2 own domains and in 0 of 2 other domains.'
    """
    changes: dict[bool, list[bool]] = {True: [], False: []}
    for of_row, owns in zip(significant, own, strict=True):
        for change, is_own in zip(of_row, owns, strict=True):
            changes[is_own] += [change] if any(owns) else []
    return (
        f"The change of ICAT is significant in {sum(changes[True])} of {len(changes[True])} own domains and in "
        f"{sum(changes[False])} of {len(changes[False])} other domains."
    )
