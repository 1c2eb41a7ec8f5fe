"""Write suppressed or trained models as ordinary Hugging Face checkpoints, which need neither hooks nor biaslab."""

import textwrap
from pathlib import Path
from typing import Any, Literal

from biaslab.data.presets import Dtype
from biaslab.errors import InputError, require_device_map, require_ranges


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
) -> None:
    """Write a model with its neurons suppressed, or a trained model, or both, as an ordinary checkpoint folder.

    A PEFT adapter is merged. A quantised checkpoint is refused, because it has no full weights to change. The folder
    loads with plain transformers. Its logits equal those of the hooked model: bit for bit if neurons are not set to
    means and the multiplier of each, 1 - (1 - factor)·strength (the factor if the file has no strengths), is 0 or a
    power of two, of either sign; up to rounding otherwise.

    Args:
        model: name, folder or hub id of the model that the neurons were found in.
        ckpt_path: a Lightning checkpoint of a debiasing baseline, instead of ``model``.
        neurons: a neuron file made for exactly these weights.
        output: a new or empty folder; left empty if anything fails.
        factor: multiplier of the neurons' activations; 0 suppresses. Strengths in the file scale it per neuron.
        positions: "all"; weights act at every position, so "slot" cannot be baked.
        dtype: data type of the written weights: "auto" (the checkpoint's own), "float32", "bfloat16" and so on.
        device_map: "auto" for a model that does not fit into main memory: its layers are placed on several devices or
            the disk, and read and written one after another.
        trust_remote_code: allow a checkpoint to run its own Python code.

    Raises:
        InputError: if an argument is not as described, or the neurons are not the model's.
    """
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
    from biaslab.models.architectures import architecture
    from biaslab.models.checkpoints import trained_model, write_checkpoint
    from biaslab.models.fit import require_full_weights
    from biaslab.models.loading import as_dtype, fingerprint, load_model
    from biaslab.neurons.neuron_set import NeuronSet
    from biaslab.neurons.suppression import scale_neurons
    from biaslab.report.model_card import Figures, measured, model_card
    from biaslab.store import versions

    if model is None:
        language_model, tokenizer, facts = trained_model(str(ckpt_path), trust_remote_code)
    else:
        options: Any = {"dtype": as_dtype(dtype), "device_map": device_map, "trust_remote_code": trust_remote_code}
        language_model, tokenizer = load_model(model, **options)
        facts = {"model": {"name": model, "fingerprint": fingerprint(language_model)}}
    require_full_weights(language_model)
    figures = Figures()
    if neurons is not None:
        chosen = NeuronSet.load(neurons)
        chosen.require_model(language_model)
        if not chosen:
            raise InputError(
                f"`neurons` is expected to hold at least one neuron, but {neurons} is empty: nothing would be "
                "suppressed. Use another file."
            )
        scale_neurons(language_model, chosen, factor)
        how: dict[str, Any] = {"factor": factor, "means": chosen.values is not None}
        if strengths := list((chosen.strengths or {}).values()):
            how["strengths"] = {"least": min(strengths), "most": max(strengths)}
        facts["neurons"] = {"file": neurons, "count": len(chosen), **how, "made": dict(chosen.provenance)}
        figures = measured(Path(neurons), chosen, factor)
    facts["versions"] = versions()
    masked = architecture(language_model).masked
    card = model_card(facts, masked, fingerprint(language_model), figures.markdown())
    write_checkpoint(language_model, tokenizer, folder, card)
    print(f"Model written to {folder}.")
    if figures.why_not:
        print(textwrap.fill(f"The model card has no results: {figures.why_not}", 80))
