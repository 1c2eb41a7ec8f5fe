"""How much is done: what a small run and the paper's scale ask of the prompts and of the search for prompts."""

from __future__ import annotations

from typing import Any, NamedTuple


class Preset(NamedTuple):
    """How much is done."""

    suffix: str  # of the names of the training configurations
    data: dict[str, Any]  # arguments of biaslab.data.prompts.PromptDataModule
    search: dict[str, Any]  # options of `biaslab search-prompts`


DIMENSIONS = ("gender", "ethnicity", "religion", "occupation")  # those that StereoSet has a domain for
KINDS = ("negative", "positive")
CONTRAST = ("stereoset", "bold", "bug")
MODIFIERS, CONTRAST_LIMIT = 2, 600
GUARD_WEIGHT = 3.0  # λ, with which StereoSet's test split and ordinary text lose least
PRESETS = {
    "small": Preset(
        "_small",
        {
            "dimensions": list(DIMENSIONS),
            "kinds": list(KINDS),
            "modifiers": MODIFIERS,
            "contrast": list(CONTRAST),
            "contrast_limit": CONTRAST_LIMIT,
        },
        {"vocabulary": 500, "beam": 20, "depth": 3},
    ),
    "paper": Preset(
        "",
        {"modifiers": 100, "contrast": list(CONTRAST), "contrast_limit": 2000},
        {"vocabulary": 5000, "beam": 100, "depth": 5},
    ),
}
