"""The schedule against tables made by hand, and what happens to dropout and weights around a training."""

from typing import Any

import pytest
import torch
from conftest import make_model, wordpiece_tokenizer
from pytorch_lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader

from biaslab.errors import InputError
from biaslab.tasks.baselines.training import DebiasingTask, scheduled_adamw

# warmup, decay -> the learning rate's share of its peak at each of ten steps, and after the last
SCHEDULES = [
    (0.0, True, [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0]),
    (0.0, False, [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
    (0.2, True, [1 / 2, 1, 8 / 9, 7 / 9, 6 / 9, 5 / 9, 4 / 9, 3 / 9, 2 / 9, 1 / 9, 0]),
    (0.4, True, [1 / 4, 2 / 4, 3 / 4, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7, 0]),
    (0.3, False, [1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
    (0.01, True, [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0]),  # one step of warm-up at least: the first
]


@pytest.mark.parametrize(("warmup", "decay", "expected"), SCHEDULES)
def test_schedule_against_a_table(warmup, decay, expected):
    weight = nn.Parameter(torch.zeros(2, 2))
    made = scheduled_adamw([weight], 10, 0.5, 0.1, warmup, decay)
    optimizer, scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
    assert made["lr_scheduler"]["interval"] == "step"
    rates = []
    for _ in expected:
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    assert rates == [pytest.approx([0.5 * share] * 2) for share in expected]


def test_no_step_has_more_than_the_peak_or_less_than_nothing():
    for steps in (1, 2, 3, 7, 100):
        for warmup in (0.0, 0.06, 0.5, 0.99):
            made = scheduled_adamw([nn.Parameter(torch.zeros(1, 1))], steps, 1.0, 0.0, warmup)
            (factor,) = {*made["lr_scheduler"]["scheduler"].lr_lambdas}
            shares = [factor(step) for step in range(steps)]
            assert max(shares) == 1
            assert min(shares) > 0
            assert factor(steps) == factor(steps + 5) == 0


def test_only_matrices_decay_and_only_trained_parameters_are_held(any_model):
    any_model.requires_grad_(True)
    frozen = next(any_model.parameters()).requires_grad_(False)
    optimizer = scheduled_adamw(any_model.parameters(), 10, 1e-3, 0.01, 0.0)["optimizer"]
    matrices, vectors = (group["params"] for group in optimizer.param_groups)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0.0]
    assert {p.ndim for p in matrices} == {2}
    assert {p.ndim for p in vectors} == {1}
    held = {id(p) for p in matrices + vectors}
    assert held == {id(p) for p in any_model.parameters()} - {id(frozen)}


class Tiny(DebiasingTask):
    """Learn to say token 7 everywhere; note the learning rate and which dropouts are on."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: dict[str, list[Any]] = {"train": [], "validation": [], "test": [], "rates": []}

    def loss(self, batch):
        stage = "train" if self.trainer.training else "validation"
        self.seen[stage].append(self.dropout())
        if stage == "train":
            self.seen["rates"].append(self.optimizers().param_groups[0]["lr"])
        return -self.model(input_ids=batch).logits.log_softmax(-1)[..., 7].mean()

    def dropout(self):
        """Return whether all dropouts are on, all are off, or neither (None)."""
        modes = {m.training for m in self.model.modules() if isinstance(m, nn.Dropout)}
        return modes.pop() if len(modes) == 1 else None

    def on_test_start(self):
        pass

    def test_step(self, batch, batch_idx):
        self.seen["test"].append(self.dropout())

    def on_test_epoch_end(self):
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("training")
    tokenizer = wordpiece_tokenizer()
    make_model("bert", len(tokenizer)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def batches(count=4):
    ids = torch.randint(5, 100, (2 * count, 6), generator=torch.Generator().manual_seed(0))
    return DataLoader(ids, batch_size=2)


def trainer(**options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    return Trainer(**{**quiet, "devices": 1, "enable_checkpointing": False, "inference_mode": False, **options})


@pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training")
def test_dropout_is_on_in_fit_and_off_in_validation_and_test(folder):
    task = Tiny(folder)
    assert task.dropout() is False
    fitting = trainer(max_epochs=2, val_check_interval=2)
    fitting.fit(task, batches(), batches(1))
    assert task.seen["train"] == [True] * 8
    assert task.seen["validation"] == [False] * 5  # one before the training, two an epoch
    assert "val/loss" in fitting.callback_metrics
    fitting.test(task, batches(3), verbose=False)
    assert task.seen["test"] == [False] * 3


@pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training")
def test_learning_rate_follows_the_schedule_and_the_loss_falls(folder):
    task = Tiny(folder, lr=1e-2, warmup=0.25)
    frozen = task.model.bert.embeddings.position_embeddings.weight.requires_grad_(False).clone()
    before = {name: p.clone() for name, p in task.model.named_parameters()}
    ids = next(iter(batches()))
    first = -task.model(input_ids=ids).logits.log_softmax(-1)[..., 7].mean()
    trainer(max_epochs=2).fit(task, batches(), batches(1))
    shares = [1 / 2, 1, 6 / 7, 5 / 7, 4 / 7, 3 / 7, 2 / 7, 1 / 7]  # eight steps, of which two rise
    assert task.seen["rates"] == pytest.approx([1e-2 * share for share in shares])
    last = -task.model.eval()(input_ids=ids).logits.log_softmax(-1)[..., 7].mean()
    assert last < first / 2
    assert torch.equal(task.model.bert.embeddings.position_embeddings.weight, frozen)
    assert not torch.equal(
        task.model.bert.encoder.layer[0].output.dense.weight, before["bert.encoder.layer.0.output.dense.weight"]
    )


@pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training")
def test_checkpoint_makes_the_same_task_again(folder, tmp_path):
    task = Tiny(folder, lr=1e-3, weight_decay=0.02, warmup=0.1, decay=False)
    fitting = trainer(max_epochs=1)
    fitting.fit(task, batches(), batches(1))
    fitting.save_checkpoint(tmp_path / "last.ckpt")
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    assert all(name.startswith("model.") for name in state)
    again = Tiny.load_from_checkpoint(tmp_path / "last.ckpt")
    assert again.hparams == task.hparams
    assert again.hparams["weight_decay"] == 0.02
    ids = next(iter(batches()))
    assert torch.equal(again.model.eval()(input_ids=ids).logits, task.model.eval()(input_ids=ids).logits)


@pytest.mark.parametrize("lr", [0.0, -1e-5, float("nan")])
def test_learning_rate_must_be_positive(lr):
    with pytest.raises(InputError, match=f"`lr` is expected to be positive but got {lr}"):
        Tiny("nothing is loaded before", lr=lr)


@pytest.mark.parametrize("warmup", [-0.1, 1.0, 6.0, float("nan")])
def test_warmup_is_a_share(warmup):
    with pytest.raises(InputError, match=r"`warmup` is expected to be in \[0, 1\) but got"):
        Tiny("nothing is loaded before", warmup=warmup)
