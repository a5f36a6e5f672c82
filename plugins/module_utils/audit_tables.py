# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tables that grow with traffic, by which column they are divided, and months in UTC."""

from __future__ import annotations

import calendar
import re
import time
from dataclasses import dataclass

from .errors import ScutumError

_MONTH = re.compile(r"(\d{4})-(0[1-9]|1[0-2])")


@dataclass(frozen=True)
class Table:
    """A table of the product that is divided by month.

    Args:
        name: in the schema public.
        column: timestamptz, by which it is divided.
        fallback: column that stands in where `column` is NULL; empty where there is none, and then the time of the conversion does.
        hot_days: for how long its rows stay where no variable says it; None is the licence's rule.
    """

    name: str
    column: str
    fallback: str = ""
    hot_days: int | None = 90


@dataclass(frozen=True)
class Foreign:
    """A table of LiteLLM: Prisma owns it, and would undo any change of its shape. Its rows only leave, in batches.

    Args:
        name: in the schema public.
        column: timestamp without a zone, in UTC.
    """

    name: str
    column: str


# Vendor: alembic 011, 001, 020, 017.
TABLES = {
    table.name: table
    for table in (
        Table("audit_logs", "timestamp", "created_at", None),
        Table("request_logs", "created_at"),
        Table("event_log", "created_at"),
        Table("provider_health_metrics", "checked_at"),
    )
}
# LiteLLM: schema.prisma.
FOREIGN = {table.name: table for table in (Foreign("LiteLLM_SpendLogs", "startTime"),)}


def table(name: str) -> Table:
    """A table by its name; an unknown one is an error that names those that there are."""
    found = TABLES.get(name)
    if found is None:
        raise ScutumError(
            f"{name} is no table that is divided by month; those are {', '.join(TABLES)}",
            left="nothing was changed",
            next_step="name one of them",
        )
    return found


def month_of(moment: float) -> str:
    """The month (UTC) of a moment, in seconds since 1970, as `2026-03`."""
    return time.strftime("%Y-%m", time.gmtime(moment))


def shift(month: str, by: int) -> str:
    """The month that lies `by` months later."""
    year, number = parts(month)
    count = year * 12 + number - 1 + by
    return f"{count // 12:04d}-{count % 12 + 1:02d}"


def parts(month: str) -> tuple[int, int]:
    """Year and number of a month; anything but `2026-03` is an error."""
    found = _MONTH.fullmatch(month)
    if not found or found.group(1) == "0000":
        raise ScutumError(f"{month!r} is no month", left="nothing was changed", next_step="write it as 2026-03")
    return int(found.group(1)), int(found.group(2))


def begin(month: str) -> float:
    """Its first moment, in seconds since 1970 (UTC)."""
    return float(calendar.timegm((*parts(month), 1, 0, 0, 0)))


def bounds(month: str) -> tuple[str, str]:
    """Its bounds for SQL, in UTC whatever the session's zone: the first moment, and that of the next month."""
    return f"{month}-01 00:00:00+00", f"{shift(month, 1)}-01 00:00:00+00"
