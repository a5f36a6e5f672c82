# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets from variables of the play, `scutum_secrets_values`: ansible-vault, or a lookup on the controller.

They are given anew with each run and not kept: the host cannot ask for them, and so has them in config/.env.
"""

from __future__ import annotations

from typing import Any

OPTIONS: tuple[str, ...] = ()


def where(options: dict[str, Any]) -> str:
    """The place, for people."""
    return "scutum_secrets_values"


def problems(options: dict[str, Any], credential: dict[str, str]) -> list[str]:
    """What is wrong with the settings."""
    return [] if credential else ["scutum_secrets_values is empty: source file takes the values from it"]


def read(options: dict[str, Any], credential: dict[str, str], timeout: float) -> dict[str, Any]:
    """What was given."""
    return dict(credential)
