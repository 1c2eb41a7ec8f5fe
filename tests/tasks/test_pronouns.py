"""WinoBias and Winogender through the command line, with suppressed neurons, and on two ranks."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from conftest import bpe_tokenizer, main, make_model, run_two_processes
from pronoun_files import winobias, winogender
from pytorch_lightning import Trainer
from reference import pronouns as reference

from biaslab.data.winobias import WinoBiasDataModule
from biaslab.data.winogender import WinogenderDataModule
from biaslab.evaluation.findings import Findings
from biaslab.metrics import winobias as winobias_metrics
from biaslab.metrics import winogender as winogender_metrics
from biaslab.models.loading import load_model
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.tasks.evaluation import BenchmarkEvaluation

CONFIGS = Path(__file__).parents[2] / "configs"
QUIET = ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.enable_progress_bar", "false"]
FILES = {"winobias": winobias, "winogender": winogender}
NAMES = {"winobias": winobias_metrics.NAMES, "winogender": winogender_metrics.NAMES}
SCOPES = {"winobias": ["overall", "type 1", "type 2"], "winogender": ["overall", "occupation", "participant"]}


@pytest.fixture(params=FILES)
def benchmark(request, workdir):
    FILES[request.param](workdir / "files")
    return request.param


def judge(benchmark, model, *more):
    """Run the shipped config; return what the newest run wrote."""
    config = ["-c", str(CONFIGS / f"{benchmark}.yaml"), "--model.model_name", str(model), "--data.path", "files"]
    main(["test", *config, *QUIET, *more])
    return Findings.load(max(Path(f"runs/{benchmark}").glob(f"version_*/{benchmark}.json")))


def values(findings, benchmark, scope="overall"):
    return [findings.get("model", metric, scope).figure.value for metric in NAMES[benchmark]]


def expected(benchmark, model, tokenizer, pairs):
    scores = reference.scores(model, tokenizer, [[pair.pronouns.text(column) for column in range(2)] for pair in pairs])
    names = [pair.occupation for pair in pairs]
    if benchmark == "winobias":
        return reference.winobias(scores, names, [pair.stereotype == "male" for pair in pairs])
    return reference.winogender(scores, names, [pair.female_share for pair in pairs])


@pytest.mark.parametrize("causal", [False, True])
def test_the_shipped_config_agrees_with_the_loop(lab, benchmark, tmp_path, causal, capsys):
    folder = lab / "model"
    if causal:
        folder, tokenizer = tmp_path / "causal", bpe_tokenizer(masked=False)
        make_model("gpt2", len(tokenizer)).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    findings = judge(benchmark, folder)
    module = {"winobias": WinoBiasDataModule, "winogender": WinogenderDataModule}[benchmark](str(folder), path="files")
    module.setup("test")
    assert values(findings, benchmark) == pytest.approx(
        expected(benchmark, *load_model(str(folder)), module.pairs), abs=5e-3
    )
    for metric in NAMES[benchmark]:
        assert findings.scopes(metric) == SCOPES[benchmark]
        for scope in SCOPES[benchmark]:
            figure = findings.get("model", metric, scope).figure
            assert figure.low <= figure.value <= figure.high
    assert findings.facts[f"{benchmark}_pairs"] == findings.facts["scored"]["overall"] == len(module.pairs)
    assert f"version_0/{benchmark}.json" in capsys.readouterr().out


def test_suppressed_neurons_make_a_difference(lab, benchmark):
    neurons = NeuronSet([(layer, index) for layer in range(3) for index in range(40)], shape=(3, 48))
    neurons.save("neurons.json")
    before = judge(benchmark, lab / "model")
    suppressed = ["-c", str(CONFIGS / "suppress.yaml"), "--trainer.callbacks.neurons", "neurons.json"]
    assert values(judge(benchmark, lab / "model", *suppressed), benchmark) != values(before, benchmark)


@pytest.mark.parametrize(
    ("option", "message"),
    [("--data.path=nowhere", "can't be read"), ("--data.every=100", "select more")],
)
def test_what_is_wrong_is_one_line(lab, benchmark, option, message, capfd):
    with pytest.raises(SystemExit):
        judge(benchmark, lab / "model", option)
    lines = [line for line in capfd.readouterr().err.splitlines() if "biaslab: error:" in line]
    assert len(lines) == 1
    assert "`path` is expected to" in lines[0]
    assert message in lines[0]


def trainer(**options):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return Trainer(accelerator="cpu", logger=False, **quiet, **options)


def modules(folder):
    """Both data modules, each pair alone in a batch."""
    options = {"model_name": f"{folder}/model", "tokens_per_batch": 1}
    bias = WinoBiasDataModule(path=f"{folder}/b", limit=11, **options)
    return [bias, WinogenderDataModule(path=f"{folder}/g", limit=3, **options)]


def _process(rank, port, folder):
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    for data in modules(folder):
        task = BenchmarkEvaluation(f"{folder}/model")
        trainer(devices=2, strategy="ddp").test(task, datamodule=data, verbose=False)
        torch.save(tuple(task.evaluation), Path(folder, f"{type(data).__name__}{rank}.pt"))


def test_two_ranks_count_each_pair_once(lab, tmp_path):
    (tmp_path / "model").symlink_to(lab / "model")
    slip = winobias(tmp_path / "b") / "anti_stereotyped_type2.txt.test"
    slip.write_text(slip.read_text().replace("loves", "hates", 1))  # 21 pairs are left, so that a batch is repeated
    winogender(tmp_path / "g")
    run_two_processes(_process, tmp_path)
    for data in modules(tmp_path):
        task = BenchmarkEvaluation(str(lab / "model"))
        trainer(devices=1).test(task, datamodule=data, verbose=False)
        assert len(data.batches) in (12, 21)
        for rank in range(2):
            scores, examples = torch.load(tmp_path / f"{type(data).__name__}{rank}.pt")
            assert torch.equal(examples, torch.arange(len(data.pairs)))
            assert torch.equal(scores, task.evaluation.scores)
