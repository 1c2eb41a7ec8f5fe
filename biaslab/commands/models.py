"""The table of supported architectures, printed."""

import textwrap


def models() -> None:
    """List the types of models that biaslab supports, what works with each, and the refused types with their reasons.

    The type is what a model's config.json says as model_type.
    """
    from rich.console import Console

    from biaslab.models.table import ARCHITECTURES, REFUSED
    from biaslab.report.tables import new_table

    table = new_table("Supported types", "type", "kind", "find", "suppress", "bake", "keys", "beginnings")
    for name, entry in ARCHITECTURES.items():
        causal = ["yes" if works else "no" for works in (entry.keys, entry.own_mask)]
        find, kind = "yes" if entry.replay else "slow", "masked" if entry.masked else "causal"
        table.add_row(name, kind, find, "yes", "yes", *(["", ""] if entry.masked else causal))
    console = Console(highlight=False)
    console.print(table)
    print()
    for line in _LEGEND:
        print(textwrap.fill(line, 80, subsequent_indent="  "))
    print("\nRefused types")
    reasons: dict[str, list[str]] = {}
    for name, reason in REFUSED.items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        print(textwrap.fill(f"{', '.join(names)}: {reason}", 80, subsequent_indent="  "))


_LEGEND = (
    "find: attribution, effects at all positions; slow: by whole forward passes, one for each layer and node.",
    "suppress: by hooks, to 0, to a multiple or to means.",
    "bake: written as an ordinary checkpoint; means need a down-projection with a bias.",
    "keys: a causal prompt's keys and values before the slot are computed once (attribution is faster).",
    "beginnings: what a causal model's sentences begin with is computed once (StereoSet and CrowS-Pairs are faster).",
    "On the first prompts of each model, attribution compares its result with whole forward passes. If they differ, it "
    "says so and runs whole passes.",
)
