"""Selects bias neurons from collected scores: by the prompts' votes, or by the largest b(n) - λ·g(n).

b is how much a neuron widens the gap between demographics, and g how much ordinary sentences need it.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from biaslab.data import contrast, effects
from biaslab.data.presets import AT_ALL_POSITIONS
from biaslab.data.stereoset import DOMAINS
from biaslab.errors import InputError, require_all_of
from biaslab.metrics.effects import NeuronEffects
from biaslab.metrics.neuron_selection import NeuronSelection
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.neurons.selection import BY_SCORES, paper
from biaslab.tasks.weighing import DIMENSION_OF, SOURCES, Weighing, source_weights

_T = TypeVar("_T")
DEFAULT_SHARE_OF_NEURONS = 0.02


class Collected(NamedTuple):
    """The scores collected by an attribution pass, on prompts and on the contrast set."""

    prompts: NeuronSelection
    contrast: NeuronSelection | None
    effects: NeuronEffects | None  # effects at all positions, instead of ``contrast``
    source: contrast.Contrast  # the contrast set

    def paper(self, share: float) -> tuple[NeuronSet, dict[str, NeuronSet], dict[str, dict[str, float]]]:
        """Return the neurons selected by votes, those of each pair and dimension, and the shares used."""
        metric, rows = self.prompts, self.prompts.compute()
        chosen, shares = paper(rows["prompts"], rows["votes"], metric.pairs, metric.kinds, metric.shape, share)
        of_all = {name: NeuronSet(chain(*own), metric.shape) for name, own in _by_dimension(chosen).items()}
        return NeuronSet(chain.from_iterable(chosen.values()), metric.shape), chosen | of_all, shares

    def best(self, selection: str, settings: Mapping[str, Any]) -> tuple[NeuronSet, dict[str, NeuronSet]]:
        """Return the neurons with the largest scores by a rule of BY_SCORES, and those of each pair and dimension."""
        # if the trainer limits the batches, a pair may have no prompts and NaN scores
        scores = zip(self.prompts.pairs, self.prompts.pair_scores(), strict=True)
        named = {name: own for name, own in scores if not own.isnan().any()}
        named |= {name: torch.stack(own).mean(0) for name, own in _by_dimension(named).items()}
        if selection in AT_ALL_POSITIONS:
            weighing = self.weighing(selection, settings)
            own_neurons = weighing.dimensions() if selection == "balanced" else {}
            return weighing.neurons(), {name: weighing.of(own) for name, own in named.items()} | own_neurons
        rule, bias = BY_SCORES[selection], self._bias(settings)
        if selection == "guarded":
            rule = partial(rule, guard=self._guard(settings["guard"]), weight=settings["guard_weight"])
        count = settings["count"] or max(1, round(DEFAULT_SHARE_OF_NEURONS * bias.numel()))
        return rule(bias, count=count), {name: rule(own, count=count) for name, own in named.items()}

    def weighing(self, selection: str, settings: Mapping[str, Any]) -> Weighing:
        """Return an object that selects neurons by effects at all positions."""
        assert self.effects is not None
        return Weighing(self.effects, selection, settings)

    def _bias(self, settings: Mapping[str, Any]) -> Tensor:
        """Return b(n), the sum over sources, each scaled to a maximum of 1, ``[layer, neuron]``."""
        sources = ("prompts", "contrast") if settings["source"] == "both" else (settings["source"],)
        weights = {None: 1.0} if settings["domain_weights"] is None else settings["domain_weights"]
        scores = torch.zeros(self.prompts.shape, dtype=torch.float64)
        for domain, weight in weights.items():
            for source in sources if weight else ():
                own = self._scores_of(source, domain)
                if not own.max() > 0:  # dividing by a negative number would reverse the order
                    where = source if domain is None else f"{source}, {domain}"
                    raise InputError(
                        f"`source` is expected to have a neuron that widens the gap but the largest score of the "
                        f"{where} is {float(own.max()):.3g}. Use more prompts or pairs, or another source."
                    )
                scores = scores.to(own) + weight * own / own.max()
        return scores

    def _scores_of(self, source: str, domain: str | None) -> Tensor:
        """Return the mean scores on the prompts or the contrast set, overall or for a domain, ``[layer, neuron]``."""
        if source == "contrast":
            return self._contrast_scores([f"{name}/bias" for name in DOMAINS if domain in (None, name)])
        if domain is None:
            return self.prompts.mean_scores()
        start = f"{DIMENSION_OF[domain]}/"
        rows = [row for row, name in enumerate(self.prompts.pairs) if name.startswith(start)]
        return self.prompts.pair_scores()[rows].nanmean(0)

    def _guard(self, wanted: Sequence[str] | None) -> Tensor:
        """Return g(n), the sum over sources, each scaled to a maximum of 1, ``[layer, neuron]``."""
        guards = []
        for source in wanted or contrast.sources_of(self.source):
            guard = self._contrast_scores([name for name in contrast.pairs_of(source) if "/guard/" in name])
            # ordinary text also needs neurons that lower the fitting word, which balance others
            guard = guard.clamp_min(0) if source == "stereoset" else guard.abs()
            guards.append(guard / guard.max().clamp_min(torch.finfo(guard.dtype).tiny))
        return torch.stack(guards).sum(0)

    def _contrast_scores(self, names: Sequence[str]) -> Tensor:
        """Return the mean score of some pairs of the contrast set, weighted by their numbers of sentences."""
        assert self.contrast is not None
        rows = [self.contrast.pairs.index(name) for name in names]
        scores, sentences = self.contrast.pair_scores(), self.contrast.compute()["counts"]
        counts = sentences[rows].to(scores.device).to(scores.dtype)[:, None, None]
        return (scores[rows].nan_to_num() * counts).sum(0) / counts.sum()


def require_known(settings: Mapping[str, Any], source: contrast.Contrast, positions: str, pairs: Iterable[str]) -> None:
    """Raise InputError if the settings of an attribution need another contrast set, or prompts of other pairs."""
    sources = contrast.sources_of(source)
    selection = settings["selection"]
    at_all = selection in AT_ALL_POSITIONS
    if not sources and (selection == "guarded" or at_all or settings["source"] != "prompts"):
        raise InputError(
            "`contrast` is expected to name a contrast set for this selection but is None. Set `contrast` of the data."
        )
    if settings["source"] != "prompts" and "stereoset" not in sources:
        raise InputError(f'`contrast` is expected to include "stereoset" for this source but got {source!r}.')
    _require_sources(settings, sources)
    for name, known in (
        ("guard", sources), ("domain_weights", list(DIMENSION_OF)), ("source_weights", list(SOURCES)),
    ):  # fmt: skip
        if settings[name]:
            require_all_of(name, settings[name], known)
    slot = selection == "guarded" or (settings["source"] != "prompts" and selection == "ranked")
    wanted = "all" if at_all else "slot" if slot else positions
    if positions != wanted:
        raise InputError(
            f'`contrast_positions` is expected to be "{wanted}" for the selection {selection!r} but is {positions!r}.'
        )
    if at_all and not effects.text_sources(sources):
        raise InputError(
            '`contrast` is expected to include a source of ordinary text, such as "bold", for the selection '
            f'"{selection}" but got {source!r}.'
        )
    asked = {name.partition("/")[0] for name in pairs}
    for dimension in (DIMENSION_OF[domain] for domain in settings["domain_weights"] or ()):
        if dimension not in asked:
            raise InputError(
                f"`domain_weights` is expected to name domains with prompts but {dimension} is not among the "
                "`dimensions`. Add it to the data, or remove the domain."
            )


def _require_sources(settings: Mapping[str, Any], sources: Sequence[str]) -> None:
    """Raise InputError if the contrast set lacks a weighted source."""
    weights = source_weights(settings)
    if not weights or not all(math.isfinite(weight) and weight > 0 for weight in weights.values()):
        raise InputError(f"`source_weights` is expected to hold positive numbers but got {weights}.")
    needed = {f"`source_weights` of {name}": SOURCES[name] for name in weights if name in SOURCES}
    needed |= {"`knowledge_weight`": "knowledge"} if settings["knowledge_weight"] else {}
    for what, source in needed.items():
        if source is not None and source not in sources:
            raise InputError(f'`contrast` is expected to include "{source}" for {what} but does not. Add it.')


def _by_dimension(pairs: Mapping[str, _T]) -> dict[str, list[_T]]:
    dimensions: dict[str, list[_T]] = {}
    for name, own in pairs.items():
        dimensions.setdefault(name.partition("/")[0], []).append(own)
    return dimensions
