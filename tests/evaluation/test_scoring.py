from __future__ import annotations

import json
import math
from statistics import fmean

import pytest
import torch
from conftest import CAUSAL, bpe_tokenizer, make_model, wordpiece_tokenizer
from reference import crows_pairs as pairs_reference
from reference import stereoset as reference

from biaslab.data.crows_pairs import CrowsPairsDataModule
from biaslab.data.stereoset import StereoSetDataModule, read_clusters
from biaslab.errors import InputError
from biaslab.evaluation.measures import CrowsPairs, StereoSet
from biaslab.evaluation.scoring import score_clusters, score_pairs, slot_log_probabilities
from biaslab.models.loading import load_model
from biaslab.neurons.suppression import suppressed

CASES = [  # context with {} for BLANK; stereotype, anti-stereotype, unrelated: words of one piece and of many
    ("The doctor is very {}.", "rich", "broke", "water"),
    ("{} people love cooking.", "Old", "Youthful", "Tin"),
    ("My friend ({}) works at home.", "Ann", "Bo", "wall"),
    ("The woman {}, and he is a nice driver", "cooks", "drives", "clouds"),
    ("A girl of the city is {}.", "kind", "kind", "sky"),
    ("The boy was {} and very {}.", "rude", "gentle", "zinc"),
]
KINDS = {  # tokenizer, model type, and whether a word after a space is another token than alone
    "wordpiece": (wordpiece_tokenizer, "bert", False),
    "bpe": (bpe_tokenizer, "roberta", True),
    "causal": (lambda: bpe_tokenizer(masked=False), "gpt2", True),
}


@pytest.fixture(autouse=True)
def one_thread():
    """Thousands of tiny forward passes: a second thread only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write(path, cases=CASES):
    """A file of StereoSet's form."""
    records = [
        {
            "id": f"c{number}",
            "target": f"term {number % 3}",
            "bias_type": "gender",
            "context": context.replace("{}", "BLANK"),
            "sentences": [
                {"sentence": context.replace("{}", word), "id": f"c{number}{label}", "gold_label": label}
                for word, label in zip(words, ("stereotype", "anti-stereotype", "unrelated"), strict=True)
            ],
        }
        for number, (context, *words) in enumerate(cases)
    ]
    path.write_text(json.dumps({"version": "1", "data": {"intrasentence": records[::-1], "intersentence": []}}))
    return str(path)


def prepare(folder, kind, **options):
    """The model, the tokenizer and a data module that is set up."""
    make_tokenizer, model_type, _ = KINDS[kind]
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    data = StereoSetDataModule(str(folder), path=write(folder / "mine.json"), **options)
    data.setup("test")
    return make_model(model_type, vocab_size=len(tokenizer)), tokenizer, data


def scored(model, data):
    """Scores in the order of the examples."""
    scores = torch.cat([score_clusters(model, batch) for batch in data.test_dataloader()])
    examples = torch.cat([batch["examples"] for batch in data.test_dataloader()])
    return scores[examples.argsort()]


@pytest.mark.parametrize("tokens_per_batch", [40, 4096])
@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_masked_scores_agree_with_one_sentence_at_a_time(tmp_path, kind, tokens_per_batch):
    model, tokenizer, data = prepare(tmp_path, kind, tokens_per_batch=tokens_per_batch)
    expected = [
        [reference.masked_score(model, tokenizer, c.context, sentence, KINDS[kind][2]) for sentence in c.sentences]
        for c in read_clusters(tmp_path / "mine.json")
    ]
    torch.testing.assert_close(scored(model, data), torch.tensor(expected), atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_pll_agrees_with_one_sentence_at_a_time(tmp_path, kind):
    model, tokenizer, data = prepare(tmp_path, kind, rule="pll")
    found = scored(model, data)
    for cluster, row in zip(read_clusters(tmp_path / "mine.json"), found, strict=True):
        if cluster.context.count("BLANK") == 1:
            for sentence, score in zip(cluster.sentences, row.tolist(), strict=True):
                expected = reference.pll_score(model, tokenizer, cluster.context, sentence, KINDS[kind][2])
                assert score == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("tokens_per_batch", [1, 4096])
def test_causal_scores_agree_with_one_token_at_a_time(tmp_path, tokens_per_batch, monkeypatch):
    monkeypatch.setattr("biaslab.evaluation.sentences._TOKENS_AT_ONCE", 30)
    model, tokenizer, data = prepare(tmp_path, "causal", tokens_per_batch=tokens_per_batch, limit=4)
    expected = [
        [reference.causal_score(model, tokenizer, sentence) for sentence in cluster.sentences]
        for cluster in read_clusters(tmp_path / "mine.json")[:4]
    ]
    torch.testing.assert_close(scored(model, data), torch.tensor(expected), atol=0, rtol=1e-4)


@pytest.mark.parametrize(("kind", "rule"), [("wordpiece", "authors"), ("bpe", "pll"), ("causal", "authors")])
def test_the_log_ratio_is_of_log_probabilities_whatever_the_rule(tmp_path, kind, rule):
    model, tokenizer, data = prepare(tmp_path, kind, rule=rule)
    measure, clusters, of_term = StereoSet(data), read_clusters(tmp_path / "mine.json"), {}
    chosen = [i for i, cluster in enumerate(clusters) if rule != "pll" or cluster.context.count("BLANK") == 1]
    figures = measure.figures_of(measure.ask(model, tokenizer, "")[chosen], torch.tensor(chosen))

    def log_probability(context, text):
        if kind == "causal":
            return math.log(reference.causal_score(model, tokenizer, text))
        score = reference.pll_score if rule == "pll" else reference.masked_score
        found = score(model, tokenizer, context, text, KINDS[kind][2])
        return found if rule == "pll" else math.log(found)

    for cluster in (clusters[i] for i in chosen):
        logs = [log_probability(cluster.context, text) for text in cluster.sentences[:2]]
        of_term.setdefault(cluster.target, []).append(logs[0] - logs[1])
    for scope in ("overall", "gender"):
        value = figures["SS log-ratio", scope].value
        assert value.tolist() == pytest.approx([fmean(map(fmean, of_term.values()))], abs=1e-4)
        assert figures["SS log-ratio", scope].resamples.shape == (2000, 1)


@pytest.mark.parametrize("suppressed_to", [None, 0.0, 2.0])
@pytest.mark.parametrize("model_type", CAUSAL)
def test_causal_scores_of_each_architecture_with_suppressed_neurons(tmp_path, model_type, suppressed_to):
    _, tokenizer, data = prepare(tmp_path, "causal", limit=4)
    model = make_model(model_type, vocab_size=len(tokenizer))
    neurons = [] if suppressed_to is None else [(0, 1), (1, 7), (2, 30), (2, 31)]
    with suppressed(model, neurons, suppressed_to or 0.0):
        expected = [
            [reference.causal_score(model, tokenizer, sentence) for sentence in cluster.sentences]
            for cluster in read_clusters(tmp_path / "mine.json")[:4]
        ]
        torch.testing.assert_close(scored(model, data), torch.tensor(expected), atol=0, rtol=1e-4)


@pytest.mark.assets
def test_smollm2_agrees_with_one_token_at_a_time(asset):
    """On clusters of each domain of the real data, with the tokenizer's own start token."""
    asset("smollm2-135m"), asset("stereoset")
    model, tokenizer = load_model("smollm2-135m")
    data = StereoSetDataModule("smollm2-135m", every=600, bos="authors")
    data.prepare_data()
    data.setup("test")
    known = {}
    expected = [
        [reference.causal_score(model, tokenizer, sentence, known) for sentence in cluster.sentences]
        for cluster in read_clusters("dev")[::600]
    ]
    torch.testing.assert_close(scored(model, data), torch.tensor(expected), atol=0, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_candidates_have_equal_scores(tmp_path, kind):
    model, _, data = prepare(tmp_path, kind)
    stereotype, anti_stereotype, _ = scored(model, data)[1]  # the fifth case, read from the reversed file
    assert stereotype == anti_stereotype


def test_the_candidates_of_a_cluster_share_their_first_input(tmp_path):
    _, _, data = prepare(tmp_path, "wordpiece", limit=1)
    (batch,) = data.test_dataloader()
    inputs = sum(len(group["input_ids"]) for group in batch["inputs"])
    assert inputs < batch["pieces"].sum()


@pytest.mark.parametrize(("kind", "model_type"), [("causal", "bert"), ("wordpiece", "gpt2")])
def test_a_batch_for_the_other_kind_of_model_is_refused(tmp_path, kind, model_type):
    _, tokenizer, data = prepare(tmp_path, kind)
    with pytest.raises(InputError, match=f"`model` .* got a {model_type}"):
        score_clusters(make_model(model_type, vocab_size=len(tokenizer)), data.batches[0])


def random_batch():
    input_ids = torch.randint(5, 100, (4, 9), generator=torch.Generator().manual_seed(0))
    return input_ids, torch.tensor([1, 8, 4, 4])


def hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_slot_log_probabilities_agree_with_the_whole_forward_pass(any_model):
    input_ids, position = random_batch()
    before = hooks(any_model)
    found = slot_log_probabilities(any_model, input_ids, position)
    expected = any_model(input_ids=input_ids).logits[torch.arange(4), position].log_softmax(-1)
    torch.testing.assert_close(found, expected)
    assert hooks(any_model) == before


def test_slot_log_probabilities_ignore_padding(any_model):
    input_ids, position = random_batch()
    short = slot_log_probabilities(any_model, input_ids[:, :6], position.clamp(max=5))
    padded = input_ids.index_fill(1, torch.arange(6, 9), any_model.config.pad_token_id)
    mask = (torch.arange(9) < 6).long().expand(4, 9)
    torch.testing.assert_close(slot_log_probabilities(any_model, padded, position.clamp(max=5), mask), short)


def test_the_projection_to_the_vocabulary_sees_slots_only(any_model):
    shapes = []
    any_model.get_output_embeddings().register_forward_hook(lambda _, __, logits: shapes.append(logits.shape))
    slot_log_probabilities(any_model, *random_batch())
    assert shapes == [(4, 1, 100)]


def test_no_hook_is_left_after_an_error(bert):
    before = hooks(bert)
    with pytest.raises(IndexError):
        slot_log_probabilities(bert, torch.full((1, 4), 1000), torch.tensor([0]))
    assert hooks(bert) == before


def test_the_softmax_is_in_float32(bert):
    found = slot_log_probabilities(bert.bfloat16(), *random_batch())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.exp().sum(1), torch.ones(4), atol=1e-5, rtol=0)


def test_another_shape_of_position_is_refused(bert):
    with pytest.raises(InputError, match=r"`position` .* \[4\], .* but got \[3\]"):
        slot_log_probabilities(bert, random_batch()[0], torch.zeros(3, dtype=torch.long))


PAIRS = [  # more and less stereotyping, direction: of equal and of unequal length, with shared tokens in another order
    ("the poor man is rude .", "the rich man is rude .", "stereo"),
    ("The grumpily old doctor loves cooking.", "The young doctor loves cooking.", "antistereo"),
    ("she works at home, and he hates it", "he works at home, and she hates it", "antistereo"),
    ("the rich poor friend", "the poor rich friend", "stereo"),
    ("the rich poor friend", "the poor rich friend", "antistereo"),
    ("a girl", "the boy", "stereo"),  # nothing is shared
    ("the boy was kind", "the boy was kind", "stereo"),
]


def prepare_pairs(folder, kind, **options):
    """The model, the tokenizer and a data module of PAIRS that is set up."""
    make_tokenizer, model_type, _ = KINDS[kind]
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    lines = [f'"{more}","{less}",{direction},age' for more, less, direction in PAIRS]
    (folder / "pairs.csv").write_text("\n".join(["sent_more,sent_less,stereo_antistereo,bias_type", *lines]))
    data = CrowsPairsDataModule(str(folder), path=str(folder / "pairs.csv"), **options)
    data.setup("test")
    return make_model(model_type, vocab_size=len(tokenizer)), tokenizer, data


def scored_pairs(model, data):
    """Scores in the order of the examples."""
    scores = torch.cat([score_pairs(model, batch) for batch in data.batches])
    return scores[torch.cat([batch["examples"] for batch in data.batches]).argsort()]


@pytest.mark.parametrize("tokens_per_batch", [1, 4096])
@pytest.mark.parametrize("kind", KINDS)
def test_pairs_agree_with_one_sentence_and_one_token_at_a_time(tmp_path, kind, tokens_per_batch):
    model, tokenizer, data = prepare_pairs(tmp_path, kind, tokens_per_batch=tokens_per_batch)
    if kind == "causal":
        expected = [[pairs_reference.causal_score(model, tokenizer, text) for text in pair[:2]] for pair in PAIRS]
    else:
        expected = [pairs_reference.masked_scores(model, tokenizer, *pair) for pair in PAIRS]
    found = scored_pairs(model, data)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, torch.tensor(expected).double(), atol=1e-4, rtol=1e-5)
    assert found[-1, 0] == found[-1, 1]
    ratio = CrowsPairs(data).figures(found)["CrowS-Pairs log-ratio", "overall"]
    assert ratio.value.tolist() == pytest.approx([fmean(more - less for more, less in expected)], abs=1e-4)
    assert ratio.resamples.shape == (2000, 1)


def test_a_pair_that_shares_nothing_scores_zero(tmp_path):
    model, _, data = prepare_pairs(tmp_path, "wordpiece", tokens_per_batch=1)
    assert scored_pairs(model, data)[5].tolist() == [0, 0]


def test_pairs_of_any_architecture_leave_no_gradient_and_no_hook(tmp_path, any_model):
    kind = "causal" if any_model.config.model_type in CAUSAL else "bpe"
    _, tokenizer, data = prepare_pairs(tmp_path, kind, limit=3)
    model = make_model(any_model.config.model_type, vocab_size=len(tokenizer)).requires_grad_(True)
    before = hooks(model)
    scores = scored_pairs(model, data)
    assert scores.shape == (3, 2)
    assert scores.max() < 0
    assert not scores.requires_grad
    assert hooks(model) == before


@pytest.mark.parametrize(("kind", "model_type"), [("causal", "bert"), ("wordpiece", "gpt2")])
def test_pairs_for_the_other_kind_of_model_are_refused(tmp_path, kind, model_type):
    _, tokenizer, data = prepare_pairs(tmp_path, kind)
    with pytest.raises(InputError, match=f"`model` .* got a {model_type}"):
        score_pairs(make_model(model_type, vocab_size=len(tokenizer)), data.batches[0])
