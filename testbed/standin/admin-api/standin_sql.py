"""SQL that the migrations and the service share."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text

HAS_SPEND_LOGS = "SELECT to_regclass('public.\"LiteLLM_SpendLogs\"') IS NOT NULL"
COST_VIEW = """
CREATE OR REPLACE VIEW cost_tracking_daily AS
SELECT date_trunc('day', "startTime")::date AS day, model, sum(spend) AS cost FROM "LiteLLM_SpendLogs" GROUP BY 1, 2
"""


def has_spend_logs(connection: Any) -> bool:
    """Whether LiteLLM has made its table."""
    return bool(connection.execute(text(HAS_SPEND_LOGS)).scalar())
