"""Context managers on the activations of feed-forward neurons: suppressed, recorded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from biaslab.errors import InputError
from biaslab.models.architectures import architecture, down_weight, ffn_modules, ffn_shape
from biaslab.neurons.neuron_set import NeuronSet


class Slots:
    """Where the slots of the forward pass are that is running; made by :func:`slots`.

    Args:
        mask_token_id: of a masked language model; None for a causal one, whose slot follows the last token.
    """

    def __init__(self, mask_token_id: int | None) -> None:
        self.mask_token_id = mask_token_id
        self.mask: Tensor | None = None

    def read(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Find the slots of a forward pass that begins."""
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
        """Forget them when the forward pass ends."""
        self.mask = None

    def __call__(self, activations: Tensor) -> Tensor:
        """Return a mask of the slots, ``[batch, sequence]``."""
        if self.mask is None or self.mask.shape != activations.shape[:2]:
            raise InputError('`positions` is expected to be "all" where layers run outside the model\'s forward pass.')
        return self.mask


class _Places:
    """One given position a sequence.

    Args:
        positions: ``[batch]``.
    """

    def __init__(self, positions: Tensor) -> None:
        self.positions = positions
        self.longest = int(positions.max()) if len(positions) else -1

    def __call__(self, activations: Tensor) -> Tensor:
        """Return a mask of the positions, ``[batch, sequence]``."""
        batch, sequence = activations.shape[:2]
        if batch != len(self.positions) or sequence <= self.longest:
            raise InputError(
                f"`positions` is expected to hold one position for each of the {batch} sequences of {sequence} tokens "
                f"of this forward pass but holds {len(self.positions)}, the largest {self.longest}. Give the positions "
                'of this batch, or "all".'
            )
        self.positions = self.positions.to(activations.device)
        return self.positions[:, None] == torch.arange(sequence, device=activations.device)


class _Scaling:
    """A forward pre-hook that multiplies the input's last axis by a vector, everywhere or at some places.

    Args:
        indices: of the neurons within the layer.
        factor: what their activations are multiplied by.
        width: neurons of the layer.
        places: makes a mask of the places, ``[batch, sequence]``; None for everywhere.
    """

    def __init__(self, indices: Sequence[int], factor: float, width: int, places: Slots | _Places | None) -> None:
        with torch.inference_mode(False):  # autograd may have to save it later
            self.scale = torch.ones(width, dtype=torch.float64)
            self.scale[list(indices)] = factor
        self.places = places

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the scaled input, ``[batch, sequence, neuron]``."""
        activations: Tensor = args[0]
        if self.scale.device != activations.device or self.scale.dtype != activations.dtype:
            with torch.inference_mode(False):
                self.scale = self.scale.to(device=activations.device, dtype=activations.dtype)
        scaled = activations * self.scale
        if self.places is not None:
            scaled = torch.where(self.places(activations)[..., None], scaled, activations)
        return scaled, *args[1:]


Positions: TypeAlias = "Literal['all'] | Tensor | Slots"


@contextmanager
def suppressed(
    model: PreTrainedModel,
    neurons: Iterable[tuple[int, int]],
    factor: float = 0.0,
    positions: Positions = "all",
) -> Iterator[None]:
    """Within the block, the activations of the neurons are multiplied by ``factor`` (bias neuron suppression, BNS).

    At all positions and with the factor 0, the model computes what it would compute with the neurons' columns of the
    down-projection's weight at zero. Only layers that have neurons get a hook. Whether a set was made for these very
    weights is checked by :meth:`biaslab.neurons.neuron_set.NeuronSet.require_model`, not here.

    Args:
        model: a model of the table.
        neurons: a set, or any (layer, index) pairs.
        factor: 0 switches the neurons off, 1 changes nothing, 2 amplifies.
        positions: where the neurons are scaled: "all", the one position of each sequence, ``[batch]`` (every forward
            pass then has that many sequences), or what :func:`slots` yields.

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
    """
    shape = ffn_shape(model)
    if isinstance(neurons, NeuronSet):
        neurons.require_shape(shape)
    by_layer = NeuronSet(neurons, shape).by_layer()
    if not math.isfinite(factor):
        raise InputError(f"`factor` is expected to be a finite number but got {factor}. 0 suppresses, 2 amplifies.")
    places = _checked(positions)
    modules = ffn_modules(model)
    with ExitStack() as stack:
        for layer, indices in by_layer.items():
            hook = _Scaling(indices, factor, shape[1], places)
            stack.enter_context(modules[layer].register_forward_pre_hook(hook))
        yield


def _checked(positions: Positions) -> Slots | _Places | None:
    if isinstance(positions, Slots):
        return positions
    if isinstance(positions, str) and positions == "all":
        return None
    expected = '`positions` is expected to be "all" or one integer from 0 on a sequence, a tensor [batch],'
    if not isinstance(positions, Tensor):
        raise InputError(f"{expected} but got {positions!r}.")
    if positions.ndim != 1 or positions.is_floating_point() or positions.dtype == torch.bool:
        raise InputError(f"{expected} but got {list(positions.shape)} of {positions.dtype}.")
    if len(positions) and int(positions.min()) < 0:
        raise InputError(f"{expected} but got {int(positions.min())}.")
    return _Places(positions)


@contextmanager
def suppressed_where(
    model: PreTrainedModel,
    neurons: Iterable[tuple[int, int]],
    factor: float,
    where: Literal["all", "slot"],
    mask_token_id: int | None,
) -> Iterator[None]:
    """Within the block, neurons are suppressed everywhere, or at the slots of each forward pass.

    Args:
        model: a model of the table.
        neurons: a set, or any (layer, index) pairs.
        factor: what their activations are multiplied by.
        where: "all" or "slot".
        mask_token_id: of a masked language model; needed for "slot".

    Raises:
        InputError: as :func:`suppressed` and :func:`slots`.
    """
    with ExitStack() as stack:
        positions: Positions = stack.enter_context(slots(model, mask_token_id)) if where == "slot" else "all"
        stack.enter_context(suppressed(model, neurons, factor, positions))
        yield


def require_predicting_slots(model: PreTrainedModel, where: str, measured_by: Sequence[str]) -> None:
    """Refuse to judge whole sentences of a causal model with neurons that are suppressed at the last token alone.

    Each token's probability is read off the token before it; the last one's output predicts nothing that is asked for,
    so the model would be judged as if it were untouched.

    Args:
        model: a model of the table.
        where: "all" or "slot".
        measured_by: names of what asks for whole sentences; none where only the last token is asked.

    Raises:
        InputError: if that is what is asked for.
    """
    if where == "slot" and measured_by and not architecture(model).masked:
        raise InputError(
            f'`positions` is expected to be "all" for a causal model measured by {", ".join(measured_by)} but got '
            '"slot": every token of a sentence predicts the next one, and suppression at the last token alone changes '
            'none of them. Use positions "all".'
        )


@contextmanager
def slots(model: PreTrainedModel, mask_token_id: int | None = None) -> Iterator[Slots]:
    """Within the block, the slots of each forward pass are read off its ``input_ids``, for :func:`suppressed`.

    Args:
        model: a model of the table.
        mask_token_id: of a masked language model: every mask token is a slot. A causal one's slot is the last token
            that is not padding.

    Raises:
        InputError: if a masked language model comes without the id.

    >>> from transformers import BertConfig, BertForMaskedLM
    >>> sizes = dict(hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, vocab_size=10)
    >>> model = BertForMaskedLM(BertConfig(**sizes)).eval()
    >>> with slots(model, mask_token_id=2) as where, suppressed(model, [(1, 3)], positions=where):
    ...     with recorded(model) as activations:
    ...         _ = model(torch.tensor([[1, 2, 3]]))
    >>> activations[1][0, :, 3] != 0
    tensor([ True, False,  True])
    """
    masked = architecture(model).masked
    if masked and mask_token_id is None:
        raise InputError("`mask_token_id` is expected to be an integer for a masked language model but is None.")
    found = Slots(mask_token_id if masked else None)
    with (
        model.register_forward_pre_hook(found.read, with_kwargs=True),
        model.register_forward_hook(found.forget, always_call=True),
    ):
        yield found


@contextmanager
def recorded(model: PreTrainedModel) -> Iterator[dict[int, Tensor]]:
    """Within the block, the activations of the last forward pass are kept.

    Entered within :func:`suppressed`, it sees the activations as they are after suppression.

    Args:
        model: a model of the table.

    Yields:
        Activations by layer, ``[batch, sequence, neuron]``, neither copied nor detached; empty before a forward pass.
    """
    activations: dict[int, Tensor] = {}
    with ExitStack() as stack:
        for layer, module in enumerate(ffn_modules(model)):
            stack.enter_context(module.register_forward_pre_hook(_keep(activations, layer)))
        yield activations


def _keep(activations: dict[int, Tensor], layer: int) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
        activations[layer] = args[0]

    return hook


def scale_neurons(model: PreTrainedModel, neurons: NeuronSet, factor: float) -> None:
    """Multiply the neurons' columns of the down-projections in place: what a hook on them does, for good.

    Args:
        model: the model that the neurons belong to.
        neurons: which.
        factor: 0 suppresses them at all positions.
    """
    modules = ffn_modules(model)
    with torch.no_grad():
        for layer, indices in neurons.by_layer().items():
            down_weight(modules[layer])[:, indices] *= factor
