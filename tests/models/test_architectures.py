import pytest
import torch
from conftest import CAUSAL, MASKED, make_model, wordpiece_tokenizer
from transformers import AutoConfig, BertConfig, BertForMaskedLM, BertModel, T5Config

from biaslab.errors import InputError
from biaslab.models.architectures import ARCHITECTURES, architecture, down_weight, ffn_modules, ffn_shape, layers
from biaslab.models.loading import fingerprint, load_model


def test_every_architecture_of_the_table_is_tested():
    assert set(MASKED + CAUSAL) == set(ARCHITECTURES)
    assert {name for name, entry in ARCHITECTURES.items() if entry.masked} == set(MASKED)


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


def test_fingerprint_changes_with_a_weight_only(bert):
    before = fingerprint(bert)
    assert before == fingerprint(make_model("bert"))
    assert before == fingerprint(bert.double())
    with torch.no_grad():
        ffn_modules(bert)[0].weight[0, 0] += 1
    assert fingerprint(bert) != before


def saved(model, folder):
    model.save_pretrained(folder)
    wordpiece_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def bert_folder(tmp_path):
    return saved(make_model("bert", len(wordpiece_tokenizer())), tmp_path / "bert")


def test_folder_is_loaded_ready_for_use(bert_folder):
    model, tokenizer = load_model(bert_folder)
    assert isinstance(model, BertForMaskedLM)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert tokenizer.mask_token_id is not None


@pytest.mark.parametrize("model_type", MASKED + CAUSAL)
def test_each_architecture_loads_from_a_folder(model_type, tmp_path):
    folder = saved(make_model(model_type, len(wordpiece_tokenizer())), tmp_path / "m")
    model, _ = load_model(folder, dtype=torch.float64)
    assert model.dtype == torch.float64
    assert architecture(model).masked is (model_type in MASKED)


def test_checkpoint_without_a_head_names_the_missing_weights(tmp_path):
    config = BertConfig(vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2)
    folder = saved(BertModel(config), tmp_path / "headless")
    with pytest.raises(InputError, match=r"lacks cls\.predictions\.\S+.*newly initialised"):
        load_model(folder)


def test_opt_is_refused_with_the_reason():
    with pytest.raises(InputError, match="got type 'opt': it flattens"):
        architecture(AutoConfig.for_model("opt"))


def test_other_types_are_refused():
    with pytest.raises(InputError, match="got type 't5': it is not in the table"):
        architecture(T5Config())


def test_chunked_feed_forward_is_refused():
    with pytest.raises(InputError, match="`chunk_size_feed_forward` is expected to be 0 but got 4"):
        architecture(BertConfig(chunk_size_feed_forward=4))


@pytest.mark.parametrize("name", ["no-such-model", "./no/such/folder", "some/deep/path/here"])
def test_unknown_model(name):
    with pytest.raises(InputError, match="`model_name` is expected to be"):
        load_model(name)


@pytest.mark.assets
def test_gguf_is_converted_once(asset):
    asset("smollm2-135m")
    model, tokenizer = load_model("smollm2-135m")
    assert ffn_shape(model) == (30, 1536)
    inputs = tokenizer("The capital of France is", return_tensors="pt")
    assert tokenizer.decode(model(**inputs).logits[0, -1].argmax()) == " Paris"


@pytest.mark.assets
def test_minilm_mlm_is_a_language_model(asset):
    asset("minilm-encoder")
    model, tokenizer = load_model("minilm-mlm")
    assert type(model) is BertForMaskedLM
    assert ffn_shape(model) == (6, 1536)
    inputs = tokenizer("He drove his [MASK] to work.", return_tensors="pt")
    place = inputs["input_ids"][0].tolist().index(tokenizer.mask_token_id)
    best = model(**inputs).logits[0, place].topk(5).indices
    assert "car" in tokenizer.convert_ids_to_tokens(best.tolist())
