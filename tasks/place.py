"""Where a run keeps what it makes: one local folder, one store, one ledger."""

from pathlib import Path

from pydantic import Field

from dualforce_model.config import Frozen


class Place(Frozen):
    """Data set and locations. Everything local is below `home`; nothing else on the machine is written."""

    dataset: str = Field(
        "demo", pattern=r"^[a-z0-9][a-z0-9_-]{0,39}$", description="name of the data set in the ledger"
    )
    home: str = Field("runs/default", min_length=1, description="local folder: downloads, crops, ledger, training runs")
    store: str | None = Field(None, description="fsspec URL of the feature store; none: the folder `store` in home")
    ledger: str | None = Field(
        None, description="SQLAlchemy URL of the ledger; none: the SQLite file ledger.db in home"
    )

    @property
    def folder(self) -> Path:
        """The home folder."""
        return Path(self.home)

    @property
    def media_root(self) -> Path:
        """Raw downloads and crops."""
        return self.folder / "media"

    @property
    def parts_root(self) -> Path:
        """Features of single clips that no shard holds yet; a run of another data set here leaves them alone."""
        return self.folder / "parts" / self.dataset

    @property
    def store_url(self) -> str:
        """URL of the feature store."""
        return self.store or str(self.folder / "store")

    @property
    def ledger_url(self) -> str:
        """URL of the ledger."""
        return self.ledger or f"sqlite:///{self.folder / 'ledger.db'}"
