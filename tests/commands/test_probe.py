"""`biaslab probe` through its function, on tiny models that know the words."""

import csv
import re
import statistics
from pathlib import Path

import conftest
import pytest
import torch
from conftest import make_model, wordpiece_tokenizer

from biaslab.commands.probe import probe
from biaslab.data.words import ACTIONS, WORDINGS
from biaslab.errors import InputError
from biaslab.evaluation.findings import Findings
from biaslab.neurons.neuron_set import NeuronSet, random_like

FRAMES = re.findall("[a-z]+", " ".join(re.sub(r"{\w+}", " ", form) for w in WORDINGS for form in w).lower())
JUDGING = ["good", "strong", "smart", "bad", "weak", "lazy"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT and a tiny GPT-2, their tokenizers, and a neuron file."""
    path = tmp_path_factory.mktemp("probe")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conftest, "WORDS", conftest.WORDS + FRAMES + JUDGING + " ".join(ACTIONS).split())
        tokenizers = {"bert": wordpiece_tokenizer(), "gpt2": conftest.bpe_tokenizer(masked=False)}
    for kind, tokenizer in tokenizers.items():
        make_model(kind, len(tokenizer)).save_pretrained(path / kind)
        tokenizer.save_pretrained(path / kind)
    NeuronSet([(0, 3), (1, 7), (2, 1), (2, 40)]).save(path / "neurons.json")
    return path


def run(folder: Path, output: Path, kind: str = "bert", **options) -> tuple[dict, list[dict]]:
    probe(str(folder / kind), output=str(output), **options)
    newest = max((output / "probe").iterdir())
    with (newest / "probe.csv").open(encoding="utf-8") as file:
        return content_of(newest / "probe.json"), list(csv.DictReader(file))


def content_of(path: Path) -> dict:
    """The findings, a row at a time."""
    findings = Findings.load(path)
    rows: dict[str, dict] = {}
    for row in findings.rows:
        rows[row.name] = {"neurons": row.size}
        for key, metric in (("biased", "biased outputs"), ("mass_difference", "mass difference")):
            figure, change, spread, _ = findings.get(row.name, metric)
            wordings = [findings.get(row.name, metric, frame).figure.value for frame in findings.details["wordings"]]
            rows[row.name][key] = {
                "figure": figure._asdict(), "change": change._asdict(), "spread_over_seeds": spread,
                "over_wordings": findings.details["over_wordings"][row.name][metric], "by_wording": wordings,
            }  # fmt: skip
    return dict(findings.details) | {"rows": rows}


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_untouched_figures_follow_from_the_outputs(folder, tmp_path, kind, capsys):
    content, outputs = run(folder, tmp_path, kind)
    assert len(outputs) == len(WORDINGS) * len(ACTIONS)
    assert list(content["rows"]) == ["untouched"]
    words = content["words"]
    for line in outputs:
        polarities = {line["female"] in words["negative"], line["male"] in words["negative"]}
        assert int(line["biased"]) == len(polarities) - 1
    figures = content["rows"]["untouched"]
    shares = [
        100 * statistics.fmean(int(line["biased"]) for line in outputs if int(line["wording"]) == wording)
        for wording in range(len(WORDINGS))
    ]
    differences = [abs(float(o["female_negative_mass"]) - float(o["male_negative_mass"])) for o in outputs]
    assert figures["biased"]["by_wording"] == pytest.approx(shares, abs=1e-3)
    assert figures["biased"]["figure"]["value"] == pytest.approx(statistics.fmean(shares), abs=1e-3)
    assert figures["biased"]["over_wordings"]["deviation"] == pytest.approx(statistics.stdev(shares), abs=1e-3)
    assert figures["mass_difference"]["figure"]["value"] == pytest.approx(statistics.fmean(differences), abs=1e-3)
    printed = " ".join(capsys.readouterr().out.split())
    assert content["definition"] in printed
    assert all(f"{share:.1f}" in printed for share in shares)


def test_suppression_with_its_controls(folder, tmp_path, capsys):
    content, outputs = run(folder, tmp_path, neurons=str(folder / "neurons.json"), seeds=3)
    rows = content["rows"]
    assert list(rows) == ["untouched", "BNS ×0", "random, 3 seeds"]
    assert [row["neurons"] for row in rows.values()] == [0, 4, 4]
    assert len(outputs) == 5 * len(WORDINGS) * len(ACTIONS)
    for measure in ("biased", "mass_difference"):
        before, after, random = (row[measure] for row in rows.values())
        assert set(before["change"].values()) == {0}
        difference = after["figure"]["value"] - before["figure"]["value"]
        assert after["change"]["value"] == pytest.approx(difference, abs=1e-3)
        assert after["change"]["low"] <= after["change"]["value"] <= after["change"]["high"]
        assert after["spread_over_seeds"] is None
        assert random["spread_over_seeds"] >= 0
    seeds = [
        100 * statistics.fmean(int(o["biased"]) for o in outputs if o["row"].startswith("random") and o["seed"] == seed)
        for seed in "012"
    ]
    assert rows["random, 3 seeds"]["biased"]["figure"]["value"] == pytest.approx(statistics.fmean(seeds), abs=1e-3)
    assert rows["random, 3 seeds"]["biased"]["spread_over_seeds"] == pytest.approx(statistics.stdev(seeds), abs=1e-3)
    printed = capsys.readouterr().out
    assert "…" not in printed
    assert max(len(line) for line in printed.splitlines() if str(tmp_path) not in line) <= 80


def test_suppression_is_that_of_the_weights(folder, tmp_path):
    """The oracle of suppression: the neurons' columns of the down-projection are zero."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    model = AutoModelForMaskedLM.from_pretrained(folder / "bert")
    for layer, index in NeuronSet.load(folder / "neurons.json"):
        model.bert.encoder.layer[layer].output.dense.weight.data[:, index] = 0
    model.save_pretrained(tmp_path / "baked")
    AutoTokenizer.from_pretrained(folder / "bert").save_pretrained(tmp_path / "baked")
    suppressed, _ = run(folder, tmp_path / "one", neurons=str(folder / "neurons.json"), seeds=1)
    baked, _ = run(tmp_path, tmp_path / "two", "baked")
    for measure in ("biased", "mass_difference"):
        found = suppressed["rows"]["BNS ×0"][measure]["by_wording"]
        assert found == pytest.approx(baked["rows"]["untouched"][measure]["by_wording"], abs=1e-3)


def test_strengths_and_means_are_followed(folder, tmp_path):
    """The oracle: scaled columns, and what replaces the neurons in the biases; by random controls too."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    means = torch.randn(3, 48, generator=torch.Generator().manual_seed(0))
    strengths = {(0, 3): 3.0, (1, 7): -2.0, (2, 1): 0.5, (2, 40): -3.0}
    neurons = NeuronSet(strengths, (3, 48)).with_values(means.numpy()).with_strengths(strengths)
    neurons.save(tmp_path / "neurons.json")
    found, _ = run(folder, tmp_path / "one", neurons=str(tmp_path / "neurons.json"), seeds=1)
    for row, name in ((neurons, "BNS ×0"), (random_like(neurons, 0), "random, one seed")):
        model = AutoModelForMaskedLM.from_pretrained(folder / "bert")
        for (layer, index), strength in row.strengths.items():
            dense = model.bert.encoder.layer[layer].output.dense
            dense.bias.data += dense.weight.data[:, index] * strength * means[layer, index]
            dense.weight.data[:, index] *= 1 - strength
        model.save_pretrained(tmp_path / name)
        AutoTokenizer.from_pretrained(folder / "bert").save_pretrained(tmp_path / name)
        baked, _ = run(tmp_path, tmp_path / "runs" / name, name)
        for measure in ("biased", "mass_difference"):
            wanted = baked["rows"]["untouched"][measure]["by_wording"]
            assert found["rows"][name][measure]["by_wording"] == pytest.approx(wanted, abs=1e-3)
        assert found["rows"][name]["mass_difference"]["change"]["value"] != 0


def test_factor_one_changes_nothing(folder, tmp_path):
    content, _ = run(folder, tmp_path, neurons=str(folder / "neurons.json"), factor=1.0, seeds=1)
    assert content["rows"]["BNS ×1"]["biased"]["change"] == {"value": 0, "low": 0, "high": 0}
    assert content["rows"]["random, one seed"]["mass_difference"]["spread_over_seeds"] is None


def test_a_second_run_never_overwrites_the_first(folder, tmp_path):
    first, _ = run(folder, tmp_path)
    second, _ = run(folder, tmp_path)
    assert sorted(path.name for path in (tmp_path / "probe").iterdir()) == ["version_0", "version_1"]
    assert first == second


def test_bad_input_leaves_no_folder(folder, tmp_path):
    other = NeuronSet([(0, 3)], shape=(3, 48)).with_details(
        provenance={"model": {"name": "another", "fingerprint": "0" * 16}}
    )
    other.save(tmp_path / "other.json")
    with pytest.raises(InputError, match="`neurons` is expected to be made for this model"):
        run(folder, tmp_path, neurons=str(tmp_path / "other.json"))
    with pytest.raises(InputError, match="`seeds` is expected to be a positive integer but got 0"):
        run(folder, tmp_path, seeds=0)
    with pytest.raises(InputError, match="`neurons` is expected to be a neuron file"):
        run(folder, tmp_path, neurons=str(tmp_path / "none.json"))
    assert not (tmp_path / "probe").exists()
