import pytest
from conftest import make_model
from transformers import FineGrainedFP8Config, GPTQConfig

from biaslab.errors import InputError
from biaslab.models.fit import embeddings_of, is_quantised, quantisation, require_full_weights


@pytest.mark.parametrize(
    ("settings", "method"),
    [
        ({"quant_method": "awq", "bits": 4}, "awq"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes"),
        (GPTQConfig(bits=4), "gptq"),
        (FineGrainedFP8Config(), "fp8"),
    ],
    ids=str,
)
def test_a_quantised_model_has_no_weights_to_write(settings, method):
    model = make_model("llama")
    assert quantisation(model) is None
    assert not is_quantised("tiny", model.config)
    require_full_weights(model)
    model.config.quantization_config = settings
    assert quantisation(model) == method
    assert is_quantised("tiny", model.config)
    with pytest.raises(InputError, match=rf"`model` is expected to have full weights.*quantised \({method}\)"):
        require_full_weights(model)


def test_embeddings():
    assert embeddings_of(make_model("gpt2", 117)) == embeddings_of(make_model("bert", 117)) == 117
