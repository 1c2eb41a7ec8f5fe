"""Which neurons are bias neurons: those that the prompts vote for, or those with the largest b(n) - λ·g(n).

b is how much a neuron widens the gap between demographics, and g what ordinary sentences need of it.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from biaslab.data import contrast, effects
from biaslab.data.stereoset import DOMAINS
from biaslab.errors import InputError
from biaslab.metrics.effects import NeuronEffects
from biaslab.metrics.neuron_selection import NeuronSelection
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.neurons.selection import BY_SCORES, bias_for_cost, fisher, paper

_T = TypeVar("_T")
DEFAULT_SHARE_OF_NEURONS = 0.02
_LARGEST = 200  # scores
_MEASUREMENTS, _NEAR, _AIM = 4, 0.85, 0.95  # of the rise of perplexity: how many; when it is near; where to aim
DIMENSION_OF = {"gender": "gender", "profession": "occupation", "race": "ethnicity", "religion": "religion"}


class Collected(NamedTuple):
    """What an attribution pass collected: of the prompts' pairs, and of the contrast set, which ``source`` names."""

    prompts: NeuronSelection
    contrast: NeuronSelection | None
    effects: NeuronEffects | None  # at all positions; instead of ``contrast``
    source: contrast.Contrast

    def paper(self, share: float) -> tuple[NeuronSet, dict[str, NeuronSet], dict[str, dict[str, float]]]:
        """Return the neurons that the prompts vote for, those of each pair and dimension, and the shares used."""
        metric, rows = self.prompts, self.prompts.compute()
        chosen, shares = paper(rows["prompts"], rows["votes"], metric.pairs, metric.kinds, metric.shape, share)
        of_all = {name: NeuronSet(chain(*own), metric.shape) for name, own in _by_dimension(chosen).items()}
        return NeuronSet(chain.from_iterable(chosen.values()), metric.shape), chosen | of_all, shares

    def best(self, selection: str, settings: Mapping[str, Any]) -> tuple[NeuronSet, dict[str, NeuronSet]]:
        """Return the neurons of the largest scores by a rule of BY_SCORES, and those of each pair and dimension."""
        rule: Callable[..., NeuronSet]
        if selection == "fisher":
            known = self._fisher(settings)
            bias = known.pop("scores")
            rule = partial(_of_any_scale, **known)
        else:
            rule, bias = BY_SCORES[selection], self._bias(settings)
        if selection == "guarded":
            rule = partial(rule, guard=self._guard(settings["guard"]), weight=settings["guard_weight"])

        count = settings["count"] or round(DEFAULT_SHARE_OF_NEURONS * bias.numel())

        def best(scores: Tensor) -> NeuronSet:
            return rule(scores, count=count)

        # a pair has no prompts, and NaN scores, where the trainer limits the batches
        scores = zip(self.prompts.pairs, self.prompts.pair_scores(), strict=True)
        named = {name: own for name, own in scores if not own.isnan().any()}
        named |= {name: torch.stack(own).mean(0) for name, own in _by_dimension(named).items()}
        return best(bias), {name: best(own) for name, own in named.items()}

    def affordable(self, settings: Mapping[str, Any], rise: Callable[[NeuronSet], float]) -> int:
        """Return how many neurons of "fisher" keep the rise of perplexity within "perplexity_percent".

        The Fisher information says where to begin; then ``rise`` measures what a set costs, in percent, and the
        estimate is corrected by that.
        """
        known = self._fisher(settings)
        worth = bias_for_cost(**known)
        order = worth.flatten().sort(descending=True, stable=True).indices[: int((worth > 0).sum())]
        predicted = known["information"].flatten()[order].cumsum(0) / 2
        budget = math.log1p(settings["perplexity_percent"] / 100)
        best, aim = 1, budget
        for _ in range(_MEASUREMENTS):
            count = max(1, int((predicted <= aim).sum()))
            neurons = [divmod(place, worth.shape[1]) for place in order[:count].tolist()]
            found = math.log1p(rise(NeuronSet(neurons, self.prompts.shape)) / 100)
            best = max(best, count) if found <= budget else best
            if _NEAR * budget <= found <= budget or (found <= budget and count == len(order)):
                break
            aim = float(predicted[count - 1]) * min(4.0, max(0.25, _AIM * budget / max(found, 1e-9)))
        return best

    def _fisher(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of the rule "fisher"; each source is scaled by its largest effects."""
        known = self.effects
        assert known is not None
        weights = settings["domain_weights"] or dict.fromkeys(DOMAINS, 1.0)

        def contrast_effects(name: str) -> Tensor:
            names = {f"{domain}/{name}": weight for domain, weight in weights.items()}
            found = [weight * known.effects(name) for name, weight in names.items() if name in known.quantities]
            return torch.stack(found).sum(0) if found else torch.zeros(known.shape, dtype=torch.float64)

        def of_source(source: str) -> Tensor:
            if source == "contrast":
                return contrast_effects("bias")
            asked = [name for name in known.quantities if name.endswith(f"/{effects.PROMPTS}")]
            wanted = {DIMENSION_OF[domain] for domain, w in weights.items() if w} if settings["domain_weights"] else ()
            chosen = [name for name in asked if not wanted or name.partition("/")[0] in wanted]
            return torch.stack([known.effects(name) for name in chosen]).mean(0)

        sources = ("prompts", "contrast") if settings["source"] == "both" else (settings["source"],)
        bias = torch.stack([own / _typical(own) for own in map(of_source, sources)]).sum(0)
        return {
            "scores": bias / _typical(bias),
            "guard": contrast_effects("guard") / _typical(contrast_effects("bias")),
            "information": known.effects(effects.TEXT),
            "weight": settings["guard_weight"],
        }

    def _bias(self, settings: Mapping[str, Any]) -> Tensor:
        """Return b(n), each source scaled to a maximum of 1, ``[layer, neuron]``."""
        sources = ("prompts", "contrast") if settings["source"] == "both" else (settings["source"],)
        weights = {None: 1.0} if settings["domain_weights"] is None else settings["domain_weights"]
        scores = torch.zeros(self.prompts.shape, dtype=torch.float64)
        for domain, weight in weights.items():
            for source in sources if weight else ():
                own = self._scores_of(source, domain)
                if not own.max() > 0:  # dividing by it would turn the order round
                    where = source if domain is None else f"{source}, {domain}"
                    raise InputError(
                        f"`source` is expected to have a neuron that widens the gap, but the largest score of the "
                        f"{where} is {float(own.max()):.3g}. Use more prompts or pairs, or another source."
                    )
                scores = scores.to(own) + weight * own / own.max()
        return scores

    def _scores_of(self, source: str, domain: str | None) -> Tensor:
        """Return the mean scores of the prompts or the contrast set, all of them or a domain's, ``[layer, neuron]``."""
        if source == "contrast":
            return self._contrast_scores([f"{name}/bias" for name in DOMAINS if domain in (None, name)])
        if domain is None:
            return self.prompts.mean_scores()
        start = f"{DIMENSION_OF[domain]}/"
        rows = [row for row, name in enumerate(self.prompts.pairs) if name.startswith(start)]
        return self.prompts.pair_scores()[rows].nanmean(0)

    def _guard(self, wanted: Sequence[str] | None) -> Tensor:
        """Return g(n): the sum of the sources', each scaled to a maximum of 1, ``[layer, neuron]``."""
        guards = []
        for source in wanted or contrast.sources_of(self.source):
            guard = self._contrast_scores([name for name in contrast.pairs_of(source) if "/guard/" in name])
            # plain text needs neurons that lower the fitting word, too: they hold others in balance
            guard = guard.clamp_min(0) if source == "stereoset" else guard.abs()
            guards.append(guard / guard.max().clamp_min(torch.finfo(guard.dtype).tiny))
        return torch.stack(guards).sum(0)

    def _contrast_scores(self, names: Sequence[str]) -> Tensor:
        """Return the mean score of some pairs of the contrast set; each of their sentences weighs the same."""
        assert self.contrast is not None
        rows = [self.contrast.pairs.index(name) for name in names]
        scores, sentences = self.contrast.pair_scores(), self.contrast.compute()["counts"].view(-1)
        counts = sentences[rows].to(scores.device).to(scores.dtype)[:, None, None]
        return (scores[rows].nan_to_num() * counts).sum(0) / counts.sum()


def _of_any_scale(scores: Tensor, **known: Any) -> NeuronSet:
    return fisher(scores / _typical(scores), **known)


def _typical(scores: Tensor) -> Tensor:
    """Return the mean of the largest scores, by which those of several sources become comparable."""
    largest = scores.flatten().topk(min(_LARGEST, max(1, scores.numel() // 20))).values
    return largest.mean().clamp_min(torch.finfo(scores.dtype).tiny)


def require_known(settings: Mapping[str, Any], source: contrast.Contrast, positions: str, pairs: Iterable[str]) -> None:
    """Refuse an attribution's settings that need another contrast set, or prompts of other pairs (InputError)."""
    sources = contrast.sources_of(source)
    if not sources and (settings["selection"] in ("guarded", "fisher") or settings["source"] != "prompts"):
        raise InputError(
            "`contrast` is expected to name a contrast set for this selection but is None. Give the data one."
        )
    if settings["source"] != "prompts" and "stereoset" not in sources:
        raise InputError(f'`contrast` is expected to have "stereoset" for this source but got {source!r}.')
    for name, known in (("guard", sources), ("domain_weights", list(DIMENSION_OF))):
        if unknown := [value for value in settings[name] or () if value not in known]:
            raise InputError(
                f"`{name}` is expected to be of {', '.join(known) or 'nothing'} but got {', '.join(unknown)}."
            )
    wanted = {"fisher": "all", "guarded": "slot"}.get(settings["selection"], positions)
    if settings["source"] != "prompts" and settings["selection"] == "ranked":
        wanted = "slot"
    if positions != wanted:
        raise InputError(
            f'`contrast_positions` is expected to be "{wanted}" for the selection {settings["selection"]!r} but is '
            f"{positions!r}."
        )
    if settings["selection"] == "fisher" and not effects.text_sources(sources):
        raise InputError(
            '`contrast` is expected to have a source of ordinary text, such as "bold", for the selection "fisher" but '
            f"got {source!r}."
        )
    asked = {name.partition("/")[0] for name in pairs}
    for dimension in (DIMENSION_OF[domain] for domain in settings["domain_weights"] or ()):
        if dimension not in asked:
            raise InputError(
                f"`domain_weights` is expected to name domains that there are prompts for, but {dimension} is not "
                "among the `dimensions`. Add it to the data, or leave the domain out."
            )


def _by_dimension(pairs: Mapping[str, _T]) -> dict[str, list[_T]]:
    dimensions: dict[str, list[_T]] = {}
    for name, own in pairs.items():
        dimensions.setdefault(name.partition("/")[0], []).append(own)
    return dimensions
