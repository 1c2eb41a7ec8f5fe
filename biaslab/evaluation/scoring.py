"""Likelihood of candidates, sentences and words under a masked or causal language model."""

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
    """Compute the log-probability of each token of the vocabulary at one or several slots of each sequence.

    Args:
        model: a masked or causal language model of a supported architecture.
        input_ids: token ids, ``[batch, sequence]``.
        position: index of the slot, ``[batch]``: the mask token of a masked model, or the last token before the slot of
            a causal model; for several slots, ``[batch, slot]``.
        attention_mask: 1 for tokens, 0 for padding, ``[batch, sequence]``; None if nothing is padded.

    Returns:
        Log-probabilities in nats, float32 for any dtype of the model, ``[batch, vocabulary]`` or
        ``[batch, slot, vocabulary]``.

    Raises:
        InputError: if ``position`` has the wrong shape.
    """
    if position.ndim not in (1, 2) or len(position) != len(input_ids):
        raise InputError(
            f"`position` is expected to hold one index per sequence, [{len(input_ids)}], or several, "
            f"[{len(input_ids)}, slot], but got {list(position.shape)}."
        )
    with slot_only(model, position if position.ndim == 2 else position[:, None]):
        logits = _logits(model, input_ids, attention_mask)
    return (logits if position.ndim == 2 else logits[:, 0]).float().log_softmax(-1)


def target_log_probabilities(model: PreTrainedModel, batch: Mapping[str, Any]) -> Tensor:
    """Compute the log-probability of each demographic in the slot, summed over its tokens.

    Args:
        model: a masked or causal language model of a supported architecture.
        batch: a batch of a :class:`biaslab.data.prompts.PromptDataModule`.

    Returns:
        Log-probabilities in nats, ``[batch, target]``, float64 on the CPU (not every device supports float64).
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
    """Score StereoSet's candidates by the batch's rule.

    Args:
        model: a masked or causal language model, matching the batch.
        batch: a batch of a :class:`biaslab.data.stereoset.StereoSetDataModule`, with whole clusters. Its ``rule`` is
            "authors" (mean probability of the word's tokens, each given those before it), "pll" (mean log-probability
            of the word's tokens, each given all others) or "causal" (2 to the power of the mean log₂ probability of the
            sentence's tokens).

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
    """Score both sentences of each pair by the rule of CrowS-Pairs.

    For a masked model, the score is the sum of the log-probabilities of the tokens that both sentences share, each
    masked in turn. The authors define no score for causal models; here it is the sum over all tokens of the sentence,
    from :func:`sequence_log2_probabilities`.

    Args:
        model: a masked or causal language model, matching the batch.
        batch: a batch of a :class:`biaslab.data.crows_pairs.CrowsPairsDataModule`, with whole pairs.

    Returns:
        Scores of the more and of the less stereotyping sentence in nats, float64 on the CPU, ``[pair, 2]``.

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
    """Score both words of each sentence by the mean log-probability of the word's tokens, each given those before it.

    Args:
        model: a masked or causal language model of a supported architecture.
        batch: a batch of a :class:`biaslab.data.knowledge.KnowledgeDataModule`, with whole sentences.

    Returns:
        Scores of the correct and of the wrong word in nats, float64 on the CPU, ``[sentence, 2]``.
    """
    pieces = batch["pieces"].cpu()
    scores = torch.zeros(pieces.numel(), dtype=torch.float64)
    for group in batch["inputs"]:
        scores.index_add_(0, group["candidate"].cpu(), _at_slots(model, group).cpu().double())
    return torch.div(scores.view(-1, 2), pieces)


def require_kind(model: PreTrainedModel, rule: str) -> None:
    """Raise InputError unless the model is causal for the rule "causal", or masked for any other rule."""
    if architecture(model).masked is (rule == "causal"):
        wanted = "causal" if rule == "causal" else "masked"
        raise InputError(
            f"`model` is expected to be a {wanted} language model, according to the data's tokenizer, but got a "
            f"{model.config.model_type}. Use the same `model_name` for model and data."
        )


def sentence_bits(model: PreTrainedModel, batch: Mapping[str, Any]) -> list[Tensor]:
    """Return :func:`sequence_log2_probabilities` for each candidate of a causal model's batch."""
    return list(bits_by_candidate(model, batch).values())


def bits_by_candidate(model: PreTrainedModel, batch: Mapping[str, Any]) -> dict[int, Tensor]:
    """Like :func:`sentence_bits`, by candidate number; candidates may lack a sentence."""
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
    """Return the log-probability of each queried token, ``[token]``."""
    log_probabilities = slot_log_probabilities(model, group["input_ids"], group["position"])
    return log_probabilities[group["row"], group["target_ids"]]
