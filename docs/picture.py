"""Draw the README's picture from a run of `biaslab debias`: the paper's verification, and ICAT against LMS.

python docs/picture.py runs/debias/version_0
"""

from pathlib import Path

from jsonargparse import auto_cli
from matplotlib.axes import Axes

from biaslab.evaluation.findings import OVERALL, Findings, gap_rows
from biaslab.report.plots import style
from biaslab.report.plots.gaps import PAPER_AMPLIFIED, PAPER_SUPPRESSED
from biaslab.report.runs import read_runs

IMAGE = Path(__file__).parent / "pages" / "images" / "demo"
GAPS = {"gap": ("|P(d1) − P(d2)|", style.BLUE), "log gap": ("|log P(d1) − log P(d2)|", style.ORANGE)}
TREATMENTS = ("suppressed", "amplified", "random neurons,\nsuppressed")


def verification(axes: Axes, findings: Findings) -> None:
    """Draw the mean change of both gaps on held-out prompts; diamonds are the paper's means of the first."""
    for number, (metric, (label, color)) in enumerate(GAPS.items()):
        changes = [findings.estimates[row, metric, OVERALL].change for row in gap_rows(findings)]
        heights = [place + 0.36 * number - 0.18 for place in range(len(changes))]
        axes.barh(heights, [change.value for change in changes], 0.33, xerr=style.arms(changes), color=color,
                  label=label, error_kw={"elinewidth": 0.9})  # fmt: skip
    axes.plot((PAPER_SUPPRESSED, PAPER_AMPLIFIED), (-0.18, 0.82), "D", color=style.RED, markeredgecolor="white",
              label="the paper's mean, BERT")  # fmt: skip
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(TREATMENTS)), TREATMENTS)
    axes.invert_yaxis()
    axes.set_title("Gap between demographics, held-out prompts", fontsize="small")
    style.name_axes(axes, "change, %", "")
    axes.legend(loc="lower right", fontsize="x-small", frameon=False)


def icat_against_lms(axes: Axes, findings: Findings) -> None:
    """Draw ICAT against LMS on StereoSet of the untouched model, suppression, the paper's votes and random neurons."""
    colors = iter(("black", style.BLUE, style.COLORS[4], style.COLORS[2], style.COLORS[3]))
    markers = iter("Xosv^")
    for row in findings.rows_of("ICAT"):
        lms, icat = (findings.estimates[row.name, metric, OVERALL].figure for metric in ("LMS", "ICAT"))
        random = "random" in row.name
        axes.errorbar(lms.value, icat.value, xerr=style.arms([lms]), yerr=style.arms([icat]), label=row.title,
                      fmt="D" if random else next(markers), color=style.GREY if random else next(colors),
                      elinewidth=0.8)  # fmt: skip
    axes.margins(y=0.15)  # room for the legend
    axes.set_title("StereoSet dev: upper right is better", fontsize="small")
    style.name_axes(axes, "LMS, %", "ICAT, %")
    axes.legend(loc="upper left", fontsize="x-small", frameon=False)


def main(run: str) -> None:
    """Write docs/pages/images/demo.png."""
    (read,) = read_runs([run], ["debias"])
    figure = style.new_figure(3.1, 8.6)
    left, right = figure.subplots(1, 2)
    verification(left, read.findings["debias"])
    icat_against_lms(right, read.findings["debias"])
    IMAGE.parent.mkdir(exist_ok=True, parents=True)
    style.save(figure, IMAGE, ["png"])


if __name__ == "__main__":
    auto_cli(main)
