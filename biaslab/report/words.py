"""Numbers in words: formatted values, verdicts on changes, and sentences that are correct for any outcome."""

import math
import re
from collections.abc import Iterable
from typing import Any, Literal

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape

from biaslab import __version__
from biaslab.evaluation.findings import METRICS, SS_LOG_RATIO
from biaslab.report.tables import digits_of
from biaslab.statistics import Estimate, Interval

Verdict = Literal["", "better", "worse", "unclear", "past"]
LABELS: dict[Verdict, str] = {
    "better": "better", "worse": "worse", "unclear": "not significant", "past": "past the ideal",
}  # fmt: skip
NOT_SIGNIFICANT = "not significant (95 % CI includes 0)"
_DIGITS = {  # decimals of a value and of its change
    **{name: (digits_of(name), digits_of(name)) for name in METRICS},
    "gap": (5, 0), "log gap": (2, 0), "pairs": (2, 2), "panda": (2, 0),
}  # fmt: skip


def number(value: float, digits: int = 1, sign: bool = False) -> str:
    """Return a number, formatted with a real minus sign; "n/a" if it is not finite.

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
    """Return an interval as text.

    >>> between(Interval(1.0, -0.5, 2.5), sign=True)
    '[−0.5, +2.5]'
    """
    return f"[{number(interval.low, digits, sign)}, {number(interval.high, digits, sign)}]"


def figure_text(metric: str, estimate: Estimate) -> str:
    """Return a metric's value without its interval."""
    return number(estimate.figure.value, _DIGITS[metric][0])


def figure_interval(metric: str, estimate: Estimate) -> str:
    """Return the interval of a metric's value."""
    return between(estimate.figure, _DIGITS[metric][0])


def change_text(metric: str, change: Interval) -> str:
    """Return a metric's change and its interval, in percent, points or nats.

    >>> change_text("perplexity", Interval(-5.34, -7.63, -3.24)), change_text("ICAT", Interval(2.0, 1.0, 3.0))
    ('−5.3 % [−7.6, −3.2]', '+2.0 [+1.0, +3.0]')
    """
    digits, unit = _DIGITS[metric][1], " %" if METRICS[metric].unit == "percent" else ""
    return f"{signed(change.value, digits)}{unit} {between(change, digits, sign=True)}"


def verdict(metric: str, estimate: Estimate) -> Verdict:
    """Return the verdict on a metric's change; past the ideal, the interval does not cover the distance from it."""
    ideal, after, change = METRICS[metric].ideal, estimate.figure.value, estimate.change
    if not all(map(math.isfinite, (after, *change))):
        return ""
    if not change.excludes_zero:
        return "unclear"
    if not METRICS[metric].has_sides:
        return "better" if (change.value > 0) is (ideal == 100) else "worse"
    before = after - change.value
    nearer: Verdict = "better" if abs(after - ideal) < abs(before - ideal) else "worse"
    return "past" if (before - ideal) * (after - ideal) < 0 else nearer


def moved(metric: str, change: Interval) -> str:
    """Say in which direction and how far a metric moved, or that its change is not significant.

    >>> moved("LMS", Interval(-2.0, -3.0, -1.0)), moved("gap", Interval(2.0, -1.0, 5.0))
    ('fell by 2.0 points [1.0, 3.0]', 'changed by +2 % [−1, +5], not significant (95 % CI includes 0)')
    """
    if not change.excludes_zero:
        return f"changed by {change_text(metric, change)}, {NOT_SIGNIFICANT}"
    verb, size = ("rose", change) if change.value > 0 else ("fell", Interval(-change.value, -change.high, -change.low))
    digits, unit = _DIGITS[metric][1], METRICS[metric].unit.replace("percent", "%")
    return f"{verb} by {number(size.value, digits)} {unit} {between(size, digits)}"


def stereotype_sentence(before: float, estimate: Estimate) -> str:
    """Describe the change of SS."""
    after, change = estimate.figure.value, estimate.change
    nearer = round(abs(before - 50) - abs(after - 50), 1)
    distance = "as far from it as" if nearer == 0 else "closer to it than" if nearer > 0 else "farther from it than"
    means = {
        "": "its interval is unknown", "unclear": NOT_SIGNIFICANT, "better": "closer to 50 than before",
        "worse": "farther from 50 than before", "past": f"it is now on the other side of 50, {distance} before",
    }  # fmt: skip
    return (
        f"The stereotype score (SS; 50 is ideal) went from {number(before)} to {number(after)}, a change of "
        f"{change_text('SS', change)}: {means[verdict('SS', estimate)]}."
    )


def log_ratio_sentence(before: Estimate, after: Estimate) -> str:
    """Describe the change of the SS log-ratio.

    >>> base = Estimate(Interval(0.31, 0.2, 0.4), Interval(0.0, 0.0, 0.0))
    >>> log_ratio_sentence(base, Estimate(Interval(0.11, 0.0, 0.2), Interval(-0.2, -0.3, -0.1)))
    'The log-ratio, the strength of the preference for stereotypes (0 is ideal), went from 0.310 to 0.110 nats: it \
fell by 0.200 nats [0.100, 0.300].'
    """
    values = f"from {figure_text(SS_LOG_RATIO, before)} to {figure_text(SS_LOG_RATIO, after)} nats"
    return (
        f"The log-ratio, the strength of the preference for stereotypes (0 is ideal), went {values}: it "
        f"{moved(SS_LOG_RATIO, after.change)}."
    )


def control_sentence(metric: str, control: Estimate, beyond: Interval | None, name: str) -> str:
    """Describe the effect of random neurons, and whether the difference from them is significant.

    >>> change = Interval(-0.6, -1.8, 0.8)
    >>> control_sentence("ICAT", Estimate(change, change), Interval(7.4, 3.0, 9.0), "random, 5 seeds")
    'As many random neurons in the same layers (random, 5 seeds) change it by −0.6 [−1.8, +0.8]; the difference from \
them, +7.4 [+3.0, +9.0], is significant.'
    """
    start = f"As many random neurons in the same layers ({name}) change it by {change_text(metric, control.change)}"
    if beyond is None:
        return f"{start}."
    outcome = "significant" if beyond.excludes_zero else NOT_SIGNIFICANT
    return f"{start}; the difference from them, {change_text(metric, beyond)}, is {outcome}."


def by_direction(changes: Iterable[tuple[str, Interval]], rose: str, fell: str, unclear: str) -> list[str]:
    """Return phrases that list the names that "rose", "fell" or did neither significantly ("unclear").

    >>> by_direction([("a", Interval(2.0, 1.0, 3.0)), ("b", Interval(3.0, 2.0, 4.0))], "it rose for", "it fell for", "")
    ['it rose for a and b']
    """
    names: dict[str, list[str]] = {rose: [], fell: [], unclear: []}
    for name, change in changes:
        names[unclear if not change.excludes_zero else rose if change.value > 0 else fell].append(name)
    return [f"{phrase} {listed(of_phrase)}" for phrase, of_phrase in names.items() if of_phrase]


def setting(value: Any) -> str:
    """Return a value in the syntax of configurations and the command line.

    >>> setting("m"), setting(["negative"]), setting(0.0)
    ('m', '[negative]', '0.0')
    """
    if isinstance(value, str):
        return value
    return str(yaml.safe_dump(value, default_flow_style=True, width=float("inf"))).removesuffix("...\n").strip()


def kept_together(text: str) -> str:
    r"""Return a text without line breaks before a percent sign or within an interval.

    >>> kept_together("by 5 % [1.0, 2.0]")
    'by 5\xa0% [1.0,\xa02.0]'
    """
    return re.sub(r"(\[[^\s,\]]+,) (?=[^\s\]]+\])", "\\1\u00a0", text.replace(" %", "\u00a0%"))


def template(name: str) -> Template:
    """Return a template with the functions of this module; HTML is escaped, Markdown is not."""
    environment = Environment(
        loader=PackageLoader("biaslab.report"), autoescape=select_autoescape(), undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["kept"] = kept_together
    environment.globals |= {"number": number, "signed": signed, "labels": LABELS, "version": __version__}
    return environment.get_template(name)


def listed(names: Iterable[str]) -> str:
    """Return names as an enumeration.

    >>> listed(["a", "b", "c"]), listed(["a"]), listed([])
    ('a, b and c', 'a', '')
    """
    names = list(names)
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
