from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from conftest import golden, run_two_processes
from reference import stereoset as reference
from torchmetrics import MetricCollection

from biaslab.errors import InputError
from biaslab.metrics import IdealizedCAT, LanguageModelingScore, StereotypeScore
from biaslab.metrics import stereoset as functional

METRICS = {"ss": StereotypeScore, "lms": LanguageModelingScore, "icat": IdealizedCAT}
FUNCTIONS = (functional.stereotype_score, functional.language_modeling_score, functional.idealized_cat)


def clusters(count=60, terms=7, seed=0):
    """Scores with ties (four values only), terms of unequal size, and ids in another order."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(4, (count, 3), generator=generator) / 4
    term = (torch.rand(count, generator=generator) ** 2 * terms).long()
    return scores, term, torch.randperm(count, generator=generator)


def all_three(average="macro", **kwargs):
    return MetricCollection({name: metric(average=average, **kwargs) for name, metric in METRICS.items()})


def computed(collection):
    values = collection.compute()
    return [values[name].item() for name in METRICS]


@pytest.mark.parametrize("average", ["macro", "micro"])
@pytest.mark.parametrize("seed", range(3))
def test_functions_agree_with_the_loop(average, seed):
    scores, terms, _ = clusters(seed=seed)
    expected = reference.metrics(scores.tolist(), terms.tolist(), average)
    assert [function(scores, terms, average).item() for function in FUNCTIONS] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("average", ["macro", "micro"])
def test_classes_agree_with_the_loop_and_count_a_repeated_cluster_once(average):
    scores, terms, examples = clusters()
    collection = all_three(average)
    for part in torch.arange(60).split(13):
        collection.update(scores[part], terms[part], examples[part])
    collection.update(scores[:9], terms[:9], examples[:9])
    expected = reference.metrics(scores.tolist(), terms.tolist(), average)
    assert computed(collection) == pytest.approx(expected, abs=1e-4)


def test_a_tie_is_neither_pro_nor_related():
    scores, terms = torch.full((2, 3), 0.5), torch.tensor([0, 1])
    assert [function(scores, terms).item() for function in FUNCTIONS] == [0, 0, 0]


def test_both_related_candidates_count():
    scores = torch.tensor([[0.3, 0.2, 0.1]])
    assert functional.language_modeling_score(scores, torch.tensor([0])) == 100


def test_macro_and_icat_by_hand():
    scores = torch.tensor([[3, 2, 1], [3, 2, 1], [3, 2, 1], [1, 2, 3]]).float()
    terms = torch.tensor([5, 5, 5, 9])  # SS: term 5 100, term 9 0; ICAT is of the two means, not the mean of two
    assert [function(scores, terms).item() for function in FUNCTIONS] == [50, 50, 50]
    assert [function(scores, terms, "micro").item() for function in FUNCTIONS] == [75, 75, 37.5]


def test_double_scores_stay_double():
    scores = torch.tensor([[0.1 + 1e-12, 0.1, 0.0]], dtype=torch.float64)
    metric = StereotypeScore()
    metric.update(scores, torch.tensor([0]), torch.tensor([0]))
    assert metric.compute() == 100


def test_a_collection_is_one_compute_group_and_updates_once(monkeypatch):
    scores, terms, examples = clusters()
    collection = all_three()
    collection.update(scores, terms, examples)
    assert len(collection.compute_groups) == 1
    calls = []
    check = functional.ClusterScores.add  # called once in each update

    def counted(metric, *rows):
        calls.append(check(metric, *rows))

    monkeypatch.setattr(functional.ClusterScores, "add", counted)
    collection.update(scores, terms, examples + 100)
    assert len(calls) == 1
    assert [len(metric.distinct().scores) for metric in collection.values()] == [120, 120, 120]


def test_cluster_scores_are_in_the_order_of_the_ids():
    scores, terms, examples = clusters()
    metric = functional.ClusterScores()
    metric.update(scores, terms, examples)
    metric.update(scores[:5], terms[:5], examples[:5])
    found = metric.compute()
    order = examples.argsort()
    assert torch.equal(found.examples, torch.arange(60))
    assert torch.equal(found.scores, scores[order])
    assert torch.equal(found.terms, terms[order])


def test_forward_gives_the_batch_value_and_reset_forgets():
    metric = StereotypeScore()
    assert metric(torch.tensor([[3.0, 2, 1]]), torch.tensor([0]), torch.tensor([0])) == 100
    assert metric(torch.tensor([[2.0, 3, 1]]), torch.tensor([1]), torch.tensor([1])) == 0
    assert metric.compute() == 50
    metric.reset()
    assert metric.scores == []


@pytest.mark.parametrize("metric", METRICS.values())
def test_without_clusters_the_value_is_nan_with_the_usual_warning(metric):
    with pytest.warns(UserWarning, match="was called before the ``update``"):
        assert metric().compute().isnan()


@pytest.mark.parametrize("metric", METRICS.values())
def test_an_empty_update_is_no_cluster(metric):
    instance = metric()
    instance.update(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))
    assert instance.compute().isnan()


def test_nan_is_refused_with_the_examples():
    scores, terms, examples = clusters()
    scores[[4, 8], [0, 2]] = float("nan")
    with pytest.raises(InputError, match=rf"`scores` .* 2 of 60 examples: {examples[4]}, {examples[8]}\."):
        StereotypeScore().update(scores, terms, examples)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": torch.zeros(4, 2)}, r"`scores` .* \[4, 2\]"),
        ({"terms": torch.zeros(4)}, r"`terms` .* torch.float32"),
        ({"examples": torch.zeros(3, dtype=torch.long)}, r"`examples` .* \[3\]"),
    ],
)
def test_other_shapes_and_types_are_refused(change, message):
    inputs = {"scores": torch.zeros(4, 3), "terms": torch.arange(4), "examples": torch.arange(4)}
    with pytest.raises(InputError, match=message):
        StereotypeScore().update(**inputs | change)


def test_another_average_is_refused():
    with pytest.raises(InputError, match=r"`average` .* 'weighted'"):
        StereotypeScore(average="weighted")
    with pytest.raises(InputError, match=r"`average` .* 'weighted'"):
        functional.idealized_cat(torch.zeros(1, 3), torch.tensor([0]), "weighted")


def _process(rank, port, folder):
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    scores, terms, examples = clusters()
    collection = all_three()
    everything = functional.ClusterScores()
    own = torch.arange(45) if rank == 0 else torch.cat([torch.arange(45, 60), torch.arange(3)])  # uneven, with repeats
    for part in own.split(11):
        collection.update(scores[part], terms[part], examples[part])
        everything.update(scores[part], terms[part], examples[part])
    alone = StereotypeScore()
    if rank == 0:  # the other process sees nothing
        alone.update(scores, terms, examples)
    else:
        alone._update_count = 1  # as for a process whose batches had none of a domain: no warning
    values = torch.tensor([*computed(collection), alone.compute().item()])
    torch.save((values, everything.compute().examples), Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_uneven_processes_with_repeats_agree_with_one(tmp_path):
    run_two_processes(_process, tmp_path)
    scores, terms, _ = clusters()
    expected = [*reference.metrics(scores.tolist(), terms.tolist(), "macro")]
    for rank in range(2):
        values, examples = torch.load(tmp_path / f"{rank}.pt")
        assert values.tolist() == pytest.approx([*expected, expected[0]], abs=1e-4)
        assert torch.equal(examples, torch.arange(60))


def test_bootstrap_agrees_with_a_loop_over_terms():
    scores, terms, _ = clusters()
    found = functional.bootstrap(scores, terms, resamples=5, seed=3)
    names = terms.unique()
    drawn = torch.randint(len(names), (5, len(names)), generator=torch.Generator().manual_seed(3))
    for row, draw in zip(found, drawn, strict=True):
        sample, labels = [], []
        for copy, term in enumerate(names[draw].tolist()):
            members = scores[terms == term].tolist()
            sample, labels = sample + members, labels + [copy] * len(members)
        assert row.tolist() == pytest.approx(reference.metrics(sample, labels, "macro"), abs=1e-3)


def test_intervals_hold_the_value_and_narrow_with_more_terms():
    generator = torch.Generator().manual_seed(0)
    widths = []
    for terms in (10, 160):
        scores = torch.rand(terms * 5, 3, generator=generator)
        term = torch.arange(terms).repeat(5)
        found = functional.intervals(scores, term)
        for name, function in zip(("SS", "LMS", "ICAT"), FUNCTIONS, strict=True):
            assert found[name].value == pytest.approx(function(scores, term).item(), abs=1e-4)
            assert found[name].low <= found[name].high
        assert found["SS"].low < found["SS"].value < found["SS"].high
        widths.append(found["SS"].high - found["SS"].low)
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.4)


def test_paired_change_is_narrower_than_two_intervals_and_zero_for_no_change():
    before, terms, _ = clusters(count=300, terms=30)
    after = before.clone()
    after[:10] = after[:10].flip(1)
    change = functional.paired_change(before, after, terms)
    alone = functional.intervals(before, terms)
    for name in change:
        assert change[name].low <= change[name].value <= change[name].high
        assert change[name].high - change[name].low < alone[name].high - alone[name].low
    assert all(tuple(interval) == (0, 0, 0) for interval in functional.paired_change(before, before, terms).values())


def test_bootstrap_of_nothing_is_refused():
    with pytest.raises(InputError, match=r"`scores` .* at least one"):
        functional.intervals(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))


def test_bootstrap_is_quick():
    scores, terms = torch.rand(2106, 3), torch.arange(2106) % 79
    functional.bootstrap(scores, terms, resamples=2)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        functional.bootstrap(scores, terms)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.2


@pytest.mark.assets
@pytest.mark.parametrize("model", ["bert-base-cased", "gpt2"])
def test_the_published_figures(asset, model):
    from biaslab.data.stereoset import read_clusters

    published = json.loads(golden("stereoset", f"{model}.json").read_text())
    found = read_clusters(asset("stereoset") / "dev.json")
    names = sorted({cluster.target for cluster in found})
    scores = torch.tensor([[published["scores"][i] for i in c.sentence_ids] for c in found], dtype=torch.float64)
    terms = torch.tensor([names.index(cluster.target) for cluster in found])
    assert published["expected"].keys() == {"overall", "gender", "profession", "race", "religion"}
    for domain, by_average in published["expected"].items():
        chosen = torch.tensor([domain in ("overall", cluster.domain) for cluster in found])
        for average, expected in by_average.items():
            collection = all_three(average)
            collection.update(scores[chosen], terms[chosen], chosen.nonzero()[:, 0])
            for name, value in collection.compute().items():
                assert value.item() == pytest.approx(expected[name], abs=0.01), (domain, average, name)
