# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How far an upgrade came: its record on the host, which whoever comes after a kill goes on from, and what is kept of it for people.

preflight → stage → migrate → smoke → promote → watch, each `running`, `done` or `failed`; then an outcome. `rollback` may follow promote
at any time.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from . import host_job
from .errors import ScutumError
from .files import ensure_directory, read_text, write_file
from .installation import Installation

RECORD = "upgrade-record.json"
HISTORY = "upgrade-history.json"
# Below the private directory: a directory for each upgrade, named by its id, with report, evidence, exports and the files from before.
FOLDER = "upgrades"
LOCK = "upgrade.lock"

PREFLIGHT, STAGE, MIGRATE, SMOKE, PROMOTE, WATCH = PHASES = (
    "preflight",
    "stage",
    "migrate",
    "smoke",
    "promote",
    "watch",
)
# Those that happen in a copy.
REHEARSED = (STAGE, MIGRATE, SMOKE)
ROLLBACK = "rollback"
RUNNING, DONE, FAILED = "running", "done", "failed"
# Outcomes; empty while it is open.
GOOD, BAD, UNKNOWN, ROLLED_BACK = "good", "bad", "not_enough_data", "rolled_back"


@dataclass
class Record:
    """An upgrade.

    Args:
        id: the UTC time of its beginning, as a backup's.
        began: seconds since 1970.
        source, target: releases.
        steps: by phase (and `rollback`): `state`, `began`, `seconds`, `checks` (as in report.step), `error`, `next_step`.
        images: `source` and `target`: digest and id by service.
        heads: `source` and `target`: alembic's revisions.
        staged: what the phases in the copy tell each other.
        receipt: what was rehearsed, see upgrade_rehearsal.py; empty when nothing was.
        safety: id of the backup taken right before the promotion.
        baseline: signals from before, as error_rate_watch.baseline has them.
        requests: what the probe counted during promotion, and during rollback: `promote`, `rollback`.
        verdict: as error_rate_watch.watch has it.
        outcome: see above.
        rollback: `way` (images, restore), `reason`, `export`, `evidence`, `kept` (database); or `refused` and `next_step`.
        previous: the last upgrade that changed production, as long as this one has not: the way back from it stays open.
    """

    id: str
    began: float
    source: str
    target: str
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)
    images: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)
    heads: dict[str, str] = field(default_factory=dict)
    staged: dict[str, Any] = field(default_factory=dict)
    receipt: dict[str, Any] = field(default_factory=dict)
    safety: str = ""
    baseline: dict[str, Any] = field(default_factory=dict)
    requests: dict[str, Any] = field(default_factory=dict)
    verdict: dict[str, Any] = field(default_factory=dict)
    outcome: str = ""
    rollback: dict[str, Any] = field(default_factory=dict)
    previous: dict[str, Any] = field(default_factory=dict)

    def state(self, phase: str) -> str:
        """Of a phase; empty when it was never begun."""
        return str(self.steps.get(phase, {}).get("state", ""))

    @property
    def touched(self) -> bool:
        """Whether production was, or may have been, changed."""
        return bool(self.steps.get(PROMOTE, {}).get("touched"))

    @property
    def going_back(self) -> bool:
        """Whether a rollback was begun and has not ended."""
        return self.state(ROLLBACK) in (RUNNING, FAILED) and self.outcome != ROLLED_BACK


def load(installation: Installation) -> Record | None:
    """The last upgrade, open or not; None when there never was one."""
    text = read_text(os.path.join(installation.private, RECORD))
    return Record(**json.loads(text)) if text else None


def last(installation: Installation) -> Record | None:
    """The last upgrade that changed production, else the one that is open; None when there never was any."""
    record = load(installation)
    if record and not record.touched and record.previous:
        return Record(**record.previous)
    return record


def following(record: Record | None) -> dict[str, Any]:
    """What the record of a new upgrade remembers of the one before."""
    if record is None:
        return {}
    return {**asdict(record), "previous": {}} if record.touched else record.previous


def save(installation: Installation, record: Record) -> None:
    """Record how far it came."""
    ensure_directory(installation.private, 0o700)
    write_file(os.path.join(installation.private, RECORD), json.dumps(asdict(record), indent=1) + "\n", 0o600)


def folder(installation: Installation, record: Record, *names: str) -> str:
    """The directory of an upgrade, or one below it, made when it is missing."""
    path = os.path.join(installation.private, FOLDER, record.id, *names)
    ensure_directory(path, 0o700)
    return path


@contextlib.contextmanager
def alone(installation: Installation) -> Iterator[None]:
    """Keep two upgrades, or an upgrade and a rollback, from working on one installation at once."""
    ensure_directory(installation.private, 0o700)
    with contextlib.ExitStack() as closing:
        if not host_job.lock_file(closing, os.path.join(installation.private, LOCK)):
            record = load(installation)
            raise ScutumError(
                "another upgrade or rollback is running on this host" + (f": {standing(record)}" if record else ""),
                left="nothing was done by this one",
                next_step="wait for it (scutum-ops upgrade-status shows it); the lock goes with its process",
            )
        yield


def standing(record: Record) -> str:
    """Where an upgrade stands, in words."""
    name = f"the upgrade from {record.source} to {record.target}"
    words = {
        GOOD: f"{name} is good",
        UNKNOWN: f"{name} is in force; its watch ended without enough data",
        BAD: f"{name} is in force, and was found bad",
        ROLLED_BACK: f"{name} was rolled back: {record.source} is in force",
    }
    if record.going_back:
        return f"{name}: going back {'failed' if record.state(ROLLBACK) == FAILED else 'was interrupted'}"
    if record.outcome:
        return words[record.outcome]
    newest = next((phase for phase in reversed(PHASES) if record.state(phase)), PREFLIGHT)
    state = {RUNNING: "was interrupted", FAILED: "failed", DONE: "is done", "": "was not begun"}[record.state(newest)]
    if newest == WATCH and record.state(WATCH) == RUNNING:
        state = "is going on"
    return f"{name}: {newest} {state}"


def durations(installation: Installation) -> dict[str, float]:
    """Seconds that each phase took the last time; empty when there was none."""
    held = json.loads(read_text(os.path.join(installation.private, HISTORY)) or "[]")
    return dict(held[-1]["seconds"]) if held else {}


def remember(installation: Installation, record: Record) -> None:
    """Add an ended upgrade to the history: who plans the next one asks how long it took."""
    path = os.path.join(installation.private, HISTORY)
    held = [item for item in json.loads(read_text(path) or "[]") if item["id"] != record.id]
    seconds = {phase: step.get("seconds", 0) for phase, step in record.steps.items()}
    held.append(
        {
            "id": record.id,
            "source": record.source,
            "target": record.target,
            "outcome": record.outcome,
            "at": time.time(),
            "seconds": seconds,
        }
    )
    write_file(path, json.dumps(held[-20:], indent=1) + "\n", 0o600)
