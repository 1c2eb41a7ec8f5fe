"""The engine's ways against each other, and which one it takes where a replay would be wrong."""

import pytest
import torch
from conftest import make_model
from reference.attribution import integrated, target_probabilities
from reference.precision import NoSingle
from transformers import AutoConfig, AutoModelForMaskedLM

from biaslab import integrated_gradients
from biaslab.attribution.budget import TokenBudget
from biaslab.attribution.gaps import attribute_gaps
from biaslab.attribution.paths import ReplayedPaths, Sums, WholePaths
from biaslab.attribution.proof import TOLERANCE, replay_error
from biaslab.attribution.quadrature import nodes_and_weights
from biaslab.attribution.replay import Inputs
from biaslab.errors import InputError
from biaslab.models.architectures import ffn_modules
from biaslab.models.table import ARCHITECTURES

KEYS = "Keys and values before the slot will not be reused (slower)."
WHOLE = "Using whole forward passes instead (exact, but many times slower)."


def inputs_of(slots: int = 1, padding: int = 0) -> Inputs:
    """Four sequences whose slots are their last tokens, but for padding; three words."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(5, 100, (4, 7 + padding), generator=generator)
    position = torch.full((4, 1), 7 - slots) + torch.arange(slots)
    mask = (torch.arange(7 + padding) < 7).long().expand(4, -1) if padding else None
    return Inputs(ids, position, torch.randint(5, 100, (4, 3, slots), generator=generator), mask)


def deberta(**extra) -> torch.nn.Module:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    relative = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True}
    special = {"initializer_range": 0.3, "vocab_size": 100, "max_position_embeddings": 64, "pad_token_id": 0}
    config = AutoConfig.for_model("deberta-v2", **sizes, **relative, **special, **extra)
    return AutoModelForMaskedLM.from_config(config).eval().requires_grad_(False)


def lines(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "biaslab"]


def equals_reruns(model) -> None:
    """IG of the model, against code that reruns it."""
    ids, position, targets, _ = inputs_of()
    found = integrated_gradients(model, ids, position[:, 0], targets[..., 0], steps=3)
    nodes, weights = nodes_and_weights("gauss_legendre", 3)
    for row, layer in ((0, 0), (1, 1), (3, 2)):

        def value(scale, row=row, layer=layer):
            return target_probabilities(model, ids[row], 6, targets[row, :, 0], layer, scale)[1]

        expected = integrated(model, ids[row], 6, layer, nodes, weights, value)
        torch.testing.assert_close(found[row, 1, layer], expected, atol=1e-7 * float(expected.abs().max()), rtol=1e-6)


@pytest.mark.parametrize(("slots", "padding"), [(1, 0), (2, 0), (1, 2)])
@pytest.mark.parametrize("logarithms", [False, True])
def test_replayed_paths_equal_whole_ones(any_model, slots, padding, logarithms):
    """Two ways to the same numbers, of which one is the definition."""
    model, inputs = any_model.double(), inputs_of(slots, padding)
    directions = torch.tensor([[1.0, -1.0, 0.0], [0.0, 1.0, 0.5]], dtype=torch.float64)
    asked = model, inputs, Sums(directions, torch.eye(2, dtype=torch.float64)), TokenBudget()
    row, layer = torch.tensor([0, 2, 1, 3]), torch.tensor([0, 0, 1, 2])
    alpha = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    close = {"atol": 1e-9, "rtol": 1e-8}
    with NoSingle():
        whole = WholePaths(*asked, logarithms)
        replayed = ReplayedPaths(*asked, True, logarithms)
        torch.testing.assert_close(replayed.at_one, whole.at_one, **close)
        for mine, expected in zip(replayed.evaluate(row, layer, alpha), whole.evaluate(row, layer, alpha), strict=True):
            torch.testing.assert_close(mine, expected, **close)
        values, nothing = whole.evaluate(row, layer, alpha, gradients=False)
        torch.testing.assert_close(values, replayed.evaluate(row, layer, alpha, gradients=False)[0], **close)
    assert nothing.numel() == 0


def test_whole_passes_divide_a_batch_that_is_large(bert, monkeypatch):
    inputs, one = inputs_of(), torch.eye(3, dtype=torch.float64)
    row, layer = torch.tensor([0, 1, 2, 3, 0, 1]), torch.tensor([0, 0, 0, 0, 2, 2])
    paths = WholePaths(bert, inputs, Sums(one, one), TokenBudget(), False)
    together = paths.evaluate(row, layer, torch.tensor([0.2, 0.7]))
    monkeypatch.setattr("biaslab.attribution.paths._LOGITS_AT_ONCE", 7 * 100 * 2)
    paths = WholePaths(bert, inputs, Sums(one, one), TokenBudget(), False)
    for part, whole in zip(paths.evaluate(row, layer, torch.tensor([0.2, 0.7])), together, strict=True):
        torch.testing.assert_close(part, whole, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_every_type_keeps_the_tolerance_of_its_dtype_by_far(any_model, dtype):
    error = max(replay_error(any_model.to(dtype), inputs_of(), keys) for keys in (True, False))
    assert error < TOLERANCE[dtype] / 5


def test_attention_that_keeps_other_values_than_it_asks_for(monkeypatch, caplog):
    """Of diffllama, with a line that says that it can be handed its keys and values."""
    monkeypatch.setitem(ARCHITECTURES, "diffllama", ARCHITECTURES["llama"])
    model = make_model("diffllama").double()
    equals_reruns(model)
    (line,) = lines(caplog)
    assert line.startswith("Replay check failed for this diffllama: gradients differ from a full forward pass by ")
    assert line.endswith(KEYS)
    attribute_gaps(model, *inputs_of()[:3], torch.tensor([[0, 1]]), steps=3)
    assert len(lines(caplog)) == 1


@pytest.mark.parametrize(
    "entry",
    [
        {"query": "self.query_proj"},  # which projects the relative positions, too
        {"attention": "intermediate"},
        {"attention": "attention.nothing"},
    ],
)
def test_a_line_of_the_table_that_does_not_fit(monkeypatch, caplog, entry):
    monkeypatch.setitem(ARCHITECTURES, "deberta-v2", ARCHITECTURES["deberta-v2"]._replace(**entry))
    equals_reruns(deberta().double())
    (line,) = lines(caplog)
    assert line.endswith(WHOLE)


def test_a_model_whose_layers_are_not_all(caplog):
    """DeBERTa's largest have a convolution over tokens after the first layer."""
    equals_reruns(deberta(conv_kernel_size=3).double())
    (line,) = lines(caplog)
    assert "this deberta-v2: gradients differ" in line
    assert line.endswith(WHOLE)


def test_whole_passes_serve_adaptive_steps_and_absolute_gaps(monkeypatch):
    model, (ids, position, targets, _), pairs = make_model("bert").double(), inputs_of(), torch.tensor([[0, 1], [1, 2]])
    asked = model, ids, position, targets, pairs
    for options in ({"steps": "auto"}, {"steps": 7, "of": "log_odds"}, {"steps": 5, "gap": "signed"}):
        replayed = attribute_gaps(*asked, **options)
        with monkeypatch.context() as patch:
            patch.setattr("biaslab.attribution.proof._is_proven", lambda *_: False)
            whole = attribute_gaps(*asked, **options)
        for mine, expected in zip(replayed, whole, strict=True):
            torch.testing.assert_close(mine, expected, atol=1e-10, rtol=1e-8)


def test_each_way_is_proven_once_a_model_and_dtype(caplog):
    model, asked = make_model("gpt2"), (*inputs_of()[:3], torch.tensor([[0, 1]]))
    passes = []
    model.register_forward_hook(lambda *_: passes.append(1))

    def count() -> int:
        passes.clear()
        attribute_gaps(model, *asked, steps=3)
        return len(passes)

    first, second = count(), count()
    assert first > second == count()
    model.to(torch.float64)
    assert count() == first
    assert count() == second
    assert lines(caplog) == []


@pytest.mark.parametrize("model_type", ["mistral", "gemma2"])
def test_a_window_as_long_as_the_prompt(model_type, caplog):
    """A cache keeps one token less than the window."""
    model = make_model(model_type)
    model.config.sliding_window = 7
    equals_reruns(model.double())
    assert lines(caplog) == []


def test_a_wrong_target_is_no_disagreement(bert):
    ids, position, targets, _ = inputs_of()
    with pytest.raises((IndexError, RuntimeError)):
        integrated_gradients(bert, ids, position[:, 0], targets[..., 0] + 1000)


def test_suppression_that_needs_the_models_own_pass_is_said(bert):
    """Not taken for a replay that fails."""
    from biaslab.neurons.suppression import suppressed

    with suppressed(bert, [(1, 5)], positions="slot", mask_token_id=7), pytest.raises(InputError, match="`positions`"):
        integrated_gradients(bert, inputs_of()[0], inputs_of()[1][:, 0], inputs_of()[2][..., 0], steps=2)
    assert all(not module._forward_pre_hooks for module in ffn_modules(bert))
