"""Add licenses."""

from alembic import op

revision = "026"
down_revision = "025"

SQL = """
CREATE TABLE IF NOT EXISTS licenses (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), license_key text NOT NULL,
  customer_id text NOT NULL, customer_email text NOT NULL, company text,
  tier text NOT NULL CHECK (tier IN ('trial', 'team', 'business', 'enterprise')),
  issued_at timestamptz NOT NULL, expires_at timestamptz NOT NULL, features jsonb NOT NULL DEFAULT '{}',
  is_active boolean NOT NULL DEFAULT true, activated_by text, created_at timestamptz DEFAULT current_timestamp);
CREATE INDEX IF NOT EXISTS idx_licenses_active_expires ON licenses (is_active, expires_at DESC);
CREATE UNIQUE INDEX IF NOT EXISTS idx_licenses_key_unique ON licenses (license_key);
"""


def upgrade() -> None:
    """Apply it."""
    op.execute(SQL)


def downgrade() -> None:
    """The product has no way back either."""
