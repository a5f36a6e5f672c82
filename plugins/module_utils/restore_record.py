# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The record of a restore that is not over: how far it came, what may follow, and how that is said."""

from __future__ import annotations

import json
import os
import socket
import time
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from .errors import ScutumError
from .files import ensure_directory, read_text, write_file
from .installation import Installation

RECORD = "restore.json"
# Seconds after which an open restore, and the backup before it, count only for whoever names it.
_OLD = 24 * 3600
PREPARED, RESTORING, READY, SWAPPING, SWAPPED, KEPT = (
    "prepared", "restoring", "ready", "swapping", "swapped", "kept",
)  # fmt: skip


@dataclass
class Open:
    """A restore that is not over.

    Args:
        phase: see the head of restore.py; `prepared`: an empty host was given a configuration, and nothing was restored yet.
        id: of the backup.
        began: seconds since 1970.
        release: of the backup.
        fresh: the host was empty: there is nothing to take a safety backup of.
        new_secrets: keys whose values the backup did not hold, nor anybody else.
        safety: id of the backup that was taken before.
        incoming: the database that gets the name in force.
        outgoing: the name that the database in force gets.
        back: it is the way back.
        about: what the host's record says about `incoming` (`litellm_schema`, `schema_window`).
        about_outgoing: the same about the database that was in force.
        notes: what was not brought back, in words.
        drill: event subscriptions were taken out of it.
        dump: path of the dump in clear, while there is one.
        rollback: it is part of a rollback of an upgrade, which does more around it: only that goes on with it, or back.
    """

    phase: str
    id: str
    began: float
    release: str = ""
    fresh: bool = False
    new_secrets: list[str] = field(default_factory=list)
    safety: str = ""
    incoming: str = ""
    outgoing: str = ""
    back: bool = False
    about: dict[str, Any] = field(default_factory=dict)
    about_outgoing: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    drill: bool = False
    dump: str = ""
    rollback: bool = False

    @property
    def old(self) -> bool:
        """Whether it was begun so long ago that nobody means it who does not name it."""
        return time.time() - self.began > _OLD


def load(installation: Installation) -> Open | None:
    """The restore that is not over; None when there is none."""
    text = read_text(os.path.join(installation.private, RECORD))
    return Open(**json.loads(text)) if text else None


def save(installation: Installation, record: Open, **changes: Any) -> Open:
    """Record a restore, with some fields changed."""
    record = replace(record, **changes)
    ensure_directory(installation.private, 0o700)
    write_file(os.path.join(installation.private, RECORD), json.dumps(asdict(record), indent=1) + "\n", 0o600)
    return record


def host_name() -> str:
    """What a confirmation has to say."""
    return socket.gethostname()


def settled(record: Open | None, name: str, word: str) -> bool:
    """Whether what is asked for is so already. Refuses what an open restore stands in the way of.

    Args:
        name: of the backup that is asked for; empty for none in particular.
        word: `confirm`, `undo` or `finalize`.
    """
    if record is None:
        return word != "confirm"
    kept = record.phase == KEPT
    if word == "undo":
        return kept and record.back
    if word == "finalize":
        if not kept:
            raise ScutumError(
                f"a restore is not over: {standing(record)}", left="nothing was dropped", next_step=next_call(record)
            )
        return False
    swaps = record.back or record.phase in (SWAPPING, SWAPPED, KEPT)
    # One that somebody forgot must not be taken for what is meant today.
    other = name != record.id if name else record.old
    if record.back or (swaps and other) or (not name and record.old):
        raise ScutumError(
            f"a restore is open: {standing(record)}", left="nothing was changed", next_step=next_call(record)
        )
    return kept


def standing(record: Open | None) -> str:
    """Where an open restore stands, in words."""
    if record is None:
        return "no restore is open"
    if record.phase == KEPT:
        what = "was taken back" if record.back else "is in force"
        return f"{record.id} {what}; the other database is kept as {record.outgoing}"
    if record.back:
        return f"going back from {record.id} was interrupted"
    if record.phase in (SWAPPING, SWAPPED):
        return f"the restore of {record.id} was interrupted while the databases swapped names"
    if record.phase == PREPARED:
        return f"the host was made ready for {record.id}, which is not restored yet"
    return f"the restore of {record.id} was interrupted; nothing in force was changed"


def next_call(record: Open) -> str:
    """What finishes an open restore: the variable, and the command on the host."""
    host = host_name()

    def call(word: str, does: str) -> str:
        # One that is old has to be named.
        name = record.id if word == "confirm" and record.old else ""
        variable = f"scutum_restore_{word}={host}" + (f" with scutum_restore_name={name}" if name else "")
        return f"{variable} {does} (on the host: scutum-ops restore --{word} {host}{f' --name {name}' if name else ''})"

    if record.rollback and record.phase != KEPT:
        return "playbooks/rollback.yml goes on (on the host: scutum-ops rollback)"
    if record.phase == KEPT:
        if record.rollback:
            return call("finalize", f"drops {record.outgoing}")
        finalize = call("finalize", f"drops {record.outgoing}")
        return finalize if record.back else f"{finalize}; {call('undo', 'goes back to it')}"
    if record.back:
        return call("undo", "goes on")
    return f"{call('confirm', f'goes on with {record.id}')}; {call('undo', 'leaves what served before')}"
