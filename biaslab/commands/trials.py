"""Trials of a sweep: what each setting did, and which one is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from biaslab.evaluation.gaps import perplexity
from biaslab.evaluation.judging import Judged
from biaslab.metrics.stereoset import idealized_cat, language_modeling_score, stereotype_score

_DOMAIN_SLACK = 0.5  # ICAT points that a domain may lose: less than a term's weight


class Setting(NamedTuple):
    """A point of the grid.

    Attributes:
        selection: how neurons are selected, with all that this depends on: a name of a neuron set.
        factor: what they are multiplied by.
        positions: "all" or "slot".
    """

    selection: str
    factor: float
    positions: str


class Trial(NamedTuple):
    """What a setting did, in percent and in perplexity; by domain the change of ICAT.

    Attributes:
        setting: of the grid; None for the untouched model.
        neurons: how many.
        ss: stereotype score.
        lms: language modelling score.
        icat: idealized CAT score.
        perplexity: on ordinary text.
        domains: ICAT by domain.
    """

    setting: Setting | None
    neurons: int
    ss: float
    lms: float
    icat: float
    perplexity: float
    domains: dict[str, float]

    def keeps(self, base: Trial, perplexity_percent: float) -> bool:
        """Say whether nothing is worse than before but, by so much at most, the perplexity."""
        spared = all(self.domains[name] >= value - _DOMAIN_SLACK for name, value in base.domains.items())
        limit = base.perplexity * (1 + perplexity_percent / 100)
        return spared and self.lms >= base.lms and self.perplexity <= limit


def trial(setting: Setting | None, neurons: int, judged: Judged) -> Trial:
    """Return what a setting did.

    Args:
        setting: of the grid; None for the untouched model.
        neurons: how many.
        judged: StereoSet and text.
    """
    evaluation = judged.evaluation
    scores, terms = evaluation.scores, evaluation.terms
    ss, lms, icat = (float(f(scores, terms)) for f in (stereotype_score, language_modeling_score, idealized_cat))
    domains = {}
    for name in evaluation.scopes()[1:]:
        inside = evaluation.within(name)
        domains[name] = float(idealized_cat(scores[inside], terms[inside]))
    return Trial(setting, neurons, ss, lms, icat, perplexity(judged.likelihoods), domains)


def choose(base: Trial, trials: Sequence[Trial], perplexity_percent: float) -> Trial:
    """Return the trial with the highest ICAT among those that keep everything else, or among all if none does.

    Args:
        base: the untouched model.
        trials: at least one.
        perplexity_percent: how much perplexity may rise.
    """
    return max(trials, key=lambda trial: (trial.keeps(base, perplexity_percent), trial.icat))
