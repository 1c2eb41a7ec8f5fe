"""How well the Fisher information predicts the cost of suppression, for random sets of neurons.

Fisher information and means are computed on ordinary text (the contrast split of BOLD and BUG); the rise of the
negative log-likelihood is measured on other sentences. About ten minutes for minilm-mlm on two cores:

    python benchmarks/importance.py [--model NAME]
"""

from __future__ import annotations

import math
import random
import time

import torch
from jsonargparse import auto_cli

from biaslab.attribution.importance import Asked, fisher_information, mean_activations, predicted_rise
from biaslab.cli import quiet
from biaslab.data.effects import make_batches, other_sentences, plain_batches
from biaslab.models.loading import load_on_best_device
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.tasks.effects import measured_rise

SOURCES = ("bold", "bug")
FEWEST, MOST = 0.003, 0.05  # share of the neurons in a random set
SHOWN = 5


def main(model: str = "minilm-mlm", sentences: int = 300, sets: int = 24, tokens_per_batch: int = 1024) -> None:
    """Print some of the sets, and the agreement of prediction and measurement over all sets.

    Args:
        model: an asset's name, a folder or a hub id.
        sentences: number of sentences of each source.
        sets: number of random sets.
        tokens_per_batch: maximum tokens per forward pass.
    """
    network, tokenizer = load_on_best_device(model, trust_remote_code=False)
    limits = sentences, tokens_per_batch
    means = mean_activations(network, plain_batches(tokenizer, SOURCES, *limits))
    batches = make_batches(tokenizer, SOURCES, *limits)
    others = other_sentences(SOURCES)
    asked = [(Asked(*(b[n].to(network.device) for n in Asked._fields)), b["weights"][0]) for b in batches]
    tokens = sum(batch["tokens"] for batch in batches)
    print(f"{model}: Fisher information of {tokens} tokens, measured on {len(others)} other sentences")
    for name, origin in (("zero", None), ("mean", means)):
        start = time.perf_counter()
        information = fisher_information(network, asked, origin)
        seconds, rise, draw = (
            time.perf_counter() - start,
            measured_rise(network, tokenizer, others, origin),
            random.Random(0),
        )
        print(f"\nreplacement {name}; {seconds:.1f} s for {information.numel()} neurons; nats per token")
        points = []
        for number in range(sets):
            count = round(math.exp(draw.uniform(math.log(FEWEST), math.log(MOST))) * information.numel())
            places = draw.sample(range(information.numel()), count)
            neurons = NeuronSet([divmod(place, information.shape[1]) for place in places], tuple(information.shape))
            points.append((predicted_rise(information, neurons), math.log1p(rise(neurons) / 100)))
            if number < SHOWN:
                print(f"{count:7} neurons: predicted {points[-1][0]:.4f}, measured {points[-1][1]:.4f}", flush=True)
        both = torch.tensor(points, dtype=torch.float64).T
        slope = float((both[0] * both[1]).sum() / both[0].square().sum())
        print(f"{sets} sets: correlation {float(torch.corrcoef(both)[0, 1]):.3f}, slope through the origin {slope:.2f}")


if __name__ == "__main__":
    quiet()
    auto_cli(main)
