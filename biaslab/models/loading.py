"""Models and tokenizers by name: an asset, a folder or a hub id; their fingerprint, dtype and device."""

import hashlib
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from biaslab.errors import InputError
from biaslab.models import assets, minilm
from biaslab.models.architectures import architecture
from biaslab.models.table import ARCHITECTURES


def best_device() -> torch.device:
    """Return the device that a command works on: a GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


_Weights = list[tuple["weakref.ref[nn.Parameter]", int]]  # with how often each was changed in place
_fingerprints: weakref.WeakKeyDictionary[nn.Module, tuple[str, _Weights]] = weakref.WeakKeyDictionary()


def fingerprint(model: PreTrainedModel) -> str:
    """Return 16 hexadecimal digits that change with any weight, but not with device, buffers or the type loaded in.

    Of a model of :func:`load_model`, the weights are those of the checkpoint, before they are rounded to another type.
    They are read once, and again when one was replaced or changed in place (not through ``.data``, which torch doesn't
    count).
    """
    known, weights = _fingerprints.get(model, ("", []))
    parameters = list(model.parameters())
    same = (ref() is p and version == p._version for p, (ref, version) in zip(parameters, weights, strict=False))
    if weights and len(weights) == len(parameters) and all(same):
        return known
    return _remember(model, _digest(model))


def _remember(model: nn.Module, known: str) -> str:
    if not any(parameter.is_inference() for parameter in model.parameters()):  # which don't count their changes
        _fingerprints[model] = known, [(weakref.ref(p), p._version) for p in model.parameters()]
    return known


def _digest(model: nn.Module) -> str:
    """Read every parameter as float32, in the order of its name, tied ones once."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().float().contiguous().numpy().data)
    return digest.hexdigest()[:16]


def load_model(
    model_name: str, *, dtype: torch.dtype = torch.float32, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a masked or causal language model and its tokenizer, in evaluation mode and without gradients.

    Args:
        model_name: an asset's name (``minilm-mlm``, ``smollm2-135m``), a folder, or a Hugging Face hub id.
        dtype: the weights' type.
        trust_remote_code: let a checkpoint bring its own Python code.

    Raises:
        InputError: if nothing of that name can be had, if its architecture is not supported, or if weights of its
            language-model head are missing (they would be random, and every number made with them meaningless).
    """
    if model_name == minilm.NAME:
        model, tokenizer = minilm.load()
        if dtype != torch.float32:
            fingerprint(model)
        nn.Module.to(model, dtype)
        return model.eval().requires_grad_(False), tokenizer
    source = str(model_folder(model_name)) if model_name in assets.MODELS else _existing(model_name)
    offline = not Path(source).is_dir() and not assets.hub_reachable()
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "local_files_only": offline}
    try:
        config = AutoConfig.from_pretrained(source, **options)
        auto = AutoModelForMaskedLM if architecture(config).masked else AutoModelForCausalLM
        exact = dtype in (config.dtype, torch.float32, torch.float64)  # or the weights of the checkpoint are rounded
        known = "" if exact else _digest(auto.from_pretrained(source, dtype=torch.float32, **options))
        answer: Any = auto.from_pretrained(source, config=config, dtype=dtype, output_loading_info=True, **options)
        model, info = answer
        if known:
            _remember(model, known)
        tokenizer = load_tokenizer(model_name, trust_remote_code=trust_remote_code)
    except InputError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"`model_name` is expected to be an asset ({', '.join([minilm.NAME, *assets.MODELS])}), a folder, or a "
            f"hub id, but {model_name!r} could not be loaded: {_first_line(error)} Check the name, or give a folder."
        ) from error
    _require_complete(model_name, info)
    return model.eval().requires_grad_(False), tokenizer


def load_on_best_device(model_name: str, trust_remote_code: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """As :func:`load_model`, on :func:`best_device`."""
    model, tokenizer = load_model(model_name, trust_remote_code=trust_remote_code)
    nn.Module.to(model, best_device())
    return model, tokenizer


def _existing(model_name: str) -> str:
    """Tell a folder that is not there from a hub id."""
    path = Path(model_name).expanduser()
    if path.is_dir():
        return str(path)
    if path.is_absolute() or model_name.startswith((".", "~")) or model_name.count("/") > 1:
        raise InputError(f"`model_name` is expected to be an existing folder, but there is none at {model_name!r}.")
    return model_name


def _require_complete(model_name: str, info: Any) -> None:
    if missing := sorted(info["missing_keys"]):
        raise InputError(
            f"`model_name` is expected to be a checkpoint with a trained language-model head, but {model_name!r} lacks "
            f"{', '.join(missing[:6])}{' …' if len(missing) > 6 else ''}: these would be newly initialised, and every "
            "number meaningless. Choose a checkpoint that was trained as a language model."
        )


def _first_line(error: Exception) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if line.endswith(".") else line + "."


def load_tokenizer(model_name: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model: an asset's name (``minilm-mlm`` has its encoder's), a folder, or a hub id.

    A causal model's has no mask token, even where its files name one: ``is_masked`` tells the kind of model by it.

    Raises:
        InputError: if none can be had, or if a masked model's has no mask token.
    """
    name = "minilm-encoder" if model_name == "minilm-mlm" else model_name
    source = str(model_folder(name)) if name in assets.MODELS else str(Path(name).expanduser())
    offline = not Path(source).is_dir() and not assets.hub_reachable()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code, local_files_only=offline)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"`model_name` is expected to be an asset, a folder or a hub id with a tokenizer; {model_name!r} has none "
            f"that loads: {' '.join(str(error).split())[:200]} Check the name, or give a folder."
        ) from error
    kind = _model_type(source, offline)
    if kind in ARCHITECTURES and not ARCHITECTURES[kind].masked:
        tokenizer.mask_token = None
    elif kind in ARCHITECTURES and tokenizer.mask_token_id is None:
        raise InputError(
            f"`model_name` is expected to have a tokenizer with a mask token, since it is a masked language model, but "
            f"that of {model_name!r} has none. Choose another model."
        )
    return tokenizer


def _model_type(source: str, offline: bool) -> str | None:
    """Return a config's model type without running code that may come with it; None where there is no config."""
    try:
        config, _ = PreTrainedConfig.get_config_dict(source, local_files_only=offline)
    except (OSError, ValueError):
        return None
    return config.get("model_type")


def model_folder(name: str) -> Path:
    """Return the folder of one of :data:`biaslab.models.assets.MODELS` in Hugging Face's form; fetch and convert it.

    Raises:
        InputError: if the asset can't be had.
    """
    folder = assets.fetch(name)
    files = sorted(folder.glob("*.gguf"))
    if not files:
        return folder
    converted = folder.with_name(f"{name}-converted")
    if not converted.is_dir():
        with assets.complete_or_absent(converted) as partial:
            read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=files[0].name, dtype=torch.float32)
            if hasattr(read.config, "quantization_config"):
                del read.config.quantization_config  # the weights were expanded: nothing is quantised any more
            plain = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)
            plain.load_state_dict(read.state_dict())
            plain.save_pretrained(partial)
            AutoTokenizer.from_pretrained(folder, gguf_file=files[0].name).save_pretrained(partial)
    return assets.unchanged(converted)
