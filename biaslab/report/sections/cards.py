"""Neuron cards: a section of a debias run, or a chapter of their own."""

from __future__ import annotations

from biaslab.report.parts import Chapter, Draw, Missing, Section
from biaslab.report.runs import Run


def cards_section(run: Run, key: str) -> Section:
    """Return the neuron cards, or which command makes them."""
    title, cards = "What single neurons do", run.parts.get("cards")
    if cards is None:
        missing = Missing("Cards of single neurons", f"biaslab cards {run.folder / 'neurons.json'}")
        return Section(f"{key}-cards", title, missing=missing)
    return Section(f"{key}-cards", title, [cards.details["method"]], cards=cards.details["cards"])


def cards_chapter(run: Run, key: str, draw: Draw) -> Chapter:
    """Return neuron cards that lie in a folder of their own.

    Args:
        run: with the part "cards".
        key: goes before the keys of all its elements.
        draw: not needed: this chapter has no plots.
    """
    cards = run.parts["cards"].details["cards"]
    asked = f"What excites single neurons of {run.model}, and which words do they promote?"
    answer = [f"{len(cards)} neurons are described, those with the largest mean scores."]
    return Chapter(key, f"Neurons of {run.model}", run.place, asked, answer, sections=[cards_section(run, key)])
