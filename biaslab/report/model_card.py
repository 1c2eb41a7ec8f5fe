"""The model card of a baked checkpoint: method, settings, figures, fingerprints, and where it comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from biaslab import __version__
from biaslab.models.architectures import architecture
from biaslab.models.loading import fingerprint

_CARD = """---
library_name: transformers
pipeline_tag: {kind}
tags: [bias]
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

## What it did

{figures}

## What it was made from

```json
{facts}
```
"""
NOT_MEASURED = (
    "Nothing was measured of this checkpoint. To measure it: `biaslab test -c configs/stereoset.yaml "
    "--model.model_name FOLDER`."
)


def model_card(model: PreTrainedModel, facts: Mapping[str, Any], figures: str = NOT_MEASURED) -> str:
    """Return the card.

    Args:
        model: as it is written.
        facts: where it comes from: its "model", and its "training" or "neurons".
        figures: what was measured, as Markdown; see :func:`biaslab.report.model_figures.measured`.
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
