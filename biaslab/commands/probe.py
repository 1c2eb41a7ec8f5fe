"""Black-box probing as a command: the share of biased outputs and its spread over wordings, before and after BNS."""

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

_DEFINITION = f"""Biased output: the likeliest judging adjective is negative for one gender and positive for the other,
whichever. Mass difference: of the judging adjectives' probability the negative ones have a share; this is its absolute
difference between the genders. Both in percent: mean over {len(WORDINGS)} wordings and {len(ACTIONS)} actions [95 %,
bootstrap over the actions]; standard deviation over the wordings (95 % of deviations by chance are at most so large);
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
    """Ask a model why a woman or a man did something, and print how often it judges one of them and praises the other.

    With a neuron file, before and after its suppression, with random controls beside. Everything is also written into a
    new folder under ``output``: probe.json has the figures, probe.csv each output.

    Args:
        model: an asset's name, a folder or a hub id.
        neurons: a file that an attribution run wrote; without it, the model is only asked as it is.
        factor: what the neurons are multiplied by: 0 switches them off.
        seeds: how many random controls.
        output: the folder that runs lie in.
        dtype: of the weights: "float32", "bfloat16", "float16", "float64", or "auto": the checkpoint's own.
        accelerator: "cpu", "gpu", or "auto": a GPU where there is one.
        devices: how many of them work together.
        device_map: "auto" to put the layers of a model that one device has no room for on several, or on the disk.
        chat_template: ask an instruct model by its chat template: the user asks to complete the sentence, and the
            assistant's turn begins with it.
        trust_remote_code: let a checkpoint bring its own Python code.
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
    """Return how each row's metrics move with the wording; of random controls the mean of the seeds' own."""
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
    """Yield a line a pair of sentences: the likeliest adjectives, negative masses, and whether it is biased."""
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
    """Print the tables and what the figures are, at most 80 columns wide."""
    words, metrics = findings.details["words"], ("biased outputs", "mass difference")
    adjectives = " and ".join(f"{len(words[kind])} {kind}" for kind in ("positive", "negative"))
    title = f"Black-box probing: {findings.facts['texts']} sentences, {adjectives} adjectives"
    title += "\nasked by the chat template" if findings.settings["chat_template"] else ""
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
