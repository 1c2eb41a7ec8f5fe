"""`biaslab compare` through its function: neuron files, tiny models, and what was trained from them."""

import csv
import json
from functools import partial
from pathlib import Path

import conftest
import pytest
import torch
from conftest import TEMPLATE_WORDS, bpe_tokenizer, make_model, wordpiece_tokenizer
from faults import break_off
from pytorch_lightning import Trainer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMaskedLM, BertConfig

from biaslab.commands.compare import compare, likeness
from biaslab.errors import InputError
from biaslab.evaluation.findings import Findings
from biaslab.models.loading import fingerprint, load_model
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.tasks.baselines.autodebias import AutoDebias
from biaslab.tasks.baselines.cda import CounterfactualAugmentation
from biaslab.tasks.baselines.dpce import DPCE

FEW = {"dimensions": ["gender"], "kinds": ["negative"], "modifiers": 1, "contrast_limit": 4}


@pytest.fixture
def place(workdir, tiny_cache, no_pictures) -> Path:
    """A working folder, with tiny data sets in the cache."""
    return workdir


def content(output: str = "runs/compare") -> dict:
    (made,) = Path(output).glob("comparison-*")
    findings = Findings.load(made / "comparison.json")
    assert (findings.command, findings.rows) == ("compare", [])
    return {**findings.details, "settings": findings.settings}


def save_neurons(path: Path, neurons, shape=(3, 48), weights: str | None = "w", subsets=None, **settings) -> str:
    provenance = {"settings": settings}
    if weights is not None:
        provenance["model"] = {"name": f"model-{weights}", "fingerprint": weights}
    path.parent.mkdir(parents=True, exist_ok=True)
    NeuronSet(neurons, shape).with_details(subsets, provenance).save(path)
    return str(path)


def checkpoint(path: Path, kind: type = CounterfactualAugmentation, *, model: Path, amount: float = 0.02) -> str:
    """A baseline's checkpoint, each weight a little off the model that it names."""
    task = kind(model_name=str(model))
    generator = torch.Generator().manual_seed(0)
    for parameter in task.model.parameters():
        parameter.data += amount * torch.randn(parameter.shape, generator=generator)
    task.hparams["_class_path"] = f"biaslab.tasks.{kind.__name__}"  # as LightningCLI does
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", devices=1)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(path, weights_only=True)
    return str(path)


def never(*_, **__):
    raise AssertionError("computed again")


def printed_tables(capsys) -> str:
    printed = capsys.readouterr().out
    assert "…" not in printed
    tables = printed[printed.index("\nNeurons") : printed.index("\nResults written to")]
    assert max(map(len, tables.splitlines())) <= 80
    return " ".join(printed.split())


def test_two_files(workdir, capsys):
    a = save_neurons(
        Path("x/a.json"), [(0, 1), (0, 2), (2, 5)], subsets={"socioeconomic_status": [(0, 1)], "age": [(1, 1)]},
        selection="guarded", count=3,
    )  # fmt: skip
    b = save_neurons(
        Path("y/b.json"), [(0, 2), (2, 5), (2, 6), (2, 7)], subsets={"socioeconomic_status": [(0, 1), (2, 7)]},
        selection="paper", count=3,
    )  # fmt: skip
    compare(a, b)
    found = content()
    assert found["a"] == {"name": a, "neurons": a, "model": "model-w", "fingerprint": "w", "shape": [3, 48]}
    assert found["same_neurons"] is True
    assert found["settings"]["b"] == b
    assert list(found["scopes"]) == ["overall", "socioeconomic_status"]
    overall = found["scopes"]["overall"]
    assert (overall["only_a"], overall["shared"], overall["only_b"], overall["jaccard"]) == (1, 2, 2, 0.4)
    assert (overall["layers_a"], overall["layers_b"]) == ([2, 0, 1], [1, 0, 3])
    assert overall["expected_shared"] == pytest.approx((2 * 1 + 1 * 3) / 48)
    assert overall["rank_correlation"] is None
    printed = printed_tables(capsys)
    assert "selection guarded vs. paper" in printed
    assert "count" not in printed
    assert "A has 3 neurons, B has 4. They share 2;" in printed
    (made,) = Path("runs/compare").iterdir()
    lines = list(csv.DictReader((made / "comparison.csv").read_text().splitlines()))
    assert [line["scope"] for line in lines] == list(found["scopes"])
    for line in lines:
        for key, value in found["scopes"][line["scope"]].items():
            wanted = " ".join(map(str, value)) if isinstance(value, list) else "" if value is None else str(value)
            assert line[key] == wanted


def test_strengths_are_not_compared_and_that_is_said(workdir, capsys):
    a, b = (save_neurons(Path(name), [(0, 1), (2, 5)]) for name in ("a.json", "b.json"))
    compare(a, b)
    assert "Strengths" not in " ".join(capsys.readouterr().out.split())
    neurons = NeuronSet.load(b)
    neurons.with_strengths(dict.fromkeys(neurons, 0.5)).save(b)
    compare(a, b, output="graded")
    assert "Neuron strengths (of B) are not compared." in " ".join(capsys.readouterr().out.split())
    assert content("graded")["scopes"] == content()["scopes"]


def test_files_of_other_weights_are_compared_with_a_warning(workdir, capsys):
    a = save_neurons(Path("a.json"), [(0, 1)])
    for name, weights in (("b", "v"), ("c", None)):
        compare(a, save_neurons(Path(f"{name}.json"), [(0, 1)], weights=weights), output=name)
        assert content(name)["same_neurons"] is True
        assert "do not say whether one model was trained from the other" in (printed := printed_tables(capsys))
        assert "neuron indices do not correspond between these models, so their overlap is meaningless" in printed


def test_other_shapes_refuse_identity(workdir, capsys):
    a = save_neurons(Path("a.json"), [(0, 1), (2, 5)])
    compare(a, save_neurons(Path("b.json"), [(0, 1), (5, 60)], shape=(6, 64), weights="v"))
    found = content()
    assert found["same_neurons"] is False
    overall = found["scopes"]["overall"]
    assert overall["shared"] is overall["jaccard"] is overall["p_value"] is None
    assert (overall["layers_b"], overall["count_b"]) == ([1, 0, 0, 0, 0, 1], 2)
    assert overall["moved_share"] is not None
    printed = printed_tables(capsys)
    assert "(3 × 48 and 6 × 64): neuron indices do not correspond" in printed
    assert "B's 6 layers are rescaled to A's 3" in printed


def test_an_empty_set_is_told(workdir, capsys):
    compare(save_neurons(Path("a.json"), []), save_neurons(Path("b.json"), [(0, 1)]))
    overall = content()["scopes"]["overall"]
    assert (overall["shared"], overall["mean_layer_a"], overall["moved_share"]) == (0, None, None)
    assert "A has 0 neurons, B has 1. They share 0;" in printed_tables(capsys)


def test_rank_correlation_of_scores_beside_the_files(workdir, capsys):
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(3, 3, 48, generator=generator)
    scores[2] = torch.nan  # a pair without prompts
    paths = []
    for name, sign, pairs in (("a", 1, ["gender/x", "age/y", "age/z"]), ("b", -1, ["age/y", "gender/x", "age/z"])):
        paths.append(save_neurons(Path(name, "neurons.json"), [(0, 1)], subsets={"gender": [(0, 1)], "age": [(0, 1)]}))
        order = [0, 1, 2] if sign > 0 else [1, 0, 2]
        tensors = {"scores": sign * scores[order], "counts": torch.ones(3)}
        save_file(tensors, f"{name}/scores.safetensors", {"pairs": json.dumps(pairs)})
    compare(*paths)
    for of_scope in content()["scopes"].values():
        assert of_scope["rank_correlation"] == pytest.approx(-1)
        assert of_scope["rank_correlation_layers"] == pytest.approx([-1] * 3)
    assert "The rank correlation of the mean scores over all neurons is -1.00." in printed_tables(capsys)
    Path("b/scores.safetensors").write_bytes(b"cut")  # what can't be read is told (B23)
    compare(*paths, output="cut")
    assert content("cut")["scopes"]["gender"]["rank_correlation"] is None
    assert "Ranks are not compared: `neurons` is expected to be in its run's" in printed_tables(capsys)
    Path("b/scores.safetensors").unlink()
    compare(*paths, output="none")
    assert content("none")["scopes"]["gender"]["rank_correlation"] is None
    assert "Ranks are not compared" not in printed_tables(capsys)


@pytest.mark.parametrize("kind", [DPCE, AutoDebias, CounterfactualAugmentation])
def test_a_model_and_what_was_trained_from_it(lab, place, kind, capsys):
    child = checkpoint(place / "x.ckpt", kind, model=lab / "model")
    compare(str(lab / "model"), child, **FEW)
    found = content()
    assert found["b"]["name"] == f"{lab / 'model'} + {kind.__name__}"
    assert found["same_neurons"] is True
    weights = {
        key.removeprefix("model."): value
        for key, value in torch.load(child, weights_only=True)["state_dict"].items()
        if key.startswith("model.")
    }
    trained, _ = load_model(found["b"]["model"])
    assert all(torch.equal(weights[name], value) for name, value in trained.state_dict().items())
    assert found["b"]["fingerprint"] == fingerprint(trained) != found["a"]["fingerprint"]
    sets = [NeuronSet.load(found[side]["neurons"]) for side in "ab"]
    overall = found["scopes"]["overall"]
    assert overall["count_a"] == overall["count_b"] == len(sets[0]) == round(0.02 * 144)
    assert overall["shared"] == len(sets[0] & set(sets[1]))
    assert sets[0].provenance["settings"] == sets[1].provenance["settings"]
    assert sets[0].provenance["settings"]["selection"] == "guarded"
    assert sets[0].provenance["data"]["contrast"] == ["stereoset", "bold", "bug"]
    assert list(found["scopes"]) == ["overall", "gender"]
    scores = [load_file(Path(found[side]["neurons"]).parent / "scores.safetensors")["scores"] for side in "ab"]
    ranks = torch.stack([s.mean(0).flatten().argsort().argsort() for s in scores]).double()
    assert overall["rank_correlation"] == pytest.approx(float(torch.corrcoef(ranks)[0, 1]))
    printed_tables(capsys)


def test_a_second_run_reads_and_other_settings_find_anew(lab, place, monkeypatch):
    child = checkpoint(place / "x.ckpt", model=lab / "model")
    compare(str(lab / "model"), child, **FEW)
    first = content()
    with monkeypatch.context() as patch:
        patch.setattr("biaslab.tasks.attribution.attribute_batch", never)
        patch.setattr("biaslab.models.checkpoints.write_checkpoint", never)
        compare(str(lab / "model"), child, **FEW)
    assert content() == first
    compare(str(lab / "model"), child, **FEW, count=7)
    found = [Findings.load(path).details["scopes"]["overall"] for path in Path().rglob("comparison.json")]
    counts = {overall["count_b"] for overall in found}
    assert counts == {3, 7}
    assert len(list(Path("runs/compare").glob("ig2-*"))) == 4
    assert len(list(Path("runs/compare").glob("child-*"))) == 1


def test_two_trainings_of_a_model_have_names_apart(lab, place):
    paths = [checkpoint(place / f"{n}.ckpt", model=lab / "model", amount=n / 50) for n in (1, 2)]
    compare(*paths, **FEW, selection="ranked", source="prompts")
    found = content()
    assert found["same_neurons"] is True
    assert [found[side]["name"].endswith(path) for side, path in zip("ab", paths, strict=True)] == [True, True]
    assert NeuronSet.load(found["a"]["neurons"]).provenance["data"]["contrast"] is None


def test_a_file_and_what_was_trained_from_its_model(lab, place, capsys):
    weights = fingerprint(load_model(str(lab / "model"))[0])
    a = save_neurons(place / "a.json", [(0, 1), (2, 3)], weights=weights)
    compare(a, checkpoint(place / "x.ckpt", model=lab / "model"), **FEW, selection="paper")
    assert content()["same_neurons"] is True
    assert "both sides are the same model, or one was trained from the other" in printed_tables(capsys)


def save_model(folder: Path, model, tokenizer) -> str:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_likeness_tells_kin_from_strangers(lab, place, capsys, monkeypatch):
    """The same shape, but no child: another seed's model, and one with its neurons in another order."""
    tokenizer = wordpiece_tokenizer()
    model, _ = load_model(str(lab / "model"))
    near, _ = load_model(str(lab / "model"))
    for parameter in near.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    stranger = make_model("bert", len(tokenizer), seed=5)
    assert likeness(model, model) == pytest.approx(1)
    assert likeness(model, near) > 0.9
    assert abs(likeness(model, stranger)) < 0.2
    narrow = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4
    )
    assert likeness(model, AutoModelForMaskedLM.from_config(narrow)) == 0
    few, loaded = FEW | {"selection": "ranked", "source": "prompts"}, []

    def load(name: str, **options):
        loaded.append(name)
        return load_model(name, **options)

    monkeypatch.setattr("biaslab.models.loading.load_model", load)
    compare(str(lab / "model"), save_model(place / "stranger", stranger, tokenizer), output="stranger", **few)
    assert loaded == [str(lab / "model"), str(place / "stranger")]  # B25: once more each to tell whether they are kin
    assert content("stranger")["same_neurons"] is False
    assert "Neither model was trained from the other" in printed_tables(capsys)
    compare(str(lab / "model"), save_model(place / "near", near, tokenizer), output="near", **few)
    assert content("near")["same_neurons"] is True
    assert "the models are related" in printed_tables(capsys)


def test_models_of_other_kinds_are_asked_about_the_same_pairs(place, capsys, monkeypatch):
    """A masked model, whose vocabulary lacks words that the causal one makes of pieces."""
    tokenizer = wordpiece_tokenizer(pieces=False)
    first = save_model(place / "words", make_model("bert", len(tokenizer)), tokenizer)
    tokenizer = bpe_tokenizer(masked=False)
    other = save_model(place / "gpt2", make_model("gpt2", len(tokenizer)), tokenizer)
    few = FEW | {"selection": "ranked", "source": "prompts", "dimensions": ["gender", "age"]}
    compare(first, other, **few)
    found = content()
    for side in "ab":
        subsets = NeuronSet.load(found[side]["neurons"]).subsets
        assert sorted(subsets) == ["age", "age/young-old", "gender", "gender/female-male"]
    assert found["same_neurons"] is False
    assert (
        "pairs that both models know are used; left out: age/old-teenage, age/teenage-middle-aged."
        in printed_tables(capsys)
    )
    monkeypatch.setattr(conftest, "WORDS", [*TEMPLATE_WORDS, "teenage", "old"])
    tokenizer = wordpiece_tokenizer(pieces=False)
    third = save_model(place / "third", make_model("bert", len(tokenizer)), tokenizer)
    with pytest.raises(InputError, match="`b` is expected to know at least one demographic pair that `a` knows"):
        compare(first, third, **few)


BAD = {
    "no file": (lambda lab: ("none.json", str(lab / "model")), "`neurons` is expected to be a neuron file"),
    "no folder": (lambda lab: ("./none", str(lab / "model")), "`model_name` is expected to be an existing folder"),
    "no checkpoint": (lambda lab: (str(lab / "model"), "none.ckpt"), "`ckpt_path`.*can't be read"),
    "no shape": (lambda lab: ("shapeless.json", str(lab / "model")), "`a` is expected to be a neuron file with a `sh"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_told_before_the_work(lab, place, what, monkeypatch):
    NeuronSet([(0, 1)]).save("shapeless.json")
    monkeypatch.setattr("biaslab.commands.passes.attribution_pass", never)
    arguments, message = BAD[what]
    with pytest.raises(InputError, match=message):
        compare(*arguments(lab), **FEW)
    assert not list(Path("runs/compare").glob("*"))


@pytest.mark.filterwarnings("ignore:predict returned None")  # of a batch that is done: the program says nothing of it
def test_a_comparison_that_breaks_off_anywhere_goes_on(lab, place, monkeypatch):
    """Broken off before each of the files that it writes, it ends with the figures of a run that nothing disturbed."""
    weights = fingerprint(load_model(str(lab / "model"))[0])
    sides = (
        save_neurons(place / "a.json", [(0, 1), (2, 3)], weights=weights),
        checkpoint(place / "x.ckpt", model=lab / "model"),
    )
    few = FEW | {"selection": "ranked", "source": "prompts"}
    compare(*sides, **few, output="whole")
    for number in range(100):
        run = partial(compare, *sides, **few, output=f"killed-{number}")
        if not break_off(run, number, monkeypatch):
            break
        run()
        assert content(f"killed-{number}")["scopes"] == content("whole")["scopes"]
    assert number >= 8
