"""Context managers on the activations of feed-forward neurons: suppressed, recorded."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from biaslab.errors import InputError, require_ranges
from biaslab.models.architectures import (
    add_biases,
    architecture,
    by_token,
    down_weight,
    ffn_modules,
    ffn_shape,
    has_bias,
    sequences_of,
)
from biaslab.models.placement import changed
from biaslab.neurons.neuron_set import NeuronSet

Positions: TypeAlias = "Literal['all', 'slot'] | Tensor"
_EXPECTED = '`positions` is expected to be "all", "slot" or one integer from 0 on a sequence, a tensor [batch],'
_Places: TypeAlias = Callable[[Tensor], Tensor]  # activations [batch, sequence, neuron] -> mask [batch, sequence]


@contextmanager
def suppressed(
    model: PreTrainedModel,
    neurons: Iterable[tuple[int, int]],
    factor: float = 0.0,
    positions: Positions = "all",
    mask_token_id: int | None = None,
) -> Iterator[None]:
    """Within the block, the activations of the neurons are multiplied by ``factor`` (bias neuron suppression, BNS).

    At all positions and with the factor 0 it is as if the neurons' columns of the down-projection's weight were zero.
    Where a set has values v, such as the neurons' means, factor 0 sets them to these: an activation a becomes
    v + factor·(a - v).
    Where a set has strengths, how much of this each neuron gets, 1 - (1 - factor)·strength takes the factor's place.
    Only layers that have neurons get a hook. Whether a set was made for these very weights is checked by
    :meth:`biaslab.neurons.neuron_set.NeuronSet.require_model`, not here.

    Args:
        model: a model of the table.
        neurons: a set, or any (layer, index) pairs.
        factor: 0 switches the neurons off, 1 changes nothing, 2 amplifies.
        positions: where the neurons are scaled: "all", the one position of each sequence, ``[batch]`` (every forward
            pass then has that many sequences), or "slot": every mask token of each forward pass' ``input_ids``, a
            causal model's last token that is not padding.
        mask_token_id: of a masked language model; needed for "slot".

    Raises:
        InputError: if a neuron is not in the model or an argument is not what is expected, before anything is changed;
            by a forward pass that does not fit ``positions``.

    Reference:
        "The Devil is in the Neurons" (ICLR 2024), section 3.3.

    >>> from transformers import BertConfig, BertForMaskedLM
    >>> sizes = dict(hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, vocab_size=10)
    >>> model = BertForMaskedLM(BertConfig(**sizes)).eval()
    >>> with suppressed(model, [(1, 3), (1, 4)]), recorded(model) as activations:
    ...     _ = model(torch.tensor([[1, 2, 3]]))
    >>> [activations[layer].count_nonzero().item() for layer in (0, 1)]  # of 3 tokens times 16 neurons
    [48, 42]
    >>> with suppressed(model, [(1, 3)], positions="slot", mask_token_id=2), recorded(model) as activations:
    ...     _ = model(torch.tensor([[1, 2, 3]]))
    >>> activations[1][0, :, 3] != 0
    tensor([ True, False,  True])
    """
    shape = ffn_shape(model)
    if isinstance(neurons, NeuronSet):
        neurons.require_shape(shape)
    else:
        neurons = NeuronSet(neurons, shape)
    values = neurons.values
    require_ranges({"factor": factor})
    places = _checked(model, positions, mask_token_id)
    modules = ffn_modules(model)
    with ExitStack() as stack:
        if isinstance(places, _Slots):
            stack.enter_context(model.register_forward_pre_hook(places.read, with_kwargs=True))
            stack.enter_context(model.register_forward_hook(places.forget, always_call=True))
        if places is not None and architecture(model).joined:
            places = partial(_unjoined, places, stack.enter_context(sequences_of(model)))
        for layer, (indices, multipliers) in _multipliers(neurons, factor).items():
            own = None if values is None else values[layer]
            hook = _scaling(indices, multipliers, shape[1], places, own)
            stack.enter_context(modules[layer].register_forward_pre_hook(hook))
        yield


def _checked(model: PreTrainedModel, positions: Positions, mask_token_id: int | None) -> _Places | None:
    """Return how to find the places of a forward pass; None for everywhere."""
    if isinstance(positions, Tensor):
        return _given(positions)
    if not isinstance(positions, str) or positions not in ("all", "slot"):
        raise InputError(f"{_EXPECTED} but got {positions!r}.")
    if positions == "all":
        return None
    masked = architecture(model).masked
    if masked and mask_token_id is None:
        raise InputError("`mask_token_id` is expected to be an integer for a masked language model but is None.")
    return _Slots(mask_token_id if masked else None)


class _Slots:
    """The slots of the forward pass that is running: mask tokens, or, where that is None, each sequence's last one."""

    def __init__(self, mask_token_id: int | None) -> None:
        self.mask_token_id = mask_token_id
        self.mask: Tensor | None = None

    def read(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = args[0] if args else kwargs.get("input_ids")
        if not isinstance(ids, Tensor):
            raise InputError("`input_ids` is expected to be a tensor, to find the slots in, but the model got none.")
        if self.mask_token_id is not None:
            self.mask = ids == self.mask_token_id
            return
        attended = kwargs.get("attention_mask")
        attended = torch.ones_like(ids) if attended is None else attended[:, -ids.shape[1] :]
        last = ids.shape[1] - 1 - attended.flip(1).long().argmax(1)
        self.mask = last[:, None] == torch.arange(ids.shape[1], device=ids.device)

    def forget(self, *_: Any) -> None:
        self.mask = None

    def __call__(self, activations: Tensor) -> Tensor:
        if self.mask is None or self.mask.shape != activations.shape[:2]:
            raise InputError('`positions` is expected to be "all" where layers run outside the model\'s forward pass.')
        return self.mask


def _given(positions: Tensor) -> _Places:
    """Return how to find one given position a sequence, ``[batch]``."""
    if positions.ndim != 1 or positions.is_floating_point() or positions.dtype == torch.bool:
        raise InputError(f"{_EXPECTED} but got {list(positions.shape)} of {positions.dtype}.")
    if len(positions) and int(positions.min()) < 0:
        raise InputError(f"{_EXPECTED} but got {int(positions.min())}.")
    longest = int(positions.max()) if len(positions) else -1

    def places(activations: Tensor) -> Tensor:
        nonlocal positions
        batch, sequence = activations.shape[:2]
        if batch != len(positions) or sequence <= longest:
            raise InputError(
                f"`positions` is expected to hold one position for each of the {batch} sequences of {sequence} tokens "
                f"of this forward pass but holds {len(positions)}, the largest {longest}. Give the positions of this "
                'batch, or "all".'
            )
        positions = positions.to(activations.device)
        return positions[:, None] == torch.arange(sequence, device=activations.device)

    return places


def _unjoined(places: _Places, sequences: Callable[[], int], activations: Tensor) -> Tensor:
    """Return the places among activations ``[batch · sequence, neuron]``, ``[batch · sequence]``."""
    return places(by_token(activations, sequences())).flatten()


def _multipliers(neurons: NeuronSet, factor: float) -> dict[int, tuple[list[int], list[float]]]:
    """Return the indices of each layer's neurons, and what they are multiplied by: 1 - (1 - factor)·strength.

    The sum is written so that strength 1 gives the very factor, and factor 0 or strength 0 round nothing.
    """
    strengths = neurons.strengths
    found: dict[int, tuple[list[int], list[float]]] = {}
    for neuron in neurons:
        strength = 1.0 if strengths is None else strengths[neuron]
        indices, multipliers = found.setdefault(neuron.layer, ([], []))
        indices.append(neuron.index)
        multipliers.append(factor * strength + (1 - strength))
    return found


def _scaling(
    indices: Sequence[int],
    multipliers: Sequence[float],
    width: int,
    places: _Places | None,
    values: NDArray[np.float32] | None,
) -> Callable[..., Any]:
    """Return a forward pre-hook that multiplies some of the input's neurons, at some places or everywhere.

    With ``values``, ``[neuron]``, it is how far they are from these that is multiplied.
    """
    with torch.inference_mode(False):  # autograd may have to save it later
        scale, shift = torch.ones(width, dtype=torch.float64), None
        scale[list(indices)] = torch.tensor(multipliers, dtype=torch.float64)
        if values is not None:
            shift = (1 - scale) * torch.from_numpy(values.astype(np.float64))

    def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        nonlocal scale, shift
        activations: Tensor = args[0]
        if scale.device != activations.device or scale.dtype != activations.dtype:
            with torch.inference_mode(False):
                scale = scale.to(device=activations.device, dtype=activations.dtype)
                shift = None if shift is None else shift.to(device=activations.device, dtype=activations.dtype)
        scaled = activations * scale
        if shift is not None:
            scaled = scaled + shift
        if places is not None:
            scaled = torch.where(places(activations)[..., None], scaled, activations)
        return scaled, *args[1:]

    return hook


def require_predicting_slots(model: PreTrainedModel, positions: str, measured_by: Sequence[str]) -> None:
    """Refuse to judge whole sentences of a causal model with neurons that are suppressed at the last token alone.

    ``measured_by`` names what asks for whole sentences; it is empty where only the last token is asked.

    Raises:
        InputError: in that case: the last token's output predicts nothing, and the model would be judged as untouched.
    """
    if positions == "slot" and measured_by and not architecture(model).masked:
        raise InputError(
            f'`positions` is expected to be "all" for a causal model measured by {", ".join(measured_by)} but got '
            '"slot": every token of a sentence predicts the next one, and suppression at the last token alone changes '
            'none of them. Use positions "all".'
        )


@contextmanager
def recorded(model: PreTrainedModel) -> Iterator[dict[int, Tensor]]:
    """Within the block, the activations of the last forward pass are kept; within :func:`suppressed`, suppressed ones.

    Yields:
        Activations by layer, ``[batch, sequence, neuron]``, neither copied nor detached; empty before a forward pass.
    """
    activations: dict[int, Tensor] = {}

    with ExitStack() as stack:
        sequences = stack.enter_context(sequences_of(model)) if architecture(model).joined else int

        def keep(layer: int, module: nn.Module, args: tuple[Any, ...]) -> None:
            activations[layer] = by_token(args[0], sequences())

        for layer, module in enumerate(ffn_modules(model)):
            stack.enter_context(module.register_forward_pre_hook(partial(keep, layer)))
        yield activations


def scale_neurons(model: PreTrainedModel, neurons: NeuronSet, factor: float) -> None:
    """Multiply the neurons' columns of the down-projections in place: :func:`suppressed` at all positions, for good.

    Each column has its own multiplier where the set has strengths. What a set's values add goes into the
    down-projections' biases.

    Raises:
        InputError: if the set has values and the down-projections no bias to hold them; then nothing is changed.
    """
    require_ranges({"factor": factor})
    modules = ffn_modules(model)
    values = neurons.values
    if values is not None and not has_bias(model):
        raise InputError(
            f"`neurons` is expected to be suppressed to 0 in a {model.config.model_type}, but the set replaces them by "
            "their means, and the down-projections of this architecture have no bias to hold these. Find neurons with "
            'the replacement "zero", or use the callback NeuronSuppression.'
        )
    if values is not None:
        add_biases(model)
    for layer, (indices, multipliers) in _multipliers(neurons, factor).items():
        with torch.no_grad(), changed(modules[layer]):
            weight = down_weight(modules[layer])
            scale = torch.tensor(multipliers, dtype=torch.float64, device=weight.device)
            if values is not None:
                bias: Any = modules[layer].bias
                own = torch.from_numpy(values[layer, indices]).double().to(weight.device)
                bias += (weight[:, indices].double() @ ((1 - scale) * own)).to(bias.dtype)
            # as torch multiplies by a number: low precision is rounded once
            weight[:, indices] *= scale.to(torch.promote_types(weight.dtype, torch.float32))
