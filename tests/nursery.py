"""Processes that cost no start: a nursery forks them with all imports behind it, one a rank, and they may be killed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import NamedTuple

import torch
from conftest import make_model, wordpiece_tokenizer

NURSERY = """
import gc, json, os, signal, sys
import torch, torch.utils.tensorboard, transformers.models.bert.modeling_bert
import biaslab.commands.lightning

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
    ranks, here, port = attempt["ranks"], attempt["ranks"] // attempt["nodes"], attempt["port"]
    os.environ |= {name: str(value) for name, value in {
        "RANK": rank, "LOCAL_RANK": rank % here, "GROUP_RANK": rank // here, "WORLD_SIZE": ranks,
        "LOCAL_WORLD_SIZE": here, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "nursery",
    }.items()}
os.chdir(attempt["folder"])
sys.argv = attempt["arguments"]
exec(attempt["code"])
"""
MAIN = "from biaslab.__main__ import main; main()"


class End(NamedTuple):
    """How an attempt ended: the exit codes of its ranks (a signal's are negative), what it printed, and when."""

    codes: list[int]
    output: str
    seconds: float


class Nursery:
    def __init__(self, preload: str = "", **variables: str) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | variables
        command, pipe = [sys.executable, "-c", f"{preload}\n{NURSERY}"], subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, start_new_session=True)
        self.lines: Queue[bytes] = Queue()
        Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with self.process.stdout as answers:
            for line in answers:
                self.lines.put(line)

    def run(
        self,
        folder: Path,
        arguments: Sequence[object],
        *,
        code: str = MAIN,
        ranks: int = 1,
        nodes: int = 1,
        until: Callable[[float], bool] = lambda seconds: False,
        send: int = signal.SIGKILL,
        limit: float = 60,
    ) -> End:
        """Run code, the program's by default, in the folder; once ``until(seconds)``, send its process group a signal.

        The group is at ``group`` while it runs.
        """
        output = folder / "output.txt"
        output.unlink(missing_ok=True)
        attempt = {"arguments": ["biaslab", *map(str, arguments)], "code": code, "ranks": ranks, "nodes": nodes}
        attempt |= {"port": free_port(), "folder": str(folder), "output": str(output)}
        self.process.stdin.write(json.dumps(attempt).encode() + b"\n")
        self.process.stdin.flush()
        self.group, started, sent = int(self.lines.get(timeout=limit)), time.monotonic(), False
        while True:
            seconds = time.monotonic() - started
            with suppress(Empty):
                codes = self.lines.get(timeout=0.005)
                end = End([int(code) for code in codes.split()], output.read_text(), seconds)
                assert "Warning" not in end.output, end.output
                return end
            try:
                due = not sent and until(seconds)  # of a child that is being killed nothing is asked
            except BaseException:  # the test fails, and leaves no answer behind for the next one
                with suppress(ProcessLookupError):
                    os.killpg(self.group, signal.SIGKILL)
                self.lines.get(timeout=60)
                raise
            if seconds > limit or due:
                os.killpg(self.group, signal.SIGKILL if seconds > limit else send)
                sent = True


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def save_model(folder: Path, nan_at: int | None = None) -> Path:
    """Save a tiny model; with NaN in the embedding of a position, its prompts are spoiled that are longer."""
    tokenizer = wordpiece_tokenizer()
    model = make_model("bert", len(tokenizer))
    if nan_at is not None:
        model.bert.embeddings.position_embeddings.weight[nan_at] = torch.nan
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
