"""What a model doesn't know, ties, and masks that are written in a text: counted and said, not passed over."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from conftest import bpe_tokenizer, main, make_model, stereoset, wordpiece_tokenizer

from biaslab.data.contrast import _example
from biaslab.data.prompts import PromptDataModule
from biaslab.data.queries import blanks, masked_queries
from biaslab.data.stereoset import StereoSetDataModule
from biaslab.errors import InputError
from biaslab.evaluation.evaluate import evaluate
from biaslab.evaluation.findings import Findings
from biaslab.evaluation.measures import Perplexity, StereoSet
from biaslab.evaluation.perplexity import negative_log_likelihoods, unknown_tokens
from biaslab.evaluation.treatment import BASE, Arm
from biaslab.models.positions import say_once

QUIET = ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.enable_progress_bar", "false"]


@pytest.fixture(autouse=True)
def said(caplog):
    say_once.cache_clear()
    caplog.set_level(logging.WARNING, logger="biaslab")
    return lambda: [record.message for record in caplog.records if record.name == "biaslab"]


def test_unknown_tokens_of_a_text(said):
    tokenizer = wordpiece_tokenizer(pieces=False)
    model, texts = make_model("bert", len(tokenizer)), ["the doctor loves quux", "the girl hates water"]
    for _ in range(2):
        assert negative_log_likelihoods(model, tokenizer, texts)[:, 1].tolist() == [3, 4]
    assert said() == ["1 of 8 tokens of the text are unknown to the tokenizer and are not scored."]
    evaluation = evaluate(model, tokenizer, [Arm(BASE)], [Perplexity(texts)])
    assert evaluation.findings("debias", "m", {}).facts == {"sentences": 2, "unknown_tokens": 1}
    known = evaluate(model, tokenizer, [Arm(BASE)], [Perplexity(texts[1:])])
    assert known.findings("debias", "m", {}).facts == {"sentences": 1}


def test_a_text_that_is_mostly_or_wholly_unknown(said):
    tokenizer = wordpiece_tokenizer(pieces=False)
    model = make_model("bert", len(tokenizer))
    negative_log_likelihoods(model, tokenizer, ["foo bar baz doctor"])
    assert said()[0].endswith("; that is most of them, so results say little about this model.")
    with pytest.raises(InputError, match="`text` is expected to have words that the model's tokenizer knows"):
        negative_log_likelihoods(model, tokenizer, ["foo bar baz quux"])
    causal = bpe_tokenizer(masked=False)
    assert unknown_tokens(causal, ["foo bar"])[0] == 0


def lab_file(path: Path, change) -> str:
    content = json.loads(Path(stereoset(path)).read_text())
    for cluster in content["data"]["intrasentence"]:
        change(cluster)
    path.write_text(json.dumps(content))
    return str(path)


def two_words(cluster: dict) -> None:
    """Fills that begin with the same word, of which the authors' rule scores the first alone."""
    for sentence in cluster["sentences"][:2]:
        word = sentence["sentence"].split()[-1]
        sentence["sentence"] = sentence["sentence"].replace(word, f"very {word}")


def test_fills_that_tie_are_counted(lab, workdir, said):
    path = lab_file(workdir / "s.json", two_words)
    data = StereoSetDataModule(str(lab / "model"), path=path)
    data.setup("test")
    assert any(text.startswith("12 of 12 clusters have the same word at the place of BLANK") for text in said())
    model, tokenizer = make_model("bert", len(data.load_tokenizer())), data.load_tokenizer()
    evaluate(model, tokenizer, [Arm(BASE)], [StereoSet(data)])
    assert "untouched, stereoset: 12 of 12 examples are ties; neither sentence counts as preferred." in said()
    main(["test", "-c", "stereoset", "--model.model_name", str(lab / "model"), "--data.path", path, *QUIET])
    findings = Findings.load(workdir / "runs/stereoset/version_0/stereoset.json")
    assert findings.facts["tied"]["overall"] == 12
    assert findings.get("model", "SS").figure.value == 0  # as the authors have it: a tie is no preference
    main(["test", "-c", "stereoset", "--model.model_name", str(lab / "model"), "--data.path",
          str(lab / "stereoset.json"), *QUIET])  # fmt: skip
    findings = Findings.load(workdir / "runs/stereoset/version_1/stereoset.json")
    assert findings.facts["tied"]["overall"] == 0


def test_words_that_are_unknown(lab, workdir, said):
    def unknown(cluster: dict) -> None:
        sentence = cluster["sentences"][2]
        sentence["sentence"] = cluster["context"].replace("BLANK", "水")

    data = StereoSetDataModule(str(lab / "model"), path=lab_file(workdir / "s.json", unknown))
    data.setup("test")
    assert said() == ["12 of 36 candidate words are unknown to the tokenizer and are scored as the unknown token."]


@pytest.mark.parametrize("rule", ["authors", "pll"])
def test_a_mask_that_is_written_before_the_blank(masked_tokenizer, rule):
    mask = masked_tokenizer.mask_token
    plain, marked = f"the {mask} doctor is BLANK {mask}.", "the man doctor is BLANK man."
    for context, word in ((plain, "rude"), (marked, "rude"), ("BLANK is BLANK .", "rude")):
        (queries,) = masked_queries(masked_tokenizer, [(context, word)], rule)
        for number, query in enumerate(queries):
            assert query.input_ids[query.position] == masked_tokenizer.mask_token_id
            before = masked_tokenizer.decode(query.input_ids[: query.position]).split("is")
            assert len(before) == (1 if context.startswith("BLANK") else 2)
            assert number or query.input_ids.count(masked_tokenizer.mask_token_id) == (
                1 + 2 * (context is plain) + (context.startswith("BLANK") and rule == "authors")
            )


def test_where_blanks_are(masked_tokenizer):
    mask, text = masked_tokenizer.mask_token, "BLANK is {} and BLANK"
    ids = masked_tokenizer(text.format(masked_tokenizer.mask_token).replace("BLANK", mask))["input_ids"]
    places = [place for place, token in enumerate(ids) if token == masked_tokenizer.mask_token_id]
    assert blanks(masked_tokenizer, text.format(mask), ids) == [places[0], places[2]]


def test_a_mask_in_a_prompt_or_a_contrast_sentence(tmp_path, masked_tokenizer):
    masked_tokenizer.save_pretrained(tmp_path / "model")
    make_model("bert", len(masked_tokenizer)).save_pretrained(tmp_path / "model")
    mask = masked_tokenizer.mask_token
    groups = [[[f"{'' if mask == '[MASK]' else mask} the man is [MASK].", word, 1] for word in ("female", "male")]]
    (tmp_path / "p.json").write_text(json.dumps(groups))
    data = PromptDataModule(str(tmp_path / "model"), path=str(tmp_path / "p.json"))
    if mask == "[MASK]":  # the file's own mark of a slot
        data.setup("predict")
    else:
        with pytest.raises(InputError, match=f"`prompt` is expected to have one slot but also contains {mask}"):
            data.setup("predict")
    assert _example(masked_tokenizer, "x", f"the {mask} is {{slot}} now", ["rude", "kind"]) is None
    assert torch.tensor(_example(masked_tokenizer, "x", "the man is {slot} now", ["rude", "kind"]).targets).numel() == 2
