"""The Hugging Face hub: single files by hub id, from its cache or the network, and uploads of whole folders."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from biaslab import __version__
from biaslab.errors import InputError
from biaslab.models.assets import hub_reachable

_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<name>[^@]+\.json))?(?:@(?P<revision>[^@\s]+))?")
# weights of every format, and adapters: what an upload does not replace would be loaded in place of it
_STALE = ["*.safetensors", "*.bin", "*.index.json", "*.h5", "*.msgpack", "*.gguf", "adapter_*", "neurons.json"]
_LOG_IN = "Log in with `hf auth login`, or set HF_TOKEN"


class HubFile(NamedTuple):
    """A file in a model repository of the hub."""

    repo: str  # ORG/NAME
    name: str  # its path in the repository
    revision: str | None = None  # a branch, tag or commit; None for the default branch


def hub_file(text: str, default: str) -> HubFile | None:
    """Return the file that a hub id stands for; None for a path on the disk. Existing paths are never hub ids.

    Args:
        text: ``ORG/NAME``, ``ORG/NAME/FILE.json``, either with ``@REVISION`` behind it, or a path.
        default: the file's name where the id names a repository alone.

    >>> hub_file("org/model@v1", "neurons.json")
    HubFile(repo='org/model', name='neurons.json', revision='v1')
    >>> hub_file("./runs/neurons.json", "neurons.json")
    """
    if text.startswith(".") or os.path.exists(text) or not (found := _ID.fullmatch(text)):
        return None
    repo, name = found["repo"], found["name"]
    # a misspelled path within an existing folder, or beside a file, is no hub id
    if (name and os.path.isdir(repo.partition("/")[0])) or repo.endswith(".json"):
        return None
    return HubFile(repo, name or default, found["revision"])


def download(file: HubFile, given: str) -> Path:
    """Return the place of a hub's file in the hub's cache; download it if it is new and the hub can be reached.

    Args:
        file: of the hub.
        given: the user's text, for messages.

    Raises:
        InputError: if it cannot be downloaded and is not in the cache.
    """
    from huggingface_hub import hf_hub_download

    offline = not hub_reachable()
    try:
        return Path(hf_hub_download(file.repo, file.name, revision=file.revision, local_files_only=offline))
    except Exception as error:  # the library's choice: HfHubHTTPError, LocalEntryNotFoundError, httpx's, OSError
        why = _why_not(error, file, offline)
        raise InputError(
            f"`neurons` is expected to be a neuron file or a hub id, but there is no file {given!r} here, and {why}"
        ) from error


def _why_not(error: Exception, file: HubFile, offline: bool) -> str:
    from huggingface_hub import errors

    revision = f" at revision {file.revision!r}" if file.revision else ""
    if isinstance(error, errors.LocalEntryNotFoundError):
        where = "the hub is not reachable (or HF_HUB_OFFLINE is set)" if offline else "the hub did not answer"
        return f"{where}, and its cache has no {file.name} of {file.repo}{revision}. Check the path, or connect."
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{file.repo} on the hub has no revision {file.revision!r}. Check the branch, tag or commit."
    if isinstance(error, errors.EntryNotFoundError):
        return f"{file.repo} on the hub has no {file.name}{revision}. Name its neuron file: {file.repo}/FILE.json."
    if isinstance(error, errors.GatedRepoError):
        return f"{file.repo} on the hub is gated. Request access on its page, and log in with `hf auth login`."
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"the hub has no repository {file.repo}, or it is private. Check the name. {_LOG_IN} for a private one."
    if isinstance(error, errors.HFValidationError):
        return f"{file.repo!r} is not a valid hub id: {_line(error)}"
    return f"{file.name} of {file.repo} could not be downloaded: {_line(error)}"


def require_pushable(repo: str, private: bool, model: str | None = None) -> None:
    """Check, before any long work, all that can be known of an upload: the id, the token, and the repository.

    Args:
        repo: the hub id to upload to, ``ORG/NAME``.
        private: whether the repository is to be private.
        model: the name of the model that the upload is made from, which must not be overwritten.

    Raises:
        InputError: if the upload would fail, or make public what is to be private.
    """
    from huggingface_hub import HfApi, constants, errors, get_token
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    start = f"`push_to_hub` is expected to be a hub id, ORG/NAME, but got {repo!r}"
    try:
        validate_repo_id(repo)
    except errors.HFValidationError as error:
        raise InputError(f"{start}: {_line(error)}") from error
    if repo.count("/") != 1:
        raise InputError(f"{start}. Put your user name or organization in front: ORG/{repo}.")
    if model is not None and repo.lower() == model.lower() and not Path(model).is_dir():
        raise InputError(
            f"`push_to_hub` is expected to differ from `model`, but both are {repo!r}: the upload would overwrite the "
            "original. Choose another name."
        )
    if constants.HF_HUB_OFFLINE:
        raise InputError(f"`push_to_hub` needs the hub, but HF_HUB_OFFLINE is set (got {repo!r}). Unset it.")
    if get_token() is None:
        raise InputError(f"`push_to_hub` needs a token of the hub with write access, but found none. {_LOG_IN}.")
    try:
        _require_write_access(HfApi().whoami())
        if private and not HfApi().repo_info(repo).private:
            raise InputError(
                f"`private` is expected to be left out for a public repository, but {repo} exists and is public. Make "
                "it private in its settings on the hub, or choose another name."
            )
    except errors.RepositoryNotFoundError:
        pass  # it will be created
    except InputError:
        raise
    except Exception as error:  # the library's choice: HfHubHTTPError, httpx's
        if _status(error) != 429:  # the hub limits how often it tells who one is
            raise InputError(f"`push_to_hub` could not reach the repository {repo}: {_refusal(error)}") from error


def _require_write_access(user: dict[str, Any]) -> None:
    """Refuse a token that may only read; what a fine-grained one may do shows when it is used."""
    token = (user.get("auth") or {}).get("accessToken") or {}
    if token.get("role") == "read":
        raise InputError(
            f"`push_to_hub` needs a token with write access, but the token {token.get('displayName', '')!r} of "
            f"{user.get('name')} can only read. {_LOG_IN} to one that can write."
        )


def push(folder: Path, repo: str, private: bool) -> str:
    """Upload a folder as a commit to a repository, which is created if it is new; return the commit's address.

    Weights of an earlier upload, in any format, are removed by the same commit; other files stay.

    Raises:
        InputError: if the hub refuses it, or can't be reached; it says how to upload the folder later.
    """
    from huggingface_hub import HfApi

    hub = HfApi(library_name="biaslab", library_version=__version__)
    message = f"Upload a model made with biaslab {__version__}"
    try:
        hub.create_repo(repo, private=private or None, exist_ok=True)
        commit = hub.upload_folder(repo_id=repo, folder_path=folder, commit_message=message, delete_patterns=_STALE)
    except Exception as error:  # as above
        raise InputError(
            f"`push_to_hub` could not upload to {repo}: {_refusal(error)} The checkpoint is in {folder}; to upload it "
            f"later, run `hf upload {repo} {folder}`."
        ) from error
    return str(commit.commit_url)


def _refusal(error: Exception) -> str:
    """Return why the hub has not done what it was asked to, and what to do."""
    status = _status(error)
    said = getattr(error, "server_message", None)
    said = f" ({_line(said).rstrip('.')})" if said else ""
    if status == 401:
        return f"the hub does not accept the token{said}. {_LOG_IN} to a valid one."
    if status in (403, 404):
        return f"the token has no permission to write there{said}. Use a token with write access to it."
    if status is not None:
        return f"the hub answered with status {status}{said}. Try again later."
    cause = error.__cause__ or error
    if isinstance(cause, OSError) or type(cause).__module__.startswith("http"):  # httpx's of every release
        return f"no answer from the hub ({_line(cause).rstrip('.')}). Check the network and HF_ENDPOINT."
    return _line(cause)


def _status(error: Exception) -> int | None:
    """Return the HTTP status behind an error, or behind its cause: threads of an upload wrap theirs."""
    for each in (error, error.__cause__):
        if (response := getattr(each, "response", None)) is not None:
            return int(response.status_code)
    return None


def _line(error: object) -> str:
    """Return an error's text in one line, with a full stop."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if text.endswith((".", "!", "?")) else f"{text}."
