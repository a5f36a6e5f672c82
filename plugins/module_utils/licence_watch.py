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
METRICS = "scutum_license"
_STATE = "licence-watch.json"
# Licences whose steps are remembered.
_KEPT = 20


def step(days_remaining: float | None) -> str:
    """Which warning is due: `30`, `14`, `7`, `1` (days), `expired`, or nothing."""
    if days_remaining is None:
        return ""
    if days_remaining <= 0:
        return EXPIRED
    due = [days for days in STEPS if days_remaining <= days]
    return str(min(due)) if due else ""


def due(found: dict[str, Any]) -> str:
    """The step that is due for the licence that counts: of `licence.status`, or of `licence.look`."""
    return step(licence.days_until(found.get("in_force", found)["expires_at"]))


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
    warning = due(found)
    path = metrics.write(directory, METRICS, gauges(found))
    told = _tell_once(installation, found, warning) if warning else False
    return {
        "ok": warning != EXPIRED and found["consistent"],
        "status": found,
        "warning": warning,
        "told": told,
        "metrics": path,
    }


def _told(path: str) -> dict[str, dict[str, list[str]]]:
    """Ways by step by licence; an unreadable record counts as none: better told twice than never."""
    try:
        before = json.loads(read_text(path) or "{}")
        return {str(name): {str(k): list(v) for k, v in steps.items()} for name, steps in before["told"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _tell_once(installation: Installation, found: dict[str, Any], warning: str) -> bool:
    shown = found["in_force"]
    name = f"{shown['tier']} {shown['customer_email']} {shown['expires_at']}"
    path = os.path.join(installation.private, _STATE)
    told = _told(path)
    # Steps that were missed while the host was off are not made up for: the latest says it all.
    done = told.setdefault(name, {}).setdefault(warning, [])
    configured = notify.settings(installation.private)
    if not notify.ways(configured) - set(done):
        return False
    days = licence.days_until(shown["expires_at"]) or 0.0
    when = f"expired {abs(days):.0f} day(s) ago" if warning == EXPIRED else f"expires in {days:.0f} day(s)"
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
        "step": warning,
        "licence": {key: shown[key] for key in ("tier", "customer_email", "expires_at")}
        | {"days_remaining": round(days, 2)},
    }
    try:
        notify.send(configured, subject, text, details, done)
    finally:
        latest = dict(list(told.items())[-_KEPT:])
        write_file(path, json.dumps({"told": latest}, indent=1) + "\n", 0o600)
    return True


def gauges(found: dict[str, Any]) -> dict[str, tuple[str, dict[str, str], float]]:
    """The metrics. The whitepaper's signal 4: no active row, or the latest end more than an hour ago."""
    table = found["table"]
    return {
        "scutum_license_table_up": (
            "Whether Postgres told what the table licenses holds.",
            {},
            float(not found["table_error"]),
        ),
        "scutum_license_table_active_rows": (
            "Active rows of the table licenses; 0 when Postgres does not answer.",
            {},
            table["active"] or 0,
        ),
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
            float(bool(found["environment_conflict"])),
        ),
        "scutum_license_info": (
            "Always 1; the licence is in the labels.",
            {"tier": str(found["tier"] or ""), "customer": str(found["customer_email"] or "")},
            1.0,
        ),
        "scutum_license_watch_timestamp_seconds": ("When these metrics were written.", {}, float(int(time.time()))),
    }
