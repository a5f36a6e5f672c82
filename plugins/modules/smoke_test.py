# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Smoke-test a running installation."""

from __future__ import annotations

DOCUMENTATION = r"""
module: smoke_test
short_description: Smoke-test a running Scutum
version_added: 0.1.0
author: scutum.ops maintainers (@scutum-ops)
description:
  - Asks C(/health), C(/api/v1/license), C(/v1/chat/completions) for one model of each provider, and
    C(/api/v1/audit-logs?limit=1), and looks at the shape of each answer; then at the release label and the image digest of
    each container.
  - Runs every check, also after one has failed, and fails once with all of them.
  - Completions are asked for with fallbacks and caches switched off and a fresh nonce, so that a dead provider is seen. Each
    costs a few tokens.
extends_documentation_fragment: [scutum.ops.installation, scutum.ops.installation.directory]
attributes:
  check_mode:
    description: Runs the same in check mode, since it only reads.
    support: full
  diff_mode:
    description: Nothing to show.
    support: none
options:
  models:
    description:
      - Names of models that have to answer. Without any, the first of each provider that LiteLLM knows.
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
      - Seconds for which services may refuse connections, for all checks together.
    type: int
    default: 60
"""

EXAMPLES = r"""
- name: Does every provider answer?
  scutum.ops.smoke_test:
    directory: /opt/scutum
    version: 0.2.0

- name: Do these two?
  scutum.ops.smoke_test:
    directory: /opt/scutum
    version: 0.2.0
    models: [gpt-4o-mini, claude-3-5-sonnet]
"""

RETURN = r"""
checks:
  description: Every check with its V(name), whether it is V(ok), a V(detail) and its V(seconds).
  returned: always
  type: list
  elements: dict
  sample: [{"name": "/v1/chat/completions gpt-4o-mini", "ok": true, "detail": "answered in 0.41 s", "seconds": 0.412}]
models:
  description: Names of the models that were asked.
  returned: always
  type: list
  elements: str
reported_version:
  description: What admin-api calls its own version; empty when it does not say. It is the images' labels that count.
  returned: always
  type: str
text:
  description: The checks for people.
  returned: always
  type: list
  elements: str
duration:
  description: Seconds.
  returned: success
  type: float
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.scutum.ops.plugins.module_utils import ansible_door, smoke_test
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "version": {"type": "str", "required": True},
            "models": {"type": "list", "elements": "str", "default": []},
            "image_digests": {"type": "dict", "default": {}},
            "timeout": {"type": "int", "default": 60},
        },
        supports_check_mode=True,
    )
    given = module.params
    installation = Installation(given["directory"])

    def work() -> dict[str, object]:
        if module.check_mode and not installation.exists():
            return {
                "changed": False,
                "checks": [],
                "models": [],
                "reported_version": "",
                "text": ["nothing is installed yet"],
            }
        ansible_door.installed(installation)
        found = smoke_test.run(
            installation, given["version"], given["models"], given["image_digests"], given["timeout"], module.debug
        )
        text = smoke_test.text(found)
        result = {
            "checks": found["checks"],
            "models": found["models"],
            "reported_version": found["version"],
            "text": text,
        }
        if not found["ok"]:
            failed = [f"{item['name']}: {item['detail']}" for item in found["checks"] if not item["ok"]]
            module.fail_json(msg="\n- ".join([text[-1], *failed]), **result)
        return {"changed": False, **result}

    ansible_door.run(module, work)


if __name__ == "__main__":
    main()
