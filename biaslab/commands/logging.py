"""What an attribution run writes to TensorBoard."""

from __future__ import annotations

from pytorch_lightning import Callback, LightningModule, Trainer
from torch.utils.tensorboard.writer import SummaryWriter

from biaslab.tasks.attribution import Attribution


class LogNeurons(Callback):
    """Writes the neurons, their scores and some prompts of an attribution run, where TensorBoard is the logger."""

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write them when the run has ended well."""
        writer = getattr(trainer.logger, "experiment", None)
        if not isinstance(writer, SummaryWriter) or not isinstance(pl_module, Attribution):
            return
        if pl_module.result is None:
            return
        from biaslab.report import tensorboard

        neurons, scores = pl_module.result
        tensorboard.log_neurons(writer, neurons, scores.nanmean(0))
        words = {name: dimension.words for name, dimension in pl_module.data.dimensions.items()}
        tensorboard.log_prompts(writer, pl_module.data.prompts, words)
