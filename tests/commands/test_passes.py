"""Jobs that commands share: one at a time in a folder, kept by all that they depend on, also by what files hold."""

import errno
from contextlib import nullcontext
from pathlib import Path

import conftest
import pytest
import yaml

from biaslab.commands import passes, rows
from biaslab.commands.configs import config_file
from biaslab.commands.passes import attribution_pass
from biaslab.errors import InputError
from biaslab.store import Artifacts, computed_by, files_of, locked

OPTIONS = {"selection": "ranked", "steps": 2}
DATA = {"dimensions": ["gender"], "kinds": ["negative"], "modifiers": 1}


def run(lab: Path, place: Path, **data):
    """The smallest pass, on the tiny model."""
    return attribution_pass(
        Artifacts(place), "ig2", str(lab / "model"), OPTIONS, DATA | data,
        lambda task, _: {"ranked": task.select("ranked")}, {"weights": "w"},
    )  # fmt: skip


def trainings(place: Path, model: str = "m", configs: str = "configs") -> rows.Rows:
    """The rows that are trained, of a model with the weights "w"."""
    return rows.Rows(Artifacts(place), model, "w", "small", configs, 0)


def test_a_second_one_is_refused_and_deletes_nothing(lab, tmp_path, monkeypatch):
    """B6: while one works in the folder, another one would have removed it."""
    real, removed = passes.Attribution, []

    def interrupted(*arguments, **options):
        with pytest.raises(InputError, match="another command is using"):
            run(lab, tmp_path)
        return real(*arguments, **options)

    monkeypatch.setattr(passes, "Attribution", interrupted)
    monkeypatch.setattr(passes.shutil, "rmtree", lambda *folders, **_: removed.append(folders))
    assert len(run(lab, tmp_path).sets["ranked"]) == 3
    assert not removed


def test_a_training_that_runs_is_left_alone(lab, tmp_path, monkeypatch):
    """B6: before the first checkpoint the folder of a running training looked like that of a killed one."""

    def fit(command, options):
        folder = options["--trainer.logger.save_dir"] / options["--trainer.logger.name"]
        (folder / "checkpoints").mkdir(parents=True)
        with pytest.raises(InputError, match="another command is using"):
            train()
        assert (folder / "checkpoints").is_dir()
        (folder / "checkpoints" / "best.ckpt").write_text("weights")
        return 1.0

    def train():
        return trainings(tmp_path, str(lab / "model")).train("cda")

    monkeypatch.setattr(rows, "_run", fit)
    checkpoint, seconds = train()
    assert (checkpoint.read_text(), seconds) == ("weights", 1.0)
    monkeypatch.setattr(rows, "_run", None)  # it is done
    assert train() == (checkpoint, seconds)


def test_a_training_that_survived_its_command_is_left_alone(lab, tmp_path, monkeypatch):
    """B6: a killed table doesn't take its training along, and gives its own lock free."""
    config = yaml.safe_load(config_file("cda_small").read_text())
    config["data"]["init_args"] |= {"source": str(lab / "text.txt"), "limit": 40}
    config["trainer"] |= {"max_epochs": 1, "accelerator": "cpu", "enable_progress_bar": False}
    (tmp_path / "cda_small.yaml").write_text(yaml.safe_dump(config))

    def train():
        return trainings(tmp_path, str(lab / "model"), str(tmp_path)).train("cda")

    def fit(command, options):
        conftest.main([command, *(str(part) for item in options.items() if item[1] is not None for part in item)])
        return 1.0

    def on_train_start(task):
        refused.append(True)
        with monkeypatch.context() as patch:
            patch.setattr("biaslab.store.locked", nullcontext)  # its lock went with the table
            patch.setattr(rows, "_run", None)
            with pytest.raises(InputError, match="another command is using"):
                train()

    refused = []
    monkeypatch.setattr(rows, "_run", fit)
    monkeypatch.setattr("biaslab.tasks.CounterfactualAugmentation.on_train_start", on_train_start)
    checkpoint, _ = train()
    assert refused
    assert checkpoint.is_file()
    assert train()[0] == checkpoint


def test_an_edited_text_file_is_other_data(lab, tmp_path):
    """B7: keys held the name of a text file, so that its neurons stayed what they were before it was edited."""
    text = tmp_path / "mine.txt"
    lines = (lab / "text.txt").read_text().splitlines()
    text.write_text("\n".join(lines))
    place = tmp_path / "passes"
    first = run(lab, place, contrast=str(text), contrast_limit=5)
    assert run(lab, place, contrast=str(text), contrast_limit=5).folder == first.folder
    text.write_text("\n".join(lines[1:]))
    assert run(lab, place, contrast=str(text), contrast_limit=5).folder != first.folder


def test_other_code_reads_no_old_results(lab, tmp_path, monkeypatch):
    """B7: trainings and searches had no versions in their keys, and biaslab's own never changed."""
    asked = []

    def search(command, options):
        options["--output"].parent.mkdir()
        asked.append(options)
        return 1.0

    monkeypatch.setattr(rows, "_run", search)
    for code in ("one", "two", "one"):
        monkeypatch.setattr("biaslab.store.computed_by", lambda code=code: {"code": code})
        trainings(tmp_path).search_prompts({"beam": 2})
    assert len(asked) == 2
    assert len(computed_by()["code"]) == 12


def test_an_edited_text_file_is_another_training(lab, tmp_path, monkeypatch):
    """B7: a training's configuration may name text files, too."""
    text, folders = tmp_path / "mine.txt", []
    config = yaml.safe_load(config_file("cda_small").read_text())
    config["data"]["init_args"]["source"] = str(text)
    (tmp_path / "cda_small.yaml").write_text(yaml.safe_dump(config))

    def fit(command, options):
        folder = options["--trainer.logger.save_dir"] / options["--trainer.logger.name"]
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints" / "best.ckpt").touch()
        return 1.0

    monkeypatch.setattr(rows, "_run", fit)
    for content in ("one", "two", "one"):
        text.write_text(content)
        folders.append(trainings(tmp_path / "cache", configs=str(tmp_path)).train("cda")[0])
    assert folders[0] == folders[2] != folders[1]


def test_what_is_done_is_read_where_nothing_can_be_written(lab, tmp_path, monkeypatch):
    first = run(lab, tmp_path)

    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("biaslab.store.acquired", refuse)
    assert run(lab, tmp_path) == first


def test_a_file_system_without_locks_runs_all_the_same(tmp_path, monkeypatch):
    def refuse(lock, **_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("biaslab.store.FileLock.acquire", refuse)
    with locked(tmp_path / "x"), locked(tmp_path / "x"):
        pass


def test_files_are_known_by_what_they_hold(tmp_path):
    text = tmp_path / "a.txt"
    text.write_text("a")
    first = files_of(["bold", {"source": str(text), "limit": 3}, [None], "long" * 1000])
    assert list(first) == [str(text)]
    text.write_text("b")
    assert files_of(str(text)) != first


def test_a_lock_ends_with_its_block(tmp_path):
    with pytest.raises(KeyboardInterrupt), locked(tmp_path / "x"):
        raise KeyboardInterrupt
    with locked(tmp_path / "x"), pytest.raises(InputError, match="another command is using"), locked(tmp_path / "x"):
        pass
