"""Own dimensions, from a file to the neurons that `debias` finds for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from conftest import main, make_model, stereoset, wordpiece_tokenizer

from biaslab.data.own_words import OwnDimension, read_words
from biaslab.data.prompts import PromptDataModule
from biaslab.errors import InputError
from biaslab.evaluation.findings import Findings
from biaslab.neurons.neuron_set import NeuronSet

CONTENT = {
    "wealth_level": {"noun": "social status", "pairs": [["poor", "rich"]]},
    "colour": {"demographics": ["black", "white", "asian"]},
    "age": ["young", "old"],
}


@pytest.fixture
def folder(tmp_path_factory) -> Path:
    folder, tokenizer = tmp_path_factory.mktemp("model"), wordpiece_tokenizer()
    make_model("bert", len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("write", [json.dumps, yaml.safe_dump, lambda content: json.dumps(content, indent="\t")])
def test_forms(tmp_path, write):
    (tmp_path / "w").write_text("\ufeff" + write(CONTENT), encoding="utf-8")
    assert read_words(tmp_path / "w") == {
        "wealth_level": OwnDimension("social status", (("poor", "rich"),)),
        "colour": OwnDimension("colour", (("black", "white"), ("white", "asian"))),
        "age": OwnDimension("age", (("young", "old"),)),
    }


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("[]", "has none"),
        ("a: [b", "can't be read"),
        ("x: 3", "'x' is neither a list of words"),
        ("x: [yes, no]", "'x' has demographics that are not a list of texts .* need quotes"),
        ("x: [1990, 2000]", "need quotes"),
        ("x: [one]", "'x' has fewer than two demographics"),
        ("x/y: [a, b]", "'x/y' has a name"),
        ("overall: [a, b]", "'overall' has a name"),
        ("1: [a, b]", "1 has a name"),
        ("x: {words: [a, b]}", "with only noun, demographics, pairs"),
        ("x: {noun: 3, demographics: [a, b]}", "has a noun that is not text"),
        ("x: {pairs: [[a, a]]}", "two different texts"),
        ("x: {pairs: [[a, b, c]]}", "two different texts"),
        ("x: {demographics: [a, b], pairs: [[a, c]]}", "has pairs with 'c', which is not one of its demographics"),
    ],
)
def test_bad_files(tmp_path, content, why):
    (tmp_path / "w").write_text(content)
    with pytest.raises(InputError, match=rf"^`words` is expected to .*{why}"):
        read_words(tmp_path / "w")


def test_prompts(folder, tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(CONTENT))
    data = PromptDataModule(str(folder), words=str(path), kinds=["negative"], modifiers=1)
    data.setup("predict")
    own = ["wealth_level/poor-rich", "colour/black-white", "colour/white-asian", "age/young-old"]
    assert sorted(data.pair_names) == sorted(own)
    assert any("social status" in prompt.text for prompt in data.prompts if prompt.dimension == "wealth_level")
    assert any("the colour" in prompt.text.lower() for prompt in data.prompts if prompt.dimension == "colour")
    both = PromptDataModule(str(folder), ["gender", "colour"], words=str(path), kinds=["negative"], modifiers=1)
    both.setup("predict")
    assert both.pair_names[0] == "gender/female-male"
    assert len(both.pair_names) == 3
    chosen = {"pairs": {"colour": [["asian", "black"]]}, "words": str(path)}
    data = PromptDataModule(str(folder), **chosen, kinds=["negative"], modifiers=1)
    data.setup("predict")
    assert data.pair_names == ["colour/asian-black"]
    for wrong in ({"path": "x.json"}, {"dimensions": ["nothing"]}):
        with pytest.raises(InputError):
            PromptDataModule(str(folder), words=str(path), modifiers=1, **wrong).setup("predict")


def test_commands(folder, workdir, tiny_cache, no_pictures, monkeypatch):
    monkeypatch.setattr("biaslab.commands.side_effects.MODIFIERS", 1)
    own = {name: CONTENT[name] for name in ("wealth_level", "colour")}
    (workdir / "own.json").write_text(json.dumps(own))
    (workdir / "text.txt").write_text((workdir / "cache/bug/full_BUG.csv").read_text())
    text = ["--text", "text.txt", "--sentences", "2", "--seeds", "1"]
    few = ["--kinds", "[negative]", "--modifiers", "1", "--contrast_limit", "4", "--steps", "2", "--limit", "4"]
    main(["debias", "--model", str(folder), "--words", "own.json", *few, *text])
    run = workdir / "runs/debias/version_0"
    findings, neurons = Findings.load(run / "results.json"), NeuronSet.load(run / "neurons.json")
    assert findings.settings["dimensions"] == ["wealth_level", "colour"]
    assert {"wealth_level", "colour", "colour/black-white"} <= set(neurons.subsets)
    assert {"wealth_level", "colour"} <= set(findings.scopes("gap"))
    main(["cards", str(run / "neurons.json"), "--count", "2"])
    stereoset(workdir / "s.json")
    row = "the woman is rude.,the man is rude.,stereo,autre"
    (workdir / "c.csv").write_text(f"sent_more,sent_less,stereo_antistereo,bias_type\n{row}\n")
    more = ["--stereoset", "s.json", "--crows_pairs", "c.csv", "--dimensions", "[colour]", "--words", "own.json"]
    main(["side-effects", str(run / "neurons.json"), *more, *text])
    effects = Findings.load(run / "side_effects.json")
    assert {"colour", "wealth_level", "gender"} <= set(effects.scopes("gap"))
    assert "autre" in effects.scopes("CrowS-Pairs")
    main(["compare", str(folder), str(folder), "--words", "own.json", "--kinds", "[negative]", "--modifiers", "1",
          "--selection", "ranked", "--source", "prompts"])  # fmt: skip
    (compared,) = (workdir / "runs/compare").glob("comparison-*/comparison.json")
    assert {"wealth_level", "colour"} <= set(Findings.load(compared).details["scopes"])
