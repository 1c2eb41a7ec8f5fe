"""`biaslab side-effects` through its function, on a tiny model, against models whose weights are zeroed instead."""

import csv
import io
import math
import statistics
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from conftest import bpe_tokenizer, make_model
from reference import crows_pairs as slow_pairs
from reference import stereoset as slow_clusters
from rich.console import Console
from transformers import AutoModelForMaskedLM, AutoTokenizer

from biaslab.commands.side_effects import _summary, diagonal, print_tables, side_effects
from biaslab.data import words
from biaslab.data.corpus import read_sentences
from biaslab.data.prompts import make_prompts
from biaslab.data.stereoset import read_clusters
from biaslab.errors import InputError
from biaslab.evaluation.findings import Findings, Row
from biaslab.metrics.crows_pairs import crows_pairs_change, crows_pairs_log_ratio_change
from biaslab.metrics.stereoset import log_ratio_change, paired_change
from biaslab.models.loading import fingerprint
from biaslab.neurons.neuron_set import NeuronSet, random_like
from biaslab.statistics import Estimate, Interval

SETS = {
    "gender": [(0, 3), (1, 7), (2, 1), (2, 40)],
    "ethnicity": [(0, 3), (0, 9), (0, 20), (1, 5), (2, 0), (2, 11)],
    "age": [(1, 1), (2, 2)],
    "gender/female-male": [(0, 3), (1, 7)],
}
EVERY = sorted({neuron for name in ("gender", "ethnicity") for neuron in SETS[name]})
ROWS = ["untouched", "gender", "ethnicity", "age", "all", "random"]
SUBJECTS = [("woman", "man", "gender"), ("black people", "white people", "race-color"), ("old man", "young man", "age")]
ENDINGS = ["is rude", "hates sports", "works at home", "was very mean", "loves cooking and water"]


def crows_pairs(path: Path) -> str:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", "sent_more", "sent_less", "stereo_antistereo", "bias_type"])
        for number, (more, less, category) in enumerate(SUBJECTS * len(ENDINGS)):
            ending = ENDINGS[number // len(SUBJECTS)]
            direction = "antistereo" if number % 4 == 3 else "stereo"
            writer.writerow([number, f"the {more} {ending}.", f"the {less} {ending}.", direction, category])
    return str(path)


@pytest.fixture(scope="module", autouse=True)
def _few_prompts():
    """One modifier of each kind: 30 prompts a dimension."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("biaslab.commands.side_effects.MODIFIERS", 1)
        yield


@pytest.fixture(scope="module")
def place(lab, tmp_path_factory) -> Path:
    """A neuron file with three dimensions, and CrowS-Pairs, beside the tiny model."""
    folder = tmp_path_factory.mktemp("effects")
    model = AutoModelForMaskedLM.from_pretrained(lab / "model")
    facts = {"model": {"name": str(lab / "model"), "fingerprint": fingerprint(model)}}
    NeuronSet(EVERY, shape=(3, 48)).with_details(SETS, facts).save(folder / "neurons.json")
    crows_pairs(folder / "crows.csv")
    return folder


@pytest.fixture
def run(lab, place):
    """Run the command; return what side_effects.json holds."""

    def run(output: Path | None, neurons: str = "neurons.json", **options) -> dict:
        given = {
            "stereoset": str(lab / "stereoset.json"), "crows_pairs": str(place / "crows.csv"),
            "text": str(lab / "text.txt"), "sentences": 5,
        }  # fmt: skip
        side_effects(str(place / neurons), output=None if output is None else str(output), **given | options)
        return content_of((output or place) / "side_effects.json")

    return run


@pytest.fixture(scope="module")
def whole(lab, place, tmp_path_factory) -> tuple[dict, Path]:
    """The figures of one run of all rows, and where they lie."""
    output = tmp_path_factory.mktemp("whole")
    side_effects(
        str(place / "neurons.json"), stereoset=str(lab / "stereoset.json"), crows_pairs=str(place / "crows.csv"),
        text=str(lab / "text.txt"), sentences=5, seeds=3, output=str(output),
    )  # fmt: skip
    return content_of(output / "side_effects.json"), output


def content_of(path: Path) -> dict:
    """The findings, a row at a time."""
    findings = Findings.load(path)

    def of(row: str, metrics: list[str], wanted) -> dict:
        scopes = [scope for scope in findings.scopes(metrics[0]) if wanted(scope)]
        return {scope: {metric: plain(findings.get(row, metric, scope)) for metric in metrics} for scope in scopes}

    rows = []
    for row in findings.rows:
        gaps = of(row.name, ["gap", "log gap"], lambda scope: scope != "overall" and "/" not in scope)
        crows = of(row.name, ["CrowS-Pairs", "CrowS-Pairs log-ratio"], lambda scope: True)
        rows.append({
            "name": row.name, "neurons": row.size,
            "stereoset": of(row.name, ["SS", "SS log-ratio", "LMS", "ICAT"], lambda scope: True),
            "crows_pairs": {scope: figures["CrowS-Pairs"] for scope, figures in crows.items()},
            "log-ratios": {scope: figures["CrowS-Pairs log-ratio"] for scope, figures in crows.items()},
            "gaps": gaps,
            "perplexity": plain(findings.get(row.name, "perplexity")),
        })  # fmt: skip
    own = findings.details["own"]
    return {"rows": rows, "counts": findings.facts, "settings": findings.settings, "own": own}


def plain(estimate: Estimate) -> dict:
    figure, change, spread, _ = estimate
    return {"figure": figure._asdict(), "change": change._asdict(), "spread": spread}


def row_of(content: dict, name: str) -> dict:
    (row,) = (row for row in content["rows"] if row["name"] == name)
    return row


def zeroed(lab: Path, neurons) -> tuple:
    """A model whose down-projection has zeros in the neurons' columns, and its tokenizer."""
    model = AutoModelForMaskedLM.from_pretrained(lab / "model").eval()
    for layer, index in neurons:
        model.bert.encoder.layer[layer].output.dense.weight.data[:, index] = 0
    return model, AutoTokenizer.from_pretrained(lab / "model")


def cluster_scores(model, tokenizer, lab: Path) -> tuple[list, list]:
    clusters = read_clusters(lab / "stereoset.json")
    scores = [
        [slow_clusters.masked_score(model, tokenizer, c.context, sentence, False) for sentence in c.sentences]
        for c in clusters
    ]
    return clusters, scores


def pair_scores(model, tokenizer, place: Path) -> tuple[list, list]:
    with (place / "crows.csv").open() as file:
        records = list(csv.DictReader(file))
    scores = [
        slow_pairs.masked_scores(model, tokenizer, r["sent_more"], r["sent_less"], r["stereo_antistereo"])
        for r in records
    ]
    return [record["bias_type"] for record in records], scores


@torch.no_grad()
def gaps_of_age(model, tokenizer) -> torch.Tensor:
    """Both gaps of each pair of age on the held-out prompts, one prompt at a time: [2, pair]."""
    gaps = []
    for prompt in make_prompts(["age"], list(words.MODIFIERS), 1, "held_out"):
        p = [probability(model, tokenizer, prompt.text, word) for word in words.DIMENSIONS["age"]]
        gaps.append([[abs(a - b) for a, b in pairwise(p)], [abs(math.log(a / b)) for a, b in pairwise(p)]])
    return torch.tensor(gaps, dtype=torch.float64).mean(0)


def percent(old: torch.Tensor, new: torch.Tensor) -> float:
    """The mean of the pairs' changes."""
    return 100 * float((new / old - 1).mean())


def probability(model, tokenizer, text: str, word: str) -> float:
    """Of a word in the slot: the product over its tokens, with a mask for each."""
    tokens = tokenizer.encode(word, add_special_tokens=False)
    ids = tokenizer(text.replace("{slot}", "[MASK]" * len(tokens)), return_tensors="pt")["input_ids"]
    place = ids[0].tolist().index(tokenizer.mask_token_id)
    every = model(input_ids=ids).logits[0].double().softmax(1)
    return math.prod(float(every[place + number, token]) for number, token in enumerate(tokens))


@torch.no_grad()
def text_perplexity(model, tokenizer, lab: Path) -> float:
    nats = []
    for sentence in read_sentences(str(lab / "text.txt"), "evaluation")[:5]:
        ids = tokenizer(sentence, return_tensors="pt")["input_ids"]
        for place in range(1, ids.shape[1] - 1):
            masked = ids.clone()
            masked[0, place] = tokenizer.mask_token_id
            nats.append(-float(model(input_ids=masked).logits[0, place].log_softmax(0)[ids[0, place]]))
    return math.exp(statistics.fmean(nats))


def test_rows_and_their_sizes(whole):
    content, output = whole
    assert [row["name"] for row in content["rows"]] == ROWS
    assert [row["neurons"] for row in content["rows"]] == [0, 4, 6, 2, len(EVERY), len(EVERY)]
    assert content["counts"] == {"clusters": 12, "pairs": 15, "held_out_prompts": 270, "sentences": 5}
    assert content["settings"]["seeds"] == 3
    assert set(row_of(content, "age")["gaps"]) == set(row_of(content, "untouched")["gaps"]) >= {"gender", "age"}
    assert {path.name for path in output.iterdir()} == {"side_effects", "side_effects.json", "side_effects.csv"}


def test_own_domains(whole):
    content, _ = whole
    assert set(content["own"]) == set(words.DIMENSIONS)
    assert content["own"]["ethnicity"] == {"stereoset": "race", "crows_pairs": "race-color", "gap": "ethnicity"}
    assert content["own"]["occupation"] == {
        "stereoset": "profession",
        "crows_pairs": "socioeconomic",
        "gap": "occupation",
    }
    assert content["own"]["politics"] == {"stereoset": None, "crows_pairs": None, "gap": "politics"}


@pytest.mark.parametrize("name", ["untouched", "gender", "age", "all"])
def test_stereoset_is_that_of_zeroed_weights(whole, lab, name):
    clusters, scores = cluster_scores(*zeroed(lab, {"untouched": [], "all": EVERY}.get(name, SETS.get(name))), lab)
    _, before = cluster_scores(*zeroed(lab, []), lab)
    found = row_of(whole[0], name)["stereoset"]
    assert list(found) == ["overall", "gender", "profession", "race"]
    for scope, of_scope in found.items():
        inside = [i for i, cluster in enumerate(clusters) if scope in ("overall", cluster.domain)]
        terms = [clusters[i].target for i in inside]
        expected = slow_clusters.metrics([scores[i] for i in inside], terms, "macro")
        ids = torch.tensor([sorted({c.target for c in clusters}).index(term) for term in terms])
        changes = paired_change(torch.tensor(before)[inside], torch.tensor(scores)[inside], ids)
        for metric, value in zip(("SS", "LMS", "ICAT"), expected, strict=True):
            assert of_scope[metric]["figure"]["value"] == pytest.approx(value, abs=1e-3)
            assert of_scope[metric]["change"] == pytest.approx(changes[metric]._asdict(), abs=1e-3)
            assert of_scope[metric]["spread"] is None
        ratio = log_ratio_change(torch.tensor(before)[inside], torch.tensor(scores)[inside], ids, "probability")
        by_term = {}
        for i, term in zip(inside, terms, strict=True):
            by_term.setdefault(term, []).append(math.log(scores[i][0] / scores[i][1]))
        value = statistics.fmean(map(statistics.fmean, by_term.values()))
        assert of_scope["SS log-ratio"]["figure"]["value"] == pytest.approx(value, abs=1e-4)
        assert of_scope["SS log-ratio"]["change"] == pytest.approx(ratio._asdict(), abs=1e-4)


@pytest.mark.parametrize("name", ["untouched", "ethnicity", "all"])
def test_crows_pairs_is_that_of_zeroed_weights(whole, lab, place, name):
    neurons = {"untouched": [], "all": EVERY}.get(name, SETS.get(name))
    categories, scores = pair_scores(*zeroed(lab, neurons), place)
    _, before = pair_scores(*zeroed(lab, []), place)
    found = row_of(whole[0], name)["crows_pairs"]
    assert set(found) == {"overall", "gender", "race-color", "age"}
    for scope, estimate in found.items():
        inside = [i for i, category in enumerate(categories) if scope in ("overall", category)]
        wins = [round(more, 3) > round(less, 3) for more, less in (scores[i] for i in inside)]
        assert estimate["figure"]["value"] == pytest.approx(100 * statistics.fmean(wins), abs=1e-3)
        change = crows_pairs_change(torch.tensor(before)[inside], torch.tensor(scores)[inside])
        assert estimate["change"]["value"] == pytest.approx(change.value, abs=1e-3)
        assert estimate["change"]["low"] <= estimate["change"]["value"] <= estimate["change"]["high"]
        assert estimate["spread"] is None
        ratio = row_of(whole[0], name)["log-ratios"][scope]
        expected = statistics.fmean(more - less for more, less in (scores[i] for i in inside))
        assert ratio["figure"]["value"] == pytest.approx(expected, abs=1e-3)
        change = crows_pairs_log_ratio_change(torch.tensor(before)[inside], torch.tensor(scores)[inside])
        assert ratio["change"] == pytest.approx(change._asdict(), abs=1e-3)


@pytest.mark.parametrize("name", ["gender", "age"])
def test_gaps_and_perplexity_are_those_of_zeroed_weights(whole, lab, name):
    before, after = zeroed(lab, []), zeroed(lab, SETS[name])
    found, untouched = (row_of(whole[0], row)["gaps"]["age"] for row in (name, "untouched"))
    keys = ("gap", "log gap")
    for key, old, new in zip(keys, gaps_of_age(*before), gaps_of_age(*after), strict=True):
        assert untouched[key]["figure"]["value"] == pytest.approx(float(old.mean()), rel=1e-4)
        assert untouched[key]["change"] == {"value": 0, "low": 0, "high": 0}
        change = found[key]["change"]
        assert change["value"] == pytest.approx(percent(old, new), rel=1e-3, abs=1e-3)
        assert change["low"] < change["value"] < change["high"]
        assert found[key]["spread"] is None
    text = row_of(whole[0], name)["perplexity"]
    old, new = text_perplexity(*before, lab), text_perplexity(*after, lab)
    assert text["figure"]["value"] == pytest.approx(new, rel=1e-4)
    assert text["change"]["value"] == pytest.approx(100 * (new / old - 1), abs=1e-2)
    assert text["change"]["low"] <= text["change"]["value"] <= text["change"]["high"]


def test_strengths_and_means_of_each_set_are_followed(lab, run, place, tmp_path):
    """The sets' own strengths; a subset's neurons may have others than they have in the whole set."""
    means = torch.randn(3, 48, generator=torch.Generator().manual_seed(0))
    graded = {(1, 1): 0.5, (2, 2): -3.0}
    age = NeuronSet(SETS["age"]).with_strengths(graded)
    plain = NeuronSet.load(place / "neurons.json").with_values(means.numpy())
    every = {neuron: (-1.0) ** number * (1 + number) / 4 for number, neuron in enumerate(EVERY)}
    neurons = plain.with_details({"age": age, "gender": SETS["gender"]}, plain.provenance).with_strengths(every)
    neurons.save(place / "graded.json")
    content = run(tmp_path, "graded.json", seeds=1)
    rows = {"age": graded, "gender": dict.fromkeys(SETS["gender"], 1.0), "all": every}
    rows["random"] = random_like(neurons, 0).strengths
    before = text_perplexity(*zeroed(lab, []), lab)
    for name, strengths in rows.items():
        model, tokenizer = zeroed(lab, [])
        for (layer, index), strength in strengths.items():
            dense = model.bert.encoder.layer[layer].output.dense
            dense.bias.data += dense.weight.data[:, index] * strength * means[layer, index]
            dense.weight.data[:, index] *= 1 - strength
        figure = row_of(content, name)["perplexity"]["figure"]["value"]
        assert figure == pytest.approx(text_perplexity(model, tokenizer, lab), rel=1e-4)
        assert figure != pytest.approx(before, rel=1e-4)


def test_random_row_is_the_mean_of_its_seeds(whole, lab, place):
    every = NeuronSet(EVERY, shape=(3, 48))
    controls = [random_like(every, seed) for seed in range(3)]
    assert all(control.layers() == every.layers() for control in controls)
    models = [zeroed(lab, control) for control in controls]
    found = row_of(whole[0], "random")
    seeds = [100 * statistics.fmean(m > s for m, s in pair_scores(*model, place)[1]) for model in models]
    overall = found["crows_pairs"]["overall"]
    assert overall["figure"]["value"] == pytest.approx(statistics.fmean(seeds), abs=1e-3)
    assert overall["spread"] == pytest.approx(statistics.stdev(seeds), abs=1e-3)
    base = gaps_of_age(*zeroed(lab, []))[0]
    changes = [percent(base, gaps_of_age(*model)[0]) for model in models]
    gap = found["gaps"]["age"]["gap"]
    assert gap["change"]["value"] == pytest.approx(statistics.fmean(changes), rel=1e-3)
    assert gap["spread"] == pytest.approx(statistics.stdev(changes), rel=1e-3)
    texts = [text_perplexity(*model, lab) for model in models]
    assert found["perplexity"]["figure"]["value"] == pytest.approx(statistics.fmean(texts), rel=1e-4)
    before = text_perplexity(*zeroed(lab, []), lab)
    percents = [100 * (text / before - 1) for text in texts]
    assert found["perplexity"]["spread"] == pytest.approx(statistics.stdev(percents), rel=1e-2)


def test_csv_holds_the_same_figures(whole):
    content, output = whole
    with (output / "side_effects.csv").open() as file:
        lines = {(line["row"], line["metric"], line["scope"]): line for line in csv.DictReader(file)}
    for row in content["rows"]:
        for scope, of_scope in row["stereoset"].items():
            line = lines[row["name"], "ICAT", scope]
            assert float(line["change_low"]) == of_scope["ICAT"]["change"]["low"]
        for scope, estimate in row["crows_pairs"].items():
            assert float(lines[row["name"], "CrowS-Pairs", scope]["value"]) == estimate["figure"]["value"]
        for scope, estimate in row["log-ratios"].items():
            line = lines[row["name"], "CrowS-Pairs log-ratio", scope]
            assert float(line["value"]) == estimate["figure"]["value"]
            assert line["unit"] == "nats"
        for dimension, gap in row["gaps"].items():
            line = lines[row["name"], "log gap", dimension]
            change = gap["log gap"]["change"]
            assert [float(line[f"change_{end}"]) for end in change] == list(change.values())
            assert line["unit"] == "percent"
        text = lines[row["name"], "perplexity", "overall"]
        assert float(text["change_high"]) == row["perplexity"]["change"]["high"]
    own = {key for key, line in lines.items() if line["own"] == "True"}
    domains = {("gender", "gender"), ("ethnicity", "race")}
    categories = {("gender", "gender"), ("ethnicity", "race-color"), ("age", "age")}
    expected = {(row, measure, scope) for row, scope in domains for measure in ("SS", "SS log-ratio", "LMS", "ICAT")}
    of_pairs = ("CrowS-Pairs", "CrowS-Pairs log-ratio")
    expected |= {(row, measure, scope) for row, scope in categories for measure in of_pairs}
    expected |= {(row, measure, row) for row in ("gender", "ethnicity", "age") for measure in ("gap", "log gap")}
    assert own == expected


def test_what_is_printed(whole, run, capsys):
    content, output = whole
    run(output, seeds=3)
    printed = capsys.readouterr().out
    tables = printed[printed.index("SS (ideal") : printed.index("Results written to")]
    assert max(map(len, tables.splitlines())) <= 80
    assert "…" not in tables
    assert tables.count("▸") == 2 * 4 + 3 * 2 + 3 * 2 + 1  # StereoSet, CrowS-Pairs, gaps, and the legend
    marked = [
        change["low"] > 0 or change["high"] < 0
        for row in content["rows"]
        for change in [
            *(metric["change"] for of_scope in row["stereoset"].values() for metric in of_scope.values()),
            *(estimate["change"] for key in ("crows_pairs", "log-ratios") for estimate in row[key].values()),
            *(gap["change"] for gaps in row["gaps"].values() for gap in gaps.values()),
        ]
    ]
    assert tables.count("*") == sum(marked) + 1
    assert f"▸{row_of(content, 'ethnicity')['stereoset']['race']['SS']['change']['value']:+.1f}" in tables
    own = row_of(content, "ethnicity")["stereoset"]["race"]["SS log-ratio"]["change"]["value"]
    assert f"▸{100 * own:+.1f}" in tables
    assert "CrowS-Pairs log-ratio (ideal: 0), in 1/100 nats" in tables
    assert f"{row_of(content, 'all')['perplexity']['figure']['value']:.2f}" in tables


def test_a_second_run_computes_nothing(whole, run, monkeypatch):
    content, output = whole
    times = {path: path.stat().st_mtime_ns for path in (output / "side_effects").iterdir()}
    assert len(times) == 8 * 4  # of five rows and three seeds: StereoSet, CrowS-Pairs, gaps, text

    def never(*_, **__):
        raise AssertionError("computed again")

    for name in ("score_clusters", "negative_log_likelihoods", "score_pairs", "demographic_gaps"):
        monkeypatch.setattr(f"biaslab.evaluation.measures.{name}", never)
    assert run(output, seeds=3)["rows"] == content["rows"]
    assert {path: path.stat().st_mtime_ns for path in (output / "side_effects").iterdir()} == times


def test_a_killed_run_goes_on(whole, run, tmp_path, monkeypatch):
    from biaslab.evaluation import measures

    real, calls = measures.demographic_gaps, []

    def killed_at_the_third(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(measures, "demographic_gaps", killed_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, seeds=3)
    assert not (tmp_path / "side_effects.json").exists()
    kept = list((tmp_path / "side_effects").iterdir())
    assert len(kept) == 2 * 4 + 2
    times = {path: path.stat().st_mtime_ns for path in kept}
    damaged = next(path for path in kept if path.name.startswith("crows_pairs-"))
    damaged.write_bytes(damaged.read_bytes()[:50])
    assert run(tmp_path, seeds=3)["rows"] == whole[0]["rows"]
    assert all(path.stat().st_mtime_ns == time for path, time in times.items() if path != damaged)


def test_other_settings_are_measured_anew_and_the_untouched_model_is_not(run, tmp_path):
    first = run(tmp_path, dimensions=["gender"], seeds=1)
    kept = set((tmp_path / "side_effects").iterdir())
    second = run(tmp_path, dimensions=["gender"], seeds=1, factor=0.5, positions="slot")
    assert len(set((tmp_path / "side_effects").iterdir()) - kept) == 3 * 4  # gender, all, random
    assert [row["name"] for row in second["rows"]] == ["untouched", "gender", "all", "random"]
    assert row_of(first, "untouched") == row_of(second, "untouched")
    assert row_of(first, "gender")["perplexity"] != row_of(second, "gender")["perplexity"]
    assert row_of(second, "random")["crows_pairs"]["overall"]["spread"] is None


def test_factor_one_changes_nothing(run, tmp_path):
    content = run(tmp_path, dimensions=["gender/female-male"], seeds=1, factor=1.0)
    for row in content["rows"]:
        assert row["stereoset"]["overall"]["ICAT"]["change"] == {"value": 0, "low": 0, "high": 0}
        assert row["crows_pairs"]["overall"]["change"] == {"value": 0, "low": 0, "high": 0}
        assert row["gaps"]["gender"]["log gap"]["change"]["value"] == 0
    assert content["own"]["gender/female-male"] == {"stereoset": "gender", "crows_pairs": "gender", "gap": "gender"}


def test_only_every_so_many_th_cluster(run, tmp_path):
    content = run(tmp_path, dimensions=[], seeds=1, every=5)
    assert content["counts"]["clusters"] == 3
    assert content["counts"]["pairs"] == 3  # every fifth pair of the file, not batches of like lengths
    assert [row["name"] for row in content["rows"]] == ["untouched", "all", "random"]


def test_results_lie_beside_the_neuron_file(run, place):
    run(None, dimensions=[], seeds=1)
    assert (place / "side_effects.csv").exists()
    assert (place / "side_effects").is_dir()


def test_a_causal_model_and_a_file_without_a_shape(run, place, tmp_path):
    tokenizer = bpe_tokenizer(masked=False)
    make_model("gpt2", len(tokenizer)).save_pretrained(tmp_path / "causal")
    tokenizer.save_pretrained(tmp_path / "causal")
    NeuronSet([(0, 1), (2, 40)]).with_details({"age": [(1, 1)]}).save(place / "plain.json")
    content = run(tmp_path, "plain.json", model=str(tmp_path / "causal"), seeds=1)
    assert [row["neurons"] for row in content["rows"]] == [0, 1, 2, 2]
    assert row_of(content, "age")["perplexity"]["change"]["value"] != 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "`seeds` is expected to be a positive integer but got 0"),
        ({"sentences": -1}, "`sentences` is expected to be a positive integer"),
        ({"every": 0}, "`every` is expected to be a positive integer"),
        ({"positions": "slots"}, "`positions` is expected to be"),
        (
            {"dimensions": ["politics"]},
            r"subsets of the neuron file \(gender, ethnicity, age, gender/female-male\) but got 'politics'",
        ),
        ({"neurons": "none.json"}, "`neurons` is expected to be a neuron file"),
        ({"neurons": "nameless.json"}, "`model` is expected because"),
        ({"neurons": "other.json"}, "`neurons` is expected to be made for this model"),
        ({"crows_pairs": "nowhere.csv"}, "`path` is expected to be a CrowS-Pairs file"),
        ({"text": "short.txt"}, "`text` is expected to have evaluation sentences"),
    ],
)
def test_bad_input_leaves_no_folder(lab, place, run, tmp_path, options, message):
    NeuronSet(EVERY, shape=(3, 48)).save(place / "nameless.json")
    strange = {"model": {"name": str(lab / "model"), "fingerprint": "0" * 16}}
    NeuronSet(EVERY, shape=(3, 48)).with_details(provenance=strange).save(place / "other.json")
    (place / "short.txt").write_text("nothing\n")
    if "text" in options:
        options = options | {"text": str(place / options["text"])}
    with pytest.raises(InputError, match=message):
        run(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def made(figures: dict[tuple[str, str, str], tuple[float, float]], own: dict[str, str], half: float = 1.0) -> Findings:
    """Findings of a value and a change each, whose intervals reach so far; ``own`` is each row's own scope."""
    names = dict.fromkeys(row for row, _, _ in figures)
    estimates = {
        key: Estimate(Interval(value, value, value), Interval(change, change - half, change + half))
        for key, (value, change) in figures.items()
    }
    facts = {"clusters": 2106, "pairs": 1508, "held_out_prompts": 1350, "sentences": 200}
    homes = {row: {"stereoset": scope, "crows_pairs": scope, "gap": scope} for row, scope in own.items()}
    rows = [Row(name, name, 4) for name in names]
    return Findings("side-effects", "tiny", {}, facts, rows, estimates, {"own": homes})


FIGURES = {
    ("untouched", "overall"): (99, 0), ("untouched", "gender"): (60, 0), ("untouched", "race"): (45, 0),
    ("gender", "overall"): (99, 0), ("gender", "gender"): (52, -8), ("gender", "race"): (52, 7),
    ("all", "overall"): (99, 0), ("all", "gender"): (70, 10), ("all", "race"): (45, 0),
    ("random", "overall"): (99, 0), ("random", "gender"): (45, -15), ("random", "race"): (44, -1),
}  # fmt: skip


def test_the_diagonal_counts_the_distance_from_50():
    findings = made(
        {(row, metric, scope): f for metric in ("SS", "ICAT") for (row, scope), f in FIGURES.items()},
        {"gender": "gender"},
    )
    assert diagonal(findings, "SS") == ([-8], [-3], [-5, 1])
    assert diagonal(findings, "ICAT") == ([-8], [7], [-15, -1])
    assert diagonal(findings, "LMS") == ([], [], [])


def test_the_diagonal_of_a_log_ratio_counts_the_distance_from_0():
    """To the other side, and back, as far as the change goes or less."""
    values = {
        ("untouched", "overall"): (0.5, 0), ("untouched", "gender"): (0.5, 0), ("untouched", "race"): (-0.25, 0),
        ("gender", "overall"): (0.5, 0), ("gender", "gender"): (-0.125, -0.625), ("gender", "race"): (-0.5, -0.25),
        ("random", "overall"): (0.5, 0), ("random", "gender"): (0.75, 0.25), ("random", "race"): (0.25, 0.5),
    }  # fmt: skip
    names = ("SS log-ratio", "CrowS-Pairs log-ratio")
    figures = {(row, metric, scope): f for metric in names for (row, scope), f in values.items()}
    findings = made(figures, {"gender": "gender"})
    for metric in names:
        assert diagonal(findings, metric) == ([-0.375], [0.25], [0.25, 0])
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(_summary(findings))
    lines = [line.split() for line in console.export_text().splitlines() if "nats" in line]
    assert [line[-3:] for line in lines] == [["-37.5", "+25.0", "+12.5"]] * 2


@pytest.mark.parametrize(("low", "high", "marked"), [(0.1, 2, True), (-2, -0.1, True), (-1, 2, False), (0, 2, False)])
def test_what_is_marked(low, high, marked):
    assert Interval(1, low, high).excludes_zero is marked
    assert not Interval(1, math.nan, math.nan).excludes_zero


def test_all_nine_dimensions_with_large_changes_fit_80_columns():
    """The widest case: every row, scope and mark, numbers of three digits."""
    categories = ["overall", "physical-appearance", "sexual-orientation", *(f"category-{n}" for n in range(7))]
    domains, dimensions = ["overall", "gender", "profession", "race", "religion"], list(words.DIMENSIONS)
    scopes = {"SS": domains, "LMS": domains, "ICAT": domains, "CrowS-Pairs": categories, "perplexity": ["overall"]}
    scopes |= {"SS log-ratio": domains, "CrowS-Pairs log-ratio": categories}
    scopes |= {"gap": ["overall", *dimensions], "log gap": ["overall", *dimensions]}
    figures = {
        (row, metric, scope): (-1.0, -1.0) if "ratio" in metric else (0.1 if metric == "gap" else 100, -100)
        for row in ["untouched", *words.DIMENSIONS]
        for metric, places in scopes.items()
        for scope in places
    }
    console = Console(width=80, record=True, file=io.StringIO())
    print_tables(console, made(figures, {"gender": "gender"}, half=0.5))
    text = console.export_text()
    assert "…" not in text
    assert (text.count("-100.0*"), text.count("-100*")) == (9 * (15 + 5), 9 * (10 + 10 + 18))
