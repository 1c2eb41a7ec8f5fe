"""The attribution pass, from prompts to a file of bias neurons."""

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from inspect import signature
from pathlib import Path
from typing import Any, Literal, get_args

import safetensors.torch
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from biaslab.attribution.budget import TokenBudget
from biaslab.attribution.gaps import Gap, Of, attribute_batch
from biaslab.attribution.importance import mean_activations
from biaslab.attribution.integration import GapAttribution
from biaslab.attribution.quadrature import Steps, integration_rule
from biaslab.data import contrast
from biaslab.data.presets import AT_ALL_POSITIONS, USUAL, Replacement, Selection
from biaslab.data.prompts import is_divided
from biaslab.errors import InputError, require_one_of
from biaslab.metrics.effects import NeuronEffects
from biaslab.metrics.neuron_selection import NeuronSelection
from biaslab.metrics.quality import IntegrationQuality
from biaslab.models.architectures import ffn_shape, has_bias
from biaslab.models.fit import precision
from biaslab.models.loading import fingerprint, origin
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.store import computed_by, versions, write_atomically
from biaslab.tasks.base import LanguageModelTask, logger_folder
from biaslab.tasks.effects import collected_effects, measured_rise
from biaslab.tasks.selecting import Collected, require_known
from biaslab.tasks.shards import Collector, Ledger, Shards

Source = Literal["prompts", "contrast", "both"]
GUARD_WEIGHTS = {"guarded": 1.0, **{name: USUAL[name].guard_weight for name in AT_ALL_POSITIONS}}
WITHOUT_EFFECT = ("trust_remote_code", "token_budget", "save_every", "device_map")  # settings that don't affect results


class Attribution(LanguageModelTask):
    """Attribute the gap between demographics to neurons (IG²), select the bias neurons, and write ``neurons.json``.

    Args:
        model_name: an asset's name, a folder or a hub id.
        steps: number of quadrature nodes, or "auto" for as many as the tolerance needs.
        quadrature: quadrature rule for a fixed number of steps; see
            :func:`biaslab.attribution.quadrature.nodes_and_weights`.
        gap: "absolute" as in the paper, or "signed".
        of: "probability" for the paper's gap |P(d1) - P(d2)|, or "log_odds" for |log P(d1) - log P(d2)|, which measures
            the preference only.
        tolerance: for steps="auto", the largest completeness residual allowed, relative to a layer's L1 norm.
        selection: "paper" (votes), "ranked" (mean score), "guarded" (mean score with a penalty for neurons that
            ordinary sentences need), "fisher" (bias relative to the cost on ordinary text; needs data with
            contrast_positions "all") or "balanced" (like "fisher", but with a strength for each neuron, and
            amplification of neurons that counteract bias).
        threshold: for "paper", the share of a prompt's largest score that a neuron must reach.
        share: for "paper", the initial share of a group's prompts that must vote for a neuron.
        count: for all selections but "paper", the number of neurons; by default 2 % of all, 5 % for "balanced", and as
            many as the limit of perplexity allows for "fisher".
        perplexity_percent: for "fisher" and "balanced", the largest rise of perplexity allowed, in percent. It is
            predicted by the Fisher information, then measured on held-out ordinary text of the contrast set's sources.
        guard_weight: weight of the penalty for effects on ordinary sentences, for "guarded" (λ), "fisher" and
            "balanced" (μ); 1, 0.375 and 0.25 by default.
        guard: sources of the contrast set to compute the penalty from; all by default.
        knowledge_weight: for "fisher" and "balanced", the weight (ν) of the penalty for effects on knowledge; needs the
            source "knowledge" in the contrast set.
        source: for all selections but "paper", where bias is measured: on the "prompts", on the "contrast" set
            (StereoSet's test split, stereotype against anti-stereotype), or "both" for the sum.
        source_weights: for "fisher" and "balanced", instead of source: weights of "prompts", "contrast", "pairs" and
            "panda-pairs", each scaled by its largest effects.
        replacement: value that suppression sets neurons to, stored in the neuron file: "zero", "mean" for their means
            over the contrast set's ordinary text, or "auto" for "mean" if the architecture can store it. "fisher" and
            "balanced" measure effects relative to this value.
        domain_weights: for all selections but "paper", weights of StereoSet's domains, applied to the prompts of the
            corresponding dimension and the domain's part of the contrast set; by default unweighted.
        dtype: dtype of the weights: "float32", "float64", "bfloat16", "float16", or "auto" for the checkpoint's own.
        trust_remote_code: allow a checkpoint to run its own Python code.
        token_budget: maximum tokens, times the layers they pass through, computed at once; halved when memory runs out.
        save_every: interval in seconds at which finished batches are saved, so that an interrupted run can resume.
        device_map: None, or "auto" to split the layers of a large model over several devices.

    Raises:
        InputError: if an argument is out of range.

    Reference:
        "The Devil is in the Neurons" (ICLR 2024), sections 3.2 and 3.3.
    """

    last_file = "neurons.json"  # written last: a run with this file is finished
    ledger: Ledger | None = None  # None without a logger
    means: Tensor | None = None  # values that suppression sets the neurons to, [layer, neuron]; None for 0
    result: tuple[NeuronSet, Tensor] | None = None  # neurons and scores [pair, layer, neuron], in the main process

    def __init__(
        self,
        model_name: str = "minilm-mlm",
        steps: Steps = "auto",
        quadrature: str = "gauss_legendre",
        gap: Gap = "absolute",
        of: Of = "probability",
        tolerance: float = 0.01,
        selection: Selection = "ranked",
        threshold: float = 0.2,
        share: float = 0.7,
        count: int | None = None,
        perplexity_percent: float = 3.0,
        guard_weight: float | None = None,
        guard: list[str] | None = None,
        knowledge_weight: float = 0.0,
        source: Source = "prompts",
        source_weights: dict[str, float] | None = None,
        domain_weights: dict[str, float] | None = None,
        replacement: Replacement | Literal["auto"] = "zero",
        dtype: str = "float32",
        trust_remote_code: bool = False,
        token_budget: int = 8192,
        save_every: float = 30.0,
        device_map: str | None = None,
    ) -> None:
        integration_rule(steps, quadrature, tolerance)  # checks the values before the model is loaded
        require_one_of("replacement", replacement, [*get_args(Replacement), "auto"])
        require_one_of("of", of, get_args(Of))
        self.budget = TokenBudget(token_budget)
        super().__init__(model_name, dtype, trust_remote_code, device_map)
        self.save_hyperparameters()
        self.hparams["dtype"] = precision(self.model)  # resolves "auto" and quantised weights
        if replacement == "auto":
            self.hparams["replacement"] = "mean" if has_bias(self.model) else "zero"
        self.shape = ffn_shape(self.model)
        neurons = self.shape[0] * self.shape[1]
        if count is not None and not 0 < count <= neurons:
            raise InputError(f"`count` is expected to be between 1 and the model's {neurons} neurons but got {count}.")
        self.quality = IntegrationQuality()

    def configure_callbacks(self) -> list[Callback]:
        """Add a callback that saves an interrupted run, and prints how to resume."""
        return [_Interruption()]

    def prepare_data(self) -> None:
        """Check that all prompts are used, and that the folder belongs to no other run, before the logger writes."""
        require_all_batches(self.trainer)
        if not self.trainer.is_global_zero or self.trainer.logger is None:
            return
        folder = logger_folder(self.trainer) or Path(getattr(self.trainer.logger, "log_dir", ""))
        if (folder / "shards").exists():
            self.data.setup("predict")
            Shards(folder / "shards").open(self.configuration())
        elif (folder / self.last_file).exists():
            raise InputError(
                f"`version` is expected to name a folder for a new run but {folder} holds a finished one. Use "
                "another version, or remove the folder."
            )

    def setup(self, stage: str) -> None:
        """Create the metrics for the pairs of the data."""
        super().setup(stage)
        source = self.data.hparams["contrast"]
        require_known(self.hparams, source, self.data.hparams["contrast_positions"], self.data.pair_names)
        threshold = self.hparams["threshold"]
        self.prompts = NeuronSelection(self.data.pair_names, self.data.kind_names, self.shape, threshold)
        collectors: dict[str, Collector] = {"prompts": self.prompts, "quality": self.quality}
        self.contrast: NeuronSelection | None = None
        self.effects: NeuronEffects | None = None
        if source and self.data.hparams["contrast_positions"] == "all":
            collectors["effects"] = self.effects = NeuronEffects(self.data.quantities(), self.shape)
        elif source:
            self.contrast = NeuronSelection(contrast.pairs_of(source), ["contrast"], self.shape, threshold)
            collectors["contrast"] = self.contrast
        self.quality.reset()
        self.total_batches = len(self.data.batches) + len(self.data.contrast_batches)
        self._open_ledger(collectors)

    def _open_ledger(self, collectors: Mapping[str, Collector]) -> None:
        """Find the batches already finished by an earlier run in this folder."""
        self.ledger, self.finished = None, set[int]()
        self.run_folder = folder = self.folder  # must be called by all processes
        if self.trainer.logger is None:
            return
        shards = Shards(folder / "shards")
        if self.trainer.is_global_zero:
            shards.open(self.configuration())
            if not shards.lock():
                raise InputError(
                    f"`version` is expected to name a folder that no other run uses but another run is using {folder}. "
                    "Wait for it to finish, or use another version."
                )
            self.finished = shards.finished()
            if self.finished:
                print(f"Resuming in {folder}: {len(self.finished)} of {self.total_batches} batches are finished.")
        self.finished = self.trainer.strategy.broadcast(self.finished)
        if not (folder / "shards").exists():
            raise InputError(
                f"`save_dir` is expected to be on a file system shared by all nodes but node "
                f"{self.trainer.node_rank} can't find {folder}. Use another folder."
            )
        self.ledger = Ledger(collectors, shards, self.hparams["save_every"])

    def on_predict_start(self) -> None:
        """Check that gradients are enabled; compute the means that suppression sets neurons to, in the main process."""
        if torch.is_inference_mode_enabled():
            raise InputError("`inference_mode` is expected to be false but got true: attribution needs gradients.")
        if self.hparams["replacement"] == "mean":
            means = mean_activations(self.model, self.data.plain_batches()) if self.trainer.is_global_zero else None
            self.means = self.trainer.strategy.broadcast(means)

    def configuration(self) -> dict[str, Any]:
        """Return everything that the result depends on."""
        data = {"data": dict(self.data.hparams), "prompts": self.data.fingerprint}
        return {"model": self._settings(), "weights": fingerprint(self.model), **data, "versions": computed_by()}

    def _settings(self) -> dict[str, Any]:
        names = set(signature(Attribution).parameters) - set(WITHOUT_EFFECT)
        return {key: value for key, value in self.hparams.items() if key in names}

    def predict_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> Tensor | None:
        """Return a batch's scores, ``[batch, pair, layer, neuron]``; None if an earlier run has finished it."""
        if self.trainer.received_sigterm:  # Lightning records the signal but continues
            raise KeyboardInterrupt
        if batch["number"] in self.finished:
            return None
        is_prompt = dataloader_idx == 0
        if not is_prompt and self.effects is not None:
            self._add_effects(batch)
            return None
        if (result := self._attribute(batch, is_prompt)) is None:
            return None
        self._require_finite(batch, result.scores)
        with nullcontext() if self.ledger is None else self.ledger.item(batch["number"]):
            self._collect(batch, result, is_prompt)
        return result.scores

    def attribute(
        self, batch: Mapping[str, Any], is_prompt: bool = True, layers: Sequence[int] | None = None
    ) -> GapAttribution:
        """Attribute a batch of prompts, or of the contrast set (with signed gaps), in all layers by default."""
        options = {name: self.hparams[name] for name in ("steps", "quadrature", "gap", "tolerance", "of")}
        options |= {"layers": layers, "budget": self.budget} | ({} if is_prompt else {"gap": "signed"})
        return attribute_batch(self.model, batch, **options)

    def _attribute(self, batch: dict[str, Any], is_prompt: bool) -> GapAttribution | None:
        """Attribute a batch, or this process's layers of it; None if another process holds the sum."""
        processes, rank = self.trainer.world_size, self.trainer.global_rank
        if is_divided(self.data.batches if is_prompt else self.data.contrast_batches, processes):
            return self.attribute(batch, is_prompt)
        result = self.attribute(batch, is_prompt, layers_of(rank, processes, self.shape[0]))
        parts: list[Any] = [self.all_gather(part) for part in (result.scores, result.residual, result.nodes)]
        scores, residual, nodes = (part.sum(0) for part in parts)  # each process has 0 for the layers of the others
        return GapAttribution(scores, result.gap, residual, nodes) if rank == 0 else None

    def _require_finite(self, batch: dict[str, Any], scores: Tensor) -> None:
        if bad := (~scores.flatten(1).isfinite().all(1)).nonzero()[:, 0].tolist():
            text = self.tokenizer.decode(batch["input_ids"][bad[0]])
            raise InputError(
                f"`model_name` is expected to give finite attribution scores but {len(bad)} prompts of a batch have "
                f"NaN or infinite ones, the first is {text!r}. Check the weights, or use bfloat16 instead of float16."
            )

    def _collect(self, batch: dict[str, Any], result: GapAttribution, is_prompt: bool) -> None:
        metric = self.prompts if is_prompt else self.contrast
        assert metric is not None
        metric.update_batch(result.scores, batch)
        if is_prompt:
            self.quality.update(batch["number"], result.residual, result.scores.abs().sum(-1), result.nodes)

    def _add_effects(self, batch: dict[str, Any]) -> None:
        """Collect the effects of neurons, at all positions, on a batch of the contrast set or of text."""
        if self.trainer.global_rank and not is_divided(self.data.contrast_batches, self.trainer.world_size):
            return
        assert self.effects is not None
        parts = list(collected_effects(self.model, batch, self.means))
        with nullcontext() if self.ledger is None else self.ledger.item(batch["number"]):
            for part in parts:
                self.effects.update(*part)

    def on_predict_epoch_end(self) -> None:
        """Select the neurons and, if the logger provides a folder, write the files, the neuron file last."""
        if self.ledger is not None:
            self.ledger.write()
            self.trainer.strategy.barrier()
            if self.trainer.is_global_zero:
                self.ledger.gather()  # results of all processes, including earlier runs
        neurons, scores, summary = self.select(self.hparams["selection"]), self.prompts.pair_scores(), self.summary()
        at_all = {} if self.effects is None else dict(zip(self.effects.quantities, self.effects.compute(), strict=True))
        if not self.trainer.is_global_zero or self.ledger is None:  # the code above gathers from all ranks
            return
        content = safetensors.torch.save(
            {"scores": scores.float().cpu(), "counts": self.prompts.counts.cpu()},
            {"pairs": json.dumps(self.data.pair_names)},  # a single entry: safetensors does not keep their order
        )
        write_atomically(self.run_folder / "scores.safetensors", content)
        if at_all:
            write_atomically(self.run_folder / "effects.safetensors", safetensors.torch.save(at_all))
        neurons.save(self.run_folder / self.last_file)
        self.result = neurons, scores
        self.ledger.shards.clear()
        print(f"{len(neurons)} neurons written to {self.run_folder / self.last_file}; {summary}")
        for pair, why in self.data.dropped.items():
            print(f"Dropped {pair}: {why}")

    def select(self, selection: Selection, **changes: Any) -> NeuronSet:
        """Select bias neurons from the prompts seen so far, with subsets for each pair and dimension.

        Args:
            selection: selection rule; see the class.
            changes: other values for settings that matter only after the pass, from ``share`` to ``domain_weights``.
                With ``predicted_percent``, the rise of perplexity is predicted by the Fisher information, not measured.
        """
        settings = self._settings() | changes
        if settings["guard_weight"] is None:
            settings["guard_weight"] = GUARD_WEIGHTS.get(selection)
        collected = Collected(self.prompts, self.contrast, self.effects, self.data.hparams["contrast"])
        if selection in AT_ALL_POSITIONS:
            settings.setdefault("predicted_percent", None)
            free = settings["predicted_percent"] is None and (selection == "balanced" or settings["count"] is None)
            if free:
                rise = measured_rise(self.model, self.data.other_batches(), self.means)
                settings |= collected.weighing(selection, settings).affordable(rise)
        provenance = self._provenance(settings | {"selection": selection})
        if selection == "paper":
            neurons, subsets, provenance["settings"]["shares_used"] = collected.paper(settings["share"])
        else:
            neurons, subsets = collected.best(selection, settings)
        return neurons.with_details(subsets, provenance).with_values(self.means)

    def summary(self) -> str:
        """Return a one-line summary of what was attributed, and how accurately."""
        quality = self.quality.compute()
        return (
            f"{len(self.data.prompts)} prompts, {len(self.data.pair_names)} pairs, "
            f"{len(self.data.dropped)} pairs dropped; {self.hparams['dtype']}, {quality.nodes:.1f} nodes on average, "
            f"{quality.most_nodes} at most; residual {quality.mean:.1e} on average, {quality.worst:.1e} at most"
        )

    def _provenance(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        quality, (layers, width) = self.quality.compute(), self.shape
        mean, worst, nodes = (float(f"{figure:.3g}") for figure in (quality.mean, quality.worst, quality.nodes))
        model = origin(self.hparams["model_name"], fingerprint(self.model))
        return {
            "model": {**model, "layers": layers, "width": width},
            "settings": {key: value for key, value in settings.items() if key != "model_name"},
            "data": {
                "fingerprint": self.data.fingerprint,
                "prompts": len(self.data.prompts),
                "dropped": self.data.dropped,
                "silent": int(self.prompts.compute()["silent"].sum()),  # prompts times pairs without votes
                "contrast": self.data.hparams["contrast"],
            },
            "residual": {"mean": mean, "worst": worst},
            "nodes": {"mean": nodes, "most": quality.most_nodes},
            "versions": versions(),
        }


class _Interruption(Callback):
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save finished batches; if interrupted by the user, print how to resume."""
        assert isinstance(pl_module, Attribution)
        ledger = pl_module.ledger
        if ledger is None or (isinstance(exception, InputError) and "`folder`" in str(exception)):
            return
        ledger.write()
        if isinstance(exception, KeyboardInterrupt) and trainer.is_global_zero:
            done = len(ledger.shards.finished())
            print(
                f"\nStopped after {done} of {pl_module.total_batches} batches, saved in {pl_module.run_folder}. Run "
                "the same command to resume."
            )


def require_all_batches(trainer: Trainer) -> None:
    """Check that no option limits the prompts, since a neuron file claims to be found with all of them.

    Raises:
        InputError: if ``limit_predict_batches`` or ``fast_dev_run`` is set.
    """
    limit = trainer.limit_predict_batches
    part = "fast_dev_run" if trainer.fast_dev_run else "limit_predict_batches"  # type: ignore[attr-defined]
    if part == "fast_dev_run" or not (isinstance(limit, float) and limit == 1.0):
        raise InputError(
            f"`{part}` is expected to be unset, because a neuron file records that all prompts of the data were "
            "used. For fewer prompts, set `modifiers`, `kinds`, `dimensions` or `contrast_limit` of the data."
        )


def layers_of(rank: int, processes: int, layers: int) -> list[int]:
    """Return the layers that a process attributes, assigned back and forth because early layers cost more.

    >>> [layers_of(rank, 2, 6) for rank in (0, 1)]
    [[0, 3, 4], [1, 2, 5]]
    """
    round_trip = [*range(processes), *reversed(range(processes))]
    return [layer for layer in range(layers) if round_trip[layer % len(round_trip)] == rank]
