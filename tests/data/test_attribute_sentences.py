import re
from collections import Counter
from itertools import islice

import pytest
import torch
from conftest import bpe_tokenizer, wordpiece_tokenizer
from pytorch_lightning import Trainer

from biaslab.data.attribute_sentences import (
    GROUPS,
    KINDS,
    AttributeSentencesDataModule,
    EpochSampler,
    Example,
    KindBatches,
    collate,
    encode,
    sort_by_kind,
)
from biaslab.data.attribute_words import GENDER_PAIRS, TARGETS
from biaslab.errors import InputError

FEMALE, MALE = (frozenset(words) for words in zip(*GENDER_PAIRS, strict=True))


@pytest.fixture
def text(tmp_path):
    """A corpus of the three kinds, and more of men than of women."""
    jobs = ("doctor", "driver", "nurse", "lawyer")
    verbs = ("loves", "hates", "was", "in", "is")
    places = ("city", "home", "school", "water")
    people = ("woman", "man", "boy", "friend", "girl", "he")
    lines = [f"the {p} {v} the {x} {j} at {q}." for j in jobs for v in verbs for q in places for x in ("old", "nice")
             for p in people]  # fmt: skip
    path = tmp_path / "text.txt"
    path.write_text("\n".join(lines))
    return str(path)


def module(folder, text, tokenizer=None, **options):
    (tokenizer or wordpiece_tokenizer()).save_pretrained(folder / "t")
    data = AttributeSentencesDataModule(str(folder / "t"), **{"sources": [text], "batch_size": 4} | options)
    data.prepare_data()
    data.setup("fit")
    return data


def test_kinds_of_sentences():
    sentences = [
        "She said that HER work was done.",
        "He met his sister.",
        "The men are here, and the hero.",
        "The Nurse told the nurse, not the doctor.",
        "An overmanned ship, a human shell and mother_tongues.",
        "He's a doctor.",
    ]
    found = sort_by_kind(sentences)
    words = {kind: [[s[a:b] for a, b in spans] for s, spans in found[kind]] for kind in KINDS}
    assert words == {
        "female": [["She", "HER"]],
        "male": [["men", "hero"], ["He"]],
        "target": [["doctor"], ["Nurse"]],
    }


def spelled(tokenizer, ids):
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False).strip()


@pytest.mark.parametrize("first", ["", "“Well”, é — "])
def test_pieces_are_those_of_the_word(masked_tokenizer, first):
    sentences = [first + "the Librarian’s gentlewoman-like lady was there (she)"]
    sentences += [first + "a gentleman was the man, his brother?!"]
    for sentence, expected in zip(sentences, (["lady", "she"], ["gentleman", "man", "his", "brother"]), strict=True):
        ((candidate,),) = (found for found in sort_by_kind([sentence]).values() if found)
        (example,) = encode([candidate], masked_tokenizer, 128)
        assert example.input_ids == masked_tokenizer(sentence)["input_ids"]
        spellings = [spelled(masked_tokenizer, [example.input_ids[at] for at in word]) for word in example.words]
        assert [re.sub(r"[\s#]", "", word).lower() for word in spellings] == expected


def test_pieces_of_a_causal_tokenizer():
    tokenizer = bpe_tokenizer(masked=False)
    (example,) = encode(sort_by_kind(["Here is the grandmother, a doctor."])["female"], tokenizer, 128)
    (word,) = example.words
    assert len(word) > 1
    assert tokenizer.decode([example.input_ids[at] for at in word]) == " grandmother"


@pytest.mark.parametrize("make", [wordpiece_tokenizer, bpe_tokenizer])
def test_words_that_are_cut_off_do_not_count(make):
    tokenizer = make()
    sentence = "the girl is the grandmother"
    candidates = sort_by_kind([sentence])["female"]
    whole = len(tokenizer(sentence)["input_ids"])
    counts = [
        [len(example.words) for example in encode(candidates, tokenizer, length)] for length in range(3, whole + 1)
    ]
    assert counts[0] == []
    assert counts[-2:] == [[1], [2]]  # one piece less, and the last word is gone
    assert sorted(counts) == counts


def test_collate_weighs_each_word_once():
    examples = [Example([2, 7, 8, 9, 3], [[1, 2], [3]]), Example([2, 5, 3], [[1]])]
    batch = collate("male", examples, pad_id=1)
    assert batch["kind"] == "male"
    assert batch["input_ids"].tolist() == [[2, 7, 8, 9, 3], [2, 5, 3, 1, 1]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert batch["weights"].tolist() == [[0, 0.5, 0.5, 1, 0], [0, 1, 0, 0, 0]]


def examples(**counts):
    return {kind: [Example([index], [[0]]) for index in range(counts[kind])] for kind in KINDS}


def test_an_epoch_has_equally_many_batches_of_each_kind():
    batches = KindBatches(examples(female=13, male=50, target=6), batch_size=4, pad_id=0)
    drawn = batches.draw(0)
    assert len(drawn) == len(batches) == 9
    assert Counter(kind for kind, _ in drawn) == dict.fromkeys(KINDS, 3)
    assert all(len(chosen) == 4 for _, chosen in drawn)
    of = {kind: Counter(one for k, chosen in drawn if k == kind for one in chosen) for kind in KINDS}
    assert max(of["female"].values()) == max(of["male"].values()) == 1
    assert sorted(of["target"].values()) == [2] * 6
    assert drawn == batches.draw(0)
    assert drawn != batches.draw(1)
    assert [kind for kind, _ in drawn] != sorted(kind for kind, _ in drawn)


def test_ranks_share_the_batches_and_epochs_differ():
    batches = KindBatches(examples(female=13, male=50, target=20), batch_size=4, pad_id=0)
    samplers = [EpochSampler(batches, seed=3, ranks=2, rank=rank) for rank in range(2)]
    shares = [list(sampler) for sampler in samplers]
    assert [len(sampler) for sampler in samplers] == [len(share) for share in shares] == [4, 4]  # the ninth is left out
    assert [batch for pair in zip(*shares, strict=True) for batch in pair] == batches.draw(3)[:8]
    samplers[0].set_epoch(1)
    assert list(samplers[0]) != shares[0]
    fixed = EpochSampler(batches, seed=3, ranks=1, rank=0, fixed=True)
    fixed.set_epoch(1)
    assert list(fixed) == batches.draw(3)


@pytest.mark.parametrize("make", [wordpiece_tokenizer, bpe_tokenizer])
def test_batches_hold_what_their_kind_says(tmp_path, text, make):
    data = module(tmp_path, text, make())
    tokenizer, seen = data.tokenizer, Counter()
    for batch in [*data.train_dataloader(), *data.val_dataloader()]:
        assert batch["weights"][batch["attention_mask"] == 0].sum() == 0
        for ids, mask, weights in zip(batch["input_ids"], batch["attention_mask"], batch["weights"], strict=True):
            ids = ids[mask.bool()].tolist()
            words = re.findall(r"\w+", tokenizer.decode(ids, skip_special_tokens=True).lower())
            asked = spelled(tokenizer, [i for i, w in zip(ids, weights.tolist(), strict=False) if w]).replace(" ##", "")
            groups = {"female"} & {"female" for w in words if w in FEMALE} | {"male" for w in words if w in MALE}
            assert groups == ({batch["kind"]} & set(GROUPS))
            assert asked.replace(" ", "") in {"female": FEMALE, "male": MALE, "target": TARGETS}[batch["kind"]]
            assert weights.sum() == pytest.approx(1)
        seen[batch["kind"]] += 1
    assert len(set(seen.values())) == 1


def test_limits_and_seed(tmp_path, text):
    data = module(tmp_path, text, limit=9, validation_limit=5)
    assert [len(data.training.examples[kind]) for kind in KINDS] == [9, 9, 9]
    assert max(len(data.validation.examples[kind]) for kind in KINDS) <= 5
    assert len(data.train_dataloader()) == 3 * 2
    again, other = (module(tmp_path, text, limit=9, seed=seed) for seed in (42, 1))
    assert again.training.examples == data.training.examples
    assert other.training.examples != data.training.examples


def test_attribute_batches_hold_each_training_sentence_once(tmp_path, text):
    data = module(tmp_path, text)
    expected = Counter((g, tuple(e.input_ids)) for g in GROUPS for e in data.training.examples[g])
    for ranks in (1, 2):
        found = Counter(
            (batch["kind"], tuple(ids[mask.bool()].tolist()))
            for rank in range(ranks)
            for batch in data.attribute_batches(rank, ranks)
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        )
        assert found == expected


def test_it_trains_under_a_trainer_with_its_own_sampler(tmp_path, text):
    data = module(tmp_path, text, limit=8)
    data.trainer = Trainer(accelerator="cpu", devices=1, logger=False)
    assert isinstance(data.train_dataloader().sampler, EpochSampler)


@pytest.mark.parametrize(("name", "value"), [("batch_size", 0), ("limit", -1), ("validation_limit", 0)])
def test_numbers_that_are_not_positive(name, value):
    with pytest.raises(InputError, match=f"`{name}` is expected to be a positive integer but got {value}"):
        AttributeSentencesDataModule(**{name: value})


def test_a_corpus_without_a_kind(tmp_path):
    path = tmp_path / "men.txt"
    path.write_text("\n".join(f"the man is at home number {number}" for number in range(300)))
    with pytest.raises(InputError, match="the train split has none of the kind 'female'"):
        module(tmp_path, str(path))


@pytest.mark.assets
def test_named_source(asset):
    asset("bold")
    asset("minilm-encoder")
    data = AttributeSentencesDataModule(sources=["bold"], limit=64)
    data.setup("fit")
    assert [len(data.training.examples[kind]) for kind in KINDS] == [64, 64, 64]
    (batch,) = islice(data.train_dataloader(), 1)
    assert batch["input_ids"].shape[0] == 32
    assert torch.all(batch["weights"].sum(1) >= 0.99)
