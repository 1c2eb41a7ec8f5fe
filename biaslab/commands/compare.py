"""Two neuron sets, or the neurons of two models, compared: shared ones against chance, and how far they have moved."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from biaslab.data.presets import GUARD_WEIGHT
from biaslab.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from biaslab.neurons.neuron_set import Neuron, NeuronSet
    from biaslab.store import Artifacts

ALIKE = 0.5  # a trained child's neurons stay far above; those of another model are at 0, as random directions are


def compare(
    a: str,
    b: str,
    preset: Literal["small", "paper"] = "small",
    selection: Literal["paper", "ranked", "guarded"] = "guarded",
    source: Literal["prompts", "contrast", "both"] = "both",
    count: int | None = None,
    guard_weight: float = GUARD_WEIGHT,
    dimensions: Sequence[str] | None = None,
    kinds: Sequence[str] | None = None,
    modifiers: int | None = None,
    contrast: str | Sequence[str] | None = None,
    contrast_limit: int | None = None,
    output: str = "runs/compare",
    trust_remote_code: bool = False,
) -> None:
    """Compare two neuron sets or the neurons of two models: shared and own ones, and how far they lie in other layers.

    The neurons of a model are found first, for both models by the same settings and the same demographic pairs. They
    are kept under ``output``, and beside them the figures: comparison.json and comparison.csv, in a folder whose name
    changes with all that they depend on. The same command goes on where it was killed, and attributes nothing twice.

    Args:
        a: a neuron file; or a model: an asset's name, a folder or a hub id; or a debiasing baseline's checkpoint,
            ``*.ckpt``.
        b: likewise; such as a model and what was trained from it.
        preset: how many prompts: "small" (minutes on two cores) or "paper".
        selection: "guarded", "ranked" or "paper".
        source: of "guarded" and "ranked": where bias is read: "prompts", "contrast" or "both".
        count: how many neurons; 2 % of all by default.
        guard_weight: how much what ordinary sentences need counts against a neuron (λ).
        dimensions: which demographics are asked about; the preset's by default.
        kinds: of judging modifiers in the prompts; the preset's by default.
        modifiers: how many of each kind; the preset's by default.
        contrast: what the guard is made from: of "stereoset", "bold", "bug", "panda" and text files; the preset's by
            default. Not read where nothing is asked of it.
        contrast_limit: at most so many sentences of each; the preset's by default.
        output: the folder that comparisons lie in.
        trust_remote_code: let a checkpoint bring its own Python code.

    Raises:
        InputError: if an argument is not what is expected.
    """
    settings = dict(locals())
    from rich.console import Console

    from biaslab.data.presets import PRESETS
    from biaslab.evaluation.findings import Findings, write_csv
    from biaslab.neurons.overlap import compare_scopes
    from biaslab.report.compare_tables import print_comparison
    from biaslab.store import Artifacts

    artifacts, console = Artifacts(output), Console(highlight=False)
    given = [_given(artifacts, name, argument, trust_remote_code) for name, argument in (("a", a), ("b", b))]
    if a != b and given[0].name == given[1].name:  # two trainings of a model by one method
        given = [each._replace(name=f"{each.name}, {path}") for each, path in zip(given, (a, b), strict=True)]
    wanted = {
        "dimensions": dimensions, "kinds": kinds, "modifiers": modifiers, "contrast": contrast,
        "contrast_limit": contrast_limit,
    }  # fmt: skip
    data = PRESETS[preset].data | {key: value for key, value in wanted.items() if value is not None}
    if selection == "paper" or (selection == "ranked" and source == "prompts"):
        data |= {"contrast": None}  # nothing would be read from it
    options = {
        "selection": selection, "source": "prompts" if selection == "paper" else source, "count": count,
        "guard_weight": guard_weight, "trust_remote_code": trust_remote_code,
    }  # fmt: skip
    models = [each.model for each in given if each.model is not None]
    data, notes = _same_pairs(models, data, trust_remote_code)
    first, second = (_found(artifacts, each, path, options, data) for each, path in zip(given, (a, b), strict=True))
    same, why = _same_neurons(first, second, trust_remote_code)
    notes = [why, *notes, *_differences(first.neurons, second.neurons)]
    scopes = {name: scope.facts() for name, scope in compare_scopes(first.neurons, second.neurons, same).items()}
    ranks = _rank_correlations(first, second, list(scopes)) if same else {}
    no_ranks = {"rank_correlation": None, "rank_correlation_layers": None}
    details: dict[str, Any] = {
        **{name: side.facts() for name, side in (("a", first), ("b", second))},
        "same_neurons": same,
        "notes": notes,
        "scopes": {name: facts | ranks.get(name, no_ranks) for name, facts in scopes.items()},
    }
    depends_on = [[side.facts(), list(side.neurons), _subsets(side.neurons)] for side in (first, second)]
    folder = artifacts.path("comparison", {"sides": depends_on, "settings": settings})
    folder.mkdir(exist_ok=True)
    names = " and ".join(side.given.name for side in (first, second))
    findings = Findings("compare", names, settings, details=details)
    findings.save(folder)
    lines = [{"scope": name, **facts} for name, facts in details["scopes"].items()]
    spaced = [{k: " ".join(map(str, v)) if isinstance(v, list) else v for k, v in line.items()} for line in lines]
    write_csv(folder / "comparison.csv", spaced)
    print_comparison(console, findings)
    console.print(f"\nResults written to {folder}: comparison.json, comparison.csv.", markup=False, soft_wrap=True)


class Given(NamedTuple):
    """What an argument stands for.

    Attributes:
        name: as it is printed.
        model: what :func:`biaslab.models.loading.load_model` takes; None for a neuron file.
        neurons: of a neuron file; None for a model.
        weights: fingerprints of the model, and of that which it was trained from where that is known.
    """

    name: str
    model: str | None
    neurons: NeuronSet | None
    weights: tuple[str, ...]


class Side(NamedTuple):
    """One of the two that are compared: what was asked for, the neuron file, and its neurons."""

    given: Given
    file: Path
    neurons: NeuronSet

    def facts(self) -> dict[str, Any]:
        """Return what the findings say of it."""
        model = self.neurons.provenance.get("model", {})
        return {
            "name": self.given.name, "neurons": str(self.file), "model": self.given.model or model.get("name"),
            "fingerprint": model.get("fingerprint"), "shape": self.neurons.shape,
        }  # fmt: skip


def _given(artifacts: Artifacts, name: str, argument: str, trust_remote_code: bool) -> Given:
    """Tell a checkpoint, a neuron file and a model apart; of the former two, read them."""
    from biaslab.models.loading import fingerprint, load_model
    from biaslab.neurons.neuron_set import NeuronSet

    path = Path(argument).expanduser()
    if path.suffix == ".ckpt":
        return _child(artifacts, str(path), trust_remote_code)
    if path.is_file() or path.suffix == ".json":
        neurons = NeuronSet.load(path)
        if neurons.shape is None:
            raise InputError(f"`{name}` is expected to be a neuron file with a `shape`, but {path} has none. Add it.")
        weights = neurons.provenance.get("model", {}).get("fingerprint")
        return Given(argument, None, neurons, () if weights is None else (weights,))
    model, _ = load_model(argument, trust_remote_code=trust_remote_code)
    return Given(argument, argument, None, (fingerprint(model),))


def _child(artifacts: Artifacts, path: str, trust_remote_code: bool) -> Given:
    """Write the trained model of a checkpoint as an ordinary folder, unless it was, so that it loads by name."""
    from biaslab.models.checkpoints import trained_model, write_checkpoint

    model, tokenizer, facts = trained_model(path, trust_remote_code)
    base, training = facts["model"], facts["training"]
    folder = artifacts.path("child", {"of": base, "weights": training["fingerprint"]})
    if not folder.exists():
        write_checkpoint(model, tokenizer, folder)
    task = training["settings"].get("class_path", "training").rpartition(".")[2]  # a checkpoint from Python has none
    return Given(f"{base['name']} + {task}", str(folder), None, (training["fingerprint"], base["fingerprint"]))


def _same_pairs(
    models: Sequence[str], data: dict[str, Any], trust_remote_code: bool
) -> tuple[dict[str, Any], list[str]]:
    """Leave out the demographic pairs that one of the models does not know; return the data's arguments, and notes."""
    from biaslab.data.prompts import PromptDataModule

    asked = {key: value for key, value in data.items() if not key.startswith("contrast")}
    known = []
    for model in models:
        module = PromptDataModule(model, **asked, trust_remote_code=trust_remote_code)
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
    lost = sorted(set(known[0]) ^ set(known[1]))
    if len(lost) == len(known[0]) + len(known[1]):
        raise InputError("`b` is expected to know a demographic pair that `a` knows but doesn't. Ask other dimensions.")
    return data | {"pairs": pairs}, [f"Both are asked about the pairs that both know; left out: {', '.join(lost)}."]


def _found(artifacts: Artifacts, given: Given, path: str, options: dict[str, Any], data: dict[str, Any]) -> Side:
    """Find the neurons of a model, unless they were; those of a file are there."""
    from biaslab.commands.passes import attribution_pass

    if given.neurons is not None:
        return Side(given, Path(path).expanduser(), given.neurons)
    assert given.model is not None
    depends_on = {"model": given.model, "weights": given.weights[0]}
    selection = options["selection"]
    found = attribution_pass(
        artifacts, "ig2", given.model, options, data, lambda task, _: {selection: task.select(selection)}, depends_on
    )
    return Side(given, found.folder / "neurons.json", found.sets[selection])


def _same_neurons(first: Side, second: Side, trust_remote_code: bool) -> tuple[bool, str]:
    """Return whether a neuron of one model is that of the other, and why."""
    from biaslab.models.loading import load_model

    (layers, width), (other_layers, other_width) = first.neurons.shape or (0, 0), second.neurons.shape or (0, 0)
    if (layers, width) != (other_layers, other_width):
        scaled = "" if layers == other_layers else f" B's {other_layers} layers count as the {layers} of A's depth."
        return False, (
            f"The models have other shapes ({layers} × {width}, {other_layers} × {other_width}): neuron indices do not "
            f"correspond, and only numbers and layers are compared.{scaled}"
        )
    if set(first.given.weights) & set(second.given.weights):
        return True, "Neurons are compared one by one: both are of one model, or one was trained from the other."
    if first.given.model is None or second.given.model is None:
        return True, (
            "The files do not say whether one model was trained from the other. If not, neuron indices do not "
            "correspond between these models, so their overlap is meaningless."
        )
    alike = likeness(
        *(load_model(s.given.model or "", trust_remote_code=trust_remote_code)[0] for s in (first, second))
    )
    measured = f"their neurons' output weights have a median cosine of {alike:.2f}"
    if alike < ALIKE:
        return False, (
            f"The models are not trained from one another ({measured}): neuron indices do not correspond between them, "
            "and only numbers and layers are compared."
        )
    return True, f"Neurons are compared one by one: the models are akin ({measured})."


def likeness(first: PreTrainedModel, second: PreTrainedModel) -> float:
    """Return the median cosine of the models' neurons, each as a column of its down-projection: 1 for the same model.

    Args:
        first: a model.
        second: of the same number of layers and neurons; where its hidden states have another size, they are not alike.
    """
    import torch

    from biaslab.models.architectures import down_weight, ffn_modules

    pairs = [
        [down_weight(module).detach().float() for module in modules]
        for modules in zip(ffn_modules(first), ffn_modules(second), strict=True)
    ]
    if any(a.shape != b.shape for a, b in pairs):
        return 0.0
    return float(torch.cat([torch.cosine_similarity(a, b, dim=0) for a, b in pairs]).median())


def _differences(first: NeuronSet, second: NeuronSet) -> list[str]:
    """Name the settings that the two were not found alike with, where both are known."""
    found = []
    for part, names in (("settings", None), ("data", ("prompts", "contrast"))):
        a, b = (side.provenance.get(part) or {} for side in (first, second))
        keys = names or [key for key in a if key not in ("shares_used", "trust_remote_code")]
        found += [f"{key} {a[key]} and {b[key]}" for key in keys if key in a and key in b and a[key] != b[key]]
    return [f"They were found with other settings: {'; '.join(found)}."] if found else []


def _rank_correlations(first: Side, second: Side, scopes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return Spearman's correlation of the mean scores by scope: of all neurons, and of each layer's."""
    import torch

    from biaslab.evaluation.findings import OVERALL
    from biaslab.neurons.overlap import rank_correlation

    a, b = (_scores(side) for side in (first, second))
    found = {}
    for scope in scopes:
        names = [name for name in a if name in b and (scope == OVERALL or name.startswith(f"{scope}/"))]
        if not names:
            continue
        means = [torch.stack([scores[name] for name in names]).mean(0) for scores in (a, b)]  # [layer, neuron]
        found[scope] = {
            "rank_correlation": _number(rank_correlation(*(mean.flatten() for mean in means))),
            "rank_correlation_layers": [_number(value) for value in rank_correlation(*means)],
        }
    return found


def _scores(side: Side) -> dict[str, Tensor]:
    """Return each pair's mean scores, ``[layer, neuron]``, that lie beside a neuron file; nothing where none do."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(side.file.parent / "scores.safetensors", "pt") as file:
            named = dict(zip(json.loads(file.metadata()["pairs"]), file.get_tensor("scores"), strict=True))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return {}
    return {
        name: scores for name, scores in named.items() if scores.shape == side.neurons.shape and scores.isfinite().all()
    }


def _number(value: Tensor) -> float | None:
    return None if value.isnan() else float(value)


def _subsets(neurons: NeuronSet) -> dict[str, list[Neuron]]:
    return {name: list(subset) for name, subset in neurons.subsets.items()}
