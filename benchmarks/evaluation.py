"""StereoSet with a plain loop, compared with biaslab.

Masked: the dev split with `minilm-mlm`, one sentence and one masked token at a time, compared with batches that compute
logits at the slots only. The loop scores an evenly spaced sample of the clusters; its total time is extrapolated by the
number of forward passes. Both times include tokenization; that of the batches also includes reading the file. About two
minutes:

    python benchmarks/evaluation.py masked

Causal: evenly spaced clusters of the test split with `smollm2-135m`; whole sentences in batches of equal length with
all logits, compared with sentences that share common beginnings. CPU seconds without tokenization. About two minutes:

    python benchmarks/evaluation.py causal
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jsonargparse import auto_cli
from suppression import machine
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from biaslab import load_model
from biaslab.cli import quiet
from biaslab.data.stereoset import Cluster, StereoSetDataModule, candidate_word, read_clusters
from biaslab.evaluation.scoring import score_clusters


@torch.no_grad()
def plain_score(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, context: str, sentence: str
) -> tuple[float, int]:
    """Return a candidate's score by the authors' rule, and the number of forward passes: one per token."""
    pieces = tokenizer.encode(candidate_word(context, sentence), add_special_tokens=False)
    total = 0.0
    for index, piece in enumerate(pieces):
        text = context.replace("BLANK", tokenizer.decode(pieces[:index]) + tokenizer.mask_token)
        inputs = tokenizer(text, return_tensors="pt")
        place = inputs["input_ids"][0].tolist().index(tokenizer.mask_token_id)
        total += model(**inputs).logits[0, place].softmax(0)[piece].item()
    return total / len(pieces), len(pieces)


def plainly(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, clusters: Sequence[Cluster]
) -> tuple[Tensor, int]:
    """Return the scores, ``[cluster, 3]``, and the number of forward passes."""
    found = [plain_score(model, tokenizer, c.context, sentence) for c in clusters for sentence in c.sentences]
    return torch.tensor([score for score, _ in found]).view(-1, 3), sum(passes for _, passes in found)


def in_batches(model: PreTrainedModel) -> tuple[Tensor, int]:
    """Return the scores of all clusters in the order of the file, and the number of forward passes of the loop."""
    data = StereoSetDataModule()
    data.setup("test")
    scores = torch.cat([score_clusters(model, batch) for batch in data.batches])
    examples = torch.cat([batch["examples"] for batch in data.batches])
    return scores[examples.argsort()], sum(int(batch["pieces"].sum()) for batch in data.batches)


@torch.no_grad()
def whole_sentences(model: PreTrainedModel, batch: Mapping[str, Any]) -> Tensor:
    """Return a batch's scores, ``[cluster, 3]``, with up to 1,024 tokens per forward pass."""
    scores = torch.zeros(batch["pieces"].numel())
    first = model(torch.tensor([[batch["start_id"]]]), use_cache=False).logits[0].log_softmax(-1)  # [1, vocabulary]
    for group in batch["inputs"]:
        ids = group["input_ids"]
        means = []
        for part in ids.split(max(1, 1024 // ids.shape[1])):
            logits = model(part, use_cache=False).logits[:, :-1]
            later = logits.gather(2, part[:, 1:, None])[..., 0] - logits.logsumexp(2)
            means.append(torch.cat([first[0, part[:, :1]], later], 1).mean(1))
        scores[group["candidate"]] = torch.cat(means).exp()[group["row"]]
    return scores.view(-1, 3)


def causal(every: int = 32, rounds: int = 3, threads: int = 1) -> None:
    """Print one row per round.

    Args:
        every: use every N-th cluster of the test split.
        rounds: number of rounds, alternating between both methods.
        threads: number of CPU threads; CPU seconds are summed over them.
    """
    quiet()
    torch.set_num_threads(threads)
    model, _ = load_model("smollm2-135m")
    data = StereoSetDataModule("smollm2-135m", split="test", every=every, bos="authors")
    data.setup("test")
    print(f"{machine()}; {len(data.clusters)} clusters")
    print(f"{'whole, s':>9} {'biaslab, s':>11} {'ratio':>6} {'largest relative difference':>28} {'other order':>12}")
    for _ in range(rounds):
        start = time.process_time()
        expected = torch.cat([whole_sentences(model, batch) for batch in data.batches])
        middle = time.process_time()
        scores = torch.cat([score_clusters(model, batch) for batch in data.batches])
        whole, shared = middle - start, time.process_time() - middle
        difference = float((scores / expected - 1).abs().max())
        other = sum(int((a.argsort() != b.argsort()).any()) for a, b in zip(scores, expected, strict=True))
        print(f"{whole:9.1f} {shared:11.1f} {whole / shared:6.2f} {difference:28.1e} {other:12}", flush=True)


def masked(sample: int = 150, rounds: int = 3, threads: int = 1) -> None:
    """Print one row per round.

    Args:
        sample: number of clusters scored by the loop.
        rounds: number of rounds, alternating between both methods.
        threads: number of CPU threads; on a busy machine, more than one slows down the loop in particular.
    """
    quiet()
    torch.set_num_threads(threads)
    model, tokenizer = load_model("minilm-mlm")
    clusters = read_clusters()
    chosen = torch.linspace(0, len(clusters) - 1, sample).long()
    print(f"{machine()}; {len(clusters)} clusters, {sample} of them one sentence at a time")
    print(f"{'loop, s':>9} {'for all, s':>11} {'batches, s':>11} {'ratio':>6} {'largest relative difference':>28}")
    for _ in range(rounds):
        start = time.perf_counter()
        expected, sampled = plainly(model, tokenizer, [clusters[index] for index in chosen.tolist()])
        middle = time.perf_counter()
        scores, passes = in_batches(model)
        quick = time.perf_counter() - middle
        plain = (middle - start) * passes / sampled
        difference = float((scores[chosen] / expected - 1).abs().max())
        print(f"{middle - start:9.1f} {plain:11.1f} {quick:11.1f} {plain / quick:6.1f} {difference:28.1e}", flush=True)


if __name__ == "__main__":
    auto_cli([masked, causal])
