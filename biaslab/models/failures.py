"""One-line error messages for broken model files: what is wrong, in which file, and what to do."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from biaslab.errors import InputError

ADAPTER = "adapter_config.json"  # in the folder of a PEFT adapter
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_INDICES = tuple(f"{name}.index.json" for name in _WEIGHTS)
_LFS = b"version https://git-lfs"
_AGAIN = "Copy or download the folder again."


@contextmanager
def loading(model_name: str, source: str, part: str) -> Iterator[None]:
    """Turn any error that transformers raises while loading a model into a one-line ``InputError``.

    Args:
        model_name: the name given by the user.
        source: the folder or hub id to load.
        part: what is loaded: "a model" or "a tokenizer".

    Raises:
        InputError: if loading fails.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # libraries raise OSError, KeyError, RuntimeError, SafetensorError, UnpicklingError
        raise InputError(
            f"`model_name` is expected to be an asset, a folder or a hub id with {part}, but {model_name!r} could not "
            f"be loaded: {_reason(error, Path(source))}"
        ) from error


def require_config(source: str) -> None:
    """Check that a folder has a config.json with a model type; hub ids are not checked.

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
        raise InputError(f"{start} has no `model_type` in its config.json. {_AGAIN}")


def require_weights(source: str) -> None:
    """Check that a folder has all weight files before any is loaded; hub ids are not checked.

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
                raise InputError(f"{start} lacks {missing[0]}, one of its {len(files)} weight files. {_AGAIN}")
            return
    if not any((folder / name).is_file() for name in _WEIGHTS):
        raise InputError(f"{start} has a config.json, but neither {' nor '.join(_WEIGHTS)}{_instead(folder)}.")


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file of a model's folder.

    Raises:
        InputError: if the file cannot be read or contains no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is expected to be JSON but is unreadable or truncated: {error}. {_AGAIN}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} is expected to contain a JSON object but contains a {type(value).__name__}. {_AGAIN}")
    return value


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, with a full stop."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line if line.endswith((".", "!", "?")) else line + "."


def _instead(folder: Path) -> str:
    """Return a hint about what a folder contains instead of a model; "" if there is none."""
    names = sorted(path.name for path in folder.iterdir() if path.name not in _WEIGHTS)
    if not any(folder.iterdir()):
        return " (it is empty)"
    for ending, advice in (
        (".ckpt", "pass a Lightning checkpoint as --ckpt_path"),
        (".gguf", "gguf is supported for assets only; convert it with transformers' save_pretrained"),
        (".safetensors", "rename the weights to model.safetensors"),
        (".bin", "rename the weights to pytorch_model.bin"),
        (".h5", "TensorFlow weights are not supported; convert them"),
        (".msgpack", "Flax weights are not supported; convert them"),
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
        return f"{first_line(error)} Install the package, or choose a checkpoint in another format."
    if "ignore_mismatched_sizes" in text or "size mismatch" in text:
        return f"the sizes of its weights do not match its config.json. {_AGAIN}"
    if "trust_remote_code" in text or "custom code" in text:
        return "it contains Python code that would be run. If you trust it, set `trust_remote_code` to true."
    if "Validation error" in text:
        return f"its config.json has an invalid value: {' '.join(text.split())}. Correct it."
    if "backend tokenizer" in text:
        return "its tokenizer files (tokenizer.json, or the vocabulary) are missing. Copy them from the original model."
    if not folder.is_dir() and isinstance(error, OSError):
        return f"{Path.cwd()} has no such folder, and the hub has no such model or is unreachable: {first_line(error)}"
    if isinstance(error, KeyError):
        return f"{type(error).__name__} {text}: transformers does not know this name. Check its config.json."
    return f"{first_line(error)} Check the name, or give a folder."


def _damaged(folder: Path) -> str:
    """Return which weight file of a folder is unreadable, and why; "" if none is or for a hub id."""
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
            why = "is truncated or corrupt" if path.suffix != ".json" else "is truncated or not JSON"
            return f"{path.name} {why} ({unreadable(error)}). {_AGAIN}"
    return ""


def _open(path: Path) -> None:
    """Read the header of a weight file, or a whole JSON file."""
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            file.keys()
    elif path.suffix == ".bin" and path.name.startswith(("pytorch_model", "adapter_model")):
        torch.load(path, map_location="meta", weights_only=True)
    elif path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))


def unreadable(error: Exception) -> str:
    """Return what is wrong with a file, without torch's advice to load it unsafely."""
    text = " ".join(str(error).split())
    if "Unsupported global" in text or "weights_only" in text:
        return "it is not a tensor file, or contains Python code"
    return first_line(error).split(". ")[0].rstrip(".")
