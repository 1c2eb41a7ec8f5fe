"""Where a run's files lie, whatever logs it."""

from pathlib import Path

import pytest
from pytorch_lightning import Trainer
from pytorch_lightning.loggers.logger import DummyLogger

from biaslab.errors import InputError
from biaslab.tasks import Attribution
from biaslab.tasks.base import logger_folder


class Server(DummyLogger):
    """A logger whose records lie on a server: it has a folder for files, but no ``log_dir``."""

    log_dir = None
    name = "project"
    version = "a1b2"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    @property
    def save_dir(self) -> str:
        return str(self._folder)


@pytest.fixture
def task(lab, workdir) -> Attribution:
    trainer = Trainer(logger=Server(workdir / "runs"), accelerator="cpu", devices=1, enable_checkpointing=False)
    task = Attribution(str(lab / "model"))
    trainer.strategy.connect(task)
    task.trainer = trainer
    return task


def test_a_logger_without_a_folder_gets_one_of_its_own(task, workdir):
    assert logger_folder(task.trainer) == task.folder == workdir / "runs/project/a1b2"


def test_what_lies_in_the_working_folder_is_of_no_concern(task, workdir):
    """There a run whose logger names no folder once looked for an earlier one."""
    (workdir / "neurons.json").write_text("{}")
    (workdir / "shards").mkdir()
    task.prepare_data()
    task.folder.mkdir(parents=True)
    (task.folder / "neurons.json").write_text("{}")
    with pytest.raises(InputError, match="a1b2 holds a finished one"):
        task.prepare_data()
