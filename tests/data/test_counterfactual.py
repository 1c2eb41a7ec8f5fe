import json
import tarfile
from collections import Counter

import pytest
import torch
from conftest import bpe_tokenizer, wordpiece_tokenizer

from biaslab.data import counterfactual
from biaslab.data.corpus import MaskedBatches, in_split, read_sentences
from biaslab.data.counterfactual import (
    CounterfactualDataModule,
    even_batches,
    read_pairs,
    swap_gender,
)
from biaslab.errors import InputError

NAMES = ("doctor", "driver", "friend", "girl", "boy", "man", "woman", "person", "teacher", "nurse")


@pytest.fixture
def text(tmp_path):
    lines = [f"the {a} loves the {b} and the {c}." for a in NAMES for b in NAMES for c in NAMES]
    path = tmp_path / "text.txt"
    path.write_text("\n".join(lines))
    return str(path)


@pytest.fixture(params=[wordpiece_tokenizer, bpe_tokenizer])
def tokenizer_folder(request, tmp_path):
    request.param().save_pretrained(tmp_path / "t")
    return str(tmp_path / "t")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("He's a king, she's a queen.", "She's a queen, he's a king."),
        ("HE SAW HIS SISTER.", "SHE SAW HER BROTHER."),
        ("That car is his; she told him.", "That car is hers; he told her."),
        ("We met her and her dog.", "We met him and his dog."),
        ("The theme of the history", "The theme of the history"),  # "the" is not "he"
        ("Herself", "Himself"),
    ],
)
def test_swap(before, after):
    assert swap_gender(before) == after


def test_swap_twice_gives_the_original_of_unambiguous_words():
    for pair in counterfactual.GENDER_PAIRS:
        for word in pair:
            assert swap_gender(swap_gender(f"{word}.")) == f"{word}."
            assert swap_gender(f"{word}.") != f"{word}."


def test_pairs_of_a_text(text):
    pairs = read_pairs(text)
    assert all(pair.rewrite == swap_gender(pair.original) != pair.original for part in pairs for pair in part)
    assert all(in_split(pair.original, "train") for pair in pairs.train)
    assert all(in_split(pair.original, "validation") for pair in pairs.validation)
    trained = {sentence for pair in pairs.train for sentence in pair}
    assert not trained & {sentence for pair in pairs.validation for sentence in pair}
    assert not trained & set(read_sentences(text, "evaluation"))
    with_gender = [s for s in read_sentences(text, "train") if swap_gender(s) != s]
    assert 0.7 * len(with_gender) < len(pairs.train) < len(with_gender)
    assert read_pairs(text) == pairs


@pytest.fixture
def panda(tmp_path, monkeypatch):
    """A small PANDA: articles of three sentences with two questions each, and three rewrites of each."""
    records = []
    for a in NAMES:
        for b in NAMES:
            article = f"He is the {a} of the {b} here. She was a {b} , too , of the {a} ! It is {a} {b} city."
            for question in (f"who is the {a} of the {b}?", f"was the {b} kind to him, the {a}?"):
                original = f"{article} <SEP> {question}"
                rewrites = [swap_gender(original), original.replace("He", "They"), original]
                records += [{"original": original, "rewrite": rewrite} for rewrite in [*rewrites, rewrites[0]]]
    path = tmp_path / "panda.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    with tarfile.open(tmp_path / "PANDA-dataset.tgz", "w:gz") as archive:
        archive.add(path, "dataset/panda.jsonl")
    monkeypatch.setattr("biaslab.models.assets.fetch", lambda name: tmp_path)
    return records


def test_pairs_of_panda(panda):
    pairs = read_pairs("panda")
    texts = {record["original"].replace(" <SEP>", "").replace(" ,", ",").replace(" !", "!") for record in panda}
    assert {pair.original for pair in pairs.train} < texts
    counts = Counter(pair.original for pair in pairs.train)
    assert max(counts.values()) == 2  # what is unchanged is left out, and what comes twice
    trained = {sentence for pair in pairs.train for text in pair for sentence in text.split(". ")}
    held_out = {sentence for pair in pairs.validation for text in pair for sentence in text.split(". ")}
    assert {s for s in trained & held_out if len(s.split()) >= 4} == set()
    assert len({pair.original for pair in pairs.validation}) == len(pairs.validation) > 0
    evaluation = read_sentences("panda", "evaluation")
    assert evaluation
    assert not any(sentence in pair.original for pair in pairs.train for sentence in evaluation)


def test_no_pairs(tmp_path):
    (tmp_path / "n.txt").write_text("the doctor is a person\n" * 9)
    with pytest.raises(InputError, match="`source` is expected to contain passages with counterfactuals"):
        read_pairs(str(tmp_path / "n.txt"))


def test_masks_are_berts(text):
    tokenizer = wordpiece_tokenizer()
    tokens = torch.tensor(tokenizer(["the doctor loves the driver and the friend."] * 4000)["input_ids"])
    batches = MaskedBatches([tokens], tokenizer, masked=0.15, varied=True)
    batch = batches[0]
    asked, special = batch["labels"] != -100, torch.isin(tokens, torch.tensor(tokenizer.all_special_ids))
    assert torch.equal(batch["labels"][asked], tokens[asked])
    assert torch.equal(batch["input_ids"][~asked], tokens[~asked])
    assert not (asked & special).any()
    inputs = batch["input_ids"][asked]
    hidden = inputs == tokenizer.mask_token_id
    kept = inputs == tokens[asked]
    share = asked[:, 1:-1].float().mean().item()
    assert 0.17 < share < 0.2  # 15 %, and one where there would be none: 0.15 + 0.85⁹ / 9
    assert hidden.float().mean().item() == pytest.approx(0.8, abs=0.02)
    assert kept.float().mean().item() == pytest.approx(0.1 + 0.1 / 100, abs=0.02)
    assert not torch.isin(inputs[~hidden], torch.tensor(tokenizer.all_special_ids)).any()
    assert not torch.equal(batches[0]["input_ids"], batch["input_ids"])
    fixed = MaskedBatches([tokens], tokenizer, 0.15, fixed=True, varied=True)
    assert torch.equal(fixed[0]["input_ids"], fixed[0]["input_ids"])


def test_even_batches():
    sequences = [[1, *range(10, 10 + length), 2] for length in (5, 9, 5, 6, 9, 9, 1)]
    batches = even_batches(sequences, 2)
    assert [list(batch.shape) for batch in batches] == [[2, 3], [2, 7], [2, 11], [1, 11]]
    for batch in batches:
        assert (batch[:, 0] == 1).all()
        assert (batch[:, -1] == 2).all()
        assert torch.equal(batch[:, 1:-1], batch.new_tensor(range(10, 8 + batch.shape[1])).expand(len(batch), -1))


def modules(tokenizer_folder, source, **more):
    for augmented in (True, False):
        data = CounterfactualDataModule(tokenizer_folder, source, augmented, max_length=32, batch_size=8, **more)
        data.prepare_data()
        data.setup("fit")
        yield data


def decoded(data, batches):
    return Counter(text for batch in batches for text in data.tokenizer.batch_decode(batch, skip_special_tokens=True))


def test_control_has_the_same_budget(tokenizer_folder, text):
    cda, control = modules(tokenizer_folder, text)
    assert len(cda.train_batches) == len(control.train_batches)
    examples = [list(map(len, data.train_batches.batches)) for data in (cda, control)]
    assert examples[0] == examples[1]
    tokens = [sum(batch.numel() for batch in data.train_batches.batches) for data in (cda, control)]
    assert tokens[0] == pytest.approx(tokens[1], rel=0.02)
    half = len(cda.train_batches) // 2
    for one, other in zip(cda.train_batches.batches[:half], control.train_batches.batches[:half], strict=True):
        assert torch.equal(one, other)
    assert decoded(control, control.train_batches.batches[half:]) == decoded(cda, cda.train_batches.batches[:half])
    assert decoded(cda, cda.train_batches.batches[half:]) != decoded(cda, cda.train_batches.batches[:half])


def test_control_has_the_same_validation(tokenizer_folder, text):
    cda, control = modules(tokenizer_folder, text)
    for one, other in zip(cda.val_dataloader(), control.val_dataloader(), strict=True):
        assert torch.equal(one["input_ids"], other["input_ids"])
        assert torch.equal(one["labels"], other["labels"])


def test_limit(tokenizer_folder, text):
    for data in modules(tokenizer_folder, text, limit=31):
        assert sum(map(len, data.train_batches.batches)) == 2 * 31
        assert sum(map(len, data.validation_batches.batches)) == 2 * 4
        assert all(batch["input_ids"].numel() <= 8 * 32 for batch in data.train_dataloader())


def test_causal_tokenizer(tmp_path, text):
    bpe_tokenizer(masked=False).save_pretrained(tmp_path / "t")
    with pytest.raises(InputError, match="`model_name` is expected to be a masked language model"):
        CounterfactualDataModule(str(tmp_path / "t"), text).setup("fit")


@pytest.mark.parametrize("argument", [{"limit": 0}, {"batch_size": 0}, {"max_length": 2}, {"masked": 0.0}])
def test_arguments_out_of_range(argument):
    with pytest.raises(InputError, match=f"`{next(iter(argument))}` is expected"):
        CounterfactualDataModule(**argument)
