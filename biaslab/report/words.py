"""Numbers in words: what a change means, and sentences that hold whatever the numbers are."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import yaml

from biaslab.evaluation.findings import METRICS
from biaslab.statistics import Estimate, Interval

Verdict = Literal["", "better", "worse", "unclear", "past"]
LABELS: dict[Verdict, str] = {
    "": "", "better": "better", "worse": "worse", "unclear": "not significant", "past": "past 50",
}  # fmt: skip
NOT_SIGNIFICANT = "not significant (95 % CI includes 0)"
_DIGITS = {"gap": (5, 0), "log gap": (2, 0)}  # of a figure and of its change, where they aren't (1, 1)


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


def figure_text(metric: str, estimate: Estimate) -> str:
    """Return a metric's value without its interval."""
    return number(estimate.figure.value, _digits(metric)[0])


def figure_interval(metric: str, estimate: Estimate) -> str:
    """Return the interval of a metric's value."""
    return between(estimate.figure, _digits(metric)[0])


def change_text(metric: str, change: Interval) -> str:
    """Return a metric's change and its interval, in percent or in points.

    >>> change_text("perplexity", Interval(-5.34, -7.63, -3.24)), change_text("ICAT", Interval(2.0, 1.0, 3.0))
    ('−5.3 % [−7.6, −3.2]', '+2.0 [+1.0, +3.0]')
    """
    digits = _digits(metric)[1]
    unit = " %" if METRICS[metric].unit == "percent" else ""
    return f"{signed(change.value, digits)}{unit} {between(change, digits, sign=True)}"


def _digits(metric: str) -> tuple[int, int]:
    return _DIGITS.get(metric, (1, 1))


def verdict(metric: str, estimate: Estimate) -> Verdict:
    """Say what a metric's change means.

    Where a score that is best at 50 went past it to the other side, its interval says nothing of the distance: that is
    a verdict of its own.
    """
    ideal, after, change = METRICS[metric].ideal, estimate.figure.value, estimate.change
    if not all(map(math.isfinite, (after, *change))):
        return ""
    if not change.excludes_zero:
        return "unclear"
    if ideal != 50:
        return "better" if (change.value > 0) is (ideal == 100) else "worse"
    before = after - change.value
    if (before - ideal) * (after - ideal) < 0:
        return "past"
    return "better" if abs(after - ideal) < abs(before - ideal) else "worse"


def moved(metric: str, change: Interval) -> str:
    """Say which way a metric moved and how far, or that its change is not significant.

    >>> moved("LMS", Interval(-2.0, -3.0, -1.0)), moved("gap", Interval(2.0, -1.0, 5.0))
    ('fell by 2.0 points [1.0, 3.0]', 'changed by +2 % [−1, +5], not significant (95 % CI includes 0)')
    """
    if not change.excludes_zero:
        return f"changed by {change_text(metric, change)}, {NOT_SIGNIFICANT}"
    verb, size = ("rose", change) if change.value > 0 else ("fell", Interval(-change.value, -change.high, -change.low))
    digits, unit = _digits(metric)[1], METRICS[metric].unit.replace("percent", "%")
    return f"{verb} by {number(size.value, digits)} {unit} {between(size, digits)}"


def stereotype_sentence(before: float, estimate: Estimate) -> str:
    """Say what happened to SS."""
    after, change = estimate.figure.value, estimate.change
    nearer = round(abs(before - 50) - abs(after - 50), 1)
    distance = "as far from it as" if nearer == 0 else "nearer to it than" if nearer > 0 else "farther from it than"
    means = {
        "": "no interval is known",
        "unclear": NOT_SIGNIFICANT,
        "better": "nearer to 50 than before",
        "worse": "farther from 50 than before",
        "past": f"past 50 to the other side, where it is {distance} before",
    }
    return (
        f"The stereotype score (SS; 50 is ideal) went from {number(before)} to {number(after)}, a change of "
        f"{change_text('SS', change)}: {means[verdict('SS', estimate)]}."
    )


def control_sentence(metric: str, control: Estimate, beyond: Interval | None, name: str) -> str:
    """Say what random neurons do, and whether the change of the chosen ones goes significantly beyond theirs.

    >>> change = Interval(-0.6, -1.8, 0.8)
    >>> control_sentence("ICAT", Estimate(change, change), Interval(7.4, 3.0, 9.0), "random, 5 seeds")
    'As many random neurons of the same layers (random, 5 seeds) change it by −0.6 [−1.8, +0.8]; the difference from \
them, +7.4 [+3.0, +9.0], is significant.'
    """
    start = f"As many random neurons of the same layers ({name}) change it by {change_text(metric, control.change)}"
    if beyond is None:
        return f"{start}."
    outcome = "significant" if beyond.excludes_zero else NOT_SIGNIFICANT
    return f"{start}; the difference from them, {change_text(metric, beyond)}, is {outcome}."


def rows_by_direction(changes: Mapping[str, Interval]) -> dict[str, list[str]]:
    """Return the names that "rose", "fell", or did neither significantly ("unclear"), the largest change first."""
    names: dict[str, list[str]] = {"rose": [], "fell": [], "unclear": []}
    for name, change in sorted(changes.items(), key=lambda item: -abs(item[1].value)):
        names["unclear" if not change.excludes_zero else "rose" if change.value > 0 else "fell"].append(name)
    return names


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
