"""Add licenses."""

from alembic import op

revision = "026"
down_revision = "025"

SQL = """
CREATE TABLE IF NOT EXISTS licenses (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), license_key text UNIQUE NOT NULL,
  customer_id varchar(255), customer_email varchar(255), company varchar(255), tier varchar(50) NOT NULL,
  issued_at timestamptz, expires_at timestamptz, features jsonb DEFAULT '{}', is_active boolean DEFAULT true,
  activated_by varchar(255), created_at timestamptz DEFAULT current_timestamp);
"""


def upgrade() -> None:
    """Apply it."""
    op.execute(SQL)


def downgrade() -> None:
    """The product has no way back either."""
