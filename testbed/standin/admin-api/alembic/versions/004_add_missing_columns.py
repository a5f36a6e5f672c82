"""Add missing columns."""

from alembic import op

revision = "004"
down_revision = "003"

SQL = "ALTER TABLE models ADD COLUMN IF NOT EXISTS description text;"


def upgrade() -> None:
    """Apply it."""
    op.execute(SQL)


def downgrade() -> None:
    """The product has no way back either."""
