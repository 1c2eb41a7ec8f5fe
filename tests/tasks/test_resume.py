"""A run that is killed, stopped or out of room goes on, and ends with the same bytes as if nothing had happened."""

from __future__ import annotations

import gc
import os
import random
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import count, cycle
from pathlib import Path
from typing import NamedTuple

import conftest
import pytest
from nursery import End, Nursery, free_port, save_model
from pytorch_lightning.loggers import CSVLogger

from biaslab.data.prompts import PromptDataModule
from biaslab.errors import InputError
from biaslab.tasks.attribution import Attribution
from biaslab.tasks.base import single_trainer

KILLS = 8  # at least
RANKS = (1, 2, 1, 1)  # of the attempts, again and again
COMMAND = [
    "predict", "-c", "attribute", "--model.selection", "ranked", "--model.source", "prompts", "--model.steps", "2",
    "--data.dimensions", "[gender, age]", "--data.pairs", "{age: [[young, old], [old, olds]]}",  # two tokens: old ##s
    "--data.modifiers", "1", "--data.contrast", "null",
    "--data.tokens_per_batch", "64", "--model.save_every", "0",  # 22 batches, a shard after each
    "--trainer.accelerator", "cpu", "--trainer.strategy", "ddp", "--trainer.enable_progress_bar", "false",
]  # fmt: skip
MINE = ["--trainer.logger.version", "mine"]


@pytest.fixture(scope="module")
def run(nursery: Nursery, tiny: Path) -> Callable[..., End]:
    """Run the command in a folder, in the nursery."""

    def run(folder: Path, *more: str, ranks: int = 1, model: Path = tiny, **options) -> End:
        return nursery.run(folder, [*command(model, ranks), *more], ranks=ranks, **options)

    return run


def command(model: Path, ranks: int = 1) -> list[str]:
    return [*COMMAND, "--model.model_name", str(model), "--trainer.devices", str(ranks)]


class Undisturbed(NamedTuple):
    files: dict[str, bytes]
    seconds: float


@pytest.fixture(scope="module")
def undisturbed(run: Callable[..., End], tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("undisturbed")
    end = run(folder)
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


def test_killed_again_and_again_with_one_and_two_ranks(run, undisturbed, tmp_path):
    """Real kills: of every third attempt at a random moment, of the others when they have done some work."""
    choose, kills = random.Random(0), []
    for number, ranks in enumerate(cycle(RANKS)):
        before, work = len(shards(tmp_path)), choose.choice((1, 2, 3))
        moment = choose.uniform(0, undisturbed.seconds) if number % 3 == 0 else None

        def until(seconds: float, before=before, work=work, moment=moment) -> bool:
            return len(shards(tmp_path)) >= before + work if moment is None else seconds > moment

        end = run(tmp_path, ranks=ranks, until=until)
        if -signal.SIGKILL in end.codes:
            kills.append((ranks, before < len(shards(tmp_path))))
        else:
            assert set(end.codes) == {0}, f"{kills}, then {end}"
        assert len(list(tmp_path.glob("runs/attribute/*/shards"))) <= 1, f"not in the same folder: {kills}, then {end}"
        if len(kills) >= KILLS and kills.count((1, True)) >= 3 and kills.count((2, True)) >= 2:
            break
        assert number < 4 * KILLS, f"they all hit the start or the end: {kills}"
    end = run(tmp_path)
    assert end.codes == [0], f"{kills}, then {end}"
    assert not shards(tmp_path)
    for finished in tmp_path.glob("runs/attribute/*/neurons.json"):
        assert results(finished.parent) == undisturbed.files, f"{finished.parent.name}: {kills}"


def test_the_usual_launchers(tiny, undisturbed, tmp_path):
    """Two processes, of which Lightning starts the second, are killed; two nodes of torchrun go on."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with open(tmp_path / "launcher.txt", "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "biaslab", *command(tiny, ranks=2)],
            cwd=tmp_path, env=environment, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
        wait_until(lambda: len(shards(tmp_path)) >= 3 or process.poll() is not None)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, (tmp_path / "launcher.txt").read_text()
    wait_until(lambda: not is_alive(process.pid))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc_per_node", "1"]
    torchrun += ["--master_addr", "127.0.0.1", "--master_port", str(free_port())]
    nodes = [
        subprocess.Popen(
            [*torchrun, "--node_rank", str(node), "-m", "biaslab", *command(tiny), "--trainer.num_nodes", "2"],
            cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for node in range(2)
    ]  # fmt: skip
    try:
        outputs = [node.communicate(timeout=120)[0] for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert "Warning" not in "".join(outputs), outputs
    assert "Resuming in runs/attribute/version_0: " in outputs[0]
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


class Killed(BaseException):
    """What a kill is to the process: nothing after it is done, not even what ``finally`` asks for."""


class Faults:
    """Fails at the k-th of the calls that change the disk: once. If killed, also in computing, and from then on."""

    CALLS = ("mkdir", "fsync", "replace", "unlink", "rmdir")

    def __init__(self, patch: pytest.MonkeyPatch, error: Callable[[], BaseException], names=CALLS) -> None:
        self.error, self.at, self.calls, self.fsync = error, -1, 0, os.fsync
        for name in names:
            patch.setattr(os, name, self._faulty(getattr(os, name)))
        if error is Killed:
            for name in ("attribute", "_collect"):
                patch.setattr(Attribution, name, self._faulty(getattr(Attribution, name)))

    def _faulty(self, real: Callable) -> Callable:
        def call(*arguments, **options):
            self.calls += 1
            if self.calls == self.at or (self.error is Killed and 0 < self.at < self.calls):
                if self.error is Killed and real is self.fsync and stat.S_ISREG(os.fstat(arguments[0]).st_mode):
                    os.ftruncate(arguments[0], os.fstat(arguments[0]).st_size // 2)  # what isn't synced may be lost
                raise self.error()
            return real(*arguments, **options)

        return call


@pytest.fixture
def small_run(tiny, tmp_path) -> Iterator[Callable[[str], Path]]:
    """Run four batches in this process, in a folder of that name."""
    task = Attribution(str(tiny), steps=1, gap="signed", save_every=0)
    gc.collect()
    gc.freeze()

    def small_run(name: str) -> Path:
        logger = CSVLogger(tmp_path, name=name, version="run")
        data = PromptDataModule(str(tiny), ["gender"], kinds=["negative"], modifiers=1, tokens_per_batch=96)
        task.ledger = None
        gc.collect()  # the lock of a killed run goes with its process
        single_trainer(logger).predict(task, data, return_predictions=False)
        return tmp_path / name / "run"

    yield small_run
    gc.unfreeze()


@pytest.mark.filterwarnings("ignore:Experiment logs directory", "ignore:predict returned None")  # of a run that goes on
@pytest.mark.parametrize(
    "error", [Killed, partial(OSError, 28, "No space left on device")], ids=["killed", "full disk"]
)
def test_a_fault_at_every_call(small_run, monkeypatch, error):
    """Whatever was the last thing that a process did, the next one ends with the same bytes and leaves nothing else."""
    whole = small_run("undisturbed")
    expected, names = results(whole), sorted(path.name for path in whole.iterdir())
    faults = Faults(monkeypatch, error, Faults.CALLS if error is Killed else ("fsync", "replace"))
    for at in count(1):
        faults.calls, faults.at = 0, at
        with suppress(Killed, InputError):
            small_run(str(at))
        fired, faults.at = faults.calls >= at, -1
        if not fired:
            break
        run = whole.parents[1] / str(at) / "run"
        if (run / "shards").exists() or not (run / "neurons.json").exists():  # else it was done with all
            assert small_run(str(at)) == run
        assert results(run) == expected, at
        assert sorted(path.name for path in run.iterdir() if not path.name.endswith(".tmp")) == names, at
    patched = (
        45 if sys.version_info >= (3, 11) else 35
    )  # before 3.11, pathlib keeps os.mkdir and os.unlink of its import
    assert at > (patched if error is Killed else 20)


def test_damaged_shards_are_named_and_done_again(run, undisturbed, tmp_path):
    run(tmp_path, until=lambda seconds: len(shards(tmp_path)) >= 4)
    cut, flipped, *others = shards(tmp_path)
    cut.write_bytes(cut.read_bytes()[:-7])
    content = bytearray(flipped.read_bytes())
    content[-20] ^= 1
    flipped.write_bytes(content)
    end = run(tmp_path)
    assert end.codes == [0], end.output
    assert f"{cut.name} is corrupt (truncated or not a safetensors file); recomputing 1 item" in end.output
    assert f"{flipped.name} is corrupt (checksum mismatch); recomputing 1 item" in end.output
    assert end.output.count("is corrupt") == 2
    assert f"Resuming in runs/attribute/version_0: {len(others)} of " in end.output
    assert results(tmp_path / "runs/attribute/version_0") == undisturbed.files


def test_a_folder_of_another_configuration_is_refused(run, undisturbed, tmp_path):
    run(tmp_path, *MINE, until=lambda seconds: len(shards(tmp_path)) >= 2)
    folder = tmp_path / "runs/attribute/mine"
    before = contents(folder, "[!e]*")
    end = run(tmp_path, *MINE, "--model.steps", "3")
    assert "mine/shards belongs to another configuration: model.steps is 2 there and 3 here. Use" in error_of(end)
    assert contents(folder, "[!e]*") == before
    end = run(tmp_path, *MINE)
    assert end.codes == [0], end.output
    assert "Resuming in runs/attribute/mine: " in end.output
    assert results(folder) == undisturbed.files


def test_two_at_once(run, nursery, tiny, undisturbed, tmp_path, monkeypatch, capsys):
    """While one works, a second in its folder is refused, and one that may choose takes another; none harms it."""
    monkeypatch.chdir(tmp_path)
    refused: list[int] = []

    def second(*more: str) -> None:
        conftest.main([*command(tiny), "--trainer.strategy", "auto", *more])

    def until(seconds: float) -> bool:
        if len(shards(tmp_path)) >= 2 and not refused:
            os.killpg(nursery.group, signal.SIGSTOP)
            before = contents(tmp_path, "shard-*")
            with pytest.raises(SystemExit) as caught:
                second("--trainer.logger.version", "0")
            refused.append(caught.value.code)
            second()
            assert contents(tmp_path / "runs/attribute/version_0", "shard-*") == before
            os.killpg(nursery.group, signal.SIGCONT)
        return False

    end = run(tmp_path, until=until)
    assert (end.codes, refused) == ([0], [2]), end.output
    assert "no other run uses but another run is using runs/attribute/version_0. Wait" in capsys.readouterr().err
    for name in ("version_0", "version_1"):
        assert results(tmp_path / "runs/attribute" / name) == undisturbed.files


def test_a_folder_of_a_finished_run_is_refused(run, undisturbed, tmp_path):
    folder = tmp_path / "runs/attribute/mine"
    folder.mkdir(parents=True)
    for name, content in undisturbed.files.items():
        (folder / name).write_bytes(content)
    end = run(tmp_path, *MINE)
    assert "`version` is expected to name a folder for a new run but runs/attribute/mine holds a f" in error_of(end)
    assert results(folder) == undisturbed.files
    assert not shards(tmp_path)


def test_a_refused_folder_gets_no_file(run, tmp_path):
    folder = tmp_path / "runs/attribute/mine"
    folder.mkdir(parents=True)
    (folder / "neurons.json").touch()
    error_of(run(tmp_path, *MINE))
    assert os.listdir(folder) == ["neurons.json"]


@pytest.mark.parametrize(("send", "ranks"), [(signal.SIGINT, 1), (signal.SIGTERM, 1), (signal.SIGINT, 2)])
def test_a_stopped_run_says_how_to_go_on(run, undisturbed, tmp_path, send, ranks):
    stopped: list[float] = []

    def until(seconds: float) -> bool:
        if due := len(shards(tmp_path)) >= 3:
            stopped.append(seconds)
        return due

    end = run(tmp_path, ranks=ranks, until=until, send=send)
    assert end.seconds - stopped[0] < 2
    assert len(end.codes) == ranks
    assert 0 not in end.codes
    assert "Traceback" not in end.output, end.output
    said = re.search(
        r"^Stopped after (\d+) of (\d+) batches, saved in runs/attribute/version_0. Run the same command to resume.$",
        end.output,
        re.MULTILINE,
    )
    assert said, end.output
    done, batches = map(int, said.groups())
    assert 3 <= done <= len(shards(tmp_path)) < batches
    end = run(tmp_path, ranks=ranks)
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


def test_a_full_disk_is_one_line_and_with_room_the_same_command_goes_on(run, undisturbed, tmp_path, small_disk):
    line = error_of(run(tmp_path))
    assert re.search(r"version_0/shards/shard-\d+-\w+\.safetensors can't be written: No space left on device\.", line)
    kept = contents(tmp_path, "shard-*")
    assert len(kept) >= 4
    assert not contents(tmp_path, "*.tmp")
    small_disk(4096)
    end = run(tmp_path)
    assert end.codes == [0], end.output
    assert f"Resuming in runs/attribute/version_0: {len(kept)} of " in end.output
    assert "is corrupt" not in end.output
    assert results(tmp_path / "runs/attribute/version_0") == undisturbed.files


def test_a_disk_that_is_full_from_the_start_is_one_line(run, tmp_path, small_disk):
    with suppress(OSError), open(tmp_path / "runs" / "filling", "wb", buffering=0) as file:
        file.write(bytes(200 * 1024))
    assert "No space left on device" in error_of(run(tmp_path))


def test_scores_that_are_not_finite_stop_the_run_and_a_prompt_is_named(run, tmp_path):
    line = error_of(run(tmp_path, model=save_model(tmp_path / "model", nan_at=22)))
    assert re.search(
        r"2 prompts of a batch have NaN or infinite ones, the first is '"
        r"\[CLS\] .* people in this town share is \[MASK\]",
        line,
    )
    assert len(shards(tmp_path)) > 10  # of the batches before, whose prompts are shorter
