"""What outlives a process: files written whole or not at all, shards of a long run, results by what they depend on."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from filelock import FileLock, Timeout

from biaslab.errors import InputError

if TYPE_CHECKING:  # torch is imported where it is needed: results are read and reported without it
    from torch import Tensor


_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)  # what file systems without locks answer


def acquired(path: Path) -> FileLock | None:
    """Return a lock that is held until it is released or the process ends; None if another one holds it.

    On a file system without locks it is not known whether one does, and the lock is returned.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    except NotImplementedError:
        pass
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
    return lock


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Within the block, no other command works on a folder; a process that ends, however it ends, gives it free.

    Raises:
        InputError: if another command works on it.
    """
    with writing(folder):
        lock = acquired(folder.with_name(f".{folder.name}.lock"))
    if lock is None:
        raise InputError(
            f"`output` is expected to be free, but another command works in {folder}. Wait for it, or choose another."
        )
    try:
        yield
    finally:
        lock.release()


def training_in(folder: Path) -> Path:
    """Return what is locked while a training works in a folder, beside what the command locks that has started it."""
    return folder.with_name(f"{folder.name}.training")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file, all of it or nothing, and wait until the disk has it.

    Raises:
        InputError: if it can't be written.
    """
    # a name that no other process has, on this machine or another one that shares the disk
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        with writing(path):
            with open(temporary, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            with suppress(PermissionError):  # Windows opens no folders
                folder = os.open(path.parent, os.O_RDONLY)
                try:
                    os.fsync(folder)
                finally:
                    os.close(folder)
    finally:
        with suppress(OSError):
            os.unlink(temporary)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within the block, what can't be written is an InputError that names the path."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"`folder` is expected to be writable with room for the results, but {path} can't be written: "
            f"{error.strerror or error}. What is finished is kept; make room and run the same command to resume."
        ) from error


def make_folder(folder: str | Path, exist_ok: bool = False) -> Path:
    """Make a folder for results, with those that it lies in; ``exist_ok`` as of ``mkdir``.

    Raises:
        InputError: if it can't be made.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=exist_ok)
    except OSError as error:
        message = f"`output` is expected to be a folder that can be written, but {folder} can't: {error}."
        raise InputError(message) from error
    return path


class Artifacts:
    """A folder of artifacts; one that depends on other things has another name, and a killed job finds what is done.

    Those of one model, if it is named, lie in a folder of its name below.

    Raises:
        InputError: if the folder can't be made.

    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     artifacts = Artifacts(folder)
    ...     path = artifacts.path("judged", {"model": "a", "seed": 1})
    ...     save_tensors(path, {"x": torch.ones(1)}, {"seconds": 3})
    ...     load_tensors(path)
    ({'x': tensor([1.])}, {'seconds': 3})
    """

    def __init__(self, folder: str | Path, model_name: str | None = None) -> None:
        self.folder = make_folder(folder if model_name is None else Path(folder, slug(model_name)), exist_ok=True)

    def path(self, name: str, depends_on: Mapping[str, Any]) -> Path:
        """Return where an artifact of a name is, or is to be; JSON can hold what it depends on."""
        return self.folder / f"{name}-{digest(depends_on)}"

    def once(
        self, name: str, depends_on: Mapping[str, Any], job: Callable[[Path], dict[str, Any]]
    ) -> tuple[Path, dict[str, Any]]:
        """Do a job in a folder of its own, unless it was done; return the folder, and the facts that the job returned.

        Args:
            name: of the job.
            depends_on: what it depends on beside biaslab's version and code.
            job: called with the folder, which is locked, and holds what a killed one has left; the facts that it
                returns are kept there, in ``done.json``.

        Raises:
            InputError: if another command does it.
        """
        folder = self.path(name, {**depends_on, "versions": computed_by()})
        path = folder / "done.json"

        def done() -> dict[str, Any]:
            with suppress(OSError, ValueError, TypeError):
                return dict(json.loads(path.read_text(encoding="utf-8")))
            return {}

        if not (facts := done()):
            with locked(folder):
                if not (facts := done()):  # another command may have ended just now
                    facts = job(folder)
                    write_atomically(path, (json.dumps(facts, indent=1) + "\n").encode())
        return folder, facts


def slug(name: str) -> str:
    """Return what names a file or a folder of a name, such as a model's.

    >>> slug("facebook/FairBERTa")
    'facebook--FairBERTa'
    """
    return name.strip("/").replace("/", "--") or "model"


def checksum(path: Path) -> str:
    """Return a file's SHA-256, in hexadecimal digits."""
    result = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            result.update(part)
    return result.hexdigest()


def digest(content: Any) -> str:
    """Return 16 hexadecimal digits that change with the content, which JSON must be able to hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def save_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and what JSON can hold beside them, whole or not at all."""
    import safetensors.torch

    content = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_atomically(path, safetensors.torch.save(content, {"facts": json.dumps(facts)}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return what :func:`save_tensors` wrote; None where there is nothing, or nothing that is whole."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["facts"])  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def versions() -> dict[str, str]:
    """Return the versions of the packages that results depend on."""
    return {name: version(name) for name in ("biaslab", "torch", "transformers", "pytorch-lightning")}


@cache
def computed_by() -> dict[str, str]:
    """Return the versions and a digest of biaslab's own code: other code never takes kept results for its own."""
    root, digest = Path(__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return versions() | {"code": digest.hexdigest()[:12]}


def files_of(names: Any) -> dict[str, str]:
    """Return a digest of the content of each file that is named, within lists and mappings too.

    >>> files_of({"sources": ["bold", None], "limit": 3})
    {}
    """
    if isinstance(names, Mapping):
        names = list(names.values())
    if isinstance(names, list | tuple):
        return {name: content for part in names for name, content in files_of(part).items()}
    if isinstance(names, str) and os.path.isfile(names):
        return {names: checksum(Path(names))[:16]}
    return {}
