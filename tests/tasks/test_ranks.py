"""The result does not depend on how many processes and nodes share the work, nor on the size of the batches."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import make_model, wordpiece_tokenizer

from biaslab import __main__ as program
from biaslab.neurons.neuron_set import NeuronSet

ATTRIBUTE = str(Path(__file__).parents[2] / "configs" / "attribute.yaml")
COMMAND = [
    "-m", "biaslab", "predict", "-c", ATTRIBUTE, "--model.selection", "ranked", "--model.source", "prompts",
    "--data.dimensions", "[gender, age]", "--data.modifiers", "1", "--data.contrast", "null",
    "--trainer.accelerator", "cpu", "--trainer.strategy", "ddp", "--trainer.enable_progress_bar", "false",
]  # fmt: skip
AUTO = ["--model.steps", "auto", "--data.tokens_per_batch", "64"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = wordpiece_tokenizer()
    make_model("bert", len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def one_rank(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(model, tmp_path_factory.mktemp("one"), *AUTO, "--trainer.devices", "1")


def run(model: Path, folder: Path, *more: str, launchers: tuple[tuple[str, ...], ...] = ((),)) -> Path:
    """Run the command in the folder, once with each launcher, all at once; return the run's folder."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    arguments = [*COMMAND, "--model.model_name", str(model), *more]
    processes = [
        subprocess.Popen(
            [sys.executable, *launcher, *arguments],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for launcher in launchers
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
        assert "Warning" not in output, output
    (found,) = (folder / "runs" / "attribute").iterdir()
    return found


def run_here(model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> Path:
    """Run the command with one rank in this process, which has the imports behind it; return the run's folder."""
    folder.mkdir()
    monkeypatch.chdir(folder)
    one_rank = ["--trainer.devices", "1", "--trainer.strategy", "auto"]
    monkeypatch.setattr(sys, "argv", ["biaslab", *COMMAND[2:], "--model.model_name", str(model), *more, *one_rank])
    program.main()
    return folder / "runs" / "attribute" / "version_0"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def assert_same_bytes(first: Path, second: Path) -> None:
    assert_same_neurons(first, second)
    for name in ("scores.safetensors", "neurons.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes()


def assert_same_neurons(first: Path, second: Path) -> None:
    neurons, others = (NeuronSet.load(folder / "neurons.json") for folder in (first, second))
    assert len(neurons) == 3
    assert neurons == others
    assert neurons.subsets == others.subsets


def assert_close_scores(first: Path, second: Path) -> None:
    one, other = (safetensors.torch.load_file(folder / "scores.safetensors") for folder in (first, second))
    assert one["scores"].abs().max() > 0.1
    torch.testing.assert_close(one["scores"], other["scores"], rtol=0, atol=1e-6)
    assert torch.equal(one["counts"], other["counts"])


@pytest.mark.parametrize("ranks", ["2", "3"])
def test_several_ranks_give_the_same_bytes_as_one(model, one_rank, tmp_path, ranks):
    assert_same_bytes(one_rank, run(model, tmp_path, *AUTO, "--trainer.devices", ranks))


def test_two_nodes_give_the_same_bytes_as_one(model, one_rank, tmp_path):
    port = str(free_port())
    launchers = tuple(
        (
            "-m", "torch.distributed.run", "--nnodes", "2", "--node_rank", node, "--nproc_per_node", "1",
            "--master_addr", "127.0.0.1", "--master_port", port,
        )
        for node in ("0", "1")
    )  # fmt: skip
    nodes = ["--trainer.num_nodes", "2", "--trainer.devices", "1"]
    assert_same_bytes(one_rank, run(model, tmp_path, *AUTO, *nodes, launchers=launchers))


def test_the_size_of_the_batches_does_not_matter(model, tmp_path, monkeypatch):
    small, large = tmp_path / "small", tmp_path / "large"
    one, other = (
        run_here(model, folder, monkeypatch, "--model.steps", "4", "--data.tokens_per_batch", tokens)
        for folder, tokens in ((small, "24"), (large, "512"))  # one prompt a batch, or all of a length
    )
    assert_same_neurons(one, other)
    assert_close_scores(one, other)


def test_fewer_batches_than_ranks(model, tmp_path, monkeypatch):
    """Each rank then attributes some of the layers of all prompts."""
    path = tmp_path / "people.json"
    sentences = ("the [MASK] doctor is rude.", "the [MASK] driver is kind.")  # of one length
    path.write_text(json.dumps([[[text, word, "x"] for word in ("female", "male", "old")] for text in sentences]))
    more = ["--data.path", str(path), "--model.steps", "auto"]
    one = run_here(model, tmp_path / "one", monkeypatch, *more)
    assert NeuronSet.load(one / "neurons.json").provenance["data"]["prompts"] == 2
    (tmp_path / "three").mkdir()
    three = run(model, tmp_path / "three", *more, "--trainer.devices", "3")
    assert_same_neurons(one, three)
    assert_close_scores(one, three)
