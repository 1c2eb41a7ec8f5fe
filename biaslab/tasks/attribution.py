"""The attribution pass: prompts in, a file of bias neurons out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from inspect import signature
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.tensorboard.writer import SummaryWriter

from biaslab import boards
from biaslab.architectures import ffn_shape, fingerprint
from biaslab.artifacts import versions
from biaslab.attribution import Gap, GapAttribution, Steps, attribute_gaps, integration_rule
from biaslab.data import contrast
from biaslab.data.prompts import is_divided
from biaslab.errors import InputError
from biaslab.ledger import Collector, Ledger
from biaslab.metrics.quality import IntegrationQuality
from biaslab.metrics.selection import NeuronSelection
from biaslab.neurons import NeuronSet
from biaslab.paths import Inputs, TokenBudget
from biaslab.selecting import DIMENSION_OF, Collected
from biaslab.shards import Shards, write_atomically
from biaslab.tasks.base import LanguageModelTask

Selection = Literal["paper", "ranked", "guarded"]
Source = Literal["prompts", "contrast", "both"]
WITHOUT_EFFECT = ("trust_remote_code", "token_budget", "save_every")  # on the result


class Attribution(LanguageModelTask):
    """Attribute the gap between demographics to neurons (IG²), select the bias neurons, and write ``neurons.json``.

    Args:
        model_name: an asset's name, a folder or a hub id.
        steps: nodes of the quadrature; or "auto": as many as the tolerance asks for.
        quadrature: see :func:`biaslab.quadrature.nodes_and_weights`; for a fixed number of steps.
        gap: "absolute", the paper's, or "signed".
        tolerance: of steps="auto": the largest completeness residual, relative to a layer's L1 norm.
        selection: "paper" (votes), "ranked" (mean score) or "guarded" (ranked, sparing what ordinary sentences need).
        threshold: of the votes: share of a prompt's largest score that a neuron must reach.
        share: of the votes: share of a group's prompts that must keep the neuron.
        count: of "ranked" and "guarded": how many neurons; 2 % of all by default.
        guard_weight: of "guarded": how much what ordinary sentences need counts against a neuron (λ).
        guard: which of the contrast set's sources the guard is made from; all by default.
        source: of "ranked" and "guarded": where bias is read: the "prompts", the "contrast" set (StereoSet's test
            split, stereotype against anti-stereotype), or "both", added.
        domain_weights: of "ranked" and "guarded": how much the bias of each of StereoSet's domains counts, read from
            its dimension's prompts and its part of the contrast set; by default all prompts and sentences count alike.
        dtype: the weights' type.
        trust_remote_code: let a checkpoint bring its own Python code.
        token_budget: how many tokens, times the layers that they pass through, travel together; halved where memory
            runs out.
        save_every: seconds after which what is finished is written, so that a killed run goes on from there.

    Raises:
        InputError: if an argument is out of its range.

    Reference:
        "The Devil is in the Neurons" (ICLR 2024), sections 3.2 and 3.3.
    """

    def __init__(
        self,
        model_name: str = "minilm-mlm",
        steps: Steps = "auto",
        quadrature: str = "gauss_legendre",
        gap: Gap = "absolute",
        tolerance: float = 0.01,
        selection: Selection = "ranked",
        threshold: float = 0.2,
        share: float = 0.7,
        count: int | None = None,
        guard_weight: float = 1.0,
        guard: list[str] | None = None,
        source: Source = "prompts",
        domain_weights: dict[str, float] | None = None,
        dtype: str = "float32",
        trust_remote_code: bool = False,
        token_budget: int = 8192,
        save_every: float = 30.0,
    ) -> None:
        integration_rule(steps, quadrature, tolerance)  # refuses bad values before the model is loaded
        self.budget = TokenBudget(token_budget)
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
        self.quality = IntegrationQuality()

    def prepare_data(self) -> None:
        """Refuse a folder of another run, before the logger writes into it."""
        if not self.trainer.is_global_zero or self.trainer.logger is None:
            return
        folder = Path(getattr(self.trainer.logger, "log_dir", None) or "")
        if (folder / "shards").exists():
            self.data.setup("predict")
            Shards(folder / "shards").open(self._configuration())
        elif (folder / "neurons.json").exists():
            raise InputError(
                f"`version` is expected to name a folder for a new run, but {folder} holds a finished one. Choose "
                "another, or remove that one."
            )

    def setup(self, stage: str) -> None:
        """Prepare the selection for the pairs of the data."""
        source = self.data.hparams["contrast"]
        needs = self.hparams["selection"] == "guarded" or self.hparams["source"] != "prompts"
        if needs and not contrast.sources_of(source):
            raise InputError(
                "`contrast` is expected to name a contrast set for this selection but is None. Give the data one."
            )
        if self.hparams["source"] != "prompts" and "stereoset" not in contrast.sources_of(source):
            raise InputError(f'`contrast` is expected to have "stereoset" for this source but got {source!r}.')
        self._check_sets(source)
        rule = {"threshold": self.hparams["threshold"], "share": self.hparams["share"]}
        self.prompts = NeuronSelection(self.data.pair_names, self.data.kind_names, self.shape, **rule)
        self.collectors: dict[str, Collector] = {"prompts": self.prompts, "quality": self.quality}
        self.contrast: NeuronSelection | None = None
        if source:
            self.contrast = NeuronSelection(contrast.pairs_of(source), ["contrast"], self.shape, **rule)
            self.collectors["contrast"] = self.contrast
        self.quality.reset()
        self.ledger: Ledger | None = None
        self.finished: set[int] = set()
        self.run_folder = self.folder  # asked for once, by all processes together
        if self.trainer.logger is not None:
            self._open_ledger()

    def _check_sets(self, source: contrast.Contrast) -> None:
        """Refuse what `guard` and `domain_weights` name and there is not."""
        for name, known in (("guard", contrast.sources_of(source)), ("domain_weights", list(DIMENSION_OF))):
            unknown = [value for value in self.hparams[name] or () if value not in known]
            if unknown:
                raise InputError(
                    f"`{name}` is expected to be of {', '.join(known) or 'nothing'} but got {', '.join(unknown)}."
                )
        asked = {name.partition("/")[0] for name in self.data.pair_names}
        for dimension in (DIMENSION_OF[domain] for domain in self.hparams["domain_weights"] or ()):
            if dimension not in asked:
                raise InputError(
                    f"`domain_weights` is expected to name domains that there are prompts for, but {dimension} is not "
                    "among the `dimensions`. Add it to the data, or leave the domain out."
                )

    def _open_ledger(self) -> None:
        """Find what is finished in the run's folder."""
        folder = self.run_folder
        shards = Shards(folder / "shards", report=print)
        if self.trainer.is_global_zero:
            shards.open(self._configuration())
            if not shards.lock():
                raise InputError(
                    f"`version` is expected to name a folder that no other run works in, but one works in {folder}. "
                    "Wait for it, or choose another."
                )
            self.finished = shards.finished()
            if self.finished:
                print(f"going on in {folder}: {len(self.finished)} of {self._batches()} batches are finished")
        self.finished = self.trainer.strategy.broadcast(self.finished)
        if not (folder / "shards").exists():
            raise InputError(
                f"`save_dir` is expected to lie on a file system that all nodes share, but node "
                f"{self.trainer.node_rank} does not see {folder}. Choose another."
            )
        self.ledger = Ledger(self.collectors, shards, self.hparams["save_every"])

    def _batches(self) -> int:
        return len(self.data.batches) + len(self.data.contrast_batches)

    def _configuration(self) -> dict[str, Any]:
        """Return all that the result depends on."""
        return {
            "model": self._settings(),
            "weights": fingerprint(self.model),
            "data": dict(self.data.hparams),
            "prompts": self.data.fingerprint,
            "versions": versions(),
        }

    def _settings(self) -> dict[str, Any]:
        """Return the arguments that the result depends on."""
        names = set(signature(Attribution).parameters) - set(WITHOUT_EFFECT)
        return {key: value for key, value in self.hparams.items() if key in names}

    def configure_callbacks(self) -> list[Callback]:
        """Let a broken-off run end at a clean place, and say how to go on."""
        return [_Interruption()]

    def predict_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> Tensor | None:
        """Attribute a batch of prompts times interpolation nodes.

        Returns:
            Scores, ``[batch, pair, layer, neuron]``; None for a batch that an earlier run has finished.
        """
        if self.trainer.received_sigterm:  # Lightning takes note of the signal, and goes on
            raise KeyboardInterrupt
        if batch["number"] in self.finished:
            return None
        is_prompt = dataloader_idx == 0
        result = self._attribute(batch, is_prompt)
        if result is None:
            return None
        self._require_finite(batch, result.scores)
        with nullcontext() if self.ledger is None else self.ledger.item(batch["number"]):
            self._collect(batch, result, is_prompt)
        return result.scores

    def attribute(
        self, batch: Mapping[str, Any], is_prompt: bool = True, layers: Sequence[int] | None = None
    ) -> GapAttribution:
        """Attribute a batch with the task's settings.

        Args:
            batch: as :class:`biaslab.data.prompts.PromptDataModule` makes them.
            is_prompt: whether it is one of prompts; the gaps of the contrast set are signed.
            layers: that are attributed; all by default.
        """
        return attribute_gaps(
            self.model,
            batch["input_ids"],
            batch["position"],
            batch["target_ids"],
            batch["pairs"],
            steps=self.hparams["steps"],
            quadrature=self.hparams["quadrature"],
            gap=self.hparams["gap"] if is_prompt else "signed",
            tolerance=self.hparams["tolerance"],
            layers=layers,
            budget=self.budget,
            longer=[Inputs(**inputs) for inputs in batch.get("longer", ())],
        )

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
        bad = (~scores.flatten(1).isfinite().all(1)).nonzero()[:, 0].tolist()
        if bad:
            text = self.tokenizer.decode(batch["input_ids"][bad[0]])
            raise InputError(
                f"`model_name` is expected to give finite attribution scores, but {len(bad)} prompts of a batch have "
                f"NaN or infinite ones, the first: {text!r}. Check the weights; float16 may overflow, bfloat16 doesn't."
            )

    def _collect(self, batch: dict[str, Any], result: GapAttribution, is_prompt: bool) -> None:
        prompts, pairs = result.scores.shape[:2]
        metric = self.prompts if is_prompt else self.contrast
        assert metric is not None
        metric.update(
            result.scores.flatten(0, 1),
            batch["pair"].repeat(prompts),
            batch["kind"].repeat_interleave(pairs),
            batch["group"].repeat_interleave(pairs),
        )
        if is_prompt:
            self.quality.update(batch["number"], result.residual, result.scores.abs().sum(-1), result.nodes)

    def on_predict_epoch_end(self) -> None:
        """Select the neurons and, where a logger gives the run a folder, write the files."""
        if self.ledger is not None:
            self.ledger.write()
            self.trainer.strategy.barrier()
            if self.trainer.is_global_zero:
                self.ledger.gather()
        neurons, scores, summary = self.select(self.hparams["selection"]), self.prompts.pair_scores(), self.summary()
        if self.trainer.is_global_zero and self.ledger is not None:  # what comes before gathers from all ranks
            self._write(neurons, scores)
            self.ledger.shards.clear()
            print(f"{len(neurons)} neurons in {self.run_folder / 'neurons.json'}; {summary}")
            for pair, why in self.data.dropped.items():
                print(f"dropped {pair}: {why}")

    def _write(self, neurons: NeuronSet, scores: Tensor) -> None:
        """Write the scores and, last, the neurons."""
        path = self.run_folder / "scores.safetensors"
        content = safetensors.torch.save(
            {"scores": scores.float().cpu(), "counts": self.prompts.counts.cpu()},
            {"pairs": json.dumps(self.data.pair_names)},  # one entry: safetensors writes several in any order
        )
        write_atomically(path, content)
        neurons.save(self.run_folder / "neurons.json")
        self._log(neurons, scores)

    def select(self, selection: Selection, **changes: Any) -> NeuronSet:
        """Return the bias neurons of the prompts seen so far, with the sets of each pair and dimension.

        Args:
            selection: "paper", "ranked" or "guarded".
            changes: other values than the task's for the arguments that matter after the pass: ``share``, ``count``,
                ``guard_weight``, ``guard``, ``source`` and ``domain_weights``.
        """
        settings = self._settings() | changes
        collected = Collected(self.prompts, self.contrast, self.data.hparams["contrast"])
        provenance = self._provenance(settings | {"selection": selection})
        if selection == "paper":
            neurons, subsets, provenance["settings"]["shares_used"] = collected.paper(settings["share"])
        else:
            neurons, subsets = collected.best(selection == "guarded", settings)
        return neurons.with_details(subsets, provenance)

    def residual(self) -> tuple[float, float]:
        """Return the completeness residual relative to the scores' L1 norm: on average, and the worst."""
        quality = self.quality.compute()
        return quality.mean, quality.worst

    def summary(self) -> str:
        """Return a line about what was attributed and how well."""
        quality = self.quality.compute()
        return (
            f"{len(self.data.prompts)} prompts, {len(self.data.pair_names)} pairs, "
            f"{len(self.data.dropped)} pairs dropped; {self.hparams['dtype']}, {quality.nodes:.1f} nodes on average, "
            f"{quality.most_nodes} at most; residual {quality.mean:.1e} on average, {quality.worst:.1e} at worst"
        )

    def _provenance(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        quality = self.quality.compute()
        return {
            "model": {
                "name": self.hparams["model_name"],
                "fingerprint": fingerprint(self.model),
                "layers": self.shape[0],
                "width": self.shape[1],
            },
            "settings": {key: value for key, value in settings.items() if key != "model_name"},
            "data": {
                "fingerprint": self.data.fingerprint,
                "prompts": len(self.data.prompts),
                "dropped": self.data.dropped,
                "silent": int(self.prompts.compute()["silent"].sum()),  # prompts times pairs that vote for nothing
                "contrast": self.data.hparams["contrast"],
            },
            "residual": {"mean": _rounded(quality.mean), "worst": _rounded(quality.worst)},
            "nodes": {"mean": _rounded(quality.nodes), "most": quality.most_nodes},
            "versions": versions(),
        }

    def _log(self, neurons: NeuronSet, scores: Tensor) -> None:
        """Write to TensorBoard, where that is the logger."""
        writer = getattr(self.logger, "experiment", None)
        if isinstance(writer, SummaryWriter):
            boards.log_neurons(writer, neurons, scores.nanmean(0))
            words = {name: dimension.words for name, dimension in self.data.dimensions.items()}
            boards.log_prompts(writer, self.data.prompts, words)


def layers_of(rank: int, processes: int, layers: int) -> list[int]:
    """Return the layers that a process attributes where all work on the same prompts.

    A layer costs the more, the more layers come after it: they are dealt out to and fro.

    >>> [layers_of(rank, 2, 6) for rank in (0, 1)]
    [[0, 3, 4], [1, 2, 5]]
    """
    return [layer for layer in range(layers) if rank == _dealt(layer, processes)]


def _dealt(card: int, players: int) -> int:
    place = card % (2 * players)
    return min(place, 2 * players - 1 - place)


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


class _Interruption(Callback):
    """Writes what is finished when a run is broken off, and says how to go on."""

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Keep what is finished; of an interruption by the user, say so."""
        ledger = getattr(pl_module, "ledger", None)
        if not isinstance(ledger, Ledger) or (isinstance(exception, InputError) and "`folder`" in str(exception)):
            return
        ledger.write()
        if isinstance(exception, KeyboardInterrupt) and trainer.is_global_zero:
            assert isinstance(pl_module, Attribution)
            done = len(ledger.shards.finished())
            print(
                f"\nstopped: {done} of {pl_module._batches()} batches are finished in {pl_module.run_folder}; the same "
                "command goes on from there"
            )
