# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The last screen of a run: what serves where, what was checked, what changed, how long it took."""

from __future__ import annotations

from typing import Any

DOCUMENTATION = r"""
name: summary
short_description: Sum up a run for a person
version_added: 0.1.0
author: scutum.ops maintainers (@scutum-ops)
description:
  - Turns the result of M(scutum.ops.verification) into lines of text.
positional: host, version, deployment, licence
options:
  _input:
    description: What M(scutum.ops.verification) returned.
    type: dict
    required: true
  host:
    description: Name of the host.
    type: str
    required: true
  version:
    description: The release.
    type: str
    required: true
  deployment:
    description: What M(scutum.ops.deployment) returned.
    type: dict
    required: true
  licence:
    description: What M(scutum.ops.license) returned; it may have been skipped.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Say what runs
  ansible.builtin.debug:
    msg: "{{ verification | scutum.ops.summary(inventory_hostname, scutum_version, deployed, licence) }}"
"""

RETURN = r"""
_value:
  description: The text, lines separated by newlines.
  type: str
"""


def summary(
    verification: dict[str, Any], host: str, version: str, deployment: dict[str, Any], licence: dict[str, Any]
) -> str:
    """The text for one host."""
    checks = verification.get("checks", [])
    good = sum(1 for item in checks if item["ok"])
    lines = [
        f"Scutum {version} serves on {host}: {good} of {len(checks)} checks passed in {verification.get('duration')} s"
    ]
    lines += [f"  {name:<10} {url}" for name, url in sorted(verification.get("urls", {}).items())]
    shown = ["completion ", "migrations", "admin-api with"] + ([] if licence.get("status") else ["licence"])
    lines += [f"  {item['name']}: {item['detail']}" for item in checks if item["name"].startswith(tuple(shown))]
    if licence.get("status"):
        held = licence["after"]
        lines.append(
            f"  licence {licence['status']}: {held['tier']} for {held['customer_email']} until {held['expires_at']} "
            f"({licence['agreeing']} of {licence['answers']} answers)"
        )
    changes = deployment.get("changes") or []
    lines.append(f"  deployed in {deployment.get('duration')} s: {', '.join(changes) or 'nothing changed'}")
    return "\n".join(lines)


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Any]:
        """By name."""
        return {"summary": summary}
