"""What effects are asked of pairs and facts, against plain loops over sentences and queries."""

import random

import pytest
import torch
from conftest import bpe_tokenizer, make_model, wordpiece_tokenizer
from reference.importance import query_effects

from biaslab.data import effects, pair_effects
from biaslab.data.knowledge import Fact, word_queries
from biaslab.data.minimal_pairs import DIMENSIONS, PAIRS, MinimalPair, known_pairs
from biaslab.data.panda_pairs import PandaPair
from biaslab.errors import InputError
from biaslab.metrics.effects import NeuronEffects
from biaslab.tasks.effects import effects_of

KINDS = {"masked": wordpiece_tokenizer(), "causal": bpe_tokenizer(masked=False)}
TYPES = {"masked": "bert", "causal": "gpt2"}
MINIMAL = [
    MinimalPair("gender", "the old woman is mean.", "the boy is mean.", ("old woman", "boy"), "is mean"),
    MinimalPair("gender", "woman is rude.", "man is rude.", ("woman", "man"), "is rude"),
    MinimalPair("gender", "my girl was not at home.", "my boy was not at home.", ("girl", "boy"), "was not at home"),
    MinimalPair("age", "the old are rude.", "the young are rude.", ("old", "young"), "are rude"),
]
PANDA = [
    PandaPair("the man is rude and the boy is kind.", "the woman is rude and the girl is kind."),
    PandaPair("the man is rude and the boy is kind.", "the old man is rude and the boy is kind."),
    PandaPair("here he loves cooking in the city.", "here she loves cooking in the city."),
    PandaPair("people hates the old doctor.", "people hates the young doctor."),
    PandaPair("your friend loves the poor girl.", "your friend loves the rich girl."),
    PandaPair("your driver hates the rich boy.", "your driver hates the poor boy."),
]
FACTS = [
    Fact("gender", "my girl is a {slot}.", "woman", "man"),
    Fact("gender", "my boy is a {slot}.", "man", "woman"),
    Fact("gender", "he was a {slot}.", "boys", "girls"),
    Fact("age", "the doctor is {slot}.", "old", "aged"),
    Fact("age", "the driver is {slot}.", "old", "olds"),
]


@pytest.fixture(params=KINDS)
def asked(request):
    tokenizer = KINDS[request.param]
    return request.param, tokenizer, make_model(TYPES[request.param], len(tokenizer)).double()


def collected(model, batches, source) -> NeuronEffects:
    metric = NeuronEffects(pair_effects.QUANTITIES[source], (3, 48))
    for batch in batches:
        assert not any(torch.is_tensor(value) and value.dtype == torch.float64 for value in batch.values())
        assert batch["input_ids"].numel() <= 64
        metric.update(effects_of(model, batch).flatten(0, 1), batch["quantity"].flatten(), batch.get("tokens", 0))
    return metric


def total(model, ids: list[int], places: list[int], start: int | None) -> torch.Tensor:
    """The effects on the sum of the log-probabilities of some tokens: masked in turn, or each after those before."""
    effects = torch.zeros(3, 48, dtype=torch.float64)
    for place in places:
        if start is None:
            masked = [*ids[:place], KINDS["masked"].mask_token_id, *ids[place + 1 :]]
            effects += query_effects(model, torch.tensor(masked), place, ids[place])[0]
        elif place:
            effects += query_effects(model, torch.tensor(ids[:place]), place - 1, ids[place])[0]
        else:
            effects += query_effects(model, torch.tensor([start]), 0, ids[0])[0]
    return effects


def shared(first: list[int], second: list[int]) -> list[list[int]]:
    """Where two sentences are equal from either end, but for the special tokens there."""
    start = next(n for n in range(len(first)) if first[n] != second[n])
    end = next(n for n in range(1, len(first)) if first[-n] != second[-n]) - 1
    return [[*range(1, start), *range(len(ids) - end, len(ids) - 1)] for ids in (first, second)]


def test_minimal_pairs_ask_for_the_mean_difference(asked):
    kind, tokenizer, model = asked
    found = collected(model, pair_effects.of_minimal_pairs(tokenizer, MINIMAL, 64), "pairs")
    start = None if kind == "masked" else tokenizer.bos_token_id
    for dimension, count in (("gender", 3), ("age", 1), ("religion", 1)):
        expected = torch.zeros(3, 48, dtype=torch.float64)
        for pair in (pair for pair in MINIMAL if pair.dimension == dimension):
            both = tokenizer([pair.more, pair.less])["input_ids"]
            places = shared(*both) if kind == "masked" else [range(len(ids)) for ids in both]
            more, less = (total(model, ids, own, start) for ids, own in zip(both, places, strict=True))
            expected += (more - less) / count
        assert bool(expected.abs().max() > 1e-3) is (dimension != "religion")
        torch.testing.assert_close(found.effects(f"{dimension}/pairs"), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("absolute", [True, False])
def test_panda_pairs_ask_for_the_mean_absolute_difference(asked, absolute):
    """Of a pair an original, of both sentences the same length; the sign is that of the model's own difference."""
    kind, tokenizer, model = asked
    batches = list(pair_effects.of_panda_pairs(tokenizer, PANDA, 100, 64, absolute=absolute))
    texts = [PANDA[0], *PANDA[2:]]
    encoded = {tuple(ids): (number, side) for number, pair in enumerate(texts)
               for side, ids in enumerate(tokenizer(list(pair))["input_ids"])}  # fmt: skip
    differences = [torch.zeros(3, 48, dtype=torch.float64) for _ in texts]
    logs, hidden = [0.0] * len(texts), {}
    for batch in batches:
        for number, row in enumerate(batch["input_ids"].tolist()):
            queries = [
                (int(place), int(target))
                for own, place, target in zip(batch["row"], batch["position"], batch["target_ids"], strict=True)
                if own == number
            ]
            whole = list(row) if kind == "masked" else [*row, queries[-1][1]]
            for place, target in queries:
                if kind == "masked":
                    assert whole[place] == tokenizer.mask_token_id
                    whole[place] = target
                else:
                    assert whole[place + 1] == target
            pair, side = encoded[tuple(whole)]
            hidden[pair, side] = [target for _, target in queries]
            for place, target in queries:
                effect, log = query_effects(model, torch.tensor(row), place, target)
                differences[pair] += (-1) ** side * effect
                logs[pair] += (-1) ** side * float(log)
    assert len(hidden) == 2 * len(texts)
    if kind == "masked":
        assert all(hidden[number, 0] == hidden[number, 1] for number in range(5))
        assert [len(hidden[number, 0]) for number in range(5)] == [2, 2, 1, 2, 2]  # of 8, 7, 5, 6 and 6
    else:
        assert all(len(own) == len(tokenizer(texts[n][s])["input_ids"]) - 1 for (n, s), own in hidden.items())
    assert {log > 0 for log in logs} == {True, False}
    signs = [1 if log > 0 or not absolute else -1 for log in logs]
    expected = sum(sign * own for sign, own in zip(signs, differences, strict=True)) / 5
    found = collected(model, batches, "panda-pairs").effects("panda")
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    assert len(list(pair_effects.of_panda_pairs(tokenizer, PANDA, 1, 64))) == 1


def test_facts_ask_for_right_against_wrong_and_for_squares(asked):
    _, tokenizer, model = asked
    found = collected(model, pair_effects.of_facts(tokenizer, FACTS, 64), "knowledge")
    queries = word_queries(tokenizer, FACTS)
    assert max(map(len, queries)) > 1
    parts = [[query_effects(model, torch.tensor(q.input_ids), *q[1:])[0] for q in word] for word in queries]
    words = [torch.stack(part).mean(0) for part in parts]
    differences = [words[2 * number] - words[2 * number + 1] for number in range(len(FACTS))]
    for dimension, own in (("gender", differences[:3]), ("age", differences[3:])):
        expected = torch.stack(own).mean(0)
        assert expected.abs().max() > 1e-3
        torch.testing.assert_close(found.effects(f"{dimension}/known"), expected, atol=1e-6, rtol=1e-6)
    first = [
        parts[2 * n][0] - parts[2 * n + 1][0] for n in range(len(FACTS)) if queries[2 * n][0] != queries[2 * n + 1][0]
    ]
    squares = torch.stack([own.square() for own in first]).mean(0)
    torch.testing.assert_close(found.effects("known/information"), squares, atol=1e-6, rtol=1e-6)


def test_facts_whose_words_begin_alike_have_no_square():
    tokenizer = KINDS["masked"]
    alike = Fact("age", "he is {slot}.", "oldx", "oldy")
    queries = word_queries(tokenizer, [alike])
    assert queries[0][0] == queries[1][0]
    (known,) = {tuple(b["quantity"].unique().tolist()) for b in pair_effects.of_facts(tokenizer, [alike], 64)}
    assert known == (pair_effects.QUANTITIES["knowledge"].index("age/known"),)


def test_sources_stand_beside_the_others(tmp_path):
    tokenizer = KINDS["masked"]
    lines = [
        f"the {a} man loves the {b} girl and {c} boy ." for a in "abcdefghij" for b in "abcdefghij" for c in "klmno"
    ]
    text = tmp_path / "text.txt"
    text.write_text("\n".join(lines))
    sources = ["pairs", str(text), "knowledge"]
    names = effects.quantities_of(sources)
    assert names[0] == "text"
    assert names[1:] == pair_effects.QUANTITIES["pairs"] + pair_effects.QUANTITIES["knowledge"]
    batches = effects.make_batches(tokenizer, sources, 1000, 512)
    alone = effects.make_batches(tokenizer, [str(text)], 1000, 512)
    of_text = [batch for batch in batches if names.index("text") in batch["quantity"]]
    assert [b.keys() for b in of_text] == [b.keys() for b in alone]
    for ours, other in zip(of_text, alone, strict=True):
        assert all(torch.equal(torch.as_tensor(ours[key]), torch.as_tensor(other[key])) for key in other)
    measured = {names[number] for batch in batches for number in batch["quantity"].unique().tolist()}
    assert {"gender/pairs", "age/known", "known/information", "text"} <= measured
    squared = {names[number] for b in batches if "tokens" in b for number in b["quantity"].unique().tolist()}
    assert squared == {"known/information", "text"}
    others = [list(effects.other_batches(tokenizer, own, 64)) for own in (sources, [str(text)])]
    assert all(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(*others, strict=True))
    with pytest.raises(InputError, match="`contrast` is expected to include a source of ordinary text"):
        list(effects.plain_batches(tokenizer, ["stereoset", "pairs", "panda-pairs", "knowledge"], 10, 100))


def test_all_dimensions_share_a_limit():
    tokenizer = KINDS["masked"]
    few = list(pair_effects.make_batches(tokenizer, "knowledge", 5, 512, 0))
    known = [b["quantity"].unique().tolist() for b in few if "tokens" not in b]
    assert {number for own in known for number in own} == {0, 1, 2, 3, 4}
    assert sum(batch["tokens"] for batch in few if "tokens" in batch) <= 5
    pairs = known_pairs(tokenizer, PAIRS["find"])
    every = list(pair_effects.make_batches(tokenizer, "pairs", 1000, 512, 0))
    weights = torch.cat([batch["weights"][0] for batch in every])
    assert float(weights.sum()) == pytest.approx(0, abs=1e-4)  # both sentences are asked for as many tokens
    assert {n for b in every for n in b["quantity"].unique().tolist()} == {DIMENSIONS.index(p.dimension) for p in pairs}


def test_a_tokenizer_that_knows_no_words_is_refused():
    tokenizer = wordpiece_tokenizer(pieces=False)
    for source in ("pairs", "knowledge"):
        with pytest.raises(InputError, match=f"`contrast` is expected to hold words .* '{source}' has none"):
            effects.make_batches(tokenizer, [source], 10, 100)


def test_the_same_batches_each_time():
    made = [list(pair_effects.of_panda_pairs(KINDS["masked"], PANDA, 100, 64)) for _ in range(2)]
    random.random()
    for one, other in zip(*made, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)
