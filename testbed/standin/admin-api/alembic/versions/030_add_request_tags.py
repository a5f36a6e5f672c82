"""Add request tags."""

from alembic import op

revision = "030"
down_revision = "029"

SQL = """
ALTER TABLE request_logs ADD COLUMN IF NOT EXISTS tags jsonb DEFAULT '{}';
CREATE TABLE IF NOT EXISTS request_tags (tag varchar(100) PRIMARY KEY, created_at timestamptz DEFAULT current_timestamp);
"""


def upgrade() -> None:
    """Apply it."""
    op.execute(SQL)


def downgrade() -> None:
    """The product has no way back either."""
