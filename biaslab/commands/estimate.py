"""Estimate the cost of an attribution run from a model's configuration, without its weights."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM, PreTrainedModel

from biaslab.commands.plan import duration, size_of, work_of
from biaslab.data.prompts import PromptDataModule
from biaslab.models.architectures import architecture, ffn_shape, layers

NODES = 4  # quadrature nodes per layer; 3 to 8 were measured on models such as BERT and Llama
_USED = 0.2  # share of a GPU's peak throughput: batches are small
_ROOM = 0.9  # usable share of its memory
_LIVE = 12, 4  # hidden-state and FFN values that a layer keeps per token for the backward pass
# memory in GiB, and dense TFLOP/s in float32 and in 16 bits
GPUS = {
    "24 GiB (RTX 4090)": (24, 82.6, 165.0),
    "80 GiB (A100)": (80, 19.5, 312.0),
    "80 GiB (H100)": (80, 67.0, 989.0),
    "141 GiB (H200)": (141, 67.0, 989.0),
}


class Needs(NamedTuple):
    """Needs of one pass: parameters, bytes of the weights, bytes of a batch's activations, operations."""

    parameters: int
    weights: int
    activations: int
    operations: float


def estimate(model_name: str, settings: Mapping[str, Any], data: PromptDataModule, trust_remote_code: bool) -> None:
    """Print memory, devices and time without loading the weights.

    Args:
        model_name: a folder with a config.json, or a hub id.
        settings: settings of the task :class:`biaslab.tasks.attribution.Attribution`.
        data: the prompts; only the tokenizer is loaded.
        trust_remote_code: allow a checkpoint to run its own Python code.
    """
    data.setup("predict")
    model = without_weights(AutoConfig.from_pretrained(model_name, trust_remote_code=trust_remote_code))
    dtype = settings.get("dtype", "float32")
    kind = model.dtype if dtype == "auto" else getattr(torch, dtype)
    needed = needs(model, kind, data.batches, data.contrast_batches, settings.get("token_budget", 8192))
    depth, width = ffn_shape(model)
    weights, batch = needed.weights / 2**30, needed.activations / 2**30
    print(f"The weights of {model_name} are not on this machine. Estimates from its configuration:")
    lines = {
        "parameters": f"{needed.parameters / 1e9:,.3g} billion; {depth} layers of {width:,} neurons",
        "prompts": f"{size_of(data.batches)} for {len(data.pair_names)} pairs",
        "contrast set": f"{size_of(data.contrast_batches)} sentences and prompts",
        "operations": f"{needed.operations:.2e} with {NODES} nodes per layer",
        "memory": f"{weights + batch:,.1f} GiB: weights {weights:,.1f} ({kind}), a batch {batch:,.1f}",
    }
    for name, text in lines.items():
        print(f"{name:14}{text}")
    for name, (memory, single, half) in GPUS.items():
        count = math.ceil((weights + batch) / (_ROOM * memory))
        rate = _USED * 1e12 * (half if kind.itemsize == 2 else single)
        seconds, how = needed.operations / rate, "" if count == 1 else " with device_map auto, one layer after another"
        time = "less than a minute" if seconds < 60 else f"about {duration(seconds)}"
        print(f"{name:20}{count:>3} GPU{'s' * (count > 1)}: {time}{how}")
    print(f"(Assumes {100 * _USED:.0f} % of GPU peak. Once the weights are downloaded, --plan measures instead.)")


def without_weights(config: Any) -> PreTrainedModel:
    """Return a model whose parameters have shapes but no values (meta device)."""
    kind: Any = AutoModelForMaskedLM if architecture(config).masked else AutoModelForCausalLM
    with torch.device("meta"):
        model: PreTrainedModel = kind.from_config(config)
    return model


def needs(
    model: PreTrainedModel,
    kind: torch.dtype,
    prompts: Sequence[Mapping[str, Any]],
    contrast: Sequence[Mapping[str, Any]],
    token_budget: int,
) -> Needs:
    """Return the cost of attributing prompts and of effects on a contrast set; ``kind`` is the weights' dtype."""
    depth, width, masked = len(layers(model)), ffn_shape(model)[1], architecture(model).masked
    head = model.get_output_embeddings().weight
    vocabulary, hidden = head.shape
    of_layer = sum(parameter.numel() for parameter in layers(model)[0].parameters())
    parameters = sum(parameter.numel() for parameter in model.parameters())
    # IG²: each node of a layer passes through the layers above it, forward once and backward once per direction; in a
    # masked model's last layer, and in all layers of a causal model, only the slot matters
    pairs_of_layers = depth * (depth - 1 if masked else depth + 1) / 2
    work = sum(work_of(batch, len(batch["input_ids"]), masked) for batch in prompts if "weights" not in batch)
    slots = sum(len(batch["input_ids"]) for batch in prompts)
    operations = NODES * (work * 2 * of_layer * pairs_of_layers + 3 * slots * depth * 2 * vocabulary * hidden)
    once = 2 * (of_layer * depth + vocabulary * hidden * (0.15 if masked else 1.0))  # per token, forward
    for batch in (*prompts, *contrast):
        passes = 1 + 2 * len(batch["weights"]) if "weights" in batch else 3 if "share" in batch else 1
        operations += passes * batch["input_ids"].numel() * once
    tokens = max((batch["input_ids"].numel() for batch in (*prompts, *contrast)), default=0)
    live = (_LIVE[0] * hidden + _LIVE[1] * width) * kind.itemsize
    activations = live * (tokens * depth + token_budget) + 3 * 4 * vocabulary * tokens * (0.15 if masked else 1.0)
    return Needs(parameters, parameters * kind.itemsize, round(activations), operations)
