# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prove that a backup restores."""

from __future__ import annotations

DOCUMENTATION = r"""
module: restore_verification
short_description: Prove that a backup restores
version_added: 0.1.0
author: scutum.ops maintainers (@scutum-ops)
description:
  - Pulls the newest backup from the store, restores it into a throwaway Postgres on a network without a way out, compares every table and
    every object of the schema with the manifest that was taken in the dump's own snapshot, checks the indexes, and starts the recorded
    admin-api on the result.
  - A backup that passed is marked as verified in the store. The report lies on the host and goes out by the ways that are configured.
  - It fails when the backup does not bring everything back, and when it could not be tried.
extends_documentation_fragment: scutum.ops.installation.directory
attributes:
  check_mode:
    description: Says which backup would be verified; nothing is pulled.
    support: full
  diff_mode:
    description: Nothing to show.
    support: none
options:
  name:
    description:
      - Of a backup; without it the newest one.
    type: str
    default: ""
  max_age:
    description:
      - Hours; an older newest backup is a failure of its own.
    type: float
    default: 36
  again:
    description:
      - Verify one that was verified before.
    type: bool
    default: false
  memory:
    description:
      - Memory of the throwaway, in Docker's units.
    type: str
    default: 2g
  spool:
    description:
      - Directory on the host for the dump while it is restored; empty for one below C(.scutum-ops).
    type: str
    default: ""
  metrics:
    description:
      - Directory for metrics; empty for none.
    type: str
    default: ""
  timeout:
    description:
      - Seconds.
    type: int
    default: 43200
  command:
    description:
      - The command line of this collection on the host.
    type: path
    default: /usr/local/sbin/scutum-ops
"""

EXAMPLES = r"""
- name: The newest backup restores
  scutum.ops.restore_verification:
    directory: /opt/scutum
  register: verification

- name: Say how long it took
  ansible.builtin.debug:
    msg: "{{ verification.text }}"
"""

RETURN = r"""
ok:
  description: Whether it is verified.
  returned: success
  type: bool
outcome:
  description: V(verified), or V(planned) in check mode.
  returned: success
  type: str
id:
  description: Name of the backup.
  returned: success
  type: str
checks:
  description: What was checked, with the result and the seconds of each.
  returned: success
  type: list
  elements: dict
recovery_point_seconds:
  description: Age of the backup at the test.
  returned: success
  type: float
recovery_time_seconds:
  description: Seconds from the pull to an answer of admin-api.
  returned: success
  type: float
drift:
  description: Rows that the live database has more or less since, by table; information only.
  returned: success
  type: dict
text:
  description: The report for people.
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
            "name": {"type": "str", "default": ""},
            "max_age": {"type": "float", "default": 36},
            "again": {"type": "bool", "default": False},
            "memory": {"type": "str", "default": "2g"},
            "spool": {"type": "str", "default": ""},
            "metrics": {"type": "str", "default": ""},
            "timeout": {"type": "int", "default": 43200},
            "command": {"type": "path", "default": "/usr/local/sbin/scutum-ops"},
        },
        supports_check_mode=True,
    )
    given = module.params
    installation = Installation(given["directory"])

    def work() -> dict[str, object]:
        ansible_door.installed(installation)
        words = ["verify-restore", "--max-age", str(given["max_age"]), "--memory", given["memory"]]
        words += ["--again"] if given["again"] else []
        words += ["--check"] if module.check_mode else []
        for option in ("name", "spool", "metrics"):
            words += [f"--{option}", given[option]] if given[option] else []
        report = call(given["command"], installation.directory, words, timeout=given["timeout"])
        return {"changed": True, **report}

    ansible_door.run(module, work)


if __name__ == "__main__":
    main()
