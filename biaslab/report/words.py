"""Numbers in words: what a change means, and sentences that hold whatever the numbers are."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import yaml

from biaslab.evaluation.findings import METRICS, Findings, gap_rows
from biaslab.statistics import Estimate, Interval

Verdict = Literal["", "better", "worse", "unclear", "past"]
LABELS: dict[Verdict, str] = {
    "": "", "better": "better", "worse": "worse", "unclear": "not significant", "past": "past 50",
}  # fmt: skip
NOT_SIGNIFICANT = "not significant (95 % CI includes 0)"


class Tile(NamedTuple):
    """A figure that a reader sees first: a metric, its ideal, before, after, its change, and what that means."""

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


def verdict(metric: str, estimate: Estimate) -> Verdict:
    """Say what a metric's change means.

    Where a score that is best at 50 went past it to the other side, its interval says nothing of the distance: that is
    a verdict of its own.

    Args:
        metric: a key of :data:`biaslab.evaluation.findings.METRICS`.
        estimate: its figure, and the change that led to it.
    """
    after, change, ideal = estimate.figure.value, estimate.change, METRICS[metric].ideal
    if not all(map(math.isfinite, (after, *change))):
        return ""
    if not change.excludes_zero:
        return "unclear"
    if ideal == 50:
        before = after - change.value
        if (before - 50) * (after - 50) < 0:
            return "past"
        return "better" if abs(after - 50) < abs(before - 50) else "worse"
    return "better" if (change.value > 0) is (ideal > 0) else "worse"


def tile(metric: str, ideal: str, estimate: Estimate) -> Tile:
    """Return a metric's tile; ``ideal`` says in words what it would be at best."""
    after, change = estimate.figure.value, estimate.change
    percent = METRICS[metric].unit == "percent"
    before = after / (1 + change.value / 100) if percent else after - change.value
    text = change_text(change, " %" if percent else "")
    return Tile(metric, ideal, number(before), number(after), text, verdict(metric, estimate))


def moved(change: Interval, unit: str = " points", digits: int = 1) -> str:
    """Say which way something moved and how far; or that the change is not significant.

    >>> moved(Interval(-2.0, -3.0, -1.0)), moved(Interval(2.0, -1.0, 5.0), " %")
    ('fell by 2.0 points [1.0, 3.0]', 'changed by +2.0 % [−1.0, +5.0], not significant (95 % CI includes 0)')
    """
    if not change.excludes_zero:
        return f"changed by {change_text(change, unit, digits)}, {NOT_SIGNIFICANT}"
    verb, size = "rose", change
    if change.value < 0:
        verb, size = "fell", Interval(-change.value, -change.high, -change.low)
    return f"{verb} by {number(size.value, digits)}{unit} {between(size, digits)}"


def stereotype_sentence(estimate: Estimate) -> str:
    """Say what happened to SS."""
    after, change = estimate.figure.value, estimate.change
    before = after - change.value
    start = f"The stereotype score (SS; 50 is ideal) went from {number(before)} to {number(after)}"
    nearer = round(abs(before - 50) - abs(after - 50), 1)
    distance = "as far from it as" if nearer == 0 else "nearer to it than" if nearer > 0 else "farther off than"
    means = {
        "": "no interval is known",
        "unclear": NOT_SIGNIFICANT,
        "better": "nearer to 50 than before",
        "worse": "farther from 50 than before",
        "past": f"past 50 to the other side, where it is {distance} before",
    }
    return f"{start}, a change of {change_text(change)}: {means[verdict('SS', estimate)]}."


def icat_sentence(estimate: Estimate, control: Estimate | None, control_name: str) -> str:
    """Say what happened to ICAT, and whether random neurons do the same."""
    after, change = estimate.figure.value, estimate.change
    start, values = "ICAT (100 is ideal; it combines bias and language modelling)", (after - change.value, after)
    way = f"from {number(values[0])} to {number(values[1])}"
    sentence = (
        f"{start} {moved(change)}, {way}." if change.excludes_zero else f"{start} went {way}: it {moved(change)}."
    )
    return sentence if control is None else f"{sentence} {control_sentence(estimate, control, control_name)}"


def control_sentence(estimate: Estimate, control: Estimate, name: str) -> str:
    """Say whether the chosen neurons do something else than random ones, by the paired difference.

    >>> chosen = Estimate(Interval(76, 70, 80), Interval(6.8, 4.0, 9.9), None, Interval(7.4, 4.2, 10.9))
    >>> control_sentence(chosen, Estimate(Interval(69, 64, 74), Interval(-0.6, -1.8, 0.8)), "5 seeds")
    'Random neurons of the same layers (5 seeds) change it by −0.6 [−1.8, +0.8]; the difference is +7.4 [+4.2, +10.9].'
    """
    start = f"Random neurons of the same layers ({name}) change it by {change_text(control.change)}"
    beyond = estimate.beyond_random
    if beyond is None:
        return f"{start}."
    if beyond.excludes_zero:
        return f"{start}; the difference is {change_text(beyond)}."
    return f"{start}; the difference from random neurons, {change_text(beyond)}, is {NOT_SIGNIFICANT}."


def domain_sentence(changes: Mapping[str, Interval]) -> str:
    """Say in which domains ICAT rose, fell, or did not change significantly.

    >>> domain_sentence({"gender": Interval(6.0, 1.0, 10.0), "religion": Interval(1.0, -2.0, 3.0)})
    'By domain, ICAT rose for gender; no significant change for religion.'
    """
    if not changes:
        return "No domains were judged."
    significant = {name: change for name, change in changes.items() if change.excludes_zero}
    parts = [
        ("ICAT rose for", [name for name, change in significant.items() if change.value > 0]),
        ("ICAT fell for", [name for name, change in significant.items() if change.value < 0]),
        ("no significant change for", [name for name in changes if name not in significant]),
    ]
    return f"By domain, {'; '.join(f'{what} {listed(names)}' for what, names in parts if names)}."


def price_sentence(lms: Estimate, perplexity: Estimate | None, control: Estimate | None, text: str) -> str:
    """Say what became of the ability to use language; ``text`` says what the perplexity is of."""
    sentence = f"Language: LMS (100 is ideal) {moved(lms.change)}"
    if perplexity is None:
        return f"{sentence}."
    sentence += f"; perplexity (lower is better) {text} {moved(perplexity.change, ' %')}"
    return (
        f"{sentence}."
        if control is None
        else (f"{sentence}; random neurons change that by {change_text(control.change, ' %')}.")
    )


def gap_sentence(findings: Findings, metric: str, name: str) -> str:
    """Say how far the gap on held-out prompts moved, beside random neurons.

    Args:
        findings: of debias.
        metric: "gap" or "log gap".
        name: of the gap, in words.
    """
    estimates = [findings.get(row, metric) for row in gap_rows(findings)]
    suppressed, amplified, random = estimates
    assert suppressed is not None
    assert amplified is not None
    off, doubled = (moved(estimate.change, " %", digits=0) for estimate in (suppressed, amplified))
    factor = findings.settings.get("factor", 0.0)
    how = "switched off" if factor == 0 else f"multiplied by {factor:g}"
    start = f"With the neurons {how}, {name} {off}; with them doubled, it {doubled}."
    if random is None:
        return start
    spread = "" if random.spread is None else f" ± {number(random.spread, 0)} over seeds"
    beyond = suppressed.beyond_random
    sentence = f"{start} Random neurons, {how}, change it by {signed(random.change.value, 0)} %{spread}"
    if beyond is None:
        return f"{sentence}."
    outcome = change_text(beyond, "", 0) + ("" if beyond.excludes_zero else f", {NOT_SIGNIFICANT}")
    return f"{sentence}; the difference is {outcome}."


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
    """Return which rows "rose", "fell", or did not change significantly ("unclear"), the largest change first."""
    outcome: dict[str, list[str]] = {"rose": [], "fell": [], "unclear": []}
    for name, change in sorted(rows, key=lambda row: -abs(row[1].value)):
        key = "unclear" if not change.excludes_zero else "rose" if change.value > 0 else "fell"
        outcome[key].append(f"{name} ({signed(change.value)})")
    return outcome
