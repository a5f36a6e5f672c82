# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the sources of secrets share: how they refuse, and a secret that holds all keys as one JSON object."""

from __future__ import annotations

import json
from typing import Any

from .errors import ScutumError

UNTOUCHED = "nothing was changed"


def refusal(where: str, what: str, next_step: str) -> ScutumError:
    """A failure of a source: the place, what is wrong, never a value."""
    return ScutumError(f"{where}: {what}", left=UNTOUCHED, next_step=next_step)


def document(where: str, text: Any) -> dict[str, Any]:
    """The keys and values of a secret that holds all of them."""
    try:
        return dict(json.loads(text))
    except (TypeError, ValueError):
        raise refusal(
            where,
            "it is no JSON object",
            'store {"SCUTUM_API_KEY": "…", …} as its text, or use prefix for one secret a key',
        ) from None


def one_of(options: dict[str, Any], whole: str) -> list[str]:
    """The problem of settings that name both or neither of a whole secret and a prefix."""
    if bool(options.get(whole)) != bool(options.get("prefix")):
        return []
    return [f"scutum_secrets_options: one of {whole} (a JSON secret) and prefix (one secret a key) is needed"]
