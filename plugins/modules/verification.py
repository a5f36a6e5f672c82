# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Verify a running installation."""

from __future__ import annotations

DOCUMENTATION = r"""
module: verification
short_description: Verify a running Scutum from the outside
version_added: 0.1.0
author: scutum.ops maintainers (@scutum-ops)
description:
  - Asks the installation itself - containers, release labels, image digests, the schema's revision, a call of the admin
    API that needs its database, and a completion for each model.
  - Runs every check, also after one has failed, and fails once with all of them and the last log lines of the services
    at fault, without secrets.
  - Completions are asked for with fallbacks and caches switched off and a fresh nonce, so that a dead provider is seen.
extends_documentation_fragment: [scutum.ops.installation, scutum.ops.installation.directory]
attributes:
  check_mode:
    description: Runs the same in check mode, since it changes nothing but a record of the image's schema head.
    support: full
  diff_mode:
    description: Nothing to show.
    support: none
options:
  smoke_models:
    description:
      - Names of models that have to answer a completion. Each costs a few tokens at its provider.
    type: list
    elements: str
    default: []
  image_digests:
    description:
      - Digest (C(sha256:...)) by service that its container has to run. Services that are not named are compared with
        what was recorded at the first pull.
    type: dict
    default: {}
  timeout:
    description:
      - Seconds for which a service may refuse connections.
    type: int
    default: 60
"""

EXAMPLES = r"""
- name: Is it what it should be?
  scutum.ops.verification:
    directory: /opt/scutum
    version: 0.1.0
    smoke_models: [gpt-4o-mini]
"""

RETURN = r"""
checks:
  description: Every check with its V(name), whether it is V(ok), a V(detail) and its V(seconds).
  returned: always
  type: list
  elements: dict
  sample: [{"name": "migrations", "ok": true, "detail": "at head 029", "seconds": 0.2}]
licence:
  description: What C(GET /api/v1/license) answered.
  returned: always
  type: dict
urls:
  description: URLs by service, with the host's own address where a port is on all addresses.
  returned: always
  type: dict
duration:
  description: Seconds.
  returned: success
  type: float
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.scutum.ops.plugins.module_utils import ansible_door, verification
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "version": {"type": "str", "required": True},
            "smoke_models": {"type": "list", "elements": "str", "default": []},
            "image_digests": {"type": "dict", "default": {}},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    given = module.params
    installation = Installation(given["directory"])

    def work() -> dict[str, object]:
        if not installation.exists():
            if module.check_mode:
                return {"changed": False, "checks": [], "licence": {}, "urls": {}}
            ansible_door.installed(installation)
        result = verification.verify(
            installation, given["version"], given["smoke_models"], given["image_digests"], given["timeout"]
        )
        if not result["ok"]:
            module.fail_json(
                msg=verification.report(installation, result),
                checks=result["checks"],
                licence=result["licence"],
                urls=result["urls"],
            )
        return {"changed": False, "checks": result["checks"], "licence": result["licence"], "urls": result["urls"]}

    ansible_door.run(module, work)


if __name__ == "__main__":
    main()
