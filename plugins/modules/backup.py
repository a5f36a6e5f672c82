# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Say how an installation is backed up, and back it up."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backup
short_description: Say how an installation is backed up, and take a backup
version_added: 0.1.0
author: scutum.ops maintainers (@scutum-ops)
description:
  - Keeps the settings for C(scutum-ops backup) on the host, which a schedule runs. With O(now) it runs it.
  - A dump by the server's own client is streamed into the store, with a configuration archive; a manifest of the same moment is written
    last. Nothing that failed counts as a backup.
extends_documentation_fragment: scutum.ops.installation.directory
attributes:
  check_mode:
    description: Says what would be kept, and that a backup would be taken; nothing is asked of the store.
    support: full
  diff_mode:
    description: Names are in RV(changes).
    support: none
options:
  store:
    description:
      - Where backups are kept; C(bucket), C(prefix), C(endpoint_url), C(region), C(addressing_style), C(sse), C(kms_key_id),
        C(storage_class), C(checksums), C(attempts), C(ca_file), or C(directory).
    type: dict
    required: true
  age_recipients:
    description:
      - age recipients; with any, all that leaves the host is encrypted for them.
    type: list
    elements: str
    default: []
  keep_daily:
    description:
      - How many daily ones are kept.
    type: int
    default: 14
  keep_weekly:
    description:
      - How many weekly ones are kept beside them; -1 is for ever.
    type: int
    default: -1
  compression_level:
    description:
      - Level of zstd.
    type: int
    default: 1
  timeout:
    description:
      - Seconds after which a run is ended.
    type: int
    default: 21600
  spool:
    description:
      - Directory on the host for the dump before it is uploaded; empty, it is streamed, and nothing is written to the host.
    type: str
    default: ""
  now:
    description:
      - Take a backup, too.
    type: bool
    default: false
  metrics:
    description:
      - Directory for metrics of that run; empty for none.
    type: str
    default: ""
  command:
    description:
      - The command line of this collection on the host.
    type: path
    default: /usr/local/sbin/scutum-ops
"""

EXAMPLES = r"""
- name: A backup, now
  scutum.ops.backup:
    directory: /opt/scutum
    store:
      bucket: my-backups
      prefix: scutum/production
      region: eu-central-1
    now: true
"""

RETURN = r"""
changes:
  description: What was kept, or would be.
  returned: success
  type: list
  elements: str
backup:
  description: The backup that was taken.
  returned: when O(now) and not in check mode
  type: dict
  contains:
    id:
      description: Its name; the UTC time of its beginning.
      type: str
      sample: 20261125T031700Z
    bytes:
      description: Bytes in the store.
      type: int
    seconds:
      description: Seconds that it took.
      type: float
    tables:
      description: Number of tables.
      type: int
    rows:
      description: Number of rows.
      type: int
    encrypted:
      description: Whether it is encrypted.
      type: bool
    where:
      description: The store.
      type: str
    removed:
      description: Backups that the retention gave free.
      type: list
      elements: str
    warnings:
      description: What went wrong beside it.
      type: list
      elements: str
duration:
  description: Seconds.
  returned: success
  type: float
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.scutum.ops.plugins.module_utils import ansible_door, backup
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from ansible_collections.scutum.ops.plugins.module_utils.host_library import call
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "store": {"type": "dict", "required": True},
            "age_recipients": {"type": "list", "elements": "str", "default": [], "no_log": True},
            "keep_daily": {"type": "int", "default": 14},
            "keep_weekly": {"type": "int", "default": -1},
            "compression_level": {"type": "int", "default": 1},
            "timeout": {"type": "int", "default": 21600},
            "spool": {"type": "str", "default": ""},
            "now": {"type": "bool", "default": False},
            "metrics": {"type": "str", "default": ""},
            "command": {"type": "path", "default": "/usr/local/sbin/scutum-ops"},
        },
        supports_check_mode=True,
    )
    given = module.params
    installation = Installation(given["directory"])

    def work() -> dict[str, object]:
        ansible_door.installed(installation)
        wanted = backup.Settings(
            store=given["store"],
            age_recipients=given["age_recipients"],
            keep_daily=given["keep_daily"],
            keep_weekly=None if given["keep_weekly"] == -1 else given["keep_weekly"],
            compression_level=given["compression_level"],
            timeout=given["timeout"],
            spool=given["spool"],
        )
        problems = backup.problems(wanted)
        if problems:
            raise ScutumError(
                "; ".join(problems),
                left="nothing was changed",
                next_step="docs/roles/backup.md has an example for each store",
            )
        changes = backup.configure(installation, wanted, module.check_mode)
        result: dict[str, Any] = {"changed": bool(changes) or given["now"], "changes": changes}
        if given["now"] and module.check_mode:
            result["changes"] = [*changes, "a backup"]
        elif given["now"]:
            words = ["backup", *(["--metrics", given["metrics"]] if given["metrics"] else [])]
            result["backup"] = call(given["command"], installation.directory, words, timeout=given["timeout"] + 600)
            for warning in result["backup"]["warnings"]:
                module.warn(warning)
        return result

    ansible_door.run(module, work)


if __name__ == "__main__":
    main()
