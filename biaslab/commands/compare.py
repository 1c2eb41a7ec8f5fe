"""Compare two neuron sets, or the neurons of two models: overlap against chance, and shifts between layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rich.console import Console
from rich.table import Table

from biaslab.commands.cards import SCORES, read_scores
from biaslab.data.presets import PRESETS, USUAL, Accelerator, Dtype, PresetName, Selection
from biaslab.errors import InputError, require_ranges
from biaslab.evaluation.findings import OVERALL, Findings, write_csv
from biaslab.neurons.files import neuron_file
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.report.tables import new_table
from biaslab.store import Artifacts

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from biaslab.commands.machine import Machine

Data = dict[str, Any]  # arguments of biaslab.data.prompts.PromptDataModule
ALIKE = 0.5  # a fine-tuned model stays far above; unrelated models are near 0, like random directions


def compare(
    a: str,
    b: str,
    preset: PresetName = "small",
    selection: Selection = "guarded",
    source: Literal["prompts", "contrast", "both"] | None = None,
    count: int | None = None,
    guard_weight: float | None = None,
    dimensions: Sequence[str] | None = None,
    kinds: Sequence[str] | None = None,
    modifiers: int | None = None,
    words: str | None = None,
    contrast: str | Sequence[str] | None = None,
    contrast_limit: int | None = None,
    output: str = "runs/compare",
    dtype: Dtype = "float32",
    accelerator: Accelerator = "auto",
    devices: int = 1,
    device_map: str | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Compare two neuron sets or the neurons of two models: how many they share, and how their layers differ.

    For a model, neurons are found first; for two models, with the same settings and the same demographic pairs. They
    are cached under ``output``. comparison.json and comparison.csv are written there too, into a folder whose name
    depends on all inputs. Run the same command to resume; nothing is attributed twice.

    Args:
        a: a neuron file (path, or ORG/NAME/FILE.json on the hub), a model (asset name, local folder or hub id), or a
            ``*.ckpt`` of a debiasing baseline.
        b: the same; for example a model and one fine-tuned from it.
        preset: number of prompts: "small" (minutes on two cores), "medium" (hours) or "paper".
        selection: how neurons are selected: "balanced", "fisher", "guarded", "ranked" or "paper".
        source: what bias is measured on: "prompts", "contrast" or "both"; by default as in `biaslab debias`.
        count: number of neurons; 2 % of all by default.
        guard_weight: weight of a neuron's importance for ordinary sentences, which counts against it; by default 0.375
            for "fisher", 0.25 for "balanced" and 3 otherwise.
        dimensions: demographic dimensions to ask about; the preset's by default.
        kinds: kinds of judging modifiers in the prompts; the preset's by default.
        modifiers: number of modifiers of each kind; the preset's by default.
        words: a JSON or YAML file of your own dimensions, all of which are used unless ``dimensions`` is given.
        contrast: sources of the guard: any of "stereoset", "bold", "bug", "panda" and text files; the preset's by
            default. Ignored if the selection does not use it.
        contrast_limit: maximum number of sentences per source; the preset's by default.
        output: parent folder of the comparisons.
        dtype: data type of the weights: "float32", "bfloat16", "float16", "float64" or "auto" (the checkpoint's own).
        accelerator: "cpu", "gpu" or "auto" (a GPU if there is one).
        devices: number of devices to use.
        device_map: "auto" to spread the layers of a model that does not fit on one device over several, or the disk.
        trust_remote_code: allow a checkpoint to run its own Python code.
    """
    settings = dict(locals())
    require_ranges(settings)
    from biaslab.commands.machine import start
    from biaslab.data.contrast import sources_of
    from biaslab.models.loading import as_dtype
    from biaslab.neurons.overlap import compare_scopes, rank_correlations

    machine = start(accelerator, devices, device_map)
    artifacts = Artifacts(output)
    load: Any = {"dtype": as_dtype(dtype), "device_map": device_map, "trust_remote_code": trust_remote_code}
    sides = [_side(artifacts, name, path, load) for name, path in (("a", a), ("b", b))]
    if a != b and sides[0].name == sides[1].name:  # the same model trained twice by one method
        sides = [side._replace(name=f"{side.name}, {path}") for side, path in zip(sides, (a, b), strict=True)]
    same, why = _same_neurons(*sides)
    sides = [side._replace(network=None) for side in sides]  # frees the memory
    names = ("dimensions", "words", "kinds", "modifiers", "contrast", "contrast_limit")
    data = PRESETS[preset].data | {name: settings[name] for name in names if settings[name] is not None}
    if words is not None and dimensions is None:
        data |= {"dimensions": None}  # all of the file's
    if selection == "paper" or (selection == "ranked" and source == "prompts"):
        data |= {"contrast": None}  # it would not be used
    usual = USUAL[selection]
    if usual.contrast_positions == "all":
        data |= {"contrast_positions": "all", "contrast_limit": contrast_limit or usual.contrast_limit}
        data["contrast"] = usual.contrast if contrast is None else contrast
    options = {key: settings[key] for key in ("selection", "count", "dtype", "device_map", "trust_remote_code")}
    options |= usual.options(sources_of(data["contrast"]), source=source, guard_weight=guard_weight)
    if selection == "paper":
        options["source"] = "prompts"
    data, notes = _same_pairs([side.model for side in sides if side.model], data, trust_remote_code)
    first, second = (_with_neurons(machine, artifacts, side, options, data) for side in sides)
    if not machine.writes:
        return
    notes = [why, *notes, *_differences(first.neurons, second.neurons)]
    scopes = {name: scope.facts() for name, scope in compare_scopes(first.neurons, second.neurons, same).items()}
    ranks = {}
    try:
        ranks = rank_correlations(_scores(first), _scores(second), scopes) if same else {}
    except InputError as error:
        notes.append(f"Ranks are not compared: {error}")
    for name, facts in scopes.items():
        facts |= ranks.get(name, {"rank_correlation": None, "rank_correlation_layers": None})
    parts = {"a": first.facts(), "b": second.facts()}
    details: dict[str, Any] = {**parts, "same_neurons": same, "notes": notes, "scopes": scopes}
    findings = Findings("compare", f"{first.name} and {second.name}", settings, details=details)
    folder = artifacts.path("comparison", {"details": details, "settings": settings})
    folder.mkdir(exist_ok=True)
    findings.save(folder)
    lines = [{"scope": name} | facts for name, facts in scopes.items()]
    cells = [{k: " ".join(map(str, v)) if isinstance(v, list) else v for k, v in line.items()} for line in lines]
    write_csv(folder / "comparison.csv", cells)
    console = machine.console()
    _print(console, findings)
    console.print(f"\nResults written to {folder}: comparison.json, comparison.csv.", markup=False, soft_wrap=True)


class Side(NamedTuple):
    """One of the two sides of the comparison."""

    name: str  # as printed
    weights: tuple[str, ...]  # fingerprints of the model and, if known, of the model it was trained from
    shape: tuple[int, int]  # layers, and neurons of each
    model: str | None = None  # an argument of load_model; None for a neuron file
    network: PreTrainedModel | None = None  # kept until both sides were checked
    file: Path = Path()  # the neuron file; set for a model once its neurons are found
    neurons: NeuronSet = NeuronSet()

    def facts(self) -> dict[str, Any]:
        """Return the facts that the findings record."""
        model = self.neurons.provenance.get("model", {})
        return {
            "name": self.name, "neurons": str(self.file), "model": self.model or model.get("name"),
            "fingerprint": model.get("fingerprint"), "shape": self.neurons.shape,
        }  # fmt: skip


def _side(artifacts: Artifacts, name: str, argument: str, load: dict[str, Any]) -> Side:
    """Read a side: a checkpoint, a neuron file or a model."""
    from biaslab.models import ranks
    from biaslab.models.architectures import ffn_shape
    from biaslab.models.checkpoints import trained_model, write_checkpoint
    from biaslab.models.loading import fingerprint, load_model

    path = Path(argument).expanduser()
    if path.suffix == ".ckpt":  # written once as an ordinary folder, so that it loads by name
        network, tokenizer, facts = trained_model(str(path), load["trust_remote_code"])
        base, training = facts["model"], facts["training"]
        folder = artifacts.path("child", {"of": base, "weights": training["fingerprint"]})

        def write() -> None:
            if not folder.exists():
                write_checkpoint(network, tokenizer, folder)

        ranks.of_first(write)
        task = training["settings"].get("class_path", "training").rpartition(".")[2]  # missing if trained from Python
        weights = (training["fingerprint"], base["fingerprint"])
        return Side(f"{base['name']} + {task}", weights, ffn_shape(network), str(folder), network)
    if path.is_file() or argument.partition("@")[0].endswith(".json"):  # a file here, or one on the hub
        path = neuron_file(argument, beside=[SCORES])
        neurons = NeuronSet.load(path)
        if neurons.shape is None:
            raise InputError(f"`{name}` is expected to be a neuron file with a `shape`, but {path} has none. Add one.")
        known = neurons.provenance.get("model", {}).get("fingerprint")
        return Side(argument, (known,) if known else (), neurons.shape, file=path, neurons=neurons)
    network, _ = load_model(argument, **load)
    return Side(argument, (fingerprint(network),), ffn_shape(network), argument, network)


def _same_pairs(models: Sequence[str], data: Data, trust_remote_code: bool) -> tuple[Data, list[str]]:
    """Keep the demographic pairs that both models know; return the data's arguments, and notes."""
    from biaslab.data.prompts import PromptDataModule

    settings = {key: value for key, value in data.items() if not key.startswith("contrast")}
    known = []
    for model in models:
        module = PromptDataModule(model, **settings, trust_remote_code=trust_remote_code)
        module.setup("predict")
        known.append({
            name: (dimension.name, [dimension.words[index] for index in pair])
            for dimension in module.dimensions.values()
            for name, pair in zip(dimension.pair_names, dimension.pairs, strict=True)
        })  # fmt: skip
    if len(known) < 2 or known[0] == known[1]:
        return data, []
    pairs: dict[str, list[list[str]]] = {name: [] for name in module.dimensions}
    for name, (dimension, words) in known[0].items():
        if name in known[1]:
            pairs[dimension].append(words)
    if not any(pairs.values()):
        raise InputError(
            "`b` is expected to know at least one demographic pair that `a` knows but knows none. Change `dimensions`."
        )
    left_out = ", ".join(sorted(known[0].keys() ^ known[1].keys()))
    return data | {"pairs": pairs}, [f"Only demographic pairs that both models know are used; left out: {left_out}."]


def _with_neurons(
    machine: Machine, artifacts: Artifacts, side: Side, options: dict[str, Any], data: dict[str, Any]
) -> Side:
    """Find the neurons of a model, or take them from the cache; a neuron file has them already."""
    if side.model is None:
        return side
    from biaslab.commands.passes import attribution_pass

    depends_on, selection = {"model": side.model, "weights": side.weights[0]}, options["selection"]
    result = attribution_pass(
        artifacts, "ig2", side.model, options, data, lambda task, _: {selection: task.select(selection)}, depends_on,
        machine,
    )  # fmt: skip
    return side._replace(file=result.folder / "neurons.json", neurons=result.sets[selection])


def _same_neurons(first: Side, second: Side) -> tuple[bool, str]:
    """Return whether neuron indices correspond between the models, and why."""
    (layers, width), (other_layers, other_width) = first.shape, second.shape
    if first.shape != second.shape:
        scaled = "" if layers == other_layers else f" B's {other_layers} layers are rescaled to A's {layers}."
        return False, (
            f"The models have different shapes ({layers} × {width} and {other_layers} × {other_width}): neuron indices "
            f"do not correspond, so only counts and layers are compared.{scaled}"
        )
    if set(first.weights) & set(second.weights):
        return (
            True,
            "Neurons are compared one by one: both sides are the same model, or one was trained from the other.",
        )
    if first.network is None or second.network is None:
        return True, (
            "The files do not say whether one model was trained from the other. If not, neuron indices do not "
            "correspond between these models, so their overlap is meaningless."
        )
    alike = likeness(first.network, second.network)
    measured = f"their neurons' output weights have a median cosine of {alike:.2f}"
    if alike < ALIKE:
        return False, (
            f"Neither model was trained from the other ({measured}): neuron indices do not correspond, so only counts "
            "and layers are compared."
        )
    return True, f"Neurons are compared one by one: the models are related ({measured})."


def likeness(first: PreTrainedModel, second: PreTrainedModel) -> float:
    """Return the median cosine similarity of corresponding down-projection columns: 1 for the same model.

    Both models have the same number of layers and neurons; the result is 0 if their hidden sizes differ.
    """
    import torch

    from biaslab.models.architectures import down_matrix, ffn_modules
    from biaslab.models.placement import loaded

    cosines = []
    for one, other in zip(ffn_modules(first), ffn_modules(second), strict=True):
        with loaded(one), loaded(other):  # one layer at a time, if offloaded
            a, b = (down_matrix(module).float().cpu() for module in (one, other))
        if a.shape != b.shape:
            return 0.0
        cosines.append(torch.cosine_similarity(a, b, dim=0))
    return float(torch.cat(cosines).median())


def _differences(first: NeuronSet, second: NeuronSet) -> list[str]:
    """Return notes on settings that differ between the two runs, if known, and on what is not compared."""
    settings = []
    for part, names in (("settings", None), ("data", ("prompts", "contrast"))):
        a, b = (side.provenance.get(part) or {} for side in (first, second))
        keys = names or [key for key in a if key not in ("shares_used", "trust_remote_code")]
        settings += [f"{key} {a[key]} vs. {b[key]}" for key in keys if key in a and key in b and a[key] != b[key]]
    notes = [f"They were found with different settings: {'; '.join(settings)}."] if settings else []
    graded = [name for name, side in (("A", first), ("B", second)) if side.strengths is not None]
    return notes + ([f"Neuron strengths (of {' and '.join(graded)}) are not compared."] if graded else [])


def _scores(side: Side) -> dict[str, Tensor]:
    """Return each pair's mean scores, ``[layer, neuron]``, from a neuron file's folder; empty if there are none."""
    path = side.file.parent / SCORES
    if not path.exists():
        return {}
    scores, names = read_scores(path)
    if scores.shape[1:] != side.neurons.shape:  # of another run
        return {}
    return {name: of_pair for name, of_pair in zip(names, scores, strict=True) if of_pair.isfinite().all()}


_BAR = 16  # characters of the longest bar
_CHANCE = """chance: expected overlap of random sets with as many neurons in each layer; anywhere: with as many neurons
    in total (hypergeometric, exact). p: probability that random sets share as many neurons or more. ρ: Spearman's rank
    correlation of the neurons' mean scores."""
_LAYERS = """shift: change of the mean layer. distance: mean number of layers that a neuron moves (earth mover's
    distance). moved: share of neurons that would have to change layer to turn A's distribution into B's (total
    variation); its p comes from a permutation test, which assigns neurons to A and B at random (shared neurons are
    kept if A and B have the same size). [95 %]: bootstrap over neurons, too narrow for small sets. Neither interval
    nor p covers the choice of prompts. p values are not corrected for multiple tests."""


def _print(console: Console, findings: Findings) -> None:
    """Print the tables and their legends, at most 80 columns wide."""
    from biaslab.report.sections.compare import compare_answer

    details = findings.details
    scopes, same = details["scopes"], details["same_neurons"]
    for side in "ab":
        neurons = f"{scopes[OVERALL][f'count_{side}']} neurons"
        console.print(f"{side.upper()}: {neurons}, {details[side]['name']}", markup=False)
    for note in details["notes"]:
        console.print(note, markup=False)
    for table in (_counts(scopes, same), _moves(scopes), _layers(scopes[OVERALL])):
        console.print(table)
    for text in [_CHANCE, _LAYERS] if same else [_LAYERS]:
        console.print("\n" + " ".join(text.split()), markup=False)
    sentences, rank = compare_answer(findings), scopes[OVERALL]["rank_correlation"]
    if rank is not None:
        sentences.append(f"The rank correlation of the mean scores over all neurons is {rank:.2f}.")
    console.print(f"\n{' '.join(sentences)}", markup=False)


def _scope_table(title: str, *columns: str) -> Table:
    table = new_table(title, "", *columns)
    table.columns[0].no_wrap, table.columns[0].overflow = False, "fold"
    return table


def _counts(scopes: Mapping[str, Mapping[str, Any]], same: bool) -> Table:
    """Return the neuron counts; if indices correspond, also the overlap against chance."""
    overlap = ("A only", "shared", "B only", "Jaccard", "chance [95 %]", "p", "anywhere")
    table = _scope_table("Neurons", *(overlap if same else "AB"))
    for name, facts in scopes.items():
        cells = [str(facts[key]) for key in (("only_a", "shared", "only_b") if same else ("count_a", "count_b"))]
        if same:
            chance = "{expected_shared:.1f} [{expected_shared_low}, {expected_shared_high}]".format(**facts)
            cells += [_figure(facts["jaccard"]), chance, _probability(facts["p_value"])]
            cells.append(_figure(facts["expected_shared_anywhere"], 1))
        table.add_row(name.replace("_", " "), *cells)
    return table


def _moves(scopes: Mapping[str, Mapping[str, Any]]) -> Table:
    title = "Layers: means of A and B, shift, distance; moved in % of neurons"
    table = _scope_table(title, "A", "B", "shift [95 %]", "distance", "moved [95 %]", "p")
    for name, facts in scopes.items():
        cells = [_figure(facts[f"mean_layer_{side}"], 1) for side in "ab"]
        if facts["shift"] is not None:
            shift = "{shift:+.2f} [{shift_low:+.2f}, {shift_high:+.2f}]".format(**facts)
            moved = (100 * facts[key] for key in ("moved_share", "moved_low", "moved_high"))
            share = "{:.0f} [{:.0f}, {:.0f}]".format(*moved)
            cells += [shift, _figure(facts["distance"]), share, _probability(facts["moved_p_value"])]
        table.add_row(name.replace("_", " "), *cells)
    return table


def _layers(facts: Mapping[str, Any]) -> Table:
    """Return the number of neurons per layer, over all scopes."""
    sides = {"A": facts["layers_a"], "B": facts["layers_b"]}
    ranks = [_figure(rank) for rank in facts["rank_correlation_layers"] or ()]
    columns = {**sides, "shared": facts["layers_shared"] or (), "ρ": ranks}
    bars = [["█" * round(_BAR * count / max(1, *counts)) for count in counts] for counts in sides.values()]
    columns = {name: values for name, values in columns.items() if values}
    table = new_table("Neurons per layer", "layer", *columns, "", "")
    for column in table.columns[-2:]:
        column.justify = "left"
    for layer, cells in enumerate(zip_longest(*columns.values(), *bars, fillvalue="")):
        table.add_row(str(layer), *map(str, cells))
    return table


def _figure(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _probability(value: float) -> str:
    """Return a probability in at most seven characters.

    >>> [_probability(p) for p in (1.0, 0.24, 0.0005, 2e-123, 0.0)]
    ['1', '0.24', '0.0005', '2e-123', '<1e-300']
    """
    return f"{value:.2g}" if value >= 0.0001 else f"{value:.0e}".replace("e-0", "e-") if value > 0 else "<1e-300"
