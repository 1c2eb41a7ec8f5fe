"""Search for prompts after which a frozen masked model gives different answers for the two words of a pair."""

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
_CHUNK = 32  # number of prompts scored, and recorded as finished, at once


class PromptScorer:
    """Scores prompts by the divergence of a frozen model's answers to "w PROMPT [MASK]." for the two words w of a pair.

    Args:
        model: a masked language model of a supported architecture.
        inputs: token ids of "w [MASK].", with special tokens, ``[pair, 2, sequence]``.
        position: position of the mask token in them.
        target_ids: token ids of the target words, ``[target]``; an answer is a distribution over these only.
        divergence: function of the log-probabilities of two distributions.
        token_budget: maximum tokens per forward pass (at least one sequence).

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
                "mask token. Use another model."
            )
        self.model, self.divergence, self.token_budget = model, divergence, token_budget
        self.before, self.after = inputs.flatten(0, 1)[:, :position], inputs.flatten(0, 1)[:, position:]
        self.target_ids = target_ids.to(model.device)

    @torch.inference_mode()
    def __call__(self, prompts: Tensor) -> Tensor:
        """Return the mean divergence over pairs for each prompt, ``[prompt, length] -> [prompt]``, in nats, float32."""
        words = len(self.before)
        prompt = prompts.repeat_interleave(words, 0)
        before, after = self.before.repeat(len(prompts), 1), self.after.repeat(len(prompts), 1)
        input_ids = torch.cat([before, prompt, after], 1)  # [prompt * pair * 2, sequence]
        rows = max(1, self.token_budget // input_ids.shape[1])
        slot = torch.tensor([[self.before.shape[1] + prompts.shape[1]]], device=self.model.device)
        with projecting_onto(self.model, self.target_ids), slot_only(self.model, slot):
            logits = (self.model(input_ids=part.to(slot.device)).logits[:, 0] for part in input_ids.split(rows))
            answers = torch.cat([part.float().log_softmax(-1) for part in logits])  # normalized over the targets
        first, second = answers.view(len(prompts), words // 2, 2, -1).unbind(2)  # [prompt, pair, target]
        return self.divergence(first, second).mean(1).cpu()


@contextmanager
def projecting_onto(model: PreTrainedModel, token_ids: Tensor) -> Iterator[None]:
    """Compute a masked model's logits for some tokens of the vocabulary only, ``[..., token]``, within the block."""
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
        """Discard all candidates."""
        self.scores = torch.empty(0)
        self.candidates = torch.empty(0, dtype=torch.long)

    def update(self, scores: Tensor, candidates: Tensor) -> None:
        """Add numbered candidates with their scores, ``[candidate]``; ties are broken by the lower number."""
        scores, candidates = torch.cat([self.scores, scores]), torch.cat([self.candidates, candidates])
        by_number = candidates.argsort()
        order = by_number[scores[by_number].argsort(descending=True, stable=True)][: self.size]
        self.scores, self.candidates = scores[order], candidates[order]

    def part(self) -> dict[str, Tensor]:
        """Return scores and candidates, ``[kept]``, in descending order."""
        return {"scores": self.scores, "candidates": self.candidates}

    def add_part(self, part: Mapping[str, Tensor], /) -> None:
        """Add the candidates of another instance; empty for a shard of another level."""
        if part:
            self.update(part["scores"], part["candidates"])


class Level(NamedTuple):
    """The best prompts of one length, in descending order."""

    prompts: Tensor  # token ids, [prompt, length]
    scores: Tensor  # [prompt]


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
    """Search for the best prompts of each level; an interrupted search resumes with the same result.

    Level 1 comprises all words of the vocabulary. Each further level extends the ``beam`` best prompts of the previous
    level by every word, on the right. Ties are broken by the order of prompts and words.

    Args:
        score: scores a chunk of prompts, ``[prompt, length] -> [prompt]``.
        vocabulary: tokens of the words, ``[word]``.
        beam: number of prompts kept per level.
        depth: number of levels.
        chunk: number of prompts scored at once.
        shards: an open folder for finished chunks.
        every: minimum interval in seconds at which finished chunks are saved.
        advance: called with the number of candidates after each chunk.
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
    """Return the number of candidates of each level of a beam search.

    >>> level_sizes(500, 20, 3)
    [500, 10000, 10000]
    """
    sizes = [vocabulary]
    for _ in range(depth - 1):
        sizes.append(min(beam, sizes[-1]) * vocabulary)
    return sizes


class Space(NamedTuple):
    """The search space; all words are single tokens."""

    vocabulary: dict[str, int]  # words of prompts, and their tokens
    pairs: list[tuple[str, str]]  # pairs of words to compare
    targets: dict[str, int]  # possible answers of the model, and their tokens

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, pairs: str, sources: Sequence[str], vocabulary: int) -> Space:
        """Choose the words that are single tokens of a tokenizer; raise InputError if there are too few."""
        known = single_token_pairs(tokenizer, PAIRS[pairs])
        targets = dict(_known(tokenizer, TARGETS, f"a {SLOT}."))
        if not known or len(targets) < 2:
            raise InputError(
                f"`model` is expected to have at least one pair and two target words as single tokens but has "
                f"{len(known)} and {len(targets)}. Use another model."
            )
        words = dict(islice(_known(tokenizer, frequent_words(sources), f"a {SLOT} a."), vocabulary))
        if len(words) < vocabulary:
            raise InputError(
                f"`vocabulary` is expected to be at most {len(words)}, the number of single-token words in `sources`, "
                f"but got {vocabulary}. Use fewer words, or more sources."
            )
        return cls(words, known, targets)

    def scorer(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, divergence: Divergence, token_budget: int
    ) -> PromptScorer:
        """Return the scorer of prompts."""
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
    """Return the lower-case words of ordinary text by descending frequency; ties in alphabetical order."""
    sentences = (sentence for source in sources for sentence in read_sentences(source, "train", "sources"))
    counts = Counter(word for sentence in sentences for word in re.findall(r"(?<![\w'-])[a-z]+(?![\w'-])", sentence))
    return sorted(counts, key=lambda word: (-counts[word], word))


def _known(tokenizer: PreTrainedTokenizerBase, words: Iterable[str], place: str) -> Iterator[tuple[str, int]]:
    """Yield the words that are single tokens, with their tokens."""
    for word in words:
        if (token := token_in_place(tokenizer, f" {place}", word)) is not None:
            yield word, token


def search(
    model: str, sources: Sequence[str], path: Path, trust_remote_code: bool, settings: Mapping[str, Any]
) -> list[dict[str, Any]] | None:
    """Run or resume a search, and write the prompts to ``path`` as JSON.

    The arguments, and the ``settings`` by name, are the options of ``biaslab search-prompts``.

    Returns:
        The prompts, each with "text", "score" and "level"; None if the file already holds this search's result.

    Raises:
        InputError: if the model is causal or has too few words as single tokens, or the file holds something else or is
            in use.
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
        raise InputError(
            f"`output` is expected to be used by one search at a time but another one is writing {path}. Wait for it "
            "to finish, or use another file."
        )
    beam, depth, each = settings["beam"], settings["depth"], 2 * len(space.pairs)
    total = each * sum(level_sizes(len(space.vocabulary), beam, depth))
    print(
        f"biaslab search-prompts: {total:,} short forward passes ({len(space.vocabulary)} words, beam {beam}, depth "
        f"{depth}; {len(space.pairs)} pairs, {len(space.targets)} target words)"
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
    """Return whether a file holds this search's result; raise InputError if it holds that of another search."""
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
            f"`output` is expected to be a new file or the result of the same search but {path} belongs to another "
            f"search: {differing}. Use another file."
        )
    return True
