"""Add audit logs."""

from alembic import op

revision = "011"
down_revision = "010"

SQL = """
CREATE TABLE IF NOT EXISTS audit_logs (id uuid DEFAULT gen_random_uuid() PRIMARY KEY,
  timestamp timestamptz DEFAULT current_timestamp, actor_id varchar(255) NOT NULL, actor_email varchar(255),
  actor_ip varchar(45), org_id uuid, action varchar(100) NOT NULL, resource_type varchar(100) NOT NULL,
  resource_id varchar(255), resource_name varchar(255), changes jsonb DEFAULT '{}', request_metadata jsonb DEFAULT '{}',
  created_at timestamptz DEFAULT current_timestamp);
CREATE INDEX IF NOT EXISTS idx_audit_logs_timestamp ON audit_logs (timestamp DESC);
CREATE INDEX IF NOT EXISTS idx_audit_logs_actor ON audit_logs (actor_id);
CREATE INDEX IF NOT EXISTS idx_audit_logs_org ON audit_logs (org_id);
CREATE INDEX IF NOT EXISTS idx_audit_logs_resource ON audit_logs (resource_type, resource_id);
CREATE INDEX IF NOT EXISTS idx_audit_logs_action ON audit_logs (action);
"""


def upgrade() -> None:
    """Apply it."""
    op.execute(SQL)


def downgrade() -> None:
    """The product has no way back either."""
