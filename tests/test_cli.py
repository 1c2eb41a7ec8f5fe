"""Through the command line: every shipped config, `debias`, and what bad input prints."""

import errno
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
import yaml
from conftest import bpe_tokenizer, main, make_model, wordpiece_tokenizer
from tensorboard.summary.writer.event_file_writer import _AsyncWriterThread
from transformers import BertConfig, BertModel

from biaslab import cli
from biaslab.__main__ import COMMANDS
from biaslab.commands.configs import config_file
from biaslab.data.knowledge import FACTS
from biaslab.errors import InputError
from biaslab.evaluation.findings import Findings
from biaslab.neurons.neuron_set import NeuronSet

CONFIGS = Path(__file__).parents[1] / "configs"
QUIET = ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.enable_progress_bar", "false"]


def attribute(lab: Path, *more: str) -> None:
    main(
        [
            "predict", "-c", str(CONFIGS / "attribute.yaml"), "--model.model_name", str(lab / "model"),
            "--model.selection", "ranked", "--model.source", "prompts", "--model.steps", "2",
            "--data.dimensions", "[gender, age]", "--data.modifiers", "1", "--data.contrast", "null", *QUIET, *more,
        ]
    )  # fmt: skip


def judge(lab: Path, *more: str) -> None:
    config = ["-c", str(CONFIGS / "stereoset.yaml")]
    model = ["--model.model_name", str(lab / "model"), "--data.path", str(lab / "stereoset.json")]
    main(["test", *config, *model, *QUIET, *more])


def judged(workdir: Path, number: int) -> Findings:
    return Findings.load(workdir / f"runs/stereoset/version_{number}/stereoset.json")


def test_predict_then_test_with_suppression(lab, workdir, capsys):
    attribute(lab)
    run = workdir / "runs" / "attribute" / "version_0"
    neurons = NeuronSet.load(run / "neurons.json")
    assert len(neurons) == round(0.02 * 3 * 48)
    assert neurons.provenance["settings"]["steps"] == 2
    assert 0 <= neurons.provenance["data"]["silent"] <= 2 * neurons.provenance["data"]["prompts"]
    assert set(neurons.subsets) >= {"gender", "gender/female-male", "age/young-old"}
    assert (run / "config.yaml").exists()
    assert list(run.glob("events.out.tfevents.*"))
    assert "residual" in capsys.readouterr().out

    judge(lab)
    suppress = ["-c", str(CONFIGS / "suppress.yaml"), "--trainer.callbacks.neurons", str(run / "neurons.json")]
    judge(lab, *suppress)
    first, second = (judged(workdir, number) for number in (0, 1))
    assert set(first.scopes("SS")) == {"overall", "gender", "profession", "race"}
    figure = first.get("model", "SS").figure
    assert figure.low <= figure.value <= figure.high
    ratio = first.get("model", "SS log-ratio", "gender").figure
    assert ratio.low <= ratio.value <= ratio.high
    assert "overall/SS log-ratio" in capsys.readouterr().out
    assert second.estimates.keys() == first.estimates.keys()
    assert "NeuronSuppression" in (workdir / "runs/stereoset/version_1/config.yaml").read_text()


def test_second_run_never_overwrites_the_first(lab, workdir):
    attribute(lab)
    content = (workdir / "runs/attribute/version_0/neurons.json").read_text()
    attribute(lab)
    assert (workdir / "runs/attribute/version_0/neurons.json").read_text() == content
    assert (workdir / "runs/attribute/version_1/neurons.json").read_text() == content


def test_domain_weights_choose_by_domain(lab, workdir):
    dimensions = ["--data.dimensions", "[gender, ethnicity]", "--data.kinds", "[negative]", "--model.count", "4"]
    for number, weights in enumerate(("null", "{gender: 1.0}", "{race: 1.0}", "{gender: 1.0, race: 0.0}")):
        attribute(lab, *dimensions, "--model.domain_weights", weights)
        neurons = NeuronSet.load(workdir / f"runs/attribute/version_{number}/neurons.json")
        if number in (1, 3):
            assert set(neurons) == set(neurons.subsets["gender"])
        if number == 2:
            assert set(neurons) == set(neurons.subsets["ethnicity"]) != set(neurons.subsets["gender"])


def test_union_ig(lab, workdir):
    model = ["--model.model_name", str(lab / "model")]
    main(["predict", "-c", str(CONFIGS / "union_ig.yaml"), *model, "--data.dimensions", "[gender, age]", *QUIET])
    neurons = NeuronSet.load(workdir / "runs/union_ig/version_0/neurons.json")
    single = {"gender/female", "gender/male", "age/young", "age/old", "age/teenage", "age/middle-aged"}
    assert set(neurons.subsets) == {"gender", "age", *single}
    assert set(neurons) == set().union(*(set(neurons.subsets[name]) for name in single))


TRAINED = [f"{name}{suffix}" for name in ("dpce", "cda", "cda_control", "autodebias") for suffix in ("", "_small")]


@pytest.mark.parametrize("name", TRAINED)
def test_fit_then_test_by_checkpoint_then_bake(lab, workdir, name):
    """The checkpoint says which class it is of; what it is baked into gives the same figures."""
    text = str(lab / "text.txt")
    (workdir / "prompts.txt").write_text("is a\nhates the\n")
    source = {
        "dpce": ["--data.sources", f"[{text}]", "--data.limit", "32"],
        "cda": ["--data.source", text, "--data.limit", "32"],
        "autodebias": ["--data.prompts", "prompts.txt"],
    }[name.partition("_")[0]]
    few = ["--trainer.max_epochs", "1", "--trainer.log_every_n_steps", "1"]
    model = ["--model.model_name", str(lab / "model"), "--model.lr", "0.001"]
    main(["fit", "-c", str(CONFIGS / f"{name}.yaml"), *model, *source, *few, *QUIET])
    run = workdir / "runs" / name / "version_0"
    assert list(run.glob("events.out.tfevents.*"))
    checkpoint = run / "checkpoints" / "last.ckpt"
    benchmark = ["-c", str(CONFIGS / "stereoset.yaml"), "--data.path", str(lab / "stereoset.json"), *QUIET]
    main(["test", *benchmark, "--ckpt_path", str(checkpoint), "--model.model_name", str(lab / "model")])
    main(["bake", "--ckpt_path", str(checkpoint), "--output", "baked"])
    main(["test", *benchmark, "--model.model_name", str(workdir / "baked")])
    main(["test", *benchmark, "--model.model_name", str(lab / "model")])
    trained, baked, untrained = (judged(workdir, number) for number in range(3))
    assert trained.lines() == baked.lines()
    assert "baked" in (workdir / "runs/stereoset/version_1/config.yaml").read_text()
    assert untrained.estimates.keys() == trained.estimates.keys()


@pytest.mark.parametrize("selection", ["fisher", "balanced"])
def test_effects_at_all_positions(lab, workdir, tiny_cache, selection):
    options = ["--model.model_name", str(lab / "model"), "--model.steps", "2", "--model.count", "4"]
    data = ["--data.dimensions", "[gender]", "--data.modifiers", "1", "--data.contrast_limit", "8"]
    main(["predict", "-c", str(CONFIGS / f"{selection}.yaml"), *options, *data, *QUIET])
    run = workdir / f"runs/{selection}/version_0"
    neurons = NeuronSet.load(run / "neurons.json")
    assert (len(neurons), neurons.values.shape) == (4, (3, 48))
    assert (neurons.strengths is None) == (selection == "fisher")
    assert (run / "effects.safetensors").exists()
    judge(lab, "-c", str(CONFIGS / "suppress.yaml"), "--trainer.callbacks.neurons", str(run / "neurons.json"))
    suppressed = judged(workdir, 0)
    judge(lab, "-c", str(CONFIGS / "suppress.yaml"), "--trainer.callbacks.neurons", str(plain(neurons, run)))
    assert suppressed.estimates != judged(workdir, 1).estimates


def plain(neurons: NeuronSet, folder: Path) -> Path:
    """The same neurons in a file without values: suppressed to 0."""
    neurons.with_values(None).save(folder / "plain.json")
    return folder / "plain.json"


@pytest.mark.parametrize("selection", ["paper", "guarded"])
def test_other_selections(lab, workdir, selection):
    attribute(
        lab, "--model.selection", selection, "--data.contrast", str(lab / "text.txt"), "--data.contrast_limit", "20"
    )
    neurons = NeuronSet.load(workdir / "runs/attribute/version_0/neurons.json")
    assert neurons.provenance["settings"]["selection"] == selection
    if selection == "paper":
        assert 0 < neurons.provenance["settings"]["shares_used"]["gender/female-male"]["negative"] <= 1


def debias(lab: Path, *more: str) -> None:
    main(
        [
            "debias", "--model", str(lab / "model"), "--source", "prompts", "--contrast", str(lab / "text.txt"),
            "--text", str(lab / "text.txt"), "--stereoset", str(lab / "stereoset.json"),
            "--dimensions", "[gender, age]",
            "--modifiers", "1", "--steps", "2", "--seeds", "2", "--sentences", "3", "--count", "3", *more,
        ]
    )  # fmt: skip


def test_debias_writes_and_prints_everything(lab, workdir, capsys):
    debias(lab)
    run = workdir / "runs" / "debias" / "version_0"
    names = {path.name for path in run.iterdir() if not path.name.startswith("events")}
    assert names == {
        "results.json",
        "scores.safetensors",
        "effects.safetensors",
        "table.csv",
        "gaps.csv",
        "neurons.json",
        "neurons_paper.json",
        "cards.json",
        "config.yaml",
        "hparams.yaml",
    }
    assert list(run.glob("events.*"))
    findings = Findings.load(run / "results.json")
    judged_rows = ["untouched", "BNS, balanced", "BNS, balanced ×½", "BNS, paper", "random, 2 seeds"]
    assert [row.name for row in findings.rows_of("SS")] == judged_rows
    base = findings.get("untouched", "SS")
    assert base.change == (0, 0, 0)
    assert base.spread is None
    assert findings.get("random, 2 seeds", "SS").spread is not None
    pairs = ["gender/female-male", "age/young-old", "age/old-teenage", "age/teenage-middle-aged"]
    assert set(findings.scopes("gap")) == {"overall", "gender", "age", *pairs}
    assert findings.get("untouched", "perplexity").figure.value > 1
    assert findings.get("random, 2 seeds", "perplexity").spread is None  # of one seed, as the table says
    assert [row.name for row in findings.rows_of("knowledge")] == judged_rows
    assert findings.scopes("knowledge") == ["overall", *sorted({fact.dimension for fact in FACTS})]
    assert 0 < findings.facts["knowledge_sentences"] <= len(FACTS)
    neurons = findings.facts["neurons"]
    assert sum(neurons["by_layer"].values()) == neurons["count"] == 3
    assert yaml.safe_load((run / "config.yaml").read_text())["steps"] == 2
    printed = capsys.readouterr().out
    for word in (
        "untouched",
        "BNS, balanced",
        "random, 2 seeds",
        "  female-male",
        "  old-teenage",
        "residual",
        "layer",
        "one seed",
        f"knowledge: % of {findings.facts['knowledge_sentences']} sentences",
        "SS log-ratio in nats (ideal: 0):",
        "{:.3f} [{:.3f}, {:.3f}]".format(*findings.get("BNS, balanced", "SS log-ratio").figure),
        "{:+.3f} [{:+.3f}, {:+.3f}]".format(*findings.get("BNS, balanced", "SS log-ratio").change),
    ):
        assert word in printed
    assert "runs/debias/version_0" in printed
    assert max(len(line) for line in printed.splitlines() if "|" not in line) <= 80

    debias(lab)
    assert (workdir / "runs/debias/version_1/results.json").exists()


def test_debias_at_the_slot_only(lab, workdir):
    """Where neurons are suppressed makes a difference to each of the measurements."""
    for positions in ("all", "slot"):
        debias(lab, "--positions", positions, "--count", "40")  # so that some lie below the last layer
    everywhere, slot = (Findings.load(workdir / f"runs/debias/version_{i}/results.json") for i in (0, 1))
    for metric in ("gap", "perplexity", "knowledge"):
        assert everywhere.get("BNS, balanced", metric).change != slot.get("BNS, balanced", metric).change


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_debias_of_a_causal_model(lab, workdir, tmp_path, model_type):
    tokenizer = bpe_tokenizer(masked=False)
    make_model(model_type, len(tokenizer)).save_pretrained(tmp_path / "causal")
    tokenizer.save_pretrained(tmp_path / "causal")
    debias(lab, "--model", str(tmp_path / "causal"), "--dimensions", "[gender]")
    findings = Findings.load(workdir / "runs/debias/version_0/results.json")
    assert findings.facts["neurons"]["count"] == 3
    assert "gender/female-male" in findings.scopes("gap")


@pytest.mark.assets
def test_minilm_mlm_reaches_the_lms_of_bert(workdir, asset):
    """Of BERT-base-cased, by the StereoSet authors' own scores; on the whole dev set."""
    asset("minilm-encoder"), asset("stereoset")
    main(["test", "-c", str(CONFIGS / "stereoset.yaml"), *QUIET])
    assert judged(workdir, 0).get("model", "LMS").figure.value >= 83


def corpus_config(lab: Path) -> list[str]:
    return ["--data.sources", f"[{lab / 'text.txt'}]", "--trainer.max_steps", "2", "--trainer.val_check_interval", "1"]


@pytest.mark.assets
def test_fit_trains_the_adapter(lab, workdir, asset):
    asset("minilm-encoder")
    from biaslab.models import minilm as adapter

    precision = ["--trainer.precision", "32-true", "--data.tokens_per_batch", "128", "--model.rank", "2"]
    main(["fit", "-c", str(CONFIGS / "minilm_mlm.yaml"), *corpus_config(lab), *precision, *QUIET])
    path = workdir / "runs/minilm_mlm/version_0/adapter.safetensors"
    model, _ = adapter.load(path)
    assert type(model).__name__ == "BertForMaskedLM"
    assert path.stat().st_size < 8e6


def bad(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def headless(folder: Path) -> str:
    config = BertConfig(vocab_size=99, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2)
    BertModel(config).save_pretrained(folder)
    wordpiece_tokenizer().save_pretrained(folder)
    return str(folder)


def albert(folder: Path) -> str:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "albert"}')
    wordpiece_tokenizer().save_pretrained(folder)
    return str(folder)


def foreign(path: Path, lab: Path) -> str:
    content = json.loads((lab / "stereoset.json").read_text())
    del content["data"]["intrasentence"][3]["sentences"]
    return bad(path, json.dumps(content))


def two_slots(path: Path) -> str:
    return bad(path, json.dumps([[["[MASK] is [MASK].", "female", "x"], ["a [MASK].", "male", "x"]]]))


# What is run, and what the one line must say: the argument, what was expected, what came.
BAD: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "unknown model": (lambda lab, tmp: debias(lab, "--model", "no-such-model"), "`model_name`.*'no-such-model'"),
    "no head": (lambda lab, tmp: debias(lab, "--model", headless(tmp / "m")), r"`model_name`.*lacks cls\.predictions"),
    "albert": (lambda lab, tmp: debias(lab, "--model", albert(tmp / "o")), "`model_name`.*'albert'"),
    "unknown asset": (lambda lab, tmp: main(["fetch", "stereoste"]), "`name`.*'stereoste'"),
    "unknown command": (lambda lab, tmp: main(["debais"]), "`COMMAND`.*'debais'"),
    "truncated StereoSet": (
        lambda lab, tmp: debias(lab, "--stereoset", bad(tmp / "s.json", (lab / "stereoset.json").read_text()[:900])),
        "`path`.*s.json can't be read or is truncated",
    ),
    "foreign StereoSet": (
        lambda lab, tmp: debias(lab, "--stereoset", foreign(tmp / "s.json", lab)),
        "cluster 'c3' lacks a list of sentences",
    ),
    "malformed neurons": (
        lambda lab, tmp: judge(
            lab, "-c", str(CONFIGS / "suppress.yaml"), "--trainer.callbacks.neurons", bad(tmp / "n.json", "[]")
        ),
        "`neurons` is expected",
    ),
    "no neurons": (
        lambda lab, tmp: judge(lab, "-c", str(CONFIGS / "suppress.yaml")),
        "--trainer.callbacks.neurons PATH",
    ),
    "two slots": (
        lambda lab, tmp: attribute(lab, "--data.path", two_slots(tmp / "p.json")),
        "`prompt`.*one slot.*has 2",
    ),
    "no pair left": (
        lambda lab, tmp: attribute(lab, "--data.dimensions", "[age]", "--data.pairs", "{age: [[老, old]]}"),
        "`pairs`.*age/老-old: '老'",
    ),
    "no steps": (lambda lab, tmp: attribute(lab, "--model.steps", "0"), "`steps`.*positive integer but got 0"),
    "threshold": (lambda lab, tmp: attribute(lab, "--model.threshold", "1.5"), r"`threshold`.*\(0, 1\] but got 1.5"),
    "no contrast set": (
        lambda lab, tmp: attribute(lab, "--model.selection", "guarded"),
        "`contrast` is expected to name a contrast set",
    ),
    "count": (lambda lab, tmp: attribute(lab, "--model.count", "145"), "`count`.*144 neurons but got 145"),
    "source": (
        lambda lab, tmp: attribute(lab, "--model.source", "both", "--data.contrast", str(lab / "text.txt")),
        '`contrast` is expected to include "stereoset"',
    ),
    "guard": (
        lambda lab, tmp: attribute(lab, "--model.guard", "[bold]", "--data.contrast", str(lab / "text.txt")),
        "`guard` is expected to be one or more of .*text.txt but got bold",
    ),
    "domain weights": (
        lambda lab, tmp: attribute(lab, "--model.domain_weights", "{age: 1.0}"),
        "`domain_weights` is expected to be one or more of gender, .* but got age",
    ),
    "domain without prompts": (
        lambda lab, tmp: attribute(lab, "--model.domain_weights", "{race: 1.0}"),
        "`domain_weights`.*ethnicity is not among the `dimensions`",
    ),
    "no prompts": (
        lambda lab, tmp: main(
            ["fit", "-c", str(CONFIGS / "autodebias.yaml"), "--model.model_name", str(lab / "model")]
        ),
        "`prompts`.*biaslab search-prompts",
    ),
    "configuration": (
        lambda lab, tmp: main(["test", "-c", "stereoste"]),
        "`config`.*a shipped configuration \\(attribute, .*'stereoste'",
    ),
    "configurations": (lambda lab, tmp: main(["test", "-c", "*.yaml"]), r"`config`.*\(attribute, .*'\*\.yaml'"),
    "checkpoint": (
        lambda lab, tmp: judge(lab, "--ckpt_path", bad(tmp / "c.ckpt", "text")),
        "`ckpt_path` is expected to be a Lightning checkpoint",
    ),
    "row": (
        lambda lab, tmp: main(["table", "--rows", "[bsn]"]),
        "`rows` is expected to be one or more of base, .* but got bsn",
    ),
    "output": (lambda lab, tmp: debias(lab, "--output", bad(tmp / "file", "") + "/x"), "`output`.*writable folder"),
    "output of a job": (
        lambda lab, tmp: judge(lab, "--trainer.logger.save_dir", bad(tmp / "file", "") + "/x"),
        "`output`.*writable folder",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_one_line_and_exit_code_2(lab, workdir, capfd, what):
    run, message = BAD[what]
    with pytest.raises(SystemExit) as exit_info:
        run(lab, workdir)
    assert exit_info.value.code == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if "biaslab: error:" in line]
    assert len(lines) == 1
    assert re.search(message, lines[0]), lines[0]


def test_neurons_of_another_model(lab, workdir, tmp_path, capfd):
    attribute(lab)
    other = tmp_path / "other"
    make_model("bert", len(wordpiece_tokenizer()), seed=5).save_pretrained(other)
    wordpiece_tokenizer().save_pretrained(other)
    neurons = str(workdir / "runs/attribute/version_0/neurons.json")
    with pytest.raises(SystemExit):
        judge(
            lab, "-c", str(CONFIGS / "suppress.yaml"), "--trainer.callbacks.neurons", neurons,
            "--model.model_name", str(other),
        )  # fmt: skip
    assert "other weights" in capfd.readouterr().err


def checkpoint(path: Path, **settings: object) -> str:
    torch.save({"state_dict": {}, "hyper_parameters": settings, "pytorch-lightning_version": "2.5.0"}, path)
    return str(path)


@pytest.fixture
def chosen_settings(monkeypatch):
    """The model's and the data's settings, by which a run would have been made."""
    settings: dict = {}

    def stop(cli):
        config = cli.config[cli.subcommand]
        settings.update(model=config.model.init_args.as_dict(), data=config.data.init_args.as_dict())
        raise SystemExit(0)

    monkeypatch.setattr("biaslab.commands.lightning.BiaslabCLI.instantiate_classes", stop)
    return settings


DPCE = "biaslab.tasks.baselines.dpce.DPCE"


@pytest.mark.parametrize("job", ["test", "predict", "validate", "fit"])
@pytest.mark.parametrize("trusted", [False, True])
def test_a_checkpoint_sets_settings_but_no_trust(lab, workdir, chosen_settings, job, trusted):
    """B2: Lightning merges a checkpoint's hyper-parameters over the command line."""
    model = str(lab / "model")
    evil = checkpoint(workdir / "c.ckpt", _class_path=DPCE, model_name=model, trust_remote_code=not trusted, alpha=0.7)
    options = ["--model.model_name", model, *(["--model.trust_remote_code", "true"] if trusted else [])]
    with pytest.raises(SystemExit):
        main([job, "-c", "stereoset", *options, "--ckpt_path", evil])
    assert chosen_settings["model"]["alpha"] == 0.7
    assert chosen_settings["model"]["model_name"] == chosen_settings["data"]["model_name"] == model
    assert chosen_settings["model"]["trust_remote_code"] is chosen_settings["data"]["trust_remote_code"] is trusted


@pytest.mark.parametrize("settings", [{}, {"_class_path": DPCE, "alpha": 0.7}])
def test_a_checkpoint_that_names_no_model_is_for_the_one_that_is_asked_for(workdir, chosen_settings, settings):
    with pytest.raises(SystemExit):
        main(["test", "-c", "stereoset", "--ckpt_path", checkpoint(workdir / "c.ckpt", **settings)])
    assert chosen_settings["model"]["model_name"] == "minilm-mlm"
    assert chosen_settings["model"].get("alpha") == settings.get("alpha")


@pytest.mark.parametrize("as_class", [True, False])
def test_a_checkpoint_of_another_model_is_refused(workdir, chosen_settings, capfd, as_class):
    """B2: so that no file makes the program download and run what it names."""
    settings = {"model_name": "evil/repo", "trust_remote_code": True}
    settings |= {"_class_path": DPCE} if as_class else {"init_args": settings, "class_path": DPCE}
    with pytest.raises(SystemExit) as exit_info:
        main(["test", "-c", "stereoset", "--ckpt_path", checkpoint(workdir / "evil.ckpt", **settings)])
    assert exit_info.value.code == 2
    assert "If you trust it, give --model.model_name evil/repo" in capfd.readouterr().err
    assert not chosen_settings


@pytest.mark.parametrize("key", ["_class_path", "class_path"])
def test_a_checkpoint_names_no_foreign_class(workdir, chosen_settings, monkeypatch, capfd, key):
    """B2: nor is a module imported because a file names it."""
    monkeypatch.syspath_prepend(str(workdir))
    (workdir / "foreign_code.py").write_text("from pathlib import Path\nPath('run').touch()\n")
    settings = {key: "foreign_code.Evil", "model_name": "minilm-mlm"}
    with pytest.raises(SystemExit):
        main(["test", "-c", "stereoset", "--ckpt_path", checkpoint(workdir / "evil.ckpt", **settings)])
    assert not (workdir / "run").exists()
    assert ("one of 'foreign_code.Evil'" in capfd.readouterr().err) is (key == "_class_path")


@pytest.mark.parametrize("command", ["predict", "test", "fit", "validate"])
@pytest.mark.parametrize("more", [[], ["--data.modifiers", "3"]])
def test_a_lightning_command_needs_a_configuration(capsys, command, more):
    with pytest.raises(SystemExit, match="2"):
        main([command, *more])
    assert f"none was given. Choose one, for example `biaslab {command} -c " in capsys.readouterr().err


def test_the_configuration_is_printed_without_one_given(capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["predict", "--print_config"])
    assert exit_info.value.code in (0, None)
    assert "trainer:" in capsys.readouterr().out


def test_configurations_are_found_from_any_folder(workdir):
    assert config_file("attribute") == config_file("configs/attribute.yaml") == config_file("attribute.yaml")
    assert config_file("attribute").read_text() == (CONFIGS / "attribute.yaml").read_text()
    for wrong in ("elsewhere/attribute.yaml", "/configs/attribute.yaml", "attribut", ""):
        with pytest.raises(InputError, match=r"`config` .* \(attribute, .*union_ig, winobias, winogender\)"):
            config_file(wrong)
    with pytest.raises(InputError, match=r"`configs` is expected to be a folder with attribute\.yaml"):
        config_file("attribute", "mine")
    for folder in (workdir / "configs", workdir / "mine"):
        folder.mkdir()
        (folder / "attribute.yaml").touch()
    assert config_file("attribute") == Path("configs/attribute.yaml")  # a file that is there goes first
    assert config_file("attribute", "mine") == Path("mine/attribute.yaml")
    with pytest.raises(InputError, match="`config`"):
        config_file("elsewhere/attribute.yaml")


@pytest.mark.parametrize("config", [["-c", "stereoset"], ["--config=configs/stereoset.yaml"], ["-c", "stereoset.yaml"]])
def test_a_shipped_configuration_by_name(workdir, chosen_settings, config):
    with pytest.raises(SystemExit):
        main(["test", *config, "--config", "{data: {init_args: {limit: 5}}}"])
    assert chosen_settings["data"]["split"] == "dev"
    assert chosen_settings["data"]["limit"] == 5


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "secret.json"),
            "A readable file is expected .*secret.json",
        ),
        (
            NotADirectoryError(errno.ENOTDIR, "Not a directory", "model/config.json"),
            "A readable file is expected .*model",
        ),
        (OSError(errno.ENOSPC, "No space left on device", "runs/x"), "`output` is expected to be a writable folder"),
    ],
    ids=["reading", "reading below a file", "no space"],
)
def test_only_what_writes_is_said_of_the_output(workdir, monkeypatch, capfd, error, message):
    """B17: what can't be read was reported as an output that can't be written."""
    monkeypatch.setattr("biaslab.__main__.run", Mock(side_effect=error))
    monkeypatch.setattr("os.access", lambda path, mode: "secret" not in str(path))
    with pytest.raises(SystemExit) as exit_info:
        main(["debias"])
    assert exit_info.value.code == 2
    assert re.search(message, capfd.readouterr().err)


def test_a_folder_without_write_permission_is_the_outputs(workdir, monkeypatch, capfd):
    error = PermissionError(errno.EACCES, "Permission denied", str(workdir / "runs" / "new.json"))
    monkeypatch.setattr("biaslab.__main__.run", Mock(side_effect=error))
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(SystemExit):
        main(["debias"])
    assert "`output` is expected" in capfd.readouterr().err


def test_a_cache_that_cannot_be_written_is_not_the_output(workdir, monkeypatch, capfd):
    monkeypatch.setenv("BIASLAB_CACHE", bad(workdir / "file", "") + "/x")
    with pytest.raises(SystemExit):
        main(["fetch", "stereoset"])
    assert "`output`" not in capfd.readouterr().err


def test_other_errors_keep_their_traceback(monkeypatch):
    """B18: a genuine fault that comes up while bad input is handled is no bad input."""

    def fail(command):
        try:
            raise InputError("bad input")
        except InputError:
            raise ValueError("a fault") from None if command == "table" else InputError("bad input")

    def fail_within(command):
        try:
            raise InputError("bad input")
        except InputError:
            int("fault")

    monkeypatch.setattr("biaslab.__main__.run", fail_within)
    with pytest.raises(ValueError, match="invalid literal"):
        main(["debias"])
    monkeypatch.setattr("biaslab.__main__.run", fail)
    with pytest.raises(SystemExit):
        main(["debias"])
    with pytest.raises(ValueError, match="a fault"):
        main(["table"])
    monkeypatch.setattr("biaslab.__main__.run", Mock(side_effect=FileNotFoundError(errno.ENOENT, "gone", "x")))
    with pytest.raises(FileNotFoundError):
        main(["debias"])


def test_only_tensorboards_threads_may_fail_to_write(monkeypatch):
    """B18: its writer's error is reported by the main thread; other threads' must be seen."""
    reports = []
    monkeypatch.setattr(threading, "excepthook", reports.append)

    def hook(thread, error):
        cli.thread_failed(threading.ExceptHookArgs((type(error), error, None, thread)), reports.append)

    writer = _AsyncWriterThread(None, None, 1)
    hook(writer, OSError())
    assert reports == []
    hook(writer, ValueError())
    hook(threading.Thread(), OSError())
    assert [type(report.exc_value) for report in reports] == [ValueError, OSError]


def test_lightning_gives_no_advice_though_it_is_imported_later():
    """Its packages set their loggers to INFO when they are imported."""
    code = """
from biaslab.cli import quiet
quiet()
from pytorch_lightning import Trainer
from lightning_fabric.utilities.rank_zero import rank_zero_info
Trainer(logger=False, enable_checkpointing=False)
rank_zero_info("advice")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


def test_help_is_quick_and_names_every_command():
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "biaslab", "--help"], capture_output=True, text=True, check=True)
    assert time.monotonic() - started < 1.5
    assert all(command in done.stdout for command in COMMANDS)
    assert max(map(len, done.stdout.splitlines())) <= 80


HEAVY = ("torch", "transformers", "pytorch_lightning", "matplotlib", "pandas", "scipy")


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_loads_nothing_heavy(command):
    """What takes seconds; a signature, its docstring and its types need none of it."""
    arguments = [command, "--help"] if command else ["--help"]
    code = f"""import sys
sys.argv = ["biaslab", *{arguments!r}]
from biaslab.__main__ import main
try:
    main()
except SystemExit as end:
    assert not end.code
print(*sorted(set(sys.modules) & set({HEAVY!r})))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *text, heavy = done.stdout.splitlines()
    assert heavy == ""
    assert max(map(len, text)) <= 80 or COMMANDS[command].function  # jsonargparse's own help is as wide as it is
    assert f"biaslab {command}".strip() in text[0]


def test_every_option_of_lightnings_commands(capsys):
    for arguments, words in (
        (["predict", "--help"], ["--help_all", "--plan", "union_ig", "--ckpt_path"]),
        (["test", "--help"], ["--help_all", "stereoset"]),
        (["predict", "--help_all"], ["--trainer.max_epochs", "--plan", "--data.help"]),
        (["test", "--model.help", "StereoSetEvaluation"], ["model_name", "trust_remote_code"]),
    ):
        with suppress(SystemExit):
            main(arguments)
        printed = capsys.readouterr().out
        assert all(word in printed for word in words)
        assert ("--plan" in printed) is (arguments[0] == "predict")


def test_every_command_has_a_function_and_a_summary():
    for name, command in COMMANDS.items():
        if command.function:
            module, _, function = command.function.partition(":")
            called = getattr(import_module(f"biaslab.commands.{module}"), function)
            assert called.__name__ == name.replace("-", "_")
        assert command.summary


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_configs_are_short(config):
    assert len(config.read_text().splitlines()) <= 25
    assert yaml.safe_load(config.read_text())
