"""Small nets that tests of several packages read."""

from pathlib import Path

import pytest

from tests.tiny_umt5 import save_tiny_umt5


@pytest.fixture(scope="session")
def tiny_umt5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small UMT5; treat it as read-only."""
    pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("tiny_umt5")
    save_tiny_umt5(folder)
    return folder
