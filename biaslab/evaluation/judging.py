"""Judging a model in any state: StereoSet's scores and the likelihood of ordinary text, kept on disk."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import torch
from accelerate.utils import send_to_device  # type: ignore[import-untyped]
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from biaslab.data.stereoset import StereoSetDataModule
from biaslab.evaluation.gaps import negative_log_likelihoods
from biaslab.evaluation.scoring import score_clusters
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.neurons.suppression import suppressed_where
from biaslab.store import Artifacts, digest, load_tensors, save_tensors, versions
from biaslab.tasks.evaluation import Evaluation


class State(NamedTuple):
    """What is done to a model.

    Attributes:
        weights: the fingerprint of the model's weights.
        neurons: that are multiplied by ``factor``; none of them where it is None.
        factor: 0 suppresses.
        positions: where: "all" or "slot".
    """

    weights: str
    neurons: NeuronSet | None = None
    factor: float = 0.0
    positions: Literal["all", "slot"] = "all"


class Judged(NamedTuple):
    """What came out.

    Attributes:
        evaluation: StereoSet's scores, by cluster.
        likelihoods: negative log-likelihood and number of tokens of each ordinary sentence, ``[sentence, 2]``, in nats.
        seconds: that it took.
    """

    evaluation: Evaluation
    likelihoods: Tensor
    seconds: float


class Judge:
    """Judges states of a model; what was judged before is read from disk.

    Args:
        artifacts: where the figures are kept.
        data: StereoSet, set up for "test".
        sentences: ordinary text.
    """

    def __init__(self, artifacts: Artifacts, data: StereoSetDataModule, sentences: Sequence[str]) -> None:
        self.artifacts, self.data, self.sentences = artifacts, data, list(sentences)
        self._basis = digest([data.clusters, dict(data.hparams), self.sentences, versions()])

    def path(self, state: State) -> Any:
        """Return where the figures of a state are kept."""
        what: dict[str, Any] = {"weights": state.weights, "basis": self._basis}
        if state.neurons is not None:  # else factor and positions mean nothing
            what |= {**state._asdict(), "neurons": list(state.neurons)}
        return self.artifacts.path("judged", what)

    def known(self, state: State) -> Judged | None:
        """Return what was judged before; None where nothing was, or nothing that is whole."""
        found = load_tensors(self.path(state))
        if found is None:
            return None
        tensors, facts = found
        return Judged(self._evaluation(tensors["scores"]), tensors["likelihoods"], facts["seconds"])

    def judge(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, state: State, name: str) -> Judged:
        """Return the figures of a state, computing them where they are not known.

        Args:
            model: with the weights that the state names.
            tokenizer: the model's.
            state: what is done to it.
            name: for the progress bar.
        """
        if (known := self.known(state)) is not None:
            return known
        start = time.monotonic()
        neurons = () if state.neurons is None else state.neurons
        mask_id = getattr(tokenizer, "mask_token_id", None)
        with torch.no_grad(), suppressed_where(model, neurons, state.factor, state.positions, mask_id):
            scores = self._scores(model, name)
            likelihoods = negative_log_likelihoods(model, tokenizer, self.sentences)
        tensors = {"scores": scores, "likelihoods": likelihoods}
        save_tensors(self.path(state), tensors, {"seconds": round(time.monotonic() - start, 1), "name": name})
        judged = self.known(state)
        assert judged is not None
        return judged

    def _scores(self, model: PreTrainedModel, name: str) -> Tensor:
        """Return the candidates' scores in the order of the clusters, ``[cluster, 3]``."""
        scores = torch.zeros(len(self.data.clusters), 3)
        batches: Iterable[dict[str, Any]] = tqdm(self.data.batches, desc=name, leave=False)
        for batch in batches:
            scores[batch["examples"]] = score_clusters(model, send_to_device(batch, model.device)).float().cpu()
        return scores

    def _evaluation(self, scores: Tensor) -> Evaluation:
        names = self.data.domain_names
        terms = torch.cat([batch["terms"] for batch in self.data.batches])
        examples = torch.cat([batch["examples"] for batch in self.data.batches])
        ordered = torch.zeros_like(terms).index_put((examples,), terms)
        domains = torch.tensor([names.index(cluster.domain) for cluster in self.data.clusters])
        return Evaluation(scores, ordered, domains, names)
