"""The paper's results table for a model: baselines, bias neuron suppression and controls, judged alike."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console
from torch import nn
from transformers import PreTrainedModel

from biaslab.commands.treatments import BASE_ROW, ROWS, TRAINED, Treatment, Treatments, slug
from biaslab.data.corpus import read_sentences
from biaslab.data.stereoset import StereoSetDataModule
from biaslab.errors import InputError
from biaslab.evaluation.judging import Judge, State
from biaslab.models.architectures import architecture
from biaslab.models.checkpoints import load_weights, read_checkpoint
from biaslab.models.loading import fingerprint, load_model
from biaslab.report.table_files import Results, Row
from biaslab.store import Artifacts


def table(
    model: str = "minilm-mlm",
    rows: Sequence[str] | None = None,
    preset: Literal["small", "paper"] = "small",
    configs: str = "configs",
    seeds: int = 5,
    factor: float = 0.0,
    positions: Literal["all", "slot"] = "all",
    text: str = "bold",
    sentences: int = 500,
    limit: int | None = None,
    stereoset: str | None = None,
    output: str = "runs/table",
    trust_remote_code: bool = False,
) -> None:
    """Print the paper's results table for a model, and write it as CSV, JSON, LaTeX and Markdown.

    All that is found, trained or judged on the way is kept beside the table, under a name that changes with all that it
    depends on: the same command goes on where it was killed, and computes no row twice.

    Args:
        model: an asset's name, a folder or a hub id.
        rows: of base, dpce, autodebias, cda, cda_control, union_ig, intersection_ig, union_ig_cut, bns_paper,
            bns_ranked, bns_guarded, bns_lms, random_bns, random_union_ig; all that apply by default.
        preset: "paper" (the settings of the papers) or "small" (minutes on two cores).
        configs: the folder of the training configurations.
        seeds: how many random controls.
        factor: what neurons are multiplied by: 0 switches them off.
        positions: "all", or "slot" (only where the model is asked).
        text: what the pseudo-perplexity is measured on: "bold", "bug", "panda" or a text file.
        sentences: how many sentences of it.
        limit: only so many clusters of StereoSet; all by default.
        stereoset: a file of StereoSet's form instead of its dev split.
        output: the folder that the tables of all models lie in.
        trust_remote_code: let a checkpoint bring its own Python code.

    Raises:
        InputError: if an argument is not what is expected.
    """
    settings = dict(locals())
    wanted = _checked(rows, seeds)
    base, tokenizer = load_model(model, trust_remote_code=trust_remote_code)
    nn.Module.to(base, "cuda" if torch.cuda.is_available() else "cpu")
    wanted, left_out = _that_apply(wanted, base)
    data = StereoSetDataModule(model, path=stereoset, limit=limit)
    data.prepare_data()
    data.setup("test")
    ordinary = read_sentences(text, "evaluation")[:sentences]
    artifacts = Artifacts(Path(output) / slug(model))
    judge, weights = Judge(artifacts, data, ordinary), fingerprint(base)
    treatments = Treatments(artifacts, model, weights, preset, configs, seeds, trust_remote_code)
    console = Console(highlight=False)
    console.print(f"biaslab table: {model}, preset {preset}. Everything goes to {artifacts.folder}")

    found: dict[str, Row] = {}
    for name in wanted:
        chosen, judged = treatments.of(name), []
        for treatment in chosen:
            treated = _treated(base, treatment)
            own = weights if treatment.checkpoint is None else fingerprint(treated)
            state = State(own, treatment.neurons, factor, positions)
            judged.append(judge.judge(treated, tokenizer, state, ROWS[name]))
        found[name] = Row(ROWS[name], _size(base, treated, chosen[0]), chosen[0].seconds, judged)
        console.print(f"{ROWS[name]:20}{found[name].size:>12,}{found[name].seconds:>8.0f} s", markup=False)
    outcome = Results(model, found, left_out, settings)
    outcome.write(artifacts.folder)
    outcome.print(console)
    console.print(f"\nThe table lies in {artifacts.folder}: table.csv, table.json, table.tex, table.md.")


def _checked(rows: Sequence[str] | None, seeds: int) -> list[str]:
    unknown = [row for row in rows or () if row not in ROWS]
    if unknown or (rows is not None and not rows):
        raise InputError(f"`rows` is expected to be of {', '.join(ROWS)} but got {', '.join(unknown) or 'none'}.")
    if seeds < 1:
        raise InputError(f"`seeds` is expected to be a positive integer but got {seeds}.")
    return [row for row in ROWS if rows is None or row in rows or row == BASE_ROW]


def _that_apply(rows: list[str], model: PreTrainedModel) -> tuple[list[str], dict[str, str]]:
    """Leave out what can't be had for a causal model."""
    left_out = {} if architecture(model).masked else dict.fromkeys(TRAINED, "needs a masked language model")
    return [row for row in rows if row not in left_out], {k: v for k, v in left_out.items() if k in rows}


def _treated(base: PreTrainedModel, treatment: Treatment) -> PreTrainedModel:
    """Return the model with the weights of a treatment."""
    if treatment.checkpoint is None:
        return base
    model = copy.deepcopy(base)
    load_weights(model, read_checkpoint(str(treatment.checkpoint))["state_dict"], str(treatment.checkpoint))
    return model


def _size(base: PreTrainedModel, treated: PreTrainedModel, treatment: Treatment) -> int:
    """Return how many neurons are suppressed, or how many parameters were trained."""
    if treatment.neurons is not None:
        return len(treatment.neurons)
    pairs = zip(base.parameters(), treated.parameters(), strict=True)
    return sum(old.numel() for old, new in pairs if not torch.equal(old, new))
