"""The result does not depend on how many processes and nodes share the work, nor on the size of the batches."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from nursery import Nursery

from biaslab.neurons.neuron_set import NeuronSet

COMMAND = [
    "predict", "-c", "attribute", "--model.selection", "ranked", "--model.source", "prompts",
    "--data.dimensions", "[gender, age]", "--data.modifiers", "1", "--data.contrast", "null",
    "--trainer.accelerator", "cpu", "--trainer.strategy", "ddp", "--trainer.enable_progress_bar", "false",
]  # fmt: skip
AUTO = ["--model.steps", "auto", "--data.tokens_per_batch", "64"]


@pytest.fixture(scope="module")
def run(nursery: Nursery, tiny: Path) -> Callable[..., Path]:
    """Run the command in a folder, in the nursery; return the run's folder."""

    def run(folder: Path, *more: str, ranks: int = 1, nodes: int = 1) -> Path:
        folder.mkdir(exist_ok=True)
        size = ["--trainer.devices", ranks // nodes, "--trainer.num_nodes", nodes]
        end = nursery.run(folder, [*COMMAND, "--model.model_name", tiny, *size, *more], ranks=ranks, nodes=nodes)
        assert set(end.codes) == {0}, end.output
        (found,) = (folder / "runs" / "attribute").iterdir()
        return found

    return run


@pytest.fixture(scope="module")
def one_rank(run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("one"), *AUTO)


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


@pytest.mark.parametrize(("ranks", "nodes"), [(2, 1), (3, 1), (2, 2), (4, 2)])
def test_several_ranks_and_nodes_give_the_same_bytes_as_one(run, one_rank, tmp_path, ranks, nodes):
    assert_same_bytes(one_rank, run(tmp_path, *AUTO, ranks=ranks, nodes=nodes))


def test_the_size_of_the_batches_does_not_matter(run, tmp_path):
    one, other = (
        run(tmp_path / tokens, "--model.steps", "4", "--data.tokens_per_batch", tokens)
        for tokens in ("24", "512")  # one prompt a batch, or all of a length
    )
    assert_same_neurons(one, other)
    assert_close_scores(one, other)


def test_fewer_batches_than_ranks(run, tmp_path):
    """Each rank then attributes some of the layers of all prompts."""
    path = tmp_path / "people.json"
    sentences = ("the [MASK] doctor is rude.", "the [MASK] driver is kind.")  # of one length
    path.write_text(json.dumps([[[text, word, "x"] for word in ("female", "male", "old")] for text in sentences]))
    one, three = (run(tmp_path / name, "--data.path", str(path), ranks=n) for name, n in (("one", 1), ("three", 3)))
    assert NeuronSet.load(one / "neurons.json").provenance["data"]["prompts"] == 2
    assert_same_neurons(one, three)
    assert_close_scores(one, three)
