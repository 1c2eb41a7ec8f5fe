"""The chapter of a comparison of two neuron sets: their overlap and their layers."""

from collections.abc import Mapping
from typing import Any

from biaslab.evaluation.findings import OVERALL, Findings
from biaslab.report.plots.neurons import layer_distribution
from biaslab.report.plots.style import Drawing
from biaslab.report.runs import Run, sides
from biaslab.report.sections.shared import Cell, Chapter, Section, Table
from biaslab.report.words import between, number, signed
from biaslab.statistics import Interval, is_significant


def chapter(run: Run) -> Chapter:
    """Return the chapter of a comparison."""
    findings = run.findings["compare"]
    scopes: Mapping[str, Mapping[str, Any]] = findings.details["scopes"]
    first, second = (str(side["name"]) for side in sides(findings))
    layers = {f"A, {first}": scopes[OVERALL]["layers_a"], f"B, {second}": scopes[OVERALL]["layers_b"]}
    gist = " ".join(
        f"{name}: {', '.join(f'{count} in layer {layer}' for layer, count in enumerate(counts))}."
        for name, counts in zip("AB", layers.values(), strict=True)
    )
    tables = [
        Table(
            "shared", "Neurons shared by A and B, and by random sets with as many neurons in each layer",
            ["", "A", "B", "shared", "expected by chance", "Jaccard"],
            [(scope, _overlap_cells(facts)) for scope, facts in scopes.items()],
        ),
        Table(
            "moved", "Mean layers (from 0), their difference, and the share of neurons that would have to change layer",
            ["", "mean layer of A", "mean layer of B", "shift", "moved"],
            [(scope, _layer_cells(facts)) for scope, facts in scopes.items()],
        ),
    ]  # fmt: skip
    drawing = Drawing("layers", "Neurons per layer of A and B", gist, layer_distribution, [layers])
    section = Section("scopes", "Shared neurons and layers", findings.details.get("notes", []), [drawing], tables)
    question = f"How many neurons do A ({first}) and B ({second}) share, and are they in the same layers?"
    return Chapter(f"Comparison of {first} and {second}", question, compare_answer(findings), [section])


def compare_answer(findings: Findings) -> list[str]:
    """Return the comparison's outcome in sentences.

    Layers are assessed with the permutation test, because bootstrap intervals are too narrow for few neurons.
    """
    facts = findings.details["scopes"][OVERALL]
    sentences = [f"A has {facts['count_a']} neurons, B has {facts['count_b']}."]
    if facts.get("shared") is None:
        sentences.append("Neuron indices do not correspond between these models: only counts and layers are compared.")
    else:
        sentences.append(
            f"They share {facts['shared']}; random sets with as many neurons in each layer share {_expected(facts)}: "
            f"{_by_chance(facts['p_value'], 'hypergeometric')}."
        )
    if facts.get("shift") is not None:
        (shift, share), p_value = _moves(facts), facts["shift_p_value"]
        where = f": B's neurons are {'farther from' if shift.value > 0 else 'closer to'} the embeddings"
        sentences.append(
            f"The mean layer differs by {signed(shift.value, 2)} layers {between(shift, 2, sign=True)}, "
            f"{_by_chance(p_value, 'permutation')}{where if is_significant(p_value) else ''}."
        )
        sentences.append(
            f"To turn A's distribution over layers into B's, {number(share.value)} % {between(share)} of the neurons "
            f"would have to change layer: {_by_chance(facts['moved_p_value'], 'permutation')}."
        )
    return sentences


def _by_chance(p_value: float, test: str) -> str:
    """Say whether something is more than expected by chance.

    >>> _by_chance(0.0004, "permutation")
    'more than expected by chance (permutation test, p < 0.001)'
    """
    more = "more" if is_significant(p_value) else "not more"
    return f"{more} than expected by chance ({test} test, {_p(p_value)})"


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {number(value, 3)}"


def _expected(facts: Mapping[str, Any]) -> str:
    return f"{number(facts['expected_shared'])} [{facts['expected_shared_low']}, {facts['expected_shared_high']}]"


def _moves(facts: Mapping[str, Any]) -> tuple[Interval, Interval]:
    """Return the shift of the mean layer, and the share of neurons that change layer, in percent."""
    shift = Interval(*(facts[name] for name in ("shift", "shift_low", "shift_high")))
    return shift, Interval(*(100 * facts[name] for name in ("moved_share", "moved_low", "moved_high")))


def _cell(facts: Mapping[str, Any], name: str, digits: int = 0) -> Cell:
    return Cell("n/a" if facts.get(name) is None else number(facts[name], digits))


def _overlap_cells(facts: Mapping[str, Any]) -> list[Cell]:
    is_known = facts.get("expected_shared") is not None
    chance = Cell(_expected(facts), (_p(facts["p_value"]),)) if is_known else Cell("n/a")
    return [*(_cell(facts, name) for name in ("count_a", "count_b", "shared")), chance, _cell(facts, "jaccard", 2)]


def _layer_cells(facts: Mapping[str, Any]) -> list[Cell]:
    means = [_cell(facts, "mean_layer_a", 2), _cell(facts, "mean_layer_b", 2)]
    if facts.get("shift") is None:
        return [*means, Cell("n/a"), Cell("n/a")]
    shift, share = _moves(facts)
    moved = Cell(f"{number(share.value)} %", (between(share), _p(facts["moved_p_value"])))
    return [*means, Cell(signed(shift.value, 2), (between(shift, 2, sign=True),)), moved]
