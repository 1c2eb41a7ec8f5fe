"""Tokenizers by name, what a word becomes in its place, and batches that need no padding."""

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from biaslab.errors import InputError

SLOT = "{slot}"


class Encoded(NamedTuple):
    """A text with one slot, as tokens."""

    input_ids: list[int]  # a masked model's with the mask token in the slot; a causal model's up to the slot
    position: int  # of the token whose output predicts the slot: the mask token, or the last token


def is_masked(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether it is a masked model's: a causal one's has no mask token once ``load_tokenizer`` has loaded it."""
    return tokenizer.mask_token_id is not None


def require_masked(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a causal model's tokenizer (InputError)."""
    if not is_masked(tokenizer):
        raise InputError(
            "`model_name` is expected to be a masked language model, but the tokenizer of "
            f"{tokenizer.name_or_path!r} has no mask token. Choose a masked model."
        )


def start_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id of the token that a causal model's sentence begins after: BOS, or EOS where there is none."""
    start: int = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    return start


def encode_slot(tokenizer: PreTrainedTokenizerBase, text: str) -> Encoded:
    """Tokenize a text whose slot is written ``{slot}``.

    Raises:
        InputError: if the text has not exactly one slot, or nothing stands before it in a causal model's text.
    """
    if text.count(SLOT) != 1:
        raise InputError(f"`prompt` is expected to have exactly one slot but has {text.count(SLOT)}: {text!r}.")
    if is_masked(tokenizer):
        tokens = tokenizer(text.replace(SLOT, str(tokenizer.mask_token)))["input_ids"]
        return Encoded(tokens, tokens.index(tokenizer.mask_token_id))
    tokens = tokenizer(text.partition(SLOT)[0].rstrip())["input_ids"]
    if not tokens:
        raise InputError(
            f"`prompt` is expected to have words before its slot for a causal model, but has none: {text!r}."
        )
    return Encoded(tokens, len(tokens) - 1)


def with_slots(tokenizer: PreTrainedTokenizerBase, prompt: Encoded, word: Sequence[int]) -> list[int]:
    """Return a prompt with as many masks as a word has tokens; a causal model's with the word, but its last token."""
    if not is_masked(tokenizer):
        return [*prompt.input_ids, *word[:-1]]
    before, after = prompt.input_ids[: prompt.position], prompt.input_ids[prompt.position + 1 :]
    return before + [tokenizer.mask_token_id] * len(word) + after


def token_in_place(tokenizer: PreTrainedTokenizerBase, text: str, word: str) -> int | None:
    """Return the one known token that ``word`` becomes in the text's slot; None if it becomes several, or unknown."""
    tokens = tokens_in_place(tokenizer, text, word)
    return tokens[0] if tokens is not None and len(tokens) == 1 else None


def tokens_in_place(tokenizer: PreTrainedTokenizerBase, text: str, word: str) -> tuple[int, ...] | None:
    """Return the tokens that ``word`` becomes in the text's slot; None if one is unknown, or the text's change with it.

    The filled text is compared with the slot's, so that a leading space is the tokenizer's own matter.
    """
    slot = encode_slot(tokenizer, text)
    if is_masked(tokenizer):
        filled = tokenizer(text.replace(SLOT, word))["input_ids"]
        before, after = slot.input_ids[: slot.position], slot.input_ids[slot.position + 1 :]
    else:
        filled = tokenizer(text.partition(SLOT)[0] + word)["input_ids"]
        before, after = slot.input_ids, []
    end = len(filled) - len(after)
    tokens = tuple(filled[len(before) : end])
    fits = tokens and filled[: len(before)] == before and filled[end:] == after
    return tokens if fits and tokenizer.unk_token_id not in tokens else None


def by_length(lengths: Sequence[int], tokens_per_batch: int) -> list[list[int]]:
    """Group items of **equal** length into batches of at most ``tokens_per_batch`` tokens, but at least one item."""
    batches = []
    for length, group in groupby(sorted(range(len(lengths)), key=lengths.__getitem__), lengths.__getitem__):
        indices, size = list(group), max(1, tokens_per_batch // length)
        batches += [indices[start : start + size] for start in range(0, len(indices), size)]
    return batches
