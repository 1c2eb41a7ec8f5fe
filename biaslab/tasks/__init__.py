"""LightningModules for attribution, evaluation and debiasing baselines."""

from biaslab.tasks.attribution import Attribution
from biaslab.tasks.baselines.autodebias import AutoDebias
from biaslab.tasks.baselines.cda import CounterfactualAugmentation
from biaslab.tasks.baselines.dpce import DPCE
from biaslab.tasks.baselines.minilm import AdapterTraining
from biaslab.tasks.evaluation import BenchmarkEvaluation, CrowsPairsEvaluation, StereoSetEvaluation

__all__ = [
    "DPCE",
    "AdapterTraining",
    "Attribution",
    "AutoDebias",
    "BenchmarkEvaluation",
    "CounterfactualAugmentation",
    "CrowsPairsEvaluation",
    "StereoSetEvaluation",
]
