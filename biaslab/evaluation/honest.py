"""HONEST: how differently, and how often hurtfully, a model completes prompts about two groups of people."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from biaslab.evaluation.findings import OVERALL
from biaslab.evaluation.measures import Figures, Scored
from biaslab.evaluation.scoring import slot_log_probabilities
from biaslab.metrics.honest import (
    honest_bootstrap,
    honest_divergence,
    honest_divergence_bootstrap,
    honest_score,
    jensen_shannon,
)
from biaslab.statistics import Samples


@torch.no_grad()
def score_templates(
    model: PreTrainedModel, batch: Mapping[str, Any], hurtful: Tensor | None = None, top_k: int = 5
) -> Tensor:
    """Score the completions of each template's prompts by one token, at the mask token or the end of the prompt.

    Words of several tokens are not considered, and a causal model's token may be the beginning of a longer word.

    Completions also differ between identities of the same group, and the divergence compares means over a few of them,
    so it is above 0 even for groups without differences. Compare it between models, or before and after a change.

    Args:
        model: a masked or causal language model of a supported architecture.
        batch: a batch of a :class:`biaslab.data.honest.HonestDataModule`, with whole templates.
        hurtful: whether each token is hurtful, ``[token]``; None to compute only the divergence.
        top_k: number of likeliest completions checked per prompt.

    Returns:
        Float64 on the CPU, ``[template, 1]``: the divergence of the two groups' mean distributions over the vocabulary,
        in nats; 0 if there is only one group. With ``hurtful``, ``[template, 3]``: followed by the number of hurtful
        completions of each group.

    Reference:
        Nozza et al. 2021, section 3, for hurtful completions. The divergence is biaslab's own.
    """
    counts = batch["counts"].cpu()
    sums: Any = 0  # of the distributions of each side, [template · side, token]
    found = torch.zeros(counts.numel(), dtype=torch.float64)
    for group in batch["inputs"]:
        logs = slot_log_probabilities(model, group["input_ids"], group["position"])  # [input, token]
        side, row = group["candidate"].cpu() // batch["width"], group["row"].cpu()
        own = torch.zeros(counts.numel(), logs.shape[1], dtype=torch.float64)
        sums = sums + own.index_add_(0, side, logs.exp().cpu().double()[row])
        if hurtful is not None:
            top = logs.topk(min(top_k, logs.shape[1])).indices.cpu()
            found.index_add_(0, side, _are_in(hurtful, top).double().sum(1)[row])
    first, second = (sums / counts.view(-1, 1).clamp(min=1)).view(len(counts), 2, -1).unbind(1)
    divergence = jensen_shannon(first, second).masked_fill((counts == 0).any(1), 0)[:, None]
    return divergence if hurtful is None else torch.cat([divergence, found.view(-1, 2)], 1)


def _are_in(chosen: Tensor, tokens: Tensor) -> Tensor:
    """Return which tokens are chosen; ids beyond the tokenizer's vocabulary never are."""
    known = tokens < len(chosen)
    return chosen[tokens.where(known, 0)] & known


class Honest(Scored):
    """Divergence and hurtful completions on a :class:`biaslab.data.honest.HonestDataModule`, by number and kind.

    Hurtful completions, which need a lexicon, are also reported by group.
    """

    name, columns, counted = "honest", 1, "honest_templates"
    DIVERGENCE, HURTFUL = "HONEST templates, divergence", "HONEST hurtful completions"

    def __init__(self, data: Any) -> None:
        templates = data.templates
        super().__init__(data, templates, [template.kind for template in templates])
        self.numbers = [template.number for template in templates]
        self.groups, self.hurtful, self.top_k = data.groups, data.hurtful, data.hparams["top_k"]
        self.counts = torch.tensor([[len(side) for side in template.sides] for template in templates])
        if self.hurtful is not None:
            self.columns = 3  # type: ignore[misc]  # the divergence, and how many are hurtful by group
            self.key = [*self.key, data.words]

    def score(self, model: PreTrainedModel, batch: Mapping[str, Any]) -> Tensor:
        """Return :func:`score_templates`, ``[template, 1]`` or ``[template, 3]``."""
        return score_templates(model, batch, self.hurtful, self.top_k)

    def samples(self, scores: Tensor, examples: Tensor) -> Mapping[str, Samples]:
        """Return the metrics with resamples over templates; templates of one group have no divergence."""
        found, both = {}, (self.counts[examples] > 0).all(1)
        if bool(both.any()):
            values = scores[both, :1]
            divergences = honest_divergence(values)[None], honest_divergence_bootstrap(values)[:, None]
            found[self.DIVERGENCE] = Samples(*divergences)
        if self.hurtful is not None:
            found[self.HURTFUL] = self._hurtful(scores, examples)
        return found

    def _hurtful(self, scores: Tensor, examples: Tensor, side: int | None = None) -> Samples:
        """Return the HONEST score of both groups, or of one."""
        hurtful, asked = scores[:, 1:].clone(), self.counts[examples] * self.top_k
        if side is not None:
            asked = asked.clone()
            hurtful[:, 1 - side] = asked[:, 1 - side] = 0
        return Samples(honest_score(hurtful, asked)[None], honest_bootstrap(hurtful, asked)[:, None])

    def scopes(self, examples: Tensor) -> dict[str, Tensor]:
        """Return which templates belong to each scope, ``[template]``: overall, number (if both occur) and kind."""
        scopes, numbers = super().scopes(examples), [self.numbers[number] for number in examples.tolist()]
        names = sorted(set(numbers)) if len(set(self.numbers)) > 1 else []
        by_number = {name: torch.tensor([own == name for own in numbers]) for name in names}
        return {OVERALL: scopes.pop(OVERALL)} | by_number | scopes

    def figures_of(self, scores: Tensor, examples: Tensor) -> Figures:
        """Return the metrics in each scope, and the share of hurtful completions of each group."""
        figures = super().figures_of(scores, examples)
        if self.hurtful is None:
            return figures
        by_group = {(self.HURTFUL, group): self._hurtful(scores, examples, n) for n, group in enumerate(self.groups)}
        return figures | by_group
