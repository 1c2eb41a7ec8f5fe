"""Choosing how neurons are selected and suppressed: a grid judged on one set of target terms, the choice on another."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import nn

from biaslab.commands.treatments import PRESETS, attribution_pass, slug
from biaslab.commands.trials import Setting, choose, trial
from biaslab.data.corpus import read_sentences
from biaslab.data.prompts import PromptDataModule
from biaslab.data.stereoset import StereoSetDataModule
from biaslab.errors import InputError
from biaslab.evaluation.findings_old import BASE, random_row
from biaslab.evaluation.judging import Judge, State
from biaslab.models.loading import fingerprint, load_model
from biaslab.neurons.neuron_set import NeuronSet, random_like
from biaslab.report.sweep_files import CHOSEN, Outcome
from biaslab.store import Artifacts
from biaslab.tasks.attribution import Attribution, Selection


def sweep(
    model: str = "minilm-mlm",
    selections: Sequence[Selection] = ("guarded",),
    sources: Sequence[str] = ("both",),
    guards: Sequence[str] = ("stereoset", "stereoset+bold+bug"),
    guard_weights: Sequence[float] = (2.0, 5.0, 8.0),
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
    output: str = "runs/sweep",
    trust_remote_code: bool = False,
) -> None:
    """Judge a grid of settings, choose one, and report it on what it was not chosen on.

    Settings are judged on StereoSet's test split and on validation sentences. Among those that lose neither LMS nor, in
    any domain, ICAT, and whose perplexity rises by at most ``perplexity_percent``, that with the highest ICAT is chosen
    and judged on the dev split and on evaluation sentences. What was judged is kept: the same command goes on.

    Args:
        model: an asset's name, a folder or a hub id.
        selections: of "guarded", "ranked" and "paper".
        sources: of "prompts", "contrast" and "both".
        guards: what the guard is made from: sources of a contrast set, several joined by "+".
        guard_weights: λ, how much the guard counts.
        counts: how many neurons; null for 2 % of all.
        domain_weights: how much each of StereoSet's domains counts, one mapping a setting; also without, always.
        thresholds: of the votes ("paper").
        shares: of the votes.
        factors: what the neurons are multiplied by.
        positions: of "all" and "slot".
        perplexity_percent: how much perplexity may rise.
        seeds: how many random controls the choice is reported with.
        text: ordinary sentences: "bold", "bug", "panda" or a text file.
        sentences: how many of them.
        limit: only so many clusters of StereoSet; all by default.
        every: of what settings are chosen on, only every so many-th cluster.
        choose_on: a file of StereoSet's form instead of the test split.
        report_on: a file of StereoSet's form instead of the dev split.
        output: the folder that the sweeps of all models lie in.
        trust_remote_code: let a checkpoint bring its own Python code.

    Raises:
        InputError: if an argument is not what is expected.
    """
    settings = dict(locals())
    specs = list(_specs(selections, sources, guards, guard_weights, counts, domain_weights, thresholds, shares))
    settings_of = [Setting(spec.name, f, p) for spec in specs for f in factors for p in positions]
    _check(settings_of, positions)
    base, tokenizer = load_model(model, trust_remote_code=trust_remote_code)
    nn.Module.to(base, "cuda" if torch.cuda.is_available() else "cpu")
    artifacts = Artifacts(Path(output) / slug(model))
    choosing = _judge(
        artifacts,
        StereoSetDataModule(model, split="test", path=choose_on, limit=limit, every=every),
        read_sentences(text, "validation")[:sentences],
    )
    reporting = _judge(
        artifacts,
        StereoSetDataModule(model, path=report_on, limit=limit),
        read_sentences(text, "evaluation")[:sentences],
    )
    console = Console(highlight=False)
    console.print(f"biaslab sweep: {model}, {len(settings_of)} settings. Everything goes to {artifacts.folder}")
    weights = fingerprint(base)
    sets = _find(artifacts, model, weights, specs, trust_remote_code)

    def state(setting: Setting) -> State:
        return State(weights, sets[setting.selection], setting.factor, setting.positions)  # type: ignore[arg-type]

    untouched = trial(None, 0, choosing.judge(base, tokenizer, State(weights), BASE))
    trials = []
    for number, setting in enumerate(settings_of, 1):
        judged = choosing.judge(base, tokenizer, state(setting), f"{number} of {len(settings_of)}")
        trials.append(trial(setting, len(sets[setting.selection]), judged))
    chosen = choose(untouched, trials, perplexity_percent)
    assert chosen.setting is not None
    neurons = sets[chosen.setting.selection]
    rows = {
        BASE: [State(weights)],
        CHOSEN: [state(chosen.setting)],
        random_row(seeds): [
            state(chosen.setting)._replace(neurons=random_like(neurons, seed)) for seed in range(seeds)
        ],
    }
    held_out = {name: [reporting.judge(base, tokenizer, s, name) for s in states] for name, states in rows.items()}
    outcome = Outcome(untouched, trials, chosen, perplexity_percent, held_out)
    outcome.write(artifacts.folder, neurons, settings)
    outcome.print(console)
    console.print(f"\n{artifacts.folder} holds sweep.csv, sweep.json, sweep.png, sweep.svg, neurons.json.")


class Spec(NamedTuple):
    """How neurons are selected.

    Attributes:
        name: says it all, and may name a file.
        threshold: of the votes, which the pass must know.
        selection: "guarded", "ranked" or "paper".
        changes: arguments of :meth:`biaslab.tasks.attribution.Attribution.select`.
    """

    name: str
    threshold: float
    selection: Selection
    changes: dict[str, Any]


def _specs(
    selections: Sequence[Selection],
    sources: Sequence[str],
    guards: Sequence[str],
    guard_weights: Sequence[float],
    counts: Sequence[int | None],
    domain_weights: Sequence[dict[str, float]],
    thresholds: Sequence[float],
    shares: Sequence[float],
) -> Iterator[Spec]:
    """Yield the selections of the grid; of each only what matters to it is varied."""
    for selection in selections:
        if selection == "paper":
            for threshold, share in itertools.product(thresholds, shares):
                yield Spec(f"paper-{threshold:g}-{share:g}", threshold, selection, {"share": share})
            continue
        guarded = [(g, w) for g in guards for w in guard_weights] if selection == "guarded" else [(None, 0.0)]
        for source, count, by_domain, (guard, weight) in itertools.product(
            sources, counts, [None, *domain_weights], guarded
        ):
            changes: dict[str, Any] = {"source": source, "count": count, "domain_weights": by_domain}
            if guard is not None:
                changes |= {"guard": guard.split("+"), "guard_weight": weight}
            parts = [selection, source, guard and f"{guard}-{weight:g}", count, by_domain and _joined(by_domain)]
            yield Spec("-".join(str(part) for part in parts if part), thresholds[0], selection, changes)


def _joined(weights: Mapping[str, float]) -> str:
    return ",".join(f"{name}{weight:g}" for name, weight in weights.items())


def _check(settings: Sequence[Setting], positions: Sequence[str]) -> None:
    if not settings:
        raise InputError("`selections` and what is varied are expected to hold a value each, but the grid is empty.")
    unknown = set(positions) - {"all", "slot"}
    if unknown:
        raise InputError(f"`positions` is expected to be of all, slot but got {', '.join(sorted(unknown))}.")


def _judge(artifacts: Artifacts, data: StereoSetDataModule, text: list[str]) -> Judge:
    data.prepare_data()
    data.setup("test")
    return Judge(artifacts, data, text)


def _find(
    artifacts: Artifacts, model: str, weights: str, specs: Sequence[Spec], trust_remote_code: bool
) -> dict[str, NeuronSet]:
    """Attribute once a threshold, and select."""
    sources = dict.fromkeys(["stereoset", *(name for spec in specs for name in spec.changes.get("guard", ()))])
    data = PRESETS["small"].data | {"contrast": list(sources)}
    sets: dict[str, NeuronSet] = {}
    for threshold in dict.fromkeys(spec.threshold for spec in specs):
        own = [spec for spec in specs if spec.threshold == threshold]

        def select(task: Attribution, _: PromptDataModule, own: list[Spec] = own) -> dict[str, NeuronSet]:
            return {spec.name: task.select(spec.selection, **spec.changes) for spec in own}

        options = {"threshold": threshold, "trust_remote_code": trust_remote_code}
        depends_on = {"weights": weights, "specs": own}
        sets |= attribution_pass(artifacts, "pass", model, options, data, select, depends_on).sets
    return sets
