"""Agreement of attribution in 16-bit dtypes with float32: ranks of the neurons, and selected sets.

The same prompts are attributed, and effects are measured on the same contrast set, with the weights in each dtype.
About ten CPU minutes for minilm-mlm:

    python benchmarks/precision.py [--model NAME] [--limit N]
"""

from __future__ import annotations

from typing import Any

import torch
from jsonargparse import auto_cli

from biaslab.cli import quiet
from biaslab.commands.machine import start
from biaslab.data.presets import PRESETS, USUAL
from biaslab.data.prompts import PromptDataModule
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.neurons.overlap import rank_correlation
from biaslab.tasks.attribution import Attribution

TYPES = ("float32", "bfloat16", "float16")


def found(model: str, dtype: str, limit: int) -> tuple[dict[str, torch.Tensor], dict[str, NeuronSet]]:
    """Return scores, ``[layer, neuron]``, and selected sets, by name, for one dtype of the weights."""
    usual = USUAL["balanced"]
    options: dict[str, Any] = {"selection": "fisher", "source": "contrast", "count": 1, "dtype": dtype}
    task = Attribution(model, **options, replacement="auto")
    few: dict[str, Any] = {"contrast": list(usual.contrast), "contrast_limit": limit, "contrast_positions": "all"}
    data = PromptDataModule(model, **PRESETS["small"].data | few)
    machine = start()
    machine.trainer(False).predict(task, data, return_predictions=False)
    machine.take(task.model)
    assert task.effects is not None
    effects = task.effects.compute()
    bias = [number for number, name in enumerate(task.effects.quantities) if name.endswith("/bias")]
    scores = {
        "IG², mean of the pairs": task.prompts.pair_scores().nanmean(0),
        "bias of the contrast set": effects[bias].sum(0),
        "Fisher information": task.effects.effects("text"),
    }
    weighed = usual.options(data.sources())
    sets = {
        "paper": task.select("paper"),
        "fisher, 2 %": task.select("fisher", count=scores["Fisher information"].numel() // 50),
        "balanced, 5 %": task.select("balanced", **weighed, predicted_percent=3.0, count=None),
    }
    return scores, sets


def main(model: str = "minilm-mlm", limit: int = 600) -> None:
    """Print the agreement with float32.

    Args:
        model: an asset's name, a folder or a hub id.
        limit: maximum number of clusters, sentences and pairs of each source of the contrast set.
    """
    scores, sets = found(model, TYPES[0], limit)
    print(f"{model}: agreement with {TYPES[0]}\n{'':42}" + "".join(f"{name:>12}" for name in TYPES[1:]))
    others = [found(model, dtype, limit) for dtype in TYPES[1:]]
    for name, own in scores.items():
        ranks = [rank_correlation(own.flatten(), other[name].flatten()) for other, _ in others]
        print(f"{'rank correlation, ' + name:42}" + "".join(f"{rank or 0:>12.4f}" for rank in ranks))
    for name, chosen in sets.items():
        shared = [len(chosen & other[name]) / max(1, len(chosen)) for _, other in others]
        print(f"{'same neurons, ' + name + f' ({len(chosen)})':42}" + "".join(f"{share:>12.1%}" for share in shared))


if __name__ == "__main__":
    quiet()
    auto_cli(main)
