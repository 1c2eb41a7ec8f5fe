"""Black-box probing as a command: the share of biased outputs and its spread over wordings, before and after BNS."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from pytorch_lightning.loggers import TensorBoardLogger
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from biaslab.commands.debias import _new_folder
from biaslab.data.probe_words import ACTIONS, WORDINGS
from biaslab.errors import InputError
from biaslab.evaluation.findings_old import BASE, Estimate, cell, new_table, random_row, write_csv
from biaslab.evaluation.templates import (
    Answers,
    Probes,
    Spread,
    answers,
    interval,
    judging_log_probabilities,
    make_probes,
    spread,
)
from biaslab.models.architectures import ffn_shape
from biaslab.models.loading import load_model
from biaslab.models.tokens import is_masked
from biaslab.neurons.neuron_set import NeuronSet, random_like
from biaslab.neurons.suppression import suppressed

MEASURES = {"biased": "biased outputs", "mass_difference": "mass difference"}
DEFINITION = " ".join(
    f"""Biased output: the likeliest judging adjective is negative for one gender and positive for the other, whichever.
    Mass difference: of the judging adjectives' probability the negative ones have a share; this is its absolute
    difference between the genders. Both in percent: mean over {len(WORDINGS)} wordings and {len(ACTIONS)} actions
    [95 %, bootstrap over the actions]; standard deviation over the wordings (in 95 % of cases chance alone makes one of
    at most so much); lowest and highest wording.""".split()
)


class Figure(NamedTuple):
    """A measure of a row, in percent.

    Attributes:
        estimate: mean over wordings and actions.
        spread: over the wordings; of random controls the mean of the seeds' own.
        by_wording: mean over the actions, one a wording.
    """

    estimate: Estimate
    spread: Spread
    by_wording: list[float]


Figures = dict[str, dict[str, Figure]]  # row -> measure


def probe(
    model: str = "minilm-mlm",
    neurons: str | None = None,
    factor: float = 0.0,
    seeds: int = 5,
    output: str = "runs",
    trust_remote_code: bool = False,
) -> None:
    """Ask a model why a woman or a man did something, and print how often it judges one of them and praises the other.

    With a neuron file, before and after its suppression, with random controls beside. Everything is also written into a
    new folder under ``output``: probe.json has the figures, probe.csv each output.

    Args:
        model: an asset's name, a folder or a hub id.
        neurons: a file that an attribution run wrote; without it, the model is only asked as it is.
        factor: what the neurons are multiplied by: 0 switches them off.
        seeds: how many random controls.
        output: the folder that runs lie in.
        trust_remote_code: let a checkpoint bring its own Python code.

    Raises:
        InputError: if an argument is not what is expected.
    """
    settings = dict(locals())
    if seeds < 1:
        raise InputError(f"`seeds` is expected to be a positive integer but got {seeds}.")
    chosen = None if neurons is None else NeuronSet.load(neurons)
    network, tokenizer = load_model(model, trust_remote_code=trust_remote_code)
    rows = {BASE: [NeuronSet()]} if chosen is None else _rows(network, chosen, factor, seeds)
    probes = make_probes(tokenizer)
    folder = _new_folder(TensorBoardLogger(output, name="probe"))
    nn.Module.to(network, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    found = {
        row: [_ask(network, tokenizer, probes, treated, factor) for treated in sets]
        for row, sets in tqdm(rows.items(), desc="probe", leave=False)
    }
    sizes = {row: len(sets[0]) for row, sets in rows.items()}
    result = figures(found)
    content = _content(settings, probes, is_masked(tokenizer), sizes, result)
    (folder / "probe.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    write_csv(folder / "probe.csv", list(_outputs(probes, found)))
    _print(Console(highlight=False), probes, is_masked(tokenizer), sizes, result)
    print(f"\nEverything lies in {folder}: probe.json, probe.csv.")


def _rows(model: PreTrainedModel, neurons: NeuronSet, factor: float, seeds: int) -> dict[str, list[NeuronSet]]:
    """Return what is suppressed in each row: one set, or one a seed."""
    neurons.require_model(model)
    shaped = NeuronSet(neurons, ffn_shape(model))
    controls = [random_like(shaped, seed) for seed in range(seeds)]
    return {BASE: [NeuronSet()], f"BNS ×{factor:g}": [shaped], random_row(seeds): controls}


def _ask(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, probes: Probes, neurons: NeuronSet, factor: float
) -> Answers:
    with suppressed(model, neurons, factor):
        return answers(judging_log_probabilities(model, tokenizer, probes), probes.negative)


def figures(found: dict[str, list[Answers]]) -> Figures:
    """Return each row's figures from its answers (one, or one a seed); ``BASE`` is among the rows."""
    result: Figures = {row: {} for row in found}
    for measure in MEASURES:
        values = {row: [getattr(run, measure)() for run in runs] for row, runs in found.items()}
        for row, tables in values.items():
            result[row][measure] = _figure(values[BASE][0], tables)
    return result


def _figure(base: Tensor, tables: Sequence[Tensor]) -> Figure:
    mean = torch.stack(list(tables)).mean(0)  # [wording, action]
    over_seeds = statistics.stdev(float(table.mean()) for table in tables) if len(tables) > 1 else None
    estimate = Estimate(interval(mean), interval(mean - base), over_seeds)
    spreads = Spread(*(statistics.fmean(column) for column in zip(*map(spread, tables), strict=True)))
    return Figure(estimate, spreads, mean.mean(1).tolist())


def _frames(masked: bool) -> list[str]:
    """Return the wordings as they are read, with both genders."""
    words = {"action": "ACTION", "slot": "___", "subject": "wo/man", "pronoun": "s/he", "possessive": "her/his"}
    return [(wording.masked if masked else wording.causal).format(**words) for wording in WORDINGS]


def _content(
    settings: dict[str, Any], probes: Probes, masked: bool, sizes: dict[str, int], result: Figures
) -> dict[str, Any]:
    polar = {"positive": ~probes.negative, "negative": probes.negative}
    return {
        "definition": DEFINITION,
        "settings": settings,
        "wordings": _frames(masked),
        "actions": ACTIONS,
        "words": {kind: [w for w, keep in zip(probes.words, of, strict=True) if keep] for kind, of in polar.items()},
        "rows": {
            row: {"neurons": sizes[row]} | {measure: _plain(figure) for measure, figure in of_row.items()}
            for row, of_row in result.items()
        },
    }


def _plain(figure: Figure) -> dict[str, Any]:
    estimate = figure.estimate
    return {
        "figure": estimate.figure._asdict(),
        "change": estimate.change._asdict(),
        "spread_over_seeds": estimate.spread,
        "over_wordings": figure.spread._asdict(),
        "by_wording": figure.by_wording,
    }


def _outputs(probes: Probes, found: dict[str, list[Answers]]) -> Iterator[dict[str, Any]]:
    """Yield a line a pair of sentences: the likeliest adjectives, negative masses, and whether it is biased."""
    for row, runs in found.items():
        for seed, run in enumerate(runs):
            biased = run.biased()
            for wording, action in torch.cartesian_prod(*map(torch.arange, biased.shape)).tolist():
                words = [probes.words[index] for index in run.likeliest[wording, action].tolist()]
                female, male = run.mass[wording, action].tolist()
                yield {
                    "row": row, "seed": seed, "wording": wording, "action": ACTIONS[action],
                    "female": words[0], "male": words[1], "biased": int(biased[wording, action] > 0),
                    "female_negative_mass": female, "male_negative_mass": male,
                }  # fmt: skip


def _print(console: Console, probes: Probes, masked: bool, sizes: dict[str, int], result: Figures) -> None:
    """Print the tables and what the figures are, at most 80 columns wide."""
    negative = int(probes.negative.sum())
    count = f"{len(probes.texts)} sentences, {len(probes.words) - negative} positive and {negative} negative adjectives"
    table = new_table(f"Black-box probing: {count}", "", "n", *MEASURES.values())
    for row, of_row in result.items():
        table.add_row(row, str(sizes[row]), *(_both(of_row[measure], row != BASE) for measure in MEASURES))
    console.print(table)
    console.print(_wording_table(masked, result))
    console.print(f"\n{DEFINITION}", markup=False)


def _both(figure: Figure, with_change: bool) -> str:
    over = figure.spread
    moves = f"± {over.deviation:.1f} over wordings ({over.chance:.1f})\n{over.low:.1f} to {over.high:.1f}"
    return f"{cell(figure.estimate, with_change)}\n{moves}"


def _wording_table(masked: bool, result: Figures) -> Table:
    table = new_table("Biased outputs by wording", "", *result)
    table.columns[0].no_wrap = False
    for index, frame in enumerate(_frames(masked)):
        table.add_row(frame, *(f"{of_row['biased'].by_wording[index]:.1f}" for of_row in result.values()))
    return table
