"""Baked folders against the hooked model; loaded where biaslab can't be imported."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import CAUSAL, MASKED, bpe_tokenizer, main, make_model, wordpiece_tokenizer
from pytorch_lightning import Trainer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from biaslab.commands.bake import bake
from biaslab.errors import InputError
from biaslab.evaluation.findings import Findings
from biaslab.models.architectures import ffn_shape
from biaslab.models.loading import fingerprint, load_model
from biaslab.neurons.neuron_set import NeuronSet, random_like
from biaslab.neurons.suppression import suppressed
from biaslab.report.tables import cell, signed
from biaslab.tasks.baselines.cda import CounterfactualAugmentation

NEURONS = [(0, 1), (0, 7), (1, 47), (2, 0), (2, 30), (2, 31)]
HOW_TO_MEASURE = (
    "This checkpoint was not evaluated. To evaluate it, run `biaslab test -c stereoset --model.model_name FOLDER`."
)
CONFIGS = Path(__file__).parents[2] / "configs"
TOKENS = torch.tensor([[5, 9, 12, 7, 30, 6], [8, 3, 40, 41, 42, 11]])
WITHOUT_BIASLAB = (
    """
import sys
sys.modules["biaslab"] = None  # an import of it fails
import torch
from pathlib import Path
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer
torch.set_num_threads(1)
try:
    import biaslab
    raise SystemExit("biaslab was imported")
except ImportError:
    pass
tokens, found = torch.tensor(TOKENS), {}
for folder in sorted(Path(sys.argv[1]).glob("*-baked")):
    kind = folder.name.split("-")[0]
    auto = AutoModelForMaskedLM if kind in MASKED else AutoModelForCausalLM
    AutoTokenizer.from_pretrained(folder)
    # the newest transformers for Python 3.10 takes sdpa for gemma2 by itself, which leaves out the cap of its logits
    options = {"attn_implementation": "eager"} if kind == "gemma2" else {}
    with torch.no_grad():
        found[kind] = auto.from_pretrained(folder, **options).eval()(input_ids=tokens).logits
save_file(found, sys.argv[2])
""".replace("TOKENS", str(TOKENS.tolist()))
    .replace("MASKED)", f"{MASKED})")
    .replace("in MASKED", f"in {MASKED}")
)


def save_model(folder: Path, model_type: str = "bert", seed: int = 0) -> str:
    tokenizer = wordpiece_tokenizer() if model_type in MASKED else bpe_tokenizer(masked=False)
    make_model(model_type, len(tokenizer), seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def save_neurons(path: Path, model: str) -> str:
    made_for = {"model": {"name": model, "fingerprint": fingerprint(load_model(model)[0])}}
    NeuronSet(NEURONS, shape=(3, 48)).with_details(provenance=made_for).save(path)
    return str(path)


def logits(model, tokens=TOKENS):
    with torch.no_grad():
        return model(input_ids=tokens).logits


@pytest.fixture(scope="module")
def baked(tmp_path_factory) -> Path:
    """A folder with each architecture's model, neurons, and baked checkpoint."""
    folder = tmp_path_factory.mktemp("baked")
    for kind in MASKED + CAUSAL:
        model = save_model(folder / kind, kind)
        bake(model, neurons=save_neurons(folder / f"{kind}.json", model), output=str(folder / f"{kind}-baked"))
    return folder


@pytest.fixture(scope="module")
def elsewhere(baked) -> dict[str, torch.Tensor]:
    """The logits that another process gets from the baked folders, without biaslab."""
    out = baked / "logits.safetensors"
    subprocess.run([sys.executable, "-c", WITHOUT_BIASLAB, str(baked), str(out)], check=True)
    return load_file(out)


@pytest.mark.parametrize("kind", MASKED + CAUSAL)
def test_logits_without_biaslab_are_the_hooked_models_bit_by_bit(baked, elsewhere, kind):
    """A zero activation and a zero weight add the same zeros, in the same order."""
    model, _ = load_model(str(baked / kind))
    untouched = logits(model)
    with suppressed(model, NeuronSet.load(baked / f"{kind}.json")):
        hooked = logits(model)
    assert torch.equal(elsewhere[kind], hooked)
    assert not torch.equal(hooked, untouched)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
@pytest.mark.parametrize(("factor", "tolerance"), [(0.5, 0.0), (2.0, 0.0), (0.3, 1e-5)])  # powers of two round nothing
def test_other_factors(tmp_path, kind, factor, tolerance):
    source = save_model(tmp_path / "model", kind)
    neurons = save_neurons(tmp_path / "n.json", source)
    bake(source, neurons=neurons, output=str(tmp_path / "out"), factor=factor)
    model, result = load_model(source)[0], load_model(str(tmp_path / "out"))[0]
    with suppressed(model, NeuronSet.load(neurons), factor):
        torch.testing.assert_close(logits(result), logits(model), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
@pytest.mark.parametrize(
    ("factor", "strengths", "tolerance"),
    [
        (0.0, [1.0, 0.5, -1.0, 0.0, 3.0, 1.0], 0.0),  # multipliers 0, 1/2, 2, 1, -2, 0: none rounds
        (0.5, [1.0, 2.0, -2.0, 0.0, 1.5, 6.0], 0.0),  # 1/2, 0, 2, 1, 1/4, -2
        (2.0, [1.0, -0.5, -1.0, 0.0, 3.0, 7.0], 0.0),  # 2, 1/2, 0, 1, 4, 8
        (0.0, [1.0, 0.3, -0.7, 0.1, 1.2, 0.9], 1e-5),
    ],
)
def test_strengths(tmp_path, kind, factor, strengths, tolerance):
    source, path, out = save_model(tmp_path / "model", kind), tmp_path / "n.json", tmp_path / "out"
    chosen = NeuronSet.load(save_neurons(path, source))
    graded = chosen.with_strengths(dict(zip(chosen, strengths, strict=True)))
    graded.save(path)
    bake(source, neurons=str(path), output=str(out), factor=factor)
    model, result = load_model(source)[0], load_model(str(out))[0]
    with suppressed(model, graded, factor):
        torch.testing.assert_close(logits(result), logits(model), atol=tolerance, rtol=tolerance)
    with suppressed(model, chosen, factor):
        assert not torch.allclose(logits(result), logits(model), atol=1e-4)
    card = (out / "README.md").read_text()
    each = "1 − x" if factor == 0 else f"1 − (1 − {factor:g})·x"
    assert f"6 are multiplied by {each}, through their columns" in card
    assert f"from {min(strengths):g} to {max(strengths):g} (1 is full suppression; a negative strength has" in card
    assert f"bit for bit if {each} is 0 or a power of two for each neuron" in card
    facts = json.loads(card.partition("```json\n")[2].partition("\n```")[0])["neurons"]
    least, most = (pytest.approx(extreme(strengths), rel=1e-6) for extreme in (min, max))
    assert facts["strengths"] == {"least": least, "most": most}


@pytest.mark.parametrize("factor", [0.0, 0.5])
def test_strengths_with_means(tmp_path, factor):
    source, path, out = save_model(tmp_path / "model"), tmp_path / "n.json", tmp_path / "out"
    chosen = NeuronSet.load(save_neurons(path, source))
    means = torch.randn(3, 48, generator=torch.Generator().manual_seed(0)).numpy()
    graded = chosen.with_values(means).with_strengths(dict(zip(chosen, [1, 0.3, -1, 0, 2, 0.5], strict=True)))
    graded.save(path)
    bake(source, neurons=str(path), output=str(out), factor=factor)
    model, result = load_model(source)[0], load_model(str(out))[0]
    with suppressed(model, graded, factor):
        torch.testing.assert_close(logits(result), logits(model), atol=1e-5, rtol=1e-5)
    card = (out / "README.md").read_text()
    each = "1 − x" if factor == 0 else "1 − (1 − 0.5)·x"
    assert f"6 have their distance from the mean over ordinary text multiplied by {each}" in card
    assert "hooks up to rounding" in card
    assert "bit for bit" not in card


def test_without_strengths_a_card_says_nothing_of_them(baked):
    card = (baked / "bert-baked/README.md").read_text()
    assert "6 are multiplied by 0, through their columns" in card
    assert "strength" not in card


@pytest.mark.parametrize(("kind", "auto", "task"), [
    ("bert", "AutoModelForMaskedLM", "fill-mask"), ("gpt2", "AutoModelForCausalLM", "text-generation"),
])  # fmt: skip
def test_folder_is_an_ordinary_checkpoint_with_a_card(baked, kind, auto, task):
    folder = baked / f"{kind}-baked"
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= {p.name for p in folder.iterdir()}
    assert (folder.stat().st_mode & 0o777) == (baked / kind).stat().st_mode & 0o777
    card = (folder / "README.md").read_text()
    before, after = (fingerprint(load_model(str(baked / name))[0]) for name in (kind, f"{kind}-baked"))
    assert before != after
    facts = json.loads(card.partition("```json\n")[2].partition("\n```")[0])
    assert facts["model"] == {"name": kind, "fingerprint": before}
    assert facts["neurons"]["count"] == len(NEURONS)
    assert facts["neurons"]["file"] == f"{kind}.json"
    assert facts["neurons"]["made"]["model"]["fingerprint"] == before
    assert f"`{after}`" in card
    assert auto in card
    assert yaml.safe_load(card.split("---\n")[1])["pipeline_tag"] == task
    assert str(baked) not in card  # B22
    assert HOW_TO_MEASURE in card
    assert not list(baked.glob(".*"))


@pytest.fixture
def checkpoint(tmp_path) -> str:
    """A baseline's checkpoint whose model differs from the one that it names."""
    task = CounterfactualAugmentation(save_model(tmp_path / "model"))
    task.model.load_state_dict(make_model("bert", len(wordpiece_tokenizer()), seed=3).state_dict())
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu", devices=1)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(tmp_path / "x.ckpt", weights_only=True)
    return str(tmp_path / "x.ckpt")


def test_checkpoint(tmp_path, checkpoint):
    (tmp_path / "out").mkdir()  # an empty folder may be there
    bake(ckpt_path=checkpoint, output=str(tmp_path / "out"))
    trained = make_model("bert", len(wordpiece_tokenizer()), seed=3)
    assert torch.equal(logits(AutoModelForMaskedLM.from_pretrained(tmp_path / "out").eval()), logits(trained))
    card = (tmp_path / "out" / "README.md").read_text()
    assert fingerprint(trained) in card
    assert '"lr": 2e-05' in card
    assert '"checkpoint": "x.ckpt"' in card
    assert str(tmp_path) not in card  # B22
    assert HOW_TO_MEASURE in card


def test_a_card_names_no_relative_path_either(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_model(Path("mine/model"))
    save_neurons(Path("mine/n.json"), "mine/model")
    bake("mine/model", neurons="mine/n.json", output="out")
    card = Path("out/README.md").read_text()
    assert "# model, with neurons suppressed" in card
    assert "mine" not in card


def test_checkpoint_with_neurons_of_the_trained_model(tmp_path, checkpoint):
    of_the_first = save_neurons(tmp_path / "first.json", str(tmp_path / "model"))
    with pytest.raises(InputError, match="other weights"):
        bake(ckpt_path=checkpoint, neurons=of_the_first, output=str(tmp_path / "out"))
    of_the_trained = save_neurons(tmp_path / "n.json", save_model(tmp_path / "trained", seed=3))
    bake(ckpt_path=checkpoint, neurons=of_the_trained, output=str(tmp_path / "out"))
    model = load_model(str(tmp_path / "trained"))[0]
    with suppressed(model, NeuronSet.load(of_the_trained)):
        assert torch.equal(logits(load_model(str(tmp_path / "out"))[0]), logits(model))


def not_a_checkpoint(path: Path, content: object) -> str:
    torch.save(content, path)
    return str(path)


def debias(lab: Path, *more: str) -> None:
    text, output = str(lab / "text.txt"), ["--output", str(lab / "runs")]
    few = ["--modifiers", "1", "--steps", "2", "--sentences", "3", "--count", "5", "--dimensions", "[gender, age]"]
    data = ["--source", "prompts", "--contrast", text, "--text", text, "--stereoset", str(lab / "stereoset.json")]
    main(["debias", "--model", str(lab / "model"), *few, *data, *output, *more])


@pytest.fixture(scope="module")
def debiased(lab) -> Path:
    debias(lab, "--seeds", "2")
    return lab / "runs/debias/version_0"


@pytest.fixture
def run(debiased, tmp_path) -> Path:
    """A copy of a real run's folder, to be changed."""
    return Path(shutil.copytree(debiased, tmp_path / "run"))


def card_of(lab: Path, neurons: Path, *options: str) -> str:
    """The card that the command line writes."""
    out = neurons.parent.with_name("-".join([neurons.parent.name, neurons.stem, *options]))
    main(["bake", "--model", str(lab / "model"), "--neurons", str(neurons), "--output", str(out), *options])
    return (out / "README.md").read_text()


def lines_of(card: str) -> dict[str, list[str]]:
    """The cells of a card's table by their label."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in card.splitlines() if line[:1] == "|"]
    return {label.partition(" sentences of")[0]: found for label, *found in cells[2:]}


def figures(run: Path, row: str, scope: str, metric: str, file: str = "table.csv") -> dict[str, float]:
    """What a run wrote into its CSV file."""
    wanted = {"row": row, "metric": metric, "scope": scope}
    (line,) = [line for line in csv.DictReader((run / file).read_text().splitlines()) if wanted.items() <= line.items()]
    return {name: float(line[name] or "nan") for name in line if name not in (*wanted, "unit")}


def with_interval(of: dict[str, float], digits: int = 1) -> str:
    return "{} [{}, {}]".format(*(f"{of[name]:.{digits}f}" for name in ("value", "low", "high")))


def change(of: dict[str, float], digits: int = 1) -> str:
    return "{} [{}, {}]".format(*(f"{of[f'change_{name}']:+.{digits}f}" for name in ("value", "low", "high")))


SCOPES = ("overall", "gender", "profession", "race")
METRICS = ("SS", "SS log-ratio", "LMS", "ICAT")


@pytest.mark.parametrize(
    ("file", "factor", "row"),
    [
        ("neurons.json", "0", "BNS, balanced"),
        ("neurons.json", "0.5", "BNS, balanced ×½"),
        ("neurons_paper.json", "0", "BNS, paper"),
    ],
)
def test_card_tells_what_the_run_measured(lab, run, file, factor, row, capsys):
    """Of the very treatment; random controls were treated like the run's own neurons, and like no others."""
    card = card_of(lab, run / file, "--factor", factor)
    lines, own = lines_of(card), row == "BNS, balanced"
    assert len(lines) == len(SCOPES) * len(METRICS) + 2
    for scope in SCOPES:
        for metric in METRICS:
            before, after, random = (figures(run, r, scope, metric) for r in ("untouched", row, "random, 2 seeds"))
            digits = 3 if metric == "SS log-ratio" else 1
            wanted = [with_interval(before, digits), with_interval(after, digits), change(after, digits)]
            wanted += [f"{change(random, digits)} ± {random['spread']:.{digits}f}"] if own else []
            assert lines[metric if scope == "overall" else f"{metric}, {scope}"] == wanted
    before, after = (figures(run, r, "overall", "perplexity") for r in ("untouched", row))
    assert lines["perplexity, 3"][:3] == [f"{before['value']:.2f}", f"{after['value']:.2f}", f"{change(after)} %"]
    before, after, random = (figures(run, r, "overall", "knowledge") for r in ("untouched", row, "random, 2 seeds"))
    wanted = [with_interval(before), with_interval(after), change(after)]
    wanted += [f"{change(random)} ± {random['spread']:.1f}"] if own else []
    (label,) = [label for label in lines if label.startswith("knowledge")]
    assert lines[label] == wanted
    assert re.fullmatch(r"knowledge, % right of \d+ sentences", label)
    assert "weights, on stereoset.json, a file in StereoSet's format (12 clusters)." in card
    assert str(lab) not in card
    assert ("no random control" not in card) is own
    assert "held-out prompts" in card
    assert "easure it" not in card
    assert "no results" not in capsys.readouterr().out


@pytest.mark.parametrize(("factor", "row"), [("0", "BNS, balanced"), ("0.5", "BNS, balanced ×½")])
def test_card_tells_the_gaps(lab, run, factor, row):
    """Of the very treatment; with the random control of it, where there is one."""
    card = card_of(lab, run / "neurons.json", "--factor", factor)
    for metric, gap in (("gap", "|P(d1) − P(d2)|"), ("log gap", "|log P(d1) − log P(d2)|")):
        of, random = (figures(run, name, "overall", metric, "gaps.csv") for name in (row, "random, 2 seeds"))
        value, low, high = (of[f"change_{name}"] for name in ("value", "low", "high"))
        wanted = f"{gap} by {value:+.0f} [{low:+.0f}, {high:+.0f}] %"
        if factor == "0":
            wanted += f" (random neurons {random['change_value']:+.0f} ± {random['spread']:.0f} %)"
        assert wanted in card


@pytest.mark.parametrize("factor", ["0", "2"])
def test_card_of_a_run_with_one_seed(lab, tmp_path, factor):
    """There is no deviation over seeds then. Gaps are measured at the run's factor."""
    debias(lab, "--seeds", "1", "--factor", factor, "--output", str(tmp_path))
    neurons = tmp_path / "debias/version_0/neurons.json"
    card = card_of(lab, neurons, "--factor", factor)
    assert lines_of(card)["ICAT"][3] == change(figures(neurons.parent, "random, one seed", "overall", "ICAT"))
    assert "±" not in card
    assert "held-out prompts" in card
    assert HOW_TO_MEASURE in card_of(lab, neurons, "--factor", "3")


def test_checkpoint_does_on_stereoset_what_the_card_says(lab, run, monkeypatch):
    monkeypatch.chdir(run)
    card_of(lab, run / "neurons.json")
    model = ["--model.model_name", str(run.with_name("run-neurons")), "--data.path", str(lab / "stereoset.json")]
    device = ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.enable_progress_bar", "false"]
    main(["test", "-c", str(CONFIGS / "stereoset.yaml"), *model, *device])
    found = Findings.load(run / "runs/stereoset/version_0/stereoset.json")
    for scope in SCOPES:
        for metric in METRICS:
            after = figures(run, "BNS, balanced", scope, metric)
            figure = found.get(found.base.name, metric, scope).figure._asdict()
            assert with_interval(figure) == with_interval(after)


def edit(path: Path, changes: dict) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def others(run: Path) -> None:
    neurons = NeuronSet.load(run / "neurons.json")
    random_like(neurons, seed=7).with_details(provenance=neurons.provenance).save(run / "neurons.json")


def treat(run: Path, **changes) -> None:
    """Let all rows of a run be treated otherwise."""
    rows = json.loads((run / "results.json").read_text())["rows"]
    edit(run / "results.json", {
        "rows": [row | {"treatments": [each | changes for each in row["treatments"]]} for row in rows]
    })  # fmt: skip


def relabel(run: Path, key: str, **changes: str) -> None:
    provenance = json.loads((run / "neurons.json").read_text())["provenance"]
    edit(run / "neurons.json", {"provenance": provenance | {key: provenance.get(key, {}) | changes}})


OTHER = "results.json next to the neuron file is about other neurons."
NOT_OURS = "results.json next to the neuron file was not written by this version of biaslab."
NOT_MEASURED = {
    "no results": (lambda run: (run / "results.json").unlink(), ""),
    "at the slot": (
        lambda run: treat(run, positions="slot"),
        "results.json next to the neuron file was measured for suppression at the slot alone",
    ),
    "chosen for the slot": (
        lambda run: relabel(run, "suppression", factor=0.0, positions="slot"),
        "The neurons were chosen for suppression at the slot alone",
    ),
    "chosen for a factor": (
        lambda run: relabel(run, "suppression", factor=0.5, positions="all"),
        "The neurons were chosen for the factor 0.5, but the factor here is 0.",
    ),
    "factor": (
        lambda run: treat(run, factor=2.0),
        "results.json next to the neuron file has no results for the factor 0.",
    ),
    "as many neurons, others": (others, OTHER),
    "other model": (lambda run: relabel(run, "model", name="another"), OTHER),
    "cut off": (lambda run: (run / "results.json").write_text('{"facts"'), NOT_OURS),
    "other results": (lambda run: (run / "results.json").write_text("{}"), NOT_OURS),
    "other schema": (lambda run: edit(run / "results.json", {"schema": 99}), NOT_OURS),
    "a part is missing": (lambda run: edit(run / "results.json", {"rows": [{}]}), NOT_OURS),
}


@pytest.mark.parametrize("what", NOT_MEASURED)
def test_card_says_why_it_has_no_figures(lab, run, what, capsys):
    change_run, why = NOT_MEASURED[what]
    change_run(run)
    card = card_of(lab, run / "neurons.json")
    assert why in card
    assert HOW_TO_MEASURE in card
    assert "| ICAT" not in card
    printed = capsys.readouterr().out
    assert why in " ".join(printed.split())
    assert ("no results" in printed) is bool(why)
    _, *told = printed[printed.index("Model written to") :].splitlines()
    assert all(len(line) <= 80 for line in told)


def test_an_error_of_our_own_is_not_taken_for_a_damaged_file(lab, run):
    """B23: only what can't be read is passed over."""
    edit(run / "results.json", {"facts": {}})
    with pytest.raises(KeyError, match="clusters"):
        card_of(lab, run / "neurons.json")


def test_card_of_another_file_in_the_folder(lab, run):
    """The neurons count, not what their file is called."""
    shutil.copy(run / "neurons.json", run / "mine.json")
    assert lines_of(card_of(lab, run / "mine.json")) == lines_of(card_of(lab, run / "neurons.json"))
    neurons = NeuronSet.load(run / "neurons.json")
    neurons.with_strengths(dict.fromkeys(neurons, 0.5)).save(run / "graded.json")
    assert OTHER in card_of(lab, run / "graded.json")
    gender = neurons.subsets["gender"]
    made_for = NeuronSet.load(run / "neurons.json").provenance
    gender.with_details(provenance=made_for).save(run / "gender.json")
    assert OTHER in card_of(lab, run / "gender.json")


def test_card_tells_what_a_sweep_measured(lab, tmp_path, tiny_cache, few_prompts):
    main(
        [
            "sweep", "--model", str(lab / "model"), "--text", str(lab / "text.txt"), "--sentences", "3",
            "--seeds", "2", "--guards", "[stereoset]", "--guard_weights", "[1.0]", "--counts", "[5]", "--every", "2",
            "--factors", "[0.5]", "--output", str(tmp_path / "sweep"),
        ]
    )  # fmt: skip
    (folder,) = (tmp_path / "sweep").iterdir()
    neurons = NeuronSet.load(folder / "neurons.json").fingerprint
    assert "The neurons were chosen for the factor 0.5, but the factor here is 0." in card_of(
        lab, folder / "neurons.json"
    )
    card = card_of(lab, folder / "neurons.json", "--factor", "0.5")
    findings = Findings.load(folder / "sweep.json")
    before, chosen, random = (
        findings.get(row, "ICAT", "race") for row in ("untouched", "chosen", "random, 2 seeds")
    )  # fmt: skip
    changes = [signed(chosen.change), f"{signed(random.change)} ± {random.spread:.1f}"]
    assert lines_of(card)["ICAT, race"] == [cell(before), cell(chosen), *changes]
    assert "chose neurons and factor on StereoSet's test split and other sentences" in card
    assert "weights, on StereoSet's dev split (24 clusters)." in card
    assert str(tmp_path) not in card

    other = Path(shutil.copytree(folder, tmp_path / "other"))
    (other / "sweep.json").write_text((other / "sweep.json").read_text().replace(neurons, "another"))
    card = card_of(lab, other / "neurons.json", "--factor", "0.5")
    assert "sweep.json next to the neuron file is about other neurons." in card


BAD = {
    "neither": (lambda tmp: {}, "`model` or `ckpt_path` is expected, exactly one of them, but got neither"),
    "both": (lambda tmp: {"model": "a", "ckpt_path": "b"}, "got both"),
    "positions": (lambda tmp: {"model": "a", "positions": "slot"}, '`positions`.*"all".*weights act on every token'),
    "factor": (lambda tmp: {"model": "a", "factor": float("nan")}, "`factor` is expected to be a finite"),
    "folder": (lambda tmp: {"model": "a", "output": str(tmp)}, "`output` is expected to be a new or empty folder"),
    "no file": (lambda tmp: {"ckpt_path": str(tmp / "none.ckpt")}, "`ckpt_path`.*can't be read"),
    "text": (lambda tmp: {"ckpt_path": str(tmp / "text")}, "`ckpt_path`.*can't be read"),
    "no task": (
        lambda tmp: {"ckpt_path": not_a_checkpoint(tmp / "c", {"state_dict": {}})},
        "`ckpt_path`.*with a `model_name`",
    ),
    "list": (lambda tmp: {"ckpt_path": not_a_checkpoint(tmp / "c", [1])}, "`ckpt_path`.*with a `model_name`"),
    "other weights": (
        lambda tmp: {
            "ckpt_path": not_a_checkpoint(
                tmp / "c",
                {
                    "hyper_parameters": {"model_name": save_model(tmp / "m")},
                    "state_dict": {"model.x": torch.zeros(1)},
                },
            )
        },
        "`ckpt_path`.*all weights of its `model_name`, a bert",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_leaves_nothing(tmp_path, what):
    (tmp_path / "text").write_text("no checkpoint")
    arguments, message = BAD[what]
    with pytest.raises(InputError, match=message):
        bake(**{"output": str(tmp_path / "out"), **arguments(tmp_path)})
    assert not (tmp_path / "out").exists()


def test_failure_while_writing_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("no space")

    monkeypatch.setattr("transformers.PreTrainedTokenizerBase.save_pretrained", fail)  # the model is written before
    for output in ("out", "folder/within/out"):
        with pytest.raises(OSError, match="no space"):
            bake(save_model(tmp_path / "model"), output=str(tmp_path / output))
        assert {path.name for path in tmp_path.iterdir()} == {"model"}


def test_new_folders_on_the_way(tmp_path):
    bake(save_model(tmp_path / "model"), output=str(tmp_path / "a/b/out"))
    assert (tmp_path / "a/b/out/model.safetensors").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"model", "a"}


def test_positions_on_the_command_line(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["bake", "--model", "a", "--positions", "slot"])
    assert ended.value.code == 2
    assert "use the callback NeuronSuppression" in capsys.readouterr().err


@pytest.mark.assets
def test_minilm_mlm_becomes_a_plain_bert(tmp_path, asset):
    asset("minilm-encoder")
    bake("minilm-mlm", output=str(tmp_path / "out"))
    assert json.loads((tmp_path / "out/config.json").read_text())["architectures"] == ["BertForMaskedLM"]
    model, _ = load_model("minilm-mlm")
    again = AutoModelForMaskedLM.from_pretrained(tmp_path / "out").eval()
    assert type(again).__name__ == "BertForMaskedLM"
    tokens = torch.tensor([AutoTokenizer.from_pretrained(tmp_path / "out")("She is a [MASK].")["input_ids"]])
    assert torch.equal(logits(again, tokens), logits(model, tokens))


@pytest.mark.parametrize(
    ("factor", "words"),
    [("0", "are set to their means over"), ("0.5", "from the mean over ordinary text multiplied by 0.5")],
)
def test_means_go_into_the_biases(tmp_path, factor, words):
    tokenizer = wordpiece_tokenizer()
    model = make_model("bert", len(tokenizer))
    model.save_pretrained(tmp_path / "model"), tokenizer.save_pretrained(tmp_path / "model")
    means = torch.randn(3, 48, generator=torch.Generator().manual_seed(0)).numpy()
    neurons = NeuronSet([(0, 1), (2, 7)], (3, 48)).with_values(means)
    neurons.save(tmp_path / "neurons.json")
    paths = {"model": "model", "neurons": "neurons.json", "output": "out"}
    bake(**{name: str(tmp_path / path) for name, path in paths.items()}, factor=float(factor))
    ids = torch.tensor([[2, 8, 9, 4, 3]])
    with torch.no_grad():
        with suppressed(model, neurons, float(factor)):
            wanted = model(ids).logits
        found = AutoModelForMaskedLM.from_pretrained(tmp_path / "out").eval()(ids).logits
        assert not torch.allclose(wanted, model(ids).logits)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    card = (tmp_path / "out/README.md").read_text()
    assert words in card
    assert "and the biases" in card


@pytest.mark.parametrize("model_type", ["llama", "mistral"])
def test_means_go_into_new_biases_where_the_configuration_can_say_so(tmp_path, model_type):
    tokenizer = bpe_tokenizer(masked=False)
    model = make_model(model_type, len(tokenizer))
    model.save_pretrained(tmp_path / "model"), tokenizer.save_pretrained(tmp_path / "model")
    layers, width = ffn_shape(model)
    means = torch.randn(layers, width, generator=torch.Generator().manual_seed(0)).numpy()
    neurons = NeuronSet([(0, 1), (1, 7)], (layers, width)).with_values(means)
    neurons.save(tmp_path / "neurons.json")
    paths = {"model": "model", "neurons": "neurons.json", "output": "out"}
    options = {name: str(tmp_path / path) for name, path in paths.items()}
    if model_type == "mistral":
        with pytest.raises(InputError, match="have no bias to store them"):
            bake(**options)
        return
    bake(**options)
    ids = torch.tensor([[2, 8, 9, 4, 3]])
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        with suppressed(model, neurons):
            wanted = model(ids).logits
        assert not torch.allclose(wanted, model(ids).logits)
        torch.testing.assert_close(again(ids).logits, wanted, atol=1e-5, rtol=1e-5)
    assert again.config.mlp_bias is True
    assert again.model.layers[0].mlp.gate_proj.bias.count_nonzero() == 0


def test_an_empty_neuron_set_is_refused(lab, tmp_path, capsys):
    """What is written would be the model as it was, with a card that says otherwise."""
    NeuronSet([], shape=(3, 48)).save(tmp_path / "none.json")
    with pytest.raises(SystemExit):
        main(
            ["bake", f"--model={lab / 'model'}", f"--neurons={tmp_path / 'none.json'}", f"--output={tmp_path / 'out'}"]
        )
    assert "`neurons` is expected to hold at least one neuron, but" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
