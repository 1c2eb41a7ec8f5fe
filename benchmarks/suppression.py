"""Cost of bias neuron suppression (BNS): a forward pass with hooks, compared with the same pass without.

Uses the encoder of BERT-base's shape with random weights; the head would hide part of the cost. 2 % of the neurons are
suppressed at all positions. About six minutes:

    python benchmarks/suppression.py

On an idle machine, the ratio of a pass to itself, measured the same way, is within 0.01 of 1.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from jsonargparse import auto_cli
from transformers import BertConfig, BertForMaskedLM

from biaslab.cli import quiet
from biaslab.models.architectures import ffn_shape
from biaslab.neurons.suppression import suppressed

BATCHES = ((8, 16), (32, 16), (16, 128))  # sequences, tokens of each


def machine() -> str:
    """Return a description of the software and hardware."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")] or [platform.machine()]
    return f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), {names[0]}"


def timed(run: Callable[[], object], context: AbstractContextManager[None]) -> tuple[float, float]:
    """Return the seconds for a run within a context, and for entering and leaving the context."""
    entering = time.perf_counter()
    with context:
        start = time.perf_counter()
        run()
        end = time.perf_counter()
    left = time.perf_counter()
    return end - start, left - entering - (end - start)


def row(run: Callable[[], object], context: Callable[[], AbstractContextManager[None]], pairs: int) -> str:
    """Return the milliseconds without hooks, the median and quartiles of the ratio, and those of the context."""
    plain, ratios, around = [], [], []
    timed(run, nullcontext())  # the first pass allocates memory
    for number in range(pairs):
        found = {}
        for hooked in (False, True) if number % 2 else (True, False):
            found[hooked] = timed(run, context() if hooked else nullcontext())
        plain.append(1000 * found[False][0])
        ratios.append(found[True][0] / found[False][0])
        around.append(1000 * found[True][1])
    low, middle, high = torch.tensor(ratios).quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()
    medians = [float(torch.tensor(values).median()) for values in (plain, around)]
    return f"{medians[0]:9.1f} {middle:7.3f} ({low:.3f} to {high:.3f}) {medians[1]:9.2f}"


@torch.no_grad()
def main(pairs: int = 30, share: float = 0.02, threads: int = 1) -> None:
    """Print one row per batch size.

    Args:
        pairs: number of pairs of passes, alternating with and without hooks.
        share: share of the neurons to suppress, drawn at random.
        threads: number of CPU threads; on a busy machine, more than one makes the result less reliable.
    """
    quiet()
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig()).eval()
    layers, width = ffn_shape(model)
    drawn = torch.randperm(layers * width)[: round(share * layers * width)].tolist()
    neurons = [(index // width, index % width) for index in drawn]
    print(f"{machine()}; {len(neurons)} of {layers * width} neurons; {pairs} pairs")
    print(f"{'tokens':>8} {'pass, ms':>9} {'ratio':>7} {'(quartiles)':16} {'context, ms':>9}")
    for batch, sequence in BATCHES:
        input_ids = torch.randint(5, 30_000, (batch, sequence))
        figures = row(lambda: model.base_model(input_ids=input_ids), lambda: suppressed(model, neurons), pairs)  # noqa: B023
        print(f"{f'{batch}x{sequence}':>8} {figures}", flush=True)


if __name__ == "__main__":
    auto_cli(main)
