# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which backups stay and which may go (whitepaper, point 2: 14 daily, weekly ones indefinitely): a decision, nothing is read or removed.

It counts backups and not days passed: without new backups nothing goes, however late it is.
"""

from __future__ import annotations

import dataclasses
import datetime
import time
import zoneinfo
from collections.abc import Iterable

from .errors import ScutumError

DAILY = 14


@dataclasses.dataclass(frozen=True)
class Backup:
    """What the rules look at.

    Args:
        name: its name, unique in the target.
        taken: the moment of its snapshot, UTC seconds since 1970.
        verified: whether a restore of it was compared with its manifest and was right.
        locked: until when the store keeps it (Object Lock), in words; empty when it does not.
        size: bytes, for reports; the rules do not look at it.
    """

    name: str
    taken: float
    verified: bool
    locked: str = ""
    size: int = 0


@dataclasses.dataclass(frozen=True)
class Plan:
    """What to do.

    Args:
        keep: name → why it stays, in words; the newest first.
        remove: names that may go; the oldest first, so that a run that is killed leaves what the next one would have left.
    """

    keep: dict[str, str]
    remove: list[str]


def plan(
    backups: Iterable[Backup],
    daily: int = DAILY,
    weekly: int | None = None,
    timezone: str = "UTC",
    now: float | None = None,
) -> Plan:
    """Decide. Whoever removes any part of `remove` and asks again gets the same `keep` and the rest of `remove`.

    Args:
        backups: all that are complete (with a manifest), in any order.
        daily: of how many days that have a backup the newest one stays.
        weekly: of how many ISO weeks that have a backup the newest one stays; None is for ever.
        timezone: where days and weeks begin, a name of the tz database.
        now: UTC seconds since 1970; default the host's clock. A backup from after it stays and counts for nothing.

    Raises:
        ScutumError: a number below 1, an unknown time zone, two backups of one name.
    """
    _check("scutum_backup_keep_daily", daily, DAILY)
    if weekly is not None:
        _check("scutum_backup_keep_weekly", weekly, "nothing, which keeps weekly ones for ever")
    zone = _zone(timezone)
    moment = time.time() if now is None else now
    # Of two of one second the verified one counts as the newer, then the one whose name sorts last.
    ordered = sorted(set(backups), key=lambda one: (one.taken, one.verified, one.name), reverse=True)
    reasons: dict[str, list[str]] = {one.name: [] for one in ordered}
    if len(reasons) < len(ordered):
        names = [one.name for one in ordered]
        raise ScutumError(
            f"two backups have the name {next(name for name in names if names.count(name) > 1)}",
            left="nothing was removed",
            next_step="look at both in the target and rename one of them",
        )
    # The comparison is false for NaN too.
    past = [one for one in ordered if 0 <= one.taken <= moment]
    good = [one for one in past if one.verified]
    if past:
        reasons[past[0].name].append("the newest")
    if good:
        reasons[good[0].name].append("the newest verified")
    days: dict[str, Backup] = {}
    weeks: dict[str, Backup] = {}
    for one in past:
        day = datetime.datetime.fromtimestamp(one.taken, zone).date()
        year, week, unused = day.isocalendar()
        days.setdefault(day.isoformat(), one)
        weeks.setdefault(f"{year}-W{week:02d}", one)
    for word, newest, count in (("day", days, daily), ("week", weeks, weekly)):
        for label in list(newest)[:count]:
            reasons[newest[label].name].append(f"the newest of {word} {label}")
    for one in ordered:
        why = reasons[one.name]
        if not 0 <= one.taken <= moment:
            why.append("its date is not in the past (did the clock jump?)")
        if one.locked:
            why.append(f"locked in the store (Object Lock) {one.locked}")
        if not why and not (good and good[0].taken > one.taken):
            why.append("no newer backup was verified")
    return Plan(
        keep={name: "; ".join(why) for name, why in reasons.items() if why},
        remove=[name for name, why in reversed(reasons.items()) if not why],
    )


def _check(variable: str, number: object, default: object) -> None:
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ScutumError(
            f"{variable}: {number!r} has to be a whole number, 1 or more",
            left="nothing was removed",
            next_step=f"correct it, or leave it out: the default is {default}",
        )


def _zone(name: str) -> datetime.tzinfo:
    if name == "UTC":
        # Needs no tz database.
        return datetime.timezone.utc
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as problem:
        raise ScutumError(
            f"the time zone {name!r} is not in this host's tz database, or the host has none: {problem}",
            left="nothing was removed",
            next_step="choose a name of `timedatectl list-timezones`, or install the package tzdata",
        ) from problem
