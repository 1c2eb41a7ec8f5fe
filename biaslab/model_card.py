"""The model card of a baked checkpoint: method, settings, figures, fingerprints, and where it comes from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from transformers import PreTrainedModel

from biaslab import __version__
from biaslab.architectures import architecture, fingerprint
from biaslab.estimates import BASE, Estimate, cell, signed
from biaslab.metrics.stereoset import NAMES, Interval
from biaslab.neurons import NeuronSet

_CARD = """---
library_name: transformers
tags: [bias, {kind}]
---
# {name}, {what}

Made with biaslab {version}.

{method}

It loads without biaslab:

```python
from transformers import {auto}, AutoTokenizer

model, tokenizer = {auto}.from_pretrained(FOLDER), AutoTokenizer.from_pretrained(FOLDER)
```

A fingerprint stands for the values of all weights. That of this model is `{fingerprint}`.

## What that does

{figures}

## What it was made from

```json
{facts}
```
"""
NOT_MEASURED = (
    "It was not measured when it was written. That is done by `biaslab test -c configs/stereoset.yaml "
    "--model.model_name FOLDER`."
)


def model_card(model: PreTrainedModel, facts: Mapping[str, Any], figures: str = NOT_MEASURED) -> str:
    """Return the card.

    Args:
        model: as it is written.
        facts: where it comes from: its "model", and its "training" or "neurons".
        figures: what was measured, from :func:`measured`.
    """
    trained, neurons = facts.get("training"), facts.get("neurons")
    method = []
    if trained:
        method.append(f"It was trained by the task {trained['task']}, for {trained['steps']} steps.")
    if neurons:
        method.append(
            f"Of its feed-forward neurons, {neurons['count']} are multiplied by {neurons['factor']:g}, by way of their "
            "columns of the down-projections' weights ([Bias Neuron Suppression](https://arxiv.org/abs/2406.10130))."
        )
    what = [word for word, fact in (("trained", trained), ("with neurons suppressed", neurons)) if fact]
    versions = {"biaslab": __version__, "torch": str(torch.__version__), "transformers": transformers.__version__}
    masked = architecture(model).masked
    return _CARD.format(
        kind="fill-mask" if masked else "text-generation",
        name=facts["model"]["name"],
        what=", ".join(what) or "unchanged",
        version=__version__,
        method=" ".join(method) or "Its weights are unchanged.",
        auto="AutoModelForMaskedLM" if masked else "AutoModelForCausalLM",
        fingerprint=fingerprint(model),
        figures=figures,
        facts=json.dumps({**facts, "versions": versions}, indent=1, ensure_ascii=False, default=str),
    )


def measured(path: Path, neurons: NeuronSet, factor: float) -> str:
    """Return what the run that found the neurons measured of them, as Markdown.

    Args:
        path: of the neuron file; a run of ``biaslab debias`` has its results beside it.
        neurons: of the file.
        factor: what they are multiplied by. Figures of another factor, or of suppression at the slot, don't hold here.
    """
    try:
        results = json.loads((path.parent / "results.json").read_text(encoding="utf-8"))
        config = yaml.safe_load((path.parent / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return NOT_MEASURED
    row = f"BNS, {neurons.provenance.get('settings', {}).get('selection')}"
    if factor != config["factor"]:
        row += {0.5: " ×½"}.get(factor, f" ×{factor:g}")
    if config["positions"] != "all" or row not in results["stereoset"]:
        return f"{NOT_MEASURED} (The figures beside the neuron file are of another treatment.)"
    return "\n".join([*_table(results, row), "", *_gaps(results, config, row)]).rstrip()


def _table(results: Mapping[str, Any], row: str) -> Iterator[str]:
    """Yield the lines of a table: StereoSet overall and by domain, and perplexity."""
    (control,) = [name for name in results["stereoset"] if name.startswith("random")]
    facts, perplexity = results["facts"], results["perplexity"]
    yield (
        f"StereoSet's dev set, {facts['clusters']} clusters, by `biaslab debias`, with 95 % intervals; beside it the "
        f"change that as many random neurons in each layer make ({control})."
    )
    yield from ("", "| | before | after | change | random neurons |", "|---|---|---|---|---|")
    for scope in results["stereoset"][row]:
        for name in NAMES if scope == "overall" else ("ICAT",):
            before, after, random = (
                _estimate(results["stereoset"][which][scope][name]) for which in (BASE, row, control)
            )
            label = name if scope == "overall" else f"{name}, {scope}"
            yield f"| {label} | {cell(before)} | {cell(after)} | {signed(after.change)} | {signed(random.change)} |"
    changes = [signed(Interval(**perplexity[which]["change_percent"])) for which in (row, "random, one seed")]
    yield (
        f"| perplexity on {facts['sentences']} ordinary sentences | {perplexity[BASE]['value']:.2f} | "
        f"{perplexity[row]['value']:.2f} | {changes[0]} % | {changes[1]} % |"
    )


def _gaps(results: Mapping[str, Any], config: Mapping[str, Any], row: str) -> Iterator[str]:
    """Yield what suppression does to the demographic gap, which is measured of the run's own selection at 0."""
    mean = results["gaps"][-1]
    if row == f"BNS, {config['selection']}" and config["factor"] == 0:
        yield (
            f"On {results['facts']['held_out_prompts']} held-out prompts the gap |P(d1) − P(d2)| between demographics "
            f"changes by {mean['probability_suppressed_percent']:+.0f} % on average (random neurons "
            f"{mean['probability_random_percent']:+.0f} ± {mean['probability_random_spread']:.0f} %), and that of the "
            f"log-probabilities by {mean['log_probability_suppressed_percent']:+.0f} % (random "
            f"{mean['log_probability_random_percent']:+.0f} ± {mean['log_probability_random_spread']:.0f} %)."
        )


def _estimate(content: Mapping[str, Any]) -> Estimate:
    return Estimate(Interval(**content["figure"]), Interval(**content["change"]), content["spread"])
