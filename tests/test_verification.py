import math

import pytest
import torch
from conftest import bpe_tokenizer, make_model, wordpiece_tokenizer

from biaslab.errors import InputError
from biaslab.verification import Gaps, demographic_gaps, negative_log_likelihoods, perplexity, perplexity_change

SENTENCES = ["the doctor is kind", "the old man loves cooking", "she was not at home"]


def test_gaps_against_a_loop(bert):
    ids = torch.randint(5, 100, (4, 6), generator=torch.Generator().manual_seed(0))
    batch = {
        "input_ids": ids,
        "position": torch.tensor([1, 2, 3, 4]),
        "target_ids": torch.tensor([[7, 8, 9]]).expand(4, -1),
        "pairs": torch.tensor([[0, 1], [1, 2]]),
        "pair": torch.tensor([1, 0]),
    }
    gaps = demographic_gaps(bert, [batch], pairs=2)
    p = bert(input_ids=ids).logits[range(4), [1, 2, 3, 4]].softmax(-1)
    expected = [(p[:, 8] - p[:, 9]).abs().mean(), (p[:, 7] - p[:, 8]).abs().mean()]
    assert gaps.probability.tolist() == pytest.approx([float(e) for e in expected], rel=1e-5)
    logs = (p[:, 8] / p[:, 9]).log().abs().mean()
    assert float(gaps.log_probability[0]) == pytest.approx(float(logs), rel=1e-4)


def test_change_is_in_percent():
    before, after = (Gaps(torch.tensor([x]), torch.tensor([x])) for x in (2.0, 1.5))
    assert after.change_from(before).probability.item() == -25


def test_pseudo_likelihood_against_a_loop():
    tokenizer = wordpiece_tokenizer()
    model = make_model("bert", len(tokenizer))
    found = negative_log_likelihoods(model, tokenizer, SENTENCES, tokens_per_batch=20)
    for row, sentence in enumerate(SENTENCES):
        ids = tokenizer(sentence, return_tensors="pt")["input_ids"]
        total = 0.0
        for place in range(1, ids.shape[1] - 1):
            masked = ids.clone()
            masked[0, place] = tokenizer.mask_token_id
            total -= float(model(input_ids=masked).logits[0, place].log_softmax(-1)[ids[0, place]])
        assert found[row].tolist() == pytest.approx([total, ids.shape[1] - 2], rel=1e-5)


def test_causal_likelihood():
    tokenizer = bpe_tokenizer(masked=False)
    model = make_model("gpt2", len(tokenizer))
    found = negative_log_likelihoods(model, tokenizer, SENTENCES)
    assert (found[:, 0] > 0).all()
    assert found[0, 1] == len(tokenizer(SENTENCES[0])["input_ids"])


def test_perplexity_of_a_uniform_model_is_the_vocabulary():
    assert perplexity(torch.tensor([[3 * math.log(50), 3.0], [5 * math.log(50), 5.0]])) == pytest.approx(50)


def test_paired_change_of_itself_is_nothing():
    table = torch.tensor([[3.0, 2.0], [5.0, 4.0], [2.0, 1.0]], dtype=torch.float64)
    assert perplexity_change(table, table) == (0.0, 0.0, 0.0)
    more = table * torch.tensor([1.1, 1.0], dtype=torch.float64)
    value, low, high = perplexity_change(table, more)
    assert 0 < low <= value <= high


def test_no_sentences(bert):
    with pytest.raises(InputError, match="`sentences` is expected"):
        negative_log_likelihoods(bert, wordpiece_tokenizer(), [])
