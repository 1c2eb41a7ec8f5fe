"""The figures hold the numbers that were given, take the caller's ink, and are written in three formats."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.text import Text

from biaslab.evaluation.findings import OVERALL, Findings, Row
from biaslab.report.plots.gaps import gap_bars
from biaslab.report.plots.neurons import layer_distribution, score_heat_map
from biaslab.report.plots.stereoset import (
    Dot,
    effects_matrix,
    icat_against_lms,
    icat_before_after,
    sweep_settings,
    trial_dot,
)
from biaslab.report.plots.style import save
from biaslab.statistics import Estimate, Interval

PAIRS = ("gender/female-male", "religion/islam-christianity", "religion/muslim-catholic")
ROWS = ("untouched", "BNS", "random, 2 seeds")


def gap_findings(amplified: float = 40.0, pairs: Sequence[str] = PAIRS, last: float | None = None) -> Findings:
    """Both gaps of some pairs and last their mean; growing, or all alike but the mean's amplified change ``last``."""
    rows = [Row("untouched", "untouched"), Row("BNS", "BNS", 3), Row("random", "random", 3, like="BNS")]
    rows.append(Row("BNS ×2", "BNS ×2", 3, [{"factor": 2.0}]))
    estimates = {}
    for place, scope in enumerate([*pairs, OVERALL]):
        n = place if last is None else 0
        for m, metric in enumerate(("gap", "log gap")):
            doubled = last if scope == OVERALL and last is not None else amplified * (n + 1)
            changes = {"BNS": -90.0 + 10 * n + 5 * m, "BNS ×2": doubled, "random": 3.0 * n}
            for row, value in changes.items():
                change = Interval(value, value - 4, value + 6)
                estimates[row, metric, scope] = Estimate(change, change, 2.0 + n if row == "random" else None)
            estimates["untouched", metric, scope] = Estimate(Interval(1, 1, 1), Interval(0, 0, 0))
    return Findings("debias", "tiny", {"factor": 0.0}, {}, rows, estimates)


def bars(axes) -> list[BarContainer]:
    return [container for container in axes.containers if isinstance(container, BarContainer)]


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def interval(value: float) -> Interval:
    return Interval(value, value - 3, value + 2)


@pytest.mark.parametrize("metric", ["gap", "log gap"])
def test_gap_bars(metric):
    findings, scopes = gap_findings(), [*PAIRS, OVERALL]
    left, right = gap_bars(findings, metric).axes
    for axes, row in ((left, "BNS"), (right, "BNS ×2")):
        (found,) = bars(axes)
        changes = [findings.estimates[row, metric, scope].change for scope in scopes]
        expected = [change.value for change in changes]
        assert [bar.get_width() for bar in found] == expected
        assert texts(axes)[: len(scopes)] == [f"{value:+.0f}".replace("-", "−") for value in expected]
        intervals = [[change.low, change.high] for change in changes]
        assert all(interval in [list(line.get_xdata()) for line in axes.lines] for interval in intervals)
        low, high = axes.get_xlim()
        assert low <= min(0, *expected) <= max(0, *expected) < high
    (random,) = [c for c in left.containers if isinstance(c, ErrorbarContainer)]
    controls = [findings.estimates["random", metric, scope] for scope in scopes]
    assert list(random.lines[0].get_xdata()) == [control.change.value for control in controls]
    (arms,) = random.lines[2]
    half = [(segment[1][0] - segment[0][0]) / 2 for segment in arms.get_segments()]
    assert half == pytest.approx([control.spread for control in controls])
    assert [label.get_text() for label in left.get_yticklabels()] == [
        "gender", "female-male", "religion", "islam-christianity", "muslim-catholic", "mean of the pairs",
    ]  # fmt: skip


def test_the_papers_means_stand_beside_the_papers_gap_only():
    left, right = gap_bars(gap_findings()).axes
    assert (texts(left)[-1], texts(right)[-1]) == ("paper −23", "paper +29")
    assert [-23, -23] in [list(line.get_xdata()) for line in left.lines]
    assert [29, 29] in [list(line.get_xdata()) for line in right.lines]
    assert not any("paper" in text for axes in gap_bars(gap_findings(), "log gap").axes for text in texts(axes))


@pytest.mark.parametrize("amplified", [1.0, 70.0, 900.0, 40_000.0, -20.0])
def test_huge_changes_stay_readable(amplified):
    figure = gap_bars(gap_findings(amplified))
    figure.draw_without_rendering()
    axes = figure.axes[1]
    most = amplified * (len(PAIRS) + 1)
    assert axes.get_xscale() == ("symlog" if most > 300 else "linear")
    (found,) = bars(axes)
    widths = [bar.get_window_extent().width for bar in found]
    assert sorted(widths) == widths
    assert widths[0] > 3 or most <= 300  # pixels


@pytest.mark.parametrize("amplified", [40.0, 40_000.0])
def test_numbers_stand_beside_the_panel_at_the_height_of_their_bars(amplified):
    figure = gap_bars(gap_findings(amplified))
    figure.draw_without_rendering()
    for axes in figure.axes:
        (found,) = bars(axes)
        for bar, number in zip(found, axes.texts, strict=False):
            beside, box = number.get_window_extent(), bar.get_window_extent()
            assert axes.get_window_extent().x1 < beside.x0
            assert box.y0 < (beside.y0 + beside.y1) / 2 < box.y1


def test_layer_distribution():
    counts = {"all": [5, 0, 7], "gender": [1, 2, 3]}
    figure = layer_distribution(counts)
    for axes, (name, expected) in zip(figure.axes, counts.items(), strict=True):
        (found,) = bars(axes)
        assert [bar.get_height() for bar in found] == expected
        assert texts(axes) == [str(count) for count in expected]
        assert axes.get_title(loc="left") == f"{name}: {sum(expected)} neurons"
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    assert texts(layer_distribution({"deep": list(range(48))}).axes[0]) == []


def test_score_heat_map():
    scores = np.random.default_rng(0).normal(size=(3, 20))
    figure = score_heat_map(scores, ranks=4)
    (image,) = figure.axes[0].images
    assert image.get_array().tolist() == [sorted(row, reverse=True)[:4] for row in scores.tolist()]
    assert score_heat_map(scores).axes[0].images[0].get_array().shape == (3, 20)
    score_heat_map(np.zeros((2, 5))).draw_without_rendering()
    score_heat_map(-np.ones((2, 5))).draw_without_rendering()


def test_icat_against_lms():
    points = {row: (interval(80.0 + n), interval(60.0 + n)) for n, row in enumerate(ROWS)}
    figure = icat_against_lms(points)
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
    lines = [c.lines[0] for c in icat_against_lms(points).axes[0].containers]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 16
    icat = {f"row {n}": {"overall": interval(60.0)} for n in range(14)} | {
        f"random {n}": {"overall": interval(60.0)} for n in range(3)
    }
    looks = {(to_hex(c[0].get_facecolor()), c[0].get_hatch()) for c in bars(icat_before_after(icat).axes[0])}
    assert len(looks) == 17


def test_icat_before_after():
    icat = {
        row: {s: interval(60.0 + 7 * n + m) for m, s in enumerate(("overall", "race"))} for n, row in enumerate(ROWS)
    }
    figure = icat_before_after(icat)
    (axes,) = figure.axes
    for container, of in zip(bars(axes), icat.values(), strict=True):
        assert [bar.get_height() for bar in container] == [found.value for found in of.values()]
        segments = container.errorbar.lines[2][0].get_segments()
        assert [s[:, 1].tolist() for s in segments] == [[found.low, found.high] for found in of.values()]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["overall", "race"]
    assert legend(figure) == list(ROWS)
    assert [bool(container[0].get_hatch()) for container in bars(axes)] == [False, False, True]


def test_a_mean_outside_of_its_interval_is_drawn():
    icat_before_after({"untouched": {"overall": Interval(70.0, 71.0, 72.0)}}).draw_without_rendering()


def test_effects_matrix():
    values = [[3.0, -4.0], [float("nan"), 12.4]]
    figure = effects_matrix(
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
    effects_matrix(["a"], ["b"], [[0.0]], [[False]], [[False]]).draw_without_rendering()


def test_letters_on_cells_can_be_read():
    """The contrast ratio of WCAG 2 is at least 4.5 on every cell."""

    def luminance(color) -> float:
        parts = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in color[:3]]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    figure = effects_matrix(["a"], ["b"], [[1.0]], [[False]], [[False]])
    letters = luminance(matplotlib.colors.to_rgb(figure.axes[0].texts[0].get_color()))
    for value in np.linspace(-1, 1, 21).tolist():
        image = figure.axes[0].images[0]
        assert (luminance(image.cmap(image.norm(value))) + 0.05) / (letters + 0.05) > 4.5


def test_sweep_settings():
    base = Dot(84.0, 69.0, 0.0, 1.0)
    dots = [Dot(80.0 + n, 70.0 - n, 5.0 * n, 0.5 * (n % 2)) for n in range(4)]
    figure = sweep_settings(base, dots, dots[2])
    axes, bar = figure.axes
    offsets = [c.get_offsets().tolist() for c in axes.collections if len(c.get_offsets())]
    assert offsets == [
        [[80.0, 70.0], [82.0, 68.0]], [[81.0, 69.0], [83.0, 67.0]], [[84.0, 69.0]], [[82.0, 68.0]],
    ]  # fmt: skip
    assert [c.get_array().tolist() for c in axes.collections if c.get_array() is not None] == [[0.0, 10.0], [5.0, 15.0]]
    factors = figure.legends[0].legend_handles[:2]
    assert [to_hex(handle.get_facecolor()[0]) for handle in factors] == ["#8c8c8c"] * 2  # of no perplexity
    assert legend(figure) == ["×0", "×0.5", "untouched", "chosen"]
    assert bar.get_xlabel() == "change of perplexity, %"


def test_a_trial_becomes_a_point():
    trial = {"LMS": 80.0, "ICAT": 70.0, "perplexity": 44.0, "factor": 0.0, "SS": 55.0}
    assert trial_dot(trial, 40.0) == Dot(80.0, 70.0, pytest.approx(10.0), 0.0)
    assert trial_dot(trial | {"factor": None, "perplexity": 40.0}, 40.0) == Dot(80.0, 70.0, 0.0, 1.0)


def everything() -> list[Figure]:
    points = {row: (interval(80.0), interval(60.0)) for row in ROWS}
    return [
        gap_bars(gap_findings(2000.0)),
        layer_distribution({"all": [1, 2]}),
        score_heat_map(np.random.rand(2, 9)),
        icat_against_lms(points),
        icat_before_after({row: {"overall": interval(60.0)} for row in ROWS}),
        effects_matrix(["a"], ["b"], [[1.0]], [[True]], [[True]]),
        sweep_settings(Dot(84, 69, 0, 1), [Dot(80, 70, 5, 0)], Dot(80, 70, 5, 0)),
    ]


def crowded() -> list[Figure]:
    """As much as ever is to be drawn, under long names."""
    names = ["untouched", *(f"treatment {n} with words of its own, × 0.5" for n in range(10)), "random, as many"]
    points = {name: (interval(80.0 + n), interval(60.0 + n)) for n, name in enumerate(names)}
    scopes = ["overall", "gender", "profession", "race", "religion"]
    icat = {name: dict.fromkeys(scopes, interval(60.0)) for name in names}
    dimensions = ["gender", "religion", "socioeconomic_status", "physical_appearance"]
    pairs = [f"{d}/{w}" for d in dimensions for w in ("african_american-european_american", "muslim-catholic", "a-b")]
    pairs += [f"{dimensions[3]}/{n}-hinduism-christianity" for n in range(27)]

    rows = ["random, as many as socioeconomic_status", *dimensions]
    dots = [Dot(80 + n / 7, 70 - n / 9, 50_000.0 * n, n / 8) for n in range(12)]
    return [
        *(
            gap_bars(gap_findings(amplified, pairs[:count], -120.0))
            for amplified in (50.0, 40_000.0)
            for count in (1, 4, 12, 39)
        ),
        layer_distribution({"/a/long/path/to/a/run/" * 4: [12345] * 12, "gender": [123] * 16}),
        layer_distribution({"all": [1000 + n for n in range(30)], "gender": list(range(30))}),
        score_heat_map(np.random.rand(30, 60) * 1e-5),
        score_heat_map(-np.random.rand(48, 60) * 1e5),
        icat_against_lms(points),
        icat_before_after(icat),
        effects_matrix(rows, scopes[1:], [[-9.94] * 4] * 5, [[True] * 4] * 5, [[True] * 4] * 5),
        effects_matrix(rows, dimensions, [[-9.94] * 4] * 5, [[True] * 4] * 5, [[True] * 4] * 5),
        effects_matrix(rows[1:], dimensions * 3, [[-12.34] * 12] * 4, [[True] * 12] * 4, [[True] * 12] * 4),
        sweep_settings(Dot(84, 69, 0, 1), dots, dots[3]),
    ]


def letters(figure: Figure) -> list[Text]:
    """Return all texts but the labels of ticks outside of their axis, which matplotlib keeps but doesn't draw."""
    hidden: set[Text] = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        outside = [tick for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high]
        hidden |= {label for tick in outside for label in (tick.label1, tick.label2)}
    return [t for t in figure.findobj(Text) if t.get_text() and t.get_visible() and t not in hidden]


def test_no_letters_overlap_or_are_cut_off():
    for figure in [*everything(), *crowded()]:
        figure.draw_without_rendering()
        drawn = [(text, text.get_window_extent()) for text in letters(figure)]
        for text, box in drawn:
            inside = box.x0 > -1 and box.y0 > -1 and box.x1 < figure.bbox.x1 + 1 and box.y1 < figure.bbox.y1 + 1
            assert inside, f"{text} is cut off"
        upright = [(text, box.padded(-0.5)) for text, box in drawn if text.get_rotation() in (0, 90)]
        for (first, one), (second, other) in itertools.combinations(upright, 2):
            assert not one.overlaps(other), f"{first} and {second} overlap"
        for axes in figure.axes:
            assert axes.get_window_extent().width > 0.2 * figure.bbox.width, "names leave no room"


def test_save_writes_three_formats_and_the_same_bytes_each_time(tmp_path: Path):
    for number, figure in enumerate(everything()):
        save(figure, tmp_path / f"v1.{number}")
        png, svg, pdf = ((tmp_path / f"v1.{number}.{suffix}").read_bytes() for suffix in ("png", "svg", "pdf"))
        assert png.startswith(b"\x89PNG")
        assert pdf.startswith(b"%PDF")
        assert b"<svg" in svg
        assert b"<text" not in svg  # letters are outlines
    save(layer_distribution({"all": [1, 2]}), tmp_path / "again")
    save(layer_distribution({"all": [1, 2]}), tmp_path / "some", ("svg",))
    assert [path.name for path in tmp_path.glob("some.*")] == ["some.svg"]
    for suffix in ("png", "svg", "pdf"):
        assert (tmp_path / f"again.{suffix}").read_bytes() == (tmp_path / f"v1.1.{suffix}").read_bytes()


def test_ink_is_the_callers():
    ink = "#abcdef"
    names = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
    with matplotlib.rc_context(dict.fromkeys(names, ink) | {"axes.titlecolor": "auto"}):
        for figure in everything():
            figure.draw_without_rendering()
            of_letters = {to_hex(text.get_color()) for text in figure.findobj(Text) if text.get_text()}
            assert of_letters - {"#1a1a1a"} == {ink}  # the other one is for cells that are light on any page
            colors = {to_hex(line.get_color()) for line in figure.findobj(matplotlib.lines.Line2D)}
            assert not colors & {"#000000", "#ffffff"}


def test_small_letters_are_legible_on_a_telephone():
    """On 360 pixels none is smaller than 8."""
    for figure in everything():
        sizes = [t.get_fontsize() for t in figure.findobj(Text) if t.get_text() and t.get_visible()]
        assert min(sizes) / 72 * 360 / figure.get_figwidth() >= 8
        assert not math.isnan(figure.get_figheight())
