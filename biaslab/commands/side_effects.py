"""Side effects: suppress the neurons of one dimension, and measure all dimensions."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from biaslab.commands.side_effects_measures import Measures
from biaslab.data.corpus import read_sentences
from biaslab.data.crows_pairs import CrowsPairsDataModule
from biaslab.data.prompts import PromptDataModule
from biaslab.data.stereoset import StereoSetDataModule
from biaslab.errors import InputError
from biaslab.evaluation.findings_old import BASE
from biaslab.evaluation.judging import State
from biaslab.models.architectures import ffn_shape
from biaslab.models.loading import fingerprint, load_model
from biaslab.neurons.neuron_set import NeuronSet, random_like
from biaslab.report.side_effects_files import ALL, RANDOM, Results, Row
from biaslab.store import Artifacts

MODIFIERS = 5  # of each of the six kinds: 150 held-out prompts a dimension


def side_effects(
    neurons: str,
    model: str | None = None,
    dimensions: Sequence[str] | None = None,
    factor: float = 0.0,
    positions: Literal["all", "slot"] = "all",
    seeds: int = 2,
    text: str = "bold",
    sentences: int = 200,
    every: int = 1,
    stereoset: str | None = None,
    crows_pairs: str | None = None,
    output: str | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Suppress the neurons of one dimension after the other, and print what each does to all dimensions.

    Of each row (the untouched model, each dimension's neurons, all neurons of the file, random ones) it measures
    StereoSet by domain, CrowS-Pairs by category, the demographic gap on held-out prompts by dimension, and perplexity.
    Each part is kept on disk: the same command goes on where it was killed, and a second one computes nothing. The
    figures are written as side_effects.json and side_effects.csv.

    Args:
        neurons: a file that an attribution run wrote.
        model: an asset's name, a folder or a hub id; by default the one that the file names.
        dimensions: some of the file's subsets; by default each dimension that it has one for.
        factor: what the neurons are multiplied by: 0 switches them off.
        positions: "all", or "slot" (only where the model is asked).
        seeds: how many random controls, with as many neurons in each layer as all of the file.
        text: what the pseudo-perplexity is measured on: "bold", "bug", "panda" or a text file.
        sentences: how many sentences of it.
        every: only every so many-th cluster of StereoSet and batch of CrowS-Pairs, to be quick.
        stereoset: a file of StereoSet's form instead of its dev split.
        crows_pairs: a file of CrowS-Pairs' form instead of CrowS-Pairs itself.
        output: the folder of the results; by default the one that the neuron file is in.
        trust_remote_code: let a checkpoint bring its own Python code.

    Raises:
        InputError: if an argument is not what is expected.
    """
    settings = dict(locals())
    _check(positions, seeds=seeds, sentences=sentences, every=every)
    chosen = NeuronSet.load(neurons)
    name = _model_name(chosen, model, neurons)
    wanted = _dimensions(chosen, dimensions)
    network, tokenizer = load_model(name, trust_remote_code=trust_remote_code)
    nn.Module.to(network, "cuda" if torch.cuda.is_available() else "cpu")
    states = _states(network, chosen, wanted, seeds, factor, positions)
    data = _set_up(name, stereoset, crows_pairs, every)
    ordinary = _ordinary(text, sentences)
    home = Path(neurons).parent if output is None else Path(output)
    artifacts = Artifacts(home / "side_effects")
    measures = Measures(artifacts, *data, ordinary, every)
    console = Console(highlight=False)
    console.print(f"biaslab side-effects: {name}. Everything is kept in {artifacts.folder}", markup=False)

    rows = _measure(console, measures, network, tokenizer, states)
    results = Results(name, rows, measures.categories, data[2].pair_names, settings, measures.counts())
    results.write(home)
    results.print(console)
    console.print(f"\nThe figures lie in {home}: side_effects.json, side_effects.csv.", markup=False)


def _check(positions: str, **counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise InputError(f"`{name}` is expected to be a positive integer but got {count}.")
    if positions not in ("all", "slot"):
        raise InputError(f'`positions` is expected to be "all" or "slot" but got {positions!r}.')


def _model_name(neurons: NeuronSet, model: str | None, path: str) -> str:
    """Return the model's name, from the provenance unless it is given."""
    name = model or neurons.provenance.get("model", {}).get("name")
    if not name:
        raise InputError(
            f"`model` is expected to be named, since {path} does not say which model its neurons are of, but got none. "
            "Give its name."
        )
    return str(name)


def _dimensions(neurons: NeuronSet, wanted: Sequence[str] | None) -> list[str]:
    """Return the names of the subsets that are to be suppressed, each once."""
    if wanted is None:
        return [name for name in neurons.subsets if "/" not in name]
    known = ", ".join(neurons.subsets) or "no subsets at all"
    for name in wanted:
        if name not in neurons.subsets:
            raise InputError(f"`dimensions` is expected to be of the neuron file's subsets ({known}) but got {name!r}.")
    return list(dict.fromkeys(wanted))


def _states(
    model: PreTrainedModel,
    neurons: NeuronSet,
    dimensions: Sequence[str],
    seeds: int,
    factor: float,
    positions: Literal["all", "slot"],
) -> dict[str, list[State]]:
    """Return the states of each row: one, or one a seed."""
    neurons.require_model(model)
    every = NeuronSet(neurons, ffn_shape(model))
    sets = {name: [NeuronSet(neurons.subsets[name], ffn_shape(model))] for name in dimensions}
    sets |= {ALL: [every], RANDOM: [random_like(every, seed) for seed in range(seeds)]}
    weights = fingerprint(model)
    states = {name: [State(weights, one, factor, positions) for one in of_row] for name, of_row in sets.items()}
    return {BASE: [State(weights)]} | states


def _set_up(
    model: str, stereoset: str | None, crows_pairs: str | None, every: int
) -> tuple[StereoSetDataModule, CrowsPairsDataModule, PromptDataModule]:
    """Return the data, read and tokenized: what can be wrong with it shows before the long work begins."""
    clusters = StereoSetDataModule(model, path=stereoset, every=every)
    pairs = CrowsPairsDataModule(model, path=crows_pairs)
    for data in (clusters, pairs):
        data.prepare_data()
        data.setup("test")
    held_out = PromptDataModule(model, modifiers=MODIFIERS, part="held_out")
    held_out.setup("predict")
    return clusters, pairs, held_out


def _ordinary(text: str, sentences: int) -> list[str]:
    found = read_sentences(text, "evaluation")[:sentences]
    if not found:
        raise InputError(f"`text` is expected to have evaluation sentences but {text} has none. Give a longer one.")
    return found


def _measure(
    console: Console,
    measures: Measures,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    states: Mapping[str, Sequence[State]],
) -> dict[str, Row]:
    """Measure all rows, and say so as each is done."""
    rows = {}
    for name, of_row in states.items():
        start = time.monotonic()
        measured = [measures.measure(model, tokenizer, state, name) for state in of_row]
        rows[name] = Row(len(of_row[0].neurons or ()), measured)
        console.print(f"{name:22}{rows[name].neurons:>6} neurons{time.monotonic() - start:>8.0f} s", markup=False)
    return rows
