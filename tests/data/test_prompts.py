import json

import pytest
import torch
from conftest import bpe_tokenizer, make_model, wordpiece_tokenizer
from tokenizers import AddedToken

from biaslab.data import words
from biaslab.data.prompts import PromptDataModule, make_prompts, read_prompts, resolve_dimension
from biaslab.errors import InputError
from biaslab.evaluation.scoring import target_log_probabilities
from biaslab.models.tokens import SLOT
from biaslab.tasks.attribution import Attribution


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
        ((["sex"], ["negative"], 1, "find"), "`dimensions` is expected to be one or more of gender.*but got sex"),
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
    pairs = [("young", "old"), ("old", "老"), ("old", "Old")]
    dimension, dropped = resolve_dimension(wordpiece_tokenizer(), "age", pairs, TEXTS[:1])
    assert dimension.pair_names == ["age/young-old"]
    assert dropped == {
        "age/old-老": "'老': tokens are unknown or differ between wordings",
        "age/old-Old": "both have the same tokens",
    }


def test_words_of_fewer_tokens_come_first():
    pairs = [("middle-aged", "old"), ("old", "olds"), ("young", "middle-aged")]
    dimension, dropped = resolve_dimension(wordpiece_tokenizer(), "age", pairs, TEXTS)
    assert not dropped
    assert dimension.words == ("old", "young", "olds", "middle-aged")
    assert [len(ids) for ids in dimension.token_ids[:3]] == [1, 1, 2]
    assert dimension.pair_names == ["age/middle-aged-old", "age/old-olds", "age/young-middle-aged"]


def test_one_token_capitalised_is_better_than_several():
    tokenizer = bpe_tokenizer()
    tokenizer.add_tokens([AddedToken("Druid", lstrip=True)])
    (dimension, dropped) = resolve_dimension(tokenizer, "religion", [("old", "druid")], [f"a {SLOT} of old."])
    assert not dropped
    assert tokenizer.convert_ids_to_tokens(dimension.token_ids[1]) == ["Druid"]


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
        ([[["only two", "x"]]], r"group 0 of .* has another format"),
        ([[["no slot", "x", "i"]]], "has 0 in 'no slot'"),
        ([[["[MASK] and [MASK]", "x", "i"]]], "has 2 in"),
        ([[["a [MASK]", "x", "i"]]], "at least two demographics"),
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
    pairs = {"gender": [["female", "male"]], "age": [["young", "old"], ["old", "老"]]}
    data = PromptDataModule(folder, pairs=pairs, modifiers=2, tokens_per_batch=200)
    data.setup("predict")
    assert data.pair_names == ["gender/female-male", "age/young-old"]
    assert "age/old-老" in data.dropped
    seen = []
    for batch in data.predict_dataloader()[0]:
        rows, length = batch["input_ids"].shape
        assert rows * length <= 200 or rows == 1
        assert (batch["input_ids"][range(rows), batch["position"]] == data.tokenizer.mask_token_id).all()
        assert batch["target_ids"].shape == (rows, 2)
        seen += batch["example"].tolist()
    assert sorted(seen) == list(range(2 * 6 * 2 * 12))


WORDS = {"age": [["young", "old"], ["old", "middle-aged"], ["olds", "middle-aged"]]}


def data_of(folder, tokenizer, **options):
    tokenizer.save_pretrained(folder)
    data = PromptDataModule(str(folder), pairs=WORDS, kinds=["negative"], modifiers=1, **options)
    data.setup("predict")
    return data


def test_words_of_several_tokens_have_as_many_masks(tmp_path, masked_tokenizer):
    data = data_of(tmp_path, masked_tokenizer)
    assert not data.dropped
    for batch in data.batches:
        assert "longer" in batch
        for inputs in (batch, *batch["longer"]):
            masks = inputs["input_ids"] == masked_tokenizer.mask_token_id
            slots = inputs["position"].view(len(masks), -1)
            assert (masks.nonzero()[:, 1].view_as(slots) == slots).all()
            assert inputs["target_ids"].view(len(masks), -1, slots.shape[1]).shape[1] >= 1


def test_probabilities_along_a_masked_word(tmp_path, masked_tokenizer):
    """The product over its tokens, each where a mask of its own stands, with the others masked, by hand."""
    data, model = data_of(tmp_path, masked_tokenizer), make_model("bert", len(masked_tokenizer))
    mask = masked_tokenizer.mask_token
    for batch in data.batches:
        found = target_log_probabilities(model, batch).exp()
        for row, example in enumerate(batch["example"].tolist()):
            text = data.prompts[example].text
            for column, tokens in enumerate(data.dimensions["age"].token_ids):
                ids = masked_tokenizer(text.replace(SLOT, mask * len(tokens)), return_tensors="pt")["input_ids"]
                places = (ids[0] == masked_tokenizer.mask_token_id).nonzero()[:, 0]
                every = model(input_ids=ids).logits[0].softmax(-1)
                expected = every[places, list(tokens)].prod().item()
                assert found[row, column].item() == pytest.approx(expected, rel=1e-4)


def test_probabilities_along_a_causal_word(tmp_path):
    """The product over its tokens, each after the prompt and the tokens before it, of the text as one."""
    tokenizer = bpe_tokenizer(masked=False)
    data, model = data_of(tmp_path, tokenizer), make_model("gpt2", len(tokenizer))
    words_of = data.dimensions["age"].words
    for batch in data.batches:
        found = target_log_probabilities(model, batch).exp()
        for row, example in enumerate(batch["example"].tolist()):
            before = data.prompts[example].text.partition(SLOT)[0]
            start = len(tokenizer(before.rstrip())["input_ids"])
            for column, word in enumerate(words_of):
                ids = tokenizer(before + word, return_tensors="pt")["input_ids"]
                every = model(input_ids=ids).logits[0].softmax(-1)
                each = [every[place - 1, ids[0, place]] for place in range(start, ids.shape[1])]
                assert found[row, column].item() == pytest.approx(torch.stack(each).prod().item(), rel=1e-4)


def test_attribution_is_of_the_product(tmp_path, masked_tokenizer):
    """The gap is that of the words' probabilities, and the layer's scores sum to what the layer makes of it."""
    make_model("bert", len(masked_tokenizer)).save_pretrained(tmp_path)
    data = data_of(tmp_path, masked_tokenizer)
    task = Attribution(str(tmp_path), tolerance=0.001)
    for batch in data.batches[:2]:
        result = task.attribute(batch)
        each = target_log_probabilities(task.model, batch).exp()
        first, second = batch["pairs"].T
        torch.testing.assert_close(result.gap.double(), (each[:, first] - each[:, second]).abs(), rtol=1e-3, atol=1e-9)
        assert (result.residual.abs() <= 0.001 * result.scores.abs().sum(-1) + 1e-9).all()
        assert (result.scores.abs().sum((-1, -2)) > 0).all()


def test_own_pairs(folder):
    data = PromptDataModule(folder, pairs={"ethnicity": [["asian", "white"]]}, modifiers=1)
    data.setup("predict")
    assert data.pair_names == ["ethnicity/asian-white"]


def test_no_pair_left(folder):
    data = PromptDataModule(folder, pairs={"age": [["老", "old"]]}, modifiers=1)
    with pytest.raises(
        InputError, match=r"`pairs` is expected to contain demographics.*age/老-old: '老': tokens are unknown"
    ):
        data.setup("predict")


def test_bad_pairs(folder):
    for pairs in ({"sex": [["a", "b"]]}, {"gender": [["female"]]}):
        with pytest.raises(InputError):
            PromptDataModule(folder, pairs=pairs, modifiers=1).setup("predict")
    assert make_model("bert")  # the tokenizer alone was needed


def test_it_is_set_up_once(folder):
    data = PromptDataModule(folder, ["age"], modifiers=1)
    data.setup("predict")
    before = data.batches, data.prompts
    data.setup("predict")
    assert (data.batches, data.prompts) == before
    assert data.batches is before[0]


def test_contrast_of_half_of_the_terms(folder, tiny_cache):
    options = {"dimensions": ["age"], "modifiers": 1, "contrast": "stereoset"}
    whole, half = (PromptDataModule(folder, **options, contrast_terms=terms) for terms in ("all", "find"))
    for data in (whole, half):
        data.setup("predict")
    counts = [sum(len(batch["example"]) for batch in data.contrast_batches) for data in (whole, half)]
    assert 0 < counts[1] < counts[0]
    assert whole.fingerprint != half.fingerprint
    with pytest.raises(InputError, match="`contrast_terms` is expected to be all or find but got 'choose'"):
        PromptDataModule(folder, contrast_terms="choose")
    for bad in ({"contrast_limit": 0}, {"contrast_limit": -1}, {"tokens_per_batch": 0}):
        with pytest.raises(InputError, match=f"`{next(iter(bad))}` is expected to be a positive integer"):
            PromptDataModule(folder, **bad)


def test_effects_are_measured_in_more_wordings(folder, tiny_cache):
    """Each dimension's prompts share its quantity alike; a file's prompts, and held-out ones, stay as they are."""
    options = {"dimensions": ["age", "gender"], "kinds": ["negative"], "modifiers": 1, "contrast": "stereoset"}
    data = PromptDataModule(folder, **options, contrast_positions="all")
    data.setup("predict")
    asked = [batch for batch in data.contrast_batches if "pairs" in batch]
    assert asked == data.contrast_batches[: len(asked)]
    wordings = len(words.TEMPLATES) - len(words.HELD_OUT_TEMPLATES) + len(words.FURTHER_TEMPLATES)
    sizes = dict.fromkeys(data.dimensions, 0)
    for batch in asked:
        name = data.pair_names[int(batch["pair"][0])].partition("/")[0]
        assert data.quantities()[batch["quantity"]] == f"{name}/prompts"
        assert batch["share"] == pytest.approx(1 / (wordings * 3))
        sizes[name] += len(batch["input_ids"])
    assert sizes == {"age": wordings * 3, "gender": wordings * 3}
    held_out = PromptDataModule(folder, **options, contrast_positions="all", part="held_out")
    held_out.setup("predict")
    again = [batch["input_ids"] for batch in held_out.contrast_batches if "pairs" in batch]
    assert sorted(map(len, again)) == sorted(len(batch["input_ids"]) for batch in held_out.batches)
    for without in ({"contrast": None}, {"attributed": "demographics"}):
        data = PromptDataModule(folder, **options | {"contrast_positions": "all"} | without)
        data.setup("predict")
        assert not [batch for batch in data.contrast_batches if "pairs" in batch]


@pytest.mark.assets
def test_nine_dimensions_of_minilm(asset):
    asset("minilm-encoder")
    data = PromptDataModule("minilm-mlm", modifiers=1)
    data.setup("predict")
    assert set(data.dimensions) == set(words.DIMENSIONS)
    assert len(data.pair_names) == 41
    assert not data.dropped
