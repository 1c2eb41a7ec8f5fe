"""LightningModules: one file a task."""

from biaslab.tasks.adapter import AdapterTraining
from biaslab.tasks.attribution import Attribution
from biaslab.tasks.autodebias import AutoDebias
from biaslab.tasks.cda import CounterfactualAugmentation
from biaslab.tasks.crows_pairs import CrowsPairsEvaluation
from biaslab.tasks.dpce import DPCE
from biaslab.tasks.evaluation import StereoSetEvaluation

__all__ = [
    "DPCE",
    "AdapterTraining",
    "Attribution",
    "AutoDebias",
    "CounterfactualAugmentation",
    "CrowsPairsEvaluation",
    "StereoSetEvaluation",
]
