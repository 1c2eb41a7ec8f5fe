"""CrowS-Pairs through the command line, with suppressed neurons, on two ranks, and on the real model."""

from __future__ import annotations

import csv
import math
import os
import random
from pathlib import Path

import pytest
import torch
from conftest import bpe_tokenizer, main, make_model, run_two_processes
from pytorch_lightning import Trainer
from reference import crows_pairs as reference
from tokenizers import processors

from biaslab.data.crows_pairs import CATEGORIES, CrowsPairsDataModule, read_pairs
from biaslab.evaluation.findings import Findings
from biaslab.metrics.crows_pairs import crows_pairs_interval
from biaslab.models.loading import load_model
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.tasks.evaluation import CrowsPairsEvaluation

CONFIGS = Path(__file__).parents[2] / "configs"
QUIET = ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.enable_progress_bar", "false"]
BATCH = 1  # token: each pair alone, 15 batches, so that one of two ranks has a batch again
GROUPS = [("poor", "rich"), ("black", "white"), ("grumpily", "old"), ("gay", "straight"), ("she", "the doctor")]


def write(path, count=15):
    """A file of CrowS-Pairs' form; each fifth pair is neutral, and "religion" has no pairs."""
    names = [name for name in CATEGORIES if name != "religion"]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", "sent_more", "sent_less", "stereo_antistereo", "bias_type"])
        for number in range(count):
            more, less = GROUPS[number % 5] if number % 5 != 4 else ("rude", "rude")
            text = f"the {{}} {('man', 'woman', 'boy')[number % 3]} loves {('cooking', 'water')[number % 2]}"
            direction = "stereo" if number % 3 else "antistereo"
            writer.writerow([number, text.format(more), text.format(less), direction, names[number % 4]])
    return path


@pytest.fixture
def pairs(workdir):
    return write(workdir / "mine.csv")


def judge(model, pairs, *more):
    """Run the shipped config; return what the newest run wrote."""
    config = ["-c", str(CONFIGS / "crows_pairs.yaml"), "--model.model_name", str(model), "--data.path", str(pairs)]
    main(["test", *config, *QUIET, *more])
    return by_scope(Findings.load(max(Path("runs/crows_pairs").glob("version_*/crows_pairs.json"))))


def by_scope(findings: Findings) -> dict[str, dict]:
    """What the run wrote, a scope at a time."""
    scopes = {}
    for scope in findings.scopes("CrowS-Pairs"):
        counts = {"pairs": findings.facts["scored"][scope], "neutral": findings.facts["neutral"][scope]}
        scopes[scope] = findings.get("model", "CrowS-Pairs", scope).figure._asdict() | counts
        for name in ("stereotype", "anti-stereotype"):
            if (estimate := findings.get("model", name, scope)) is not None:
                scopes[scope][name] = estimate.figure._asdict()
    return scopes


def expected(scores, found):
    return reference.metrics(scores, [pair.direction for pair in found])


def agree(of_scope, scores, found):
    """Compare a scope's figures with the loop."""
    value, stereotype, anti_stereotype, neutral = expected(scores, found)
    assert of_scope["value"] == pytest.approx(value, abs=1e-4)
    assert of_scope["low"] <= of_scope["value"] <= of_scope["high"]
    assert of_scope["pairs"] == len(found)
    assert of_scope["neutral"] == neutral
    for name, percent in (("stereotype", stereotype), ("anti-stereotype", anti_stereotype)):
        assert (name in of_scope) is not math.isnan(percent)
        if name in of_scope:
            assert of_scope[name]["value"] == pytest.approx(percent, abs=1e-4)
            assert of_scope[name]["low"] <= of_scope[name]["value"] <= of_scope[name]["high"]


def test_the_shipped_config_agrees_with_the_loop(lab, pairs, capsys):
    figures = judge(lab / "model", pairs)
    model, tokenizer = load_model(str(lab / "model"))
    found = read_pairs(pairs)
    scores = [reference.masked_scores(model, tokenizer, p.more, p.less, p.direction) for p in found]
    assert list(figures) == ["overall", "age", "disability", "gender", "nationality"]
    for scope, of_scope in figures.items():
        chosen = [i for i, pair in enumerate(found) if scope in ("overall", pair.category)]
        agree(of_scope, [scores[i] for i in chosen], [found[i] for i in chosen])
    assert figures["overall"]["neutral"] == 3
    printed = capsys.readouterr().out
    ratios = Findings.load(Path("runs/crows_pairs/version_0/crows_pairs.json"))
    of_gender = [more - less for (more, less), pair in zip(scores, found, strict=True) if pair.category == "gender"]
    ratio = ratios.get("model", "CrowS-Pairs log-ratio", "gender").figure
    assert ratio.value == pytest.approx(sum(of_gender) / len(of_gender), abs=1e-4)
    assert ratio.low <= ratio.value <= ratio.high
    for word in (
        "overall/CrowS-Pairs", "overall/anti-stereotype", "gender/CrowS-Pairs", "version_0/crows_pairs.json",
        "overall/CrowS-Pairs log-ratio",
    ):  # fmt: skip
        assert word in printed
    assert (Path("runs/crows_pairs/version_0") / "config.yaml").exists()
    assert list(Path("runs/crows_pairs/version_0").glob("events.out.tfevents.*"))


def test_suppressed_neurons_make_a_difference(lab, pairs):
    neurons = NeuronSet([(layer, index) for layer in range(3) for index in range(40)], shape=(3, 48))
    neurons.save("neurons.json")
    before = judge(lab / "model", pairs)
    after = judge(
        lab / "model", pairs, "-c", str(CONFIGS / "suppress.yaml"), "--trainer.callbacks.neurons", "neurons.json"
    )
    assert after != before
    assert after["overall"]["neutral"] == before["overall"]["neutral"] == 3


def test_a_causal_model_is_asked_for_whole_sentences(pairs, tmp_path):
    tokenizer = bpe_tokenizer(masked=False)
    make_model("gpt2", len(tokenizer)).save_pretrained(tmp_path / "causal")
    tokenizer.save_pretrained(tmp_path / "causal")
    figures = judge(tmp_path / "causal", pairs)
    model, tokenizer = load_model(str(tmp_path / "causal"))
    found = read_pairs(pairs)
    scores = [[reference.causal_score(model, tokenizer, text) for text in (pair.more, pair.less)] for pair in found]
    agree(figures["overall"], scores, found)


def test_the_authors_rule_where_the_tokenizer_adds_bos(pairs, tmp_path):
    """By default all of a sentence is conditioned on BOS; the rule "authors" is named in the results."""
    tokenizer = bpe_tokenizer(masked=False)
    start = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=[start[0], "$A"], pair=[start[0], "$A", "$B"], special_tokens=[start]
    )
    make_model("gpt2", len(tokenizer)).save_pretrained(tmp_path / "causal")
    tokenizer.save_pretrained(tmp_path / "causal")
    by_default, by_authors = judge(tmp_path / "causal", pairs), judge(tmp_path / "causal", pairs, "--data.bos=authors")
    model, tokenizer = load_model(str(tmp_path / "causal"))
    found = read_pairs(pairs)
    texts = [[pair.more, pair.less] for pair in found]
    agree(by_authors["overall"], [[reference.causal_score(model, tokenizer, t) for t in both] for both in texts], found)
    agree(by_default["overall"], [[after_bos(model, tokenizer, t) for t in both] for both in texts], found)
    first, second = (Findings.load(Path(f"runs/crows_pairs/version_{n}/crows_pairs.json")) for n in range(2))
    assert not first.rule
    assert second.rule == " Causal sentences by the authors' rule (bos: authors)."


def after_bos(model, tokenizer, text):
    """The log-probability of a sentence's tokens, all of them after BOS."""
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    logs = model(ids).logits[0, :-1].double().log_softmax(-1)
    return float(logs.gather(1, ids[0, 1:, None]).sum())


def test_a_damaged_file_is_one_line(lab, pairs, capfd):
    pairs.write_text(pairs.read_text().replace("gender", "height", 1))
    with pytest.raises(SystemExit):
        judge(lab / "model", pairs)
    lines = [line for line in capfd.readouterr().err.splitlines() if "biaslab: error:" in line]
    assert len(lines) == 1
    assert "has the bias_type 'height'" in lines[0]


@pytest.mark.parametrize("limit", [1, 6])
def test_without_a_logger_nothing_is_written(lab, pairs, limit):
    task = CrowsPairsEvaluation(str(lab / "model"))
    data = CrowsPairsDataModule(str(lab / "model"), path=str(pairs), limit=limit)
    trainer(logger=False, devices=1).test(task, datamodule=data, verbose=False)
    assert task.evaluation is not None
    assert task.evaluation.scores.shape == (limit, 2)
    assert torch.equal(task.evaluation.examples, torch.arange(limit))
    assert not list(pairs.parent.rglob("crows_pairs.json"))


def trainer(**options):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return Trainer(accelerator="cpu", **quiet, **options)


def _process(rank, port, folder):
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    task = CrowsPairsEvaluation(f"{folder}/model")
    data = CrowsPairsDataModule(f"{folder}/model", path=f"{folder}/mine.csv", tokens_per_batch=BATCH)
    trainer(logger=False, devices=2, strategy="ddp").test(task, datamodule=data, verbose=False)
    torch.save((task.evaluation.scores, task.evaluation.examples, len(data.batches)), Path(folder, f"{rank}.pt"))


def test_two_ranks_count_each_pair_once(lab, tmp_path):
    (tmp_path / "model").symlink_to(lab / "model")
    write(tmp_path / "mine.csv")
    run_two_processes(_process, tmp_path)
    task = CrowsPairsEvaluation(str(lab / "model"))
    data = CrowsPairsDataModule(str(lab / "model"), path=str(tmp_path / "mine.csv"), tokens_per_batch=BATCH)
    trainer(logger=False, devices=1).test(task, datamodule=data, verbose=False)
    for rank in range(2):
        scores, examples, batches = torch.load(tmp_path / f"{rank}.pt")
        assert batches % 2  # so that a batch is repeated
        assert torch.equal(scores, task.evaluation.scores)
        assert torch.equal(examples, task.evaluation.examples)


@pytest.mark.assets
def test_real_pairs_agree_with_the_loop(asset, workdir):
    """Some of each direction, on the model that comes along."""
    asset("minilm-encoder")
    with (asset("crows-pairs") / "crows_pairs_anonymized.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    with open("some.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([rows[0], *random.Random(0).sample(rows[1:], 6)])
    task, data = CrowsPairsEvaluation(), CrowsPairsDataModule(path="some.csv")
    trainer(logger=False, devices=1).test(task, datamodule=data, verbose=False)
    scores = [reference.masked_scores(task.model, task.tokenizer, p.more, p.less, p.direction) for p in data.pairs]
    torch.testing.assert_close(task.evaluation.scores, torch.tensor(scores).double(), rtol=0, atol=2e-4)
    figures = {key: samples.interval() for key, samples in task.figures(*task.evaluation).items()}
    counts = task.counts(*task.evaluation)
    overall = figures["CrowS-Pairs", "overall"]._asdict() | {name: of["overall"] for name, of in counts.items()}
    named = {metric: figure._asdict() for (metric, scope), figure in figures.items() if scope == "overall"}
    agree(overall | {"pairs": overall["scored"]} | named, scores, data.pairs)
    assert figures["CrowS-Pairs", "overall"].value == crows_pairs_interval(task.evaluation.scores).value
