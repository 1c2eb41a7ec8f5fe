from collections import Counter
from itertools import chain

import pytest

from biaslab.data.attribute_words import GENDER_PAIRS, RACE_PAIRS, SEARCH_PAIRS, TARGETS
from biaslab.models.loading import load_tokenizer

PAIRS = {"gender": GENDER_PAIRS, "search": SEARCH_PAIRS, "race": RACE_PAIRS}


def test_there_are_as_many_words_as_the_methods_ask_for() -> None:
    assert 190 <= len(GENDER_PAIRS) <= 230
    assert 28 <= len(SEARCH_PAIRS) <= 32
    assert 20 <= len(RACE_PAIRS) <= 32
    assert 150 <= len(TARGETS) <= 170


@pytest.mark.parametrize("name", PAIRS)
def test_a_word_stands_on_one_side_of_one_pair(name: str) -> None:
    assert all(len(pair) == 2 for pair in PAIRS[name])
    assert max(Counter(chain.from_iterable(PAIRS[name])).values()) == 1


@pytest.mark.parametrize("words", [*(tuple(chain.from_iterable(pairs)) for pairs in PAIRS.values()), TARGETS])
def test_words_are_single_lower_case_and_alphabetic(words: tuple[str, ...]) -> None:
    assert [word for word in words if not (word.isalpha() and word.isascii() and word.islower())] == []


def test_no_target_is_an_attribute_or_stands_twice() -> None:
    assert len(set(TARGETS)) == len(TARGETS)
    assert set(TARGETS).isdisjoint(chain.from_iterable(GENDER_PAIRS + RACE_PAIRS))


def test_no_word_of_gender_is_one_of_race() -> None:
    assert set(chain.from_iterable(GENDER_PAIRS)).isdisjoint(chain.from_iterable(RACE_PAIRS))


def test_both_sides_stand_in_the_right_order() -> None:
    assert {("she", "he"), ("her", "him"), ("hers", "his"), ("mother", "father"), ("mary", "john")} <= set(GENDER_PAIRS)
    assert set(SEARCH_PAIRS) <= set(GENDER_PAIRS)
    assert ("black", "white") in RACE_PAIRS


def test_search_pairs_are_single_tokens(asset) -> None:
    asset("minilm-encoder")
    tokenizer = load_tokenizer("minilm-mlm")
    words = [word for pair in SEARCH_PAIRS for word in pair]
    assert [word for word in words if len(tokenizer.tokenize(word)) != 1] == []
