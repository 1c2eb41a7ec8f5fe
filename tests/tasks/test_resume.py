"""A run that is killed, stopped or out of room goes on, and ends with the same bytes as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import NamedTuple

import pytest
import torch
from conftest import make_model, wordpiece_tokenizer

KILLS = 21  # at least
RANKS = (1, 1, 2, 1, 1, 1, 3)  # of the attempts, again and again
ATTRIBUTE = str(Path(__file__).parents[2] / "configs" / "attribute.yaml")
COMMAND = [
    "predict", "-c", ATTRIBUTE, "--model.selection", "ranked", "--model.source", "prompts", "--model.steps", "2",
    "--data.dimensions", "[gender, age]", "--data.pairs", "{age: [[young, old], [old, olds]]}",  # two tokens: old ##s
    "--data.modifiers", "1", "--data.contrast", "null",
    "--data.tokens_per_batch", "64", "--model.save_every", "0",  # 22 batches, a shard after each
    "--trainer.accelerator", "cpu", "--trainer.strategy", "ddp", "--trainer.enable_progress_bar", "false",
]  # fmt: skip

# Has all imports behind it, and forks a fresh child for each rank of each attempt: starting one costs nothing.
NURSERY = """
import gc, json, os, signal, sys
import torch, torch.utils.tensorboard, transformers.models.bert.modeling_bert
import biaslab.cli
from biaslab.__main__ import main

torch.set_num_threads(1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs are started without
gc.freeze()  # or the end of a child would take longer than its work
for line in sys.stdin:
    attempt, children = json.loads(line), []
    for rank in range(attempt["ranks"]):
        child = os.fork()
        if not child:
            break
        children.append(child)
        os.setpgid(child, children[0])
    if not child:
        break
    print(children[0], flush=True)
    print(*[os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children], flush=True)
else:
    sys.exit()
output = os.open(attempt["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for descriptor, file in enumerate((os.open(os.devnull, os.O_RDONLY), output, output)):
    os.dup2(file, descriptor)
if attempt["ranks"] > 1:  # as torchrun sets it
    ranks, port = attempt["ranks"], attempt["port"]
    names = "RANK LOCAL_RANK GROUP_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT TORCHELASTIC_RUN_ID".split()
    os.environ |= zip(names, map(str, (rank, rank, 0, ranks, ranks, "127.0.0.1", port, "nursery")))
os.chdir(attempt["folder"])
sys.argv = ["biaslab", *attempt["arguments"]]
main()
"""


class End(NamedTuple):
    """How an attempt ended: the exit codes of its ranks (a signal's are negative), what it printed, and when."""

    codes: list[int]
    output: str
    seconds: float


class Nursery:
    def __init__(self) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command, pipe = [sys.executable, "-c", NURSERY], subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, start_new_session=True)
        self.lines: Queue[bytes] = Queue()
        Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with self.process.stdout as answers:
            for line in answers:
                self.lines.put(line)

    def run(
        self, folder: Path, model: Path, *more: str, ranks: int = 1, until=lambda seconds: False, send=signal.SIGKILL
    ) -> End:
        """Run the command in the folder; once ``until(seconds)`` is true, send its process group a signal."""
        output = folder / "output.txt"
        output.unlink(missing_ok=True)
        arguments = [*COMMAND, "--model.model_name", str(model), "--trainer.devices", str(ranks), *more]
        attempt = {"arguments": arguments, "ranks": ranks, "port": free_port(), "folder": str(folder)}
        self.process.stdin.write(json.dumps(attempt | {"output": str(output)}).encode() + b"\n")
        self.process.stdin.flush()
        group, started, sent = int(self.lines.get(timeout=60)), time.monotonic(), False
        while True:
            seconds = time.monotonic() - started
            with suppress(Empty):
                codes = self.lines.get(timeout=0.005)
                end = End([int(code) for code in codes.split()], output.read_text(), seconds)
                assert "Warning" not in end.output, end.output
                return end
            if seconds > 60 or (until(seconds) and not sent):
                os.killpg(group, signal.SIGKILL if seconds > 60 else send)
                sent = True


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.process.stdin.close()
    assert nursery.process.wait(timeout=60) == 0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model"))


def save_model(folder: Path, nan_at: int | None = None) -> Path:
    """Save a tiny model; with NaN in the embedding of a position, its prompts are spoiled that are longer."""
    tokenizer = wordpiece_tokenizer()
    model = make_model("bert", len(tokenizer))
    if nan_at is not None:
        model.bert.embeddings.position_embeddings.weight[nan_at] = torch.nan
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class Undisturbed(NamedTuple):
    files: dict[str, bytes]
    seconds: float


@pytest.fixture(scope="module")
def undisturbed(nursery: Nursery, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    end = nursery.run(folder, model)
    assert end.codes == [0], end.output
    return Undisturbed(results(folder / "runs/attribute/version_0"), end.seconds)


def results(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in ("neurons.json", "scores.safetensors")}


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("runs/attribute/*/shards/shard-*"))


def contents(folder: Path, pattern: str = "*") -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob(pattern)) if path.is_file()}


def error_of(end: End) -> str:
    """Return the one line of a failed run, which it prints without a traceback."""
    assert set(end.codes) == {2}, end.output
    assert "Traceback" not in end.output, end.output
    assert "Exception" not in end.output, end.output
    (line,) = (line for line in end.output.splitlines() if line.startswith("biaslab: error:"))
    return line


class Kill(NamedTuple):
    """When an attempt was killed, how many shards there were before, and how many after."""

    ranks: int
    seconds: float
    before: int
    after: int


def test_killed_at_random_moments_with_one_to_three_ranks(nursery, model, undisturbed, tmp_path, tmp_path_factory):
    """The same command again and again, until it has been killed often enough; then it ends by itself."""
    seconds = {1: undisturbed.seconds}
    for ranks in (2, 3):
        seconds[ranks] = nursery.run(tmp_path_factory.mktemp("undisturbed"), model, ranks=ranks).seconds
    choose, numbers, ended = random.Random(0), cycle(RANKS), 0
    kills: list[Kill] = []
    while not enough(kills):
        ranks, before = next(numbers), len(shards(tmp_path))
        moment = choose.uniform(0, seconds[ranks])
        end = nursery.run(tmp_path, model, ranks=ranks, until=lambda seconds, moment=moment: seconds > moment)
        if -signal.SIGKILL in end.codes:
            kills.append(Kill(ranks, round(moment, 3), before, len(shards(tmp_path))))
        else:
            assert set(end.codes) == {0}, f"{kills}, then {end}"
            ended += 1
        assert len(list(tmp_path.glob("runs/attribute/*/shards"))) <= 1, f"not in the same folder: {kills}, then {end}"
    end = nursery.run(tmp_path, model)
    assert end.codes == [0], f"{kills}, then {end}"
    assert not shards(tmp_path)
    finished = [path.parent for path in tmp_path.glob("runs/attribute/*/neurons.json")]
    assert len(finished) > ended
    for run in finished:
        assert results(run) == undisturbed.files, f"{run.name}: {kills}"


def enough(kills: list[Kill]) -> bool:
    """Return whether there were enough kills, and enough of them in the middle of the work."""
    assert len(kills) < 5 * KILLS, f"they all hit the start or the end: {kills}"
    middle = [kill.ranks > 1 for kill in kills if kill.before < kill.after]
    return len(kills) >= KILLS and middle.count(False) >= 4 and middle.count(True) >= 1


def test_ranks_of_the_usual_launcher_are_killed(nursery, model, undisturbed, tmp_path):
    """Two processes, of which Lightning starts the second."""
    command = [*COMMAND, "--model.model_name", str(model), "--trainer.devices", "2"]
    with open(tmp_path / "launcher.txt", "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "biaslab", *command],
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        wait_until(lambda: len(shards(tmp_path)) >= 3 or process.poll() is not None)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, (tmp_path / "launcher.txt").read_text()
    wait_until(lambda: not is_alive(process.pid))
    end = nursery.run(tmp_path, model, ranks=3)
    assert set(end.codes) == {0}, end.output
    assert "Resuming in runs/attribute/version_0: " in end.output
    assert results(tmp_path / "runs/attribute/version_0") == undisturbed.files


def wait_until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 60
    while not condition() and time.monotonic() < ends:
        time.sleep(0.005)


def is_alive(group: int) -> bool:
    with suppress(ProcessLookupError):
        os.killpg(group, 0)
        return True
    return False


def test_damaged_shards_are_named_and_done_again(nursery, model, undisturbed, tmp_path):
    nursery.run(tmp_path, model, until=lambda seconds: len(shards(tmp_path)) >= 4)
    cut, flipped, *others = shards(tmp_path)
    cut.write_bytes(cut.read_bytes()[:-7])
    content = bytearray(flipped.read_bytes())
    content[-20] ^= 1
    flipped.write_bytes(content)
    end = nursery.run(tmp_path, model)
    assert end.codes == [0], end.output
    assert f"{cut.name} is corrupt (truncated, or no safetensors file); recomputing its 1 items" in end.output
    assert f"{flipped.name} is corrupt (checksum mismatch); recomputing its 1 items" in end.output
    assert end.output.count("is corrupt") == 2
    assert f"Resuming in runs/attribute/version_0: {len(others)} of " in end.output
    assert results(tmp_path / "runs/attribute/version_0") == undisturbed.files


MINE = ["--trainer.logger.version", "mine"]


def test_a_folder_of_another_configuration_is_refused(nursery, model, undisturbed, tmp_path):
    nursery.run(tmp_path, model, *MINE, until=lambda seconds: len(shards(tmp_path)) >= 2)
    run = tmp_path / "runs/attribute/mine"
    before = contents(run, "[!e]*")
    end = nursery.run(tmp_path, model, *MINE, "--model.steps", "3")
    assert "mine/shards belongs to another one: model.steps is 2 there and 3 here. Choose" in error_of(end)
    assert contents(run, "[!e]*") == before
    end = nursery.run(tmp_path, model, *MINE)
    assert end.codes == [0], end.output
    assert "Resuming in runs/attribute/mine: " in end.output
    assert results(run) == undisturbed.files


def test_a_folder_of_a_finished_run_is_refused(nursery, model, undisturbed, tmp_path):
    run = tmp_path / "runs/attribute/mine"
    run.mkdir(parents=True)
    for name, content in undisturbed.files.items():
        (run / name).write_bytes(content)
    end = nursery.run(tmp_path, model, *MINE)
    assert "`version` is expected to name a folder for a new run, but runs/attribute/mine holds a f" in error_of(end)
    assert results(run) == undisturbed.files
    assert not shards(tmp_path)


def test_a_refused_folder_gets_no_file(nursery, model, tmp_path):
    run = tmp_path / "runs/attribute/mine"
    run.mkdir(parents=True)
    (run / "neurons.json").touch()
    error_of(nursery.run(tmp_path, model, *MINE))
    assert os.listdir(run) == ["neurons.json"]


@pytest.mark.parametrize(("send", "ranks"), [(signal.SIGINT, 1), (signal.SIGTERM, 1), (signal.SIGINT, 2)])
def test_a_stopped_run_says_how_to_go_on(nursery, model, undisturbed, tmp_path, send, ranks):
    stopped: list[float] = []

    def until(seconds: float) -> bool:
        if due := len(shards(tmp_path)) >= 3:
            stopped.append(seconds)
        return due

    end = nursery.run(tmp_path, model, ranks=ranks, until=until, send=send)
    assert end.seconds - stopped[0] < 2
    assert len(end.codes) == ranks
    assert 0 not in end.codes
    assert "Traceback" not in end.output, end.output
    said = re.search(
        r"^Stopped after (\d+) of (\d+) batches, kept in runs/attribute/version_0. Run the same command to resume.$",
        end.output,
        re.MULTILINE,
    )
    assert said, end.output
    done, batches = map(int, said.groups())
    assert 3 <= done <= len(shards(tmp_path)) < batches
    end = nursery.run(tmp_path, model, ranks=ranks)
    assert set(end.codes) == {0}, end.output
    assert "Resuming in runs/attribute/version_0: " in end.output
    assert results(tmp_path / "runs/attribute/version_0") == undisturbed.files


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], object]]:
    """Mount a disk of 100 KiB where the runs go; call it with another size."""

    def mount(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["mount", *options], capture_output=True, text=True)

    (tmp_path / "runs").mkdir()
    try:
        done = mount("-t", "tmpfs", "-o", "size=100k", "none", str(tmp_path / "runs"))
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if done.returncode:
        pytest.skip(f"can't mount: {done.stderr.strip()}")
    yield lambda size: mount("-o", f"remount,size={size}k", str(tmp_path / "runs")).check_returncode()
    subprocess.run(["umount", "-l", str(tmp_path / "runs")], check=True)


def test_a_full_disk_is_one_line_and_with_room_the_same_command_goes_on(
    nursery, model, undisturbed, tmp_path, small_disk
):
    line = error_of(nursery.run(tmp_path, model))
    assert re.search(r"version_0/shards/shard-\d+-\w+\.safetensors can't be written: No space left on device\.", line)
    kept = contents(tmp_path, "shard-*")
    assert len(kept) >= 4
    assert not contents(tmp_path, "*.tmp")
    small_disk(4096)
    end = nursery.run(tmp_path, model)
    assert end.codes == [0], end.output
    assert f"Resuming in runs/attribute/version_0: {len(kept)} of " in end.output
    assert "is corrupt" not in end.output
    assert results(tmp_path / "runs/attribute/version_0") == undisturbed.files


def test_a_disk_that_is_full_from_the_start_is_one_line(nursery, model, tmp_path, small_disk):
    with suppress(OSError), open(tmp_path / "runs" / "filling", "wb", buffering=0) as file:
        file.write(bytes(200 * 1024))
    assert "No space left on device" in error_of(nursery.run(tmp_path, model))


def test_scores_that_are_not_finite_stop_the_run_and_a_prompt_is_named(nursery, tmp_path):
    model = save_model(tmp_path / "model", nan_at=22)
    line = error_of(nursery.run(tmp_path, model))
    assert re.search(
        r"2 prompts of a batch have NaN or infinite ones, the first: '\[CLS\] .* people in this town share is \[MASK\]",
        line,
    )
    assert len(shards(tmp_path)) > 10  # of the batches before, whose prompts are shorter
