"""The search for prompts after which a frozen masked model answers differently for the two words of a pair."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel

from biaslab.errors import InputError
from biaslab.models.architectures import architecture
from biaslab.models.heads import slot_only
from biaslab.store import Ledger, Shards
from biaslab.tasks.baselines.divergence import Divergence


class PromptScorer:
    """How far apart the answers of a frozen model are after a prompt: the mean over word pairs of a divergence.

    The model is asked "w PROMPT [MASK]." for both words of each pair, and its answer is the distribution over the
    target words alone.

    Args:
        model: a masked language model of the table.
        inputs: tokens of "w [MASK].", with special tokens, ``[pair, 2, sequence]``.
        position: of the mask in them.
        target_ids: tokens of the target words, ``[target]``.
        divergence: of two distributions given by log-probabilities.
        token_budget: at most so many tokens travel together, but at least one sequence.

    Raises:
        InputError: if the model is causal.

    Reference:
        Guo, Yang and Abbasi 2022 ("Auto-Debias"), section 3.1 and algorithm 1.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        inputs: Tensor,
        position: int,
        target_ids: Tensor,
        divergence: Divergence,
        token_budget: int = 2048,
    ) -> None:
        if not architecture(model).masked:
            raise InputError(
                f"`model` is expected to be a masked language model but got a {model.config.model_type}, which has no "
                "mask to ask for. Choose another."
            )
        self.model, self.divergence, self.token_budget = model, divergence, token_budget
        self.before, self.after = inputs.flatten(0, 1)[:, :position], inputs.flatten(0, 1)[:, position:]
        self.target_ids = target_ids.to(model.device)

    @torch.inference_mode()
    def __call__(self, prompts: Tensor) -> Tensor:
        """Return the score of each prompt.

        Args:
            prompts: tokens of prompts of equal length, ``[prompt, length]``.

        Returns:
            In nats, float32, ``[prompt]``; at least 0.
        """
        words = len(self.before)
        prompt = prompts.repeat_interleave(words, 0)
        input_ids = torch.cat(
            [self.before.repeat(len(prompts), 1), prompt, self.after.repeat(len(prompts), 1)], 1
        )  # [prompt * pair * 2, sequence]
        rows = max(1, self.token_budget // input_ids.shape[1])
        with projecting_onto(self.model, self.target_ids):
            answers = torch.cat([self._answers(part) for part in input_ids.split(rows)])
        first, second = answers.view(len(prompts), words // 2, 2, -1).unbind(2)  # [prompt, pair, target]
        return self.divergence(first, second).mean(1).cpu()

    def _answers(self, input_ids: Tensor) -> Tensor:
        """Return the log-probabilities of the targets among themselves, ``[row, target]``."""
        slot = input_ids.shape[1] - self.after.shape[1]
        position = torch.full((len(input_ids), 1), slot, device=self.model.device)
        with slot_only(self.model, position):
            logits: Tensor = self.model(input_ids=input_ids.to(self.model.device)).logits[:, 0]
        return logits.float().log_softmax(-1)


@contextmanager
def projecting_onto(model: PreTrainedModel, token_ids: Tensor) -> Iterator[None]:
    """Within the block, a masked model's logits are those of some tokens alone: ``[..., token]``.

    The projection to the vocabulary is most of a short sequence's cost. Every masked model of the table ends with a
    linear map, so that leaving rows out changes no other.

    Args:
        model: a masked language model.
        token_ids: of the tokens, ``[token]``.
    """
    head: Any = model.get_output_embeddings()
    weight, bias = head.weight[token_ids], None if head.bias is None else head.bias[token_ids]
    head.forward = lambda hidden: F.linear(hidden, weight, bias)
    try:
        yield
    finally:
        del head.forward


class Best:
    """The best candidates so far, in bounded memory; a :class:`biaslab.store.Collector`.

    Args:
        size: how many are kept.

    >>> best = Best(2)
    >>> best.update(torch.tensor([0.1, 0.3, 0.2, 0.3]), torch.arange(4))
    >>> best.candidates.tolist()
    [1, 3]
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.scores = torch.empty(0)
        self.candidates = torch.empty(0, dtype=torch.long)

    def update(self, scores: Tensor, candidates: Tensor) -> None:
        """Add candidates, each of which comes once; of equal scores the lower number is the better one.

        Args:
            scores: higher is better, ``[candidate]``.
            candidates: their numbers, ``[candidate]``.
        """
        scores, candidates = torch.cat([self.scores, scores]), torch.cat([self.candidates, candidates])
        by_number = candidates.argsort()
        order = by_number[scores[by_number].argsort(descending=True, stable=True)][: self.size]
        self.scores, self.candidates = scores[order], candidates[order]

    def part(self) -> dict[str, Tensor]:
        """Return scores and candidates, ``[kept]``, the best first."""
        return {"scores": self.scores, "candidates": self.candidates}

    def add_part(self, part: Mapping[str, Tensor], /) -> None:
        """Add what another one kept, or the nothing that another level's shard has."""
        if part:
            self.update(part["scores"], part["candidates"])


class Level(NamedTuple):
    """The best prompts of one length.

    Attributes:
        prompts: their tokens, the best first, ``[prompt, length]``.
        scores: ``[prompt]``.
    """

    prompts: Tensor
    scores: Tensor


class BeamSearch:
    """A beam search over prompts that goes on where it was killed, and gives the same as if it had not been.

    Level 1 are all words of the vocabulary; each further level extends the best prompts of the one before by every
    word, on the right. Candidates are numbered prompt by prompt, word by word, and of equal scores the first wins.

    Args:
        score: gives the score of each prompt, ``[prompt, length] -> [prompt]``.
        vocabulary: tokens that prompts are made from, ``[word]``.
        beam: how many prompts of each level are kept and extended.
        depth: words of the longest prompts.
        chunk: how many candidates are scored at once.
        shards: an open folder for what is finished.
        every: seconds between two writes, at least.
        advance: called with the number of candidates after each chunk.
    """

    def __init__(
        self,
        score: Callable[[Tensor], Tensor],
        vocabulary: Tensor,
        beam: int,
        depth: int,
        chunk: int,
        shards: Shards,
        every: float = 30.0,
        advance: Callable[[int], Any] = int,
    ) -> None:
        self.score, self.vocabulary, self.beam = score, vocabulary, beam
        self.chunk, self.shards, self.every, self.advance = chunk, shards, every, advance
        self.sizes = level_sizes(len(vocabulary), beam, depth)

    def run(self) -> list[Level]:
        """Return the best prompts of each level."""
        self.finished = self.shards.finished()
        levels: list[Level] = []
        prompts, first = self.vocabulary.new_empty(1, 0), 0
        for size in self.sizes:
            chunks = dict(enumerate(torch.arange(size).split(self.chunk), first))
            best = self._best(f"level_{len(levels) + 1}", prompts, chunks)
            prompts = self._extended(prompts, best.candidates)
            levels.append(Level(prompts, best.scores))
            first += len(chunks)
        return levels

    def _best(self, name: str, prompts: Tensor, chunks: Mapping[int, Tensor]) -> Best:
        """Return the best extensions of some prompts; ``chunks`` are candidates by the number of their shards' item."""
        best = Best(self.beam)
        ledger = Ledger({name: best}, self.shards, self.every)
        for number, candidates in chunks.items():
            if number not in self.finished:
                with ledger.item(number):
                    best.update(self.score(self._extended(prompts, candidates)), candidates)
            self.advance(len(candidates))
        ledger.write()
        ledger.gather()
        return best

    def _extended(self, prompts: Tensor, candidates: Tensor) -> Tensor:
        """Return the tokens of numbered candidates, ``[candidate, length + 1]``."""
        words = len(self.vocabulary)
        return torch.cat([prompts[candidates // words], self.vocabulary[candidates % words, None]], 1)


def level_sizes(vocabulary: int, beam: int, depth: int) -> list[int]:
    """Return how many candidates each level of a beam search has.

    >>> level_sizes(500, 20, 3)
    [500, 10000, 10000]
    """
    sizes = [vocabulary]
    for _ in range(depth - 1):
        sizes.append(min(beam, sizes[-1]) * vocabulary)
    return sizes
