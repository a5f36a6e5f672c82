# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which secrets are in force on a host and since when, without values: a mark keyed with a key of this host, and a date.

The record decides which of two values is in force when the source holds an old and a new one.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import re
import secrets as random
import time
from typing import Any

from .errors import ScutumError
from .files import ensure_directory, read_text, write_file

FILE = "secrets-in-force.json"
KEY = "secrets-label.key"
# Names for people, and days after which each is due (whitepaper, point 1: quarterly; the database's password yearly). SCUTUM_API_KEY is
# rotated only when it leaks: it is baked into customers' applications.
ROTATED: dict[str, tuple[str, int]] = {
    "jwt": ("JWT_SECRET_KEY", 90),
    "internal": ("INTERNAL_SERVICE_KEY", 90),
    "postgres": ("POSTGRES_PASSWORD", 365),
    "api_key": ("SCUTUM_API_KEY", 0),
}
_DAY = 86400.0


class Marks:
    """Marks of this host: they tell whether two texts are the same, and nothing else to who lacks the host's key.

    Args:
        private: the installation's private directory.
    """

    def __init__(self, private: str) -> None:
        self._path = os.path.join(private, KEY)
        self._private = private
        self._held = ""

    def _key(self) -> bytes:
        self._held = self._held or read_text(self._path) or ""
        if not self._held:
            self._held = random.token_hex(32)
            if os.path.isdir(self._private):
                write_file(self._path, self._held, 0o600)
        return self._held.encode()

    def of(self, text: str) -> str:
        """The mark of a text."""
        return hmac.new(self._key(), text.encode(), hashlib.sha256).hexdigest()[:16]


class Record:
    """What is in force on a host.

    Args:
        private: the installation's private directory.
    """

    def __init__(self, private: str) -> None:
        self._private = private
        self.marks = Marks(private)

    def _kept(self) -> dict[str, Any]:
        return dict(json.loads(read_text(os.path.join(self._private, FILE)) or "{}"))

    def is_in_force(self, key: str, value: str) -> bool | None:
        """Whether a value is the one in force; None when nothing was recorded about the key."""
        held = self._kept().get(key)
        return None if held is None else bool(held["mark"] == self.mark(key, value))

    def mark(self, key: str, value: str) -> str:
        """The mark of a value of a key."""
        return self.marks.of(f"{key}={value}")

    def mark_in_force(self, key: str) -> str:
        """The mark of the value in force; empty when nothing was recorded about the key."""
        return str(self._kept().get(key, {}).get("mark", ""))

    def since(self) -> dict[str, float]:
        """Since when each key has the value that it has, in seconds since 1970."""
        return {key: float(held["since"]) for key, held in self._kept().items()}

    def note(
        self, values: dict[str, str], now: float | None = None, since: dict[str, float] | None = None
    ) -> list[str]:
        """Record what is in force; names of the keys whose value is another one than before.

        Args:
            since: for values that come back: since when they had been in force before.
        """
        held = self._kept()
        moment = time.time() if now is None else now
        changed = []
        for key, value in values.items():
            mark = self.mark(key, value)
            if held.get(key, {}).get("mark") != mark:
                changed.append(key)
                held[key] = {"mark": mark, "since": (since or {}).get(key, moment)}
        kept = {key: held[key] for key in sorted(held) if key in values}
        if changed or kept.keys() != self._kept().keys():
            ensure_directory(self._private, 0o700)
            write_file(os.path.join(self._private, FILE), json.dumps(kept, indent=1) + "\n", 0o600)
        return changed

    def ages(self, days: dict[str, int] | None = None, now: float | None = None) -> list[dict[str, Any]]:
        """Each secret with its age and when it is due.

        Args:
            days: days after which a secret is due, by its name for people or its key; 0 is never.

        Returns:
            For each: `key`, `name` (of a rotation, or empty), `since` (UTC), `age_days`, `due_days` (0: never), `due_at` (UTC, or
            empty), `due` (whether it is time).
        """
        moment = time.time() if now is None else now
        names = {key: name for name, (key, unused) in ROTATED.items()}
        limits = dict(ROTATED.values())
        for name, number in (days or {}).items():
            limits[ROTATED[name][0] if name in ROTATED else name] = number
        found = []
        for key, held in self._kept().items():
            limit = limits.get(key, 0)
            end = held["since"] + limit * _DAY
            found.append(
                {
                    "key": key,
                    "name": names.get(key, ""),
                    "since": _utc(held["since"]),
                    "age_days": int((moment - held["since"]) // _DAY),
                    "due_days": limit,
                    "due_at": _utc(end) if limit else "",
                    "due": bool(limit) and moment >= end,
                }
            )
        return found


def days(given: dict[str, Any]) -> dict[str, int]:
    """Days after which secrets are due, by name or key, as numbers."""
    wrong = [
        f"{name}={number}"
        for name, number in given.items()
        if not re.fullmatch(r"[0-9]{1,6}", str(number)) or (name not in ROTATED and name != name.upper())
    ]
    if wrong:
        raise ScutumError(
            f"scutum_secrets_due_days: {', '.join(wrong)} has to be a name ({', '.join(ROTATED)}, or a key) with a number of days, "
            "0 for never",
            left="nothing was changed",
            next_step="correct it",
        )
    return {str(name): int(number) for name, number in given.items()}


def text(ages: list[dict[str, Any]]) -> list[str]:
    """Ages for people, those that can be rotated."""
    return [
        f"{'DUE ' if item['due'] else 'ok  '} {item['key']}: {item['age_days']} days old"
        + (f", due {item['due_at'][:10]}" if item["due_at"] else ", rotated after a leak only")
        for item in ages
        if item["name"]
    ]


def _utc(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
