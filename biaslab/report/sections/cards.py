"""The chapter of neuron cards: what single neurons respond to, and which words they promote."""

from __future__ import annotations

from biaslab.report.parts import Chapter, Section
from biaslab.report.runs import Run


def chapter(run: Run) -> Chapter:
    """Return the cards of single neurons."""
    model, details = run.findings["cards"].model, run.findings["cards"].details
    question = f"Which prompts excite single neurons of {model}, and which words do they promote?"
    answer = [f"{len(details['cards'])} neurons are described, those with the largest mean scores."]
    section = Section("cards", "What single neurons do", [details["method"]], cards=details["cards"])
    return Chapter(f"Neurons of {model}", question, answer, [section])
