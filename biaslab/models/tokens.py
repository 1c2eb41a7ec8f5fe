"""Tokenizers by name, what a word becomes in its place, and batches that need no padding."""

from collections.abc import Sequence
from itertools import groupby
from typing import Literal, NamedTuple, get_args

from transformers import PreTrainedTokenizerBase

from biaslab.errors import InputError, require_one_of

SLOT = "{slot}"
# What a causal model's sentences are conditioned on: what the tokenizer itself puts in front of them, all of their
# tokens; or, by the rule of StereoSet's authors, the start token, their first token alone.
Bos = Literal["tokenizer", "authors"]


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


def require_bos(bos: str) -> None:
    """Refuse what is no :data:`Bos` (InputError)."""
    require_one_of("bos", bos, get_args(Bos))


class Beginning(NamedTuple):
    """What a causal model's sentences are conditioned on."""

    front: tuple[int, ...]  # the tokens in front of each, which all its tokens are conditioned on; or none, and
    start_id: int | None = None  # the start token, which the first token alone is conditioned on


def beginning(tokenizer: PreTrainedTokenizerBase, bos: Bos = "tokenizer") -> Beginning:
    """Return what a causal model's sentences are conditioned on.

    Args:
        tokenizer: the model's.
        bos: "tokenizer": what the tokenizer itself puts in front, such as BOS; where it puts nothing there, and by
            "authors" always, the start token is in front of the first token alone, the later ones have the sentence.

    Raises:
        InputError: if ``bos`` is neither, or a start token is needed and the tokenizer has none.

    Reference:
        For "authors", Nadeem et al. 2021 and the authors' script.
    """
    require_bos(bos)
    front = front_tokens(tokenizer) if bos == "tokenizer" else ()
    return Beginning(front) if front else Beginning((), start_token(tokenizer))


def start_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id of the token that a causal model's sentence begins after: BOS, or EOS where there is none.

    Raises:
        InputError: if there is neither.
    """
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if start is None:
        raise InputError(
            f"`model_name` is expected to have a tokenizer with a start token, but that of {tokenizer.name_or_path!r} "
            "has neither `bos_token` nor `eos_token`. Name one in its tokenizer_config.json."
        )
    return int(start)


def front_tokens(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Return what the tokenizer itself puts in front of a text, such as BOS."""
    return tuple(_parts(tokenizer, "a")[0])


def causal_tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Return a text's tokens for a causal model that goes on after it: without what the tokenizer appends, as EOS."""
    front, tokens = _parts(tokenizer, text)
    return [*front, *tokens] if tokens else list(front_tokens(tokenizer))


def _parts(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[int]]:
    """Return what the tokenizer puts in front of a text, and the text's own tokens."""
    whole, own = (tokenizer(text, add_special_tokens=special)["input_ids"] for special in (True, False))
    places = (place for place in range(len(whole)) if own and whole[place : place + len(own)] == own)
    return whole[: next(places, 0)], own


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
    tokens = causal_tokens(tokenizer, text.partition(SLOT)[0].rstrip())
    if not tokens:
        raise InputError(
            f"`prompt` is expected to have words before its slot for a causal model, but has none: {text!r}."
        )
    return Encoded(tokens, len(tokens) - 1)


def as_chat(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Return a text with a slot as an instruct model is asked it, by its chat template; the slot stands last.

    The user's message asks to complete the sentence, and the assistant's turn begins with it. So the model is asked in
    the form that it was tuned in, and still for the word that follows the sentence's own words: of a message alone, the
    answer could begin with anything, and the word in question would stand at no place that is known beforehand.

    What the tokenizer itself puts in front of texts is left out where the template begins with it: there is one BOS.

    Raises:
        InputError: if it is a masked model's tokenizer, or has no chat template that can be used.
    """
    if is_masked(tokenizer) or not tokenizer.chat_template:
        lacks = "is a masked model's" if is_masked(tokenizer) else "has no chat template"
        raise InputError(
            "`chat_template` is expected for a causal model whose tokenizer has a chat template, but that of "
            f"{tokenizer.name_or_path!r} {lacks}. Leave it out."
        )
    begun = text.partition(SLOT)[0].rstrip()
    message = {"role": "user", "content": f"Complete the sentence: {begun.lstrip()}"}
    try:
        chat = str(tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True))
    except Exception as error:  # whatever the template's code raises
        raise InputError(
            f"`chat_template` is expected to be one that takes a user's message, but that of "
            f"{tokenizer.name_or_path!r} fails: {' '.join(str(error).split())}. Leave it out."
        ) from error
    for token in tokenizer.convert_ids_to_tokens(list(front_tokens(tokenizer))):
        chat = chat.removeprefix(token)
    return f"{chat}{begun.lstrip()} {SLOT}"


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
        filled = causal_tokens(tokenizer, text.partition(SLOT)[0] + word)
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
