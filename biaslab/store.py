"""Persistent state: atomic files, locks, and artifacts that are named by everything they depend on."""

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

if TYPE_CHECKING:  # torch is imported only where needed: reading and reporting results works without it
    from torch import Tensor


_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)  # errors of file systems without locks


def acquired(path: Path) -> FileLock | None:
    """Return a lock that is held until it is released or the process ends; None if another process holds it.

    A file system without locks cannot tell; the lock is then returned.
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
    """Lock a folder for the block, so that no other command works on it; the lock ends with the process.

    Raises:
        InputError: if another command is using it.
    """
    with writing(folder):
        lock = acquired(folder.with_name(f".{folder.name}.lock"))
    if lock is None:
        raise InputError(
            f"`output` is expected to be free, but another command is using {folder}. Wait for it to finish, or choose "
            "another folder."
        )
    try:
        yield
    finally:
        lock.release()


def training_in(folder: Path) -> Path:
    """Return the path to lock while a training uses a folder; the command that started it locks the folder itself."""
    return folder.with_name(f"{folder.name}.training")


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file atomically and flush it to disk.

    Raises:
        InputError: if it cannot be written.
    """
    # a unique name, even across machines that share the disk
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        with writing(path):
            with open(temporary, "xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            with suppress(PermissionError):  # Windows cannot open folders
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
    """Turn an ``OSError`` in the block into an ``InputError`` that names the path."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"`folder` is expected to be writable with room for the results, but {path} can't be written: "
            f"{error.strerror or error}. Finished results are kept; free some space and run the same command to resume."
        ) from error


def make_folder(folder: str | Path, exist_ok: bool = False) -> Path:
    """Create a folder for results and its parents; ``exist_ok`` as in ``mkdir``.

    Raises:
        InputError: if it cannot be created.
    """
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=exist_ok)
    except OSError as error:
        raise InputError(
            f"`output` is expected to be a writable folder, but {folder} cannot be created: {error}. Choose another."
        ) from error
    return path


class Artifacts:
    """A folder of artifacts. An artifact's name depends on its inputs, so that an interrupted job can resume.

    If a model is named, its artifacts are in a subfolder with its name.

    Raises:
        InputError: if the folder cannot be created.

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
        """Return the path of an artifact; what it depends on must be JSON-serialisable."""
        return self.folder / f"{name}-{digest(depends_on)}"

    def once(
        self, name: str, depends_on: Mapping[str, Any], job: Callable[[Path], dict[str, Any]]
    ) -> tuple[Path, dict[str, Any]]:
        """Run a job in its own folder unless it is done; return the folder and the facts that the job returned.

        Args:
            name: name of the job.
            depends_on: what its result depends on, besides biaslab's version and code.
            job: called with the folder, which is locked and may contain the files of an interrupted run; the facts
                that it returns are stored there in ``done.json``.

        Raises:
            InputError: if another command is running it.
        """
        folder = self.path(name, {**depends_on, "versions": computed_by()})
        path = folder / "done.json"

        def done() -> dict[str, Any]:
            with suppress(OSError, ValueError, TypeError):
                return dict(json.loads(path.read_text(encoding="utf-8")))
            return {}

        if not (facts := done()):
            with locked(folder):
                if not (facts := done()):  # another command may just have finished
                    facts = job(folder)
                    write_atomically(path, (json.dumps(facts, indent=1) + "\n").encode())
        return folder, facts


def slug(name: str) -> str:
    """Return a file name for a name such as a model's.

    >>> slug("facebook/FairBERTa")
    'facebook--FairBERTa'
    """
    return name.strip("/").replace("/", "--") or "model"


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    result = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(2**20):
            result.update(part)
    return result.hexdigest()


def digest(content: Any) -> str:
    """Return a digest of JSON-serialisable content, 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def save_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON-serialisable facts atomically."""
    import safetensors.torch

    content = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_atomically(path, safetensors.torch.save(content, {"facts": json.dumps(facts)}))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return what :func:`save_tensors` wrote; None if the file is missing or incomplete."""
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
    """Return the package versions and a digest of biaslab's code, so that changed code never reuses old results."""
    root, digest = Path(__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return versions() | {"code": digest.hexdigest()[:12]}


def files_of(names: Any) -> dict[str, str]:
    """Return a digest of each named file, including names in nested lists and mappings.

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
