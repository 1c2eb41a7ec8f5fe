"""Context managers that suppress or record the activations of feed-forward neurons."""

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
_EXPECTED = '`positions` is expected to be "all", "slot" or a tensor of one non-negative integer per sequence, [batch],'
_Places: TypeAlias = Callable[[Tensor], Tensor]  # activations [batch, sequence, neuron] -> mask [batch, sequence]


@contextmanager
def suppressed(
    model: PreTrainedModel,
    neurons: Iterable[tuple[int, int]],
    factor: float = 0.0,
    positions: Positions = "all",
    mask_token_id: int | None = None,
) -> Iterator[None]:
    """Multiply the activations of neurons by ``factor`` within the block (bias neuron suppression, BNS).

    At all positions and with factor 0, this is equivalent to setting the neurons' columns of the down-projection weight
    to zero. If the set has replacement values v, such as the neurons' means, an activation a becomes
    v + factor·(a - v). If the set has strengths, each neuron's factor is 1 - (1 - factor)·strength.

    Hooks are added only to layers with neurons, and removed at the end of the block. This function does not check
    whether the set was made for this model's weights; see
    :meth:`biaslab.neurons.neuron_set.NeuronSet.require_model`.

    Args:
        model: a masked or causal language model of a supported architecture.
        neurons: a set, or any (layer, index) pairs.
        factor: 0 suppresses the neurons, 1 leaves them unchanged, 2 doubles their activations.
        positions: where the neurons are scaled: "all"; one position for each sequence, ``[batch]`` (every forward pass
            must then have that batch size); or "slot", all mask tokens in the ``input_ids`` of each forward pass, or
            the last token of a causal model that is not padding.
        mask_token_id: id of the mask token; required for "slot" with a masked language model.

    Raises:
        InputError: if a neuron is not in the model or an argument is invalid (nothing is changed then), or during a
            forward pass whose batch does not fit ``positions``.

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
    """Return a function that finds the positions to change in a forward pass; None for all positions."""
    if isinstance(positions, Tensor):
        return _given(positions)
    if not isinstance(positions, str) or positions not in ("all", "slot"):
        raise InputError(f"{_EXPECTED} but got {positions!r}.")
    if positions == "all":
        return None
    masked = architecture(model).masked
    if masked and mask_token_id is None:
        raise InputError(
            '`mask_token_id` is expected to be an integer for positions "slot" of a masked language model but is None. '
            "Pass the tokenizer's `mask_token_id`."
        )
    return _Slots(mask_token_id if masked else None)


class _Slots:
    """The slots of the current forward pass: its mask tokens, or the last token of each sequence without a mask id."""

    def __init__(self, mask_token_id: int | None) -> None:
        self.mask_token_id = mask_token_id
        self.mask: Tensor | None = None

    def read(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = args[0] if args else kwargs.get("input_ids")
        if not isinstance(ids, Tensor):
            raise InputError(
                '`input_ids` is expected to be a tensor, which positions "slot" needs to find the slots, but the model '
                "was called without. Call it with `input_ids`."
            )
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
            raise InputError(
                '`positions` is expected to be "all" if layers run outside the model\'s forward pass but got "slot".'
            )
        return self.mask


def _given(positions: Tensor) -> _Places:
    """Return a function that finds the given position of each sequence, ``[batch]``."""
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
                f"in this forward pass but holds {len(positions)}, the largest of which is {longest}. Use the "
                'positions of this batch, or "all".'
            )
        positions = positions.to(activations.device)
        return positions[:, None] == torch.arange(sequence, device=activations.device)

    return places


def _unjoined(places: _Places, sequences: Callable[[], int], activations: Tensor) -> Tensor:
    """Return the positions for flattened activations ``[batch · sequence, neuron]``, as ``[batch · sequence]``."""
    return places(by_token(activations, sequences())).flatten()


def _multipliers(neurons: NeuronSet, factor: float) -> dict[int, tuple[list[int], list[float]]]:
    """Return the indices of each layer's neurons, and their multipliers 1 - (1 - factor)·strength.

    The sum is arranged so that strength 1 gives exactly the factor, and factor 0 or strength 0 cause no rounding.
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
    """Return a forward pre-hook that multiplies some neurons of the input, at some or all positions.

    With ``values``, ``[neuron]``, the distance from these values is multiplied instead.
    """
    with torch.inference_mode(False):  # autograd may need to save these tensors later
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
    """Check that a causal model is not evaluated on whole sentences while suppressed at the last token only.

    The output at the last token predicts no token of the sentence, so suppression would have no effect.

    Args:
        model: a masked or causal language model of a supported architecture.
        positions: where neurons are suppressed, "all" or "slot".
        measured_by: names of the measures that score whole sentences; empty if only the last token is used.

    Raises:
        InputError: if they score whole sentences of a causal model suppressed at "slot".
    """
    if positions == "slot" and measured_by and not architecture(model).masked:
        raise InputError(
            f'`positions` is expected to be "all" for a causal model evaluated by {", ".join(measured_by)} but got '
            '"slot": these score every token of a sentence, and suppression at the last token changes none of the '
            'predictions. Use positions "all".'
        )


@contextmanager
def recorded(model: PreTrainedModel) -> Iterator[dict[int, Tensor]]:
    """Record the activations of the last forward pass within the block; inside :func:`suppressed`, after suppression.

    Args:
        model: a masked or causal language model of a supported architecture.

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
    """Suppress neurons permanently, at all positions, by scaling their columns of the down-projections in place.

    The result is equivalent to :func:`suppressed`. If the set has strengths, each column has its own multiplier; if it
    has replacement values, their contribution is added to the biases of the down-projections.

    Args:
        model: a masked or causal language model of a supported architecture; it is changed.
        neurons: the neurons.
        factor: 0 suppresses the neurons, 1 leaves them unchanged, 2 doubles their activations.

    Raises:
        InputError: if the set has replacement values but the down-projections have no bias; nothing is changed then.
    """
    require_ranges({"factor": factor})
    modules = ffn_modules(model)
    values = neurons.values
    if values is not None and not has_bias(model):
        raise InputError(
            f"`neurons` is expected to have no replacement values for a {model.config.model_type}, but this set "
            "replaces activations by their means, and the down-projections of this architecture have no bias to store "
            'them. Find neurons with the replacement "zero", or use the callback NeuronSuppression.'
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
            # promoted, like torch's multiplication by a scalar, so that low precision is rounded only once
            weight[:, indices] *= scale.to(torch.promote_types(weight.dtype, torch.float32))
