"""The attribution pass: prompts in, a file of bias neurons out."""

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
WITHOUT_EFFECT = ("trust_remote_code", "token_budget", "save_every", "device_map")  # on the result


class Attribution(LanguageModelTask):
    """Attribute the gap between demographics to neurons (IG²), select the bias neurons, and write ``neurons.json``.

    Args:
        model_name: an asset's name, a folder or a hub id.
        steps: nodes of the quadrature; or "auto": as many as the tolerance asks for.
        quadrature: see :func:`biaslab.attribution.quadrature.nodes_and_weights`; for a fixed number of steps.
        gap: "absolute", the paper's, or "signed".
        of: "probability", the paper's gap |P(d1) - P(d2)|, or "log_odds", |log P(d1) - log P(d2)|: preference alone.
        tolerance: of steps="auto": the largest completeness residual, relative to a layer's L1 norm.
        selection: "paper" (votes), "ranked" (mean score), "guarded" (ranked, sparing what ordinary sentences need),
            "fisher" (bias for what ordinary text loses; needs data with contrast_positions "all") or "balanced" (as
            "fisher", but each neuron by its own measure, and those that hold against bias are strengthened).
        threshold: of the votes: share of a prompt's largest score that a neuron must reach.
        share: of the votes: share of a group's prompts that must keep the neuron.
        count: of all but "paper": how many neurons; by default 2 % of all, of "balanced" 5 %, and of "fisher" as many
            as the perplexity allows.
        perplexity_percent: of "fisher" and "balanced": by how much suppression may raise perplexity. The Fisher
            information says where to begin; it is measured on ordinary text of the contrast set's sources that nothing
            else is asked of.
        guard_weight: of "guarded" (λ), "fisher" and "balanced" (μ): how much what ordinary sentences need counts
            against a neuron; 1, 0.375 and 0.25 by default.
        guard: which of the contrast set's sources the guard is made from; all by default.
        knowledge_weight: of "fisher" and "balanced" (ν): how much what knowledge needs counts against a neuron, by the
            source "knowledge" of the contrast set.
        source: of all but "paper": where bias is read: the "prompts", the "contrast" set (StereoSet's test split,
            stereotype against anti-stereotype), or "both", added.
        source_weights: of "fisher" and "balanced", instead: how much each of "prompts", "contrast", "pairs" and
            "panda-pairs" counts, each scaled by its largest effects.
        replacement: what suppression sets the neurons to, which their file then says: "zero", or "mean", their means
            over the contrast set's ordinary text; "auto" takes the mean where the weights can hold it. "fisher" and
            "balanced" measure effects on the way there.
        domain_weights: of the same: how much the bias of each of StereoSet's domains counts, read from
            its dimension's prompts and its part of the contrast set; by default all prompts and sentences count alike.
        dtype: the weights' type: "float32", "float64", "bfloat16", "float16", or "auto" for the checkpoint's own.
        trust_remote_code: let a checkpoint bring its own Python code.
        token_budget: how many tokens, times the layers that they pass through, travel together; halved where memory
            runs out.
        save_every: seconds after which what is finished is written, so that a killed run goes on from there.
        device_map: None, or "auto": the layers of a model that one device has no room for on several of them.

    Raises:
        InputError: if an argument is out of its range.

    Reference:
        "The Devil is in the Neurons" (ICLR 2024), sections 3.2 and 3.3.
    """

    last_file = "neurons.json"  # a run that has written it is finished
    ledger: Ledger | None = None  # none without a logger
    means: Tensor | None = None  # that suppression sets the neurons to, [layer, neuron]; None for 0
    result: tuple[NeuronSet, Tensor] | None = None  # what the main process has written; scores [pair, layer, neuron]

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
        integration_rule(steps, quadrature, tolerance)  # refuses bad values before the model is loaded
        require_one_of("replacement", replacement, [*get_args(Replacement), "auto"])
        require_one_of("of", of, get_args(Of))
        self.budget = TokenBudget(token_budget)
        super().__init__(model_name, dtype, trust_remote_code, device_map)
        self.save_hyperparameters()
        self.hparams["dtype"] = precision(self.model)  # where it was "auto", or the weights are quantised
        if replacement == "auto":
            self.hparams["replacement"] = "mean" if has_bias(self.model) else "zero"
        self.shape = ffn_shape(self.model)
        neurons = self.shape[0] * self.shape[1]
        if count is not None and not 0 < count <= neurons:
            raise InputError(f"`count` is expected to lie between 1 and the model's {neurons} neurons but got {count}.")
        self.quality = IntegrationQuality()

    def configure_callbacks(self) -> list[Callback]:
        """Let a broken-off run end at a clean place, and say how to go on."""
        return [_Interruption()]

    def prepare_data(self) -> None:
        """Refuse to use only some of the prompts; and a folder of another run, before the logger writes into it."""
        require_all_batches(self.trainer)
        if not self.trainer.is_global_zero or self.trainer.logger is None:
            return
        folder = logger_folder(self.trainer) or Path(getattr(self.trainer.logger, "log_dir", ""))
        if (folder / "shards").exists():
            self.data.setup("predict")
            Shards(folder / "shards").open(self.configuration())
        elif (folder / self.last_file).exists():
            raise InputError(
                f"`version` is expected to name a folder for a new run, but {folder} holds a finished one. Choose "
                "another, or remove that one."
            )

    def setup(self, stage: str) -> None:
        """Prepare the selection for the pairs of the data."""
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
        """Find the batches that an earlier run in this folder has finished."""
        self.ledger, self.finished = None, set[int]()
        self.run_folder = folder = self.folder  # asked for once, by all processes together
        if self.trainer.logger is None:
            return
        shards = Shards(folder / "shards")
        if self.trainer.is_global_zero:
            shards.open(self.configuration())
            if not shards.lock():
                raise InputError(
                    f"`version` is expected to name a folder that no other run works in, but one works in {folder}. "
                    "Wait for it, or choose another."
                )
            self.finished = shards.finished()
            if self.finished:
                print(f"Resuming in {folder}: {len(self.finished)} of {self.total_batches} batches are finished.")
        self.finished = self.trainer.strategy.broadcast(self.finished)
        if not (folder / "shards").exists():
            raise InputError(
                f"`save_dir` is expected to lie on a file system that all nodes share, but node "
                f"{self.trainer.node_rank} does not see {folder}. Choose another."
            )
        self.ledger = Ledger(collectors, shards, self.hparams["save_every"])

    def on_predict_start(self) -> None:
        """Refuse inference mode; measure the means that suppression sets neurons to, in the main process for all."""
        if torch.is_inference_mode_enabled():
            raise InputError("`inference_mode` is expected to be false but got true: attribution needs gradients.")
        if self.hparams["replacement"] == "mean":
            means = mean_activations(self.model, self.data.plain_batches()) if self.trainer.is_global_zero else None
            self.means = self.trainer.strategy.broadcast(means)

    def configuration(self) -> dict[str, Any]:
        """Return all that the result depends on."""
        data = {"data": dict(self.data.hparams), "prompts": self.data.fingerprint}
        return {"model": self._settings(), "weights": fingerprint(self.model), **data, "versions": computed_by()}

    def _settings(self) -> dict[str, Any]:
        names = set(signature(Attribution).parameters) - set(WITHOUT_EFFECT)
        return {key: value for key, value in self.hparams.items() if key in names}

    def predict_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> Tensor | None:
        """Return a batch's scores, ``[batch, pair, layer, neuron]``; None where an earlier run has finished it."""
        if self.trainer.received_sigterm:  # Lightning takes note of the signal, and goes on
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
        """Attribute a batch of prompts, or of the contrast set, whose gaps are signed; in all layers by default."""
        options = {name: self.hparams[name] for name in ("steps", "quadrature", "gap", "tolerance", "of")}
        options |= {"layers": layers, "budget": self.budget} | ({} if is_prompt else {"gap": "signed"})
        return attribute_batch(self.model, batch, **options)

    def _attribute(self, batch: dict[str, Any], is_prompt: bool) -> GapAttribution | None:
        """Attribute a batch, or this process's layers of it; None where another process has the sum of them."""
        processes, rank = self.trainer.world_size, self.trainer.global_rank
        if is_divided(self.data.batches if is_prompt else self.data.contrast_batches, processes):
            return self.attribute(batch, is_prompt)
        result = self.attribute(batch, is_prompt, layers_of(rank, processes, self.shape[0]))
        parts: list[Any] = [self.all_gather(part) for part in (result.scores, result.residual, result.nodes)]
        scores, residual, nodes = (part.sum(0) for part in parts)  # of the layers of the other processes they are 0
        return GapAttribution(scores, result.gap, residual, nodes) if rank == 0 else None

    def _require_finite(self, batch: dict[str, Any], scores: Tensor) -> None:
        if bad := (~scores.flatten(1).isfinite().all(1)).nonzero()[:, 0].tolist():
            text = self.tokenizer.decode(batch["input_ids"][bad[0]])
            raise InputError(
                f"`model_name` is expected to give finite attribution scores, but {len(bad)} prompts of a batch have "
                f"NaN or infinite ones, the first: {text!r}. Check the weights; float16 may overflow, bfloat16 doesn't."
            )

    def _collect(self, batch: dict[str, Any], result: GapAttribution, is_prompt: bool) -> None:
        metric = self.prompts if is_prompt else self.contrast
        assert metric is not None
        metric.update_batch(result.scores, batch)
        if is_prompt:
            self.quality.update(batch["number"], result.residual, result.scores.abs().sum(-1), result.nodes)

    def _add_effects(self, batch: dict[str, Any]) -> None:
        """Collect what neurons do at all positions to a batch of the contrast set or of text."""
        if self.trainer.global_rank and not is_divided(self.data.contrast_batches, self.trainer.world_size):
            return
        assert self.effects is not None
        parts = list(collected_effects(self.model, batch, self.means))
        with nullcontext() if self.ledger is None else self.ledger.item(batch["number"]):
            for part in parts:
                self.effects.update(*part)

    def on_predict_epoch_end(self) -> None:
        """Select the neurons and, where a logger gives the run a folder, write the files, the neurons last."""
        if self.ledger is not None:
            self.ledger.write()
            self.trainer.strategy.barrier()
            if self.trainer.is_global_zero:
                self.ledger.gather()  # what all processes have finished, those of earlier runs too
        neurons, scores, summary = self.select(self.hparams["selection"]), self.prompts.pair_scores(), self.summary()
        at_all = {} if self.effects is None else dict(zip(self.effects.quantities, self.effects.compute(), strict=True))
        if not self.trainer.is_global_zero or self.ledger is None:  # what comes before gathers from all ranks
            return
        content = safetensors.torch.save(
            {"scores": scores.float().cpu(), "counts": self.prompts.counts.cpu()},
            {"pairs": json.dumps(self.data.pair_names)},  # one entry: safetensors writes several in any order
        )
        write_atomically(self.run_folder / "scores.safetensors", content)
        if at_all:
            write_atomically(self.run_folder / "effects.safetensors", safetensors.torch.save(at_all))
        neurons.save(self.run_folder / self.last_file)
        self.result = neurons, scores
        self.ledger.shards.clear()
        print(f"{len(neurons)} neurons in {self.run_folder / self.last_file}; {summary}")
        for pair, why in self.data.dropped.items():
            print(f"dropped {pair}: {why}")

    def select(self, selection: Selection, **changes: Any) -> NeuronSet:
        """Return the bias neurons of the prompts seen so far, with the sets of each pair and dimension.

        Of the task's settings, those that matter after the pass can change: from ``share`` to ``domain_weights``; and
        ``predicted_percent``, the rise of perplexity that the Fisher information should predict, is not measured then.
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
        """Return a line about what was attributed and how well."""
        quality = self.quality.compute()
        return (
            f"{len(self.data.prompts)} prompts, {len(self.data.pair_names)} pairs, "
            f"{len(self.data.dropped)} pairs dropped; {self.hparams['dtype']}, {quality.nodes:.1f} nodes on average, "
            f"{quality.most_nodes} at most; residual {quality.mean:.1e} on average, {quality.worst:.1e} at worst"
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
                "silent": int(self.prompts.compute()["silent"].sum()),  # prompts times pairs that vote for nothing
                "contrast": self.data.hparams["contrast"],
            },
            "residual": {"mean": mean, "worst": worst},
            "nodes": {"mean": nodes, "most": quality.most_nodes},
            "versions": versions(),
        }


class _Interruption(Callback):
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Keep what is finished; of an interruption by the user, say how to go on."""
        assert isinstance(pl_module, Attribution)
        ledger = pl_module.ledger
        if ledger is None or (isinstance(exception, InputError) and "`folder`" in str(exception)):
            return
        ledger.write()
        if isinstance(exception, KeyboardInterrupt) and trainer.is_global_zero:
            done = len(ledger.shards.finished())
            print(
                f"\nStopped after {done} of {pl_module.total_batches} batches, kept in {pl_module.run_folder}. Run the "
                "same command to resume."
            )


def require_all_batches(trainer: Trainer) -> None:
    """Refuse options by which neurons would be found with other prompts than their file says.

    Raises:
        InputError: if ``limit_predict_batches`` or ``fast_dev_run`` is set.
    """
    limit = trainer.limit_predict_batches
    part = "fast_dev_run" if trainer.fast_dev_run else "limit_predict_batches"  # type: ignore[attr-defined]
    if part == "fast_dev_run" or not (isinstance(limit, float) and limit == 1.0):
        raise InputError(
            f"`{part}` is expected to be left alone: a neuron file names all prompts of the data, and a run that goes "
            "on reads each. Take fewer prompts by the data's `modifiers`, `kinds`, `dimensions` and `contrast_limit`."
        )


def layers_of(rank: int, processes: int, layers: int) -> list[int]:
    """Return the layers that a process attributes, dealt out to and fro: early ones cost more than late ones.

    >>> [layers_of(rank, 2, 6) for rank in (0, 1)]
    [[0, 3, 4], [1, 2, 5]]
    """
    round_trip = [*range(processes), *reversed(range(processes))]
    return [layer for layer in range(layers) if round_trip[layer % len(round_trip)] == rank]
