"""Commands on several processes, and in other types of weights, against one process in float32."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import bpe_tokenizer, make_model, wordpiece_tokenizer
from nursery import Nursery
from safetensors.torch import load_file

from biaslab.attribution.importance import Asked, first_order_effects
from biaslab.commands.bake import bake
from biaslab.commands.machine import start
from biaslab.data.prompts import PromptDataModule
from biaslab.errors import InputError
from biaslab.evaluation.findings import Findings
from biaslab.evaluation.scoring import target_log_probabilities
from biaslab.models import loading
from biaslab.models.architectures import ffn_shape
from biaslab.models.loading import fingerprint, load_model, origin
from biaslab.models.placement import is_dispatched, placement
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.neurons.suppression import suppressed
from biaslab.tasks.attribution import Attribution
from biaslab.tasks.base import single_trainer

SMALL = ["--dimensions", "[gender, age]", "--modifiers", "1", "--steps", "2", "--seeds", "2", "--sentences", "5"]


@pytest.fixture(scope="module")
def arguments(lab: Path) -> dict[str, list[str]]:
    data = ["--model", str(lab / "model"), "--text", str(lab / "text.txt"), "--stereoset", str(lab / "stereoset.json")]
    return {
        "debias": ["debias", *data, "--source", "prompts", "--contrast", str(lab / "text.txt"), "--count", "3", *SMALL],
        "table": ["table", *data, "--rows", "[base, union_ig]", "--sentences", "5", "--limit", "7"],
    }


def run(nursery: Nursery, folder: Path, command: list[str], ranks: int) -> str:
    folder.mkdir()
    code = (
        "from biaslab.data.presets import PRESETS\n"
        "few = {'dimensions': ['gender'], 'kinds': ['negative'], 'modifiers': 1, 'contrast': None}\n"
        "PRESETS['small'] = PRESETS['small']._replace(data=few)\n"
        "from biaslab.__main__ import main; main()"
    )
    end = nursery.run(folder, [*command, "--accelerator", "cpu", "--devices", ranks], ranks=ranks, code=code)
    assert end.codes == [0] * ranks, end.output
    return " ".join(end.output.split())


def without_times(path: Path) -> object:
    content = json.loads(path.read_text())
    content["facts"].pop("seconds", None)
    for row in content["rows"]:
        row.pop("seconds", None)
    del content["settings"]["devices"]
    return content


def test_two_processes_find_and_judge_as_one(nursery, arguments, tmp_path):
    printed = {ranks: run(nursery, tmp_path / f"{ranks}", arguments["debias"], ranks) for ranks in (1, 2)}
    one, two = (tmp_path / f"{ranks}" / "runs/debias/version_0" for ranks in (1, 2))
    assert [path.name for path in two.parent.iterdir()] == ["version_0"]
    assert without_times(one / "results.json") == without_times(two / "results.json")
    for name in ("neurons.json", "neurons_paper.json", "table.csv", "gaps.csv", "scores.safetensors"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    assert printed[2].count("Results go to") == printed[2].count("Results written to") == 1


def test_two_processes_fill_a_table_as_one(nursery, arguments, tmp_path):
    for ranks in (1, 2):
        run(nursery, tmp_path / f"{ranks}", arguments["table"], ranks)
    one, two = (next((tmp_path / f"{ranks}").glob("runs/table/*/table.json")) for ranks in (1, 2))
    assert without_times(one) == without_times(two)
    first = {path.name for path in one.parent.glob("*-*")}
    assert {path.name for path in two.parent.glob("*-*")} == first
    again = run(nursery, tmp_path / "again", [*arguments["table"], "--output", str(two.parent.parent)], 2)
    assert "Predicting" not in again  # all is kept


def test_two_processes_describe_neurons_and_compare_a_child_as_one(nursery, arguments, tmp_path, lab):
    """Each prompt is run by one of them, and the trained model's folder is written by the first."""
    model, _ = load_model(str(lab / "model"))
    weights = {f"model.{name}": tensor * 1.01 for name, tensor in model.state_dict().items()}
    settings = {"model_name": str(lab / "model"), "dtype": "float32"}
    torch.save({"hyper_parameters": settings, "state_dict": weights}, tmp_path / "child.ckpt")
    run(nursery, tmp_path / "found", arguments["debias"], 1)
    neurons = tmp_path / "found/runs/debias/version_0/neurons.json"
    for ranks in (1, 2):
        command = ["cards", str(neurons), "--output", "cards.json", "--count", "2"]
        run(nursery, tmp_path / f"cards_{ranks}", command, ranks)
        few = ["--selection", "paper", "--dimensions", "[gender]", "--modifiers", "1"]
        command = ["compare", str(lab / "model"), str(tmp_path / "child.ckpt"), *few]
        run(nursery, tmp_path / f"compare_{ranks}", command, ranks)
    one, two = (without_times(tmp_path / f"cards_{ranks}" / "cards.json") for ranks in (1, 2))
    assert one == two
    one, two = (next((tmp_path / f"compare_{ranks}").glob("runs/compare/*/comparison.json")) for ranks in (1, 2))
    assert without_times(one) == without_times(two)
    assert len(list(two.parent.parent.glob("child-*"))) == 1


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_neurons_of_another_type_of_weights_are_accepted(nursery, arguments, tmp_path, lab, dtype):
    run(nursery, tmp_path / "a", [*arguments["debias"], "--dtype", dtype], 1)
    path = tmp_path / "a" / "runs/debias/version_0"
    neurons = NeuronSet.load(path / "neurons.json")
    assert neurons.provenance["settings"]["dtype"] == dtype
    assert Findings.load(path / "results.json").settings["dtype"] == dtype
    for own in (torch.float32, getattr(torch, dtype)):
        model, _ = load_model(str(lab / "model"), dtype=own)
        neurons.require_model(model)


LAYERS = {
    "bert": {f"bert.encoder.layer.{layer}": "disk" if layer else "cpu" for layer in range(3)}
    | {"bert.embeddings": "cpu", "cls": "cpu"},
    "llama": {f"model.layers.{layer}": "disk" if layer else "cpu" for layer in range(3)}
    | dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "cpu"),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_layers_on_the_disk_change_nothing(tmp_path, kind):
    """IG², effects and fingerprint of a model of which two layers are read from the disk, and what judging sees."""
    tokenizer = wordpiece_tokenizer() if kind == "bert" else bpe_tokenizer(masked=False)
    make_model(kind, len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = {}
    for device_map in (None, LAYERS[kind]):
        task = Attribution(str(tmp_path), steps=3, count=4, device_map=device_map)
        data = PromptDataModule(str(tmp_path), ["gender"], kinds=["negative"], modifiers=1)
        scores = single_trainer(False, accelerator="cpu").predict(task, data)
        assert is_dispatched(task.model) is any(p.is_meta for p in task.model.parameters()) is (device_map is not None)
        batch = data.batches[0]
        neurons = NeuronSet([(1, 3), (2, 5)], ffn_shape(task.model))
        with torch.no_grad(), suppressed(task.model, neurons):
            logs = target_log_probabilities(task.model, batch)
        asked = Asked(batch["input_ids"], torch.arange(1), batch["position"][:1], batch["target_ids"][0, :1])
        effects, _ = first_order_effects(task.model, asked, torch.ones(1, 1))
        found[device_map is None] = [torch.cat([*scores]), logs, effects, fingerprint(task.model)]
    *plain, weights = found[True]
    *offloaded, same = found[False]
    assert weights == same
    for one, other in zip(plain, offloaded, strict=True):
        torch.testing.assert_close(other, one, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("replacement", ["zero", "mean"])
@pytest.mark.parametrize("kind", LAYERS)
def test_bake_reads_and_writes_layers_on_the_disk(tmp_path, kind, replacement, monkeypatch):
    """The folder is that of a model in main memory, bit for bit, and the checkpoint's own files stay as they are."""
    source, tokenizer = tmp_path / "model", wordpiece_tokenizer() if kind == "bert" else bpe_tokenizer(masked=False)
    make_model(kind, len(tokenizer)).save_pretrained(source)
    tokenizer.save_pretrained(source)
    before = (source / "model.safetensors").read_bytes()
    model, _ = load_model(str(source))
    shape = ffn_shape(model)
    values = torch.rand(shape, generator=torch.Generator().manual_seed(0)).numpy() if replacement == "mean" else None
    neurons = NeuronSet([(0, 1), (1, 3), (2, 5), (2, 7)], shape).with_values(values)
    neurons = neurons.with_details(provenance={"model": origin(str(source), fingerprint(model))})
    neurons.save(tmp_path / "neurons.json")
    for name, device_map in ("whole", None), ("parts", "auto"):
        if device_map:
            monkeypatch.setattr(loading, "placement", lambda _: placement(LAYERS[kind]))
        bake(str(source), neurons=str(tmp_path / "neurons.json"), output=str(tmp_path / name), device_map=device_map)
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    cards = [(tmp_path / name / "README.md").read_text() for name in ("whole", "parts")]
    assert cards[0] == cards[1]
    assert (source / "model.safetensors").read_bytes() == before


def test_devices_that_are_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(InputError, match="`accelerator` is expected to be cpu or auto, because torch finds no GPU"):
        start("gpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="`devices` is expected to be at most 2"):
        start("auto", 3)
    with pytest.raises(InputError, match=r"`devices` is expected to be at most \d+, .*, but got 100000"):
        start("cpu", 100_000)
    with pytest.raises(InputError, match="`devices` is expected to be a positive integer"):
        start("cpu", 0)
    with pytest.raises(InputError, match="`accelerator` is expected to be auto, cpu or gpu but got 'tpu'"):
        start("tpu")
    with pytest.raises(InputError, match="`device_map` is expected to be auto, balanced or sequential but got 'disk'"):
        start("cpu", 1, "disk")
    with pytest.raises(InputError, match="`device_map` is expected to be left out with several processes"):
        start("cpu", 2, "auto")
