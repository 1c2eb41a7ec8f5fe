"""Encode texts with a slot, tokenize words in context, and batch sequences without padding."""

from collections.abc import Sequence
from itertools import groupby
from typing import Literal, NamedTuple, get_args

from transformers import PreTrainedTokenizerBase

from biaslab.errors import InputError, require_one_of

SLOT = "{slot}"
# What a causal model's sentences are conditioned on: "tokenizer": every token on the tokens that the tokenizer
# prepends; "authors", the rule of StereoSet's authors: only the first token on the start token.
Bos = Literal["tokenizer", "authors"]


class Encoded(NamedTuple):
    """The tokens of a text with one slot."""

    input_ids: list[int]  # masked model: with the mask token in the slot; causal model: up to the slot
    position: int  # of the token whose output predicts the slot: the mask token, or the last token


def is_masked(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a tokenizer belongs to a masked model: ``load_tokenizer`` removes a causal model's mask token."""
    return tokenizer.mask_token_id is not None


def require_masked(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise an ``InputError`` for a causal model's tokenizer."""
    if not is_masked(tokenizer):
        raise InputError(
            "`model_name` is expected to be a masked language model, but the tokenizer of "
            f"{tokenizer.name_or_path!r} has no mask token. Choose a masked model."
        )


def require_bos(bos: str) -> None:
    """Raise an ``InputError`` if ``bos`` is not a :data:`Bos`."""
    require_one_of("bos", bos, get_args(Bos))


class Beginning(NamedTuple):
    """What a causal model's sentences are conditioned on."""

    front: tuple[int, ...]  # prepended tokens that all tokens are conditioned on; if empty,
    start_id: int | None = None  # the start token that only the first token is conditioned on


def beginning(tokenizer: PreTrainedTokenizerBase, bos: Bos = "tokenizer") -> Beginning:
    """Return what a causal model's sentences are conditioned on.

    Args:
        tokenizer: the model's tokenizer.
        bos: "tokenizer": the tokens that the tokenizer prepends, such as BOS. If it prepends none, or for "authors",
            only the first token is conditioned on the start token, and later tokens on the sentence alone.

    Raises:
        InputError: if ``bos`` is invalid, or a start token is needed but the tokenizer has none.

    Reference:
        Nadeem et al. 2021 and the authors' script, for "authors".
    """
    require_bos(bos)
    front = front_tokens(tokenizer) if bos == "tokenizer" else ()
    return Beginning(front) if front else Beginning((), start_token(tokenizer))


def start_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id of the token that precedes a causal model's sentence: BOS, or EOS without BOS.

    Raises:
        InputError: if the tokenizer has neither.
    """
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if start is None:
        raise InputError(
            f"`model_name` is expected to have a tokenizer with a start token, but that of {tokenizer.name_or_path!r} "
            "has neither `bos_token` nor `eos_token`. Define one in its tokenizer_config.json."
        )
    return int(start)


def front_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return the tokens that the tokenizer prepends to a text, such as BOS."""
    return tuple(_parts(tokenizer, "a")[0])


def causal_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return the tokens of a text to be continued by a causal model: without appended tokens, such as EOS."""
    front, tokens = _parts(tokenizer, text)
    return [*front, *tokens] if tokens else list(front_tokens(tokenizer))


def _parts(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[int]]:
    """Return the tokens that the tokenizer prepends to a text, and the text's own tokens."""
    whole, own = (tokenizer(text, add_special_tokens=special)["input_ids"] for special in (True, False))
    places = (place for place in range(len(whole)) if own and whole[place : place + len(own)] == own)
    return whole[: next(places, 0)], own


def encode_slot(tokenizer: PreTrainedTokenizerBase, text: str) -> Encoded:
    """Tokenize a text with one slot, written ``{slot}``.

    Raises:
        InputError: if the text does not have exactly one slot, or has no words before it for a causal model.
    """
    if text.count(SLOT) != 1:
        raise InputError(f"`prompt` is expected to have exactly one slot but has {text.count(SLOT)}: {text!r}.")
    if is_masked(tokenizer):
        tokens = tokenizer(text.replace(SLOT, str(tokenizer.mask_token)))["input_ids"]
        return Encoded(tokens, tokens.index(tokenizer.mask_token_id))
    tokens = causal_tokens(tokenizer, text.partition(SLOT)[0].rstrip())
    if not tokens:
        raise InputError(
            f"`prompt` is expected to have words before its slot for a causal model, but has none: {text!r}."
        )
    return Encoded(tokens, len(tokens) - 1)


def as_chat(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return a text with a slot in the chat template of an instruct model, with the slot at the end.

    The user's message asks to complete the sentence, and the assistant's turn starts with the sentence. The model thus
    sees the format that it was tuned on, and the slot still follows the words of the sentence; with a user message
    alone, the answer could start with anything, and the position of the word would be unknown.

    Tokens that the tokenizer prepends are removed from the start of the template's output, so that BOS occurs once.

    Raises:
        InputError: if the tokenizer belongs to a masked model, or has no usable chat template.
    """
    if is_masked(tokenizer) or not tokenizer.chat_template:
        lacks = "belongs to a masked model" if is_masked(tokenizer) else "has no chat template"
        raise InputError(
            "`chat_template` is expected to be false unless a causal model's tokenizer has a chat template, but "
            f"{tokenizer.name_or_path!r} {lacks}. Set it to false."
        )
    begun = text.partition(SLOT)[0].rstrip()
    message = {"role": "user", "content": f"Complete the sentence: {begun.lstrip()}"}
    try:
        chat = str(tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True))
    except Exception as error:  # the template's code may raise anything
        raise InputError(
            "`chat_template` is expected to be false unless the template accepts a user message, but that of "
            f"{tokenizer.name_or_path!r} fails: {' '.join(str(error).split())}. Set it to false."
        ) from error
    for token in tokenizer.convert_ids_to_tokens(list(front_tokens(tokenizer))):
        chat = chat.removeprefix(token)
    return f"{chat}{begun.lstrip()} {SLOT}"


def with_slots(tokenizer: PreTrainedTokenizerBase, prompt: Encoded, word: Sequence[int]) -> list[int]:
    """Return a prompt with one mask per token of a word; for a causal model, with the word except its last token."""
    if not is_masked(tokenizer):
        return [*prompt.input_ids, *word[:-1]]
    before, after = prompt.input_ids[: prompt.position], prompt.input_ids[prompt.position + 1 :]
    return before + [tokenizer.mask_token_id] * len(word) + after


def token_in_place(tokenizer: PreTrainedTokenizerBase, text: str, word: str) -> int | None:
    """Return the single token of ``word`` in the text's slot; None if it has several tokens or is unknown."""
    tokens = tokens_in_place(tokenizer, text, word)
    return tokens[0] if tokens is not None and len(tokens) == 1 else None


def tokens_in_place(tokenizer: PreTrainedTokenizerBase, text: str, word: str) -> tuple[int, ...] | None:
    """Return the tokens of ``word`` in the text's slot; None if one is unknown, or if the text's own tokens change.

    They are found by comparing the filled text with the text with the slot, so the tokenizer handles leading spaces.
    """
    slot = encode_slot(tokenizer, text)
    if is_masked(tokenizer):
        filled = tokenizer(text.replace(SLOT, word))["input_ids"]
        before, after = slot.input_ids[: slot.position], slot.input_ids[slot.position + 1 :]
    else:
        filled = causal_tokens(tokenizer, text.partition(SLOT)[0] + word)
        before, after = slot.input_ids, []
    end = len(filled) - len(after)
    tokens = tuple(filled[len(before) : end])
    fits = tokens and filled[: len(before)] == before and filled[end:] == after
    return tokens if fits and tokenizer.unk_token_id not in tokens else None


def by_length(lengths: Sequence[int], tokens_per_batch: int) -> list[list[int]]:
    """Group items of **equal** length into batches of at most ``tokens_per_batch`` tokens (and at least one item)."""
    batches = []
    for length, group in groupby(sorted(range(len(lengths)), key=lengths.__getitem__), lengths.__getitem__):
        indices, size = list(group), max(1, tokens_per_batch // length)
        batches += [indices[start : start + size] for start in range(0, len(indices), size)]
    return batches
