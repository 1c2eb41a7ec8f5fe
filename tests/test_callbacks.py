from __future__ import annotations

import pickle
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import torch
from conftest import make_model
from pytorch_lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from biaslab import NeuronSet, NeuronSuppression
from biaslab.errors import InputError
from biaslab.models.loading import fingerprint
from biaslab.neurons.suppression import suppressed

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
]
NEURONS = NeuronSet([(0, 3), (2, 1), (2, 40)], (3, 48))
BATCHES = [torch.randint(5, 100, (2, 6), generator=torch.Generator().manual_seed(seed)) for seed in range(2)]
MASK = 4
for batch in BATCHES:
    batch[:, 2] = MASK
LOOPS = ("validate", "test", "predict")


class Task(LightningModule):
    """Keeps the logits and the number of hooks of each step; fails in the second one if told to."""

    def __init__(self, model, fails=False):
        super().__init__()
        self.model, self.fails = model, fails
        self.tokenizer = SimpleNamespace(mask_token_id=MASK)
        self.outputs, self.hooks = [], []

    def step(self, batch, batch_idx):
        if self.fails and batch_idx == 1:
            raise KeyError("in the middle")
        self.outputs.append(self.model(input_ids=batch).logits)
        self.hooks.append(hooks(self.model))

    validation_step = test_step = step

    def predict_step(self, batch, batch_idx):
        self.step(batch, batch_idx)
        return self.outputs[-1]

    def training_step(self, batch, batch_idx):
        self.hooks.append(hooks(self.model))
        return self.model(input_ids=batch).logits.mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def data():
    return DataLoader(BATCHES, batch_size=None)


def trainer(*callbacks, **options):
    return Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def run(loop, task, *callbacks):
    getattr(trainer(*callbacks), loop)(task, dataloaders=data())
    return torch.cat(task.outputs)


def expected(model, **kwargs):
    with torch.no_grad(), suppressed(model, NEURONS, **kwargs):
        return torch.cat([model(input_ids=batch).logits for batch in BATCHES])


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("factor", [0.0, 2.0])
def test_outputs_change_within_the_loop_and_no_hook_is_left(bert, loop, factor):
    task = Task(bert)
    found = run(loop, task, NeuronSuppression(NEURONS, factor))
    assert torch.equal(found, expected(bert, factor=factor))
    assert task.hooks == [2, 2]
    assert hooks(bert) == 0
    again = run(loop, Task(bert))
    assert not torch.equal(found, again)


@pytest.mark.parametrize("positions", ["all", "slot"])
def test_strengths_of_a_file_are_followed(bert, tmp_path, positions):
    multipliers = {(0, 3): 0.25, (2, 1): 2.0, (2, 40): 0.0}
    strengths = {neuron: 1 - multiplier for neuron, multiplier in multipliers.items()}  # for the factor 0
    NEURONS.with_strengths(strengths).save(tmp_path / "n.json")
    found = run("predict", Task(bert), NeuronSuppression(tmp_path / "n.json", positions=positions))
    with ExitStack() as stack, torch.no_grad():
        for neuron, multiplier in multipliers.items():
            stack.enter_context(suppressed(bert, [neuron], multiplier, positions, MASK))
        wanted = torch.cat([bert(input_ids=batch).logits for batch in BATCHES])
    assert torch.equal(found, wanted)
    assert not torch.equal(found, expected(bert, positions=positions, mask_token_id=MASK))


@pytest.mark.parametrize("loop", LOOPS)
def test_slot_only(bert, loop):
    task = Task(bert)
    found = run(loop, task, NeuronSuppression(NEURONS, positions="slot"))
    assert torch.equal(found, expected(bert, positions=torch.tensor([2, 2])))
    assert hooks(bert) == 0


def test_slot_only_of_a_causal_model_needs_no_mask_token():
    task = Task(make_model("gpt2"))
    task.tokenizer = None
    found = run("predict", task, NeuronSuppression(NEURONS, positions="slot"))
    assert torch.equal(found, expected(task.model, positions=torch.tensor([5, 5])))
    task = Task(make_model("bert"))
    task.tokenizer = None
    with pytest.raises(InputError, match="`mask_token_id`"):
        run("test", task, NeuronSuppression(NEURONS, positions="slot"))
    assert hooks(task.model) == 0


@pytest.mark.parametrize("loop", ["validate", "test"])
def test_slot_only_of_a_causal_model_is_refused_where_sentences_are_judged(loop):
    """B1: each token is predicted at the one before it, so the last one's output is not even read."""
    task = Task(make_model("gpt2"))
    with pytest.raises(InputError, match=r'`positions` is expected to be "all" .* evaluated by Task but got "slot"'):
        run(loop, task, NeuronSuppression(NEURONS, positions="slot"))
    assert task.outputs == []
    assert hooks(task.model) == 0
    assert torch.equal(run(loop, task, NeuronSuppression(NEURONS)), expected(task.model))


@pytest.mark.parametrize("positions", ["all", "slot"])
@pytest.mark.parametrize("loop", LOOPS)
def test_no_hook_is_left_after_an_exception_in_a_step(bert, loop, positions):
    task = Task(bert, fails=True)
    with pytest.raises(KeyError, match="in the middle"):
        run(loop, task, NeuronSuppression(NEURONS, positions=positions))
    assert task.hooks[0] >= 2
    assert hooks(bert) == 0


def test_one_callback_serves_many_runs(bert):
    callback = NeuronSuppression(NEURONS)
    with pytest.raises(KeyError):
        run("test", Task(bert, fails=True), callback)
    for loop in (*LOOPS, "test"):
        assert torch.equal(run(loop, Task(bert), callback), expected(bert))
    assert hooks(bert) == 0


def test_training_is_left_alone_and_its_validation_is_not(bert):
    bert.requires_grad_(True).train()
    task = Task(bert)
    options = {"max_epochs": 2, "num_sanity_val_steps": 0, "log_every_n_steps": 1}
    trainer(NeuronSuppression(NEURONS), **options).fit(task, data(), data())
    assert task.hooks == [0, 0, 2, 2] * 2
    assert hooks(bert) == 0


def test_a_file_is_loaded_when_the_loop_starts(bert, tmp_path):
    path = tmp_path / "neurons.json"
    callback = NeuronSuppression(path)
    NEURONS.with_details(provenance={"model": {"name": "tiny", "fingerprint": fingerprint(bert)}}).save(path)
    assert torch.equal(run("test", Task(bert), callback), expected(bert))
    assert torch.equal(run("test", Task(bert), NeuronSuppression(str(path))), expected(bert))


@pytest.mark.parametrize("loop", LOOPS)
def test_bad_neurons_leave_no_hook(bert, tmp_path, loop):
    foreign, broken = tmp_path / "foreign.json", tmp_path / "broken.json"
    NEURONS.with_details(provenance={"model": {"name": "other", "fingerprint": "0" * 16}}).save(foreign)
    broken.write_text("{")
    for neurons, message in (
        (None, r"`neurons` .* --trainer.callbacks.neurons PATH"),
        (tmp_path / "missing.json", r"missing.json can't be read"),
        (broken, r"broken.json is not JSON"),
        (foreign, r"other weights: other \(weights 0000000000000000\)"),
        (NeuronSet([(0, 48)]), r"index from 0 to 47"),
    ):
        task = Task(bert)
        with pytest.raises(InputError, match=message):
            run(loop, task, NeuronSuppression(neurons))
        assert task.outputs == []
        assert hooks(bert) == 0


def test_installing_twice_installs_once_and_removing_twice_is_no_fault(bert):
    callback, task = NeuronSuppression(NEURONS), Task(bert)
    callback.on_test_start(None, task)
    callback.on_test_start(None, task)
    assert hooks(bert) == 2
    callback.on_test_end(None, task)
    callback.teardown(None, task, "test")
    callback.on_exception(None, task, KeyError())
    assert hooks(bert) == 0


def test_the_arguments():
    with pytest.raises(InputError, match=r"`positions` .* 'mask'"):
        NeuronSuppression(NEURONS, positions="mask")
    copied = pickle.loads(pickle.dumps(NeuronSuppression(NEURONS, 2.0)))
    assert (copied.neurons, copied.factor) == (NEURONS, 2.0)
