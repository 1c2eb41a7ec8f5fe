"""Folders of runs with made-up figures, for the tests of reports: any outcome can be had."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from biaslab.evaluation.findings import Findings, Row
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.statistics import Estimate, Interval

DOMAINS = ("gender", "race")
BEFORE = {"SS": 58.0, "LMS": 84.0, "ICAT": 70.0}
GOOD = {"SS": (-3.0, 1.0), "LMS": (2.0, 1.0), "ICAT": (6.0, 2.0)}  # change, half the interval
BAD = {"SS": (3.0, 1.0), "LMS": (-2.0, 1.0), "ICAT": (-6.0, 2.0)}
NONE = {"SS": (1.0, 2.0), "LMS": (-0.5, 1.0), "ICAT": (0.5, 2.0)}
PAST = {"SS": (-12.0, 2.0), "LMS": (0.0, 1.0), "ICAT": (3.0, 2.0)}
Outcome = dict[str, tuple[float, float]]
SAME: Outcome = dict.fromkeys(BEFORE, (0.0, 0.0))
Estimates = dict[tuple[str, str, str], Estimate]
NOTHING = Estimate(Interval(*[math.nan] * 3), Interval(*[math.nan] * 3))


def around(value: float, half: float) -> Interval:
    return Interval(value, value - half, value + half)


def estimate(
    before: float, change: float, half: float, spread: float | None = None, beyond: float | None = None
) -> Estimate:
    """Return an estimate; ``beyond`` is the difference from random neurons, if that is known."""
    beyond_random = None if beyond is None else around(beyond, half)
    return Estimate(around(before + change, 3), around(change, half), spread, beyond_random)


def percent(
    before: float, change: float, half: float, spread: float | None = None, beyond: float | None = None
) -> Estimate:
    after = before * (1 + change / 100)
    return Estimate(
        around(after, after / 10), around(change, half), spread, None if beyond is None else around(beyond, half)
    )


def scopes(row: str, outcome: Outcome, spread: float | None = None, beyond: bool = False) -> Estimates:
    return {
        (row, name, scope): estimate(BEFORE[name], *outcome[name], spread, outcome[name][0] - 0.1 if beyond else None)
        for scope in ("overall", *DOMAINS)
        for name in BEFORE
    }


def text(row: str, change: float = 0.0, half: float = 1.0, spread: float | None = None) -> Estimates:
    return {(row, "perplexity", "overall"): percent(40.0, change, half, spread)}


def knowledge(
    row: str, change: float = 0.0, half: float = 0.0, spread: float | None = None, beyond: float | None = None
) -> Estimates:
    """Return the knowledge of a row: change in points and half the interval."""
    own = estimate(75.0, change, half, spread, beyond)
    return {(row, "knowledge", scope): own for scope in ("overall", "gender", "religion")}


def log_ratios(
    row: str, change: float = 0.0, half: float = 0.0, metric: str = "SS log-ratio", places: tuple[str, ...] = DOMAINS
) -> Estimates:
    """Return a log-ratio of a row, overall and by place: change in nats and half the interval."""
    own = Estimate(around(0.4 + change, 0.15), around(change, half), 0.0123 if row.startswith("random") else None)
    return {(row, metric, scope): own for scope in ("overall", *places)}


PAIRS = ("gender/female-male", "race/black-white")


def gaps(
    row: str, changes: Mapping[str, tuple[float, float]], spread: float | None = None, beyond: float | None = None
):
    """Return both gaps of a row in each scope: change in percent and half the interval, by metric."""
    before = {"gap": 0.1, "log gap": 1.5}
    return {
        (row, metric, scope): percent(before[metric], *changes[metric], spread, beyond)
        for metric in before
        for scope in ("overall", *DOMAINS, *PAIRS)
    }


ATTRIBUTION = {
    "attribution": "32 prompts", "dropped": {"gender/a-b": "'a': not one known token"}, "prompts": 32,
    "held_out_prompts": 8, "sentences": 1200, "residual": {"mean": 0.1, "worst": 0.2}, "seconds": 5,
    "neurons": {"count": 3, "fingerprint": "a0", "by_layer": {"0": 1, "1": 2}},
}  # fmt: skip


def debias_findings(
    outcome: Outcome = GOOD,
    perplexity: float = 7.0,
    model: str = "tiny",
    clusters: int = 50,
    gap: float = -80.0,
    amplified: float = 160.0,
    beyond: float = -81.0,
    known: tuple[float, float] | None = None,
    ratio: tuple[float, float] | None = None,
    **settings: Any,
) -> Findings:
    own, random = "BNS, guarded", "random, 2 seeds"
    rows = [
        Row("untouched", "untouched"), Row(own, own, 3), Row("BNS, paper", "BNS, paper", 2),
        Row(random, random, 3, like=own), Row(f"{own} ×2", f"{own} ×2", 3, [{"factor": 2.0}]),
    ]  # fmt: skip
    unchanged = dict.fromkeys(("gap", "log gap"), (0.0, 0.0))
    change, half = known or (2 * value for value in outcome["LMS"])
    estimates = {
        **scopes("untouched", SAME), **scopes(own, outcome, beyond=True), **scopes("BNS, paper", NONE),
        **scopes(random, dict.fromkeys(BEFORE, (0.1, 0.5)), 0.4),
        **text("untouched"), **text(own, perplexity), **text("BNS, paper", 3.0), **text(random, 2.0),
        **knowledge("untouched"), **knowledge(own, change, half, beyond=change + 0.5),
        **knowledge("BNS, paper", -3.5, 1.0), **knowledge(random, -0.5, 1.5, 0.6),
        **gaps("untouched", unchanged), **gaps(own, {"gap": (gap, 5.0), "log gap": (gap / 10, 5.0)}, beyond=beyond),
        **gaps(random, dict.fromkeys(unchanged, (1.0, 5.0)), 3.0),
        **gaps(f"{own} ×2", {"gap": (amplified, 5.0), "log gap": (amplified / 10, 5.0)}),
    }  # fmt: skip
    if ratio is not None:  # as earlier versions wrote none
        estimates |= log_ratios("untouched") | log_ratios(own, *ratio)
        estimates |= log_ratios("BNS, paper", 0.01, 0.02) | log_ratios(random, 0.0, 0.03)
    arguments = {
        "model": model, "selection": "guarded", "contrast": ["stereoset", "bold"], "count": None, "guard_weight": 3.0,
        "dimensions": ["gender", "ethnicity"], "factor": 0.0, "positions": "all", "seeds": 2,
        "trust_remote_code": False,
    }  # fmt: skip
    facts = ATTRIBUTION | {"clusters": clusters, "knowledge_sentences": 150}
    return Findings("debias", model, arguments | settings, facts, rows, estimates)


def debias(folder: Path, *arguments: Any, model: str = "tiny", **options: Any) -> Path:
    folder.mkdir(parents=True)
    debias_findings(*arguments, model=model, **options).save(folder)
    neurons = NeuronSet([(0, 1), (1, 0), (1, 3)], shape=(2, 4)).with_details(
        {"gender": [(0, 1)], "gender/female-male": [(0, 1)]},
        {
            "model": {"name": model, "fingerprint": "f00d"},
            "data": {"fingerprint": "beef"},
            "versions": {"biaslab": "0.1.0"},
        },
    )
    neurons.save(folder / "neurons.json")
    scores = torch.rand(2, 2, 4, generator=torch.Generator().manual_seed(0))
    save_file({"scores": scores}, folder / "scores.safetensors", {"pairs": "[]"})
    return folder


def table_findings(
    model: str = "tiny", outcomes: dict[str, Outcome] | None = None, limit: int | None = None
) -> Findings:
    outcomes = outcomes or {"bns_paper": NONE, "bns_guarded": GOOD, "dpce": BAD, "random_bns": NONE}
    rows, estimates = [], {}
    for name, outcome in {"base": SAME, **outcomes}.items():
        rows.append(Row(name, name if name == "base" else f"+ {name}", 3, seconds=1.5))
        estimates |= scopes(name, outcome) | text(name, 0.0 if name == "base" else 5.0)
        estimates |= knowledge(name, *(2 * value for value in outcome["LMS"]))
    details = {
        "left_out": {"cda": "needs a masked language model"},
        "paper": {
            "model": "bert-base-cased",
            "rows": {
                "base": {"ss": 56.9, "lms": 87.3, "icat": 75.2},
                "bns_paper": {"ss": 52.8, "lms": 86.6, "icat": 81.8},
            },
        },
    }
    settings = {"model": model, "preset": "small", "text": "bold", "limit": limit}
    facts = {"clusters": 50, "sentences": 9, "knowledge_sentences": 150}
    return Findings("table", model, settings, facts, rows, estimates, details)


def table(folder: Path, *arguments: Any, **options: Any) -> Path:
    folder.mkdir(parents=True)
    table_findings(*arguments, **options).save(folder)
    return folder


def comparison(
    folder: Path, p_value: float = 0.001, shift: float = 0.5, same: bool = True, model: str | None = "tiny"
) -> Path:
    folder.mkdir(parents=True)
    overlap = {
        "shared": 2, "only_a": 1, "only_b": 1, "jaccard": 0.5, "expected_shared": 0.7, "expected_shared_low": 0,
        "expected_shared_high": 2, "p_value": p_value,
    }  # fmt: skip
    facts = {
        "count_a": 3, "count_b": 3, **(overlap if same else dict.fromkeys(overlap)), "layers_a": [1, 2],
        "layers_b": [0, 3], "mean_layer_a": 0.67, "mean_layer_b": 1.0, "shift": shift, "shift_low": shift - 0.3,
        "shift_high": shift + 0.3, "moved_share": 0.33, "moved_low": 0.1, "moved_high": 0.6, "moved_p_value": p_value,
        "shift_p_value": p_value,
    }  # fmt: skip
    empty = {name: None if not name.startswith(("count", "layers")) else value for name, value in facts.items()}
    sides = {side: {"name": f"{side}.json", "neurons": f"{side}.json", "model": model} for side in "ab"}
    settings = {"a": "a.json", "b": "b.json", "preset": "small"}
    details = sides | {"same_neurons": same, "notes": [], "scopes": {"overall": facts, "gender": empty}}
    Findings("compare", "a.json and b.json", settings, details=details).save(folder)
    return folder


def probe(folder: Path, change: float = -5.0, half: float = 2.0, beyond: float = -5.2) -> Path:
    folder.mkdir(parents=True)
    rows, estimates, metrics = [], {}, ("biased outputs", "mass difference")
    for name, size, by, width in (
        ("untouched", 0, 0.0, 0.0), ("BNS ×0", 3, change, half), ("random, 2 seeds", 3, 0.2, 1.0),
    ):  # fmt: skip
        rows.append(Row(name, name, size, like="BNS ×0" if name.startswith("random") else None))
        own = estimate(9.0, by, width, beyond=beyond if name == "BNS ×0" else None)
        for metric in metrics:
            estimates |= {(name, metric, scope): own for scope in ("overall", "One", "Two")}
    over = {"deviation": 2.0, "low": 1.0, "high": 12.0, "chance": 3.0}
    details = {
        "definition": "What it is.",
        "wordings": ["One", "Two"],
        "over_wordings": {row.name: dict.fromkeys(metrics, over) for row in rows},
    }
    settings = {"model": "tiny", "neurons": "n.json"}
    Findings("probe", "tiny", settings, {"texts": 4}, rows, estimates, details).save(folder)
    return folder


def sweep(folder: Path) -> Path:
    folder.mkdir(parents=True)

    def trial(selection: str, factor: float | None, *figures: float) -> dict[str, Any]:
        figures_of = dict(zip(("SS", "LMS", "ICAT", "perplexity"), figures, strict=True))
        positions = None if factor is None else "all"
        return {"selection": selection, "factor": factor, "positions": positions, "neurons": 3, **figures_of}

    trials = [
        trial("untouched", None, 58.0, 84.0, 70.5, 40.0),
        trial("guarded-3", 0.0, 55.0, 85.0, 75.0, 42.0),
        trial("guarded-5", 0.5, 56.0, 84.5, 73.0, 41.0),
    ]
    random = "random, 2 seeds"
    rows = [Row("untouched", "untouched"), Row("chosen", "chosen", 3), Row(random, random, 3, like="chosen")]
    estimates = {
        **scopes("untouched", SAME), **scopes("chosen", GOOD, beyond=True), **scopes(random, NONE),
        **text("untouched"), **text("chosen", 5.0), **text(random, 1.0),
    }  # fmt: skip
    settings = {"model": "tiny", "guards": ["stereoset+bug"]}
    Findings("sweep", "tiny", settings, {}, rows, estimates, {"trials": trials, "chosen": trials[1]}).save(folder)
    return folder


def effects(folder: Path, ratio: tuple[float, float] | None = None) -> Path:
    """Write side_effects.json beside what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, estimates = [], {}
    for name, outcome in {"untouched": SAME, "gender": GOOD, "ethnicity": NONE, "all": BAD, "random": NONE}.items():
        rows.append(Row(name, name, 0 if name == "untouched" else 3, like="all" if name == "random" else None))
        estimates |= scopes(name, outcome) | text(name, 3.0) | gaps(name, {"gap": (-50.0, 7.0), "log gap": (-5.0, 1.0)})
        estimates |= {(name, "CrowS-Pairs", scope): estimate(60.0, *outcome["SS"]) for scope in ("overall", "age")}
        if ratio is not None:
            change = (0.0, 0.0) if name == "untouched" else ratio
            estimates |= log_ratios(name, *change) | log_ratios(name, *change, "CrowS-Pairs log-ratio", ("age",))
    own = {
        "gender": {"stereoset": "gender", "crows_pairs": "gender"},
        "ethnicity": {"stereoset": "race", "crows_pairs": None},
    }
    settings = {"neurons": "n.json", "text": "bold", "every": 2}
    facts = {"clusters": 50, "pairs": 40, "held_out_prompts": 8, "sentences": 9}
    Findings("side-effects", "tiny", settings, facts, rows, estimates, {"own": own}).save(folder)
    return folder


def cards(folder: Path, count: int = 8) -> Path:
    """Write cards.json beside what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    card = {
        "layer": 1, "score": 0.25, "scores": {"gender/female-male": 0.25},
        "prompts": [{"text": "The <kind> one is [MASK].", "activation": -1.5}],
        "promotes": [{"word": "woman", "change": 0.5}], "lowers": [{"word": "man", "change": -0.5}],
    }  # fmt: skip
    details = {"fingerprint": "f00d", "method": "How they are made."}
    details |= {"cards": [card | {"index": index} for index in range(count)]}
    settings = {"model": "tiny", "selection": "guarded"}  # debias makes cards too
    Findings("cards", "tiny", settings, details=details).save(folder)
    return folder
