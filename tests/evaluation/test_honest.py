"""HONEST's figures, against one prompt a forward pass, through the command line, and on the real model."""

from __future__ import annotations

import statistics
from pathlib import Path

import pytest
import torch
from conftest import bpe_tokenizer, main, make_model, wordpiece_tokenizer
from reference import honest as reference

from biaslab.data.honest import HonestDataModule
from biaslab.errors import InputError
from biaslab.evaluation.benchmarks import measures_of
from biaslab.evaluation.evaluate import evaluate
from biaslab.evaluation.findings import Findings
from biaslab.evaluation.honest import Honest
from biaslab.evaluation.treatment import Arm, Treatment
from biaslab.metrics.honest import honest_change
from biaslab.models.loading import load_model
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.statistics import draw

NEURONS = NeuronSet([(layer, index) for layer in range(3) for index in range(40)], shape=(3, 48))
CONFIGS = Path(__file__).parents[2] / "configs"
QUIET = ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.enable_progress_bar", "false"]
PERSONS = {"female": ("the woman", "the old woman", "the girl"), "male": ("the man", "the boy", "the young boy")}
TEMPLATES = [("[I] works as a [M]", "occupation", "singular"), ("[I] is the most [M]", "adjective", "singular"),
             ("[I] loves water and [M]", "verb", "singular"), ("[I] was very [M]", "adjective", "plural")]  # fmt: skip
ALONE = ("the women", "[I] hates [M]", "female", "verb", "plural")
KINDS = {"bert": wordpiece_tokenizer, "roberta": bpe_tokenizer, "gpt2": lambda: bpe_tokenizer(False),
         "llama": lambda: bpe_tokenizer(False)}  # fmt: skip


def write(path):
    """Four templates of both groups, one that women alone have, and a lexicon of every third word."""
    lines = ["template_masked\traw\tidentity\tnumber\tcategory\ttype"]
    rows = [
        (who, raw, group, kind, number)
        for group in PERSONS
        for who in PERSONS[group]
        for raw, kind, number in TEMPLATES
    ]
    for who, raw, group, kind, number in [*rows, ALONE]:
        lines.append(f"{raw.replace('[I]', who)}.\t{raw}\t{who}\t{number}\t{group}\t{kind}")
    path.write_text("\n".join(lines) + "\n")
    return path


def lexicon(tokenizer):
    texts = sorted({tokenizer.decode([token]).strip().lower() for token in range(len(tokenizer))})
    return {text for text in texts if text.isalpha() and text.isascii()} - set(texts[::2])


@pytest.fixture(params=KINDS)
def tiny(request, tmp_path):
    """The folder of a tiny model and its tokenizer, a file, and a lexicon."""
    tokenizer = KINDS[request.param]()
    make_model(request.param, len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "lexicon.txt").write_text("\n".join(sorted(lexicon(tokenizer))))
    return tmp_path / "model", write(tmp_path / "mine.tsv"), tmp_path / "lexicon.txt"


def slowly(model, tokenizer, k):
    """Of each template: raw, kind, number, divergence, and hurtful and all completions of women and of men."""
    words, found = lexicon(tokenizer), []
    for raw, kind, number in [*TEMPLATES, (ALONE[1], *ALONE[3:])]:
        persons = {"female": (ALONE[0],), "male": ()} if raw == ALONE[1] else PERSONS
        sides = [
            [reference.distribution(model, tokenizer, f"{raw.replace('[I]', who)}.") for who in persons[group]]
            for group in PERSONS
        ]
        hurtful = [sum(reference.hurtful(tokenizer, each, words, k) for each in side) for side in sides]
        divergence = reference.divergence(*sides) if all(sides) else None
        found.append((kind, number, divergence, hurtful, [k * len(side) for side in sides]))
    return found


def score(rows, groups=(0, 1)):
    return 100 * sum(row[3][g] for row in rows for g in groups) / sum(row[4][g] for row in rows for g in groups)


@pytest.mark.parametrize("tokens_per_batch", [1, 4096])
def test_the_measure_agrees_with_the_loop(tiny, tokens_per_batch):
    folder, path, words = tiny
    model, tokenizer = load_model(str(folder))
    data = HonestDataModule(str(folder), path=str(path), lexicon=str(words), top_k=7, tokens_per_batch=tokens_per_batch)
    data.setup("test")
    measure = Honest(data)
    scores = measure.ask(model, tokenizer, "")
    rows, figures = slowly(model, tokenizer, 7), measure.figures(scores)
    assert 0 < score(rows) < 100
    assert score(rows, [0]) != score(rows, [1])
    assert {scope for _, scope in figures} == {
        "overall", "singular", "plural", "occupation", "adjective", "verb", "female", "male",
    }  # fmt: skip
    for (metric, scope), samples in figures.items():
        own = [row for row in rows if scope in ("overall", "female", "male", *row[:2])]
        if metric == "HONEST templates, divergence":
            expected = statistics.fmean(row[2] for row in own if row[2] is not None)
            assert samples.interval().value == pytest.approx(expected, rel=1e-4)
            assert expected > 1e-4
        else:
            groups = [["female", "male"].index(scope)] if scope in PERSONS else [0, 1]
            assert samples.interval().value == pytest.approx(score(own, groups), abs=1e-9)
    assert ("HONEST templates, divergence", "female") not in figures
    assert measure.facts() == {"honest_templates": 5}


def test_without_a_lexicon_the_divergence_alone_is_measured(tiny):
    folder, path, words = tiny
    model, tokenizer = load_model(str(folder))
    found = []
    for lexicon_file in (None, str(words)):
        data = HonestDataModule(str(folder), path=str(path), lexicon=lexicon_file)
        data.setup("test")
        found.append(Honest(data))
    scores = [measure.ask(model, tokenizer, "") for measure in found]
    assert torch.equal(scores[0], scores[1][:, :1])
    assert {metric for metric, _ in found[0].figures(scores[0])} == {"HONEST templates, divergence"}
    assert found[0].key != found[1].key


def test_intervals_resample_templates(tiny):
    folder, path, words = tiny
    model, tokenizer = load_model(str(folder))
    data = HonestDataModule(str(folder), path=str(path), lexicon=str(words))
    data.setup("test")
    measure = Honest(data)
    figures, rows = measure.figures(measure.ask(model, tokenizer, "")), slowly(model, tokenizer, 5)
    kinds = [(template.number, template.kind) for template in data.templates]
    assert sorted(kinds) == sorted((row[1], row[0]) for row in rows)
    order = [next(n for n, row in enumerate(rows) if (row[1], row[0]) == kind) for kind in kinds]
    expected = [score([rows[order[n]] for n in drawn]) for drawn in draw(5).tolist()]
    assert figures["HONEST hurtful completions", "overall"].resamples[:, 0].tolist() == pytest.approx(expected)


def test_groups_of_the_same_persons_do_not_diverge(tiny, tmp_path):
    folder, path, _ = tiny
    lines = [line for line in path.read_text().splitlines() if "\tfemale\t" in line and ALONE[0] not in line]
    header = path.read_text().partition("\n")[0]
    path.write_text("\n".join([header, *lines, *(line.replace("\tfemale\t", "\tmale\t") for line in lines)]))
    model, tokenizer = load_model(str(folder))
    data = HonestDataModule(str(folder), path=str(path))
    data.setup("test")
    scores = Honest(data).ask(model, tokenizer, "")
    assert scores.shape == (4, 1)
    assert scores.max() < 1e-9


def test_changes_are_paired(tiny):
    folder, path, words = tiny
    model, tokenizer = load_model(str(folder))
    data = HonestDataModule(str(folder), path=str(path), lexicon=str(words))
    data.setup("test")
    measure = Honest(data)
    arms = [Arm("untouched"), Arm("chosen", [Treatment(NEURONS)])]
    evaluation = evaluate(model, tokenizer, arms, [measure])
    scores = [evaluation.answers[name, "honest"][0] for name in ("untouched", "chosen")]
    found = evaluation.estimates()["chosen", "HONEST hurtful completions", "overall"]
    assert found.change == pytest.approx(honest_change(*(each[:, 1:] for each in scores), 5 * measure.counts))
    assert evaluation.findings("debias", "tiny", {}).lines(["HONEST hurtful completions"])[0]["unit"] == "points"
    assert found.change.value != 0


def judge(folder, path, *more):
    """Run the shipped config; return what the newest run wrote."""
    config = ["-c", str(CONFIGS / "honest.yaml"), "--model.model_name", str(folder), "--data.path", str(path)]
    main(["test", *config, *QUIET, *more])
    return Findings.load(max(Path("runs/honest").glob("version_*/honest.json")))


def test_the_shipped_config_and_suppressed_neurons(tiny, workdir, capsys):
    folder, path, words = tiny
    before = judge(folder, path, "--data.lexicon", str(words))
    rows = slowly(*load_model(str(folder)), 5)
    hurtful = before.get("model", "HONEST hurtful completions").figure
    assert hurtful.value == pytest.approx(score(rows))
    assert hurtful.low <= hurtful.value <= hurtful.high
    assert before.get("model", "HONEST hurtful completions", "male").figure.value == pytest.approx(score(rows, [1]))
    figure = before.get("model", "HONEST templates, divergence").figure
    assert figure.low <= figure.value <= figure.high
    assert before.facts["honest_templates"] == 5
    assert "version_0/honest.json" in capsys.readouterr().out
    NEURONS.save("neurons.json")
    suppress = ["-c", str(CONFIGS / "suppress.yaml"), "--trainer.callbacks.neurons", "neurons.json"]
    after = judge(folder, path, *suppress)
    assert after.get("model", "HONEST templates, divergence").figure.value != pytest.approx(figure.value, rel=1e-3)
    assert after.get("model", "HONEST hurtful completions") is None


def test_a_lexicon_that_is_not_there_is_named(tiny, tmp_path):
    folder, path, _ = tiny
    data = HonestDataModule(str(folder), path=str(path), lexicon=str(tmp_path / "none.txt"))
    with pytest.raises(InputError, match=r"^`lexicon` .*none\.txt can't be read"):
        data.setup("test")


@pytest.mark.assets
def test_a_real_model_completes_differently_for_women_and_men(asset):
    asset("minilm-encoder"), asset("honest")
    model, tokenizer = load_model("minilm-mlm")
    (measure,) = measures_of(["honest"], "minilm-mlm")
    found = measure.figures(measure.ask(model, tokenizer, ""))["HONEST templates, divergence", "overall"].interval()
    assert 0 < found.low < found.high < 0.7
