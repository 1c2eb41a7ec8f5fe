"""Long jobs that commands share, each in a folder of its own: an attribution pass, a training, a prompt search.

Each passes through :meth:`biaslab.store.Artifacts.once`; one that was killed goes on.
"""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch.utils.tensorboard.writer import SummaryWriter

from biaslab.data.prompts import PromptDataModule
from biaslab.errors import InputError
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.store import Artifacts, files_of, locked, slug, training_in
from biaslab.tasks.attribution import Attribution
from biaslab.tasks.base import single_trainer

Select = Callable[[Attribution, PromptDataModule], dict[str, NeuronSet]]


class LogNeurons(Callback):
    """Writes the neurons, their scores and some prompts of an attribution run, where TensorBoard is the logger."""

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write them when the run has ended well."""
        writer, result = getattr(trainer.logger, "experiment", None), getattr(pl_module, "result", None)
        if isinstance(writer, SummaryWriter) and result is not None:
            from biaslab.report import tensorboard

            neurons, scores = result
            tensorboard.log_neurons(writer, neurons, scores.nanmean(0))
            data: Any = pl_module.data
            words = {name: dimension.words for name, dimension in data.dimensions.items()}
            tensorboard.log_prompts(writer, data.prompts, words)


class Pass(NamedTuple):
    """What an attribution pass found: sets of neurons by selection, its folder, and the seconds that it took."""

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
) -> Pass:
    """Run an attribution pass, unless it was run.

    Args:
        cache: where the folder is.
        name: of the pass.
        model_name: of the model.
        options: further arguments of :class:`biaslab.tasks.attribution.Attribution`.
        data: further arguments of :class:`biaslab.data.prompts.PromptDataModule`.
        select: makes sets of neurons, by name, from the task and the data, after the pass.
        depends_on: what the sets depend on beside the options and the data.

    Raises:
        InputError: if another command runs the same pass.
    """

    def attribute(folder: Path) -> dict[str, Any]:
        if (folder / "neurons.json").exists():  # killed after the pass, before its sets were written
            shutil.rmtree(folder)
        start = time.monotonic()
        task, trust = Attribution(model_name, **options), bool(options.get("trust_remote_code"))
        module = PromptDataModule(model_name, **data, trust_remote_code=trust)
        logger = TensorBoardLogger(folder.parent, name=folder.name, version="", default_hp_metric=False)
        single_trainer(logger, LogNeurons()).predict(task, module, return_predictions=False)
        sets = select(task, module)
        for key, neurons in sets.items():
            neurons.save(folder / f"neurons_{slug(key)}.json")
        return {"sets": list(sets), "seconds": round(time.monotonic() - start, 1)}

    more = {"options": options, "data": data, "files": files_of([data.get("contrast"), data.get("path")])}
    folder, done = cache.once(name, {**depends_on, **more}, attribute)
    sets = {key: NeuronSet.load(folder / f"neurons_{slug(key)}.json") for key in done["sets"]}
    return Pass(sets, folder, done["seconds"])


class Trainings(NamedTuple):
    """The trainings of baselines of one model, each by a command in a process of its own, and kept."""

    cache: Artifacts
    model_name: str
    weights: str  # the model's fingerprint
    trust_remote_code: bool = False

    def train(self, name: str, config: Path, prompts: Path | None = None) -> tuple[Path, float]:
        """Train a baseline by ``biaslab fit``, unless it was trained; a killed training goes on.

        Args:
            name: of the baseline.
            config: its configuration.
            prompts: a file of prompts, for Auto-Debias.

        Returns:
            The best checkpoint, and the seconds that the training took.

        Raises:
            InputError: if the training fails, or another command runs it.
        """

        def fit(folder: Path) -> dict[str, Any]:
            last = folder / "checkpoints" / "last.ckpt"
            with locked(training_in(folder)):  # refused while a training works on that has survived its command
                pass
            if not last.exists():  # killed before the first one
                shutil.rmtree(folder, ignore_errors=True)
            options = {
                "-c": config, "--model.model_name": self.model_name, "--trainer.logger.save_dir": folder.parent,
                "--trainer.logger.name": folder.name, "--trainer.logger.version": "",
                "--ckpt_path": last if last.exists() else None, "--data.prompts": prompts,
                "--model.trust_remote_code": "true" if self.trust_remote_code else None,
            }  # fmt: skip
            return {"seconds": _run("fit", options), "checkpoint": _best(folder).name}

        text = config.read_text(encoding="utf-8")
        depends_on = {
            "weights": self.weights, "config": text, "files": files_of(yaml.safe_load(text)),
            "prompts": None if prompts is None else prompts.read_text(encoding="utf-8"),
        }  # fmt: skip
        folder, done = self.cache.once(name, depends_on, fit)
        return folder / "checkpoints" / done["checkpoint"], done["seconds"]

    def search_prompts(self, options: Mapping[str, Any]) -> tuple[Path, float]:
        """Search prompts for Auto-Debias, unless they were found; return their file, and the seconds that it took."""

        def search(folder: Path) -> dict[str, Any]:
            given = {f"--{key}": value for key, value in options.items()}
            trust = "true" if self.trust_remote_code else None
            own = {"--model": self.model_name, "--output": folder / "prompts.json"}
            return {"seconds": _run("search-prompts", {**own, **given, "--trust_remote_code": trust})}

        folder, done = self.cache.once("prompts", {"weights": self.weights, "search": options}, search)
        return folder / "prompts.json", done["seconds"]


def _run(command: str, options: Mapping[str, Any]) -> float:
    """Run a command of biaslab in a process of its own, without options of None; return the seconds that it took."""
    arguments = [part for name, value in options.items() if value is not None for part in (name, str(value))]
    print(f"\n$ biaslab {command} {' '.join(arguments)}", flush=True)
    start = time.monotonic()
    if code := subprocess.run([sys.executable, "-m", "biaslab", command, *arguments], check=False).returncode:
        raise InputError(
            f"`rows` is expected to hold what can be made here, but `biaslab {command}` ended with code {code}; its "
            "message stands above. Correct that, or leave the row out."
        )
    return round(time.monotonic() - start, 1)


def _best(folder: Path) -> Path:
    """Return the best checkpoint: the newest that is not the last step's."""
    found = [path for path in (folder / "checkpoints").glob("*.ckpt") if not path.stem.startswith("last")]
    if not found:
        raise InputError(f"`configs` is expected to keep the best checkpoint (ModelCheckpoint), but {folder} has none.")
    return max(found, key=lambda path: path.stat().st_mtime)
