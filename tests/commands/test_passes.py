"""Jobs that commands share: one at a time in a folder, kept by all that they depend on, also by what files hold."""

from pathlib import Path

import pytest

from biaslab.commands import passes
from biaslab.commands.passes import attribution_pass, searched_prompts, training
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


def test_a_second_one_is_refused_and_deletes_nothing(lab, tmp_path, monkeypatch):
    """B6: while one works in the folder, another one would have removed it."""
    real, removed = passes.Attribution, []

    def interrupted(*arguments, **options):
        with pytest.raises(InputError, match="another command works in"):
            run(lab, tmp_path)
        return real(*arguments, **options)

    monkeypatch.setattr(passes, "Attribution", interrupted)
    monkeypatch.setattr(passes.shutil, "rmtree", lambda *folders, **_: removed.append(folders))
    assert len(run(lab, tmp_path).sets["ranked"]) == 3
    assert not removed


def test_a_training_that_runs_is_left_alone(lab, tmp_path, monkeypatch):
    """B6: before the first checkpoint the folder of a running training looked like that of a killed one."""

    def fit(*arguments):
        folder = (
            Path(arguments[arguments.index("--trainer.logger.save_dir") + 1])
            / arguments[arguments.index("--trainer.logger.name") + 1]
        )
        (folder / "checkpoints").mkdir(parents=True)
        with pytest.raises(InputError, match="another command works in"):
            train()
        assert (folder / "checkpoints").is_dir()
        (folder / "checkpoints" / "best.ckpt").write_text("weights")
        return 1.0

    def train():
        return training(Artifacts(tmp_path), "cda", "cda_small", "configs", str(lab / "model"), "w")

    monkeypatch.setattr(passes, "_run", fit)
    checkpoint, seconds = train()
    assert (checkpoint.read_text(), seconds) == ("weights", 1.0)
    monkeypatch.setattr(passes, "_run", None)  # it is done
    assert train() == (checkpoint, seconds)


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

    def search(*arguments):
        Path(arguments[arguments.index("--output") + 1]).parent.mkdir()
        asked.append(arguments)
        return 1.0

    monkeypatch.setattr(passes, "_run", search)
    for code in ("one", "two", "one"):
        monkeypatch.setattr(passes, "computed_by", lambda code=code: {"code": code})
        searched_prompts(Artifacts(tmp_path), "m", "w", {"beam": 2})
    assert len(asked) == 2
    assert len(computed_by()["code"]) == 12


def test_files_are_known_by_what_they_hold(tmp_path):
    text = tmp_path / "a.txt"
    text.write_text("a")
    first = files_of(["bold", str(text), [None]])
    assert list(first) == [str(text)]
    text.write_text("b")
    assert files_of(str(text)) != first


def test_a_lock_ends_with_its_block(tmp_path):
    with pytest.raises(KeyboardInterrupt), locked(tmp_path / "x"):
        raise KeyboardInterrupt
    with locked(tmp_path / "x"), pytest.raises(InputError, match="another command works in"), locked(tmp_path / "x"):
        pass
