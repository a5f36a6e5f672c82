"""Seed defaults."""

from alembic import op

revision = "003"
down_revision = "002"

SQL = "INSERT INTO teams (name) VALUES ('default') ON CONFLICT DO NOTHING;"


def upgrade() -> None:
    """Apply it."""
    op.execute(SQL)


def downgrade() -> None:
    """The product has no way back either."""
