"""Perplexity on ordinary text: what a treatment costs a language model."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from biaslab.errors import InputError
from biaslab.evaluation.scoring import slot_log_probabilities
from biaslab.evaluation.sentences import sequence_log2_probabilities
from biaslab.models.architectures import architecture
from biaslab.models.tokens import Bos, beginning, by_length
from biaslab.statistics import Samples, draw

_MAX_LENGTH = 64  # tokens of a sentence; the rest is cut off


@torch.no_grad()
def negative_log_likelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[str],
    tokens_per_batch: int = 4096,
    bos: Bos = "tokenizer",
) -> Tensor:
    """Return each sentence's negative log-likelihood and number of tokens, ``[sentence, 2]``, in nats, on the CPU.

    A masked model is asked for each token with this one hidden and all others in place (pseudo-likelihood), a causal
    one for each token after those before it, by the rule ``bos`` (:func:`biaslab.models.tokens.beginning`).
    ``tokens_per_batch`` is a masked model's.

    Raises:
        InputError: if there are no sentences.

    Reference:
        Salazar et al. 2020, equation 4.
    """
    if not sentences:
        raise InputError("`sentences` is expected to hold at least one sentence but is empty.")
    masked = architecture(model).masked  # a causal model's tokenizer may have a mask token
    encoded = tokenizer(list(sentences), truncation=True, max_length=_MAX_LENGTH, add_special_tokens=masked).input_ids
    if not masked:
        front, start_id = beginning(tokenizer, bos)
        bits = sequence_log2_probabilities(model, [[*front, *ids] for ids in encoded], start_id, len(front))
        return torch.tensor([[float(each.sum()) * -math.log(2), len(each)] for each in bits], dtype=torch.float64)
    result = torch.zeros(len(encoded), 2, dtype=torch.float64)
    places = [
        (index, place)
        for index, sentence in enumerate(encoded)
        for place, token in enumerate(sentence)
        if token not in tokenizer.all_special_ids
    ]
    for batch in by_length([len(encoded[index]) for index, _ in places], tokens_per_batch):
        rows, position = torch.tensor([places[i] for i in batch]).T
        tokens = torch.tensor([encoded[index] for index in rows.tolist()])
        items = torch.arange(len(batch))
        wanted = tokens[items, position]
        tokens[items, position] = tokenizer.mask_token_id
        log_probabilities = slot_log_probabilities(model, tokens.to(model.device), position.to(model.device)).cpu()
        nats = -log_probabilities[items, wanted].double()
        result.index_add_(0, rows, torch.stack([nats, torch.ones_like(nats)], dim=1))
    return result


def perplexity(likelihoods: Tensor) -> Tensor:
    """Return exp(mean negative log-likelihood a token) of :func:`negative_log_likelihoods`, ``[..., sentence, 2]``.

    >>> perplexity(torch.tensor([[3 * math.log(50), 3.0], [5 * math.log(50), 5.0]])).round(decimals=3)
    tensor(50.)
    """
    total, tokens = likelihoods.sum(-2).unbind(-1)
    return (total / tokens).exp()


def perplexity_samples(likelihoods: Tensor) -> Samples:
    """Return the perplexity of :func:`negative_log_likelihoods`, and its bootstrap over sentences."""
    resamples = perplexity(likelihoods[draw(len(likelihoods))])
    return Samples(perplexity(likelihoods)[None], resamples[:, None])
