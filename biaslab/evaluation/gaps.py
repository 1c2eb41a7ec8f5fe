"""What suppression does beyond StereoSet: to the demographic gap on held-out prompts, and to ordinary text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from biaslab.errors import InputError
from biaslab.evaluation.scoring import sequence_log2_probabilities, slot_log_probabilities, target_log_probabilities
from biaslab.models.tokens import by_length, is_masked
from biaslab.statistics import Interval, draw_counts


class Gaps(NamedTuple):
    """How far apart the two demographics of a pair are, prompt by prompt; NaN where a pair has no such prompt.

    Attributes:
        probability: ``|P(d1) - P(d2)|``, ``[pair, word, wording]``: a judging word (modifier) in each wording.
        log_probability: ``|log P(d1) - log P(d2)|``, in nats, ``[pair, word, wording]``.
    """

    probability: Tensor
    log_probability: Tensor

    def change_from(self, before: Gaps) -> tuple[GapChange, GapChange]:
        """Return the relative changes of both gaps, with their resamples."""
        probability, log_probability = (_change(then, now) for then, now in zip(before, self, strict=True))
        return probability, log_probability


class GapChange(NamedTuple):
    """How much the mean gap of each pair changes, in percent.

    Attributes:
        value: ``[pair]``.
        resamples: of the judging words and of the wordings, both drawn with replacement, ``[resample, pair]``.
    """

    value: Tensor
    resamples: Tensor

    def interval(self, pairs: Tensor | slice = slice(None)) -> Interval:
        """Return the mean of some pairs' changes with its 95 % interval over words and wordings; the pairs are given.

        Args:
            pairs: indices or a mask; all by default.
        """
        ends = self.resamples[:, pairs].mean(1).nanquantile(torch.tensor([0.025, 0.975]).to(self.resamples))
        return Interval(float(self.value[pairs].mean()), *ends.tolist())


def mean_change(changes: Sequence[GapChange]) -> GapChange:
    """Return the mean over random controls, on the same resamples."""
    value, resamples = (torch.stack(parts).mean(0) for parts in zip(*changes, strict=True))
    return GapChange(value, resamples)


def gap_change(row: Mapping[str, Any], field: str, how: str) -> Interval:
    """Return a change of the gap in percent, with its 95 % interval over judging words and wordings.

    Args:
        row: of a run's gaps.
        field: "probability" or "log_probability".
        how: "suppressed", "amplified" or "random".
    """
    return Interval(*(row[f"{field}_{how}_{end}"] for end in ("percent", "low", "high")))


def _change(before: Tensor, after: Tensor, resamples: int = 1000, seed: int = 0) -> GapChange:
    """Return the change of each pair's mean over prompts; the same words and wordings are drawn before and after."""
    generator = torch.Generator().manual_seed(seed)
    of_words, of_wordings = (draw_counts(size, resamples, generator).to(before) for size in before.shape[1:])
    known = (~before.isnan()).to(before)

    def means(gaps: Tensor) -> Tensor:
        sums, sizes = (
            torch.einsum("rw,rt,pwt->rp", of_words, of_wordings, each) for each in (gaps.nan_to_num(), known)
        )
        return sums / sizes

    value = 100 * (after.nanmean((1, 2)) / before.nanmean((1, 2)) - 1)
    return GapChange(value, 100 * (means(after) / means(before) - 1))


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
    of_pairs, of_words, of_wordings, values = [], [], [], []
    for batch in batches:
        chosen = target_log_probabilities(model, batch)  # [batch, target]
        first, second = chosen[:, batch["pairs"][:, 0]], chosen[:, batch["pairs"][:, 1]]  # [batch, pair]
        gaps = torch.stack([first.exp() - second.exp(), first - second]).abs()  # [gap, batch, pair]
        places = torch.stack([batch["kind"], batch["group"], batch["wording"]]).repeat_interleave(gaps.shape[2], 1)
        values.append(gaps.flatten(1).cpu())
        of_pairs.append(batch["pair"].cpu().repeat(len(chosen)))
        of_words.append(places[:2].cpu())
        of_wordings.append(places[2].cpu())
    words = torch.cat(of_words, 1).unique(dim=1, return_inverse=True)[1]
    wordings = torch.cat(of_wordings)
    shape = (2, pairs, int(words.max()) + 1, int(wordings.max()) + 1)
    found = torch.full(shape, math.nan, dtype=torch.float64)
    found[:, torch.cat(of_pairs), words, wordings] = torch.cat(values, 1)
    return Gaps(*found)


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
