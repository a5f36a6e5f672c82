# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Have tables of the product in partitions by month, or plain again."""

from __future__ import annotations

DOCUMENTATION = r"""
module: audit_partitions
short_description: Have tables of the product in partitions by month, or plain again
version_added: 0.1.0
author: scutum.ops maintainers (@scutum-ops)
description:
  - Converts a live table into partitions by month (UTC) while inserts go on; no lock is held for longer than a moment, and one that is not
    got at once is tried again. What an earlier run began and did not end is continued.
  - In partitions already, it has the next months' there, and moves rows of the default partition where they belong.
  - What cannot be carried over is named, and nothing is changed.
extends_documentation_fragment: scutum.ops.installation.directory
attributes:
  check_mode:
    description: Prints the plan - steps, locks, sizes, the expected duration.
    support: full
  diff_mode:
    description: The shape of each table before and after.
    support: full
options:
  tables:
    description:
      - Which tables, of V(audit_logs), V(request_logs), V(event_log), V(provider_health_metrics).
    type: list
    elements: str
    default: [audit_logs]
  partitions_ahead:
    description:
      - Months for which partitions are there in advance.
    type: int
    default: 3
  lock_patience:
    description:
      - Seconds for which a lock on a table is tried again.
    type: int
    default: 600
  state:
    description:
      - V(present) has them in partitions; V(absent) makes plain tables of them again, with all rows that are in Postgres.
    type: str
    choices: [present, absent]
    default: present
  confirm:
    description:
      - For O(state=absent) this host's name, as a confirmation; without it only the plan is printed.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: In partitions by month
  scutum.ops.audit_partitions:
    directory: /opt/scutum

- name: Plain again
  scutum.ops.audit_partitions:
    directory: /opt/scutum
    state: absent
    confirm: gateway1
"""

RETURN = r"""
changes:
  description: What was done, or would be.
  returned: success
  type: list
  elements: str
plans:
  description: By table, the steps of what was done, or would be.
  returned: success
  type: dict
text:
  description: The same for people.
  returned: success
  type: list
  elements: str
duration:
  description: Seconds.
  returned: success
  type: float
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.scutum.ops.plugins.module_utils import ansible_door, audit_arrange, audit_settings
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "tables": {"type": "list", "elements": "str", "default": ["audit_logs"]},
            "partitions_ahead": {"type": "int", "default": 3},
            "lock_patience": {"type": "int", "default": 600},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "confirm": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    given = module.params
    installation = Installation(given["directory"])

    def work() -> dict[str, object]:
        wanted = audit_settings.from_words({**given, "tables": {name: {} for name in given["tables"]}})
        if module.check_mode and not audit_arrange.reachable(installation):
            told = f"no Postgres runs in {installation.directory} yet; then {', '.join(wanted.tables)} would be in partitions by month"
            return {"changed": given["state"] == "present", "changes": [], "plans": {}, "text": [told]}
        ansible_door.installed(installation)
        if given["state"] == "present":
            result = audit_arrange.arrange(installation, wanted, module.debug, module.check_mode)
        else:
            result = audit_arrange.undo(installation, wanted, given["confirm"], module.debug, module.check_mode)
        before = "".join(f"{name}: {shape}\n" for name, shape in result.pop("before").items())
        after = "".join(f"{name}: {shape}\n" for name, shape in result.pop("after").items())
        diff = {"before": before, "after": after, "before_header": "tables", "after_header": "tables"}
        return {"changed": bool(result["changes"]), "diff": diff, **result}

    ansible_door.run(module, work)


if __name__ == "__main__":
    main()
