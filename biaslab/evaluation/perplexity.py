"""Perplexity on ordinary text, to measure the cost of a treatment."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from biaslab.errors import InputError, require_positive
from biaslab.evaluation.scoring import slot_log_probabilities
from biaslab.evaluation.sentences import sequence_log2_probabilities
from biaslab.models.architectures import architecture
from biaslab.models.positions import positions, say_cut, say_unknown
from biaslab.models.tokens import Bos, beginning, by_length
from biaslab.statistics import Samples, draw

_MAX_LENGTH = 64  # tokens per sentence; longer ones are truncated


@torch.no_grad()
def negative_log_likelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sentences: Sequence[str],
    tokens_per_batch: int = 4096,
    bos: Bos = "tokenizer",
) -> Tensor:
    """Compute each sentence's negative log-likelihood in nats, and its number of tokens.

    A masked model predicts each token with only this token masked (pseudo-likelihood), a causal model each token from
    those before it.

    Args:
        model: a masked or causal language model of a supported architecture.
        tokenizer: the model's tokenizer.
        sentences: the text, one sentence each.
        tokens_per_batch: tokens per forward pass, for a masked model.
        bos: what precedes a causal model's sentences; see :func:`biaslab.models.tokens.beginning`.

    Returns:
        ``[sentence, 2]``, float64 on the CPU.

    Raises:
        InputError: if there are no sentences.

    Reference:
        Salazar et al. 2020, equation 4.
    """
    require_positive(tokens_per_batch=tokens_per_batch)
    if not sentences:
        raise InputError("`sentences` is expected to hold at least one sentence but is empty.")
    masked = architecture(model).masked  # a causal model's tokenizer may have a mask token
    longest = min(_MAX_LENGTH, positions(model.config))
    encoded = _encoded(tokenizer, sentences, longest, masked)
    say_cut(tokenizer, sentences, encoded, longest, "sentences of the text", masked)
    say_unknown("tokens of the text", *unknown_tokens(tokenizer, sentences), "are not scored")
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


def _encoded(
    tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str], longest: int, special: bool
) -> list[list[int]]:
    options = {"truncation": True, "max_length": longest, "add_special_tokens": special}
    tokens: list[list[int]] = tokenizer(list(sentences), **options)["input_ids"]
    return tokens


def unknown_tokens(tokenizer: PreTrainedTokenizerBase, sentences: Sequence[str]) -> tuple[int, int]:
    """Return the number of unknown tokens, and of all tokens, of sentences.

    Raises:
        InputError: if all tokens are unknown.
    """
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    tokens = [id for ids in _encoded(tokenizer, sentences, _MAX_LENGTH, False) for id in ids if id not in special]
    unknown = tokens.count(tokenizer.unk_token_id)
    if unknown == len(tokens):
        raise InputError(
            "`text` is expected to have words that the model's tokenizer knows, but all tokens are unknown. Use a text "
            "in the model's language."
        )
    return unknown, len(tokens)


def perplexity(likelihoods: Tensor) -> Tensor:
    """Return exp(mean negative log-likelihood per token) from likelihoods, ``[..., sentence, 2]``.

    The likelihoods are those of :func:`negative_log_likelihoods`.

    >>> perplexity(torch.tensor([[3 * math.log(50), 3.0], [5 * math.log(50), 5.0]])).round(decimals=3)
    tensor(50.)
    """
    total, tokens = likelihoods.sum(-2).unbind(-1)
    return (total / tokens).exp()


def perplexity_samples(likelihoods: Tensor) -> Samples:
    """Return the perplexity from :func:`negative_log_likelihoods`, and bootstrap resamples over sentences."""
    resamples = perplexity(likelihoods[draw(len(likelihoods))])
    return Samples(perplexity(likelihoods)[None], resamples[:, None])
