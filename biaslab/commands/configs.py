"""The configurations that ship with biaslab, found by name from any folder."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from biaslab.errors import InputError, did_you_mean


def shipped() -> Path:
    """Return the folder of the shipped configurations: in the package, or next to it in a checkout."""
    inside = Path(str(files("biaslab"))) / "configs"
    return inside if inside.is_dir() else inside.parents[1] / "configs"


def names() -> list[str]:
    """Return the sorted names of the shipped configurations."""
    return sorted(path.stem for path in shipped().glob("*.yaml"))


def config_file(name: str, folder: str = "configs") -> Path:
    """Return the path of a configuration: an existing file, or else the one that ships under this name.

    Args:
        name: a path, or a shipped configuration's name, with or without ``configs/`` and ``.yaml``.
        folder: searched before the shipped ones; if it is not the default, it must hold the file.

    Raises:
        InputError: if there is no such configuration.

    >>> config_file("attribute").name, config_file("configs/attribute.yaml").name
    ('attribute.yaml', 'attribute.yaml')
    """
    path, file = Path(name), f"{Path(name).name.removesuffix('.yaml')}.yaml"
    places = [path]
    if path.parent in (Path(), Path("configs")):
        places += [Path(folder) / file] + [shipped() / file] * (folder == "configs")
    if found := next((place for place in places if place.is_file()), None):
        return found
    if folder != "configs":
        raise InputError(
            f"`configs` is expected to be a folder with {file}, but {folder} has no such file. Check the folder."
        )
    raise InputError(
        f"`config` is expected to be a file or a shipped configuration ({', '.join(names())}) but got {name!r}. Check "
        f"the name.{did_you_mean(Path(name).stem, names())}"
    )


def read_config(path: Path) -> dict[str, Any]:
    """Return the contents of a configuration file; empty if it is missing or invalid."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}
