"""What can be wrong with a model's files, said in one line: what is wrong, which file, what to do."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from biaslab.errors import InputError

ADAPTER = "adapter_config.json"  # of a PEFT folder
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_INDICES = tuple(f"{name}.index.json" for name in _WEIGHTS)
_LFS = b"version https://git-lfs"
_AGAIN = "Copy or download the folder again."


@contextmanager
def loading(model_name: str, source: str, part: str) -> Iterator[None]:
    """Within the block transformers reads a model; whatever it raises becomes one line for the user.

    Args:
        model_name: as the user gave it.
        source: the folder or hub id that is read.
        part: what is read: "a model" or "a tokenizer".

    Raises:
        InputError: if anything fails.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # a library's choice: OSError, KeyError, RuntimeError, SafetensorError, UnpicklingError
        raise InputError(
            f"`model_name` is expected to be an asset, a folder or a hub id with {part}, but {model_name!r} could not "
            f"be loaded: {_reason(error, Path(source))}"
        ) from error


def require_config(source: str) -> None:
    """Check that a folder has a config, a JSON object with a model type; nothing if it is a hub id.

    Raises:
        InputError: if not.
    """
    if not (folder := Path(source)).is_dir():
        return
    start = f"`model_name` is expected to be a folder with a model, but {str(folder)!r}"
    config = folder / "config.json"
    if not config.is_file():
        raise InputError(f"{start} has no config.json{_instead(folder)}.")
    if not read_object(config).get("model_type"):
        raise InputError(f"{start} has a config.json without `model_type`. {_AGAIN}")


def require_weights(source: str) -> None:
    """Check that a folder has all files of its weights, before any is loaded; nothing if it is a hub id.

    Raises:
        InputError: if one is missing.
    """
    if not (folder := Path(source)).is_dir():
        return
    start = f"`model_name` is expected to be a folder with a model, but {str(folder)!r}"
    for name in _INDICES:
        if (index := folder / name).is_file():
            files = sorted(set(read_object(index).get("weight_map", {}).values()))
            if missing := [file for file in files if not (folder / file).is_file()]:
                raise InputError(f"{start} lacks {missing[0]}, one of its {len(files)} files of weights. {_AGAIN}")
            return
    if not any((folder / name).is_file() for name in _WEIGHTS):
        raise InputError(f"{start} has a config.json, but neither {' nor '.join(_WEIGHTS)}{_instead(folder)}.")


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of a model's folder.

    Raises:
        InputError: if there is none.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is expected to be JSON but can't be read or is cut off: {error}. {_AGAIN}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} is expected to hold a JSON object but holds a {type(value).__name__}. {_AGAIN}")
    return value


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, with a full stop."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line if line.endswith((".", "!", "?")) else line + "."


def _instead(folder: Path) -> str:
    """Say what a folder has in place of a model, where that helps."""
    names = sorted(path.name for path in folder.iterdir() if path.name not in _WEIGHTS)
    if not any(folder.iterdir()):
        return " (it is empty)"
    for ending, advice in (
        (".ckpt", "a Lightning checkpoint is given as --ckpt_path"),
        (".gguf", "gguf is read of the assets only: convert it with transformers' save_pretrained"),
        (".safetensors", "weights have to be named model.safetensors"),
        (".bin", "weights have to be named pytorch_model.bin"),
        (".h5", "weights of TensorFlow can't be read: convert them"),
        (".msgpack", "weights of Flax can't be read: convert them"),
    ):
        if match := [name for name in names if name.endswith(ending)]:
            return f" (it has {match[0]}: {advice})"
    return ""


def _reason(error: Exception, folder: Path) -> str:
    """Return what is wrong, and what to do."""
    text = str(error)
    if damaged := _damaged(folder):
        return damaged
    if isinstance(error, ImportError):
        return f"{first_line(error)} Install the package, or choose a checkpoint that is not in this form."
    if "ignore_mismatched_sizes" in text or "size mismatch" in text:
        return f"its weights have other sizes than its config.json says. {_AGAIN}"
    if "trust_remote_code" in text or "custom code" in text:
        return "it brings its own Python code, which would be run. If you trust it, set `trust_remote_code` to true."
    if "Validation error" in text:
        return f"its config.json has a wrong value: {' '.join(text.split())}. Correct it."
    if "backend tokenizer" in text:
        return "its tokenizer's files (tokenizer.json, or the vocabulary) are missing. Copy them from its origin."
    if not folder.is_dir() and isinstance(error, OSError):
        return f"no such folder is in {Path.cwd()}, and the hub has no such model, or no answer: {first_line(error)}"
    if isinstance(error, KeyError):
        return f"{type(error).__name__} {text}: a name that transformers does not know. Check its config.json."
    return f"{first_line(error)} Check the name, or give a folder."


def _damaged(folder: Path) -> str:
    """Return which of a folder's files of weights can't be read, and why; "" if all can, or it is a hub id."""
    if not folder.is_dir():
        return ""
    for path in sorted(folder.iterdir()):
        if path.suffix not in (".safetensors", ".bin", ".json", ".model"):
            continue
        with path.open("rb") as file:
            if file.read(len(_LFS)) == _LFS:
                return f"{path.name} is a Git LFS pointer, not the file itself. Run `git lfs pull` in the folder."
        try:
            _open(path)
        except Exception as error:  # as above
            why = "is cut off or damaged" if path.suffix != ".json" else "is no JSON, or cut off"
            return f"{path.name} {why} ({unreadable(error)}). {_AGAIN}"
    return ""


def _open(path: Path) -> None:
    """Read the head of a file of weights, or all of a JSON file."""
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            file.keys()
    elif path.suffix == ".bin" and path.name.startswith(("pytorch_model", "adapter_model")):
        torch.load(path, map_location="meta", weights_only=True)
    elif path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))


def unreadable(error: Exception) -> str:
    """Return what is wrong with a file; torch's advice to load it unsafely is not passed on."""
    text = " ".join(str(error).split())
    if "Unsupported global" in text or "weights_only" in text:
        return "it is no file of tensors, or holds Python code"
    return first_line(error).split(". ")[0].rstrip(".")
