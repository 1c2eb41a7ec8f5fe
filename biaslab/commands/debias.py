"""The whole workflow: find bias neurons, suppress them, and evaluate before and after, with random controls."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from rich.console import Console
from rich.table import Table

from biaslab.data.presets import (
    AT_ALL_POSITIONS,
    DIMENSIONS,
    KINDS,
    MODIFIERS,
    USUAL,
    Accelerator,
    Dtype,
    Replacement,
    Selection,
)
from biaslab.errors import require_name_or_file, require_one_of, require_ranges
from biaslab.evaluation.findings import OVERALL, Findings, gap_rows, write_csv
from biaslab.neurons.neuron_set import NeuronSet, random_like
from biaslab.report.tables import (
    STEREOSET,
    benchmark_tables,
    cell,
    cost_table,
    log_ratio_table,
    metric_table,
    new_table,
    signed,
)
from biaslab.store import make_folder

if TYPE_CHECKING:
    from pytorch_lightning.loggers import TensorBoardLogger
    from torch import Tensor

    from biaslab.commands.machine import Machine
    from biaslab.data.prompts import PromptDataModule
    from biaslab.evaluation.treatment import Arm
    from biaslab.tasks.attribution import Attribution

AMPLIFY = 2.0
HELD_OUT_MODIFIERS = 16  # of each kind, at least
HALF = 0.5  # a weaker suppression, also reported: it keeps much of the effect at a fraction of the cost


def debias(
    model: str = "minilm-mlm",
    selection: Selection = "balanced",
    source: Literal["prompts", "contrast", "both"] | None = None,
    source_weights: dict[str, float] | None = None,
    contrast: str | Sequence[str] | None = None,
    count: int | None = None,
    perplexity_percent: float = 3.0,
    guard_weight: float | None = None,
    knowledge_weight: float | None = None,
    replacement: Replacement | None = None,
    dimensions: Sequence[str] | None = None,
    words: str | None = None,
    kinds: Sequence[str] = KINDS,
    modifiers: int = MODIFIERS,
    contrast_limit: int | None = None,
    steps: int | Literal["auto"] = "auto",
    factor: float = 0.0,
    positions: Literal["all", "slot"] = "all",
    seeds: int = 5,
    text: str = "bold",
    sentences: int = 100,
    limit: int | None = None,
    stereoset: str | None = None,
    measures: Sequence[str] = (),
    output: str = "runs",
    dtype: Dtype = "float32",
    accelerator: Accelerator = "auto",
    devices: int = 1,
    device_map: str | None = None,
    bos: Literal["tokenizer", "authors"] = "tokenizer",
    chat_template: bool = False,
    trust_remote_code: bool = False,
) -> None:
    """Find the bias neurons of a model, suppress them, and report the effect.

    The results are also written to a new folder under ``output``: results.json, table.csv, gaps.csv, neurons.json,
    scores.safetensors, config.yaml and TensorBoard logs. Selection and evaluation use different data: neurons are
    selected on the prompts and the contrast set (StereoSet's test split, or plain text); results are measured on
    StereoSet's dev split, held-out prompts and held-out sentences.

    Args:
        model: an asset name, a local folder or a hub id.
        selection: "balanced" (suppresses neurons that increase bias and strengthens those that reduce it, each by its
            effect on bias relative to its cost on ordinary text), "fisher" (switches off the neurons with the most bias
            relative to that cost), "guarded", "ranked" or "paper".
        source: what bias is measured on: "prompts", "contrast" (requires "stereoset") or "both"; by default "contrast"
            for "fisher" and "both" otherwise.
        source_weights: for "balanced" and "fisher", instead of ``source``: weights of "prompts", "contrast", "pairs"
            (minimal pairs) and "panda-pairs"; by default contrast 1, prompts 0.75 and pairs 0.5 for "balanced".
        contrast: sources of the contrast set, which measures bias and the cost on text: any of "stereoset" (its test
            split), "bold", "bug", "panda" and text files; for "balanced" and "fisher" also "pairs", "panda-pairs" and
            "knowledge".
        count: number of neurons; by default 5 % of all for "balanced", as many as ``perplexity_percent`` allows for
            "fisher", and 2 % otherwise.
        perplexity_percent: for "balanced" and "fisher": maximum increase of perplexity, in percent, measured on text
            that is not used for the results.
        guard_weight: weight of a neuron's importance for fitting words, which counts against it; by default 0.25 for
            "balanced", 0.375 for "fisher" and 3 otherwise.
        knowledge_weight: for "balanced" and "fisher": weight of a neuron's importance for knowledge; default 0.7 and 0.
        replacement: value of suppressed neurons: "zero", or their "mean" over ordinary text; by default "mean" for
            "balanced" and "fisher" in models whose weights can store it, "zero" otherwise.
        dimensions: demographic dimensions to ask about; by default those with a StereoSet domain (gender, ethnicity,
            religion and occupation), or all of ``words``.
        words: a JSON or YAML file of your own dimensions: names, nouns, demographics and pairs.
        kinds: kinds of judging modifiers in the prompts.
        modifiers: number of modifiers of each kind.
        contrast_limit: maximum number of sentences per source; by default 2000 for "balanced" and "fisher" and 600
            otherwise.
        steps: number of quadrature nodes; "auto" chooses it from the completeness residual.
        factor: multiplier of the neurons' activations; 0 switches them off.
        positions: "all", or "slot" (only the position to predict; masked models only).
        seeds: number of random controls.
        text: text to measure (pseudo-)perplexity on: "bold", "bug", "panda" or a text file.
        sentences: number of sentences of this text.
        limit: use at most this many StereoSet clusters; all by default.
        stereoset: a file in StereoSet's format to use instead of its dev split.
        measures: further benchmarks to evaluate: any of crows-pairs, bbq, winobias, winogender, bec-pro, honest,
            redditbias and stereoset-intersentence.
        output: parent folder of the runs.
        dtype: data type of the weights: "float32", "bfloat16", "float16", "float64" or "auto" (the checkpoint's own).
        accelerator: "cpu", "gpu" or "auto" (a GPU if there is one).
        devices: number of devices to use.
        device_map: "auto" to spread the layers of a model that does not fit on one device over several, or the disk.
        bos: what a causal model's sentences are conditioned on: "tokenizer" (whatever the tokenizer prepends) or
            "authors" (StereoSet's rule: the first token on the start token alone, the others on the sentence).
        chat_template: wrap the prompts in an instruct model's chat template: the user asks to complete the sentence,
            and the assistant's turn begins with it.
        trust_remote_code: allow a checkpoint to run its own Python code.
    """
    settings = dict(locals())
    started = time.monotonic()
    require_ranges(settings)
    import yaml
    from pytorch_lightning.loggers import TensorBoardLogger

    from biaslab.commands import judging
    from biaslab.commands.machine import start
    from biaslab.data.contrast import sources_of
    from biaslab.data.corpus import TEXTS
    from biaslab.data.effects import SOURCES
    from biaslab.data.own_words import read_words
    from biaslab.data.prompts import PromptDataModule
    from biaslab.evaluation.benchmarks import measures_of
    from biaslab.evaluation.evaluate import evaluate, require_judgeable
    from biaslab.evaluation.measures import Gaps
    from biaslab.evaluation.treatment import Treatment
    from biaslab.models import ranks
    from biaslab.tasks.attribution import Attribution

    require_one_of("selection", selection, list(USUAL))
    require_name_or_file("text", text, TEXTS)
    usual = USUAL[selection]
    at_all = selection in AT_ALL_POSITIONS
    has = sources_of(contrast := usual.contrast if contrast is None else contrast)
    for name in has:
        require_name_or_file("contrast", name, SOURCES)
    weighed = ("source", "source_weights", "guard_weight", "knowledge_weight")
    chosen = usual.options(has, **{name: settings[name] for name in weighed})
    machine = start(accelerator, devices, device_map)
    task = Attribution(
        model, steps=steps, selection=selection, count=count, perplexity_percent=perplexity_percent, **chosen,
        replacement=replacement or ("auto" if at_all else "zero"), dtype=dtype, device_map=device_map,
        trust_remote_code=trust_remote_code,
    )  # fmt: skip
    contrast_limit = contrast_limit or usual.contrast_limit
    chosen |= {"replacement": task.hparams["replacement"], "contrast": has, "contrast_limit": contrast_limit}
    settings |= chosen
    settings["dimensions"] = list(dimensions or (DIMENSIONS if words is None else read_words(words)))
    about = ("dimensions", "words", "kinds", "modifiers", "chat_template")
    asked: dict[str, Any] = {name: settings[name] for name in about}
    find = PromptDataModule(
        model, **asked, contrast=contrast, contrast_limit=contrast_limit,
        contrast_positions=usual.contrast_positions, bos=bos, trust_remote_code=trust_remote_code,
    )  # fmt: skip
    # Problems with the data show up here, before the long work begins.
    more = {"modifiers": max(modifiers, HELD_OUT_MODIFIERS)}  # takes seconds, narrows the intervals
    held_out = PromptDataModule(model, **asked | more, part="held_out", trust_remote_code=trust_remote_code)
    find.prepare_data()
    find.setup("predict")
    clusters = judging.stereoset(model, stereoset, trust_remote_code, limit=limit, bos=bos)
    held_out.setup("predict")
    # perplexity is slow: measured for one random control only
    ordinary = judging.perplexity(text, sentences, seeds=1, bos=bos)
    knowledge = judging.knowledge(model, trust_remote_code)
    core = [clusters, Gaps(held_out), ordinary, *knowledge]
    options: dict[str, Any] = {"without": ["stereoset"], "seeds": judging.SEEDS, "bos": bos}
    asked_too = measures_of(measures, model, trust_remote_code=trust_remote_code, **options)
    require_judgeable(task.model, Treatment(factor=factor, positions=positions), [*core, *asked_too])

    folder = ranks.of_first(lambda: make_folder(TensorBoardLogger(output, name="debias").log_dir))
    logger = TensorBoardLogger(output, name="debias", version=folder.name, default_hp_metric=False)
    console = machine.console()
    if machine.writes:
        config = yaml.safe_dump(json.loads(json.dumps(settings)), sort_keys=False)
        (folder / "config.yaml").write_text(config, encoding="utf-8")
    console.print(f"biaslab debias: {model}. Results go to {folder}", markup=False)
    console.print("\n[bold]1 Find[/]: attribute the gap between demographics to neurons (IG²)")
    sets = _find(machine, task, find, logger)
    console.print("\n[bold]2 Evaluate[/]: StereoSet, held-out prompts, perplexity and knowledge, before and after")
    arms = list(_arms(selection, sets, factor, positions, seeds, [measure.name for measure in core]))
    machine.take(task.model)
    evaluation = evaluate(task.model, task.tokenizer, arms, [*core, *asked_too])
    facts = {
        "attribution": task.summary(), "dropped": find.dropped, "prompts": len(find.prompts),
        "residual": dict(zip(("mean", "worst"), task.quality.compute()[:2], strict=True)),
        "neurons": {
            "count": len(sets.chosen), "fingerprint": sets.chosen.fingerprint, "by_layer": sets.chosen.layers(),
        },
        "seconds": round(time.monotonic() - started),
    }  # fmt: skip
    scores = task.prompts.pair_scores()
    if not machine.writes:
        return
    findings = evaluation.findings("debias", model, settings, facts)
    cards = _write(findings, folder, logger, task, (find, held_out), arms, (sets.chosen, scores))
    _print(console, findings)
    console.print(cards)
    console.print(
        f"\n{facts['seconds']} s. Results written to {folder}: results.json, table.csv, gaps.csv, "
        f"neurons.json, neurons_paper.json, cards.json, scores.safetensors, "
        f"{'effects.safetensors, ' * at_all}config.yaml, TensorBoard logs "
        f"(tensorboard --logdir {output}).",
        markup=False,
    )


class _Sets(NamedTuple):
    """Neurons to suppress: those selected, those selected by the paper's votes, and those found by prompts alone."""

    chosen: NeuronSet
    votes: NeuronSet
    by_prompts: NeuronSet | None  # if prompts are one of several sources


def _find(machine: Machine, task: Attribution, prompts: PromptDataModule, logger: TensorBoardLogger) -> _Sets:
    """Find the neurons and write them to the logger's folder."""
    from biaslab.commands.passes import LogNeurons
    from biaslab.models import ranks

    machine.trainer(logger, LogNeurons()).predict(task, prompts, return_predictions=False)
    chosen = ranks.of_first(lambda: cast("tuple[NeuronSet, Any]", task.result)[0])
    votes = task.select("paper").with_values(None)  # set to 0, as in the paper
    if machine.writes:
        votes.save(Path(logger.log_dir, "neurons_paper.json"))
    by_prompts, selection = None, task.hparams["selection"]
    if selection in AT_ALL_POSITIONS and task.hparams["source"] != "prompts":
        same = {"count": len(chosen), "predicted_percent": chosen.provenance["settings"]["predicted_percent"]}
        by_prompts = task.select(selection, source="prompts", source_weights=None, **same)
    return _Sets(chosen, votes, by_prompts)


def _write(
    findings: Findings,
    folder: Path,
    logger: TensorBoardLogger,
    task: Attribution,
    prompts: tuple[PromptDataModule, PromptDataModule],
    arms: Sequence[Arm],
    found: tuple[NeuronSet, Tensor],
) -> Table:
    """Write tables, TensorBoard logs and cards; return a table of the cards.

    ``prompts`` are those used to find the neurons, and the held-out ones; ``found`` are the neurons and the scores of
    all neurons, ``[pair, layer, neuron]``.
    """
    from biaslab.commands.cards import card_table, write_cards
    from biaslab.models.loading import fingerprint
    from biaslab.neurons.cards import neuron_cards
    from biaslab.report import tensorboard

    (find, held_out), (neurons, scores) = prompts, found
    findings.save(folder)
    gaps = ("gap", "log gap")
    write_csv(folder / "table.csv", [line for line in findings.lines() if line["metric"] not in gaps])
    write_csv(folder / "gaps.csv", findings.lines(gaps))
    samples, texts = {}, [prompt.text for prompt in held_out.prompts]
    for name, arm in (("untouched", arms[0]), ("suppressed", arms[1])):
        with arm.treatments[0].applied(task.model, task.tokenizer):
            samples[name] = tensorboard.sample_prompts(task.model, held_out.batches, texts, held_out.pair_names)
    tensorboard.log_findings(logger.experiment, findings, samples)
    cards = neuron_cards(task.model, task.tokenizer, find.prompts, find.batches, neurons, scores, find.pair_names)
    origin = {"neurons": str(folder / "neurons.json")}
    write_cards(folder / "cards.json", findings.model, fingerprint(task.model), cards, origin)
    logger.finalize("success")
    return card_table(cards, len(neurons))


def _arms(
    selection: str, sets: _Sets, factor: float, positions: Literal["all", "slot"], seeds: int, core: Sequence[str]
) -> Iterator[Arm]:
    """Yield the arms: untouched, suppressed, half suppressed, by the paper's votes, random controls, amplified.

    Neurons that change StereoSet need not change the prompts' gaps. The gaps are therefore also measured for as many
    neurons found by prompts alone. Half suppression and the votes are evaluated on the ``core`` measures only.
    """
    from biaslab.evaluation.treatment import BASE, Arm, Treatment, random_name

    def treated(chosen: NeuronSet, by: float = factor) -> Treatment:
        return Treatment(chosen, by, positions)

    name = f"BNS, {selection}"
    yield Arm(BASE)
    yield Arm(name, [treated(sets.chosen)])
    if factor == 0:
        yield Arm(f"{name} ×½", [treated(sets.chosen, HALF)], measures=core)
    if selection != "paper":
        yield Arm("BNS, paper", [treated(sets.votes)], measures=core)
    yield Arm(random_name(seeds), [treated(random_like(sets.chosen, seed)) for seed in range(seeds)], like=name)
    yield Arm(f"{name} ×{AMPLIFY:g}", [treated(sets.chosen, AMPLIFY)], measures=["gaps"])
    if sets.by_prompts is not None:
        for times, by in (("", factor), (" ×½", HALF), (f" ×{AMPLIFY:g}", AMPLIFY)):
            yield Arm(f"BNS, prompts{times}", [treated(sets.by_prompts, by)], measures=["gaps"])


def _print(console: Console, findings: Findings) -> None:
    """Print the tables, at most 80 columns wide."""
    facts = findings.facts
    title = f"StereoSet dev, {facts['clusters']} clusters: value [95 %], change [95 %]"
    tables = [metric_table(findings, title, with_size=True), _domain_table(findings), log_ratio_table(findings)]
    tables += [cost_table(findings), *benchmark_tables(findings), _gap_table(findings), _mean_gap_table(findings)]
    for table in tables:
        console.print(table)
    layers = ", ".join(f"{layer}: {count}" for layer, count in facts["neurons"]["by_layer"].items())
    console.print(f"\n{facts['neurons']['count']} neurons; per layer {layers}.\n{facts['attribution']}.")
    for pair, why in facts["dropped"].items():
        console.print(f"Dropped {pair}: {why}", markup=False)


def _domain_table(findings: Findings) -> Table:
    table = new_table("By domain: value [95 %]", "", *STEREOSET)
    for scope in findings.scopes("ICAT")[1:]:
        table.add_row(scope)
        for row in findings.rows_of("ICAT"):
            table.add_row(f"  {row.title}", *(cell(findings.estimates[row.name, name, scope]) for name in STEREOSET))
    return table


def _gap_table(findings: Findings) -> Table:
    rows, times = gap_rows(findings), f"×{findings.settings['factor']:g}"
    title = f"""Gap on {findings.facts["held_out_prompts"]} held-out prompts: |P(d1) - P(d2)|, |log P(d1) - log P(d2)|;
changes in %: suppressed ({times}), amplified (×2),
random neurons suppressed"""
    table = new_table(title, "pair", "gap", times, "×2", "random", "log", times, "×2", "rand.")
    shown = ""
    for scope in [*(scope for scope in findings.scopes("gap") if "/" in scope), OVERALL]:
        dimension, slash, words = scope.partition("/")
        if slash and dimension != shown:
            table.add_row(shown := dimension)
        cells = []
        for metric, digits in (("gap", 4), ("log gap", 2)):
            before = findings.estimates[findings.base.name, metric, scope].figure.value
            estimates = [findings.estimates[row, metric, scope] for row in rows]
            changes = [f"{estimate.change.value:+.0f}" for estimate in estimates]
            if metric == "gap":  # the other spread has no room: see gaps.csv
                changes[2] += f"±{estimates[2].spread or 0:.0f}"
            cells += [f"{before:.{digits}f}", *changes]
        table.add_row(f"  {words}" if slash else "mean of the pairs", *cells)
    return table


def _mean_gap_table(findings: Findings) -> Table:
    names = {"gap": "|P(d1) - P(d2)|", "log gap": "|log P(d1) - log P(d2)|"}
    table = new_table("Mean change of the gap, % [95 %]", "", *names.values())
    for row in findings.rows_of("gap")[1:]:
        estimates = [findings.estimates[row.name, metric, OVERALL] for metric in names]
        table.add_row(row.title, *(signed(estimate.change, 0) for estimate in estimates))
        if all(estimate.spread is not None for estimate in estimates):
            table.add_row("", *(f"± {estimate.spread:.0f} over seeds" for estimate in estimates))
    return table
