"""Folders of PEFT: merged where it is installed, and an error that says how to install it where it is not."""

import json
import sys

import pytest
import torch
from conftest import bpe_tokenizer, main, make_model, wordpiece_tokenizer

from biaslab.commands.bake import bake
from biaslab.errors import InputError
from biaslab.models import assets
from biaslab.models.adapters import adapter_folder
from biaslab.models.loading import fingerprint, load_model, load_tokenizer

pytestmark = [  # what PEFT warns of while the tests make adapters
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*Could not find a config file"),
    pytest.mark.filterwarnings("ignore:.*embedding layer has been resized"),
]
KINDS = ("bert", "gpt2", "llama")


def save_base(folder, kind):
    tokenizer = wordpiece_tokenizer() if kind == "bert" else bpe_tokenizer(masked=False)
    make_model(kind, len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return make_model(kind, len(tokenizer)), tokenizer


@pytest.fixture
def peft():
    return pytest.importorskip("peft", reason="PEFT is not installed")


@pytest.fixture(params=KINDS)
def adapted(request, tmp_path, peft):
    """The folder of an adapter with random weights, and PEFT's own model before it is merged."""
    base, tokenizer = save_base(tmp_path / "base", request.param)
    targets = {"bert": ["query", "output.dense"], "gpt2": ["c_attn", "c_proj"], "llama": ["q_proj", "down_proj"]}
    settings = peft.LoraConfig(
        r=3, lora_alpha=5, target_modules=targets[request.param], init_lora_weights=False,
        fan_in_fan_out=request.param == "gpt2",
    )  # fmt: skip
    model = peft.get_peft_model(base, settings).eval()
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    model.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter", model, tokenizer


def test_an_adapter_is_merged(adapted):
    folder, wanted, tokenizer = adapted
    model, loaded = load_model(str(folder))
    ids = torch.tensor([tokenizer("the person is old")["input_ids"]])
    torch.testing.assert_close(model(ids).logits, wanted(ids).logits, atol=1e-5, rtol=1e-4)
    before, _ = load_model(str(folder.parent / "base"))
    assert not torch.allclose(model(ids).logits, before(ids).logits, atol=1e-2)
    assert model.state_dict().keys() == before.state_dict().keys()
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    low, _ = load_model(str(folder), dtype=torch.bfloat16)
    assert low.dtype == torch.bfloat16
    assert fingerprint(low) == fingerprint(model) != fingerprint(before)
    assert load_model(str(folder), dtype=None)[0].dtype == torch.float32


def test_bake_writes_it_merged(adapted):
    folder, _, tokenizer = adapted
    main(["bake", f"--model={folder}", f"--output={folder.parent / 'baked'}"])
    assert not list((folder.parent / "baked").glob("adapter*"))
    ids = torch.tensor([tokenizer("the person is old")["input_ids"]])
    baked, model = load_model(str(folder.parent / "baked"))[0], load_model(str(folder))[0]
    assert torch.equal(baked(ids).logits, model(ids).logits)


@pytest.mark.parametrize("name", ["base", "../base"])
def test_a_relative_base_is_found_from_another_folder(name, tmp_path, peft, monkeypatch):
    """It is one of the working directory, or of the adapter's folder."""
    base, tokenizer = save_base(tmp_path / "adapters" / "base", "gpt2")
    model = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True))
    model.peft_config["default"].base_model_name_or_path = name
    folder = tmp_path / "adapters" / ("here" if name == "../base" else "")
    model.save_pretrained(folder)
    monkeypatch.chdir(tmp_path)
    assert load_tokenizer(str(folder)).get_vocab() == tokenizer.get_vocab()
    assert fingerprint(load_model(str(folder))[0]) == fingerprint(load_model(str(tmp_path / "adapters" / "base"))[0])


def test_further_tokens_need_further_embeddings(tmp_path, peft):
    base, tokenizer = save_base(tmp_path / "base", "gpt2")
    tokenizer.add_tokens(["wombat"])
    settings = {"r": 2, "target_modules": ["c_attn"], "fan_in_fan_out": True}
    for name, more in (("with", {"modules_to_save": ["wte"]}), ("without", {})):
        base, _ = save_base(tmp_path / "base", "gpt2")
        if more:
            base.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        model = peft.get_peft_model(base, peft.LoraConfig(**settings, **more))
        model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    model, loaded = load_model(str(tmp_path / "with"))
    assert model.get_input_embeddings().weight.shape[0] == len(loaded) == len(tokenizer)
    with pytest.raises(InputError, match=r"its base model has only .* embeddings and the adapter adds none"):
        load_model(str(tmp_path / "without"))


def test_an_adapter_of_another_model(adapted):
    folder, model, _ = adapted
    settings = json.loads((folder / "adapter_config.json").read_text())
    kind = "llama" if model.config.model_type != "llama" else "gpt2"
    save_base(folder.parent / "other", kind)
    for changes, message in (
        ({"base_model_name_or_path": str(folder.parent / "other")}, "could not be loaded|differs in"),
        ({"target_modules": ["nothing"]}, "could not be loaded"),
        ({"task_type": "SEQ_CLS"}, "was trained for SEQ_CLS, not as a language model"),
        ({"peft_type": "NONSENSE"}, "could not be loaded"),
    ):
        (folder / "adapter_config.json").write_text(json.dumps(settings | changes))
        with pytest.raises(InputError, match=message) as caught:
            load_model(str(folder))
        assert "\n" not in str(caught.value)


def test_an_adapter_that_lacks_weights(adapted):
    from safetensors.torch import load_file, save_file

    folder, _, _ = adapted
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file(dict(list(tensors.items())[1:]), path)
    with pytest.raises(InputError, match="differs in 1 weights"):
        load_model(str(folder))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=r"adapter_model\.safetensors is truncated or corrupt"):
        load_model(str(folder))


@pytest.fixture
def bare_adapter(tmp_path):
    """What an adapter's folder looks like, made without PEFT."""
    save_base(tmp_path / "base", "gpt2")
    (tmp_path / "adapter").mkdir()
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(tmp_path / "base"), "task_type": "CAUSAL_LM"}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"")
    return tmp_path / "adapter"


def test_without_peft_the_error_says_how_to_install_it(bare_adapter, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(InputError, match=r"pip install 'biaslab\[peft\]'"):
        load_model(str(bare_adapter))
    assert load_tokenizer(str(bare_adapter)).mask_token_id is None  # the base model's needs no PEFT


@pytest.mark.parametrize("settings", ["{}", '{"base_model_name_or_path": ""}', "no JSON", "[]"])
def test_an_adapter_that_names_no_model(settings, bare_adapter):
    (bare_adapter / "adapter_config.json").write_text(settings)
    with pytest.raises(InputError, match=r"adapter_config\.json is expected"):
        load_model(str(bare_adapter))


def test_an_adapter_without_weights(bare_adapter):
    (bare_adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(InputError, match="has neither adapter_model"):
        load_model(str(bare_adapter))


def test_an_adapter_with_a_hub_id(adapted, monkeypatch, tmp_path):
    """As the hub's cache holds it, without a network."""
    folder, _, _ = adapted
    cached, commit = tmp_path / "hub" / "models--org--adapter", "0" * 40
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    (cached / "snapshots").mkdir()
    (folder / "README.md").write_text("its card")
    folder.rename(cached / "snapshots" / commit)
    monkeypatch.setattr(assets, "hub_reachable", lambda: False)
    for module in ("huggingface_hub.constants", "transformers.utils.hub"):
        for name in ("HF_HUB_CACHE", "TRANSFORMERS_CACHE"):
            monkeypatch.setattr(f"{module}.{name}", str(tmp_path / "hub"), raising=False)
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    model, _ = load_model("org/adapter")
    expected, _ = load_model(str(cached / "snapshots" / commit))
    assert fingerprint(model) == fingerprint(expected)
    assert adapter_folder("org/model", True) is None


def test_layers_of_an_adapter_lie_on_one_device(adapted):
    with pytest.raises(InputError, match=r"`device_map` is expected to be null for a PEFT adapter.*got auto"):
        load_model(str(adapted[0]), device_map="auto")


def test_an_adapter_of_a_quantised_model(tmp_path, peft):
    """QLoRA's: PEFT merges it into what the quantised weights stand for, and quantises again."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    base, tokenizer = save_base(tmp_path / "base", "llama")
    config = BitsAndBytesConfig(load_in_8bit=True)
    AutoModelForCausalLM.from_pretrained(tmp_path / "base", quantization_config=config).save_pretrained(tmp_path / "q")
    tokenizer.save_pretrained(tmp_path / "q")
    settings = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    model = peft.get_peft_model(base, settings).eval()
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "q")
    model.save_pretrained(tmp_path / "adapter")
    found, _ = load_model(str(tmp_path / "adapter"))
    ids = torch.tensor([tokenizer("the person is old")["input_ids"]])
    wanted, untouched = model(ids).logits, load_model(str(tmp_path / "base"))[0](ids).logits
    assert (found(ids).logits - wanted).norm() < 0.2 * (untouched - wanted).norm()
    with pytest.raises(InputError, match="full weights"):
        bake(str(tmp_path / "adapter"), output=str(tmp_path / "baked"))
