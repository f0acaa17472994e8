"""What the ledger stores: tables, their rows as records, and how an older ledger file becomes a current one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import sqlalchemy as sa
from pydantic import Field, model_validator

from dualforce_model.config import Frozen, canonical_json
from tasks.holder import Holder
from tasks.records import Clip, FailureClass, Reason, Span, Stage

REVISIONS = ("0001", "0002", "0003", "0004")  # oldest first; the last is what this release reads and writes
MIGRATIONS = Path(__file__).parent / "migrations"
HINTS = ("frames", "crop", "caption")  # what lists say of a clip beyond its span, all in one column

State = Literal["done", "impossible", "failed"]

metadata = sa.MetaData()

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("run_id", sa.String(200), primary_key=True),
    sa.Column("dataset", sa.String(200), primary_key=True),
    sa.Column("stage", sa.String(20), primary_key=True),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("ended_at", sa.Float),
)

clips = sa.Table(
    "clips",
    metadata,
    sa.Column("dataset", sa.String(200), primary_key=True),
    sa.Column("clip_id", sa.String(80), primary_key=True),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("video_id", sa.String(80), nullable=False),
    sa.Column("location", sa.Text, nullable=False),
    sa.Column("start_s", sa.Float, nullable=False),
    sa.Column("end_s", sa.Float),
    sa.Column("identity", sa.Text),
    sa.Column("licence", sa.Text, nullable=False),
    sa.Column("parent_id", sa.String(80)),
    sa.Column("listed", sa.Boolean, nullable=False, server_default=sa.true()),
    sa.Column("hints", sa.Text),
    sa.Index("clips_by_position", "dataset", "position"),
)

states = sa.Table(
    "states",
    metadata,
    sa.Column("dataset", sa.String(200), primary_key=True),
    sa.Column("clip_id", sa.String(80), primary_key=True),
    sa.Column("stage", sa.String(20), primary_key=True),
    sa.Column("feature", sa.String(80), primary_key=True),
    sa.Column("state", sa.String(20), nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("value", sa.Text, nullable=False),
    sa.Column("reason", sa.String(40)),
    sa.Column("failure", sa.String(40)),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("run_id", sa.String(200), nullable=False),
    sa.Column("updated_at", sa.Float, nullable=False),
    sa.ForeignKeyConstraint(["dataset", "clip_id"], ["clips.dataset", "clips.clip_id"], name="states_of_clips"),
    sa.Index("states_by_stage", "dataset", "stage", "state"),
)

leases = sa.Table(
    "leases",
    metadata,
    sa.Column("dataset", sa.String(200), primary_key=True),
    sa.Column("stage", sa.String(20), primary_key=True),
    sa.Column("fence", sa.BigInteger, nullable=False),
    sa.Column("run_id", sa.String(200), nullable=False),
    sa.Column("host", sa.String(255), nullable=False),
    sa.Column("namespace", sa.String(80), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("since", sa.Float, nullable=False),
    sa.Column("expires_at", sa.Float, nullable=False),
    sa.Column("released", sa.Boolean, nullable=False),
)


class Row(Frozen):
    """What is known of one clip at one stage: the outcome of the latest attempt, and the key it was made under."""

    clip_id: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,79}$")
    stage: Stage
    feature: str = Field("", max_length=80, description="modality within extract; empty at the other stages")
    state: State
    key: str = Field(description="hash of all that the outcome was made from")
    value: dict[str, Any] = Field(
        {}, description="what a done stage has to say: paths, digests, scores; of an impossible clip its thumbnail"
    )
    reason: Reason | None = None
    failure: FailureClass | None = None
    detail: str = Field("", description="what was measured, or the traceback")
    attempts: int = Field(0, ge=0, description="failures charged under this key")
    run_id: str = Field("", max_length=200, description="run that wrote it; empty: the lease's run")
    updated_at: float = Field(0.0, ge=0.0, description="seconds since 1970; 0: when it is recorded")

    @model_validator(mode="after")
    def _one_outcome(self) -> Self:
        if (self.reason is not None) != (self.state == "impossible") or (self.failure is not None) != (
            self.state == "failed"
        ):
            raise ValueError(
                f"{self.clip_id}: a {self.state} row has reason {self.reason} and failure {self.failure}; "
                "exactly the impossible have a reason and exactly the failed a failure class"
            )
        return self


class Holding(Frozen):
    """A lease as the ledger shows it: who works on a stage of a data set."""

    dataset: str
    stage: Stage
    fence: int = Field(ge=1, description="grows at each takeover")
    run_id: str
    holder: Holder
    since: float = Field(description="when it was taken, seconds since 1970")
    expires_at: float = Field(description="when anyone may take it over, seconds since 1970")


class Relisting(Frozen):
    """What a look at a source's list changed."""

    new: int = Field(0, ge=0, description="clips never listed before")
    left: int = Field(0, ge=0, description="clips that the list no longer has")
    returned: int = Field(0, ge=0, description="clips that had left and are back")


def clip_values(dataset: str, position: int, clip: Clip) -> dict[str, Any]:
    """Column values of a clip that is on the list. `hints` is JSON of what a list may say beyond that, or nothing."""
    columns = {"dataset": dataset, "position": position, "listed": True, "hints": _hints(clip)}
    span = {"start_s": clip.span.start_s, "end_s": clip.span.end_s}
    return {**clip.model_dump(exclude={"span", *HINTS}), **span, **columns}


def _hints(clip: Clip) -> str | None:
    found = {name: hint for name, hint in clip.model_dump(include=set(HINTS)).items() if hint is not None}
    return canonical_json(found) if found else None


def clip_of(columns: Mapping[str, Any]) -> Clip:
    """The clip in a table row."""
    names = ("clip_id", "source", "video_id", "location", "identity", "licence", "parent_id")
    span = Span(start_s=columns["start_s"], end_s=columns["end_s"])
    hints = json.loads(columns["hints"]) if columns["hints"] else {}
    return Clip(**{name: columns[name] for name in names}, span=span, **hints)


def row_values(dataset: str, row: Row, run_id: str, now: float) -> dict[str, Any]:
    """Column values of a state row. Zero bytes, which PostgreSQL refuses, become visible marks."""
    return {
        **row.model_dump(mode="json", exclude={"value"}),
        "dataset": dataset,
        "value": canonical_json(row.value),
        "detail": row.detail.replace("\x00", "\ufffd"),
        "run_id": row.run_id or run_id,
        "updated_at": row.updated_at or now,
    }


def row_of(columns: Mapping[str, Any]) -> Row:
    """The record in a table row."""
    names = (name for name in Row.model_fields if name != "value")
    return Row(**{name: columns[name] for name in names}, value=json.loads(columns["value"]))


def holding_of(columns: Mapping[str, Any]) -> Holding:
    """The lease in a table row."""
    holder = Holder(**{name: columns[name] for name in Holder.model_fields})
    return Holding(**{name: columns[name] for name in Holding.model_fields if name != "holder"}, holder=holder)


def upgrade(connection: sa.Connection, target: str = REVISIONS[-1]) -> None:
    """Bring an empty or older database to a revision, inside the caller's transaction."""
    from alembic import command  # takes a quarter of a second, needed once in a database's life
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, target)


def revision_of(connection: sa.Connection) -> str | None:
    """Revision of a database; none for an empty one."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)
