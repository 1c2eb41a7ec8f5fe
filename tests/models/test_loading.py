import copy
import pickle

import pytest
import torch
from conftest import CAUSAL, MASKED, make_model, wordpiece_tokenizer
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, BertConfig, BertForMaskedLM, BertModel

from biaslab.errors import InputError
from biaslab.models import loading
from biaslab.models.architectures import architecture, ffn_modules, ffn_shape
from biaslab.models.loading import fingerprint, load_model
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.neurons.suppression import scale_neurons


def test_fingerprint_changes_with_a_weight_only(bert):
    before = fingerprint(bert)
    assert before == fingerprint(make_model("bert"))
    assert before == fingerprint(bert.double())
    with torch.no_grad():
        ffn_modules(bert)[0].weight[0, 0] += 1
    assert fingerprint(bert) != before


def test_fingerprint_is_read_once(bert, monkeypatch):
    """And again after each kind of change: in place, by a state dict, by other parameters; never of a copy."""
    read = []
    digest = loading._digest
    monkeypatch.setattr(loading, "_digest", lambda model: read.append(model) or digest(model))
    before = fingerprint(bert)
    assert fingerprint(bert) == fingerprint(bert.double()) == fingerprint(bert.float()) == before
    assert len(read) == 1
    scale_neurons(bert, NeuronSet([(0, 1)]), 0.0)
    suppressed = fingerprint(bert)
    twin = copy.deepcopy(bert)
    assert fingerprint(twin) == suppressed != before
    twin.load_state_dict(make_model("bert").state_dict())
    assert fingerprint(twin) == before
    twin.cls.predictions.bias = torch.nn.Parameter(torch.ones(100))
    assert fingerprint(twin) not in (before, suppressed)
    assert len(read) == 5
    assert fingerprint(pickle.loads(pickle.dumps(bert))) == fingerprint(bert) == suppressed


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("model_type", ["bert", "gpt2", "gemma2"])
def test_fingerprint_is_the_same_whatever_type_the_weights_are_loaded_in(model_type, stored, tmp_path):
    """And the weights are those that transformers loads."""
    folder = saved(make_model(model_type, len(wordpiece_tokenizer())).to(stored), tmp_path / "m")
    auto = AutoModelForMaskedLM if model_type in MASKED else AutoModelForCausalLM
    fingerprints = set()
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        model, plain = load_model(folder, dtype=dtype)[0], auto.from_pretrained(folder, dtype=dtype)
        fingerprints.add(fingerprint(model))
        state, expected = (dict(m.named_parameters()) | dict(m.named_buffers()) for m in (model, plain))
        assert state.keys() == expected.keys()
        assert all(state[n].dtype == t.dtype and torch.equal(state[n], t) for n, t in expected.items())
    assert len(fingerprints) == 1


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
    with pytest.raises(InputError, match=r"lacks cls\.predictions\.\S+.*randomly initialised"):
        load_model(folder)


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
