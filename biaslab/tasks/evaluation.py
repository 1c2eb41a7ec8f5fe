"""StereoSet as a test job: SS, LMS and ICAT of a model, with or without suppressed neurons."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import torch
from torch import Tensor

from biaslab.evaluation.scoring import score_clusters
from biaslab.metrics.stereoset import ClusterScores, intervals
from biaslab.statistics import Interval
from biaslab.tasks.base import LanguageModelTask


class Evaluation(NamedTuple):
    """What came out.

    Attributes:
        scores: of the three candidates, ``[cluster, 3]``.
        terms: id of each cluster's target term, ``[cluster]``.
        domains: index of each cluster's domain, ``[cluster]``.
        domain_names: of the domains.
    """

    scores: Tensor
    terms: Tensor
    domains: Tensor
    domain_names: tuple[str, ...]

    def within(self, scope: str) -> Tensor:
        """Return which clusters belong to a domain, or to "overall", ``[cluster]``."""
        if scope == "overall":
            return torch.ones_like(self.domains, dtype=torch.bool)
        return self.domains == self.domain_names.index(scope)

    def scopes(self) -> list[str]:
        """Return "overall" and the domains that have clusters."""
        return ["overall", *(name for name in self.domain_names if bool(self.within(name).any()))]

    def figures(self) -> dict[str, dict[str, Interval]]:
        """Return SS, LMS and ICAT with their 95 % intervals, overall and by domain."""
        return {
            scope: intervals(self.scores[self.within(scope)], self.terms[self.within(scope)]) for scope in self.scopes()
        }


class StereoSetEvaluation(LanguageModelTask):
    """Score StereoSet's candidates; log SS, LMS and ICAT overall and by domain, and write ``stereoset.json``.

    The result stays at ``evaluation``. See :class:`biaslab.tasks.base.LanguageModelTask` for the arguments.
    """

    def __init__(self, model_name: str = "minilm-mlm", dtype: str = "float32", trust_remote_code: bool = False) -> None:
        super().__init__(model_name, dtype, trust_remote_code)
        self.clusters = ClusterScores()
        self.evaluation: Evaluation | None = None

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Score the clusters of a batch."""
        self.clusters.update(score_clusters(self.model, batch), batch["terms"], batch["examples"])

    def on_test_epoch_end(self) -> None:
        """Compute, log and write the figures."""
        scores, terms, examples = (tensor.cpu() for tensor in self.clusters.compute())
        names = self.data.domain_names
        domains = torch.tensor([names.index(self.data.clusters[int(example)].domain) for example in examples])
        self.evaluation = Evaluation(scores, terms, domains, names)
        self.clusters.reset()
        figures = self.evaluation.figures()
        for scope, of_scope in figures.items():
            self.log_dict(
                {f"{scope}/{name}": interval.value for name, interval in of_scope.items()}, rank_zero_only=True
            )
        folder = self.folder  # asks all ranks
        if self.trainer.is_global_zero and self.trainer.logger is not None:
            folder.mkdir(parents=True, exist_ok=True)
            content = {
                scope: {name: interval._asdict() for name, interval in f.items()} for scope, f in figures.items()
            }
            (folder / "stereoset.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            print(f"The figures with their 95 % intervals lie in {folder / 'stereoset.json'}.")
