"""Side effects: one dimension's neurons suppressed, all dimensions measured; a section of debias, or a chapter."""

from __future__ import annotations

from collections.abc import Sequence

from biaslab.evaluation.findings import Findings
from biaslab.report.parts import Cell, Chapter, Draw, Missing, Section, Table, metric_table, scope_table
from biaslab.report.runs import Run
from biaslab.report.words import change_text, listed, number, signed

_COUNTS = {
    "clusters": "clusters of StereoSet",
    "pairs": "pairs of CrowS-Pairs",
    "held_out_prompts": "prompts",
    "sentences": "sentences",
}


def effects_section(run: Run, key: str, draw: Draw) -> Section:
    """Return what suppressing one dimension's neurons does to the others, or which command measures it.

    Args:
        run: with the part "side-effects", or without.
        key: goes before the keys of all its elements.
        draw: makes the plots.
    """
    from biaslab.report.plots.stereoset import effects_matrix

    title, findings = "Side effects", run.parts.get("side-effects")
    if findings is None:
        command = f"biaslab side-effects {run.folder / 'neurons.json'}"
        return Section(f"{key}-effects", title, missing=Missing("What one dimension's neurons do to others", command))
    rows, domains = [row.name for row in findings.rows[1:]], findings.scopes("ICAT")[1:]
    changes = [[findings.estimates[row, "ICAT", domain].change for domain in domains] for row in rows]
    significant = [[change.excludes_zero for change in of_row] for of_row in changes]
    own = [[domain == findings.details["own"].get(row, {}).get("stereoset") for domain in domains] for row in rows]
    values = [[change.value for change in of_row] for of_row in changes]
    gist = " ".join(
        f"{row}: {', '.join(f'{d} {signed(value)}' for d, value in zip(domains, of_row, strict=True))}."
        for row, of_row in zip(rows, values, strict=True)
    )
    counts = [f"{number(findings.facts[name], 0)} {words}" for name, words in _COUNTS.items() if name in findings.facts]
    text = [sentence(significant, own)]
    if counts:
        text.append(f"Measured on {listed(counts)}. The number beside a name is how many neurons it has.")
    caption = "Change of ICAT by domain (columns) when a row's neurons are switched off"
    crows = "CrowS-Pairs score (ideal 50) by category, in percent, and its change"
    return Section(
        f"{key}-effects",
        title,
        text,
        [draw("effects", caption, gist, effects_matrix, rows, domains, values, significant, own)],
        [
            _counted(scope_table(f"{key}-effects-icat", "ICAT", findings), findings),
            _counted(scope_table(f"{key}-crows", "CrowS-Pairs", findings, crows), findings),
        ],
        [
            _gaps(findings, key),
            metric_table(f"{key}-effects-text", "Perplexity, and its change", findings, ("perplexity",)),
        ],
    )


def _counted(table: Table, findings: Findings) -> Table:
    """Return a table whose rows tell how many neurons they have."""
    rows = [
        (f"{name} ({row.size})" if row.size else name, cells)
        for (name, cells), row in zip(table.rows, findings.rows, strict=True)
    ]
    return table._replace(rows=rows)


def sentence(significant: Sequence[Sequence[bool]], own: Sequence[Sequence[bool]]) -> str:
    """Say how often a change of ICAT is significant, in a row's own domain and in others.

    >>> sentence([[True, False], [False, False]], [[True, False], [False, True]])
    'The change of ICAT is significant in 1 of 2 own domains, and in 0 of 2 others.'
    """
    cells = [
        cell
        for of_row, owns in zip(significant, own, strict=True)
        if any(owns)
        for cell in zip(of_row, owns, strict=True)
    ]
    inside, outside = (
        [is_significant for is_significant, is_own in cells if is_own is wanted] for wanted in (True, False)
    )
    return (
        f"The change of ICAT is significant in {sum(inside)} of {len(inside)} own domains, and in {sum(outside)} of "
        f"{len(outside)} others."
    )


def _gaps(findings: Findings, key: str) -> Table:
    dimensions = [scope for scope in findings.scopes("gap")[1:] if "/" not in scope]
    rows = []
    for row in findings.rows[1:]:
        cells = []
        for scope in dimensions:
            gap, odds = (findings.estimates[row.name, metric, scope].change for metric in ("gap", "log gap"))
            cells.append(Cell(change_text(gap, digits=0), (change_text(odds, digits=0),)))
        rows.append((f"{row.title} ({row.size})", cells))
    caption = "Change of the gap on held-out prompts by dimension, in percent; below it, that of the log-odds gap"
    return Table(f"{key}-effects-gaps", caption, ["", *dimensions], rows)


def effects_chapter(run: Run, key: str, draw: Draw) -> Chapter:
    """Return what side effects tell where they lie in a folder of their own.

    Args:
        run: with the part "side-effects".
        key: goes before the keys of all its elements.
        draw: makes the plots.
    """
    findings = run.parts["side-effects"]
    answer = []
    for row in findings.rows[1:]:
        icat = findings.estimates[row.name, "ICAT", "overall"]
        answer.append(f"{row.title}: ICAT {number(icat.figure.value)} ({signed(icat.change.value)}).")
    asked = f"What do the neurons of one dimension do to the others in {run.model}?"
    sections = [effects_section(run, key, draw)]
    return Chapter(key, f"Side effects in {run.model}", run.place, asked, answer, sections=sections)
