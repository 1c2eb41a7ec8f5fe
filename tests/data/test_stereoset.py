from __future__ import annotations

import json
from collections import Counter

import pytest
import torch
from conftest import bpe_tokenizer, wordpiece_tokenizer
from pytorch_lightning import LightningModule, Trainer
from tokenizers import AddedToken

from biaslab.data.queries import masked_queries, word_pieces
from biaslab.data.stereoset import (
    DOMAINS,
    LABELS,
    TEST_TERMS,
    StereoSetDataModule,
    candidate_word,
    half_of,
    read_clusters,
)
from biaslab.errors import InputError


def record(number=0, **changes):
    sentences = [
        {"id": f"s{number}{label}", "sentence": f"The {number} man is {word}.", "gold_label": label}
        for label, word in zip(LABELS[::-1], ("water", "kind", "rude"), strict=True)
    ]
    fields = {"id": f"c{number}", "target": f"term {-number}", "bias_type": DOMAINS[number % 4]}
    return {**fields, "context": f"The {number} man is BLANK.", "sentences": sentences} | changes


def write(path, records, task="intrasentence"):
    path.write_text(json.dumps({"version": "mine", "data": {task: records}}), encoding="utf-8")
    return path


@pytest.fixture(params=["wordpiece", "bpe"])
def in_place_tokenizer(request):
    """As RoBERTa's, the mask token of the byte-level BPE takes the space before it."""
    if request.param == "wordpiece":
        return wordpiece_tokenizer()
    tokenizer = bpe_tokenizer()
    tokenizer.backend_tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True)])
    return tokenizer


@pytest.fixture
def prepared(tmp_path):
    """A set-up data module of twelve clusters, by tokenizer and options."""

    def prepare(tokenizer, **options):
        tokenizer.save_pretrained(tmp_path)
        path = write(tmp_path / "mine.json", [record(number) for number in range(12)])
        data = StereoSetDataModule(str(tmp_path), path=str(path), **options)
        data.prepare_data()
        data.setup("test")
        return data

    return prepare


def test_clusters_are_read_in_order_with_their_candidates_sorted(tmp_path):
    first, second = read_clusters(write(tmp_path / "mine.json", [record(3), record(1)]))
    assert first.id == "c3"
    assert first.domain == "religion"
    assert first.target == "term -3"
    assert first.context == "The 3 man is BLANK."
    assert first.sentences == ("The 3 man is rude.", "The 3 man is kind.", "The 3 man is water.")
    assert first.sentence_ids == ("s3stereotype", "s3anti-stereotype", "s3unrelated")
    assert second.id == "c1"


def test_intersentence_clusters_need_no_blank(tmp_path):
    path = write(tmp_path / "mine.json", [record(context="He came home.")], "intersentence")
    assert read_clusters(path, "intersentence")[0].context == "He came home."


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"context": "No blank."}, r"cluster 'c1' lacks BLANK in its context 'No blank\.'"),
        ({"context": None}, "cluster 'c1' lacks a text under 'context'"),
        ({"target": ""}, "cluster 'c1' lacks a text under 'target'"),
        ({"id": None}, "cluster None lacks a text under 'id'"),
        ({"bias_type": "age"}, "cluster 'c1' has the bias_type 'age', not one of gender"),
        ({"sentences": None}, "cluster 'c1' lacks a list of sentences"),
        ({"sentences": []}, "cluster 'c1' has sentences labelled nothing instead of stereotype"),
        ({"sentences": record()["sentences"][:2]}, "'c1' has sentences labelled unrelated, anti-stereotype instead of"),
        ({"sentences": record()["sentences"][:2] * 2}, "'c1' has sentences labelled"),
        ({"sentences": [{"sentence": "A"}]}, "'c1' has a sentence that lacks a text under 'id'"),
    ],
)
def test_a_damaged_cluster_is_named(tmp_path, changes, message):
    path = write(tmp_path / "mine.json", [record(0), record(1, **changes)])
    with pytest.raises(InputError, match=message) as caught:
        read_clusters(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_cluster_without_id_has_its_number(tmp_path):
    with pytest.raises(InputError, match="cluster number 1 is not a mapping"):
        read_clusters(write(tmp_path / "mine.json", [record(0), "c1"]))


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"data": []}', '{"data": {"intrasentence": []}}', '{"data": {"x": [1]}}']
)
def test_a_foreign_file_is_refused(tmp_path, content):
    path = tmp_path / "foreign.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"`path` .*foreign\.json"):
        read_clusters(path)


def test_a_file_that_is_cut_off_missing_or_binary_is_refused(tmp_path):
    path = write(tmp_path / "mine.json", [record(0), record(1)])
    path.write_text(path.read_text()[:-40])
    with pytest.raises(InputError, match=r"mine\.json can't be read or is truncated"):
        read_clusters(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"mine\.json can't be read"):
        read_clusters(path)
    with pytest.raises(InputError, match=r"none\.json can't be read"):
        read_clusters(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("context", "sentence", "word"),
    [
        ("The man is BLANK.", "The man is kind.", "kind"),
        ("BLANK men cook", "Kind men cook", "Kind"),
        ("The BLANK, a man", "The cook, a man", "cook"),
        ("He is (BLANK).", "He is ('well-read').", "wellread"),
        ("He  is BLANK.", "He  is kind.", "kind"),  # single spaces: the empty word between two counts
        ("A BLANK or a BLANK", "A cook or a cook", "cook"),
    ],
)
def test_candidate_word(context, sentence, word):
    assert candidate_word(context, sentence) == word


def test_a_candidate_without_a_word_is_refused():
    for sentence in ("He is", "He is ..."):
        with pytest.raises(InputError, match=f"`sentence` .* but got '{sentence}'"):
            candidate_word("He is BLANK.", sentence)
    with pytest.raises(InputError, match=r"`context` .* but got 'He is.'"):
        candidate_word("He is.", "He is.")


def test_a_leading_space_is_the_tokenizers_to_decide():
    candidates = [("The man is BLANK.", "kind"), ("BLANK man", "kind"), ("The man (BLANK)", "kind")]
    bpe = bpe_tokenizer()
    spaced, first, enclosed = word_pieces(bpe, candidates)
    assert bpe.decode(spaced) == " kind"
    assert bpe.decode(first) == bpe.decode(enclosed) == "kind"
    assert len({tuple(pieces) for pieces in word_pieces(wordpiece_tokenizer(), candidates)}) == 1


def test_the_pieces_before_stand_in_place_and_the_later_ones_are_absent(in_place_tokenizer):
    (queries,) = masked_queries(in_place_tokenizer, [("the man is BLANK of water", "grumpily")])
    assert len(queries) > 2
    pieces = [query.target_id for query in queries]
    texts = []
    for index, query in enumerate(queries):
        assert query.input_ids[query.position] == in_place_tokenizer.mask_token_id
        assert query.input_ids.count(in_place_tokenizer.mask_token_id) == 1
        assert list(query.input_ids[query.position - index : query.position]) == pieces[:index]
        texts.append(query.input_ids[: query.position - index] + query.input_ids[query.position + 1 :])
    assert len(set(texts)) == 1  # around the word nothing changes


def test_pll_has_all_other_pieces_in_place(in_place_tokenizer):
    (queries,) = masked_queries(in_place_tokenizer, [("the man is BLANK of water", "grumpily")], "pll")
    filled = set()
    for query in queries:
        assert query.input_ids.count(in_place_tokenizer.mask_token_id) == 1
        before, after = query.input_ids[: query.position], query.input_ids[query.position + 1 :]
        filled.add((*before, query.target_id, *after))
    assert filled == {tuple(in_place_tokenizer.encode("the man is grumpily of water"))}


def test_a_word_without_pieces_is_refused():
    with pytest.raises(InputError, match=r"`candidates` .* but got '\\u200b'"):
        masked_queries(wordpiece_tokenizer(), [("He is BLANK.", "\u200b")])


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "causal"])
@pytest.mark.parametrize("tokens_per_batch", [1, 100, 10_000])
def test_batches_hold_each_cluster_once_and_whole(prepared, kind, tokens_per_batch):
    tokenizer = {"wordpiece": wordpiece_tokenizer(), "bpe": bpe_tokenizer(), "causal": bpe_tokenizer(masked=False)}[
        kind
    ]
    data = prepared(tokenizer, tokens_per_batch=tokens_per_batch)
    batches = list(data.test_dataloader())
    assert sorted(torch.cat([batch["examples"] for batch in batches]).tolist()) == list(range(12))
    for batch in batches:
        candidates = torch.cat([group["candidate"] for group in batch["inputs"]])
        assert torch.equal(candidates.bincount(minlength=3 * len(batch["examples"])), batch["pieces"].flatten())
        tokens = sum(group["input_ids"].numel() for group in batch["inputs"])
        assert tokens <= tokens_per_batch or len(batch["examples"]) == 1
        for group in batch["inputs"]:
            assert group["input_ids"].unique(dim=0).shape == group["input_ids"].shape
            assert group["row"].max() < len(group["input_ids"]) == len(group["position"])
        for index, example in enumerate(batch["examples"].tolist()):
            assert data.term_names[batch["terms"][index]] == f"term {-example}"
            assert data.domain_names[batch["domains"][index]] == DOMAINS[example % 4]
    assert {batch["rule"] for batch in batches} == {"causal" if kind == "causal" else "authors"}
    assert all(batch.get("start_id") == (0 if kind == "causal" else None) for batch in batches)


def test_every_so_many_th_cluster(prepared):
    whole, some = prepared(wordpiece_tokenizer()), prepared(wordpiece_tokenizer(), limit=7, every=3)
    assert [cluster.id for cluster in some.clusters] == [whole.clusters[number].id for number in (0, 3, 6)]


def test_a_limit_changes_no_id(prepared):
    every, few = prepared(wordpiece_tokenizer()), prepared(wordpiece_tokenizer(), limit=5)
    assert len(few.clusters) == 5
    assert few.term_names == every.term_names == tuple(sorted(every.term_names))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "intersentence"}, "`task` .* next-sentence head"),
        ({"task": "sentence"}, "`task` .* 'sentence'"),
        ({"split": "train"}, "`split` .* 'train'"),
        ({"rule": "mean"}, "`rule` .* 'mean'"),
        ({"terms": "dev"}, "`terms` .* 'dev'"),
        ({"limit": 0}, "`limit` .* got 0"),
        ({"every": 0}, "`every` .* got 0"),
        ({"tokens_per_batch": -1}, "`tokens_per_batch` .* got -1"),
    ],
)
def test_other_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        StereoSetDataModule(**options)


def test_pll_is_of_masked_models(prepared):
    with pytest.raises(InputError, match=r"`rule` .* authors but got 'pll'"):
        prepared(bpe_tokenizer(masked=False), rule="pll")


@pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*does not have many workers")
def test_a_trainer_moves_batches_and_sees_each_cluster(prepared):
    class Collect(LightningModule):
        def test_step(self, batch, batch_index):
            examples.extend(batch["examples"].tolist())

    examples: list[int] = []
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    trainer = Trainer(accelerator="cpu", devices=1, **quiet)
    trainer.test(Collect(), datamodule=prepared(wordpiece_tokenizer(), tokens_per_batch=30), verbose=False)
    assert sorted(examples) == list(range(12))


def test_halves_of_the_terms(prepared):
    whole = prepared(wordpiece_tokenizer())
    halves = {terms: prepared(wordpiece_tokenizer(), terms=terms) for terms in ("find", "choose")}
    for terms, half in halves.items():
        assert half.clusters == [cluster for cluster in whole.clusters if half_of(cluster.target) == terms]
        assert half.clusters
        assert half.term_names == whole.term_names
    assert sum(len(half.clusters) for half in halves.values()) == len(whole.clusters)
    (first,) = prepared(wordpiece_tokenizer(), terms="choose", limit=1).clusters
    assert first == halves["choose"].clusters[0]


@pytest.mark.assets
def test_the_real_files(asset):
    folder = asset("stereoset")
    counts = {("dev", "intrasentence"): 2106, ("dev", "intersentence"): 2123}
    counts |= {("test", "intrasentence"): 6392, ("test", "intersentence"): 6374}
    for (split, task), count in counts.items():
        clusters = read_clusters(folder / f"{split}.json", task)
        assert len(clusters) == count
        assert len({cluster.id for cluster in clusters}) == count
        if task == "intrasentence":
            assert all(candidate_word(cluster.context, text) for cluster in clusters for text in cluster.sentences)
    terms = {(cluster.domain, cluster.target) for cluster in read_clusters("test")}
    assert Counter(domain for domain, _ in terms) == TEST_TERMS
    halves = Counter((cluster.domain, half_of(cluster.target)) for cluster in read_clusters("test"))
    assert len(halves) == 2 * len(DOMAINS)
    assert min(halves.values()) > 80
