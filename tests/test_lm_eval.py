"""lm-evaluation-harness asks the hooked model as it asks the baked folder by its own model `hf`."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import bpe_tokenizer, main, make_model, tokenizer_with, wordpiece_tokenizer
from torch import nn

from biaslab.commands.bake import bake
from biaslab.errors import InputError
from biaslab.lm_eval import SuppressedLM
from biaslab.models.loading import fingerprint, load_model
from biaslab.neurons.neuron_set import NeuronSet

NEURONS = [(0, 1), (0, 7), (1, 47), (2, 0), (2, 30), (2, 31)]
STRENGTHS = (1.0, 0.3, -0.7, 0.1, 1.2, 0.9)
HEADS = ("the doctor", "an old man", "a young woman", "the people", "her friend", "a poor boy")
ENDS = (" is rude", " is very kind", " loves the city", " was mean and rude")
TASKS = {
    "choices": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{head}}",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    "text": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    },
    "goes_on": {
        "output_type": "generate_until",
        "doc_to_text": "{{head}}",
        "doc_to_target": "{{choices[answer]}}",
        "generation_kwargs": {"until": ["zzz"], "max_gen_toks": 8},
        "metric_list": [{"metric": "exact_match"}],
    },
}
# what datasets and lm_eval do themselves
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning"
)


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    """A folder with three small tasks, one a kind of request, and their data."""
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [
        {"head": head, "choices": list(ENDS), "answer": number % len(ENDS), "text": f"{head}{ENDS[0]}. " * (4 * number)}
        for number, head in enumerate(HEADS, 1)
    ]
    (folder / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = {"dataset_path": "json", "test_split": "test", "metadata": {"version": 1}}
    kwargs = {"data_files": {"test": str(folder / "data.jsonl")}, "cache_dir": str(tmp_path / "cache")}
    for name, task in TASKS.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"task": name, **data, "dataset_kwargs": kwargs, **task}))
    return folder


def save_model(folder: Path, model_type: str = "gpt2", tokenizer: Any = None, seed: int = 0) -> str:
    tokenizer = tokenizer or bpe_tokenizer(masked=False)
    make_model(model_type, len(tokenizer), seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_neurons(path: Path, model: str, strengths: bool = False, means: bool = False) -> str:
    made_for = {"model": {"name": model, "fingerprint": fingerprint(load_model(model)[0])}}
    neurons = NeuronSet(NEURONS, shape=(3, 48)).with_details(provenance=made_for)
    if strengths:
        neurons = neurons.with_strengths(dict(zip(neurons, STRENGTHS, strict=True)))
    if means:
        neurons = neurons.with_values(np.random.default_rng(0).normal(size=(3, 48)))
    neurons.save(path)
    return str(path)


def answers(tasks: Path, model: Any, batch_size: int = 1, **model_args: Any) -> dict[str, list[Any]]:
    """What a model answered to each request of each task, and the metrics."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    options: dict[str, Any] = {"tasks": list(TASKS), "task_manager": manager, "bootstrap_iters": 0, "device": "cpu"}
    results = simple_evaluate(model, model_args=model_args or None, batch_size=batch_size, **options)
    samples = {name: sorted(results["samples"][name], key=lambda sample: sample["doc_id"]) for name in TASKS}
    return {name: [response[0] for sample in samples[name] for response in sample["resps"]] for name in TASKS}


def numbers(answered: dict[str, list[Any]]) -> torch.Tensor:
    return torch.tensor([likelihood for likelihood, _ in answered["choices"]] + answered["text"], dtype=torch.float64)


@pytest.mark.parametrize(
    ("kind", "factor", "more", "batch_size", "dtype"),
    [
        ("gpt2", 0.0, {}, 1, "float32"),
        ("gpt2", 0.3, {"strengths": True, "means": True}, 4, "float64"),
        ("llama", 2.0, {"strengths": True}, 4, "float64"),  # in float32 a text's sum has an ulp of more than 1e-5
        ("mistral", 0.0, {}, 1, "float32"),
    ],
)
def test_answers_are_the_baked_folders(tmp_path, tasks, kind, factor, more, batch_size, dtype):
    tokenizer = tokenizer_with(["<|endoftext|>"]) if kind == "mistral" else None  # puts BOS in front itself
    model = save_model(tmp_path / "model", kind, tokenizer)
    neurons, baked = save_neurons(tmp_path / "n.json", model, **more), str(tmp_path / "baked")
    bake(model, neurons=neurons, output=baked, factor=factor, dtype=dtype)
    how: dict[str, Any] = {"neurons": neurons, "factor": factor, "positions": "all", "dtype": dtype}
    hooked = answers(tasks, "biaslab", batch_size, pretrained=model, **how)
    wanted, untouched = (answers(tasks, "hf", batch_size, pretrained=name, dtype=dtype) for name in (baked, model))
    torch.testing.assert_close(numbers(hooked), numbers(wanted), atol=1e-5, rtol=0)
    assert [greedy for _, greedy in hooked["choices"]] == [greedy for _, greedy in wanted["choices"]]
    assert hooked["goes_on"] == wanted["goes_on"]
    assert len(hooked["choices"]) == len(HEADS) * len(ENDS)
    assert (numbers(hooked) - numbers(untouched)).abs().min() > 1e-4
    assert hooked["goes_on"] != untouched["goes_on"]


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


def test_hooks_are_there_for_the_requests_alone(tmp_path, tasks):
    model = save_model(tmp_path / "model")
    lm = SuppressedLM(model, save_neurons(tmp_path / "n.json", model), device="cpu")
    seen = []
    with lm.model.register_forward_hook(lambda *_: seen.append(hooks(lm.model))):
        answers(tasks, lm)
    assert set(seen) == {3 + 1}  # one a layer, and the one that counts
    assert hooks(lm.model) == 0
    with pytest.raises(AttributeError, match="args"):
        lm.loglikelihood(["no request"])
    assert hooks(lm.model) == 0


def test_factor_1_is_the_untouched_model(tmp_path, tasks):
    model = save_model(tmp_path / "model", "qwen2")
    same = answers(tasks, "biaslab", pretrained=model, neurons=save_neurons(tmp_path / "n.json", model), factor=1)
    assert same == answers(tasks, "hf", pretrained=model)


def test_through_the_command_line(tmp_path, tasks, capsys):
    model = save_model(tmp_path / "model")
    neurons, out = save_neurons(tmp_path / "n.json", model, strengths=True), tmp_path / "out"
    model_args = f"pretrained={model},neurons={neurons},factor=0.5,positions=all,dtype=float32,max_length=48"
    where = ["--include_path", str(tasks), "--output_path", str(out), "--log_samples", "--device", "cpu"]
    main(["lm-eval", "--model", "biaslab", "--model_args", model_args, "--tasks", "choices,text", *where])
    assert "|choices|" in capsys.readouterr().out
    (results,), (samples,) = (list(out.rglob(f"{name}*.json*")) for name in ("results", "samples_choices"))
    config = json.loads(results.read_text())["config"]
    assert (config["model"], config["model_args"]["factor"]) == ("biaslab", 0.5)
    assert config["neurons"] == {"count": 6, "fingerprint": NeuronSet.load(neurons).fingerprint, "factor": 0.5}
    assert config["model_fingerprint"] == fingerprint(load_model(model)[0])
    rows = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda row: row["doc_id"])
    options = {"pretrained": model, "neurons": neurons, "factor": 0.5, "max_length": 48}
    wanted = [likelihood for likelihood, _ in answers(tasks, "biaslab", **options)["choices"]]
    assert [float(response[0][0]) for row in rows for response in row["resps"]] == pytest.approx(wanted, abs=1e-6)


def test_bad_input_through_the_command_line_is_one_line(tmp_path, tasks, capsys):
    model = save_model(tmp_path / "model")
    arguments = f"pretrained={model},neurons={tmp_path / 'none.json'}"
    with pytest.raises(SystemExit) as end:
        main(["lm-eval", "--model", "biaslab", "--model_args", arguments, "--tasks", str(tasks / "choices.yaml")])
    assert end.value.code == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "biaslab: error" in line)
    assert re.search(r"`neurons` is expected to be a neuron file, but .*none.json can't be read", line)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"neurons": "n"}, "`pretrained` is expected to be the name, folder or hub id of a model but is missing"),
        ({"pretrained": 5, "neurons": "n"}, "`pretrained` .* but got 5"),
        ({"pretrained": "m"}, "`neurons` is expected to be a neuron file but is missing"),
        ({"pretrained": "m", "neurons": 7}, "`neurons` is expected to be a neuron file but got 7"),
        ({"pretrained": "m", "neurons": "n", "factor": "much"}, "`factor` is expected to be a finite number.*'much'"),
        ({"pretrained": "m", "neurons": "n", "factor": float("nan")}, "`factor` is expected to be a finite number"),
        ({"pretrained": "m", "neurons": "n", "positions": "slot"}, "`positions` is expected to be \"all\" .*'slot'"),
        ({"pretrained": "m", "neurons": "n", "dtype": "float8"}, "`dtype` is expected to be .* got 'float8'"),
        ({"pretrained": "m", "neurons": "n", "device_map": "all"}, "`device_map` is expected to be .* got 'all'"),
        ({"pretrained": "m", "neurons": "n", "trust_remote_code": "no"}, "`trust_remote_code` is expected to be true"),
        (
            {"pretrained": "m", "neuron": "n"},
            "`model_args` is expected to be one or more of .* neuron. Did you mean 'neurons'?",
        ),
        ({"pretrained": "m", "neurons": "n", "peft": "x"}, "`model_args` is expected to be one or more of .* got peft"),
    ],
)
def test_bad_arguments_are_told_before_anything_is_read(arguments, message):
    with pytest.raises(InputError, match=message) as told:
        SuppressedLM(**arguments)
    assert "\n" not in str(told.value)


def test_what_does_not_fit_is_refused(tmp_path, tasks, monkeypatch):
    model, other = save_model(tmp_path / "model"), save_model(tmp_path / "other", seed=1)
    neurons, masked = (
        save_neurons(tmp_path / "n.json", model),
        save_model(tmp_path / "bert", "bert", wordpiece_tokenizer()),
    )
    NeuronSet(shape=(3, 48)).save(tmp_path / "empty.json")
    for arguments, message in (
        ((other, neurons), "`neurons` is expected to be made for this model.*other weights"),
        ((masked, save_neurons(tmp_path / "m.json", masked)), "`pretrained` is expected to be a causal language model"),
        ((model, str(tmp_path / "empty.json")), "`neurons` is expected to hold at least one neuron"),
        ((model, neurons, 0.0, "all", "auto", "gpu"), "`device` is expected to be a device .* got 'gpu'"),
        ((str(tmp_path / "nowhere"), neurons), "`model_name` is expected to be an existing folder"),
    ):
        with pytest.raises(InputError, match=message) as told:
            SuppressedLM(*arguments)
        assert "\n" not in str(told.value)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="`WORLD_SIZE` is expected to be 1 but is 2"):
        SuppressedLM(model, neurons)


def run(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_without_lm_eval_the_command_says_how_to_install_it():
    done = run(
        "import sys; sys.modules['lm_eval'] = None; sys.argv = ['biaslab', 'lm-eval', '--tasks', 'x']\n"
        "from biaslab.__main__ import main; main()"
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "(lm_eval) is expected to be installed but can't be imported" in line
    assert line.endswith("Install it: pip install 'biaslab[lm-eval]'.")


def test_it_can_be_registered_by_its_entry_point(tasks):
    """As releases of lm_eval do that read entry points: they put them into the registry as such."""
    point = EntryPoint("biaslab", "biaslab.lm_eval:SuppressedLM", "lm_eval.models")
    done = run(
        "from importlib.metadata import EntryPoint\nimport lm_eval.models\n"
        "from lm_eval.api.registry import get_model, model_registry\n"
        f"model_registry.register('biaslab', target={point!r})\n"
        "print(get_model('biaslab').__name__, get_model('hf').__name__)\nimport biaslab.lm_eval"
    )
    assert done.stdout.split() == ["SuppressedLM", "HFLM"], done.stderr


def test_importing_it_first_leaves_lm_evals_own_models(tasks):
    done = run(
        "import biaslab.lm_eval\nfrom lm_eval.api.registry import get_model\n"
        "print(get_model('biaslab').__name__, get_model('hf').__name__, get_model('dummy').__name__)"
    )
    assert done.stdout.split() == ["SuppressedLM", "HFLM", "DummyLM"], done.stderr
