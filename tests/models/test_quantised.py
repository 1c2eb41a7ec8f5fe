"""Quantised weights: neurons are found, suppressed and judged as in the full weights that they stand for."""

from __future__ import annotations

import pytest
import torch
from conftest import bpe_tokenizer, make_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from biaslab.commands.bake import bake
from biaslab.data.prompts import PromptDataModule
from biaslab.errors import InputError
from biaslab.evaluation.scoring import target_log_probabilities
from biaslab.models.architectures import down_matrix, ffn_modules, ffn_shape
from biaslab.models.fit import precision
from biaslab.models.loading import load_model
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.neurons.suppression import suppressed
from biaslab.tasks.attribution import Attribution
from biaslab.tasks.base import single_trainer


class Packed(nn.Module):
    """A linear layer as packages that quantise write it: 8-bit integers, packed into one column, and scales."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        scales = linear.weight.abs().amax(1, keepdim=True) / 127
        self.register_buffer("scales", scales)
        whole = (linear.weight / scales).round().to(torch.int8)
        self.weight = nn.Parameter(whole.reshape(-1, 1), requires_grad=False)
        self.bias = linear.bias

    def full(self) -> Tensor:
        return self.weight.reshape(self.out_features, self.in_features) * self.scales

    def forward(self, activations: Tensor) -> Tensor:
        return nn.functional.linear(activations, self.full(), self.bias)


def quantise(model: PreTrainedModel, packed: bool) -> None:
    """Give the down-projections packed weights, or in full those that the packed ones stand for."""
    for layer, module in enumerate(ffn_modules(model)):
        replaced = Packed(module)
        if packed:
            name = next(name for name, other in model.named_modules() if other is module)
            model.set_submodule(name, replaced)
        else:
            module.weight.copy_(replaced.full())
        assert ffn_modules(model)[layer] is (replaced if packed else module)


def folder_of(kind: str, tmp_path) -> str:
    tokenizer = bpe_tokenizer(masked=False)
    make_model(kind, len(tokenizer)).save_pretrained(tmp_path / "full")
    tokenizer.save_pretrained(tmp_path / "full")
    return str(tmp_path / "full")


def found(task: Attribution, folder: str) -> tuple[Tensor, Tensor]:
    """Scores of all neurons, and log-probabilities with some of them suppressed."""
    data = PromptDataModule(folder, ["gender"], kinds=["negative"], modifiers=1)
    scores = single_trainer(False, accelerator="cpu").predict(task, data)
    neurons = NeuronSet([(0, 3), (1, 3), (2, 5)], ffn_shape(task.model))
    with torch.no_grad(), suppressed(task.model, neurons):
        return torch.cat([*scores]), target_log_probabilities(task.model, data.batches[0])


def test_packed_weights_are_what_they_stand_for(tmp_path):
    folder = folder_of("llama", tmp_path)
    answers = []
    for packed in (True, False):
        task = Attribution(folder, steps=3, count=4)
        quantise(task.model, packed)
        assert ffn_shape(task.model) == task.shape
        answers.append(found(task, folder))
    for one, other in zip(*answers, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_a_packed_weight_with_a_bias_is_read_off(tmp_path):
    torch.manual_seed(0)
    packed = Packed(nn.Linear(7, 5).requires_grad_(False))
    torch.testing.assert_close(down_matrix(packed), packed.full())


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.filterwarnings("ignore")  # of bitsandbytes
def test_a_folder_of_bitsandbytes(tmp_path, bits):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    from transformers import BitsAndBytesConfig

    full, tokenizer = str(tmp_path / "full"), bpe_tokenizer(masked=False)
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3}  # multiples of a block of 64
    wide = AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=len(tokenizer), num_attention_heads=4, **sizes))
    wide.save_pretrained(full)
    tokenizer.save_pretrained(full)
    config = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
    AutoModelForCausalLM.from_pretrained(full, quantization_config=config).save_pretrained(tmp_path / "small")
    tokenizer.save_pretrained(tmp_path / "small")
    small = str(tmp_path / "small")
    model, _ = load_model(small)
    assert precision(model) == "quantised (bitsandbytes)"
    with pytest.raises(InputError, match=r"full weights.*quantised \(bitsandbytes\)"):
        bake(small, output=str(tmp_path / "baked"))
    task = Attribution(small, steps=3, count=4)
    assert task.hparams["dtype"] == "quantised (bitsandbytes)"
    scores, logs = found(task, small)
    for module, own in zip(ffn_modules(model), ffn_modules(wide), strict=True):
        matrix = down_matrix(module)
        assert (matrix - own.weight).abs().max() < {4: 0.2, 8: 0.01}[bits] * own.weight.abs().max()
    assert scores.isfinite().all()
    assert logs.isfinite().all()
