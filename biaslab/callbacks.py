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
    """Suppress (or amplify) neurons while a model is validated, tested, or predicts; training is left alone.

    Args:
        neurons: a set, or the path of a neuron file. It must have been made for the model's weights.
        factor: 0 suppresses, 2 amplifies; a set's strengths say how much of this each neuron gets.
        positions: "all", or "slot": only the mask token (a causal model's last token), as in the authors' code. "slot"
            is refused where a causal model is tested or validated: it is judged on whole sentences.

    Raises:
        InputError: if ``positions`` is neither; as a loop starts, if the neurons can't be read or are another model's.

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
                "`neurons` is expected to be a neuron file but is missing. Give --trainer.callbacks.neurons PATH."
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
