"""The chapter of a comparison of two neuron sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from biaslab.evaluation.findings import OVERALL
from biaslab.neurons.overlap import is_significant
from biaslab.report.parts import Cell, Chapter, Draw, Section, Table
from biaslab.report.runs import Run
from biaslab.report.words import NOT_SIGNIFICANT, between, number, settings_facts, signed
from biaslab.statistics import Interval


def compare_chapter(run: Run, key: str, draw: Draw) -> Chapter:
    """Return what a comparison tells.

    Args:
        run: with the part "compare".
        key: goes before the keys of all its elements.
        draw: makes the plots.
    """
    from biaslab.report.plots.neurons import layer_distribution

    findings = run.parts["compare"]
    content = findings.details
    first, second = (str(content[side]["name"]) for side in "ab")
    overall = content["scopes"][OVERALL]
    counts = {f"A, {first}": overall["layers_a"], f"B, {second}": overall["layers_b"]}
    gist = f"A: {_layers(overall['layers_a'])}. B: {_layers(overall['layers_b'])}."
    caption = "Neurons a layer of A and of B"
    sections = [
        Section(
            f"{key}-scopes", "Shared neurons, and layers", content.get("notes", []),
            [draw("layers", caption, gist, layer_distribution, counts)],
            [_overlap_table(content, key), _layer_table(content, key)],
        ),
        Section(f"{key}-settings", "Settings", facts=settings_facts(findings.settings)),
    ]  # fmt: skip
    asked = f"Are the neurons of A ({first}) those of B ({second}), and do they lie in the same layers?"
    return Chapter(
        key, f"Comparison of {first} and {second}", run.place, asked, compare_answer(content), sections=sections
    )


def _layers(counts: list[int]) -> str:
    return ", ".join(f"{count} in layer {layer}" for layer, count in enumerate(counts))


def compare_answer(content: Mapping[str, Any]) -> list[str]:
    """Return the comparison's outcome, whatever it is."""
    overall = content["scopes"][OVERALL]
    sentences = [f"A has {overall['count_a']} neurons, B has {overall['count_b']}."]
    if overall.get("shared") is None:
        sentences.append(
            "Neuron indices do not correspond between these models, so only numbers and layers are compared."
        )
    else:
        more = "more than" if is_significant(overall["p_value"]) else "not more than"
        sentences.append(
            f"They share {overall['shared']}; random sets with as many in each layer share {_expected(overall)}: "
            f"{more} expected by chance (exact test, p {_p(overall['p_value'])})."
        )
    if overall.get("shift") is not None:
        sentences.append(_shift(Interval(overall["shift"], overall["shift_low"], overall["shift_high"])))
    if overall.get("moved_share") is not None:
        more = "more than" if is_significant(overall["moved_p_value"]) else "not more than"
        share = Interval(*(100 * overall[name] for name in ("moved_share", "moved_low", "moved_high")))
        sentences.append(
            f"To make A's layers B's, {number(share.value)} % {between(share)} of the neurons would have to change "
            f"their layer: {more} expected by chance (permutation test, p {_p(overall['moved_p_value'])})."
        )
    return sentences


def _expected(facts: Mapping[str, Any]) -> str:
    ends = f"[{facts['expected_shared_low']}, {facts['expected_shared_high']}]"
    return f"{number(facts['expected_shared'])} {ends}"


def _shift(shift: Interval) -> str:
    by = f"{signed(shift.value, 2)} layers {between(shift, 2, sign=True)}"
    if not shift.excludes_zero:
        return f"The mean layer differs by {by}, {NOT_SIGNIFICANT}."
    where = "farther from" if shift.value > 0 else "nearer to"
    return f"The mean layer differs by {by}: B lies {where} the embeddings."


def _p(value: float) -> str:
    """Return a p-value.

    >>> _p(0.0004), _p(0.25)
    ('< 0.001', '0.250')
    """
    return "< 0.001" if value < 0.001 else number(value, 3)


def _or_none(facts: Mapping[str, Any], name: str, digits: int = 0) -> Cell:
    return Cell("n/a" if facts.get(name) is None else number(facts[name], digits))


def _overlap_table(content: Mapping[str, Any], key: str) -> Table:
    rows = []
    for scope, facts in content["scopes"].items():
        chance = Cell("n/a")
        if facts.get("expected_shared") is not None:
            chance = Cell(_expected(facts), (f"p {_p(facts['p_value'])}",))
        counts = [_or_none(facts, name) for name in ("count_a", "count_b", "shared")]
        rows.append((scope, [*counts, chance, _or_none(facts, "jaccard", 2)]))
    columns = ["", "A", "B", "shared", "shared by chance", "Jaccard"]
    return Table(f"{key}-shared", "Neurons of A and B, and what random sets with as many a layer share", columns, rows)


def _layer_table(content: Mapping[str, Any], key: str) -> Table:
    rows = []
    for scope, facts in content["scopes"].items():
        cells = [_or_none(facts, "mean_layer_a", 2), _or_none(facts, "mean_layer_b", 2)]
        if facts.get("shift") is None:
            cells += [Cell("n/a"), Cell("n/a")]
        else:
            shift = Interval(facts["shift"], facts["shift_low"], facts["shift_high"])
            share = Interval(*(100 * facts[name] for name in ("moved_share", "moved_low", "moved_high")))
            cells.append(Cell(signed(shift.value, 2), (between(shift, 2, sign=True),)))
            cells.append(Cell(f"{number(share.value)} %", (between(share), f"p {_p(facts['moved_p_value'])}")))
        rows.append((scope, cells))
    columns = ["", "mean layer of A", "of B", "shift", "moved"]
    return Table(f"{key}-moved", "Mean layers from 0, their difference, and the share that moved", columns, rows)
