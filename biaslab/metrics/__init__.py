"""Metrics: what benchmarks say about a model, and which neurons attribution selects."""

from biaslab.metrics.crows_pairs import PairScores
from biaslab.metrics.neuron_selection import NeuronSelection
from biaslab.metrics.redditbias import RedditBiasScore
from biaslab.metrics.stereoset import IdealizedCAT, LanguageModelingScore, StereotypeLogRatio, StereotypeScore

__all__ = [
    "IdealizedCAT",
    "LanguageModelingScore",
    "NeuronSelection",
    "PairScores",
    "RedditBiasScore",
    "StereotypeLogRatio",
    "StereotypeScore",
]
