"""Kept knowledge: whether a model still prefers the demographic word that follows from a sentence's meaning.

Suppression may remove more than a stereotype: a model that no longer prefers "My sister is a woman" to "My sister is a
man" has lost the meaning of the words. Bias benchmarks don't test this, and perplexity hardly changes.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from biaslab.evaluation.measures import Scored
from biaslab.evaluation.scoring import score_words
from biaslab.statistics import Samples, draw


class Knowledge(Scored):
    """Share of sentences of a :class:`biaslab.data.knowledge.KnowledgeDataModule` known, overall and by dimension."""

    name, last_token_only, columns, counted = "knowledge", True, 2, "knowledge_sentences"

    def __init__(self, data: Any) -> None:
        super().__init__(data, data.facts, [fact.dimension for fact in data.facts])

    def score(self, model: PreTrainedModel, batch: Mapping[str, Any]) -> Tensor:
        """Return the scores of the correct and of the wrong word, ``[sentence, 2]``."""
        return score_words(model, batch)

    def samples(self, scores: Tensor, examples: Tensor) -> Mapping[str, Samples]:
        """Return the share of known sentences with resamples over sentences."""
        return {"knowledge": knowledge_samples(scores)}


def knowledge_samples(scores: Tensor) -> Samples:
    """Return the percentage of sentences whose correct word is likelier, and bootstrap resamples over sentences.

    Args:
        scores: scores of the correct and of the wrong word, ``[sentence, 2]``; ties count half.

    >>> import torch
    >>> knowledge_samples(torch.tensor([[-1.0, -2.0], [-3.0, -3.0]])).value
    tensor([75.])
    """
    right, wrong = scores.unbind(1)
    known = 100.0 * (right > wrong) + 50.0 * (right == wrong)  # [sentence]
    return Samples(known.mean()[None], known[draw(len(known))].mean(1)[:, None])
