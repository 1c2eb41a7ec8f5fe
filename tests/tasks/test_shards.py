from __future__ import annotations

import json
import os
import signal
import stat
from pathlib import Path

import pytest
import safetensors.torch
import torch

from biaslab.errors import InputError
from biaslab.tasks.shards import Shards, is_locked

CONFIGURATION = {"model": {"name": "tiny", "steps": 4}, "groups": ["female", "male"], "seed": 0}
TENSORS = {
    "sums": torch.tensor([[0.5, -1.5], [float("nan"), 2.0]], dtype=torch.float64),
    "counts": torch.tensor([3, -1], dtype=torch.int64),
    "ids": torch.tensor([7, 8], dtype=torch.int32),
    "valid": torch.tensor([True, False]),
    "none": torch.zeros(0, 4),
    "number": torch.tensor(1.25, dtype=torch.bfloat16),
}


@pytest.fixture
def messages() -> list[str]:
    return []


@pytest.fixture
def shards(tmp_path, messages) -> Shards:
    shards = Shards(tmp_path / "parts", messages.append)
    shards.open(CONFIGURATION)
    return shards


def files(tmp_path) -> list[Path]:
    return sorted((tmp_path / "parts").glob("shard-*"))


def same(found, expected) -> bool:
    return found.keys() == expected.keys() and all(
        tensor.dtype == found[name].dtype
        and tensor.shape == found[name].shape
        and torch.equal(tensor.isnan(), found[name].isnan())
        and torch.equal(tensor[~tensor.isnan()], found[name][~tensor.isnan()])
        for name, tensor in expected.items()
    )


def test_shards_come_back_in_the_order_of_their_first_items(shards, tmp_path, messages):
    shards.write([1_000_000], {"x": torch.ones(1)})
    shards.write([12, 3], TENSORS)
    shards.write([5, 6], {})
    found = list(shards.read())
    assert [items for items, _ in found] == [[5, 6], [12, 3], [1_000_000]]
    assert same(found[1][1], TENSORS)
    assert found[0][1] == {}
    assert shards.finished() == {3, 5, 6, 12, 1_000_000}
    assert [path.name.split("-")[1] for path in files(tmp_path)] == ["000005", "000012", "1000000"]
    assert not messages


def test_tensors_may_be_views_that_share_memory_and_need_a_gradient(shards):
    whole = torch.arange(12.0).reshape(3, 4).requires_grad_()
    shards.write([0], {"column": whole[:, 1], "row": whole[1], "again": whole[1], "turned": whole.T})
    ((_, found),) = shards.read()
    assert same(found, {"column": whole[:, 1], "row": whole[1], "again": whole[1], "turned": whole.T})
    found["row"] += 1  # it is the reader's own


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_tensors_are_kept_on_the_cpu(shards):
    shards.write([0], {name: tensor.cuda() for name, tensor in TENSORS.items()})
    ((_, found),) = shards.read()
    assert same(found, TENSORS)


@pytest.mark.parametrize("items", [[], [3, -1], [2, 2]])
def test_bad_items_are_refused(shards, items, tmp_path):
    with pytest.raises(InputError, match=r"`items` is expected .* but got \["):
        shards.write(items, TENSORS)
    assert not files(tmp_path)


def test_what_a_killed_writer_left_is_not_read_but_cleared(shards, tmp_path, messages):
    shards.write([4], TENSORS)
    (path,) = files(tmp_path)
    path.rename(path.with_name(f".{path.name}.123.tmp"))
    (tmp_path / "parts" / ".configuration.json.123.tmp").write_text("{")
    shards.open(CONFIGURATION)
    assert shards.finished() == set()
    shards.write([5], TENSORS)
    shards.clear()
    assert not (tmp_path / "parts").exists()
    assert shards.finished() == set()
    shards.clear()
    assert not messages


def test_a_shard_is_on_the_disk_before_it_has_its_name_and_its_name_before_write_returns(shards, monkeypatch):
    calls = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append("replace"), replace(*paths)))
    monkeypatch.setattr(
        os,
        "fsync",
        lambda file: (calls.append("folder" if stat.S_ISDIR(os.fstat(file).st_mode) else "file"), sync(file)),
    )
    shards.write([4], TENSORS)
    assert calls == ["file", "replace", "folder"]


def test_clear_keeps_what_is_not_its_own(shards, tmp_path, messages):
    shards.write([4], TENSORS)
    (tmp_path / "parts" / "notes.txt").touch()
    shards.clear()
    assert os.listdir(tmp_path / "parts") == ["notes.txt"]
    assert len(messages) == 1
    assert "can't be removed" in messages[0]


def damaged_shards(content: bytes):
    """Yield the shard cut at every length, with each byte altered in one bit, and with other things in its place."""
    yield from (content[:length] for length in range(len(content)))
    for place in range(len(content)):
        yield content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :]
    yield from (content + b"\0", b"\0" * len(content), b"garbage", b"\x10\x27" + bytes(6) + b"[" * 10_000)
    yield safetensors.torch.save(TENSORS)
    yield safetensors.torch.save(TENSORS, {"items": "[0, 2, 4]"})


def test_a_damaged_shard_is_removed_and_named(shards, tmp_path, messages):
    shards.write([7], {"x": torch.ones(1)})
    shards.write([0, 2, 4], TENSORS)
    path, _ = files(tmp_path)
    counts = set()
    for content in damaged_shards(path.read_bytes()):
        path.write_bytes(content)
        assert shards.finished() == {7}
        assert not path.exists()
        assert len(messages) == 1
        assert messages[0].startswith(f"{path.name} is corrupt (")
        assert "; recomputing " in messages[0]
        assert messages[0].endswith("items")
        assert "\n" not in messages[0]
        counts.add("recomputing 3 items" in messages.pop())
    assert counts == {True, False}  # the number is told where the header has survived
    assert [items for items, _ in shards.read()] == [[7]]


def test_an_altered_value_is_told_from_a_cut_file(shards, tmp_path, messages):
    shards.write([0, 2, 4], TENSORS)
    (path,) = files(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert list(shards.read()) == []
    assert messages == [f"{path.name} is corrupt (checksum mismatch); recomputing 3 items"]


def test_an_item_that_was_done_twice_comes_once(shards, tmp_path):
    shards.write([3, 4], {"x": torch.tensor([1.0, 2.0])})
    shards.write([3, 4], {"x": torch.tensor([1.0, 2.0])})
    assert len(files(tmp_path)) == 1
    shards.write([3, 4], {"x": torch.tensor([1.0, 2.5])})
    shards.write([4], {"x": torch.tensor([2.0])})
    assert len(files(tmp_path)) == 3
    assert [items for items, _ in shards.read()] == [[3, 4]]
    assert shards.finished() == {3, 4}


def test_shards_that_overlap_in_part_are_refused(shards, tmp_path):
    shards.write([3, 4], {"x": torch.ones(2)})
    shards.write([4, 5], {"x": torch.ones(2)})
    one, other = files(tmp_path)
    with pytest.raises(InputError, match=f"both {one.name} and {other.name} hold item 4"):
        list(shards.read())


def test_the_same_configuration_is_accepted(tmp_path):
    configuration = {"range": (1, (2, 3)), 5: {"nan": float("nan")}, "name": "prénom", "none": None, "empty": {}}
    Shards(tmp_path / "a" / "parts").open(configuration)
    Shards(str(tmp_path / "a" / "parts")).open(dict(reversed(configuration.items())))
    assert os.listdir(tmp_path / "a" / "parts") == ["configuration.json"]


def test_another_configuration_is_refused_with_every_difference_named(shards, tmp_path):
    other = {"model": {"name": "tiny", "steps": 6, "options": {"half": True}}, "groups": ["female"], "batch": 1}
    with pytest.raises(InputError) as caught:
        Shards(tmp_path / "parts").open(other)
    assert str(caught.value) == (
        f"`folder` is expected to be new or to belong to the same configuration but {tmp_path / 'parts'} belongs to "
        'another configuration: model.steps is 4 there and 6 here, groups is ["female", "male"] there and '
        '["female"] here, seed is 0 there and missing here, model.options.half is missing there and true here, '
        "batch is missing there and 1 here. Use another folder, or remove this one."
    )
    shards.open(CONFIGURATION)
    with pytest.raises(InputError, match="seed is 0 there and false here"):
        shards.open(CONFIGURATION | {"seed": False})


def test_a_folder_without_its_configuration_is_refused(shards, tmp_path):
    shards.write([4], TENSORS)
    path = tmp_path / "parts" / "configuration.json"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InputError, match=r"has a corrupt configuration.json. Use another folder"):
        shards.open(CONFIGURATION)
    path.unlink()
    with pytest.raises(InputError, match=r"holds shard-000004-\w+.safetensors but no configuration.json"):
        shards.open(CONFIGURATION)
    assert not path.exists()
    files(tmp_path)[0].unlink()
    shards.open(CONFIGURATION)
    assert json.loads(path.read_text()) == CONFIGURATION


def test_a_folder_that_cannot_be_made_is_refused_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"`folder` is expected to be writable .*file/parts can't be written: Not a d"):
        Shards(tmp_path / "file" / "parts").open({})
    with pytest.raises(InputError, match=r"parts/shard-000001-\w+.safetensors can't be written: No such file"):
        Shards(tmp_path / "parts").write([1], TENSORS)


def test_a_shard_that_cannot_be_read_is_kept(shards, tmp_path):
    path = tmp_path / "parts" / "shard-000001-00.safetensors"
    path.mkdir()
    with pytest.raises(InputError, match=r"shard-000001-00.safetensors can't be read: Is a directory. Make it"):
        shards.finished()
    assert path.exists()


def test_a_full_disk_is_one_line_and_leaves_what_is_finished(nursery, shards, tmp_path, messages):
    shards.write([1], TENSORS)
    code = """
import resource, sys, torch
from biaslab.tasks.shards import Shards
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
shards = Shards(sys.argv[1])
shards.write([2], {"x": torch.ones(10)})
try:
    shards.write([3], {"x": torch.ones(10_000)})
except ValueError as error:
    print(error)
shards.write([4], {"x": torch.ones(10)})
"""
    end = nursery.run(tmp_path, [tmp_path / "parts"], code=code)
    assert end.codes == [0], end.output
    assert end.output.startswith(
        f"`folder` is expected to be writable with room for the results, but {tmp_path / 'parts'}/shard-000003-"
    )
    assert end.output.endswith(
        ".safetensors can't be written: File too large. Finished results are kept; free some space and run the same "
        "command to resume.\n"
    )
    assert end.output.count("\n") == 1
    assert {name for name in os.listdir(tmp_path / "parts") if not name.startswith("shard-")} == {"configuration.json"}
    assert shards.finished() == {1, 2, 4}
    assert not messages


def test_killed_writers_leave_sound_shards_only(nursery, tmp_path, messages):
    code = """
import os, random, signal, sys, time, torch
from biaslab.tasks.shards import Shards
folder, choose = sys.argv[1], random.Random(0)
for kill in range(20):
    told, telling = os.pipe()
    writers = []
    for number in range(2):  # at once
        if not (writer := os.fork()):
            shards, item = Shards(folder), kill * 1_000_000 + number
            shards.open({"steps": 4})
            while True:
                shards.write([item, item + 2], {"x": torch.full((20_000,), item), "none": torch.zeros(0, 4)})
                os.write(telling, b"%d\\n" % item)
                item += 4
        writers.append(writer)
    time.sleep(choose.uniform(0.01, 0.07))
    for writer in writers:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
    os.close(telling)
    print(open(told).read(), end="")
"""
    end = nursery.run(tmp_path, [tmp_path / "parts"], code=code)
    assert end.codes == [0], end.output
    returned = {int(line) for line in end.output.split()}
    shards = Shards(tmp_path / "parts", messages.append)
    shards.open({"steps": 4})
    found = dict.fromkeys(returned, False)
    for (item, after), tensors in shards.read():
        assert after == item + 2
        assert same(tensors, {"x": torch.full((20_000,), item), "none": torch.zeros(0, 4)})
        found[item] = True
    assert len(returned) > 20
    assert all(found.values())  # what was written before the kill is there
    assert len(files(tmp_path)) == len(found)
    assert not messages
    shards.clear()
    assert not (tmp_path / "parts").exists()


HOLD = """
import sys, time
from biaslab.tasks.shards import Shards
shards = Shards(sys.argv[1])
shards.open({})
print(shards.lock(), flush=True)
time.sleep(60)
"""


def test_a_folder_is_in_use_until_its_process_dies(nursery, tmp_path):
    folder = tmp_path / "shards"

    def until(seconds: float) -> bool:
        if held := (tmp_path / "output.txt").exists() and (tmp_path / "output.txt").read_text() == "True\n":
            assert is_locked(folder)
            assert not Shards(folder).lock()
        return held

    assert nursery.run(tmp_path, [folder], code=HOLD, until=until).codes == [-signal.SIGKILL]
    assert not is_locked(folder)
    shards = Shards(folder)
    assert shards.lock()
    shards.clear()
    assert not folder.exists()
