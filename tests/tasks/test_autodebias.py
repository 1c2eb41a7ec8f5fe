"""The loss against a loop, what training does to the divergence, and that a run resumes and has two ranks."""

import os
from pathlib import Path

import pytest
import torch
from conftest import MASKED, bpe_tokenizer, make_model, run_two_processes, wordpiece_tokenizer
from pytorch_lightning import Trainer, seed_everything

from biaslab.data.prompt_pairs import PromptPairDataModule
from biaslab.errors import InputError
from biaslab.tasks.baselines.autodebias import DIVERGENCES, AutoDebias

QUIET = {
    "accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False,
}  # fmt: skip
PROMPTS = "is a\nloves the\nhates\nwas the old\nworks as a\nis not\n"


def save(folder: Path, kind: str = "bert") -> Path:
    tokenizer = bpe_tokenizer() if kind == "roberta" else wordpiece_tokenizer()
    make_model(kind, len(tokenizer)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "prompts.txt").write_text(PROMPTS)
    return folder


@pytest.fixture
def lab(tmp_path):
    """A folder with a tiny model and some prompts."""
    return save(tmp_path)


def module(lab: Path) -> PromptPairDataModule:
    return PromptPairDataModule(str(lab / "model"), str(lab / "prompts.txt"), batch_size=4)


def trainer(**options) -> Trainer:
    return Trainer(**QUIET | {"devices": 1, "enable_checkpointing": False} | options)


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("kind", MASKED)
def test_loss_equals_a_loop(tmp_path, kind, divergence):
    task, data = AutoDebias(str(save(tmp_path, kind) / "model"), divergence), module(tmp_path)
    data.setup("fit")
    for batch in data.train_batches:
        values = []
        for example, position in zip(batch["input_ids"], batch["position"], strict=True):
            p, q = (task.model(input_ids=ids[None]).logits[0, position].double().softmax(0) for ids in example)
            m = (p + q) / 2
            ends = [(p, m), (q, m)] if divergence == "jensen_shannon" else [(m, p), (m, q)]
            values.append(sum((a * (a / b).log()).sum() for a, b in ends) / 2)
        torch.testing.assert_close(task.loss(batch).double(), torch.stack(values).mean(), rtol=1e-4, atol=1e-7)


def test_training_lowers_the_divergence_of_both_parts(lab):
    seed_everything(0, verbose=False)
    task, data = AutoDebias(str(lab / "model"), lr=1e-3), module(lab)
    data.setup("fit")

    def divergence():
        task.model.eval()
        with torch.no_grad():
            parts = (data.train_batches, data.validation_batches)
            return [float(torch.stack([task.loss(batch) for batch in part]).mean()) for part in parts]

    before, logged = divergence(), trainer(max_epochs=10)
    logged.fit(task, data)
    after = divergence()
    assert after[0] < 0.5 * before[0]
    assert after[1] < before[1]
    assert float(logged.callback_metrics["val/loss"]) == pytest.approx(after[1], rel=1e-5)


def test_optimizer_is_the_papers(lab):
    task, fit = AutoDebias(str(lab / "model")), trainer(max_steps=2)
    fit.fit(task, module(lab))
    assert {group["lr"] for group in fit.optimizers[0].param_groups} == {5e-6}  # at the end, too: no schedule
    assert {group["weight_decay"] for group in fit.optimizers[0].param_groups} == {0.0}


def test_checkpoint_makes_the_same_task_and_resumes(lab, tmp_path):
    def fit(epochs, **options):
        seed_everything(0, verbose=False)
        task, run = AutoDebias(str(lab / "model"), "reversed", lr=1e-3), trainer(max_epochs=epochs)
        run.fit(task, module(lab), **options)
        run.save_checkpoint(tmp_path / "last.ckpt")
        return task

    fit(1)
    checkpoint = tmp_path / "last.ckpt"
    resumed = fit(2, ckpt_path=checkpoint, weights_only=False)
    content = torch.load(checkpoint, weights_only=False)
    assert content["global_step"] == 2 * len(module_batches(lab))
    assert all(name.startswith("model.") for name in content["state_dict"])
    again = AutoDebias.load_from_checkpoint(checkpoint, weights_only=False)
    assert again.divergence is DIVERGENCES["reversed"]
    assert again.hparams == resumed.hparams
    for one, other in zip(again.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def module_batches(lab: Path) -> list:
    data = module(lab)
    data.setup("fit")
    return data.train_batches


def _rank(rank: int, port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    seed_everything(0, verbose=False)
    task = AutoDebias(str(Path(folder, "model")), lr=1e-3)
    run = trainer(max_epochs=1, devices=2, strategy="ddp", default_root_dir=folder)
    run.fit(task, module(Path(folder)))
    torch.save((task.model.state_dict(), run.callback_metrics["val/loss"]), Path(folder, f"rank{rank}.pt"))


def test_two_ranks_have_the_same_weights(lab):
    run_two_processes(_rank, lab)
    (one, loss), (other, other_loss) = (torch.load(lab / f"rank{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert loss == other_loss
    before = make_model("bert", len(wordpiece_tokenizer())).state_dict()
    assert any(not torch.equal(one[name], before[name]) for name in one)


def test_refusals(lab, tmp_path):
    with pytest.raises(InputError, match="`divergence` is expected to be jensen_shannon or reversed but got 'kl'"):
        AutoDebias(str(lab / "model"), "kl")
    make_model("gpt2", len(bpe_tokenizer(masked=False))).save_pretrained(tmp_path / "causal")
    bpe_tokenizer(masked=False).save_pretrained(tmp_path / "causal")
    with pytest.raises(InputError, match="`model_name` is expected to be a masked language model"):
        AutoDebias(str(tmp_path / "causal"))
