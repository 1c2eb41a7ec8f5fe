"""CrowS-Pairs as a test job: how often a model prefers the more stereotyping sentence, overall and by category."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import torch
from torch import Tensor

from biaslab.evaluation.scoring import score_pairs
from biaslab.metrics.crows_pairs import PairScores, crows_pairs_interval, decided
from biaslab.store import write_atomically
from biaslab.tasks.base import LanguageModelTask

BY_DIRECTION = {"stereotype": "stereo", "anti-stereotype": "antistereo"}  # a score's name: the pairs that it is of


class PairEvaluation(NamedTuple):
    """What came out.

    Attributes:
        scores: of the more and of the less stereotyping sentence, ``[pair, 2]``.
        categories: index of each pair's category, ``[pair]``.
        directions: of each pair, "stereo" or "antistereo".
        category_names: of the categories.
    """

    scores: Tensor
    categories: Tensor
    directions: list[str]
    category_names: tuple[str, ...]

    def within(self, scope: str) -> Tensor:
        """Return which pairs belong to a category, or to "overall", ``[pair]``."""
        if scope == "overall":
            return torch.ones_like(self.categories, dtype=torch.bool)
        return self.categories == self.category_names.index(scope)

    def scopes(self) -> list[str]:
        """Return "overall" and the categories that have pairs."""
        return ["overall", *(name for name in self.category_names if bool(self.within(name).any()))]

    def figures(self) -> dict[str, dict[str, Any]]:
        """Return for each scope the score with its 95 % interval, and how many pairs there are and are neutral.

        The stereotype and the anti-stereotype score, of the pairs of one direction without the neutral ones, come with
        the same figures where they have pairs.
        """
        return {scope: self._of_scope(self.within(scope)) for scope in self.scopes()}

    def _of_scope(self, within: Tensor) -> dict[str, Any]:
        clear = decided(self.scores)
        of_scope = _figures(self.scores[within]) | {"neutral": int((within & ~clear).sum())}
        for name, direction in BY_DIRECTION.items():
            chosen = within & clear & torch.tensor([each == direction for each in self.directions])
            if bool(chosen.any()):
                of_scope[name] = _figures(self.scores[chosen])
        return of_scope


def _figures(scores: Tensor) -> dict[str, Any]:
    return crows_pairs_interval(scores)._asdict() | {"pairs": len(scores)}


class CrowsPairsEvaluation(LanguageModelTask):
    """Score CrowS-Pairs' sentences; log the score overall and by category, and write ``crows_pairs.json``.

    The stereotype and the anti-stereotype score are logged overall; the file has them by category too. The result stays
    at ``evaluation``. See :class:`biaslab.tasks.base.LanguageModelTask` for the arguments.
    """

    def __init__(self, model_name: str = "minilm-mlm", dtype: str = "float32", trust_remote_code: bool = False) -> None:
        super().__init__(model_name, dtype, trust_remote_code)
        self.pair_scores = PairScores()
        self.evaluation: PairEvaluation | None = None

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Score the pairs of a batch."""
        self.pair_scores.update(score_pairs(self.model, batch), batch["examples"])

    def on_test_epoch_end(self) -> None:
        """Compute, log and write the figures."""
        scores, examples = (tensor.cpu() for tensor in self.pair_scores.compute())
        self.pair_scores.reset()
        names, pairs = self.data.category_names, [self.data.pairs[example] for example in examples.tolist()]
        categories = torch.tensor([names.index(pair.category) for pair in pairs])
        self.evaluation = PairEvaluation(scores, categories, [pair.direction for pair in pairs], names)
        figures = self.evaluation.figures()
        logged = {f"{scope}/crows_pairs": of_scope["value"] for scope, of_scope in figures.items()}
        overall = figures["overall"]
        logged |= {f"overall/{name}": overall[name]["value"] for name in BY_DIRECTION if name in overall}
        self.log_dict(logged, rank_zero_only=True)
        folder = self.folder  # asks all ranks
        if self.trainer.is_global_zero and self.trainer.logger is not None:
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / "crows_pairs.json", (json.dumps(figures, indent=1) + "\n").encode())
            print(f"The figures with their 95 % intervals lie in {folder / 'crows_pairs.json'}.")
