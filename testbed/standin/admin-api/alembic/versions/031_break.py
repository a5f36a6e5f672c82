"""Break."""

from alembic import op

revision = "031"
down_revision = "030"

SQL = """
ALTER TABLE request_logs ADD COLUMN broken int;
UPDATE no_such_table SET x = 1;
"""


def upgrade() -> None:
    """Apply it."""
    op.execute(SQL)


def downgrade() -> None:
    """The product has no way back either."""
