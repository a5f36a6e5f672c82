"""Remove duplicate tables."""

from alembic import op

revision = "008"
down_revision = "007"

SQL = "DROP TABLE IF EXISTS budgets_old;"


def upgrade() -> None:
    """Apply it."""
    op.execute(SQL)


def downgrade() -> None:
    """The product has no way back either."""
