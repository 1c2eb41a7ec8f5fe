"""Metrics: what StereoSet, CrowS-Pairs and BBQ say about a model, and which neurons attribution selects."""

from biaslab.metrics.bbq import BBQAnswers
from biaslab.metrics.crows_pairs import PairScores
from biaslab.metrics.neuron_selection import NeuronSelection
from biaslab.metrics.stereoset import IdealizedCAT, LanguageModelingScore, StereotypeLogRatio, StereotypeScore

__all__ = [
    "BBQAnswers",
    "IdealizedCAT",
    "LanguageModelingScore",
    "NeuronSelection",
    "PairScores",
    "StereotypeLogRatio",
    "StereotypeScore",
]
