"""Whether neurons found with one source of bias also affect other measures: sets of neurons × held-out measures.

One attribution pass measures the effects of neurons on all sources. Neurons are then selected with each source alone
and with several together (SETS, fixed in advance), each set for the same rise of perplexity. Each set is suppressed and
evaluated by measures that were not used to find or select neurons. Intermediate results are cached in the output
folder, so the same command resumes an interrupted run. About an hour for minilm-mlm on one core, half of that with
--every 4:

    python benchmarks/carry_over.py [--model NAME] [--every N]
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from jsonargparse import auto_cli

from biaslab.cli import quiet
from biaslab.commands import judging
from biaslab.commands.debias import HELD_OUT_MODIFIERS
from biaslab.commands.passes import attribution_pass
from biaslab.data.crows_pairs import CrowsPairsDataModule
from biaslab.data.presets import PRESETS, USUAL
from biaslab.data.prompts import PromptDataModule
from biaslab.errors import require_positive
from biaslab.evaluation.evaluate import evaluate
from biaslab.evaluation.findings import METRICS, OVERALL, PAIRS_LOG_RATIO, SS_LOG_RATIO, Findings, Row
from biaslab.evaluation.measures import CrowsPairs, Gaps, Measure
from biaslab.evaluation.treatment import BASE, Arm, Treatment, random_name
from biaslab.models.architectures import has_bias
from biaslab.models.loading import fingerprint, load_on_best_device
from biaslab.neurons.neuron_set import NeuronSet, random_like
from biaslab.report.tables import markdown, signed
from biaslab.statistics import Estimate, Interval
from biaslab.store import Artifacts, write_atomically
from biaslab.tasks.attribution import Attribution

# rows: the weight of each source of bias
SETS: dict[str, dict[str, float]] = {
    "contrast": {"contrast": 1.0},
    "prompts": {"prompts": 1.0},
    "pairs": {"pairs": 1.0},
    "panda-pairs": {"panda-pairs": 1.0},
    "joint": USUAL["balanced"].source_weights or {},  # the default of `biaslab debias`
    "all": {"contrast": 1.0, "prompts": 0.75, "pairs": 0.5, "panda-pairs": 0.5},
    "without-contrast": {"prompts": 1.0, "pairs": 1.0, "panda-pairs": 1.0},
}
JOINT = "joint"  # row whose distribution over layers the random controls share
CONTRAST = ["stereoset", "bold", "bug", "knowledge", "pairs", "panda-pairs"]
OWN = {  # the measures of the same kind as a source
    "contrast": ("SS", SS_LOG_RATIO, "ICAT"), "prompts": ("log gap",), "pairs": ("pairs",), "panda-pairs": ("panda",),
}  # fmt: skip
METRIC_NAMES = {  # columns: metric, and its heading in the terminal
    "SS": "SS", SS_LOG_RATIO: "SS l-r", "LMS": "LMS", "ICAT": "ICAT",
    "CrowS-Pairs": "CrowS", PAIRS_LOG_RATIO: "CrowS l-r",
    "log gap": "log gap", "pairs": "pairs", "panda": "panda", "knowledge": "knowl.", "perplexity": "ppl",
}  # fmt: skip
IN_NATS = ("log gap", "panda")  # values in nats, but changes in percent
SENTENCES, PANDA_PAIRS = 200, 1000
LEGEND = """First row: the untouched model. Other rows: changes, in the unit given in the last row.
▸ measure of the same kind as the source. * significant (95 % CI excludes 0). ± standard deviation over seeds.
The ideal is 50 for SS and CrowS-Pairs, and 0 for log-ratios, gaps, pairs and panda."""


def find(task: Attribution, weights: Mapping[str, float]) -> NeuronSet:
    """Return the neurons of a row of SETS, as many as the task's limit of perplexity allows."""
    spared = USUAL["balanced"].knowledge_weight
    return task.select("balanced", source_weights=dict(weights), knowledge_weight=spared, count=None)


def found(cache: Artifacts, model: str, weights: str, to: str, percent: float, limit: int) -> dict[str, NeuronSet]:
    """Return the neurons of each row, cached; weights: the model's fingerprint, to: the replacement."""
    data: dict[str, Any] = {"contrast": CONTRAST, "contrast_positions": "all", "contrast_limit": limit}
    # the set of the pass itself is not used; a count avoids the slow search for the affordable number of neurons
    options: dict[str, Any] = {"selection": "fisher", "source": "contrast", "count": 1}
    options |= {"replacement": to, "perplexity_percent": percent}

    def select(task: Attribution, _: PromptDataModule) -> dict[str, NeuronSet]:
        return {name: find(task, own) for name, own in SETS.items()}

    depends_on = {"weights": weights, "sets": SETS}
    data = PRESETS["small"].data | data
    return attribution_pass(cache, "effects", model, options, data, select, depends_on).sets


def held_out(model: str, every: int) -> list[Measure]:
    """Return the measures for the sets; all but minimal pairs and knowledge use every N-th part of their data."""
    trust = False
    crows_pairs = judging.ready(CrowsPairsDataModule(model, every=every, trust_remote_code=trust))
    asked = {key: PRESETS["small"].data[key] for key in ("dimensions", "kinds")}
    modifiers = max(1, HELD_OUT_MODIFIERS // every)
    prompts = PromptDataModule(model, **asked, modifiers=modifiers, part="held_out", trust_remote_code=trust)
    prompts.setup("predict")
    return [
        judging.stereoset(model, None, trust, every=every),
        CrowsPairs(crows_pairs),
        Gaps(prompts),
        *judging.minimal_pairs(model, trust),
        *judging.panda_pairs(model, trust, limit=max(20, PANDA_PAIRS // every)),
        *judging.knowledge(model, trust),
        judging.perplexity("bold", max(20, SENTENCES // every)),
    ]


def arms(sets: Mapping[str, NeuronSet], seeds: int) -> Iterator[Arm]:
    """Yield the untouched model, each set suppressed, and random neurons in the same layers as the joint set."""
    yield Arm(BASE)
    for name, neurons in sets.items():
        yield Arm(name, [Treatment(neurons)])
    yield Arm(random_name(seeds), [Treatment(random_like(sets[JOINT], seed)) for seed in range(seeds)], like=JOINT)


def cells(findings: Findings, with_intervals: bool) -> Iterator[list[str]]:
    """Yield the rows of the table: values of the untouched model, changes, and the joint set's change beyond random."""
    metrics = [name for name in METRIC_NAMES if findings.rows_of(name)]

    def line(row: Row, part: str = "change") -> Iterator[str]:
        for name in metrics:
            estimate = findings.estimates[row.name, name, OVERALL]
            yield cell(row.name, name, estimate, getattr(estimate, part), with_intervals)

    for row in findings.rows:
        yield [row.title, str(row.size or ""), *line(row, "figure" if row is findings.base else "change")]
    beyond = findings.row(JOINT)
    yield [f"{JOINT}, beyond random", "", *line(beyond, "beyond_random")]
    yield ["unit", "", *(METRICS[name].unit.replace("percent", "%") for name in metrics)]


def cell(row: str, metric: str, estimate: Estimate, shown: Interval, with_intervals: bool) -> str:
    """Format a value, or a change with its marks."""
    nats = METRICS[metric].unit == "nats"
    if shown is estimate.figure:
        value, low, high = (f"{number:.{3 if nats or metric in IN_NATS else 1}f}" for number in shown)
        return f"{value} [{low}, {high}]" if with_intervals else value
    digits = 3 if nats else 1
    mark, own = "*" * shown.excludes_zero, "▸" * (metric in OWN.get(row, ()))
    if not with_intervals:
        return f"{own}{shown.value:+.{digits}f}{mark}"
    has_spread = shown is estimate.change and estimate.spread is not None
    return f"{own}{signed(shown, digits)}{mark}" + (f" ± {estimate.spread:.{digits}f}" if has_spread else "")


def show(findings: Findings, folder: Any) -> None:
    """Print the table; write it with intervals as Markdown, and all results as JSON."""
    facts = {name: value for name, value in findings.facts.items() if isinstance(value, int)}
    caption = f"{findings.model}; {', '.join(f'{value} {name}' for name, value in facts.items())}.\n{LEGEND}"
    metrics = [name for name in METRIC_NAMES if findings.rows_of(name)]
    lines = list(cells(findings, with_intervals=True))
    text = f"{markdown(['', 'neurons', *metrics], lines)}\n\n{caption}\n"
    write_atomically(folder / "carry_over.md", text.encode())
    findings.save(folder, "carry_over.json")
    lines = [["", "n", *(METRIC_NAMES[name] for name in metrics)], *cells(findings, with_intervals=False)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]))
    print(f"\n{caption}\nResults written to {folder}: carry_over.md, carry_over.json.")


def main(
    model: str = "minilm-mlm",
    limit: int = USUAL["fisher"].contrast_limit,
    seeds: int = 5,
    every: int = 1,
    perplexity_percent: float = 3.0,
    output: str = "runs/carry_over",
) -> None:
    """Print the table, and write it as Markdown.

    Args:
        model: an asset's name, a folder or a hub id.
        limit: maximum number of clusters, sentences and pairs of each source used to find neurons.
        seeds: number of random controls.
        every: use every N-th cluster, pair and sentence for evaluation (faster, less precise).
        perplexity_percent: largest rise of perplexity allowed, measured on text that is not used for evaluation.
        output: folder for the results of all models.
    """
    settings = dict(locals())
    require_positive(seeds=seeds, every=every, limit=limit)
    started = time.process_time()
    network, tokenizer = load_on_best_device(model, trust_remote_code=False)
    cache, measures = Artifacts(output, model), held_out(model, every)
    to = "mean" if has_bias(network) else "zero"
    sets = found(cache, model, fingerprint(network), to, perplexity_percent, limit)

    def tell(row: Row) -> None:
        print(f"{row.title:20}{row.size:>7} neurons{time.process_time() - started:>8.0f} CPU s", flush=True)

    evaluation = evaluate(network, tokenizer, arms(sets, seeds), measures, cache, tell)
    show(evaluation.findings("carry-over", model, settings, details={"sets": SETS}), cache.folder)


if __name__ == "__main__":
    quiet()
    auto_cli(main)
