"""How much is computed at once, and what says that memory ran out."""

import logging

import torch

from biaslab.errors import InputError, require_positive

_log = logging.getLogger("biaslab")


class TokenBudget:
    """How many tokens, times the layers that they pass through, are computed at once; 8,192: 400 MB for BERT-base."""

    def __init__(self, tokens: int = 8192) -> None:
        require_positive(token_budget=tokens)
        self.tokens = tokens

    def halve(self, least: int) -> None:
        """Continue with half of it after memory ran out, unless that was on a single sequence of ``least`` tokens."""
        if self.tokens <= least:
            raise InputError(
                f"Out of memory on a single sequence of {least} tokens. Use a smaller model, a lower-precision dtype, "
                "shorter prompts or another machine."
            )
        self.tokens = max(least, self.tokens // 2)
        _log.warning("Out of memory. Continuing with half the token budget, %d.", self.tokens)


def out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that memory ran out, on any device."""
    words = ("can't allocate memory", "not enough memory", "ALLOC_FAILED", "bad_alloc", "could not create a primitive")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in words)
