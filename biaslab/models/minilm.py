"""minilm-mlm: a masked language model that needs no hub, made of MiniLM's encoder and an adapter trained by biaslab.

The encoder is a checksummed asset; the adapter (a language-model head, and low-rank updates of the encoder's linear
maps with its biases and norms) is package data. Loading merges both into a plain ``BertForMaskedLM``.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, PreTrainedModel, PreTrainedTokenizerBase

from biaslab.errors import InputError
from biaslab.models import assets
from biaslab.store import checksum

NAME = "minilm-mlm"
ENCODER = "minilm-encoder"
PACKAGED = Path(__file__).parent / "minilm_mlm.safetensors"
_SHA256 = "2f29a84c453b3b4f39276709eafef36f1c4e74651032d59c7f8b568c5e460183"  # checksum of the packaged adapter


class LowRank(nn.Module):
    """A frozen weight ``[out, in]`` plus a trainable low-rank update: ``W + up @ down``."""

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        self.up = nn.Parameter(weight.new_zeros(weight.shape[0], rank))
        self.down = nn.Parameter(torch.randn(rank, weight.shape[1]) / weight.shape[1] ** 0.5)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the updated weight, ``[out, in]``."""
        return weight + self.up @ self.down


def untrained(rank: int, attention: str = "sdpa") -> BertForMaskedLM:
    """Return MiniLM as a masked language model with a new adapter: the encoder unchanged, the head near the identity.

    Only the adapter requires gradients.
    """
    folder = assets.fetch(ENCODER)
    model = BertForMaskedLM(BertConfig.from_pretrained(folder, attn_implementation=attention))
    model.eval()
    encoder = load_file(folder / "model.safetensors")
    for name in ("pooler.dense.weight", "pooler.dense.bias", "embeddings.position_ids"):  # not in masked LMs
        encoder.pop(name, None)
    model.bert.load_state_dict(encoder)
    with torch.no_grad():
        model.cls.predictions.transform.dense.weight.copy_(torch.eye(model.config.hidden_size))
        model.cls.predictions.transform.dense.bias.zero_()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("embeddings" not in name and (parameter.ndim == 1 or name.startswith("cls")))
    for module in model.bert.encoder.modules():
        if isinstance(module, nn.Linear):
            parametrize.register_parametrization(module, "weight", LowRank(module.weight, rank))
    return model


def save(model: nn.Module, path: Path) -> None:
    """Write the trained part of ``model`` in float16."""
    tensors = {name: p.detach().half().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    save_file(tensors, path)


def load(path: Path = PACKAGED) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Return minilm-mlm, with the adapter merged, and its tokenizer.

    Raises:
        InputError: if the file is not an adapter, or not the one of this version.
    """
    if path == PACKAGED and checksum(path) != _SHA256:
        raise InputError(f"{path} is corrupt (checksum mismatch). Install biaslab again.")
    tensors = load_file(path)
    rank = next(tensor.shape[1] for name, tensor in tensors.items() if name.endswith(".up"))
    model = untrained(rank)
    expected = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if expected != tensors.keys():
        raise InputError(
            f"`path` is expected to be an adapter of {NAME}, but {path} contains other tensors. Train it again."
        )
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=False)
    for module in model.bert.encoder.modules():
        if isinstance(module, nn.Linear):
            parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)
    model.config.name_or_path = NAME
    return model, AutoTokenizer.from_pretrained(assets.fetch(ENCODER))
