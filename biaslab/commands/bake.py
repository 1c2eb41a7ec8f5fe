"""Write suppressed or trained models as ordinary Hugging Face checkpoints, which need neither hooks nor biaslab."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from biaslab.data.presets import Dtype
from biaslab.errors import InputError, require_device_map, require_ranges

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from biaslab.neurons.neuron_set import NeuronSet
    from biaslab.report.model_card import Figures


def bake(
    model: str | None = None,
    ckpt_path: str | None = None,
    neurons: str | None = None,
    output: str = "baked",
    factor: float = 0.0,
    positions: Literal["all", "slot"] = "all",
    dtype: Dtype = "auto",
    device_map: str | None = None,
    trust_remote_code: bool = False,
    push_to_hub: str | None = None,
    private: bool = False,
) -> None:
    """Write a model with its neurons suppressed, or a trained model, or both, as an ordinary checkpoint folder.

    A PEFT adapter is merged. A quantised checkpoint is refused, because it has no full weights to change. The folder
    loads with plain transformers. Its logits equal those of the hooked model: bit for bit if neurons are not set to
    means and the multiplier of each, 1 - (1 - factor)·strength (the factor if the file has no strengths), is 0 or a
    power of two, of either sign; up to rounding otherwise.

    Args:
        model: name, folder or hub id of the model that the neurons were found in.
        ckpt_path: a Lightning checkpoint of a debiasing baseline, instead of ``model``.
        neurons: a neuron file made for exactly these weights: a path or a hub id. A copy without local paths is
            written to the folder as neurons.json.
        output: a new or empty folder; left empty if anything fails.
        factor: multiplier of the neurons' activations; 0 suppresses. Strengths in the file scale it per neuron.
        positions: "all"; weights act at every position, so "slot" cannot be baked.
        dtype: data type of the written weights: "auto" (the checkpoint's own), "float32", "bfloat16" and so on.
        device_map: "auto" for a model that does not fit into main memory: its layers are placed on several devices or
            the disk, and read and written one after another.
        trust_remote_code: allow a checkpoint to run its own Python code.
        push_to_hub: also upload the folder to this repository of the Hugging Face hub, ORG/NAME. It is created if it
            does not exist, else updated by a commit. Needs a token with write access (`hf auth login` or HF_TOKEN).
        private: create the repository as private.

    Raises:
        InputError: if an argument is not as described, the neurons are not the model's, or the upload fails.
    """
    folder = _checked(model, ckpt_path, output, factor, positions, device_map)
    if private and push_to_hub is None:
        raise InputError("`private` is expected with `push_to_hub` only, but got no `push_to_hub`. Give both.")
    from biaslab.models import hub
    from biaslab.models.architectures import architecture
    from biaslab.models.checkpoints import trained_model, write_checkpoint
    from biaslab.models.fit import require_full_weights
    from biaslab.models.loading import as_dtype, fingerprint, load_model
    from biaslab.neurons.files import NEURONS, text_of
    from biaslab.report.model_card import Figures, model_card, published_neurons
    from biaslab.store import versions

    if push_to_hub is not None:
        hub.require_pushable(push_to_hub, private, model)
    chosen = None if neurons is None else _read(neurons)
    if model is None:
        language_model, tokenizer, facts = trained_model(str(ckpt_path), trust_remote_code)
    else:
        options: Any = {"dtype": as_dtype(dtype), "device_map": device_map, "trust_remote_code": trust_remote_code}
        language_model, tokenizer = load_model(model, **options)
        facts = {"model": {"name": model, "fingerprint": fingerprint(language_model)}}
    require_full_weights(language_model)
    figures, texts = Figures(), {}
    if chosen is not None:
        facts["neurons"], figures = _suppress(language_model, chosen, str(neurons), factor)
        texts[NEURONS] = text_of(published_neurons(chosen))
    facts["versions"] = versions()
    if push_to_hub is not None:
        facts["repository"] = push_to_hub
    masked = architecture(language_model).masked
    texts["README.md"] = model_card(facts, masked, fingerprint(language_model), figures.markdown())
    write_checkpoint(language_model, tokenizer, folder, texts)
    print(f"Model written to {folder}.")
    if figures.why_not:
        print(textwrap.fill(f"The model card has no results: {figures.why_not}", 80))
    if push_to_hub is not None:
        print(f"Uploaded to {push_to_hub}: {hub.push(folder, push_to_hub, private)}")


def _checked(
    model: str | None, ckpt_path: str | None, output: str, factor: float, positions: str, device_map: str | None
) -> Path:
    """Check the arguments that need no model; return the folder to write."""
    if positions != "all":
        raise InputError(
            f'`positions` is expected to be "all" but got {positions!r}: weights act on every token. To suppress '
            "at the slot alone, use the callback NeuronSuppression (configs/suppress.yaml)."
        )
    require_device_map(device_map)
    if ckpt_path is not None and device_map is not None:
        raise InputError(
            f"`device_map` is expected to be left out for a Lightning checkpoint, which is read whole, but got "
            f"{device_map}. Leave it out."
        )
    if (model is None) is (ckpt_path is None):
        given = "neither" if model is None else "both"
        raise InputError(f"`model` or `ckpt_path` is expected, exactly one of them, but got {given}. Give one.")
    require_ranges({"factor": factor})
    folder = Path(output).expanduser()
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"`output` is expected to be a new or empty folder, but {folder} is not. Choose another.")
    return folder


def _read(neurons: str) -> NeuronSet:
    from biaslab.neurons.neuron_set import NeuronSet

    if chosen := NeuronSet.load(neurons):
        return chosen
    raise InputError(
        f"`neurons` is expected to hold at least one neuron, but {neurons} is empty: nothing would be suppressed. "
        "Use another file."
    )


def _suppress(model: PreTrainedModel, chosen: NeuronSet, neurons: str, factor: float) -> tuple[dict[str, Any], Figures]:
    """Change the weights; return the facts for the card, and the results of the run that found the neurons."""
    from biaslab.evaluation.findings import FILES
    from biaslab.neurons.files import neuron_file
    from biaslab.neurons.suppression import scale_neurons
    from biaslab.report.model_card import measured

    chosen.require_model(model)
    scale_neurons(model, chosen, factor)
    how: dict[str, Any] = {"factor": factor, "means": chosen.values is not None}
    if strengths := list((chosen.strengths or {}).values()):
        how["strengths"] = {"least": min(strengths), "most": max(strengths)}
    facts = {"file": neurons, "count": len(chosen), **how, "made": dict(chosen.provenance)}
    path = neuron_file(neurons, beside=[FILES["debias"], FILES["sweep"]])
    return facts, measured(path, chosen, factor)
