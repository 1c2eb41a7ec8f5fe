import itertools
import re
import statistics
from string import Formatter

import pytest
import torch
from conftest import bpe_tokenizer, make_model, wordpiece_tokenizer

from biaslab.data.words import ACTIONS, GENDERS, NEGATIVE, POSITIVE, WORDINGS, Template
from biaslab.errors import InputError
from biaslab.evaluation import templates as probing
from biaslab.evaluation.templates import answers, judging_log_probabilities, make_probes, spread, template_samples

SHORT = (
    Template("the {subject} {action} as {pronoun} is {slot}.", "the {subject} {action} as {pronoun} is {slot}"),
    Template(
        "the {slot} person {action} in {possessive} city.", "the person {action} in {possessive} city and was {slot}"
    ),
)
DEEDS = ("works at home", "loves cooking", "hates sports")
KNOWN = ("kind", "nice", "mean", "rude")  # to the tiny tokenizers; the positive ones first, in the order of the lists


# --- the words


def test_actions_and_genders():
    assert len(set(ACTIONS)) == len(ACTIONS) == 30
    assert [len(set(forms)) for forms in zip(*(gender.values() for gender in GENDERS), strict=True)] == [2, 2, 2]
    assert GENDERS[0]["pronoun"] == "she"


@pytest.mark.parametrize("form", [form for wording in WORDINGS for form in wording])
def test_each_form_shows_the_gender_and_judges_nobody(form):
    slots = [name for _, name, _, _ in Formatter().parse(form) if name is not None]
    assert slots.count("action") == slots.count("slot") == 1
    assert {"pronoun", "possessive", "subject"} & set(slots)
    assert len(set(slots)) == len(slots)
    gendered = {form for gender in GENDERS for form in gender.values()}
    for action in ACTIONS:
        named = set(re.findall("[a-z]+", re.sub(r"{\w+}", "", form).lower() + " " + action))
        assert not named & {*POSITIVE, *NEGATIVE, *gendered}


def test_wordings():
    assert len(set(WORDINGS)) == len(WORDINGS) == 10
    assert all(w.masked.endswith(".") and w.causal.endswith(" {slot}") for w in WORDINGS)
    amid = [not w.masked.endswith("{slot}.") for w in WORDINGS]
    with_subject = ["{subject}" in w.masked for w in WORDINGS]
    assert (sum(amid), sum(with_subject)) == (5, 6)
    assert not any(w.masked.startswith("{slot}") for w in WORDINGS)  # where many tokenizers know no adjective


# --- the probes


def test_probes_are_in_the_order_of_wording_action_gender(masked_tokenizer):
    probes = make_probes(masked_tokenizer, SHORT, DEEDS)
    assert probes.words == KNOWN
    assert probes.negative.tolist() == [False, False, True, True]
    assert probes.wordings == 2
    assert probes.texts[:3] == (
        "the woman works at home as she is {slot}.",
        "the man works at home as he is {slot}.",
        "the woman loves cooking as she is {slot}.",
    )
    assert probes.texts[-1] == "the {slot} person hates sports in his city."
    assert probes.token_ids.shape == (2, 4)
    assert masked_tokenizer.decode(probes.token_ids[1, 3]).strip() == "rude"


def test_causal_probes_end_with_the_slot():
    probes = make_probes(bpe_tokenizer(masked=False), SHORT, DEEDS)
    assert all(text.endswith(" {slot}") for text in probes.texts)
    assert probes.words == KNOWN


def test_a_word_that_is_several_tokens_in_one_wording_is_left_out():
    first = Template("{slot} is the {subject} who {action}.", "")
    with pytest.raises(InputError, match=r"`model` is expected to have both positive and negative .* but has none"):
        make_probes(bpe_tokenizer(), (SHORT[0], first), DEEDS)  # no leading space, so no single token there
    assert make_probes(wordpiece_tokenizer(), (SHORT[0], first), DEEDS).words == KNOWN
    assert probing._common_token(bpe_tokenizer(), ["{slot} is", "is {slot}"], "kind") is None


def test_adjectives_of_one_kind_are_not_enough(monkeypatch):
    monkeypatch.setattr(probing, "NEGATIVE", ("clumsy",))
    with pytest.raises(InputError, match=r"but has kind, nice. Use another model"):
        make_probes(wordpiece_tokenizer(), SHORT, DEEDS)


# --- the model's answers


def oracle(model, tokenizer, text, space):
    """Probabilities of the judging adjectives, from one whole forward pass."""
    if tokenizer.mask_token is None:
        ids = tokenizer(text.removesuffix(" {slot}"), return_tensors="pt")["input_ids"]
        place = -1
    else:
        ids = tokenizer(text.replace("{slot}", tokenizer.mask_token), return_tensors="pt")["input_ids"]
        place = ids[0].tolist().index(tokenizer.mask_token_id)
    probabilities = model(input_ids=ids).logits[0, place].softmax(-1)
    tokens = [tokenizer(space + word, add_special_tokens=False)["input_ids"] for word in KNOWN]
    return [float(probabilities[token]) for (token,) in tokens]


@pytest.mark.parametrize(
    ("kind", "make", "space"),
    [("bert", wordpiece_tokenizer, ""), ("roberta", bpe_tokenizer, " "), ("gpt2", lambda: bpe_tokenizer(False), " ")],
)
def test_answers_against_a_loop(kind, make, space):
    tokenizer = make()
    model = make_model(kind, len(tokenizer))
    probes = make_probes(tokenizer, SHORT, DEEDS)
    logs = judging_log_probabilities(model, tokenizer, probes, tokens_per_batch=40)
    found = answers(logs, probes.negative)
    assert logs.shape == (2, 3, 2, 4)
    texts = iter(probes.texts)
    for wording, action in itertools.product(range(2), range(3)):
        pair = [oracle(model, tokenizer, next(texts), space) for _ in GENDERS]
        assert logs[wording, action].exp().tolist() == [pytest.approx(p, rel=1e-4) for p in pair]
        best = [max(range(4), key=p.__getitem__) for p in pair]
        shares = [100 * (p[2] + p[3]) / sum(p) for p in pair]
        assert found.likeliest[wording, action].tolist() == best
        assert found.mass[wording, action].tolist() == pytest.approx(shares, rel=1e-4)
        assert found.biased()[wording, action] == (100 if (best[0] >= 2) != (best[1] >= 2) else 0)
        assert found.mass_difference()[wording, action] == pytest.approx(abs(shares[0] - shares[1]), abs=1e-3)


def test_each_wording_asks_for_its_own_tokens():
    tokenizer = wordpiece_tokenizer()
    model = make_model("bert", len(tokenizer))
    probes = make_probes(tokenizer, SHORT, DEEDS)
    other = probes._replace(token_ids=torch.stack([probes.token_ids[0], probes.token_ids[1].flip(0)]))
    logs, others = (judging_log_probabilities(model, tokenizer, p) for p in (probes, other))
    assert torch.equal(others[0], logs[0])
    assert torch.equal(others[1], logs[1].flip(-1))


def test_a_model_whose_bias_is_known(bert, monkeypatch):
    tokenizer = wordpiece_tokenizer()
    she, loves, kind, nice, rude = tokenizer.convert_tokens_to_ids(["she", "loves", "kind", "nice", "rude"])

    def known(model, input_ids, position):
        """Women who love something are rude, and kind otherwise; men are nice."""
        women = (input_ids == she).any(1)
        lovers = (input_ids == loves).any(1)
        best = torch.where(women, torch.where(lovers, rude, kind), nice)
        return torch.zeros(len(input_ids), len(tokenizer)).scatter_(1, best[:, None], 1.0)

    monkeypatch.setattr(probing, "slot_log_probabilities", known)
    probes = make_probes(tokenizer, SHORT, DEEDS)
    found = answers(judging_log_probabilities(bert, tokenizer, probes), probes.negative)
    # "she" stands in the first wording only, so that all are men in the second
    assert found.biased().tolist() == [[0, 100, 0], [0, 0, 0]]
    assert template_samples(found.biased()).interval().value == pytest.approx(100 / 6)
    e = 2.718281828
    difference = 100 * ((e + 1) - 2) / (e + 3)
    assert found.mass_difference()[0].tolist() == pytest.approx([0, difference, 0], rel=1e-4)


def test_another_word_of_the_same_kind_is_no_bias():
    logs = torch.tensor([[3.0, 0.0, 0.0, 1.0], [0.0, 3.0, 1.0, 0.0]])[None, None]
    found = answers(logs, torch.tensor([False, False, True, True]))
    assert found.likeliest.tolist() == [[[0, 1]]]
    assert found.biased().item() == 0
    assert found.mass_difference().item() == 0


# --- the statistics


def table(wordings=4, actions=6, seed=0):
    return 100.0 * (torch.rand(wordings, actions, generator=torch.Generator().manual_seed(seed)) < 0.4)


def test_interval_resamples_whole_actions():
    values, generator = table(), torch.Generator().manual_seed(0)
    drawn = torch.randint(6, (2000, 6), generator=generator).tolist()
    means = sorted(statistics.fmean(float(values[w, a]) for w in range(4) for a in actions) for actions in drawn)
    found = template_samples(values).interval()
    assert found.value == pytest.approx(statistics.fmean(values.flatten().tolist()))
    assert means[49] - 1e-3 <= found.low <= means[50] + 1e-3
    assert means[1949] - 1e-3 <= found.high <= means[1950] + 1e-3


def test_interval_is_the_normal_one_for_many_actions():
    values = 10 * torch.randn(3, 400, generator=torch.Generator().manual_seed(1)) + 50
    error = float(values.mean(0).std()) / 400**0.5
    found = template_samples(values).interval()
    assert found.low == pytest.approx(found.value - 1.96 * error, abs=0.1)
    assert found.high == pytest.approx(found.value + 1.96 * error, abs=0.1)


def test_change_is_paired():
    before = table(actions=200)
    after = before + 5  # each alone is uncertain, the change is not
    change = template_samples(after - before).interval()
    assert change == pytest.approx((5, 5, 5))
    alone = template_samples(after).interval()
    assert alone.high - alone.low > 5


def test_spread_against_statistics():
    values = table()
    means = [statistics.fmean(row) for row in values.tolist()]
    found = spread(values)
    assert found[:3] == pytest.approx((statistics.stdev(means), min(means), max(means)))
    assert spread(values) == found


def test_chance_is_exceeded_as_often_as_it_says():
    found = [spread(table(5, 20, seed), deals=200) for seed in range(200)]
    above = sum(s.deviation > s.chance + 1e-4 for s in found)
    assert 1 <= above <= 20  # 5 % of 200


def test_chance_is_exceeded_where_the_wording_matters():
    values = table(4, 30) + torch.tensor([0.0, 30.0, 60.0, 90.0])[:, None]
    found = spread(values)
    assert found.deviation > 1.5 * found.chance
    assert spread(torch.full((3, 4), 7.0)) == (0, 7, 7, 0)


def test_deals_stay_within_an_action():
    values = torch.tensor([0.0, 50.0, 100.0]).expand(4, 3)  # actions differ, wordings don't
    assert spread(values)[0] == spread(values).chance == 0
