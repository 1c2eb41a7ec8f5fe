"""Uploads to the hub and neuron files from it, against a stand-in on this machine: nothing is sent anywhere else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import main, make_model, wordpiece_tokenizer
from hub_stand_in import Repository, StandIn

from biaslab.callbacks import NeuronSuppression
from biaslab.commands.bake import bake
from biaslab.commands.cards import cards
from biaslab.commands.compare import compare
from biaslab.errors import InputError
from biaslab.models import assets
from biaslab.models.hub import HubFile, hub_file
from biaslab.models.loading import fingerprint, load_model
from biaslab.neurons.files import neuron_file, results_folder
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.neurons.suppression import suppressed

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub's own upload
NEURONS = [(0, 1), (0, 7), (1, 47), (2, 0), (2, 30)]
TOKENS = torch.tensor([[5, 9, 12, 7, 30, 6], [8, 3, 40, 41, 42, 11]])
PLAIN = """
import sys
sys.modules["biaslab"] = None  # an import of it fails
import torch
from safetensors.torch import save_file
from transformers import AutoModelForMaskedLM, AutoTokenizer
torch.set_num_threads(1)
model = AutoModelForMaskedLM.from_pretrained(sys.argv[1])
AutoTokenizer.from_pretrained(sys.argv[1])
with torch.no_grad():
    save_file({"logits": model.eval()(input_ids=torch.tensor(eval(sys.argv[2]))).logits}, sys.argv[3])
"""


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A stand-in that huggingface_hub takes for the hub, an empty cache, and a token that may write."""
    with StandIn() as server:
        constants = {
            "ENDPOINT": server.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_OFFLINE": False,
            "HF_HUB_CACHE": str(tmp_path / "hub"),
            "HF_TOKEN_PATH": str(tmp_path / "token"),
            "HF_HUB_DISABLE_XET": True,  # the hub's other way of upload has no HTTP interface of its own
            "HF_HUB_DISABLE_PROGRESS_BARS": True,
        }
        for name, value in constants.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setenv("HF_TOKEN", "hf_write")
        assets.hub_reachable.cache_clear()
        yield server
    assets.hub_reachable.cache_clear()


@pytest.fixture
def source(tmp_path) -> Path:
    """A model's folder, with its neurons beside it."""
    folder = tmp_path / "source"
    tokenizer = wordpiece_tokenizer()
    make_model("bert", len(tokenizer)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    place = str(folder / "model")
    made_for = {"name": place, "fingerprint": fingerprint(load_model(place)[0]), "folder": place}
    neurons = NeuronSet(NEURONS, shape=(3, 48)).with_strengths(dict.fromkeys(NEURONS, 0.5))
    neurons = neurons.with_details({"gender": NEURONS[:2]}, {"model": made_for, "data": {"path": str(folder / "x")}})
    neurons.save(folder / "neurons.json")
    return folder


def push(source: Path, output: Path, repo: str = "me/fair", **options) -> None:
    bake(str(source / "model"), neurons=str(source / "neurons.json"), output=str(output), push_to_hub=repo, **options)


def plain_logits(hub: StandIn, repo: str, folder: Path) -> torch.Tensor:
    """What plain transformers, in a process that can't import biaslab, computes with a model from the hub."""
    from safetensors.torch import load_file

    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(folder / "plain"), "HF_HUB_OFFLINE": "0"}
    command = [sys.executable, "-c", PLAIN, repo, str(TOKENS.tolist()), str(folder / "logits")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return load_file(folder / "logits")["logits"]


def test_round_trip(hub, source, tmp_path, capsys):
    push(source, tmp_path / "baked")
    files = hub.repositories["me/fair"].files
    local = {path.name: path.read_bytes() for path in (tmp_path / "baked").iterdir()}
    assert files == local | {".gitattributes": b"*"}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md", "neurons.json"} <= files.keys()
    assert not hub.repositories["me/fair"].private
    commit = hub.repositories["me/fair"].commits[-1][0]
    assert f"Uploaded to me/fair: {hub.url}/me/fair/commit/{commit}" in capsys.readouterr().out
    assert ("PUT", f"/lfs/{next(iter(hub.lfs))}") in hub.requests
    # the model, by plain transformers
    model, _ = load_model(str(source / "model"))
    neurons = NeuronSet.load("me/fair")
    with suppressed(model, neurons), torch.no_grad():
        expected = model(input_ids=TOKENS).logits
    assert torch.equal(plain_logits(hub, "me/fair", tmp_path), expected)
    # the neurons, by the same id, as they were but for this machine's paths
    own = NeuronSet.load(source / "neurons.json")
    assert (neurons, neurons.strengths, neurons.shape) == (own, own.strengths, own.shape)
    assert neurons.subsets == own.subsets
    neurons.require_model(model)
    assert neurons.provenance["model"] == {"name": "model", "fingerprint": fingerprint(model)}
    assert not [name for name, text in files.items() if str(tmp_path).encode() in text]


def test_the_card_names_the_repository(hub, source, tmp_path):
    push(source, tmp_path / "baked")
    card = hub.repositories["me/fair"].files["README.md"].decode()
    assert 'AutoModelForMaskedLM.from_pretrained("me/fair"), AutoTokenizer.from_pretrained("me/fair")' in card
    assert "`--neurons me/fair`" in card
    assert json.loads(card.partition("```json\n")[2].partition("\n```")[0])["repository"] == "me/fair"
    assert "base_model" not in yaml.safe_load(card.split("---\n")[1])  # a folder of this machine is none


def test_a_repository_that_exists_gets_a_commit(hub, source, tmp_path):
    push(source, tmp_path / "first")
    repository = hub.repositories["me/fair"]
    stale = {"model-00001-of-00002.safetensors": b"", "pytorch_model.bin": b"", "adapter_config.json": b"{}"}
    repository.commit("by hand", {**repository.files, **stale, "LICENSE": b"a licence"})
    push(source, tmp_path / "second", factor=2.0)
    assert len(repository.commits) == 4
    assert not repository.files.keys() & stale.keys()
    assert repository.files["LICENSE"] == b"a licence"
    assert repository.files["README.md"] == (tmp_path / "second/README.md").read_bytes()
    assert repository.files["model.safetensors"] == (tmp_path / "second/model.safetensors").read_bytes()


def test_private(hub, source, tmp_path, monkeypatch):
    push(source, tmp_path / "baked", "team/fair", private=True)
    assert hub.repositories["team/fair"].private
    assert len(NeuronSet.load("team/fair")) == len(NEURONS)
    push(source, tmp_path / "again", "team/fair", private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    assert len(NeuronSet.load("team/fair")) == len(NEURONS)  # the hub's cache has it
    with pytest.raises(InputError, match=r"the hub has no repository team/fair, or it is private\. .*hf auth login"):
        NeuronSet.load("team/fair/other.json")


def test_a_public_repository_is_not_taken_for_a_private_one(hub, source, tmp_path):
    push(source, tmp_path / "baked")
    with pytest.raises(InputError, match=r"`private` .* me/fair exists and is public"):
        push(source, tmp_path / "other", private=True)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("repo", "message"),
    [
        ("fair", r"`push_to_hub` is expected to be a hub id, ORG/NAME, but got 'fair'.* ORG/fair\."),
        ("me/fa ir", r"`push_to_hub` is expected to be a hub id, ORG/NAME, but got 'me/fa ir': "),
        ("me/fair/x", r"`push_to_hub` is expected to be a hub id, ORG/NAME, but got 'me/fair/x': "),
        ("me/-fair", r"`push_to_hub` is expected to be a hub id, ORG/NAME, but got 'me/-fair': "),
        ("", r"`push_to_hub` is expected to be a hub id, ORG/NAME, but got ''"),
    ],
)
def test_a_bad_id_is_refused_before_anything_is_asked(hub, source, tmp_path, repo, message):
    refused(source, tmp_path, message, repo)
    assert not hub.requests


def refused(source: Path, tmp_path: Path, message: str, repo: str = "me/fair", **options) -> None:
    """An upload ends with one line, and before the model is loaded."""
    with pytest.raises(InputError, match=message) as caught:
        push(source / "no model", tmp_path / "baked", repo, **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "baked").exists()


def test_no_token(hub, source, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    refused(source, tmp_path, r"`push_to_hub` needs a token of the hub with write access, but found none\. Log in")
    assert not hub.requests


def test_a_token_that_may_only_read(hub, source, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_read")
    refused(source, tmp_path, r'`push_to_hub` needs a token with write access, but the token "me\'s" of me can only')


def test_a_token_that_the_hub_does_not_know(hub, source, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    refused(source, tmp_path, r"`push_to_hub` could not reach .*: the hub does not accept the token\. .*HF_TOKEN")


def test_no_network(hub, source, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    refused(source, tmp_path, r"`push_to_hub` could not reach .*: no answer from the hub .*Check the network")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused(source, tmp_path, r"`push_to_hub` needs the hub, but HF_HUB_OFFLINE is set")


def test_the_original_is_not_overwritten(hub, source, tmp_path):
    with pytest.raises(InputError, match=r"`push_to_hub` is expected to differ from `model`, but both are 'me/bert'"):
        bake("me/Bert", output=str(tmp_path / "baked"), push_to_hub="me/bert")


def test_private_needs_a_repository(source, tmp_path):
    with pytest.raises(InputError, match=r"`private` is expected with `push_to_hub` only"):
        bake(str(source / "model"), output=str(tmp_path / "baked"), private=True)


def test_no_permission_keeps_the_checkpoint(hub, source, tmp_path, monkeypatch):
    """What a fine-grained token may do shows only when it is used."""
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(InputError, match=r"no permission to write there \(You don't have the rights.*\)") as caught:
        push(source, tmp_path / "baked", "team/fair")
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(f"run `hf upload team/fair {tmp_path / 'baked'}`.")
    assert (tmp_path / "baked/model.safetensors").exists()


@pytest.mark.parametrize("end", ["/commit/main", "/lfs/objects/batch"])
def test_an_upload_that_fails_keeps_the_checkpoint(hub, source, tmp_path, end):
    hub.refuse[end] = 507
    with pytest.raises(InputError, match=r"`push_to_hub` could not upload to me/fair: .*status 507 \(Internal error\)"):
        push(source, tmp_path / "baked")
    assert (tmp_path / "baked/model.safetensors").exists()


def test_the_command_line(hub, source, tmp_path, workdir, capsys):
    arguments = ["--model", str(source / "model"), "--neurons", str(source / "neurons.json")]
    main(["bake", *arguments, "--push_to_hub", "me/fair", "--private"])
    assert hub.repositories["me/fair"].private
    # and what it has uploaded as the neurons of the next command
    main(["bake", *arguments[:2], "--neurons", "me/fair", "--output", "again"])
    weights = [(workdir / name / "model.safetensors").read_bytes() for name in ("baked", "again")]
    assert weights[0] == weights[1]
    with pytest.raises(SystemExit):
        main(["bake", *arguments[:2], "--neurons", "me/unfair", "--output", "other"])
    assert "biaslab: error: `neurons` is expected to be a neuron file or a hub id, but" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "file"),
    [
        ("org/model", HubFile("org/model", "neurons.json")),
        ("org/model@v1", HubFile("org/model", "neurons.json", "v1")),
        ("org/model@refs/pr/1", HubFile("org/model", "neurons.json", "refs/pr/1")),
        ("org/model/gender.json", HubFile("org/model", "gender.json")),
        ("org/model/sets/gender.json@v1", HubFile("org/model", "sets/gender.json", "v1")),
        ("neurons.json", None),
        ("runs/neurons.json", None),
        ("here/model/neurons.json", None),  # within a folder that is here
        ("here/model", None),  # a folder that is here
        ("./org/model", None),
        ("~/org/model", None),
        ("../org/model", None),
        ("~nobody/org/model.json", None),
        ("/org/model", None),
        ("org/model/neurons.txt", None),
        ("org/model/", None),
        ("C:\\org\\model", None),
        ("", None),
    ],
)
def test_hub_ids_and_paths(workdir, text, file):
    (workdir / "here/model").mkdir(parents=True)
    assert hub_file(text, "neurons.json") == file


@pytest.mark.parametrize(
    "text", ["~nobody/model/n.json", "~nobody/n", "x" * 5000, "x/" * 5000, "", f"me/{'x' * 5000}", "a\0b"]
)
def test_nonsense_is_refused(monkeypatch, text):
    monkeypatch.setattr(assets, "hub_reachable", lambda: False)
    with pytest.raises(InputError, match=r"^`neurons` is expected to be a neuron file"):
        NeuronSet.load(text)


def test_a_path_that_exists_wins(hub, source, workdir):
    push(source, workdir / "baked")
    for place in (Path("me/fair/neurons.json"), Path("you/fair.json")):
        place.parent.mkdir(parents=True)
        NeuronSet([(1, 1)]).save(place)
    hub.requests.clear()
    assert list(NeuronSet.load("me/fair")) == list(NeuronSet.load("you/fair.json")) == [(1, 1)]
    assert results_folder("me/fair") == Path("me/fair")
    assert not hub.requests


def test_a_file_and_a_revision(hub, source, tmp_path):
    push(source, tmp_path / "baked")
    repository = hub.repositories["me/fair"]
    repository.tags["v1"] = first = repository.commits[-1][0]
    NeuronSet([(1, 1)]).save(tmp_path / "n.json")
    text = (tmp_path / "n.json").read_bytes()
    repository.commit("others", {**repository.files, "neurons.json": text, "sets/one.json": text})
    assert list(NeuronSet.load("me/fair")) == list(NeuronSet.load("me/fair/sets/one.json")) == [(1, 1)]
    assert list(NeuronSet.load("me/fair@v1")) == list(NeuronSet.load(f"me/fair/neurons.json@{first}")) == NEURONS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("me/unfair", r"no file 'me/unfair' here, and the hub has no repository me/unfair, or it is private\. Check"),
        (
            "me/fair/n.json",
            r"no file 'me/fair/n.json' here, and me/fair on the hub has no n\.json\. Name .*/FIL",
        ),
        ("me/fair@v7", r"no file 'me/fair@v7' here, and me/fair on the hub has no revision 'v7'\."),
        ("me/f--r", r"no file 'me/f--r' here, and 'me/f--r' is not a valid hub id: "),
        ("me/fair/config.json", r"`neurons` is expected to have the keys"),
    ],
)
def test_what_the_hub_does_not_have(hub, source, tmp_path, text, message):
    push(source, tmp_path / "baked")
    with pytest.raises(InputError, match=message) as caught:
        NeuronSet.load(text)
    assert "\n" not in str(caught.value)


def test_offline_the_cache_is_read(hub, source, tmp_path, monkeypatch):
    push(source, tmp_path / "baked")
    online = NeuronSet.load("me/fair")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assets.hub_reachable.cache_clear()
    hub.requests.clear()
    assert NeuronSet.load("me/fair") == online
    with pytest.raises(InputError, match=r"no file 'me/other' here, and the hub is not reachable .* no neurons\.json"):
        NeuronSet.load("me/other")
    assert not hub.requests


def test_a_callback_takes_a_hub_id(hub, source, tmp_path):
    from types import SimpleNamespace

    push(source, tmp_path / "baked")
    model, tokenizer = load_model(str(source / "model"))
    callback = NeuronSuppression("me/fair")
    untouched = model(input_ids=TOKENS).logits
    callback.on_predict_start(SimpleNamespace(), SimpleNamespace(model=model, tokenizer=tokenizer))
    assert not torch.equal(model(input_ids=TOKENS).logits, untouched)
    callback.on_predict_end()
    assert torch.equal(model(input_ids=TOKENS).logits, untouched)


def test_a_run_on_the_hub(hub, source, workdir):
    """A run's folder that was uploaded as it is: what lies beside the neurons is had too, and results stay here."""
    model = str(source / "model")
    on_cpu = ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.enable_progress_bar", "false"]
    few = ["--model.steps", "2", "--data.dimensions", "[gender]", "--data.modifiers", "1", "--data.contrast", "null"]
    ranked = ["--model.selection", "ranked", "--model.source", "prompts", "--model.model_name", model]
    main(["predict", "-c", "attribute", *ranked, *few, *on_cpu])
    run = workdir / "runs/attribute/version_0"
    hub.repositories["me/run"] = repository = Repository(private=False)
    repository.commit("a run", {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()})
    assert NeuronSet.load("me/run") == NeuronSet.load(run / "neurons.json")
    cards("me/run", model, count=2)
    assert (workdir / "runs/me--run/cards.json").exists()
    assert {path.name for path in neuron_file("me/run").parent.iterdir()} == {
        "neurons.json", "scores.safetensors", "config.yaml"
    }  # fmt: skip
    compare("me/run/neurons.json", str(run / "neurons.json"), output="compared")
    found = json.loads(next((workdir / "compared").rglob("comparison.json")).read_text())
    assert "me/run/neurons.json" in json.dumps(found)
