"""How much likelier one sentence of a pair is than the other, on held-out minimal pairs and on PANDA's rewrites.

CrowS-Pairs counts which sentence is likelier; these measures also use the size of the difference.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from biaslab.attribution.importance import Asked, log_probabilities
from biaslab.evaluation.findings import OVERALL
from biaslab.evaluation.measures import Scored
from biaslab.statistics import Samples, clustered_samples


@torch.no_grad()
def score_sentences(model: PreTrainedModel, batch: Mapping[str, Any]) -> Tensor:
    """Score both sentences of each pair by the sum of the log-probabilities of the queried tokens.

    Args:
        model: a masked or causal language model of a supported architecture.
        batch: a batch of a :class:`biaslab.data.minimal_pairs.MinimalPairsDataModule`, with whole pairs.

    Returns:
        Scores in nats, float64 on the CPU, ``[pair, 2]``.
    """
    scores = torch.zeros(2 * len(batch["examples"]), dtype=torch.float64)
    for group in batch["inputs"]:
        logs = log_probabilities(model, Asked(*(group[name] for name in Asked._fields)))
        scores.index_add_(0, group["candidate"].cpu(), logs.cpu().double())
    return scores.view(-1, 2)


class MinimalPairs(Scored):
    """How much likelier the stereotypes of a :class:`biaslab.data.minimal_pairs.MinimalPairsDataModule` are."""

    name, columns, counted = "pairs", 2, "minimal_pairs"

    def __init__(self, data: Any) -> None:
        super().__init__(data, data.pairs, [pair.dimension for pair in data.pairs])
        alike = [(pair.dimension, pair.groups, pair.attribute) for pair in data.pairs]
        numbers = {each: number for number, each in enumerate(dict.fromkeys(alike))}
        self.attributes = torch.tensor([numbers[each] for each in alike])

    def score(self, model: PreTrainedModel, batch: Mapping[str, Any]) -> Tensor:
        """Return the scores of both sentences, ``[pair, 2]``."""
        return score_sentences(model, batch)

    def samples(self, scores: Tensor, examples: Tensor) -> Mapping[str, Samples]:
        """Return the mean difference and how often it is positive, with resamples over the attributes of the groups."""
        differences = scores[:, 0] - scores[:, 1]
        attributes = self.attributes[examples]
        return {
            "pairs": clustered_samples(differences, attributes),
            "pairs preferred": clustered_samples(50 * (1 + differences.sign()), attributes),
        }


class PandaPairs(Scored):
    """Absolute difference between the sentences of a :class:`biaslab.data.panda_pairs.PandaPairsDataModule`'s pairs."""

    name, columns, counted = "panda", 2, "panda_pairs"

    def __init__(self, data: Any) -> None:
        super().__init__(data, data.pairs, [OVERALL] * len(data.pairs))

    def score(self, model: PreTrainedModel, batch: Mapping[str, Any]) -> Tensor:
        """Return the scores of both sentences, ``[pair, 2]``."""
        return score_sentences(model, batch)

    def samples(self, scores: Tensor, examples: Tensor) -> Mapping[str, Samples]:
        """Return the mean absolute difference, with resamples over pairs."""
        return {"panda": clustered_samples((scores[:, 0] - scores[:, 1]).abs(), examples)}
