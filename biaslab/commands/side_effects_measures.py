"""All that suppression may touch, measured in any state of a model: StereoSet, CrowS-Pairs, held-out gaps, text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from accelerate.utils import send_to_device  # type: ignore[import-untyped]
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from biaslab.data.crows_pairs import CrowsPairsDataModule
from biaslab.data.prompts import PromptDataModule
from biaslab.data.stereoset import StereoSetDataModule
from biaslab.evaluation.gaps import Gaps, demographic_gaps
from biaslab.evaluation.judging import Judge, Judged, State
from biaslab.evaluation.scoring import score_pairs
from biaslab.neurons.suppression import suppressed_where
from biaslab.store import Artifacts, digest, load_tensors, save_tensors, versions


class Measured(NamedTuple):
    """What came out.

    Attributes:
        judged: StereoSet's scores and the likelihoods of ordinary text.
        pairs: scores of CrowS-Pairs' sentences, ``[pair, 2]``, in the order of :attr:`Measures.categories`.
        gaps: of the held-out prompts.
    """

    judged: Judged
    pairs: Tensor
    gaps: Gaps


class Measures:
    """Measures states of a model; each part is kept on disk by itself, and read from there the next time.

    Args:
        artifacts: where the figures are kept.
        stereoset: set up for "test".
        crows_pairs: set up for "test".
        held_out: prompts, set up for "predict".
        sentences: ordinary text.
        every: of CrowS-Pairs' batches, which go by length, only every so many-th.
    """

    def __init__(
        self,
        artifacts: Artifacts,
        stereoset: StereoSetDataModule,
        crows_pairs: CrowsPairsDataModule,
        held_out: PromptDataModule,
        sentences: Sequence[str],
        every: int = 1,
    ) -> None:
        self.artifacts, self.held_out = artifacts, held_out
        self.judge = Judge(artifacts, stereoset, sentences)
        self.batches = crows_pairs.batches[::every]
        names = crows_pairs.category_names
        self.categories = [names[index] for batch in self.batches for index in batch["categories"].tolist()]
        chosen = [crows_pairs.pairs[index] for batch in self.batches for index in batch["examples"].tolist()]
        self._bases = {
            "crows_pairs": digest([chosen, dict(crows_pairs.hparams), versions()]),
            "gaps_by_prompt": digest([held_out.fingerprint, dict(held_out.hparams), versions()]),
        }

    def counts(self) -> dict[str, int]:
        """Return how many clusters, pairs of sentences, prompts and ordinary sentences are measured."""
        return {
            "clusters": len(self.judge.data.clusters),
            "pairs": len(self.categories),
            "prompts": len(self.held_out.prompts),
            "sentences": len(self.judge.sentences),
        }

    def measure(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, state: State, name: str) -> Measured:
        """Return the figures of a state, computing those that are not known.

        Args:
            model: with the weights that the state names.
            tokenizer: the model's.
            state: what is done to it.
            name: for the progress bar.
        """
        mask_id = getattr(tokenizer, "mask_token_id", None)

        def kept(part: str, compute: Callable[[PreTrainedModel, str], Tensor]) -> Tensor:
            path = self.artifacts.path(part, self._what(state, part))
            found = load_tensors(path)
            if found is None:
                neurons = () if state.neurons is None else state.neurons
                with torch.no_grad(), suppressed_where(model, neurons, state.factor, state.positions, mask_id):
                    found = {part: compute(model, name)}, {"name": name}
                save_tensors(path, *found)
            return found[0][part]

        judged = self.judge.judge(model, tokenizer, state, f"{name}, StereoSet and text")
        return Measured(judged, kept("crows_pairs", self._pairs), Gaps(*kept("gaps_by_prompt", self._gaps)))

    def _what(self, state: State, part: str) -> dict[str, Any]:
        what = {"weights": state.weights, "basis": self._bases[part]}
        if state.neurons is None:  # factor and positions mean nothing
            return what
        return what | {**state._asdict(), "neurons": list(state.neurons)}

    def _pairs(self, model: PreTrainedModel, name: str) -> Tensor:
        batches: Iterable[Any] = tqdm(self.batches, desc=f"{name}, CrowS-Pairs", leave=False)
        return torch.cat([score_pairs(model, send_to_device(batch, model.device)).cpu() for batch in batches])

    def _gaps(self, model: PreTrainedModel, name: str) -> Tensor:
        """Return both gaps of each pair, ``[2, pair, word, wording]``."""
        batches: Iterable[Any] = tqdm(self.held_out.batches, desc=f"{name}, gaps", leave=False)
        placed = (send_to_device(batch, model.device) for batch in batches)
        return torch.stack(demographic_gaps(model, placed, len(self.held_out.pair_names)))
