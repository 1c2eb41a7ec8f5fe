"""The sweep: what a grid holds, what is chosen, and the whole through the command line."""

import csv
import json

import pytest
from conftest import main

from biaslab.commands.sweep import _specs, sweep
from biaslab.commands.trials import Setting, Trial, choose
from biaslab.errors import InputError
from biaslab.neurons.neuron_set import NeuronSet


def specs(**changes):
    grid = {
        "selections": ["guarded"], "sources": ["both"], "guards": ["stereoset"], "guard_weights": [1.0],
        "counts": [None], "domain_weights": [], "thresholds": [0.2], "shares": [0.7],
    }  # fmt: skip
    return list(_specs(**(grid | changes)))


def test_only_what_matters_to_a_selection_is_varied():
    assert len(specs(guard_weights=[1.0, 2.0], counts=[10, 20], thresholds=[0.1, 0.2], shares=[0.5, 0.7])) == 4
    assert len(specs(selections=["paper"], guard_weights=[1.0, 2.0], thresholds=[0.1, 0.2], shares=[0.5, 0.7])) == 4
    assert len(specs(selections=["ranked"], guard_weights=[1.0, 2.0], sources=["both", "prompts"])) == 2
    by_domain = specs(domain_weights=[{"race": 0.5, "gender": 1.0}])
    assert [spec.changes["domain_weights"] for spec in by_domain] == [None, {"race": 0.5, "gender": 1.0}]
    (both,) = specs(guards=["stereoset+bold"])
    assert both.changes["guard"] == ["stereoset", "bold"]
    names = [spec.name for spec in specs(selections=["guarded", "ranked", "paper"], counts=[10, 20], shares=[0.5, 0.7])]
    assert len(set(names)) == len(names) == 6


def trial(icat, lms=80.0, perplexity=40.0, gender=70.0, race=70.0, factor=0.0):
    return Trial(Setting("s", factor, "all"), 10, 55.0, lms, icat, perplexity, {"gender": gender, "race": race})


def test_choice():
    base = trial(60.0)
    better, dearer, worse_domain, less = (
        trial(70.0),
        trial(75.0, perplexity=44),
        trial(80.0, race=60),
        trial(90.0, lms=79),
    )
    trials = [better, dearer, worse_domain, less]
    assert choose(base, trials, perplexity_percent=0) is better
    assert choose(base, trials, perplexity_percent=10) is dearer
    assert choose(base, [worse_domain, less], perplexity_percent=0) is less  # none keeps all
    assert not less.keeps(base, 100)


def test_sweep(lab, workdir, tiny_cache, monkeypatch, capsys):
    arguments = [
        "sweep", "--model", str(lab / "model"), "--text", str(lab / "text.txt"), "--sentences", "3", "--seeds", "2",
        "--selections", "[guarded, paper]", "--guards", f"[stereoset, 'stereoset+{lab / 'text.txt'}']",
        "--guard_weights", "[1.0]", "--counts", "[5]", "--every", "2",
        "--factors", "[0.0, 0.5]", "--shares", "[0.3, 0.7]",
    ]  # fmt: skip
    main(arguments)
    (folder,) = (workdir / "runs/sweep").iterdir()
    lines = list(csv.DictReader((folder / "sweep.csv").read_text().splitlines()))
    assert len(lines) == 1 + (2 + 2) * 2
    content = json.loads((folder / "sweep.json").read_text())
    assert set(content["held_out"]) == {"untouched", "chosen", "random, 2 seeds"}
    neurons = NeuronSet.load(folder / "neurons.json")
    assert len(neurons) == content["chosen"]["neurons"]
    assert neurons.provenance["suppression"]["factor"] == content["chosen"]["factor"]
    assert (folder / "sweep.png").read_bytes()[:4] == b"\x89PNG"
    assert "<svg" in (folder / "sweep.svg").read_text()
    printed = capsys.readouterr().out
    tables = printed[printed.index("8 settings, the best") :]
    assert max(map(len, tables.splitlines())) <= 80

    def never(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr("biaslab.evaluation.judging.score_clusters", never)
    monkeypatch.setattr("biaslab.commands.treatments.Attribution", never)
    main(arguments)


@pytest.mark.parametrize("bad", [{"selections": []}, {"positions": ["here"]}, {"factors": []}])
def test_bad_grid(bad):
    with pytest.raises(InputError, match=r"(is|are) expected"):
        sweep("nothing", **bad)
