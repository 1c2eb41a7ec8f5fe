"""Numbers in words: what a change means, and sentences that hold whatever the numbers are."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import yaml

from biaslab.evaluation.findings_old import Estimate
from biaslab.evaluation.gaps import gap_change
from biaslab.statistics import Interval

Verdict = Literal["", "better", "worse", "unclear", "past"]
LABELS: dict[Verdict, str] = {
    "": "", "better": "better", "worse": "worse", "unclear": "no clear change", "past": "past 50",
}  # fmt: skip
IDEALLY_HALF = ("SS", "CrowS-Pairs")  # in percent: the distance from 50 is what counts
_UNCLEAR = "which can't be told from no change"


class Tile(NamedTuple):
    """A figure that a reader sees first.

    Attributes:
        name: of the metric.
        ideal: what it would be at best.
        before: of the untouched model.
        after: of the treated one.
        change: with its interval.
        verdict: what the change means.
    """

    name: str
    ideal: str
    before: str
    after: str
    change: str
    verdict: Verdict


def number(value: float, digits: int = 1, sign: bool = False) -> str:
    """Return a number as it is printed, with a real minus sign; "n/a" where it is not defined.

    >>> number(-1117.849, 0), number(0.04, 1, sign=True), number(float("nan"))
    ('−1,118', '+0.0', 'n/a')
    """
    if not math.isfinite(value):
        return "n/a"
    text = f"{value:{'+' if sign else ''},.{digits}f}"
    text = text.replace("-", "+" if sign else "") if not float(text.replace(",", "")) else text  # no minus zero
    return text.replace("-", "−")


def signed(value: float, digits: int = 1) -> str:
    """Return a number with its sign."""
    return number(value, digits, sign=True)


def between(interval: Interval, digits: int = 1, sign: bool = False) -> str:
    """Return the two ends of an interval.

    >>> between(Interval(1.0, -0.5, 2.5), sign=True)
    '[−0.5, +2.5]'
    """
    return f"[{number(interval.low, digits, sign)}, {number(interval.high, digits, sign)}]"


def change_text(interval: Interval, unit: str = "", digits: int = 1) -> str:
    """Return a change and its interval.

    >>> change_text(Interval(-5.34, -7.63, -3.24), " %")
    '−5.3 % [−7.6, −3.2]'
    """
    return f"{signed(interval.value, digits)}{unit} {between(interval, digits, sign=True)}"


def excludes_zero(change: Interval) -> bool:
    """Return whether a change can be told from none: its interval has both ends on one side of zero."""
    return change.low > 0 or change.high < 0


def verdict(metric: str, estimate: Estimate) -> Verdict:
    """Say what a metric's change means.

    Where a score that is best at 50 went past it to the other side, its interval says nothing of the distance: that is
    a verdict of its own.

    Args:
        metric: "SS", "LMS", "ICAT", "CrowS-Pairs", "perplexity"; all others are better where they are lower.
        estimate: its figure, and the change that led to it.
    """
    after, change = estimate.figure.value, estimate.change
    if not all(map(math.isfinite, (after, change.value, change.low, change.high))):
        return ""
    if not excludes_zero(change):
        return "unclear"
    if metric in IDEALLY_HALF:
        before = after - change.value
        if (before - 50) * (after - 50) < 0:
            return "past"
        return "better" if abs(after - 50) < abs(before - 50) else "worse"
    rises = change.value > 0
    return "better" if rises is (metric in ("LMS", "ICAT")) else "worse"


def tile(metric: str, ideal: str, estimate: Estimate, unit: str = "", percent: bool = False) -> Tile:
    """Return a metric's tile.

    Args:
        metric: its name.
        ideal: what it would be at best.
        estimate: its figure and change.
        unit: of the change.
        percent: whether the change is in percent of what was before, not in points.
    """
    after, change = estimate.figure.value, estimate.change
    before = after / (1 + change.value / 100) if percent else after - change.value
    return Tile(metric, ideal, number(before), number(after), change_text(change, unit), verdict(metric, estimate))


def moved(change: Interval, unit: str = " points", digits: int = 1) -> str:
    """Say which way something moved and how far; or that no movement can be told.

    >>> moved(Interval(-2.0, -3.0, -1.0)), moved(Interval(2.0, -1.0, 5.0), " %")
    ('fell by 2.0 points [1.0, 3.0]', "changed by +2.0 % [−1.0, +5.0], which can't be told from no change")
    """
    if not excludes_zero(change):
        return f"changed by {change_text(change, unit, digits)}, {_UNCLEAR}"
    verb, size = "rose", change
    if change.value < 0:
        verb, size = "fell", Interval(-change.value, -change.high, -change.low)
    return f"{verb} by {number(size.value, digits)}{unit} {between(size, digits)}"


def stereotype_sentence(estimate: Estimate) -> str:
    """Say what happened to SS."""
    after, change = estimate.figure.value, estimate.change
    before = after - change.value
    start = f"The stereotype score (SS; 50 is ideal) went from {number(before)} to {number(after)}"
    nearer = abs(before - 50) - abs(after - 50)
    distance = (
        "as far from it as" if round(nearer, 1) == 0 else "nearer to it than" if nearer > 0 else "farther off than"
    )
    means = {
        "": "of which no interval is known",
        "unclear": _UNCLEAR,
        "better": "nearer to 50 than before",
        "worse": "farther from 50 than before",
        "past": f"past 50 to the other side, where it is {distance} before",
    }
    return f"{start}, a change of {change_text(change)}: {means[verdict('SS', estimate)]}."


def icat_sentence(estimate: Estimate, control: Estimate | None, control_name: str) -> str:
    """Say what happened to ICAT, and whether random neurons do the same."""
    after, change = estimate.figure.value, estimate.change
    sentence = (
        f"ICAT (100 is ideal), which joins bias and the ability to tell sense from nonsense, {moved(change)}, from "
        f"{number(after - change.value)} to {number(after)}."
        if excludes_zero(change)
        else f"ICAT (100 is ideal), which joins bias and the ability to tell sense from nonsense, went from "
        f"{number(after - change.value)} to {number(after)}: it {moved(change)}."
    )
    return sentence if control is None else f"{sentence} {control_sentence(change, control.change, control_name)}"


def control_sentence(change: Interval, control: Interval, name: str) -> str:
    """Say whether the chosen neurons do something else than random ones.

    >>> control_sentence(Interval(6.8, 4.0, 9.9), Interval(-0.6, -1.8, 0.8), "5 seeds")
    'As many random neurons of the same layers (5 seeds) change it by −0.6 [−1.8, +0.8]: less than the chosen ones.'
    """
    if change.low > control.high:
        outcome = "less than the chosen ones"
    elif change.high < control.low:
        outcome = "more than the chosen ones"
    else:
        outcome = "the intervals overlap, so it isn't shown that the choice of neurons matters"
    return f"As many random neurons of the same layers ({name}) change it by {change_text(control)}: {outcome}."


def domain_sentence(changes: Mapping[str, Interval]) -> str:
    """Say in which domains ICAT rose, fell, or did neither as far as can be told.

    >>> domain_sentence({"gender": Interval(6.0, 1.0, 10.0), "religion": Interval(1.0, -2.0, 3.0)})
    'By domain, ICAT rose for gender; no change can be told for religion.'
    """
    if not changes:
        return "No domains were judged."
    told = {name: change for name, change in changes.items() if excludes_zero(change)}
    parts = [
        ("ICAT rose for", [name for name, change in told.items() if change.value > 0]),
        ("ICAT fell for", [name for name, change in told.items() if change.value < 0]),
        ("no change can be told for", [name for name in changes if name not in told]),
    ]
    return f"By domain, {'; '.join(f'{what} {listed(names)}' for what, names in parts if names)}."


def price_sentence(lms: Estimate, perplexity: Interval | None, control: Interval | None, text: str) -> str:
    """Say what became of the ability to use language.

    Args:
        lms: of StereoSet.
        perplexity: its change in percent.
        control: the same of random neurons.
        text: what the perplexity is of.
    """
    sentence = f"Language: LMS (100 is ideal) {moved(lms.change)}"
    if perplexity is None:
        return f"{sentence}."
    sentence += f"; perplexity (lower is better) {text} {moved(perplexity, ' %')}"
    return sentence + ("." if control is None else f"; random neurons change that by {change_text(control, ' %')}.")


def gap_sentence(mean: Mapping[str, float], field: str, name: str) -> str:
    """Say how far the gap on held-out prompts moved, beside random neurons: their mean, and 2 standard deviations.

    What can't be told from no change, or lies within what random neurons do, is no change by these.

    Args:
        mean: of the pairs, a row of the gaps.
        field: "probability" or "log_probability".
        name: of the gap, in words.
    """
    changes = [gap_change(mean, field, how) for how in ("suppressed", "amplified")]
    random, spread = (mean[f"{field}_random_{key}"] for key in ("percent", "spread"))
    off, doubled = (moved(change, " %", digits=0) for change in changes)
    start = f"With the neurons switched off, {name} {off}; with them doubled, it {doubled}."
    if not spread > 0:
        return f"{start} One random set changes it by {signed(random, 0)} %."
    beyond = [excludes_zero(change) and abs(change.value - random) > 2 * spread for change in changes]
    outcome = {
        (True, True): "both are changes",
        (True, False): "only the first is a change",
        (False, True): "only the second is a change",
        (False, False): "neither is a change",
    }[beyond[0], beyond[1]]
    return (
        f"{start} Random sets change it by {signed(random, 0)} % ± {number(spread, 0)} over seeds: {outcome} that "
        "random sets don't make (2 standard deviations)."
    )


def settings_facts(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return settings that have a value, as they are written in a configuration.

    >>> settings_facts({"model": "m", "kinds": ["negative"], "count": None, "factor": 0.0})
    [('model', 'm'), ('kinds', '[negative]'), ('factor', '0.0')]
    """
    return [(name, setting(value)) for name, value in settings.items() if value is not None]


def setting(value: Any) -> str:
    """Return a value as a configuration and the command line take it."""
    if isinstance(value, str):
        return value
    return str(yaml.safe_dump(value, default_flow_style=True, width=float("inf"))).removesuffix("...\n").strip()


def kept_together(text: str) -> str:
    r"""Return a text whose lines don't break before a percent sign or within an interval.

    >>> kept_together("by 5 % [1.0, 2.0]")
    'by 5\xa0% [1.0,\xa02.0]'
    """
    return re.sub(r"(\[[^\s,\]]+,) (?=[^\s\]]+\])", "\\1\u00a0", text.replace(" %", "\u00a0%"))


def listed(names: Iterable[str]) -> str:
    """Return names as a list in words.

    >>> listed(["a", "b", "c"]), listed(["a"]), listed([])
    ('a, b and c', 'a', '')
    """
    names = list(names)
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def sorted_out(rows: Sequence[tuple[str, Interval]]) -> dict[str, list[str]]:
    """Return which rows "rose", "fell", or can't be told to have done either, the largest change first."""
    found: dict[str, list[str]] = {"rose": [], "fell": [], "unclear": []}
    for name, change in sorted(rows, key=lambda row: -abs(row[1].value)):
        key = "unclear" if not excludes_zero(change) else "rose" if change.value > 0 else "fell"
        found[key].append(f"{name} ({signed(change.value)})")
    return found
