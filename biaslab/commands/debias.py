"""All in one: find the bias neurons, suppress them, judge before and after, with random controls beside."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pytorch_lightning.loggers import TensorBoardLogger
from rich.console import Console
from torch import Tensor
from tqdm import tqdm

from biaslab.attribution.gaps import Steps
from biaslab.callbacks import NeuronSuppression
from biaslab.commands.cards import card_table, write_cards
from biaslab.data.corpus import read_sentences
from biaslab.data.prompts import PromptDataModule
from biaslab.data.stereoset import StereoSetDataModule
from biaslab.errors import InputError
from biaslab.evaluation.findings_old import BASE, estimates, random_row
from biaslab.evaluation.gaps import Gaps, demographic_gaps, negative_log_likelihoods
from biaslab.models.loading import fingerprint
from biaslab.neurons.cards import neuron_cards
from biaslab.neurons.neuron_set import NeuronSet, random_like
from biaslab.neurons.suppression import suppressed_where
from biaslab.report import tensorboard as boards
from biaslab.report.results import Outcome, Row
from biaslab.tasks.attribution import Attribution, Selection, Source
from biaslab.tasks.base import single_trainer
from biaslab.tasks.evaluation import Evaluation, StereoSetEvaluation

AMPLIFY = 2.0
HALF = 0.5  # a softer suppression, printed beside: it keeps much of the effect at a fraction of the price
DIMENSIONS = ("gender", "ethnicity", "religion", "occupation")  # those that StereoSet has a domain for
KINDS = ("negative", "positive")


def debias(
    model: str = "minilm-mlm",
    selection: Selection = "guarded",
    source: Source = "both",
    contrast: str | Sequence[str] = ("stereoset", "bold", "bug"),
    count: int | None = None,
    guard_weight: float = 3.0,
    dimensions: Sequence[str] = DIMENSIONS,
    kinds: Sequence[str] = KINDS,
    modifiers: int = 2,
    contrast_limit: int = 600,
    steps: Steps = "auto",
    factor: float = 0.0,
    positions: Literal["all", "slot"] = "all",
    seeds: int = 5,
    text: str = "bold",
    sentences: int = 100,
    limit: int | None = None,
    stereoset: str | None = None,
    output: str = "runs",
    trust_remote_code: bool = False,
) -> None:
    """Find the bias neurons of a model, suppress them, and print what that did.

    Everything is also written into a new folder under ``output``: results.json, table.csv, gaps.csv, neurons.json,
    scores.safetensors, config.yaml and TensorBoard logs. Nothing is chosen on what is reported: neurons come from the
    prompts and the contrast set (StereoSet's test split, or plain text), the figures from StereoSet's dev split,
    held-out prompts and sentences that nothing was chosen on.

    Args:
        model: an asset's name, a folder or a hub id.
        selection: "guarded", "ranked" or "paper".
        source: where bias is read: "prompts", "contrast" (only with "stereoset"), or "both".
        contrast: what the guard is made from: "stereoset" (its test split), "bold", "bug", "panda" or a text file, or
            several of these.
        count: how many neurons; 2 % of all by default.
        guard_weight: how much what ordinary sentences need counts against a neuron (λ).
        dimensions: which demographics are asked about.
        kinds: of judging modifiers in the prompts.
        modifiers: how many of each kind.
        contrast_limit: at most so many sentences of each of them.
        steps: nodes of the quadrature; "auto" takes as many as the completeness residual asks for.
        factor: what the neurons are multiplied by: 0 switches them off.
        positions: "all", or "slot" (only where the model is asked).
        seeds: how many random controls.
        text: what the pseudo-perplexity is measured on: "bold", "bug", "panda" or a text file.
        sentences: how many sentences of it.
        limit: only so many clusters of StereoSet; all by default.
        stereoset: a file of StereoSet's form instead of its dev split.
        output: the folder that runs lie in.
        trust_remote_code: let a checkpoint bring its own Python code.

    Raises:
        InputError: if an argument is not what is expected.
    """
    settings = dict(locals())
    started = time.monotonic()
    if seeds < 1:
        raise InputError(f"`seeds` is expected to be a positive integer but got {seeds}.")
    task = Attribution(
        model, steps=steps, count=count, guard_weight=guard_weight, source=source, selection=selection,
        trust_remote_code=trust_remote_code,
    )  # fmt: skip
    find = PromptDataModule(
        model, dimensions, kinds=kinds, modifiers=modifiers, contrast=contrast, contrast_limit=contrast_limit
    )
    # All that can be wrong with the data shows before the long work begins.
    data = StereoSetDataModule(model, path=stereoset, limit=limit)
    data.prepare_data()
    data.setup("test")
    held_out = PromptDataModule(model, dimensions, kinds=kinds, modifiers=modifiers, part="held_out")
    held_out.setup("predict")
    ordinary = read_sentences(text, "evaluation")[:sentences]

    logger = TensorBoardLogger(output, name="debias", default_hp_metric=False)
    folder = _new_folder(logger)
    (folder / "config.yaml").write_text(yaml.safe_dump(_plain(settings), sort_keys=False), encoding="utf-8")
    console = Console(highlight=False)

    console.print(f"biaslab debias: {model}. Everything goes to {folder}")
    console.print("\n[bold]1 Find[/]: attribute the gap between demographics to neurons (IG²)")
    single_trainer(logger).predict(task, find, return_predictions=False)
    neurons = task.select(selection)
    votes = task.select("paper")
    votes.save(folder / "neurons_paper.json")

    console.print("\n[bold]2 Judge[/]: StereoSet, before and after")
    judge = StereoSetEvaluation(model, trust_remote_code=trust_remote_code)
    controls = tuple(random_like(neurons, seed) for seed in range(seeds))
    rows = _rows(selection, neurons, votes, controls, factor)
    evaluations = {row.name: _evaluate(judge, data, row, positions) for row in rows}

    console.print("\n[bold]3 Verify[/]: held-out prompts, ordinary text")
    gaps = _gaps(task, held_out, neurons, controls, positions)
    likelihoods = _likelihoods(task, rows, ordinary, positions)

    outcome = Outcome(
        rows={row.name: row for row in rows},
        estimates=estimates(evaluations),
        pairs=held_out.pair_names,
        gaps=gaps,
        likelihoods=likelihoods,
        neurons=neurons,
        facts={
            "attribution": task.summary(),
            "dropped": find.dropped,
            "prompts": len(find.prompts),
            "held_out_prompts": len(held_out.prompts),
            "clusters": len(data.clusters),
            "sentences": len(ordinary),
            "residual": dict(zip(("mean", "worst"), task.residual(), strict=True)),
            "seconds": round(time.monotonic() - started),
        },
    )
    outcome.write(folder)
    asked = (held_out.batches, [prompt.text for prompt in held_out.prompts], held_out.pair_names)
    samples = {"untouched": boards.sample_prompts(task.model, *asked)}
    with suppressed_where(task.model, neurons, factor, positions, task.tokenizer.mask_token_id):
        samples["suppressed"] = boards.sample_prompts(task.model, *asked)
    outcome.log(logger.experiment, settings, samples)
    found = neuron_cards(
        task.model, task.tokenizer, find.prompts, find.batches, neurons, task.prompts.pair_scores(), find.pair_names
    )
    write_cards(folder / "cards.json", model, fingerprint(task.model), found)
    logger.finalize("success")
    outcome.print(console)
    console.print(card_table(found, len(neurons)))
    console.print(
        f"\n{outcome.facts['seconds']} s. Everything lies in {folder}: results.json, table.csv, gaps.csv, "
        f"neurons.json, neurons_paper.json, cards.json, scores.safetensors, config.yaml, TensorBoard logs "
        f"(tensorboard --logdir {output})."
    )


def _new_folder(logger: TensorBoardLogger) -> Path:
    folder = Path(logger.log_dir)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise InputError(
            f"`output` is expected to be a folder that can be written, but {folder} can't: {error}."
        ) from error
    return folder


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}


def _rows(
    selection: str, neurons: NeuronSet, votes: NeuronSet, controls: tuple[NeuronSet, ...], factor: float
) -> list[Row]:
    rows = [Row(BASE), Row(f"BNS, {selection}", (neurons,), factor)]
    if factor == 0:
        rows.append(Row(f"BNS, {selection} ×½", (neurons,), HALF))
    if selection != "paper":
        rows.append(Row("BNS, paper", (votes,), factor))
    return [*rows, Row(random_row(len(controls)), controls, factor, like=neurons)]


def _evaluate(
    judge: StereoSetEvaluation, data: StereoSetDataModule, row: Row, positions: Literal["all", "slot"]
) -> list[Evaluation]:
    """Return the row's evaluations, one a set of neurons."""
    evaluations = []
    treatments = [NeuronSuppression(neurons, row.factor, positions) for neurons in row.neurons]
    for callbacks in [[treatment] for treatment in treatments] or [[]]:
        single_trainer(False, *callbacks).test(judge, datamodule=data, verbose=False)
        assert judge.evaluation is not None
        evaluations.append(judge.evaluation)
    return evaluations


def _gaps(
    task: Attribution,
    held_out: PromptDataModule,
    neurons: NeuronSet,
    controls: Sequence[NeuronSet],
    positions: Literal["all", "slot"],
) -> dict[str, list[Gaps]]:
    """Measure the gaps untouched, suppressed, amplified, and with each random control suppressed."""
    runs = [
        ("untouched", (), 1.0),
        ("suppressed", neurons, 0.0),
        ("amplified", neurons, AMPLIFY),
        *(("random", c, 0.0) for c in controls),
    ]
    gaps: dict[str, list[Gaps]] = {}
    for name, treated, factor in runs:
        with suppressed_where(task.model, treated, factor, positions, task.tokenizer.mask_token_id):
            found = demographic_gaps(task.model, _progress(held_out.batches, f"gaps, {name}"), len(held_out.pair_names))
        gaps.setdefault(name, []).append(found)
    return gaps


def _likelihoods(
    task: Attribution, rows: Sequence[Row], text: Sequence[str], positions: Literal["all", "slot"]
) -> dict[str, list[Tensor]]:
    """Measure the sentences' likelihood once a row; of the random controls the first will do, since each takes long."""
    found = {}
    for row in _progress(rows, "perplexity"):
        name = row.name if row.like is None else random_row(1)
        neurons = row.neurons[0] if row.neurons else ()
        with suppressed_where(task.model, neurons, row.factor, positions, task.tokenizer.mask_token_id):
            found[name] = [negative_log_likelihoods(task.model, task.tokenizer, text)]
    return found


def _progress(items: Sequence[Any], what: str) -> Iterable[Any]:
    bar: Iterable[Any] = tqdm(items, desc=what, leave=False)
    return bar
