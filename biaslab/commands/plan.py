"""What an attribution run would take, from a short measurement."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch

from biaslab.attribution.cost import attribution_flops, sizes
from biaslab.attribution.integration import wanted_sums
from biaslab.data.prompts import PromptDataModule
from biaslab.tasks.attribution import Attribution

_SECONDS = 10.0  # that the measurement may take, about
_PROMPTS = 8  # of a batch that are measured


def plan(task: Attribution, data: PromptDataModule, processes: int = 1) -> None:
    """Print the prompts, tokens, operations, memory and time that a run is expected to take.

    Args:
        task: the attribution job.
        data: its prompts.
        processes: that share the work.
    """
    data.prepare_data()
    data.setup("predict")
    task.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    batches = [*data.batches, *data.contrast_batches]
    rate, nodes, measured = _measure(task, batches, len(data.batches))
    flops = sum(_flops(task, batch, nodes, len(batch["input_ids"])) for batch in batches)
    seconds = flops / rate / max(1, min(processes, len(batches)))
    parts = {
        "prompts": f"{sum(len(b['input_ids']) for b in data.batches):,}, for {len(data.pair_names)} pairs",
        "contrast set": f"{sum(len(b['input_ids']) for b in data.contrast_batches):,} sentences",
        "tokens": f"{sum(b['input_ids'].numel() for b in batches):,}, in {len(batches)} batches",
        "nodes": f"{nodes:.1f} a layer, on average of {measured} measured prompts",
        "operations": f"{flops:.2e}, at {rate / 1e9:.3g} GFLOP/s measured ({task.hparams['dtype']}, {_device(task)})",
        "memory": f"{_peak(task) / 2**30:.1f} GiB a process, at the peak of the measurement",
        "time": f"{_duration(seconds)} on {processes} process{'es' if processes > 1 else ''} like this one",
    }
    for name, text in parts.items():
        print(f"{name:14}{text}")
    for pair, why in data.dropped.items():
        print(f"{'dropped':14}{pair}: {why}")


def _measure(task: Attribution, batches: Sequence[dict[str, Any]], prompts: int) -> tuple[float, float, int]:
    """Attribute prompts of batches spread over the run; return operations a second, nodes and how many prompts."""
    order = sorted(range(len(batches)), key=lambda index: (index * 0.6180339887) % 1)
    flops = seconds = nodes = 0.0
    measured = 0
    for warm, index in enumerate([order[0], *order]):
        batch = batches[index]
        few = task.transfer_batch_to_device(_first(batch, _PROMPTS), task.device, 0)
        start = time.monotonic()
        result = task.attribute(few, is_prompt=index < prompts)
        mean = float(result.nodes.double().mean())  # waits for the device
        if not warm:
            continue
        count = len(result.nodes)
        seconds += time.monotonic() - start
        flops += _flops(task, batch, mean, count)
        nodes, measured = nodes + mean * count, measured + count
        if seconds > _SECONDS:
            break
    return flops / seconds, nodes / measured, measured


def _first(batch: dict[str, Any], prompts: int) -> dict[str, Any]:
    few = {key: value[:prompts] for key, value in batch.items() if torch.is_tensor(value)}
    whole = {key: batch[key] for key in ("pairs", "pair") if key in batch}
    longer = [_first(inputs, prompts) for inputs in batch.get("longer", ())]
    return few | whole | ({"longer": longer} if longer else {})


def _flops(task: Attribution, batch: dict[str, Any], nodes: float, prompts: int) -> float:
    size, pairs, with_one, total = sizes(task.model), batch["pairs"], task.hparams["steps"] == "auto", 0.0
    every = [batch, *batch.get("longer", ())]
    sums = wanted_sums(pairs, [inputs["target_ids"].shape[1] for inputs in every])
    for inputs, own in zip(every, sums, strict=True):
        length, slots = inputs["input_ids"].shape[1], inputs["position"][0].numel()
        directions, ended = len(own.directions), int(own.pairs.any(1).sum())
        total += attribution_flops(size, prompts, length, nodes, directions, ended, with_one, slots)
    return total


def _peak(task: Attribution) -> float:
    if task.device.type == "cuda":
        return torch.cuda.max_memory_allocated(task.device)
    import resource  # not on Windows, where the other commands work

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _device(task: Attribution) -> str:
    return torch.cuda.get_device_name() if task.device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
