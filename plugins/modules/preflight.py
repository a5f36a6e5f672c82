# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Look at a host before anything is installed on it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: preflight
short_description: Find everything that would make an install of Scutum fail, before anything changes
version_added: 0.1.0
author: scutum.ops maintainers (@scutum-ops)
description:
  - Looks at the engine, other installations, left-over data, ports, disk and the operator's values.
  - Fails once, with every problem that it found. It never changes anything.
  - Runs without an engine.
extends_documentation_fragment: [scutum.ops.installation, scutum.ops.installation.directory]
attributes:
  check_mode:
    description: Runs the same in check mode, since it changes nothing.
    support: full
  diff_mode:
    description: Nothing to show.
    support: none
options:
  engine_source:
    description:
      - Where the engine comes from when it is missing. With V(none) a missing engine is a problem.
    type: str
    choices: [auto, distribution, repository, none]
    default: auto
  bind_address:
    description:
      - Address on which ports will be published; empty stands for all addresses.
    type: str
    default: ""
  environment:
    description:
      - The operator's values for C(config/.env), by key. They are never shown.
    type: dict
    default: {}
  minimum_free_mb:
    description:
      - MiB that have to be free for images on a host that has no installation yet.
    type: int
    default: 0
  image_registry:
    description:
      - As in M(scutum.ops.deployment), checked for what its type cannot say. So are the following.
    type: str
    default: ""
  image_digests:
    description:
      - As in M(scutum.ops.deployment).
    type: dict
    default: {}
  release_sha256:
    description:
      - As in M(scutum.ops.deployment).
    type: dict
    default: {}
  release_base_url:
    description:
      - As in M(scutum.ops.deployment).
    type: str
    default: ""
  litellm_workers:
    description:
      - As in M(scutum.ops.deployment).
    type: int
  litellm_config:
    description:
      - As in M(scutum.ops.deployment). A secret in it is refused.
    type: dict
    default: {}
  start_timeout:
    description:
      - O(scutum.ops.deployment#module:timeout).
    type: int
    default: 300
  profiles:
    description:
      - As in M(scutum.ops.deployment).
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Look before installing
  scutum.ops.preflight:
    directory: /opt/scutum
    version: 0.1.0
    minimum_free_mb: 4096
"""

RETURN = r"""
engine:
  description: The engine's V(server) and V(compose) versions (empty when missing), its V(root), and whether it is V(present).
  returned: success
  type: dict
  sample: {"server": "26.1.5", "compose": "2.26.1", "root": "/var/lib/docker", "present": true}
installation:
  description: V(absent), V(vendor) (made by the vendor's installer, to be adopted) or V(managed).
  returned: success
  type: str
installed_version:
  description: The release that is installed; empty when there is none.
  returned: success
  type: str
duration:
  description: Seconds.
  returned: success
  type: float
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.scutum.ops.plugins.module_utils import ansible_door, env_file, litellm_config, preflight
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "version": {"type": "str", "required": True},
            "engine_source": {
                "type": "str",
                "choices": ["auto", "distribution", "repository", "none"],
                "default": "auto",
            },
            "bind_address": {"type": "str", "default": ""},
            "environment": {"type": "dict", "default": {}, "no_log": True},
            "minimum_free_mb": {"type": "int", "default": 0},
            "image_registry": {"type": "str", "default": ""},
            "image_digests": {"type": "dict", "default": {}},
            "release_sha256": {"type": "dict", "default": {}},
            "release_base_url": {"type": "str", "default": ""},
            "litellm_workers": {"type": "int"},
            "litellm_config": {"type": "dict", "default": {}, "no_log": True},
            "start_timeout": {"type": "int", "default": 300},
            "profiles": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    given = module.params
    literal = litellm_config.literal_secrets(given["litellm_config"])
    ansible_door.mask_only(module, [*env_file.hidden_of(given["environment"]), *literal.values()])

    def work() -> dict[str, object]:
        if not given["directory"].startswith("/"):
            raise ScutumError(
                f"scutum_dir: {given['directory']} is not an absolute path",
                left="nothing was changed",
                next_step="set scutum_dir to a path such as /opt/scutum",
            )
        return preflight.examine(
            Installation(given["directory"]),
            given["version"],
            engine_source=given["engine_source"],
            bind_address=given["bind_address"],
            wanted=given["environment"],
            minimum_free_mb=given["minimum_free_mb"],
            image_registry=given["image_registry"],
            image_digests=given["image_digests"],
            release_sha256=given["release_sha256"],
            release_base_url=given["release_base_url"],
            litellm_workers=given["litellm_workers"],
            litellm_config=given["litellm_config"],
            start_timeout=given["start_timeout"],
            profiles=given["profiles"],
        )

    ansible_door.run(module, work)


if __name__ == "__main__":
    main()
