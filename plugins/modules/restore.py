# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restore a backup into production, go back from it, or make it final."""

from __future__ import annotations

DOCUMENTATION = r"""
module: restore
short_description: Restore a backup into production, go back from it, or make it final
version_added: 0.1.0
author: scutum.ops maintainers (@scutum-ops)
description:
  - Restores a backup into a new database beside the one that serves, compares it with its manifest, stops what writes, swaps the names of
    both in one transaction, starts everything and verifies it. What served before is kept until O(finalize).
  - Without O(confirm), O(undo) or O(finalize) it says what it would do. Each of them has to be the name of the host that it runs on.
  - A run that is killed at any point is continued by the same call; a restored database that does not serve is swapped back.
extends_documentation_fragment: scutum.ops.installation.directory
attributes:
  check_mode:
    description: Says what would be done; nothing is pulled but the manifest, and on an empty host the configuration archive.
    support: full
  diff_mode:
    description: Nothing to show.
    support: none
options:
  state:
    description:
      - V(prepared) makes an empty host ready for an install of the backup's release, and leaves any other host as it is.
      - V(restored) does what is confirmed.
    type: str
    choices: [prepared, restored]
    default: restored
  name:
    description:
      - Of a backup; without it the newest one.
    type: str
    default: ""
  confirm:
    description:
      - The host's name; restore.
    type: str
    default: ""
  undo:
    description:
      - The host's name; go back to the database that served before.
    type: str
    default: ""
  finalize:
    description:
      - The host's name; drop the database that was kept.
    type: str
    default: ""
  safety_backup:
    description:
      - Take a backup of what is there first.
    type: bool
    default: true
  drill:
    description:
      - Take event subscriptions out of what is restored; they would page the real on-call.
    type: bool
    default: false
  store:
    description:
      - Where the backup is, as in M(scutum.ops.backup); empty for the place of the host's own backups.
    type: dict
    default: {}
  environment:
    description:
      - Values for C(config/.env), as the install gets them; an empty host takes the store's credential and the age identity from here.
    type: dict
    default: {}
  spool:
    description:
      - Directory on the host for the dump while it is restored; empty for one below C(.scutum-ops).
    type: str
    default: ""
  start_timeout:
    description:
      - Seconds until services have to be healthy.
    type: int
    default: 300
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
- name: Say what a restore of the newest backup would do
  scutum.ops.restore:
    directory: /opt/scutum

- name: Restore it
  scutum.ops.restore:
    directory: /opt/scutum
    confirm: gateway1
"""

RETURN = r"""
outcome:
  description: One of V(planned), V(restored), V(undone), V(finalized), V(unchanged).
  returned: success, for O(state=restored)
  type: str
id:
  description: Name of the backup.
  returned: success
  type: str
release:
  description: The release that belongs to it.
  returned: success, for O(state=prepared)
  type: str
empty:
  description: Whether the host still holds no installation.
  returned: success, for O(state=prepared)
  type: bool
install:
  description: Whether that release has to be installed now.
  returned: success, for O(state=prepared)
  type: bool
checks:
  description: The steps, with the result and the seconds of each.
  returned: success, for O(state=restored)
  type: list
  elements: dict
warnings:
  description: What was not brought back, and what has to be known.
  returned: success, for O(state=restored)
  type: list
  elements: str
kept:
  description: Name of the database that is kept.
  returned: success, for O(state=restored)
  type: str
drift:
  description: Rows that the kept database has more or less, by table.
  returned: success, for O(state=restored)
  type: dict
safety:
  description: Name of the backup that was taken before.
  returned: success, for O(state=restored)
  type: str
recovery_time_seconds:
  description: Seconds from the beginning, an install included, until everything was verified.
  returned: when O(confirm) did something
  type: float
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

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.scutum.ops.plugins.module_utils import ansible_door, env_file
from ansible_collections.scutum.ops.plugins.module_utils.host_library import call
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["prepared", "restored"], "default": "restored"},
            "name": {"type": "str", "default": ""},
            "confirm": {"type": "str", "default": ""},
            "undo": {"type": "str", "default": ""},
            "finalize": {"type": "str", "default": ""},
            "safety_backup": {"type": "bool", "default": True},
            "drill": {"type": "bool", "default": False},
            "store": {"type": "dict", "default": {}},
            "environment": {"type": "dict", "default": {}, "no_log": True},
            "spool": {"type": "str", "default": ""},
            "start_timeout": {"type": "int", "default": 300},
            "timeout": {"type": "int", "default": 43200},
            "command": {"type": "path", "default": "/usr/local/sbin/scutum-ops"},
        },
        supports_check_mode=True,
    )
    given = module.params
    installation = Installation(given["directory"])
    ansible_door.mask_only(module, env_file.hidden_of(given["environment"]))

    def work() -> dict[str, object]:
        environment, problems = env_file.texts(given["environment"])
        env_file.refuse(problems)
        if module.check_mode and not os.path.exists(given["command"]):
            told = "this host is empty, and nothing can be asked of the store from here yet: run it without check mode and without "
            told += "scutum_restore_confirm, which installs the library for jobs and nothing else"
            return {
                "changed": True,
                "install": False,
                "release": "",
                "id": given["name"],
                "outcome": "planned",
                "text": [told],
            }
        words = ["restore", "--settings", "-", "--timeout", str(given["start_timeout"])]
        for option in ("name", "confirm", "undo", "finalize", "spool"):
            words += [f"--{option}", given[option]] if given[option] else []
        words += [] if given["safety_backup"] else ["--no-safety-backup"]
        words += ["--drill"] if given["drill"] else []
        words += ["--prepare"] if given["state"] == "prepared" else []
        words += ["--check"] if module.check_mode else []
        settings = {"store": given["store"], "environment": environment}
        result = call(given["command"], installation.directory, words, given=settings, timeout=given["timeout"])
        for warning in result.pop("warnings", []):
            module.warn(warning)
        return result

    ansible_door.run(module, work)


if __name__ == "__main__":
    main()
