"""The cards command: describe single neurons of a run in cards.json and a table."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biaslab.commands.configs import read_config
from biaslab.data.presets import Accelerator, Dtype
from biaslab.errors import InputError, require_ranges
from biaslab.evaluation.findings import FILES, Findings
from biaslab.neurons.files import neuron_file, results_folder
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.store import make_folder

if TYPE_CHECKING:
    from rich.table import Table
    from torch import Tensor

    from biaslab.neurons.cards import Card

SCORES, CONFIG = "scores.safetensors", "config.yaml"
_PROMPT_SETTINGS = ("dimensions", "pairs", "kinds", "modifiers", "part", "path", "chat_template", "words")
_PAIR_WIDTH, _WORDS_WIDTH = 19, 18  # with layer, index and score, 80 columns


def cards(
    neurons: str,
    model: str | None = None,
    count: int = 20,
    dimensions: Sequence[str] | None = None,
    kinds: Sequence[str] | None = None,
    modifiers: int | None = None,
    path: str | None = None,
    words: str | None = None,
    output: str | None = None,
    dtype: Dtype = "float32",
    accelerator: Accelerator = "auto",
    devices: int = 1,
    device_map: str | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Show which prompts the top neurons of a file respond to, and which words they promote.

    The prompts are rebuilt from the config.yaml of the run that wrote the file, unless other prompts are given. A table
    is printed, and cards.json is written next to the neuron file.

    Args:
        neurons: a neuron file (path or hub id) of an attribution run, with its scores.safetensors in the same folder.
        model: an asset name, a local folder or a hub id; by default the model that the neurons were found in.
        count: number of neurons to describe, those with the highest mean score over the pairs.
        dimensions: demographic dimensions that the prompts ask about.
        kinds: kinds of judging modifiers in the prompts.
        modifiers: number of modifiers of each kind.
        path: a file of prompts in the format of the paper's authors to use instead.
        words: a JSON or YAML file of your own dimensions.
        output: file to write instead of cards.json.
        dtype: data type of the weights: "float32", "bfloat16", "float16", "float64" or "auto" (the checkpoint's own).
        accelerator: "cpu", "gpu" or "auto" (a GPU if there is one).
        devices: number of devices to use.
        device_map: "auto" to spread the layers of a model that does not fit on one device over several, or the disk.
        trust_remote_code: allow a checkpoint to run its own Python code.
    """
    command = dict(locals())
    require_ranges(command)
    from tqdm import tqdm

    from biaslab.commands.judging import model_of
    from biaslab.commands.machine import start
    from biaslab.data.prompts import PromptDataModule
    from biaslab.models.loading import fingerprint
    from biaslab.neurons.cards import METHOD, neuron_cards

    given = {"dimensions": dimensions, "kinds": kinds, "modifiers": modifiers, "path": path, "words": words}
    file = neuron_file(neurons, beside=(SCORES, CONFIG))
    chosen, folder = NeuronSet.load(file), file.parent
    name = model or model_of(chosen, neurons)
    if not chosen:
        raise InputError(f"`neurons` is expected to hold at least one neuron but {neurons} is empty. Use another file.")
    scores, pair_names = read_scores(folder / SCORES)
    settings = _prompt_settings(folder / CONFIG, {key: value for key, value in given.items() if value is not None})
    machine = start(accelerator, devices, device_map)
    network, tokenizer = machine.load(name, dtype, trust_remote_code)
    chosen.require_model(network)
    data = PromptDataModule(name, **settings, trust_remote_code=trust_remote_code)
    data.setup("predict")
    batches = tqdm(data.batches, desc="cards", leave=False, disable=not machine.writes)
    described = neuron_cards(network, tokenizer, data.prompts, batches, chosen, scores, pair_names, count, dealt=True)
    if not machine.writes:
        return
    target = make_folder(results_folder(neurons), exist_ok=True) / FILES["cards"] if output is None else Path(output)
    write_cards(target, name, fingerprint(network), described, command)
    console = machine.console()
    console.print(card_table(described, len(chosen)))
    console.print(f"\n{METHOD}", markup=False)
    print(f"\nResults written to {target}.")


def read_scores(path: Path) -> tuple[Tensor, list[str]]:
    """Read a run's scores.safetensors: scores, ``[pair, layer, neuron]``, and pair names.

    Raises:
        InputError: if the file does not exist or holds something else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            scores, pairs = file.get_tensor("scores"), json.loads(file.metadata()["pairs"])
        if len(scores) != len(pairs):
            raise ValueError(f"{len(scores)} scores for {len(pairs)} pairs")
        return scores, pairs
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"`neurons` is expected to be in its run's folder with {SCORES}, but {path} can't be read: "
            f"{type(error).__name__}, {error}. Pass the neuron file in the folder of the run that found it."
        ) from error


def _prompt_settings(config: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Return the prompt settings of a `debias` or `predict` run, overridden by those given."""
    content = read_config(config)
    if not content and not given:
        raise InputError(
            f"`dimensions` is expected if the run's settings are unknown, and {config} does not exist or cannot be "
            "read. Give `dimensions`, `kinds` and `modifiers`, or the `path` of the prompts."
        )
    settings = content.get("data", content)
    settings = settings.get("init_args", settings)
    return {key: settings[key] for key in _PROMPT_SETTINGS if key in settings} | given


def write_cards(path: Path, model_name: str, weights: str, cards: Sequence[Card], settings: Mapping[str, Any]) -> None:
    """Write the cards of :func:`biaslab.neurons.cards.neuron_cards`; ``weights`` is the model's fingerprint."""
    from dataclasses import asdict

    from biaslab.neurons.cards import METHOD

    details = {"fingerprint": weights, "method": METHOD, "cards": [asdict(card) for card in cards]}
    Findings("cards", model_name, settings, details=details).save(path.parent, path.name)


def card_table(cards: Sequence[Card], neurons: int) -> Table:
    """Return a table of the cards, at most 80 columns wide; ``neurons`` is the size of the whole set."""
    from biaslab.report.tables import new_table

    title = f"{len(cards)} of {neurons} neurons, by mean score over the pairs"
    table = new_table(title, "layer", "index", "score", "strongest pair", "promotes", "lowers")
    for column, width in zip(table.columns[3:], (_PAIR_WIDTH, _WORDS_WIDTH, _WORDS_WIDTH), strict=True):
        column.justify, column.max_width = "left", width + 1  # with the padding
    for card in cards:
        pair = max(card.scores, key=lambda name: card.scores[name])
        words = (" ".join(change.word for change in changes) for changes in (card.promotes, card.lowers))
        lines = ("\n".join(textwrap.wrap(text, _WORDS_WIDTH)[:2]) for text in words)
        table.add_row(str(card.layer), str(card.index), f"{card.score:.3f}", pair.replace("/", "/\n", 1), *lines)
    return table
