from __future__ import annotations

import csv

import pytest
import torch
from conftest import bpe_tokenizer, wordpiece_tokenizer
from reference import crows_pairs as reference

from biaslab.data.crows_pairs import CATEGORIES, CrowsPair, CrowsPairsDataModule, read_pairs, shared_queries
from biaslab.errors import InputError

WORDS = [("poor", "rich"), ("grumpily", "old"), ("gay", "straight"), ("she", "the doctor"), ("black", "white")]


def record(number=0, **changes):
    more, less = WORDS[number % len(WORDS)]
    fields = {
        "sent_more": f"The {more} friend is very rude{'.' * (number % 4)}",
        "sent_less": f"The {less} friend is very rude{'.' * (number % 4)}",
        "stereo_antistereo": "antistereo" if number % 3 == 2 else "stereo",
        "bias_type": CATEGORIES[number % len(CATEGORIES)],
    }
    return fields | changes


def write(path, records, columns=("", "sent_more", "sent_less", "stereo_antistereo", "bias_type", "anon_writer")):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="a0", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(records)
    return path


@pytest.fixture
def prepared(tmp_path):
    """A set-up data module of twelve pairs, by tokenizer and options."""

    def prepare(tokenizer, **options):
        tokenizer.save_pretrained(tmp_path)
        path = write(tmp_path / "mine.csv", [record(number) for number in range(12)])
        data = CrowsPairsDataModule(str(tmp_path), path=str(path), **options)
        data.prepare_data()
        data.setup("test")
        return data

    return prepare


def test_pairs_are_read_in_order(tmp_path):
    quoted = record(1, sent_more='He said "no",\nand left.')
    first, second = read_pairs(write(tmp_path / "mine.csv", [record(2), quoted]))
    assert first.more == "The gay friend is very rude.."
    assert first.less == "The straight friend is very rude.."
    assert first.category == "gender"
    assert first.direction == "antistereo"
    assert second == CrowsPair(quoted["sent_more"], quoted["sent_less"], "disability", "stereo")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sent_more": ""}, "line 3 of .* lacks a text under 'sent_more'"),
        ({"sent_less": "  "}, "line 3 of .* lacks a text under 'sent_less'"),
        ({"bias_type": ""}, "line 3 of .* lacks a text under 'bias_type'"),
        ({"bias_type": "height"}, "line 3 of .* has the bias_type 'height', not one of age, "),
        ({"stereo_antistereo": "both"}, "line 3 of .* has the stereo_antistereo 'both', not one of stereo, antistereo"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, changes, message):
    path = write(tmp_path / "mine.csv", [record(0), record(1, **changes), record(2)])
    with pytest.raises(InputError, match=message) as caught:
        read_pairs(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_column_and_a_short_line_are_named(tmp_path):
    path = write(tmp_path / "mine.csv", [record(0)], ("sent_more", "sent_less", "bias_type"))
    with pytest.raises(InputError, match=r"line 2 .* lacks a text under 'stereo_antistereo'"):
        read_pairs(path)
    path.write_text("sent_more,sent_less,stereo_antistereo,bias_type\na b,a c\n")
    with pytest.raises(InputError, match=r"line 2 .* lacks a text under 'bias_type'"):
        read_pairs(path)


def test_a_file_that_is_empty_cut_off_missing_or_binary_is_refused(tmp_path):
    path = write(tmp_path / "mine.csv", [])
    with pytest.raises(InputError, match=r"mine\.csv has no pairs"):
        read_pairs(path)
    path.write_text('sent_more,sent_less,stereo_antistereo,bias_type\n"He is')
    with pytest.raises(InputError, match=r"mine\.csv can't be read or is truncated"):
        read_pairs(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"mine\.csv can't be read"):
        read_pairs(path)
    with pytest.raises(InputError, match=r"none\.csv can't be read"):
        read_pairs(tmp_path / "none.csv")


def test_each_shared_token_is_masked_in_turn(masked_tokenizer):
    pair = CrowsPair("the poor man is grumpily rude to", "the white gay man is rude to", "age", "stereo")
    queries = shared_queries(masked_tokenizer, [pair])
    for text, asked in zip((pair.more, pair.less), queries, strict=True):
        whole = masked_tokenizer.encode(text)
        for query in asked:
            assert query.input_ids[query.position] == masked_tokenizer.mask_token_id
            restored = list(query.input_ids)
            restored[query.position] = query.target_id
            assert restored == whole
        assert {query.position for query in asked}.isdisjoint({0, len(whole) - 1})
        words = masked_tokenizer.decode([query.target_id for query in asked]).split()
        assert words == ["the", "man", "is", "rude", "to"]


def test_the_disadvantaged_groups_sentence_comes_first():
    """Of two tokens in another order one is shared: which, depends on the order of the sentences."""
    tokenizer = wordpiece_tokenizer()
    texts = ("the man rich poor friend", "the man poor rich friend")
    found = {}
    for direction in ("stereo", "antistereo"):
        both = shared_queries(tokenizer, [CrowsPair(*texts, "age", direction)])
        asked = [[query.target_id for query in queries] for queries in both]
        assert asked[0] == asked[1]
        found[direction] = tokenizer.decode(asked[0])
        first, second = (tokenizer.encode(text) for text in texts[:: 1 if direction == "stereo" else -1])
        assert asked[0] == [first[place] for place, _ in reference.shared(first, second)]
    assert found == {"stereo": "the man rich friend", "antistereo": "the man poor friend"}


def test_sentences_that_share_no_word_have_no_queries():
    pair = CrowsPair("rich man", "poor woman", "age", "stereo")
    assert shared_queries(wordpiece_tokenizer(), [pair]) == [[], []]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "causal"])
@pytest.mark.parametrize("tokens_per_batch", [1, 200, 10_000])
def test_batches_hold_each_pair_once_and_whole(prepared, kind, tokens_per_batch):
    tokenizer = {"wordpiece": wordpiece_tokenizer, "bpe": bpe_tokenizer, "causal": lambda: bpe_tokenizer(masked=False)}
    data = prepared(tokenizer[kind](), tokens_per_batch=tokens_per_batch)
    batches = list(data.test_dataloader())
    assert sorted(torch.cat([batch["examples"] for batch in batches]).tolist()) == list(range(12))
    for batch in batches:
        candidates = torch.cat([group["candidate"] for group in batch["inputs"]])
        counts = candidates.bincount(minlength=2 * len(batch["examples"])).view(-1, 2)
        assert torch.equal(counts[:, 0], counts[:, 1])
        assert counts.min() > 0
        tokens = sum(group["input_ids"].numel() for group in batch["inputs"])
        assert tokens <= tokens_per_batch or len(batch["examples"]) == 1
        for group in batch["inputs"]:
            assert group["input_ids"].unique(dim=0).shape == group["input_ids"].shape
        categories = [data.category_names[index] for index in batch["categories"]]
        assert categories == [data.pairs[example].category for example in batch["examples"]]
    assert {batch["rule"] for batch in batches} == {"causal" if kind == "causal" else "masked"}
    assert all(batch.get("start_id") == (0 if kind == "causal" else None) for batch in batches)


def test_a_limit_changes_no_id(prepared):
    every, few = prepared(wordpiece_tokenizer()), prepared(wordpiece_tokenizer(), limit=5)
    assert few.pairs == every.pairs[:5]
    assert few.category_names == every.category_names == CATEGORIES


def test_it_is_set_up_once(prepared):
    data = prepared(wordpiece_tokenizer())
    before = data.batches
    data.setup("test")
    assert data.batches is before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "`limit` .* got 0"),
        ({"tokens_per_batch": -1}, "`tokens_per_batch` .* got -1"),
        ({"every": 0}, "`every` .* got 0"),
    ],
)
def test_other_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        CrowsPairsDataModule(**options)


def test_every_so_many_th_pair_of_the_file(prepared):
    """Not of the batches, which go by length: of the file, whose order has nothing to do with length."""
    whole = prepared(wordpiece_tokenizer(), tokens_per_batch=30)
    some = prepared(wordpiece_tokenizer(), tokens_per_batch=30, limit=11, every=3)
    assert some.pairs == [whole.pairs[number] for number in (0, 3, 6, 9)]
    assert sorted(torch.cat([batch["examples"] for batch in some.batches]).tolist()) == list(range(4))


@pytest.mark.assets
def test_the_real_file(asset):
    pairs = read_pairs(asset("crows-pairs") / "crows_pairs_anonymized.csv")
    assert pairs == read_pairs()
    assert len(pairs) == 1508
    assert sum(pair.direction == "antistereo" for pair in pairs) == 218
    assert {pair.category for pair in pairs} == set(CATEGORIES)
    assert sum(pair.category == "race-color" for pair in pairs) == 516
