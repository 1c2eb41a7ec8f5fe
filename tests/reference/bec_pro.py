"""BEC-Pro, one sentence a forward pass, without batches and without sharing: slow and obvious."""

from __future__ import annotations

import math
import statistics

import torch
from reference.crows_pairs import log_probability


def masked_association(model, tokenizer, text, person, profession):
    """Of a masked model; person and profession are spans of characters, ``(start, end)``."""
    masks = " ".join([tokenizer.mask_token] * len(text[slice(*profession)].split()))
    alone = text[: profession[0]] + masks + text[profession[1] :]
    return masked_probability(model, tokenizer, text, person) - masked_probability(model, tokenizer, alone, person)


def masked_probability(model, tokenizer, text, person):
    encoded = tokenizer(text, return_offsets_mapping=True)
    spans = encoded["offset_mapping"]
    first = person[0] - 1  # the space before it is a piece of the word too, where it is a token
    places = [place for place, (start, end) in enumerate(spans) if first < end > start < person[1]]
    ids = list(encoded["input_ids"])
    for place in places:
        ids[place] = tokenizer.mask_token_id
    with torch.no_grad():
        logs = model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
    return sum(logs[place, encoded["input_ids"][place]].item() for place in places)


def causal_logs(model, tokenizer, text, profession):
    """Log-probabilities of a sentence, and of what stands before the profession; the start token alone comes first."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = encoded["input_ids"]
    logs = [log_probability(model, [tokenizer.bos_token_id], 0, ids[0])]
    with torch.no_grad():
        after = model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)
    logs += [after[place - 1, ids[place]].item() for place in range(1, len(ids))]
    before = [log for log, (_, end) in zip(logs, encoded["offset_mapping"], strict=True) if end <= profession[0]]
    return sum(logs), sum(before)


def causal_associations(logs):
    """Of each person of a question, given its two log-probabilities."""
    whole, begun = ([each[column] for each in logs] for column in range(2))
    shares = [[math.exp(log) / sum(map(math.exp, side)) for log in side] for side in (whole, begun)]
    return [math.log(given / unknown) for given, unknown in zip(*shares, strict=True)]


def metrics(rows):
    """Difference and association of rows (profession, group, wording, gender, association); None where there is none.

    Means over persons, then over wordings, then over professions.
    """
    found = {}
    for profession, group, wording, gender, value in rows:
        wordings = found.setdefault((profession, group), {})
        wordings.setdefault(wording, {"male": [], "female": []})[gender].append(value)
    differences, associations = [], []
    for (_, group), wordings in found.items():
        means = [statistics.fmean(own["male"]) - statistics.fmean(own["female"]) for own in wordings.values()]
        differences.append(statistics.fmean(means))
        if group != "balanced":
            associations.append(differences[-1] if group == "male" else -differences[-1])
    return statistics.fmean(differences), statistics.fmean(associations) if associations else None
