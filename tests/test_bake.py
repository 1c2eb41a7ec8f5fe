"""Baked folders against the hooked model; loaded where biaslab can't be imported."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import report_runs
import torch
import yaml
from conftest import CAUSAL, MASKED, bpe_tokenizer, make_model, wordpiece_tokenizer
from pytorch_lightning import Trainer
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

from biaslab.architectures import fingerprint, load_model
from biaslab.bake import bake
from biaslab.errors import InputError
from biaslab.hooks import suppressed
from biaslab.neurons import NeuronSet
from biaslab.tasks.cda import CounterfactualAugmentation

NEURONS = [(0, 1), (0, 7), (1, 47), (2, 0), (2, 30), (2, 31)]
TOKENS = torch.tensor([[5, 9, 12, 7, 30, 6], [8, 3, 40, 41, 42, 11]])
WITHOUT_BIASLAB = (
    """
import sys
sys.modules["biaslab"] = None  # an import of it fails
import torch
from pathlib import Path
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer
torch.set_num_threads(1)
try:
    import biaslab
    raise SystemExit("biaslab was imported")
except ImportError:
    pass
tokens, found = torch.tensor(TOKENS), {}
for folder in sorted(Path(sys.argv[1]).glob("*-baked")):
    kind = folder.name.split("-")[0]
    auto = AutoModelForMaskedLM if kind in MASKED else AutoModelForCausalLM
    AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        found[kind] = auto.from_pretrained(folder).eval()(input_ids=tokens).logits
save_file(found, sys.argv[2])
""".replace("TOKENS", str(TOKENS.tolist()))
    .replace("MASKED)", f"{MASKED})")
    .replace("in MASKED", f"in {MASKED}")
)


def save_model(folder: Path, model_type: str = "bert", seed: int = 0) -> str:
    tokenizer = wordpiece_tokenizer() if model_type in MASKED else bpe_tokenizer(masked=False)
    make_model(model_type, len(tokenizer), seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_neurons(path: Path, model: str) -> str:
    made_for = {"model": {"name": model, "fingerprint": fingerprint(load_model(model)[0])}}
    NeuronSet(NEURONS, shape=(3, 48)).with_details(provenance=made_for).save(path)
    return str(path)


def logits(model, tokens=TOKENS):
    with torch.no_grad():
        return model(input_ids=tokens).logits


@pytest.fixture(scope="module")
def baked(tmp_path_factory) -> Path:
    """A folder with each architecture's model, neurons, and baked checkpoint."""
    folder = tmp_path_factory.mktemp("baked")
    for kind in MASKED + CAUSAL:
        model = save_model(folder / kind, kind)
        bake(model, neurons=save_neurons(folder / f"{kind}.json", model), output=str(folder / f"{kind}-baked"))
    return folder


@pytest.fixture(scope="module")
def elsewhere(baked) -> dict[str, torch.Tensor]:
    """The logits that another process gets from the baked folders, without biaslab."""
    out = baked / "logits.safetensors"
    subprocess.run([sys.executable, "-c", WITHOUT_BIASLAB, str(baked), str(out)], check=True)
    return load_file(out)


@pytest.mark.parametrize("kind", MASKED + CAUSAL)
def test_logits_without_biaslab_are_the_hooked_models_bit_by_bit(baked, elsewhere, kind):
    """A zero activation and a zero weight add the same zeros, in the same order."""
    model, _ = load_model(str(baked / kind))
    untouched = logits(model)
    with suppressed(model, NeuronSet.load(baked / f"{kind}.json")):
        hooked = logits(model)
    assert torch.equal(elsewhere[kind], hooked)
    assert not torch.equal(hooked, untouched)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
@pytest.mark.parametrize(("factor", "tolerance"), [(2.0, 0.0), (0.3, 1e-5)])  # a power of two rounds nothing
def test_other_factors(tmp_path, kind, factor, tolerance):
    source = save_model(tmp_path / "model", kind)
    neurons = save_neurons(tmp_path / "n.json", source)
    bake(source, neurons=neurons, output=str(tmp_path / "out"), factor=factor)
    model, result = load_model(source)[0], load_model(str(tmp_path / "out"))[0]
    with suppressed(model, NeuronSet.load(neurons), factor):
        torch.testing.assert_close(logits(result), logits(model), atol=tolerance, rtol=tolerance)


def test_folder_is_an_ordinary_checkpoint_with_a_card(baked):
    folder = baked / "bert-baked"
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= {p.name for p in folder.iterdir()}
    assert (folder.stat().st_mode & 0o777) == (baked / "bert").stat().st_mode & 0o777
    card = (folder / "README.md").read_text()
    before, after = (fingerprint(load_model(str(baked / name))[0]) for name in ("bert", "bert-baked"))
    facts = json.loads(card.partition("```json\n")[2].partition("\n```")[0])
    assert facts["model"] == {"name": str(baked / "bert"), "fingerprint": before}
    assert facts["neurons"]["count"] == len(NEURONS)
    assert facts["neurons"]["made"]["model"]["fingerprint"] == before
    assert f"`{after}`" in card
    assert "AutoModelForMaskedLM" in card
    assert not list(baked.glob(".*"))


@pytest.fixture
def checkpoint(tmp_path) -> str:
    """A baseline's checkpoint whose model differs from the one that it names."""
    task = CounterfactualAugmentation(save_model(tmp_path / "model"))
    task.model.load_state_dict(make_model("bert", len(wordpiece_tokenizer()), seed=3).state_dict())
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", devices=1)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(tmp_path / "x.ckpt", weights_only=True)
    return str(tmp_path / "x.ckpt")


def test_checkpoint(tmp_path, checkpoint):
    (tmp_path / "out").mkdir()  # an empty folder may be there
    bake(ckpt_path=checkpoint, output=str(tmp_path / "out"))
    trained = make_model("bert", len(wordpiece_tokenizer()), seed=3)
    assert torch.equal(logits(AutoModelForMaskedLM.from_pretrained(tmp_path / "out").eval()), logits(trained))
    card = (tmp_path / "out" / "README.md").read_text()
    assert fingerprint(trained) in card
    assert '"lr": 2e-05' in card


def test_checkpoint_with_neurons_of_the_trained_model(tmp_path, checkpoint):
    of_the_first = save_neurons(tmp_path / "first.json", str(tmp_path / "model"))
    with pytest.raises(InputError, match="other weights"):
        bake(ckpt_path=checkpoint, neurons=of_the_first, output=str(tmp_path / "out"))
    of_the_trained = save_neurons(tmp_path / "n.json", save_model(tmp_path / "trained", seed=3))
    bake(ckpt_path=checkpoint, neurons=of_the_trained, output=str(tmp_path / "out"))
    model = load_model(str(tmp_path / "trained"))[0]
    with suppressed(model, NeuronSet.load(of_the_trained)):
        assert torch.equal(logits(load_model(str(tmp_path / "out"))[0]), logits(model))


def not_a_checkpoint(path: Path, content: object) -> str:
    torch.save(content, path)
    return str(path)


@pytest.fixture
def run(tmp_path) -> Path:
    """A folder as `biaslab debias` leaves it, with neurons of a model that there is."""
    folder = report_runs.debias(tmp_path / "run")
    model = save_model(tmp_path / "model")
    made_for = {"model": {"name": model, "fingerprint": fingerprint(load_model(model)[0])}}
    details = made_for | {"settings": {"selection": "guarded"}}
    NeuronSet(NEURONS, shape=(3, 48)).with_details(provenance=details).save(folder / "neurons.json")
    return folder


def card_of(run: Path, **options) -> str:
    out = run.parent / f"out-{len(list(run.parent.iterdir()))}"
    bake(str(run.parent / "model"), neurons=str(run / "neurons.json"), output=str(out), **options)
    return (out / "README.md").read_text()


def test_card_tells_what_the_run_measured(run):
    card = card_of(run)
    results = json.loads((run / "results.json").read_text())
    for scope, label in (("overall", "ICAT"), ("race", "ICAT, race")):
        (line,) = [line for line in card.splitlines() if line.startswith(f"| {label} |")]
        for row in ("untouched", "BNS, guarded"):
            assert f"{results['stereoset'][row][scope]['ICAT']['figure']['value']:.1f} [" in line
        assert f"{results['stereoset']['BNS, guarded'][scope]['ICAT']['change']['value']:+.1f} [" in line
        assert f"{results['stereoset']['random, 2 seeds'][scope]['ICAT']['change']['value']:+.1f} [" in line
    assert (
        "| perplexity on 1200 ordinary sentences | 40.00 | 42.80 | +7.0 [+6.0, +8.0] % | +2.0 [+1.0, +3.0] % |" in card
    )
    assert "changes by -80 % on average (random neurons +1 ± 3 %)" in card
    assert "not measured" not in card


def test_card_has_no_figures_of_another_treatment(run):
    assert "not measured" in card_of(run, factor=0.7)
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"positions": "slot"}))
    card = card_of(run)
    assert "not measured" in card
    assert "| ICAT" not in card
    (run / "results.json").unlink()
    assert "biaslab test -c configs/stereoset.yaml --model.model_name" in card_of(run)


BAD = {
    "neither": (lambda tmp: {}, "`model` or `ckpt_path` is expected, one of the two, but got neither"),
    "both": (lambda tmp: {"model": "a", "ckpt_path": "b"}, "got both"),
    "positions": (lambda tmp: {"model": "a", "positions": "slot"}, '`positions`.*"all".*a weight acts on every token'),
    "factor": (lambda tmp: {"model": "a", "factor": float("nan")}, "`factor` is expected to be a finite"),
    "folder": (lambda tmp: {"model": "a", "output": str(tmp)}, "`output` is expected to be a new or empty folder"),
    "no file": (lambda tmp: {"ckpt_path": str(tmp / "none.ckpt")}, "`ckpt_path`.*can't be read"),
    "text": (lambda tmp: {"ckpt_path": str(tmp / "text")}, "`ckpt_path`.*can't be read"),
    "no task": (
        lambda tmp: {"ckpt_path": not_a_checkpoint(tmp / "c", {"state_dict": {}})},
        "`ckpt_path`.*with a `model_name`",
    ),
    "list": (lambda tmp: {"ckpt_path": not_a_checkpoint(tmp / "c", [1])}, "`ckpt_path`.*with a `model_name`"),
    "other weights": (
        lambda tmp: {
            "ckpt_path": not_a_checkpoint(
                tmp / "c",
                {
                    "hyper_parameters": {"model_name": save_model(tmp / "m")},
                    "state_dict": {"model.x": torch.zeros(1)},
                },
            )
        },
        "`ckpt_path`.*all weights of its `model_name`, a bert",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_leaves_nothing(tmp_path, what):
    (tmp_path / "text").write_text("no checkpoint")
    arguments, message = BAD[what]
    with pytest.raises(InputError, match=message):
        bake(**{"output": str(tmp_path / "out"), **arguments(tmp_path)})
    assert not (tmp_path / "out").exists()


def test_failure_while_writing_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("no space")

    monkeypatch.setattr("biaslab.bake.model_card", fail)
    with pytest.raises(OSError, match="no space"):
        bake(save_model(tmp_path / "model"), output=str(tmp_path / "out"))
    assert {path.name for path in tmp_path.iterdir()} == {"model"}


@pytest.mark.assets
def test_minilm_mlm_becomes_a_plain_bert(tmp_path, asset):
    asset("minilm-encoder")
    bake("minilm-mlm", output=str(tmp_path / "out"))
    assert json.loads((tmp_path / "out/config.json").read_text())["architectures"] == ["BertForMaskedLM"]
    model, _ = load_model("minilm-mlm")
    again = AutoModelForMaskedLM.from_pretrained(tmp_path / "out").eval()
    assert type(again).__name__ == "BertForMaskedLM"
    tokens = torch.tensor([AutoTokenizer.from_pretrained(tmp_path / "out")("She is a [MASK].")["input_ids"]])
    assert torch.equal(logits(again, tokens), logits(model, tokens))
