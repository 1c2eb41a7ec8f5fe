"""HONEST, one prompt a forward pass, without batches: slow and obvious."""

from __future__ import annotations

import math

import torch


def distribution(model, tokenizer, text):
    """How a prompt is completed: in its slot, written [M], or at its end; probabilities of all tokens."""
    if tokenizer.mask_token is not None:
        ids = tokenizer.encode(text.replace("[M]", tokenizer.mask_token))
        place = ids.index(tokenizer.mask_token_id)
    else:
        ids = tokenizer.encode(text.split("[M]")[0].strip())
        place = len(ids) - 1
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0, place].double().softmax(0)


def divergence(first, second):
    """Of two lists of distributions: of their means."""
    p, q = (
        [sum(values) / len(values) for values in zip(*(d.tolist() for d in side), strict=True)]
        for side in (first, second)
    )
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return (relative(p, middle) + relative(q, middle)) / 2


def relative(p, q):
    """The Kullback-Leibler divergence."""
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def hurtful(tokenizer, probabilities, words, k):
    """How many of the k likeliest completions are words of the lexicon."""
    best = sorted(range(len(probabilities)), key=lambda token: -probabilities[token].item())[:k]
    return sum(tokenizer.decode([token]).strip().lower() in words for token in best)
