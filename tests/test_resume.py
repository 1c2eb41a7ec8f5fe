"""A run that is killed, stopped or out of room goes on, and ends with the same bytes as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

CONFIGS = Path(__file__).parents[1] / "configs"
KILLS = 24
WORDS = ["--data.dimensions", "[gender, age]", "--data.modifiers", "1", "--data.contrast", "null"]
OFTEN = ["--data.tokens_per_batch", "32", "--model.save_every", "0"]  # many batches, a shard after each

# Has all imports behind it, and forks a fresh child for each rank of each attempt: starting one costs nothing.
NURSERY = """
import gc, json, os, sys
import torch, torch.utils.tensorboard, transformers.models.bert.modeling_bert
import biaslab.cli
from biaslab.__main__ import main

torch.set_num_threads(1)
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
    """How an attempt ended: the exit codes of its ranks (minus the signal's number), what it printed, when."""

    codes: list[int]
    output: str
    seconds: float


class Nursery:
    def __init__(self) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_CBWR": "AUTO,STRICT"}
        command = [sys.executable, "-W", "ignore", "-c", NURSERY]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True, text=True
        )

    def run(
        self,
        folder: Path,
        *arguments: str,
        ranks: int = 1,
        until: Callable[[float], bool] = lambda seconds: False,
        send: signal.Signals = signal.SIGKILL,
    ) -> End:
        """Run `biaslab predict` in the folder; once ``until(seconds)`` is true, send its process group a signal."""
        output = folder / "output.txt"
        output.unlink(missing_ok=True)
        attempt = {
            "arguments": ["predict", *arguments, "--trainer.devices", str(ranks)],
            "ranks": ranks,
            "port": free_port(),
            "folder": str(folder),
            "output": str(output),
        }
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(attempt) + "\n")
        self.process.stdin.flush()
        group, started, sent = int(self.process.stdout.readline()), time.monotonic(), False
        os.set_blocking(self.process.stdout.fileno(), False)
        while not (line := self.process.stdout.readline()):
            seconds = time.monotonic() - started
            if not sent and until(seconds):
                os.killpg(group, send)
                sent = True
            if seconds > 120:
                os.killpg(group, signal.SIGKILL)
            time.sleep(0.002)
        os.set_blocking(self.process.stdout.fileno(), True)
        return End([int(code) for code in line.split()], output.read_text(), time.monotonic() - started)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
