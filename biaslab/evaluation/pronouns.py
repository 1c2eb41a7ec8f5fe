"""Which pronoun a model prefers for an occupation: WinoBias (stereotypes) and Winogender (share of women)."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from biaslab.evaluation.measures import Scored
from biaslab.evaluation.scoring import score_pairs
from biaslab.metrics import winobias, winogender
from biaslab.statistics import Samples


class _Pronouns(Scored):
    """Scores of sentences that differ in the gender of their pronouns, resampled over occupations."""

    columns = 2

    def __init__(self, data: Any, scopes: Sequence[str]) -> None:
        super().__init__(data, data.pairs, scopes)
        names = [pair.occupation for pair in data.pairs]
        known = {name: number for number, name in enumerate(dict.fromkeys(names))}
        self.occupations = torch.tensor([known[name] for name in names])

    def score(self, model: PreTrainedModel, batch: Mapping[str, Any]) -> Tensor:
        """Return the scores of both sentences, ``[pair, 2]``."""
        return score_pairs(model, batch)

    def tied(self, scores: Tensor) -> Tensor:
        """Return which pairs have equally likely sentences."""
        return scores[:, 0] == scores[:, 1]

    def samples(self, scores: Tensor, examples: Tensor) -> Mapping[str, Samples]:
        """Return the metrics by name."""
        names, value, resamples = self.metrics(scores, self.occupations[examples], examples)
        return {name: Samples(value[[n]], resamples[:, [n]]) for n, name in enumerate(names)}

    @abstractmethod
    def metrics(self, scores: Tensor, occupations: Tensor, examples: Tensor) -> tuple[Sequence[str], Tensor, Tensor]:
        """Return the metrics' names, their values ``[metric]`` and their resamples ``[resample, metric]``."""


class WinoBias(_Pronouns):
    """Pronoun preferences on a :class:`biaslab.data.winobias.WinoBiasDataModule`, overall and by type of sentence.

    Each sentence mentions one occupation of each stereotype. A model that can't tell which of the two the pronoun
    refers to has a score of about 50 % and a log-ratio of about 0, whatever its associations.
    """

    name, counted = "winobias", "winobias_pairs"

    def __init__(self, data: Any) -> None:
        super().__init__(data, [pair.kind for pair in data.pairs])
        self._facts["winobias_pairs_left_out"] = data.left_out
        self.male = torch.tensor([pair.stereotype == "male" for pair in data.pairs])

    def metrics(self, scores: Tensor, occupations: Tensor, examples: Tensor) -> tuple[Sequence[str], Tensor, Tensor]:
        """Return the metrics, balanced over the stereotypes."""
        sentences = scores, occupations, self.male[examples]
        return winobias.NAMES, winobias.winobias_point(*sentences), winobias.winobias_bootstrap(*sentences)


class Winogender(_Pronouns):
    """Pronoun preferences on a :class:`biaslab.data.winogender.WinogenderDataModule`, overall and by referent.

    Sentences whose pronoun refers to the participant are a control: the occupation should have no effect there.
    """

    name, counted = "winogender", "winogender_pairs"

    def __init__(self, data: Any) -> None:
        super().__init__(data, [pair.referent for pair in data.pairs])
        self.shares = torch.tensor([pair.female_share for pair in data.pairs], dtype=torch.float64)

    def metrics(self, scores: Tensor, occupations: Tensor, examples: Tensor) -> tuple[Sequence[str], Tensor, Tensor]:
        """Return how pronouns depend on the share of women, and which gender is preferred."""
        sentences = scores, occupations, self.shares[examples]
        return winogender.NAMES, winogender.winogender_point(*sentences), winogender.winogender_bootstrap(*sentences)
