"""Add ab tests."""

from alembic import op

revision = "018"
down_revision = "017"

SQL = """
CREATE TABLE IF NOT EXISTS ab_tests (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name varchar(255), data
  jsonb DEFAULT '{}', created_at timestamptz DEFAULT current_timestamp);
"""


def upgrade() -> None:
    """Apply it."""
    op.execute(SQL)


def downgrade() -> None:
    """The product has no way back either."""
