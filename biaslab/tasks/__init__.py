"""LightningModules: one file a task."""

from biaslab.tasks.adapter import AdapterTraining
from biaslab.tasks.attribution import Attribution
from biaslab.tasks.evaluation import StereoSetEvaluation

__all__ = ["AdapterTraining", "Attribution", "StereoSetEvaluation"]
