# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Taking secrets out of text that is about to be shown."""

from __future__ import annotations

from collections.abc import Mapping


def redact(text: str, secrets: Mapping[str, str]) -> str:
    """Replace every secret by its name. Values shorter than six characters would hit ordinary words: left alone."""
    for name, value in sorted(secrets.items(), key=lambda item: -len(item[1])):
        if len(value) >= 6:
            text = text.replace(value, f"[{name}]")
    return text


def without_rows(text: str) -> str:
    """What a client of Postgres says without the rows that it quotes."""
    return "\n".join(line for line in text.splitlines() if not line.startswith(("CONTEXT:", "DETAIL:")))
