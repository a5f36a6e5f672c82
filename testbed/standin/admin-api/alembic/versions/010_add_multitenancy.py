"""Add multitenancy."""

from alembic import op

revision = "010"
down_revision = "009"

SQL = """
CREATE TABLE IF NOT EXISTS organizations (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name varchar(255) NOT
  NULL, created_at timestamptz DEFAULT current_timestamp);
"""


def upgrade() -> None:
    """Apply it."""
    op.execute(SQL)


def downgrade() -> None:
    """The product has no way back either."""
