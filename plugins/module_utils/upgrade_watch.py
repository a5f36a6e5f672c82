# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The watch after a promotion: a systemd service on the host, which a dead controller does not stop and a restart of the host does not end.

Its verdict goes into the record of the upgrade, to people and to the metrics; on a bad one it goes back by itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from typing import Any

from . import error_rate_watch, metrics, notify, stack, upgrade_promotion, upgrade_settings, upgrade_units
from . import upgrade_record as records
from .error_rate import Rules
from .errors import ScutumError
from .files import read_text, write_file
from .installation import Installation
from .report import Say
from .upgrade_record import Record
from .upgrade_settings import Settings

# Below the private directory: how far the watch is.
STATUS = "upgrade-watch.json"
METRICS = "scutum_upgrade"


def begin(installation: Installation) -> None:
    """Forget how far an earlier watch came."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(installation.private, STATUS))


def status(installation: Installation) -> dict[str, Any]:
    """How far it is: `began`, `id` of the upgrade, and what error_rate_watch tells after each round; empty when none was begun."""
    try:
        return dict(json.loads(read_text(os.path.join(installation.private, STATUS)) or "{}"))
    except ValueError:
        return {}


def wait(installation: Installation, say: Say, seconds: float = 10) -> None:
    """Until it has ended, with a line now and then; another way to end it than by its verdict is a failure.

    Args:
        seconds: between two lines.
    """
    told, missing = 0.0, 0
    while True:
        record = records.load(installation)
        if record is None or record.outcome:
            return
        running = upgrade_units.watching(installation)
        missing = 0 if running else missing + 1
        if missing > 20:
            raise ScutumError(
                "the watch on the host ended without a verdict",
                left=records.standing(record),
                next_step=f"journalctl -u {upgrade_units.watch_unit(installation)}; playbooks/upgrade_watch.yml watches again",
            )
        if time.monotonic() - told > seconds:
            told = time.monotonic()
            say("bad: going back" if record.state(records.ROLLBACK) else progress(status(installation)))
        time.sleep(0.5)


def progress(found: dict[str, Any]) -> str:
    """A line of progress."""
    signals = "; ".join(
        f"{name} {item['failed']}/{item['requests']}" for name, item in sorted(found.get("signals", {}).items())
    )
    return f"watched for {found.get('lasted', 0):.0f} s: failed/answers: {signals or 'none yet'}"


def run(
    installation: Installation,
    say: Say,
    back: Callable[[Installation, Settings, Record, str], None],
) -> dict[str, Any]:
    """Watch to the end, and do what the verdict asks for; returns the verdict.

    Args:
        back: goes back from a bad upgrade.
    """
    record = records.load(installation)
    if record is None or record.outcome or not record.state(records.WATCH):
        upgrade_units.remove_watch(installation)
        return {"verdict": "", "reasons": ["there is nothing to watch"]}
    wanted = upgrade_settings.kept(installation)
    # A run that was killed while it went back goes on with that.
    found = record.verdict or _watch(installation, wanted, record, say)
    with records.alone(installation):
        record = records.load(installation) or record
        if record.outcome:
            # Somebody went back by hand meanwhile.
            return found
        problem = _end(installation, wanted, record, found, say, back)
    tell(installation, wanted, record, problem)
    upgrade_units.remove_watch(installation)
    return found


def _watch(installation: Installation, wanted: Settings, record: Record, say: Say) -> dict[str, Any]:
    path = os.path.join(installation.private, STATUS)
    held = status(installation)
    began = float(held.get("began") or time.time())

    def told(found: dict[str, Any]) -> None:
        write_file(path, json.dumps({**found, "began": began, "id": record.id}, indent=1) + "\n", 0o600)

    told(held)
    # After a restart of the host its services are starting: that says nothing about the release.
    with contextlib.suppress(ScutumError):
        compose = installation.compose()
        model = compose.model()
        stack.wait(installation, compose, model, sorted(model["services"]), wanted.start_timeout)
    rules = Rules(margin=wanted.error_margin, latency_factor=wanted.latency_factor, minimum=wanted.minimum_requests)
    return error_rate_watch.watch(
        installation, record.baseline, rules, wanted.watch, wanted.watch_interval, wanted.completion_interval,
        upgrade_promotion.model(wanted), say, told, began,
    )  # fmt: skip


def _end(
    installation: Installation,
    wanted: Settings,
    record: Record,
    found: dict[str, Any],
    say: Say,
    back: Callable[[Installation, Settings, Record, str], None],
) -> str:
    """Record a verdict, and go back when it is bad; why going back failed, else empty."""
    bad = found["verdict"] == records.BAD
    record.verdict = found
    record.steps[records.WATCH] |= {
        "state": records.FAILED if bad else records.DONE,
        "seconds": round(found["lasted"], 1),
        "checks": [
            {
                "name": "verdict",
                "ok": found["verdict"] == records.GOOD,
                "seconds": round(found["lasted"], 1),
                "detail": "; ".join([found["verdict"].replace("_", " "), *found["reasons"]]),
            }
        ],
    }
    problem = ""
    if bad and wanted.automatic_rollback:
        records.save(installation, record)
        say(f"bad: {'; '.join(found['reasons'])}; going back")
        try:
            back(installation, wanted, record, "; ".join(found["reasons"]))
        except ScutumError as error:
            problem = str(error)
            record.outcome = records.BAD
    else:
        record.outcome = found["verdict"]
    records.save(installation, record)
    records.remember(installation, record)
    return problem


def tell(installation: Installation, wanted: Settings, record: Record, problem: str = "") -> None:
    """Tell people and metrics how it ended; neither may fail what was done."""
    subject = f"Scutum, {installation.directory}: {records.standing(record)}"
    text = "\n".join(
        [
            records.standing(record),
            *record.verdict.get("reasons", []),
            *([f"The rollback failed: {problem}"] * bool(problem)),
        ]
    )
    with contextlib.suppress(ScutumError):
        notify.send(
            notify.settings(installation.private), subject, installation.redact(text) + "\n",
            {"event": f"upgrade.{record.outcome}", "source": record.source, "target": record.target}, [],
        )  # fmt: skip
    if wanted.metrics:
        labels = {"source": record.source, "target": record.target}
        with contextlib.suppress(ScutumError, OSError):
            metrics.write(
                wanted.metrics,
                METRICS,
                {
                    "scutum_upgrade_ended_timestamp_seconds": ("When the last upgrade ended.", labels, time.time()),
                    "scutum_upgrade_good": (
                        "Whether its watch found it good.", labels, float(record.outcome == records.GOOD)
                    ),
                    "scutum_upgrade_rolled_back": (
                        "Whether it was rolled back.", labels, float(record.outcome == records.ROLLED_BACK)
                    ),
                },
            )  # fmt: skip
