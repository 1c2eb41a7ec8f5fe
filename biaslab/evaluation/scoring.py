"""How likely a candidate is under a masked or a causal language model, by StereoSet's rules."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from biaslab.errors import InputError
from biaslab.evaluation.sentences import sequence_log2_probabilities
from biaslab.models.architectures import architecture, without_cache
from biaslab.models.heads import slot_only


def slot_log_probabilities(
    model: PreTrainedModel, input_ids: Tensor, position: Tensor, attention_mask: Tensor | None = None
) -> Tensor:
    """Return the log-probability of each token of the vocabulary at a slot of each sequence, or at several.

    Args:
        model: a masked or causal language model of the table.
        input_ids: token ids, ``[batch, sequence]``.
        position: of the slot, ``[batch]``: the mask token of a masked model, the last token before the slot of a causal
            one; of several slots, ``[batch, slot]``.
        attention_mask: 1 for tokens, 0 for padding, ``[batch, sequence]``; None where nothing is padded.

    Returns:
        Natural logarithms, float32 whatever the model's type, ``[batch, vocabulary]`` or ``[batch, slot, vocabulary]``.

    Raises:
        InputError: if ``position`` does not hold places for each sequence.
    """
    if position.ndim not in (1, 2) or len(position) != len(input_ids):
        raise InputError(
            f"`position` is expected to hold one place a sequence, [{len(input_ids)}], or several, "
            f"[{len(input_ids)}, slot], but got {list(position.shape)}."
        )
    with slot_only(model, position if position.ndim == 2 else position[:, None]):
        logits = _logits(model, input_ids, attention_mask)
    return (logits if position.ndim == 2 else logits[:, 0]).float().log_softmax(-1)


def target_log_probabilities(model: PreTrainedModel, batch: Mapping[str, Any]) -> Tensor:
    """Return the natural log-probability of each demographic in the slot: of several tokens the sum.

    Args:
        model: as :func:`slot_log_probabilities`.
        batch: of prompts, as :class:`biaslab.data.prompts.PromptDataModule` makes them.

    Returns:
        ``[batch, target]``, float64, and so on the CPU: not every device has that.
    """
    logs = []
    for inputs in (batch, *batch.get("longer", ())):
        target_ids = inputs["target_ids"].view(len(inputs["target_ids"]), inputs["target_ids"].shape[1], -1)
        position = inputs["position"].view(len(target_ids), -1)
        every = slot_log_probabilities(model, inputs["input_ids"], position)  # [batch, slot, vocabulary]
        logs.append(every.gather(2, target_ids.transpose(1, 2)).cpu().double().sum(1))
    return torch.cat(logs, 1)


def _logits(model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
    logits: Tensor = model(input_ids=input_ids, attention_mask=attention_mask, **without_cache(model)).logits
    return logits


@torch.no_grad()
def score_clusters(model: PreTrainedModel, batch: Mapping[str, Any]) -> Tensor:
    """Score the candidates of each cluster by the batch's rule.

    Args:
        model: a language model of the kind that the batch was made for.
        batch: whole clusters, as :class:`biaslab.data.stereoset.StereoSetDataModule` makes them. ``rule`` is "authors"
            (mean of the probabilities of the word's pieces, each given those before it), "pll" (mean log-probability of
            the pieces, each given all others) or "causal" (2 to the mean log₂ probability of the sentence's tokens).

    Returns:
        Scores of the stereotype, the anti-stereotype and the unrelated candidate, float32, ``[cluster, 3]``.

    Raises:
        InputError: if the batch was made for the other kind of model.

    Reference:
        Nadeem et al. 2021, section 5, and the authors' scripts; for "pll", Salazar et al. 2020.
    """
    require_kind(model, batch["rule"])
    if batch["rule"] == "causal":
        scores = torch.stack([bits.mean().exp2() for bits in sentence_bits(model, batch)])
        return scores.view(-1, 3).float().to(batch["pieces"].device)
    scores = torch.zeros(batch["pieces"].numel(), device=batch["pieces"].device)
    for group in batch["inputs"]:
        values = _at_slots(model, group)
        scores.index_add_(0, group["candidate"], values.exp() if batch["rule"] == "authors" else values)
    return torch.div(scores.view(-1, 3), batch["pieces"])


@torch.no_grad()
def score_pairs(model: PreTrainedModel, batch: Mapping[str, Any]) -> Tensor:
    """Score both sentences of each pair by CrowS-Pairs' rule.

    Under a masked model, a sentence's score is the sum of the log-probabilities of the tokens that both sentences
    share, each masked in turn with all other tokens in place. The authors define nothing for a causal model: here it is
    the sum over all of the sentence's tokens, as :func:`sequence_log2_probabilities` has them.

    Args:
        model: as :func:`score_clusters`.
        batch: whole pairs, as :class:`biaslab.data.crows_pairs.CrowsPairsDataModule` makes them.

    Returns:
        Scores of the more and of the less stereotyping sentence, nats in float64 on the CPU, ``[pair, 2]``.

    Raises:
        InputError: as :func:`score_clusters`.

    Reference:
        Nangia et al. 2020, section 3, and the authors' script.
    """
    require_kind(model, batch["rule"])
    if batch["rule"] == "causal":
        return torch.stack([bits.sum() * math.log(2) for bits in sentence_bits(model, batch)]).view(-1, 2)
    scores = torch.zeros(2 * len(batch["examples"]), dtype=torch.float64)
    for group in batch["inputs"]:
        nats = _at_slots(model, group).cpu().double()
        scores.index_add_(0, group["candidate"].cpu(), nats)
    return scores.view(-1, 2)


@torch.no_grad()
def score_words(model: PreTrainedModel, batch: Mapping[str, Any]) -> Tensor:
    """Score both words of each sentence: the mean log-probability of a word's tokens, each given those before it.

    Args:
        model: a masked or causal language model of the table.
        batch: whole sentences, as :class:`biaslab.data.knowledge.KnowledgeDataModule` makes them.

    Returns:
        Scores of the right and of the wrong word, nats in float64 on the CPU, ``[sentence, 2]``.
    """
    pieces = batch["pieces"].cpu()
    scores = torch.zeros(pieces.numel(), dtype=torch.float64)
    for group in batch["inputs"]:
        scores.index_add_(0, group["candidate"].cpu(), _at_slots(model, group).cpu().double())
    return torch.div(scores.view(-1, 2), pieces)


def require_kind(model: PreTrainedModel, rule: str) -> None:
    """Check that a model is causal for the rule "causal", and masked for any other (InputError)."""
    if architecture(model).masked is (rule == "causal"):
        wanted = "causal" if rule == "causal" else "masked"
        raise InputError(
            f"`model` is expected to be a {wanted} language model, as its tokenizer says, but got a "
            f"{model.config.model_type}. Give model and data the same `model_name`."
        )


def sentence_bits(model: PreTrainedModel, batch: Mapping[str, Any]) -> list[Tensor]:
    """Return :func:`sequence_log2_probabilities` of each candidate of a causal model's batch."""
    return list(bits_by_candidate(model, batch).values())


def bits_by_candidate(model: PreTrainedModel, batch: Mapping[str, Any]) -> dict[int, Tensor]:
    """As :func:`sentence_bits`, by the candidates' numbers: some may have no sentence."""
    sentences: dict[int, list[int]] = {}
    for group in batch["inputs"]:
        input_ids = group["input_ids"].tolist()
        for candidate, row in zip(group["candidate"].tolist(), group["row"].tolist(), strict=True):
            sentences[candidate] = input_ids[row]
    numbers = sorted(sentences)
    ordered = [sentences[number] for number in numbers]
    bits = sequence_log2_probabilities(model, ordered, batch["start_id"], batch.get("front", 0))
    return dict(zip(numbers, bits, strict=True))


def _at_slots(model: PreTrainedModel, group: Mapping[str, Tensor]) -> Tensor:
    """Return the log-probability of each token that is asked for, ``[token]``."""
    log_probabilities = slot_log_probabilities(model, group["input_ids"], group["position"])
    return log_probabilities[group["row"], group["target_ids"]]
