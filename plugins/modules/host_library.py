# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Install the collection's library for jobs on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_library
short_description: Install the library for jobs that run on the host without Ansible
version_added: 0.1.0
author: scutum.ops maintainers (@scutum-ops)
description:
  - Puts the code that the modules use on the host, with the command C(scutum-ops) as its door for schedules and people.
  - Third-party parts go into one isolated environment with pinned versions.
attributes:
  check_mode:
    description: Says what would change.
    support: full
  diff_mode:
    description: Nothing to show.
    support: none
options:
  home:
    description:
      - Directory for library and environment.
    type: path
    default: /usr/local/lib/scutum-ops
  command:
    description:
      - Path of the executable.
    type: path
    default: /usr/local/sbin/scutum-ops
  requirements:
    description:
      - Third-party parts, each as C(name==version).
    type: list
    elements: str
    default: []
  wheelhouse:
    description:
      - Directory on the host with wheels, for an installation without a network.
    type: path
"""

EXAMPLES = r"""
- name: Install the library
  scutum.ops.host_library:
"""

RETURN = r"""
changes:
  description: Paths that were (or would be) changed.
  returned: success
  type: list
  elements: str
jobs:
  description: Jobs that the command knows.
  returned: success
  type: list
  elements: str
duration:
  description: Seconds.
  returned: success
  type: float
"""

from ansible.module_utils.basic import AnsibleModule

# What the command runs is named here so that Ansible sends it, and all that it imports, with this module.
from ansible_collections.scutum.ops.plugins.module_utils import ansible_door, host_library
from ansible_collections.scutum.ops.plugins.module_utils.cli import JOBS


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "home": {"type": "path", "default": "/usr/local/lib/scutum-ops"},
            "command": {"type": "path", "default": "/usr/local/sbin/scutum-ops"},
            "requirements": {"type": "list", "elements": "str", "default": []},
            "wheelhouse": {"type": "path"},
        },
        supports_check_mode=True,
    )
    given = module.params

    def work() -> dict[str, object]:
        changes = host_library.install(
            given["home"], given["command"], given["requirements"], given["wheelhouse"] or "", module.check_mode
        )
        return {"changed": bool(changes), "changes": changes, "jobs": sorted(JOBS)}

    ansible_door.run(module, work)


if __name__ == "__main__":
    main()
