"""What a comparison found: on the terminal, as JSON and as CSV."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from biaslab.evaluation.findings_old import new_table, write_csv
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.neurons.overlap import OVERALL, SIGNIFICANT, Comparison, Measure
from biaslab.store import write_atomically

_BAR = 16  # characters of the longest bar
_CHANCE = """chance: what random sets share that have as many neurons in each layer, and anywhere: that have as many in
    whichever layers (hypergeometric, exact). p: how often random sets share as many or more. ρ: Spearman's correlation
    of the neurons' mean scores."""
_LAYERS = """shift: of the mean layer. distance: by how many layers a neuron moves on average (earth mover's). moved:
    the share of the neurons that would have to change their layer for A's layers to become B's (total variation); p:
    of it, by a permutation test, which deals the neurons to A and B at random (shared ones stay if A and B are as
    large). [95 %]: bootstrap over the neurons. Neither knows that other prompts would find other neurons. Each p is of
    its row alone."""


class Given(NamedTuple):
    """What an argument stands for.

    Attributes:
        name: as it is printed.
        model: what :func:`biaslab.models.loading.load_model` takes; None for a neuron file.
        neurons: of a neuron file; None for a model.
        weights: fingerprints of the model, and of that which it was trained from where that is known.
    """

    name: str
    model: str | None
    neurons: NeuronSet | None
    weights: tuple[str, ...]


class Side(NamedTuple):
    """One of the two that are compared.

    Attributes:
        given: what was asked for.
        file: the neuron file.
        neurons: that it holds.
    """

    given: Given
    file: Path
    neurons: NeuronSet

    def facts(self) -> dict[str, Any]:
        """Return what the report says of it."""
        model = self.neurons.provenance.get("model", {})
        return {
            "name": self.given.name, "neurons": str(self.file), "model": self.given.model or model.get("name"),
            "fingerprint": model.get("fingerprint"), "shape": self.neurons.shape,
        }  # fmt: skip


class Outcome(NamedTuple):
    """All that ``biaslab compare`` found.

    Attributes:
        a: the first.
        b: the second.
        same_neurons: whether neurons were compared one by one, rather than only numbers and layers.
        notes: what a reader should know, a sentence or two each.
        settings: of the command.
        scopes: the comparisons, overall and by dimension.
        ranks: by scope, Spearman's correlation of the mean scores ("rank_correlation", "rank_correlation_layers"),
            where there are scores.
    """

    a: Side
    b: Side
    same_neurons: bool
    notes: Sequence[str]
    settings: Mapping[str, Any]
    scopes: Mapping[str, Comparison]
    ranks: Mapping[str, Mapping[str, Any]]

    def content(self) -> dict[str, Any]:
        """Return all figures, as they are written."""
        no_ranks = {"rank_correlation": None, "rank_correlation_layers": None}
        return {
            "a": self.a.facts(),
            "b": self.b.facts(),
            "same_neurons": self.same_neurons,
            "notes": list(self.notes),
            "settings": dict(self.settings),
            "scopes": {
                name: found.facts() | dict(self.ranks.get(name, no_ranks)) for name, found in self.scopes.items()
            },
        }

    def write(self, folder: Path) -> None:
        """Write comparison.csv and comparison.json into a folder, which is made."""
        folder.mkdir(exist_ok=True)
        content = self.content()
        write_csv(folder / "comparison.csv", [_line(name, facts) for name, facts in content["scopes"].items()])
        write_atomically(folder / "comparison.json", (json.dumps(content, indent=1) + "\n").encode())

    def print(self, console: Console) -> None:
        """Print the tables and what the figures are, at most 80 columns wide."""
        for name, side in (("A", self.a), ("B", self.b)):
            console.print(f"{name}: {len(side.neurons)} neurons, {side.given.name}", markup=False)
        for note in self.notes:
            console.print(note, markup=False)
        console.print(self._overlaps() if self.same_neurons else self._numbers())
        console.print(self._migrations())
        console.print(self._layers())
        for text in [_CHANCE, _LAYERS] if self.same_neurons else [_LAYERS]:
            console.print("\n" + " ".join(text.split()), markup=False)
        console.print(f"\n{self.summary()}", markup=False)

    def _numbers(self) -> Table:
        table = new_table("Neurons", "", "A", "B")
        for name, found in self.scopes.items():
            table.add_row(_words(name), str(sum(found.layers_a)), str(sum(found.layers_b)))
        return table

    def _overlaps(self) -> Table:
        names = ("A only", "shared", "B only", "Jaccard", "chance [95 %]", "p", "anywhere")
        table = new_table("Neurons", "", *names)
        table.columns[0].no_wrap, table.columns[0].overflow = False, "fold"
        for name, found in self.scopes.items():
            overlap = found.overlap
            assert overlap is not None
            chance, anywhere = overlap.chance, overlap.anywhere
            table.add_row(
                _words(name),
                *(str(number) for number in (overlap.only_a, overlap.shared, overlap.only_b)),
                _figure(overlap.jaccard),
                f"{chance.expected:.1f} [{chance.low}, {chance.high}]",
                _probability(chance.p_value),
                f"{anywhere.expected:.1f}",
            )
        return table

    def _migrations(self) -> Table:
        table = new_table(
            "Layers: means, shift and distance (layers); moved neurons (percent)",
            "", "A", "B", "shift [95 %]", "distance", "moved [95 %]", "p",
        )  # fmt: skip
        table.columns[0].no_wrap, table.columns[0].overflow = False, "fold"
        for name, found in self.scopes.items():
            facts = found.facts()
            means = ["" if (mean := facts[f"mean_layer_{side}"]) is None else f"{mean:.1f}" for side in "ab"]
            table.add_row(_words(name), *means, *_cells(found))
        return table

    def _layers(self) -> Table:
        """Return the neurons a layer, of all that were compared."""
        found, rank = self.scopes[OVERALL], self.ranks.get(OVERALL, {}).get("rank_correlation_layers")
        shared = (self.a.neurons & self.b.neurons).layers() if self.same_neurons else {}
        more = [*(["shared"] if self.same_neurons else []), *(["ρ"] if rank else [])]
        table = new_table("Neurons a layer", "layer", "A", "B", *more, "", "")
        for column in table.columns[-2:]:
            column.justify = "left"
        sides = (found.layers_a, found.layers_b)
        for layer in range(max(map(len, sides))):
            counts = [counts[layer] if layer < len(counts) else None for counts in sides]
            cells = [*([str(shared[layer])] if self.same_neurons else []), *([_figure(rank[layer])] if rank else [])]
            bars = [_bar(count, counts) for count, counts in zip(counts, sides, strict=True)]
            table.add_row(str(layer), *("" if count is None else str(count) for count in counts), *cells, *bars)
        return table

    def summary(self) -> str:
        """Return the overall finding in a few sentences."""
        found = self.scopes[OVERALL]
        parts = []
        if found.overlap is not None:
            parts.append(
                f"B has {found.overlap.shared} of A's {sum(found.layers_a)} neurons; random sets with as many in each "
                f"layer share {found.overlap.chance.expected:.1f}."
            )
        if found.migration is not None:
            moved = found.migration.moved
            told = "more than" if moved.p_value <= SIGNIFICANT else "which can't be told from"
            parts.append(
                f"{100 * moved.value:.0f} % of the neurons lie in other layers, {told} what chance makes "
                f"(p = {_probability(moved.p_value)})."
            )
        if rank := self.ranks.get(OVERALL, {}).get("rank_correlation"):
            parts.append(f"The rank correlation of all neurons' mean scores is {rank:.2f}.")
        return " ".join(parts) or "There is nothing to compare: a set is empty."


def _cells(found: Comparison) -> list[str]:
    """Return the cells of shift, distance, share and its p."""
    if found.migration is None:
        return [""] * 4
    shift, distance, moved = found.migration
    share = _interval(moved, ".0f", scale=100)
    return [_interval(shift, "+.2f"), f"{distance.value:.2f}", share, _probability(moved.p_value)]


def _interval(measure: Measure, form: str, scale: float = 1) -> str:
    value, low, high = (format(scale * number, form) for number in measure[:3])
    return f"{value} [{low}, {high}]"


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


def _bar(count: int | None, of: Sequence[int]) -> str:
    """Return a bar as long as the count is against the largest of its set."""
    return "█" * round(_BAR * (count or 0) / max(1, *of))


def _line(name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return a scope's line; a list is written with spaces."""
    return {"scope": name} | {k: " ".join(map(str, v)) if isinstance(v, list) else v for k, v in facts.items()}
