# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The licence's watch: metrics at each run, and one message for each step on the way to the end.

It does not rely on the vendor's mail: 30, 14, 7 and 1 days before the licence expires and after it, each once.
"""

from __future__ import annotations

import json
import os
import time
from typing import Any

from . import licence, metrics, notify
from .files import read_text, write_file
from .installation import Installation

STEPS = (30, 14, 7, 1)
EXPIRED = "expired"
_STATE = "licence-watch.json"


def step(days_remaining: float | None) -> str:
    """Which warning is due: `30`, `14`, `7`, `1` (days), `expired`, or nothing."""
    if days_remaining is None:
        return ""
    if days_remaining <= 0:
        return EXPIRED
    due = [days for days in STEPS if days_remaining <= days]
    return str(min(due)) if due else ""


def watch(installation: Installation, directory: str, timeout: float = 30) -> dict[str, Any]:
    """One run of the job.

    Args:
        directory: where the metrics go.

    Returns:
        `ok`, `status` (as `licence.status`), `warning` (the step that is due), `told` (whether this run said so),
        `metrics` (path).

    Raises:
        ScutumError: a message could not be delivered; the metrics are written all the same.
    """
    found = licence.status(installation, timeout=timeout)
    due = step(found["days_remaining"] if found["expires_at"] else _days(found["table"]["expires_at"]))
    path = metrics.write(directory, "scutum_license", gauges(found))
    told = _tell_once(installation, found, due) if due else False
    return {
        "ok": due != EXPIRED and found["consistent"],
        "status": found,
        "warning": due,
        "told": told,
        "metrics": path,
    }


def _days(expires_at: str | None) -> float | None:
    if not expires_at:
        return None
    return round((licence.epoch({"expires_at": expires_at}) - time.time()) / 86400, 2)


def _tell_once(installation: Installation, found: dict[str, Any], due: str) -> bool:
    shown = found if found["expires_at"] else found["table"]
    name = f"{shown['tier']} {shown['customer_email']} {shown['expires_at']}"
    path = os.path.join(installation.private, _STATE)
    try:
        before = dict(json.loads(read_text(path) or "{}"))
    except ValueError:
        before = {}
    # Steps that were missed while the host was off are not made up for: the latest says it all.
    done = list(before.get("ways", [])) if (before.get("licence"), before.get("step")) == (name, due) else []
    configured = notify.settings(installation.private)
    ways = {way for way, key in (("mail", "to"), ("webhook", "url")) if (configured.get(way) or {}).get(key)}
    if not ways - set(done):
        return False
    days = _days(shown["expires_at"]) or 0.0
    when = f"expired {-days:.0f} day(s) ago" if due == EXPIRED else f"expires in {max(days, 0):.0f} day(s)"
    subject = f"Scutum licence {when} ({installation.directory})"
    text = (
        f"The {shown['tier']} licence for {shown['customer_email']} {when}, at {shown['expires_at']}.\n\n"
        "Traffic is served all the same. Ask the vendor for a renewal, then set scutum_license_key and run\n"
        "playbooks/license.yml: no restart is needed. What is in force now, on the host: scutum-ops license\n"
    )
    if not found["consistent"]:
        text += "\nThe table, the environment and the endpoint do not agree: scutum-ops license shows where.\n"
    details = {
        "event": "license.expiry",
        "step": due,
        "licence": {key: shown[key] for key in ("tier", "customer_email", "expires_at")} | {"days_remaining": days},
    }
    try:
        notify.send(configured, subject, text, details, done)
    finally:
        write_file(path, json.dumps({"licence": name, "step": due, "ways": sorted(done)}) + "\n", 0o600)
    return True


def gauges(found: dict[str, Any]) -> dict[str, tuple[str, dict[str, str], float]]:
    """The metrics. The whitepaper's signal 4: no active row, or the latest end more than an hour ago."""
    table = found["table"]
    return {
        "scutum_license_table_active_rows": ("Active rows of the table licenses.", {}, table["active"]),
        "scutum_license_table_expires_timestamp_seconds": (
            "When the operative row of the table expires; 0 without one.",
            {},
            licence.epoch(table),
        ),
        "scutum_license_endpoint_up": ("Whether GET /api/v1/license answered.", {}, float(not found["endpoint_error"])),
        "scutum_license_endpoint_valid": (
            "Whether the endpoint shows a licence that is valid and not expired.",
            {},
            float(bool(found["valid"]) and not found["expired"]),
        ),
        "scutum_license_endpoint_expires_timestamp_seconds": (
            "When the licence that the endpoint shows expires; 0 without one.",
            {},
            licence.epoch(found),
        ),
        "scutum_license_consistent": (
            "Whether the table, the environment and every answer of the endpoint agree.",
            {},
            float(found["consistent"]),
        ),
        "scutum_license_environment_conflict": (
            "Whether LICENSE_KEY in the environment is another licence than the table's.",
            {},
            float(found["environment_conflict"]),
        ),
        "scutum_license_info": (
            "Always 1; the licence is in the labels.",
            {"tier": str(found["tier"] or ""), "customer": str(found["customer_email"] or "")},
            1.0,
        ),
        "scutum_license_watch_timestamp_seconds": ("When these metrics were written.", {}, float(int(time.time()))),
    }
