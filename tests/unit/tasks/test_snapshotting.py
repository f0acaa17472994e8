"""Snapshots as commands ask for them."""

from pathlib import Path

import pytest

from tasks.ledger import LedgerError
from tasks.snapshotting import collect


def test_what_a_ledger_that_is_not_there_names_cannot_be_known(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    with pytest.raises(LedgerError, match="there is none; check the URL"):
        collect(str(tmp_path / "store"), (f"sqlite:///{tmp_path}/mistyped.db",), delete=True)
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
