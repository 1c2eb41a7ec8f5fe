"""What a comparison found, on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from biaslab.evaluation.findings import OVERALL, Findings
from biaslab.report.tables import new_table
from biaslab.statistics import is_significant

_BAR = 16  # characters of the longest bar
_CHANCE = """chance: what random sets share that have as many neurons in each layer, and anywhere: that have as many in
    whichever layers (hypergeometric, exact). p: how often random sets share as many or more. ρ: Spearman's correlation
    of the neurons' mean scores."""
_LAYERS = """shift: of the mean layer. distance: by how many layers a neuron moves on average (earth mover's). moved:
    the share of the neurons that would have to change their layer for A's layers to become B's (total variation); p:
    of it, by a permutation test, which assigns the neurons to A and B at random (shared ones stay if A and B are as
    large). [95 %]: bootstrap over the neurons. Neither knows that other prompts would find other neurons. Each p is of
    its row alone."""
Scopes = Mapping[str, Mapping[str, Any]]


def print_comparison(console: Console, findings: Findings) -> None:
    """Print the tables and what the figures are, at most 80 columns wide."""
    details = findings.details
    same, scopes = details["same_neurons"], details["scopes"]
    for side in "ab":
        console.print(
            f"{side.upper()}: {scopes[OVERALL][f'count_{side}']} neurons, {details[side]['name']}", markup=False
        )
    for note in details["notes"]:
        console.print(note, markup=False)
    console.print(_overlaps(scopes) if same else _numbers(scopes))
    console.print(_migrations(scopes))
    console.print(_layers(scopes[OVERALL], same))
    for text in [_CHANCE, _LAYERS] if same else [_LAYERS]:
        console.print("\n" + " ".join(text.split()), markup=False)
    console.print(f"\n{summary(scopes[OVERALL])}", markup=False)


def _numbers(scopes: Scopes) -> Table:
    table = new_table("Neurons", "", "A", "B")
    for name, facts in scopes.items():
        table.add_row(_words(name), str(facts["count_a"]), str(facts["count_b"]))
    return table


def _scope_table(title: str, *columns: str) -> Table:
    table = new_table(title, "", *columns)
    table.columns[0].no_wrap, table.columns[0].overflow = False, "fold"
    return table


def _overlaps(scopes: Scopes) -> Table:
    table = _scope_table("Neurons", "A only", "shared", "B only", "Jaccard", "chance [95 %]", "p", "anywhere")
    for name, facts in scopes.items():
        low, high = facts["expected_shared_low"], facts["expected_shared_high"]
        table.add_row(
            _words(name),
            *(str(facts[key]) for key in ("only_a", "shared", "only_b")),
            _figure(facts["jaccard"]),
            f"{facts['expected_shared']:.1f} [{low}, {high}]",
            _probability(facts["p_value"]),
            f"{facts['expected_shared_anywhere']:.1f}",
        )
    return table


def _migrations(scopes: Scopes) -> Table:
    title = "Layers: means, shift and distance (layers); moved neurons (percent)"
    table = _scope_table(title, "A", "B", "shift [95 %]", "distance", "moved [95 %]", "p")
    for name, facts in scopes.items():
        cells = ["" if (mean := facts[f"mean_layer_{side}"]) is None else f"{mean:.1f}" for side in "ab"]
        if facts["shift"] is None:
            cells += [""] * 4
        else:
            shift = [f"{facts[key]:+.2f}" for key in ("shift", "shift_low", "shift_high")]
            moved = [f"{100 * facts[key]:.0f}" for key in ("moved_share", "moved_low", "moved_high")]
            both = (f"{value} [{low}, {high}]" for value, low, high in (shift, moved))
            cells += [next(both), f"{facts['distance']:.2f}", next(both), _probability(facts["moved_p_value"])]
        table.add_row(_words(name), *cells)
    return table


def _layers(facts: Mapping[str, Any], same: bool) -> Table:
    """Return the neurons a layer, of all that were compared."""
    rank, sides = facts.get("rank_correlation_layers"), (facts["layers_a"], facts["layers_b"])
    more = [*(["shared"] if same else []), *(["ρ"] if rank else [])]
    table = new_table("Neurons a layer", "layer", "A", "B", *more, "", "")
    for column in table.columns[-2:]:
        column.justify = "left"
    for layer in range(max(map(len, sides))):
        counts = [of_side[layer] if layer < len(of_side) else None for of_side in sides]
        cells = [
            *([str(facts["layers_shared"][layer])] if same else []),
            *([_figure(rank[layer])] if rank else []),
            *(_bar(count, of_side) for count, of_side in zip(counts, sides, strict=True)),
        ]
        table.add_row(str(layer), *("" if count is None else str(count) for count in counts), *cells)
    return table


def summary(facts: Mapping[str, Any]) -> str:
    """Return the overall finding in a few sentences."""
    parts = []
    if facts["shared"] is not None:
        parts.append(
            f"B has {facts['shared']} of A's {facts['count_a']} neurons; random sets with as many in each layer share "
            f"{facts['expected_shared']:.1f}."
        )
    if facts["moved_share"] is not None:
        more = "more than" if is_significant(facts["moved_p_value"]) else "not more than"
        parts.append(
            f"{100 * facts['moved_share']:.0f} % of the neurons lie in other layers, {more} expected by chance "
            f"(permutation test, p = {_probability(facts['moved_p_value'])})."
        )
    if rank := facts.get("rank_correlation"):
        parts.append(f"The rank correlation of all neurons' mean scores is {rank:.2f}.")
    return " ".join(parts) or "There is nothing to compare: a set is empty."


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _words(name: str) -> str:
    """Return a dimension's name as words, which can be wrapped."""
    return name.replace("_", " ")


def _probability(value: float) -> str:
    """Return a probability of at most seven characters.

    >>> [_probability(p) for p in (1.0, 0.24, 0.0005, 2e-123, 0.0)]
    ['1', '0.24', '0.0005', '2e-123', '<1e-300']
    """
    return f"{value:.2g}" if value >= 0.0001 else f"{value:.0e}".replace("e-0", "e-") if value > 0 else "<1e-300"


def _bar(count: int | None, of_side: Sequence[int]) -> str:
    """Return a bar as long as the count is against the largest of its set."""
    return "█" * round(_BAR * (count or 0) / max(1, *of_side))
