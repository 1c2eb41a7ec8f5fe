from pathlib import Path

import pytest
from nursery import save_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model."""
    return save_model(tmp_path_factory.mktemp("model"))
