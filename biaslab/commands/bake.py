"""What was found or trained, written as an ordinary Hugging Face checkpoint that needs neither hooks nor biaslab."""

from __future__ import annotations

import math
import tempfile
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from biaslab.errors import InputError
from biaslab.models.architectures import down_weight, ffn_modules
from biaslab.models.checkpoints import load_weights, read_checkpoint
from biaslab.models.loading import fingerprint, load_model
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.report.model_card import NOT_MEASURED, model_card
from biaslab.report.model_figures import Figures, measured


def bake(
    model: str | None = None,
    ckpt_path: str | None = None,
    neurons: str | None = None,
    output: str = "baked",
    factor: float = 0.0,
    positions: Literal["all", "slot"] = "all",
    trust_remote_code: bool = False,
) -> None:
    """Write a model with its neurons suppressed, or a trained model, or both, as an ordinary checkpoint folder.

    The folder loads with plain transformers. Its weights are those of float32, unless a checkpoint has another type.
    Its logits are the hooked model's, bit for bit where ``factor`` is 0 or a power of two: others round differently.

    Args:
        model: name, folder or hub id of the model that the neurons belong to.
        ckpt_path: a Lightning checkpoint of a debiasing baseline, instead of ``model``.
        neurons: a neuron file, made for the very weights that are written.
        output: the new folder; nothing is left there if anything fails.
        factor: what the neurons are multiplied by: 0 suppresses.
        positions: "all"; weights do the same everywhere, so "slot" can't be baked.
        trust_remote_code: let a checkpoint bring its own Python code.

    Raises:
        InputError: if not exactly one of ``model`` and ``ckpt_path`` is given, one of the files is not what is
            expected, the neurons were made for other weights, or the folder has something in it.
    """
    if positions != "all":
        raise InputError(
            f'`positions` is expected to be "all" but got {positions!r}: a weight acts on every token alike. What is '
            "suppressed at the slot alone needs the callback NeuronSuppression (configs/suppress.yaml)."
        )
    if (model is None) is (ckpt_path is None):
        given = "neither" if model is None else "both"
        raise InputError(f"`model` or `ckpt_path` is expected, one of the two, but got {given}. Give one.")
    if not math.isfinite(factor):
        raise InputError(f"`factor` is expected to be a finite number but got {factor}.")
    folder = Path(output).expanduser()
    _require_empty(folder)
    if ckpt_path is None:
        assert model is not None
        language_model, tokenizer = load_model(model, trust_remote_code=trust_remote_code)
        facts: dict[str, Any] = {"model": {"name": model, "fingerprint": fingerprint(language_model)}}
    else:
        language_model, tokenizer, facts = trained_model(ckpt_path, trust_remote_code)
    figures = Figures()
    if neurons is not None:
        chosen = NeuronSet.load(neurons)
        chosen.require_model(language_model)
        scale_neurons(language_model, chosen, factor)
        facts["neurons"] = {"file": neurons, "count": len(chosen), "factor": factor, "made": dict(chosen.provenance)}
        figures = measured(Path(neurons), chosen, factor)
    write_checkpoint(language_model, tokenizer, facts, folder, figures.markdown())
    print(f"The model lies in {folder}.")
    if figures.why_not:
        print(textwrap.fill(f"Its card has no figures: {figures.why_not}", 80))


def scale_neurons(model: PreTrainedModel, neurons: NeuronSet, factor: float) -> None:
    """Multiply the neurons' columns of the down-projections in place: what a hook on them does, for good.

    Args:
        model: the model that the neurons belong to.
        neurons: which.
        factor: 0 suppresses them at all positions.
    """
    modules = ffn_modules(model)
    with torch.no_grad():
        for layer, indices in neurons.by_layer().items():
            down_weight(modules[layer])[:, indices] *= factor


def _require_empty(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"`output` is expected to be a new or empty folder, but {folder} is not. Choose another.")


def trained_model(
    path: str, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any]]:
    """Return the trained model of a Lightning checkpoint, its tokenizer, and where it comes from.

    Args:
        path: of the checkpoint.
        trust_remote_code: let the model that it was trained from bring its own Python code.

    Raises:
        InputError: if it is no checkpoint of a debiasing baseline.
    """
    checkpoint = read_checkpoint(path)
    settings = checkpoint["hyper_parameters"]
    name = settings["model_name"]
    dtype = getattr(torch, settings.get("dtype", "float32"))
    model, tokenizer = load_model(name, dtype=dtype, trust_remote_code=trust_remote_code)
    before = fingerprint(model)
    load_weights(model, checkpoint["state_dict"], path)
    training = {
        "checkpoint": path,
        "task": settings.get("_class_path", "not named in the checkpoint"),
        "settings": _public(settings),
        "data": _public(checkpoint.get("datamodule_hyper_parameters", {})),
        "epoch": checkpoint.get("epoch"),
        "steps": checkpoint.get("global_step"),
        "fingerprint": fingerprint(model),
    }
    return model, tokenizer, {"model": {"name": name, "fingerprint": before}, "training": training}


def _public(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings without what is Lightning's own matter."""
    return {key.removeprefix("_"): value for key, value in settings.items() if key != "_instantiator"}


def write_checkpoint(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    facts: Mapping[str, Any],
    folder: Path,
    figures: str = NOT_MEASURED,
) -> None:
    """Write a checkpoint folder with its model card, all of it or nothing.

    Args:
        model: with the weights as they are to be.
        tokenizer: the model's.
        facts: of the card; see :func:`biaslab.report.model_card.model_card`.
        folder: new or empty.
        figures: of the card.
    """
    beside = next(parent for parent in folder.parents if parent.exists())
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=beside) as temporary:
        whole = Path(temporary, folder.name)
        model.save_pretrained(whole)
        tokenizer.save_pretrained(whole)
        (whole / "README.md").write_text(model_card(model, facts, figures), encoding="utf-8")
        folder.parent.mkdir(parents=True, exist_ok=True)
        whole.replace(folder)  # an empty folder gives way, one with content never
