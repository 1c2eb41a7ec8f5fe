"""Choose how to select and suppress neurons: search a grid on one set of target terms, report on another."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from rich.console import Console

from biaslab.data.presets import (
    AT_ALL_POSITIONS,
    PRESETS,
    USUAL,
    Accelerator,
    Dtype,
    Replacement,
    Selection,
)
from biaslab.errors import NOT_NEGATIVE, InputError, require_all_of, require_name_or_file, require_ranges
from biaslab.evaluation.findings import OVERALL, SS_LOG_RATIO, Findings, write_csv
from biaslab.neurons.neuron_set import NeuronSet, random_like
from biaslab.report.tables import (
    LOG_RATIO_DIGITS,
    benchmark_tables,
    change_of,
    log_ratio_table,
    metric_table,
    new_table,
)
from biaslab.store import Artifacts

if TYPE_CHECKING:
    from biaslab.commands.machine import Machine
    from biaslab.evaluation.evaluate import Evaluation

CHOSEN = "chosen"
_METRICS = ("SS", SS_LOG_RATIO, "LMS", "ICAT", "perplexity")
_SHOWN = 15  # best settings printed; sweep.csv has all
_WIDTH = 31  # of a printed setting's name
_DOMAIN_SLACK = 0.5  # ICAT points that a domain may lose: less than the weight of one term
_KNOWN = {
    "selections": get_args(Selection),
    "sources": ("prompts", "contrast", "both"),
    "positions": ("all", "slot"),
    "replacements": get_args(Replacement),
}


def sweep(
    model: str = "minilm-mlm",
    selections: Sequence[Selection] = ("guarded",),
    sources: Sequence[str] = ("both",),
    guards: Sequence[str] = ("stereoset", "stereoset+bold+bug"),
    guard_weights: Sequence[float] = (2.0, 5.0, 8.0),
    fisher_weights: Sequence[float] = (0.25, 0.375, 0.5),
    knowledge_weights: Sequence[float] = (0.7,),
    source_weights: Sequence[dict[str, float]] = (USUAL["balanced"].source_weights or {},),
    replacements: Sequence[str] = ("zero",),
    counts: Sequence[int | None] = (None,),
    domain_weights: Sequence[dict[str, float]] = (),
    thresholds: Sequence[float] = (0.2,),
    shares: Sequence[float] = (0.7,),
    factors: Sequence[float] = (0.0, 0.5),
    positions: Sequence[str] = ("all",),
    perplexity_percent: float = 0.0,
    seeds: int = 5,
    text: str = "bold",
    sentences: int = 100,
    limit: int | None = None,
    every: int = 3,
    choose_on: str | None = None,
    report_on: str | None = None,
    measures: Sequence[str] = (),
    output: str = "runs/sweep",
    dtype: Dtype = "float32",
    accelerator: Accelerator = "auto",
    devices: int = 1,
    device_map: str | None = None,
    bos: Literal["tokenizer", "authors"] = "tokenizer",
    trust_remote_code: bool = False,
) -> None:
    """Evaluate a grid of settings, choose the best, and report it on data that was not used to choose it.

    Neurons are found on one half of the target terms of StereoSet's test split; settings are evaluated on the other
    half and on validation sentences. Among the settings that keep LMS and every domain's ICAT, and raise perplexity by
    at most ``perplexity_percent``, the one with the highest ICAT is chosen and evaluated on the dev split and on
    evaluation sentences. Results are cached: run the same command to resume.

    Args:
        model: an asset name, a local folder or a hub id.
        selections: any of "balanced", "fisher", "guarded", "ranked" and "paper".
        sources: what bias is measured on: any of "prompts", "contrast" and "both".
        guards: sources of the guard, several joined by "+", as in "stereoset+bold"; "fisher" uses all ordinary text
            among them.
        guard_weights: λ of "guarded", the weight of the guard.
        fisher_weights: μ of "fisher" and "balanced", the same for these.
        knowledge_weights: ν of "balanced", the weight of a neuron's importance for knowledge.
        source_weights: for "balanced", instead of ``sources``: weights of "contrast", "prompts", "pairs" and
            "panda-pairs", one mapping per setting.
        replacements: value that "fisher" and "balanced" set neurons to: "zero", "mean" or both.
        counts: numbers of neurons; null for the default share of all.
        domain_weights: weights of StereoSet's domains, one mapping per setting; equal weights are always included.
        thresholds: thresholds of the votes ("paper").
        shares: shares of the votes ("paper").
        factors: multipliers of the neurons' activations.
        positions: "all", "slot" (masked models only) or both.
        perplexity_percent: maximum increase of perplexity, in percent.
        seeds: number of random controls for the chosen setting.
        text: text to measure (pseudo-)perplexity on: "bold", "bug", "panda" or a text file.
        sentences: number of sentences of this text.
        limit: use at most this many StereoSet clusters; all by default.
        every: choose settings on every N-th cluster (faster, less precise).
        choose_on: a file in StereoSet's format to choose on, instead of half of the test split's terms.
        report_on: a file in StereoSet's format to report on, instead of the dev split.
        measures: further benchmarks to report, not used for the choice: any of crows-pairs, bbq, winobias, winogender,
            bec-pro, honest, redditbias and stereoset-intersentence.
        output: parent folder of the sweeps of all models.
        dtype: data type of the weights: "float32", "bfloat16", "float16", "float64" or "auto" (the checkpoint's own).
        accelerator: "cpu", "gpu" or "auto" (a GPU if there is one).
        devices: number of devices to use.
        device_map: "auto" to spread the layers of a model that does not fit on one device over several, or the disk.
        bos: what a causal model's sentences are conditioned on: "tokenizer" (whatever the tokenizer prepends) or
            "authors" (StereoSet's rule: the first token on the start token alone, the others on the sentence).
        trust_remote_code: allow a checkpoint to run its own Python code.
    """
    settings = dict(locals())
    checked_grid(settings)
    from biaslab.commands.judging import SEEDS, perplexity, stereoset
    from biaslab.commands.machine import start
    from biaslab.evaluation.benchmarks import measures_of
    from biaslab.evaluation.evaluate import evaluate, require_judgeable
    from biaslab.evaluation.treatment import BASE, Arm, Treatment, random_name
    from biaslab.models.loading import fingerprint
    from biaslab.report.plots.stereoset import sweep_settings, trial_dot
    from biaslab.report.plots.style import save

    specs = list(grid(settings))
    points = list(itertools.product(specs, factors, positions))
    machine = start(accelerator, devices, device_map)
    network, tokenizer = machine.load(model, dtype, trust_remote_code)
    cache = Artifacts(output, model)
    part: dict[str, Any] = {"split": "test", "terms": "choose"} if choose_on is None else {}
    chosen_on = stereoset(model, choose_on, trust_remote_code, every=every, limit=limit, bos=bos, **part)
    choosing = [chosen_on, perplexity(text, sentences, "validation", bos=bos)]
    reported_on = stereoset(model, report_on, trust_remote_code, limit=limit, bos=bos)
    options: dict[str, Any] = {"without": ["stereoset"], "seeds": SEEDS, "bos": bos}
    further = measures_of(measures, model, trust_remote_code=trust_remote_code, **options)
    reporting = [reported_on, perplexity(text, sentences, bos=bos), *further]
    for place in positions:
        require_judgeable(network, Treatment(positions=place), [*choosing, *further])  # type: ignore[arg-type]
    console = machine.console()
    console.print(f"biaslab sweep: {model}, {len(points)} settings. Results go to {cache.folder}", markup=False)
    common = {"dtype": dtype, "device_map": device_map, "trust_remote_code": trust_remote_code}
    sets = _find(machine, cache, model, fingerprint(network), specs, guards, bos, common)
    tried = [
        Arm(f"{spec.name} ×{factor:g} {place}", [Treatment(sets[spec.name], factor, place)], spec.name)  # type: ignore[arg-type]
        for spec, factor, place in points
    ]
    trials = _trials(evaluate(network, tokenizer, [Arm(BASE), *tried], choosing, cache))
    base, *others = trials
    number = others.index(choose(base, others, perplexity_percent))
    best, neurons = tried[number].treatments[0], sets[points[number][0].name]
    controls = [replace(best, neurons=random_like(neurons, seed)) for seed in range(seeds)]
    arms = [Arm(BASE), Arm(CHOSEN, [best]), Arm(random_name(seeds), controls, like=CHOSEN)]
    evaluation = evaluate(network, tokenizer, arms, reporting, cache)
    if not machine.writes:
        return
    lines = [trial | {"keeps": keeps(trial, base, perplexity_percent)} for trial in trials]
    chosen = lines[1 + number] | {"fingerprint": neurons.fingerprint}
    findings = evaluation.findings("sweep", model, settings, details={"trials": lines, "chosen": chosen})
    findings.save(cache.folder)
    write_csv(cache.folder / "sweep.csv", lines)
    provenance = dict(neurons.provenance) | {"suppression": {"factor": best.factor, "positions": best.positions}}
    neurons.with_details(neurons.subsets, provenance).save(cache.folder / "neurons.json")
    dots = [trial_dot(line, base["perplexity"]) for line in lines]
    save(sweep_settings(dots[0], dots[1:], trial_dot(chosen, base["perplexity"])), cache.folder / "sweep")
    _print(console, findings)
    console.print(
        f"\nResults written to {cache.folder}: sweep.csv, sweep.json, sweep.png, sweep.svg, neurons.json.", markup=False
    )


class Spec(NamedTuple):
    """One way to select neurons."""

    name: str  # describes it fully, and is a valid file name
    threshold: float  # of the votes, needed by the pass
    selection: Selection
    changes: dict[str, Any]  # arguments of biaslab.tasks.attribution.Attribution.select
    replacement: Replacement = "zero"


def checked_grid(settings: Mapping[str, Any]) -> None:
    """Raise InputError if a required list is empty, or a value is unknown or out of range."""
    weights = ("guard_weights", "fisher_weights", "knowledge_weights", "source_weights")
    needed = ("selections", "sources", "guards", *weights, "counts", "thresholds", "shares")
    for name in (*needed, "factors"):
        if not settings[name]:
            raise InputError(f"`{name}` is expected to hold at least one value but is empty. Give one.")
    for name, known in _KNOWN.items():
        require_all_of(name, settings[name], known)
    _checked_names(settings)
    require_ranges(settings, perplexity_percent=NOT_NEGATIVE)


def _checked_names(settings: Mapping[str, Any]) -> None:
    """Raise InputError for unknown names, before the model is loaded."""
    from biaslab.data.corpus import TEXTS
    from biaslab.data.effects import SOURCES as OF_CONTRAST
    from biaslab.tasks.weighing import DIMENSION_OF, SOURCES

    require_name_or_file("text", settings["text"], TEXTS)
    for guard in settings["guards"]:
        for source in guard.split("+"):
            require_name_or_file("guards", source, OF_CONTRAST)
    for name, known in (("source_weights", SOURCES), ("domain_weights", DIMENSION_OF)):
        for weights in filter(None, settings[name]):
            require_all_of(name, weights, known)


def grid(settings: Mapping[str, Any]) -> Iterator[Spec]:
    """Yield the selections of the grid; each varies only the settings that affect it."""
    thresholds, weightings = settings["thresholds"], [None, *settings["domain_weights"]]
    for selection in settings["selections"]:
        if selection == "paper":
            for threshold, share in itertools.product(thresholds, settings["shares"]):
                yield Spec(f"paper-{threshold:g}-{share:g}", threshold, selection, {"share": share})
            continue
        for how, changes, to in _varied(selection, settings):
            parts = [selection, how, to if to != "zero" else ""]
            for count, by_domain in itertools.product(settings["counts"], weightings):
                weights = by_domain and _named(by_domain)
                name = "-".join(str(part) for part in [*parts, count, weights] if part)
                more = {"count": count, "domain_weights": by_domain}
                yield Spec(name, thresholds[0], selection, changes | more, to)


def _varied(selection: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any], Replacement]]:
    """Yield the variants of a selection: name, changed arguments, and replacement."""
    sources = settings["sources"]
    if selection == "balanced":
        varied = ("source_weights", "fisher_weights", "knowledge_weights", "replacements")
        for by_source, weight, knowledge, value in itertools.product(*(settings[name] for name in varied)):
            changes = {"source_weights": by_source, "guard_weight": weight, "knowledge_weight": knowledge}
            yield f"{_named(by_source)}-{weight:g}-{knowledge:g}", changes, value
    elif selection == "fisher":
        for source, weight, value in itertools.product(sources, settings["fisher_weights"], settings["replacements"]):
            yield f"{source}-{weight:g}", {"source": source, "guard_weight": weight}, value
    elif selection == "guarded":
        for source, guard, weight in itertools.product(sources, settings["guards"], settings["guard_weights"]):
            changes = {"source": source, "guard_weight": weight, "guard": guard.split("+")}
            yield f"{source}-{guard}-{weight:g}", changes, "zero"
    else:
        for source in sources:
            yield source, {"source": source}, "zero"


def _named(weights: Mapping[str, float]) -> str:
    return ",".join(f"{name}{weight:g}" for name, weight in weights.items())


def _find(
    machine: Machine,
    cache: Artifacts,
    model: str,
    weights: str,
    specs: Sequence[Spec],
    guards: Sequence[str],
    bos: str,
    common: Mapping[str, Any],
) -> dict[str, NeuronSet]:
    """Run one attribution pass for all selections that share it, and select."""
    from biaslab.commands.passes import attribution_pass

    sets: dict[str, NeuronSet] = {}
    passes: dict[tuple[float, bool, Replacement], list[Spec]] = {}
    for spec in specs:
        passes.setdefault((spec.threshold, spec.selection in AT_ALL_POSITIONS, spec.replacement), []).append(spec)
    for (threshold, at_all, replacement), own in passes.items():
        named = [guard.split("+") for guard in guards] if at_all else [s.changes.get("guard", ()) for s in own]
        named += [_read_by(spec) for spec in own]
        data = PRESETS["small"].data | {"contrast": list(dict.fromkeys(["stereoset", *itertools.chain(*named)]))}
        data |= {"contrast_terms": "find", "bos": bos}
        options = {"threshold": threshold, **common}
        if at_all:
            data |= {"contrast_positions": "all", "contrast_limit": USUAL["fisher"].contrast_limit}
            options |= {"selection": "fisher", "replacement": replacement}

        def select(task: Any, _: Any, own: list[Spec] = own) -> dict[str, NeuronSet]:
            return {spec.name: task.select(spec.selection, **spec.changes) for spec in own}

        depends_on = {"weights": weights, "specs": own}
        sets |= attribution_pass(cache, "pass", model, options, data, select, depends_on, machine).sets
    return sets


def _read_by(spec: Spec) -> list[str]:
    """Return the contrast sources that a selection's weights need."""
    weights = spec.changes.get("source_weights") or {}
    knowledge = ["knowledge"] if spec.changes.get("knowledge_weight") else []
    return [name for name in weights if name not in ("contrast", "prompts")] + knowledge


Trial = dict[str, Any]  # a line of sweep.csv: a setting and its results: _METRICS overall, and ICAT by domain


def _trials(evaluation: Evaluation) -> list[Trial]:
    """Return a line per row, the untouched model first; a row's title is the name of its selection."""
    values = {key: estimate.figure.value for key, estimate in evaluation.estimates().items()}
    columns = {name: (name, OVERALL) for name in _METRICS}
    columns |= {f"ICAT {scope}": (name, scope) for _, name, scope in values if name == "ICAT" and scope != OVERALL}
    trials: list[Trial] = []
    for row in evaluation.rows:
        how = row.treatments[0] if trials else {}
        setting = {"selection": row.title, "factor": how.get("factor"), "positions": how.get("positions")}
        figures = {column: values[row.name, name, scope] for column, (name, scope) in columns.items()}
        trials.append({**setting, "neurons": row.size, **figures})
    return trials


def keeps(trial: Trial, base: Trial, perplexity_percent: float) -> bool:
    """Return whether a setting loses nothing, except that perplexity may rise by ``perplexity_percent``."""
    domains = [name for name in base if name.startswith("ICAT ")]
    spared = all(trial[name] >= base[name] - _DOMAIN_SLACK for name in domains)
    limit = base["perplexity"] * (1 + perplexity_percent / 100)
    return bool(spared and trial["LMS"] >= base["LMS"] and trial["perplexity"] <= limit)


def choose(base: Trial, trials: Sequence[Trial], perplexity_percent: float) -> Trial:
    """Return the trial with the highest ICAT among those that pass :func:`keeps`, or among all if none does."""
    return max(trials, key=lambda trial: (keeps(trial, base, perplexity_percent), trial["ICAT"]))


def _print(console: Console, findings: Findings) -> None:
    """Print the best settings and the held-out results of the choice, at most 80 columns wide."""
    (base, *trials), chosen = findings.details["trials"], findings.details["chosen"]
    title = f"{len(trials)} settings; best {min(_SHOWN, len(trials))} by ICAT"
    table = new_table(title, "selection", "×", "n", "SS", "log-ratio", "LMS", "ICAT", "perpl.")
    same = [all(trial[key] == chosen[key] for key in trial) for trial in trials]
    order = sorted(range(len(trials)), key=lambda i: (same[i], trials[i]["keeps"], trials[i]["ICAT"]), reverse=True)
    for trial in [base, *(trials[i] for i in order[:_SHOWN])]:
        name, factor = trial["selection"], ""
        if trial is not base:
            name = ("*" if trial["keeps"] else "") + _short(name, trial["positions"])
            factor = f"{trial['factor']:g}"
        digits = {SS_LOG_RATIO: LOG_RATIO_DIGITS}
        figures = (f"{trial[metric]:.{digits.get(metric, 1)}f}" for metric in _METRICS)
        table.add_row(name, factor, str(trial["neurons"]), *figures)
    console.print(table)
    domains = [name.removeprefix("ICAT ") for name in base if name.startswith("ICAT ")]
    how = "Best of these" if chosen["keeps"] else "No setting meets this; highest ICAT"
    console.print(
        f"\n*: keeps LMS and the ICAT of every domain ({', '.join(domains)}), with perplexity at most "
        f"{findings.settings['perplexity_percent']:g} % higher. {how}: {chosen['selection']}, factor "
        f"{chosen['factor']:g}, positions {chosen['positions']}."
    )
    console.print(metric_table(findings, "Chosen setting on held-out data: value [95 %], change [95 %]"))
    console.print(log_ratio_table(findings))
    table = new_table("ICAT by domain, and perplexity, on held-out data", "", *domains, "perpl.", "change, %")
    for row in findings.rows:
        estimates = [findings.get(row.name, "ICAT", domain) for domain in domains]
        estimates.append(findings.get(row.name, "perplexity"))
        cells = ("" if estimate is None else f"{estimate.figure.value:.1f}" for estimate in estimates)
        table.add_row(row.title, *cells, change_of(findings, row, "perplexity"))
    for each in (table, *benchmark_tables(findings)):
        console.print(each)


def _short(selection: str, positions: str) -> str:
    """Return a name that is short enough for the table."""
    name = selection.replace("stereoset", "ss").replace("guarded-", "").replace("profession", "prof")
    name += "" if positions == "all" else f" {positions}"
    return name if len(name) <= _WIDTH else f"{name[: _WIDTH - 1]}…"
