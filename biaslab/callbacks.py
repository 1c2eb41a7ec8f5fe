"""Bias Neuron Suppression as a Lightning callback."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from biaslab.errors import InputError, require_ranges
from biaslab.evaluation.treatment import Positions, Treatment
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.neurons.suppression import require_predicting_slots


class NeuronSuppression(Callback):
    """Suppress (or amplify) neurons during validation, test and prediction, but not during training.

    Args:
        neurons: a set of neurons, or the path or hub id of a neuron file, made for the model's weights.
        factor: what the neurons are multiplied by: 0 suppresses, 2 amplifies. Scaled by the strengths of the set, if
            any.
        positions: "all", or "slot" for only the mask token (the last token of a causal model), as in the authors' code.
            "slot" is not available to test or validate a causal model, which is scored on whole sentences.

    Raises:
        InputError: if ``positions`` is invalid; at the start of a loop, if the neurons can't be read or were made for
            another model.

    Reference:
        "The Devil is in the Neurons" (ICLR 2024), section 3.3.
    """

    def __init__(
        self, neurons: str | Path | NeuronSet | None = None, factor: float = 0.0, positions: Positions = "all"
    ) -> None:
        if positions not in ("all", "slot"):
            raise InputError(f'`positions` is expected to be "all" or "slot" but got {positions!r}.')
        require_ranges({"factor": factor})
        self.neurons, self.factor, self.positions = neurons, factor, positions
        self._hooks = ExitStack()

    def _install(self, trainer: Trainer, pl_module: LightningModule, judges: bool = True) -> None:
        if self.neurons is None:
            raise InputError(
                "`neurons` is expected to be a neuron file but is missing. Pass --trainer.callbacks.neurons PATH."
            )
        neurons = self.neurons if isinstance(self.neurons, NeuronSet) else NeuronSet.load(self.neurons)
        model: Any = pl_module.model
        tokenizer: Any = getattr(pl_module, "tokenizer", None)
        neurons.require_model(model)
        require_predicting_slots(model, self.positions, [type(pl_module).__name__] if judges else [])
        self._remove()
        self._hooks.enter_context(Treatment(neurons, self.factor, self.positions).applied(model, tokenizer))

    def _remove(self, *_: Any, **__: Any) -> None:
        self._hooks.close()

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the hooks."""
        self._install(trainer, pl_module, judges=False)

    on_validation_start = on_test_start = _install
    # an exception ends the loop without its end hook
    on_validation_end = on_test_end = on_predict_end = on_exception = teardown = _remove
