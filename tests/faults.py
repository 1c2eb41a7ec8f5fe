"""Commands that break off at the files that they write, as if killed there, and are run again."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from biaslab.store import acquired


class Killed(BaseException):
    """As a kill: nothing catches it."""


def break_off(run: Callable[[], object], files: int, patch: pytest.MonkeyPatch) -> bool:
    """Run, but break off before the next file once so many were written; return whether it broke off."""
    replace, left, locks = os.replace, count(files, -1), []

    def write(*paths):
        if next(left) <= 0:
            raise Killed
        replace(*paths)

    def lock(path: Path):
        locks.append(acquired(path))
        return locks[-1]

    with patch.context() as inner:
        inner.setattr("os.replace", write)
        inner.setattr("biaslab.tasks.shards.acquired", lock)
        with suppress(Killed):
            run()
            return False
    for held in filter(None, locks):  # a process that is killed holds no lock any more
        held.release(force=True)
    return True
