# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing YAML without a YAML library, which a host need not have: block style, every string quoted as JSON."""

from __future__ import annotations

import json
import re
from typing import Any

_PLAIN_KEY = re.compile(r"^[A-Za-z_][A-Za-z0-9_.-]*$")
# What YAML 1.1 takes for something else than a string.
_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})


class Replaced:
    """A value that Compose takes instead of the one below it (!override), where it would merge the two."""

    def __init__(self, value: Any) -> None:
        self.value = value


def render(value: Any) -> str:
    """A mapping or list of plain values (and `Replaced`) as YAML text."""
    return "\n".join(_lines(value, 0)) + "\n"


def _lines(value: Any, depth: int) -> list[str]:
    pad = "  " * depth
    lines: list[str] = []
    if isinstance(value, dict):
        for key, item in value.items():
            name = str(key) if _is_plain(str(key)) else _quoted(str(key))
            lines += _entry(f"{pad}{name}:", item, depth)
    else:
        for item in value:
            lines += _entry(f"{pad}-", item, depth)
    return lines


def _entry(head: str, item: Any, depth: int) -> list[str]:
    if isinstance(item, Replaced):
        head, item = head + " !override", item.value
    if isinstance(item, (dict, list)) and item:
        return [head, *_lines(item, depth + 1)]
    return [f"{head} {_quoted(item)}"]


def _is_plain(key: str) -> bool:
    return bool(_PLAIN_KEY.fullmatch(key)) and key.lower() not in _WORDS


def _quoted(value: Any) -> str:
    """A scalar as JSON, with everything outside plain text as an escape that YAML reads back as the same character."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)
