"""Models and tokenizers by name: an asset, a folder or a hub id; their fingerprint, dtype and device."""

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
    """Return the device that a command works on: a GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


_STORED = {torch.bfloat16: "BF16", torch.float16: "F16"}  # as safetensors names types
_Weights = list[tuple["weakref.ref[nn.Parameter]", int]]  # with how often each was changed in place
_fingerprints: weakref.WeakKeyDictionary[nn.Module, tuple[str, _Weights]] = weakref.WeakKeyDictionary()


def fingerprint(model: nn.Module) -> str:
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
    for name, _ in sorted(model.named_parameters()):
        module, _, own = name.rpartition(".")
        with loaded(owner := model.get_submodule(module)):
            digest.update(name.encode())
            digest.update(owner.get_parameter(own).detach().cpu().float().contiguous().numpy().data)
    return digest.hexdigest()[:16]


def as_dtype(name: str) -> torch.dtype | None:
    """Return a type of weights by its name, one of :data:`DTYPES`; None for "auto", the checkpoint's own.

    Raises:
        InputError: for another name.

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

    An adapter of PEFT (LoRA) is merged into its base model. A quantised checkpoint keeps its own types.

    Args:
        model_name: an asset's name (``minilm-mlm``, ``smollm2-135m``), a folder, or a Hugging Face hub id.
        dtype: the weights' type; None for the checkpoint's own.
        device_map: where accelerate puts the layers: "auto" fills the GPUs, then main memory, then the disk; or a
            device, "cpu" or "disk" for each module. None for all in main memory.
        trust_remote_code: let a checkpoint bring its own Python code.

    Raises:
        InputError: if nothing of that name can be had, if its files are damaged or do not fit each other, if its
            architecture is not supported, if weights of its language-model head are missing (they would be random, and
            every number made with them meaningless), or if a package that its form needs is not installed.
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
                f"`device_map` is expected to be left out for an adapter of PEFT, which is merged in main memory, but "
                f"got {device_map}. Write it merged with `biaslab bake`, and give that folder."
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
        # or the weights of the checkpoint are rounded
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
    """Return the attention of a model whose logits are capped: others than eager leave the cap out.

    Releases of transformers differ in whether they take another one for such a model by themselves.
    """
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    return {} if capped is None else {"attn_implementation": "eager"}


def _converted(model: PreTrainedModel, dtype: torch.dtype | None) -> PreTrainedModel:
    """Convert a model in float32, whose fingerprint stays that of float32."""
    if dtype not in (None, torch.float32):
        fingerprint(model)
        nn.Module.to(model, dtype)
    return model


def load_on_best_device(model_name: str, trust_remote_code: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """As :func:`load_model`, on :func:`best_device`."""
    model, tokenizer = load_model(model_name, trust_remote_code=trust_remote_code)
    nn.Module.to(model, best_device())
    return model, tokenizer


class NextSentenceHead(nn.Module):
    """What stands on a masked model's encoder and says whether a second sentence follows the first."""

    def __init__(self, pooler: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.pooler, self.classifier = pooler, classifier

    def forward(self, hidden: Tensor) -> Tensor:
        """Return the probability that it follows, ``[batch]``, of hidden states ``[batch, sequence, hidden]``."""
        logits: Tensor = self.classifier(self.pooler(hidden))
        return logits.float().softmax(-1)[:, 0]  # as BERT was trained: 0 is "follows"


def load_next_sentence_head(model_name: str, *, trust_remote_code: bool = False) -> NextSentenceHead:
    """Load the next-sentence head of a masked model; of an adapter its base model's.

    It is no part of the language model that :func:`load_model` loads, whose encoder it reads.

    Raises:
        NotApplicableError: if the architecture has none, or its weights are not in the checkpoint.
        InputError: if they can't be loaded.
    """
    source = _source(model_name)
    source = source if (base := adapter_base(source)) is None else _source(base)
    options = _options(source, trust_remote_code)
    lacks = "an architecture with one"
    with loading(model_name, source, "a model"), _quietly():
        config = AutoConfig.from_pretrained(source, **options)
        if type(config) in AutoModelForNextSentencePrediction._model_mapping:
            answer: Any = AutoModelForNextSentencePrediction.from_pretrained(
                source, config=config, dtype=torch.float32, output_loading_info=True, **options
            )
            lacks = ", ".join(sorted(answer[1]["missing_keys"]))
    if lacks:
        raise NotApplicableError(
            "`model_name` is expected to be a causal model, or a masked one with a trained next-sentence head, but "
            f"{model_name!r} lacks {lacks}. Choose another model, such as bert-base-cased."
        )
    return NextSentenceHead(answer[0].base_model.pooler, answer[0].cls).eval().requires_grad_(False)


def _is_stored_as(source: str, dtype: torch.dtype | None, config: Any) -> bool:
    """Return whether a checkpoint's weights are all of a type: by its files, or else by what its configuration says."""
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
    """Return whether a model's weights are on this disk, in a folder or the hub's cache, or come as an asset."""
    if model_name in (minilm.NAME, *assets.MODELS):
        return True
    folder = Path(model_name).expanduser()
    if folder.is_dir():
        return any(any(folder.glob(pattern)) for pattern in ("*.safetensors", "*.bin"))
    names = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
    return any(isinstance(try_to_load_from_cache(model_name, name), str) for name in names)


def origin(model_name: str, weights: str) -> dict[str, str]:
    """Return how a file names a model: its name as it was given, its fingerprint, and where its folder is, if any.

    A relative folder means another place elsewhere: :func:`biaslab.commands.judging.model_of` reads it.
    """
    path = Path(model_name).expanduser()
    named = model_name == minilm.NAME or model_name in assets.MODELS
    place = {} if named or not path.is_dir() else {"folder": str(path.resolve())}
    return {"name": model_name, "fingerprint": weights, **place}


def _source(model_name: str) -> str:
    """Return the folder or the hub id of a name; of an adapter with a hub id, its folder in the cache.

    A folder that is not there is told from a hub id.
    """
    if not model_name:
        raise InputError("`model_name` is expected to be an asset, a folder or a hub id, but is empty. Give its name.")
    if model_name == minilm.NAME:
        return str(model_folder(minilm.ENCODER))
    if model_name in assets.MODELS:
        return str(model_folder(model_name))
    path = Path(model_name).expanduser()
    if path.is_dir():
        return str(path)
    if path.is_file():
        advice = "a Lightning checkpoint is given as --ckpt_path" if path.suffix == ".ckpt" else "give its folder"
        raise InputError(f"`model_name` is expected to be a folder, but {model_name!r} is a file: {advice}.")
    if path.is_absolute() or model_name.startswith((".", "~")) or model_name.count("/") > 1:
        raise InputError(f"`model_name` is expected to be an existing folder, but there is none at {model_name!r}.")
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
    """Within the block transformers doesn't print which weights it found: what is wrong with them is our error."""
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
            f"{', '.join(missing[:6])}{' …' if len(missing) > 6 else ''}: these would be newly initialised, and every "
            "number meaningless. Choose a checkpoint that was trained as a language model."
        )
    path, count = architecture(model).ffn.partition("{}")[0], len(layers(model))
    further = [re.search(rf"(?:^|\.){re.escape(path)}(\d+)\.", key) for key in info["unexpected_keys"]]
    if numbers := [int(found[1]) for found in further if found and int(found[1]) >= count]:
        raise InputError(
            f"`model_name` is expected to be a checkpoint whose config.json fits its weights, but {model_name!r} has "
            f"weights of {max(numbers) + 1} layers and a config.json of {count}. Copy or download the folder again."
        )


def load_tokenizer(model_name: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model: an asset's name (``minilm-mlm`` has its encoder's), a folder, or a hub id.

    The kind of model comes from its config: a causal model's tokenizer has no mask token, even where its files name
    one, and ``is_masked`` tells the kind of model by it. An adapter without tokenizer files has its base model's.

    Raises:
        InputError: if none can be had, if it does not fit the model's vocabulary, or if a masked model's has no mask
            token.
    """
    source = _source(model_name)
    base = adapter_base(source)
    if base is not None and not list(Path(source).glob("tokenizer*")):
        return load_tokenizer(base, trust_remote_code=trust_remote_code)
    config = _config(source if base is None else _source(base), trust_remote_code)
    with loading(model_name, source, "a tokenizer"), _quietly():
        options = _options(source, trust_remote_code)
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    # an adapter may bring further embeddings
    rows = getattr(config.get_text_config(), "vocab_size", None) if config is not None and base is None else None
    kind = getattr(config, "model_type", None)
    if kind in ARCHITECTURES and not ARCHITECTURES[kind].masked:
        tokenizer.mask_token = None
    require_fit(model_name, tokenizer, rows)
    if kind in ARCHITECTURES and ARCHITECTURES[kind].masked and tokenizer.mask_token_id is None:
        raise InputError(
            f"`model_name` is expected to have a tokenizer with a mask token, since it is a masked language model, but "
            f"that of {model_name!r} has none. Choose another model."
        )
    return tokenizer


def _config(source: str, trust_remote_code: bool) -> PreTrainedConfig | None:
    """Return the config of a folder or hub id; None where there is none, which loading the weights tells about."""
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(source, **_options(source, trust_remote_code))
    except Exception:
        return None
    return config


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
