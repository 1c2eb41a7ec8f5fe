"""BBQ's files as question sets, what is left out and put right, and what a model is asked."""

from __future__ import annotations

import csv
import json
from collections import Counter

import pytest
from conftest import bpe_tokenizer, wordpiece_tokenizer
from reference import bbq as reference

from biaslab.data.bbq import _MASKED_WORDINGS, BBQDataModule, causal_answers, listed, masked_answers, wording
from biaslab.data.bbq_questions import BIASED, CATEGORIES, COUNTER, UNKNOWN, choose_sets, read_sets
from biaslab.errors import InputError
from biaslab.models.tokens import Beginning


@pytest.fixture
def rows():
    return reference.records()


def test_questions_have_the_biased_answer_first_and_the_unknown_one_last(tmp_path, rows):
    sets, left_out = read_sets(reference.write(tmp_path, rows))
    assert left_out == 0
    assert [len(each) for each in sets] == [4] * 12
    for question, row in zip([question for each in sets for question in each], rows, strict=True):
        unknown = next(i for i in range(3) if row["answer_info"][f"ans{i}"][1] == "unknown")
        assert question.answers[BIASED] == row[f"ans{row['target_loc']}"]
        assert question.answers[UNKNOWN] == row[f"ans{unknown}"]
        assert question.answers[question.right] == row[f"ans{row['label']}"]
        assert set(question.answers) == {row[f"ans{i}"] for i in range(3)}
        assert question.negative is (row["question_polarity"] == "neg")
        wanted = (row["category"], row["question_index"], row["context"], row["question"])
        assert (question.category, question.template, question.context, question.question) == wanted


def test_an_african_is_not_the_target_beside_an_african_american(tmp_path, rows):
    """Where the metadata say so, the other person is: the authors' search finds African in African American."""
    for row in rows:
        for answer in row["answer_info"].values():
            answer[1] = {"M-Asian": "M-African", "F-White": "F-African"}.get(answer[1], answer[1])
    expected = [question for each in read_sets(reference.write(tmp_path / "right", rows))[0] for question in each]
    for row in rows:
        if row["category"] == "Race_x_gender":
            unknown = next(i for i in range(3) if row["answer_info"][f"ans{i}"][1] == "unknown")
            row["target_loc"] = str(3 - unknown - int(row["target_loc"]))
    found = [question for each in read_sets(reference.write(tmp_path / "wrong", rows))[0] for question in each]
    assert found == expected


def test_questions_without_a_target_are_left_out(tmp_path, rows, monkeypatch):
    said = []
    monkeypatch.setattr("biaslab.data.bbq.say_once", said.append)
    for row in rows[:8]:
        row["target_loc"] = "NA"
    folder = reference.write(tmp_path / "bbq", rows)
    lines = (folder / "additional_metadata.csv").read_text().splitlines(keepends=True)
    (folder / "additional_metadata.csv").write_text("".join(lines[:-4]))
    sets, left_out = read_sets(folder)
    assert left_out == 12
    assert len(sets) == 9
    tokenizer = wordpiece_tokenizer()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    data = BBQDataModule(str(tmp_path / "tokenizer"), path=str(folder))
    data.setup("test")
    assert data.left_out == 12
    assert said == [f"Skipping 12 questions of {folder} without a target in additional_metadata.csv."]


def damaged(change, number=2):
    def damage(folder):
        path = folder / "Age.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        change(rows[number])
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    return damage


def metadata(change):
    def damage(folder):
        path = folder / "additional_metadata.csv"
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        rows = change(rows) or rows
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    return damage


def only_unknown(rows):
    for row in rows:
        row["target_loc"] = "NA"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damaged(lambda row: row.pop("context")), r"line 3 of .*Age\.jsonl lacks a text under 'context'"),
        (damaged(lambda row: row.update(ans1="  ")), r"line 3 of .* lacks a text under 'ans1'"),
        (
            damaged(lambda row: row.update(category="Height")),
            "line 3 of .* has the category 'Height', not one of Age, ",
        ),
        (damaged(lambda row: row.update(question_polarity="x")), "line 3 of .* the question_polarity 'x', not one of"),
        (damaged(lambda row: row.update(context_condition="y")), "line 3 of .* the context_condition 'y', not one of"),
        (damaged(lambda row: row.update(example_id="2")), "line 3 of .* lacks a number under 'example_id'"),
        (damaged(lambda row: row.update(example_id=1)), "line 3 of .* repeats example_id 1 of Age"),
        (damaged(lambda row: row.update(question_index=None)), "line 3 of .* lacks a text under 'question_index'"),
        (damaged(lambda row: row.update(label=3)), "line 3 of .* has the label 3 instead of 0, 1 or 2"),
        (damaged(lambda row: row.update(label=True)), "line 3 of .* has the label True"),
        (damaged(lambda row: row.update(answer_info={})), "line 3 of .* lacks the three answers' groups"),
        (damaged(lambda row: row.update(answer_info=[])), "line 3 of .* lacks the three answers' groups"),
        (damaged(lambda row: row.update(context_condition="disambig")), "line 3 of .* is disambig, but .* 'unknown'"),
        (lambda f: (f / "Age.jsonl").write_text("[1]\n"), r"line 1 of .*Age\.jsonl is not a JSON object"),
        (lambda f: (f / "Age.jsonl").write_text("\n{"), r"line 2 of .*Age\.jsonl is not JSON: "),
        (lambda f: (f / "Age.jsonl").write_text(""), r"Age\.jsonl can't be read.* empty"),
        (lambda f: (f / "additional_metadata.csv").unlink(), r"additional_metadata\.csv can't be read"),
        (lambda f: [each.unlink() for each in f.glob("*.jsonl")], r"has no \*\.jsonl\. Give another folder"),
        (
            metadata(lambda rows: rows[4].update(target_loc="3")),
            r"line 6 of .*\.csv has the target_loc '3', not one of",
        ),
        (metadata(lambda rows: rows[4].update(category="")), r"line 6 of .*\.csv lacks a text under 'category'"),
        (metadata(lambda rows: [{"category": "Age"}]), r"line 2 of .*\.csv lacks a text under 'question_index'"),
        (
            metadata(lambda rows: [*rows, rows[0] | {"target_loc": "1"}]),
            "line 50 .* names another target for example_id",
        ),
        (metadata(lambda rows: rows[0].update(target_loc="1")), r"the unknown answer as the target of line 1 of .*Age"),
        (metadata(only_unknown), r"has no question with a target in additional_metadata\.csv"),
    ],
)
def test_a_damaged_folder_is_refused_with_the_place(tmp_path, rows, damage, message):
    folder = reference.write(tmp_path / "bbq", rows)
    damage(folder)
    with pytest.raises(InputError, match=message) as error:
        read_sets(folder)
    assert "\n" not in str(error.value)
    assert str(error.value).startswith("`path` is expected to be a folder ")


def test_half_a_character_is_refused(tmp_path, rows):
    folder = reference.write(tmp_path / "bbq", rows)
    path = folder / "Age.jsonl"
    path.write_text(path.read_text().replace("the old man work", r"the \ud800 man work", 1))
    with pytest.raises(InputError, match=r"line \d+ of .*Age\.jsonl is not JSON"):
        read_sets(folder)


def test_some_sets_of_each_category_are_chosen_over_its_templates(tmp_path):
    sets, _ = read_sets(reference.write(tmp_path, reference.records(sets=10)))
    chosen = choose_sets(sets, 6)
    assert Counter(each[0].category for each in chosen) == {"Age": 6, "Race_x_gender": 6}
    assert Counter((each[0].category, each[0].template) for each in chosen) == {
        (category, template): 2 for category in ("Age", "Race_x_gender") for template in ("1", "2", "3")
    }
    assert choose_sets(sets, 6) == chosen
    assert choose_sets(sets, 6, seed=1) != chosen
    assert choose_sets(sets, None) == choose_sets(sets, 1000) == sets
    assert choose_sets(sets[::-1], None) == [*sets[:29:-1], *sets[29::-1]]
    places = {id(each): place for place, each in enumerate(sets)}
    counts = Counter(places[id(each)] for seed in range(300) for each in choose_sets(sets, 6, seed))
    assert all(0.6 * 60 < counts[number] < 1.4 * 60 for number in range(60))  # each is as likely as any other


def test_each_answer_has_each_place_equally_often(tmp_path, rows):
    sets, _ = read_sets(reference.write(tmp_path, rows))
    negative, positive = (next(q for q in sets[0] if q.negative is each) for each in (True, False))
    met = Counter()
    for number in range(18):
        order = listed(negative, number, 0)
        assert sorted(order) == [BIASED, COUNTER, UNKNOWN]
        swapped = [{BIASED: COUNTER, COUNTER: BIASED}.get(each, each) for each in order]
        assert listed(positive, number, 0) == swapped  # the same people in the same places
        met[tuple(order), wording(number, 0)] += 1
        orders = [listed(negative, number, step) for step in range(3)]
        assert all({each[place] for each in orders} == {BIASED, COUNTER, UNKNOWN} for place in range(3))
        assert {wording(number, step) for step in range(3)} == {0, 1, 2}
    assert len(met) == 18  # six orders in three wordings


@pytest.mark.parametrize("form", ["text", "letters"])
def test_a_causal_model_is_asked_for_the_answer_or_its_letter(tmp_path, rows, form):
    sets, _ = read_sets(reference.write(tmp_path, rows))
    tokenizer = bpe_tokenizer(masked=False)
    for number in range(18):
        question = sets[0][number % 4]
        order = listed(question, number, 0)
        for column, (query,) in enumerate(causal_answers(tokenizer, [(question, number, 0)], form, Beginning((7, 8)))):
            assert query.input_ids[:2] == (7, 8)
            prompt = tokenizer.decode(query.input_ids[2 : query.position + 1])
            answer = tokenizer.decode(query.input_ids[query.position + 1 :])
            assert prompt.startswith(question.context + "\n")
            assert question.question in prompt
            places = [prompt.index(f"\n{letter}") for letter in "ABC"]
            lines = [prompt[place + 4 :].split("\n")[0] for place in places]
            assert lines == [question.answers[each] for each in order]
            assert answer == " " + (question.answers[column] if form == "text" else "ABC"[order.index(column)])


@pytest.mark.parametrize("tokenizer", [wordpiece_tokenizer(), bpe_tokenizer()], ids=["wordpiece", "bpe"])
def test_a_masked_models_answer_is_uncovered_from_left_to_right(tmp_path, rows, tokenizer):
    sets, _ = read_sets(reference.write(tmp_path, rows))
    question = sets[1][1]
    for number in range(3):
        for column, queries in enumerate(masked_answers(tokenizer, [(question, number, 0)])):
            answer = question.answers[column]
            tokens = [query.target_id for query in queries]
            assert tokenizer.decode(tokens).strip().lower() == answer.lower()
            for at, query in enumerate(queries):
                masked = [place for place, token in enumerate(query.input_ids) if token == tokenizer.mask_token_id]
                assert masked == list(range(query.position, query.position + len(queries) - at))
                assert list(query.input_ids[query.position - at : query.position]) == tokens[:at]
            filled = list(queries[-1].input_ids)
            filled[queries[-1].position] = tokens[-1]
            text = _MASKED_WORDINGS[wording(number, 0)].format(context=question.context, question=question.question)
            assert filled == tokenizer.encode(text.replace("BLANK", answer))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"categories": "Height"}, "`categories` is expected to be one or more of Age, .* but got Height"),
        (
            {"categories": ["Age", "Religion"]},
            r"`categories` is expected to be in .* \(Age, Race_x_gender\) but",
        ),
        ({"sets_per_category": 0}, "`sets_per_category` is expected to be a positive integer but got 0"),
        ({"form": "letter"}, "`form` is expected to be text or letters but got 'letter'. Did you mean 'letters'"),
        ({"form": "letters"}, '`form` is expected to be "text" for a masked model'),
        ({"wordings": 4}, "`wordings` is expected to be"),
        ({"bos": "x"}, "`bos`"),
        ({"seed": -1}, "`seed`"),
    ],
)
def test_other_options_are_refused(tmp_path, rows, options, message):
    folder = reference.write(tmp_path / "bbq", rows)
    wordpiece_tokenizer().save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(InputError, match=message):
        BBQDataModule(str(tmp_path / "tokenizer"), path=str(folder), **options).setup("test")


def test_batches_are_whole_sets_with_each_question_once(tmp_path, rows):
    folder = reference.write(tmp_path / "bbq", rows[:-1])  # the last set lacks a question
    wordpiece_tokenizer().save_pretrained(tmp_path / "tokenizer")
    data = BBQDataModule(str(tmp_path / "tokenizer"), path=str(folder), tokens_per_batch=2500, wordings=2)
    data.setup("test")
    assert len(data.batches) > 2
    numbers = [number for batch in data.batches for number in batch["examples"].tolist()]
    assert sorted(numbers) == list(range(47))
    for batch in data.batches:
        own = batch["examples"].tolist()
        assert {number // 4 for number in own} == {number // 4 for number in range(47) if number in own}
        assert all(
            len([n for n in own if n // 4 == each]) == (3 if each == 11 else 4) for each in {n // 4 for n in own}
        )
        assert batch["tokens"].shape == (len(own), 2, 3)
        asked = sum(len(group["row"]) for group in batch["inputs"])
        assert asked == batch["tokens"].sum()


def test_a_text_that_is_too_long_is_named(tmp_path, rows):
    folder = reference.write(tmp_path / "bbq", rows)
    tokenizer = wordpiece_tokenizer()
    tokenizer.model_max_length = 24
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(InputError, match=r"`path` .* at most 24 tokens, .* but template 1 of Age has"):
        BBQDataModule(str(tmp_path / "tokenizer"), path=str(folder)).setup("test")


@pytest.fixture(scope="module")
def sets():
    from biaslab.models import assets

    try:
        folder = assets.fetch("bbq")
    except InputError as error:
        pytest.skip(str(error))
    return read_sets(folder)


@pytest.mark.assets
def test_the_files_hold_what_the_paper_says(sets):
    found, left_out = sets
    questions = [question for each in found for question in each]
    assert (len(questions), left_out) == (58_476, 16)
    assert Counter(question.category for question in questions) == {
        "Age": 3680, "Disability_status": 1556, "Gender_identity": 5656, "Nationality": 3080,
        "Physical_appearance": 1576, "Race_ethnicity": 6880, "Race_x_SES": 11160, "Race_x_gender": 15960,
        "Religion": 1200, "SES": 6864, "Sexual_orientation": 864,
    }  # fmt: skip
    assert {len(each) for each in found} == {4}
    assert len({(question.category, question.template) for question in questions}) == 343
    for each in found:
        assert len({(question.category, question.template) for question in each}) == 1
        assert len({(question.negative, question.right == UNKNOWN) for question in each}) == 4
        people = {question.answers[:2][:: 1 if question.negative else -1] for question in each}
        assert len(people) == 1  # the target is the same person in all four
        contexts = {question.right == UNKNOWN: question.context for question in each}
        assert contexts[False].startswith(contexts[True])


@pytest.mark.assets
def test_half_of_the_disambiguated_questions_are_answered_by_the_bias(sets):
    """But for six templates whose contexts go one way: so the targets, and which of them were put right, are right."""
    balance = {}
    for question in (question for each in sets[0] for question in each if question.right != UNKNOWN):
        balance.setdefault((question.category, question.template), []).append(question.right == BIASED)
    shares = {name: sum(values) / len(values) for name, values in balance.items()}
    assert {name: share for name, share in shares.items() if share != 0.5} == {
        ("Disability_status", "4"): 1, ("Disability_status", "19"): 1, ("Physical_appearance", "6"): 1,
        ("Physical_appearance", "10"): 0, ("SES", "9"): 1, ("SES", "10"): 1,
    }  # fmt: skip
    by_category = {}
    for (category, _), values in balance.items():
        by_category.setdefault(category, []).extend(values)
    always_right = {name: 200 * sum(values) / len(values) - 100 for name, values in by_category.items()}
    assert {name: round(bias, 1) for name, bias in always_right.items() if bias} == {
        "Physical_appearance": 8.1, "SES": 2.1, "Disability_status": 1.3,
    }  # fmt: skip


@pytest.mark.assets
def test_by_default_some_of_each_category(asset):
    asset("bbq")
    asset("minilm-encoder")
    data = BBQDataModule()
    data.setup("test")
    assert Counter(question.category for question in data.questions) == dict.fromkeys(CATEGORIES, 48)
    assert Counter((q.negative, q.right == UNKNOWN) for q in data.questions) == dict.fromkeys(
        [(False, False), (False, True), (True, False), (True, True)], 132
    )
