"""Black-box probing: the share of biased outputs and its spread over wordings, before and after suppression."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console

from biaslab.data.presets import Accelerator, Dtype
from biaslab.data.words import ACTIONS, WORDINGS
from biaslab.errors import require_ranges
from biaslab.evaluation.findings import OVERALL, Findings, write_csv
from biaslab.neurons.neuron_set import NeuronSet, random_like
from biaslab.report.tables import cell, new_table
from biaslab.store import make_folder

if TYPE_CHECKING:
    from biaslab.evaluation.evaluate import Evaluation
    from biaslab.evaluation.measures import Templates

_DEFINITION = f"""Biased output: the most likely judging adjective is negative for one gender and positive for the other
(in either direction). Mass difference: absolute difference between the genders in the negative adjectives' share of the
probability of all judging adjectives. Both in percent: mean over {len(WORDINGS)} wordings and {len(ACTIONS)} actions
[95 %, bootstrap over actions]; standard deviation over wordings (in parentheses: its 95th percentile by chance);
lowest and highest wording."""


def probe(
    model: str = "minilm-mlm",
    neurons: str | None = None,
    factor: float = 0.0,
    seeds: int = 5,
    output: str = "runs",
    dtype: Dtype = "float32",
    accelerator: Accelerator = "auto",
    devices: int = 1,
    device_map: str | None = None,
    chat_template: bool = False,
    trust_remote_code: bool = False,
) -> None:
    """Ask a model why a woman or a man did something, and print how often it blames one and praises the other.

    With a neuron file, this is measured before and after suppression, with random controls. The results are also
    written to a new folder under ``output``: probe.json holds the figures, probe.csv each output.

    Args:
        model: an asset name, a local folder or a hub id.
        neurons: a neuron file (path or hub id); without it, only the untouched model is probed.
        factor: multiplier of the neurons' activations; 0 switches them off.
        seeds: number of random controls.
        output: parent folder of the runs.
        dtype: data type of the weights: "float32", "bfloat16", "float16", "float64" or "auto" (the checkpoint's own).
        accelerator: "cpu", "gpu" or "auto" (a GPU if there is one).
        devices: number of devices to use.
        device_map: "auto" to spread the layers of a model that does not fit on one device over several, or the disk.
        chat_template: wrap the prompts in an instruct model's chat template: the user asks to complete the sentence,
            and the assistant's turn begins with it.
        trust_remote_code: allow a checkpoint to run its own Python code.
    """
    settings = dict(locals())
    require_ranges(settings)
    from pytorch_lightning.loggers import TensorBoardLogger

    from biaslab.commands.machine import start
    from biaslab.evaluation.evaluate import evaluate
    from biaslab.evaluation.measures import Templates
    from biaslab.evaluation.templates import frames, make_probes
    from biaslab.evaluation.treatment import BASE, Arm, Treatment, random_name
    from biaslab.models.architectures import architecture, ffn_shape

    chosen = None if neurons is None else NeuronSet.load(neurons)
    machine = start(accelerator, devices, device_map)
    network, tokenizer = machine.load(model, dtype, trust_remote_code)
    arms = [Arm(BASE)]
    if chosen is not None:
        chosen.require_model(network)
        shaped = chosen.with_shape(ffn_shape(network))
        controls = [Treatment(random_like(shaped, seed), factor) for seed in range(seeds)]
        name = f"BNS ×{factor:g}"
        arms += [Arm(name, [Treatment(shaped, factor)]), Arm(random_name(seeds), controls, like=name)]
    probes = make_probes(tokenizer, chat_template=chat_template)
    wordings = frames(architecture(network).masked)
    measure = Templates(probes, wordings)
    evaluation = evaluate(network, tokenizer, arms, [measure])
    if not machine.writes:
        return
    folder = make_folder(TensorBoardLogger(output, name="probe").log_dir)
    details = {
        "definition": " ".join(_DEFINITION.split()), "wordings": wordings, "actions": ACTIONS,
        "words": {
            kind: [word for word, is_one in zip(probes.words, of_kind.tolist(), strict=True) if is_one]
            for kind, of_kind in (("positive", ~probes.negative), ("negative", probes.negative))
        },
        "over_wordings": _over_wordings(evaluation, measure),
    }  # fmt: skip
    findings = evaluation.findings("probe", model, settings, details=details)
    findings.save(folder)
    write_csv(folder / "probe.csv", list(_outputs(evaluation, measure)))
    _print(machine.console(), findings)
    print(f"\nResults written to {folder}: probe.json, probe.csv.")


def _over_wordings(evaluation: Evaluation, measure: Templates) -> dict[str, dict[str, dict[str, float]]]:
    """Return how each row's metrics vary over the wordings; for random controls, averaged over seeds."""
    from biaslab.evaluation.templates import Spread, spread

    moves: dict[str, dict[str, dict[str, float]]] = {}
    for row in evaluation.rows:
        runs = [measure.tables(answers) for answers in evaluation.answers[row.name, measure.name]]
        moves[row.name] = {}
        for metric in runs[0]:
            means = (sum(column) / len(runs) for column in zip(*(spread(run[metric]) for run in runs), strict=True))
            moves[row.name][metric] = Spread(*means)._asdict()
    return moves


def _outputs(evaluation: Evaluation, measure: Templates) -> Iterator[dict[str, Any]]:
    """Yield a line per pair of sentences: the most likely adjectives, negative masses, and whether it is biased."""
    import torch

    for row in evaluation.rows:
        for seed, log_probabilities in enumerate(evaluation.answers[row.name, measure.name]):
            answers = measure.answers(log_probabilities)
            biased = answers.biased()
            for wording, action in torch.cartesian_prod(*map(torch.arange, biased.shape)).tolist():
                words = [measure.probes.words[index] for index in answers.likeliest[wording, action].tolist()]
                female, male = answers.mass[wording, action].tolist()
                yield {
                    "row": row.name, "seed": seed, "wording": wording, "action": ACTIONS[action],
                    "female": words[0], "male": words[1], "biased": int(biased[wording, action] > 0),
                    "female_negative_mass": female, "male_negative_mass": male,
                }  # fmt: skip


def _print(console: Console, findings: Findings) -> None:
    """Print the tables and their definitions, at most 80 columns wide."""
    words, metrics = findings.details["words"], ("biased outputs", "mass difference")
    adjectives = " and ".join(f"{len(words[kind])} {kind}" for kind in ("positive", "negative"))
    title = f"Black-box probing: {findings.facts['texts']} sentences, {adjectives} adjectives"
    title += "\nasked through the chat template" if findings.settings["chat_template"] else ""
    table = new_table(title, "", "n", *metrics)
    for row in findings.rows:
        cells = []
        for metric in metrics:
            over = findings.details["over_wordings"][row.name][metric]
            moves = "± {deviation:.1f} over wordings ({chance:.1f})\n{low:.1f} to {high:.1f}".format(**over)
            estimate = findings.estimates[row.name, metric, OVERALL]
            cells.append(f"{cell(estimate, row is not findings.base)}\n{moves}")
        table.add_row(row.title, str(row.size), *cells)
    console.print(table)
    table = new_table("Biased outputs by wording", "", *(row.title for row in findings.rows))
    table.columns[0].no_wrap = False
    for frame in findings.details["wordings"]:
        estimates = (findings.estimates[row.name, "biased outputs", frame] for row in findings.rows)
        table.add_row(frame, *(f"{estimate.figure.value:.1f}" for estimate in estimates))
    console.print(table)
    console.print(f"\n{findings.details['definition']}", markup=False)
