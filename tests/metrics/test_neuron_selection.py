from __future__ import annotations

import copy
import itertools
from pathlib import Path

import pytest
import torch
import torchmetrics
from conftest import run_two_processes
from reference import selection as reference

from biaslab.errors import InputError
from biaslab.metrics.neuron_selection import NeuronSelection
from biaslab.neurons.selection import guarded, paper, ranked

PAIRS, KINDS, SHAPE = ("gender/female-male", "age/young-old", "age/old-teenage"), ("negative", "positive"), (3, 8)
RULES = [(0.2, 0.7), (0.1, 0.5), (0.6, 0.9), (1.0, 1.0), (1.0, 0.1), (0.05, 0.1)]


def prompts(seed=0, noise=0.5, wordings=5, groups=7):
    """Scores that a group's wordings share in part; some silent prompts; unequal groups; a pair without one kind."""
    generator = torch.Generator().manual_seed(seed)
    scores, labels = [], []
    for pair, kind, group in itertools.product(range(2), range(2), range(groups)):
        if (pair, kind) == (1, 1):
            continue
        common = torch.randn(*SHAPE, generator=generator) ** 3 + 2 * pair
        for _ in range(int(torch.randint(2, wordings + 1, (), generator=generator))):
            prompt = common + noise * torch.randn(*SHAPE, generator=generator)
            silent = torch.rand((), generator=generator) < 0.1
            scores.append(-prompt.abs() if silent else prompt)
            labels.append([pair, kind, 10 * group + kind])
    order = torch.randperm(len(scores), generator=generator)
    return torch.stack(scores)[order], *torch.tensor(labels)[order].unbind(1)


def make(threshold=0.2):
    return NeuronSelection(PAIRS, KINDS, SHAPE, threshold)


def collected(inputs, sizes=13, **rule):
    metric = make(**rule)
    for rows in torch.arange(len(inputs[0])).split(sizes):
        metric.update(*(values[rows] for values in inputs))
    return metric


def votes_of(metric, share=0.7):
    seen = metric.compute()
    return paper(seen["prompts"], seen["votes"], metric.pairs, metric.kinds, metric.shape, share)


def lists(inputs):
    return [values.tolist() for values in inputs]


def results(metric):
    votes = votes_of(metric)
    return [metric.pair_scores(), metric.counts, metric.silent], votes.neurons, votes.shares


def by_neuron(values):
    return {(layer, index): value for layer, row in enumerate(values.tolist()) for index, value in enumerate(row)}


def same(one, other):
    return (
        all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(one[0], other[0], strict=True))
        and one[1:] == other[1:]
    )


@pytest.mark.parametrize(("threshold", "share"), RULES)
@pytest.mark.parametrize(("seed", "noise"), [(0, 0.5), (1, 0.05), (2, 2.0)])
def test_votes_agree_with_the_loop(seed, noise, threshold, share):
    inputs = prompts(seed, noise)
    neurons, shares = votes_of(collected(inputs, threshold=threshold), share)
    expected, used = reference.paper(*lists(inputs), threshold, share)
    for index, name in enumerate(PAIRS):
        assert neurons[name] == expected.get(index, set())
        assert neurons[name].shape == SHAPE
        wanted = {KINDS[kind]: pytest.approx(value) for kind, value in used.get(index, {}).items()}
        assert shares[name] == wanted


def test_the_votes_differ_and_the_share_moves_both_ways():
    sizes, used = set(), set()
    for (seed, noise), (threshold, share) in itertools.product([(0, 0.5), (1, 0.05), (2, 2.0)], RULES):
        found = votes_of(collected(prompts(seed, noise), threshold=threshold), share)
        sizes |= {len(neurons) for neurons in found.neurons.values()}
        used |= {(value > share) - (value < share) for kinds in found.shares.values() for value in kinds.values()}
    assert len(sizes) > 5
    assert used == {-1, 0, 1}


def prompts_with(neurons_of_prompts):
    """One pair, kind and group; each prompt votes for the given neurons of the first layer."""
    scores = torch.zeros(len(neurons_of_prompts), *SHAPE)
    for prompt, neurons in zip(scores, neurons_of_prompts, strict=True):
        prompt[0, list(neurons)] = 1.0
    return scores, *torch.zeros(3, len(scores), dtype=torch.long)


@pytest.mark.parametrize(
    ("prompts_a_group", "keepers", "share", "kept"),
    [
        (25, 7, 0.28, True),  # 0.28 * 25 is 7.000000000000001
        (25, 6, 0.28, False),
        (10, 7, 0.7, True),
        (10, 6, 0.7, False),
        (2, 2, 0.7, False),  # fewer than three prompts
        (3, 3, 0.7, True),
        (3, 2, 0.6, False),
    ],
)
def test_the_share_of_a_group_at_its_edges(prompts_a_group, keepers, share, kept):
    others = (1, 2, 3)  # in every prompt: with them a group keeps 3 or 4, and the share stays
    metric = collected(prompts_with([(0, *others)] * keepers + [others] * (prompts_a_group - keepers)))
    found = votes_of(metric, share)
    assert ((0, 0) in found.neurons[PAIRS[0]]) is kept
    if prompts_a_group > 2:
        assert found.shares[PAIRS[0]] == {"negative": share}


@pytest.mark.parametrize(("groups", "keepers", "kept"), [(70, 7, True), (70, 6, False), (71, 7, False), (9, 1, True)])
def test_the_share_of_the_groups_at_its_edges(groups, keepers, kept):
    neurons = [(0, 1, 2)] * 3 * keepers + [(1, 2)] * 3 * (groups - keepers)
    scores, pairs, kinds, _ = prompts_with(neurons)
    metric = collected((scores, pairs, kinds, torch.arange(groups).repeat_interleave(3)))
    assert ((0, 0) in votes_of(metric).neurons[PAIRS[0]]) is kept


def test_a_silent_prompt_votes_for_nothing_but_is_a_prompt_of_its_group():
    inputs = prompts_with([(0, 1, 2)] * 4)
    silent = (torch.stack([torch.zeros(SHAPE), -torch.ones(SHAPE)]), *torch.zeros(3, 2, dtype=torch.long))
    metric = collected(inputs)
    metric.update(*silent)
    assert metric.silent.tolist() == [2, 0, 0]
    assert metric.counts.tolist() == [6, 0, 0]
    assert votes_of(metric).shares[PAIRS[0]] == {"negative": 0.65}  # 4 of 6 are less than 0.7
    torch.testing.assert_close(metric.pair_scores()[0, 0, 0].item(), (4 * 1 + 0 - 1) / 6)


@pytest.mark.parametrize("seed", range(3))
def test_mean_scores_agree_with_the_loop(seed):
    inputs = prompts(seed)
    metric = collected(inputs)
    scores, pairs = inputs[0].tolist(), inputs[1].tolist()
    for pair, expected in reference.pair_means(scores, pairs).items():
        assert by_neuron(metric.pair_scores()[pair]) == pytest.approx(expected, abs=1e-11)
    assert metric.pair_scores()[2].isnan().all()
    expected = reference.mean_of_pairs(scores, pairs)
    assert by_neuron(metric.mean_scores()) == pytest.approx(expected, abs=1e-11)
    assert metric.mean_scores().dtype == torch.float64
    for count in (1, 5, 24):
        assert ranked(metric.mean_scores(), count) == reference.best(expected, count)


def test_each_pair_weighs_the_same():
    metric = make()
    for pair, count, where in ((0, 10, 0), (1, 1, 1)):
        scores = torch.zeros(count, *SHAPE)
        scores[:, 0, where] = 5.0
        metric.update(scores, torch.full((count,), pair), *torch.zeros(2, count, dtype=torch.long))
    assert metric.mean_scores()[0, :2].tolist() == [0.5, 0.5]


def test_batches_and_their_order_do_not_matter_at_all():
    inputs = prompts()
    expected = results(collected(inputs, 1000))
    for seed, size in enumerate((1, 7, 40)):
        order = torch.randperm(len(inputs[0]), generator=torch.Generator().manual_seed(seed))
        assert same(results(collected([values[order] for values in inputs], size)), expected)


def test_a_batch_counts_each_prompt_for_each_pair():
    scores = torch.randn(3, 2, *SHAPE, generator=torch.Generator().manual_seed(0))
    labels = {"pair": torch.tensor([1, 0]), "kind": torch.tensor([0, 1, 1]), "group": torch.tensor([4, 5, 6])}
    whole, single = make(), make()
    whole.update_batch(scores, labels)
    for prompt in range(3):
        for place, pair in enumerate(labels["pair"]):
            own = [pair[None], *(labels[name][[prompt]] for name in ("kind", "group"))]
            single.update(scores[[prompt], place], *own)
    assert same(results(whole), results(single))
    assert torch.equal(whole.compute()["prompts"], single.compute()["prompts"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_of_scores_and_of_the_module(dtype):
    inputs = prompts()
    scores = inputs[0].to(dtype)
    expected = results(collected((scores.double(), *inputs[1:])))
    assert same(results(collected((scores, *inputs[1:]))), expected)
    metric = make()
    torch.nn.ModuleList([metric]).to(torch.bfloat16)  # as Lightning's precision "bf16-true" does
    metric.update(scores, *inputs[1:])
    assert same(results(metric), expected)


def test_merged_states_agree_with_one():
    inputs = prompts()
    parts = [collected([values[rows] for values in inputs]) for rows in torch.arange(len(inputs[0])).split(37)]
    merged = copy.deepcopy(parts[0])
    for part in parts[1:]:
        merged.merge_state(part)
    assert same(results(merged), results(collected(inputs)))


def test_memory_does_not_grow_with_prompts_times_neurons():
    metric = NeuronSelection(PAIRS, KINDS, (4, 1000))
    labels = torch.zeros(3, 50, dtype=torch.long)
    for seed in range(4):
        scores = torch.randn(50, 4, 1000, generator=torch.Generator().manual_seed(seed)) ** 9  # few reach the threshold
        metric.update(scores, *labels)
    rows = [*metric.votes, *metric.prompts]
    assert sum(tensor.numel() * tensor.element_size() for tensor in rows) < 0.05 * 200 * 4 * 1000 * 4


def test_compute_forward_and_reset():
    inputs = prompts()
    metric = make()
    of_batch = metric(*(values[:9] for values in inputs))
    assert of_batch["counts"].sum() == 9
    metric.update(*(values[9:] for values in inputs))
    found = metric.compute()
    whole = collected(inputs)
    assert torch.equal(found["scores"][:2], whole.pair_scores()[:2])
    assert torch.equal(found["counts"], torch.bincount(inputs[1], minlength=3))
    metric.reset()
    assert metric.prompts == []
    assert metric.sums.abs().sum() == 0


@pytest.mark.filterwarnings("ignore:.*called before the ``update`` method")
def test_without_prompts_there_is_nothing():
    metric = make()
    assert metric.pair_scores().isnan().all()
    assert votes_of(metric).neurons == {name: set() for name in PAIRS}
    assert votes_of(metric).shares == {name: {} for name in PAIRS}
    with pytest.raises(InputError, match=r"`scores` .* 24 NaN"):
        ranked(metric.mean_scores(), 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": torch.zeros(4, 3, 7)}, r"`scores` .* \[prompt, 3, 8\] but got \[4, 3, 7\]"),
        ({"scores": torch.full((4, *SHAPE), float("nan"))}, r"`scores` .* finite .* 4 of 4 prompts"),
        ({"scores": torch.full((4, *SHAPE), float("-inf"))}, r"`scores` .* finite"),
        ({"pairs": torch.full((4,), 3)}, r"`pairs` .* between 0 and 2 but got 3 to 3"),
        ({"kinds": torch.tensor([0, 0, 0, -1])}, r"`kinds` .* between 0 and 1 but got -1 to 0"),
        ({"groups": torch.full((4,), 2**31)}, r"`groups` .* between 0"),
        ({"groups": torch.zeros(3, dtype=torch.long)}, r"`groups` .* \[4\], but got \[3\]"),
        ({"pairs": torch.zeros(4)}, r"`pairs` .* torch.float32"),
    ],
)
def test_bad_updates_are_refused_and_change_nothing(change, message):
    metric = make()
    labels = dict.fromkeys(("pairs", "kinds", "groups"), torch.zeros(4, dtype=torch.long))
    with pytest.raises(InputError, match=message):
        metric.update(**{"scores": torch.ones(4, *SHAPE)} | labels | change)
    assert metric.counts.sum() == len(metric.prompts) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 0.0}, "`threshold`"),
        ({"threshold": float("nan")}, "`threshold`"),
        ({"pairs": []}, "`pairs`"),
        ({"kinds": ["negative", "negative"]}, "`kinds`"),
        ({"shape": (0, 8)}, "`shape`"),
    ],
)
def test_bad_arguments_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        NeuronSelection(**{"pairs": PAIRS, "kinds": KINDS, "shape": SHAPE} | change)


@pytest.mark.parametrize("share", [0.0, 1.1, float("nan")])
def test_a_bad_share_is_refused(share):
    with pytest.raises(InputError, match=f"`share` .* {share}"):
        votes_of(collected(prompts()), share)


def test_ties_go_to_the_first_neurons():
    scores = torch.zeros(40, 50)
    scores[7, 3] = 1.0
    assert list(ranked(scores, 4)) == [(0, 0), (0, 1), (0, 2), (7, 3)]


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_guarded_agrees_with_the_loop(weight):
    generator = torch.Generator().manual_seed(0)
    scores, guard = torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64)
    expected = reference.guarded_values(by_neuron(scores), by_neuron(guard), weight)
    for count in (1, 6, 24):
        assert guarded(scores, guard, count, weight) == reference.best(expected, count)
    assert guarded(scores, guard, 6, 0.0) == ranked(scores, 6)
    assert guarded(scores, -guard.abs(), 6, weight) == ranked(scores, 6)  # nothing to spare


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": 0}, r"`count` .* the 24 neurons but got 0"),
        ({"count": 25}, r"`count` .* 25"),
        ({"count": 2.0}, r"`count` .* 2.0"),
        ({"scores": torch.full(SHAPE, float("nan"))}, r"`scores` .* 24 NaN"),
        ({"scores": torch.zeros(SHAPE)}, r"`scores` .* positive"),
        ({"scores": torch.ones(8)}, r"`scores` .* \[8\]"),
        ({"guard": torch.full(SHAPE, float("nan"))}, r"`guard` .* NaN"),
        ({"guard": torch.zeros(3, 7)}, r"`guard` .* \[3, 8\] but got \[3, 7\]"),
        ({"weight": -1.0}, r"`weight` .* -1.0"),
        ({"weight": float("inf")}, r"`weight` .* inf"),
    ],
)
def test_bad_rankings_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        guarded(**{"scores": torch.ones(SHAPE), "guard": torch.ones(SHAPE), "count": 2} | change)


def _process(rank, port, folder):
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    inputs = prompts()
    own = slice(0, 40) if rank == 0 else slice(40, None)
    shared = collected([values[own] for values in inputs])
    alone = collected(inputs) if rank == 0 else make()  # the other process sees nothing
    gathered, gather = [], torchmetrics.metric.gather_all_tensors
    torchmetrics.metric.gather_all_tensors = lambda state, **options: gathered.append(1) or gather(state, **options)
    torch.save(
        (shared.pair_scores(), alone.pair_scores(), votes_of(shared), votes_of(alone)), Path(folder) / f"{rank}.pt"
    )
    assert len(gathered) == 2 * 5  # both metrics' five states, once each, whatever is asked of them (B25)
    assert shared.counts.sum() == len(inputs[0][own])  # the states are this process's own again
    torch.distributed.destroy_process_group()


def test_two_uneven_processes_agree_with_one(tmp_path):
    run_two_processes(_process, tmp_path)
    whole = collected(prompts())
    for rank in range(2):
        *scores, first, second = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        for found in scores:
            assert torch.equal(found.nan_to_num(), whole.pair_scores().nan_to_num())
        assert first == second == votes_of(whole)
