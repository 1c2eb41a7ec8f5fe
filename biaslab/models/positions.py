"""How long a text may be: a model's positions, and texts that are cut where cutting is sound, which is said once."""

import logging
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedTokenizerBase

from biaslab.errors import InputError
from biaslab.models import assets, minilm
from biaslab.models.loading import model_folder

# Architectures that number positions from the padding token's id on, as fairseq did: so many of the table are not used.
_AFTER_PADDING = (
    "camembert", "data2vec-text", "ibert", "longformer", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta",
    "xlm-roberta-xl", "xmod",
)  # fmt: skip
_log = logging.getLogger("biaslab")


def positions(config: Any) -> int:
    """Return how many tokens a model of a configuration can read; very many where it names no limit.

    >>> from transformers import BertConfig, RobertaConfig
    >>> positions(BertConfig(max_position_embeddings=512)), positions(RobertaConfig(max_position_embeddings=514))
    (512, 512)
    """
    config = getattr(config, "text_config", None) or config
    limit = getattr(config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit < 1:
        return sys.maxsize
    unused = 1 + (getattr(config, "pad_token_id", None) or 0) if config.model_type in _AFTER_PADDING else 0
    return limit - unused


def with_positions(tokenizer: PreTrainedTokenizerBase, model_name: str) -> PreTrainedTokenizerBase:
    """Return a tokenizer whose ``model_max_length`` is the number of its model's positions, where they are known."""
    try:
        name = minilm.ENCODER if model_name == minilm.NAME else model_name
        source = model_folder(name) if name in assets.MODELS else Path(name).expanduser()
        config = AutoConfig.from_pretrained(str(source), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError):  # a tokenizer alone, or a configuration with code of its own
        return tokenizer
    tokenizer.model_max_length = positions(config)
    return tokenizer


def require_room(
    tokenizer: PreTrainedTokenizerBase, lengths: Iterable[int], place: Callable[[int], str], argument: str = "path"
) -> None:
    """Check that texts which must be whole fit into the model's positions.

    Args:
        tokenizer: of :func:`with_positions`.
        lengths: of the texts, in tokens.
        place: says where the text of a number stands, for the message.
        argument: that the texts come from.

    Raises:
        InputError: if a text is longer; it names the place.
    """
    for number, length in enumerate(lengths):
        if length > tokenizer.model_max_length:
            raise InputError(
                f"`{argument}` is expected to hold texts of at most {tokenizer.model_max_length} tokens, the model's "
                f"positions, but {place(number)} has {length}. Shorten it, or choose a model with more positions."
            )


def cut_tokens(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], longest: int, what: str, special: bool = True
) -> list[list[int]]:
    """Return texts as tokens, at most ``longest`` and as many as the model has positions; what is cut is said once."""
    longest = min(longest, tokenizer.model_max_length)
    if not texts:
        return []
    options: dict[str, Any] = {"truncation": True, "max_length": longest, "add_special_tokens": special}
    tokens: list[list[int]] = tokenizer(list(texts), **options)["input_ids"]
    say_cut(tokenizer, texts, tokens, longest, what, special)
    return tokens


def say_cut(
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    tokens: Sequence[Sequence[int]],
    longest: int,
    what: str,
    special: bool = True,
) -> None:
    """Say how many of some texts, which are called ``what``, were cut to so many tokens, once a process."""
    full = [text for text, ids in zip(texts, tokens, strict=True) if len(ids) >= longest]
    whole = tokenizer(full, add_special_tokens=special, verbose=False)["input_ids"] if full else []
    if cut := sum(len(ids) > longest for ids in whole):
        say_once(f"{cut} of {len(texts)} {what} are longer than {longest} tokens; the rest of them is not used.")


def say_unknown(what: str, unknown: int, total: int, consequence: str) -> None:
    """Say how many of some tokens or words a tokenizer does not know, if there are any, and what that means."""
    if unknown:
        doubt = "; most of them, so that figures say little about this model" if 2 * unknown > total else ""
        say_once(f"{unknown} of {total} {what} are unknown to the tokenizer and {consequence}{doubt}.")


@cache
def say_once(text: str) -> None:
    """Say something to the user, once a process."""
    _log.warning(text)
