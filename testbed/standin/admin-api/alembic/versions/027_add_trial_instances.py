"""Add trial instances."""

from alembic import op

revision = "027"
down_revision = "026"

SQL = """
CREATE TABLE IF NOT EXISTS trial_instances (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name varchar(255),
  data jsonb DEFAULT '{}', created_at timestamptz DEFAULT current_timestamp);
"""


def upgrade() -> None:
    """Apply it."""
    op.execute(SQL)


def downgrade() -> None:
    """The product has no way back either."""
