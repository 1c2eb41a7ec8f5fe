"""The search as a job: what it writes and refuses, and that a kill changes nothing."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import bpe_tokenizer, make_model, wordpiece_tokenizer
from faults import break_off
from transformers import BertTokenizerFast

from biaslab.commands.search_prompts import search_prompts
from biaslab.data.prompt_pairs import question, read_prompts
from biaslab.errors import InputError
from biaslab.tasks.baselines import prompt_search
from biaslab.tasks.baselines.autodebias import jensen_shannon
from biaslab.tasks.baselines.prompt_search import Space, frequent_words
from biaslab.tasks.shards import Shards

FEW = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", ".", "nurse", "doctor", "chef")
NAMES = ("doctor", "driver", "friend", "girl", "boy", "man", "woman", "person")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A folder with a tiny model of each kind of tokenizer, and some text."""
    folder = tmp_path_factory.mktemp("lab")
    for name, kind, tokenizer in (("model", "bert", wordpiece_tokenizer()), ("bpe", "roberta", bpe_tokenizer())):
        make_model(kind, len(tokenizer)).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    lines = [f"The old {a} loves the {b} and hates the {c} ." for a in NAMES for b in NAMES for c in NAMES]
    (folder / "text.txt").write_text("\n".join(lines))
    return folder


def search(lab: Path, output: Path, **settings) -> dict:
    options = {"vocabulary": 5, "beam": 3, "depth": 2} | settings
    search_prompts(
        str(lab / options.pop("name", "model")), sources=[str(lab / "text.txt")], output=str(output), **options
    )
    return json.loads(output.read_text())


@pytest.mark.parametrize("name", ["model", "bpe"])
def test_writes_what_the_training_reads(lab, tmp_path, capsys, name):
    output = tmp_path / "new" / "prompts.json"
    content = search(lab, output, name=name)
    assert [prompt["level"] for prompt in content["prompts"]] == [1, 1, 1, 2, 2, 2]
    assert [len(prompt["text"].split()) for prompt in content["prompts"]] == [1, 1, 1, 2, 2, 2]
    assert all(prompt["score"] > 0 for prompt in content["prompts"])
    assert content["settings"]["beam"] == 3
    assert read_prompts(output, str(lab / name)) == [prompt["text"] for prompt in content["prompts"]]
    printed = capsys.readouterr().out
    assert f"{(5 + 15) * 4 * 2} short forward passes" in printed  # she/he woman/man girl/boy female/male
    assert f"--data.prompts {output}" in printed
    assert os.listdir(output.parent) == ["prompts.json"]


@pytest.mark.parametrize("tokenizer", [wordpiece_tokenizer(), bpe_tokenizer()], ids=["wordpiece", "bpe"])
def test_scores_the_tokens_of_the_whole_text(lab, tokenizer):
    """Prompts are put between tokens; it has to be what the tokenizer makes of the text."""
    space = Space.of(tokenizer, "gender", [str(lab / "text.txt")], 5)
    assert (
        list(space.vocabulary)[:5]
        == frequent_words([str(lab / "text.txt")])[:5]
        == ["the", "and", "hates", "loves", "old"]
    )
    assert set(space.targets) == {"doctor", "driver", "cooking"}
    model, seen = make_model("bert", len(tokenizer)), []
    model.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True)
    words = ("loves", "the")
    prompt = torch.tensor([[space.vocabulary[word] for word in words]])
    space.scorer(model, tokenizer, jensen_shannon, 4096)(prompt)
    expected = [question(tokenizer, word, " ".join(words)) for pair in space.pairs for word in pair]
    assert seen[0].tolist() == [question.input_ids for question in expected]
    assert {question.input_ids[question.position] for question in expected} == {tokenizer.mask_token_id}


def test_finished_search_is_not_done_again_and_another_refused(lab, tmp_path, capsys):
    output = tmp_path / "prompts.json"
    content = search(lab, output)
    content["prompts"][0]["text"] = "edited"
    output.write_text(json.dumps(content))
    assert search(lab, output) == content
    assert "already" in capsys.readouterr().out
    with pytest.raises(
        InputError, match="beam is 3 there and 2 here, divergence is jensen_shannon there and reversed here"
    ):
        search(lab, output, beam=2, divergence="reversed")
    with pytest.raises(InputError, match="fingerprint is "):
        search(lab, output, name="bpe")
    output.write_text("loves the")
    with pytest.raises(InputError, match="beam is missing there"):
        search(lab, output)


def test_unfinished_search_of_another_configuration_is_refused(lab, tmp_path):
    Shards(tmp_path / "prompts.json.part").open({"settings": {"beam": 2}})
    with pytest.raises(InputError, match=r"settings\.beam is 2 there and 3 here"):
        search(lab, tmp_path / "prompts.json")


def test_bad_input(lab, tmp_path):
    output = tmp_path / "prompts.json"
    for name in ("vocabulary", "beam", "depth", "token_budget"):
        with pytest.raises(InputError, match=f"`{name}` is expected to be a positive integer but got 0"):
            search(lab, output, **{name: 0})
    for name, known in (("pairs", "gender or race"), ("divergence", "jensen_shannon or reversed")):
        with pytest.raises(InputError, match=f"`{name}` is expected to be {known} but got 'x'"):
            search(lab, output, **{name: "x"})
    with pytest.raises(InputError, match="`vocabulary` is expected to be at most 13"):
        search(lab, output, vocabulary=100)
    with pytest.raises(
        InputError, match="to have at least one pair and two target words as single tokens but has 0 and 3"
    ):
        Space.of(BertTokenizerFast(vocab={word: index for index, word in enumerate(FEW)}), "gender", [], 1)
    make_model("gpt2", len(bpe_tokenizer(masked=False))).save_pretrained(lab / "causal")
    bpe_tokenizer(masked=False).save_pretrained(lab / "causal")
    with pytest.raises(InputError, match="masked language model"):
        search(lab, output, name="causal")


def test_a_search_that_breaks_off_again_and_again_gives_the_same_file(lab, tmp_path, monkeypatch):
    monkeypatch.setattr(prompt_search, "beam_search", partial(prompt_search.beam_search, every=0.0))
    monkeypatch.setattr(prompt_search, "_CHUNK", 1)
    few = {"vocabulary": 12, "beam": 6, "depth": 3}
    run = partial(search, lab, tmp_path / "broken.json", **few)
    breaks = next(files for files in range(100) if not break_off(run, files, monkeypatch))
    assert breaks >= 4
    assert json.loads((tmp_path / "broken.json").read_text()) == search(lab, tmp_path / "whole.json", **few)
    assert sorted(os.listdir(tmp_path)) == ["broken.json", "whole.json"]


def test_help_needs_no_torch():
    program = (
        "import sys, biaslab.commands.search_prompts\n"
        "assert not {'torch', 'transformers', 'pytorch_lightning', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
