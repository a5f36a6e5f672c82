# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Say how old secrets are."""

from __future__ import annotations

DOCUMENTATION = r"""
module: secret_age
short_description: Say how old each secret is, and when it is due
version_added: 0.1.0
author: scutum.ops maintainers (@scutum-ops)
description:
  - Reads what a run recorded on the host about values (a keyed mark and a date). No value is read or returned.
  - The age counts from the first run that found the value in force.
extends_documentation_fragment: scutum.ops.installation.directory
attributes:
  check_mode:
    description: Changes nothing anyway.
    support: full
  diff_mode:
    description: Nothing to show.
    support: none
options:
  due_days:
    description:
      - Days after which one is due, by its name in M(scutum.ops.secret_rotation) or its key; 0 is never. Without it 90 for C(jwt) and
        C(internal), 365 for C(postgres), 0 for all else.
    type: dict
    default: {}
"""

EXAMPLES = r"""
- name: How old are they?
  scutum.ops.secret_age:
    directory: /opt/scutum
  register: ages

- name: Nothing may be overdue
  ansible.builtin.assert:
    that: ages.due | length == 0
"""

RETURN = r"""
secrets:
  description: Each secret that is in force.
  returned: success
  type: list
  elements: dict
  contains:
    key:
      description: Its name in C(config/.env), or in the source.
      type: str
    name:
      description: Its name for a rotation; empty when it has none.
      type: str
    since:
      description: UTC, since when it has been in force.
      type: str
      sample: "2026-11-25T03:17:00Z"
    age_days:
      description: Whole days since then.
      type: int
    due_days:
      description: Days after which it is due; 0 is never.
      type: int
    due_at:
      description: UTC, when it is due; empty when never.
      type: str
    due:
      description: Whether it is time.
      type: bool
due:
  description: Keys of those that are due.
  returned: success
  type: list
  elements: str
text:
  description: The same for people.
  returned: success
  type: list
  elements: str
open_rotation:
  description: Names of the secrets of a rotation that was interrupted.
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
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation
from ansible_collections.scutum.ops.plugins.module_utils.secret_ages import Record, days, text
from ansible_collections.scutum.ops.plugins.module_utils.secret_rotation import open_rotation


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "due_days": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    installation = Installation(module.params["directory"])

    def work() -> dict[str, object]:
        ansible_door.installed(installation)
        found = Record(installation.private).ages(days(module.params["due_days"]))
        return {
            "changed": False,
            "secrets": found,
            "text": text(found),
            "due": [item["key"] for item in found if item["due"]],
            "open_rotation": open_rotation(installation),
        }

    ansible_door.run(module, work)


if __name__ == "__main__":
    main()
