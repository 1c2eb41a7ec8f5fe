"""Figures, drawn by matplotlib without a screen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from biaslab.trials import Trial

_WIDTH, _HEIGHT = 6.4, 4.2  # inches
_MARKERS = "osD^vP*X"


def icat_against_lms(base: Trial, trials: Sequence[Trial], chosen: Trial, path: Path) -> None:
    """Draw each setting's ICAT against its LMS, coloured by the change of perplexity, as PNG and SVG.

    Args:
        base: the untouched model.
        trials: of the grid.
        chosen: one of them, ringed.
        path: of the files, without a suffix.
    """
    figure = Figure(figsize=(_WIDTH, _HEIGHT), layout="constrained")
    axes = figure.subplots()
    changes = [100 * (trial.perplexity / base.perplexity - 1) for trial in trials]
    low, high = min(0.0, *changes), max(1.0, *changes)
    factors = sorted({trial.setting.factor for trial in trials if trial.setting is not None})
    for marker, factor in zip(_MARKERS, factors, strict=False):
        own = [(t, c) for t, c in zip(trials, changes, strict=True) if t.setting and t.setting.factor == factor]
        points = axes.scatter(
            [t.lms for t, _ in own], [t.icat for t, _ in own], c=[c for _, c in own], vmin=low, vmax=high,
            marker=marker, s=28, cmap="viridis", label=f"×{factor:g}",
        )  # fmt: skip
    axes.scatter(base.lms, base.icat, marker="+", s=120, color="black", label="untouched")
    axes.scatter(chosen.lms, chosen.icat, s=160, facecolors="none", edgecolors="crimson", label="chosen")
    axes.axvline(base.lms, color="grey", linewidth=0.8, linestyle=":")
    axes.axhline(base.icat, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel="LMS, %", ylabel="ICAT, %", title="Suppression settings: ICAT against LMS")
    figure.colorbar(points, label="change of perplexity, %")
    figure.legend(fontsize="small", loc="outside lower center", ncols=len(factors) + 2)
    for suffix in ("png", "svg"):
        figure.savefig(path.with_suffix(f".{suffix}"), dpi=160)
