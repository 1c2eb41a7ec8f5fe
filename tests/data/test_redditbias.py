from __future__ import annotations

import csv
from collections import Counter

import pytest
import torch
from conftest import bpe_tokenizer, wordpiece_tokenizer

from biaslab.data.redditbias import DIMENSIONS, RedditBiasDataModule, RedditPair, read_reddit_pairs
from biaslab.errors import InputError

GROUPS = {"gender": ("woman", "man"), "race": ("black", "white"), "religion1": ("gay", "straight")}


def name(dimension, place):
    return f"reddit_comments_{dimension}_{DIMENSIONS[dimension][place]}_biased_test_reduced.csv"


def write(folder, dimension="gender", count=6, ids=False, changes=(), groups=None):
    """Both files of a dimension; changes are (file, line, column, text)."""
    more, less = groups or GROUPS[dimension]
    texts = [f"the {{}} is rude{' and mean' * (n % 3)} at home {'in the city ' * (n // 3)}." for n in range(count)]
    first = [
        {"id": f"c{n // 2}" if ids else "", "comment": "other words", "comments_processed": text.format(more)}
        for n, text in enumerate(texts)
    ]
    second = [
        {"initial_demo": "[]", "comments": text.format(more), "comments_processed": text.format(less)} for text in texts
    ]
    for file, line, column, text in changes:
        (first, second)[file][line - 2][column] = text
    for place, records in enumerate((first, second)):
        with (folder / name(dimension, place)).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, records[0])
            writer.writeheader()
            writer.writerows(records)
    return folder


def test_pairs_are_read_by_dimension_and_line(tmp_path):
    write(tmp_path, "race", ids=True)
    (tmp_path / "gender").mkdir()  # as in the authors' repository
    write(tmp_path / "gender", "gender")
    found = read_reddit_pairs(tmp_path)
    assert Counter(pair.dimension for pair in found) == {"gender": 6, "race": 6}
    file = name("gender", 1)
    assert found[0] == RedditPair(
        "gender", "the woman is rude at home .", "the man is rude at home .", "line 2", f"line 2 of {file}"
    )
    assert [pair.comment for pair in found[6:]] == ["c0", "c0", "c1", "c1", "c2", "c2"]
    assert found[11].less == "the white is rude and mean and mean at home in the city ."


def test_pairs_that_are_none_or_come_again_are_left_out(tmp_path, caplog):
    words = ((0, "comments_processed", "woman"), (1, "comments", "woman"), (1, "comments_processed", "man"))
    again = [(place, 4, column, f"the {word} is rude at home .") for place, column, word in words]
    same = [(1, 6, "comments_processed", "the woman is rude and mean at home in the city .")]
    write(tmp_path, changes=again + same)
    assert [pair.comment for pair in read_reddit_pairs(tmp_path)] == ["line 2", "line 3", "line 5", "line 7"]
    assert "skipping 2 of 6 pairs: 1 with identical sentences, 1 duplicates" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((0, 3, "comments_processed", " "), r"line 3 of .*female.* lacks a text under 'comments_processed'"),
        ((1, 4, "comments", ""), r"line 4 of .*_male.* lacks a text under 'comments'"),
        ((1, 5, "comments_processed", ""), r"line 5 of .*_male.* lacks a text under 'comments_processed'"),
        (
            (1, 5, "comments", "the woman is kind"),
            r"line 5 of .*_male.* does not match the comment in line 5 of .*female",
        ),
    ],
)
def test_a_damaged_line_is_named(tmp_path, change, message):
    write(tmp_path, changes=[change])
    with pytest.raises(InputError, match=message) as caught:
        read_reddit_pairs(tmp_path)
    assert "\n" not in str(caught.value)


def test_files_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(InputError, match="has no pairs in files such as reddit_comments_gender_female_biased"):
        read_reddit_pairs(tmp_path)
    write(tmp_path)
    longer = tmp_path / name("gender", 0)
    longer.write_text(longer.read_text() + ",x,the woman is here\n")
    with pytest.raises(InputError, match=r"has 7 comments and .*_male.* 6\. Fix"):
        read_reddit_pairs(tmp_path)
    longer.write_bytes(b"\xff" + longer.read_bytes())
    with pytest.raises(InputError, match="can't be read or is truncated: line 1 is not UTF-8"):
        read_reddit_pairs(tmp_path)
    longer.write_text("id,comment\n1,2\n")
    with pytest.raises(InputError, match=r"line 2 of .* lacks a text under 'comments_processed'"):
        read_reddit_pairs(tmp_path)
    write(tmp_path)
    (tmp_path / name("gender", 1)).unlink()
    with pytest.raises(InputError, match=r"can't be read or is truncated: .*No such file"):
        read_reddit_pairs(tmp_path)


def test_a_cut_file_is_refused_in_one_line(tmp_path):
    """Where it is cut before the counterpart's last text, which nothing else says the length of."""
    write(tmp_path)
    for place in range(2):
        path = tmp_path / name("gender", place)
        whole = path.read_bytes()
        for end in range(0, whole.rindex(b",") if place else len(whole) - 2, 7):
            path.write_bytes(whole[:end])
            with pytest.raises(InputError) as caught:
                read_reddit_pairs(tmp_path)
            assert "\n" not in str(caught.value)
        path.write_bytes(whole)


def prepare(folder, tokenizer, **options):
    tokenizer.save_pretrained(folder)
    data = RedditBiasDataModule(str(folder), path=str(folder), **options)
    data.prepare_data()
    data.setup("test")
    return data


@pytest.mark.parametrize("make", [wordpiece_tokenizer, bpe_tokenizer, lambda: bpe_tokenizer(False)])
def test_a_batch_says_how_many_tokens_are_asked_for(tmp_path, make):
    tokenizer = make()
    write(tmp_path)
    data = prepare(tmp_path, tokenizer, tokens_per_batch=60)
    assert len(data.batches) > 1
    examples = torch.cat([batch["examples"] for batch in data.batches])
    assert examples.sort().values.tolist() == list(range(6))
    tokens = torch.cat([batch["tokens"] for batch in data.batches])[examples.argsort()]
    texts = [(pair.more, pair.less) for pair in data.pairs]
    if tokenizer.mask_token is None:
        assert tokens.tolist() == [[len(tokenizer(t)["input_ids"]) for t in both] for both in texts]
    else:
        whole = [len(tokenizer(more, add_special_tokens=False)["input_ids"]) for more, _ in texts]
        assert tokens.tolist() == [[count - 1] * 2 for count in whole]  # all but the group's word
        asked = Counter(c for b in data.batches for group in b["inputs"] for c in group["candidate"].tolist())
        assert sum(asked.values()) == tokens.sum()


def test_the_first_pairs_or_every_other_one(tmp_path):
    for dimension in GROUPS:
        write(tmp_path, dimension)
    data = prepare(tmp_path, wordpiece_tokenizer(), every=4, limit=17)
    assert [(pair.dimension, pair.comment.removeprefix("line ")) for pair in data.pairs] == [
        ("gender", "2"), ("gender", "6"), ("race", "4"), ("religion1", "2"), ("religion1", "6"),
    ]  # fmt: skip


def test_sentences_that_share_nothing_or_are_too_long_are_named(tmp_path):
    other = [(1, 3, "comments_processed", "black people")]
    write(tmp_path, changes=other)
    with pytest.raises(InputError, match=r"share tokens .* line 3 of reddit_comments_gender_male.* shares none"):
        prepare(tmp_path, wordpiece_tokenizer())
    write(tmp_path)
    tokenizer = wordpiece_tokenizer()
    tokenizer.model_max_length = 12
    with pytest.raises(InputError, match=r"at most 12 tokens, .* line 4 of reddit_comments_gender_male"):
        prepare(tmp_path, tokenizer)


@pytest.mark.assets
def test_the_pairs_of_the_asset(asset):
    """Of 1,216 lines one is no pair (its comment names no group's word), and two come again."""
    asset("redditbias")
    found = read_reddit_pairs()
    assert Counter(pair.dimension for pair in found) == {
        "gender": 253, "orientation": 235, "race": 254, "religion1": 236, "religion2": 235,
    }  # fmt: skip
    assert len({(pair.dimension, pair.comment) for pair in found}) == 1213
