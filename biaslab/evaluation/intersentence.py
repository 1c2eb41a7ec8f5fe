"""StereoSet's intersentence task: which sentence a model prefers after a context."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from biaslab.evaluation.measures import StereoSet
from biaslab.evaluation.scoring import require_kind, sentence_bits
from biaslab.models.loading import NextSentenceHead, fingerprint
from biaslab.statistics import Samples

_LEAST = -1e-9  # bits per token of a sentence that is certain given its context


@torch.no_grad()
def score_continuations(
    model: PreTrainedModel, batch: Mapping[str, Any], head: NextSentenceHead | None = None
) -> Tensor:
    """Score the sentences of each cluster by the batch's rule.

    With the rule "next sentence", the score is the head's probability that the sentence follows the context. With
    "ratio", it is the mean log₂ probability of the sentence's tokens without the context, divided by that with the
    context; above 1, the context makes the sentence likelier. (The authors' script divides by the context's own mean
    instead. That is the same for all sentences of a cluster, so the context would have no effect, and the least likely
    sentence would win. Their published results for causal models use trained next-sentence heads.)

    Args:
        model: a masked or causal language model, matching the batch.
        batch: a batch of a :class:`biaslab.data.intersentence.IntersentenceDataModule`, with whole clusters.
        head: the data module's next-sentence head, for a masked model.

    Returns:
        Scores of the stereotype, the anti-stereotype and the unrelated sentence, float32, ``[cluster, 3]``.

    Raises:
        InputError: if the batch was made for the other kind of model.

    Reference:
        Nadeem et al. 2021, section 5, and the authors' scripts.
    """
    require_kind(model, "causal" if batch["rule"] == "ratio" else "masked")
    device = batch["terms"].device
    if head is None:
        counts = batch["tokens"].flatten().tolist()
        means = [bits[-count:].mean() for bits, count in zip(sentence_bits(model, batch), counts, strict=True)]
        after, alone = torch.stack(means).view(-1, 2, 3).unbind(1)
        return torch.div(alone, after.clamp_max(_LEAST)).float().to(device)
    scores = torch.zeros(3 * len(batch["examples"]), device=device)
    for group in batch["inputs"]:
        ids = group["input_ids"]
        types = (torch.arange(ids.shape[1], device=ids.device) >= group["position"][:, None]).long()
        hidden = model.base_model(input_ids=ids, token_type_ids=types).last_hidden_state
        scores[group["candidate"]] = head.to(hidden.device, hidden.dtype)(hidden)[group["row"]].to(device)
    return scores.view(-1, 3)


class Intersentence(StereoSet):
    """SS, LMS and ICAT on a :class:`biaslab.data.intersentence.IntersentenceDataModule`, overall and by domain."""

    name = "stereoset_intersentence"

    def __init__(self, data: Any) -> None:
        super().__init__(data)
        self.head: NextSentenceHead | None = data.head
        self.key = [*self.key, None if self.head is None else fingerprint(self.head)]

    def score(self, model: PreTrainedModel, batch: Mapping[str, Any]) -> Tensor:
        """Return :func:`score_continuations`, ``[cluster, 3]``."""
        return score_continuations(model, batch, self.head)

    def samples(self, scores: Tensor, examples: Tensor) -> Mapping[str, Samples]:
        """Return macro SS, LMS and ICAT with resamples over target terms."""
        return {f"{name}, intersentence": samples for name, samples in self.shares(scores, examples).items()}
