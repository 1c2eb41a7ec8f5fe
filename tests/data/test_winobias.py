from __future__ import annotations

import pytest
from conftest import bpe_tokenizer, make_model, wordpiece_tokenizer
from pronoun_files import FEMALE, MALE, winobias

from biaslab.data.pronouns import PronounPair, pronoun_pair, pronoun_queries
from biaslab.data.winobias import KINDS, WinoBiasDataModule, read_pairs
from biaslab.errors import InputError


@pytest.fixture
def files(tmp_path):
    return winobias(tmp_path / "files")


def texts(pair):
    return pair.pronouns.text(0), pair.pronouns.text(1)


def test_pairs_are_read_in_order_without_marks(files):
    pairs, left_out = read_pairs(files)
    assert left_out == 0
    assert [pair.kind for pair in pairs] == [KINDS[0]] * 12 + [KINDS[1]] * 12
    first, second = pairs[:2]
    assert texts(first) == tuple(f"The driver loves the friend because {he} is kind." for he in ("he", "she"))
    assert (first.occupation, first.stereotype) == ("driver", "male")
    assert texts(second) == tuple(f"The girl loves the driver because {he} is kind." for he in ("she", "he"))
    assert (second.occupation, second.stereotype) == ("girl", "female")
    assert {pair.occupation for pair in pairs if pair.stereotype == "male"} == set(MALE)
    assert {pair.occupation for pair in pairs if pair.stereotype == "female"} == set(FEMALE)
    assert len(read_pairs(files, "all")[0]) == 48
    chosen, _ = read_pairs(files, limit=8, every=3)
    assert [pair.place.split(" of ")[0] for pair in chosen] == ["line 1", "line 4", "line 7"] * 2


@pytest.mark.parametrize(
    ("first", "second", "parts", "pronouns", "gender"),
    [
        ("He sold his car.", "She sold her car.", ("", " sold ", " car."), (("He", "his"), ("She", "her")), "male"),
        ("Ask her.", "Ask him.", ("Ask ", "."), (("her",), ("him",)), "female"),
        ("Is it hers, herself?", "Is it his, himself?", ("Is it ", ", ", "?"),
         (("hers", "herself"), ("his", "himself")), "female"),
        ("Her job is hard.", "His job is hard.", ("", " job is hard."), (("Her",), ("His",)), "female"),
    ],
)  # fmt: skip
def test_pronouns_are_found_by_comparing(first, second, parts, pronouns, gender):
    found = pronoun_pair(first, second)
    assert found == PronounPair(parts, pronouns, gender)
    assert (found.text(0), found.text(1)) == (first, second)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("She is kind.", "She is kind."),
        ("She is kind.", "He is rude."),
        ("She is kind.", "They is kind."),
        ("She saw her.", "He saw he."),  # no counterpart
        ("She saw him.", "He saw her."),  # of both genders
        ("She is kind.", "He is very kind."),
        ("She is kind.", "He is kind?"),
    ],
)
def test_what_differs_otherwise_is_no_pair(first, second):
    assert pronoun_pair(first, second) is None


def test_lines_that_differ_in_more_are_left_out_and_counted(files, caplog):
    path = files / "anti_stereotyped_type1.txt.test"
    path.write_text(path.read_text().replace("kind", "rude", 2))
    pairs, left_out = read_pairs(files)
    assert (len(pairs), left_out) == (22, 2)
    assert pairs[0].place.startswith("line 3 of ")


def change(path, number, line):
    lines = path.read_text().splitlines()
    lines[number - 1] = line
    path.write_text("\n".join(line for line in lines if line is not None))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("The doctor said [he] left.", "line 3 of .*pro_.*type1.* is not a number and a sentence"),
        ("3", "line 3 of .* is not a number and a sentence"),
        ("", "line 3 of .* is not a number and a sentence"),
        ("3 The doctor said [he] left.", "line 3 of .* has 0 occupations in brackets instead of one"),
        ("3 [The doctor] told [the boy] that [he] left.", "line 3 of .* has 2 occupations"),
        ("4 [The boy] said that [he] left.", "line 3 is sentence 4 in .*pro_.* and sentence 3 in anti_"),
        (None, "has 11 lines and anti_stereotyped_type1.txt.test 12"),
    ],
)
def test_a_damaged_line_is_named(files, line, message):
    change(files / "pro_stereotyped_type1.txt.test", 3, line)
    with pytest.raises(InputError, match=message) as caught:
        read_pairs(files)
    assert "\n" not in str(caught.value)


def test_an_occupation_of_both_stereotypes_is_refused(files):
    for side, he in (("pro", "she"), ("anti", "he")):
        change(files / f"{side}_stereotyped_type2.txt.test", 5, f"5 [The driver] said that [{he}] left.")
    with pytest.raises(InputError, match=r"of 'driver' is male in line 1 of .* and female in line 5 of "):
        read_pairs(files)


def test_one_stereotype_alone_is_refused(files):
    with pytest.raises(InputError, match="none whose stereotype is female"):
        read_pairs(files, every=2)


def test_missing_and_binary_files_are_refused(files, tmp_path):
    with pytest.raises(InputError, match=r"pro_stereotyped_type1.txt.test can't be read"):
        read_pairs(tmp_path)
    (files / "anti_stereotyped_type2.txt.test").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"anti_stereotyped_type2.txt.test can't be read"):
        read_pairs(files)
    with pytest.raises(InputError, match="`part` is expected to be"):
        read_pairs(files, "train")


def test_pronouns_are_masked_one_after_the_other(masked_tokenizer):
    """Both sentences ask the same input first; no pronoun stands in the sentence before it was asked for."""
    pair = pronoun_pair("the man said he was kind to himself.", "the man said she was kind to herself.")
    mask = masked_tokenizer.mask_token_id
    own, other = pronoun_queries(masked_tokenizer, [pair])
    assert own[0].input_ids == other[0].input_ids
    assert own[0].input_ids.count(mask) == 2
    for column, asked in enumerate((own, other)):
        assert all(query.input_ids[query.position] == mask for query in asked)
        assert [query.input_ids.count(mask) for query in asked] == [2] * (len(asked) - len(asked[1:])) + [1] * (
            len(asked) - 1
        )
        last = list(asked[-1].input_ids)
        last[asked[-1].position] = asked[-1].target_id
        assert last == masked_tokenizer.encode(pair.text(column))
        assert len(asked) > 2  # a pronoun of several pieces


def test_a_sentence_may_hold_a_mask_or_a_blank_of_its_own(masked_tokenizer):
    mask = masked_tokenizer.mask_token
    pair = pronoun_pair(f"the {mask} said BLANK he was kind to {mask}", f"the {mask} said BLANK she was kind to {mask}")
    own, _ = pronoun_queries(masked_tokenizer, [pair])
    assert masked_tokenizer.decode(own[0].input_ids[own[0].position + 1 :]).split()[:2] == ["was", "kind"]
    filled = list(own[0].input_ids)
    filled[own[0].position] = own[0].target_id
    assert filled == masked_tokenizer.encode(pair.text(0))


def data_of(folder, tokenizer, files, **options):
    make_model("bert" if tokenizer.mask_token else "gpt2", len(tokenizer)).config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    data = WinoBiasDataModule(str(folder), path=str(files), **options)
    data.prepare_data()
    data.setup("test")
    return data


def test_batches_hold_whole_pairs_and_equal_inputs_once(files, tmp_path):
    data = data_of(tmp_path, wordpiece_tokenizer(), files, tokens_per_batch=100)
    assert sorted(number for batch in data.batches for number in batch["examples"].tolist()) == list(range(24))
    assert len(data.batches) > 1
    assert {batch["rule"] for batch in data.batches} == {"masked"}
    inputs = [tuple(row) for batch in data.batches for g in batch["inputs"] for row in g["input_ids"].tolist()]
    simple = [pair for pair in data.pairs if pair.pronouns.pronouns[0] == ("he",)]
    asked = [wordpiece_tokenizer().encode(texts(pair)[0].replace("he is", "[MASK] is")) for pair in simple]
    assert all(inputs.count(tuple(ids)) == 1 for ids in asked)


def test_a_causal_models_sentences_are_whole(files, tmp_path):
    data = data_of(tmp_path, bpe_tokenizer(masked=False), files)
    (batch,) = data.batches
    assert batch["rule"] == "causal"
    assert sum(len(group["candidate"]) for group in batch["inputs"]) == 2 * 24


def test_unknown_pronouns_and_long_sentences_are_said(files, tmp_path, caplog):
    data_of(tmp_path, wordpiece_tokenizer(pieces=False), files)
    assert "pronouns are unknown to the tokenizer and are scored as the unknown token" in caplog.text
    for side, he in (("pro", "he"), ("anti", "she")):
        long = f"2 The girl loves [the boy] because [{he}] is{' very' * 80} kind."
        change(files / f"{side}_stereotyped_type2.txt.test", 2, long)
    with pytest.raises(InputError, match=r"at most 64 tokens, .* but line 2 of .*type2.txt.test in .* has \d+"):
        data_of(tmp_path, wordpiece_tokenizer(), files)


@pytest.mark.parametrize("options", [{"part": "train"}, {"bos": "none"}, {"limit": 0}, {"every": 0}])
def test_other_options_are_refused(options):
    with pytest.raises(InputError, match=f"`{next(iter(options))}` is expected to be"):
        WinoBiasDataModule(**options)


@pytest.mark.assets
def test_the_whole_of_winobias(asset):
    """8 files of 396 lines, 40 occupations; 1,584 pairs, a few of them with slips."""
    folder = asset("winobias")
    assert [len(path.read_text().splitlines()) for path in sorted(folder.iterdir())] == [396] * 8
    found = {part: read_pairs(part=part) for part in ("dev", "test", "all")}
    assert {part: len(pairs) + left_out for part, (pairs, left_out) in found.items()} == {
        "dev": 792, "test": 792, "all": 1584,
    }  # fmt: skip
    assert [found[part][1] for part in ("dev", "test")] == [10, 10]
    stereotypes = {pair.occupation: pair.stereotype for pair in found["all"][0]}
    assert len(stereotypes) == 40
    assert list(stereotypes.values()).count("male") == 20
    assert all("[" not in text and "  " not in text for pair in found["all"][0] for text in texts(pair))
