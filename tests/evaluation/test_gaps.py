import math

import pytest
import torch
from conftest import CAUSAL, bpe_tokenizer, make_model, wordpiece_tokenizer

from biaslab.errors import InputError
from biaslab.evaluation.gaps import demographic_gaps, gap_samples
from biaslab.evaluation.perplexity import negative_log_likelihoods, perplexity, perplexity_samples
from biaslab.neurons.suppression import suppressed
from biaslab.statistics import estimate

SENTENCES = ["the doctor is kind", "the old man loves cooking", "she was not at home"]


def test_gaps_against_a_loop(bert):
    ids = torch.randint(5, 100, (4, 6), generator=torch.Generator().manual_seed(0))
    batch = {
        "input_ids": ids,
        "position": torch.tensor([1, 2, 3, 4]),
        "target_ids": torch.tensor([[7, 8, 9]]).expand(4, -1),
        "pairs": torch.tensor([[0, 1], [1, 2]]),
        "pair": torch.tensor([1, 0]),
        "kind": torch.tensor([0, 1, 1, 1]),
        "group": torch.tensor([4, 2, 4, 4]),
        "wording": torch.tensor([1, 0, 0, 1]),
    }
    probability, log_probability = demographic_gaps(bert, [batch], pairs=2)
    p = bert(input_ids=ids).logits[range(4), [1, 2, 3, 4]].softmax(-1)
    assert probability.shape == (2, 3, 2)  # words: (0, 4), (1, 2), (1, 4)
    for prompt, (word, wording) in enumerate([(0, 1), (1, 0), (2, 0), (2, 1)]):
        for pair, (one, other) in enumerate([(8, 9), (7, 8)]):
            first, second = float(p[prompt, one]), float(p[prompt, other])
            assert float(probability[pair, word, wording]) == pytest.approx(abs(first - second), rel=1e-4)
            logs = abs(math.log(first / second))
            assert float(log_probability[pair, word, wording]) == pytest.approx(logs, rel=1e-4)
    assert probability.isnan().sum() == log_probability.isnan().sum() == 4  # two places had no prompt


def change(before: torch.Tensor, *after: torch.Tensor):
    """The change of the mean over the pairs, in percent, of one run or several seeds."""
    return estimate(gap_samples(before), [gap_samples(gaps) for gaps in after], "percent").change


def test_change_is_in_percent_and_of_the_mean():
    """The mean gap falls from 2 to 1.5, though the mean of the prompts' own changes is another."""
    before, after = (torch.tensor([[gaps]]) for gaps in ([1.0, 3.0], [0.1, 2.9]))
    assert change(before, after).value == pytest.approx(-25.0)


def test_interval_against_a_loop():
    """Words and wordings are drawn by themselves, the same ones before and after; a missing prompt is left out."""
    generator = torch.Generator().manual_seed(0)
    before, factors = (torch.rand(3, 6, 5, generator=generator).double() for _ in range(2))
    before[1, 2, 3] = math.nan
    after = before * (factors + torch.arange(5)) / 5  # the wordings differ most
    found = []
    for _ in range(2000):
        words, wordings = (torch.randint(n, (n,), generator=generator) for n in (6, 5))
        means = [g[:, words][:, :, wordings].flatten(1).nanmean(1) for g in (before, after)]
        found.append(100 * (means[1] / means[0] - 1))
    values = 100 * (after.nanmean((1, 2)) / before.nanmean((1, 2)) - 1)
    for pairs in ([0], [1], [0, 1, 2]):
        value, low, high = change(before[pairs], after[pairs])
        of_pairs = torch.stack(found)[:, pairs].mean(1)
        assert value == pytest.approx(float(values[pairs].mean()))
        assert low == pytest.approx(float(of_pairs.quantile(0.025)), abs=3)
        assert high == pytest.approx(float(of_pairs.quantile(0.975)), abs=3)
        assert low < value < high


def test_no_change_is_certain_and_the_mean_of_controls_lies_between():
    before = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0))
    assert change(before, before) == pytest.approx((0, 0, 0), abs=1e-4)
    assert change(before, before, before / 2) == pytest.approx((-25, -25, -25), abs=1e-3)


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


def test_causal_sentences_of_equal_length_travel_together(monkeypatch):
    """B25: the figures are those of one sentence at a time."""
    tokenizer = bpe_tokenizer(masked=False)
    model = make_model("gpt2", len(tokenizer))
    together = negative_log_likelihoods(model, tokenizer, SENTENCES * 2)
    alone = torch.cat([negative_log_likelihoods(model, tokenizer, [sentence]) for sentence in SENTENCES * 2])
    torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("model_type", CAUSAL)
def test_causal_likelihood_against_a_loop(model_type):
    """Sentences of several lengths in one pass, with suppressed neurons."""
    tokenizer = bpe_tokenizer(masked=False)
    model = make_model(model_type, len(tokenizer))
    with suppressed(model, [(0, 1), (2, 30)]):
        found = negative_log_likelihoods(model, tokenizer, SENTENCES)
        for row, sentence in zip(found.tolist(), SENTENCES, strict=True):
            ids = tokenizer(sentence)["input_ids"]
            before = [[tokenizer.bos_token_id], *(ids[:end] for end in range(1, len(ids)))]
            passes = [model(input_ids=torch.tensor([each])).logits[0, -1].double().log_softmax(-1) for each in before]
            total = -sum(float(each[token]) for each, token in zip(passes, ids, strict=True))
            assert row == pytest.approx([total, len(ids)], rel=1e-5)


def test_perplexity_of_a_uniform_model_is_the_vocabulary():
    assert float(perplexity(torch.tensor([[3 * math.log(50), 3.0], [5 * math.log(50), 5.0]]))) == pytest.approx(50)


def test_paired_change_of_itself_is_nothing():
    table = torch.tensor([[3.0, 2.0], [5.0, 4.0], [2.0, 1.0]], dtype=torch.float64)
    before, more = (perplexity_samples(each) for each in (table, table * torch.tensor([1.1, 1.0]).double()))
    assert estimate(before, [before], "percent").change == (0.0, 0.0, 0.0)
    value, low, high = estimate(before, [more], "percent").change
    assert 0 < low <= value <= high


def test_no_sentences(bert):
    with pytest.raises(InputError, match="`sentences` is expected"):
        negative_log_likelihoods(bert, wordpiece_tokenizer(), [])
