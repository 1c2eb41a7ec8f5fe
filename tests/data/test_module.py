"""What all data modules share: the tokenizer of the right kind, and trust in its code only where the user gives it."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest
import yaml
from conftest import bpe_tokenizer, main, make_model, stereoset

from biaslab import commands
from biaslab.commands.configs import config_file
from biaslab.commands.rows import TRAINED
from biaslab.data import module, words
from biaslab.data.attribute_sentences import AttributeSentencesDataModule
from biaslab.data.corpus import CorpusDataModule
from biaslab.data.counterfactual import CounterfactualDataModule
from biaslab.data.crows_pairs import CrowsPairsDataModule
from biaslab.data.presets import GUARD_WEIGHT, PRESETS, PresetName
from biaslab.data.prompt_pairs import PromptPairDataModule
from biaslab.data.prompts import PromptDataModule
from biaslab.data.stereoset import StereoSetDataModule
from biaslab.models.tokens import SLOT

MODULES = (
    AttributeSentencesDataModule,
    CorpusDataModule,
    CounterfactualDataModule,
    CrowsPairsDataModule,
    PromptDataModule,
    PromptPairDataModule,
    StereoSetDataModule,
)


@pytest.fixture
def loaded(monkeypatch):
    """What the data modules load as tokenizers; they end there."""
    calls = []

    def load_tokenizer(model_name, *, trust_remote_code=False):
        calls.append((model_name, trust_remote_code))
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "load_tokenizer", load_tokenizer)
    return calls


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("data_module", MODULES)
def test_the_users_trust_reaches_the_tokenizer_and_no_hyperparameter(loaded, data_module, trust):
    data = data_module("some/model", trust_remote_code=trust)
    with pytest.raises(KeyboardInterrupt):
        data.load_tokenizer()
    assert loaded == [("some/model", trust)]
    assert "trust_remote_code" not in data.hparams  # it changes no result, so that caches and unfinished runs stay good


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("options", "trust"), [([], False), (["--model.trust_remote_code", "true"], True)])
def test_the_command_line_passes_trust_on(lab, loaded, workdir, options, trust):
    model = str(lab / "model")
    config = str(Path(__file__).parents[2] / "configs" / "stereoset.yaml")
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        main(["test", "-c", config, "--model.model_name", model, "--data.path", str(lab / "stereoset.json"), *options])
    assert loaded == [(model, trust)]


def test_each_command_passes_trust_on():
    (folder,) = commands.__path__
    calls = [
        (path.name, node.func.id, {keyword.arg for keyword in node.keywords})
        for path in Path(folder).glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id.endswith("DataModule")
    ]
    assert len(calls) >= 8
    assert [call for call in calls if "trust_remote_code" not in call[2]] == []


@pytest.fixture
def causal_with_mask(tmp_path):
    """A causal model whose tokenizer has a mask token."""
    tokenizer = bpe_tokenizer(masked=False)
    tokenizer.add_special_tokens({"mask_token": "<mask>"})
    make_model("gpt2", len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_the_architecture_decides_the_kind_of_the_prompts(causal_with_mask):
    data = PromptDataModule(causal_with_mask, ["age"], kinds=["negative"], modifiers=1)
    data.setup("predict")
    assert all(prompt.text.endswith(SLOT) for prompt in data.prompts)
    for batch in data.batches:
        assert (batch["position"] == batch["input_ids"].shape[1] - 1).all()
        assert data.tokenizer.convert_tokens_to_ids("<mask>") not in batch["input_ids"]


def test_the_architecture_decides_the_kind_of_what_is_judged(causal_with_mask, tmp_path):
    data = StereoSetDataModule(causal_with_mask, path=stereoset(tmp_path / "s.json"))
    data.setup("test")
    assert {batch["rule"] for batch in data.batches} == {"causal"}


def test_the_shipped_configuration_is_the_small_preset():
    config = yaml.safe_load((Path(__file__).parents[2] / "configs" / "attribute.yaml").read_text())
    assert config["data"]["init_args"] == PRESETS["small"].data
    assert config["model"]["init_args"]["guard_weight"] == GUARD_WEIGHT


def test_the_medium_preset_asks_all_dimensions_and_kinds_in_every_wording(lab):
    chosen = PRESETS["medium"].data
    assert {key: chosen[key] for key in chosen if "contrast" in key} == {
        key: value for key, value in PRESETS["small"].data.items() if "contrast" in key
    }
    settings = {key: value for key, value in chosen.items() if "contrast" not in key}
    pairs = {dimension: [("the", "a")] for dimension in words.DIMENSIONS}  # which any tokenizer knows
    data = PromptDataModule(str(lab / "model"), pairs=pairs, **settings)
    data.setup("predict")
    modifiers = Counter((d, k) for d, k, _ in {(p.dimension, p.kind, p.group) for p in data.prompts})
    assert len(modifiers) == 9 * 6
    assert set(modifiers.values()) == {20}
    assert len(data.prompts) == 9 * 6 * 20 * (len(words.TEMPLATES) - len(words.HELD_OUT_TEMPLATES))


def test_each_preset_has_the_configurations_of_its_trained_rows():
    assert list(PRESETS) == list(get_args(PresetName))
    for preset in PRESETS.values():
        for name in TRAINED:
            assert config_file(f"{name}{preset.suffix}", "configs").is_file()
