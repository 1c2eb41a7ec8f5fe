"""Downloading an asset by its name."""

import sys


def fetch(name: str) -> None:
    """Download a model or data set into the cache, unless it is there, and print its folder and its licence.

    Args:
        name: of an asset.
    """
    from biaslab.models import assets

    print(assets.fetch(name))
    print(f"Licence: {(assets.DATA | assets.MODELS)[name].licence}", file=sys.stderr)
