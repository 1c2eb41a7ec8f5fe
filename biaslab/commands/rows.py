"""The rows of the results table: what each does to the model, found or trained where it is asked for."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from biaslab.commands.cards import SCORES, read_scores
from biaslab.commands.configs import config_file
from biaslab.commands.passes import Pass, Select, Trainings, attribution_pass
from biaslab.data.presets import GUARD_WEIGHT, PRESETS, SELECTIONS
from biaslab.data.prompts import PromptDataModule
from biaslab.evaluation.treatment import Arm, Positions, Treatment
from biaslab.neurons.neuron_set import NeuronSet, random_like
from biaslab.neurons.selection import ranked
from biaslab.store import Artifacts
from biaslab.tasks.attribution import Attribution

TRAINED = {"dpce": "DPCE", "autodebias": "AutoDebias", "cda": "CDA", "cda_control": "CDA's control"}
BASE_ROW = "base"
ROWS = {
    BASE_ROW: "base",
    **{name: f"+ {title}" for name, title in TRAINED.items()},
    "union_ig": "+ Union_IG",
    "intersection_ig": "+ Intersection_IG",
    "union_ig_cut": "+ Union_IG, cut",
    "bns_paper": "+ BNS, paper",
    "bns_ranked": "+ BNS, ranked",
    "bns_guarded": "+ BNS, guarded",
    "bns_lms": "+ BNS, guard LMS",
    "random_bns": "+ random, as BNS",
    "random_union_ig": "+ random, as Union",
}


@dataclass(frozen=True)
class Rows:
    """Makes the rows of the table; neurons are found and weights trained once, and kept."""

    cache: Artifacts  # where they are kept
    model_name: str
    weights: str  # the model's fingerprint
    preset: str  # a key of PRESETS
    configs: str  # the folder of the training configurations
    seeds: int  # how many random controls
    factor: float = 0.0  # what neurons are multiplied by
    positions: Positions = "all"
    trust_remote_code: bool = False

    def arm(self, name: str) -> Arm:
        """Return a row, a key of ``ROWS``.

        Raises:
            InputError: if it can't be had.
        """
        title = ROWS[name]
        if name == BASE_ROW:
            return Arm(name, title=title)
        if name in TRAINED:
            checkpoint, seconds = self._train(name)
            return Arm(name, [Treatment(checkpoint=checkpoint)], title, seconds=seconds)
        how = (self.factor, self.positions)
        if name.startswith("random_"):
            like = name.removeprefix("random_").replace("bns", "bns_guarded")
            neurons, _ = self._neurons(like)
            return Arm(name, [Treatment(random_like(neurons, seed), *how) for seed in range(self.seeds)], title, like)
        neurons, seconds = self._neurons(name)
        return Arm(name, [Treatment(neurons, *how)], title, seconds=seconds)

    def _neurons(self, name: str) -> tuple[NeuronSet, float]:
        """Return the neurons of a row, and the seconds that finding them took."""
        if name.startswith("bns_"):
            return self._gaps.sets[name.removeprefix("bns_")], self._gaps.seconds
        single = self._demographics
        if name != "union_ig_cut":
            return single.sets[name.removesuffix("_ig")], single.seconds
        count, union = len(self._gaps.sets["guarded"]), single.sets["union"]
        if len(union) > count:
            scores, _ = read_scores(single.folder / SCORES)  # [demographic, layer, neuron]
            union = cut(union, scores.nan_to_num(-torch.inf).amax(0), count)
        return union, single.seconds

    @cached_property
    def _gaps(self) -> Pass:
        """The pass that attributes gaps (IG²), with all selections."""

        def select(task: Attribution, data: PromptDataModule) -> dict[str, NeuronSet]:
            return {name: task.select(how, **changes) for name, (how, changes) in SELECTIONS.items()}

        options = {"selection": "guarded", "source": "both", "guard_weight": GUARD_WEIGHT}
        return self._attribute("ig2", options, PRESETS[self.preset].data, select, SELECTIONS)

    @cached_property
    def _demographics(self) -> Pass:
        """The pass that attributes single demographics' probabilities (IG), selected as in the paper."""

        def select(task: Attribution, data: PromptDataModule) -> dict[str, NeuronSet]:
            union = task.select("paper")
            return {"union": union, "intersection": intersection(union, data)}

        data = {key: value for key, value in PRESETS[self.preset].data.items() if not key.startswith("contrast")}
        return self._attribute("ig", {"selection": "paper"}, data | {"attributed": "demographics"}, select, {})

    def _attribute(
        self, name: str, options: dict[str, Any], data: dict[str, Any], select: Select, selections: Any
    ) -> Pass:
        options = options | {"trust_remote_code": self.trust_remote_code}
        depends_on = {"weights": self.weights, "selections": selections}
        return attribution_pass(self.cache, name, self.model_name, options, data, select, depends_on)

    def _train(self, name: str) -> tuple[Path, float]:
        """Train a baseline; return its checkpoint, and the seconds that it took."""
        preset, prompts, before = PRESETS[self.preset], None, 0.0
        config = config_file(f"{name}{preset.suffix}", self.configs)
        trainings = Trainings(self.cache, self.model_name, self.weights, self.trust_remote_code)
        if name == "autodebias":
            prompts, before = trainings.search_prompts(preset.search)
        checkpoint, seconds = trainings.train(name, config, prompts)
        return checkpoint, before + seconds


def intersection(union: NeuronSet, data: PromptDataModule) -> NeuronSet:
    """Return the neurons that both demographics of a pair have, of all the data's pairs; union: with their subsets."""
    of = {name: set(neurons) for name, neurons in union.subsets.items()}
    both = [
        of[f"{dimension.name}/{dimension.words[a]}"] & of[f"{dimension.name}/{dimension.words[b]}"]
        for dimension in data.dimensions.values()
        for a, b in dimension.pairs
    ]
    neurons = NeuronSet(set().union(*both), shape=union.shape)
    provenance = {"model": union.provenance["model"], "settings": {"selection": "intersection"}}
    return neurons.with_details(provenance=provenance)


def cut(neurons: NeuronSet, scores: Tensor, count: int) -> NeuronSet:
    """Return so many neurons of a set, those with the largest scores, ``[layer, neuron]``.

    >>> cut(NeuronSet([(0, 0), (1, 0), (1, 1)], shape=(2, 2)), torch.tensor([[0.5, 9.0], [0.1, 0.7]]), 2)
    NeuronSet([(0, 0), (1, 1)], shape=(2, 2))
    """
    inside = torch.zeros_like(scores, dtype=torch.bool)
    inside[tuple(torch.tensor(list(neurons)).T)] = True
    kept = ranked(scores.masked_fill(~inside, -torch.inf), count)
    details = {key: value for key, value in neurons.provenance.items() if key in ("model", "settings")}
    return kept.with_details(provenance=details | {"cut": count})
