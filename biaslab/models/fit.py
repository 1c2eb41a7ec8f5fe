"""Check that a model and its tokenizer match, and that its weights can be modified and saved."""

import logging
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from biaslab.errors import InputError, did_you_mean

_log = logging.getLogger(__name__)
_PADDED = 0.9  # minimum share of embeddings with a token: vocabularies are padded to round numbers


def require_fit(model_name: str, tokenizer: PreTrainedTokenizerBase, rows: int | None) -> None:
    """Check that a model has an embedding for each token of its tokenizer.

    Far fewer tokens than embeddings cause a warning: a file may be truncated or belong to another model.

    Args:
        model_name: the name given by the user.
        tokenizer: the loaded tokenizer.
        rows: number of embeddings of the model; None if unknown.

    Raises:
        InputError: if the tokenizer has only special tokens (its files are missing) or a token has no embedding.
    """
    ids = set(tokenizer.get_vocab().values())
    if not (ordinary := ids - set(tokenizer.all_special_ids)):
        raise InputError(
            f"`model_name` is expected to have a tokenizer, but that of {model_name!r} has only {len(ids)} special "
            "tokens: its files (tokenizer.json, or the vocabulary) are missing. Copy them from the model it was "
            "trained from."
        )
    if rows is None:
        return
    start = f"{model_name!r} has a tokenizer with {len(ids)} tokens and a model with {rows} embeddings"
    # special tokens that never occur in encoded text, such as padding, often have no embedding
    used = {tokenizer.mask_token_id, *tokenizer("a")["input_ids"]} - {None}
    needed = ordinary - set(tokenizer.added_tokens_decoder) | used
    if beyond := sorted(token for token in needed if token >= rows):
        raise InputError(
            f"`model_name` is expected to have a tokenizer that matches the model, but {start}: the token "
            f"{tokenizer.convert_ids_to_tokens(beyond[0])!r} has no embedding. Use this model's tokenizer files, or "
            "resize its embeddings."
        )
    if len(ids) < _PADDED * rows:
        _log.warning("%s. Check that the tokenizer is complete and belongs to this model.", start)


def embeddings_of(model: PreTrainedModel) -> int:
    """Return the number of token embeddings of a model."""
    weight: Any = model.get_input_embeddings().weight
    return int(weight.shape[0])


def quantisation(model_or_config: Any) -> str | None:
    """Return the quantisation method of a checkpoint; None if it has full weights."""
    settings = getattr(getattr(model_or_config, "config", model_or_config), "quantization_config", None)
    if settings is None:
        return None
    method = settings.get("quant_method") if isinstance(settings, dict) else settings.quant_method
    return str(getattr(method, "value", method))


def precision(model: PreTrainedModel) -> str:
    """Return the dtype of a model's weights, or their quantisation method.

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
        InputError: if it is quantised with a method that transformers does not know.
    """
    if (method := quantisation(config)) is None:
        return False
    names = (name.removesuffix("_4bit").removesuffix("_8bit") for name in AUTO_QUANTIZATION_CONFIG_MAPPING)
    known = list(dict.fromkeys(names))
    if method not in known:
        raise InputError(
            "`model_name` is expected to have full weights or a quantisation method that transformers supports "
            f"({', '.join(known)}), but the config.json of {model_name!r} says {method!r}."
            f"{did_you_mean(method, known)} Use a checkpoint with full weights."
        )
    return True


def require_full_weights(model: PreTrainedModel) -> None:
    """Reject a quantised model where its weights are to be modified and saved.

    Raises:
        InputError: if the model is quantised.
    """
    if (method := quantisation(model)) is not None:
        raise InputError(
            f"`model` is expected to have full weights, which can be modified and saved, but it is quantised "
            f"({method}). Use the checkpoint it was quantised from, and quantise the result."
        )
