"""Side effects: suppress the neurons of one dimension and measure all dimensions."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from biaslab.data.presets import Accelerator, Dtype
from biaslab.errors import InputError, did_you_mean, require_one_of, require_ranges
from biaslab.evaluation.findings import METRICS, OVERALL, PAIRS_LOG_RATIO, SS_LOG_RATIO, Findings, Row, write_csv
from biaslab.neurons.files import results_folder
from biaslab.neurons.neuron_set import NeuronSet, random_like
from biaslab.report.tables import benchmark_tables, new_table, perplexity_table
from biaslab.statistics import Estimate
from biaslab.store import Artifacts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from biaslab.evaluation.treatment import Arm

MODIFIERS = 5  # of each of the six kinds: 150 held-out prompts per dimension
ALL, RANDOM = "all", "random"
# Where a dimension's own bias is measured (nowhere for politics). CrowS-Pairs' "socioeconomic" includes occupation.
_DOMAINS = {"gender": "gender", "ethnicity": "race", "religion": "religion", "occupation": "profession"}
_CATEGORIES = {
    "gender": "gender", "ethnicity": "race-color", "religion": "religion", "sexuality": "sexual-orientation",
    "age": "age", "physical_appearance": "physical-appearance", "socioeconomic_status": "socioeconomic",
    "occupation": "socioeconomic",
}  # fmt: skip
_OWN, _MARK = "▸", "*"
_NARROW = 6  # with more columns, numbers and names are shortened
_LEGEND = f"""First row of each table: values of the untouched model; other rows: changes.
{_OWN} the domain of the row's own dimension.
{_MARK} the 95 % interval of the change excludes 0 (by chance in 1 of 20 cells).
Changes of the gaps are in % of the gap.
random: as many random neurons in each layer as "all"; mean, ± over seeds."""
_TITLES = {
    "SS": "SS (ideal: 50) on {clusters} clusters of StereoSet",
    SS_LOG_RATIO: "SS log-ratio (ideal: 0), in 1/100 nats",
    "LMS": "LMS (ideal: 100)",
    "ICAT": "ICAT (ideal: 100)",
    "CrowS-Pairs": "CrowS-Pairs score (ideal: 50) on {pairs} pairs",
    PAIRS_LOG_RATIO: "CrowS-Pairs log-ratio (ideal: 0), in 1/100 nats",
    "gap": "Gap |P(d1) - P(d2)| on {held_out_prompts} held-out prompts: 1/1000; changes in %",
    "log gap": "Log gap |log P(d1) - log P(d2)| on these prompts: nats; changes in %",
}

_SCALES = {"gap": 1000, SS_LOG_RATIO: 100, PAIRS_LOG_RATIO: 100}  # multipliers of values


def side_effects(
    neurons: str,
    model: str | None = None,
    dimensions: Sequence[str] | None = None,
    words: str | None = None,
    factor: float = 0.0,
    positions: Literal["all", "slot"] = "all",
    seeds: int = 2,
    text: str = "bold",
    sentences: int = 200,
    every: int = 1,
    stereoset: str | None = None,
    crows_pairs: str | None = None,
    measures: Sequence[str] = (),
    output: str | None = None,
    dtype: Dtype = "float32",
    accelerator: Accelerator = "auto",
    devices: int = 1,
    device_map: str | None = None,
    bos: Literal["tokenizer", "authors"] = "tokenizer",
    trust_remote_code: bool = False,
) -> None:
    """Suppress the neurons of one dimension at a time, and measure the effect on all dimensions.

    For the untouched model, each dimension's neurons, all neurons of the file and random neurons, it measures
    StereoSet by domain, CrowS-Pairs by category, the demographic gap on held-out prompts by dimension, and perplexity.
    Each part is cached on disk: run the same command to resume. The results are written to side_effects.json and
    side_effects.csv.

    Args:
        neurons: a neuron file of an attribution run (path or hub id).
        model: an asset name, a local folder or a hub id; by default the model that the file names.
        dimensions: subsets of the file to suppress; by default one for each dimension.
        words: a JSON or YAML file of your own dimensions, whose gaps are measured in addition to the nine others.
        factor: multiplier of the neurons' activations; 0 switches them off.
        positions: "all", or "slot" (only the position to predict; masked models only).
        seeds: number of random controls, each with as many neurons per layer as the whole file.
        text: text to measure (pseudo-)perplexity on: "bold", "bug", "panda" or a text file.
        sentences: number of sentences of this text.
        every: use every N-th cluster of StereoSet and pair of CrowS-Pairs (faster, less precise).
        stereoset: a file in StereoSet's format to use instead of its dev split.
        crows_pairs: a file in CrowS-Pairs' format to use instead of CrowS-Pairs.
        measures: further benchmarks to evaluate: any of crows-pairs, bbq, winobias, winogender, bec-pro, honest,
            redditbias and stereoset-intersentence.
        output: folder of the results; by default the neuron file's.
        dtype: data type of the weights: "float32", "bfloat16", "float16", "float64" or "auto" (the checkpoint's own).
        accelerator: "cpu", "gpu" or "auto" (a GPU if there is one).
        devices: number of devices to use.
        device_map: "auto" to spread the layers of a model that does not fit on one device over several, or the disk.
        bos: what a causal model's sentences are conditioned on: "tokenizer" (whatever the tokenizer prepends) or
            "authors" (StereoSet's rule: the first token on the start token alone, the others on the sentence).
        trust_remote_code: allow a checkpoint to run its own Python code.
    """
    settings = dict(locals())
    require_ranges(settings)
    require_one_of("positions", positions, ["all", "slot"])
    from biaslab.commands import judging
    from biaslab.commands.machine import start
    from biaslab.data.crows_pairs import CrowsPairsDataModule
    from biaslab.data.own_words import read_words
    from biaslab.data.prompts import PromptDataModule
    from biaslab.data.words import DIMENSIONS
    from biaslab.evaluation.benchmarks import measures_of
    from biaslab.evaluation.evaluate import evaluate, require_judgeable
    from biaslab.evaluation.measures import CrowsPairs, Gaps
    from biaslab.evaluation.treatment import Treatment

    chosen = NeuronSet.load(neurons)
    name = model or judging.model_of(chosen, neurons)
    wanted = _dimensions(chosen, dimensions)
    machine = start(accelerator, devices, device_map)
    network, tokenizer = machine.load(name, dtype, trust_remote_code)
    # Problems with the data show up here, before the long work begins.
    arms = list(_arms(network, chosen, wanted, seeds, factor, positions))
    clusters = judging.stereoset(name, stereoset, trust_remote_code, every=every, bos=bos)
    read: dict[str, Any] = {"every": every, "categories": "any", "bos": bos}
    pairs = CrowsPairsDataModule(name, crows_pairs, **read, trust_remote_code=trust_remote_code)
    asked = {} if words is None else {"words": words, "dimensions": list(DIMENSIONS | read_words(words))}
    part: dict[str, Any] = {"modifiers": MODIFIERS, "part": "held_out", **asked}
    held_out = PromptDataModule(name, **part, trust_remote_code=trust_remote_code)
    held_out.setup("predict")
    ordinary = judging.perplexity(text, sentences, bos=bos)
    options: dict[str, Any] = {"without": ["stereoset", "crows-pairs"], "seeds": judging.SEEDS, "bos": bos}
    further = measures_of(measures, name, trust_remote_code=trust_remote_code, **options)
    asked_by = [clusters, CrowsPairs(judging.ready(pairs)), Gaps(held_out), ordinary, *further]
    require_judgeable(network, Treatment(positions=positions), asked_by)
    home = results_folder(neurons) if output is None else Path(output)
    cache, console = Artifacts(home / "side_effects"), machine.console()
    console.print(f"biaslab side-effects: {name}. Cached results: {cache.folder}", markup=False)
    started = time.monotonic()

    def tell(row: Row) -> None:
        console.print(f"{row.title:22}{row.size:>6} neurons{time.monotonic() - started:>8.0f} s", markup=False)

    evaluation = evaluate(network, tokenizer, arms, asked_by, cache, tell)
    if not machine.writes:
        return
    own = {}
    for row in [*held_out.dimensions, *wanted]:
        about = row.partition("/")[0]
        own[row] = {"stereoset": _DOMAINS.get(about), "crows_pairs": _CATEGORIES.get(about), "gap": about}
    findings = evaluation.findings("side-effects", name, settings, details={"own": own})
    findings.save(home)
    write_csv(home / "side_effects.csv", list(_lines(findings)))
    print_tables(console, findings)
    console.print(f"\nResults written to {home}: side_effects.json, side_effects.csv.", markup=False)


def _dimensions(neurons: NeuronSet, wanted: Sequence[str] | None) -> list[str]:
    """Return the names of the subsets to suppress, without duplicates."""
    if wanted is None:
        return [name for name in neurons.subsets if "/" not in name]
    known = ", ".join(neurons.subsets) or "no subsets at all"
    for name in wanted:
        if name not in neurons.subsets:
            hint = did_you_mean(name, neurons.subsets)
            raise InputError(
                f"`dimensions` is expected to name subsets of the neuron file ({known}) but got {name!r}.{hint}"
            )
    return list(dict.fromkeys(wanted))


def _arms(
    model: PreTrainedModel, neurons: NeuronSet, dimensions: Sequence[str], seeds: int, *how: Any
) -> Iterator[Arm]:
    """Yield the arms: untouched, each dimension's neurons, all, random; ``how``: factor and positions."""
    from biaslab.evaluation.treatment import BASE, Arm, Treatment
    from biaslab.models.architectures import ffn_shape

    neurons.require_model(model)
    every = neurons.with_shape(ffn_shape(model))
    sets = {name: [every.subsets[name].with_values(every.values)] for name in dimensions}
    sets |= {ALL: [every], RANDOM: [random_like(every, seed) for seed in range(seeds)]}
    yield Arm(BASE)
    for name, chosen in sets.items():
        yield Arm(name, [Treatment(one, *how) for one in chosen], like=ALL if name == RANDOM else None)


def is_own(findings: Findings, row: str, metric: str, scope: str) -> bool:
    """Return whether a scope measures the bias of a row's own dimension."""
    homes = {"CrowS-Pairs": "crows_pairs", PAIRS_LOG_RATIO: "crows_pairs", "gap": "gap", "log gap": "gap"}
    key = homes.get(metric, "stereoset")
    return metric != "perplexity" and bool(findings.details["own"].get(row, {}).get(key) == scope)


def _lines(findings: Findings) -> Iterator[dict[str, Any]]:
    """Yield the lines of the CSV file: one per row, metric and scope, without single pairs."""
    for line in findings.lines():
        if "/" not in line["scope"]:
            own = is_own(findings, line["row"], line["metric"], line["scope"])
            yield {"row": line["row"], "neurons": findings.row(line["row"]).size, "own": own} | line


def _scopes(findings: Findings, metric: str) -> list[str]:
    """Return the columns of a metric's matrix; for the gaps, the dimensions."""
    scopes = [scope for scope in findings.scopes(metric) if "/" not in scope]
    return scopes[1:] if "gap" in metric else scopes


def print_tables(console: Console, findings: Findings) -> None:
    """Print a matrix per metric (suppressed neurons by measured scope), the other tables and a summary."""
    for metric in _measured(findings):
        console.print(_matrix(findings, metric, _TITLES[metric].format(**findings.facts)))
    console.print(f"\n{_LEGEND}", markup=False)
    console.print(perplexity_table(findings))
    for table in benchmark_tables(findings, without=["crows-pairs"]):
        console.print(table)
    console.print(_summary(findings))


def _measured(findings: Findings) -> list[str]:
    return [metric for metric in _TITLES if findings.rows_of(metric)]


def _changes_by(metric: str) -> int:
    """Return the multiplier of a metric's changes in its matrix; changes of the gaps are in percent."""
    return 1 if METRICS[metric].unit == "percent" else _SCALES.get(metric, 1)


def _matrix(findings: Findings, metric: str, title: str) -> Table:
    scopes = _scopes(findings, metric)
    wide = len(scopes) > _NARROW
    heads = ["all" if scope == OVERALL else _short(scope, 6 if wide else 10) for scope in scopes]
    table = new_table(title, "", *heads)
    table.padding = (0, 0 if wide else 1, 0, 0)
    for row in findings.rows:
        estimates = [findings.estimates[row.name, metric, scope] for scope in scopes]
        cells = (_cell(findings, row, metric, s, e, wide) for s, e in zip(scopes, estimates, strict=True))
        table.add_row(_short(row.name, 10), *cells)
        spreads = [estimate.spread * _changes_by(metric) for estimate in estimates if estimate.spread is not None]
        if len(spreads) == len(scopes):
            table.add_row("", *(f"±{change_cell(spread, wide)[1:]} " for spread in spreads))
    return table


def _cell(findings: Findings, row: Row, metric: str, scope: str, estimate: Estimate, wide: bool) -> Text:
    """Return the untouched model's value, or a change with its marks."""
    if row is findings.base:
        value = estimate.figure.value * _SCALES.get(metric, 1)
        digits = 2 if abs(value) < 0.95 else 1 if -99.95 < value < 999.95 else 0
        return Text(f"{value:.{digits}f} ")
    own = is_own(findings, row.name, metric, scope)
    mark = _MARK if estimate.change.excludes_zero else " "
    change = change_cell(estimate.change.value * _changes_by(metric), wide)
    return Text(f"{_OWN if own else ''}{change}{mark}", style="bold" if own else "")


def change_cell(value: float, wide: bool) -> str:
    """Return a number with its sign; in ``wide`` tables usually in four characters.

    >>> [change_cell(value, True) for value in (0.0, -3.14159, 58.72, -100, 56789)]
    ['+0.0', '-3.1', '+59', '-100', '+57k']
    """
    if abs(value) >= 9999.5:
        return f"{value / 1000:+.0f}k"
    return f"{value:+.0f}" if wide and abs(value) >= 9.95 else f"{value:+.1f}"


def _short(name: str, width: int) -> str:
    """Return a name, shortened to its first word or cut to a width.

    >>> [_short(name, 6) for name in ("gender", "race-color", "occupation")]
    ['gender', 'race', 'occup.']
    """
    first = re.split("[-_]", name)[0] if len(name) > width else name
    return first if len(first) <= width else f"{first[: width - 1]}."


def _summary(findings: Findings) -> Table:
    """Return a table of mean changes on and off the diagonal of the matrices."""
    table = new_table(
        "Mean change when a dimension's neurons are suppressed", "", "own domain", "other domains", "random"
    )
    for metric in _measured(findings):
        about, by = METRICS[metric], _changes_by(metric)
        name = f"|{metric}{f' - {about.ideal:g}' if about.ideal else ''}|" if about.has_sides else metric
        name += {"percent": ", percent", "nats": ", 1/100 nats"}.get(about.unit, "")
        lists = diagonal(findings, metric)
        table.add_row(name, *(f"{by * statistics.fmean(changes):+.1f}" if changes else "" for changes in lists))
    return table


def diagonal(findings: Findings, metric: str) -> tuple[list[float], list[float], list[float]]:
    """Return a metric's changes in own domains, in other domains, and with random neurons in any domain.

    For metrics with values on both sides of the ideal, changes are of the distance from the ideal. Rows without a
    domain of their own are left out.
    """
    lists: tuple[list[float], list[float], list[float]] = ([], [], [])
    own, others, random = lists
    for row in findings.rows[1:]:
        changes = {s: _change(findings, row, metric, s) for s in _scopes(findings, metric) if s != OVERALL}
        on_diagonal = [scope for scope in changes if is_own(findings, row.name, metric, scope)]
        if on_diagonal:
            own += [changes.pop(scope) for scope in on_diagonal]
            others += changes.values()
        elif row.name == RANDOM:
            random += changes.values()
    return lists


def _change(findings: Findings, row: Row, metric: str, scope: str) -> float:
    after, before = (findings.estimates[name, metric, scope] for name in (row.name, findings.base.name))
    if METRICS[metric].has_sides:
        after_distance, distance = (abs(each.figure.value - METRICS[metric].ideal) for each in (after, before))
        return after_distance - distance
    return after.change.value
