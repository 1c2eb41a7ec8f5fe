"""Each way in which a model's files can be wrong ends in one line that names it."""

import json
import re

import pytest
import torch
from conftest import bpe_tokenizer, main, make_model

from biaslab.errors import InputError
from biaslab.models.checkpoints import open_checkpoint
from biaslab.models.loading import DTYPES, as_dtype, load_model, load_tokenizer

TOKENIZER = bpe_tokenizer(masked=False)


@pytest.fixture
def folder(tmp_path):
    make_model("llama", len(TOKENIZER)).save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    return tmp_path


class Harmful:
    def __reduce__(self):
        return print, ("run",)


def cut(folder, name="model.safetensors", keep=0.5):
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def as_bin(folder):
    torch.save(make_model("llama", len(TOKENIZER)).state_dict(), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def config(folder, **changes):
    path = folder / "config.json"
    content = {name: value for name, value in (json.loads(path.read_text()) | changes).items() if value is not None}
    path.write_text(json.dumps(content))


def quantised(method, **more):
    return lambda folder: config(folder, quantization_config={"quant_method": method, **more})


def sharded(folder):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    names = {name: f"model-0000{number}-of-00002.safetensors" for number, name in enumerate("ab", 1)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


def cut_bin(folder):
    as_bin(folder)
    cut(folder, "pytorch_model.bin")


def bin_of(content):
    def write(folder):
        (folder / "model.safetensors").unlink()
        if isinstance(content, bytes):
            (folder / "pytorch_model.bin").write_bytes(content)
        else:
            torch.save(content, folder / "pytorch_model.bin")

    return write


def renamed(folder):
    (folder / "model.safetensors").rename(folder / "weights.safetensors")


def gpt2_alone(folder):
    for path in folder.iterdir():
        path.unlink()
    make_model("gpt2", len(TOKENIZER)).save_pretrained(folder)


def without(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def text_in(name, text):
    return lambda folder: (folder / name).write_text(text)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n"
CASES = {
    "cut weights": (cut, r"model\.safetensors is truncated or corrupt"),
    "empty weights": (lambda f: cut(f, keep=0), r"model\.safetensors is truncated or corrupt"),
    "weights are a web page": (text_in("model.safetensors", "<html>" * 99), r"model\.safetensors is truncated or"),
    "cut .bin": (cut_bin, r"pytorch_model\.bin is truncated or corrupt"),
    "pointer": (bin_of(LFS), r"pytorch_model\.bin is a Git LFS pointer.*git lfs pull"),
    "code in .bin": (bin_of({"a": Harmful()}), r"pytorch_model\.bin is truncated or corrupt \(it .* Python code\)"),
    "a file of several is missing": (sharded, r"lacks model-00002-of-00002\.safetensors, one of its 2 weight files"),
    "no weights": (without("model.safetensors"), r"config\.json, but neither model\.safetensors nor pytorch_model"),
    "weights under another name": (renamed, r"weights\.safetensors: rename the weights to model\.safetensors"),
    "other sizes": (lambda f: config(f, hidden_size=64), r"the sizes of its weights do not match its config\.json"),
    "more layers": (lambda f: config(f, num_hidden_layers=5), r"lacks model\.layers\.3\..*randomly initialised"),
    "fewer layers": (lambda f: config(f, num_hidden_layers=2), r"weights for 3 layers and a config\.json with 2"),
    "no config": (without("config.json"), r"has no config\.json"),
    "config no JSON": (text_in("config.json", "{model"), r"config\.json is expected to be JSON"),
    "config empty": (text_in("config.json", ""), r"config\.json is expected to be JSON"),
    "config a list": (text_in("config.json", "[1]"), r"config\.json is expected to contain a JSON object but"),
    "config without type": (lambda f: config(f, model_type=None), r"no `model_type` in"),
    "config of an unknown type": (lambda f: config(f, model_type="nonsense"), r"model type `nonsense`"),
    "config with a wrong value": (lambda f: config(f, num_hidden_layers="five"), r"config\.json has an invalid value"),
    "config with a wrong name": (lambda f: config(f, hidden_act="nonsense"), r"KeyError 'nonsense'"),
    "code of its own": (
        lambda f: config(f, model_type="mine", auto_map={"AutoConfig": "x.C", "AutoModelForCausalLM": "x.M"}),
        r"contains Python code.*set `trust_remote_code` to true",
    ),
    "gptq": (quantised("gptq", bits=4), r"GPTQ.*[Ii]nstall"),
    "awq": (quantised("awq", bits=4), r"AWQ.*[Ii]nstall"),
    "bitsandbytes": (quantised("bitsandbytes", load_in_4bit=True), r"bitsandbytes.*[Ii]nstall"),
    "unknown quantisation": (quantised("gtpq"), r"config\.json of .* says 'gtpq'\. Did you mean 'gptq'\?"),
    "no tokenizer": (without("tokenizer.json", "tokenizer_config.json"), r"tokenizer files \(.*\) are missing"),
    "no tokenizer of GPT-2": (gpt2_alone, r"only 1 special tokens"),
    "no vocabulary": (without("tokenizer.json"), r"tokenizer files \(.*\) are missing"),
    "cut tokenizer": (lambda f: cut(f, "tokenizer.json"), r"tokenizer\.json is truncated or not JSON"),
    "fewer embeddings": (
        lambda f: make_model("llama", 100).save_pretrained(f),
        rf"{len(TOKENIZER)} tokens and a model with 100 embeddings",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_one_line_says_what_is_wrong(case, folder):
    change, message = CASES[case]
    change(folder)
    with pytest.raises(InputError, match=message) as caught:
        load_model(str(folder))
    text = str(caught.value)
    assert str(folder) in text
    assert "\n" not in text
    assert "`weights_only`" not in text  # torch's own advice is to run what stands in the file


def test_whole_folders_load(folder):
    expected = load_model(str(folder))[0].state_dict()
    as_bin(folder)
    found = load_model(str(folder))[0].state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.safetensors", "is a file. Give its folder"),
        ("x.ckpt", "is a file. Pass a Lightning checkpoint as --ckpt_path"),
        ("nothing", "existing folder, but .*nothing' does not exist"),
        ("empty", r"has no config\.json \(it is empty\)"),
    ],
)
def test_what_is_no_folder_of_a_model(name, message, folder):
    (folder / "x.ckpt").touch()
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match=message):
        load_model(str(folder / name))


def test_a_name_that_is_nearly_an_asset():
    with pytest.raises(InputError, match="Did you mean 'minilm-mlm'"):
        load_model("minlm-mlm")


def test_a_folder_that_is_not_here_is_not_only_the_hub_s_matter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=re.escape(f"{tmp_path} has no such folder")):
        load_model("runs/model")


def test_tokens_beyond_the_embeddings(folder):
    """A special token that is not used may lie there, as one to pad with often does; others may not."""
    tokenizer = bpe_tokenizer(masked=False)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    tokenizer.save_pretrained(folder)
    assert len(load_tokenizer(str(folder))) == len(TOKENIZER) + 1
    tokenizer.mask_token = "<mask>"  # of a causal model, which has none
    tokenizer.save_pretrained(folder)
    assert load_tokenizer(str(folder)).mask_token_id is None
    tokenizer = bpe_tokenizer()
    tokenizer.save_pretrained(folder)
    make_model("roberta", len(tokenizer) - 1).save_pretrained(folder)
    tokenizer.add_special_tokens({"mask_token": "<another mask>"})
    for load in (load_tokenizer, load_model):
        tokenizer.save_pretrained(folder)
        with pytest.raises(InputError, match=r"the token '.*' has no embedding"):
            load(str(folder))


def test_far_fewer_tokens_than_embeddings_are_warned_of(folder, caplog):
    make_model("llama", 2 * len(TOKENIZER)).save_pretrained(folder)
    load_tokenizer(str(folder))
    assert f"{len(TOKENIZER)} tokens and a model with {2 * len(TOKENIZER)} embeddings" in caplog.text
    caplog.clear()
    make_model("llama", len(TOKENIZER) + 60).save_pretrained(folder)  # padded
    load_tokenizer(str(folder))
    assert not caplog.text


@pytest.mark.parametrize("name", DTYPES)
def test_dtypes_by_name(name, folder):
    make_model("llama", len(TOKENIZER)).bfloat16().save_pretrained(folder)
    model, _ = load_model(str(folder), dtype=as_dtype(name))
    assert model.dtype == (torch.bfloat16 if name == "auto" else getattr(torch, name))


@pytest.mark.parametrize("name", ["bf16", "float", "Float32", "half", "torch.float32", "nonsense", "zeros"])
def test_other_names_of_dtypes(name):
    with pytest.raises(InputError, match="`dtype` is expected to be float32, float64, bfloat16, float16 or auto"):
        as_dtype(name)


def test_checkpoints_that_are_none(folder):
    (folder / "a.ckpt").write_bytes(b"")
    (folder / "b.ckpt").write_bytes(LFS)
    torch.save({"a": Harmful()}, folder / "c.ckpt")
    for name in ("model.safetensors", "", "a.ckpt", "b.ckpt", "c.ckpt", "none.ckpt"):
        with pytest.raises(InputError, match="`ckpt_path` is expected to be a Lightning checkpoint") as caught:
            open_checkpoint(str(folder / name))
        assert "\n" not in str(caught.value)
        assert "`weights_only`" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["test", "-c", "stereoset", "--model.model_name={folder}"],
        ["test", "-c", "stereoset", "--model.model_name={whole}", "--ckpt_path={folder}/model.safetensors"],
        ["test", "-c", "stereoset", "--model.model_name={whole}", "--model.dtype=bf16"],
        ["test", "-c", "crows_pairs", "--model.model_name={whole}", "--ckpt_path={folder}"],
        ["test", "-c", "stereoset", "--model.model_name={whole}", "--ckpt_path=nothing.ckpt"],
        ["test", "-c", "stereoset", "--model.model_name={whole}", "--ckpt_path=best"],
        ["test", "-c", "stereoset", "--model.model_name="],
        ["fit", "-c", "dpce", "--model.model_name={whole}", "--ckpt_path=nothing.ckpt"],
        ["predict", "-c", "attribute", "--model.model_name={folder}"],
        ["debias", "--model={folder}"],
        ["table", "--model={folder}"],
        ["sweep", "--model={folder}"],
        ["probe", "--model={folder}"],
        ["bake", "--model={folder}"],
        ["bake", "--ckpt_path={folder}/model.safetensors"],
        ["search-prompts", "--model={folder}"],
        ["compare", "{folder}", "{folder}"],
    ],
    ids=lambda arguments: " ".join([arguments[0], arguments[-1].partition("/")[0]]),
)
def test_no_command_ends_in_a_traceback(arguments, folder, tmp_path_factory, monkeypatch, capsys):
    whole = tmp_path_factory.mktemp("whole")
    make_model("llama", len(TOKENIZER)).save_pretrained(whole)
    TOKENIZER.save_pretrained(whole)
    cut(folder)
    monkeypatch.chdir(tmp_path_factory.mktemp("work"))
    with pytest.raises(SystemExit) as caught:
        main([argument.format(folder=folder, whole=whole) for argument in arguments])
    assert caught.value.code == 2
    *_, last = capsys.readouterr().err.strip().splitlines()
    assert last.startswith("biaslab: error: ")
