"""Further benchmarks by name in the commands that judge: in files, tables, report, TensorBoard and the model card."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from conftest import NAMES, main
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from biaslab.data.crows_pairs import CrowsPairsDataModule
from biaslab.errors import InputError
from biaslab.evaluation.benchmarks import BENCHMARKS, benchmark_of, measures_of
from biaslab.evaluation.evaluate import evaluate
from biaslab.evaluation.findings import METRICS, Findings
from biaslab.evaluation.measures import CrowsPairs
from biaslab.evaluation.treatment import BASE, Arm
from biaslab.models.loading import load_model

CROWS = ["CrowS-Pairs", "CrowS-Pairs log-ratio"]


@pytest.fixture
def crows(tiny_cache, tmp_path: Path) -> Path:
    """A cache in which CrowS-Pairs is tiny too."""
    path = tmp_path / "cache" / "crows-pairs" / "crows_pairs_anonymized.csv"
    path.parent.mkdir()
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", "sent_more", "sent_less", "stereo_antistereo", "bias_type"])
        for number, name in enumerate(NAMES):
            more, less = (f"the {one} woman loves the {name} ." for one in ("old", "young"))
            writer.writerow([number, more, less, ("stereo", "antistereo")[number % 2], ("age", "gender")[number % 2]])
    return path


def debias(lab: Path, *more: str) -> Findings:
    main(
        [
            "debias", "--model", str(lab / "model"), "--source", "prompts", "--contrast", str(lab / "text.txt"),
            "--text", str(lab / "text.txt"), "--stereoset", str(lab / "stereoset.json"), "--dimensions", "[gender]",
            "--modifiers", "1", "--steps", "2", "--seeds", "3", "--sentences", "3", "--count", "3", *more,
        ]
    )  # fmt: skip
    return Findings.load(Path("runs/debias/version_0/results.json"))


def test_debias_asks_further_benchmarks_of_what_matters(lab, workdir, crows, capsys):
    """Of the untouched model, of suppression and of two random controls, as a measurement by itself finds them."""
    findings = debias(lab, "--measures", "[stereoset, crows-pairs]")
    assert findings.by_benchmark() == {"crows-pairs": CROWS}
    assert [row.name for row in findings.rows_of(CROWS[0])] == ["untouched", "BNS, balanced", "random, 3 seeds"]
    assert findings.get("random, 3 seeds", CROWS[0]).spread is not None
    assert findings.scopes(CROWS[0]) == ["overall", "age", "gender"]
    model, tokenizer = load_model(str(lab / "model"))
    (measure,) = measures_of(["crows-pairs"], str(lab / "model"))
    alone = evaluate(model, tokenizer, [Arm(BASE)], [measure]).estimates()
    for name in CROWS:
        assert findings.get("untouched", name).figure == alone[BASE, name, "overall"].figure
    printed = capsys.readouterr().out
    assert "Benchmark crows-pairs: value [95 %], change [95 %]" in printed
    assert "{:+.3f} [{:+.3f}, {:+.3f}]".format(*findings.get("BNS, balanced", CROWS[1]).change) in printed
    assert max(len(line) for line in printed.splitlines() if "|" not in line) <= 80
    accumulator = EventAccumulator("runs/debias/version_0")
    accumulator.Reload()
    (event,) = accumulator.Scalars("CrowS-Pairs/overall/BNS, balanced")
    assert event.value == pytest.approx(findings.get("BNS, balanced", CROWS[0]).figure.value)


def test_the_report_and_the_card_have_them(lab, workdir, crows):
    findings = debias(lab, "--measures", "[crows-pairs]")
    main(["report", "runs/debias/version_0"])
    page = next(Path().rglob("*.html")).read_text()
    assert "Other benchmarks" in page
    assert "CrowS-Pairs log-ratio, by part" in page
    assert "Nangia et al., 2020" in page
    folder = "runs/debias/version_0/neurons.json"
    main(["bake", f"--model={lab / 'model'}", f"--neurons={folder}", "--output=baked"])
    (line,) = [line for line in Path("baked/README.md").read_text().splitlines() if line.startswith("| CrowS-Pairs: ")]
    assert "{:.1f}".format(findings.get("untouched", CROWS[0]).figure.value) in line


def test_without_them_nothing_is_added(lab, workdir, crows):
    findings = debias(lab)
    assert findings.by_benchmark() == {}
    assert not findings.rows_of(CROWS[0])


def test_the_table_and_the_sweep_report_them(lab, workdir, crows, few_prompts):
    few = ["--model", str(lab / "model"), "--text", str(lab / "text.txt"), "--sentences", "3", "--seeds", "3"]
    main(["table", *few, "--rows", "[bns_paper, random_bns]", "--limit", "5", "--measures", "[crows-pairs]"])
    table = Findings.load(next(Path("runs/table").rglob("table.json")))
    assert [row.name for row in table.rows_of(CROWS[0])] == ["base", "bns_paper", "random_bns"]
    assert (
        "| CrowS-Pairs | change, points | CrowS-Pairs log-ratio | change, nats |"
        in next(Path("runs/table").rglob("table.md")).read_text()
    )
    grid = ["--selections", "[ranked]", "--guards", "[stereoset]", "--counts", "[3]", "--factors", "[0.0]"]
    main(["sweep", *few, *grid, "--limit", "5", "--measures", "[crows-pairs]"])
    sweep = Findings.load(next(Path("runs/sweep").rglob("sweep.json")))
    assert len(sweep.rows_of(CROWS[0])) == 3
    assert "CrowS-Pairs" not in json.dumps(sweep.details)


def test_a_benchmark_that_cannot_be_asked_is_left_out(lab, tmp_path, monkeypatch, caplog):
    """A masked model without a next-sentence head."""
    cache = tmp_path / "cache" / "stereoset"
    cache.mkdir(parents=True)
    content = json.loads((lab / "stereoset.json").read_text())
    sentences = content["data"]["intrasentence"]
    content["data"]["intersentence"] = sentences
    (cache / "dev.json").write_text(json.dumps(content))
    monkeypatch.setenv("BIASLAB_CACHE", str(cache.parent))
    assert measures_of(["stereoset-intersentence"], str(lab / "model")) == []
    assert "Skipping the benchmark stereoset-intersentence: `model_name` is expected to be a causal" in caplog.text


def test_an_unknown_benchmark(lab):
    with pytest.raises(InputError, match=r"`measures` is expected to be one or more of stereoset, .*got winobais"):
        measures_of(["winobais"], str(lab / "model"))
    with pytest.raises(InputError, match="`data` is expected to "):
        benchmark_of(object())


def test_a_subclass_of_a_benchmarks_data_is_the_benchmarks():
    class Own(CrowsPairsDataModule):
        pass

    assert benchmark_of(Own("model")) == ("crows-pairs", CrowsPairs)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_has_its_classes(name):
    assert hasattr(BENCHMARKS[name].data_class(), "test_dataloader")
    assert BENCHMARKS[name].measure_class().columns > 0


def test_every_metric_of_a_benchmark_is_known():
    for benchmark in BENCHMARKS.values():
        assert benchmark.metrics.items() <= METRICS.items()
