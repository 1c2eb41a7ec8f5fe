"""Whether a model and its tokenizer belong together, and whether its weights are numbers that can be written again."""

import logging
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from biaslab.errors import InputError, did_you_mean

_PADDED = 0.9  # of the embeddings have tokens, at least: vocabularies are padded to round numbers


def require_fit(model_name: str, tokenizer: PreTrainedTokenizerBase, rows: int | None) -> None:
    """Check that a tokenizer's tokens are those that a model has embeddings for.

    Far fewer tokens than embeddings are logged as a warning: a file may be cut off, or be another model's.

    Args:
        model_name: as the user gave it.
        tokenizer: as it was loaded.
        rows: how many embeddings the model has; None if that is not known.

    Raises:
        InputError: if the tokenizer has special tokens alone, as where its files are missing, or tokens without an
            embedding.
    """
    ids = set(tokenizer.get_vocab().values())
    if not (ordinary := ids - set(tokenizer.all_special_ids)):
        raise InputError(
            f"`model_name` is expected to have a tokenizer, but that of {model_name!r} has no tokens beside the "
            f"{len(ids)} special ones: its files (tokenizer.json, or the vocabulary) are missing. Copy them from the "
            "model that it was trained from."
        )
    if rows is None:
        return
    start = f"{model_name!r} has a tokenizer of {len(ids)} tokens and a model of {rows} embeddings"
    # a special token that nothing is encoded with, such as one to pad with, often has no embedding
    used = {tokenizer.mask_token_id, *tokenizer("a")["input_ids"]} - {None}
    needed = ordinary - set(tokenizer.added_tokens_decoder) | used
    if beyond := sorted(token for token in needed if token >= rows):
        raise InputError(
            f"`model_name` is expected to have a tokenizer that fits its model, but {start}: the token "
            f"{tokenizer.convert_ids_to_tokens(beyond[0])!r} has none. Give the tokenizer's files of this very model, "
            "or resize its embeddings."
        )
    if len(ids) < _PADDED * rows:
        logging.getLogger(__name__).warning("%s: check that its tokenizer is this model's, and whole.", start)


def embeddings_of(model: PreTrainedModel) -> int:
    """Return how many tokens a model has embeddings for."""
    weight: Any = model.get_input_embeddings().weight
    return int(weight.shape[0])


def quantisation(model_or_config: Any) -> str | None:
    """Return the name of the method that a checkpoint is quantised by; None if it has full weights."""
    settings = getattr(getattr(model_or_config, "config", model_or_config), "quantization_config", None)
    if settings is None:
        return None
    method = settings.get("quant_method") if isinstance(settings, dict) else settings.quant_method
    return str(getattr(method, "value", method))


def precision(model: PreTrainedModel) -> str:
    """Return what a model's weights are: their type, or how they are quantised.

    >>> import torch
    >>> from transformers import BertConfig, BertForMaskedLM
    >>> tiny = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    >>> precision(BertForMaskedLM(tiny).to(torch.bfloat16))
    'bfloat16'
    """
    method = quantisation(model)
    return str(model.dtype).removeprefix("torch.") if method is None else f"quantised ({method})"


def is_quantised(model_name: str, config: Any) -> bool:
    """Return whether a checkpoint is quantised.

    Raises:
        InputError: if it is, by a method that transformers doesn't know.
    """
    if (method := quantisation(config)) is None:
        return False
    names = (name.removesuffix("_4bit").removesuffix("_8bit") for name in AUTO_QUANTIZATION_CONFIG_MAPPING)
    known = list(dict.fromkeys(names))
    if method not in known:
        raise InputError(
            f"`model_name` is expected to be quantised by a method that transformers knows ({', '.join(known)}), if it "
            f"is, but the config.json of {model_name!r} says {method!r}.{did_you_mean(method, known)} Choose the full "
            "weights."
        )
    return True


def require_full_weights(model: PreTrainedModel) -> None:
    """Refuse a quantised model where its weights are to be changed and written.

    Raises:
        InputError: if it is one.
    """
    if (method := quantisation(model)) is not None:
        raise InputError(
            f"`model` is expected to have full weights, which can be changed and written, but it is quantised "
            f"({method}). Give the checkpoint that it was quantised from, and quantise what is written."
        )
