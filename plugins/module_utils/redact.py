# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking secrets out of text that is about to be shown."""

from __future__ import annotations

import re
from collections.abc import Mapping

# Where Postgres quotes rows.
_ROWS = ("CONTEXT", "DETAIL")
# What a line of Postgres is. In its server's log a prefix stands before, which the operator chooses; two spaces follow. Only the first such
# word counts: what comes after it is text, which may mention others.
_KIND = re.compile(r"\b([A-Z]+)[1-5]?:  ")
# The server writes a tab after each end of a line within a message; Compose may have put the service's name before it.
_GOES_ON = re.compile(r"(?:\S+ +\| )?\t")


def redact(text: str, secrets: Mapping[str, str]) -> str:
    """Replace every secret by its name. Values shorter than six characters would hit ordinary words: left alone."""
    for name, value in sorted(secrets.items(), key=lambda item: -len(item[1])):
        if len(value) >= 6:
            text = text.replace(value, f"[{name}]")
    return text


def without_rows(text: str) -> str:
    """What Postgres or a client of it says without the rows that it quotes."""
    kept = []
    dropped = False
    # No splitlines: a row may hold what it takes for the end of a line, and the rest of it would stay.
    for line in text.split("\n"):
        kind = _KIND.search(line)
        quotes = kind is not None and kind[1] in _ROWS or line.startswith(tuple(f"{word}:" for word in _ROWS))
        dropped = quotes or dropped and _GOES_ON.match(line) is not None
        if not dropped:
            kept.append(line)
    return "\n".join(kept)
