# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizing on its own: a plan for any traffic and any host, without one."""

from __future__ import annotations

from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.scutum.ops.plugins.module_utils import limit_plan
from ansible_collections.scutum.ops.plugins.module_utils import sizing as rules
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError

DOCUMENTATION = r"""
name: sizing
short_description: Plan limits for traffic and a host
version_added: 0.1.0
author: scutum.ops maintainers (@scutum-ops)
description:
  - The plan that M(scutum.ops.resource_limits) makes, for any host, asked of nobody.
positional: cores, memory, services
options:
  _input:
    description:
      - What M(scutum.ops.resource_limits) takes, by the names of its options, for instance V(requests_per_day).
    type: dict
    required: true
  cores:
    description: Cores of the host.
    type: float
    required: true
  memory:
    description: Memory of the host, such as V(16g).
    type: str
    required: true
  services:
    description: Services that run.
    type: list
    elements: str
    default: [postgres, redis, litellm, admin-api, admin-ui, docs-site]
"""

EXAMPLES = r"""
- name: What would a million requests a day need?
  ansible.builtin.debug:
    msg: "{{ ({'requests_per_day': 1000000} | scutum.ops.sizing(4, '16g')).text }}"
"""

RETURN = r"""
_value:
  description: V(plan), as the module returns it, and V(text), for people.
  type: dict
"""

SERVICES = ("postgres", "redis", "litellm", "admin-api", "admin-ui", "docs-site")


def sizing(
    wanted: dict[str, Any], cores: float, memory: str, services: list[str] | tuple[str, ...] = SERVICES
) -> dict[str, Any]:
    """A plan for a host."""
    try:
        asked = limit_plan.Wanted(**{**wanted, "host_cores": cores, "host_memory": memory})
        plan = rules.plan(limit_plan.request(asked, tuple(services)))
    except ScutumError as error:
        raise AnsibleFilterError(str(error)) from error
    except TypeError as error:
        raise AnsibleFilterError(f"scutum.ops.sizing: {error}") from error
    return {"plan": plan, "text": rules.table(plan)}


class FilterModule:
    """Filters of this file."""

    def filters(self) -> dict[str, Any]:
        """By name."""
        return {"sizing": sizing}
