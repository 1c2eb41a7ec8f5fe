"""Maximum text length: a model's positions, and truncation of texts with a message (once per process)."""

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

# Architectures that number positions from the padding token's id on, as in fairseq: the rows before it are unused.
_AFTER_PADDING = (
    "camembert", "data2vec-text", "ibert", "longformer", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta",
    "xlm-roberta-xl", "xmod",
)  # fmt: skip
_log = logging.getLogger("biaslab")


def positions(config: Any) -> int:
    """Return the maximum number of tokens of a model with this config; ``sys.maxsize`` if it has no limit.

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
    """Set a tokenizer's ``model_max_length`` to the number of its model's positions, if known; return the tokenizer."""
    try:
        name = minilm.ENCODER if model_name == minilm.NAME else model_name
        source = model_folder(name) if name in assets.MODELS else Path(name).expanduser()
        config = AutoConfig.from_pretrained(str(source), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError):  # a tokenizer without a model, or a config with custom code
        return tokenizer
    tokenizer.model_max_length = positions(config)
    return tokenizer


def require_room(
    tokenizer: PreTrainedTokenizerBase, lengths: Iterable[int], place: Callable[[int], str], argument: str = "path"
) -> None:
    """Check that texts that must not be truncated fit into the model's positions.

    Args:
        tokenizer: a tokenizer of :func:`with_positions`.
        lengths: lengths of the texts, in tokens.
        place: returns the location of the text with a given index, for the message.
        argument: the argument that the texts come from.

    Raises:
        InputError: if a text is too long; the message gives its location.
    """
    for number, length in enumerate(lengths):
        if length > tokenizer.model_max_length:
            raise InputError(
                f"`{argument}` is expected to contain texts of at most {tokenizer.model_max_length} tokens, the "
                f"model's maximum, but {place(number)} has {length}. Shorten it, or choose a model with more positions."
            )


def cut_tokens(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], longest: int, what: str, special: bool = True
) -> list[list[int]]:
    """Tokenize texts, truncated to ``longest`` and the model's positions; report truncation once."""
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
    """Report how many texts (described by ``what``) were truncated to ``longest`` tokens, once per process."""
    full = [text for text, ids in zip(texts, tokens, strict=True) if len(ids) >= longest]
    whole = tokenizer(full, add_special_tokens=special, verbose=False)["input_ids"] if full else []
    if cut := sum(len(ids) > longest for ids in whole):
        say_once(f"{cut} of {len(texts)} {what} are longer than {longest} tokens and were truncated.")


def say_unknown(what: str, unknown: int, total: int, consequence: str) -> None:
    """Report how many tokens or words a tokenizer does not know, if any, and the consequence."""
    if unknown:
        doubt = "; that is most of them, so results say little about this model" if 2 * unknown > total else ""
        say_once(f"{unknown} of {total} {what} are unknown to the tokenizer and {consequence}{doubt}.")


@cache
def say_once(text: str) -> None:
    """Show a message to the user, once per process."""
    _log.warning(text)
