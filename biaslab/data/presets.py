"""Default settings and presets of the commands."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

Selection = Literal["paper", "ranked", "guarded", "fisher", "balanced"]
AT_ALL_POSITIONS = ("fisher", "balanced")  # selections by effects at all positions
Replacement = Literal["zero", "mean"]
Dtype = Literal["float32", "bfloat16", "float16", "float64", "auto"]  # of the weights; auto: the checkpoint's dtype
Accelerator = Literal["auto", "cpu", "gpu"]
PresetName = Literal["small", "medium", "paper"]  # the keys of PRESETS
DIMENSIONS = ("gender", "ethnicity", "religion", "occupation")  # those with a StereoSet domain
KINDS = ("negative", "positive")
MODIFIERS = 2
CONTRAST = ("stereoset", "bold", "bug")
CONTRAST_LIMIT = 600
GUARD_WEIGHT = 3.0


class Usual(NamedTuple):
    """Default settings of a selection."""

    source: Literal["prompts", "contrast", "both"]
    guard_weight: float  # λ of "guarded", μ of "fisher" and "balanced"
    contrast_limit: int
    contrast_positions: Literal["slot", "all"]
    contrast: tuple[str, ...] = CONTRAST
    source_weights: dict[str, float] | None = None
    knowledge_weight: float = 0.0  # ν

    def options(self, contrast: Sequence[str], **given: Any) -> dict[str, Any]:
        """Return the arguments of a selection for data with a given contrast set.

        Given values other than None take precedence; a given source replaces the default weights of several sources.
        """
        known = {"prompts", *("contrast" if source == "stereoset" else source for source in contrast)}
        weights = {name: weight for name, weight in (self.source_weights or {}).items() if name in known}
        usual = {
            "source": self.source if "stereoset" in contrast else "prompts",
            "source_weights": weights or None if given.get("source") is None else None,
            "guard_weight": self.guard_weight,
            "knowledge_weight": self.knowledge_weight if "knowledge" in known else 0.0,
        }
        return usual | {name: value for name, value in given.items() if value is not None}


USUAL = {
    "balanced": Usual(
        "both", 0.25, 2000, "all", (*CONTRAST, "pairs", "knowledge"),
        {"contrast": 1.0, "prompts": 0.75, "pairs": 0.5}, 0.7,
    ),
    "fisher": Usual("contrast", 0.375, 2000, "all"),
    **dict.fromkeys(("guarded", "ranked", "paper"), Usual("both", GUARD_WEIGHT, CONTRAST_LIMIT, "slot")),
}  # fmt: skip


class Preset(NamedTuple):
    """The amount of computation."""

    suffix: str  # suffix of the training configurations' names
    data: dict[str, Any]  # prompts: arguments of biaslab.data.prompts.PromptDataModule
    search: dict[str, Any]  # options of `biaslab search-prompts`


_SMALL = {"dimensions": list(DIMENSIONS), "kinds": list(KINDS), "modifiers": MODIFIERS}
_SMALL_CONTRAST = {"contrast": list(CONTRAST), "contrast_limit": CONTRAST_LIMIT}
_SMALL_SEARCH = {"vocabulary": 500, "beam": 20, "depth": 3}
PRESETS: dict[PresetName, Preset] = {
    "small": Preset("_small", {**_SMALL, **_SMALL_CONTRAST}, _SMALL_SEARCH),
    # prompts of all dimensions and kinds, as votes need more prompts than small has; training as in small
    "medium": Preset("_small", {"modifiers": 20, **_SMALL_CONTRAST}, _SMALL_SEARCH),
    "paper": Preset(
        "",
        {"modifiers": 100, "contrast": list(CONTRAST), "contrast_limit": 2000},
        {"vocabulary": 5000, "beam": 100, "depth": 5},
    ),
}
# "lms" spares neurons that StereoSet's test split needs, but not those that plain text needs.
SELECTIONS: dict[str, tuple[Selection, dict[str, Any]]] = {
    "paper": ("paper", {}),
    "ranked": ("ranked", {}),
    "guarded": ("guarded", {}),
    "lms": ("guarded", {"guard": ["stereoset"], "guard_weight": 2.0}),
}
