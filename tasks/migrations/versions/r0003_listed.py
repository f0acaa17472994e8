"""Whether a clip is on its source's list still: what leaves the list is kept, and left out."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add a column; all clips known so far count as listed."""
    op.add_column("clips", sa.Column("listed", sa.Boolean, nullable=False, server_default=sa.true()))
