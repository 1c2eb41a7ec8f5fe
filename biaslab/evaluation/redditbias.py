"""RedditBias: how much likelier comments are with the stereotyped group than with its counterpart, per token."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from biaslab.evaluation.findings import OVERALL
from biaslab.evaluation.measures import Scored
from biaslab.evaluation.scoring import score_pairs
from biaslab.metrics.redditbias import NAMES, redditbias_bootstrap, redditbias_score, redditbias_t_test
from biaslab.statistics import Samples


def score_comments(model: PreTrainedModel, batch: Mapping[str, Any]) -> Tensor:
    """Score both sentences of each pair by the mean log-probability of the queried tokens.

    Args:
        model: a masked or causal language model, matching the batch.
        batch: a batch of a :class:`biaslab.data.redditbias.RedditBiasDataModule`, with whole pairs.

    Returns:
        Negative log-perplexity of the stereotyping comment and of its counterpart, in nats per token, float64 on the
        CPU, ``[pair, 2]``.

    Raises:
        InputError: if the batch was made for the other kind of model.
    """
    return torch.div(score_pairs(model, batch), batch["tokens"].cpu())


class RedditBias(Scored):
    """Both metrics on a :class:`biaslab.data.redditbias.RedditBiasDataModule`, overall and by dimension."""

    name, columns, counted = "redditbias", 2, "comment_pairs"

    def __init__(self, data: Any) -> None:
        super().__init__(data, data.pairs, [pair.dimension for pair in data.pairs])
        self.dimensions = torch.tensor([data.dimension_names.index(pair.dimension) for pair in data.pairs])
        numbers: dict[tuple[str, str], int] = {}
        self.comments = torch.tensor([numbers.setdefault((p.dimension, p.comment), len(numbers)) for p in data.pairs])

    def score(self, model: PreTrainedModel, batch: Mapping[str, Any]) -> Tensor:
        """Return :func:`score_comments`, ``[pair, 2]``."""
        return score_comments(model, batch)

    def tied(self, scores: Tensor) -> Tensor:
        """Return which pairs have equally likely sentences."""
        return scores[:, 0] == scores[:, 1]

    def samples(self, scores: Tensor, examples: Tensor) -> Mapping[str, Samples]:
        """Return both metrics, averaged over dimensions, with resamples over the comments of each dimension."""
        about = self.dimensions[examples], self.comments[examples]
        value, resamples = (function(scores, *about) for function in (redditbias_score, redditbias_bootstrap))
        parts = zip(NAMES, value, resamples, strict=True)
        return {f"RedditBias {name}": Samples(one[None], many[:, None]) for name, one, many in parts}

    def notes(self, scores: Tensor, examples: Tensor) -> dict[str, Any]:
        """Return the paper's t-test for each dimension; t and p-value are None if undefined."""
        scopes = {scope: inside for scope, inside in self.scopes(examples).items() if scope != OVERALL}
        tests = {scope: redditbias_t_test(scores[inside])._asdict() for scope, inside in scopes.items()}
        return {"t_test": {scope: {k: None if v != v else v for k, v in one.items()} for scope, one in tests.items()}}
