"""BEC-Pro's associations, against one sentence a forward pass, through the command line, and on the real models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import bpe_tokenizer, main, make_model, tokenizer_with, wordpiece_tokenizer
from reference import bec_pro as reference

from biaslab.data.bec_pro import BecProDataModule
from biaslab.evaluation.bec_pro import BecPro
from biaslab.evaluation.benchmarks import measures_of
from biaslab.evaluation.evaluate import evaluate
from biaslab.evaluation.findings import Findings
from biaslab.evaluation.treatment import Arm, Treatment
from biaslab.metrics.bec_pro import bec_pro_change
from biaslab.models.loading import load_model
from biaslab.neurons.neuron_set import NeuronSet

NEURONS = NeuronSet([(layer, index) for layer in range(3) for index in range(40)], shape=(3, 48))
CONFIGS = Path(__file__).parents[2] / "configs"
QUIET = ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.enable_progress_bar", "false"]
PERSONS = [("He", "He", "male"), ("This zebra", "zebra", "male"), ("My boy", "boy", "male"),
           ("She", "She", "female"), ("My old friend", "friend", "female")]  # fmt: skip
PROFESSIONS = [("doctor", "male"), ("bus driver", "female"), ("mason", "balanced"), ("friend", "female")]
TEMPLATES = ["{} is a {}.", "{}, the {}, works at home."]
KINDS = {"bert": wordpiece_tokenizer, "roberta": bpe_tokenizer, "gpt2": lambda: bpe_tokenizer(False),
         "llama": lambda: bpe_tokenizer(False)}  # fmt: skip


def write(path):
    lines = ["Sentence\tTemplate\tPerson\tGender\tProfession\tProf_Gender"]
    for subject, person, gender in PERSONS:
        for template in TEMPLATES:
            for profession, group in PROFESSIONS:
                text = template.format(subject, profession)
                lines.append(f"{text}\t{template}\t{person}\t{gender}\t{profession}\t{group}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(params=KINDS)
def tiny(request, tmp_path):
    """The folder of a tiny model and its tokenizer, and a file."""
    tokenizer = KINDS[request.param]()
    make_model(request.param, len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model", write(tmp_path / "mine.tsv")


def slowly(model, tokenizer):
    """Rows (profession, group, wording, gender, association) of the file, one sentence at a time."""
    rows = []
    for wording, template in enumerate(TEMPLATES):
        for profession, group in PROFESSIONS:
            found = []
            for subject, person, _ in PERSONS:
                text = template.format(subject, profession)
                start, place = len(subject) - len(person), text.rindex(profession)
                spans = (start, len(subject)), (place, place + len(profession))
                if tokenizer.mask_token is None:
                    found.append(reference.causal_logs(model, tokenizer, text, spans[1]))
                else:
                    found.append(reference.masked_association(model, tokenizer, text, *spans))
            if tokenizer.mask_token is None:
                found = reference.causal_associations(found)
            rows += [(profession, group, wording, p[2], value) for p, value in zip(PERSONS, found, strict=True)]
    return rows


@pytest.mark.parametrize("tokens_per_batch", [1, 4096])
def test_the_measure_agrees_with_the_loop(tiny, tokens_per_batch):
    folder, path = tiny
    model, tokenizer = load_model(str(folder))
    data = BecProDataModule(str(folder), path=str(path), tokens_per_batch=tokens_per_batch)
    data.setup("test")
    measure = BecPro(data)
    scores = measure.ask(model, tokenizer, "")
    rows = slowly(model, tokenizer)
    for number, question in enumerate(data.questions):
        for column, gender in enumerate(("male", "female")):
            own = [r[4] for r in rows if r[:4] == (question.profession, question.group, question.wording, gender)]
            assert scores[number, column].item() == pytest.approx(sum(own) / len(own), abs=1e-4)
    figures = measure.figures(scores)
    for scope in ("overall", "male", "female", "balanced"):
        difference, association = reference.metrics([row for row in rows if scope in ("overall", row[1])])
        assert figures["BEC-Pro difference", scope].interval().value == pytest.approx(difference, abs=1e-4)
        assert (("BEC-Pro association", scope) in figures) is (association is not None)
        if association is not None:
            assert figures["BEC-Pro association", scope].interval().value == pytest.approx(association, abs=1e-4)
    assert measure.facts() == {"bec_pro_questions": 8}
    assert scores.abs().min() > 1e-4


def test_genders_exchange_the_columns_and_bos_is_in_front(tmp_path):
    tokenizer = tokenizer_with(["<s>"])
    make_model("llama", len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    model, _ = load_model(str(tmp_path))
    path = write(tmp_path / "mine.tsv")
    found = {}
    for name, exchanged in (("as is", {}), ("exchanged", {"male": "female", "female": "male"})):
        lines = [line.split("\t") for line in path.read_text().splitlines()]
        path.write_text("\n".join("\t".join([*x[:3], exchanged.get(x[3], x[3]), *x[4:]]) for x in lines))
        for bos in ("tokenizer", "authors"):
            data = BecProDataModule(str(tmp_path), path=str(path), bos=bos)
            data.setup("test")
            found[name, bos] = BecPro(data).ask(model, tokenizer, "")
    for bos in ("tokenizer", "authors"):
        assert torch.allclose(found["as is", bos], found["exchanged", bos].flip(1), atol=1e-5)
    assert not torch.allclose(found["as is", "authors"], found["as is", "tokenizer"], atol=1e-3)


def test_changes_are_paired(tiny):
    folder, path = tiny
    model, tokenizer = load_model(str(folder))
    data = BecProDataModule(str(folder), path=str(path))
    data.setup("test")
    measure = BecPro(data)
    arms = [Arm("untouched"), Arm("chosen", [Treatment(NEURONS)])]
    evaluation = evaluate(model, tokenizer, arms, [measure])
    scores = [evaluation.answers[name, "bec_pro"][0] for name in ("untouched", "chosen")]
    found = evaluation.estimates()["chosen", "BEC-Pro association", "overall"]
    assert found.change == pytest.approx(bec_pro_change(*scores, measure.professions, measure.groups))
    assert evaluation.findings("debias", "tiny", {}).lines(["BEC-Pro association"])[0]["unit"] == "nats"
    assert found.change.value != 0


def judge(folder, path, *more):
    """Run the shipped config; return what the newest run wrote."""
    config = ["-c", str(CONFIGS / "bec_pro.yaml"), "--model.model_name", str(folder), "--data.path", str(path)]
    main(["test", *config, *QUIET, *more])
    return Findings.load(max(Path("runs/bec_pro").glob("version_*/bec_pro.json")))


def test_the_shipped_config_and_suppressed_neurons(tiny, workdir, capsys):
    folder, path = tiny
    before = judge(folder, path)
    difference, association = reference.metrics(slowly(*load_model(str(folder))))
    figure = before.get("model", "BEC-Pro association").figure
    assert figure.value == pytest.approx(association, abs=1e-4)
    assert figure.low <= figure.value <= figure.high
    assert before.get("model", "BEC-Pro difference").figure.value == pytest.approx(difference, abs=1e-4)
    assert before.scopes("BEC-Pro difference") == ["overall", "balanced", "female", "male"]
    assert before.scopes("BEC-Pro association") == ["overall", "female", "male"]
    assert before.facts["bec_pro_questions"] == 8
    assert "version_0/bec_pro.json" in capsys.readouterr().out
    NEURONS.save("neurons.json")
    suppress = ["-c", str(CONFIGS / "suppress.yaml"), "--trainer.callbacks.neurons", "neurons.json"]
    after = judge(folder, path, *suppress)
    assert after.get("model", "BEC-Pro association").figure.value != pytest.approx(figure.value, abs=1e-3)


@pytest.mark.assets
def test_a_real_model_associates_professions_with_their_gender(asset):
    asset("minilm-encoder"), asset("bec-pro")
    model, tokenizer = load_model("minilm-mlm")
    (measure,) = measures_of(["bec-pro"], "minilm-mlm")
    figures = measure.figures(measure.ask(model, tokenizer, ""))
    assert figures["BEC-Pro association", "overall"].interval().low > 0
    assert figures["BEC-Pro association", "male"].interval().low > 0
