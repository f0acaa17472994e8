"""Clips, what is known of each at each stage, and who may write a stage."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the first tables."""
    op.create_table(
        "clips",
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
    )
    op.create_index("clips_by_position", "clips", ["dataset", "position"])
    op.create_table(
        "states",
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
    )
    op.create_table(
        "leases",
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
