"""Results of size one: metrics that hold one number, and every command with one of everything."""

from __future__ import annotations

import copy
import json
import pickle
import re
from pathlib import Path

import conftest
import pytest
import torch
from conftest import bpe_tokenizer, main, stereoset, wordpiece_tokenizer
from torchmetrics import MetricCollection
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel

from biaslab.data.words import ACTIONS, WORDINGS
from biaslab.evaluation.findings import Findings
from biaslab.metrics import LanguageModelingScore, NeuronSelection, PairScores, StereotypeScore
from biaslab.metrics.effects import NeuronEffects
from biaslab.metrics.stereoset import ClusterScores
from biaslab.tasks.weighing import typical

QUIET = ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.enable_progress_bar", "false"]
ONE = torch.tensor([3])
FRAMES = re.findall("[a-z]+", " ".join(re.sub(r"{\w+}", " ", form) for w in WORDINGS for form in w).lower())


def shapes(metric) -> list[tuple[int, ...]]:
    return [tuple(tensor.shape) for tensor in metric.compute()]


@pytest.mark.parametrize("copied", [lambda metric: metric, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_results_keep_their_shapes(copied):
    pairs, clusters = PairScores(), ClusterScores()
    pairs.update(torch.tensor([[-1.0, -2.0]]), ONE)
    clusters.update(torch.tensor([[0.1, 0.2, 0.3]]), ONE, ONE)
    for _ in range(2):  # the second time from what the metric keeps
        assert shapes(copied(pairs)) == [(1, 2), (1,)]
        assert shapes(copied(clusters)) == [(1, 3), (1,), (1,)]
    clusters.update(torch.tensor([[0.1, 0.2, 0.3]] * 2), torch.tensor([3, 4]), torch.tensor([4, 5]))
    assert shapes(copied(clusters)) == [(3, 3), (3,), (3,)]
    assert int(copied(clusters).to("cpu").compute().examples[0]) == 3


def test_one_neuron():
    zero = torch.tensor([0])
    effects, selection = NeuronEffects(["bias"], (1, 1)), NeuronSelection(["pair"], ["kind"], (1, 1))
    effects.update(torch.full((1, 1, 1), 2.0), zero)
    selection.update(torch.ones(1, 1, 1), zero, zero, zero)
    assert effects.effects("bias").tolist() == [[2.0]]
    assert selection.compute()["counts"].tolist() == [1]
    assert selection.pair_scores().tolist() == [[[1.0]]]
    assert selection.mean_scores().tolist() == [[1.0]]


def test_scores_stay_scalars():
    both = MetricCollection({"SS": StereotypeScore(), "LMS": LanguageModelingScore()})
    both.update(torch.tensor([[0.3, 0.2, 0.1]]), ONE, ONE)
    assert {name: (value.shape, float(value)) for name, value in both.compute().items()} == {
        "SS": (torch.Size([]), 100.0), "LMS": (torch.Size([]), 100.0),
    }  # fmt: skip


def test_typical_size_of_scores_that_are_not_positive():
    assert float(typical(torch.tensor([[-2.0]]))) == 2.0
    assert float(typical(torch.zeros(1, 3))) == 1.0
    assert float(typical(torch.tensor([[-2.0, 1.0]]))) == 1.0


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A masked and a causal model of one layer of six neurons, one cluster, one pair and some text."""
    folder, sizes = tmp_path_factory.mktemp("one"), {"initializer_range": 0.3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conftest, "WORDS", [*conftest.WORDS, *FRAMES, "good", "bad", *" ".join(ACTIONS).split()])
        masked, causal = wordpiece_tokenizer(), bpe_tokenizer(masked=False)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(masked), hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=6,
        max_position_embeddings=64, **sizes,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(folder / "bert")
    sizes |= {"n_embd": 8, "n_layer": 1, "n_head": 1, "n_inner": 6, "n_positions": 64}
    config = GPT2Config(vocab_size=len(causal), bos_token_id=0, eos_token_id=0, **sizes)
    GPT2LMHeadModel(config).save_pretrained(folder / "gpt2")
    masked.save_pretrained(folder / "bert")
    causal.save_pretrained(folder / "gpt2")
    stereoset(folder / "one.json", 1)
    row = "the woman is rude.,the man is rude.,stereo,gender"
    (folder / "crows.csv").write_text(f"sent_more,sent_less,stereo_antistereo,bias_type\n{row}\n")
    return folder


@pytest.fixture
def few(monkeypatch, tiny_cache, few_prompts, no_pictures) -> None:
    monkeypatch.setattr("biaslab.commands.side_effects.MODIFIERS", 1)


def is_whole(path: Path) -> bool:
    """All estimates have numbers, and an interval holds its figure."""
    lines = Findings.load(path).lines()
    ends = [(line[f"{of}low"], line[f"{of}value"], line[f"{of}high"]) for line in lines for of in ("", "change_")]
    return bool(lines) and all(None not in each for each in ends)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_commands(models, workdir, few, kind, capsys):
    (workdir / "text.txt").write_text((workdir / "cache/bug/full_BUG.csv").read_text())
    model, one = str(models / kind), ["--seeds", "1", "--sentences", "1", "--text", "text.txt"]
    for config, path in (("stereoset", "one.json"), ("crows_pairs", "crows.csv")):
        main(["test", "-c", config, "--model.model_name", model, "--data.path", str(models / path), *QUIET])
        assert is_whole(workdir / f"runs/{config}/version_0/{config}.json")
    few = ["--data.dimensions", "[gender]", "--data.kinds", "[negative]", "--data.modifiers", "1"]
    few += ["--data.contrast_limit", "1", "--model.steps", "1"]
    for number, selection in enumerate(("paper", "ranked", "guarded")):
        more = ["--model.selection", selection, "--model.count", "1", "--model.model_name", model]
        main(["predict", "-c", "attribute", *more, *few, *QUIET])
        file = workdir / f"runs/attribute/version_{number}/neurons.json"
        assert json.loads(file.read_text())["shape"] == [1, 6]
    main(["cards", str(file), "--count", "1"])
    files = ["--stereoset", str(models / "one.json"), "--crows_pairs", str(models / "crows.csv")]
    main(["side-effects", str(file), "--dimensions", "[gender]", *files, *one])
    assert is_whole(file.parent / "side_effects.json")
    main(["compare", str(file), str(file)])
    main(["probe", "--model", model, "--neurons", str(file), "--seeds", "1"])
    assert is_whole(workdir / "runs/probe/version_0/probe.json")
    main(["table", "--model", model, "--rows", "[bns_guarded, bns_balanced, random_bns]", "--limit", "1", *one])
    (table,) = (workdir / "runs/table").iterdir()
    assert is_whole(table / "table.json")
    few = ["--dimensions", "[gender]", "--kinds", "[negative]", "--modifiers", "1", "--contrast_limit", "1"]
    main(["debias", "--model", model, *few, "--count", "1", "--steps", "1", "--limit", "1", *one])
    assert is_whole(workdir / "runs/debias/version_0/results.json")
    grid = ["--guards", "[stereoset]", "--guard_weights", "[1.0]", "--counts", "[1]", "--factors", "[0.0]"]
    main(["sweep", "--model", model, *grid, "--limit", "1", "--every", "1", *one])
    (sweep,) = (workdir / "runs/sweep").iterdir()
    assert is_whole(sweep / "sweep.json")
    main(["report", str(workdir / "runs/debias/version_0"), str(table), str(sweep), str(file.parent)])
    assert "Results written to" in capsys.readouterr().out
