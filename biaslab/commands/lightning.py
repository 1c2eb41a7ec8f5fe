"""Lightning's subcommands predict, test, fit and validate, with biaslab's defaults and argument links."""

import re
import sys
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, ArgumentError  # type: ignore[attr-defined]
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

from biaslab import callbacks, tasks  # noqa: F401  imported so that short class names in configs resolve
from biaslab.commands.configs import config_file, read_config
from biaslab.commands.passes import LogNeurons
from biaslab.commands.plan import plan
from biaslab.data import attribute_sentences, corpus, counterfactual, crows_pairs, prompt_pairs, prompts, stereoset  # noqa: F401
from biaslab.errors import RANGES, InputError, require_ranges, usage
from biaslab.models.checkpoints import open_checkpoint
from biaslab.models.loading import has_weights
from biaslab.store import locked, training_in
from biaslab.tasks.attribution import WITHOUT_EFFECT
from biaslab.tasks.shards import is_locked

_EXAMPLES = {"predict": "attribute", "test": "stereoset", "fit": "dpce", "validate": "dpce"}


class _FirstConfig(SaveConfigCallback):
    """Save the configuration in a run's folder, but do not overwrite that of a resumed run."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        folder = Path(trainer.log_dir or "")
        there = read_config(folder / self.config_filename)
        goes_on = any((folder / name).exists() for name in ("shards", "neurons.json")) or self.config.get("ckpt_path")
        if not (there and goes_on):
            self.overwrite = not there  # a truncated file may be replaced
            super().setup(trainer, pl_module, stage)


class _OneTraining(Callback):
    """Lock a run's folder during a training, so that no other training uses or removes it."""

    def __init__(self) -> None:
        self.held = ExitStack()  # released when the process ends, however it ends

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        folder = getattr(trainer.logger, "log_dir", None)
        if stage == "fit" and folder and trainer.is_global_zero:
            Path(folder).parent.mkdir(parents=True, exist_ok=True)
            self.held.enter_context(locked(training_in(Path(folder))))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.held.close()


class _Config(ActionConfigFile):
    """Read a configuration: a file, the name of a shipped one, or YAML text."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        try:
            is_name = isinstance(yaml.safe_load(values), str)
        except yaml.YAMLError:
            is_name = True
        self.apply_config(parser, cfg, self.dest, str(config_file(values)) if is_name else values)


class BiaslabCLI(LightningCLI):
    """LightningCLI with one model name for task and data, and runs that resume."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Return a parser that finds the shipped configurations."""
        parser = self.parser_class(dump_header=[f"pytorch_lightning=={version('pytorch-lightning')}"], **kwargs)
        parser.add_argument("-c", "--config", action=_Config, help="a file, or the name of a shipped configuration")
        return parser

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        """Prepare only the requested command, which is in ``kwargs``: each one takes time."""
        every = super().subcommands()
        self.subcommands = lambda: {name: every[name] for name in kwargs}  # type: ignore[method-assign]
        super()._add_subcommands(parser, **kwargs)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """Load weights only from checkpoints, including remote ones: Lightning would unpickle arbitrary code."""
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if "weights_only" in self._subcommand_method_arguments[subcommand]:
            parser.set_defaults(weights_only=True)
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link the model's name and ``trust_remote_code`` to the data, and add the options of single commands."""
        for name in ("model_name", "trust_remote_code"):
            parser.link_arguments(f"model.init_args.{name}", f"data.init_args.{name}")
        if parser.prog.endswith(" predict"):
            what = "measure briefly, print the expected cost of the run, and exit"
            parser.add_argument("--plan", action="store_true", help=what)
        if parser.prog.endswith(" test"):
            what = "write the scores of StereoSet's sentences to this file, in the authors' prediction format"
            parser.add_argument("--predictions", type=str | None, default=None, help=what)

    def _parse_ckpt_path(self) -> None:
        """Take class and settings from a checkpoint, but not the model's name or ``trust_remote_code``."""
        config = self.config[self.config.subcommand]
        _require_checkpoint(config.get("ckpt_path"))
        is_file = config.get("ckpt_path") and Path(config.ckpt_path).is_file()
        if not is_file or not (settings := dict(open_checkpoint(config.ckpt_path).get("hyper_parameters", {}))):
            return
        for unwanted in ("_instantiator", "trust_remote_code", "class_path", "init_args", "dict_kwargs"):
            settings.pop(unwanted, None)
        name, expected = settings.pop("model_name", None), config.model.class_path
        class_path = settings.pop("_class_path", expected)
        if class_path != expected and not str(class_path).startswith("biaslab."):
            raise InputError(
                f"`ckpt_path` is expected to be a checkpoint of biaslab or of {expected} but is one of "
                f"{class_path!r}. If you trust it, give --model {class_path}."
            )
        model = {"class_path": class_path, "dict_kwargs": settings}
        self.config = self.parser.parse_object({self.config.subcommand: {"model": model}}, self.config)
        chosen = self.config[self.config.subcommand].model.init_args.get("model_name")
        if name is not None and name != chosen:
            raise InputError(
                f"`model_name` is expected to be the model that the checkpoint was trained from, {name!r}, but got "
                f"{chosen!r}. If you trust it, give --model.model_name {name}."
            )

    def _set_seed(self) -> None:
        """Check that all random generators accept the seed."""
        seed = self._get(self.config, "seed_everything")
        if not isinstance(seed, bool):
            require_ranges({"seed_everything": seed}, seed_everything=RANGES["seed"])
        super()._set_seed()

    def before_instantiate_classes(self) -> None:
        """Resume in the folder of an unfinished run with identical settings, if there is one."""
        config = self.config[self.subcommand]
        if self.subcommand == "predict" and config.plan:
            _estimate(config)
        settings = getattr(config.trainer.logger, "init_args", None)
        if self.subcommand != "predict" or settings is None or getattr(settings, "version", "") is not None:
            return
        text = self._parser(self.subcommand).dump(config, skip_none=False, skip_check=True)  # as it will be saved
        wanted = _of_the_result(yaml.safe_load(text))
        for shards in sorted(Path(settings.save_dir, settings.name or "").glob("version_*/shards")):
            folder = shards.parent
            if _of_the_result(read_config(folder / "config.yaml")) == wanted and not is_locked(shards):
                settings.version = int(folder.name.removeprefix("version_"))
                return

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add callbacks: log an attribution run's neurons to TensorBoard; lock a training's folder."""
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except InputError:
            raise
        except (ValueError, TypeError, RuntimeError, ImportError, OSError) as error:
            raise InputError(_of_the_trainer(error)) from error
        own: dict[str, type[Callback]] = {"predict": LogNeurons, "fit": _OneTraining}
        if self.subcommand in own:
            trainer.callbacks.append(own[self.subcommand]())  # type: ignore[attr-defined]
        return trainer

    def before_predict(self) -> None:
        """Print the plan and exit, if `--plan` was given."""
        if self.config.predict.plan:
            if not isinstance(self.model, tasks.Attribution):
                raise InputError("`plan` is expected only with the model Attribution. Leave it out.")
            plan(self.model, self.datamodule, self.trainer.world_size)
            sys.exit(0)

    def before_test(self) -> None:
        """Set the file for sentence scores, if one was given."""
        if (name := self.config.test.predictions) is None:
            return
        if not isinstance(self.model, tasks.StereoSetEvaluation):
            raise InputError("`predictions` is expected only with StereoSet. Leave it out.")
        path = Path(name).expanduser()
        if path.is_dir() or not path.parent.is_dir():
            raise InputError(f"`predictions` is expected to be a file in an existing folder but got {name!r}.")
        self.model.predictions = path


def _estimate(config: Any) -> None:
    """Print an estimate and exit, if a plan is requested for a model whose weights are not on disk."""
    settings, data = config.model.init_args, config.data.init_args
    if config.model.class_path.endswith("Attribution") and not has_weights(settings.model_name):
        from biaslab.commands.estimate import estimate

        module = prompts.PromptDataModule(**{**data.as_dict(), "model_name": settings.model_name})
        estimate(settings.model_name, settings.as_dict(), module, settings.trust_remote_code)
        sys.exit(0)


def _require_checkpoint(path: str | None) -> None:
    """Raise InputError if a checkpoint is missing or is a model folder; "last" and URLs pass."""
    if path is None or path in ("last", "hpc") or ":" in path:
        return
    if path == "best":
        raise InputError(
            '`ckpt_path` is expected to be a file but got "best", which is only known during training. Give the file.'
        )
    if not Path(path).exists():
        raise InputError(
            f"`ckpt_path` is expected to be a checkpoint of `biaslab fit`, but {path!r} does not exist. Check it."
        )
    if Path(path, "config.json").exists():
        open_checkpoint(path)


def _of_the_result(config: dict[str, Any]) -> tuple[Any, ...]:
    """Return the settings that the result depends on."""
    settings = (config.get("model") or {}).get("init_args") or {}
    model = {name: value for name, value in settings.items() if name not in WITHOUT_EFFECT}
    return model, config.get("data"), config.get("seed_everything")


def _without_config(command: str) -> str:
    """Return the message for arguments that are wrong because no configuration names the model and data classes."""
    return (
        "`config` is expected to be a YAML file or a shipped configuration, but none was given. Choose one, for "
        f"example `biaslab {command} -c {_EXAMPLES[command]}`. See biaslab {command} --help."
    )


def run(command: str) -> None:
    """Run "predict", "test", "fit" or "validate" with the arguments that follow it in ``sys.argv``."""
    raises: dict[str, Any] = {"exit_on_error": False}
    try:
        BiaslabCLI(
            LightningModule, LightningDataModule, save_config_callback=_FirstConfig, subclass_mode_model=True,
            subclass_mode_data=True, seed_everything_default=0,
            parser_kwargs={"prog": "biaslab", **raises, command: {"prog": f"biaslab {command}", **raises}},
            trainer_defaults={"inference_mode": False},  # attribution needs gradients while it predicts
        )  # fmt: skip
    except ArgumentError as error:
        chosen = any(re.match(r"-c|--config|--(model|data)(=|$)", argument) for argument in sys.argv[2:])
        raise InputError(usage(str(error), command) if chosen else _without_config(command)) from error
    except MisconfigurationException as error:
        raise InputError(_of_the_trainer(error)) from error


def _of_the_trainer(error: Exception) -> str:
    text = (" ".join(str(error).split()) or type(error).__name__).rstrip(".")
    return f"`trainer` is expected to have options that are valid together and on this machine, but: {text}."
