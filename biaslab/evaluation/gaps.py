"""The gap between two demographics on held-out prompts, which were not used to select neurons."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from biaslab.errors import require_ranges
from biaslab.evaluation.scoring import target_log_probabilities
from biaslab.models import ranks
from biaslab.statistics import Samples, draw_counts


def demographic_gaps(model: PreTrainedModel, batches: Iterable[Mapping[str, Any]], pairs: int) -> Tensor:
    """Measure the gap between the two demographics of each pair on each prompt.

    Args:
        model: a masked or causal language model of a supported architecture.
        batches: batches of a :class:`biaslab.data.prompts.PromptDataModule` on the model's device; each process has its
            own.
        pairs: number of pairs.

    Returns:
        ``|P(d1) - P(d2)|`` and ``|log P(d1) - log P(d2)|`` (in nats) for each modifier (word) in each wording,
        ``[2, pair, word, wording]``, float64 on the CPU. NaN if a pair has no such prompt.

    Reference:
        "The Devil is in the Neurons" (ICLR 2024), section 4.3.
    """
    return gap_table(ranks.gathered([prompt_gaps(model, batch) for batch in batches]), pairs)


class PromptGaps(NamedTuple):
    """The gaps of a batch of prompts."""

    pair: Tensor  # index of the pair, [gap]
    place: Tensor  # the prompt's kind, group and wording, [3, gap]
    values: Tensor  # both gaps, [2, gap]


@torch.no_grad()
def prompt_gaps(model: PreTrainedModel, batch: Mapping[str, Any]) -> PromptGaps:
    """Measure the gaps on one batch; see :func:`demographic_gaps`."""
    logs = target_log_probabilities(model, batch)  # [batch, target]
    ends = batch["pairs"].cpu()
    first, second = logs[:, ends[:, 0]], logs[:, ends[:, 1]]  # [batch, pair]
    gaps = torch.stack([first.exp() - second.exp(), first - second]).abs()  # [gap, batch, pair]
    place = torch.stack([batch["kind"], batch["group"], batch["wording"]]).cpu()
    return PromptGaps(batch["pair"].cpu().repeat(len(logs)), place.repeat_interleave(gaps.shape[2], 1), gaps.flatten(1))


def gap_table(parts: Sequence[PromptGaps], pairs: int) -> Tensor:
    """Merge the gaps of several batches into the result of :func:`demographic_gaps`."""
    pair, place, values = (torch.cat(column, -1) for column in zip(*parts, strict=True))
    kinds_and_groups, wordings = place.split([2, 1])
    words = kinds_and_groups.unique(dim=1, return_inverse=True)[1]
    shape = (2, pairs, int(words.max()) + 1, int(wordings.max()) + 1)
    table = torch.full(shape, math.nan, dtype=torch.float64)
    table[:, pair, words, wordings[0]] = values
    return table


def gap_samples(gaps: Tensor, resamples: int = 1000, seed: int = 0) -> Samples:
    """Return the mean gap of each pair, and bootstrap resamples over words and wordings; pairs are fixed.

    Args:
        gaps: one of the two gaps from :func:`demographic_gaps`, ``[pair, word, wording]``.
        resamples: number of resamples.
        seed: seed of the random generator; the same seed draws the same words and wordings for each treatment.

    Returns:
        Values ``[pair]`` and resamples ``[resample, pair]``.
    """
    require_ranges({"resamples": resamples, "seed": seed})
    generator = torch.Generator().manual_seed(seed)
    of_words, of_wordings = (draw_counts(size, resamples, generator).to(gaps) for size in gaps.shape[1:])
    sums, sizes = (
        torch.einsum("rw,rt,pwt->rp", of_words, of_wordings, each)
        for each in (gaps.nan_to_num(), (~gaps.isnan()).to(gaps))
    )
    return Samples(gaps.nanmean((1, 2)), sums / sizes)
