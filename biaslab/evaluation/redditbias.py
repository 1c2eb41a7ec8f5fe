"""RedditBias: how much likelier are comments about the group that they stereotype, a token?"""

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
    """Score both sentences of each pair: the mean log-probability of the tokens that are asked for.

    Args:
        model: a masked or causal language model of the table.
        batch: whole pairs, as :class:`biaslab.data.redditbias.RedditBiasDataModule` makes them.

    Returns:
        Of the stereotyping comment and of its counterpart, the negative of a sentence's log-perplexity: nats a token in
        float64 on the CPU, ``[pair, 2]``.

    Raises:
        InputError: if the batch was made for the other kind of model.
    """
    return torch.div(score_pairs(model, batch), batch["tokens"].cpu())


class RedditBias(Scored):
    """Both metrics of a :class:`biaslab.data.redditbias.RedditBiasDataModule`, over dimensions and by dimension."""

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
        """Return where both sentences are equally likely."""
        return scores[:, 0] == scores[:, 1]

    def samples(self, scores: Tensor, examples: Tensor) -> Mapping[str, Samples]:
        """Return both metrics, means over the dimensions, resampled over the comments of each."""
        about = self.dimensions[examples], self.comments[examples]
        value, resamples = (function(scores, *about) for function in (redditbias_score, redditbias_bootstrap))
        parts = zip(NAMES, value, resamples, strict=True)
        return {f"RedditBias {name}": Samples(one[None], many[:, None]) for name, one, many in parts}

    def notes(self, scores: Tensor, examples: Tensor) -> dict[str, Any]:
        """Return the paper's t-test of each dimension; without a figure, t and p-value are None."""
        scopes = {scope: inside for scope, inside in self.scopes(examples).items() if scope != OVERALL}
        tests = {scope: redditbias_t_test(scores[inside])._asdict() for scope, inside in scopes.items()}
        return {"t_test": {scope: {k: None if v != v else v for k, v in one.items()} for scope, one in tests.items()}}
