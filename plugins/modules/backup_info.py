# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Say which backups there are."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backup_info
short_description: Say which backups of an installation there are
version_added: 0.1.0
author: scutum.ops maintainers (@scutum-ops)
description:
  - Asks the store. What has no manifest does not count, and is listed apart.
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
- name: Which backups are there?
  scutum.ops.backup_info:
    directory: /opt/scutum
  register: backups

- name: One of them is younger than a day
  ansible.builtin.assert:
    that: backups.age_hours is not none and backups.age_hours < 24
"""

RETURN = r"""
backups:
  description: Those that count, newest first.
  returned: success
  type: list
  elements: dict
  contains:
    id:
      description: Its name; the UTC time of its beginning.
      type: str
    bytes:
      description: Bytes in the store.
      type: int
    verified:
      description: Whether a restore of it was proven.
      type: bool
before_restores:
  description: Names of those that were taken before a restore; they are kept until somebody removes them.
  returned: success
  type: list
  elements: str
incomplete:
  description: Names of what was begun and never finished.
  returned: success
  type: list
  elements: str
age_hours:
  description: Age of the newest one; none when there is none.
  returned: success
  type: float
verified_age_hours:
  description: Age of the newest verified one; none when there is none.
  returned: success
  type: float
last_failure:
  description: When the last run failed, and why; empty when none did.
  returned: success
  type: dict
where:
  description: The store.
  returned: success
  type: str
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
        return {"changed": False, **call(module.params["command"], installation.directory, ["backup-info"])}

    ansible_door.run(module, work)


if __name__ == "__main__":
    main()
