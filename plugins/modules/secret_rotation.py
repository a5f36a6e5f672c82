# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rotate secrets, and prove it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: secret_rotation
short_description: Rotate secrets, prove that the new ones are accepted and the old ones refused, or put the old ones back
version_added: 0.1.0
author: scutum.ops maintainers (@scutum-ops)
description:
  - New values go into the source first, beside the old ones; then into Postgres (as a SCRAM verifier), to the host, and to the services
    that use them, which are recreated in one go.
  - Each is then asked of the service that checks it. What is not proven is undone, and the task fails with what happened.
  - A run that was stopped at any point is finished or undone by the next one, by M(scutum.ops.secrets), or at the next start of the host.
  - A source that can only be read is left alone; a new value that somebody wrote into it is taken up and proven in the same way.
  - It is not idempotent by its nature; O(only_due) makes it so.
extends_documentation_fragment: scutum.ops.installation.directory
attributes:
  check_mode:
    description: Asks whether today's values are accepted, and says what would be rotated.
    support: full
  diff_mode:
    description: A value is never shown.
    support: none
options:
  names:
    description:
      - Which ones; V(jwt) is C(JWT_SECRET_KEY), V(internal) C(INTERNAL_SERVICE_KEY), V(postgres) C(POSTGRES_PASSWORD), V(api_key)
        C(SCUTUM_API_KEY).
      - V(jwt) logs every administrator out.
    type: list
    elements: str
    choices: [jwt, internal, postgres, api_key]
    required: true
  api_key_confirm:
    description:
      - O(host) again, when V(api_key) is among O(names); every application that calls the gateway will need the new key.
    type: str
    default: ""
  host:
    description:
      - The host's name in the inventory.
    type: str
    default: ""
  only_due:
    description:
      - Leave out what is not due.
    type: bool
    default: false
  due_days:
    description:
      - Days after which one is due, by name; 0 is never. Without it 90 for V(jwt) and V(internal), 365 for V(postgres), 0 for V(api_key).
    type: dict
    default: {}
  source:
    description:
      - As in M(scutum.ops.secrets).
    type: str
    choices: [generated, aws_secrets_manager, file, gcp_secret_manager, hashi_vault, sops]
    required: true
  options:
    description:
      - As in M(scutum.ops.secrets).
    type: dict
    default: {}
  credential:
    description:
      - As in M(scutum.ops.secrets).
    type: dict
    default: {}
  writer:
    description:
      - Another credential for writing into the source, never kept on the host, which then only needs to read.
    type: dict
    default: {}
  timeout:
    description:
      - Seconds until every service has to be healthy again.
    type: int
    default: 300
  command:
    description:
      - The command line of this collection on the host.
    type: path
    default: /usr/local/sbin/scutum-ops
"""

EXAMPLES = r"""
- name: Rotate what is due
  scutum.ops.secret_rotation:
    directory: /opt/scutum
    source: generated
    names: [jwt, internal, postgres]
    only_due: true
"""

RETURN = r"""
rotated:
  description: Names of what was rotated, or would be.
  returned: success
  type: list
  elements: str
proofs:
  description: By name, what the services answered, in words.
  returned: success
  type: dict
  sample:
    jwt: the new value is accepted and the old one refused by admin-api
services:
  description: Services that were recreated.
  returned: success
  type: list
  elements: str
finished:
  description: What an earlier run had begun, and how it ended; empty when there was nothing.
  returned: success
  type: str
text:
  description: What was done, for people.
  returned: success
  type: list
  elements: str
seconds:
  description: Seconds on the host.
  returned: success
  type: float
duration:
  description: Seconds.
  returned: success
  type: float
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.scutum.ops.plugins.module_utils import ansible_door, secret_ages, secret_sources
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from ansible_collections.scutum.ops.plugins.module_utils.host_library import call
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "names": {"type": "list", "elements": "str", "choices": list(secret_ages.ROTATED), "required": True},
            "api_key_confirm": {"type": "str", "default": "", "no_log": False},
            "host": {"type": "str", "default": ""},
            "only_due": {"type": "bool", "default": False},
            "due_days": {"type": "dict", "default": {}},
            "source": {"type": "str", "choices": list(secret_sources.NAMES), "required": True},
            "options": {"type": "dict", "default": {}, "no_log": True},
            "credential": {"type": "dict", "default": {}, "no_log": True},
            "writer": {"type": "dict", "default": {}, "no_log": True},
            "timeout": {"type": "int", "default": 300},
            "command": {"type": "path", "default": "/usr/local/sbin/scutum-ops"},
        },
        supports_check_mode=True,
    )
    given = module.params
    credential, writer = (ansible_door.texts(given[name]) for name in ("credential", "writer"))
    hidden = [*credential.values(), *writer.values(), str(given["options"].get("content", ""))]
    ansible_door.mask_only(module, hidden)
    installation = Installation(given["directory"])

    def work() -> dict[str, object]:
        ansible_door.installed(installation)
        days = secret_ages.days(given["due_days"])
        problems = []
        if "api_key" in given["names"] and given["api_key_confirm"] != given["host"]:
            problems.append(
                "api_key: every application that calls the gateway holds it. After a leak, say so with "
                f"-e scutum_rotate_api_key_confirm={given['host']}"
            )
        if given["source"] != "generated":
            source = secret_sources.Source(given["source"], given["options"], credential)
            problems += source.problems()
            if writer:
                problems += secret_sources.Source(given["source"], given["options"], writer).problems()
        if problems:
            raise ScutumError(
                "; ".join(problems), left="nothing was changed", next_step="correct that, and run it again"
            )
        words = ["secrets-rotate", ",".join(given["names"]), "--settings", "-", "--timeout", str(given["timeout"])]
        words += ["--api-key-confirmed"] if "api_key" in given["names"] else []
        words += ["--only-due"] if given["only_due"] else []
        words += ["--check"] if module.check_mode else []
        words += [word for name, number in days.items() for word in ("--due", f"{name}={number}")]
        settings = {
            "source": {"source": given["source"], "options": given["options"], "credential": credential},
            "writer": writer,
        }
        # What an earlier run began, then this one: each forward, and back when that fails.
        return call(given["command"], installation.directory, words, settings, 6 * given["timeout"] + 300)

    ansible_door.run(module, work)


if __name__ == "__main__":
    main()
