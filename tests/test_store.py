"""Files that are written whole, by any number of processes, on any system."""

import os
import stat
import threading

import pytest

from biaslab.errors import InputError
from biaslab.store import Artifacts, load_tensors, write_atomically


def test_two_machines_with_the_same_process_number_do_not_collide(tmp_path, monkeypatch):
    """B14: temporary names held the number of the process only; here two threads have the same."""
    monkeypatch.setattr(os, "getpid", lambda: 57)
    path, failed = tmp_path / "shared.json", []

    def write(content: bytes) -> None:
        for _ in range(200):
            try:
                write_atomically(path, content)
            except (InputError, OSError) as error:
                failed.append(error)

    threads = [threading.Thread(target=write, args=(letter * 1000,)) for letter in (b"a", b"b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert path.read_bytes() in (b"a" * 1000, b"b" * 1000)
    assert list(tmp_path.iterdir()) == [path]


def test_a_system_that_opens_no_folders(tmp_path, monkeypatch):
    """B15: Windows refuses to open a folder, and every write failed there."""
    real = os.open

    def refuse(path, *arguments, **options):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    write_atomically(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"


def test_a_file_has_the_users_permissions(tmp_path):
    (tmp_path / "plain").write_text("x")
    write_atomically(tmp_path / "file", b"x")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "file")]
    assert modes[0] == modes[1]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InputError, match="No space left on device"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_can_not_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="`output` is expected to be a writable folder"):
        Artifacts(tmp_path / "file" / "below")
    assert load_tensors(tmp_path / "nothing") is None


def test_a_job_is_done_once_and_goes_on_where_it_was_killed(tmp_path):
    artifacts, held = Artifacts(tmp_path, "a/b"), []

    def job(folder):
        folder.mkdir(exist_ok=True)
        held.append(sorted(path.name for path in folder.iterdir()))
        (folder / "part").touch()
        if len(held) == 1:
            raise KeyboardInterrupt
        return {"seconds": 1.0}

    with pytest.raises(KeyboardInterrupt):
        artifacts.once("job", {"x": 1}, job)
    folder, facts = artifacts.once("job", {"x": 1}, job)
    assert artifacts.once("job", {"x": 1}, job) == (folder, facts) == (folder, {"seconds": 1.0})
    assert held == [[], ["part"]]
    assert folder.parent == tmp_path / "a--b"
    assert artifacts.once("job", {"x": 2}, job)[0] != folder
