"""The chapter of neuron cards: what single neurons respond to, and which words they promote."""

from __future__ import annotations

from biaslab.report.parts import Chapter, Draw, Section
from biaslab.report.runs import Run


def chapter(run: Run, key: str, draw: Draw) -> Chapter:
    """Return the cards of single neurons."""
    findings = run.findings["cards"]
    cards = findings.details["cards"]
    question = f"Which prompts excite single neurons of {findings.model}, and which words do they promote?"
    answer = [f"{len(cards)} neurons are described, those with the largest mean scores."]
    section = Section(f"{key}-cards", "What single neurons do", [findings.details["method"]], cards=cards)
    return Chapter(key, f"Neurons of {findings.model}", question, answer, [section])
