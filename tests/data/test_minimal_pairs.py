"""The minimal pairs: what is in both parts, and what is asked about them."""

import re
from collections import Counter

import pytest
from conftest import bpe_tokenizer, wordpiece_tokenizer

from biaslab.data.minimal_pairs import (
    DIMENSIONS,
    PAIRS,
    MinimalPair,
    MinimalPairsDataModule,
    known_pairs,
    pair_queries,
)
from biaslab.errors import InputError

EVERY = [pair for part in PAIRS.values() for pair in part]
FUNCTION_WORDS = re.compile(
    "(a|about|all|and|are|as|at|be|by|cannot|do|everything|for|from|have|in|is|more|most|much|not|of|on|or|our|out|"
    "should|than|that|the|their|they|to|too|what|will|with|without)"
)


def words(text: str) -> set[str]:
    return {word for word in re.findall(r"[a-z]+", text.lower()) if not FUNCTION_WORDS.fullmatch(word)}


def test_there_are_as_many_of_each_dimension():
    assert {part: Counter(pair.dimension for pair in pairs) for part, pairs in PAIRS.items()} == {
        "find": dict.fromkeys(DIMENSIONS, 16), "held_out": dict.fromkeys(DIMENSIONS, 10),
    }  # fmt: skip
    assert len(DIMENSIONS) == 9
    assert set(Counter((pair.dimension, pair.attribute) for pair in EVERY).values()) == {2}  # in two wordings


def test_no_sentence_is_there_twice():
    sentences = [text.lower() for pair in EVERY for text in (pair.more, pair.less)]
    assert len(set(sentences)) == len(sentences)


@pytest.mark.parametrize("pair", EVERY, ids=lambda pair: pair.more)
def test_both_sentences_differ_in_the_group_alone(pair):
    for text, group in zip((pair.more, pair.less), pair.groups, strict=True):
        assert text.lower().count(f"{group} {pair.attribute}.".lower()) == 1
        assert text[0].isupper()
        assert text == " ".join(text.split())
    start, end = (part.lower() for part in pair.more.lower().split(pair.groups[0].lower()))
    assert pair.less.lower() == start + pair.groups[1].lower() + end


def test_groups_attributes_and_wordings_of_the_parts_are_others():
    def groups(pairs) -> set[str]:
        both = [tuple(map(words, pair.groups)) for pair in pairs]
        return {word for first, second in both for word in first ^ second}

    find, held_out = PAIRS["find"], PAIRS["held_out"]
    assert groups(find).isdisjoint(groups(held_out))
    for dimension in DIMENSIONS:
        said = [{w for p in part if p.dimension == dimension for w in words(p.attribute)} for part in (find, held_out)]
        assert said[0].isdisjoint(said[1]), dimension
    wordings = [
        {pair.more.lower().replace(f"{pair.groups[0]} {pair.attribute}".lower(), "") for pair in part}
        for part in (find, held_out)
    ]
    assert [len(own) for own in wordings] == [2, 2]
    assert wordings[0].isdisjoint(wordings[1])


def test_pairs_with_unknown_words_are_left_out():
    pairs = [
        MinimalPair("age", "the old man is rude.", "the young man is rude.", ("old man", "young man"), "is rude"),
        MinimalPair("age", "the old man is xyz.", "the young man is xyz.", ("old man", "young man"), "is xyz"),
        MinimalPair("age", "the xyz man is rude.", "the young man is rude.", ("xyz man", "young man"), "is rude"),
        MinimalPair("age", "the young man is rude.", "the xyz man is rude.", ("young man", "xyz man"), "is rude"),
    ]
    assert known_pairs(wordpiece_tokenizer(pieces=False), pairs) == pairs[:1]
    assert known_pairs(wordpiece_tokenizer(), pairs) == pairs
    long = pairs[0]._replace(less="a" * 60)
    assert known_pairs(wordpiece_tokenizer(), [long, pairs[0]]) == pairs[:1]  # spelled out


def test_a_masked_model_is_asked_for_what_both_share_in_turn():
    tokenizer = wordpiece_tokenizer(pieces=False)
    pair = MinimalPair("age", "the old man is rude.", "the young boy is rude.", ("old man", "young boy"), "is rude")
    asked = pair_queries(tokenizer, [pair])
    for text, queries in zip((pair.more, pair.less), asked, strict=True):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.convert_ids_to_tokens([query.target_id for query in queries]) == ["the", "is", "rude", "."]
        for query in queries:
            assert list(query.input_ids) == [
                tokenizer.mask_token_id if place == query.position else token for place, token in enumerate(ids)
            ]
            assert ids[query.position] == query.target_id


def test_a_causal_model_is_asked_for_every_token():
    tokenizer = bpe_tokenizer(masked=False)
    pair = MinimalPair("age", "the old man is rude.", "boys are rude.", ("old man", "boys"), "is rude")
    for text, (first, *later) in zip((pair.more, pair.less), pair_queries(tokenizer, [pair]), strict=True):
        ids = tokenizer(text)["input_ids"]
        assert first == ((tokenizer.bos_token_id,), 0, ids[0])
        assert [query.target_id for query in later] == ids[1:]
        assert [(list(query.input_ids), query.position) for query in later] == [
            (ids[:-1], n) for n in range(len(later))
        ]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "causal"])
def test_batches_hold_whole_pairs(kind, tmp_path):
    tokenizer = wordpiece_tokenizer() if kind == "wordpiece" else bpe_tokenizer(kind == "bpe")
    tokenizer.save_pretrained(tmp_path)
    data = MinimalPairsDataModule(str(tmp_path), tokens_per_batch=300)
    data.prepare_data()
    data.setup("test")
    assert data.pairs == known_pairs(tokenizer, PAIRS["held_out"])
    assert len(data.pairs) > 5
    assert sorted(number for batch in data.batches for number in batch["examples"].tolist()) == [
        *range(len(data.pairs))
    ]
    asked = pair_queries(tokenizer, data.pairs)
    for batch in data.batches:
        wanted = sorted(q for number in batch["examples"].tolist() for c in (0, 1) for q in asked[2 * number + c])
        queries = [
            (tuple(group["input_ids"][row].tolist()), int(position), int(target))
            for group in batch["inputs"]
            for row, position, target in zip(group["row"], group["position"], group["target_ids"], strict=True)
        ]
        assert sorted(queries) == wanted
        assert all(len(group["input_ids"].unique(dim=0)) == len(group["input_ids"]) for group in batch["inputs"])
    assert len(data.batches) > 1


def test_a_tokenizer_that_knows_no_words_has_no_batches(tmp_path):
    wordpiece_tokenizer(pieces=False).save_pretrained(tmp_path)
    data = MinimalPairsDataModule(str(tmp_path))
    data.setup("test")
    assert (data.pairs, data.batches) == ([], [])


def test_bad_input():
    with pytest.raises(InputError, match="`tokens_per_batch`"):
        MinimalPairsDataModule(tokens_per_batch=0)


@pytest.mark.assets
def test_no_sentence_is_of_a_benchmark(asset):
    asset("crows-pairs"), asset("stereoset")
    from biaslab.data import crows_pairs, stereoset

    def plain(text: str) -> str:
        return " ".join(re.findall(r"[a-z]+", text.lower()))

    published = {plain(text) for pair in crows_pairs.read_pairs() for text in (pair.more, pair.less)}
    clusters = [cluster for split in ("dev", "test") for cluster in stereoset.read_clusters(split)]
    published |= {plain(text) for cluster in clusters for text in cluster.sentences}
    assert published.isdisjoint(plain(text) for pair in EVERY for text in (pair.more, pair.less))
