"""PEFT adapters (LoRA and similar): folders with an update to another model's weights, merged at load time."""

import warnings
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from transformers import PreTrainedModel
from transformers.utils.peft_utils import find_adapter_config_file

from biaslab.errors import InputError
from biaslab.models.failures import ADAPTER, loading, read_object
from biaslab.models.fit import embeddings_of

_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_FILES = ["adapter_*", "*.json", "*.model", "*.txt", "*.jinja"]  # includes the tokenizer's files


def adapter_base(source: str) -> str | None:
    """Return the name or folder of an adapter's base model; None if the folder is not an adapter.

    A relative path is resolved against the working directory, then against the adapter's folder.

    Raises:
        InputError: if the adapter does not name its base model.
    """
    folder = Path(source)
    if not (folder / ADAPTER).is_file():
        return None
    base = read_object(folder / ADAPTER).get("base_model_name_or_path")
    if not base or not isinstance(base, str):
        raise InputError(
            f"{folder / ADAPTER} is expected to name the base model as `base_model_name_or_path`, but names none. "
            "Add its name or folder."
        )
    beside = folder / base
    return str(beside) if not Path(base).expanduser().is_dir() and beside.is_dir() else base


def adapter_folder(name: str, offline: bool) -> str | None:
    """Return the folder in the hub cache of an adapter with a hub id; None if it is not an adapter."""
    options: Any = {"local_files_only": offline}
    config = find_adapter_config_file(name, **options)
    if config is None:
        return None
    with loading(name, name, "a PEFT adapter"):
        return str(snapshot_download(name, allow_patterns=_FILES, **options))


def merged(model: PreTrainedModel, source: str, tokens: int) -> PreTrainedModel:
    """Return an adapter's base model with the adapter merged into its weights.

    Args:
        model: the base model with float32 weights; modified in place.
        source: the adapter's folder.
        tokens: size of the tokenizer: an adapter may add embeddings for new tokens.

    Raises:
        InputError: if PEFT is not installed, or the adapter cannot be merged or belongs to another task or model.
    """
    folder, start = Path(source), f"`model_name` is expected to be an adapter that can be merged, but {source!r}"
    settings = read_object(folder / ADAPTER)
    if (task := settings.get("task_type")) not in (None, "CAUSAL_LM", "FEATURE_EXTRACTION"):
        raise InputError(f"{start} was trained for {task}, not as a language model. Choose another adapter.")
    if not any((folder / name).is_file() for name in _WEIGHTS):
        raise InputError(f"{start} has neither {' nor '.join(_WEIGHTS)}. Copy or download the folder again.")
    try:
        import peft
    except ImportError as error:
        raise InputError(
            f"`model_name` is expected to be a model, but {source!r} is a PEFT adapter, and PEFT is not installed. "
            "Install it: pip install 'biaslab[peft]'."
        ) from error
    if (rows := embeddings_of(model)) < tokens:
        model.resize_token_embeddings(tokens, mean_resizing=False)
    with loading(source, source, "a PEFT adapter"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's about transformers and about what _require_same rejects
        adapted = peft.PeftModel.from_pretrained(model, source)
        if not hasattr(adapted.base_model, "merge_and_unload"):
            kind = settings.get("peft_type")
            raise InputError(f"{start} has the type {kind}, which does not update weights. Use a LoRA-like one.")
        _require_same(adapted, peft, folder)
        result: PreTrainedModel = adapted.merge_and_unload()
    for name in ("peft_config", "_hf_peft_config_loaded"):  # else transformers would still treat it as an adapter
        vars(result).pop(name, None)
    if rows < tokens and not any("embed" in name or "wte" in name for name in _names(peft, source)):
        raise InputError(
            f"{start} has a tokenizer with {tokens} tokens, but its base model has only {rows} embeddings and the "
            "adapter adds none. Use an adapter that was saved with its embeddings."
        )
    return result


def _names(peft: Any, source: str) -> set[str]:
    return set(peft.utils.load_peft_weights(source, device="cpu"))


def _require_same(adapted: Any, peft: Any, folder: Path) -> None:
    """Reject an adapter with unexpected or missing weights: PEFT only warns."""
    there = _names(peft, str(folder))
    wanted = set(peft.get_peft_model_state_dict(adapted, save_embedding_layers=False))
    embeddings = {name for name in there - wanted if "embed" in name or "wte" in name or "lm_head" in name}
    if wrong := sorted((there ^ wanted) - embeddings):
        raise InputError(
            f"`model_name` is expected to be an adapter that fits its model, but {str(folder)!r} differs in "
            f"{len(wrong)} weights, such as {wrong[0]}. Check `base_model_name_or_path` in its {ADAPTER}."
        )
