# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Say how long audit history stays in Postgres and where it is archived, and run the daily job."""

from __future__ import annotations

DOCUMENTATION = r"""
module: audit_retention
short_description: Say how long audit history stays in Postgres, and run the daily job
version_added: 0.1.0
author: scutum.ops maintainers (@scutum-ops)
description:
  - Keeps the settings for C(scutum-ops audit-retention) on the host, which a schedule runs. With O(now) it runs it.
  - Months that are due go into the archive, are read back and compared, and are dropped only then. Everything that keeps one from leaving
    is named.
extends_documentation_fragment: scutum.ops.installation.directory
attributes:
  check_mode:
    description: Says what would be kept; with O(now), which months would leave, when the host can be asked.
    support: full
  diff_mode:
    description: Names are in RV(changes).
    support: none
options:
  store:
    description:
      - Where months are archived; C(bucket), C(prefix), C(endpoint_url), C(region), C(addressing_style), C(sse), C(kms_key_id),
        C(storage_class), C(checksums), C(attempts), C(ca_file), C(lock_mode), C(lock_days), or C(directory). Without one nothing leaves.
    type: dict
    default: {}
  tables:
    description:
      - By table, C(hot_days) of its own, or nothing.
    type: dict
    default: {audit_logs: {}}
  hot_days:
    description:
      - Days for which rows of C(audit_logs) stay in Postgres; V(0) is what the licence says.
    type: int
    default: 0
  confirm_fewer_days:
    description:
      - The number that is confirmed, when fewer days than were in force before shall be; V(0) confirms nothing.
    type: int
    default: 0
  partitions_ahead:
    description:
      - Months for which partitions are there in advance.
    type: int
    default: 3
  without_backup:
    description:
      - Drop archived months also when no verified backup holds their last row.
    type: bool
    default: false
  litellm_days:
    description:
      - Days for which rows of LiteLLM's own table stay; older ones are deleted in batches and not archived. V(0) leaves them alone.
    type: int
    default: 0
  spool:
    description:
      - Directory on the host for a month's file before it is uploaded; empty for one below C(.scutum-ops).
    type: str
    default: ""
  lock_patience:
    description:
      - Seconds for which a lock on a table is tried again.
    type: int
    default: 600
  timeout:
    description:
      - Seconds after which a run is ended.
    type: int
    default: 21600
  now:
    description:
      - Run the job, too.
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
- name: By the licence's rule, archived in a bucket, now
  scutum.ops.audit_retention:
    directory: /opt/scutum
    store:
      bucket: my-audit-archive
      prefix: scutum/production
      region: eu-central-1
    now: true
"""

RETURN = r"""
changes:
  description: What was kept or done, or would be.
  returned: success
  type: list
  elements: str
retention:
  description: What the run did.
  returned: when O(now) and the host could be asked
  type: dict
  contains:
    hot_days:
      description: By table, the days in force; none is unknown, and then nothing leaves.
      type: dict
    archived:
      description: Months that were archived, as C(table month).
      type: list
      elements: str
    dropped:
      description: Months that were dropped, as C(table month).
      type: list
      elements: str
    waiting:
      description: Months that are due and wait, by C(table month), with the reason.
      type: dict
    rows:
      description: Rows that were archived.
      type: int
    seconds:
      description: Seconds that it took.
      type: float
    warnings:
      description: What has to be known.
      type: list
      elements: str
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

import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.scutum.ops.plugins.module_utils import ansible_door, audit_arrange, audit_job, audit_settings
from ansible_collections.scutum.ops.plugins.module_utils.host_library import call
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "store": {"type": "dict", "default": {}},
            "tables": {"type": "dict", "default": {"audit_logs": {}}},
            "hot_days": {"type": "int", "default": 0},
            "confirm_fewer_days": {"type": "int", "default": 0},
            "partitions_ahead": {"type": "int", "default": 3},
            "without_backup": {"type": "bool", "default": False},
            "litellm_days": {"type": "int", "default": 0},
            "spool": {"type": "str", "default": ""},
            "lock_patience": {"type": "int", "default": 600},
            "timeout": {"type": "int", "default": 21600},
            "now": {"type": "bool", "default": False},
            "metrics": {"type": "str", "default": ""},
            "command": {"type": "path", "default": "/usr/local/sbin/scutum-ops"},
        },
        supports_check_mode=True,
    )
    given = module.params
    installation = Installation(given["directory"])

    def work() -> dict[str, object]:
        wanted = audit_settings.from_words(given)
        if module.check_mode and not installation.exists():
            return {
                "changed": True,
                "changes": [audit_job.SETTINGS],
                "text": ["there is no installation yet: nothing could leave"],
            }
        ansible_door.installed(installation)
        changes = audit_job.configure(installation, wanted, module.check_mode)
        result: dict[str, Any] = {"changed": bool(changes), "changes": changes, "text": []}
        if not given["now"]:
            return result
        if module.check_mode and not (os.path.exists(given["command"]) and audit_arrange.reachable(installation)):
            result.update(changed=True, text=["the job would run: this host cannot say yet what it would do"])
            return result
        words = ["audit-retention", *(["--metrics", given["metrics"]] if given["metrics"] else [])]
        # In check mode what is kept is not what would be.
        words += ["--check", "--settings", "-"] if module.check_mode else []
        kept = vars(wanted) if module.check_mode else None
        told = call(given["command"], installation.directory, words, given=kept, timeout=given["timeout"] + 600)
        result.update(retention=told, text=told.pop("text"))
        result["changes"] = [*changes, *told.pop("changes")]
        result["changed"] = bool(result["changes"])
        for warning in told["warnings"]:
            module.warn(warning)
        return result

    ansible_door.run(module, work)


if __name__ == "__main__":
    main()
