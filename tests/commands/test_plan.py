"""`biaslab predict --plan`, through the command line."""

import re
import resource
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import bpe_tokenizer, make_model, wordpiece_tokenizer
from torch.utils.flop_counter import FlopCounterMode

from biaslab import __main__ as program
from biaslab.commands.estimate import NODES, needs, without_weights
from biaslab.commands.plan import Operations, _peak, duration
from biaslab.data.prompts import PromptDataModule
from biaslab.tasks.attribution import Attribution

CONFIGS = Path(__file__).parents[2] / "configs"


def plan(folder: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
    tokenizer = wordpiece_tokenizer()
    make_model("bert", len(tokenizer)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    arguments = [
        "predict", "--plan", "-c", str(CONFIGS / "attribute.yaml"), "--model.model_name", str(folder / "model"),
        "--model.selection", "ranked", "--model.source", "prompts", "--data.dimensions", "[gender, age]",
        "--data.contrast", "null", "--trainer.accelerator", "cpu", "--trainer.devices", "1", *more,
    ]  # fmt: skip
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["biaslab", *arguments])
    with pytest.raises(SystemExit) as end:
        program.main()
    assert end.value.code == 0


def test_plan_says_what_a_run_takes_and_runs_nothing(tmp_path, monkeypatch, capsys):
    unknown = "{age: [[young, old], [old, 老], [young, middle-aged]]}"
    plan(tmp_path, monkeypatch, "--data.modifiers", "2", "--data.pairs", unknown)
    printed = capsys.readouterr().out
    lines = {line.split()[0]: line for line in printed.splitlines() if line.strip()}
    assert "96 for 3 pairs" in lines["prompts"]  # 2 dimensions, 2 kinds, 2 modifiers, 12 wordings
    assert re.search(r"[\d,]+, in \d+ batches", lines["tokens"])
    assert float(re.search(r"nodes +([\d.]+)", lines["nodes"])[1]) >= 3
    assert re.search(r"[\d.]+e\+\d+, at a measured [\d.e+]+ GFLOP/s \(float32, \d+ CPU thread", lines["operations"])
    assert re.search(r"[\d.]+ GiB", lines["memory"])
    assert re.search(r"\d+ (s|min) on 1 process", lines["time"])
    assert "age/old-老" in lines["dropped"]
    assert not (tmp_path / "runs").exists()


def test_plan_grows_with_the_work(tmp_path, monkeypatch, capsys):
    operations = []
    for modifiers in ("1", "4"):
        plan(tmp_path, monkeypatch, "--data.modifiers", modifiers, "--model.steps", "3")
        operations.append(float(re.search(r"operations +(\S+),", capsys.readouterr().out)[1]))
    assert 3 < operations[1] / operations[0] < 5


def test_operations_are_those_that_torch_counts():
    model, ids = make_model("bert"), torch.randint(5, 100, (3, 9))
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as expected:
        model(ids)
    with Operations() as operations:
        model(ids)
    assert operations.total == expected.get_total_flops() > 0


@pytest.mark.parametrize(("platform", "unit"), [("darwin", 1), ("linux", 1024)])
def test_peak_memory_is_in_bytes(platform, unit, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=3_000_000))
    assert _peak(SimpleNamespace(device=torch.device("cpu"))) == 3_000_000 * unit


def testdurations():
    assert [duration(seconds) for seconds in (7.4, 300, 10_000)] == ["7 s", "5 min", "2.8 h"]


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_estimate_needs_no_weights(tmp_path, monkeypatch, capsys, kind):
    """The operations are those of the very pass, within what the numbers of nodes and of a head's rows leave open."""
    tokenizer = wordpiece_tokenizer() if kind == "bert" else bpe_tokenizer(masked=False)
    model = make_model(kind, len(tokenizer))
    tokenizer.save_pretrained(tmp_path / "model")
    model.config.save_pretrained(tmp_path / "model")
    arguments = [
        "predict", "--plan", "-c", str(CONFIGS / "attribute.yaml"), "--model.model_name", str(tmp_path / "model"),
        "--model.selection", "ranked", "--model.source", "prompts", "--data.dimensions", "[gender, age]",
        "--data.contrast", "null", "--model.dtype", "bfloat16",
    ]  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["biaslab", *arguments])
    with pytest.raises(SystemExit) as end:
        program.main()
    assert end.value.code == 0
    printed = capsys.readouterr().out
    lines = {line.split()[0]: line for line in printed.splitlines() if line.strip()}
    count = sum(parameter.numel() for parameter in model.parameters())
    assert f"{count / 1e9:,.3g} billion; 3 layers of 48 neurons" in lines["parameters"]
    assert "for 4 pairs" in lines["prompts"]
    assert "(torch.bfloat16)" in lines["memory"]
    assert "1 GPU: less than a minute" in lines["80"]
    assert not list(tmp_path.glob("runs"))

    model.save_pretrained(tmp_path / "model")
    task = Attribution(str(tmp_path / "model"), steps=NODES, gap="signed")
    data = PromptDataModule(str(tmp_path / "model"), ["gender", "age"], modifiers=2)
    data.setup("predict")
    with Operations() as counted:
        for batch in data.batches:
            task.attribute(batch)
    meta = without_weights(model.config)
    assert all(parameter.is_meta for parameter in meta.parameters())
    estimated = needs(meta, torch.float32, data.batches, [], 8192)
    assert estimated.parameters == count
    assert estimated.weights == 4 * count
    assert 0.5 < estimated.operations / counted.total < 2
