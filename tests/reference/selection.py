"""The selection of neurons with plain loops over lists: slow and obvious. Shares are fractions: nothing is rounded."""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction


def flat(prompt):
    return {(layer, index): value for layer, row in enumerate(prompt) for index, value in enumerate(row)}


def voted(prompt, threshold):
    values = flat(prompt)
    largest = max(values.values())
    return {neuron for neuron, value in values.items() if largest > 0 and value >= threshold * largest}


def group_keeps(ballots, share):
    kept = set()
    for neuron in set().union(*ballots):
        count = sum(neuron in ballot for ballot in ballots)
        if count >= share * len(ballots) and count >= 3:
            kept.add(neuron)
    return kept


def kind_keeps(groups, share):
    """Return the neurons, and the share that was used."""
    for _ in range(6):
        mean = Fraction(sum(len(group_keeps(ballots, share)) for ballots in groups), len(groups))
        if mean < 2 and share > Fraction(5, 100):
            share -= Fraction(5, 100)
        elif mean > 5:
            share = min(Fraction(1), share + Fraction(5, 100))
        else:
            break
    kept = [group_keeps(ballots, share) for ballots in groups]
    neurons = {n for n in set().union(*kept) if sum(n in group for group in kept) >= Fraction(1, 10) * len(groups)}
    return neurons, float(share)


def paper(scores, pairs, kinds, groups, threshold, share):
    """Return {pair: neurons} and {pair: {kind: share}} from lists, an entry a prompt."""
    cells = defaultdict(lambda: defaultdict(list))
    for prompt, pair, kind, group in zip(scores, pairs, kinds, groups, strict=True):
        cells[pair, kind][group].append(voted(prompt, threshold))
    neurons, shares = defaultdict(set), defaultdict(dict)
    for (pair, kind), by_group in cells.items():
        found, shares[pair][kind] = kind_keeps(list(by_group.values()), Fraction(str(share)))
        neurons[pair] |= found
    return dict(neurons), dict(shares)


def pair_means(scores, pairs):
    """Return {pair: {neuron: mean normalised score}}."""
    found = {}
    for wanted in sorted(set(pairs)):
        total, count = defaultdict(float), 0
        for prompt, pair in zip(scores, pairs, strict=True):
            if pair == wanted:
                values = flat(prompt)
                size = max(abs(value) for value in values.values())
                count += 1
                for neuron, value in values.items():
                    total[neuron] += value / size if size else 0.0
        found[wanted] = {neuron: value / count for neuron, value in total.items()}
    return found


def mean_of_pairs(scores, pairs):
    means = pair_means(scores, pairs)
    return {neuron: sum(mean[neuron] for mean in means.values()) / len(means) for neuron in next(iter(means.values()))}


def best(values, count):
    """Return the ``count`` neurons with the largest values; ties by (layer, index)."""
    return set(sorted(values, key=lambda neuron: (-values[neuron], neuron))[:count])


def guarded_values(scores, guard, weight):
    largest, most = max(scores.values()), max(guard.values())
    need = {neuron: max(value, 0.0) / most if most > 0 else 0.0 for neuron, value in guard.items()}
    return {neuron: value / largest - weight * need[neuron] for neuron, value in scores.items()}
