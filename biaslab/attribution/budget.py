"""The token budget of a forward pass, and detection of out-of-memory errors."""

import logging

import torch

from biaslab.errors import InputError, require_positive

_log = logging.getLogger("biaslab")


class TokenBudget:
    """Limits how many tokens, times the layers they pass through, are computed at once.

    The default of 8,192 takes about 400 MB for BERT-base.
    """

    def __init__(self, tokens: int = 8192) -> None:
        require_positive(token_budget=tokens)
        self.tokens = tokens

    def halve(self, least: int) -> None:
        """Halve the budget after running out of memory.

        Raises:
            InputError: if memory ran out on a single sequence of ``least`` tokens.
        """
        if self.tokens <= least:
            raise InputError(
                f"Out of memory on a single sequence of {least} tokens. Use a smaller model, a lower-precision dtype, "
                "shorter prompts or another machine."
            )
        self.tokens = max(least, self.tokens // 2)
        _log.warning("Out of memory. Continuing with half the token budget, %d.", self.tokens)


def out_of_memory(error: BaseException) -> bool:
    """Return whether an exception is an out-of-memory error, on any device."""
    words = ("can't allocate memory", "not enough memory", "ALLOC_FAILED", "bad_alloc", "could not create a primitive")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in words)
