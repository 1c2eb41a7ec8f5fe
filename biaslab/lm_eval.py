"""A model with suppressed neurons for lm-evaluation-harness; importing this module registers it as ``biaslab``."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from biaslab.errors import InputError, require_all_of, require_device_map, require_one_of, require_ranges
from biaslab.models.architectures import architecture
from biaslab.models.loading import DTYPES, as_dtype, best_device, fingerprint, load_model
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.neurons.suppression import suppressed

_missing = ""
try:
    from lm_eval.api.registry import model_registry
    from lm_eval.models.huggingface import HFLM
except ImportError as error:  # an optional extra; creating the class then raises an error with the install command
    HFLM, _missing = object, str(error)
else:
    if "biaslab" not in model_registry:  # already registered if lm_eval reads entry points
        model_registry.register("biaslab", target=f"{__name__}:SuppressedLM")

_OWN = ("pretrained", "neurons", "factor", "positions", "dtype", "device", "device_map", "trust_remote_code")
# options passed on to lm_eval's model `hf`; its other options concern how it loads a model or tokenizer
_PASSED = (
    "batch_size", "chat_template_args", "enable_thinking", "logits_cache", "max_batch_size", "max_length",
    "mixed_precision_dtype", "prefix_token_id", "softmax_dtype", "think_end_token", "truncation",
)  # fmt: skip


class SuppressedLM(HFLM):  # type: ignore[misc]
    """A causal model with suppressed neurons for lm-evaluation-harness; otherwise the same as its model ``hf``.

    The neurons are suppressed by hooks, at all tokens, while requests are processed. Replacement values and strengths
    of the neuron file are applied; see :func:`biaslab.neurons.suppression.suppressed`.

    Args:
        pretrained: an asset's name, a folder or a hub id of the model that the neurons belong to.
        neurons: a neuron file (path or hub id) made for the model's weights.
        factor: what the neurons are multiplied by: 0 suppresses, 1 leaves the model unchanged.
        positions: "all".
        dtype: dtype of the weights: "auto" for the checkpoint's own, or "float32", "bfloat16" and so on.
        device: a device such as "cuda:1"; by default, or without a GPU, the best one available.
        device_map: "auto" for a model that does not fit on one device; ``device`` is then ignored.
        trust_remote_code: allow a checkpoint to run its own Python code.
        options: options of lm_eval's ``hf``: batch_size, max_batch_size, max_length, softmax_dtype and so on.

    Raises:
        InputError: if an argument is invalid, the model is not causal, the neurons were made for another model, or
            lm_eval is not installed.
    """

    def __init__(
        self,
        pretrained: str | None = None,
        neurons: str | os.PathLike[str] | None = None,
        factor: float = 0.0,
        positions: str = "all",
        dtype: str = "auto",
        device: str | None = None,
        device_map: str | None = None,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> None:
        if options:
            require_all_of("model_args", options, [*_OWN, *_PASSED])
        _require_text(pretrained=pretrained, neurons=neurons)
        require_ranges({"factor": factor})
        if positions != "all":
            raise InputError(
                f'`positions` is expected to be "all" but got {positions!r}: the tasks of lm_eval score every token of '
                "a text. Omit `positions`."
            )
        require_one_of("dtype", dtype, DTYPES)
        require_device_map(device_map)
        if not isinstance(trust_remote_code, bool):
            raise InputError(f"`trust_remote_code` is expected to be true or false but got {trust_remote_code!r}.")
        require_installed()
        _require_one_process()
        where = _device(device)
        self.neurons, self.factor = NeuronSet.load(str(neurons)), factor
        if not self.neurons:
            raise InputError(
                f"`neurons` is expected to hold at least one neuron but {neurons} is empty, so nothing would be "
                "suppressed. Use another file."
            )
        loading: Any = {"device_map": device_map, "trust_remote_code": trust_remote_code}
        model, tokenizer = load_model(str(pretrained), dtype=as_dtype(dtype), **loading)
        if architecture(model).masked:
            raise InputError(
                f"`pretrained` is expected to be a causal language model, which the tasks of lm_eval need, but "
                f"{pretrained!r} is a masked one. Use another model, or evaluate this one with `biaslab test`."
            )
        self.neurons.require_model(model)
        self._weights = fingerprint(model)
        if device_map is None:
            nn.Module.to(model, where)
        with _quietly():
            super().__init__(pretrained=model, tokenizer=tokenizer, **options)

    def loglikelihood(self, requests: list[Any], *args: Any, **kwargs: Any) -> list[tuple[float, bool]]:
        """Like ``hf``, with suppressed neurons."""
        with suppressed(self.model, self.neurons, self.factor):
            answers: list[tuple[float, bool]] = super().loglikelihood(requests, *args, **kwargs)
        return answers

    def loglikelihood_rolling(self, requests: list[Any], *args: Any, **kwargs: Any) -> list[float]:
        """Like ``hf``, with suppressed neurons."""
        with suppressed(self.model, self.neurons, self.factor):
            answers: list[float] = super().loglikelihood_rolling(requests, *args, **kwargs)
        return answers

    def generate_until(self, requests: list[Any], *args: Any, **kwargs: Any) -> list[str]:
        """Like ``hf``, with suppressed neurons."""
        with suppressed(self.model, self.neurons, self.factor):
            answers: list[str] = super().generate_until(requests, *args, **kwargs)
        return answers

    def get_model_info(self) -> dict[str, Any]:
        """Return the model info that lm_eval stores with the results, with fingerprints of the weights and neurons."""
        chosen = {"count": len(self.neurons), "fingerprint": self.neurons.fingerprint, "factor": self.factor}
        return {**super().get_model_info(), "model_fingerprint": self._weights, "neurons": chosen}


def require_installed() -> None:
    """Check that lm-evaluation-harness is installed.

    Raises:
        InputError: if it is not installed.
    """
    if _missing:
        raise InputError(
            f"lm-evaluation-harness (lm_eval) is expected to be installed but can't be imported: {_missing}. "
            "Install it: pip install 'biaslab[lm-eval]'."
        )


def _require_text(**arguments: object) -> None:
    for name, value in arguments.items():
        if not isinstance(value, str | os.PathLike) or not str(value):
            what = "a neuron file" if name == "neurons" else "the name, folder or hub id of a model"
            got = "is missing" if value is None or value == "" else f"got {value!r}"
            raise InputError(f"`{name}` is expected to be {what} but {got}. Pass it in --model_args: {name}=….")


def _require_one_process() -> None:
    if (processes := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise InputError(
            f"`WORLD_SIZE` is expected to be 1 but is {processes}: each process would process all requests. Start a "
            "single process without a launcher; device_map=auto splits a model over several devices."
        )


def _device(name: str | None) -> torch.device:
    """Return a device by name; the best one instead of a missing GPU, because lm_eval defaults to cuda:0."""
    if name is None or (str(name).startswith("cuda") and not torch.cuda.is_available()):
        return best_device()
    try:
        return torch.empty(0, device=name).device
    except Exception as error:  # torch's exception type depends on the device
        reason = str(error).partition("\n")[0].rstrip(".")
        raise InputError(f"`device` is expected to be a device of this machine but got {name!r}: {reason}.") from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence the warning of ``hf`` about an already loaded model within the block."""
    logger = logging.getLogger("lm_eval.models.huggingface")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
