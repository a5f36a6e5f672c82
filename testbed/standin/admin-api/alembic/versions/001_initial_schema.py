"""Initial schema."""

from alembic import op

revision = "001"
down_revision = None

SQL = """
CREATE TABLE IF NOT EXISTS models (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), model_name varchar(255) NOT NULL,
  provider varchar(100), is_active boolean DEFAULT true, created_at timestamptz DEFAULT current_timestamp);
CREATE TABLE IF NOT EXISTS teams (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name varchar(255) UNIQUE NOT NULL,
  monthly_budget numeric(12,2), created_at timestamptz DEFAULT current_timestamp);
CREATE TABLE IF NOT EXISTS budgets (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), entity_type varchar(50),
  entity_id varchar(255), monthly_limit numeric(12,2), created_at timestamptz DEFAULT current_timestamp);
CREATE TABLE IF NOT EXISTS request_logs (id bigserial PRIMARY KEY, model varchar(255), status int, latency_ms int,
  created_at timestamptz DEFAULT current_timestamp);
CREATE TABLE IF NOT EXISTS cost_tracking_daily (day date, model varchar(255), cost numeric(14,6));
"""


def upgrade() -> None:
    """Apply it."""
    op.execute(SQL)


def downgrade() -> None:
    """The product has no way back either."""
