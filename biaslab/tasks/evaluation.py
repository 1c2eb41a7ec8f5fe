"""Evaluates a model, with or without suppressed neurons, on benchmarks as Lightning test jobs."""

import json
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from biaslab.data.stereoset import predictions
from biaslab.evaluation.benchmarks import benchmark_of
from biaslab.evaluation.findings import Findings, Row
from biaslab.evaluation.measures import CrowsPairs, Figures, Scored
from biaslab.metrics.crows_pairs import PairScores, decided
from biaslab.metrics.rows import ExampleScores
from biaslab.metrics.stereoset import ClusterScores
from biaslab.statistics import UNCHANGED, Estimate
from biaslab.store import write_atomically
from biaslab.tasks.base import LanguageModelTask


class Scores(NamedTuple):
    """A benchmark's scores from all processes."""

    scores: Tensor  # [example, column]
    examples: Tensor  # numbers of the examples, [example]


class BenchmarkEvaluation(LanguageModelTask):
    """Score a benchmark; log its metrics overall and by scope, and write them with their 95 % intervals.

    The data module determines the benchmark; it must be that of one of
    :data:`biaslab.evaluation.benchmarks.BENCHMARKS`.
    """

    # metric that gathers the scores of all processes; by default one with the measure's columns
    collected_by: ClassVar[type[ClusterScores] | type[PairScores] | None] = None
    ids: ClassVar[tuple[str, ...]] = ("examples",)  # other fields of a batch to collect, the examples' numbers last
    benchmark: str  # command of the findings
    measure: Scored
    evaluation: Scores | None = None  # set after the test

    def on_test_start(self) -> None:
        """Create the measure for the run's data."""
        self.benchmark, measured_by = benchmark_of(self.data)
        self.measure = measured_by(self.data)
        own = ExampleScores(self.measure.columns) if self.collected_by is None else self.collected_by()
        self.collected = own.to(self.device)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Score the examples of a batch."""
        scores = self.measure.score(self.model, batch)
        self.collected.update(scores, *(batch[name].to(scores.device) for name in self.ids))

    def on_test_epoch_end(self) -> None:
        """Gather the scores without duplicates; compute, log and write the metrics."""
        scores, *_, examples = (tensor.cpu() for tensor in self.collected.compute())
        self.collected.reset()
        self.evaluation = Scores(scores, examples)
        figures = {key: samples.interval() for key, samples in self.figures(scores, examples).items()}
        values = {f"{scope}/{metric}": figure.value for (metric, scope), figure in figures.items()}
        self.log_dict(values, rank_zero_only=True)
        folder = self.folder  # must be called by all ranks
        dry = self.trainer.fast_dev_run  # type: ignore[attr-defined]
        if self.trainer.is_global_zero and self.trainer.logger is not None and not dry:
            folder.mkdir(parents=True, exist_ok=True)
            name = self.hparams["model_name"]
            estimates = {("model", *key): Estimate(figure, UNCHANGED) for key, figure in figures.items()}
            asked = {**self.measure.facts(), self.measure.counted: len(examples)}  # fewer with limit_test_batches
            rows, facts = [Row("model", name)], {**asked, **self.counts(scores, examples)}
            settings = {key: value for key, value in self.hparams.items() if not key.startswith("_")}
            settings |= {"bos": bos} if (bos := self.data.hparams.get("bos", "tokenizer")) != "tokenizer" else {}
            path = Findings(self.benchmark, name, settings, facts, rows, estimates).save(folder)
            print(f"Metrics with 95 % intervals written to {path}.")

    def figures(self, scores: Tensor, examples: Tensor) -> Figures:
        """Return the metrics to log and write."""
        return self.measure.figures_of(scores, examples)

    def counts(self, scores: Tensor, examples: Tensor) -> dict[str, Any]:
        """Return the numbers of scored examples and of ties by scope, and the measure's notes."""
        scopes, tied = self.measure.scopes(examples), self.measure.tied(scores)
        counts = {"scored": {scope: int(inside.sum()) for scope, inside in scopes.items()}}
        counts |= self.measure.notes(scores, examples)
        return counts | {"tied": {scope: int((tied & inside).sum()) for scope, inside in scopes.items()}}


class StereoSetEvaluation(BenchmarkEvaluation):
    """Score StereoSet; log SS, log-ratio, LMS and ICAT overall and by domain, and write ``stereoset.json``."""

    predictions: Path | None = None  # file for the scores of the sentences, in the authors' format

    collected_by, ids = ClusterScores, ("terms", "examples")

    def on_test_epoch_end(self) -> None:
        """Also write the scores of the sentences if ``predictions`` is set."""
        super().on_test_epoch_end()
        if self.predictions is not None and self.trainer.is_global_zero and self.evaluation is not None:
            content = json.dumps(predictions(self.data.clusters, *self.evaluation, self.data.task))
            write_atomically(self.predictions, content.encode())
            print(f"Scores of the sentences written to {self.predictions}.")


class CrowsPairsEvaluation(BenchmarkEvaluation):
    """Score CrowS-Pairs; log score and log-ratio overall and by category, and write ``crows_pairs.json``.

    Also reports the stereotype and the anti-stereotype score, over the non-neutral pairs of each direction.
    """

    collected_by = PairScores
    measure: CrowsPairs

    def figures(self, scores: Tensor, examples: Tensor) -> Figures:
        """Return score and log-ratio, and the scores for each direction."""
        return super().figures(scores, examples) | self.measure.by_direction(scores, examples)

    def counts(self, scores: Tensor, examples: Tensor) -> dict[str, Any]:
        """Return the numbers of scored and of neutral pairs by scope."""
        neutral, scopes = ~decided(scores), self.measure.scopes(examples)
        by_scope = {scope: int((neutral & inside).sum()) for scope, inside in scopes.items()}
        return super().counts(scores, examples) | {"neutral": by_scope}
