"""Kept knowledge: does a model still know which of two demographic words follows from a sentence's meaning?

Suppression may take more than a stereotype: a model that no longer tells "My sister is a woman" from "My sister is a
man" has lost what the words mean. Benchmarks of bias don't ask that, and perplexity hardly shows it.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

from biaslab.evaluation.measures import Scored
from biaslab.evaluation.scoring import score_words
from biaslab.statistics import Samples, draw


class Knowledge(Scored):
    """The share of a :class:`biaslab.data.knowledge.KnowledgeDataModule` that is known, overall and by dimension."""

    name, last_token_only, columns, counted = "knowledge", True, 2, "knowledge_sentences"

    def __init__(self, data: Any) -> None:
        super().__init__(data, data.facts, [fact.dimension for fact in data.facts])

    def score(self, model: PreTrainedModel, batch: Mapping[str, Any]) -> Tensor:
        """Return the scores of the right and of the wrong word, ``[sentence, 2]``."""
        return score_words(model, batch)

    def samples(self, scores: Tensor, examples: Tensor) -> Mapping[str, Samples]:
        """Return the share that is known, resampled over sentences."""
        return {"knowledge": knowledge_samples(scores)}


def knowledge_samples(scores: Tensor) -> Samples:
    """Return the percentage of sentences whose right word is likelier, and its bootstrap over the sentences.

    The scores are of the right and of the wrong word, ``[sentence, 2]``; equal ones count half.

    >>> import torch
    >>> knowledge_samples(torch.tensor([[-1.0, -2.0], [-3.0, -3.0]])).value
    tensor([75.])
    """
    right, wrong = scores.unbind(1)
    known = 100.0 * (right > wrong) + 50.0 * (right == wrong)  # [sentence]
    return Samples(known.mean()[None], known[draw(len(known))].mean(1)[:, None])
