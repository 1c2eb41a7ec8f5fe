"""Download an asset by name."""

import sys


def fetch(name: str) -> None:
    """Download a model or data set to the cache, unless it is there, and print its folder and licence.

    Args:
        name: name of the asset.
    """
    from biaslab.models import assets

    print(assets.fetch(name))
    print(f"Licence: {(assets.DATA | assets.MODELS)[name].licence}", file=sys.stderr)
