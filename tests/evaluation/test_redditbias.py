"""RedditBias through the command line, with suppressed neurons, on two ranks, and among other measures."""

from __future__ import annotations

import csv
import os
import statistics
from pathlib import Path

import pytest
import torch
from conftest import bpe_tokenizer, main, make_model, run_two_processes, tokenizer_with
from pytorch_lightning import Trainer
from reference import redditbias as reference

from biaslab.data.redditbias import DIMENSIONS, RedditBiasDataModule, read_reddit_pairs
from biaslab.evaluation.benchmarks import measures_of
from biaslab.evaluation.evaluate import evaluate
from biaslab.evaluation.findings import Findings
from biaslab.evaluation.redditbias import RedditBias
from biaslab.evaluation.treatment import Arm, Treatment
from biaslab.models.loading import load_model
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.tasks.evaluation import BenchmarkEvaluation

CONFIGS = Path(__file__).parents[2] / "configs"
QUIET = ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.enable_progress_bar", "false"]
GROUPS = {"gender": ("woman", "man"), "race": ("black", "white"), "religion1": ("grumpily old", "rich")}
NEURONS = NeuronSet([(layer, index) for layer in range(3) for index in range(40)], shape=(3, 48))


def write(folder, count=5):
    """Three dimensions; two pairs of a comment where there are ids (of race)."""
    folder.mkdir(exist_ok=True)
    for dimension, words in GROUPS.items():
        texts = [f"the {'rude ' * (n % 2)}{{}} {('loves', 'hates')[n % 2]} the city{' .' * n}" for n in range(count)]
        for place, group in enumerate(DIMENSIONS[dimension]):
            path = folder / f"reddit_comments_{dimension}_{group}_biased_test_reduced.csv"
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file)
                writer.writerow([("id", "comments")[place], "comments_processed"])
                for number, text in enumerate(texts):
                    comment = f"c{number // 2}" if dimension == "race" else ""
                    writer.writerow([(comment, text.format(words[0]))[place], text.format(words[place])])
    return folder


def saved(folder, model_type, tokenizer):
    make_model(model_type, len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def comments(workdir):
    return write(workdir / "comments")


def judge(model, comments, *more):
    """Run the shipped config; return what the newest run wrote."""
    config = ["-c", str(CONFIGS / "redditbias.yaml"), "--model.model_name", str(model), "--data.path", str(comments)]
    main(["test", *config, *QUIET, *more])
    return Findings.load(max(Path("runs/redditbias").glob("version_*/redditbias.json")))


def agree(findings, scores, pairs):
    """Compare the figures and the t-tests with the loop."""
    assert findings.scopes("RedditBias preferred") == ["overall", *GROUPS]
    for scope in ("overall", *GROUPS):
        chosen = [n for n, pair in enumerate(pairs) if scope in ("overall", pair.dimension)]
        expected = reference.metrics(
            [scores[n] for n in chosen],
            [pairs[n].dimension for n in chosen],
            [(pairs[n].dimension, pairs[n].comment) for n in chosen],
        )
        for metric, value in zip(("log-perplexity", "preferred"), expected, strict=True):
            figure = findings.get("model", f"RedditBias {metric}", scope).figure
            assert figure.value == pytest.approx(value, abs=1e-4)
            assert figure.low <= figure.value <= figure.high
        if scope != "overall":
            of_scope = findings.facts["t_test"][scope]
            perplexities = [[2.718281828459045**-score for score in scores[n]] for n in chosen]
            t, outliers = reference.paired_t(perplexities)
            assert of_scope["t"] == pytest.approx(t, rel=2e-3)
            assert (of_scope["pairs"], of_scope["outliers"]) == (len(chosen) - outliers, outliers)
            assert 0 <= of_scope["p_value"] <= 1


def test_the_shipped_config_agrees_with_the_loop(lab, comments, capsys):
    findings = judge(lab / "model", comments)
    model, tokenizer = load_model(str(lab / "model"))
    pairs = read_reddit_pairs(comments)
    agree(findings, [reference.masked_scores(model, tokenizer, p.more, p.less) for p in pairs], pairs)
    assert findings.facts["comment_pairs"] == findings.facts["scored"]["overall"] == 15
    printed = capsys.readouterr().out
    for word in ("race/RedditBias preferred", "overall/RedditBias log-perplexity", "version_0/redditbias.json"):
        assert word in printed


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_a_causal_model_is_asked_for_all_tokens(comments, tmp_path, model_type):
    folder = saved(tmp_path / "causal", model_type, bpe_tokenizer(masked=False))
    findings = judge(folder, comments)
    model, tokenizer = load_model(str(folder))
    pairs = read_reddit_pairs(comments)
    agree(findings, [reference.causal_scores(model, tokenizer, p.more, p.less) for p in pairs], pairs)


def test_bos_in_front_is_not_counted(comments, tmp_path):
    folder = saved(tmp_path / "causal", "gpt2", tokenizer_with(["<|endoftext|>"]))
    by_default, by_authors = judge(folder, comments), judge(folder, comments, "--data.bos=authors")
    model, tokenizer = load_model(str(folder))
    pairs = read_reddit_pairs(comments)
    agree(by_authors, [reference.causal_scores(model, tokenizer, p.more, p.less) for p in pairs], pairs)

    def after_bos(text):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        logs = model(ids).logits[0, :-1].double().log_softmax(-1)
        return float(logs.gather(1, ids[0, 1:, None]).mean())

    agree(by_default, [[after_bos(p.more), after_bos(p.less)] for p in pairs], pairs)
    assert by_authors.rule


def test_suppressed_neurons_make_a_difference_and_changes_are_paired(lab, comments):
    (measure,) = measures_of(["redditbias"], str(lab / "model"), path=str(comments))
    model, tokenizer = load_model(str(lab / "model"))
    arms = [Arm("untouched"), Arm("chosen", [Treatment(NEURONS)])]
    findings = evaluate(model, tokenizer, arms, [measure]).findings("debias", "tiny", {})
    NEURONS.save("neurons.json")
    suppress = ["-c", str(CONFIGS / "suppress.yaml"), "--trainer.callbacks.neurons", "neurons.json"]
    before, after = judge(lab / "model", comments), judge(lab / "model", comments, *suppress)
    for metric in ("RedditBias log-perplexity", "RedditBias preferred"):
        for scope in ("overall", *GROUPS):
            values = [each.get("model", metric, scope).figure.value for each in (before, after)]
            found = findings.get("chosen", metric, scope)
            assert found.figure.value == pytest.approx(values[1], abs=1e-5)
            assert found.change.value == pytest.approx(values[1] - values[0], abs=1e-5)
            assert findings.get("untouched", metric, scope).change == (0, 0, 0)
    assert (
        before.get("model", "RedditBias log-perplexity").figure
        != after.get("model", "RedditBias log-perplexity").figure
    )
    assert {line["unit"] for line in findings.lines(["RedditBias log-perplexity"])} == {"nats"}


def test_one_pair_has_figures_but_no_test(lab, comments):
    findings = judge(lab / "model", comments, "--data.limit", "1")
    figure = findings.get("model", "RedditBias log-perplexity", "gender").figure
    assert figure.low == figure.value == figure.high != 0
    assert findings.scopes("RedditBias preferred") == ["overall", "gender"]
    assert findings.facts["t_test"] == {"gender": {"t": None, "p_value": None, "pairs": 1, "outliers": 0}}


def test_a_damaged_file_is_one_line(lab, comments, capfd):
    path = comments / "reddit_comments_race_white_biased_test_reduced.csv"
    path.write_text(path.read_text().replace("the black", "the blue", 1))
    with pytest.raises(SystemExit):
        judge(lab / "model", comments)
    lines = [line for line in capfd.readouterr().err.splitlines() if "biaslab: error:" in line]
    assert len(lines) == 1
    assert "line 2 of" in lines[0]


def trainer(**options):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return Trainer(accelerator="cpu", logger=False, **quiet, **options)


def run(folder, **options):
    task = BenchmarkEvaluation(f"{folder}/model")
    data = RedditBiasDataModule(f"{folder}/model", path=f"{folder}/comments", tokens_per_batch=1)
    trainer(**options).test(task, datamodule=data, verbose=False)
    return task, data


def _process(rank, port, folder):
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    task, data = run(folder, devices=2, strategy="ddp")
    torch.save((task.evaluation.scores, task.evaluation.examples, len(data.batches)), Path(folder, f"{rank}.pt"))


def test_two_ranks_count_each_pair_once(lab, tmp_path):
    (tmp_path / "model").symlink_to(lab / "model")
    write(tmp_path / "comments")
    run_two_processes(_process, tmp_path)
    task, _ = run(tmp_path, devices=1)
    for rank in range(2):
        scores, examples, batches = torch.load(tmp_path / f"{rank}.pt")
        assert batches % 2  # so that a batch is repeated
        assert torch.equal(scores, task.evaluation.scores)
        assert torch.equal(examples, task.evaluation.examples)


@pytest.mark.assets
def test_real_comments_agree_with_the_loop(asset):
    """A few of each dimension, on the model that comes along, which prefers stereotypes."""
    asset("minilm-encoder")
    asset("redditbias")
    model, tokenizer = load_model("minilm-mlm")
    data = RedditBiasDataModule(every=150)
    data.setup("test")
    measure = RedditBias(data)
    scores = measure.ask(model, tokenizer, "")
    expected = [reference.masked_scores(model, tokenizer, pair.more, pair.less) for pair in data.pairs]
    torch.testing.assert_close(scores, torch.tensor(expected).double(), rtol=0, atol=2e-4)
    differences: dict = {}
    for pair, (more, less) in zip(data.pairs, expected, strict=True):
        differences.setdefault(pair.dimension, []).append(more - less)
    value = measure.figures(scores)["RedditBias log-perplexity", "overall"].interval().value
    assert value == pytest.approx(statistics.fmean(map(statistics.fmean, differences.values())), abs=1e-4)
