"""What suppression does beyond StereoSet: to the demographic gap on held-out prompts, and to ordinary text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from biaslab.errors import InputError
from biaslab.scoring import sequence_log2_probabilities, slot_log_probabilities, target_log_probabilities
from biaslab.tokenization import by_length, is_masked


class Gaps(NamedTuple):
    """How far apart the two demographics of a pair are.

    Attributes:
        probability: mean of ``|P(d1) - P(d2)|`` over the prompts, ``[pair]``.
        log_probability: mean of ``|log P(d1) - log P(d2)|`` over the prompts, in nats, ``[pair]``.
    """

    probability: Tensor
    log_probability: Tensor

    def change_from(self, before: Gaps) -> Gaps:
        """Return the relative change, in percent."""
        changes = [100 * (now / then - 1) for now, then in zip(self, before, strict=True)]
        return Gaps(*changes)


@torch.no_grad()
def demographic_gaps(model: PreTrainedModel, batches: Iterable[dict[str, Tensor]], pairs: int) -> Gaps:
    """Measure the gap of each demographic pair.

    Args:
        model: a masked or causal language model of the table.
        batches: of :class:`biaslab.data.prompts.PromptDataModule`.
        pairs: how many there are.

    Reference:
        "The Devil is in the Neurons" (ICLR 2024), section 4.3.
    """
    sums, counts = torch.zeros(2, pairs, dtype=torch.float64), torch.zeros(pairs, dtype=torch.float64)
    for batch in batches:
        chosen = target_log_probabilities(model, batch)  # [batch, target]
        first, second = chosen[:, batch["pairs"][:, 0]], chosen[:, batch["pairs"][:, 1]]  # [batch, pair]
        sums[0].index_add_(0, batch["pair"], (first.exp() - second.exp()).abs().sum(0).cpu())
        sums[1].index_add_(0, batch["pair"], (first - second).abs().sum(0).cpu())
        counts[batch["pair"]] += len(chosen)
    return Gaps(*(sums / counts))


@torch.no_grad()
def negative_log_likelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[str],
    tokens_per_batch: int = 4096,
    max_length: int = 64,
) -> Tensor:
    """Return each sentence's negative log-likelihood and number of tokens, ``[sentence, 2]``, in nats.

    A masked model is asked for each token with this one hidden and all others in place (pseudo-likelihood), a causal
    one for each token after those before it.

    Raises:
        InputError: if there are no sentences.

    Reference:
        Salazar et al. 2020, equation 4.
    """
    if not sentences:
        raise InputError("`sentences` is expected to hold at least one sentence but is empty.")
    special = is_masked(tokenizer)
    encoded = tokenizer(list(sentences), truncation=True, max_length=max_length, add_special_tokens=special)[
        "input_ids"
    ]
    if not special:
        start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        values = [
            sequence_log2_probabilities(model, torch.tensor([s], device=model.device), start).sum() * -math.log(2)
            for s in encoded
        ]
        return torch.tensor([[float(v), len(s)] for v, s in zip(values, encoded, strict=True)], dtype=torch.float64)
    places = [
        (index, place)
        for index, sentence in enumerate(encoded)
        for place, token in enumerate(sentence)
        if token not in tokenizer.all_special_ids
    ]
    result = torch.zeros(len(encoded), 2, dtype=torch.float64)
    for batch in by_length([len(encoded[index]) for index, _ in places], tokens_per_batch):
        rows = torch.tensor([places[i][0] for i in batch])
        position = torch.tensor([places[i][1] for i in batch])
        tokens = torch.tensor([encoded[places[i][0]] for i in batch])
        asked = tokens[torch.arange(len(batch)), position]
        tokens[torch.arange(len(batch)), position] = tokenizer.mask_token_id
        log_probabilities = slot_log_probabilities(model, tokens.to(model.device), position.to(model.device)).cpu()
        nats = -log_probabilities[torch.arange(len(batch)), asked].double()
        result.index_add_(0, rows, torch.stack([nats, torch.ones_like(nats)], dim=1))
    return result


def perplexity(likelihoods: Tensor) -> float:
    """Return exp(mean negative log-likelihood a token) of ``[sentence, 2]`` from :func:`negative_log_likelihoods`."""
    total, tokens = likelihoods.sum(0)
    return float((total / tokens).exp())


def perplexity_change(
    before: Tensor, after: Tensor, resamples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Return the perplexity's change in percent, and its 95 % interval by a paired bootstrap over sentences."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(before), (resamples, len(before)), generator=generator)
    means = [table[rows].sum(1) for table in (before, after)]  # [resample, 2]
    ratio = (means[1][:, 0] / means[1][:, 1] - means[0][:, 0] / means[0][:, 1]).exp()
    low, high = (100 * (ratio.quantile(q) - 1) for q in (0.025, 0.975))
    return 100 * (perplexity(after) / perplexity(before) - 1), float(low), float(high)
