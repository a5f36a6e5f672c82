"""Add a2a agents."""

from alembic import op

revision = "009"
down_revision = "008"

SQL = """
CREATE TABLE IF NOT EXISTS a2a_agents (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name varchar(255), url
  text);
"""


def upgrade() -> None:
    """Apply it."""
    op.execute(SQL)


def downgrade() -> None:
    """The product has no way back either."""
