"""Selects bias neurons by effects at all positions: on bias, against those on sentences, text and knowledge."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from biaslab.data import effects
from biaslab.data.stereoset import DOMAINS, TEST_TERMS
from biaslab.metrics.effects import NeuronEffects
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.neurons.selection import balanced, fisher

DIMENSION_OF = {"gender": "gender", "profession": "occupation", "race": "ethnicity", "religion": "religion"}
# source of the contrast set by name of the weight; None for prompts
SOURCES = {"prompts": None, "contrast": "stereoset", **{name: name for name in ("pairs", "panda-pairs")}}
SHARES = {"fisher": 0.02, "balanced": 0.05}  # default share of all neurons
_LARGEST = 200  # number of scores
_MEASUREMENTS, _NEAR, _AIM = 4, 0.92, 0.97  # perplexity search: maximum steps, near enough, target
_ALL = 100.0  # nats; more than any set of neurons costs


def source_weights(settings: Mapping[str, Any]) -> dict[str, float]:
    """Return the weight of each source: ``source_weights`` if given, else 1 for each one named by ``source``."""
    named: dict[str, float] | None = settings["source_weights"]
    if named is not None:
        return {name: weight for name, weight in named.items() if weight}
    return dict.fromkeys(("prompts", "contrast") if settings["source"] == "both" else (settings["source"],), 1.0)


def typical(scores: Tensor) -> Tensor:
    """Return the mean of the largest scores, used to make the scores of several sources comparable.

    If that is not positive, as may happen for a model with few neurons, absolute values are used.
    """
    count = min(_LARGEST, max(1, scores.numel() // 20))
    sizes = (values.flatten().topk(count).values.mean() for values in (scores, scores.abs()))
    return next((size for size in sizes if size > 0), scores.new_ones(()))


class Weighing(NamedTuple):
    """Selects neurons by the effects that a pass has collected, with the selection "fisher" or "balanced"."""

    effects: NeuronEffects
    selection: str
    settings: Mapping[str, Any]

    def neurons(self) -> NeuronSet:
        """Return the neurons selected from all sources."""
        return self.of(self._bias())

    def of(self, bias: Tensor) -> NeuronSet:
        """Return the neurons selected by bias scores of any scale, ``[layer, neuron]``."""
        count = self.settings["count"] or self._usual_count(self.selection)
        return self._rule(bias)(self.settings["predicted_percent"], count)

    def dimensions(self) -> dict[str, NeuronSet]:
        """Return the neurons specific to each dimension: by its bias minus the mean of the other dimensions."""
        weights, parts = source_weights(self.settings), dict[str, list[Tensor]]()
        for source, weight in weights.items():
            own = self._by_dimension(source)
            total = typical(torch.stack(list(own.values())).mean(0))
            for name, scores in own.items() if len(own) > 1 else ():
                others = torch.stack([other for key, other in own.items() if key != name]).mean(0)
                parts.setdefault(name, []).append(weight * (scores - others) / total)
        return {name: self.of(torch.stack(own).sum(0)) for name, own in parts.items()}

    def affordable(self, rise: Callable[[NeuronSet], float]) -> dict[str, Any]:
        """Return settings "count" and "predicted_percent" that keep the rise of perplexity within the limit.

        The search starts from the prediction by the Fisher information, which is then corrected by ``rise``, the
        measured rise for a set in percent. "fisher" adapts the number of neurons, "balanced" their strengths.
        """
        budget, rule = math.log1p(self.settings["perplexity_percent"] / 100), self._rule(self._bias())
        count = self.settings["count"] or self._usual_count("balanced")
        wanted = count if self.selection == "balanced" else None

        def within(nats: float) -> NeuronSet:
            return rule(100 * math.expm1(nats), wanted)

        best, aim, most = (0.0, 0), budget, self._predicted(within(_ALL))
        for _ in range(_MEASUREMENTS):
            neurons = within(aim)
            predicted, found = self._predicted(neurons), math.log1p(rise(neurons) / 100)
            best = max(best, (predicted, len(neurons))) if found <= budget else best
            if _NEAR * budget <= found <= budget or (found <= budget and predicted >= most):
                break
            aim = predicted * min(4.0, max(0.05, _AIM * budget / max(found, 1e-9)))
        predicted, count = best if best[1] else (aim, len(within(aim)))
        return {"count": count, "predicted_percent": 100 * math.expm1(predicted)}

    def _usual_count(self, selection: str) -> int:
        return max(1, round(SHARES[selection] * math.prod(self.effects.shape)))

    def _rule(self, bias: Tensor) -> Callable[[float | None, int | None], NeuronSet]:
        """Return the selection as a function of the predicted rise of perplexity and the number of neurons."""
        guard, information = self._guard(), self.effects.effects(effects.TEXT)
        scores = bias / typical(bias)

        def rule(percent: float | None, count: int | None) -> NeuronSet:
            if self.selection == "balanced":
                assert count is not None
                return balanced(scores, guard, information, count, 1.0, percent or self.settings["perplexity_percent"])
            if count is None:  # at least one
                single = fisher(scores, guard, information, 1, 1.0)
                percent = max(percent or 0.0, 100 * math.expm1(self._predicted(single)) * (1 + 1e-9))
                return fisher(scores, guard, information, None, 1.0, percent)
            return fisher(scores, guard, information, count, 1.0)

        return rule

    def _predicted(self, neurons: NeuronSet) -> float:
        """Return the predicted rise of the negative log-likelihood, in nats per token."""
        cost, strengths = self.effects.effects(effects.TEXT) / 2, neurons.strengths or dict.fromkeys(neurons, 1.0)
        return math.fsum(float(cost[neuron]) * strength**2 for neuron, strength in strengths.items())

    def _bias(self) -> Tensor:
        """Return b(n), the weighted sum over sources, each scaled by its largest effects, ``[layer, neuron]``."""
        found = {name: self._of_source(name) for name in source_weights(self.settings)}
        weights = source_weights(self.settings)
        parts = [weight * found[name] / typical(found[name]) for name, weight in weights.items()]
        return torch.stack(parts).sum(0)

    def _guard(self) -> Tensor:
        """Return the penalty on b(n): μ·g(n) from StereoSet's sentences, plus the weighted effect on knowledge."""
        guard: Tensor = self.settings["guard_weight"] * (self._contrast("guard") / typical(self._contrast("bias")))
        if weight := self.settings["knowledge_weight"]:
            names = [name for name in self.effects.quantities if name.endswith("/known")]
            known = torch.stack([self.effects.effects(name) for name in names]).mean(0)
            guard = guard + weight * known / typical(known)
        return guard

    def _contrast(self, name: str) -> Tensor:
        """Return the effects on StereoSet's "bias" or "guard", summed over the domains with their weights.

        By default, "fisher" weights all domains equally, and "balanced" all target terms, as in SS.
        """
        alike = dict.fromkeys(DOMAINS, 1.0) if self.selection == "fisher" else TEST_TERMS
        weights = self.settings["domain_weights"] or alike
        names = {f"{domain}/{name}": weight for domain, weight in weights.items()}
        found = [weight * self.effects.effects(key) for key, weight in names.items() if key in self.effects.quantities]
        return torch.stack(found).sum(0) if found else torch.zeros(self.effects.shape, dtype=torch.float64)

    def _of_source(self, source: str) -> Tensor:
        if source == "contrast":
            return self._contrast("bias")
        weights, parts = self.settings["domain_weights"], self._by_dimension(source)
        wanted = {DIMENSION_OF[domain] for domain, weight in weights.items() if weight} if weights else set(parts)
        return torch.stack([own for name, own in parts.items() if name in wanted or source == "panda-pairs"]).mean(0)

    def _by_dimension(self, source: str) -> dict[str, Tensor]:
        """Return the effects on the bias of each dimension in a source; PANDA's pairs have no dimension."""
        if source == "contrast":
            return {DIMENSION_OF[domain]: self.effects.effects(f"{domain}/bias") for domain in DOMAINS}
        end = {"prompts": f"/{effects.PROMPTS}", "pairs": "/pairs", "panda-pairs": "panda"}[source]
        names = [name for name in self.effects.quantities if name.endswith(end)]
        return {name.partition("/")[0]: self.effects.effects(name) for name in names}
