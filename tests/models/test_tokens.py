import pytest
from conftest import bpe_tokenizer, make_model, wordpiece_tokenizer

from biaslab.errors import InputError
from biaslab.models.loading import load_model, load_tokenizer
from biaslab.models.tokens import by_length, encode_slot, is_masked, start_token, token_in_place, tokens_in_place


def test_masked_slot(masked_tokenizer):
    assert is_masked(masked_tokenizer)
    encoded = encode_slot(masked_tokenizer, "the person is {slot}.")
    assert encoded.input_ids[encoded.position] == masked_tokenizer.mask_token_id
    token = token_in_place(masked_tokenizer, "the person is {slot}.", "old")
    assert masked_tokenizer.convert_ids_to_tokens(token) in ("old", "Ġold")


def test_causal_slot():
    tokenizer = bpe_tokenizer(masked=False)
    encoded = encode_slot(tokenizer, " the person is {slot}")
    assert encoded.position == len(encoded.input_ids) - 1
    assert tokenizer.convert_ids_to_tokens(encoded.input_ids)[-1] == "Ġis"
    assert tokenizer.convert_ids_to_tokens(token_in_place(tokenizer, " the person is {slot}", "old")) == "Ġold"


def test_tokens_of_a_word(masked_tokenizer):
    tokens = tokens_in_place(masked_tokenizer, "the person is {slot}.", "middle-aged")
    assert len(tokens) > 1
    assert masked_tokenizer.decode(tokens).replace(" ", "") == "middle-aged"
    assert tokens_in_place(wordpiece_tokenizer(), "the person is {slot}.", "老") is None


def test_several_or_unknown_tokens_are_none(masked_tokenizer):
    assert token_in_place(masked_tokenizer, "the person is {slot}.", "middle-aged") is None
    assert token_in_place(wordpiece_tokenizer(), "the person is {slot}.", "老") is None


@pytest.mark.parametrize(("text", "count"), [("the person is old.", 0), ("the {slot} is {slot}.", 2)])
def test_exactly_one_slot(masked_tokenizer, text, count):
    with pytest.raises(InputError, match=f"exactly one slot but has {count}"):
        encode_slot(masked_tokenizer, text)


def test_causal_slot_needs_words_before():
    with pytest.raises(InputError, match="words before its slot"):
        encode_slot(bpe_tokenizer(masked=False), "{slot} is old")


def test_batches_of_equal_length_hold_each_item_once():
    lengths = [3, 5, 3, 3, 5, 9]
    batches = by_length(lengths, 6)
    assert sorted(index for batch in batches for index in batch) == list(range(6))
    for batch in batches:
        assert len({lengths[i] for i in batch}) == 1
        assert len(batch) * lengths[batch[0]] <= 6 or len(batch) == 1


def test_unknown_tokenizer():
    with pytest.raises(InputError, match="`model_name` is expected to be"):
        load_tokenizer("no-such-model")


def test_the_architecture_decides_the_kind(tmp_path):
    tokenizer = bpe_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    assert is_masked(load_tokenizer(str(tmp_path)))  # alone, a tokenizer is of the kind that it looks like
    make_model("gpt2", len(tokenizer)).save_pretrained(tmp_path)
    for loaded in (load_tokenizer(str(tmp_path)), load_model(str(tmp_path))[1]):
        assert not is_masked(loaded)
        assert loaded("a <mask> man")["input_ids"] == tokenizer("a <mask> man")["input_ids"]
    make_model("roberta", len(tokenizer)).save_pretrained(tmp_path)
    assert is_masked(load_tokenizer(str(tmp_path)))


def test_a_masked_model_needs_a_mask_token(tmp_path):
    tokenizer = bpe_tokenizer(masked=False)
    tokenizer.save_pretrained(tmp_path)
    make_model("roberta", len(tokenizer)).save_pretrained(tmp_path)
    for load in (load_tokenizer, load_model):
        with pytest.raises(InputError, match="`model_name` is expected to have a tokenizer with a mask token"):
            load(str(tmp_path))


def test_start_token():
    tokenizer = bpe_tokenizer()
    assert start_token(tokenizer) == tokenizer.bos_token_id
    tokenizer.bos_token = None
    assert start_token(tokenizer) == tokenizer.eos_token_id
