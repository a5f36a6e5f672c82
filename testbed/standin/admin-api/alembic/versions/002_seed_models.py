"""Seed models."""

from alembic import op

revision = "002"
down_revision = "001"

SQL = """
INSERT INTO models (model_name, provider) VALUES ('gpt-4o-mini', 'openai'), ('claude-3-5-sonnet',
  'anthropic');
"""


def upgrade() -> None:
    """Apply it."""
    op.execute(SQL)


def downgrade() -> None:
    """The product has no way back either."""
