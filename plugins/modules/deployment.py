# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deploy, change or remove the Scutum stack on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: deployment
short_description: Deploy a pinned release of Scutum with Docker Compose
version_added: 0.1.0
author: scutum.ops maintainers (@scutum-ops)
description:
  - Goes one way - release bundle, C(config/.env), images, Compose files, schema guard, containers.
  - The vendor's files are never edited. The operator's settings go into an override, and the merged file is what
    C(COMPOSE_FILE) in C(config/.env) names, so that the vendor's own command line works on.
  - Secrets are generated on the host at the first install and never changed by a later one.
  - LiteLLM may change the database schema only in a watched window, at the first start of each LiteLLM image.
extends_documentation_fragment: [scutum.ops.installation, scutum.ops.installation.directory]
attributes:
  check_mode:
    description: Goes the same way with copies on a tmpfs, and says what would change. Needs the release server.
    support: full
  diff_mode:
    description: Shows the override. Files that may hold secrets are named without their content.
    support: partial
options:
  state:
    description:
      - V(prepared) has bundle, C(config/.env) and images on the host and touches no container.
      - V(running) has the stack running and healthy.
      - V(absent) removes containers and networks; data stays unless O(remove_data).
    type: str
    choices: [prepared, running, absent]
    default: running
  release_base_url:
    description:
      - The bundle is fetched from C(<release_base_url>/v<version>/). Not used when it is already on the host.
    type: str
    default: https://scutum.dev/release
  release_sha256:
    description:
      - SHA-256 by file name of the bundle.
    type: dict
    default: {}
  environment:
    description:
      - The operator's values for C(config/.env), by key. They are never shown.
    type: dict
    default: {}
  image_registry:
    description:
      - Mirror from which every image is pulled, such as V(registry.example.com/scutum).
    type: str
    default: ""
  image_registry_username:
    description:
      - User to log in with at the mirror.
    type: str
    default: ""
  image_registry_password:
    description:
      - Password to log in with. It is kept on a tmpfs for the time of the pull.
    type: str
    default: ""
  image_archive:
    description:
      - Path on the host of a C(docker save) archive, loaded instead of pulling.
    type: path
  image_digests:
    description:
      - Digest (C(sha256:...)) by service that the image has to have.
    type: dict
    default: {}
  bind_address:
    description:
      - Address on which ports are published. Empty means 127.0.0.1 on a new host, and unchanged on an adopted one.
    type: str
    default: ""
  litellm_workers:
    description:
      - Worker processes of LiteLLM. Unset leaves the release's number.
    type: int
  litellm_config:
    description:
      - Merged over the image's own LiteLLM configuration. A list replaces the image's list.
    type: dict
    default: {}
  profiles:
    description:
      - Compose profiles to switch on.
    type: list
    elements: str
    default: []
  compose_override:
    description:
      - More for the Compose override, merged over ours. Not a place for secrets - see O(environment).
    type: dict
    default: {}
  limits:
    description:
      - Limits to put in force, as M(scutum.ops.resource_limits) returns them. Without it, those that are recorded stay.
    type: dict
  replace_compose:
    description:
      - Give up edits made by hand in the vendor's Compose file. A copy is kept.
    type: bool
    default: false
  remove_data:
    description:
      - With O(state=absent), remove volumes and the directory as well.
    type: bool
    default: false
  timeout:
    description:
      - Seconds within which every service has to be healthy.
    type: int
    default: 300
"""

EXAMPLES = r"""
- name: Run 0.1.0 on loopback with one LiteLLM worker
  scutum.ops.deployment:
    directory: /opt/scutum
    version: 0.1.0
    litellm_workers: 1
"""

RETURN = r"""
changes:
  description: What was (or would be) changed, one line each; names only, never a value.
  returned: success
  type: list
  elements: str
  sample: ["releases/0.1.0", "litellm: create"]
images:
  description: With O(state=prepared), V(digest) and V(id) of each service's image.
  returned: success
  type: dict
guard:
  description: With O(state=running), the schema window if there was one - V(dump), V(tables), V(seconds).
  returned: success
  type: dict
left:
  description: What state a failure left.
  returned: failure
  type: str
next_step:
  description: The next command after a failure.
  returned: failure
  type: str
duration:
  description: Seconds.
  returned: success
  type: float
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.scutum.ops.plugins.module_utils import ansible_door, deployment, env_file
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation
from ansible_collections.scutum.ops.plugins.module_utils.limits import Limits
from ansible_collections.scutum.ops.plugins.module_utils.project import Settings

SPEC = {
    "directory": {"type": "path", "required": True},
    "version": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["prepared", "running", "absent"], "default": "running"},
    "release_base_url": {"type": "str", "default": "https://scutum.dev/release"},
    "release_sha256": {"type": "dict", "default": {}},
    "environment": {"type": "dict", "default": {}, "no_log": True},
    "image_registry": {"type": "str", "default": ""},
    "image_registry_username": {"type": "str", "default": ""},
    "image_registry_password": {"type": "str", "default": "", "no_log": True},
    "image_archive": {"type": "path"},
    "image_digests": {"type": "dict", "default": {}},
    "bind_address": {"type": "str", "default": ""},
    "litellm_workers": {"type": "int"},
    "litellm_config": {"type": "dict", "default": {}},
    "profiles": {"type": "list", "elements": "str", "default": []},
    "compose_override": {"type": "dict", "default": {}},
    "limits": {"type": "dict"},
    "replace_compose": {"type": "bool", "default": False},
    "remove_data": {"type": "bool", "default": False},
    "timeout": {"type": "int", "default": 300},
}


def request_from(given: dict[str, Any]) -> deployment.Request:
    """The library's request from the module's parameters."""
    environment, problems = env_file.texts(given["environment"])
    env_file.refuse(problems)
    return deployment.Request(
        settings=Settings(
            version=given["version"],
            image_registry=given["image_registry"],
            bind_address=given["bind_address"],
            litellm_workers=given["litellm_workers"],
            litellm_config=given["litellm_config"],
            profiles=given["profiles"],
            compose_override=given["compose_override"],
        ),
        base_url=given["release_base_url"],
        sums={key: str(value) for key, value in given["release_sha256"].items()},
        env=environment,
        archive=given["image_archive"] or "",
        username=given["image_registry_username"],
        password=given["image_registry_password"],
        digests={key: str(value) for key, value in given["image_digests"].items()},
        replace_compose=given["replace_compose"],
        timeout=given["timeout"],
        bounds=Limits(**given["limits"]) if given["limits"] else None,
    )


def main() -> None:
    """Entry point."""
    module = AnsibleModule(argument_spec=SPEC, supports_check_mode=True)
    given = module.params
    installation = Installation(given["directory"])
    ansible_door.mask_only(module, [*env_file.hidden_of(given["environment"]), given["image_registry_password"]])

    def work() -> dict[str, object]:
        if given["state"] == "absent":
            removed = deployment.remove(installation, given["remove_data"], module.check_mode)
            return {"changed": bool(removed), "changes": removed}
        request = request_from(given)
        if given["state"] == "prepared":
            result = deployment.prepare(installation, request, module.check_mode)
            return {"changed": bool(result["changes"]), **result}
        result = deployment.converge(installation, request, module.check_mode)
        change = result.pop("diff")
        return {
            "changed": bool(result["changes"]),
            "changes": result["changes"],
            "guard": result["guard"],
            "diff": {
                "before": change.before,
                "after": change.after,
                "before_header": "override",
                "after_header": "override",
            },
        }

    ansible_door.run(module, work)


if __name__ == "__main__":
    main()
