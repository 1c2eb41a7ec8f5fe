"""Through the command line: every shipped config, `debias`, and what bad input prints."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import bpe_tokenizer, main, make_model, wordpiece_tokenizer
from transformers import BertConfig, BertModel

from biaslab.__main__ import COMMANDS
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
    folder = workdir / "runs" / "stereoset"
    first, second = (json.loads((folder / f"version_{i}" / "stereoset.json").read_text()) for i in (0, 1))
    assert set(first) == {"overall", "gender", "profession", "race"}
    assert first["overall"]["SS"]["low"] <= first["overall"]["SS"]["value"] <= first["overall"]["SS"]["high"]
    assert second.keys() == first.keys()
    assert "NeuronSuppression" in (folder / "version_1" / "config.yaml").read_text()


def test_second_run_never_overwrites_the_first(lab, workdir):
    attribute(lab)
    content = (workdir / "runs/attribute/version_0/neurons.json").read_text()
    attribute(lab)
    assert (workdir / "runs/attribute/version_0/neurons.json").read_text() == content
    assert (workdir / "runs/attribute/version_1/neurons.json").read_text() == content


def test_domain_weights_choose_by_domain(lab, workdir):
    dimensions = ["--data.dimensions", "[gender, ethnicity]", "--model.count", "4"]
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
    judged = ["-c", str(CONFIGS / "stereoset.yaml"), "--data.path", str(lab / "stereoset.json"), *QUIET]
    main(["test", *judged, "--ckpt_path", str(checkpoint)])
    main(["bake", "--ckpt_path", str(checkpoint), "--output", "baked"])
    main(["test", *judged, "--model.model_name", str(workdir / "baked")])
    main(["test", *judged, "--model.model_name", str(lab / "model")])
    trained, baked, untrained = (
        json.loads((workdir / f"runs/stereoset/version_{number}/stereoset.json").read_text()) for number in range(3)
    )
    assert trained == baked
    assert "baked" in (workdir / "runs/stereoset/version_1/config.yaml").read_text()
    assert untrained.keys() == trained.keys()


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
            "--modifiers", "1", "--steps", "2", "--seeds", "2", "--sentences", "3", *more,
        ]
    )  # fmt: skip


def test_debias_writes_and_prints_everything(lab, workdir, capsys):
    debias(lab)
    run = workdir / "runs" / "debias" / "version_0"
    names = {path.name for path in run.iterdir() if not path.name.startswith("events")}
    assert names == {
        "results.json",
        "scores.safetensors",
        "table.csv",
        "gaps.csv",
        "neurons.json",
        "neurons_paper.json",
        "cards.json",
        "config.yaml",
        "hparams.yaml",
    }
    assert list(run.glob("events.*"))
    results = json.loads((run / "results.json").read_text())
    assert set(results["stereoset"]) == {
        "untouched",
        "BNS, guarded",
        "BNS, guarded ×½",
        "BNS, paper",
        "random, 2 seeds",
    }
    base = results["stereoset"]["untouched"]["overall"]
    assert base["SS"]["change"] == {"value": 0, "low": 0, "high": 0}
    assert base["SS"]["spread"] is None
    assert results["stereoset"]["random, 2 seeds"]["overall"]["SS"]["spread"] is not None
    pairs = ["gender/female-male", "age/young-old", "age/old-teenage", "age/teenage-middle-aged", "mean of the pairs"]
    assert [row["pair"] for row in results["gaps"]] == pairs
    assert results["perplexity"]["untouched"]["value"] > 1
    assert sum(results["neurons"]["by_layer"].values()) == results["neurons"]["count"] == round(0.02 * 3 * 48)
    assert yaml.safe_load((run / "config.yaml").read_text())["steps"] == 2
    printed = capsys.readouterr().out
    for word in (
        "untouched",
        "BNS, guarded",
        "random, 2 seeds",
        "  female-male",
        "  old-teenage",
        "residual",
        "layer",
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
    everywhere, slot = (json.loads((workdir / f"runs/debias/version_{i}/results.json").read_text()) for i in (0, 1))
    assert everywhere["gaps"] != slot["gaps"]
    changes = [result["perplexity"]["BNS, guarded"]["change_percent"]["value"] for result in (everywhere, slot)]
    assert changes[0] != changes[1]


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_debias_of_a_causal_model(lab, workdir, tmp_path, model_type):
    tokenizer = bpe_tokenizer(masked=False)
    make_model(model_type, len(tokenizer)).save_pretrained(tmp_path / "causal")
    tokenizer.save_pretrained(tmp_path / "causal")
    debias(lab, "--model", str(tmp_path / "causal"), "--dimensions", "[gender]")
    results = json.loads((workdir / "runs/debias/version_0/results.json").read_text())
    assert results["neurons"]["count"] == 3
    assert results["gaps"][0]["pair"] == "gender/female-male"


@pytest.mark.assets
def test_minilm_mlm_reaches_the_lms_of_bert(workdir, asset):
    """Of BERT-base-cased, by the StereoSet authors' own scores; on the whole dev set."""
    asset("minilm-encoder"), asset("stereoset")
    main(["test", "-c", str(CONFIGS / "stereoset.yaml"), *QUIET])
    figures = json.loads((workdir / "runs/stereoset/version_0/stereoset.json").read_text())
    assert figures["overall"]["LMS"]["value"] >= 83


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


def opt(folder: Path) -> str:
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "opt"}')
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
    "opt": (lambda lab, tmp: debias(lab, "--model", opt(tmp / "o")), "`model_name`.*'opt'"),
    "unknown asset": (lambda lab, tmp: main(["fetch", "stereoste"]), "`name`.*'stereoste'"),
    "unknown command": (lambda lab, tmp: main(["debais"]), "`COMMAND`.*'debais'"),
    "truncated StereoSet": (
        lambda lab, tmp: debias(lab, "--stereoset", bad(tmp / "s.json", (lab / "stereoset.json").read_text()[:900])),
        "`path`.*s.json can't be read or is cut off",
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
        '`contrast` is expected to have "stereoset"',
    ),
    "guard": (
        lambda lab, tmp: attribute(lab, "--model.guard", "[bold]", "--data.contrast", str(lab / "text.txt")),
        "`guard` is expected to be of .*text.txt but got bold",
    ),
    "domain weights": (
        lambda lab, tmp: attribute(lab, "--model.domain_weights", "{age: 1.0}"),
        "`domain_weights` is expected to be of gender, .* but got age",
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
    "row": (lambda lab, tmp: main(["table", "--rows", "[bsn]"]), "`rows` is expected to be of base, .* but got bsn"),
    "output": (lambda lab, tmp: debias(lab, "--output", bad(tmp / "file", "") + "/x"), "`output`.*can be written"),
    "output of a job": (
        lambda lab, tmp: judge(lab, "--trainer.logger.save_dir", bad(tmp / "file", "") + "/x"),
        "`output`.*can be written",
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


def test_help_is_quick_and_names_every_command():
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "biaslab", "--help"], capture_output=True, text=True, check=True)
    assert time.monotonic() - started < 1.5
    assert all(command in done.stdout for command in COMMANDS)
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_heavy_imports_are_lazy():
    code = "import sys, biaslab, biaslab.__main__; print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_configs_are_short(config):
    assert len(config.read_text().splitlines()) <= 25
    assert yaml.safe_load(config.read_text())
