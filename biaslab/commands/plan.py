"""Predict the cost of an attribution run from a short measurement."""

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from biaslab.attribution.integration import wanted_sums
from biaslab.data.prompts import PromptDataModule
from biaslab.models.architectures import architecture
from biaslab.models.loading import best_device
from biaslab.tasks.attribution import Attribution
from biaslab.tasks.effects import collected_effects

_SECONDS = 10.0  # approximate duration of the measurement
_PROMPTS = 8  # measured prompts per batch


def plan(task: Attribution, data: PromptDataModule, processes: int = 1) -> None:
    """Print the expected prompts, tokens, operations, memory and time of an attribution on some processes."""
    data.prepare_data()
    data.setup("predict")
    task.to(best_device())
    batches = [*data.batches, *data.contrast_batches]
    at_all = data.hparams["contrast_positions"] == "all"
    attributed, others = (data.batches, data.contrast_batches) if at_all else (batches, [])
    seconds, flops, nodes, measured = _measure(task, attributed, len(data.batches))
    masked = architecture(task.model).masked
    work = sum(work_of(batch, len(batch["input_ids"]), masked) for batch in attributed)
    rate = flops / seconds
    time_of_run = duration((seconds * work + _effects(task, others)) / max(1, min(processes, len(batches))))
    is_cuda = task.device.type == "cuda"
    device = torch.cuda.get_device_name() if is_cuda else f"{torch.get_num_threads()} CPU threads"
    more = [batch for batch in others if "pairs" in batch]
    sentences = data.contrast_batches[len(more) :]  # these prompts come first
    parts = {
        "prompts": f"{size_of(data.batches)} for {len(data.pair_names)} pairs; {size_of(more)} for effects",
        "contrast set": f"{size_of(sentences)} sentences",
        "tokens": f"{sum(b['input_ids'].numel() for b in batches):,}, in {len(batches)} batches",
        "nodes": f"{nodes:.1f} per layer, mean over {measured} measured prompts",
        "operations": f"{flops * work:.2e}, at a measured {rate / 1e9:.3g} GFLOP/s ({task.hparams['dtype']}, {device})",
        "memory": f"{_peak(task) / 2**30:.1f} GiB per process, peak of the measurement",
        "time": f"{time_of_run} on {processes} process{'es' if processes > 1 else ''} like this one",
    }
    for name, text in parts.items():
        print(f"{name:14}{text}")
    for pair, why in data.dropped.items():
        print(f"{'dropped':14}{pair}: {why}")


class Operations(TorchDispatchMode):  # torch's FlopCounterMode fails within autograd.grad
    """Count the operations of matrix products and attention in the block; a multiply-add counts as two."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function and count it."""
        result = function(*args, **(kwargs or {}))
        if (formula := flop_registry.get(function.overloadpacket)) is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


def _measure(task: Attribution, batches: Sequence[dict[str, Any]], prompts: int) -> tuple[float, float, float, int]:
    """Attribute some prompts; return seconds and operations per unit of work, mean nodes, and number of prompts."""
    order = sorted(range(len(batches)), key=lambda index: (index * 0.6180339887) % 1)
    work = seconds = flops = nodes = 0.0
    masked = architecture(task.model).masked
    measured, began = 0, time.monotonic()
    for index in order:
        few = task.transfer_batch_to_device(_first(batches[index], _PROMPTS), task.device, 0)
        with Operations() as operations:
            task.attribute(few, is_prompt=index < prompts)
        start = time.monotonic()
        result = task.attribute(few, is_prompt=index < prompts)
        mean, count = float(result.nodes.cpu().double().mean()), len(result.nodes)  # waits for the device
        seconds, flops = seconds + time.monotonic() - start, flops + operations.total
        work += work_of(batches[index], count, masked)
        nodes, measured = nodes + mean * count, measured + count
        if time.monotonic() - began > _SECONDS:
            break
    return seconds / work, flops / work, nodes / measured, measured


def _effects(task: Attribution, batches: Sequence[dict[str, Any]]) -> float:
    """Return the expected seconds for first-order effects on all batches, measured on some of them."""
    tokens = [batch["input_ids"].numel() * (1 + len(batch.get("weights", [1]))) for batch in batches]
    measured, began = 0, time.monotonic()
    for index in range(0, len(batches), max(1, len(batches) // 4)):
        batch = task.transfer_batch_to_device(batches[index], task.device, 0)
        for effects, *_ in collected_effects(task.model, batch):
            effects.cpu()
        measured += tokens[index]
    seconds: float = (time.monotonic() - began) * sum(tokens) / max(1, measured)
    return seconds


def size_of(batches: Sequence[Mapping[str, Any]]) -> str:
    """Return the number of sequences in batches, formatted."""
    return f"{sum(len(batch['input_ids']) for batch in batches):,}"


def _first(batch: dict[str, Any], prompts: int) -> dict[str, Any]:
    few = {key: value[:prompts] for key, value in batch.items() if torch.is_tensor(value)}
    whole = {key: batch[key] for key in ("pairs", "pair") if key in batch}
    longer = [_first(inputs, prompts) for inputs in batch.get("longer", ())]
    return few | whole | ({"longer": longer} if longer else {})


def work_of(batch: Mapping[str, Any], prompts: int, masked: bool) -> int:
    """Return the tokens that pass through a layer for one node: forward once, and backward once per direction."""
    every, total = [batch, *batch.get("longer", ())], 0
    sums = wanted_sums(batch["pairs"], [inputs["target_ids"].shape[1] for inputs in every])
    for inputs, parts in zip(every, sums, strict=True):
        tokens = inputs["input_ids"].shape[1] if masked else inputs["position"][0].numel()  # with values that change
        total += tokens * (1 + len(parts.directions)) if len(parts.directions) else 0
    return prompts * total


def _peak(task: Attribution) -> float:
    if task.device.type == "cuda":
        return torch.cuda.max_memory_allocated(task.device)
    import resource  # not on Windows, where the other commands work

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB elsewhere


def duration(seconds: float) -> str:
    """Return a duration, formatted."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
