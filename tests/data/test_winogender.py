from __future__ import annotations

import re

import pytest
from conftest import bpe_tokenizer, make_model, wordpiece_tokenizer
from pronoun_files import SHARES, winogender

from biaslab.data.winogender import WinogenderDataModule, female_shares, read_pairs, sentences
from biaslab.errors import InputError


@pytest.fixture
def files(tmp_path):
    return winogender(tmp_path / "files")


def test_pairs_are_read_in_order_with_the_share_of_women(files):
    pairs = read_pairs(files)
    assert len(pairs) == 16
    first = pairs[0]
    assert first.pronouns.text(0) == "The driver loves the man and she is kind."
    assert first.pronouns.text(1) == "The driver loves the man and he is kind."
    assert first[:4] == ("driver", "man", "occupation", 12.5)
    assert [pair.referent for pair in pairs[:4]] == ["occupation"] * 2 + ["participant"] * 2
    assert {pair.occupation: pair.female_share for pair in pairs} == SHARES


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "driver.man.0.male.txt",
            "driver.man.male.txt",
            r"line 2 of .* the sentid 'driver.man.male.txt' is not of the form occupat",
        ),
        (
            "driver.man.0.male.txt",
            "driver.man.2.male.txt",
            "line 2 of .* is not of the form occupation.participant.answer.gender",
        ),
        (
            "driver.man.0.male.txt",
            "driver.man.0.boy.txt",
            "line 2 of .* is not of the form occupation.participant.answer.gender",
        ),
        ("driver.man.0.male.txt", "driver.man.0.female.txt", "line 3 of .* is a duplicate"),
        ("driver.man.0.male.txt", "pilot.man.0.male.txt", "the sentences pilot.man.0 of .* have no female version"),
        (
            "driver.man.0.female.txt",
            "pilot.man.0.female.txt",
            "the sentences driver.man.0 of .* have no female version",
        ),
        ("man and he is kind", "man and he is rude", "the sentences driver.man.0 of .* differ in more than a pronoun"),
        ("sentid\tsentence", "id\tsentence", "line 2 of .* lacks a text under 'sentid'"),
        ("The driver loves the man and he is kind.", "", "line 2 of .* lacks a text under 'sentence'"),
    ],
)
def test_a_damaged_sentence_is_named(files, old, new, message):
    path = files / "all_sentences.tsv"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(InputError, match=message) as caught:
        read_pairs(files)
    assert "\n" not in str(caught.value)


def test_neutral_sentences_may_be_missing(files):
    before, path = read_pairs(files), files / "all_sentences.tsv"
    path.write_text("\n".join(line for line in path.read_text().splitlines() if "neutral" not in line))
    assert read_pairs(files) == before


def test_pronouns_of_the_other_gender_are_refused(files):
    path = files / "all_sentences.tsv"
    swapped = {"driver.man.0.male": "driver.man.0.female", "driver.man.0.female": "driver.man.0.male"}
    path.write_text(re.sub(r"driver\.man\.0\.(fe)?male", lambda match: swapped[match[0]], path.read_text()))
    with pytest.raises(InputError, match=r"the sentences driver.man.0 of .* have pronouns of the wrong gender"):
        read_pairs(files)


@pytest.mark.parametrize("share", ["0", "100", "-1", "many", "nan", "inf"])
def test_a_share_without_log_odds_is_refused(files, share):
    path = files / "occupations-stats.tsv"
    path.write_text(path.read_text().replace("38.0", share))
    with pytest.raises(InputError, match=f"between 0 and 100, .* line 3 of .* has '{share}' under 'bls_pct_female'"):
        read_pairs(files)


def test_lacking_columns_occupations_records_and_files_are_named(files):
    path = files / "occupations-stats.tsv"
    text = path.read_text()
    path.write_text(text.replace("bls_pct_female", "share"))
    with pytest.raises(InputError, match=r"line 2 of .*stats.tsv lacks a text under 'bls_pct_female'"):
        read_pairs(files)
    path.write_text(text.replace("girl", "pilot"))
    with pytest.raises(InputError, match=r"stats.tsv has none for 'girl'"):
        read_pairs(files)
    path.write_text(text.splitlines()[0])
    with pytest.raises(InputError, match=r"stats.tsv has no records"):
        read_pairs(files)
    path.unlink()
    with pytest.raises(InputError, match=r"stats.tsv can't be read"):
        read_pairs(files)


def data_of(folder, tokenizer, files, **options):
    make_model("bert" if tokenizer.mask_token else "gpt2", len(tokenizer)).config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    data = WinogenderDataModule(str(folder), path=str(files), **options)
    data.prepare_data()
    data.setup("test")
    return data


@pytest.mark.parametrize("causal", [False, True])
def test_batches_hold_each_pair_once(files, tmp_path, causal):
    tokenizer = bpe_tokenizer(masked=False) if causal else wordpiece_tokenizer()
    data = data_of(tmp_path, tokenizer, files, tokens_per_batch=60)
    assert sorted(number for batch in data.batches for number in batch["examples"].tolist()) == list(range(16))
    assert {batch["rule"] for batch in data.batches} == {"causal" if causal else "masked"}


def test_limit_and_every_count_occupations(files, tmp_path):
    data = data_of(tmp_path, wordpiece_tokenizer(), files, limit=3)
    assert {pair.occupation for pair in data.pairs} == {"driver", "doctor", "friend"}
    assert len(data.pairs) == 12
    with pytest.raises(InputError, match="at least 3 occupations with different shares"):
        data_of(tmp_path, wordpiece_tokenizer(), files, every=2)


@pytest.mark.assets
def test_the_whole_of_winogender(asset):
    """720 sentences of 120 templates about 60 occupations; the sentences fill the templates."""
    folder = asset("winogender")
    found = sentences(folder / "all_sentences.tsv")
    assert sum(map(len, found.values())) == 720
    assert len(female_shares(folder / "occupations-stats.tsv")) == 60
    templates = [line.split("\t") for line in (folder / "templates.tsv").read_text().splitlines()[1:]]
    assert len(templates) == 120
    pairs = read_pairs()
    assert len(pairs) == 240
    forms = {"$NOM_PRONOUN": ("she", "he"), "$POSS_PRONOUN": ("her", "his"), "$ACC_PRONOUN": ("her", "him")}
    whole = {(pair.occupation, pair.referent): pair for pair in pairs if pair.participant != "someone"}
    for occupation, participant, answer, text in templates:
        pair = whole[occupation, ("occupation", "participant")[int(answer)]]
        assert pair.participant == participant
        filled = text.strip().replace("$OCCUPATION", occupation).replace("$PARTICIPANT", participant)
        (mark,) = (each for each in forms if each in filled)
        assert [filled.replace(mark, form) for form in forms[mark]] == [pair.pronouns.text(n) for n in range(2)]
