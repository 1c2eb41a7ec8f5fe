from collections.abc import Iterator
from pathlib import Path

import pytest
from nursery import Nursery, save_model


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.process.stdin.close()
    assert nursery.process.wait(timeout=60) == 0


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model."""
    return save_model(tmp_path_factory.mktemp("model"))
