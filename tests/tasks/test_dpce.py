"""Loss and vectors against loops; what training does to both parts; that it resumes, and runs on two ranks."""

import os
from pathlib import Path

import pytest
import torch
from conftest import bpe_tokenizer, make_model, run_two_processes, wordpiece_tokenizer
from pytorch_lightning import Trainer, seed_everything
from pytorch_lightning.callbacks import Callback, ModelCheckpoint

from biaslab.data.attribute_sentences import GROUPS, KINDS, AttributeSentencesDataModule, Example, collate
from biaslab.errors import InputError
from biaslab.tasks.baselines.dpce import DPCE

JOBS, VERBS, PLACES = (
    ("doctor", "driver", "nurse", "lawyer"),
    ("loves", "hates", "was", "is"),
    ("city", "home", "water"),
)
LINES = [
    f"the {person} {verb} the {how} {job} at {place}."
    for job in JOBS
    for verb in VERBS
    for place in PLACES
    for how in ("old", "nice")
    for person in ("woman", "mother", "man", "brother", "friend")
]
EXAMPLES = [
    Example([2, 11, 12, 13, 30, 3], [[2, 3]]),
    Example([2, 14, 15, 3], [[1]]),
    Example([2, 20, 21, 22, 3], [[3, 2, 1]]),
]
QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


@pytest.fixture
def lab(tmp_path):
    """A folder with a tiny model that has no dropout, and some text."""
    model, tokenizer = make_model("bert", len(wordpiece_tokenizer())), wordpiece_tokenizer()
    model.config.hidden_dropout_prob = model.config.attention_probs_dropout_prob = 0.0
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text("\n".join(LINES))
    return tmp_path


@pytest.fixture
def original():
    return make_model("bert", len(wordpiece_tokenizer()))


def module(lab, **options):
    sources = [str(Path(lab, "text.txt"))]
    return AttributeSentencesDataModule(str(Path(lab, "model")), sources, **{"batch_size": 8, "limit": 40} | options)


def trainer(**options):
    return Trainer(**QUIET | {"devices": 1, "enable_checkpointing": False, "gradient_clip_val": 1.0} | options)


def debiaser(lab, **options):
    return DPCE(model_name=str(Path(lab, "model")), **options)


def fit(lab, **options):
    seed_everything(0, verbose=False)
    task, data = debiaser(lab, lr=5e-3, **options), module(lab)
    trainer(max_epochs=3, log_every_n_steps=1).fit(task, datamodule=data)
    return task, data


def states(model, example):
    """The hidden states of one sentence alone, ``[layer][token]``."""
    with torch.no_grad():
        out = model.base_model(input_ids=torch.tensor([example.input_ids]), output_hidden_states=True)
    return [layer[0] for layer in out.hidden_states]


def slow_vectors(model, data):
    """Sums over sentences, layers and words, one at a time."""
    found = []
    for group in GROUPS:
        words = [
            [torch.stack([layer[at] for at in word]).mean(0) for layer in states(model, example)]
            for example in data.training.examples[group]
            for word in example.words
        ]
        found.append(torch.stack([sum(word[layer] for word in words) / len(words) for layer in range(4)]))
    return torch.stack(found)


def slow_association(model, vectors, layers, unit, form):
    total = 0.0
    for of_group in vectors:
        products = []
        for example in EXAMPLES:
            all_layers = states(model, example)
            for layer in layers:
                hidden = all_layers[layer]
                places = example.words if unit == "token" else [[at] for at in range(len(example.input_ids))]
                for word in places:
                    mean = sum(hidden[at] for at in word) / len(word)
                    products.append(float((mean * of_group[layer]).sum()))
        mean = sum(products) / len(products)
        total += mean**2 if form == "released" else sum(p**2 for p in products) / len(products)
    return total


def slow_drift(model, original):
    differences = []
    for example in EXAMPLES:
        for now, before in zip(states(model, example), states(original, example), strict=True):
            differences += ((now - before) ** 2).flatten().tolist()
    return sum(differences) / len(differences)


@pytest.mark.parametrize("form", ["released", "paper"])
@pytest.mark.parametrize("unit", ["token", "sentence"])
@pytest.mark.parametrize(("layers", "chosen"), [("first", [0]), ("last", [3]), ("all", [0, 1, 2, 3])])
def test_loss_on_targets_against_loops(lab, form, unit, layers, chosen):
    task = debiaser(lab, alpha=0.3, layers=layers, unit=unit, form=form)
    task.vectors = torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(0))
    expected = 0.3 * slow_association(task.model, task.vectors, chosen, unit, form)
    assert task.loss(collate("target", EXAMPLES, 0)).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", GROUPS)
def test_loss_on_attributes_against_loops(lab, kind, original):
    task, other = debiaser(lab, beta=0.7), make_model("bert", len(wordpiece_tokenizer()), seed=1)
    task.model.load_state_dict(other.state_dict())
    expected = 0.7 * slow_drift(other, original)
    assert expected > 0.1
    assert task.loss(collate(kind, EXAMPLES, 0)).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("make", [wordpiece_tokenizer, bpe_tokenizer])
def test_vectors_against_loops(lab, make):
    make().save_pretrained(lab / "model")
    make_model("bert", 1300).save_pretrained(lab / "model")  # with dropout, which must not matter
    task, data = debiaser(lab), module(lab)
    seen = []
    task.model.register_forward_pre_hook(lambda *_: seen.append(task.model.training))
    trainer(limit_val_batches=1).validate(task, datamodule=data, verbose=False)
    assert not any(seen)
    torch.testing.assert_close(task.vectors, slow_vectors(task.model, data), rtol=1e-4, atol=1e-5)


class Vectors(Callback):
    """Keeps each epoch's vectors, and those that loops give at its start."""

    def __init__(self):
        self.found, self.expected, self.training = [], [], []

    def on_train_epoch_start(self, trainer, pl_module):
        self.expected.append(slow_vectors(pl_module.model.eval(), trainer.datamodule))
        pl_module.model.train()

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch_idx == 0:
            self.found.append(pl_module.vectors)
            self.training.append(pl_module.model.training)


def test_vectors_are_made_anew_each_epoch(lab):
    seen = Vectors()
    trainer(max_epochs=2, callbacks=[seen], log_every_n_steps=1).fit(debiaser(lab, lr=1e-2), datamodule=module(lab))
    assert len(seen.found) == 2
    assert not torch.allclose(*seen.found, atol=1e-2)
    torch.testing.assert_close(seen.found, seen.expected, rtol=1e-4, atol=1e-4)
    assert seen.training == [True, True]


def batch_of(data, kind):
    return collate(kind, data.validation.examples[kind], 0)


def products(model, vectors, data):
    """Inner products of the targets' words with the groups' vectors, ``[group, layer, example]``."""
    batch = batch_of(data, "target")
    with torch.no_grad():
        out = model.base_model(batch["input_ids"], batch["attention_mask"], output_hidden_states=True)
        hidden = torch.stack(out.hidden_states)
    return torch.einsum("lbsh,bs,glh->glb", hidden, batch["weights"], vectors)


def drift(task, data):
    with torch.no_grad():
        return sum(float(task.loss(batch_of(data, group))) for group in GROUPS) / task.hparams["beta"]


def test_without_alpha_the_loss_begins_at_zero(lab):
    task, data = debiaser(lab, alpha=0.0), module(lab)
    data.setup("fit")
    task.vectors = torch.ones(2, 4, 32)
    task.model.train()  # the model has no dropout
    assert [task.loss(batch_of(data, kind)).item() for kind in KINDS] == [0, 0, 0]


def test_training_takes_the_association_away_and_keeps_the_rest(lab, original):
    (task, data), (free, _) = (fit(lab, form="paper", beta=beta) for beta in (0.8, 1e-9))
    vectors = slow_vectors(original, data)
    before, after = (products(model, vectors, data).abs().mean() for model in (original, task.model))
    assert after < 0.5 * before
    assert 0 < drift(task, data) < 0.7 * drift(free, data)


def test_the_released_form_takes_the_mean_away(lab, original):
    task, data = fit(lab)
    vectors = slow_vectors(original, data)
    before, after = (products(model, vectors, data).mean((1, 2)).abs() for model in (original, task.model))
    assert after.sum() < 0.5 * before.sum()
    assert {name.partition(".")[0] for name in task.state_dict()} == {"model"}
    assert_the_copy_is(task, original)
    for name, weight in original.named_parameters():
        assert torch.equal(task.model.get_parameter(name), weight) == name.startswith("cls."), name  # the head alone


def assert_the_copy_is(task, original):
    (copied,) = task._original
    assert not copied.training
    for (name, now), before in zip(copied.named_parameters(), original.base_model.parameters(), strict=True):
        assert torch.equal(now, before), name


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layers", ["first", "all"])
def test_each_kind_reaches_each_trained_parameter(any_model, monkeypatch, kind, layers):
    """DDP demands that; the language-model head is not trained."""
    monkeypatch.setattr("biaslab.tasks.base.load_model", lambda *_, **__: (any_model, None))
    task = DPCE(layers=layers)
    task.vectors = torch.ones(2, 4, 32)
    task.loss(collate(kind, EXAMPLES, 0)).backward()
    assert [n for n, p in any_model.named_parameters() if (p.grad is None) is p.requires_grad] == []
    inside = {id(p) for p in any_model.base_model.parameters()}
    assert all(p.requires_grad == (id(p) in inside) for p in any_model.parameters())


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_checkpoint_goes_on_where_it_was(lab, original):
    def run(folder, **options):
        keep = ModelCheckpoint(lab / folder, filename="{epoch}", save_top_k=-1)
        task, data = debiaser(lab, lr=1e-3), module(lab)
        runner = trainer(max_epochs=3, enable_checkpointing=True, callbacks=[keep], log_every_n_steps=1)
        runner.fit(task, datamodule=data, weights_only=False, **options)
        return task, runner.global_step

    whole, steps = run("whole")
    resumed, steps_resumed = run("resumed", ckpt_path=lab / "whole" / "epoch=0.ckpt")
    assert steps == steps_resumed
    for name, now in resumed.state_dict().items():
        torch.testing.assert_close(now, whole.state_dict()[name], rtol=0, atol=1e-6)
    torch.testing.assert_close(resumed.vectors, whole.vectors)
    assert_the_copy_is(resumed, original)
    loaded = DPCE.load_from_checkpoint(lab / "whole" / "epoch=2.ckpt", weights_only=False)
    assert loaded.hparams["lr"] == 1e-3
    assert loaded.hparams["unit"] == "token"
    torch.testing.assert_close(loaded.state_dict(), whole.state_dict(), rtol=0, atol=0)


def _process(rank, port, folder):
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    seed_everything(0, verbose=False)
    task = debiaser(folder, layers="first")
    runner = trainer(max_epochs=1, devices=2, strategy="ddp", log_every_n_steps=1)
    runner.fit(task, datamodule=module(folder, limit=37))
    loss = runner.callback_metrics["val/loss"]
    torch.save((task.vectors, task.state_dict(), runner.global_step, loss), Path(folder) / f"{rank}.pt")


def test_two_processes_agree(lab):
    run_two_processes(_process, lab)
    first, second = (torch.load(lab / f"{rank}.pt", weights_only=True) for rank in range(2))
    data = module(lab, limit=37)
    data.setup("fit")
    expected = slow_vectors(make_model("bert", len(wordpiece_tokenizer())), data)
    assert torch.equal(first[0], second[0])
    torch.testing.assert_close(first[0], expected, rtol=1e-4, atol=1e-5)
    for name, weight in first[1].items():
        assert torch.equal(weight, second[1][name]), name
    assert first[2] == second[2] == len(KINDS) * (37 // 8) // 2
    assert torch.equal(first[3], second[3])


@pytest.mark.parametrize(
    ("argument", "value"),
    [("alpha", -1.0), ("beta", -0.1), ("layers", "middle"), ("unit", "word"), ("form", "new"), ("lr", 0.0)],
)
def test_bad_arguments(argument, value):
    with pytest.raises(InputError, match=rf"`{argument}` is expected .* but got '?{value}'?\."):
        DPCE(**{argument: value})
