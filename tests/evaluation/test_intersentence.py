"""StereoSet's intersentence task: next-sentence heads and causal models against slow loops, and the command line."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from conftest import bpe_tokenizer, main, make_model, run_two_processes, tokenizer_with, wordpiece_tokenizer
from pytorch_lightning import Trainer
from reference import stereoset as reference
from transformers import AutoConfig, BertForNextSentencePrediction, BertForPreTraining

from biaslab.data.intersentence import IntersentenceDataModule
from biaslab.data.stereoset import LABELS, half_of, read_clusters
from biaslab.errors import InputError
from biaslab.evaluation.benchmarks import measures_of
from biaslab.evaluation.evaluate import evaluate
from biaslab.evaluation.findings import Findings
from biaslab.evaluation.intersentence import Intersentence, score_continuations
from biaslab.evaluation.treatment import Arm, Treatment
from biaslab.metrics.stereoset import NAMES, point
from biaslab.models.loading import load_model, load_next_sentence_head
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.tasks.evaluation import StereoSetEvaluation

CONFIGS = Path(__file__).parents[2] / "configs"
QUIET = ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.enable_progress_bar", "false"]
NEURONS = NeuronSet([(layer, index) for layer in range(3) for index in range(40)], shape=(3, 48))


def write(path, count=9):
    """Clusters whose candidates are of other lengths; each third context has no full stop."""
    records = []
    for number in range(count):
        target, domain = (("doctor", "profession"), ("girl", "gender"), ("asian", "race"))[number % 3]
        texts = ("he is rude and mean .", "she is kind .", "the water in the city is nice .")
        sentences = [
            {"sentence": f"{'very ' * (number % 2)}{text}", "id": f"s{number}{label}", "gold_label": label}
            for text, label in zip(texts, LABELS, strict=True)
        ]
        context = f"the {target} {'works' if number % 2 else 'was'} at home{'' if number % 3 == 1 else ' .'}"
        records.append(
            {"id": f"c{number}", "target": target, "bias_type": domain, "context": context, "sentences": sentences}
        )
    path.write_text(json.dumps({"data": {"intersentence": records}}))
    return path


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory) -> Path:
    """A tiny BERT with the heads that it was pretrained with."""
    folder = tmp_path_factory.mktemp("pretrained")
    tokenizer = wordpiece_tokenizer()
    config = AutoConfig.for_model(
        "bert", vocab_size=len(tokenizer), max_position_embeddings=64, hidden_size=32, intermediate_size=48,
        num_hidden_layers=3, num_attention_heads=4, initializer_range=0.3,
    )  # fmt: skip
    torch.manual_seed(0)
    BertForPreTraining(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def causal_folder(folder, tokenizer, model_type="gpt2"):
    make_model(model_type, len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def clusters(workdir):
    return write(workdir / "mine.json")


def judge(model, clusters, *more):
    """Run the shipped config; return what the newest run wrote."""
    config = ["-c", str(CONFIGS / "stereoset_intersentence.yaml"), "--model.model_name", str(model)]
    main(["test", *config, "--data.path", str(clusters), *QUIET, *more])
    runs = Path("runs/stereoset_intersentence").glob("version_*/stereoset_intersentence.json")
    return Findings.load(max(runs))


def asked(folder, path, **options):
    """The scores of all clusters in the file's order."""
    model, _ = load_model(str(folder))
    data = IntersentenceDataModule(str(folder), path=str(path), **options)
    data.setup("test")
    scores = torch.zeros(len(data.clusters), 3)
    for batch in data.batches:
        scores[batch["examples"]] = score_continuations(model, batch, data.head)
    return scores, data


def loop(function, clusters):
    return torch.tensor([[function(c.context, text) for text in c.sentences] for c in clusters])


@pytest.mark.parametrize("tokens_per_batch", [1, 60, 4096])
def test_a_head_is_asked_as_transformers_own_model(pretrained, clusters, tokens_per_batch):
    scores, data = asked(pretrained, clusters, tokens_per_batch=tokens_per_batch)
    own, tokenizer = BertForNextSentencePrediction.from_pretrained(pretrained).eval(), wordpiece_tokenizer()
    expected = loop(lambda *pair: reference.next_sentence_score(own, tokenizer, *pair), data.clusters)
    torch.testing.assert_close(scores, expected.float(), atol=1e-5, rtol=0)
    assert len(scores.unique()) > 15
    for batch in data.batches:
        assert sum(group["input_ids"].numel() for group in batch["inputs"]) <= max(tokens_per_batch, 60)


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_a_causal_model_is_asked_for_the_ratio(clusters, tmp_path, model_type):
    tokenizer = bpe_tokenizer(masked=False)
    folder = causal_folder(tmp_path / "causal", tokenizer, model_type)
    scores, data = asked(folder, clusters, tokens_per_batch=100)
    assert len(data.batches) > 1
    model, _ = load_model(str(folder))
    expected = loop(lambda *pair: reference.ratio_score(model, tokenizer, *pair), data.clusters)
    torch.testing.assert_close(scores, expected.float(), atol=1e-5, rtol=1e-5)


def test_what_is_in_front_is_not_asked_for(clusters, tmp_path):
    tokenizer = tokenizer_with(["<|endoftext|>"])
    folder = causal_folder(tmp_path / "causal", tokenizer)
    model, _ = load_model(str(folder))
    by_default, data = asked(folder, clusters)
    front = [tokenizer.bos_token_id]

    def after_front(context, sentence):
        context += "" if context[-1] in ".!?" else "."
        before, alone, whole = (
            tokenizer.encode(text, add_special_tokens=False) for text in (context, sentence, f"{context} {sentence}")
        )
        after = reference.mean_bits(model, [*front, *before], whole[len(before) :])
        return reference.mean_bits(model, front, alone) / after

    torch.testing.assert_close(by_default, loop(after_front, data.clusters).float(), atol=1e-5, rtol=1e-5)
    by_authors, _ = asked(folder, clusters, bos="authors")
    expected = loop(lambda *pair: reference.ratio_score(model, tokenizer, *pair), data.clusters)
    torch.testing.assert_close(by_authors, expected.float(), atol=1e-5, rtol=1e-5)


def test_above_1_the_context_makes_a_sentence_likelier(clusters, tmp_path):
    tokenizer = bpe_tokenizer(masked=False)
    folder = causal_folder(tmp_path / "causal", tokenizer)
    scores, data = asked(folder, clusters)
    model, _ = load_model(str(folder))
    start = [tokenizer.bos_token_id]
    for row, cluster in zip(scores.tolist(), data.clusters, strict=True):
        before = tokenizer.encode(cluster.context + "." * (not cluster.context.endswith(".")))
        for score, text in zip(row, cluster.sentences, strict=True):
            after = reference.mean_bits(model, before, tokenizer.encode(f" {text}"))
            first, *later = tokenizer.encode(text)
            bits = [
                reference.mean_bits(model, start, [first]),
                *[reference.mean_bits(model, [first], later)] * len(later),
            ]
            assert (score > 1) is (after > sum(bits) / len(bits))


def figures_of(findings, scores, clusters):
    """Compare the figures with the metrics of scores, overall and by domain."""
    names = sorted({cluster.target for cluster in clusters})
    assert findings.scopes("SS, intersentence") == ["overall", "gender", "profession", "race"]
    for scope in findings.scopes("SS, intersentence"):
        inside = torch.tensor([scope in ("overall", cluster.domain) for cluster in clusters])
        terms = torch.tensor([names.index(cluster.target) for cluster in clusters])[inside]
        for name, value in zip(NAMES, point(scores[inside], terms).tolist(), strict=True):
            figure = findings.get("model", f"{name}, intersentence", scope).figure
            assert figure.value == pytest.approx(value, abs=1e-4)
            assert figure.low <= figure.value <= figure.high


def test_the_shipped_config_and_predictions(pretrained, clusters, workdir, capsys):
    findings = judge(pretrained, clusters, "--predictions", "predictions.json")
    own, tokenizer = BertForNextSentencePrediction.from_pretrained(pretrained).eval(), wordpiece_tokenizer()
    found = read_clusters(clusters, "intersentence")
    expected = loop(lambda *pair: reference.next_sentence_score(own, tokenizer, *pair), found)
    figures_of(findings, expected.float(), found)
    assert findings.command == "stereoset-intersentence"
    assert "overall/ICAT, intersentence" in capsys.readouterr().out
    content = json.loads(Path("predictions.json").read_text())
    assert content["intrasentence"] == []
    by_id = {entry["id"]: entry["score"] for entry in content["intersentence"]}
    assert len(by_id) == len(content["intersentence"]) == 27
    scores = [[by_id[name] for name in cluster.sentence_ids] for cluster in found]
    torch.testing.assert_close(torch.tensor(scores), expected.float(), atol=1e-5, rtol=0)


def test_a_causal_model_through_the_command_line(clusters, tmp_path):
    folder = causal_folder(tmp_path / "causal", bpe_tokenizer(masked=False))
    findings = judge(folder, clusters)
    figures_of(findings, asked(folder, clusters)[0], read_clusters(clusters, "intersentence"))


def test_suppression_reaches_the_head(pretrained, clusters):
    """Neurons that are suppressed by hooks give what transformers' own model gives with their columns zeroed."""
    own, tokenizer = BertForNextSentencePrediction.from_pretrained(pretrained).eval(), wordpiece_tokenizer()
    with torch.no_grad():
        for layer, index in NEURONS:
            own.bert.encoder.layer[layer].output.dense.weight[:, index] = 0
    (measure,) = measures_of(["stereoset-intersentence"], str(pretrained), path=str(clusters))
    model, _ = load_model(str(pretrained))
    evaluation = evaluate(model, tokenizer, [Arm("untouched"), Arm("chosen", [Treatment(NEURONS)])], [measure])
    (before,), (after,) = (evaluation.answers[row, "stereoset_intersentence"] for row in ("untouched", "chosen"))
    found = read_clusters(clusters, "intersentence")
    expected = loop(lambda *pair: reference.next_sentence_score(own, tokenizer, *pair), found)
    torch.testing.assert_close(after, expected.float(), atol=1e-5, rtol=0)
    assert (before - after).abs().max() > 0.01
    findings = evaluation.findings("debias", "tiny", {})
    values = [findings.get(row, "LMS, intersentence").figure.value for row in ("untouched", "chosen")]
    assert findings.get("chosen", "LMS, intersentence").change.value == pytest.approx(values[1] - values[0])
    NEURONS.save("neurons.json")
    suppress = ["-c", str(CONFIGS / "suppress.yaml"), "--trainer.callbacks.neurons", "neurons.json"]
    figures_of(judge(pretrained, clusters, *suppress), after, found)


def test_the_head_is_part_of_what_answers_depend_on(pretrained, clusters, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(pretrained, other)
    model = BertForPreTraining.from_pretrained(other)
    model.cls.seq_relationship.bias.data += 1
    model.save_pretrained(other)
    keys = []
    for folder in (pretrained, other):
        data = IntersentenceDataModule(str(folder), path=str(clusters))
        data.setup("test")
        keys.append(Intersentence(data).key)
    assert keys[0][0] == keys[1][0]
    assert keys[0][2] != keys[1][2]


def test_a_masked_model_without_a_head_is_refused_in_one_line(lab, clusters, tmp_path, capfd):
    with pytest.raises(SystemExit):
        judge(lab / "model", clusters)
    lines = [line for line in capfd.readouterr().err.splitlines() if "biaslab: error:" in line]
    assert len(lines) == 1
    assert "trained next-sentence head" in lines[0]
    assert "lacks bert.pooler.dense.bias" in lines[0]
    tokenizer = bpe_tokenizer()
    make_model("roberta", len(tokenizer)).save_pretrained(tmp_path / "roberta")
    tokenizer.save_pretrained(tmp_path / "roberta")
    with pytest.raises(InputError, match=r"`model_name` .* lacks an architecture with such a head"):
        load_next_sentence_head(str(tmp_path / "roberta"))


def test_other_files_and_options_are_refused(pretrained, tmp_path, workdir):
    path = write(tmp_path / "mine.json")
    records = json.loads(path.read_text())
    records["data"]["intersentence"][4]["context"] = "the girl " * 40
    path.write_text(json.dumps(records))
    with pytest.raises(InputError, match=r"at most 64 tokens, .* the cluster 'c4' of .*mine\.json has \d+"):
        IntersentenceDataModule(str(pretrained), path=str(path)).setup("test")
    records["data"]["intersentence"][4]["context"] = ""
    path.write_text(json.dumps(records))
    with pytest.raises(InputError, match="the intersentence cluster 'c4' lacks a text under 'context'"):
        IntersentenceDataModule(str(pretrained), path=str(path)).setup("test")
    del records["data"]["intersentence"]
    path.write_text(json.dumps(records))
    with pytest.raises(InputError, match="lacks a list of clusters under 'data', 'intersentence'"):
        IntersentenceDataModule(str(pretrained), path=str(path)).setup("test")
    for option in ({"split": "train"}, {"terms": "dev"}, {"bos": "none"}, {"limit": 0}, {"every": 0}):
        with pytest.raises(InputError, match=f"`{next(iter(option))}` is expected"):
            IntersentenceDataModule(**option)


def test_batches_were_made_for_a_kind_of_model(pretrained, clusters, tmp_path):
    _, data = asked(pretrained, clusters)
    with pytest.raises(InputError, match="`model` is expected to be a masked language model"):
        score_continuations(make_model("gpt2"), data.batches[0], data.head)


def test_there_are_no_slots_for_suppression(pretrained, clusters):
    (measure,) = measures_of(["stereoset-intersentence"], str(pretrained), path=str(clusters))
    model, tokenizer = load_model(str(pretrained))
    arms = [Arm("untouched"), Arm("chosen", [Treatment(NEURONS, positions="slot")])]
    with pytest.raises(InputError, match='`positions` is expected to be "all" if layers run outside'):
        evaluate(model, tokenizer, arms, [measure])


def test_some_clusters(pretrained, clusters):
    _, data = asked(pretrained, clusters, limit=7, every=3)
    assert [cluster.id for cluster in data.clusters] == ["c0", "c3", "c6"]
    for terms in ("find", "choose"):
        wanted = [
            cluster.id for cluster in read_clusters(clusters, "intersentence") if half_of(cluster.target) == terms
        ]
        assert [cluster.id for cluster in asked(pretrained, clusters, terms=terms)[1].clusters] == wanted != []


def run(folder, **options):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    task = StereoSetEvaluation(f"{folder}/model")
    data = IntersentenceDataModule(f"{folder}/model", path=f"{folder}/mine.json", tokens_per_batch=1)
    Trainer(accelerator="cpu", logger=False, **quiet, **options).test(task, datamodule=data, verbose=False)
    return task, data


def _process(rank, port, folder):
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    task, data = run(folder, devices=2, strategy="ddp")
    torch.save((task.evaluation.scores, task.evaluation.examples, len(data.batches)), Path(folder, f"{rank}.pt"))


def test_two_ranks_count_each_cluster_once(pretrained, tmp_path):
    (tmp_path / "model").symlink_to(pretrained)
    write(tmp_path / "mine.json")
    run_two_processes(_process, tmp_path)
    task, _ = run(tmp_path, devices=1)
    for rank in range(2):
        scores, examples, batches = torch.load(tmp_path / f"{rank}.pt")
        assert batches % 2  # so that a batch is repeated
        assert torch.equal(scores, task.evaluation.scores)
        assert torch.equal(examples, task.evaluation.examples)


@pytest.mark.assets
def test_the_real_clusters_can_be_asked(asset):
    """All of both splits, of a causal model's tokenizer: no context and sentence merge at their border."""
    asset("stereoset")
    asset("smollm2-135m")
    for split, count in (("dev", 2123), ("test", 6374)):
        data = IntersentenceDataModule(split=split)
        data.setup("test")
        assert len(data.clusters) == count
        assert sum(len(batch["examples"]) for batch in data.batches) == count
        assert all((batch["tokens"] > 0).all() for batch in data.batches)
