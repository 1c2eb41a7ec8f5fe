import json

import pytest
from conftest import bpe_tokenizer, make_model, wordpiece_tokenizer

from biaslab.data import words
from biaslab.data.prompts import PromptDataModule, make_prompts, read_prompts, resolve_dimension
from biaslab.errors import InputError
from biaslab.tokenization import SLOT


def test_find_and_held_out_share_neither_modifier_nor_wording():
    parts = {
        part: make_prompts(list(words.DIMENSIONS), list(words.MODIFIERS), 100, part) for part in ("find", "held_out")
    }
    assert len(parts["find"]) == 9 * 6 * 70 * 12
    assert len(parts["held_out"]) == 9 * 6 * 30 * 5
    assert not {p.text for p in parts["find"]} & {p.text for p in parts["held_out"]}


def test_a_group_is_one_modifier_in_all_wordings():
    prompts = make_prompts(["gender"], ["negative"], 3, "find")
    groups = {p.group for p in prompts}
    assert len(groups) == 3
    for group in groups:
        texts = [p.text for p in prompts if p.group == group]
        assert len(texts) == 12
        assert any(all(m in text for text in texts) for m in words.MODIFIERS["negative"])


def test_causal_prompts_end_with_the_slot():
    assert all(p.text.endswith(SLOT) for p in make_prompts(["age"], ["positive"], 2, "find", masked=False))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["sex"], ["negative"], 1, "find"), "`dimensions` is expected to be of gender.*but got sex"),
        ((["gender"], ["bad"], 1, "find"), "`kinds` is expected"),
        ((["gender"], ["negative"], 0, "find"), "`modifiers` is expected to be a positive integer but got 0"),
        ((["gender"], ["negative"], 1, "test"), "`part` is expected"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        make_prompts(*arguments)


TEXTS = [f"the person is {SLOT}.", f"{SLOT} is the age of the person."]


def test_pairs_of_unknown_words_are_dropped_by_name():
    pairs = [("young", "old"), ("old", "middle-aged"), ("old", "Old")]
    dimension, dropped = resolve_dimension(wordpiece_tokenizer(), "age", pairs, TEXTS[:1])
    assert dimension.pair_names == ["age/young-old"]
    assert dropped == {
        "age/old-middle-aged": "'middle-aged': not one known token in the slot",
        "age/old-Old": "both are the same token",
    }


def test_token_must_be_the_same_in_each_wording():
    tokenizer = bpe_tokenizer()  # at the start of a sentence there is no space, so other tokens
    _, dropped = resolve_dimension(tokenizer, "age", [("young", "old")], TEXTS)
    assert "age/young-old" in dropped


def authors_file(path, groups):
    path.write_text(json.dumps(groups))
    return str(path)


def test_authors_format(tmp_path):
    groups = [
        [
            ["The [MASK] person is rude.", "young", "x"],
            ["The [MASK] person is rude.", "old", "x"],
            ["A rude [MASK] man.", "young", "x"],
        ],
        [["The [MASK] person is kind.", "young", "y"]],
    ]
    prompts, pairs = read_prompts(authors_file(tmp_path / "age.json", groups))
    assert pairs == {"age": [("young", "old")]}
    assert [(p.text, p.group) for p in prompts] == [
        ("The {slot} person is rude.", 0),
        ("A rude {slot} man.", 0),
        ("The {slot} person is kind.", 1),
    ]


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"a": 1}, "list of groups"),
        ([[["only two", "x"]]], r"group 0 of .* isn't"),
        ([[["no slot", "x", "i"]]], "has 0 in 'no slot'"),
        ([[["[MASK] and [MASK]", "x", "i"]]], "has 2 in"),
        ([[["a [MASK]", "x", "i"]]], "two demographics or more"),
    ],
)
def test_bad_authors_file(tmp_path, groups, message):
    with pytest.raises(InputError, match=message):
        read_prompts(authors_file(tmp_path / "f.json", groups))


def test_unreadable_file(tmp_path):
    (tmp_path / "f.json").write_text("[")
    with pytest.raises(InputError, match="can't be read"):
        read_prompts(tmp_path / "f.json")


@pytest.fixture
def folder(tmp_path):
    wordpiece_tokenizer().save_pretrained(tmp_path / "tokenizer")
    return str(tmp_path / "tokenizer")


def test_batches(folder):
    data = PromptDataModule(folder, dimensions=["gender", "age"], modifiers=2, tokens_per_batch=200)
    data.setup("predict")
    assert data.pair_names == ["gender/female-male", "age/young-old"]
    assert "age/old-teenage" in data.dropped
    seen = []
    for batch in data.predict_dataloader()[0]:
        rows, length = batch["input_ids"].shape
        assert rows * length <= 200 or rows == 1
        assert (batch["input_ids"][range(rows), batch["position"]] == data.tokenizer.mask_token_id).all()
        assert batch["target_ids"].shape == (rows, 2)
        seen += batch["example"].tolist()
    assert sorted(seen) == list(range(2 * 6 * 2 * 12))


def test_own_pairs(folder):
    data = PromptDataModule(folder, pairs={"ethnicity": [["asian", "white"]]}, modifiers=1)
    data.setup("predict")
    assert data.pair_names == ["ethnicity/asian-white"]


def test_no_pair_left(folder):
    data = PromptDataModule(folder, dimensions=["politics"], modifiers=1)
    with pytest.raises(InputError, match=r"`pairs` is expected to hold demographics.*politics/democrat-conservative"):
        data.setup("predict")


def test_bad_pairs(folder):
    for pairs in ({"sex": [["a", "b"]]}, {"gender": [["female"]]}):
        with pytest.raises(InputError):
            PromptDataModule(folder, pairs=pairs, modifiers=1).setup("predict")
    assert make_model("bert")  # the tokenizer alone was needed


@pytest.mark.assets
def test_nine_dimensions_of_minilm(asset):
    asset("minilm-encoder")
    data = PromptDataModule("minilm-mlm", modifiers=1)
    data.setup("predict")
    assert set(data.dimensions) == set(words.DIMENSIONS)
    assert len(data.pair_names) >= 30
    assert any("middle-aged" in pair for pair in data.dropped)
