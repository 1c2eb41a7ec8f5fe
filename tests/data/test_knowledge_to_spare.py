"""The sentences to find with: as good as the reported ones, and none of them."""

from collections import Counter

import pytest

from biaslab.data.knowledge import FACTS
from biaslab.data.knowledge_to_spare import FACTS_TO_SPARE

COUNTS = {"gender": 36, "ethnicity": 34, "religion": 30, "occupation": 36, "age": 26}


def answers(facts) -> set[str]:
    return {word.lower() for fact in facts for word in (fact.right, fact.wrong)}


def test_there_are_enough_of_each_dimension():
    assert Counter(fact.dimension for fact in FACTS_TO_SPARE) == COUNTS


def test_no_answer_and_no_sentence_is_reported():
    assert answers(FACTS_TO_SPARE).isdisjoint(answers(FACTS))
    pairs = [{frozenset((fact.right, fact.wrong)) for fact in facts} for facts in (FACTS, FACTS_TO_SPARE)]
    assert pairs[0].isdisjoint(pairs[1])
    assert {fact.text.lower() for fact in FACTS}.isdisjoint(fact.text.lower() for fact in FACTS_TO_SPARE)


def test_each_is_there_once_and_has_its_twin():
    assert len({fact.text.lower() for fact in FACTS_TO_SPARE}) == len(FACTS_TO_SPARE)
    pairs = Counter((fact.dimension, fact.right, fact.wrong) for fact in FACTS_TO_SPARE)
    for (dimension, right, wrong), count in pairs.items():
        assert pairs[dimension, wrong, right] == count == 1


@pytest.mark.parametrize("fact", FACTS_TO_SPARE, ids=lambda fact: fact.text)
def test_the_slot_ends_the_sentence_and_both_words_fit_it(fact):
    start, slot, end = fact.text.partition("{slot}")
    assert (slot, end) == ("{slot}", ".")
    assert start == start.strip() + " "
    assert start[0].isupper()
    *_, before = start.split()
    for word in (fact.right, fact.wrong):
        assert word.lower() not in start.lower().split()  # the sentence does not give the word away
        if before in ("a", "an"):
            assert (before == "an") is (word[0].lower() in "aeiou")
