"""What ran is what the files say: prompts, examples, the weights' type, and whose weights they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import main, make_model, wordpiece_tokenizer
from pytorch_lightning import Trainer

from biaslab.data.prompts import PromptDataModule
from biaslab.errors import InputError
from biaslab.evaluation.findings import Findings
from biaslab.models.loading import fingerprint, load_model
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.tasks import Attribution, StereoSetEvaluation

QUIET = ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.enable_progress_bar", "false"]
FEW = ["--data.dimensions", "[gender]", "--data.kinds", "[negative]", "--data.modifiers", "1"]
FEW += ["--data.contrast", "null"]
FEW += ["--model.source", "prompts", "--model.selection", "ranked", "--model.steps", "2"]
TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def attribute(lab: Path, *more: str) -> None:
    main(["predict", "-c", "attribute", "--model.model_name", str(lab / "model"), *FEW, *QUIET, *more])


def judge(lab: Path, *more: str) -> None:
    model = ["--model.model_name", str(lab / "model"), "--data.path", str(lab / "stereoset.json")]
    main(["test", "-c", "stereoset", *model, *QUIET, *more])


@pytest.mark.parametrize(
    ("option", "value"),
    [("limit_predict_batches", "2"), ("limit_predict_batches", "0.5"), ("fast_dev_run", "true"), ("fast_dev_run", "2"),
     ("inference_mode", "true")],
)  # fmt: skip
def test_neurons_of_a_part_are_refused(lab, workdir, capsys, option, value):
    with pytest.raises(SystemExit, match="2"):
        attribute(lab, f"--trainer.{option}", value)
    assert f"`{option}` is expected to be" in capsys.readouterr().err
    assert not list(workdir.rglob("neurons.json"))


def test_a_limit_of_one_batch_from_python(lab, tmp_path):
    task, name = Attribution(str(lab / "model"), steps=2), str(lab / "model")
    data = PromptDataModule(name, ["gender"], kinds=["negative"], modifiers=1)
    options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "inference_mode": False}
    with pytest.raises(InputError, match="`limit_predict_batches`"):
        Trainer(limit_predict_batches=1, default_root_dir=tmp_path, **options).predict(task, data)


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed", "64-true", "16-true"])
def test_another_precision_is_refused(lab, workdir, capsys, precision):
    for command in (attribute, judge):
        with pytest.raises(SystemExit, match="2"):
            command(lab, "--trainer.precision", precision)
        assert "`precision` is expected to be 32-true, the default," in capsys.readouterr().err
    assert not [*workdir.rglob("neurons.json"), *workdir.rglob("stereoset.json")]


def test_the_same_precision_is_not(lab, workdir):
    judge(lab, "--trainer.precision", "32-true", "--model.dtype", "float64")
    judge(lab, "--model.dtype", "bfloat16")
    dtypes = [Findings.load(path).settings["dtype"] for path in sorted(workdir.rglob("stereoset.json"))]
    assert dtypes == ["float64", "bfloat16"]


def test_an_unknown_type():
    with pytest.raises(InputError, match=r"`dtype` is expected to be float32, .* or auto but got 'int'"):
        StereoSetEvaluation("/nowhere", dtype="int")


def test_the_results_of_some_batches_say_so(lab, workdir):
    judge(lab, "--data.tokens_per_batch", "30", "--trainer.limit_test_batches", "2")
    findings = Findings.load(workdir / "runs/stereoset/version_0/stereoset.json")
    assert findings.facts["clusters"] == findings.facts["scored"]["overall"] < 12
    judge(lab, "--trainer.fast_dev_run", "true")
    assert len(list(workdir.rglob("stereoset.json"))) == 1


@pytest.mark.parametrize("found_in", ["bfloat16", "float32"])
def test_neurons_are_of_the_checkpoint_whatever_type_it_is_loaded_in(lab, workdir, found_in):
    attribute(lab, "--model.dtype", found_in)
    path = workdir / "runs/attribute/version_0/neurons.json"
    neurons = NeuronSet.load(path)
    assert neurons.provenance["settings"]["dtype"] == found_in
    for dtype in ("bfloat16", "float16", "float32"):
        judge(lab, "-c", "suppress", "--trainer.callbacks.neurons", str(path), "--model.dtype", dtype)
    main(["bake", "--model", str(lab / "model"), "--neurons", str(path), "--output", "baked"])
    assert (workdir / "baked/model.safetensors").exists()


@pytest.mark.parametrize("stored", TYPES[:3])
@pytest.mark.parametrize("said", ["float32", "bfloat16", "float16", None])
def test_the_fingerprint_is_of_the_stored_weights(tmp_path, stored, said):
    tokenizer = wordpiece_tokenizer()
    make_model("bert", len(tokenizer)).to(stored).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"dtype": said}))
    assert len({fingerprint(load_model(str(tmp_path), dtype=dtype)[0]) for dtype in TYPES}) == 1
