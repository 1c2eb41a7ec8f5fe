import pytest
import torch
from transformers import AutoConfig, BertConfig, T5Config

from biaslab.errors import InputError
from biaslab.models.architectures import architecture, down_weight, ffn_modules, ffn_shape, layers


def test_modules_and_shapes(any_model):
    assert ffn_shape(any_model) == (3, 48)
    assert len(layers(any_model)) == len(ffn_modules(any_model)) == 3
    seen = []
    handles = [m.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape)) for m in ffn_modules(any_model)]
    any_model(input_ids=torch.arange(5, 11)[None])
    for handle in handles:
        handle.remove()
    assert seen == [(1, 6, 48)] * 3


def test_down_weight_maps_neurons_to_hidden(any_model):
    module = ffn_modules(any_model)[1]
    neurons = torch.randn(2, 48)
    expected = module(neurons) - (0 if module.bias is None else module.bias)
    torch.testing.assert_close(neurons @ down_weight(module).T, expected)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("albert", "its layers share"), ("mixtral", "it is a mixture of experts"), ("bart", "it is an encoder-decoder")],
)
def test_types_are_refused_with_the_reason(kind, reason):
    with pytest.raises(InputError, match=f"got '{kind}', which is not supported: {reason}"):
        architecture(AutoConfig.for_model(kind))


def test_other_types_are_refused():
    with pytest.raises(InputError, match="got 't5', which is not supported"):
        architecture(T5Config())


def test_a_config_that_adds_experts_is_refused():
    config = AutoConfig.for_model("gemma4_text", enable_moe_block=True)
    with pytest.raises(InputError, match="a dense model but got a gemma4_text: it is a mixture of experts"):
        architecture(config)


def test_chunked_feed_forward_is_refused():
    with pytest.raises(InputError, match="`chunk_size_feed_forward` is expected to be 0 but got 4"):
        architecture(BertConfig(chunk_size_feed_forward=4))
