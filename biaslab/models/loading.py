"""Load models and tokenizers by asset name, folder or hub id; fingerprint, dtype and device of a model."""

import hashlib
import json
import re
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForNextSentencePrediction,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from biaslab.errors import InputError, NotApplicableError, did_you_mean, require_one_of
from biaslab.models import assets, minilm
from biaslab.models.adapters import adapter_base, adapter_folder, merged
from biaslab.models.architectures import architecture, layers
from biaslab.models.failures import loading, require_config, require_weights
from biaslab.models.fit import embeddings_of, is_quantised, require_fit
from biaslab.models.placement import DeviceMap, loaded, placement
from biaslab.models.table import ARCHITECTURES

DTYPES = ("float32", "float64", "bfloat16", "float16", "auto")


def best_device() -> torch.device:
    """Return the device that commands use: a GPU if available."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


_STORED = {torch.bfloat16: "BF16", torch.float16: "F16"}  # dtype names in safetensors
_Weights = list[tuple["weakref.ref[nn.Parameter]", int]]  # with the number of in-place changes of each
_fingerprints: weakref.WeakKeyDictionary[nn.Module, tuple[str, _Weights]] = weakref.WeakKeyDictionary()


def fingerprint(model: nn.Module) -> str:
    """Return a digest of the weights, 16 hexadecimal digits; device, buffers and dtype do not affect it.

    For a model of :func:`load_model`, it is that of the checkpoint's weights, before rounding to another dtype. The
    digest is cached until a weight is replaced or changed in place (torch does not track changes through ``.data``).
    """
    known, weights = _fingerprints.get(model, ("", []))
    parameters = list(model.parameters())
    same = (ref() is p and version == p._version for p, (ref, version) in zip(parameters, weights, strict=False))
    if weights and len(weights) == len(parameters) and all(same):
        return known
    return _remember(model, _digest(model))


def _remember(model: nn.Module, known: str) -> str:
    if not any(parameter.is_inference() for parameter in model.parameters()):  # these do not count their changes
        _fingerprints[model] = known, [(weakref.ref(p), p._version) for p in model.parameters()]
    return known


def _digest(model: nn.Module) -> str:
    """Hash every parameter as float32, sorted by name; tied parameters once."""
    digest = hashlib.sha256()
    for name, _ in sorted(model.named_parameters()):
        module, _, own = name.rpartition(".")
        with loaded(owner := model.get_submodule(module)):
            digest.update(name.encode())
            digest.update(owner.get_parameter(own).detach().cpu().float().contiguous().numpy().data)
    return digest.hexdigest()[:16]


def as_dtype(name: str) -> torch.dtype | None:
    """Return the dtype with a name of :data:`DTYPES`; None for "auto", the checkpoint's dtype.

    Raises:
        InputError: if the name is unknown.

    >>> as_dtype("bfloat16")
    torch.bfloat16
    """
    require_one_of("dtype", name, DTYPES)
    return None if name == "auto" else getattr(torch, name)


def load_model(
    model_name: str,
    *,
    dtype: torch.dtype | None = torch.float32,
    device_map: DeviceMap | None = None,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a masked or causal language model and its tokenizer, in evaluation mode and without gradients.

    A PEFT adapter (LoRA) is merged into its base model. A quantised checkpoint keeps its dtypes.

    Args:
        model_name: an asset's name (``minilm-mlm``, ``smollm2-135m``), a folder, or a Hugging Face hub id.
        dtype: dtype of the weights; None for the checkpoint's.
        device_map: where accelerate places the layers: "auto" fills the GPUs, then main memory, then the disk; or a
            device, "cpu" or "disk" for each module. None keeps all layers in main memory.
        trust_remote_code: run Python code that comes with the checkpoint.

    Raises:
        InputError: if the model cannot be found, its files are corrupt or inconsistent, its architecture is not
            supported, weights of its language-model head are missing (they would be random, and all results
            meaningless), or a required package is not installed.
    """
    source = _source(model_name)
    base = adapter_base(source)
    if model_name == minilm.NAME:
        model, tokenizer = minilm.load()
        model = _converted(model, dtype)
    elif base is None:
        model = _load_weights(model_name, source, dtype, device_map, trust_remote_code)
        tokenizer = load_tokenizer(model_name, trust_remote_code=trust_remote_code)
    else:
        tokenizer = load_tokenizer(model_name, trust_remote_code=trust_remote_code)
        own = _config(_source(base), trust_remote_code) if dtype is None else None
        if device_map is not None:
            raise InputError(
                f"`device_map` is expected to be null for a PEFT adapter, which is merged in main memory, but got "
                f"{device_map}. Save the merged model with `biaslab bake`, and use that folder."
            )
        bare, _ = load_model(base, trust_remote_code=trust_remote_code)
        model = _converted(merged(bare, source, len(tokenizer)), dtype or getattr(own, "dtype", None))
        require_fit(model_name, tokenizer, embeddings_of(model))
    return model.eval().requires_grad_(False), tokenizer


def _load_weights(
    model_name: str, source: str, dtype: torch.dtype | None, device_map: DeviceMap | None, trust_remote_code: bool
) -> PreTrainedModel:
    require_config(source)
    options = _options(source, trust_remote_code)
    with loading(model_name, source, "a model"), _quietly():
        config = AutoConfig.from_pretrained(source, **options)
        auto = AutoModelForMaskedLM if architecture(config).masked else AutoModelForCausalLM
        require_weights(source)
        wanted: Any = "auto" if is_quantised(model_name, config) or dtype is None else dtype
        # otherwise the checkpoint's weights are rounded
        exact = wanted == "auto" or dtype in (torch.float32, torch.float64) or _is_stored_as(source, dtype, config)
        known = "" if exact else _digest(auto.from_pretrained(source, dtype=torch.float32, **options))
        options |= placement(device_map) | attention_of(config)
        answer: Any = auto.from_pretrained(source, config=config, dtype=wanted, output_loading_info=True, **options)
        model: PreTrainedModel = answer[0]
        _require_complete(model_name, model, answer[1])
        if known:
            _remember(model, known)
    return model


def attention_of(config: Any) -> dict[str, str]:
    """Request eager attention for models with capped attention logits: other implementations ignore the cap.

    Releases of transformers differ in whether they select it automatically for these models.
    """
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    return {} if capped is None else {"attn_implementation": "eager"}


def _converted(model: PreTrainedModel, dtype: torch.dtype | None) -> PreTrainedModel:
    """Convert a float32 model to a dtype, keeping its float32 fingerprint."""
    if dtype not in (None, torch.float32):
        fingerprint(model)
        nn.Module.to(model, dtype)
    return model


def load_on_best_device(model_name: str, trust_remote_code: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a model (see :func:`load_model`) onto :func:`best_device`."""
    model, tokenizer = load_model(model_name, trust_remote_code=trust_remote_code)
    nn.Module.to(model, best_device())
    return model, tokenizer


class NextSentenceHead(nn.Module):
    """The head on a masked model's encoder that predicts whether a second sentence follows the first."""

    def __init__(self, pooler: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.pooler, self.classifier = pooler, classifier

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the probability that it follows, ``[batch]``, from hidden states ``[batch, sequence, hidden]``."""
        logits: Tensor = self.classifier(self.pooler(hidden))
        return logits.float().softmax(-1)[:, 0]  # class 0 of BERT's head is "follows"


def load_next_sentence_head(model_name: str, *, trust_remote_code: bool = False) -> NextSentenceHead:
    """Load the next-sentence head of a masked model; for an adapter, that of its base model.

    The head is separate from the language model of :func:`load_model`; it takes the encoder's output.

    Raises:
        NotApplicableError: if the architecture has no such head, or the checkpoint lacks its weights.
        InputError: if it cannot be loaded.
    """
    source = _source(model_name)
    source = source if (base := adapter_base(source)) is None else _source(base)
    options = _options(source, trust_remote_code)
    lacks = "an architecture with such a head"
    with loading(model_name, source, "a model"), _quietly():
        config = AutoConfig.from_pretrained(source, **options)
        if type(config) in AutoModelForNextSentencePrediction._model_mapping:
            answer: Any = AutoModelForNextSentencePrediction.from_pretrained(
                source, config=config, dtype=torch.float32, output_loading_info=True, **options
            )
            lacks = ", ".join(sorted(answer[1]["missing_keys"]))
    if lacks:
        raise NotApplicableError(
            "`model_name` is expected to be a causal model, or a masked model with a trained next-sentence head, but "
            f"{model_name!r} lacks {lacks}. Choose another model, such as bert-base-cased."
        )
    return NextSentenceHead(answer[0].base_model.pooler, answer[0].cls).eval().requires_grad_(False)


def _is_stored_as(source: str, dtype: torch.dtype | None, config: Any) -> bool:
    """Return whether all weights of a checkpoint have a dtype, according to its files or else its config."""
    files = sorted(Path(source).glob("*.safetensors"))
    if not files:
        return bool(config.dtype == dtype)
    types = set()
    for path in files:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        types |= {entry["dtype"] for name, entry in header.items() if name != "__metadata__"}
    return dtype is not None and types <= {_STORED.get(dtype)}


def has_weights(model_name: str) -> bool:
    """Return whether a model's weights are available locally (folder, hub cache) or as an asset."""
    if model_name in (minilm.NAME, *assets.MODELS):
        return True
    folder = Path(model_name).expanduser()
    if folder.is_dir():
        return any(any(folder.glob(pattern)) for pattern in ("*.safetensors", "*.bin"))
    names = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
    return any(isinstance(try_to_load_from_cache(model_name, name), str) for name in names)


def origin(model_name: str, weights: str) -> dict[str, str]:
    """Return how files identify a model: its given name, its fingerprint and the absolute path of its folder, if any.

    A relative path depends on the working directory: see :func:`biaslab.commands.judging.model_of`.
    """
    path = Path(model_name).expanduser()
    named = model_name == minilm.NAME or model_name in assets.MODELS
    place = {} if named or not path.is_dir() else {"folder": str(path.resolve())}
    return {"name": model_name, "fingerprint": weights, **place}


def _source(model_name: str) -> str:
    """Return the folder or hub id for a name; for an adapter with a hub id, its folder in the cache.

    Distinguishes a missing folder from a hub id.
    """
    if not model_name:
        raise InputError("`model_name` is expected to be an asset, a folder or a hub id but is empty. Give a name.")
    if model_name == minilm.NAME:
        return str(model_folder(minilm.ENCODER))
    if model_name in assets.MODELS:
        return str(model_folder(model_name))
    path = Path(model_name).expanduser()
    if path.is_dir():
        return str(path)
    if path.is_file():
        advice = "Pass a Lightning checkpoint as --ckpt_path" if path.suffix == ".ckpt" else "Give its folder"
        raise InputError(f"`model_name` is expected to be a folder, but {model_name!r} is a file. {advice}.")
    if path.is_absolute() or model_name.startswith((".", "~")) or model_name.count("/") > 1:
        raise InputError(f"`model_name` is expected to be an existing folder, but {model_name!r} does not exist.")
    known = [minilm.NAME, *assets.MODELS]
    if "/" not in model_name and (hint := did_you_mean(model_name, known)):
        raise InputError(
            f"`model_name` is expected to be an asset ({', '.join(known)}), a folder or a hub id, but got "
            f"{model_name!r}.{hint}"
        )
    return adapter_folder(model_name, not assets.hub_reachable()) or model_name


def _options(source: str, trust_remote_code: bool) -> dict[str, Any]:
    offline = not Path(source).is_dir() and not assets.hub_reachable()
    return {"trust_remote_code": trust_remote_code, "local_files_only": offline}


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep transformers from printing which weights it found: biaslab reports problems itself."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _require_complete(model_name: str, model: PreTrainedModel, info: Any) -> None:
    if missing := sorted(info["missing_keys"]):
        raise InputError(
            f"`model_name` is expected to be a checkpoint with a trained language-model head, but {model_name!r} lacks "
            f"{', '.join(missing[:6])}{' …' if len(missing) > 6 else ''}: they would be randomly initialised, and all "
            "results meaningless. Choose a checkpoint that was trained as a language model."
        )
    path, count = architecture(model).ffn.partition("{}")[0], len(layers(model))
    further = [re.search(rf"(?:^|\.){re.escape(path)}(\d+)\.", key) for key in info["unexpected_keys"]]
    if numbers := [int(found[1]) for found in further if found and int(found[1]) >= count]:
        raise InputError(
            f"`model_name` is expected to be a checkpoint with a matching config.json, but {model_name!r} has "
            f"weights for {max(numbers) + 1} layers and a config.json with {count}. Copy or download the folder again."
        )


def load_tokenizer(model_name: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model, given by asset name, folder or hub id.

    The config determines whether a model is masked or causal: the mask token of a causal model's tokenizer is removed,
    and ``is_masked`` relies on that. An adapter without tokenizer files uses its base model's tokenizer.

    Raises:
        InputError: if it cannot be loaded, does not match the model's vocabulary, or belongs to a masked model and has
            no mask token.
    """
    source = _source(model_name)
    base = adapter_base(source)
    if base is not None and not list(Path(source).glob("tokenizer*")):
        return load_tokenizer(base, trust_remote_code=trust_remote_code)
    config = _config(source if base is None else _source(base), trust_remote_code)
    with loading(model_name, source, "a tokenizer"), _quietly():
        options = _options(source, trust_remote_code)
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    # an adapter may add embeddings
    rows = getattr(config.get_text_config(), "vocab_size", None) if config is not None and base is None else None
    kind = getattr(config, "model_type", None)
    if kind in ARCHITECTURES and not ARCHITECTURES[kind].masked:
        tokenizer.mask_token = None
    require_fit(model_name, tokenizer, rows)
    if kind in ARCHITECTURES and ARCHITECTURES[kind].masked and tokenizer.mask_token_id is None:
        raise InputError(
            f"`model_name` is expected to have a tokenizer with a mask token, as it is a masked language model, but "
            f"that of {model_name!r} has none. Choose another model."
        )
    return tokenizer


def _config(source: str, trust_remote_code: bool) -> PreTrainedConfig | None:
    """Return the config of a folder or hub id; None if there is none (loading the weights reports that)."""
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(source, **_options(source, trust_remote_code))
    except Exception:
        return None
    return config


def model_folder(name: str) -> Path:
    """Return the folder of a model asset in Hugging Face's format, after fetching and converting it.

    Raises:
        InputError: if the asset is not available.
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
                del read.config.quantization_config  # the weights are dequantised now
            plain = AutoModelForCausalLM.from_config(read.config, dtype=torch.float32)
            plain.load_state_dict(read.state_dict())
            plain.save_pretrained(partial)
            AutoTokenizer.from_pretrained(folder, gguf_file=files[0].name).save_pretrained(partial)
    return assets.unchanged(converted)
