"""Add warm machines."""

from alembic import op

revision = "029"
down_revision = "028"

SQL = """
CREATE TABLE IF NOT EXISTS warm_machines (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name varchar(255),
  data jsonb DEFAULT '{}', created_at timestamptz DEFAULT current_timestamp);
"""


def upgrade() -> None:
    """Apply it."""
    op.execute(SQL)


def downgrade() -> None:
    """The product has no way back either."""
