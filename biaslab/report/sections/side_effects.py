"""The chapter of side effects: one dimension's neurons suppressed, all dimensions measured."""

from __future__ import annotations

from collections.abc import Sequence

from biaslab.evaluation.findings import OVERALL, Findings
from biaslab.report.parts import Chapter, Draw, Section, domain_table, domains, scope_table, title_and_size, title_of
from biaslab.report.plots.stereoset import effects_matrix
from biaslab.report.runs import Run
from biaslab.report.sections.shared import cost_table
from biaslab.report.words import figure_text, listed, number, signed

_COUNTS = {
    "clusters": "clusters of StereoSet",
    "pairs": "pairs of CrowS-Pairs",
    "held_out_prompts": "held-out prompts",
    "sentences": "sentences",
}


def chapter(run: Run, key: str, draw: Draw) -> Chapter:
    """Return what suppressing one dimension's neurons does to the others."""
    findings = run.findings["side-effects"]
    icats = [(row, findings.estimates[row.name, "ICAT", OVERALL]) for row in findings.rows[1:]]
    answer = [
        f"{title_of(row)}: ICAT {figure_text('ICAT', icat)} ({signed(icat.change.value)})." for row, icat in icats
    ]
    question = f"What do the neurons of one dimension do to the others in {findings.model}?"
    return Chapter(key, f"Side effects in {findings.model}", question, answer, [_effects(findings, key, draw)])


def _effects(findings: Findings, key: str, draw: Draw) -> Section:
    rows, scopes, own_scopes = findings.rows[1:], domains(findings), findings.details["own"]
    changes = [[findings.estimates[row.name, "ICAT", scope].change for scope in scopes] for row in rows]
    values = [[change.value for change in line] for line in changes]
    significant = [[change.excludes_zero for change in line] for line in changes]
    own = [[scope == own_scopes.get(row.name, {}).get("stereoset") for scope in scopes] for row in rows]
    gist = " ".join(
        f"{title_of(row)}: {', '.join(f'{scope} {signed(value)}' for scope, value in zip(scopes, line, strict=True))}."
        for row, line in zip(rows, values, strict=True)
    )
    titles = [title_of(row) for row in rows]
    caption = "Change of ICAT by domain (columns) when a row's neurons are suppressed"
    counts = [f"{number(findings.facts[name], 0)} {text}" for name, text in _COUNTS.items() if name in findings.facts]
    measured = f"Measured on {listed(counts)}. The number beside a name is how many neurons it has."
    dimensions = [scope for scope in findings.scopes("gap") if scope != OVERALL and "/" not in scope]
    crows = "CrowS-Pairs score (ideal 50) by category, in percent, and its change"
    gaps = {"gap": "Gap |P(d1) − P(d2)|", "log gap": "Log-odds gap |log P(d1) − log P(d2)|"}
    gap_tables = [
        scope_table(
            findings, f"{key}-{metric.replace(' ', '-')}", f"{text} on held-out prompts, by dimension, and its change",
            metric, dimensions, title_and_size,
        )
        for metric, text in gaps.items()
    ]  # fmt: skip
    return Section(
        f"{key}-effects",
        "Side effects",
        [sentence(significant, own), *([measured] if counts else [])],
        [draw("effects", caption, gist, effects_matrix, titles, scopes, values, significant, own)],
        [
            domain_table(findings, f"{key}-icat", "ICAT", title_and_size),
            scope_table(findings, f"{key}-crows", crows, "CrowS-Pairs", findings.scopes("CrowS-Pairs"), title_and_size),
        ],
        [*gap_tables, cost_table(findings, key, "Perplexity, and its change")],
    )


def sentence(significant: Sequence[Sequence[bool]], own: Sequence[Sequence[bool]]) -> str:
    """Say how often a change of ICAT is significant, in a row's own domain and in others.

    >>> sentence([[True, False], [False, False]], [[True, False], [False, True]])
    'The change of ICAT is significant in 1 of 2 own domains, and in 0 of 2 others.'
    """
    pairs = [
        (change, is_own)
        for changes, owns in zip(significant, own, strict=True)
        if any(owns)
        for change, is_own in zip(changes, owns, strict=True)
    ]
    own_changes, others = ([change for change, is_own in pairs if is_own is wanted] for wanted in (True, False))
    return (
        f"The change of ICAT is significant in {sum(own_changes)} of {len(own_changes)} own domains, and in "
        f"{sum(others)} of {len(others)} others."
    )
