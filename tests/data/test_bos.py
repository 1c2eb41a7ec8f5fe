"""What a causal model's sentences are conditioned on, against a plain reference that runs the model token by token."""

import json
import math

import pytest
import torch
from conftest import make_model, tokenizer_with

from biaslab.data import effects, pair_effects
from biaslab.data.crows_pairs import CrowsPairsDataModule
from biaslab.data.minimal_pairs import MinimalPair, MinimalPairsDataModule
from biaslab.data.panda_pairs import PandaPair, PandaPairsDataModule
from biaslab.data.prompts import PromptDataModule
from biaslab.data.queries import causal_queries, token_queries
from biaslab.data.stereoset import StereoSetDataModule, read_clusters
from biaslab.errors import InputError
from biaslab.evaluation.pairs import score_sentences
from biaslab.evaluation.perplexity import negative_log_likelihoods
from biaslab.evaluation.scoring import score_clusters, score_pairs
from biaslab.models.tokens import beginning, causal_tokens, encode_slot, front_tokens, token_in_place, tokens_in_place

FRONTS = {"none": [], "BOS": ["<|endoftext|>"], "two": ["<first>", "<second>"]}
SENTENCES = [" the man is rude", " the man is kind .", " the woman is rude", " she loves the city and hates the water"]


@pytest.fixture(params=FRONTS)
def front(request):
    return FRONTS[request.param]


@pytest.fixture(params=[(), ("<|endoftext|>",)], ids=["", "EOS appended"])
def tokenizer(request, front):
    return tokenizer_with(front, request.param)


@pytest.fixture(params=["gpt2", "llama"])
def model(request, tokenizer):
    return make_model(request.param, len(tokenizer))


def reference(model, tokenizer, sentence, front, bos):
    """The natural log-probability of each token of a sentence, each by a pass of its own."""
    ids, logs = tokenizer(sentence, add_special_tokens=False)["input_ids"], []
    before = tokenizer.convert_tokens_to_ids(front) if bos == "tokenizer" else []
    for place, token in enumerate(ids):
        given = before + ids[:place] or [tokenizer.bos_token_id]
        logs.append(float(model(torch.tensor([given])).logits[0, -1].double().log_softmax(0)[token]))
    return logs


def test_front_and_what_is_appended(tokenizer, front):
    ids = tokenizer.convert_tokens_to_ids(front)
    assert front_tokens(tokenizer) == tuple(ids)
    own = tokenizer(" the man", add_special_tokens=False)["input_ids"]
    assert causal_tokens(tokenizer, " the man") == ids + own
    assert causal_tokens(tokenizer, "") == ids
    encoded = encode_slot(tokenizer, " the person is {slot}.")
    assert encoded.input_ids == ids + tokenizer(" the person is", add_special_tokens=False)["input_ids"]
    assert encoded.position == len(encoded.input_ids) - 1
    assert tokenizer.convert_ids_to_tokens(token_in_place(tokenizer, " the person is {slot}", "old")) == "Ġold"
    assert len(tokens_in_place(tokenizer, " the person is {slot}", "middle-aged")) > 1


def test_which_rule_is_used(tokenizer, front):
    start = tokenizer.bos_token_id
    assert beginning(tokenizer, "authors") == ((), start)
    assert beginning(tokenizer) == ((front_tokens(tokenizer), None) if front else ((), start))
    with pytest.raises(InputError, match="`bos` is expected to be tokenizer or authors but got 'bos'"):
        beginning(tokenizer, "bos")
    tokenizer.bos_token = tokenizer.eos_token = None
    if front:
        assert beginning(tokenizer).start_id is None
    else:
        with pytest.raises(InputError, match="has neither `bos_token` nor `eos_token`"):
            beginning(tokenizer)


@pytest.mark.parametrize("bos", ["tokenizer", "authors"])
def test_perplexity(model, tokenizer, front, bos):
    found = negative_log_likelihoods(model, tokenizer, SENTENCES, bos=bos)
    expected = [reference(model, tokenizer, sentence, front, bos) for sentence in SENTENCES]
    sums = torch.tensor([[-sum(logs), len(logs)] for logs in expected], dtype=torch.float64)
    torch.testing.assert_close(found, sums, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("bos", ["tokenizer", "authors"])
def test_queries_of_each_token(model, tokenizer, front, bos):
    start = beginning(tokenizer, bos)
    for sentence, queries in zip(SENTENCES, token_queries(tokenizer, SENTENCES, start), strict=True):
        logits = [model(torch.tensor([query.input_ids])).logits[0, query.position].double() for query in queries]
        logs = [float(each.log_softmax(0)[query.target_id]) for each, query in zip(logits, queries, strict=True)]
        expected = reference(model, tokenizer, sentence, front, bos)
        torch.testing.assert_close(torch.tensor(logs), torch.tensor(expected), atol=1e-4, rtol=1e-5)
    ids = [query.input_ids for (query,) in causal_queries(tokenizer, SENTENCES, start)]
    own = tokenizer(SENTENCES, add_special_tokens=False)["input_ids"]
    assert ids == [(*start.front, *each) for each in own]


@pytest.fixture
def folder(model, tokenizer, tmp_path):
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def clusters(path):
    labels = ("stereotype", "anti-stereotype", "unrelated")
    texts = [f"the {who} is {{}}." for who in ("doctor", "girl", "driver")]
    records = [
        {
            "id": f"c{number}", "target": "doctor", "bias_type": "profession", "context": text.format("BLANK"),
            "sentences": [
                {"sentence": text.format(word), "id": word, "gold_label": label}
                for word, label in zip(("rude", "kind", "water"), labels, strict=True)
            ],
        }
        for number, text in enumerate(texts)
    ]  # fmt: skip
    path.write_text(json.dumps({"data": {"intrasentence": records}}))
    return str(path), [[text.format(word) for word in ("rude", "kind", "water")] for text in texts]


def made(data):
    data.setup("test")
    return data


@pytest.mark.parametrize("bos", ["tokenizer", "authors"])
def test_stereoset(folder, model, tokenizer, front, bos, tmp_path):
    path, sentences = clusters(tmp_path / "stereoset.json")
    data = made(StereoSetDataModule(str(folder), path=path, bos=bos))
    found = torch.zeros(3, 3)
    for batch in data.batches:
        found[batch["examples"]] = score_clusters(model, batch)
    logs = [[reference(model, tokenizer, sentence, front, bos) for sentence in each] for each in sentences]
    means = [[sum(own) / len(own) for own in each] for each in logs]
    torch.testing.assert_close(found, torch.tensor(means).exp(), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("bos", ["tokenizer", "authors"])
def test_pairs(folder, model, tokenizer, front, bos, tmp_path):
    (tmp_path / "pairs.csv").write_text(
        "sent_more,sent_less,stereo_antistereo,bias_type\n the man is rude, the woman is rude,stereo,gender\n"
    )
    data = made(CrowsPairsDataModule(str(folder), path=str(tmp_path / "pairs.csv"), bos=bos))
    (batch,) = data.batches
    texts = [data.pairs[0].more, data.pairs[0].less]
    expected = torch.tensor([[sum(reference(model, tokenizer, text, front, bos)) for text in texts]]).double()
    torch.testing.assert_close(score_pairs(model, batch), expected, atol=1e-4, rtol=1e-5)
    held_out = made(MinimalPairsDataModule(str(folder), bos=bos))
    scores, number = score_sentences(model, held_out.batches[0]), int(held_out.batches[0]["examples"][0])
    texts = [held_out.pairs[number].more, held_out.pairs[number].less]
    expected = torch.tensor([sum(reference(model, tokenizer, text, front, bos)) for text in texts]).double()
    torch.testing.assert_close(scores[0], expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("bos", ["tokenizer", "authors"])
def test_effects_ask_for_the_same_tokens(tokenizer, front, bos, tmp_path, monkeypatch):
    """Of each source: the inputs begin with what is in front, which is never asked for; all that follows it is."""
    path, _ = clusters(tmp_path / "stereoset.json")
    monkeypatch.setattr(effects, "read_clusters", lambda _: read_clusters(path))
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"the man number {number} loves the city" for number in range(400)))
    ids = list(front_tokens(tokenizer)) if bos == "tokenizer" else []
    given = max(1, len(ids))
    for batch in effects.make_batches(tokenizer, ["stereoset", str(text)], 5, 100, bos=bos):
        inputs = batch["input_ids"]
        assert inputs[:, : len(ids)].tolist() == [ids] * len(inputs)
        asked = {(row, place) for row, place in zip(batch["row"].tolist(), batch["position"].tolist(), strict=True)}
        assert asked == {(row, place) for row in range(len(inputs)) for place in range(given - 1, inputs.shape[1] - 1)}
        assert torch.equal(batch["target_ids"], inputs[batch["row"], batch["position"] + 1])
    for inputs in effects.plain_batches(tokenizer, [str(text)], 5, 100, bos):
        assert inputs[:, : len(ids)].tolist() == [ids] * len(inputs)
    for batch in effects.other_batches(tokenizer, [str(text)], 100, bos):
        assert int(batch["position"].min()) == given - 1


@pytest.mark.parametrize("bos", ["tokenizer", "authors"])
def test_effects_on_pairs(model, tokenizer, front, bos):
    """The weighted sum of what a batch asks for is the pairs' difference, of the reference."""
    pair = MinimalPair("gender", " the man is rude", " the woman is rude", ("man", "woman"), "rude")
    (total,) = weighed(model, pair_effects.of_minimal_pairs(tokenizer, [pair], 64, bos=bos))
    more, less = (sum(reference(model, tokenizer, text, front, bos)) for text in (pair.more, pair.less))
    assert math.isclose(total, more - less, rel_tol=1e-3, abs_tol=1e-3)
    panda = PandaPair(" she loves the old city and her work", " he loves the old city and his work")
    found = weighed(model, pair_effects.of_panda_pairs(tokenizer, [panda], 9, 64, absolute=False, bos=bos))
    first = 0 if front and bos == "tokenizer" else 1
    one, other = (sum(reference(model, tokenizer, text, front, bos)[first:]) for text in panda[:2])
    assert math.isclose(sum(found), one - other, rel_tol=1e-3, abs_tol=1e-3)


def weighed(model, batches):
    totals = []
    for batch in batches:
        logs = model(batch["input_ids"]).logits.double().log_softmax(-1)
        asked = logs[batch["row"], batch["position"], batch["target_ids"]]
        totals.append(float((asked * batch["weights"][0]).sum()))
    return [sum(totals)]


@pytest.mark.parametrize(
    "module",
    [StereoSetDataModule, CrowsPairsDataModule, MinimalPairsDataModule, PandaPairsDataModule, PromptDataModule],
)
def test_a_rule_that_is_none(module):
    with pytest.raises(InputError, match=r"`bos` is expected to be tokenizer or authors but got 'author'\. Did"):
        module("minilm-mlm", bos="author")


def test_a_causal_model_is_not_masked_for_its_tokenizer_s_mask_token():
    """The kind comes from the architecture, not from the tokenizer."""
    tokenizer = tokenizer_with(())
    model = make_model("gpt2", len(tokenizer) + 1)
    expected = negative_log_likelihoods(model, tokenizer, SENTENCES)
    tokenizer.mask_token = "<mask>"
    torch.testing.assert_close(negative_log_likelihoods(model, tokenizer, SENTENCES), expected)
