"""BEC-Pro: how strongly a model associates professions with person words of their stereotypical gender."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from biaslab.attribution.importance import Asked, log_probabilities
from biaslab.evaluation.measures import Scored
from biaslab.evaluation.scoring import bits_by_candidate
from biaslab.metrics.bec_pro import (
    BALANCED,
    bec_pro_association,
    bec_pro_bootstrap,
    bec_pro_difference,
    bec_pro_difference_bootstrap,
)
from biaslab.statistics import Samples


@torch.no_grad()
def score_questions(model: PreTrainedModel, batch: Mapping[str, Any]) -> Tensor:
    r"""Compute the mean association of male and of female person words with the profession of each question.

    .. math:: \log P(person | profession) - \log P(person | profession\ unknown)

    For a masked model, the profession is present in the sentence or masked as well. All tokens of a person word are
    masked, and their log-probabilities are added.

    A causal model can't predict a person from a profession that follows. By Bayes' rule, its probabilities of whole
    sentences give the probability of each person word among those of the question, given the profession; those of the
    sentences' beginnings, up to the profession, give it with the profession unknown. Equivalently, the association is
    log P(profession and rest | beginning) minus its average over the person words of the question, so rare person words
    are not at a disadvantage.

    In German, the forms of professions differ by gender, so a causal model's association also depends on how likely the
    forms are. Compare its changes, or groups of professions, but do not compare its value with 0.

    Args:
        model: a masked or causal language model of a supported architecture.
        batch: a batch of a :class:`biaslab.data.bec_pro.BecProDataModule`, with whole questions.

    Returns:
        Association in nats, float64 on the CPU, ``[question, 2]``, male first.

    Reference:
        Bartl et al. 2020, section 4; Kurita et al. 2019. The form for causal models is biaslab's own.
    """
    genders = batch["genders"].cpu()
    found = _causal(model, batch, genders) if batch["rule"] == "causal" else _masked(model, batch, genders)
    means = []
    for gender in range(2):
        own = genders == gender
        means.append(found.masked_fill(~own, 0).sum(1) / own.sum(1))
    return torch.stack(means, 1)


def _masked(model: PreTrainedModel, batch: Mapping[str, Any], genders: Tensor) -> Tensor:
    """Return the association of each person, ``[question, person]``."""
    scores = torch.zeros(2 * genders.numel(), dtype=torch.float64)
    for group in batch["inputs"]:
        logs = log_probabilities(model, Asked(*(group[name] for name in Asked._fields)))
        scores.index_add_(0, group["candidate"].cpu(), logs.cpu().double())
    found: Tensor = scores.view(*genders.shape, 2)
    return found[..., 0] - found[..., 1]


def _causal(model: PreTrainedModel, batch: Mapping[str, Any], genders: Tensor) -> Tensor:
    """Return the association of each person, ``[question, person]``."""
    whole, begun = torch.full((2, genders.numel()), -math.inf, dtype=torch.float64)
    starts = batch["starts"].flatten().tolist()
    for number, bits in bits_by_candidate(model, batch).items():
        whole[number] = bits.sum() * math.log(2)
        begun[number] = bits[: starts[number]].sum() * math.log(2)
    given, unknown = (each.view(genders.shape).log_softmax(1) for each in (whole, begun))
    associations: Tensor = given - unknown
    return associations


class BecPro(Scored):
    """Associations on a :class:`biaslab.data.bec_pro.BecProDataModule`, overall and by group of professions."""

    name, columns, counted = "bec_pro", 2, "bec_pro_questions"

    def __init__(self, data: Any) -> None:
        questions = data.questions
        super().__init__(data, questions, [question.group for question in questions])
        numbers = {name: number for number, name in enumerate(dict.fromkeys(each.profession for each in questions))}
        self.professions = torch.tensor([numbers[question.profession] for question in questions])
        self.groups = torch.tensor([data.group_names.index(question.group) for question in questions])

    def score(self, model: PreTrainedModel, batch: Mapping[str, Any]) -> Tensor:
        """Return :func:`score_questions`, ``[question, 2]``."""
        return score_questions(model, batch)

    def samples(self, scores: Tensor, examples: Tensor) -> Mapping[str, Samples]:
        """Return the difference between the genders and, unless all professions are balanced, the association."""
        professions, groups = self.professions[examples], self.groups[examples]
        found = {}
        if bool((groups != BALANCED).any()):
            associations = (f(scores, professions, groups) for f in (bec_pro_association, bec_pro_bootstrap))
            found["BEC-Pro association"] = _samples(*associations)
        differences = (f(scores, professions) for f in (bec_pro_difference, bec_pro_difference_bootstrap))
        return found | {"BEC-Pro difference": _samples(*differences)}


def _samples(value: Tensor, resamples: Tensor) -> Samples:
    return Samples(value[None], resamples[:, None])
