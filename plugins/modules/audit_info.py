# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Say what audit history there is, in Postgres and in the archive."""

from __future__ import annotations

DOCUMENTATION = r"""
module: audit_info
short_description: Say what audit history there is, in Postgres and in the archive
version_added: 0.1.0
author: scutum.ops maintainers (@scutum-ops)
description:
  - Looks at the tables, and asks the archive's store for its list of months.
extends_documentation_fragment: scutum.ops.installation.directory
attributes:
  check_mode:
    description: Changes nothing anyway.
    support: full
  diff_mode:
    description: Nothing to show.
    support: none
options:
  command:
    description:
      - The command line of this collection on the host.
    type: path
    default: /usr/local/sbin/scutum-ops
"""

EXAMPLES = r"""
- name: What audit history is there?
  scutum.ops.audit_info:
    directory: /opt/scutum
  register: audit

- name: Nothing is late by more than two days, and nothing is wrong
  ansible.builtin.assert:
    that: audit.ok and audit.tables.audit_logs.lag_days < 2
"""

RETURN = r"""
ok:
  description: Whether nothing is wrong.
  returned: success
  type: bool
problems:
  description: What is wrong, each with what to do.
  returned: success
  type: list
  elements: str
tables:
  description: By table.
  returned: success
  type: dict
  contains:
    exists:
      description: Whether it exists.
      type: bool
    partitioned:
      description: Whether it is in partitions.
      type: bool
    rows:
      description: Rows in Postgres, estimated.
      type: int
    bytes:
      description: Bytes in Postgres, with indexes.
      type: int
    default_rows:
      description: Rows in the default partition.
      type: int
    hot_days:
      description: Days for which rows stay; none is unknown.
      type: int
    source:
      description: Where that number comes from.
      type: str
    lag_days:
      description: Days by which the oldest month that should be in the archive is late.
      type: float
    months:
      description: Each month with V(month), V(rows), V(bytes), V(state) (hot, due, archived, detached), V(archived_rows).
      type: list
      elements: dict
database_bytes:
  description: Size of the database.
  returned: success
  type: int
disk_ratio:
  description: Size of the database as a share of its disk; none when that is not known.
  returned: success
  type: float
where:
  description: The archive's store; empty for none.
  returned: success
  type: str
last_success:
  description: The last good run of the daily job; empty for none.
  returned: success
  type: dict
last_failure:
  description: The last failed one.
  returned: success
  type: dict
text:
  description: All of it for people.
  returned: success
  type: list
  elements: str
duration:
  description: Seconds.
  returned: success
  type: float
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.scutum.ops.plugins.module_utils import ansible_door
from ansible_collections.scutum.ops.plugins.module_utils.host_library import call
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "command": {"type": "path", "default": "/usr/local/sbin/scutum-ops"},
        },
        supports_check_mode=True,
    )
    installation = Installation(module.params["directory"])

    def work() -> dict[str, object]:
        ansible_door.installed(installation)
        # What is wrong is in the result: a module that only looks does not fail for it.
        words = ["audit", "--exit-zero"]
        return {"changed": False, **call(module.params["command"], installation.directory, words, timeout=600)}

    ansible_door.run(module, work)


if __name__ == "__main__":
    main()
