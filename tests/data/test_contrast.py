import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from conftest import bpe_tokenizer, wordpiece_tokenizer

from biaslab.data.contrast import make_batches, pairs_of
from biaslab.data.stereoset import half_of
from biaslab.errors import InputError


@pytest.fixture
def text(tmp_path):
    names = ("doctor", "driver", "friend", "girl", "boy", "man", "woman", "person", "water", "city")
    lines = [f"the {a} loves the {b} and hates the {c} ." for a in names for b in names for c in names]
    path = tmp_path / "text.txt"
    path.write_text("\n".join(lines))
    return str(path)


@pytest.mark.parametrize("tokenizer", [wordpiece_tokenizer(), bpe_tokenizer(), bpe_tokenizer(masked=False)])
def test_plain_text(text, tokenizer):
    batches = make_batches(tokenizer, text, limit=20, tokens_per_batch=100)
    examples = [example for batch in batches for example in batch["example"].tolist()]
    assert sorted(examples) == list(range(len(examples)))
    assert 5 <= len(examples) <= 20
    for batch in batches:
        assert batch["pairs"].tolist() == [[0, 1]]
        assert (batch["target_ids"][:, 0] != batch["target_ids"][:, 1]).all()


def test_several_sources(text, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text(Path(text).read_text().replace("loves", "rude"))
    tokenizer, sources = wordpiece_tokenizer(), [text, str(other)]
    together = make_batches(tokenizer, sources, 20, 100)
    alone = [batch for source in sources for batch in make_batches(tokenizer, source, 20, 100)]
    assert pairs_of(sources) == [f"{source}/guard/true-random" for source in sources]
    assert len(together) == len(alone)
    for batch, single in zip(together, alone, strict=True):
        assert torch.equal(batch["input_ids"], single["input_ids"])
    assert {int(batch["pair"]) for batch in together} == {0, 1}
    examples = [example for batch in together for example in batch["example"].tolist()]
    assert sorted(examples) == list(range(len(examples)))


def test_no_usable_sentence(tmp_path):
    (tmp_path / "t.txt").write_text("Nothing HERE fits AT ALL EVER .")
    with pytest.raises(InputError, match="`contrast` is expected to contain words that are a single token"):
        make_batches(wordpiece_tokenizer(), str(tmp_path / "t.txt"), 10, 100)


def test_stereoset_test_split(tmp_path, monkeypatch):
    def sentence(word, label):
        return {"sentence": f"the doctor was {word}.", "id": f"{word}", "gold_label": label}

    def cluster(number, words):
        labels = ("stereotype", "anti-stereotype", "unrelated")
        return {
            "id": f"c{number}", "target": "doctor", "bias_type": "profession", "context": "the doctor was BLANK.",
            "sentences": [sentence(w, label) for w, label in zip(words, labels, strict=True)],
        }  # fmt: skip

    clusters = [cluster(0, ("rude", "kind", "water")), cluster(1, ("rudest", "kind", "city"))]
    folder = tmp_path / "stereoset"
    folder.mkdir()
    (folder / "test.json").write_text(json.dumps({"data": {"intrasentence": clusters}}))
    monkeypatch.setenv("BIASLAB_CACHE", str(tmp_path))
    tokenizer = wordpiece_tokenizer()
    (batch,) = make_batches(tokenizer, "stereoset", 10, 100)  # "rudest" is several tokens
    assert tokenizer.convert_ids_to_tokens(batch["target_ids"][0].tolist()) == ["rude", "kind", "water"]
    assert batch["pairs"].tolist() == [[0, 2], [1, 2], [0, 1]]
    names = [pairs_of("stereoset")[number] for number in batch["pair"].tolist()]
    guards = ["profession/guard/stereotype-unrelated", "profession/guard/anti_stereotype-unrelated"]
    assert names == [*guards, "profession/bias"]


def test_half_of_the_terms(tiny_cache):
    tokenizer = wordpiece_tokenizer()
    both, half = (make_batches(tokenizer, "stereoset", 100, 100, terms) for terms in ("all", "find"))
    texts = [
        Counter(tokenizer.decode(ids) for batch in batches for ids in batch["input_ids"]) for batches in (both, half)
    ]
    assert texts[1] == {
        text: n for text, n in texts[0].items() if half_of(text.split()[2]) == "find"
    }  # [CLS] the doctor
    assert 0 < texts[1].total() < texts[0].total()
