"""Print the table of supported architectures."""

import textwrap


def models() -> None:
    """List the supported model types, what works with each, and the unsupported types with the reasons.

    The type is the model_type in a model's config.json.
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
    print("\nUnsupported types")
    reasons: dict[str, list[str]] = {}
    for name, reason in REFUSED.items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        print(textwrap.fill(f"{', '.join(names)}: {reason}", 80, subsequent_indent="  "))


_LEGEND = (
    "find: attribution, and effects at all positions; slow: one full forward pass per layer and node.",
    "suppress: with hooks: set neurons to 0, to a multiple or to means.",
    "bake: write an ordinary checkpoint; means need a down-projection with a bias.",
    "keys: keys and values before the slot of a causal prompt are computed once (faster attribution).",
    "beginnings: shared beginnings of a causal model's sentences are computed once (faster StereoSet and CrowS-Pairs).",
    "On the first prompts of each model, attribution checks its result against full forward passes. If they differ, it "
    "warns and uses full passes.",
)
