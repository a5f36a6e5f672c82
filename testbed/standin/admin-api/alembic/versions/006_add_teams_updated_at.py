"""Add teams updated at."""

from alembic import op

revision = "006"
down_revision = "005"

SQL = "ALTER TABLE teams ADD COLUMN IF NOT EXISTS updated_at timestamptz DEFAULT current_timestamp;"


def upgrade() -> None:
    """Apply it."""
    op.execute(SQL)


def downgrade() -> None:
    """The product has no way back either."""
