"""The table of supported architectures, and the modules that it names."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

from torch import Tensor, nn
from transformers import PreTrainedModel

from biaslab.errors import InputError


class Architecture(NamedTuple):
    """Where a model keeps its feed-forward neurons (paths of modules), which kind it is, and what else it allows."""

    ffn: str  # of a layer's FFN down-projection under ``model.base_model``, with ``{}`` for the layer
    attention: str  # of its attention, within the layer
    masked: bool = False  # whether it is a masked language model, not a causal one
    query: str = ""  # of a masked one's query projection within the attention, where each token's query is its own
    output: str = ""  # of a masked one's output projection within the attention
    keys: bool = True  # whether a causal one attends by transformers' AttentionInterface, which can be handed its keys
    own_mask: bool = True  # whether a causal one takes any 4-D mask and any position of a token
    joined: bool = False  # whether its FFN joins sequences and tokens to one axis


# Full paths, never suffixes: "output.dense" also names BERT's attention output.
_BERT = Architecture("encoder.layer.{}.output.dense", "attention", True, "self.query", "output.dense")
_DISTILBERT = Architecture("transformer.layer.{}.ffn.lin2", "attention", True, "q_lin", "out_lin")
_GPT2 = Architecture("h.{}.mlp.c_proj", "attn")
_LLAMA = Architecture("layers.{}.mlp.down_proj", "self_attn")
_FC2 = Architecture("layers.{}.fc2", "self_attn")
_NEOX = Architecture("layers.{}.mlp.dense_4h_to_h", "attention")

ARCHITECTURES = {
    "bert": _BERT,
    "roberta": _BERT,
    "mpnet": _BERT._replace(query="attn.q", output="attn.o"),
    "distilbert": _DISTILBERT,
    "electra": _BERT,
    "xlm-roberta": _BERT,
    "xlm-roberta-xl": _BERT,
    "camembert": _BERT,
    "data2vec-text": _BERT,
    "ernie": _BERT,
    "roberta-prelayernorm": _BERT,
    "megatron-bert": _BERT,
    "big_bird": _BERT,
    "roformer": _BERT,
    "rembert": _BERT,
    "nystromformer": _BERT._replace(query=""),  # landmarks are means of queries
    "modernbert": Architecture("layers.{}.mlp.Wo", "attn", True, "", "Wo"),
    "eurobert": _LLAMA._replace(masked=True, query="q_proj", output="o_proj"),
    "roc_bert": _BERT,
    "convbert": _BERT._replace(query=""),  # its kernels are made of queries
    "deberta": _BERT._replace(query=""),  # one projection of queries, keys and values
    "deberta-v2": _BERT._replace(query="self.query_proj"),
    "gpt2": _GPT2,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "gemma2": _LLAMA,
    "gpt_neox": _NEOX,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma3_text": _LLAMA,
    "phi3": _LLAMA,
    "phi": _LLAMA._replace(ffn="layers.{}.mlp.fc2"),
    "olmo": _LLAMA,
    "olmo2": _LLAMA,
    "olmo3": _LLAMA,
    "cohere": _LLAMA,
    "cohere2": _LLAMA,
    "granite": _LLAMA,
    "smollm3": _LLAMA,
    "glm": _LLAMA,
    "glm4": _LLAMA,
    "arcee": _LLAMA,
    "exaone4": _LLAMA,
    "seed_oss": _LLAMA,
    "hunyuan_v1_dense": _LLAMA,
    "apertus": _LLAMA,
    "ministral": _LLAMA,
    "ministral3": _LLAMA,
    "helium": _LLAMA,
    "ernie4_5": _LLAMA,
    "persimmon": _LLAMA._replace(ffn="layers.{}.mlp.dense_4h_to_h"),
    "cwm": _LLAMA,
    "jais2": _LLAMA,
    "vaultgemma": _LLAMA,
    "starcoder2": _LLAMA._replace(ffn="layers.{}.mlp.c_proj"),
    "stablelm": _LLAMA,
    "nemotron": _LLAMA,
    "gpt_bigcode": _GPT2,
    "biogpt": _FC2,
    "opt": _FC2._replace(ffn="decoder.layers.{}.fc2", joined=True),
    "modernbert-decoder": Architecture("layers.{}.mlp.Wo", "attn"),
    "nanochat": _LLAMA._replace(ffn="layers.{}.mlp.fc2"),
    "ctrl": Architecture("h.{}.ffn.2", "multi_head_attention"),
    "bloom": Architecture("h.{}.mlp.dense_4h_to_h", "self_attention", keys=False, own_mask=False),
    "falcon": Architecture("h.{}.mlp.dense_4h_to_h", "self_attention", keys=False, own_mask=False),
    "gptj": Architecture("h.{}.mlp.fc_out", "attn", keys=False),
    "codegen": Architecture("h.{}.mlp.fc_out", "attn", keys=False),
    "gpt_neo": Architecture("h.{}.mlp.c_proj", "attn", keys=False),
    "diffllama": _LLAMA._replace(keys=False),  # its attention asks for other values than it keeps
    "mpt": Architecture("blocks.{}.ffn.down_proj", "attn", keys=False, own_mask=False),
}
_EXPERTS = "it is a mixture of experts: a feed-forward neuron is not (layer, index), and only some experts see a token"
_SEQUENCES = "it is an encoder-decoder, neither a masked nor a causal language model"
_STATES = "not all of its layers are attention followed by a feed-forward layer"
_PICTURES = "it reads pictures or sound, too; its text-only type, where it has one, may be supported"
_REFUSED = {
    "its layers share one set of weights: a neuron can't be suppressed in one layer alone": "albert",
    "its layers get further inputs for each token": "gemma4_text",
    _EXPERTS: "mixtral qwen2_moe qwen3_moe gpt_oss olmoe phimoe granitemoe deepseek_v2 deepseek_v3 glm4_moe jetmoe "
    "dbrx llama4_text ernie4_5_moe hunyuan_v1_moe minimax_m2",
    _SEQUENCES: "t5 mt5 umt5 bart mbart pegasus m2m_100 marian t5gemma led",
    _STATES: "mamba mamba2 jamba bamba rwkv recurrent_gemma falcon_mamba lfm2 zamba2 qwen3_5_text",
    _PICTURES: "gemma3 gemma3n gemma4 llava mistral3 llama4 qwen2_vl qwen2_5_vl qwen3_vl qwen3_5",
}
REFUSED = {kind: why for why, kinds in _REFUSED.items() for kind in kinds.split()}


def architecture(model_or_config: Any) -> Architecture:
    """Return the table's entry for a model or its config.

    Raises:
        InputError: if the model type is not in the table, or if the model splits its feed-forward pass into chunks.
    """
    config = getattr(model_or_config, "config", model_or_config)
    kind = config.model_type
    if kind not in ARCHITECTURES:
        why = REFUSED.get(kind, "it is not in the table of architectures")
        raise InputError(
            f"`model_name` is expected to be a model of type {', '.join(ARCHITECTURES)}, but got type {kind!r}: {why}. "
            "Choose another model, or add a line to biaslab/models/architectures.py."
        )
    if getattr(config, "chunk_size_feed_forward", 0):
        raise InputError(
            "`chunk_size_feed_forward` is expected to be 0 but got "
            f"{config.chunk_size_feed_forward}: a position then means another token. Set it to 0 in the model's config."
        )
    return ARCHITECTURES[kind]


def layers(model: PreTrainedModel) -> nn.ModuleList:
    """Return the list of the model's transformer layers."""
    modules = model.base_model.get_submodule(architecture(model).ffn.partition(".{}")[0])
    assert isinstance(modules, nn.ModuleList)
    return modules


def ffn_modules(model: PreTrainedModel) -> list[nn.Module]:
    """Return each layer's FFN down-projection; its input holds the layer's neurons, ``[batch, sequence, neuron]``.

    Some join the first two axes: see :func:`by_token`.
    """
    path = architecture(model).ffn
    return [model.base_model.get_submodule(path.format(layer)) for layer in range(len(layers(model)))]


def by_token(values: Tensor, sequences: int) -> Tensor:
    """Return a down-projection's input or output as ``[batch, sequence, feature]``, where two axes were joined."""
    return values if values.ndim == 3 else values.unflatten(0, (sequences, -1))


@contextmanager
def sequences_of(model: PreTrainedModel) -> Iterator[Callable[[], int]]:
    """Within the block, the function says how many sequences the forward pass that runs has: for :func:`by_token`."""
    seen = [0]

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen[0] = len(args[0] if args else kwargs["hidden_states"])

    with layers(model)[0].register_forward_pre_hook(note, with_kwargs=True):
        yield lambda: seen[0]


def attention_modules(model: PreTrainedModel) -> list[nn.Module]:
    """Return each layer's attention; its output is or begins with ``[batch, sequence, hidden]``."""
    path = architecture(model).attention
    return [layer.get_submodule(path) for layer in layers(model)]


def down_weight(module: nn.Module) -> Tensor:
    """Return a down-projection's weight as ``[hidden, neuron]``; a view, whichever way the module stores it."""
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight if isinstance(module, nn.Linear) else weight.T  # GPT-2's Conv1D stores [neuron, hidden]


def has_bias(model: PreTrainedModel) -> bool:
    """Return whether the down-projections have a bias, which can hold what replaced neurons add, or can be given one.

    Llama's configuration can say ``mlp_bias``, so that any program that loads the weights makes the biases.
    """
    own = getattr(ffn_modules(model)[0], "bias", None) is not None
    return own or getattr(model.config, "mlp_bias", None) is False


def add_biases(model: PreTrainedModel) -> None:
    """Give all projections of the FFNs that have none a bias of 0, of a model that :func:`has_bias` accepts."""
    if ffn_modules(model)[0].bias is not None:
        return
    model.config.mlp_bias = True
    path = architecture(model).ffn.rpartition(".")[0]
    for layer in range(len(layers(model))):
        for module in model.base_model.get_submodule(path.format(layer)).children():
            if isinstance(module, nn.Linear):
                module.bias = nn.Parameter(module.weight.new_zeros(module.out_features))


def loaded(module: nn.Module) -> AbstractContextManager[Any]:
    """Within the block, weights that accelerate offloads lie on the device that the module runs on."""
    if not hasattr(module, "_hf_hook"):
        return nullcontext()
    from accelerate.utils import align_module_device  # type: ignore[import-untyped]

    block: AbstractContextManager[Any] = align_module_device(module)
    return block


def ffn_shape(model: PreTrainedModel) -> tuple[int, int]:
    """Return (layers, neurons a layer)."""
    modules = ffn_modules(model)
    return len(modules), down_weight(modules[0]).shape[1]


def without_cache(model: PreTrainedModel) -> dict[str, bool]:
    """Return the argument of a forward pass that keeps a causal model from storing its keys and values."""
    return {} if architecture(model).masked else {"use_cache": False}


def window(model: PreTrainedModel) -> float:
    """Return how many tokens a token of any layer sees, itself among them; infinite without a sliding window."""
    sizes = [getattr(model.config, name, None) for name in ("sliding_window", "window_size")]
    return min((size for size in sizes if isinstance(size, int) and size > 0), default=math.inf)


def takes_own_mask(model: PreTrainedModel, length: int) -> bool:
    """Return whether a causal model attends just as a 4-D mask says, in a sequence whose positions end at ``length``.

    Code that came with a checkpoint, or other attention kernels, may take their own view of it, and a sliding window
    that is shorter is none of it.
    """
    native = architecture(model).own_mask and type(model).__module__.startswith("transformers.models.")
    return native and model.config._attn_implementation in ("eager", "sdpa") and length <= window(model)
