"""The sweep: what a grid holds, what is chosen, and the whole through the command line."""

import csv
import json

import pytest
from conftest import main

from biaslab.commands.sweep import choose, grid, keeps, sweep
from biaslab.data.stereoset import half_of
from biaslab.errors import InputError
from biaslab.evaluation.findings import Findings
from biaslab.neurons.neuron_set import NeuronSet


def specs(**changes):
    settings = {
        "selections": ["guarded"], "sources": ["both"], "guards": ["stereoset"], "guard_weights": [1.0],
        "counts": [None], "domain_weights": [], "thresholds": [0.2], "shares": [0.7],
    }  # fmt: skip
    return list(grid(settings | changes))


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
    figures = {"SS": 55.0, "LMS": lms, "ICAT": icat, "perplexity": perplexity}
    return figures | {"factor": factor, "ICAT gender": gender, "ICAT race": race}


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
    assert not keeps(less, base, 100)


def test_sweep(lab, workdir, tiny_cache, few_prompts, monkeypatch, capsys):
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
    findings = Findings.load(folder / "sweep.json")
    ratios = [trial["SS log-ratio"] for trial in findings.details["trials"]]
    assert [float(line["SS log-ratio"]) for line in lines] == ratios
    assert len(set(ratios)) > 1
    assert [row.name for row in findings.rows] == ["untouched", "chosen", "random, 2 seeds"]
    chosen = findings.details["chosen"]
    neurons = NeuronSet.load(folder / "neurons.json")
    assert len(neurons) == chosen["neurons"]
    assert neurons.fingerprint == chosen["fingerprint"] == findings.row("chosen").treatments[0]["neurons"]
    assert neurons.provenance["suppression"]["factor"] == chosen["factor"]
    assert (folder / "sweep.png").read_bytes()[:4] == b"\x89PNG"
    assert "<svg" in (folder / "sweep.svg").read_text()
    printed = capsys.readouterr().out
    tables = printed[printed.index("8 settings; best") :]
    assert max(map(len, tables.splitlines())) <= 80
    assert "…" not in tables[tables.index("Chosen setting on") :]
    base = findings.get("untouched", "SS log-ratio").figure
    assert f"{ratios[0]:.3f}" in tables
    assert f"{base.value:.3f} [{base.low:.3f}, {base.high:.3f}]" in tables

    def never(*_, **__):
        raise AssertionError("computed again")

    monkeypatch.setattr("biaslab.evaluation.measures.score_clusters", never)
    monkeypatch.setattr("biaslab.commands.passes.Attribution", never)
    main(arguments)


def test_fisher_is_found_once_a_replacement(lab, workdir, tiny_cache, few_prompts, no_pictures):
    main([
        "sweep", "--model", str(lab / "model"), "--text", str(lab / "text.txt"), "--sentences", "3", "--seeds", "1",
        "--selections", "[fisher]", "--sources", "[contrast, prompts]", "--guards", f"['stereoset+{lab / 'text.txt'}']",
        "--fisher_weights", "[0.25, 0.5]", "--replacements", "[zero, mean]", "--counts", "[5]", "--every", "2",
        "--factors", "[0.0]",
    ])  # fmt: skip
    (folder,) = (workdir / "runs/sweep").iterdir()
    lines = list(csv.DictReader((folder / "sweep.csv").read_text().splitlines()))
    assert len(lines) == 1 + 2 * 2 * 2
    assert {line["selection"] for line in lines[1:]} == {
        f"fisher-{source}-{weight}{to}-5"
        for source in ("contrast", "prompts") for weight in ("0.25", "0.5") for to in ("", "-mean")
    }  # fmt: skip
    assert len(list(folder.glob("pass-*"))) == 2
    neurons = NeuronSet.load(folder / "neurons.json")
    assert (neurons.values is None) == (
        "mean" not in json.loads((folder / "sweep.json").read_text())["details"]["chosen"]["selection"]
    )


@pytest.mark.parametrize(
    "bad",
    [
        {"replacements": ["median"]}, {"fisher_weights": []}, {"selections": []},
        {"positions": ["here"]}, {"factors": []}, {"sources": ["promts"]}, {"counts": [0]},
        {"thresholds": []}, {"thresholds": [2.0]}, {"shares": []}, {"seeds": 0}, {"every": 0},
    ],
)  # fmt: skip
def test_bad_grid(bad):
    (name,) = bad
    with pytest.raises(InputError, match=f"`{name}` is expected"):
        sweep("nothing", **bad)


def test_settings_are_chosen_on_other_terms_than_neurons_are_found_with(tiny_cache):
    """B26: neurons come from one half of the test split's terms, and settings are judged on the other."""
    from biaslab.data.stereoset import read_clusters

    terms = {cluster.target for cluster in read_clusters("test")}
    halves = {half: {term for term in terms if half_of(term) == half} for half in ("find", "choose")}
    assert halves["find"] | halves["choose"] == terms
    assert halves["find"]
    assert halves["choose"]
