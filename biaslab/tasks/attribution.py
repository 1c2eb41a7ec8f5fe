"""The attribution pass: prompts in, a file of bias neurons out."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from inspect import signature
from typing import Any, Literal

import torch
from torch import Tensor
from torchmetrics import MaxMetric, MetricCollection, SumMetric

from biaslab.architectures import ffn_shape, fingerprint
from biaslab.attribution import Gap, attribute_gaps
from biaslab.data import contrast
from biaslab.errors import InputError
from biaslab.metrics.selection import NeuronSelection, guarded, ranked
from biaslab.neurons import NeuronSet
from biaslab.quadrature import nodes_and_weights
from biaslab.tasks.base import LanguageModelTask

Selection = Literal["paper", "ranked", "guarded"]
Source = Literal["prompts", "contrast", "both"]
DEFAULT_SHARE_OF_NEURONS = 0.02


class Attribution(LanguageModelTask):
    """Attribute the gap between demographics to neurons (IG²), select the bias neurons, and write ``neurons.json``.

    Args:
        model_name: an asset's name, a folder or a hub id.
        steps: nodes of the quadrature.
        quadrature: see :func:`biaslab.quadrature.nodes_and_weights`.
        gap: "absolute", the paper's, or "signed".
        selection: "paper" (votes), "ranked" (mean score) or "guarded" (ranked, sparing what ordinary sentences need).
        threshold: of the votes: share of a prompt's largest score that a neuron must reach.
        share: of the votes: share of a group's prompts that must keep the neuron.
        count: of "ranked" and "guarded": how many neurons; 2 % of all by default.
        guard_weight: of "guarded": how much what ordinary sentences need counts against a neuron (λ).
        source: of "ranked" and "guarded": where bias is read: the "prompts", the "contrast" set (StereoSet's test
            split, stereotype against anti-stereotype), or "both", added.
        dtype: the weights' type.
        trust_remote_code: let a checkpoint bring its own Python code.

    Raises:
        InputError: if an argument is out of its range.

    Reference:
        "The Devil is in the Neurons" (ICLR 2024), sections 3.2 and 3.3.
    """

    def __init__(
        self,
        model_name: str = "minilm-mlm",
        steps: int = 6,
        quadrature: str = "gauss_legendre",
        gap: Gap = "absolute",
        selection: Selection = "ranked",
        threshold: float = 0.2,
        share: float = 0.7,
        count: int | None = None,
        guard_weight: float = 1.0,
        source: Source = "prompts",
        dtype: str = "float32",
        trust_remote_code: bool = False,
    ) -> None:
        nodes_and_weights(quadrature, steps)  # refuses bad values before the model is loaded
        for name, value in (("threshold", threshold), ("share", share)):
            if not 0 < value <= 1:
                raise InputError(f"`{name}` is expected to lie in (0, 1] but got {value}.")
        super().__init__(model_name, dtype, trust_remote_code)
        self.save_hyperparameters()
        self.shape = ffn_shape(self.model)
        if count is not None and not 0 < count <= self.shape[0] * self.shape[1]:
            raise InputError(
                f"`count` is expected to lie between 1 and the model's {self.shape[0] * self.shape[1]} neurons but "
                f"got {count}."
            )
        self.quality = MetricCollection({"residual": SumMetric(), "size": SumMetric(), "worst": MaxMetric()})

    def setup(self, stage: str) -> None:
        """Prepare the selection for the pairs of the data."""
        source = self.data.hparams["contrast"]
        needs = self.hparams["selection"] == "guarded" or self.hparams["source"] != "prompts"
        if needs and source is None:
            raise InputError(
                "`contrast` is expected to name a contrast set for this selection but is None. Give the data one."
            )
        if self.hparams["source"] != "prompts" and source != "stereoset":
            raise InputError(f'`contrast` is expected to be "stereoset" for this source but got {source!r}.')
        self.contrast_pairs = list(contrast.pairs_of(source)) if source else []
        rule = {"threshold": self.hparams["threshold"], "share": self.hparams["share"]}
        self.prompts = NeuronSelection(self.data.pair_names, self.data.kind_names, self.shape, **rule)
        if source:
            self.contrast = NeuronSelection(self.contrast_pairs, ["contrast"], self.shape, **rule)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> Tensor:
        """Attribute a batch of prompts times interpolation nodes.

        Returns:
            Scores, ``[batch, pair, layer, neuron]``.
        """
        is_prompt = dataloader_idx == 0
        result = attribute_gaps(
            self.model,
            batch["input_ids"],
            batch["position"],
            batch["target_ids"],
            batch["pairs"],
            steps=self.hparams["steps"],
            quadrature=self.hparams["quadrature"],
            gap=self.hparams["gap"] if is_prompt else "signed",
        )
        prompts, pairs = result.scores.shape[:2]
        metric = self.prompts if is_prompt else self.contrast
        metric.update(
            result.scores.flatten(0, 1),
            batch["pair"].repeat(prompts),
            batch["kind"].repeat_interleave(pairs),
            batch["group"].repeat_interleave(pairs),
        )
        if is_prompt:
            size, residual = result.scores.abs().sum(-1), result.residual.abs()
            self.quality["residual"].update(residual)
            self.quality["size"].update(size)
            self.quality["worst"].update(residual.sum(-1) / size.sum(-1).clamp_min(1e-30))
        return result.scores

    def on_predict_epoch_end(self) -> None:
        """Select the neurons and, where a logger gives the run a folder, write the file."""
        neurons, path, summary = self.select(self.hparams["selection"]), self.folder / "neurons.json", self.summary()
        if self.trainer.is_global_zero and self.trainer.logger is not None:  # what comes before gathers from all ranks
            path.parent.mkdir(parents=True, exist_ok=True)
            neurons.save(path)
            self._log(neurons)
            print(f"{len(neurons)} neurons in {path}; {summary}")
            for pair, why in self.data.dropped.items():
                print(f"dropped {pair}: {why}")

    def select(self, selection: Selection) -> NeuronSet:
        """Return the bias neurons of the prompts seen so far, with the sets of each pair and dimension."""
        provenance = self._provenance(selection)
        if selection == "paper":
            chosen, shares = self.prompts.paper()
            provenance["settings"]["shares_used"] = shares
            everything = NeuronSet([n for pair in chosen.values() for n in pair], shape=self.shape)
            return everything.with_details(self._with_dimensions(chosen), provenance)
        scores = self.prompts.pair_scores()  # [pair, layer, neuron]
        guard = self._guard() if selection == "guarded" else None
        # a pair has no prompts, and NaN scores, where the trainer limits the batches
        named = {name: s for name, s in zip(self.data.pair_names, scores, strict=True) if not s.isnan().any()}
        for dimension in dict.fromkeys(name.partition("/")[0] for name in named):
            named[dimension] = torch.stack([s for name, s in named.items() if name.startswith(f"{dimension}/")]).mean(0)
        subsets = {name: self._best(score, guard) for name, score in named.items()}
        return self._best(self._bias_scores(), guard).with_details(subsets, provenance)

    def _best(self, scores: Tensor, guard: Tensor | None) -> NeuronSet:
        count = self.hparams["count"] or round(DEFAULT_SHARE_OF_NEURONS * scores.numel())
        if guard is None:
            return ranked(scores, count)
        return guarded(scores, guard, count, weight=self.hparams["guard_weight"])

    def _bias_scores(self) -> Tensor:
        """Return b(n), each source scaled to a maximum of 1, ``[layer, neuron]``."""
        scores = {"prompts": self.prompts.mean_scores()}
        if self.hparams["source"] != "prompts":
            scores["contrast"] = self.contrast.pair_scores()[self.contrast_pairs.index("bias")]
        wanted = ["prompts", "contrast"] if self.hparams["source"] == "both" else [self.hparams["source"]]
        return torch.stack([scores[name] / scores[name].max() for name in wanted]).sum(0)

    def _guard(self) -> Tensor:
        """Return g(n), ``[layer, neuron]``."""
        rows = [index for index, name in enumerate(self.contrast_pairs) if name.startswith("guard/")]
        return self.contrast.pair_scores()[rows].mean(0)

    def _with_dimensions(self, chosen: dict[str, NeuronSet]) -> dict[str, NeuronSet]:
        dimensions: dict[str, Sequence[Any]] = {}
        for name, neurons in chosen.items():
            dimension = name.partition("/")[0]
            dimensions[dimension] = [*dimensions.get(dimension, []), *neurons]
        return chosen | {name: NeuronSet(neurons, shape=self.shape) for name, neurons in dimensions.items()}

    def residual(self) -> tuple[float, float]:
        """Return the completeness residual relative to the scores' L1 norm: on average, and the worst."""
        quality = self.quality.compute()
        return float(quality["residual"] / quality["size"]), float(quality["worst"])

    def summary(self) -> str:
        """Return a line about what was attributed and how well."""
        mean, worst = self.residual()
        return (
            f"{len(self.data.prompts)} prompts, {len(self.data.pair_names)} pairs, "
            f"{len(self.data.dropped)} pairs dropped; residual {mean:.1e} on average, {worst:.1e} at worst"
        )

    def _provenance(self, selection: Selection) -> dict[str, Any]:
        mean, worst = self.residual()
        settings = {
            key: value
            for key, value in self.hparams.items()
            if key in signature(Attribution).parameters and key not in ("model_name", "trust_remote_code")
        }
        return {
            "model": {
                "name": self.hparams["model_name"],
                "fingerprint": fingerprint(self.model),
                "layers": self.shape[0],
                "width": self.shape[1],
            },
            "settings": settings | {"selection": selection},
            "data": {
                "fingerprint": self.data.fingerprint,
                "prompts": len(self.data.prompts),
                "dropped": self.data.dropped,
                "silent": int(self.prompts.compute()["silent"].sum()),  # prompts times pairs that vote for nothing
                "contrast": self.data.hparams["contrast"],
            },
            "residual": {"mean": mean, "worst": worst},
            "versions": {name: version(name) for name in ("biaslab", "torch", "transformers", "pytorch-lightning")},
        }

    def _log(self, neurons: NeuronSet) -> None:
        """Write scalars and the layer histogram to TensorBoard."""
        mean, worst = neurons.provenance["residual"].values()
        writer = getattr(self.logger, "experiment", None)
        if hasattr(writer, "add_scalar"):
            for name, value in (("neurons", len(neurons)), ("residual/mean", mean), ("residual/worst", worst)):
                writer.add_scalar(name, value)  # type: ignore[union-attr]
            layers = torch.tensor([neuron.layer for neuron in neurons], dtype=torch.float)
            writer.add_histogram("neurons/layer", layers, bins=self.shape[0])  # type: ignore[union-attr]
