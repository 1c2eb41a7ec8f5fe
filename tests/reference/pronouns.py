"""WinoBias and Winogender, one sentence a forward pass and one occupation at a time: slow and obvious."""

from __future__ import annotations

import math
import re
import statistics

import torch

PRONOUNS = {"he", "she", "him", "her", "his", "hers", "himself", "herself"}


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0].double()


def differing(first, second):
    """The places of the pronouns in which two sentences differ: (start, end) in each of them."""
    words = [list(re.finditer(r"\w+", text)) for text in (first, second)]
    both = [(a.span(), b.span()) for a, b in zip(*words, strict=True) if a[0] != b[0]]
    assert all(first[a:b].lower() in PRONOUNS and second[c:d].lower() in PRONOUNS for (a, b), (c, d) in both)
    return both


def masked_score(model, tokenizer, text, spans):
    """The log-probability of pronouns in their places, one token after the other; later pronouns are masked."""
    total, done = 0.0, ""
    end = 0
    for number, (start, stop) in enumerate(spans):
        done += text[end:start]
        word, end = text[start:stop], stop
        rest, last = "", stop
        for a, b in spans[number + 1 :]:
            rest += text[last:a] + tokenizer.mask_token
            last = b
        rest += text[last:]
        space = " " if done.endswith(" ") and tokenizer.mask_token != "[MASK]" else ""
        pieces = tokenizer(space + word, add_special_tokens=False)["input_ids"]
        ids = tokenizer(done + tokenizer.mask_token + rest)["input_ids"]
        place = ids.index(tokenizer.mask_token_id)
        for piece in pieces:
            total += float(logits(model, ids)[place].log_softmax(0)[piece])
            ids = [*ids[:place], piece, *ids[place:]]
            place += 1
        done += word
    return total


def causal_score(model, tokenizer, text, first):
    """The log-probability of a sentence: its first token by the logits after the start token alone, then the others."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    every = logits(model, ids).log_softmax(1)
    return float(first.log_softmax(0)[ids[0]]) + sum(float(every[place, token]) for place, token in enumerate(ids[1:]))


def scores(model, tokenizer, pairs):
    """The scores of both sentences of pairs of texts."""
    causal = tokenizer.mask_token_id is None
    first = logits(model, [tokenizer.bos_token_id])[0] if causal else None
    found = []
    for both in pairs:
        if causal:
            found.append([causal_score(model, tokenizer, text, first) for text in both])
        else:
            spans = zip(*differing(*both), strict=True)
            found.append([masked_score(model, tokenizer, text, own) for text, own in zip(both, spans, strict=True)])
    return found


def occupation_means(values, occupations):
    groups = {}
    for value, occupation in zip(values, occupations, strict=True):
        groups.setdefault(occupation, []).append(value)
    return {occupation: statistics.fmean(own) for occupation, own in groups.items()}


def winobias(scores, occupations, male):
    """Share in percent, log-ratio, and female log-ratio; means of occupations, then of the two stereotypes."""
    stereotype = dict(zip(occupations, male, strict=True))
    found = []
    for metric in (
        lambda pro, anti, is_male: 100.0 if pro > anti else 50.0 if pro == anti else 0.0,
        lambda pro, anti, is_male: pro - anti,
        lambda pro, anti, is_male: anti - pro if is_male else pro - anti,
    ):
        values = [metric(pro, anti, is_male) for (pro, anti), is_male in zip(scores, male, strict=True)]
        means = occupation_means(values, occupations)
        sides = [[mean for name, mean in means.items() if stereotype[name] == side] for side in (False, True)]
        found.append(statistics.fmean(map(statistics.fmean, sides)) if all(sides) else math.nan)
    return found


def winogender(scores, occupations, shares):
    """Correlation times 100, slope, and mean, of the occupations' mean differences."""
    share = dict(zip(occupations, shares, strict=True))
    means = occupation_means([female - male for female, male in scores], occupations)
    x = [math.log(share[name] / (100 - share[name])) for name in means]
    y = list(means.values())
    return [100 * statistics.correlation(x, y), statistics.linear_regression(x, y).slope, statistics.fmean(y)]
