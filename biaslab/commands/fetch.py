"""Downloading an asset by its name."""


def fetch(name: str) -> None:
    """Download a model or data set into the cache, unless it is there, and print its folder.

    Args:
        name: of an asset.
    """
    from biaslab.models import assets

    print(assets.fetch(name))
