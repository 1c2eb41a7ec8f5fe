"""A model with suppressed neurons for lm-evaluation-harness; importing this registers it there as ``biaslab``."""

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
except ImportError as error:  # an extra: then all that is left here is the error that says how to install it
    HFLM, _missing = object, str(error)
else:
    if "biaslab" not in model_registry:  # where lm_eval reads entry points, it is there already
        model_registry.register("biaslab", target=f"{__name__}:SuppressedLM")

_OWN = ("pretrained", "neurons", "factor", "positions", "dtype", "device", "device_map", "trust_remote_code")
# of lm_eval's own model `hf`, as they are; its others load a model or a tokenizer its way
_PASSED = (
    "batch_size", "chat_template_args", "enable_thinking", "logits_cache", "max_batch_size", "max_length",
    "mixed_precision_dtype", "prefix_token_id", "softmax_dtype", "think_end_token", "truncation",
)  # fmt: skip


class SuppressedLM(HFLM):  # type: ignore[misc]
    """A causal model with suppressed neurons, as lm-evaluation-harness asks it: its model ``hf`` but for the neurons.

    The neurons are suppressed by hooks, at all tokens, while requests are answered; in between the model has none.
    What a file's values and strengths say holds: see :func:`biaslab.neurons.suppression.suppressed`.

    Args:
        pretrained: an asset's name, a folder, or a hub id of the model that the neurons belong to.
        neurons: a neuron file, made for the very weights.
        factor: what the neurons are multiplied by: 0 suppresses, 1 leaves the model untouched.
        positions: "all".
        dtype: of the weights: "auto", the checkpoint's own, or "float32", "bfloat16" and so on.
        device: such as "cuda:1"; by default, and where there is no GPU at all, the best one.
        device_map: "auto" for a model that one device has no room for; then ``device`` is not looked at.
        trust_remote_code: let a checkpoint bring its own Python code.
        options: of lm_eval's ``hf``: batch_size, max_batch_size, max_length, softmax_dtype and so on.

    Raises:
        InputError: if an argument is not as described, the model is a masked one, the neurons are not the model's, or
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
                f'`positions` is expected to be "all" but got {positions!r}: the tasks of lm_eval score whole texts, '
                "every token of which predicts the next one. Leave it out."
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
                f"`neurons` is expected to hold at least one neuron, but {neurons} is empty: nothing would be "
                "suppressed. Choose another file."
            )
        loading: Any = {"device_map": device_map, "trust_remote_code": trust_remote_code}
        model, tokenizer = load_model(str(pretrained), dtype=as_dtype(dtype), **loading)
        if architecture(model).masked:
            raise InputError(
                f"`pretrained` is expected to be a causal language model, since the tasks of lm_eval ask how a text "
                f"goes on, but {pretrained!r} is a masked one. Choose another model, or judge it with `biaslab test`."
            )
        self.neurons.require_model(model)
        self._weights = fingerprint(model)
        if device_map is None:
            nn.Module.to(model, where)
        with _quietly():
            super().__init__(pretrained=model, tokenizer=tokenizer, **options)

    def loglikelihood(self, requests: list[Any], *args: Any, **kwargs: Any) -> list[tuple[float, bool]]:
        """As ``hf`` does, with the neurons suppressed."""
        with suppressed(self.model, self.neurons, self.factor):
            answers: list[tuple[float, bool]] = super().loglikelihood(requests, *args, **kwargs)
        return answers

    def loglikelihood_rolling(self, requests: list[Any], *args: Any, **kwargs: Any) -> list[float]:
        """As ``hf`` does, with the neurons suppressed."""
        with suppressed(self.model, self.neurons, self.factor):
            answers: list[float] = super().loglikelihood_rolling(requests, *args, **kwargs)
        return answers

    def generate_until(self, requests: list[Any], *args: Any, **kwargs: Any) -> list[str]:
        """As ``hf`` does, with the neurons suppressed."""
        with suppressed(self.model, self.neurons, self.factor):
            answers: list[str] = super().generate_until(requests, *args, **kwargs)
        return answers

    def get_model_info(self) -> dict[str, Any]:
        """Return what lm_eval writes beside the results: its own facts, and which neurons of which weights."""
        chosen = {"count": len(self.neurons), "fingerprint": self.neurons.fingerprint, "factor": self.factor}
        return {**super().get_model_info(), "model_fingerprint": self._weights, "neurons": chosen}


def require_installed() -> None:
    """Check that lm-evaluation-harness is installed.

    Raises:
        InputError: if it isn't.
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
            raise InputError(f"`{name}` is expected to be {what} but {got}. Give it in --model_args: {name}=….")


def _require_one_process() -> None:
    if (processes := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise InputError(
            f"`WORLD_SIZE` is expected to be 1 but is {processes}: each process would answer all requests. Start one "
            "without a launcher; device_map=auto spreads a model over several devices."
        )


def _device(name: str | None) -> torch.device:
    """Return a device by its name; the best one instead of a GPU where there is none, since lm_eval asks for cuda:0."""
    if name is None or (str(name).startswith("cuda") and not torch.cuda.is_available()):
        return best_device()
    try:
        return torch.empty(0, device=name).device
    except Exception as error:  # of torch's, by the kind of device
        reason = str(error).partition("\n")[0].rstrip(".")
        raise InputError(f"`device` is expected to be a device of this machine but got {name!r}: {reason}.") from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Within the block ``hf`` doesn't warn that it was given a loaded model."""
    logger = logging.getLogger("lm_eval.models.huggingface")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
