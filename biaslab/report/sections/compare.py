"""The chapters of a comparison of two neuron sets, of black-box probing, and of parts that lie in a folder alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from biaslab.evaluation.findings_old import BASE, Estimate
from biaslab.report.parts import OVERALL, Cell, Chapter, Draw, Section, Table, figure_cell
from biaslab.report.plots.neurons import layer_distribution
from biaslab.report.runs import Run, interval
from biaslab.report.sections.debias import cards_section
from biaslab.report.sections.side_effects import effects_answer, effects_section
from biaslab.report.words import between, change_text, excludes_zero, moved, number, settings_facts, signed
from biaslab.statistics import Interval

_SIGNIFICANT = 0.05
_MEASURES = {"biased": "biased outputs, %", "mass_difference": "mass difference, points"}


def compare_chapter(run: Run, key: str, draw: Draw) -> Chapter:
    """Return what a comparison tells.

    Args:
        run: with the part "compare".
        key: goes before the keys of all its elements.
        draw: makes the figures.
    """
    content = run.parts["compare"]
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
        Section(f"{key}-settings", "Settings", facts=settings_facts(content["settings"])),
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
        sentences.append("A neuron of one model is none of the other's, so only numbers and layers are compared.")
    else:
        more = "more than" if overall["p_value"] < _SIGNIFICANT else "not more than"
        sentences.append(
            f"They share {overall['shared']}; random sets with as many in each layer share "
            f"{_expected(overall)}: "
            f"that is {more} chance alone makes likely (p {_p(overall['p_value'])})."
        )
    if overall.get("shift") is not None:
        shift = Interval(overall["shift"], overall["shift_low"], overall["shift_high"])
        sentences.append(_shift(shift))
    if overall.get("moved_share") is not None:
        told = "more than" if overall["moved_p_value"] < _SIGNIFICANT else "not more than"
        share = Interval(*(100 * overall[name] for name in ("moved_share", "moved_low", "moved_high")))
        sentences.append(
            f"To make A's layers B's, {number(share.value)} % {between(share)} of the neurons would have to change "
            f"their layer: {told} a random deal makes likely (p {_p(overall['moved_p_value'])})."
        )
    return sentences


def _expected(facts: Mapping[str, Any]) -> str:
    ends = f"[{facts['expected_shared_low']}, {facts['expected_shared_high']}]"
    return f"{number(facts['expected_shared'])} {ends}"


def _shift(shift: Interval) -> str:
    by = f"{signed(shift.value, 2)} layers {between(shift, 2, sign=True)}"
    if not excludes_zero(shift):
        return f"The mean layer differs by {by}, which can't be told from no difference."
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


def probe_chapter(run: Run, key: str, draw: Draw) -> Chapter:
    """Return what black-box probing tells.

    Args:
        run: with the part "probe".
        key: goes before the keys of all its elements.
        draw: not needed: this chapter has no figures.
    """
    content = run.parts["probe"]
    rows, count = content["rows"], len(content["wordings"])
    cells = [
        (f"{name} ({row['neurons']})", [_probe_cell(row[measure], name) for measure in _MEASURES])
        for name, row in rows.items()
    ]
    table = Table(f"{key}-measures", "Answers of the model", ["", *_MEASURES.values()], cells)
    wordings = [
        (wording, [Cell(number(row["biased"]["by_wording"][place])) for row in rows.values()])
        for place, wording in enumerate(content["wordings"])
    ]
    by_wording = Table(f"{key}-wordings", "Biased outputs by wording, %", ["wording", *rows], wordings)
    sections = [
        Section(f"{key}-answers", "Answers", [content["definition"]], tables=[table], folded=[by_wording]),
        Section(f"{key}-settings", "Settings", facts=settings_facts(content["settings"])),
    ]
    asked = f"Does {run.model} judge a woman and a man differently for the same deed, asked in {count} wordings?"
    return Chapter(key, f"Asked from outside: {run.model}", run.place, asked, probe_answer(rows), sections=sections)


def _probe_estimate(content: Mapping[str, Any]) -> Estimate:
    return Estimate(interval(content["figure"]), interval(content["change"]), content["spread_over_seeds"])


def _probe_cell(content: Mapping[str, Any], row: str) -> Cell:
    cell = figure_cell("probe", _probe_estimate(content), row != BASE)
    over = content["over_wordings"]
    wordings = f"± {number(over['deviation'])} over wordings; {number(over['low'])} to {number(over['high'])}"
    return cell._replace(more=(*cell.more, wordings))


def probe_answer(rows: Mapping[str, Any]) -> list[str]:
    """Return the outcome of probing, whatever it is."""
    before, *others = rows
    untouched = _probe_estimate(rows[before]["biased"])
    over = rows[before]["biased"]["over_wordings"]
    sentences = [
        f"Untouched, {number(untouched.figure.value)} % {between(untouched.figure)} of its answers praise one of the "
        f"two and blame the other; from wording to wording that is {number(over['low'])} to {number(over['high'])} %."
    ]
    if others:
        change = _probe_estimate(rows[others[0]]["biased"]).change
        sentences.append(f"With {rows[others[0]]['neurons']} neurons suppressed ({others[0]}), it {moved(change)}.")
    for name in others[1:]:
        change = _probe_estimate(rows[name]["biased"]).change
        sentences.append(f"With as many random neurons ({name}) it changes by {change_text(change)}.")
    return sentences


def effects_chapter(run: Run, key: str, draw: Draw) -> Chapter:
    """Return what side effects tell where they lie in a folder of their own.

    Args:
        run: with the part "side-effects".
        key: goes before the keys of all its elements.
        draw: makes the figures.
    """
    content = run.parts["side-effects"]
    asked = f"What do the neurons of one dimension do to the others in {run.model}?"
    return Chapter(
        key, f"Side effects in {run.model}", run.place, asked, effects_answer(content),
        sections=[effects_section(run, key, draw)],
    )  # fmt: skip


def cards_chapter(run: Run, key: str, draw: Draw) -> Chapter:
    """Return neuron cards that lie in a folder of their own.

    Args:
        run: with the part "cards".
        key: goes before the keys of all its elements.
        draw: not needed: this chapter has no figures.
    """
    cards = run.parts["cards"]["cards"]
    asked = f"What excites single neurons of {run.model}, and which words do they promote?"
    answer = [f"{len(cards)} neurons are described, those with the largest mean scores."]
    return Chapter(key, f"Neurons of {run.model}", run.place, asked, answer, sections=[cards_section(run, key)])
