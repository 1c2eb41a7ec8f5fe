"""What runs on a device without float64 (Apple's GPUs) gives the figures of the CPU: in a process of its own."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from accelerate.utils import send_to_device
from conftest import NAMES, bpe_tokenizer, main, make_model, stereoset, wordpiece_tokenizer
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils import backend_registration
from transformers import PreTrainedModel

from biaslab.attribution.gaps import attribute_gaps
from biaslab.attribution.importance import mean_activations
from biaslab.data.effects import make_batches, plain_batches, quantities_of
from biaslab.evaluation.findings import Findings
from biaslab.evaluation.scoring import score_pairs, target_log_probabilities
from biaslab.metrics.crows_pairs import PairScores
from biaslab.metrics.effects import NeuronEffects
from biaslab.metrics.neuron_selection import NeuronSelection
from biaslab.metrics.quality import IntegrationQuality
from biaslab.neurons.suppression import suppressed
from biaslab.tasks.effects import effects_of

FILE = Path(__file__)


def test_a_device_without_float64():
    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        pytest.skip("this torch has no devices made in Python")
    done = subprocess.run([sys.executable, FILE], cwd=FILE.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def near(on_device, on_cpu, **options):
    torch.testing.assert_close(on_device.cpu(), on_cpu, **options)


def a_batch():
    generator = torch.Generator().manual_seed(3)
    ids, targets = (torch.randint(5, 100, size, generator=generator) for size in ((4, 7), (4, 3)))
    return ids, torch.tensor([6, 6, 6, 6]), targets


def attribution(device):
    """Sums over the vocabulary come in another order there, so that the last bits differ."""
    pairs, batch = torch.tensor([[0, 1], [1, 2]]), a_batch()
    for model_type in ("bert", "gpt2", "llama", "gemma2"):
        for options in ({"steps": "auto"}, {"steps": 4, "quadrature": "riemann_left"}, {"steps": 6, "gap": "signed"}):
            model = make_model(model_type)
            on_cpu = attribute_gaps(model, *batch, pairs, **options)
            torch.nn.Module.to(model, device)
            on_device = attribute_gaps(model, *(x.to(device) for x in (*batch, pairs)), **options)
            assert on_device.scores.device == device
            near(on_device.scores, on_cpu.scores, atol=1e-5, rtol=1e-4)
            near(on_device.nodes, on_cpu.nodes)


def metrics(device):
    """To the bit: what is summed is exact."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(6, 2, 8, generator=generator)
    labels = torch.tensor([[0, 1, 0, 1, 0, 1], [0] * 6, [0, 0, 0, 1, 1, 1]])
    residual, size, nodes = 1e-3 * scores[..., :2], scores[..., :2].abs(), torch.full((6, 8), 5)
    made = []
    for place in (torch.device("cpu"), device):
        metric = NeuronSelection(["a/b-c", "a/d-e"], ["negative"], shape=(2, 8)).to(place)
        quality = IntegrationQuality().to(place)
        for _ in range(2):
            metric.update(scores.to(place), *labels.to(place))
            quality.update(0, *(x.to(place) for x in (residual, size, nodes)))
        metric.add_part(metric.part())
        quality.add_part(quality.part())
        made.append((metric, quality))
    (plain, figures), (metric, quality) = made
    near(metric.mean_scores(), plain.mean_scores(), atol=0, rtol=0)
    for name in ("votes", "prompts"):
        assert torch.equal(metric.compute()[name].cpu(), plain.compute()[name])
    assert quality.compute() == figures.compute()


def pair_scores(device):
    """Scores come from the CPU in float64; what is gathered lies on the device."""
    scores = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    examples = torch.tensor([3, 0, 5, 0, 2, 1])
    plain, metric = PairScores(), PairScores().to(device)
    for rows in torch.arange(6).split(4):
        plain.update(scores[rows], examples[rows])
        metric.update(scores[rows], examples[rows].to(device))
    assert {state.device for state in (*metric.scores, *metric.examples)} == {device}
    for collected, expected in zip(metric.compute(), plain.compute(), strict=True):
        assert torch.equal(collected, expected)


def judging(device):
    ids, position, targets = a_batch()
    model = make_model("gpt2")
    prompts = {"input_ids": ids, "position": position, "target_ids": targets}
    group = {"input_ids": ids, "candidate": torch.arange(4), "row": torch.arange(4)}
    with torch.no_grad(), suppressed(model, [(1, 3)]):
        logs = target_log_probabilities(model, prompts)
        scores = score_pairs(model, {"rule": "causal", "start_id": 1, "examples": torch.arange(2), "inputs": [group]})
        torch.nn.Module.to(model, device)
        prompts, group = ({name: tensor.to(device) for name, tensor in part.items()} for part in (prompts, group))
        near(target_log_probabilities(model, prompts), logs, atol=1e-5, rtol=1e-5)
        batch = {"rule": "causal", "start_id": 1, "examples": torch.arange(2).to(device), "inputs": [group]}
        near(score_pairs(model, batch), scores, atol=1e-4, rtol=1e-5)


def effects(device):
    """As Lightning's pass on the device: whole batches are moved there."""
    with tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, {"BIASLAB_CACHE": folder}):
        os.mkdir(f"{folder}/stereoset")
        for split in ("dev", "test"):
            stereoset(Path(folder, "stereoset", f"{split}.json"))
        text = Path(folder, "text.txt")
        text.write_text(
            "\n".join(f"the {a} loves the {b} and hates the {c} ." for a in NAMES for b in NAMES for c in NAMES)
        )
        for model_type, tokenizer in (("bert", wordpiece_tokenizer()), ("llama", bpe_tokenizer(masked=False))):
            model = make_model(model_type, len(tokenizer))
            sources = ["stereoset", str(text)]
            means = mean_activations(model, plain_batches(tokenizer, sources, 5, 64))
            batches = make_batches(tokenizer, sources, 5, 64)
            found = [NeuronEffects(quantities_of(sources), (3, 48)) for _ in range(2)]
            for place, metric in zip((torch.device("cpu"), device), found, strict=True):
                torch.nn.Module.to(model, place), metric.to(place)
                for batch in batches:
                    moved = send_to_device(batch, place)
                    each = effects_of(model, moved, means)
                    metric.update(each.flatten(0, 1), moved["quantity"].flatten(), batch.get("tokens", 0))
            on_cpu, on_device = (metric.compute() for metric in found)
            assert on_cpu.abs().max() > 1e-3
            torch.testing.assert_close(on_device, on_cpu, atol=1e-5, rtol=1e-3)


def debias(device):
    """Lightning's pass leaves the model on the CPU; all that follows it runs on the device again."""
    arguments = [
        "debias", "--model", "model", "--source", "prompts", "--contrast", "text.txt", "--text", "text.txt",
        "--stereoset", "stereoset.json", "--dimensions", "[gender]", "--kinds", "[negative]", "--modifiers", "1",
        "--steps", "2", "--seeds", "1", "--sentences", "2",
    ]  # fmt: skip
    places = []

    def watch(module, inputs):
        if isinstance(module, PreTrainedModel):
            places.append(next(module.parameters()).device)

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        save_untied_model(Path("model"))
        stereoset(Path("stereoset.json"))
        lines = (f"the {a} loves the {b} and hates the {c} ." for a in NAMES for b in NAMES for c in NAMES[:3])
        Path("text.txt").write_text("\n".join(lines))
        main([*arguments, "--output", "cpu"])
        with register_module_forward_pre_hook(watch), patch("biaslab.models.loading.best_device", lambda: device):
            main([*arguments, "--output", "device"])
        on_cpu, on_device = (Findings.load(Path(place, "debias/version_0/results.json")) for place in ("cpu", "device"))
        os.chdir("/")
    moved = places.index(device)
    assert len(places) - moved > 50
    assert set(places[moved:]) == {device}
    assert on_cpu.facts["neurons"] == on_device.facts["neurons"]
    for key, estimate in on_cpu.estimates.items():
        assert on_device.estimates[key].figure.value == pytest.approx(estimate.figure.value, rel=1e-3), key


def save_untied_model(folder):
    """Weights that are tied come apart when each is disguised, and with them the model's fingerprint."""
    tokenizer = wordpiece_tokenizer()
    model = make_model("bert", len(tokenizer))
    model.config.tie_word_embeddings, head = False, model.cls.predictions
    head.decoder.weight, head.decoder.bias = (nn.Parameter(x.clone()) for x in (head.decoder.weight, head.bias))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    from reference.small_device import DEVICE

    for part in (metrics, pair_scores, judging, attribution, effects, debias):
        part(DEVICE)
