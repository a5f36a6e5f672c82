"""Add event system."""

from alembic import op

revision = "020"
down_revision = "019"

SQL = """
CREATE TABLE IF NOT EXISTS event_subscriptions (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name varchar(255) NOT NULL,
  event_types jsonb NOT NULL DEFAULT '[]', channel varchar(50) NOT NULL, config jsonb NOT NULL DEFAULT '{}',
  filters jsonb NOT NULL DEFAULT '{}', is_active boolean DEFAULT true, created_at timestamptz DEFAULT current_timestamp);
CREATE TABLE IF NOT EXISTS event_log (id bigserial PRIMARY KEY, event_type varchar(100) NOT NULL,
  payload jsonb DEFAULT '{}', created_at timestamptz DEFAULT current_timestamp);
"""


def upgrade() -> None:
    """Apply it."""
    op.execute(SQL)


def downgrade() -> None:
    """The product has no way back either."""
