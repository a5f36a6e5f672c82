# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan limits for every service, put them in force, read them back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: resource_limits
short_description: Plan limits for every service, put them in force, read them back
version_added: 0.1.0
author: scutum.ops maintainers (@scutum-ops)
description:
  - Plans memory, CPU and process limits, workers, Postgres's and Redis's memory from traffic and the host, by the whitepaper's rules
    (point 4). What does not fit is refused with the numbers and the nearest plan that does.
  - Only services whose numbers change are recreated, Postgres last. Afterwards the control group of each running container, Postgres's
    settings and Redis's limit are read back and compared.
extends_documentation_fragment: scutum.ops.installation.directory
attributes:
  check_mode:
    description: Plans, and says what would be recreated.
    support: full
  diff_mode:
    description: The numbers before and after.
    support: full
options:
  state:
    description:
      - V(present) puts a plan in force; V(planned) only makes it, also before anything is installed; V(previous) goes back to the numbers
        before the last change; V(absent) takes all limits away.
    type: str
    choices: [present, planned, previous, absent]
    default: present
  requests_per_day:
    description:
      - Requests a day on a busy day. Without this and O(requests_per_second) it is planned for 100,000 a day, or for less where the host is
        smaller.
    type: raw
  requests_per_second:
    description:
      - Requests a second at peak. Without it, five times the day's mean.
    type: raw
  audit_writes_per_day:
    description:
      - Rows of C(audit_logs) a day. Without it, one for ten requests.
    type: raw
  cached_prompts:
    description:
      - Entries of the semantic cache, 12 KiB each.
    type: raw
  measure:
    description:
      - Take the traffic from LiteLLM's table, or from its metrics. A plan that was made for much the same (25 %) stays.
    type: bool
    default: false
  measure_days:
    description:
      - Whole days (UTC) that are looked at.
    type: raw
    default: 7
  measure_seconds:
    description:
      - Seconds for which LiteLLM's metrics are watched when its table has no whole day, and for which the CPUs are.
    type: raw
    default: 60
  host_cores:
    description:
      - Cores to plan for. Without it, those of the host.
    type: raw
  host_memory:
    description:
      - Memory to plan for, such as V(16g), V(16GiB) or a number of bytes. Without it, the host's.
    type: raw
  litellm_workers:
    description:
      - Worker processes of LiteLLM. Without it, what the traffic needs, and up to four where there is room.
    type: raw
  admin_api_workers:
    description:
      - Worker processes of admin-api. Without it, 1, 2 (beyond 100,000 requests a day) or 4 (beyond 500,000).
    type: raw
  postgres_max_connections:
    description:
      - Connections of Postgres. Without it 100, or what keeps the pools below 80 % of it.
    type: raw
  litellm_connections:
    description:
      - Connections of each LiteLLM worker (its C(database_connection_pool_limit)).
    type: raw
    default: 10
  fixed:
    description:
      - By service, C(memory) and C(cpus) that are not planned.
    type: dict
    default: {}
  regions:
    description:
      - Places on different continents from which it is used.
    type: raw
    default: 1
  profiles:
    description:
      - Profiles of the Compose file that are on. Empty for what C(config/.env) says.
    type: list
    elements: str
    default: []
  log_driver:
    description:
      - V(json-file) with rotation, V(journald), or empty for the engine's own.
    type: str
    default: json-file
  log_max_size:
    description:
      - Of a container's log file.
    type: raw
    default: 10m
  log_max_files:
    description:
      - Kept of each container.
    type: raw
    default: 5
  open_files:
    description:
      - Limit of open files of each container; V(0) for the engine's own.
    type: raw
    default: 16384
  timeout:
    description:
      - Seconds within which every service has to be healthy.
    type: int
    default: 300
"""

EXAMPLES = r"""
- name: For half a million requests a day
  scutum.ops.resource_limits:
    directory: /opt/scutum
    requests_per_day: 500000

- name: For what it was in the last week
  scutum.ops.resource_limits:
    directory: /opt/scutum
    measure: true

- name: As it was before the last change
  scutum.ops.resource_limits:
    directory: /opt/scutum
    state: previous
"""

RETURN = r"""
limits:
  description: What is in force, or would be - V(plan) with the numbers, and the settings of logs and files. Empty without limits.
  returned: success
  type: dict
text:
  description: The plan for people.
  returned: success
  type: list
  elements: str
changes:
  description: What was (or would be) changed.
  returned: success
  type: list
  elements: str
  sample: ["limits", "litellm: recreate"]
measured:
  description: With O(measure), the traffic and where it was taken from.
  returned: success
  type: dict
signals:
  description: With O(measure), what says whether one host is enough - V(idle_in_transaction), V(litellm_busy), V(host_busy), V(scale_out).
  returned: success
  type: dict
duration:
  description: Seconds.
  returned: success
  type: float
"""

from dataclasses import asdict, fields
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.scutum.ops.plugins.module_utils import (
    ansible_door,
    deployment,
    limit_plan,
    limits,
    sizing,
    traffic,
)
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation

SPEC: dict[str, dict[str, Any]] = {
    "directory": {"type": "path", "required": True},
    "state": {"type": "str", "choices": ["present", "planned", "previous", "absent"], "default": "present"},
    "requests_per_day": {"type": "raw"},
    "requests_per_second": {"type": "raw"},
    "audit_writes_per_day": {"type": "raw"},
    "cached_prompts": {"type": "raw"},
    "measure": {"type": "bool", "default": False},
    "measure_days": {"type": "raw", "default": 7},
    "measure_seconds": {"type": "raw", "default": 60},
    "host_cores": {"type": "raw"},
    "host_memory": {"type": "raw"},
    "litellm_workers": {"type": "raw"},
    "admin_api_workers": {"type": "raw"},
    "postgres_max_connections": {"type": "raw"},
    "litellm_connections": {"type": "raw", "default": 10},
    "fixed": {"type": "dict", "default": {}},
    "regions": {"type": "raw", "default": 1},
    "profiles": {"type": "list", "elements": "str", "default": []},
    "log_driver": {"type": "str", "default": "json-file"},
    "log_max_size": {"type": "raw", "default": "10m"},
    "log_max_files": {"type": "raw", "default": 5},
    "open_files": {"type": "raw", "default": 16384},
    "timeout": {"type": "int", "default": 300},
}


def main() -> None:
    """Entry point."""
    module = AnsibleModule(argument_spec=SPEC, supports_check_mode=True)
    given = module.params
    installation = Installation(given["directory"])
    names = {item.name for item in fields(limit_plan.Wanted)}
    asked = limit_plan.Wanted(**{name: value for name, value in given.items() if name in names})

    def work() -> dict[str, object]:
        if given["measure"] or given["state"] != "planned":
            ansible_door.installed(installation)
        held = limits.load(installation)
        measured: dict[str, Any] = {}
        wanted, revert = held.current, False
        if given["state"] in ("present", "planned"):
            wanted, measured = limit_plan.make(installation, asked)
        elif given["state"] == "absent":
            wanted = None
        elif not held.reverted:
            if held.previous is None:
                raise ScutumError(
                    f"{installation.directory} has no limits before the present ones",
                    left="nothing was changed",
                    next_step="scutum_limits_state: absent takes all limits away",
                )
            wanted, revert = held.previous, True
        result: dict[str, object] = {
            "limits": asdict(wanted) if wanted else {},
            "text": sizing.table(wanted.plan) if wanted else ["no limits"],
            "measured": measured,
            "signals": {},
        }
        if given["state"] == "planned":
            return {"changed": False, "changes": [], **result}
        if measured:
            seconds = min(10.0, float(given["measure_seconds"]))
            result["signals"] = traffic.signals(installation, seconds, module.debug)
        done = deployment.limit(installation, wanted, given["timeout"], module.check_mode, revert)
        before, after = limits.changes(held.current, wanted)
        return {
            "changed": bool(done["changes"]),
            "changes": done["changes"],
            "diff": {"before": before, "after": after, "before_header": "limits", "after_header": "limits"},
            **result,
        }

    ansible_door.run(module, work)


if __name__ == "__main__":
    main()
