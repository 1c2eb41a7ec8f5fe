"""Scores of BBQ's answers against one forward pass a token; the same by the command line, with figures by counting."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from conftest import (
    CAUSAL,
    MASKED,
    bpe_tokenizer,
    main,
    make_model,
    run_two_processes,
    tokenizer_with,
    wordpiece_tokenizer,
)
from pytorch_lightning import Trainer
from reference import bbq as reference
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from biaslab.data.bbq import _MASKED_WORDINGS, _WORDINGS, BBQDataModule, listed, wording
from biaslab.errors import InputError
from biaslab.evaluation.bbq import BBQ, score_answers
from biaslab.evaluation.benchmarks import measures_of
from biaslab.evaluation.findings import METRICS, Findings
from biaslab.evaluation.sentences import ending_log_probabilities, sequence_log2_probabilities
from biaslab.metrics.bbq import NAMES
from biaslab.models.loading import load_model
from biaslab.neurons.neuron_set import NeuronSet
from biaslab.tasks import BenchmarkEvaluation

CONFIGS = Path(__file__).parents[2] / "configs"
QUIET = ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.enable_progress_bar", "false"]


def save(folder, model_type, tokenizer):
    """A tiny model with room for long texts, and its tokenizer."""
    config = make_model(model_type, len(tokenizer)).config
    config.max_position_embeddings = 512
    torch.manual_seed(0)
    auto = AutoModelForMaskedLM if model_type in MASKED else AutoModelForCausalLM
    auto.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def scored(data, model):
    """The scores of a data module's batches, in the order of the questions."""
    examples = torch.cat([batch["examples"] for batch in data.batches])
    scores = torch.cat([score_answers(model, batch) for batch in data.batches])
    assert scores.dtype == torch.float64
    return scores[examples.argsort()]


def plainly(model, tokenizer, question, number, step, form="text"):
    """The three answers' scores, one text and one token at a time."""
    texts = {"context": question.context, "question": question.question}
    if tokenizer.mask_token_id is not None:
        before, _, _ = _MASKED_WORDINGS[wording(number, step)].format(**texts).partition(" BLANK")
        space = (
            tokenizer.encode("a a", add_special_tokens=False)[0] != tokenizer.encode(" a", add_special_tokens=False)[0]
        )
        return [reference.masked_score(model, tokenizer, before, answer, space) for answer in question.answers]
    order = listed(question, number, step)
    prompt = _WORDINGS[wording(number, step)].format(*(question.answers[column] for column in order), **texts)
    own = question.answers if form == "text" else ["ABC"[order.index(column)] for column in range(3)]
    return [reference.causal_score(model, tokenizer, prompt, answer) for answer in own]


def numbered(data):
    """Each question with its set's number in its category: all sets are whole, and have four questions."""
    sets = {"Age": 0, "Race_x_gender": 0}
    for place, question in enumerate(data.questions):
        yield question, sets[question.category]
        sets[question.category] += place % 4 == 3


@pytest.mark.parametrize("model_type", [*MASKED, *CAUSAL])
def test_scores_agree_with_one_token_at_a_time(tmp_path, model_type):
    masked = model_type in MASKED
    tokenizer = wordpiece_tokenizer() if model_type in ("bert", "distilbert") else bpe_tokenizer(masked)
    name = save(tmp_path / "model", model_type, tokenizer)
    data = BBQDataModule(name, path=str(reference.write(tmp_path / "bbq", reference.records(sets=1))))
    data.setup("test")
    model, tokenizer = load_model(name)
    found = scored(data, model)
    expected = [plainly(model, tokenizer, question, number, 0) for question, number in list(numbered(data))[::3]]
    torch.testing.assert_close(found[::3], torch.tensor(expected).double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("form", "wordings"), [("letters", 1), ("text", 3), ("letters", 2)])
@pytest.mark.parametrize("front", [[], ["<|endoftext|>"]], ids=["no BOS", "BOS"])
def test_letters_and_several_wordings(tmp_path, form, wordings, front):
    name = save(tmp_path / "model", "gpt2", tokenizer_with(front))
    folder = str(reference.write(tmp_path / "bbq", reference.records(sets=1)[:16]))
    data = BBQDataModule(name, path=folder, form=form, wordings=wordings)
    data.setup("test")
    model, tokenizer = load_model(name)
    expected = [
        torch.tensor([plainly(model, tokenizer, *each, step, form) for step in range(wordings)]).double().mean(0)
        for each in list(numbered(data))[::4]
    ]
    torch.testing.assert_close(scored(data, model)[::4], torch.stack(expected), rtol=1e-4, atol=1e-4)


def test_a_masked_model_in_several_wordings(tmp_path):
    name = save(tmp_path / "model", "bert", wordpiece_tokenizer())
    data = BBQDataModule(name, path=str(reference.write(tmp_path / "bbq", reference.records(sets=1)[:8])), wordings=3)
    data.setup("test")
    model, tokenizer = load_model(name)
    expected = [
        torch.tensor([plainly(model, tokenizer, *each, step) for step in range(3)]).double().mean(0)
        for each in list(numbered(data))[::2]
    ]
    torch.testing.assert_close(scored(data, model)[::2], torch.stack(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("model_type", CAUSAL)
def test_endings_are_those_of_whole_sentences(model_type, shared, monkeypatch):
    """In float64; beginnings are shared, an ending may begin within another's, and one sentence stands alone."""
    if not shared:
        monkeypatch.setattr("biaslab.evaluation.sentences.takes_own_mask", lambda model, length: False)
    model = make_model(model_type).double()
    sentences = [[7, 8, 9, 10, 11], [7, 8, 9, 10, 12, 13], [7, 8, 9], [7, 8, 20, 21], [40, 41], [7, 8, 9, 10, 11]]
    asked = [2, 3, 1, 1, 1, 4]
    with torch.no_grad():
        whole = sequence_log2_probabilities(model, sentences, 1)
        found = ending_log_probabilities(model, sentences, asked)
    for values, own, count in zip(whole, found, asked, strict=True):
        torch.testing.assert_close(own, values[-count:] * torch.tensor(2.0).double().log(), rtol=1e-6, atol=1e-6)


def test_what_questions_share_is_computed_once(tmp_path):
    """The context of a set, and each prompt for its three answers; the vocabulary is projected before answers alone."""
    name = save(tmp_path / "model", "gpt2", bpe_tokenizer(masked=False))
    data = BBQDataModule(name, path=str(reference.write(tmp_path / "bbq", reference.records(sets=1)[:4])))
    data.setup("test")
    model, _ = load_model(name)
    read, projected = [], []
    model.transformer.register_forward_pre_hook(lambda module, args: read.append(args[0].numel()))
    model.lm_head.register_forward_hook(lambda module, args, output: projected.append(output.shape[:-1].numel()))
    (batch,) = data.batches
    score_answers(model, batch)
    texts = [query for group in batch["inputs"] for query in group["input_ids"].tolist()]
    shared = {tuple(text[:end]) for text in texts for end in range(1, len(text))}
    assert sum(read) <= 1.3 * len(shared) < 0.5 * sum(map(len, texts))
    assert sum(projected) < 0.2 * len(shared)


def test_a_batch_of_another_kind_is_refused(tmp_path):
    name = save(tmp_path / "model", "bert", wordpiece_tokenizer())
    data = BBQDataModule(name, path=str(reference.write(tmp_path / "bbq", reference.records())))
    data.setup("test")
    with pytest.raises(InputError, match="`model` is expected to be a masked language model"):
        score_answers(make_model("gpt2"), data.batches[0])


def test_the_measure_by_name_has_its_figures_in_all_scopes(tmp_path):
    folder = reference.write(tmp_path / "bbq", reference.records())
    name = save(tmp_path / "model", "bert", wordpiece_tokenizer())
    (measure,) = measures_of(["bbq"], name, path=str(folder))
    assert isinstance(measure, BBQ)
    assert measure.facts() == {"questions": 48, "templates": 6, "left_out": 0}
    model, tokenizer = load_model(name)
    answers = measure.ask(model, tokenizer, "BBQ")
    assert torch.equal(answers, scored(measure_data(name, folder), model))
    figures = measure.figures(answers)
    assert set(figures) == {(metric, scope) for metric in NAMES for scope in ("overall", "Age", "Race_x_gender")}
    assert set(NAMES) < set(METRICS)
    for metric in NAMES:
        both = [float(figures[metric, scope].value) for scope in ("Age", "Race_x_gender")]
        assert figures[metric, "overall"].interval().value == pytest.approx(sum(both) / 2)
    ambiguous = torch.tensor([number for number in range(48) if measure.right[number] == 2])
    some = measure.figures_of(answers[ambiguous], ambiguous)
    assert {metric for metric, _ in some} == {NAMES[0], NAMES[2]}


def measure_data(name, folder):
    data = BBQDataModule(name, path=str(folder))
    data.setup("test")
    return data


def judge(model, folder, *more):
    """Run the shipped config; return what the newest run wrote."""
    config = ["-c", str(CONFIGS / "bbq.yaml"), "--model.model_name", str(model), "--data.path", str(folder)]
    main(["test", *config, *QUIET, *more])
    return Findings.load(max(Path("runs/bbq").glob("version_*/bbq.json")))


def test_the_shipped_config_agrees_with_the_loop(workdir, capsys):
    rows = reference.records()
    folder, name = reference.write(workdir / "bbq", rows), save(workdir / "model", "bert", wordpiece_tokenizer())
    found = judge(name, folder)
    model, tokenizer = load_model(name)
    answers = []
    for (question, number), row in zip(numbered(measure_data(name, folder)), rows, strict=True):
        scores = plainly(model, tokenizer, question, number, 0)
        best = question.answers[scores.index(max(scores))]
        answers.append(next(place for place in range(3) if row[f"ans{place}"] == best))
    assert len(set(answers)) == 3
    for scope in ("Age", "Race_x_gender"):
        chosen = [place for place, row in enumerate(rows) if row["category"] == scope]
        expected = reference.figures([rows[place] for place in chosen], [answers[place] for place in chosen])
        figures = [found.get("model", metric, scope).figure for metric in NAMES]
        assert [figure.value for figure in figures] == pytest.approx(expected)
        assert all(figure.low <= figure.value <= figure.high for figure in figures)
    assert found.facts["questions"] == 48
    assert "overall/BBQ bias, ambiguous" in capsys.readouterr().out
    neurons = NeuronSet([(layer, index) for layer in range(3) for index in range(40)], shape=(3, 48))
    neurons.save("neurons.json")
    suppress = ["-c", str(CONFIGS / "suppress.yaml"), "--trainer.callbacks.neurons", "neurons.json"]
    assert judge(name, folder, *suppress).estimates != found.estimates


def test_a_damaged_file_is_one_line(workdir, capfd):
    folder, name = (
        reference.write(workdir / "bbq", reference.records()),
        save(workdir / "model", "bert", wordpiece_tokenizer()),
    )
    (folder / "Age.jsonl").write_text((folder / "Age.jsonl").read_text().replace('"Age"', '"Height"', 1))
    with pytest.raises(SystemExit):
        judge(name, folder)
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "biaslab: error:" in line]
    assert "line 1 of" in line
    assert "has the category 'Height', not one of Age, " in line


def trainer(**options):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    return Trainer(accelerator="cpu", logger=False, **quiet, **options)


def _process(rank, port, folder):
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    task = BenchmarkEvaluation(f"{folder}/model")
    data = BBQDataModule(f"{folder}/model", path=f"{folder}/bbq", tokens_per_batch=1)
    trainer(devices=2, strategy="ddp").test(task, datamodule=data, verbose=False)
    torch.save((task.evaluation.scores, task.evaluation.examples, len(data.batches)), Path(folder, f"{rank}.pt"))


def test_two_ranks_count_each_question_once(tmp_path):
    reference.write(tmp_path / "bbq", reference.records()[:20])
    name = save(tmp_path / "model", "bert", wordpiece_tokenizer())
    run_two_processes(_process, tmp_path)
    task, data = BenchmarkEvaluation(name), BBQDataModule(name, path=str(tmp_path / "bbq"), tokens_per_batch=1)
    trainer(devices=1).test(task, datamodule=data, verbose=False)
    for rank in range(2):
        scores, examples, batches = torch.load(tmp_path / f"{rank}.pt")
        assert batches == 5  # so that a batch is repeated
        assert torch.equal(scores, task.evaluation.scores)
        assert torch.equal(examples, task.evaluation.examples)


@pytest.mark.assets
@pytest.mark.parametrize(
    ("name", "form"), [("minilm-mlm", "text"), ("smollm2-135m", "text"), ("smollm2-135m", "letters")]
)
def test_real_questions_agree_with_one_token_at_a_time(asset, name, form):
    asset("bbq")
    asset("smollm2-135m" if name == "smollm2-135m" else "minilm-encoder")
    data = BBQDataModule(name, sets_per_category=2, categories=["Age", "Race_x_gender"], form=form)
    data.setup("test")
    model, tokenizer = load_model(name)
    with torch.no_grad():
        found = scored(data, model)[::5]
        expected = [plainly(model, tokenizer, *each, 0, form) for each in list(numbered(data))[::5]]
    torch.testing.assert_close(found, torch.tensor(expected).double(), rtol=0, atol=5e-4)
