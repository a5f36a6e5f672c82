# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Upgrade an installation to another release, phase by phase, or go back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: upgrade
short_description: Upgrade an installation to another release, phase by phase, or go back
version_added: 0.1.0
author: scutum.ops maintainers (@scutum-ops)
description:
  - Runs phases of an upgrade. Everything happens on the host, and the host's record says how far it came, so that each phase may be a call
    of its own, hours after the one before it.
  - A phase that was killed is continued by the same call, or taken back. A phase whose predecessor is missing is refused.
  - A promotion that fails, and a release that the watch finds bad, are rolled back on the host, without this module.
extends_documentation_fragment: scutum.ops.installation.directory
attributes:
  check_mode:
    description: Says what would be done; nothing is fetched, copied or changed.
    support: full
  diff_mode:
    description: Nothing to show.
    support: none
options:
  phases:
    description:
      - What to do, in this order - V(preflight) looks and fetches, V(stage), V(migrate) and V(smoke) rehearse in a copy, V(promote) changes
        production, V(watch) decides whether it is good.
      - V(rollback), alone, goes back to the release from before.
    type: list
    elements: str
    choices: [preflight, stage, migrate, smoke, promote, watch, rollback]
    required: true
  settings:
    description:
      - What the operator decides, as the variables of the role upgrade without C(scutum_upgrade_), and C(version), C(base_url), C(sums),
        C(archive), C(digests), C(environment), C(registry_username), C(registry_password), C(models) and C(metrics), which the role has
        under the names of the role install. A rollback takes those that the host kept.
    type: dict
    default: {}
  accept_export:
    description:
      - For a rollback, the host's name; rows that were written since and cannot be carried over are only exported.
    type: str
    default: ""
  wait:
    description:
      - Wait for the watch's verdict. It is the host that watches in any case.
    type: bool
    default: true
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
- name: Rehearse
  scutum.ops.upgrade:
    directory: /opt/scutum
    phases: [preflight, stage, migrate, smoke]
    settings:
      version: 0.2.0

- name: Go back
  scutum.ops.upgrade:
    directory: /opt/scutum
    phases: [rollback]
"""

RETURN = r"""
outcome:
  description: V(planned), V(unchanged), V(done) while it is open, V(good), V(rolled_back).
  returned: success
  type: str
source:
  description: The release from before.
  returned: success
  type: str
target:
  description: The release to go to.
  returned: success
  type: str
verdict:
  description:
    - What the watch found, with C(verdict) (V(good), V(bad), V(not_enough_data)), C(reasons) and C(signals); empty while there is none.
  returned: success
  type: dict
requests:
  description: What the probe counted, by V(promote) and V(rollback), by service.
  returned: success
  type: dict
phases:
  description: State and seconds of each phase.
  returned: success
  type: dict
checks:
  description: The steps, with the result and the seconds of each.
  returned: success
  type: list
  elements: dict
warnings:
  description: What has to be known.
  returned: success
  type: list
  elements: str
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

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.scutum.ops.plugins.module_utils import ansible_door, env_file
from ansible_collections.scutum.ops.plugins.module_utils.engine import run
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from ansible_collections.scutum.ops.plugins.module_utils.host_library import call
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation

ROLLBACK = "rollback"


def main() -> None:
    """Entry point."""
    phases = ["preflight", "stage", "migrate", "smoke", "promote", "watch", ROLLBACK]
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "phases": {"type": "list", "elements": "str", "choices": phases, "required": True},
            "settings": {"type": "dict", "default": {}, "no_log": True},
            "accept_export": {"type": "str", "default": ""},
            "wait": {"type": "bool", "default": True},
            "timeout": {"type": "int", "default": 43200},
            "command": {"type": "path", "default": "/usr/local/sbin/scutum-ops"},
        },
        supports_check_mode=True,
    )
    given = module.params
    installation = Installation(given["directory"])
    settings: dict[str, Any] = dict(given["settings"])
    secrets = env_file.hidden_of(settings.get("environment") or {})
    ansible_door.mask_only(module, [*secrets, str(settings.get("registry_password") or "")])

    def work() -> dict[str, Any]:
        ansible_door.installed(installation)
        settings["environment"], problems = env_file.texts(settings.get("environment") or {})
        env_file.refuse(problems)
        words = _words(given, settings)
        if module.check_mode:
            if run([given["command"], words[0], "--help"], timeout=60).rc != 0:
                told = "this host's library for jobs is older than this collection, and cannot say yet what would be done: "
                told += "run playbooks/upgrade_preflight.yml without check mode, which brings it, and changes nothing that is in force"
                return {"changed": True, "outcome": "planned", "checks": [], "text": [told]}
            words.append("--check")
        result = call(
            given["command"],
            installation.directory,
            words,
            given=None if words[0] == ROLLBACK else settings,
            timeout=given["timeout"],
        )
        for warning in result.pop("warnings", []):
            module.warn(warning)
        return result

    ansible_door.run(module, work)


def _words(given: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """The command line of the job."""
    if ROLLBACK in given["phases"]:
        if given["phases"] != [ROLLBACK]:
            raise ScutumError(
                "rollback goes alone, and not with other phases",
                left="nothing was changed",
                next_step="playbooks/rollback.yml, or only the phases of an upgrade",
            )
        return [ROLLBACK, *(["--accept-export", given["accept_export"]] if given["accept_export"] else [])]
    if not settings.get("version"):
        raise ScutumError(
            "scutum_version is (not set): it has to name one exact release, the one to go to",
            left="nothing was changed",
            next_step="-e scutum_version=<release>, and in the inventory when the upgrade is good",
        )
    waiting = [] if given["wait"] else ["--no-wait"]
    return ["upgrade", "--phases", ",".join(given["phases"]), "--settings", "-", *waiting]


if __name__ == "__main__":
    main()
