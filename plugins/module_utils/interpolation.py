# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compose's interpolation, done by us where Compose must not see the values."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .errors import ScutumError

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_USED = re.compile(r"(?<!\$)(?:\$\$)*\$\{?([A-Za-z_][A-Za-z0-9_]*)")


def variables(text: str) -> set[str]:
    """Names of the variables that a text uses, those of its defaults as well."""
    return set(_USED.findall(text))


def escape(text: str) -> str:
    """A text that interpolation gives back as it is."""
    return text.replace("$", "$$")


def interpolate(text: str, values: Mapping[str, str]) -> str:
    """A text with its variables replaced.

    Knows `$$`, `$NAME`, `${NAME}` and `${NAME:-default}`, `-`, `:?error`, `?`, `:+other`, `+`, nested (source: Compose
    specification, "Interpolation").
    """
    out = []
    place = 0
    while place < len(text):
        if text[place] != "$":
            out.append(text[place])
            place += 1
        elif text.startswith("$$", place):
            out.append("$")
            place += 2
        elif text.startswith("${", place):
            end = _closing(text, place + 2)
            out.append(_expand(text[place + 2 : end], values))
            place = end + 1
        else:
            found = _NAME.match(text, place + 1)
            out.append(values.get(found.group(), "") if found else "$")
            place = found.end() if found else place + 1
    return "".join(out)


def _closing(text: str, start: int) -> int:
    depth = 1
    for place in range(start, len(text)):
        if text.startswith("${", place):
            depth += 1
        elif text[place] == "}":
            depth -= 1
            if not depth:
                return place
    raise ScutumError("a variable in the Compose file is not closed: ${ without }")


def _expand(inner: str, values: Mapping[str, str]) -> str:
    found = _NAME.match(inner)
    if not found:
        raise ScutumError("a variable in the Compose file has no name")
    name, rest = found.group(), inner[found.end() :]
    value = values.get(name)
    strict = rest.startswith(":")
    there = bool(value) if strict else value is not None
    operator, word = rest[strict : strict + 1], rest[strict + 1 :]
    if operator == "-":
        return str(value) if there else interpolate(word, values)
    if operator == "+":
        return interpolate(word, values) if there else ""
    if operator == "?" and not there:
        raise ScutumError(f"{name} {interpolate(word, values) or 'is missing'}")
    return value or ""
