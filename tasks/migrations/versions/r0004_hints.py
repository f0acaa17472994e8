"""What a list says of a clip beyond its span: the same in frames, and where the head is."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add a column; of the clips known so far nothing is known until their list is read again."""
    op.add_column("clips", sa.Column("hints", sa.Text))
