"""Time of each benchmark of `biaslab test` with its default settings, compared with a plain loop.

The loop is what most scripts do: one forward pass for each queried token of a masked model, or for each sentence of a
causal model, with logits at all positions. It is timed on an evenly spaced sample and extrapolated. Reading and
tokenization are excluded from both and timed separately. That both compute the same is tested (tests/evaluation). About
ten minutes for minilm-mlm, half an hour for smollm2-135m:

    python benchmarks/measures.py [--model NAME] [--benchmarks '[bbq, honest]']
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jsonargparse import auto_cli
from suppression import machine
from torch import Tensor
from transformers import PreTrainedModel

from biaslab import load_model
from biaslab.cli import quiet
from biaslab.errors import NotApplicableError
from biaslab.evaluation.benchmarks import BENCHMARKS
from biaslab.models.tokens import is_masked
from biaslab.report.tables import markdown

HEADER = ("", "examples", "setup, s", "scoring, s", "scoring, CPU s", "passes of the loop", "loop, CPU s", "ratio")


def asked(batches: Sequence[Any]) -> Iterator[tuple[Tensor, int, int]]:
    """Yield an input, a position and a token for each pass of the loop."""
    for batch in batches:
        for group in batch["inputs"]:
            places = group["position"]
            of_query = places if len(places) == len(group["row"]) else places[group["row"]]
            for row, place, token in zip(group["row"], of_query.tolist(), group["target_ids"].tolist(), strict=True):
                yield group["input_ids"][row], place, token


@torch.no_grad()
def plainly(model: PreTrainedModel, queries: Sequence[tuple[Tensor, int, int]], masked: bool) -> float:
    """Return the CPU seconds of one forward pass per query, including its log-probabilities."""
    start = time.process_time()
    for input_ids, place, token in queries:
        logs = model(input_ids=input_ids[None]).logits[0].float().log_softmax(-1)
        found = logs[place, token] if masked else logs[:-1].gather(1, input_ids[1:, None]).sum()
        found.item()
    return time.process_time() - start


def main(model: str = "minilm-mlm", benchmarks: list[str] | None = None, queries: int = 200) -> None:
    """Print one line per benchmark.

    Args:
        model: an asset's name, a folder or a hub id.
        benchmarks: names of benchmarks; all by default.
        queries: number of passes of the loop to time.
    """
    network, tokenizer = load_model(model)
    rows = []
    for name in benchmarks or BENCHMARKS:
        start = time.perf_counter()
        data = BENCHMARKS[name].data_class()(model)
        data.prepare_data()
        try:
            data.setup("test")
        except NotApplicableError as error:
            print(f"Skipping {name}: {error}")
            continue
        measure = BENCHMARKS[name].measure_class()(data)
        ready = time.perf_counter()
        cpu = time.process_time()
        with torch.no_grad():
            measure.ask(network, tokenizer, name)
        seconds, own = time.perf_counter() - ready, time.process_time() - cpu
        every = list(asked(data.batches))
        some = every[:: max(1, len(every) // queries)]
        loop = plainly(network, some, is_masked(tokenizer)) * len(every) / len(some)
        examples = measure.facts()[measure.counted]
        figures = (examples, ready - start, seconds, own, len(every), loop, loop / own)
        rows.append([name, *(f"{value:,.1f}" if isinstance(value, float) else f"{value:,}" for value in figures)])
        print(" | ".join(rows[-1]), flush=True)
    print(f"\n{model}; {machine()}\n\n{markdown(HEADER, rows)}")


if __name__ == "__main__":
    quiet()
    auto_cli(main)
