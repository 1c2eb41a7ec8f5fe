import json
import logging

import pytest
import torch
from conftest import bpe_tokenizer, make_model, wordpiece_tokenizer

from biaslab.data.attribute_words import GENDER_PAIRS
from biaslab.data.prompt_pairs import PAIRS, PromptPairDataModule, question, read_prompts, single_token_pairs
from biaslab.errors import InputError

KNOWN = [("she", "he"), ("woman", "man"), ("girl", "boy"), ("female", "male")]  # those that the tiny tokenizers know


@pytest.fixture(params=["wordpiece", "bpe"])
def lab(request, tmp_path):
    """A folder with a tokenizer and a file of prompts."""
    tokenizer = wordpiece_tokenizer() if request.param == "wordpiece" else bpe_tokenizer()
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("is a\n\n  loves the old \nhates\nis a\n")
    return tmp_path


def module(lab, **options):
    made = PromptPairDataModule(str(lab / "model"), **{"prompts": str(lab / "prompts.txt"), "batch_size": 2} | options)
    made.setup("fit")
    return made


def texts(made, batches):
    """Every example as (first text, second text, token at the position)."""
    return {
        (*(made.tokenizer.decode(ids, skip_special_tokens=False) for ids in example), int(example[0, position]))
        for batch in batches
        for example, position in zip(batch["input_ids"], batch["position"], strict=True)
    }


def expected(made, pairs):
    mask = made.tokenizer.mask_token
    found = set()
    for prompt in ("is a", "loves the old", "hates"):
        ids = [made.tokenizer(f" {word} {prompt} {mask}.")["input_ids"] for pair in pairs for word in pair]
        decoded = [made.tokenizer.decode(i, skip_special_tokens=False) for i in ids]
        found |= {(a, b, made.tokenizer.mask_token_id) for a, b in zip(decoded[::2], decoded[1::2], strict=True)}
    return found


def test_every_prompt_with_every_pair(lab):
    made = module(lab)
    assert single_token_pairs(made.tokenizer, GENDER_PAIRS) == KNOWN
    assert texts(made, made.train_batches) == expected(made, KNOWN[:3])
    assert texts(made, made.validation_batches) == expected(made, KNOWN[3:])


def test_batches_hold_equal_lengths_and_at_most_the_size(lab):
    for batches in (module(lab).train_batches, module(lab).validation_batches):
        for batch in batches:
            assert batch["input_ids"].shape[:2] == (len(batch["position"]), 2)
            assert len(batch["position"]) <= 2
    assert sorted(len(b["position"]) for b in module(lab).train_batches) == [1, 1, 1, 2, 2, 2]  # 3 lengths, 3 pairs


def test_every_fifth_pair_is_held_out(lab, monkeypatch):
    many = tuple((one, other) for one in ("rich", "poor", "gay") for other in ("kind", "mean", "rude", "nice"))
    monkeypatch.setitem(PAIRS, "gender", many)
    made = module(lab)
    assert texts(made, made.validation_batches) == expected(made, [many[4], many[9]])
    assert not texts(made, made.train_batches) & texts(made, made.validation_batches)
    assert len(texts(made, made.train_batches)) == 3 * 10


def test_word_has_its_leading_space():
    tokenizer = bpe_tokenizer()
    first = question(tokenizer, "she", "is a").input_ids[1]
    assert tokenizer.convert_ids_to_tokens(first) == "Ġshe"


def test_same_order_each_time_and_shuffled_for_training(lab):
    one, two = module(lab), module(lab)
    for a, b in zip(one.train_batches, two.train_batches, strict=True):
        assert torch.equal(a["input_ids"], b["input_ids"])
    torch.manual_seed(0)
    orders = {tuple(tuple(b["input_ids"].flatten().tolist()) for b in one.train_dataloader()) for _ in range(5)}
    assert len(orders) > 1
    assert len(list(one.val_dataloader())) == len(one.validation_batches)


def test_reads_json_and_tells_of_another_model(tmp_path, caplog):
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps({"model": "a", "prompts": [{"text": "is a", "score": 0.1}, {"text": "was the"}]}))
    assert read_prompts(path, "a") == ["is a", "was the"]
    assert not caplog.records
    with caplog.at_level(logging.WARNING, "biaslab"):
        read_prompts(path, "b")
    assert "were found with the model a, not with b" in caplog.text


@pytest.mark.parametrize("content", ["", "\n \n", '{"prompts": []}'])
def test_no_prompts(tmp_path, content):
    (tmp_path / "p").write_text(content)
    with pytest.raises(InputError, match=r"has none\. Create one with: biaslab search-prompts --model m --output "):
        read_prompts(tmp_path / "p", "m")


@pytest.mark.parametrize("content", ['{"prompts": [{"text": "is a",}]}', '{"prompts": ["is"]}', '{"texts": []}'])
def test_broken_json(tmp_path, content):
    (tmp_path / "p").write_text(content)
    with pytest.raises(InputError, match="is neither"):
        read_prompts(tmp_path / "p", "m")


def test_missing_file_names_the_command(lab):
    with pytest.raises(
        InputError, match=r"is not given\. Create one with: biaslab search-prompts --model .*prompts.json"
    ):
        module(lab, prompts=None)
    with pytest.raises(InputError, match=r"can't be read.*biaslab search-prompts --model .*/model --output .*nothing"):
        module(lab, prompts=str(lab / "nothing"))


def test_refusals(lab, tmp_path):
    with pytest.raises(InputError, match="`batch_size` is expected to be a positive integer but got 0"):
        module(lab, batch_size=0)
    with pytest.raises(InputError, match="`pairs` is expected to contain at least two pairs"):
        module(lab, pairs="race")  # black/white only
    bpe_tokenizer(masked=False).save_pretrained(tmp_path / "model")
    make_model("gpt2", 609).config.save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match="masked language model"):
        module(lab)
