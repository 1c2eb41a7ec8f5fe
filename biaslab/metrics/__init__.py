"""Torchmetrics for bias benchmarks, and for collecting attribution scores and neuron effects."""

from biaslab.metrics.bbq import BBQAnswers
from biaslab.metrics.bec_pro import BecProAssociation
from biaslab.metrics.crows_pairs import PairScores
from biaslab.metrics.honest import HonestDivergence, HonestScore
from biaslab.metrics.neuron_selection import NeuronSelection
from biaslab.metrics.redditbias import RedditBiasScore
from biaslab.metrics.stereoset import IdealizedCAT, LanguageModelingScore, StereotypeLogRatio, StereotypeScore
from biaslab.metrics.winobias import WinoBiasPreference
from biaslab.metrics.winogender import WinogenderAssociation

__all__ = [
    "BBQAnswers",
    "BecProAssociation",
    "HonestDivergence",
    "HonestScore",
    "IdealizedCAT",
    "LanguageModelingScore",
    "NeuronSelection",
    "PairScores",
    "RedditBiasScore",
    "StereotypeLogRatio",
    "StereotypeScore",
    "WinoBiasPreference",
    "WinogenderAssociation",
]
