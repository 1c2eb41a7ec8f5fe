"""Files as users bring them: byte order marks, line ends, encodings, damage, and texts that are too long."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from conftest import bpe_tokenizer, main, make_model, stereoset, wordpiece_tokenizer

from biaslab.commands import judging
from biaslab.data.corpus import CorpusDataModule
from biaslab.data.crows_pairs import CrowsPairsDataModule, read_pairs
from biaslab.data.prompt_pairs import read_prompts as read_trained_prompts
from biaslab.data.prompts import PromptDataModule, read_prompts
from biaslab.data.stereoset import StereoSetDataModule, read_clusters
from biaslab.errors import InputError, read_text
from biaslab.evaluation.perplexity import negative_log_likelihoods
from biaslab.models import positions
from biaslab.models.loading import load_model
from biaslab.models.positions import cut_tokens, with_positions
from biaslab.neurons.neuron_set import NeuronSet

PAIRS = "sent_more,sent_less,stereo_antistereo,bias_type\nthe woman is rude.,the man is rude.,stereo,gender\n"
PROMPTS = json.dumps([[["the rude person is [MASK].", word, 1] for word in ("female", "male")]], indent=1)
TEXT = "\n".join(f"the doctor loves water number {number} and café" for number in range(300))


def neurons(path: Path) -> str:
    NeuronSet([(0, 1)], (1, 2)).save(path)
    return path.read_text()


READERS = {
    "clusters": (read_clusters, lambda path: Path(stereoset(path)).read_text(), "`path`"),
    "pairs": (read_pairs, lambda path: PAIRS, "`path`"),
    "prompts": (read_prompts, lambda path: PROMPTS, "`path`"),
    "trained prompts": (lambda path: read_trained_prompts(path, "m"), lambda path: "is very\nwas not\n", "`prompts`"),
    "text": (lambda path: judging.perplexity(str(path), 10).sentences, lambda path: TEXT, "`text`"),
    "neurons": (NeuronSet.load, neurons, "`neurons`"),
}


@pytest.fixture(params=READERS)
def kind(request, tmp_path):
    """A reader, a path, and the content of a good file there."""
    read, make, argument = READERS[request.param]
    path = tmp_path / "file"
    return read, path, make(path), argument


def test_marks_and_line_ends_change_nothing(kind):
    read, path, content, _ = kind
    path.write_bytes(content.encode())
    expected = read(path)
    for changed in ("\ufeff" + content, content.replace("\n", "\r\n"), "\ufeff" + content.replace("\n", "\r")):
        path.write_bytes(changed.encode())
        assert read(path) == expected


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda text: b"", "is empty|has none"),
        (lambda text: b" \r\n\t", "is empty|has none"),
        (lambda text: ("\ufeff" + text).encode("utf-16-be"), "UTF-16"),
        (lambda text: text.encode("utf-16"), "UTF-16"),
        (lambda text: text.encode() + b"\n\0\n", "NUL"),
        (lambda text: b"\n\nGr\xfc\xdfe" + text.encode(), r"line 3 is not UTF-8 text \(byte 0xfc\)"),
    ],
)  # fmt: skip
def test_damage_is_named(kind, damage, why):
    read, path, content, argument = kind
    path.write_bytes(damage(content))
    with pytest.raises(InputError, match=rf"^{argument} is expected to .*({why})"):
        read(path)


def test_folders_and_missing_files(kind):
    read, path, _, argument = kind
    path.unlink(missing_ok=True)
    with pytest.raises(InputError, match=rf"^{argument} is expected"):
        read(path)
    path.mkdir()
    with pytest.raises(InputError, match=rf"^{argument} is expected"):
        read(path)


@pytest.mark.parametrize("reader", ["clusters", "prompts", "neurons"])
def test_nesting_without_end(reader, tmp_path):
    (tmp_path / "deep.json").write_text("[" * 200_000)
    with pytest.raises(InputError):
        READERS[reader][0](tmp_path / "deep.json")


def test_lone_carriage_returns_end_lines(tmp_path):
    (tmp_path / "old.txt").write_bytes(b"one\rtwo\r\nthree\n")
    assert read_text(tmp_path / "old.txt") == "one\ntwo\nthree\n"


def test_a_short_text_names_its_argument(tmp_path):
    (tmp_path / "short.txt").write_text("one two three four\n")
    for name in ("short.txt", "missing.txt"):
        with pytest.raises(InputError, match=r"^`text` is expected to .*txt"):
            judging.perplexity(str(tmp_path / name), 10)


def test_blanks_in_what_was_given_stay(workdir, capsys):
    (workdir / "two  blanks.json").write_text("[]")
    with pytest.raises(SystemExit):
        main(["cards", "two  blanks.json"])
    assert "two  blanks.json" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["cards", "two\nlines.json"])
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.fixture(scope="module", params=["bert", "gpt2", "roberta"])
def model(request, tmp_path_factory) -> Path:
    """A model of 64 positions; of RoBERTa's 64 one is not used, as padding has the id 0."""
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = wordpiece_tokenizer() if request.param == "bert" else bpe_tokenizer(request.param == "roberta")
    make_model(request.param, len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_positions(model):
    tokenizer = StereoSetDataModule(str(model)).load_tokenizer()
    assert tokenizer.model_max_length == 64 - (model.name.startswith("roberta"))
    assert with_positions(tokenizer, "nothing/there") is tokenizer


def test_judged_texts_that_are_too_long(model, tmp_path):
    long = "water " * 80
    content = json.loads(Path(stereoset(tmp_path / "s.json")).read_text())
    cluster = content["data"]["intrasentence"][3]
    cluster["context"] = long + cluster["context"]
    for sentence in cluster["sentences"]:
        sentence["sentence"] = long + sentence["sentence"]
    (tmp_path / "s.json").write_text(json.dumps(content))
    (tmp_path / "c.csv").write_text(PAIRS + f"{long}woman is rude.,{long}man is rude.,stereo,gender\n")
    (tmp_path / "p.json").write_text(PROMPTS.replace("the rude", f"the {long} rude"))
    limit = 64 - model.name.startswith("roberta")
    for data, stage, place in (
        (StereoSetDataModule(str(model), path=str(tmp_path / "s.json")), "test", "cluster 'c3' of .*s.json"),
        (CrowsPairsDataModule(str(model), path=str(tmp_path / "c.csv")), "test", "line 3 of .*c.csv"),
        (PromptDataModule(str(model), path=str(tmp_path / "p.json")), "predict", "group 0 of .*p.json"),
    ):
        with pytest.raises(InputError, match=rf"`path` is expected to .* at most {limit} tokens.*{place}.* has \d+"):
            data.setup(stage)


def test_ordinary_text_is_cut_and_that_is_said_once(model, tmp_path, caplog):
    positions.say_once.cache_clear()
    tokenizer = StereoSetDataModule(str(model)).load_tokenizer()
    loaded, _ = load_model(str(model))
    texts = ["water " * 90, "the doctor loves water"]
    with caplog.at_level(logging.WARNING, logger="biaslab"):
        for _ in range(2):
            likelihoods = negative_log_likelihoods(loaded, tokenizer, texts)
    limit = 64 - model.name.startswith("roberta")
    said = [f"1 of 2 sentences of the text are longer than {limit} tokens and were truncated."]
    assert [record.message for record in caplog.records] == said
    assert (likelihoods[:, 1] >= 3).all()
    assert {len(ids) for ids in cut_tokens(tokenizer, texts[:1], 10**9, "texts")} == {limit}
    assert len(cut_tokens(tokenizer, texts, 8, "texts")[0]) == 8
    lines = (f"the doctor {number} " + "loves water " * 60 for number in range(300))
    (tmp_path / "text.txt").write_text("\n".join(lines))
    if not model.name.startswith("gpt2"):
        data = CorpusDataModule(str(model), sources=[str(tmp_path / "text.txt")], max_length=500)
        data.setup("fit")
        assert {batch.shape[1] for batch in data.train_batches.batches} == {limit}
