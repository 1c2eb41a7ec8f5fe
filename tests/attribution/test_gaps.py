import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload
from conftest import CAUSAL, golden, make_model
from reference.attribution import integrated, target_probabilities, word_gap_gradients
from safetensors.torch import load_file
from torch import Tensor
from transformers import BertForMaskedLM

from biaslab import integrated_gap_gradients, integrated_gradients
from biaslab.attribution.gaps import attribute_batch, attribute_gaps
from biaslab.attribution.integration import TokenBudget, wanted_sums
from biaslab.attribution.quadrature import nodes_and_weights
from biaslab.attribution.replay import Inputs
from biaslab.errors import InputError
from biaslab.models.architectures import ffn_modules
from biaslab.neurons.suppression import suppressed

PAIRS = torch.tensor([[0, 1], [1, 2]])


def a_batch(sequences: int = 4, length: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(5, 100, (sequences, length), generator=generator)
    position = torch.randint(1, length, (sequences,), generator=generator)
    return ids, position, torch.randint(5, 100, (sequences, 3), generator=generator)


def single_inside(model: torch.nn.Module) -> bool:
    """Whether the norms compute in float32, whatever the weights' type."""
    return model.config.model_type in ("llama", "mistral", "qwen2", "gemma2")


def hooks(model: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + ("forward" in vars(m)) for m in model.modules())


def golden_model() -> tuple[BertForMaskedLM, dict[str, Tensor]]:
    expected = load_file(golden("ig2", "expected.safetensors"))
    model = BertForMaskedLM.from_pretrained(golden("ig2", "config.json").parent, dtype=torch.float64)
    return model.eval().requires_grad_(False), expected


def test_golden_equals_the_authors_code():
    model, expected = golden_model()
    inputs = expected["input_ids"], expected["position"], expected["target_ids"]
    scores = integrated_gradients(model, *inputs, steps=20, quadrature="riemann_left")
    assert scores.dtype == torch.float64
    torch.testing.assert_close(scores, expected["integrated_gradients"], atol=1e-8, rtol=0)
    signed = integrated_gap_gradients(model, *inputs, steps=20, quadrature="riemann_left", gap="signed")
    torch.testing.assert_close(signed, scores[:, 0] - scores[:, 1], atol=1e-12, rtol=0)


def test_equals_the_slow_reference_on_each_architecture(any_model):
    model = any_model.double()
    ids, position, targets = a_batch()
    scores = integrated_gradients(model, ids, position, targets, steps=3)
    nodes, weights = nodes_and_weights("gauss_legendre", 3)
    for layer in range(3):
        for row, target in ((0, 0), (1, 2)):

            def value(scale, row=row, target=target, layer=layer):
                return target_probabilities(model, ids[row], int(position[row]), targets[row], layer, scale)[target]

            expected = integrated(model, ids[row], int(position[row]), layer, nodes, weights, value)
            torch.testing.assert_close(scores[row, target, layer], expected, atol=1e-10, rtol=1e-8)


def test_completeness_on_each_architecture(any_model):
    model = any_model.double()
    ids, position, targets = a_batch()
    # Gemma 2 normalises the FFN's output, so that nearly all happens where alpha is below 0.001
    steps = 400 if model.config.model_type == "gemma2" else 60
    scores = integrated_gradients(model, ids, position, targets, steps=steps)
    for layer in range(3):
        whole = target_probabilities(model, ids[0], int(position[0]), targets[0], layer, lambda w: w)
        without = target_probabilities(model, ids[0], int(position[0]), targets[0], layer, lambda w: 0 * w)
        torch.testing.assert_close(scores[0, :, layer].sum(-1), whole - without, atol=2e-4, rtol=1e-2)


@pytest.mark.parametrize("gap", ["absolute", "signed"])
def test_residual_is_reported_and_falls_with_the_steps(gap):
    model, (ids, position, targets) = make_model("bert").double(), a_batch()
    residuals = [
        float(attribute_gaps(model, ids, position, targets, PAIRS, steps=steps, gap=gap).residual.abs().max())
        for steps in (2, 8, 40)
    ]
    assert residuals[0] > residuals[1] > residuals[2]
    assert residuals[2] < 1e-5


def test_sign_change_is_right_to_one_percent():
    """Of a reference of 200 nodes a piece, split at the root found by bisection."""
    model, expected = golden_model()
    inputs = expected["input_ids"], expected["position"], expected["target_ids"]
    checked = 0
    for row in range(len(inputs[0])):
        scores = integrated_gap_gradients(model, *(x[row : row + 1] for x in inputs), steps=12)[0]
        for layer in range(scores.shape[0]):

            def gap(scale, row=row, layer=layer):
                p = target_probabilities(model, inputs[0][row], int(inputs[1][row]), inputs[2][row], layer, scale)
                return p[0] - p[1]

            at = [float(gap(lambda w, a=a: a * w)) for a in (0.0, 1.0)]
            if at[0] * at[1] >= 0:
                continue
            low, high = 0.0, 1.0
            for _ in range(40):
                middle = (low + high) / 2
                low, high = (low, middle) if gap(lambda w, a=middle: a * w) * at[0] < 0 else (middle, high)
            nodes, weights = nodes_and_weights("gauss_legendre", 100)
            pieces = [(low * nodes, low * weights), (low + (1 - low) * nodes, (1 - low) * weights)]
            reference = sum(
                integrated(model, inputs[0][row], int(inputs[1][row]), layer, n, w, lambda s: gap(s).abs())
                for n, w in pieces
            )
            error = (scores[layer] - reference).abs().sum() / reference.abs().sum()
            assert error < 0.01
            checked += 1
    assert checked >= 2


def test_the_log_odds_gap_equals_the_slow_reference_on_each_architecture(any_model):
    model = any_model.double()
    ids, position, targets = a_batch()
    found = attribute_gaps(model, ids, position, targets, PAIRS, steps=3, quadrature="riemann_middle", of="log_odds")
    single = integrated_gradients(model, ids, position, targets, steps=3, quadrature="riemann_middle", of="log_odds")
    nodes, weights = nodes_and_weights("riemann_middle", 3)
    for layer, row, pair in ((0, 0, 0), (1, 2, 1), (2, 1, 0)):

        def logs(scale, row=row, layer=layer):
            return target_probabilities(model, ids[row], int(position[row]), targets[row], layer, scale).log()

        def gap(scale, pair=pair, logs=logs):
            first, second = PAIRS[pair].tolist()
            return (logs(scale)[first] - logs(scale)[second]).abs()

        asked = model, ids[row], int(position[row]), layer, nodes, weights
        for mine, value in ((found.scores[row, pair, layer], gap), (single[row, 2, layer], lambda s: logs(s)[2])):
            expected = integrated(*asked, value)
            scale = float(expected.abs().max())  # the norms of some architectures compute in float32
            torch.testing.assert_close(
                mine, expected, atol=(1e-5 if single_inside(model) else 1e-10) * scale, rtol=1e-8
            )
        torch.testing.assert_close(found.gap[row, pair], gap(lambda w: w), atol=0, rtol=1e-6)


def test_the_log_odds_gap_is_complete_where_it_changes_its_sign():
    model, (ids, position, targets) = make_model("bert").double(), a_batch(20)
    signed, absolute = (
        attribute_gaps(model, ids, position, targets, PAIRS, steps="auto", gap=gap, tolerance=1e-3, of="log_odds")
        for gap in ("signed", "absolute")
    )
    at_zero = signed.gap[..., None] - signed.scores.sum(-1)  # [batch, pair, layer]
    turned = at_zero * signed.gap[..., None] < -1e-3
    assert turned.sum() >= 10
    change = absolute.gap[..., None] - at_zero.abs()
    off = (absolute.scores.sum(-1) - change).abs() / absolute.scores.abs().sum(-1)
    assert off.max() <= 3e-3  # what is at zero is known to the tolerance, too


def test_results_do_not_depend_on_batch_order_padding_or_bucket(any_model):
    ids, position, targets = a_batch(5)

    def run(ids, position, targets, mask=None):
        return attribute_gaps(any_model, ids, position, targets, PAIRS, mask, steps=4).scores

    together = run(ids, position, targets)
    alone = torch.cat([run(ids[i : i + 1], position[i : i + 1], targets[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    back = torch.arange(4, -1, -1)
    torch.testing.assert_close(run(ids[back], position[back], targets[back])[back], together, atol=1e-5, rtol=0)
    padding = torch.full((5, 2), any_model.config.pad_token_id)
    mask = (torch.arange(9) < 7).long().expand(5, 9)
    torch.testing.assert_close(run(torch.cat([ids, padding], 1), position, targets, mask), together, atol=1e-5, rtol=0)


def test_as_many_sequences_as_tokens_and_heads():
    """A batch axis must not be taken for another one of the same size."""
    for model_type in ("mpnet", "llama", "gpt2"):
        model = make_model(model_type)
        ids, position, targets = a_batch(4, 4)
        together = integrated_gradients(model, ids, position, targets, steps=2)
        alone = [
            integrated_gradients(model, *(x[i : i + 1] for x in (ids, position, targets)), steps=2) for i in range(4)
        ]
        torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=0)


@pytest.mark.parametrize("steps", [3, "auto"])
def test_small_token_budget_changes_nothing(bert, steps):
    ids, position, targets = a_batch(5)
    whole = attribute_gaps(bert, ids, position, targets, PAIRS, steps=steps)
    for tokens in (1, 20, 100):
        parts = attribute_gaps(bert, ids, position, targets, PAIRS, steps=steps, budget=TokenBudget(tokens))
        for one, other in zip(whole, parts, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_single_targets_are_integrated_gradients(bert):
    ids, position, targets = a_batch()
    single = torch.tensor([[2], [0]])
    found = attribute_gaps(bert, ids, position, targets, single, steps=6)
    wanted = integrated_gradients(bert, ids, position, targets, steps=6)[:, [2, 0]]
    torch.testing.assert_close(found.scores, wanted, atol=1e-6, rtol=1e-5)
    probabilities = bert(ids).logits[torch.arange(len(ids)), position].softmax(-1).gather(1, targets)
    torch.testing.assert_close(found.gap, probabilities[:, [2, 0]])


@pytest.mark.parametrize("model_type", CAUSAL)
def test_keys_and_values_before_the_slot_are_reused(model_type):
    """The same scores as without, which an attention mask asks for; and the layers see one token only."""
    model, (ids, _, targets) = make_model(model_type).double(), a_batch()
    position, tokens = torch.full((4,), 6), []
    for mask in (None, torch.ones_like(ids)):  # the first time, the engine proves itself
        attribute_gaps(model, ids, position, targets, PAIRS, mask, steps=3)
    hook = ffn_modules(model)[-1].register_forward_pre_hook(lambda _, args: tokens.append(args[0].shape[1]))
    reused = attribute_gaps(model, ids, position, targets, PAIRS, steps=3)
    assert tokens[0] == 6  # the prefix, once
    assert set(tokens[1:]) == {1}
    tokens.clear()
    whole = attribute_gaps(model, ids, position, targets, PAIRS, torch.ones_like(ids), steps=3)
    assert set(tokens) == {1, 7}  # 1: what comes after the feed-forward output, at the slot
    hook.remove()
    rounded = model_type == "gemma2"  # whose own attention takes its softmax in float32, whatever the weights' type
    torch.testing.assert_close(reused.scores, whole.scores, atol=1e-8 if rounded else 1e-12, rtol=1e-9)
    assert model.config._attn_implementation == ("eager" if rounded else "sdpa")  # as before


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_keys_and_values_are_reused_whatever_nodes_a_path_has(model_type):
    """With auto some prompts have many more items than others, and some none."""
    model, (ids, _, targets) = make_model(model_type).double(), a_batch()
    position = torch.full((4,), 6)
    options = {"steps": "auto", "tolerance": 1e-5}
    reused = attribute_gaps(model, ids, position, targets, PAIRS, **options)
    assert len(reused.nodes.unique()) > 1
    whole = attribute_gaps(model, ids, position, targets, PAIRS, torch.ones_like(ids), **options)
    torch.testing.assert_close(reused.scores, whole.scores, atol=1e-12, rtol=1e-9)


def test_auto_keeps_the_tolerance_and_adds_nodes_only_where_it_is_needed(any_model):
    model, (ids, position, targets) = any_model.double(), a_batch()
    steep = model.config.model_type == "gemma2"  # normalises the FFN's output: all happens where alpha is below 0.001
    for tolerance in [1e-2] if steep else [1e-2, 1e-4]:
        found = attribute_gaps(model, ids, position, targets, PAIRS, steps="auto", tolerance=tolerance)
        ratio = found.residual.abs() / found.scores.abs().sum(-1)  # [batch, pair, layer]
        assert float(ratio.max()) <= tolerance
        assert found.nodes.min() < found.nodes.max()
        assert set(found.nodes.flatten().tolist()) <= {3, 5, 9, 17, 33, 65, 129}
    if not steep:
        exact = attribute_gaps(model, ids, position, targets, PAIRS, steps=100).scores
        assert float((found.scores - exact).abs().sum() / exact.abs().sum()) < 1e-3


def test_auto_stops_at_the_noise_of_the_type():
    """A residual that is all rounding asks for no more nodes."""
    model, (ids, position, targets) = make_model("bert", seed=1), a_batch()
    nodes = attribute_gaps(model, ids, position, targets, PAIRS, steps="auto", tolerance=1e-9).nodes
    assert nodes.max() < 129


def test_layers_apart_add_up(bert):
    ids, position, targets = a_batch()
    whole = attribute_gaps(bert, ids, position, targets, PAIRS, steps="auto")
    parts = [attribute_gaps(bert, ids, position, targets, PAIRS, steps="auto", layers=part) for part in ([0, 2], [1])]
    torch.testing.assert_close(sum(part.scores for part in parts), whole.scores, atol=1e-6, rtol=0)
    assert torch.equal(sum(part.nodes for part in parts), whole.nodes)


def test_all_pairs_of_targets_cost_one_backward_less_than_there_are_targets(bert):
    ids, position, targets = a_batch()
    pairs = torch.tensor([[0, 1], [1, 2], [2, 0], [1, 0]])
    ((directions, sums),) = wanted_sums(pairs, [3])
    assert directions.shape == (2, 3)
    one_hot = torch.eye(3, dtype=torch.float64)
    assert torch.equal(sums @ directions, one_hot[pairs[:, 0]] - one_hot[pairs[:, 1]])
    together = attribute_gaps(bert, ids, position, targets, pairs, steps=4, gap="signed").scores
    for index, pair in enumerate(pairs.tolist()):
        alone = integrated_gap_gradients(bert, ids, position, targets[:, pair], steps=4, gap="signed")
        torch.testing.assert_close(together[:, index], alone, atol=1e-6, rtol=1e-4)


def words_of(model: torch.nn.Module, sequences: int = 3) -> list[Inputs]:
    """Prompts for two words of one token, and for two of three: masked ones in one sequence, causal ones in two."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(5, 100, (sequences, 6), generator=generator)
    words = torch.randint(5, 100, (sequences, 2, 3), generator=generator)
    if model.config.model_type in CAUSAL:
        end = torch.full((sequences,), 5)
        long = [
            Inputs(torch.cat([ids, words[:, w, :2]], 1), end[:, None] + torch.arange(3), words[:, [w]]) for w in (0, 1)
        ]
        return [Inputs(ids, end, words[:, :, 0]), *long]
    place = torch.randint(1, 6, (sequences,), generator=generator)
    wide = [torch.cat([row[:at], torch.full((3,), 4), row[at + 1 :]]) for row, at in zip(ids, place, strict=True)]
    return [Inputs(ids, place, words[:, :, 0]), Inputs(torch.stack(wide), place[:, None] + torch.arange(3), words)]


@pytest.mark.parametrize(
    ("gap", "of"), [("absolute", "probability"), ("signed", "probability"), ("absolute", "log_odds")]
)
def test_words_of_several_tokens_equal_the_slow_reference(any_model, gap, of):
    model = any_model.double()
    first, *longer = words_of(model)
    pairs = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 0]])  # within one sequence, between two, and within the other
    options = {"gap": gap, "of": of, "quadrature": "riemann_middle"}
    found = attribute_gaps(model, *first[:3], pairs, steps=3, **options, longer=longer)
    every = [each.rows(slice(None)) for each in (first, *longer)]
    words = [(each, target) for each in every for target in range(each.target_ids.shape[1])]
    nodes, weights = nodes_and_weights("riemann_middle", 3)
    for index, (a, b) in enumerate(pairs.tolist()):
        for layer, row in ((0, 0), (1, 2), (2, 1)):
            expected, at_one = word_gap_gradients(model, (words[a], words[b]), row, layer, nodes, weights, gap, of)
            scale = float(expected.abs().max())
            torch.testing.assert_close(found.scores[row, index, layer], expected, atol=1e-4 * scale, rtol=1e-4)
            torch.testing.assert_close(found.gap[row, index], at_one, atol=0, rtol=1e-5)


@pytest.mark.parametrize("of", ["probability", "log_odds"])
def test_words_of_several_tokens_are_complete(any_model, of):
    model = any_model.double()
    first, *longer = words_of(model)
    found = attribute_gaps(
        model, *first[:3], torch.tensor([[0, 2], [2, 3]]), steps="auto", tolerance=1e-3, longer=longer, of=of
    )
    if model.config.model_type != "gemma2":  # whose norm makes the integral too steep at 0
        assert (found.residual.abs() <= 1.01e-3 * found.scores.abs().sum(-1)).all()


def test_a_causal_word_is_the_same_with_and_without_kept_keys(any_model):
    model = any_model.double()
    if model.config.model_type not in CAUSAL:
        pytest.skip("of causal models")
    _, word, _ = words_of(model)
    pairs = torch.tensor([[0]])
    kept = attribute_gaps(model, *word[:3], pairs, steps=3).scores
    mask = torch.ones_like(word.input_ids)  # given one, nothing is kept
    torch.testing.assert_close(
        kept,
        attribute_gaps(model, *word._replace(attention_mask=mask)[:3], pairs, mask, steps=3).scores,
        rtol=1e-4,
        atol=1e-12,
    )


def test_single_words_of_several_tokens():
    model = make_model("bert").double()
    first, longer = words_of(model)
    each = torch.tensor([[0], [2], [3]])
    found = attribute_gaps(model, *first[:3], each, steps=4, gap="signed", longer=[longer]).scores
    alone = attribute_gaps(model, *longer[:3], torch.tensor([[0], [1]]), steps=4, gap="signed").scores
    torch.testing.assert_close(found[:, 1:], alone, rtol=1e-10, atol=0)
    one = integrated_gradients(model, *first[:3], steps=4)[:, 0]
    torch.testing.assert_close(found[:, 0], one, rtol=1e-10, atol=0)


OUT_OF_MEMORY = """
import logging, resource, sys, torch
from conftest import make_model
from biaslab.models.architectures import ffn_modules
from biaslab.attribution.gaps import attribute_batch, attribute_gaps
from biaslab.attribution.integration import TokenBudget
torch.set_num_threads(1)
model, pairs = make_model("bert", vocab_size=100), torch.tensor([[0, 1]])
ids = torch.randint(5, 100, (200, 30), generator=torch.Generator().manual_seed(0))
targets = torch.tensor([[5, 6]]).expand(200, 2)
def run(budget):
    return attribute_gaps(model, ids, ids[:, 0] * 0 + 3, targets, pairs, steps=6, budget=budget).scores
expected = run(TokenBudget(2_000))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 100 * 2**20, -1))
budget = TokenBudget(400_000)
torch.testing.assert_close(run(budget), expected, atol=1e-6, rtol=0)
assert budget.tokens < 400_000, budget.tokens
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux to limit a process's memory")
def test_out_of_memory_halves_the_budget_and_says_so():
    """In a process that is really denied the memory."""
    command = [sys.executable, "-c", OUT_OF_MEMORY]
    settings = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed can then be had again
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], env=settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "Out of memory" in line]
    assert lines
    assert all("Continuing with half the token budget, " in line for line in lines)


def test_a_sequence_that_does_not_fit_is_an_error_that_says_so():
    budget = TokenBudget(10)
    with pytest.raises(InputError, match=r"Out of memory on a single sequence of 12 tokens\. Use a smaller model"):
        budget.halve(least=12)


def test_suppressed_neurons_have_score_zero(bert):
    ids, position, targets = a_batch()
    with suppressed(bert, [(1, 5)]):
        scores = integrated_gradients(bert, ids, position, targets, steps=2)
    assert float(scores[:, :, 1, 5].abs().max()) == 0
    assert float(scores[:, :, 1, 6].abs().min()) > 0


def test_no_hook_is_left(bert):
    ids, position, targets = a_batch()
    before = hooks(bert)
    integrated_gradients(bert, ids, position, targets, steps=2)
    assert hooks(bert) == before
    with pytest.raises((IndexError, RuntimeError)):
        integrated_gradients(bert, ids, position, targets + 1000, steps=2)
    assert hooks(bert) == before


def test_a_forward_set_on_an_instance_comes_back(any_model):
    """As accelerate sets one on each module whose weights it offloads; the scores are the same."""
    ids, position, targets = a_batch()
    expected = integrated_gap_gradients(any_model, ids, position, targets[:, :2], steps=3)
    offloaded = cpu_offload(any_model, execution_device=torch.device("cpu"))
    forwards = [vars(module).get("forward") for module in offloaded.modules()]
    assert any(forwards)
    for _ in range(2):
        scores = integrated_gap_gradients(offloaded, ids, position, targets[:, :2], steps=3)
        assert torch.equal(scores, expected)
        assert [vars(module).get("forward") for module in offloaded.modules()] == forwards
    assert all(parameter.is_meta for parameter in ffn_modules(offloaded)[0].parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_type_of_the_model_is_kept(dtype):
    model, (ids, position, targets) = make_model("bert").to(dtype), a_batch()
    scores = integrated_gradients(model, ids, position, targets, steps=2)
    assert torch.isfinite(scores).all()
    assert {p.dtype for p in model.parameters()} == {dtype}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "`steps` is expected to be a positive integer but got 0"),
        ({"gap": "relative"}, "`gap` is expected"),
        ({"steps": "many"}, "`steps` is expected"),
        ({"tolerance": 0.0}, "`tolerance` is expected to be between 0 and 1 but got 0.0"),
        ({"quadrature": "simpson"}, "`quadrature` is expected"),
        ({"target_ids": torch.zeros(4, 3, dtype=torch.long)}, r"`target_ids` is expected to be of shape \[batch, 2\]"),
        ({"position": torch.tensor([1])}, r"`position` is expected to be of shape \[batch\] = \[4\]"),
        ({"position": torch.ones(4, 2, dtype=torch.long)}, r"\[batch, target, slot\] = \[4, target, 2\]"),
        ({"position": torch.tensor([1, 2, 3, 7])}, "`position` is expected to be within the 7 tokens"),
        ({"attention_mask": torch.ones(4, 6)}, "`attention_mask` is expected"),
        ({"input_ids": torch.zeros(7, dtype=torch.long)}, "`input_ids` is expected"),
        ({"input_ids": torch.zeros(0, 7, dtype=torch.long)}, "`input_ids` is expected to hold at least one sequence"),
    ],
)
def test_bad_input(bert, change, message):
    ids, position, targets = a_batch()
    arguments = {"input_ids": ids, "position": position, "target_ids": targets[:, :2], **change}
    with pytest.raises(InputError, match=message):
        integrated_gap_gradients(bert, **arguments)


def test_inference_mode_is_refused_with_a_word(bert):
    ids, position, targets = a_batch()
    with torch.inference_mode(), pytest.raises(RuntimeError, match="inference_mode"):
        integrated_gradients(bert, ids, position, targets)


def test_a_batch_of_the_data_module_is_attributed_with_its_longer_words(any_model):
    first, *longer = words_of(any_model)
    pairs = torch.tensor([[0, 2], [1, 3]])
    batch = {**first._asdict(), "pairs": pairs, "pair": torch.arange(2), "longer": [each._asdict() for each in longer]}
    found = attribute_batch(any_model, batch, steps=3, gap="signed")
    expected = attribute_gaps(any_model, *first[:3], pairs, steps=3, gap="signed", longer=longer)
    assert found.scores.shape[:2] == (3, 2)
    assert all(torch.equal(*parts) for parts in zip(found, expected, strict=True))
