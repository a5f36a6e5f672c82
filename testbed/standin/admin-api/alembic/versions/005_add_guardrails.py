"""Add guardrails."""

from alembic import op

revision = "005"
down_revision = "004"

SQL = """
CREATE TABLE IF NOT EXISTS guardrails (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name varchar(255),
  config jsonb DEFAULT '{}');
"""


def upgrade() -> None:
    """Apply it."""
    op.execute(SQL)


def downgrade() -> None:
    """The product has no way back either."""
