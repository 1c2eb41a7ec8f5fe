"""The figures hold the numbers that were given, take the caller's ink, and are written in three formats."""

import math
from pathlib import Path

import matplotlib
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure

from biaslab import pictures
from biaslab.figure_style import save
from biaslab.metrics.stereoset import Interval

PAIRS = ("gender/female-male", "religion/islam-christianity", "religion/muslim-catholic", "mean of the pairs")
ROWS = ("untouched", "BNS", "random, 2 seeds")


def gap_rows(amplified: float = 40.0) -> list[dict]:
    fields = ("probability", "log_probability")
    return [
        {"pair": pair}
        | {f"{field}_suppressed_percent": -90.0 + 10 * n + 5 * f for f, field in enumerate(fields)}
        | {f"{field}_amplified_percent": amplified * (n + 1) for field in fields}
        | {f"{field}_random_percent": 3.0 * n for field in fields}
        | {f"{field}_random_spread": 2.0 + n for field in fields}
        for n, pair in enumerate(PAIRS)
    ]


def bars(axes) -> list[BarContainer]:
    return [container for container in axes.containers if isinstance(container, BarContainer)]


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def interval(value: float) -> Interval:
    return Interval(value, value - 3, value + 2)


@pytest.mark.parametrize("field", ["probability", "log_probability"])
def test_gap_bars(field):
    rows = gap_rows()
    left, right = pictures.gap_bars(rows, field).axes
    for axes, how in ((left, "suppressed"), (right, "amplified")):
        (found,) = bars(axes)
        expected = [row[f"{field}_{how}_percent"] for row in rows]
        assert [bar.get_width() for bar in found] == expected
        assert texts(axes)[: len(rows)] == [f"{value:+.0f}".replace("-", "−") for value in expected]
        low, high = axes.get_xlim()
        assert low <= min(0, *expected) <= max(0, *expected) < high
    (random,) = [c for c in left.containers if isinstance(c, ErrorbarContainer)]
    assert list(random.lines[0].get_xdata()) == [row[f"{field}_random_percent"] for row in rows]
    (arms,) = random.lines[2]
    half = [(segment[1][0] - segment[0][0]) / 2 for segment in arms.get_segments()]
    assert half == pytest.approx([row[f"{field}_random_spread"] for row in rows])
    assert [label.get_text() for label in left.get_yticklabels()] == [
        "gender", "female-male", "religion", "islam-christianity", "muslim-catholic", "mean of the pairs",
    ]  # fmt: skip


def test_the_papers_means_stand_beside_the_papers_gap_only():
    left, right = pictures.gap_bars(gap_rows()).axes
    assert (texts(left)[-1], texts(right)[-1]) == ("paper −23", "paper +29")
    assert [-23, -23] in [list(line.get_xdata()) for line in left.lines]
    assert [29, 29] in [list(line.get_xdata()) for line in right.lines]
    assert not any(
        "paper" in text for axes in pictures.gap_bars(gap_rows(), "log_probability").axes for text in texts(axes)
    )


@pytest.mark.parametrize("amplified", [1.0, 70.0, 900.0, 40_000.0, -20.0])
def test_huge_changes_stay_readable(amplified):
    rows = gap_rows(amplified)
    figure = pictures.gap_bars(rows)
    figure.draw_without_rendering()
    axes = figure.axes[1]
    most = amplified * len(rows)
    assert axes.get_xscale() == ("symlog" if most > 300 else "linear")
    frame, label = axes.get_window_extent(), axes.texts[len(rows) - 1].get_window_extent()
    assert frame.x0 <= label.x0
    assert label.x1 <= frame.x1
    smallest = axes.transData.transform((rows[0]["probability_amplified_percent"], 0)) - axes.transData.transform(
        (0, 0)
    )
    assert abs(smallest[0]) > 3 or most <= 300  # pixels


def test_layer_distribution():
    counts = {"all": [5, 0, 7], "gender": [1, 2, 3]}
    figure = pictures.layer_distribution(counts)
    for axes, (name, expected) in zip(figure.axes, counts.items(), strict=True):
        (found,) = bars(axes)
        assert [bar.get_height() for bar in found] == expected
        assert texts(axes) == [str(count) for count in expected]
        assert axes.get_title(loc="left") == f"{name}: {sum(expected)} neurons"
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    assert texts(pictures.layer_distribution({"deep": list(range(48))}).axes[0]) == []


def test_score_heat_map():
    scores = torch.randn(3, 20, generator=torch.Generator().manual_seed(0))
    figure = pictures.score_heat_map(scores, ranks=4)
    (image,) = figure.axes[0].images
    assert image.get_array().tolist() == [sorted(row, reverse=True)[:4] for row in scores.tolist()]
    assert pictures.score_heat_map(scores).axes[0].images[0].get_array().shape == (3, 20)
    pictures.score_heat_map(torch.zeros(2, 5)).draw_without_rendering()
    pictures.score_heat_map(-torch.ones(2, 5)).draw_without_rendering()


def test_icat_against_lms():
    points = {row: (interval(80.0 + n), interval(60.0 + n)) for n, row in enumerate(ROWS)}
    figure = pictures.icat_against_lms(points)
    found = [c for c in figure.axes[0].containers if isinstance(c, ErrorbarContainer)]
    for container, (lms, icat) in zip(found, points.values(), strict=True):
        assert (container.lines[0].get_xdata()[0], container.lines[0].get_ydata()[0]) == (lms.value, icat.value)
        across, up = container.lines[2]
        assert across.get_segments()[0][:, 0].tolist() == [lms.low, lms.high]
        assert up.get_segments()[0][:, 1].tolist() == [icat.low, icat.high]
    assert legend(figure) == list(ROWS)
    base, _, random = found
    assert base.lines[0].get_marker() == "+"
    assert random.lines[0].get_markerfacecolor() == "none"


def test_many_treatments_look_different():
    points = {f"row {n}": (interval(80.0 + n), interval(60.0)) for n in range(16)}
    lines = [c.lines[0] for c in pictures.icat_against_lms(points).axes[0].containers]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 16


def test_icat_before_after():
    icat = {
        row: {s: interval(60.0 + 7 * n + m) for m, s in enumerate(("overall", "race"))} for n, row in enumerate(ROWS)
    }
    figure = pictures.icat_before_after(icat)
    (axes,) = figure.axes
    for container, of in zip(bars(axes), icat.values(), strict=True):
        assert [bar.get_height() for bar in container] == [found.value for found in of.values()]
        segments = container.errorbar.lines[2][0].get_segments()
        assert [s[:, 1].tolist() for s in segments] == [[found.low, found.high] for found in of.values()]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["overall", "race"]
    assert legend(figure) == list(ROWS)
    assert [bool(container[0].get_hatch()) for container in bars(axes)] == [False, False, True]


def test_a_mean_outside_of_its_interval_is_drawn():
    pictures.icat_before_after({"untouched": {"overall": Interval(70.0, 71.0, 72.0)}}).draw_without_rendering()


def test_effects_matrix():
    values = [[3.0, -4.0], [float("nan"), 12.4]]
    figure = pictures.effects_matrix(
        ["gender", "race"], ["gender", "race"], values, [[True, False]] * 2, [[True, False], [False, True]]
    )
    (axes,) = figure.axes
    assert texts(axes) == ["+3.0*", "−4.0", "+12"]
    (image,) = axes.images
    assert (image.norm.vmin, image.norm.vmax) == (-12.4, 12.4)
    assert [(round(p.get_x() + 0.46), round(p.get_y() + 0.44)) for p in axes.patches] == [(0, 0), (1, 1)]
    gain, loss = (image.cmap(image.norm(value)) for value in (10.0, -10.0))
    assert gain[2] > gain[0]  # blue
    assert loss[0] > loss[2]  # orange
    pictures.effects_matrix(["a"], ["b"], [[0.0]], [[False]], [[False]]).draw_without_rendering()


def test_letters_on_cells_can_be_read():
    """The contrast ratio of WCAG 2 is at least 4.5 on every cell."""

    def luminance(color) -> float:
        parts = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in color[:3]]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    figure = pictures.effects_matrix(["a"], ["b"], [[1.0]], [[False]], [[False]])
    letters = luminance(matplotlib.colors.to_rgb(figure.axes[0].texts[0].get_color()))
    for value in torch.linspace(-1, 1, 21).tolist():
        image = figure.axes[0].images[0]
        assert (luminance(image.cmap(image.norm(value))) + 0.05) / (letters + 0.05) > 4.5


def test_sweep_settings():
    base = pictures.Dot(84.0, 69.0, 0.0, 1.0)
    dots = [pictures.Dot(80.0 + n, 70.0 - n, 5.0 * n, 0.5 * (n % 2)) for n in range(4)]
    figure = pictures.sweep_settings(base, dots, dots[2])
    axes, bar = figure.axes
    offsets = [c.get_offsets().tolist() for c in axes.collections]
    assert offsets == [
        [[80.0, 70.0], [82.0, 68.0]], [[81.0, 69.0], [83.0, 67.0]], [[84.0, 69.0]], [[82.0, 68.0]],
    ]  # fmt: skip
    assert axes.collections[1].get_array().tolist() == [5.0, 15.0]
    assert legend(figure) == ["×0", "×0.5", "untouched", "chosen"]
    assert bar.get_xlabel() == "change of perplexity, %"


def everything() -> list[Figure]:
    points = {row: (interval(80.0), interval(60.0)) for row in ROWS}
    return [
        pictures.gap_bars(gap_rows(2000.0)),
        pictures.layer_distribution({"all": [1, 2]}),
        pictures.score_heat_map(torch.rand(2, 9)),
        pictures.icat_against_lms(points),
        pictures.icat_before_after({row: {"overall": interval(60.0)} for row in ROWS}),
        pictures.effects_matrix(["a"], ["b"], [[1.0]], [[True]], [[True]]),
        pictures.sweep_settings(pictures.Dot(84, 69, 0, 1), [pictures.Dot(80, 70, 5, 0)], pictures.Dot(80, 70, 5, 0)),
    ]


def test_save_writes_three_formats_and_the_same_bytes_each_time(tmp_path: Path):
    for number, figure in enumerate(everything()):
        save(figure, tmp_path / f"v1.{number}")
        png, svg, pdf = ((tmp_path / f"v1.{number}.{suffix}").read_bytes() for suffix in ("png", "svg", "pdf"))
        assert png.startswith(b"\x89PNG")
        assert pdf.startswith(b"%PDF")
        assert b"<svg" in svg
        assert b"<text" not in svg  # letters are outlines
    save(pictures.layer_distribution({"all": [1, 2]}), tmp_path / "again")
    for suffix in ("png", "svg", "pdf"):
        assert (tmp_path / f"again.{suffix}").read_bytes() == (tmp_path / f"v1.1.{suffix}").read_bytes()


def test_ink_is_the_callers():
    ink = "#abcdef"
    names = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    with matplotlib.rc_context(dict.fromkeys(names, ink) | {"axes.titlecolor": "auto"}):
        for figure in everything():
            figure.draw_without_rendering()
            colors = {to_hex(text.get_color()) for text in figure.findobj(matplotlib.text.Text) if text.get_text()}
            colors |= {to_hex(line.get_color()) for line in figure.findobj(matplotlib.lines.Line2D)}
            assert not colors & {"#000000", "#ffffff"}
            assert ink in colors


def test_small_letters_are_legible_on_a_telephone():
    """On 360 pixels none is smaller than 8."""
    for figure in everything():
        sizes = [t.get_fontsize() for t in figure.findobj(matplotlib.text.Text) if t.get_text() and t.get_visible()]
        assert min(sizes) / 72 * 360 / figure.get_figwidth() >= 8
        assert not math.isnan(figure.get_figheight())
