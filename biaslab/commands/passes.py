"""A cached attribution pass, shared by several commands, and its TensorBoard log."""

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.tensorboard.writer import SummaryWriter

from biaslab.commands.machine import Machine, start
from biaslab.data.prompts import PromptDataModule
from biaslab.errors import InputError
from biaslab.models import ranks
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.store import Artifacts, files_of, slug
from biaslab.tasks.attribution import Attribution

Select = Callable[[Attribution, PromptDataModule], dict[str, NeuronSet]]


class LogNeurons(Callback):
    """Log an attribution run's neurons, scores and sample prompts, if the logger is TensorBoard."""

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log them after a successful run."""
        writer, result = getattr(trainer.logger, "experiment", None), getattr(pl_module, "result", None)
        if isinstance(writer, SummaryWriter) and result is not None:
            from biaslab.report import tensorboard

            neurons, scores = result
            tensorboard.log_neurons(writer, neurons, scores.nanmean(0))
            data: Any = pl_module.data
            words = {name: dimension.words for name, dimension in data.dimensions.items()}
            tensorboard.log_prompts(writer, data.prompts, words)


class Pass(NamedTuple):
    """Result of an attribution pass: neuron sets by selection, its folder, and its duration in seconds."""

    sets: dict[str, NeuronSet]
    folder: Path
    seconds: float


def attribution_pass(
    cache: Artifacts,
    name: str,
    model_name: str,
    options: dict[str, Any],
    data: dict[str, Any],
    select: Select,
    depends_on: Mapping[str, Any],
    machine: Machine | None = None,
) -> Pass:
    """Run an attribution pass, or take it from the cache.

    Args:
        cache: the cache that holds the pass's folder.
        name: name of the pass.
        model_name: name of the model.
        options: further arguments of :class:`biaslab.tasks.attribution.Attribution`.
        data: further arguments of :class:`biaslab.data.prompts.PromptDataModule`.
        select: returns neuron sets by name from the task and the data, after the pass.
        depends_on: what the sets depend on besides the options and the data.
        machine: the machine to run on, if all processes call this; the best device by default.

    Raises:
        InputError: if another command is running the same pass.
    """
    machine = machine or start()

    def attribute(folder: Path) -> dict[str, Any]:
        if (
            ranks.is_first() and (folder / "neurons.json").exists()
        ):  # interrupted after the pass, before its sets were written
            shutil.rmtree(folder)
        started = time.monotonic()
        task, trust = Attribution(model_name, **options), bool(options.get("trust_remote_code"))
        module = PromptDataModule(model_name, **data, trust_remote_code=trust)
        logger = TensorBoardLogger(folder.parent, name=folder.name, version="", default_hp_metric=False)
        machine.trainer(logger, LogNeurons()).predict(task, module, return_predictions=False)
        machine.take(task.model)
        sets = select(task, module)
        for key, neurons in sets.items() if ranks.is_first() else ():
            neurons.save(folder / f"neurons_{slug(key)}.json")
        return {"sets": list(sets), "seconds": round(time.monotonic() - started, 1)}

    files = files_of([data.get(name) for name in ("contrast", "path", "words")])
    more = {"options": options, "data": data, "files": files}
    folder, done = once(cache, name, {**depends_on, **more}, attribute)
    sets = {key: NeuronSet.load(folder / f"neurons_{slug(key)}.json") for key in done["sets"]}
    return Pass(sets, folder, done["seconds"])


def once(
    cache: Artifacts, name: str, depends_on: Mapping[str, Any], job: Callable[[Path], dict[str, Any]]
) -> tuple[Path, dict[str, Any]]:
    """Like :meth:`biaslab.store.Artifacts.once`, for a job that all processes run together in one folder."""
    if not ranks.is_first():
        message: Any = ranks.heard()
        if isinstance(message, Path):
            job(message)
            message = ranks.heard()
        return message  # type: ignore[no-any-return]

    def together(folder: Path) -> dict[str, Any]:
        return job(ranks.tell(folder))

    try:
        return ranks.tell(cache.once(name, depends_on, together))
    except InputError as error:
        ranks.tell(error)
        raise
