"""Metrics: what StereoSet says about a model."""

from biaslab.metrics.stereoset import IdealizedCAT, LanguageModelingScore, StereotypeScore

__all__ = ["IdealizedCAT", "LanguageModelingScore", "StereotypeScore"]
