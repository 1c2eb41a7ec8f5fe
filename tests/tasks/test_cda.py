import inspect
import os
import warnings
from pathlib import Path

import pytest
import torch
from conftest import MASKED, bpe_tokenizer, make_model, run_two_processes, wordpiece_tokenizer
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

from biaslab.data.counterfactual import CounterfactualDataModule
from biaslab.errors import InputError
from biaslab.tasks.baselines.cda import CounterfactualAugmentation

NAMES = ("doctor", "driver", "friend", "girl", "boy", "man", "woman", "person")


@pytest.fixture
def lab(tmp_path):
    """A folder with a tiny model and some text."""
    tokenizer = wordpiece_tokenizer()
    make_model("bert", len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    lines = [f"the {a} loves the {b} and the {c}." for a in NAMES for b in NAMES for c in NAMES]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    return tmp_path


def parts(lab, augmented=True, limit=64, **settings):
    seed_everything(0, verbose=False)
    model = str(lab / "model")
    task = CounterfactualAugmentation(model, **settings)
    return task, CounterfactualDataModule(model, str(lab / "text.txt"), augmented, batch_size=16, limit=limit)


def trainer(**settings):
    plain = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
    plain |= {"enable_model_summary": False, "enable_checkpointing": False}
    return Trainer(**{**plain, **settings})


@pytest.mark.parametrize("kind", MASKED)
def test_loss_is_the_models_own(tmp_path, kind):
    tokenizer = wordpiece_tokenizer()
    make_model(kind, len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    task = CounterfactualAugmentation(str(tmp_path))
    tokens = torch.randint(5, 100, (4, 9), generator=torch.Generator().manual_seed(1))
    labels = tokens.where(torch.rand(4, 9, generator=torch.Generator().manual_seed(2)) < 0.3, -100)
    own = task.model(input_ids=tokens, labels=labels).loss
    loss = task.loss({"input_ids": tokens, "labels": labels})
    torch.testing.assert_close(loss, own, rtol=1e-6, atol=0)
    wanted = torch.autograd.grad(own, list(task.model.parameters()), allow_unused=True)
    found = torch.autograd.grad(loss, list(task.model.parameters()), allow_unused=True)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert not task.model.base_model._forward_hooks


def test_hook_is_removed_after_an_error(lab):
    task, _ = parts(lab)
    with pytest.raises(IndexError):
        task.loss({"input_ids": torch.full((1, 3), 10**6), "labels": torch.zeros(1, 3, dtype=torch.long)})
    assert not task.model.base_model._forward_hooks


def test_papers_settings():
    defaults = {n: p.default for n, p in inspect.signature(CounterfactualAugmentation).parameters.items()}
    assert (defaults["lr"], defaults["weight_decay"], defaults["warmup"]) == (2e-5, 0.01, 0.06)


def test_causal_model(tmp_path):
    tokenizer = bpe_tokenizer(masked=False)
    make_model("gpt2", len(tokenizer)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="`model_name` is expected to be a masked language model"):
        CounterfactualAugmentation(str(tmp_path))


@pytest.mark.parametrize("augmented", [True, False])
def test_training_lowers_the_loss(lab, augmented):
    task, data = parts(lab, augmented, lr=1e-3)
    run = trainer(max_epochs=6)
    before = run.validate(task, data, verbose=False)[0]["val/loss"]
    run.fit(task, data)
    assert run.global_step == 6 * 8  # in both: 64 pairs are 128 examples in 8 batches
    assert run.validate(task, data, verbose=False)[0]["val/loss"] < before - 0.5


class Stop(Callback):
    """Ends a training after its first epoch."""

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = True


def fit_without_chance(lab, folder, *callbacks, ckpt_path=None):
    """Train for two epochs without dropout, with the same masks and in the same order each time."""
    task, data = parts(lab, lr=1e-3)
    for module in task.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    data.setup("fit")
    data.train_batches.fixed, data.setup = True, lambda stage: None
    data.train_dataloader = lambda: DataLoader(data.train_batches, batch_size=None)
    keep = ModelCheckpoint(folder, monitor="val/loss", save_last=True)
    run = trainer(max_epochs=2, enable_checkpointing=True, callbacks=[keep, *callbacks])
    run.fit(task, data, ckpt_path=ckpt_path)
    return task, run.global_step


@pytest.mark.filterwarnings("ignore:The dirpath has changed")  # as for any resumed run, which has its own folder
def test_resumed_training_ends_where_an_unbroken_one_does(lab):
    whole, steps = fit_without_chance(lab, lab / "whole")
    half, first = fit_without_chance(lab, lab / "half", Stop())
    resumed, last = fit_without_chance(lab, lab / "resumed", ckpt_path=lab / "half" / "last.ckpt")
    assert (first, last, steps) == (8, 16, 16)
    for one, other, before in zip(*(task.model.parameters() for task in (resumed, whole, half)), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
        assert not torch.equal(one, before) or one.ndim == 2  # rows of tokens that don't occur may stay


def test_checkpoint_holds_the_model_alone_and_makes_the_same_task_again(lab):
    task, _ = fit_without_chance(lab, lab / "run", Stop())
    checkpoint = torch.load(lab / "run" / "last.ckpt", weights_only=True)
    assert set(checkpoint["state_dict"]) == {f"model.{name}" for name in task.model.state_dict()}
    again = CounterfactualAugmentation.load_from_checkpoint(lab / "run" / "last.ckpt")
    assert again.hparams == task.hparams
    for one, other in zip(again.model.parameters(), task.model.parameters(), strict=True):
        assert torch.equal(one, other)


def process(rank, port, folder):
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    lab = Path(folder)
    task, data = parts(lab)
    seen = []
    own = task.loss
    task.loss = lambda batch: seen.append(batch["labels"].numel()) or own(batch)
    run = trainer(max_epochs=1, num_nodes=2, strategy="ddp", num_sanity_val_steps=0)
    run.fit(task, data)
    weights = torch.cat([p.detach().flatten() for p in task.model.parameters()])
    torch.save(
        {
            "steps": run.global_step,
            "weights": weights,
            "validated": len(data.validation_batches),
            "seen": seen,
            "sizes": [b.numel() for b in data.train_batches.batches],
        },
        lab / f"{rank}.pt",
    )


def test_each_of_two_processes_sees_its_share(lab):
    run_two_processes(process, lab)
    first, second = (torch.load(lab / f"{rank}.pt") for rank in (0, 1))
    assert first["steps"] == second["steps"] == 4  # of eight batches
    assert torch.equal(first["weights"], second["weights"])
    trained = first["seen"][:4] + second["seen"][:4]
    assert sorted(trained) == sorted(first["sizes"])
