"""Folders of runs with made-up figures, for the tests of reports: any outcome can be had."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

from biaslab.neurons.neuron_set import NeuronSet

DOMAINS = ("gender", "race")
BEFORE = {"SS": 58.0, "LMS": 84.0, "ICAT": 70.0}
GOOD = {"SS": (-3.0, 1.0), "LMS": (2.0, 1.0), "ICAT": (6.0, 2.0)}  # change, half the interval
BAD = {"SS": (3.0, 1.0), "LMS": (-2.0, 1.0), "ICAT": (-6.0, 2.0)}
NONE = {"SS": (1.0, 2.0), "LMS": (-0.5, 1.0), "ICAT": (0.5, 2.0)}
PAST = {"SS": (-12.0, 2.0), "LMS": (0.0, 1.0), "ICAT": (3.0, 2.0)}
Outcome = dict[str, tuple[float, float]]
SAME: Outcome = dict.fromkeys(BEFORE, (0.0, 0.0))


def estimate(before: float, change: float, half: float, spread: float | None = None) -> dict[str, Any]:
    after = before + change
    return {
        "figure": {"value": after, "low": after - 3, "high": after + 3},
        "change": {"value": change, "low": change - half, "high": change + half},
        "spread": spread,
    }


def scopes(outcome: Outcome, spread: float | None = None) -> dict[str, Any]:
    return {
        scope: {name: estimate(BEFORE[name], *outcome[name], spread) for name in BEFORE}
        for scope in ("overall", *DOMAINS)
    }


def text(percent: float = 0.0, half: float = 1.0, spread: float | None = None) -> dict[str, Any]:
    change = {"value": percent, "low": percent - half, "high": percent + half}
    return {"value": 40 * (1 + percent / 100), "change_percent": change, "spread": spread}


def gap(pair: str, suppressed: float = -80.0) -> dict[str, Any]:
    row: dict[str, Any] = {"pair": pair}
    for field, size in (("probability", 1.0), ("log_probability", 0.1)):
        row |= {f"{field}_gap": 0.1, f"{field}_random_spread": 3.0}
        for how, percent in (("suppressed", size * suppressed), ("amplified", -2 * size * suppressed), ("random", 1.0)):
            ends = {"percent": percent, "low": percent - 4, "high": percent + 5}
            row |= {f"{field}_{how}_{end}": value for end, value in ends.items()}
    return row


def debias(
    folder: Path, outcome: Outcome = GOOD, percent: float = 7.0, model: str = "tiny", clusters: int = 50
) -> Path:
    folder.mkdir(parents=True)
    results = {
        "facts": {
            "attribution": "32 prompts", "dropped": {"gender/a-b": "'a': not one known token"}, "prompts": 32,
            "held_out_prompts": 8, "clusters": clusters, "sentences": 1200, "residual": {"mean": 0.1, "worst": 0.2},
            "seconds": 5,
        },
        "rows": {"BNS, guarded": {"count": 3, "neurons": ["a0"], "factor": 0.0, "like": None}},
        "neurons": {"count": 3, "fingerprint": "a0", "by_layer": {"0": 1, "1": 2}},
        "stereoset": {
            "untouched": scopes(SAME), "BNS, guarded": scopes(outcome), "BNS, paper": scopes(NONE),
            "random, 2 seeds": scopes(dict.fromkeys(BEFORE, (0.1, 0.5)), 0.4),
        },
        "gaps": [gap("gender/female-male"), gap("race/black-white"), gap("mean of the pairs")],
        "perplexity": {"untouched": text(), "BNS, guarded": text(percent), "random, one seed": text(2.0)},
    }  # fmt: skip
    write(folder / "results.json", results)
    config = {
        "model": model, "selection": "guarded", "contrast": ["stereoset", "bold"], "count": None, "guard_weight": 3.0,
        "dimensions": ["gender", "ethnicity"], "factor": 0.0, "positions": "all", "seeds": 2,
        "trust_remote_code": False,
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
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


def table(
    folder: Path, model: str = "tiny", outcomes: dict[str, Outcome] | None = None, limit: int | None = None
) -> Path:
    folder.mkdir(parents=True)
    outcomes = outcomes or {"bns_paper": NONE, "bns_guarded": GOOD, "dpce": BAD, "random_bns": NONE}
    rows = {
        name: {
            "title": name if name == "base" else f"+ {name}", "size": 3, "seconds": 1.5, "seeds": 1,
            "stereoset": scopes(outcome), "perplexity": text(0.0 if name == "base" else 5.0),
        }
        for name, outcome in {"base": SAME, **outcomes}.items()
    }  # fmt: skip
    content = {
        "model": model, "settings": {"model": model, "preset": "small", "text": "bold", "limit": limit}, "rows": rows,
        "left_out": {"cda": "needs a masked language model"},
        "paper": {
            "model": "bert-base-cased",
            "rows": {
                "base": {"ss": 56.9, "lms": 87.3, "icat": 75.2},
                "bns_paper": {"ss": 52.8, "lms": 86.6, "icat": 81.8},
            },
        },
    }  # fmt: skip
    write(folder / "table.json", content)
    return folder


def comparison(folder: Path, p_value: float = 0.001, shift: float = 0.5, same: bool = True) -> Path:
    folder.mkdir(parents=True)
    overlap = {
        "shared": 2, "only_a": 1, "only_b": 1, "jaccard": 0.5, "expected_shared": 0.7, "expected_shared_low": 0,
        "expected_shared_high": 2, "p_value": p_value,
    }  # fmt: skip
    facts = {
        "count_a": 3, "count_b": 3, **(overlap if same else dict.fromkeys(overlap)), "layers_a": [1, 2],
        "layers_b": [0, 3], "mean_layer_a": 0.67, "mean_layer_b": 1.0, "shift": shift, "shift_low": shift - 0.3,
        "shift_high": shift + 0.3, "moved_share": 0.33, "moved_low": 0.1, "moved_high": 0.6, "moved_p_value": p_value,
    }  # fmt: skip
    empty = {name: None if not name.startswith(("count", "layers")) else value for name, value in facts.items()}
    sides = {side: {"name": f"{side}.json", "neurons": f"{side}.json", "model": "tiny"} for side in "ab"}
    settings = {"a": "a.json", "b": "b.json", "preset": "small"}
    content = sides | {"same_neurons": same, "settings": settings, "scopes": {"overall": facts, "gender": empty}}
    write(folder / "comparison.json", content)
    return folder


def probe(folder: Path, change: float = -5.0, half: float = 2.0) -> Path:
    folder.mkdir(parents=True)

    def measure(by: float, width: float) -> dict[str, Any]:
        found = estimate(9.0, by, width)
        found["spread_over_seeds"] = found.pop("spread")
        over = {"deviation": 2.0, "low": 1.0, "high": 12.0, "chance": 3.0}
        return found | {"over_wordings": over, "by_wording": [1.0, 12.0]}

    rows = {
        name: {"neurons": count, "biased": measure(by, width), "mass_difference": measure(by, width)}
        for name, count, by, width in (
            ("untouched", 0, 0.0, 0.0),
            ("BNS ×0", 3, change, half),
            ("random, 2 seeds", 3, 0.2, 1.0),
        )
    }
    content = {
        "definition": "What it is.",
        "settings": {"model": "tiny", "neurons": "n.json"},
        "wordings": ["One", "Two"],
    }
    write(folder / "probe.json", content | {"rows": rows})
    return folder


def sweep(folder: Path) -> Path:
    folder.mkdir(parents=True)
    chosen = {"selection": "guarded-3", "factor": 0.0, "positions": "all", "neurons": 3, "SS": 55.0, "LMS": 85.0,
              "ICAT": 75.0, "perplexity": 42.0}  # fmt: skip
    held_out = {"untouched": scopes(SAME), "chosen": scopes(GOOD), "random, 2 seeds": scopes(NONE)}
    texts = {"untouched": text(), "chosen": text(5.0), "random, 2 seeds": text(1.0)}
    content = {"settings": {"model": "tiny", "guards": ["stereoset+bug"]}, "chosen": chosen, "held_out": held_out}
    write(folder / "sweep.json", content | {"held_out_perplexity": texts})
    lines = ["selection,factor,positions,neurons,SS,LMS,ICAT,perplexity", "untouched,,,0,58.0,84.0,70.5,40.0"]
    lines += ["guarded-3,0.0,all,3,55.0,85.0,75.0,42.0", "guarded-5,0.5,all,3,56.0,84.5,73.0,41.0"]
    (folder / "sweep.csv").write_text("\n".join(lines) + "\n")
    return folder


def effects(folder: Path) -> Path:
    """Write side_effects.json beside what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "name": name, "neurons": 3, "stereoset": scopes(outcome),
            "crows_pairs": {scope: estimate(60.0, *outcome["SS"]) for scope in ("overall", "age")},
            "gaps": {"gender": {"probability": text(-50.0, 7.0), "log_probability": text(-5.0)}},
            "perplexity": text(3.0),
        }
        for name, outcome in {"untouched": SAME, "gender": GOOD, "ethnicity": NONE, "all": BAD, "random": NONE}.items()
    ]  # fmt: skip
    own = {
        "gender": {"stereoset": "gender", "crows_pairs": "gender"},
        "ethnicity": {"stereoset": "race", "crows_pairs": None},
    }
    settings = {"neurons": "n.json", "text": "bold", "every": 2}
    write(folder / "side_effects.json", {"model": "tiny", "settings": settings, "rows": rows, "own": own})
    return folder


def cards(folder: Path, count: int = 8) -> Path:
    """Write cards.json beside what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    card = {
        "layer": 1, "score": 0.25, "scores": {"gender/female-male": 0.25},
        "prompts": [{"text": "The <kind> one is [MASK].", "activation": -1.5}],
        "promotes": [{"word": "woman", "change": 0.5}], "lowers": [{"word": "man", "change": -0.5}],
    }  # fmt: skip
    content = {"model": "tiny", "fingerprint": "f00d", "method": "How they are made."}
    write(folder / "cards.json", content | {"cards": [card | {"index": index} for index in range(count)]})
    return folder


def write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content))
