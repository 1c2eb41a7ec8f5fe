"""What is done to a model before it is measured: nothing, neurons multiplied by a factor, or other weights."""

import copy
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from biaslab.models.checkpoints import load_weights, read_checkpoint
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.neurons.suppression import suppressed

Positions = Literal["all", "slot"]
BASE = "untouched"


@dataclass(frozen=True)
class Treatment:
    """What is done to a model."""

    neurons: NeuronSet | None = None  # that are multiplied by the factor, each as far as its strength says
    factor: float = 0.0  # 0 suppresses
    positions: Positions = "all"  # or "slot": only where the model is asked
    checkpoint: Path | None = None  # of a debiasing baseline's weights; None for the model's own

    @property
    def key(self) -> dict[str, Any]:
        """What is done beside other weights, for a cache key: without neurons, factor and positions mean nothing."""
        done = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "checkpoint"}
        if self.neurons is not None:
            values = self.neurons.values
            to: dict[str, Any] = {} if values is None else {"values": hashlib.sha256(values.tobytes()).hexdigest()}
            if self.neurons.strengths is not None:
                to["strengths"] = list(self.neurons.strengths.values())
            return done | {"neurons": list(self.neurons)} | to
        return {name: value for name, value in done.items() if name not in ("neurons", "factor", "positions")}

    def facts(self) -> dict[str, Any]:
        """Return what tells the treatment from others, for files: neurons by their fingerprint."""
        others = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "neurons"}
        neurons = None if self.neurons is None else self.neurons.fingerprint
        checkpoint = None if self.checkpoint is None else self.checkpoint.name
        return {"neurons": neurons, "count": len(self.neurons or ()), **others, "checkpoint": checkpoint}

    def weights_of(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the model with the treatment's weights: itself, or a copy with those of the checkpoint."""
        if self.checkpoint is None:
            return model
        trained = copy.deepcopy(model)
        load_weights(trained, read_checkpoint(str(self.checkpoint))["state_dict"], str(self.checkpoint))
        return trained

    @contextmanager
    def applied(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
        """Within the block, the neurons of a model with the treatment's weights are multiplied by the factor."""
        mask_id = getattr(tokenizer, "mask_token_id", None)
        with suppressed(model, self.neurons or (), self.factor, self.positions, mask_id):
            yield


@dataclass(frozen=True)
class Arm:
    """A :class:`biaslab.evaluation.findings.Row` before it is measured."""

    name: str
    treatments: Sequence[Treatment] = (Treatment(),)  # one, or one a seed
    title: str = ""  # the name by default
    like: str | None = None
    seconds: float = 0.0
    measures: Sequence[str] | None = None  # names of those that it is measured by; all by default


def random_name(seeds: int) -> str:
    """Return how the row of random controls is called.

    >>> random_name(1), random_name(3)
    ('random, one seed', 'random, 3 seeds')
    """
    return f"random, {'one seed' if seeds == 1 else f'{seeds} seeds'}"
