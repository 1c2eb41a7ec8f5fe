from __future__ import annotations

import csv

import pytest
import torch
from conftest import bpe_tokenizer, wordpiece_tokenizer

from biaslab.data.bec_pro import BecProDataModule, causal_query, masked_pair, read_questions
from biaslab.errors import InputError

PERSONS = [
    ("He", "He", "male"),
    ("This man", "man", "male"),
    ("She", "She", "female"),
    ("My friend", "friend", "female"),
]
PROFESSIONS = [("doctor", "male"), ("bus driver", "female"), ("mason", "balanced"), ("boxer", "female")]
TEMPLATES = ["<person subject> is a <profession>.", "<person subject>, the <profession>, works at home."]
COLUMNS = ["", "Sentence", "Sent_TM", "Template", "Person", "Gender", "Profession", "Prof_Gender"]


def record(subject, person, gender, template, profession, group, **changes):
    sentence = template.replace("<person subject>", subject).replace("<profession>", profession)
    fields = {"Sentence": sentence, "Template": template, "Person": person, "Gender": gender}
    return fields | {"Profession": profession, "Prof_Gender": group, "Sent_TM": "unused"} | changes


def records(persons=PERSONS, professions=PROFESSIONS):
    return [record(*p, template, *q) for p in persons for template in TEMPLATES for q in professions]


def write(path, rows, columns=COLUMNS):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="0", extrasaction="ignore", delimiter="\t")
        writer.writeheader()
        writer.writerows(rows)
    return path


def prepared(folder, tokenizer, rows=None, **options):
    """A set-up data module."""
    tokenizer.save_pretrained(folder)
    path = write(folder / "mine.tsv", records() if rows is None else rows)
    data = BecProDataModule(str(folder), path=str(path), **options)
    data.prepare_data()
    data.setup("test")
    return data


def test_questions_are_read_by_wording(tmp_path):
    questions = read_questions(write(tmp_path / "mine.tsv", records()))
    assert [(q.wording, q.profession, q.group) for q in questions] == [(w, *p) for w in range(2) for p in PROFESSIONS]
    sentence = questions[1].sentences[3]
    assert sentence[:5] == ("My ", "friend", " is a ", "bus driver", ".")
    assert sentence.text == "My friend is a bus driver."
    assert sentence.gender == "female"
    assert [s.gender for s in questions[0].sentences] == ["male", "male", "female", "female"]


def test_a_person_word_within_the_profession_is_not_the_person(tmp_path):
    rows = [record("My son", "son", "male", TEMPLATES[0], "mason", "male")]
    (question,) = read_questions(write(tmp_path / "mine.tsv", rows))
    assert question.sentences[0][:5] == ("My ", "son", " is a ", "mason", ".")


def test_forms_by_gender_are_one_question(tmp_path):
    """As in German: professions and articles agree with the person; the English name tells what belongs together."""
    rows = [
        record("Er", "Er", "male", "<person subject>, der <profession>.", "Arzt", "male", Profession_EN="doctor"),
        record("Sie", "Sie", "female", "<person subject>, die <profession>.", "Ärztin", "male", Profession_EN="doctor"),
    ]
    (question,) = read_questions(write(tmp_path / "mine.tsv", rows, [*COLUMNS, "Profession_EN"]))
    assert question.profession == "doctor"
    assert [sentence.profession for sentence in question.sentences] == ["Arzt", "Ärztin"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Sentence": ""}, "line 3 of .* lacks a text under 'Sentence'"),
        ({"Person": " "}, "line 3 of .* lacks a text under 'Person'"),
        ({"Gender": "neuter"}, "line 3 of .* has the Gender 'neuter', not one of male, female"),
        ({"Prof_Gender": "any"}, "line 3 of .* has the Prof_Gender 'any', not one of male, female, balanced"),
        ({"Person": "uncle"}, "line 3 of .* has a sentence without 'uncle' followed by 'doctor'"),
        ({"Sentence": "doctor he."}, "line 3 of .* has a sentence without 'He' followed by 'doctor'"),
        ({"Prof_Gender": "female"}, "line 3 of .* has the Prof_Gender 'female', but an earlier line has 'male'"),
    ],
)
def test_a_damaged_line_is_named(tmp_path, changes, message):
    first = record(*PERSONS[0], TEMPLATES[0], *PROFESSIONS[0])
    path = write(tmp_path / "mine.tsv", [first, first | changes])
    with pytest.raises(InputError, match=message) as caught:
        read_questions(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_column_and_no_or_cut_or_missing_files_are_named(tmp_path):
    path = write(tmp_path / "mine.tsv", records(), [name for name in COLUMNS if name != "Prof_Gender"])
    with pytest.raises(InputError, match=r"line 2 of .* lacks a text under 'Prof_Gender'"):
        read_questions(path)
    with pytest.raises(InputError, match=r"mine\.tsv has no sentences"):
        read_questions(write(path, []))
    path.write_text('Sentence\tPerson\n"He is')
    with pytest.raises(InputError, match=r"mine\.tsv can't be read or is truncated"):
        read_questions(path)
    with pytest.raises(InputError, match=r"none\.tsv can't be read"):
        read_questions(tmp_path / "none.tsv")


def test_all_pieces_of_the_person_and_all_words_of_the_profession_are_masked(masked_tokenizer, tmp_path):
    rows = [record("My zebra", "zebra", "male", TEMPLATES[1], "bus driver", "male")]
    (question,) = read_questions(write(tmp_path / "mine.tsv", rows))
    beside, alone = masked_pair(masked_tokenizer, question.sentences[0])
    assert len(beside) == len(alone) > 1
    mask = masked_tokenizer.mask_token_id
    for queries, masks in ((beside, 0), (alone, 2)):
        assert len({query.input_ids for query in queries}) == 1
        assert queries[0].input_ids.count(mask) == len(queries) + masks
        places = [query.position for query in queries]
        assert places == list(range(places[0], places[0] + len(queries)))
        assert all(queries[0].input_ids[place] == mask for place in places)
        restored = list(queries[0].input_ids)
        for query in queries:
            restored[query.position] = query.target_id
        profession = " ".join([masked_tokenizer.mask_token] * 2) if masks else "bus driver"
        assert restored == masked_tokenizer.encode(f"My zebra, the {profession}, works at home.")


def test_a_causal_sentence_is_parted_before_the_profession(tmp_path):
    tokenizer = bpe_tokenizer(masked=False)
    for question in read_questions(write(tmp_path / "mine.tsv", records())):
        for sentence in question.sentences:
            query, start = causal_query(tokenizer, sentence, [5])
            assert query.input_ids[0] == 5
            assert tokenizer.decode(query.input_ids[1:]) == sentence.text
            assert tokenizer.decode(query.input_ids[1 : 1 + start]) == "".join(sentence[:3]).rstrip()


@pytest.mark.parametrize("kind", [wordpiece_tokenizer, bpe_tokenizer, lambda: bpe_tokenizer(masked=False)])
@pytest.mark.parametrize("tokens_per_batch", [1, 150, 10_000])
def test_batches_hold_each_question_once_and_whole(tmp_path, kind, tokens_per_batch):
    rows = [row for row in records() if row["Person"] != "man" or row["Profession"] != "doctor"]
    data = prepared(tmp_path, kind(), rows, tokens_per_batch=tokens_per_batch)
    batches = list(data.test_dataloader())
    assert torch.cat([batch["examples"] for batch in batches]).tolist() == list(range(8))
    for batch in batches:
        tokens = sum(group["input_ids"].numel() for group in batch["inputs"])
        assert tokens <= tokens_per_batch or len(batch["examples"]) == 1
        assert [(row >= 0).sum().item() for row in batch["genders"]] == [
            len(data.questions[number].sentences) for number in batch["examples"]
        ]


def test_some_professions(tmp_path):
    data = prepared(tmp_path, wordpiece_tokenizer(), limit=3, every=2)
    assert [question.profession for question in data.questions] == ["doctor", "mason"] * 2


def test_persons_that_the_tokenizer_does_not_know_are_left_out(tmp_path, caplog):
    persons = [("This man", "man", "male"), ("My person", "person", "female"), ("My xyz", "xyz", "female")]
    professions = [("doctor", "male"), ("driver", "female")]
    data = prepared(tmp_path, wordpiece_tokenizer(pieces=False), records(persons, professions))
    (batch,) = data.batches
    assert batch["genders"].tolist() == [[0, 1, -1]] * 4
    assert "4 of 12 sentences' person words are unknown to the tokenizer and are skipped." in caplog.text
    with pytest.raises(InputError, match="'doctor' in wording 1 has no female person"):
        prepared(tmp_path, wordpiece_tokenizer(pieces=False), records([persons[0], persons[2]], professions))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "`limit` .* got 0"),
        ({"every": 0}, "`every` .* got 0"),
        ({"tokens_per_batch": -1}, "`tokens_per_batch` .* got -1"),
        ({"language": "fr"}, "`language` is expected to be en or de but got 'fr'"),
        ({"bos": "none"}, "`bos` .* got 'none'"),
    ],
)
def test_other_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        BecProDataModule(**options)


@pytest.mark.assets
@pytest.mark.parametrize(("language", "repaired"), [("en", 23), ("de", 5)])
def test_the_real_file(asset, language, repaired):
    """Our masks are those of the file, except where these mask parts of other words."""
    path = asset("bec-pro") / f"BEC-Pro_{language.upper()}.tsv"
    questions = read_questions(path)
    assert questions == read_questions(language=language)
    assert len(questions) == 300
    assert {len(question.sentences) for question in questions} == {18}
    assert len({question.profession for question in questions}) == 60
    assert [sum(q.group == group for q in questions) for group in ("male", "female", "balanced")] == [100] * 3
    with path.open(encoding="utf-8", newline="") as file:
        masked = {row["Sentence"]: row["Sent_TAM"] for row in csv.DictReader(file, delimiter="\t")}
    ours = {}
    for sentence in (own for question in questions for own in question.sentences):
        masks = " ".join(["[MASK]"] * len(sentence.profession.split()))
        ours[sentence.text] = sentence._replace(person="[MASK]", profession=masks).text
    assert sum(ours[text] != masked[text] for text in masked) == repaired
    assert len(ours) == 5400
