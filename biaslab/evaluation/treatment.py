"""Treatments of a model before it is measured: none, neurons multiplied by a factor, or other weights."""

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
    """A treatment of a model: neurons to multiply by a factor, or other weights.

    Attributes:
        neurons: neurons to multiply by the factor, according to their strengths.
        factor: what the neurons are multiplied by; 0 suppresses.
        positions: "all", or "slot" for the slot only.
        checkpoint: weights of a debiasing baseline; None for the model's own.
    """

    neurons: NeuronSet | None = None
    factor: float = 0.0
    positions: Positions = "all"
    checkpoint: Path | None = None

    @property
    def key(self) -> dict[str, Any]:
        """The treatment apart from its weights, as a cache key; factor and positions are omitted without neurons."""
        done = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "checkpoint"}
        if self.neurons is not None:
            values = self.neurons.values
            to: dict[str, Any] = {} if values is None else {"values": hashlib.sha256(values.tobytes()).hexdigest()}
            if self.neurons.strengths is not None:
                to["strengths"] = list(self.neurons.strengths.values())
            return done | {"neurons": list(self.neurons)} | to
        return {name: value for name, value in done.items() if name not in ("neurons", "factor", "positions")}

    def facts(self) -> dict[str, Any]:
        """Return facts that identify the treatment in files; neurons by their fingerprint."""
        others = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "neurons"}
        neurons = None if self.neurons is None else self.neurons.fingerprint
        checkpoint = None if self.checkpoint is None else self.checkpoint.name
        return {"neurons": neurons, "count": len(self.neurons or ()), **others, "checkpoint": checkpoint}

    def weights_of(self, model: PreTrainedModel) -> PreTrainedModel:
        """Return the model with the treatment's weights: the model itself, or a copy with the checkpoint's weights."""
        if self.checkpoint is None:
            return model
        trained = copy.deepcopy(model)
        load_weights(trained, read_checkpoint(str(self.checkpoint))["state_dict"], str(self.checkpoint))
        return trained

    @contextmanager
    def applied(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
        """Multiply the neurons of a model with the treatment's weights by the factor within the block."""
        mask_id = getattr(tokenizer, "mask_token_id", None)
        with suppressed(model, self.neurons or (), self.factor, self.positions, mask_id):
            yield


@dataclass(frozen=True)
class Arm:
    """A :class:`biaslab.evaluation.findings.Row` before it is measured.

    Attributes:
        name: name of the row.
        treatments: one treatment, or one per seed.
        title: printed name; the name by default.
        like: for random controls, the row whose distribution over layers they share.
        seconds: time to find the neurons or to train.
        measures: names of the measures to use; all by default.
    """

    name: str
    treatments: Sequence[Treatment] = (Treatment(),)
    title: str = ""
    like: str | None = None
    seconds: float = 0.0
    measures: Sequence[str] | None = None


def random_name(seeds: int) -> str:
    """Return the name of the row of random controls.

    >>> random_name(1), random_name(3)
    ('random, one seed', 'random, 3 seeds')
    """
    return f"random, {'one seed' if seeds == 1 else f'{seeds} seeds'}"
