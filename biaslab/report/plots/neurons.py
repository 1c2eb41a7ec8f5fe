"""Figures of neurons: their layers, and the largest attribution scores of each layer."""

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from biaslab.neurons.neuron_set import NeuronSet
from biaslab.report.plots.style import BLUE, add_color_bar, name_axes, new_figure

_DIGITS = 48  # that fit above the bars of a panel
_LETTERS = 54  # per line of a panel's title


def layers_by_dimension(neurons: NeuronSet) -> dict[str, list[int]]:
    """Return the number of neurons per layer: of all neurons, and of the subset of each dimension."""
    sets = {"all": neurons} | {name: subset for name, subset in neurons.subsets.items() if "/" not in name}
    return {name: list(subset.layers().values()) for name, subset in sets.items()}


def layer_distribution(counts: Mapping[str, Sequence[int]]) -> Figure:
    """Draw the number of neurons per layer: one panel per named set, on the same scale."""
    titles = [fill(f"{name}: {sum(of)} neurons", _LETTERS) for name, of in counts.items()]
    figure = new_figure(0.5 + 1.15 * len(counts) + 0.15 * "".join(titles).count("\n"))
    panels = figure.subplots(len(counts), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for axes, title, of in zip(panels, titles, counts.values(), strict=True):
        bars = axes.bar(range(len(of)), of, color=BLUE)
        if len(of) * len(str(max(of))) <= _DIGITS:
            axes.bar_label(bars, fontsize="x-small", padding=1)
        axes.set_title(title, fontsize="small", loc="left")
        axes.margins(x=0.02, y=0.25)
        axes.tick_params(labelsize="small")
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[-1].set_xlabel("layer", fontsize="small")
    figure.supylabel("neurons", fontsize="small")
    return figure


def score_heat_map(scores: NDArray[np.floating], ranks: int = 50) -> Figure:
    """Draw the largest attribution scores, ``[layer, neuron]``, of each layer, by rank."""
    largest = -np.sort(-scores, axis=1)[:, :ranks]
    norm = PowerNorm(0.5, vmin=min(0.0, float(largest.min())), vmax=max(0.0, float(largest.max())) or 1e-12)
    figure = new_figure(1.5 + min(3.5, 0.25 * len(largest)))
    axes = figure.subplots()
    image = axes.imshow(
        largest, aspect="auto", origin="lower", cmap="viridis", interpolation="nearest", norm=norm,
        extent=(0.5, largest.shape[1] + 0.5, -0.5, len(largest) - 0.5),
    )  # fmt: skip
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True))
    name_axes(axes, "rank within the layer", "layer")
    add_color_bar(figure, image, "attribution score (square-root colour scale)")
    figure.axes[-1].set_xticks([float(norm.inverse(part)) for part in (0, 0.25, 0.5, 0.75, 1)])
    figure.axes[-1].xaxis.set_major_formatter(lambda value, _: f"{value:.2g}".replace("-", "−"))
    return figure
