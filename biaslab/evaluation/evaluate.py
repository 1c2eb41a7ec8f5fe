"""Evaluates treatments of a model with a set of measures; used by every command that evaluates a model."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from biaslab.evaluation.findings import METRICS, Findings, Row
from biaslab.evaluation.measures import Figures, Measure
from biaslab.evaluation.treatment import Arm, Treatment
from biaslab.models import ranks
from biaslab.models.loading import fingerprint
from biaslab.neurons.suppression import require_predicting_slots
from biaslab.statistics import Estimate, estimate
from biaslab.store import Artifacts, computed_by, digest, load_tensors, save_tensors


class Evaluation:
    """Measures treatments of a model and caches the answers on disk.

    With several processes, the questions of a measure are split across them, and every process gets all answers. Takes
    the arguments of :func:`evaluate`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        measures: Sequence[Measure],
        cache: Artifacts | None,
    ) -> None:
        self.model, self.tokenizer, self.measures, self.cache = model, tokenizer, measures, cache
        for measure in measures:
            measure.read_by(tokenizer)
        self.rows: list[Row] = []
        self.answers: dict[tuple[str, str], list[Tensor]] = {}  # by row and measure: one, or one a seed
        self._keys = {measure.name: digest([measure.key, computed_by()]) for measure in measures}

    def measure(self, arm: Arm) -> Row:
        """Measure a row with all measures, or with those that it names.

        Raises:
            InputError: if neurons were made for another model, or as :func:`require_judgeable`.
        """
        chosen = [m for m in self.measures if arm.measures is None or m.name in arm.measures]
        size = 0
        for number, treatment in enumerate(arm.treatments):
            wanted = [m for m in chosen if m.seeds is None or number < m.seeds]
            if treatment.neurons is not None:
                require_judgeable(self.model, treatment, wanted)
                treatment.neurons.require_model(self.model)
            model = treatment.weights_of(self.model)
            weights = fingerprint(model)
            for measure in wanted:
                self.answers.setdefault((arm.name, measure.name), []).append(
                    self._answers(measure, model, weights, treatment, f"{arm.name}, {measure.name}")
                )
            size = size or _size(self.model, model, treatment)
        facts = [treatment.facts() for treatment in arm.treatments]
        row = Row(arm.name, arm.title or arm.name, size, facts, arm.like, arm.seconds)
        self.rows.append(row)
        return row

    def _answers(
        self, measure: Measure, model: PreTrainedModel, weights: str, treatment: Treatment, title: str
    ) -> Tensor:
        """Return the answers of a treated model, from the cache if possible."""
        depends_on = {"weights": weights, "dtype": str(model.dtype), "asked": self._keys[measure.name], **treatment.key}
        path = None if self.cache is None else self.cache.path(measure.name, depends_on)
        if path is not None and (kept := ranks.of_first(partial(load_tensors, path))) is not None:
            return kept[0]["answers"]
        with torch.no_grad(), treatment.applied(model, self.tokenizer):
            answers = measure.ask(model, self.tokenizer, title)
        if path is not None and ranks.is_first():
            save_tensors(path, {"answers": answers}, {"title": title})
        return answers

    def estimates(self) -> dict[tuple[str, str, str], Estimate]:
        """Return the estimates of all rows, by (row, metric, scope); changes are relative to the first row."""
        found: dict[tuple[str, str, str], Estimate] = {}
        controls = {row.like: row.name for row in self.rows if row.like is not None}
        for measure in self.measures:
            figures: dict[str, list[Figures]] = {
                row.name: [measure.figures(answers) for answers in self.answers.get((row.name, measure.name), [])]
                for row in self.rows
            }
            (before,) = figures[self.rows[0].name]
            for row in self.rows:
                control = figures.get(controls.get(row.name, ""), [])
                for metric, scope in before if figures[row.name] else ():
                    runs, beside = ([run[metric, scope] for run in of] for of in (figures[row.name], control))
                    found[row.name, metric, scope] = estimate(before[metric, scope], runs, METRICS[metric].unit, beside)
        return found

    def findings(
        self,
        command: str,
        model_name: str,
        settings: Mapping[str, Any],
        facts: Mapping[str, Any] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> Findings:
        """Return the results as the findings of a command; the facts include the sizes of the measures' data."""
        all_facts = {name: value for measure in self.measures for name, value in measure.facts().items()}
        all_facts |= facts or {}
        return Findings(command, model_name, settings, all_facts, self.rows, self.estimates(), details or {})


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Iterable[Arm],
    measures: Sequence[Measure],
    cache: Artifacts | None = None,
    on_row: Callable[[Row], None] = lambda row: None,
) -> Evaluation:
    """Measure treatments of a model, starting with the untouched model.

    Args:
        model: the untreated model, on its device.
        tokenizer: the model's tokenizer.
        rows: the treatments to measure; an iterator may find neurons or train weights lazily.
        measures: what to measure.
        cache: cache of answers, so that an interrupted command can resume; None for no cache.
        on_row: called with each row after it was measured.

    Raises:
        InputError: as :meth:`Evaluation.measure`.
    """
    evaluation = Evaluation(model, tokenizer, measures, cache)
    for arm in rows:
        on_row(evaluation.measure(arm))
    return evaluation


def require_judgeable(model: PreTrainedModel, treatment: Treatment, measures: Sequence[Measure]) -> None:
    """Check that all measures can detect a treatment.

    Raises:
        InputError: if neurons are suppressed at the slot only, but a measure scores whole sentences of a causal model.
    """
    names = [measure.name for measure in measures if not measure.last_token_only]
    require_predicting_slots(model, treatment.positions, names)


def _size(model: PreTrainedModel, treated: PreTrainedModel, treatment: Treatment) -> int:
    """Return the number of treated neurons, or of trained parameters."""
    if treatment.neurons is not None or treated is model:
        return len(treatment.neurons or ())
    pairs = zip(model.parameters(), treated.parameters(), strict=True)
    return sum(before.numel() for before, after in pairs if not torch.equal(before, after))
