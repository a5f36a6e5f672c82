"""Replace cost tracking with view."""

from alembic import op
from standin_sql import COST_VIEW, has_spend_logs

revision = "007"
down_revision = "006"


def upgrade() -> None:
    """Defensive, as the product's: LiteLLM's table may not be there yet, then admin-api makes the view later."""
    op.execute("DROP TABLE IF EXISTS cost_tracking_daily")
    if has_spend_logs(op.get_bind()):
        op.execute(COST_VIEW)


def downgrade() -> None:
    """The product has no way back either."""
