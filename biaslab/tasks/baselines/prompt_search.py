"""The search for prompts after which a frozen masked model answers differently for the two words of a pair."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from biaslab.data.attribute_words import RACE_PAIRS, SEARCH_PAIRS, TARGETS
from biaslab.data.corpus import read_sentences
from biaslab.data.prompt_pairs import question, single_token_pairs
from biaslab.errors import InputError
from biaslab.models.architectures import architecture
from biaslab.models.heads import replaced_forward, slot_only
from biaslab.models.loading import fingerprint, load_on_best_device
from biaslab.models.tokens import SLOT, token_in_place
from biaslab.store import write_atomically
from biaslab.tasks.baselines.autodebias import DIVERGENCES, Divergence
from biaslab.tasks.shards import Ledger, Shards, differences

PAIRS = {"gender": SEARCH_PAIRS, "race": RACE_PAIRS}
_CHUNK = 32  # prompts that are scored, and counted as done, at once


class PromptScorer:
    """How far apart a frozen model's answers to "w PROMPT [MASK]." are for the words w of a pair: the mean over pairs.

    Args:
        model: a masked language model of the table; a causal one is an InputError.
        inputs: tokens of "w [MASK].", with special tokens, ``[pair, 2, sequence]``.
        position: of the mask in them.
        target_ids: tokens of the target words, ``[target]``; an answer is a distribution over them alone.
        divergence: of two distributions given by log-probabilities.
        token_budget: at most so many tokens travel together, but at least one sequence.

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
        """Return the score of each prompt, ``[prompt, length] -> [prompt]``, in nats, float32; at least 0."""
        words = len(self.before)
        prompt = prompts.repeat_interleave(words, 0)
        before, after = self.before.repeat(len(prompts), 1), self.after.repeat(len(prompts), 1)
        input_ids = torch.cat([before, prompt, after], 1)  # [prompt * pair * 2, sequence]
        rows = max(1, self.token_budget // input_ids.shape[1])
        slot = torch.tensor([[self.before.shape[1] + prompts.shape[1]]], device=self.model.device)
        with projecting_onto(self.model, self.target_ids), slot_only(self.model, slot):
            logits = (self.model(input_ids=part.to(slot.device)).logits[:, 0] for part in input_ids.split(rows))
            answers = torch.cat([part.float().log_softmax(-1) for part in logits])  # of the targets among themselves
        first, second = answers.view(len(prompts), words // 2, 2, -1).unbind(2)  # [prompt, pair, target]
        return self.divergence(first, second).mean(1).cpu()


@contextmanager
def projecting_onto(model: PreTrainedModel, token_ids: Tensor) -> Iterator[None]:
    """Within the block, a masked model's logits are those of some tokens alone, ``[..., token]``, which is faster."""
    head: Any = model.get_output_embeddings()
    weight, bias = head.weight[token_ids], None if head.bias is None else head.bias[token_ids]
    with replaced_forward(head, lambda hidden: F.linear(hidden, weight, bias)):
        yield


class Best:
    """The ``size`` best candidates so far, as a :class:`biaslab.tasks.shards.Collector`.

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
        """Add numbered candidates with their scores, ``[candidate]``; of equal scores the lower number is better."""
        scores, candidates = torch.cat([self.scores, scores]), torch.cat([self.candidates, candidates])
        by_number = candidates.argsort()
        order = by_number[scores[by_number].argsort(descending=True, stable=True)][: self.size]
        self.scores, self.candidates = scores[order], candidates[order]

    def part(self) -> dict[str, Tensor]:
        """Return scores and candidates, ``[kept]``, the best first."""
        return {"scores": self.scores, "candidates": self.candidates}

    def add_part(self, part: Mapping[str, Tensor], /) -> None:
        """Add what another one kept; another level's shard has nothing."""
        if part:
            self.update(part["scores"], part["candidates"])


class Level(NamedTuple):
    """The best prompts of one length, the best first: their tokens ``[prompt, length]`` and scores ``[prompt]``."""

    prompts: Tensor
    scores: Tensor


def beam_search(
    score: Callable[[Tensor], Tensor],
    vocabulary: Tensor,
    beam: int,
    depth: int,
    chunk: int,
    shards: Shards,
    every: float = 30.0,
    advance: Callable[[int], Any] = int,
) -> list[Level]:
    """Return the best prompts of each level; a search goes on where it was killed, with the same result.

    Level 1 are all words of the ``vocabulary``, ``[word]``; each further level, up to ``depth``, extends the ``beam``
    best prompts of the one before by every word, on the right. ``score`` is asked for a ``chunk`` of prompts at once,
    ``[prompt, length] -> [prompt]``; of equal scores the first wins, prompt by prompt and word by word. ``shards``, an
    open folder, keeps what is finished, written after ``every`` so many seconds or later; ``advance`` is called with
    the number of candidates after each chunk.
    """
    finished, words = shards.finished(), len(vocabulary)
    levels: list[Level] = []
    prompts, first = vocabulary.new_empty(1, 0), 0

    def extended(candidates: Tensor) -> Tensor:
        return torch.cat([prompts[candidates // words], vocabulary[candidates % words, None]], 1)

    for size in level_sizes(words, beam, depth):
        best = Best(beam)
        ledger = Ledger({f"level_{len(levels) + 1}": best}, shards, every)
        chunks = torch.arange(size).split(chunk)
        for number, candidates in enumerate(chunks, first):
            if number not in finished:
                with ledger.item(number):
                    best.update(score(extended(candidates)), candidates)
            advance(len(candidates))
        ledger.write()
        ledger.gather()
        first += len(chunks)
        prompts = extended(best.candidates)
        levels.append(Level(prompts, best.scores))
    return levels


def level_sizes(vocabulary: int, beam: int, depth: int) -> list[int]:
    """Return how many candidates each level of a beam search has.

    >>> level_sizes(500, 20, 3)
    [500, 10000, 10000]
    """
    sizes = [vocabulary]
    for _ in range(depth - 1):
        sizes.append(min(beam, sizes[-1]) * vocabulary)
    return sizes


class Space(NamedTuple):
    """What is searched, all of it words of one token."""

    vocabulary: dict[str, int]  # tokens of the words that prompts are made from
    pairs: list[tuple[str, str]]  # whose words are compared
    targets: dict[str, int]  # tokens of the words that the model may answer

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, pairs: str, sources: Sequence[str], vocabulary: int) -> Space:
        """Choose the words that a tokenizer knows; if it knows too few, that is an InputError."""
        known = single_token_pairs(tokenizer, PAIRS[pairs])
        targets = dict(_known(tokenizer, TARGETS, f"a {SLOT}."))
        if not known or len(targets) < 2:
            raise InputError(
                f"`model` is expected to know a pair and two target words as single tokens, but knows {len(known)} and "
                f"{len(targets)}. Choose another model."
            )
        words = dict(islice(_known(tokenizer, frequent_words(sources), f"a {SLOT} a."), vocabulary))
        if len(words) < vocabulary:
            raise InputError(
                f"`vocabulary` is expected to be at most {len(words)}, the words of one token in `sources`, but got "
                f"{vocabulary}. Take fewer words, or more text."
            )
        return cls(words, known, targets)

    def scorer(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, divergence: Divergence, token_budget: int
    ) -> PromptScorer:
        """Return what gives prompts their scores."""
        questions = [[question(tokenizer, word, "") for word in pair] for pair in self.pairs]
        inputs = torch.tensor([[encoded.input_ids for encoded in pair] for pair in questions])
        target_ids = torch.tensor(list(self.targets.values()))
        return PromptScorer(model, inputs, questions[0][0].position, target_ids, divergence, token_budget)

    def readable(self, levels: Sequence[Level]) -> Iterator[dict[str, Any]]:
        """Yield prompts as text, with their scores and levels."""
        words = {token: word for word, token in self.vocabulary.items()}
        for number, level in enumerate(levels, 1):
            for prompt, score in zip(level.prompts.tolist(), level.scores.tolist(), strict=True):
                yield {"text": " ".join(words[token] for token in prompt), "score": score, "level": number}


def frequent_words(sources: Sequence[str]) -> list[str]:
    """Return the lower-case words of ordinary text, the most frequent first, equally frequent ones by the alphabet."""
    sentences = (sentence for source in sources for sentence in read_sentences(source, "train", "sources"))
    counts = Counter(word for sentence in sentences for word in re.findall(r"(?<![\w'-])[a-z]+(?![\w'-])", sentence))
    return sorted(counts, key=lambda word: (-counts[word], word))


def _known(tokenizer: PreTrainedTokenizerBase, words: Iterable[str], place: str) -> Iterator[tuple[str, int]]:
    """Yield the words that are one token each, and the tokens."""
    for word in words:
        if (token := token_in_place(tokenizer, f" {place}", word)) is not None:
            yield word, token


def search(
    model: str, sources: Sequence[str], path: Path, trust_remote_code: bool, settings: Mapping[str, Any]
) -> list[dict[str, Any]] | None:
    """Search, or go on with a search that was killed, and write the prompts to ``path`` as JSON.

    The arguments, and the ``settings`` by name, are the options of ``biaslab search-prompts``.

    Returns:
        The prompts, each with its "text", "score" and "level"; None where the file holds this search's result.

    Raises:
        InputError: if the model is causal or knows too few words, or if the file is of anything else or in use.
    """
    loaded, tokenizer = load_on_best_device(model, trust_remote_code)
    space = Space.of(tokenizer, settings["pairs"], sources, settings["vocabulary"])
    words = {"sources": list(sources), "words": hashlib.sha256(json.dumps(space).encode()).hexdigest()[:16]}
    configuration = {"model": model, "fingerprint": fingerprint(loaded), "settings": {**settings, **words}}
    if _is_written(path, configuration):
        return None
    scorer = space.scorer(loaded, tokenizer, DIVERGENCES[settings["divergence"]], settings["token_budget"])
    shards = Shards(path.with_name(f"{path.name}.part"))
    shards.open({**configuration, "chunk": _CHUNK})
    if not shards.lock():
        raise InputError(f"`output` is expected to be used by one search only, but another one writes {path}. Wait.")
    beam, depth, each = settings["beam"], settings["depth"], 2 * len(space.pairs)
    total = each * sum(level_sizes(len(space.vocabulary), beam, depth))
    print(
        f"biaslab search-prompts: {total:,} short forward passes ({len(space.vocabulary)} words, a beam of {beam}, a "
        f"depth of {depth}; {len(space.pairs)} pairs, {len(space.targets)} target words)"
    )
    vocabulary = torch.tensor(list(space.vocabulary.values()))
    with tqdm(total=total, unit=" passes", unit_scale=True) as bar:
        levels = beam_search(scorer, vocabulary, beam, depth, _CHUNK, shards, advance=lambda n: bar.update(each * n))
    prompts = list(space.readable(levels))
    content = json.dumps({**configuration, "prompts": prompts}, indent=1, ensure_ascii=False)
    write_atomically(path, (content + "\n").encode())
    shards.clear()
    return prompts


def _is_written(path: Path, configuration: Mapping[str, Any]) -> bool:
    """Return whether a file is the result of this very search; what differs is an InputError."""
    if not path.exists():
        return False
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        there = {**there, **there["settings"]}
    except (OSError, ValueError, TypeError, KeyError):
        there = {}
    here = {**configuration, **configuration["settings"]}
    del here["settings"]
    if differing := differences({name: there[name] for name in here if name in there}, here):
        raise InputError(
            f"`output` is expected to be new, or the result of this very search, but {path} is another one's: "
            f"{differing}. Choose another file."
        )
    return True
