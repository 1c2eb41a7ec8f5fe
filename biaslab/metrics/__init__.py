"""Metrics: what StereoSet says about a model, and which neurons attribution selects."""

from biaslab.metrics.selection import NeuronSelection
from biaslab.metrics.stereoset import IdealizedCAT, LanguageModelingScore, StereotypeScore

__all__ = ["IdealizedCAT", "LanguageModelingScore", "NeuronSelection", "StereotypeScore"]
