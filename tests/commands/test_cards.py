"""The command `cards`, on run folders as `debias` and `predict` write them."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml
from transformers import AutoModelForMaskedLM

from biaslab.commands.cards import cards, read_scores
from biaslab.errors import InputError
from biaslab.evaluation.findings import Findings
from biaslab.models.loading import fingerprint
from biaslab.neurons.cards import METHOD, PROMPTS, WORDS
from biaslab.neurons.neuron_set import NeuronSet

PAIRS = ["gender/female-male", "ethnicity/black-white"]
NEURONS = [(0, 3), (1, 7), (2, 1), (2, 40)]
PROMPT_SETTINGS = {"dimensions": ["gender", "ethnicity"], "kinds": ["negative"], "modifiers": 3}
DEBIAS = {"model": "a model", "selection": "guarded", "contrast": ["stereoset"], "text": "bold"} | PROMPT_SETTINGS
PREDICT = {
    "trainer": {"devices": "auto"},
    "data": {
        "class_path": "PromptDataModule",
        "init_args": {"contrast": ["stereoset"], "path": None} | PROMPT_SETTINGS,
    },
}


@pytest.fixture
def folder(lab: Path, tmp_path: Path) -> Path:
    """A run's folder: neurons, scores, settings."""
    weights = fingerprint(AutoModelForMaskedLM.from_pretrained(lab / "model"))
    found = {"model": {"name": str(lab / "model"), "fingerprint": weights}}
    NeuronSet(NEURONS, (3, 48)).with_details(provenance=found).save(tmp_path / "neurons.json")
    scores = torch.zeros(2, 3, 48)
    scores[:, 2, 1], scores[:, 1, 7] = torch.tensor([0.5, 0.25]), torch.tensor([0.0, 0.25])
    tensors = {"scores": scores, "counts": torch.tensor([9, 9])}
    safetensors.torch.save_file(tensors, tmp_path / "scores.safetensors", {"pairs": json.dumps(PAIRS)})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(DEBIAS))
    return tmp_path


def run(folder: Path, **options) -> dict:
    cards(str(folder / "neurons.json"), **options)
    findings = Findings.load(folder / "cards.json")
    assert (findings.command, findings.rows) == ("cards", [])
    assert findings.settings["neurons"] == str(folder / "neurons.json")
    return {"model": findings.model, **findings.details}


def shown(content: dict) -> str:
    return " ".join(prompt["text"] for card in content["cards"] for prompt in card["prompts"])


@pytest.mark.parametrize("config", [DEBIAS, PREDICT])
def test_cards_of_a_run(folder, lab, config, capsys):
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    content = run(folder)
    assert list(content) == ["model", "fingerprint", "method", "cards"]
    assert content["model"] == str(lab / "model")
    assert content["fingerprint"] == NeuronSet.load(folder / "neurons.json").provenance["model"]["fingerprint"]
    assert content["method"] == METHOD
    best, second, *others = content["cards"]
    assert [(card["layer"], card["index"]) for card in content["cards"]] == [(2, 1), (1, 7), (0, 3), (2, 40)]
    assert best["scores"] == dict(zip(PAIRS, (0.5, 0.25), strict=True))
    assert (best["score"], second["score"], others[0]["score"]) == (0.375, 0.125, 0)
    for card in content["cards"]:
        assert list(card) == ["layer", "index", "score", "scores", "prompts", "promotes", "lowers"]
        assert [list(prompt) for prompt in card["prompts"]] == [["text", "activation"]] * PROMPTS
        assert all(prompt["text"].count("[MASK]") == 1 for prompt in card["prompts"])
        for words, sign in ((card["promotes"], 1), (card["lowers"], -1)):
            assert [list(word) for word in words] == [["word", "change"]] * WORDS
            sizes = [sign * word["change"] for word in words]
            assert sizes == sorted(sizes, reverse=True)
            assert sizes[-1] > 0
    printed = capsys.readouterr().out
    assert "4 of 4 neurons" in printed
    assert "0.375" in printed
    assert best["promotes"][0]["word"] in printed
    assert "ethnicity/" in printed
    assert "…" not in printed
    assert max(len(line.rstrip()) for line in printed.splitlines() if str(folder) not in line) <= 80


def test_settings_and_arguments(folder):
    content = run(folder, count=1)
    assert len(content["cards"]) == 1
    assert "ethnicity" in shown(run(folder))
    assert "ethnicity" not in shown(run(folder, dimensions=["gender"]))
    before = (folder / "cards.json").read_text()
    cards(str(folder / "neurons.json"), output=str(folder / "other.json"), kinds=["positive"])
    assert (folder / "cards.json").read_text() == before
    assert "rude" not in (folder / "other.json").read_text()
    (folder / "config.yaml").unlink()
    assert "ethnicity" not in shown(run(folder, dimensions=["gender"], kinds=["negative"], modifiers=1))


def test_prompts_of_a_file(folder):
    sentences = [f"the {noun} is a [MASK] person ." for noun in ("doctor", "driver", "friend", "girl", "boy", "man")]
    groups = [[[text, word, 0] for word in ("female", "male")] for text in sentences]
    (folder / "prompts.json").write_text(json.dumps(groups))
    content = run(folder, path=str(folder / "prompts.json"))
    assert {prompt["text"] for card in content["cards"] for prompt in card["prompts"]} <= set(sentences)


def test_a_neuron_file_without_a_model(folder, lab):
    NeuronSet(NEURONS).save(folder / "neurons.json")
    with pytest.raises(InputError, match="`model` is expected because"):
        run(folder)
    assert run(folder, model=str(lab / "model"))["model"] == str(lab / "model")


def test_bad_input_writes_nothing(folder):
    with pytest.raises(InputError, match="`count` is expected to be a positive integer but got 0"):
        run(folder, count=0)
    found = NeuronSet.load(folder / "neurons.json")
    other = {"model": found.provenance["model"] | {"fingerprint": "0" * 16}}
    found.with_details(provenance=other).save(folder / "neurons.json")
    with pytest.raises(InputError, match="`neurons` is expected to be made for this model"):
        run(folder)
    NeuronSet().with_details(provenance=found.provenance).save(folder / "neurons.json")
    with pytest.raises(InputError, match="`neurons` is expected to hold at least one neuron"):
        run(folder)
    found.save(folder / "neurons.json")
    (folder / "config.yaml").write_text("a: [")
    with pytest.raises(InputError, match="`dimensions` is expected if the run's settings are unknown"):
        run(folder)
    assert not (folder / "cards.json").exists()


@pytest.mark.parametrize("content", [None, b"", b"no tensors"])
def test_scores_that_are_not_there(folder, content):
    path = folder / "scores.safetensors"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"`neurons` is expected to be in its run's folder with scores\.safetensors"):
        run(folder)


def test_scores_without_their_pairs(folder):
    safetensors.torch.save_file({"scores": torch.zeros(2, 3, 48)}, folder / "scores.safetensors")
    with pytest.raises(InputError, match="can't be read"):
        read_scores(folder / "scores.safetensors")
