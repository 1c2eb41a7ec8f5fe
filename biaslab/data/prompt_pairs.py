"""Auto-Debias' training data: "w PROMPT [MASK]." for every prompt and both words w of every pair."""

import logging
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from biaslab.data.attribute_words import GENDER_PAIRS, RACE_PAIRS
from biaslab.data.module import TrainingData
from biaslab.data.records import json_content
from biaslab.errors import InputError, read_text, reading, require_one_of
from biaslab.models.tokens import SLOT, Encoded, encode_slot, require_masked, token_in_place

Pairs = Literal["gender", "race"]
PAIRS: dict[str, tuple[tuple[str, str], ...]] = {"gender": GENDER_PAIRS, "race": RACE_PAIRS}

_HELD_OUT = 5  # one in five word pairs is for validation
_log = logging.getLogger("biaslab")


def question(tokenizer: PreTrainedTokenizerBase, word: str, prompt: str) -> Encoded:
    """Return the tokens of "w PROMPT [MASK].", with the leading space that a byte-level BPE expects."""
    return encode_slot(tokenizer, " " + " ".join(filter(None, (word, prompt, SLOT))) + ".")


def single_token_pairs(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the pairs whose words are distinct, known single tokens at the start of a question.

    Raises:
        InputError: if the tokenizer belongs to a causal model.
    """
    require_masked(tokenizer)
    place = f" {SLOT} is."
    tokens = {word: token_in_place(tokenizer, place, word) for pair in pairs for word in pair}
    return [(one, other) for one, other in pairs if len({tokens[one], tokens[other]} - {None}) == 2]


def read_prompts(path: str | Path | None, model_name: str) -> list[str]:
    """Return the distinct prompts of a file: JSON from ``biaslab search-prompts``, or text with one prompt per line.

    Warns if they were found with a model other than ``model_name``.

    Raises:
        InputError: if the file does not exist or has no prompts.
    """
    make = f"Create one with: biaslab search-prompts --model {model_name} --output {path or 'runs/prompts.json'}"
    if path is None:
        raise InputError(f"`prompts` is expected to be a file with prompts but is not given. {make}")
    with reading("prompts", "a file with prompts", path, make):
        text = read_text(path, may_be_empty=True)
    lines = _json_prompts(text, path, model_name) if text.lstrip().startswith("{") else text.splitlines()
    prompts = list(dict.fromkeys(filter(None, (" ".join(prompt.split()) for prompt in lines))))
    if not prompts:
        raise InputError(f"`prompts` is expected to be a file with prompts, but {path} has none. {make}")
    return prompts


def _json_prompts(text: str, path: str | Path, model_name: str) -> list[str]:
    try:
        content: dict[str, Any] = json_content(text)
        prompts = [str(prompt["text"]) for prompt in content["prompts"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f'`prompts` is expected to be JSON like {{"prompts": [{{"text": "..."}}]}}, or text with one prompt per '
            f"line, but {path} is neither: {type(error).__name__} {error}. Fix the file."
        ) from error
    if content.get("model", model_name) != model_name:
        _log.warning("The prompts in %s were found with the model %s, not with %s.", path, content["model"], model_name)
    return prompts


class PromptPairDataModule(TrainingData):
    """Both words of a pair with the same prompt; training and validation use different pairs.

    A batch holds ``input_ids`` ``[example, 2, sequence]`` and the mask's ``position`` ``[example]``, where an example
    is a prompt and a pair; there is no padding. Words of several tokens are skipped.

    Args:
        model_name: the model whose tokenizer is used.
        prompts: the output of ``biaslab search-prompts``, or a text file with one prompt per line.
        pairs: "gender" or "race".
        batch_size: examples per batch.
        trust_remote_code: run Python code that comes with a checkpoint.
    """

    def __init__(
        self,
        model_name: str = "minilm-mlm",
        prompts: str | None = None,
        pairs: Pairs = "gender",
        batch_size: int = 32,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__(trust_remote_code)
        require_one_of("pairs", pairs, list(PAIRS))

    def setup(self, stage: str) -> None:
        """Read the prompts and tokenize them with the words of each pair."""
        h = self.hparams
        prompts = read_prompts(h["prompts"], h["model_name"])
        self.tokenizer = self.load_tokenizer()
        pairs = single_token_pairs(self.tokenizer, PAIRS[h["pairs"]])
        if len(pairs) < 2:
            raise InputError(
                f"`pairs` is expected to contain at least two pairs that are single tokens for {h['model_name']}, but "
                f"{h['pairs']!r} has {len(pairs)}. Choose the other pairs, or another model."
            )
        held_out = pairs[_HELD_OUT - 1 :: _HELD_OUT] or pairs[-1:]
        self.train_batches = self._batches(prompts, [pair for pair in pairs if pair not in held_out])
        self.validation_batches = self._batches(prompts, held_out)

    def _batches(self, prompts: Sequence[str], pairs: Sequence[tuple[str, str]]) -> list[dict[str, Tensor]]:
        examples = [[question(self.tokenizer, w, prompt) for w in pair] for prompt in prompts for pair in pairs]
        random.Random(0).shuffle(examples)  # otherwise a batch would have only one prompt
        equal: dict[int, list[list[Encoded]]] = {}
        for example in examples:
            equal.setdefault(len(example[0].input_ids), []).append(example)
        size, batches = self.hparams["batch_size"], []
        for batch in (each[start : start + size] for each in equal.values() for start in range(0, len(each), size)):
            input_ids = torch.tensor([[word.input_ids for word in example] for example in batch])
            position = torch.tensor([example[0].position for example in batch])
            batches.append({"input_ids": input_ids, "position": position})
        return batches
