"""Add sla monitoring."""

from alembic import op

revision = "017"
down_revision = "016"

SQL = """
CREATE TABLE IF NOT EXISTS provider_health_metrics (id bigserial PRIMARY KEY, provider varchar(100), status
  varchar(50), latency_ms int, checked_at timestamptz DEFAULT current_timestamp);
"""


def upgrade() -> None:
    """Apply it."""
    op.execute(SQL)


def downgrade() -> None:
    """The product has no way back either."""
