"""The results table, whole: with tiny models, through the command line."""

import csv
import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from conftest import bpe_tokenizer, main, make_model
from faults import break_off

from biaslab.commands.rows import PAPER, ROWS, cut, intersection
from biaslab.commands.table import checked_rows, table
from biaslab.data.presets import PRESETS
from biaslab.data.prompts import PromptDataModule
from biaslab.errors import InputError
from biaslab.evaluation.findings import Findings
from biaslab.neurons.neuron_set import NeuronSet

CONFIGS = Path(__file__).parents[2] / "configs"
NEURON_ROWS = [row for row in ROWS if row.startswith(("union", "intersection", "bns", "random"))]


@pytest.fixture
def place(workdir, tiny_cache, few_prompts, no_pictures) -> Path:
    """A working folder, with tiny data sets in the cache, and few prompts."""
    return workdir


def make(lab: Path, *more: str, model: Path | None = None) -> None:
    main(["table", "--model", str(model or lab / "model"), "--text", str(lab / "text.txt"), "--sentences", "4", *more])


def folder(place: Path) -> Path:
    (found,) = (place / "runs/table").iterdir()
    return found


def test_rows_of_neurons(lab, place, capsys):
    make(lab, "--rows", f"[{','.join(NEURON_ROWS)}]", "--seeds", "2")
    findings = Findings.load(folder(place) / "table.json")
    rows = [row.name for row in findings.rows]
    assert rows == ["base", *NEURON_ROWS]
    size = {row.name: row.size for row in findings.rows}
    assert size["bns_guarded"] == size["bns_ranked"] == size["random_bns"] == round(0.02 * 144)
    assert size["random_union_ig"] == size["union_ig"] >= size["intersection_ig"]
    assert size["union_ig_cut"] == min(size["union_ig"], size["bns_guarded"])
    assert findings.get("base", "ICAT").change == (0, 0, 0)
    assert len(findings.row("random_bns").treatments) == 2
    assert findings.row("random_bns").like == "bns_guarded"
    assert findings.get("random_bns", "SS").spread is not None
    assert findings.get("random_bns", "perplexity").spread is not None
    assert findings.get("bns_guarded", "ICAT").beyond_random is not None
    assert findings.get("bns_ranked", "ICAT").beyond_random is None
    assert findings.get("bns_paper", "perplexity").figure.value > 1
    printed = capsys.readouterr().out
    tables = printed[printed.index("StereoSet, 24 clusters") : printed.index("Results written to")]
    assert max(map(len, tables.splitlines())) <= 80
    assert "bert-base-cased" in printed
    lines = list(csv.DictReader((folder(place) / "table.csv").read_text().splitlines()))
    scopes = {name: {line["scope"] for line in lines if line["metric"] == name} for name in ("ICAT", "knowledge")}
    assert scopes["ICAT"] == {"overall", "gender", "profession", "race"}
    assert scopes["knowledge"] == {"overall", "gender", "ethnicity", "religion", "occupation", "age"}
    assert {line["scope"] for line in lines} == scopes["ICAT"] | scopes["knowledge"]
    known = {line["row"]: line for line in lines if line["metric"] == "knowledge" and line["scope"] == "overall"}
    assert set(known) == set(rows)
    assert {line["unit"] for line in known.values()} == {"points"}
    assert float(known["base"]["change_value"]) == 0
    assert known["random_bns"]["spread"] != ""
    for line in known.values():  # value and change, each with its interval
        numbers = [float(line[f"{prefix}{end}"]) for prefix in ("", "change_") for end in ("value", "low", "high")]
        value, low, high, *change = numbers
        assert f"{value:.1f} [{low:.1f}, {high:.1f}]" in tables
        if line["row"] != "base":
            assert "{:+.1f} [{:+.1f}, {:+.1f}]".format(*change) in tables
    ratios = {line["row"]: line for line in lines if line["metric"] == "SS log-ratio" and line["scope"] == "overall"}
    assert set(ratios) == set(rows)
    for line in ratios.values():
        numbers = [float(line[f"{prefix}{end}"]) for prefix in ("", "change_") for end in ("value", "low", "high")]
        assert line["unit"] == "nats"
        assert "{:.3f} [{:.3f}, {:.3f}]".format(*numbers[:3]) in tables
        assert line["row"] == "base" or "{:+.3f} [{:+.3f}, {:+.3f}]".format(*numbers[3:]) in tables
    paper = [line["paper"] for line in lines if line["row"] == "base" and line["metric"] == "ICAT"]
    assert float(paper[0]) == PAPER["bert-base-cased"]["base"][2]
    markdown, latex = ((folder(place) / f"table.{suffix}").read_text() for suffix in ("md", "tex"))
    assert len(markdown.splitlines()) == 2 + len(rows) + 2
    assert len({line.count("|") for line in markdown.splitlines() if line.startswith("|")}) == 1
    assert "| ICAT change | SS log-ratio | change, nats |" in markdown.splitlines()[0]
    assert "| perplexity | change, % | knowledge | change, points |" in markdown.splitlines()[0]
    assert f"knowledge: % of {findings.facts['knowledge_sentences']} sentences" in markdown.splitlines()[-1]
    body = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert len(body) == 1 + len(rows)
    assert len({line.replace(r"\&", "").count("&") for line in body}) == 1
    assert r"Union\_IG" in latex


def test_a_second_run_computes_nothing_and_other_settings_anew(lab, place, monkeypatch):
    make(lab, "--rows", "[bns_ranked]")
    times = {path: path.stat().st_mtime_ns for path in folder(place).glob("*-*")}
    text = (folder(place) / "table.md").read_text()

    def never(*_, **__):
        raise AssertionError("computed again")

    with monkeypatch.context() as patch:
        patch.setattr("biaslab.evaluation.measures.score_clusters", never)
        patch.setattr("biaslab.commands.passes.Attribution", never)
        make(lab, "--rows", "[bns_ranked]")
    assert {path: path.stat().st_mtime_ns for path in folder(place).glob("*-*")} == times
    assert (folder(place) / "table.md").read_text() == text
    make(lab, "--rows", "[bns_ranked]", "--factor", "0.5")
    for name in ("stereoset", "perplexity", "knowledge"):
        assert len(list(folder(place).glob(f"{name}-*"))) == len([p for p in times if p.name.startswith(name)]) + 1
    assert len(list(folder(place).glob("ig2-*"))) == 1


def test_the_votes_of_the_medium_preset(lab, place, monkeypatch, capsys):
    few = {"dimensions": ["gender", "age"], "kinds": ["negative"], "modifiers": 2}
    monkeypatch.setitem(PRESETS, "medium", PRESETS["medium"]._replace(data=PRESETS["medium"].data | few))
    make(lab, "--preset", "medium", "--rows", "[union_ig, random_union_ig]", "--seeds", "2")
    findings = Findings.load(folder(place) / "table.json")
    assert findings.settings["preset"] == "medium"
    assert [row.name for row in findings.rows] == ["base", "union_ig", "random_union_ig"]
    assert findings.get("union_ig", "LMS").beyond_random is not None
    assert "preset medium" in " ".join(capsys.readouterr().out.split())
    (found,) = folder(place).glob("ig-*")
    assert NeuronSet.load(found / "neurons_union.json").provenance["data"]["prompts"] == 2 * 2 * 12


def test_a_damaged_judgement_is_made_again(lab, place):
    make(lab, "--rows", "[base]")
    (judged,) = folder(place).glob("stereoset-*")
    content = judged.read_bytes()
    judged.write_bytes(content[: len(content) // 2])
    make(lab, "--rows", "[base]")
    assert len(judged.read_bytes()) == len(content)


def test_a_pass_that_was_killed_before_its_sets_were_written_is_made_again(lab, place):
    make(lab, "--rows", "[bns_paper]")
    (found,) = folder(place).glob("ig2-*")
    neurons = (found / "neurons_paper.json").read_text()
    (found / "done.json").unlink()
    make(lab, "--rows", "[bns_paper]")
    assert (found / "neurons_paper.json").read_text() == neurons


def test_rows_that_a_causal_model_can_not_have(lab, place, tmp_path, capsys):
    tokenizer = bpe_tokenizer(masked=False)
    make_model("gpt2", len(tokenizer)).save_pretrained(tmp_path / "causal")
    tokenizer.save_pretrained(tmp_path / "causal")
    make(lab, "--rows", "[cda, bns_ranked]", model=tmp_path / "causal")
    findings = Findings.load(folder(place) / "table.json")
    assert [row.name for row in findings.rows] == ["base", "bns_ranked"]
    assert findings.details["left_out"] == {"cda": "needs a masked language model"}
    assert "Left out cda" in capsys.readouterr().out


def test_bad_input():
    for rows, seeds, name in ((["nothing"], 1, "rows"), ([], 1, "rows"), (None, 0, "seeds")):
        with pytest.raises(InputError, match=f"`{name}`"):
            checked_rows(rows, seeds)


def test_no_configuration(lab, place):
    with pytest.raises(InputError, match="`configs` is expected to be a folder with dpce_small"):
        table(str(lab / "model"), rows=["dpce"], text=str(lab / "text.txt"), sentences=2, configs="nowhere")


def test_intersection_is_of_the_demographics_of_a_pair():
    data = PromptDataModule("minilm-mlm", ["gender"])
    dimension = type("D", (), {"name": "d", "words": ("a", "b", "c"), "pairs": ((0, 1), (1, 2))})
    data.dimensions = {"d": dimension}
    subsets = {"d/a": [(0, 0), (0, 1)], "d/b": [(0, 1), (0, 2)], "d/c": [(0, 0), (0, 2)]}
    union = NeuronSet([(0, 0), (0, 1), (0, 2)], shape=(1, 4)).with_details(subsets, {"model": {"fingerprint": "f"}})
    assert set(intersection(union, data)) == {(0, 1), (0, 2)}


def test_cut_keeps_the_best_of_the_set():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(3, 8, generator=generator)
    neurons = NeuronSet([(layer, index) for layer in range(3) for index in range(0, 8, 2)], shape=(3, 8))
    wanted = sorted(neurons, key=lambda n: -scores[n])[:5]
    assert set(cut(neurons, scores, 5)) == set(wanted)
    graded = neurons.with_strengths({neuron: float(number) for number, neuron in enumerate(neurons)})
    assert cut(graded, scores, 5).strengths == {n: s for n, s in graded.strengths.items() if n in set(wanted)}


def tiny_configs(folder: Path, lab: Path) -> Path:
    """The shipped small configurations, with a tiny text instead of their corpora."""
    folder.mkdir()
    for name, more in {
        "cda_small": {"source": str(lab / "text.txt"), "limit": 40},
        "cda_control_small": {"source": str(lab / "text.txt"), "limit": 40},
    }.items():
        config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
        config["data"]["init_args"].update(more)
        config["trainer"] |= {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture
def forked(nursery, tmp_path, monkeypatch):
    """Commands that a command starts are forks of a process that has the imports behind it."""

    def run(arguments, check):
        python, m, name, *own = arguments
        assert [python, m, name, check] == [sys.executable, "-m", "biaslab", False]
        (code,) = nursery.run(tmp_path, own).codes
        return subprocess.CompletedProcess(arguments, code)

    monkeypatch.setattr("biaslab.commands.rows.subprocess.run", run)


def test_trained_rows(lab, place, forked, tmp_path_factory):
    configs = tiny_configs(tmp_path_factory.mktemp("c") / "configs", lab)
    arguments = ["--rows", "[cda, cda_control]", "--configs", str(configs)]
    make(lab, *arguments)
    found = Findings.load(folder(place) / "table.json")
    assert found.row("cda").size == found.row("cda_control").size > 1000
    assert found.row("cda").seconds > 0
    assert found.estimates["cda", "perplexity", "overall"].change.value != 0
    trained = next(folder(place).glob("cda-*"))
    content = (trained / "done.json").read_text()
    (trained / "done.json").unlink()  # killed just before the end
    make(lab, *arguments)
    assert json.loads((trained / "done.json").read_text())["checkpoint"] == json.loads(content)["checkpoint"]
    assert Findings.load(folder(place) / "table.json").row("cda").size == found.row("cda").size


def test_a_training_that_fails_is_told(lab, place, tmp_path_factory):
    configs = tiny_configs(tmp_path_factory.mktemp("c") / "configs", lab)
    (configs / "cda_small.yaml").write_text("nothing: 1\n")
    with pytest.raises(InputError, match="`biaslab fit` failed with exit code"):
        table(str(lab / "model"), rows=["cda"], configs=str(configs), text=str(lab / "text.txt"), sentences=2)


@pytest.mark.filterwarnings("ignore:predict returned None")  # of a batch that is done: the program says nothing of it
def test_a_table_that_breaks_off_again_and_again_ends(lab, place, monkeypatch):
    """Broken off after one file, then after two more, and so on, it ends with the figures of an undisturbed run."""
    arguments = ["--rows", "[bns_paper, random_bns]", "--seeds", "2"]
    make(lab, *arguments, "--output", "whole")
    run = partial(make, lab, *arguments, "--output", "broken")
    breaks = next(files for files in range(100) if not break_off(run, files, monkeypatch))
    assert breaks >= 6
    tables = []
    for name in ("whole", "broken"):
        (made,) = (place / name).iterdir()
        lines = csv.DictReader((made / "table.csv").read_text().splitlines())
        tables.append([{key: value for key, value in line.items() if key != "seconds"} for line in lines])
    assert tables[0] == tables[1]
