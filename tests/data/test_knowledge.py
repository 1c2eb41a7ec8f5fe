"""The sentences whose demographic word follows from their meaning, and what is asked about them."""

from collections import Counter

import pytest
from conftest import bpe_tokenizer, wordpiece_tokenizer

from biaslab.data.knowledge import FACTS, Fact, KnowledgeDataModule, known_facts, word_queries
from biaslab.errors import InputError

COUNTS = {"gender": 32, "ethnicity": 32, "religion": 32, "occupation": 32, "age": 22}
SHORT = [
    Fact("gender", "my girl is a {slot}.", "woman", "man"),
    Fact("gender", "my boy is a {slot}.", "man", "woman"),
    Fact("age", "the doctor is {slot}.", "old", "aged"),
]


def test_there_are_enough_of_each_dimension():
    assert Counter(fact.dimension for fact in FACTS) == COUNTS
    assert len(FACTS) == 150


def test_each_sentence_is_there_once():
    assert len({fact.text.lower() for fact in FACTS}) == len(FACTS)


def test_each_word_is_right_as_often_as_wrong_within_its_pair():
    """So a model that always prefers the same word of a pair is right in half of the sentences."""
    pairs = Counter((fact.dimension, fact.right, fact.wrong) for fact in FACTS)
    for (dimension, right, wrong), count in pairs.items():
        assert right != wrong
        assert pairs[dimension, wrong, right] == count


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.text)
def test_the_slot_ends_the_sentence_and_both_words_fit_it(fact):
    start, slot, end = fact.text.partition("{slot}")
    assert (slot, end) == ("{slot}", ".")
    assert start == start.strip() + " "
    assert start[0].isupper()
    *_, before = start.split()
    for word in (fact.right, fact.wrong):
        assert word == word.strip() != ""
        assert word.lower() not in start.lower().split()  # the sentence does not give the word away
        if before in ("a", "an"):
            assert (before == "an") is (word[0].lower() in "aeiou")


def test_the_most_sentences_are_known_to_a_tokenizer_that_knows_letters(masked_tokenizer):
    """It needs many tokens: for some sentences too many."""
    known = known_facts(masked_tokenizer)
    assert len(FACTS) / 2 < len(known) <= len(FACTS)
    assert known == [fact for fact in FACTS if fact in known]  # in their order
    for fact in known:
        for word in (fact.right, fact.wrong):
            assert len(masked_tokenizer(fact.text.replace("{slot}", word))["input_ids"]) <= 48 + 2


def test_sentences_with_unknown_words_are_left_out():
    """Whether the unknown word is an answer or stands in the sentence."""
    tokenizer = wordpiece_tokenizer(pieces=False)
    assert known_facts(tokenizer, SHORT) == SHORT[:2]
    strange = [fact._replace(text=f"surely {fact.text}") for fact in SHORT]
    assert known_facts(tokenizer, [*strange, *SHORT]) == SHORT[:2]


def test_a_masked_model_is_asked_for_each_token_after_those_before_it():
    tokenizer = wordpiece_tokenizer()
    (man, old, aged) = (tokenizer(word, add_special_tokens=False)["input_ids"] for word in ("man", "old", "aged"))
    queries = word_queries(tokenizer, SHORT)
    assert len(queries) == 2 * len(SHORT)
    (query,) = queries[1]
    assert " ".join(tokenizer.convert_ids_to_tokens(query.input_ids)) == "[CLS] my girl is a [MASK] . [SEP]"
    assert query.position == 5
    assert [query.target_id] == man
    assert [[query.target_id for query in word] for word in queries[4:]] == [old, aged]
    assert len(aged) > 1
    start, end = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("the doctor is", "."))
    for number, query in enumerate(queries[5]):
        assert list(query.input_ids[1:-1]) == [*start, *aged[:number], tokenizer.mask_token_id, *end]
        assert query.input_ids[query.position] == tokenizer.mask_token_id


def test_a_causal_model_is_asked_after_what_stands_before():
    tokenizer = bpe_tokenizer(masked=False)
    aged = tokenizer(" aged")["input_ids"]
    asked = word_queries(tokenizer, SHORT)[5]
    assert [query.target_id for query in asked] == aged
    assert len(aged) > 1
    for number, query in enumerate(asked):
        assert list(query.input_ids) == [*tokenizer("the doctor is")["input_ids"], *aged[:number]]
        assert query.position == len(query.input_ids) - 1


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "causal"])
def test_batches_hold_whole_sentences(kind, tmp_path):
    tokenizer = wordpiece_tokenizer() if kind == "wordpiece" else bpe_tokenizer(kind == "bpe")
    tokenizer.save_pretrained(tmp_path)
    data = KnowledgeDataModule(str(tmp_path), tokens_per_batch=200)
    data.prepare_data()
    data.setup("test")
    examples = [number for batch in data.batches for number in batch["examples"].tolist()]
    assert sorted(examples) == list(range(len(data.facts)))
    assert len(data.batches) > 1
    for batch in data.batches:
        asked = sum(len(group["target_ids"]) for group in batch["inputs"])
        assert batch["pieces"].shape == (len(batch["examples"]), 2)
        assert asked == batch["pieces"].sum()
        places = [(int(row), int(t)) for row, t in enumerate(batch["examples"])]
        for row, number in places:
            pieces = [len(word) for word in word_queries(tokenizer, [data.facts[number]])]
            assert batch["pieces"][row].tolist() == pieces


def test_a_tokenizer_that_knows_no_words_has_no_batches(tmp_path):
    wordpiece_tokenizer(pieces=False).save_pretrained(tmp_path)
    data = KnowledgeDataModule(str(tmp_path))
    data.setup("test")
    assert (data.facts, data.batches) == ([], [])


def test_bad_input():
    with pytest.raises(InputError, match="`tokens_per_batch`"):
        KnowledgeDataModule(tokens_per_batch=0)
