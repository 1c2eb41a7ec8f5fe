"""Findings: what is written is read, other versions and damage are told, unknown numbers stay unknown."""

import json
import math

import pytest

from biaslab.errors import InputError
from biaslab.evaluation.findings import FILES, SCHEMA, Findings, Row, write_csv
from biaslab.statistics import Estimate, Interval


@pytest.fixture
def findings() -> Findings:
    rows = [Row("untouched", "untouched"), Row("chosen", "+ chosen", 3, ({"neurons": "a0", "factor": 0.0},), None, 2.5),
            Row("random", "random", 3, ({}, {}), "chosen")]  # fmt: skip
    nothing = Interval(math.nan, math.nan, math.nan)
    estimates = {
        ("untouched", "ICAT", "overall"): Estimate(Interval(70, 65, 75), Interval(0, 0, 0)),
        ("chosen", "ICAT", "overall"): Estimate(Interval(76, 70, 80), Interval(6, 4, 8), None, Interval(5, 3, 7)),
        ("chosen", "ICAT", "race"): Estimate(nothing, nothing, 0.5),
        ("chosen", "gap", "overall"): Estimate(Interval(0.1, 0.05, 0.2), Interval(-80, -90, -70)),
    }
    return Findings(
        "debias", "tiny", {"kinds": ("a", "b"), "count": None}, {"clusters": 12}, rows, estimates, {"x": [1]}
    )


def test_what_is_saved_is_read(findings, tmp_path):
    path = findings.save(tmp_path)
    assert path.name == FILES["debias"] == "results.json"
    read = Findings.load(path)
    assert (read.command, read.model, read.facts, read.details) == ("debias", "tiny", {"clusters": 12}, {"x": [1]})
    assert read.settings == {"kinds": ["a", "b"], "count": None}
    assert [(row.name, row.title, row.size, row.like, row.seconds) for row in read.rows] == [
        (row.name, row.title, row.size, row.like, row.seconds) for row in findings.rows
    ]
    assert read.row("chosen").treatments == [{"neurons": "a0", "factor": 0.0}]
    assert len(read.row("random").treatments) == 2
    for key, estimate in findings.estimates.items():
        assert str(read.estimates[key]) == str(estimate)  # as text: NaN is not NaN
    assert read.control("chosen").name == "random"
    assert read.scopes("ICAT") == ["overall", "race"]
    assert [row.name for row in read.rows_of("gap")] == ["chosen"]
    assert read.get("untouched", "gap") is None


def test_an_unknown_number_is_null_and_an_empty_cell(findings, tmp_path):
    path = findings.save(tmp_path)
    assert "NaN" not in path.read_text()
    write_csv(tmp_path / "lines.csv", findings.lines(["ICAT"]))
    header, *lines = (tmp_path / "lines.csv").read_text().splitlines()
    assert header.startswith("row,metric,scope,unit,value,low,high,change_value")
    assert lines[-1] == "chosen,ICAT,race,points,,,,,,,,,,0.5"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda content: {**content, "schema": SCHEMA + 1},
            f"schema {SCHEMA}.*has schema {SCHEMA + 1}. Run its command",
        ),
        (lambda content: {"rows": {}}, "has schema None"),
        (lambda content: [], "has schema None"),
        (lambda content: {key: value for key, value in content.items() if key != "facts"}, "is incomplete: 'facts'"),
        (lambda content: {**content, "estimates": [{"row": "x"}]}, "is incomplete"),
    ],
)
def test_other_versions_and_damage_are_told(findings, tmp_path, change, message):
    path = findings.save(tmp_path)
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(InputError, match=message):
        Findings.load(path)
    path.write_text("{")
    with pytest.raises(InputError, match="can't be read"):
        Findings.load(path)
