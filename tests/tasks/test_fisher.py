"""The selection "fisher" in a run: shared by processes, killed, and gone on with, to the same bytes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import make_model, stereoset, wordpiece_tokenizer
from nursery import End, Nursery

from biaslab.data.effects import other_batches, quantities_of
from biaslab.metrics.effects import NeuronEffects
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.neurons.selection import fisher
from biaslab.neurons.suppression import suppressed
from biaslab.tasks.effects import measured_rise
from biaslab.tasks.weighing import Weighing

COMMAND = [
    "predict", "-c", "attribute", "--model.selection", "fisher", "--model.guard_weight", "0.5", "--model.steps", "2",
    "--model.count", "3",
    "--model.save_every", "0", "--data.dimensions", "[gender]", "--data.kinds", "[negative]", "--data.modifiers", "1",
    "--data.contrast_positions", "all", "--data.contrast_limit", "8", "--data.tokens_per_batch", "64",
    "--trainer.accelerator", "cpu", "--trainer.strategy", "ddp", "--trainer.enable_progress_bar", "false",
]  # fmt: skip
SETTINGS = {
    "domain_weights": None, "source_weights": None, "knowledge_weight": 0.0, "count": None, "perplexity_percent": 3.0,
}  # fmt: skip
FILES = ("neurons.json", "scores.safetensors", "effects.safetensors")


@pytest.fixture(scope="module")
def run(nursery: Nursery, tiny: Path, tmp_path_factory) -> Callable[..., End]:
    """Run the command in a folder, with tiny data sets in the cache."""
    cache = tmp_path_factory.mktemp("cache")
    (cache / "stereoset").mkdir()
    for split in ("dev", "test"):
        stereoset(cache / "stereoset" / f"{split}.json")
    lines = [f"the {a} loves the {b} and hates the {c} ." for a in "abcdefgh" for b in "abcdefgh" for c in "abcdefgh"]
    (cache / "text.txt").write_text("\n".join(lines))
    code = f"import os; os.environ['BIASLAB_CACHE'] = {str(cache)!r}; from biaslab.__main__ import main; main()"
    fixed = [*COMMAND, "--model.model_name", tiny, "--data.contrast", f"[stereoset, {cache / 'text.txt'}]"]

    def run(folder: Path, *more: str, ranks: int = 1, **options) -> End:
        folder.mkdir(exist_ok=True)
        return nursery.run(folder, [*fixed, "--trainer.devices", ranks, *more], ranks=ranks, code=code, **options)

    return run


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    end = run(folder)
    assert end.codes == [0], end.output
    return folder / "runs/attribute/version_0"


def contents(run: Path) -> list[bytes]:
    return [(run / name).read_bytes() for name in FILES]


def test_neurons_are_those_of_the_effects_beside_them(whole):
    effects = safetensors.torch.load_file(whole / "effects.safetensors")
    assert sorted(effects) == sorted([*quantities_of(["stereoset", "text"]), "gender/prompts"])
    assert effects["text"].dtype == torch.float64
    domains = ("gender", "profession", "race", "religion")
    bias, guard = (sum(effects[f"{domain}/{name}"] for domain in domains) for name in ("bias", "guard"))
    prompts = effects["gender/prompts"]
    typical = [own.flatten().topk(7).values.mean() for own in (bias, prompts)]  # a twentieth of 144 neurons
    joint = bias / typical[0] + prompts / typical[1]
    wanted = fisher(
        joint / joint.flatten().topk(7).values.mean(), guard / typical[0], effects["text"], count=3, weight=0.5
    )
    neurons = NeuronSet.load(whole / "neurons.json")
    assert list(neurons) == list(wanted)
    assert neurons.provenance["settings"]["guard_weight"] == 0.5
    assert set(neurons.subsets) == {"gender", *(name for name in neurons.subsets if name.startswith("gender/"))}


def test_two_ranks_and_a_killed_run_give_the_same_bytes(run, whole, tmp_path):
    kills = 0
    for attempt in range(8):
        ranks = 1 + attempt % 2
        before = len(list(tmp_path.glob("runs/attribute/*/shards/shard-*")))

        def until(seconds: float, before=before) -> bool:
            return len(list(tmp_path.glob("runs/attribute/*/shards/shard-*"))) >= before + 12

        end = run(tmp_path, ranks=ranks, until=until)
        kills += set(end.codes) != {0}
        if not kills or set(end.codes) == {0}:
            break
    assert kills >= 2, end.output
    assert set(end.codes) == {0}, end.output
    assert contents(tmp_path / "runs/attribute/version_0") == contents(whole)


def test_without_a_count_perplexity_decides(run, whole, tmp_path):
    end = run(tmp_path, "--model.count", "null", "--model.perplexity_percent", "0.5")
    assert end.codes == [0], end.output
    neurons = NeuronSet.load(tmp_path / "runs/attribute/version_0/neurons.json")
    assert neurons.provenance["settings"]["count"] == len(neurons) > 0


def test_further_sources_are_measured_beside(run, whole, tmp_path):
    """What the other sources give stays the same, but for rounding: batches are larger here."""
    text = NeuronSet.load(whole / "neurons.json").provenance["data"]["contrast"][1]
    end = run(tmp_path, "--data.contrast", f"[stereoset, {text}, pairs, knowledge]", "--data.tokens_per_batch", "512")
    assert end.codes == [0], end.output
    before, after = (
        safetensors.torch.load_file(folder / "effects.safetensors")
        for folder in (whole, tmp_path / "runs/attribute/version_0")
    )
    further = quantities_of(["pairs", "knowledge"])
    assert set(after) == {*before, *further}
    for name, effects in before.items():
        torch.testing.assert_close(after[name], effects, atol=1e-5, rtol=1e-4)
    assert all(after[name].abs().max() > 0 for name in ("known/information", "age/known"))


def test_balanced_weighs_sources_and_what_knowledge_needs(run, whole, tmp_path):
    text = NeuronSet.load(whole / "neurons.json").provenance["data"]["contrast"][1]
    weights = "{contrast: 1.0, prompts: 0.75, pairs: 0.5}"
    end = run(
        tmp_path, "--data.contrast", f"[stereoset, {text}, pairs, knowledge]", "--model.selection", "balanced",
        "--model.knowledge_weight", "0.7", "--model.source_weights", weights, "--model.perplexity_percent", "0.5",
    )  # fmt: skip
    assert end.codes == [0], end.output
    effects = safetensors.torch.load_file(tmp_path / "runs/attribute/version_0/effects.safetensors")
    neurons = NeuronSet.load(tmp_path / "runs/attribute/version_0/neurons.json")

    def mean_of(end: str) -> torch.Tensor:
        return torch.stack([own for name, own in effects.items() if name.endswith(end)]).mean(0)

    def scaled(own: torch.Tensor) -> torch.Tensor:
        return own / own.flatten().topk(7).values.mean()

    terms = {"gender": 30, "profession": 90, "race": 113, "religion": 9}  # each counts the same, as in SS
    contrast, spare = (sum(terms[d] * effects[f"{d}/{name}"] for d in terms) for name in ("bias", "guard"))
    bias = scaled(contrast) + 0.75 * scaled(mean_of("/prompts")) + 0.5 * scaled(mean_of("/pairs"))
    guard = 0.5 * spare / contrast.flatten().topk(7).values.mean() + 0.7 * scaled(mean_of("/known"))
    worth = (scaled(bias) - guard) / (effects["text"] / 2 + (effects["text"] / 2).median())
    wanted = sorted(divmod(int(place), worth.shape[1]) for place in worth.abs().flatten().argsort(descending=True)[:3])
    assert list(neurons) == wanted
    strengths = torch.tensor(list(neurons.strengths.values()), dtype=torch.float64)
    expected = torch.stack([worth[neuron] for neuron in neurons])
    inside = strengths.abs() < 1
    torch.testing.assert_close(
        (strengths / expected)[inside], (strengths / expected)[inside].mean().expand(inside.sum())
    )
    assert (strengths.sign() == expected.sign()).all()
    assert neurons.provenance["settings"]["predicted_percent"] > 0
    # a dimension's own neurons: its bias less the others', whose only prompts and pairs are of gender here
    own = neurons.subsets["gender"]
    assert len(own) == 3
    assert own.strengths is not None
    assert own != neurons


class Costs:
    """Neurons that cost this much a piece, in percent, whatever the Fisher information says; by strength squared."""

    def __init__(self, each: float) -> None:
        self.each, self.asked = each, []

    def __call__(self, neurons: NeuronSet) -> float:
        self.asked.append(len(neurons))
        strengths = getattr(neurons, "strengths", None)
        pieces = len(neurons) if strengths is None else sum(strength**2 for strength in strengths.values())
        return 100 * math.expm1(self.each / 100 * pieces)


@pytest.mark.parametrize(("each", "pieces"), [(0.03, 60), (0.1, 29.5), (1.0, 2.95), (30.0, 0.0985)])
def test_strengths_are_corrected_by_what_is_measured(each, pieces):
    """A budget of 3 % of perplexity, where information says that strengths of 1 of 30 neurons cost as much."""
    metric = NeuronEffects([*quantities_of(["stereoset", "text"])], (8, 64))
    metric.update(torch.rand(1, 8, 64, generator=torch.Generator().manual_seed(0)), torch.tensor([0]))
    metric.update(torch.full((1, 8, 64), math.sqrt(2 * math.log(1.03) / 30)), torch.tensor([8]), tokens=1)
    settings = SETTINGS | {"source": "contrast", "guard_weight": 0.5, "count": 60}
    costs = Costs(each)
    found = Weighing(metric, "balanced", settings).affordable(costs)
    neurons = Weighing(metric, "balanced", settings | found).neurons()
    assert len(neurons) == 60
    spent = sum(strength**2 for strength in neurons.strengths.values())
    assert 0.85 * min(60, pieces) <= spent <= 1.001 * pieces
    assert len(costs.asked) <= 4


@pytest.mark.parametrize(
    ("each", "least", "most"), [(0.01, 240, 300), (0.1, 25, 30), (1.0, 2, 3), (9.0, 1, 1), (-1.0, 384, 384)]
)
def test_the_estimate_is_corrected_by_what_is_measured(each, least, most):
    """A budget of 3 %: information says that 30 neurons cost that much; a neuron that costs more is left alone."""
    metric = NeuronEffects([*quantities_of(["stereoset", "text"])], (8, 64))
    generator = torch.Generator().manual_seed(0)
    bias = torch.rand(1, 8, 64, generator=generator)
    bias[0, 6:] = -1
    metric.update(bias, torch.tensor([0]))
    metric.update(torch.full((1, 8, 64), math.sqrt(2 * math.log(1.03) / 30)), torch.tensor([8]), tokens=1)
    settings = SETTINGS | {"source": "contrast", "guard_weight": 0.5}
    costs = Costs(each)
    count = Weighing(metric, "fisher", settings).affordable(costs)["count"]
    assert least <= count <= most
    assert count == 1 or costs([None] * count) <= 3
    assert costs.asked[0] in (29, 30)  # the logarithm rounds
    assert len(costs.asked) <= 5


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--data.contrast_positions", "slot"], "`contrast_positions` is expected to be"),
        (["--data.contrast", "[stereoset]"], "`contrast` is expected to include a source of ordinary text"),
        (
            ["--data.contrast", "[stereoset, pairs, knowledge]"],
            "`contrast` is expected to include a source of ordinary text",
        ),
        (["--data.contrast", "null"], "`contrast` is expected to name a contrast set"),
        (["--model.selection", "guarded"], "`contrast_positions` is expected to be"),
    ],
)
def test_what_does_not_fit_is_told(run, tmp_path, more, words):
    end = run(tmp_path, *more)
    assert end.codes == [2], end.output
    assert f"biaslab: error: {words}" in end.output


def test_the_plan_tells_of_them(run, tmp_path):
    end = run(tmp_path, "--plan")
    assert end.codes == [0], end.output
    assert "contrast set" in end.output


def test_the_rise_is_that_of_a_loop_over_tokens(tmp_path):
    tokenizer = wordpiece_tokenizer()
    model = make_model("bert", len(tokenizer))
    lines = [f"the {a} loves the {b} and hates the {c} ." for a in "abcdefgh" for b in "abcdefgh" for c in "abcdefgh"]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    batches = list(other_batches(tokenizer, [str(tmp_path / "text.txt")], 64))
    means = torch.randn(3, 48, generator=torch.Generator().manual_seed(0)).numpy()
    neurons = NeuronSet([(0, 1), (1, 7), (2, 30)], (3, 48))

    def mean_log() -> float:
        logs = []
        for batch in batches:
            asked = zip(batch["row"].tolist(), batch["position"].tolist(), batch["target_ids"].tolist(), strict=True)
            for row, position, target in asked:
                logits = model(batch["input_ids"][row][None]).logits[0, position]
                logs.append(float(logits.double().log_softmax(-1)[target]))
        return sum(logs) / len(logs)

    rise = measured_rise(model, batches, torch.from_numpy(means))
    with torch.no_grad():
        before = mean_log()
        with suppressed(model, neurons.with_values(means)):
            after = mean_log()
    assert rise(neurons) == pytest.approx(100 * (math.exp(before - after) - 1), rel=1e-4, abs=1e-4)
    assert abs(rise(neurons)) > 0.001
