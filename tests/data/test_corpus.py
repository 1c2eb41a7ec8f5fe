import os
from pathlib import Path

import pytest
import torch
from conftest import wordpiece_tokenizer

from biaslab.data.corpus import SPLITS, CorpusDataModule, MaskedBatches, equal_lengths, read_sentences
from biaslab.errors import InputError


@pytest.fixture
def text(tmp_path):
    names = ("doctor", "driver", "friend", "girl", "boy", "man", "woman", "person")
    lines = [f"the {a} loves the {b} and the {c} ." for a in names for b in names for c in names]
    path = tmp_path / "text.txt"
    path.write_text("\n".join([*lines, lines[0], "too short"]))
    return str(path)


def test_splits_are_disjoint_and_whole(text):
    parts = {split: read_sentences(text, split) for split in SPLITS}
    everything = [sentence for part in parts.values() for sentence in part]
    assert len(everything) == len(set(everything)) == 8**3
    assert all(parts.values())
    assert "too short" not in everything
    assert all(sentence.endswith("e.") or not sentence.endswith(" .") for sentence in everything)
    assert read_sentences(text, "train") == parts["train"]


def test_unknown_source():
    with pytest.raises(InputError, match="`source` is expected to be bug, bold, panda or a UTF-8 text file"):
        read_sentences("wikipedia", "train")


def test_masks(text):
    tokenizer = wordpiece_tokenizer()
    sentences = tokenizer(read_sentences(text, "train"))["input_ids"]
    batches = MaskedBatches(equal_lengths(sentences, tokens_per_batch=300), tokenizer, masked=0.2)
    asked = total = 0
    for index in range(len(batches)):
        batch = batches[index]
        hidden = batch["labels"] != -100
        assert (batch["input_ids"][hidden] == tokenizer.mask_token_id).all()
        assert (batch["input_ids"][~hidden] != tokenizer.mask_token_id).all()
        assert not torch.isin(batch["labels"], torch.tensor(tokenizer.all_special_ids)).any()
        assert hidden.any(1).all()
        assert batch["input_ids"].numel() <= 300
        asked, total = asked + int(hidden.sum()), total + hidden.numel()
    assert 0.12 < asked / total < 0.25
    assert not torch.equal(batches[0]["labels"], batches[0]["labels"])
    fixed = MaskedBatches(equal_lengths(sentences, 300), tokenizer, 0.2, fixed=True)
    assert torch.equal(fixed[0]["labels"], fixed[0]["labels"])


def test_data_module(text, tmp_path):
    wordpiece_tokenizer().save_pretrained(tmp_path / "t")
    data = CorpusDataModule(str(tmp_path / "t"), sources=[text], tokens_per_batch=200)
    data.prepare_data()
    data.setup("fit")
    assert len(list(data.train_dataloader())) > len(list(data.val_dataloader())) > 0


def test_empty_corpus(tmp_path):
    wordpiece_tokenizer().save_pretrained(tmp_path / "t")
    (tmp_path / "e.txt").write_text("short\n")
    with pytest.raises(InputError, match="`sources` is expected to contain sentences of at least four words"):
        CorpusDataModule(str(tmp_path / "t"), sources=[str(tmp_path / "e.txt")]).setup("fit")


def test_a_source_is_read_once_unless_it_changes(text, monkeypatch):
    reads, read = [], Path.read_text

    def counted(path, *args, **kwargs):
        reads.append(path)
        return read(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", counted)
    parts = {split: read_sentences(text, split) for split in SPLITS}
    assert len(reads) == 1
    parts["train"].clear()
    assert read_sentences(text, "train")  # what is given out is not what is kept
    assert len(reads) == 1
    Path(text).write_text("The doctor is at home now .\n")
    os.utime(text, ns=(1, 1))
    assert [s for split in SPLITS for s in read_sentences(text, split)] == ["The doctor is at home now."]
    assert len(reads) == 2


@pytest.mark.assets
@pytest.mark.parametrize(("source", "least"), [("bold", 20_000), ("panda", 10_000)])
def test_named_sources(asset, source, least):
    asset(source)
    assert len(read_sentences(source, "train")) > least
    assert len(read_sentences(source, "evaluation")) > 100
