"""The event bus, with exactly the channels that the product delivers."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import httpx

KNOWN = ("provider.unhealthy", "budget.exceeded", "sla.violation", "latency.spike")
# pagerduty and email are accepted and stored, and never delivered.
CHANNELS = ("webhook", "slack", "sre_workflow", "pagerduty", "email")
log = logging.getLogger("admin-api.events")


async def emit(pool: Any, event_type: str, payload: dict[str, Any]) -> int:
    """Write to the log and deliver to the active subscriptions; the number of deliveries that were tried."""
    await pool.execute(
        "INSERT INTO event_log (event_type, payload) VALUES ($1, $2::jsonb)", event_type, json.dumps(payload)
    )
    rows = await pool.fetch("SELECT * FROM event_subscriptions WHERE is_active AND event_types ? $1", event_type)
    urls = []
    for row in rows:
        config = json.loads(row["config"])
        url = {"webhook": config.get("url"), "slack": config.get("webhook_url")}.get(row["channel"])
        if url:
            urls.append((url, row["name"]))
    await asyncio.gather(*(_deliver(url, event_type, payload, name) for url, name in urls))
    return len(urls)


async def _deliver(url: str, event_type: str, payload: dict[str, Any], name: str) -> None:
    body = {"event_type": event_type, "payload": payload, "subscription": name}
    try:
        async with httpx.AsyncClient(timeout=10) as client:
            await client.post(url, json=body)
    except httpx.HTTPError as error:
        log.warning("event delivery failed: %s", error)


async def collect(pool: Any) -> None:
    """The collector behind provider.unhealthy: it asks for columns that LiteLLM does not have, and only logs that."""
    try:
        await pool.fetch('SELECT provider, error_count FROM "LiteLLM_SpendLogs" GROUP BY 1')
    except Exception as error:  # the product catches everything here
        log.error("provider health collector: %s", error)
