"""The search for biased prompts as a job that goes on where it was killed."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from biaslab.data.attribute_words import RACE_PAIRS, SEARCH_PAIRS, TARGETS
from biaslab.data.corpus import read_sentences
from biaslab.data.prompt_pairs import Pairs, question, single_token_pairs
from biaslab.errors import InputError
from biaslab.models.loading import fingerprint, load_model
from biaslab.models.tokens import SLOT, token_in_place
from biaslab.store import write_atomically
from biaslab.tasks.baselines.divergence import DIVERGENCES, Divergence, DivergenceName
from biaslab.tasks.baselines.prompt_search import BeamSearch, Level, PromptScorer, level_sizes
from biaslab.tasks.shards import Shards

_PAIRS = {"gender": SEARCH_PAIRS, "race": RACE_PAIRS}
_OF_THE_RESULT = ("pairs", "vocabulary", "beam", "depth", "divergence", "token_budget")
_CHUNK = 32  # prompts that are scored, and counted as done, at once
_EVERY = 30.0  # seconds between two writes of what is done


def search_prompts(
    model: str = "minilm-mlm",
    pairs: Pairs = "gender",
    vocabulary: int = 500,
    beam: int = 20,
    depth: int = 3,
    divergence: DivergenceName = "jensen_shannon",
    sources: Sequence[str] = ("bold", "bug"),
    output: str = "runs/prompts.json",
    token_budget: int = 2048,
    trust_remote_code: bool = False,
) -> None:
    """Find prompts after which a masked model answers differently for the two words of a pair (Auto-Debias, stage 1).

    The result is a JSON file, which can be edited, for the training: biaslab fit -c configs/autodebias.yaml. A search
    that is killed goes on with the same command. With the defaults minilm-mlm takes some 20 minutes on two cores, with
    a vocabulary of 100, a beam of 10 and a depth of 2 about one. The paper's scale is 5,000, 100 and 5: for a GPU.

    Args:
        model: an asset's name, a folder or a hub id; of a masked language model.
        pairs: "gender" or "race".
        vocabulary: prompts are made from so many of the most frequent words.
        beam: how many prompts of each length are kept, and extended.
        depth: words of the longest prompts.
        divergence: how answers are compared: "jensen_shannon", or the authors' released code's "reversed".
        sources: what words are counted in: "bold", "bug", "panda" or text files.
        output: the file for the prompts.
        token_budget: at most so many tokens travel together.
        trust_remote_code: let a checkpoint bring its own Python code.

    Raises:
        InputError: if an argument is not what is expected.
    """
    settings = dict(locals())
    for name in ("vocabulary", "beam", "depth", "token_budget"):
        if settings[name] < 1:
            raise InputError(f"`{name}` is expected to be a positive integer but got {settings[name]}.")
    loaded, tokenizer = load_model(model, trust_remote_code=trust_remote_code)
    nn.Module.to(loaded, "cuda" if torch.cuda.is_available() else "cpu")
    space = Space.of(tokenizer, pairs, sources, vocabulary)
    of_the_result = {name: value for name, value in settings.items() if name in _OF_THE_RESULT}
    configuration = {"model": model, "fingerprint": fingerprint(loaded)} | {
        "settings": {**of_the_result, "sources": list(sources), "words": space.digest()}
    }
    path = Path(output)
    if _is_written(path, configuration):
        print(f"The prompts of this very search lie in {path} already; to search anew, remove the file.")
        return
    scorer = space.scorer(loaded, tokenizer, DIVERGENCES[divergence], token_budget)
    prompts = _search(scorer, space, beam, depth, path, configuration)
    print("The most telling prompts (nats):")
    for prompt in sorted(prompts, key=lambda prompt: -prompt["score"])[:5]:
        print(f"  {prompt['score']:.4f}  w {prompt['text']} [MASK].")
    print(
        f"{len(prompts)} prompts lie in {path}. Train with them: biaslab fit -c configs/autodebias.yaml "
        f"--model.model_name {model} --data.prompts {path}"
    )


class Space(NamedTuple):
    """What is searched, all of it words of one token.

    Attributes:
        vocabulary: tokens of the words that prompts are made from, by word.
        pairs: whose words are compared.
        targets: tokens of the words that the model may answer, by word.
    """

    vocabulary: dict[str, int]
    pairs: list[tuple[str, str]]
    targets: dict[str, int]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, pairs: str, sources: Sequence[str], vocabulary: int) -> Space:
        """Choose the words that a tokenizer knows.

        Raises:
            InputError: if it knows too few.
        """
        known = single_token_pairs(tokenizer, _PAIRS[pairs])
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

    def digest(self) -> str:
        """Return 16 hexadecimal digits that change with any of the words."""
        return hashlib.sha256(json.dumps(self).encode()).hexdigest()[:16]

    def scorer(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, divergence: Divergence, token_budget: int
    ) -> PromptScorer:
        """Return what gives prompts their scores."""
        asked = [[question(tokenizer, word, "") for word in pair] for pair in self.pairs]
        inputs = torch.tensor([[encoded.input_ids for encoded in pair] for pair in asked])
        target_ids = torch.tensor(list(self.targets.values()))
        return PromptScorer(model, inputs, asked[0][0].position, target_ids, divergence, token_budget)


def frequent_words(sources: Sequence[str]) -> list[str]:
    """Return the lower-case words of ordinary text, the most frequent first, equally frequent ones by the alphabet."""
    counts: Counter[str] = Counter()
    for source in sources:
        for sentence in read_sentences(source, "train"):
            counts.update(re.findall(r"(?<![\w'-])[a-z]+(?![\w'-])", sentence))
    return sorted(counts, key=lambda word: (-counts[word], word))


def _known(tokenizer: PreTrainedTokenizerBase, words: Iterable[str], place: str) -> Iterator[tuple[str, int]]:
    """Yield the words that are one token each, and the tokens."""
    for word in words:
        token = token_in_place(tokenizer, f" {place}", word)
        if token is not None:
            yield word, token


def _search(
    scorer: PromptScorer, space: Space, beam: int, depth: int, path: Path, configuration: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Search, or go on with it, and write the prompts that come of it."""
    shards = Shards(path.with_name(f"{path.name}.part"))
    shards.open({**configuration, "chunk": _CHUNK})
    if not shards.lock():
        raise InputError(
            f"`output` is expected to be this search's alone, but another one works on {path}. Wait for it."
        )
    each = 2 * len(space.pairs)
    total = each * sum(level_sizes(len(space.vocabulary), beam, depth))
    print(
        f"biaslab search-prompts: {total:,} short forward passes ({len(space.vocabulary)} words, a beam of {beam}, a "
        f"depth of {depth}; {len(space.pairs)} pairs, {len(space.targets)} target words)"
    )
    vocabulary = torch.tensor(list(space.vocabulary.values()))
    with tqdm(total=total, unit=" passes", unit_scale=True) as bar:
        search = BeamSearch(
            scorer, vocabulary, beam, depth, _CHUNK, shards, _EVERY, lambda prompts: bar.update(each * prompts)
        )
        levels = search.run()
    prompts = list(_readable(levels, space))
    content = json.dumps({**configuration, "prompts": prompts}, indent=1, ensure_ascii=False)
    write_atomically(path, (content + "\n").encode())
    shards.clear()
    return prompts


def _readable(levels: Sequence[Level], space: Space) -> Iterator[dict[str, Any]]:
    words = {token: word for word, token in space.vocabulary.items()}
    for number, level in enumerate(levels, 1):
        for prompt, score in zip(level.prompts.tolist(), level.scores.tolist(), strict=True):
            yield {"text": " ".join(words[token] for token in prompt), "score": score, "level": number}


def _is_written(path: Path, configuration: Mapping[str, Any]) -> bool:
    """Return whether a file is the result of this very search.

    Raises:
        InputError: if it is anything else, with what differs.
    """
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        there = {**there, **there["settings"]}
    except FileNotFoundError:
        return False
    except (OSError, ValueError, TypeError, KeyError):
        there = {}
    here = {**configuration, **configuration["settings"]}
    differences = [
        f"{name} is {there.get(name, 'missing')} there and {here[name]} here"
        for name in here
        if name != "settings" and there.get(name) != here[name]
    ]
    if differences:
        raise InputError(
            f"`output` is expected to be new, or the result of this very search, but {path} is another one's: "
            f"{', '.join(differences)}. Choose another file."
        )
    return True
