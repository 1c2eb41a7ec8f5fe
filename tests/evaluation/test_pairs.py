"""By how much one sentence of a pair is likelier, against other scorers and slow loops."""

import copy
import statistics

import pytest
import torch
from conftest import bpe_tokenizer, make_model, wordpiece_tokenizer

from biaslab.commands import judging
from biaslab.data import panda_pairs
from biaslab.data.crows_pairs import CrowsPairsDataModule
from biaslab.data.minimal_pairs import PAIRS, known_pairs
from biaslab.evaluation.evaluate import evaluate
from biaslab.evaluation.measures import Perplexity
from biaslab.evaluation.scoring import score_pairs
from biaslab.evaluation.treatment import Arm, Treatment
from biaslab.neurons.neuron_set import NeuronSet, random_like
from biaslab.statistics import clustered_samples, draw

KINDS = {
    "bert": wordpiece_tokenizer, "roberta": bpe_tokenizer, "gpt2": lambda: bpe_tokenizer(False),
    "llama": lambda: bpe_tokenizer(False),
}  # fmt: skip
NEURONS = NeuronSet([(0, 3), (1, 7), (2, 1), (2, 40)], shape=(3, 48))
REWRITTEN = [
    panda_pairs.PandaPair("the man is rude and the boy is kind.", "the old woman is rude and the boy is kind."),
    panda_pairs.PandaPair("he loves cooking in the city.", "she loves cooking in the city."),
    panda_pairs.PandaPair("he loves cooking in the city.", "they loves cooking in the city."),
    panda_pairs.PandaPair("people hates the old doctor.", "people hates the young doctor."),
]


@pytest.fixture(params=KINDS)
def tiny(request, tmp_path):
    """A tiny model, its tokenizer, and their folder."""
    tokenizer = KINDS[request.param]()
    model = make_model(request.param, len(tokenizer))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return model, tokenizer, tmp_path


def test_minimal_pairs_are_scored_as_crows_pairs(tiny, tmp_path):
    """The same sentences as a file of CrowS-Pairs' form have the same scores there."""
    model, tokenizer, folder = tiny
    (measure,) = judging.minimal_pairs(str(folder), False)
    pairs = known_pairs(tokenizer, PAIRS["held_out"])
    lines = ["sent_more,sent_less,bias_type,stereo_antistereo"]
    lines += [f'"{pair.more}","{pair.less}",gender,stereo' for pair in pairs]
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    data = judging.ready(CrowsPairsDataModule(str(folder), str(tmp_path / "pairs.csv")))
    expected = torch.zeros(len(pairs), 2, dtype=torch.float64)
    for batch in data.batches:
        expected[batch["examples"]] = score_pairs(model, batch)
    scores = measure.ask(model, tokenizer, "")
    torch.testing.assert_close(scores, expected, atol=1e-3, rtol=1e-5)
    assert measure.facts() == {"minimal_pairs": len(pairs)}
    figures = measure.figures(scores)
    dimensions = {pair.dimension for pair in pairs}
    assert {scope for _, scope in figures} == {"overall", *dimensions}
    for scope in ("overall", *dimensions):
        own: dict[tuple, list[float]] = {}
        for pair, (more, less) in zip(pairs, scores.tolist(), strict=True):
            if scope in ("overall", pair.dimension):
                own.setdefault((pair.dimension, pair.groups, pair.attribute), []).append(more - less)
        mean = statistics.fmean(map(statistics.fmean, own.values()))
        share = statistics.fmean(statistics.fmean(100.0 * (r > 0) for r in each) for each in own.values())
        assert figures["pairs", scope].interval().value == pytest.approx(mean, abs=1e-6)
        assert figures["pairs preferred", scope].interval().value == pytest.approx(share)


def test_rewrites_are_scored_by_all_shared_tokens(tiny, monkeypatch):
    model, tokenizer, folder = tiny
    monkeypatch.setattr(panda_pairs, "read_panda_pairs", lambda part: REWRITTEN if part == "held_out" else [])
    (measure,) = judging.panda_pairs(str(folder), False)
    assert measure.facts() == {"panda_pairs": 3}  # of an original the first rewrite
    scores = measure.ask(model, tokenizer, "")
    asked = [{"ids": [], "log": 0.0, "queries": 0} for _ in range(6)]
    for batch in measure.batches:
        for group in batch["inputs"]:
            for row, place, target, candidate in zip(
                *(group[n] for n in ("row", "position", "target_ids", "candidate")), strict=True
            ):
                logits = model(input_ids=group["input_ids"][row][None]).logits[0, place]
                own = asked[2 * int(batch["examples"][candidate // 2]) + int(candidate % 2)]
                own["log"] += float(logits.log_softmax(-1)[target])
                own["queries"] += 1
                own["ids"].append(int(target))
    torch.testing.assert_close(
        scores, torch.tensor([own["log"] for own in asked]).double().view(3, 2), atol=1e-3, rtol=1e-5
    )
    for more, less in zip(asked[::2], asked[1::2], strict=True):
        if tokenizer.mask_token is not None:
            assert more["ids"] == less["ids"]
            assert len(more["ids"]) >= 4
    if tokenizer.mask_token is None:
        texts = [text for pair in (REWRITTEN[0], REWRITTEN[1], REWRITTEN[3]) for text in pair]
        assert [own["queries"] for own in asked] == [len(tokenizer(text)["input_ids"]) for text in texts]
    ((key, samples),) = measure.figures(scores).items()
    assert key == ("panda", "overall")
    wanted = statistics.fmean(abs(more - less) for more, less in scores.tolist())
    assert samples.interval().value == pytest.approx(wanted)


def test_the_interval_resamples_clusters():
    values = torch.randn(40, generator=torch.Generator().manual_seed(1))
    clusters = torch.arange(40) // 2
    means = [statistics.fmean(values[2 * number : 2 * number + 2].tolist()) for number in range(20)]
    resamples = sorted(statistics.fmean(means[number] for number in drawn) for drawn in draw(20).tolist())
    found = clustered_samples(values, clusters).interval()
    assert found.value == pytest.approx(statistics.fmean(means))
    assert resamples[49] - 1e-3 <= found.low <= resamples[50] + 1e-3
    assert resamples[1949] - 1e-3 <= found.high <= resamples[1950] + 1e-3


def test_changes_are_paired_in_nats_and_of_zeroed_weights(tmp_path):
    tokenizer = wordpiece_tokenizer()
    model = make_model("bert", len(tokenizer))
    tokenizer.save_pretrained(tmp_path)
    measures = judging.minimal_pairs(str(tmp_path), False)
    controls = [Treatment(random_like(NEURONS, seed)) for seed in range(2)]
    arms = [Arm("untouched"), Arm("chosen", [Treatment(NEURONS)]), Arm("random", controls, like="chosen")]
    evaluation = evaluate(model, tokenizer, arms, measures)
    zeroed = copy.deepcopy(model)
    for layer, index in NEURONS:
        zeroed.bert.encoder.layer[layer].output.dense.weight.data[:, index] = 0
    before, after = (
        measures[0].figures(measures[0].ask(each, tokenizer, ""))["pairs", "overall"].interval().value
        for each in (model, zeroed)
    )
    findings = evaluation.findings("debias", "tiny", {})
    found = findings.get("chosen", "pairs")
    assert found.figure.value == pytest.approx(after, abs=1e-4)
    assert found.change.value == pytest.approx(after - before, abs=1e-4)
    assert {line["unit"] for line in findings.lines(["pairs"])} == {"nats"}
    assert findings.get("untouched", "pairs", "overall").change == (0, 0, 0)


def test_what_no_word_is_known_of_is_not_measured(tmp_path, monkeypatch):
    tokenizer = wordpiece_tokenizer(pieces=False)
    tokenizer.save_pretrained(tmp_path)
    strange = [panda_pairs.PandaPair("the xyz is rude.", "the man is rude.")]
    monkeypatch.setattr(panda_pairs, "read_panda_pairs", lambda part: strange)
    assert judging.minimal_pairs(str(tmp_path), False) == []
    assert judging.panda_pairs(str(tmp_path), False) == []
    findings = evaluate(
        make_model("bert", len(tokenizer)), tokenizer, [Arm("untouched")], [Perplexity(["the doctor is kind"])]
    ).findings("debias", "tiny", {})
    assert findings.rows_of("pairs") == []


@pytest.mark.assets
def test_a_real_model_prefers_stereotypes(asset):
    asset("minilm-encoder")
    from biaslab.models.loading import load_model

    model, tokenizer = load_model("minilm-mlm")
    (measure,) = judging.minimal_pairs("minilm-mlm", False)
    assert len(measure.key[0]) == len(PAIRS["held_out"])
    assert measure.figures(measure.ask(model, tokenizer, ""))["pairs", "overall"].interval().value > 0
