"""PANDA's sentences and their rewrites: parts that share no passage, and tokens that are hidden in both."""

import json
import random
import tarfile

import pytest
from conftest import NAMES, bpe_tokenizer, wordpiece_tokenizer

from biaslab.data.corpus import in_split
from biaslab.data.panda_pairs import (
    PandaPair,
    PandaPairsDataModule,
    encoded_pairs,
    hidden_queries,
    one_each,
    read_panda_pairs,
)
from biaslab.errors import InputError

ADJECTIVES = ("rude", "kind", "nice", "old", "young", "poor", "rich")


def write_panda(folder, monkeypatch, records) -> None:
    path = folder / "panda.jsonl"
    path.write_text("\n".join(map(json.dumps, records)))
    with tarfile.open(folder / "PANDA-dataset.tgz", "w:gz") as archive:
        archive.add(path, "dataset/panda.jsonl")
    monkeypatch.setattr("biaslab.models.assets.fetch", lambda name: folder)


@pytest.fixture
def panda(tmp_path, monkeypatch) -> list[dict[str, str]]:
    """Passages of two sentences, and four rewrites of each: of a word, of two, of punctuation, of all."""
    records = []
    for a in NAMES:
        for b in NAMES:
            for c in ADJECTIVES:
                original = f"The {a} of the {b} is a {c} man. The {c} man loves the {a} and the {b}."
                rewrites = [
                    original.replace("man", "woman"), original.replace("The", "The old"),
                    original.replace(" is", ", is"),
                    "A friend works at the schools. Your friend was here as well.",
                ]  # fmt: skip
                records += [{"original": original, "rewrite": rewrite} for rewrite in rewrites]
    write_panda(tmp_path, monkeypatch, records)
    return records


def test_parts_share_no_sentence_and_no_passage(panda):
    find, held_out = (read_panda_pairs(part) for part in ("find", "held_out"))
    assert find
    assert held_out
    assert all(in_split(pair.original, "contrast") for pair in find)
    assert all(in_split(pair.original, "evaluation") for pair in held_out)
    passages = [
        {r["original"] for r in panda for pair in part if pair.original in r["original"]} for part in (find, held_out)
    ]
    assert passages[0].isdisjoint(passages[1])
    both = {r["original"] for r in panda if sum(in_split(s, "contrast") for s in sentences(r["original"])) == 1}
    assert any(any(in_split(s, "evaluation") for s in sentences(text)) for text in both)  # what is left out exists


def sentences(passage: str) -> list[str]:
    first, second = passage.split(". ")
    return [f"{first}.", second]


def test_few_words_differ(panda):
    for pair in read_panda_pairs("held_out"):
        first, second = pair.original.split(), pair.rewrite.split()
        assert pair.original.replace("man", "woman") == pair.rewrite or len(second) == len(first) + 1
        assert "," not in pair.rewrite
        assert "friend works" not in pair.rewrite
    pairs = read_panda_pairs("held_out")
    assert len({pair.original for pair in pairs}) < len(pairs)
    assert len(one_each(pairs)) == len({pair.original for pair in pairs})
    assert pairs == read_panda_pairs("held_out")  # whatever the order of the sets


def test_nothing_to_use_is_refused(tmp_path, monkeypatch):
    write_panda(tmp_path, monkeypatch, [{"original": "Too short.", "rewrite": "Too long."}])
    with pytest.raises(InputError, match=r"`part` .* 'find' of PANDA has none"):
        read_panda_pairs("find")


def test_unknown_words_and_long_sentences_are_left_out():
    good = PandaPair("the man is rude to the boy.", "the woman is rude to the boy.")
    pairs = [good, good._replace(rewrite="the xyz is rude to the boy."), good._replace(original="the man " * 30)]
    tokenizer = wordpiece_tokenizer(pieces=False)
    ((pair, first, second),) = encoded_pairs(tokenizer, pairs)
    assert pair == pairs[0]
    assert [first, second] == tokenizer(list(pair))["input_ids"]


def test_the_same_shared_tokens_are_hidden_in_both():
    tokenizer = wordpiece_tokenizer(pieces=False)
    texts = ["the old man is rude and not kind at home.", "the woman is rude and not kind at home."]
    ids = tokenizer(texts)["input_ids"]
    shared = ["the", "is", "rude", "and", "not", "kind", "at", "home", "."]
    for folds in (1, 5):
        asked = hidden_queries(tokenizer, ids, random.Random(3), folds)
        targets = [tokenizer.convert_ids_to_tokens([query.target_id for query in own]) for own in asked]
        assert targets[0] == targets[1]
        assert sorted(targets[0]) == sorted(shared) if folds == 5 else len(targets[0]) == 2
        for own, sentence in zip(asked, ids, strict=True):
            inputs = {query.input_ids: {q.position for q in own if q.input_ids == query.input_ids} for query in own}
            assert len(inputs) == folds
            for hidden, places in inputs.items():
                assert [tokenizer.mask_token_id if n in places else t for n, t in enumerate(sentence)] == list(hidden)
            assert all(sentence[query.position] == query.target_id for query in own)


@pytest.mark.parametrize("kind", ["wordpiece", "causal"])
def test_batches_hold_whole_pairs(panda, kind, tmp_path):
    tokenizer = wordpiece_tokenizer() if kind == "wordpiece" else bpe_tokenizer(masked=False)
    tokenizer.save_pretrained(tmp_path / "model")
    data = PandaPairsDataModule(str(tmp_path / "model"), tokens_per_batch=300)
    data.setup("test")
    assert data.pairs == one_each(read_panda_pairs("held_out"))
    assert sorted(number for batch in data.batches for number in batch["examples"].tolist()) == [
        *range(len(data.pairs))
    ]
    assert len(data.batches) > 1
    few = PandaPairsDataModule(str(tmp_path / "model"), limit=3)
    few.setup("test")
    assert few.pairs == data.pairs[:3]
    with pytest.raises(InputError, match="`limit`"):
        PandaPairsDataModule(limit=0)
