# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Have the secrets of an installation come from a source."""

from __future__ import annotations

DOCUMENTATION = r"""
module: secrets
short_description: Have the secrets of an installation come from where they belong
version_added: 0.1.0
author: scutum.ops maintainers (@scutum-ops)
description:
  - Fetches them on the host, once, with the source's official client; the controller sees none.
  - With O(injection=runtime) they lie on a tmpfs, and a systemd unit fetches them at each start of the host before the
    engine starts. M(scutum.ops.deployment) then gives each service a file with just its keys.
  - Nothing is kept when the source does not answer, lacks a key or holds a value that cannot be used.
extends_documentation_fragment: scutum.ops.installation.directory
attributes:
  check_mode:
    description: Checks the settings and says what would be kept; the source is not asked.
    support: full
  diff_mode:
    description: Names are in RV(changes) and RV(keys); a value never is.
    support: none
options:
  source:
    description:
      - Where the secrets are. V(generated) leaves them to C(config/.env); V(file) takes them from O(credential).
    type: str
    choices: [generated, aws_secrets_manager, file, gcp_secret_manager, hashi_vault, sops]
    required: true
  options:
    description:
      - Of the source, no secret among them.
      - V(hashi_vault) has C(url), C(path), C(mount), C(kv_version), C(version), C(namespace), C(ca_file), C(auth) (token, approle, jwt,
        cert), C(auth_mount), C(role), C(cert_file), C(key_file).
      - V(aws_secrets_manager) has C(region), C(secret_id) or C(prefix), C(version_stage), C(endpoint_url).
      - V(gcp_secret_manager) has C(project), C(secret) or C(prefix), C(version), C(endpoint).
      - V(sops) has C(path) (on the host) or C(content) (the encrypted text), C(format) (dotenv, json, yaml), C(binary).
    type: dict
    default: {}
  credential:
    description:
      - The source's own credential, kept 0600 below C(.scutum-ops).
      - V(hashi_vault) has C(token), C(role_id) and C(secret_id), or C(jwt); V(aws_secrets_manager) has C(access_key_id),
        C(secret_access_key), C(session_token), or none on an instance with a role; V(gcp_secret_manager) has C(service_account), or none;
        V(sops) has C(age_key), or AWS's for a KMS.
      - For V(file) these are the secrets themselves, by their names in C(config/.env), and are kept there.
    type: dict
    default: {}
  injection:
    description:
      - V(runtime) - a tmpfs, never a disk; V(env_file) - C(config/.env). V(auto) is V(runtime) where the source can be asked again
        after a reboot.
    type: str
    choices: [auto, runtime, env_file]
    default: auto
  start_deadline:
    description:
      - Seconds for which a source that does not answer is asked again when the host starts.
    type: int
    default: 900
  command:
    description:
      - The command line of this collection on the host.
    type: path
    default: /usr/local/sbin/scutum-ops
"""

EXAMPLES = r"""
- name: Secrets from Vault
  scutum.ops.secrets:
    directory: /opt/scutum
    source: hashi_vault
    options:
      url: https://vault.example.com:8200
      path: scutum/production
      auth: approle
    credential:
      role_id: "{{ vault_role_id }}"
      secret_id: "{{ vault_secret_id }}"
"""

RETURN = r"""
changes:
  description: Names of what was changed, or would be.
  returned: success
  type: list
  elements: str
keys:
  description: Names of the secrets that were fetched.
  returned: success
  type: list
  elements: str
injection:
  description: The way that they take.
  returned: success
  type: str
  sample: runtime
duration:
  description: Seconds.
  returned: success
  type: float
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.scutum.ops.plugins.module_utils import (
    ansible_door,
    secret_rotation,
    secret_sources,
    secret_store,
    secret_unit,
)
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from ansible_collections.scutum.ops.plugins.module_utils.host_library import call
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation

UNTOUCHED = "nothing was changed"
RESUME = ("secrets-rotate", "--resume")


def refuse(problems: list[str]) -> None:
    """Fail with everything that is wrong with the settings."""
    if problems:
        raise ScutumError(
            "; ".join(problems), left=UNTOUCHED, next_step="docs/roles/secrets.md has an example for each source"
        )


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "source": {"type": "str", "choices": list(secret_sources.NAMES), "required": True},
            "options": {"type": "dict", "default": {}, "no_log": True},
            "credential": {"type": "dict", "default": {}, "no_log": True},
            "injection": {"type": "str", "choices": ["auto", "runtime", "env_file"], "default": "auto"},
            "start_deadline": {"type": "int", "default": 900},
            "command": {"type": "path", "default": "/usr/local/sbin/scutum-ops"},
        },
        supports_check_mode=True,
    )
    given = module.params
    credential = ansible_door.texts(given["credential"])
    # A file that should have been encrypted and is not would be shown with the arguments, and logged with them (no_log).
    ansible_door.mask_only(module, [*credential.values(), str(given["options"].get("content", ""))])
    installation = Installation(given["directory"])
    store = installation.store()

    def work() -> dict[str, object]:
        source, injection = given["source"], given["injection"]
        if source in secret_sources.GIVEN and injection == "runtime":
            refuse(
                [
                    f"scutum_secrets_injection is runtime, but {source} cannot be asked again after a reboot: use env_file"
                ]
            )
        if source != "generated":
            refuse(secret_sources.Source(source, given["options"], credential).problems())
        if given["start_deadline"] < 1:
            refuse(["scutum_secrets_start_deadline has to be at least 1 (seconds)"])
        asked = {"source": source, "options": given["options"], "credential": credential}
        changes = finish(asked)
        if source == "generated":
            return {**stay_in_file(changes), "keys": [], "injection": "env_file"}
        way = ("env_file" if source in secret_sources.GIVEN else "runtime") if injection == "auto" else injection
        settings = secret_store.Settings(source, given["options"], way)
        if module.check_mode and not os.path.exists(given["command"]):
            return {"changed": True, "changes": [secret_store.SETTINGS], "keys": [], "injection": way}
        keys: list[str] = []
        if not module.check_mode:
            words = ["secrets-fetch", "--settings", "-"]
            keys = list(call(given["command"], installation.directory, words, {**asked, "injection": way})["keys"])
        changes += store.configure(settings, credential, module.check_mode)
        if way == "runtime":
            changes += secret_unit.ensure(
                installation, source, given["command"], given["start_deadline"], module.check_mode
            )
        return {"changed": bool(changes), "changes": changes, "keys": keys, "injection": way}

    def finish(asked: dict[str, object]) -> list[str]:
        begun = secret_rotation.open_rotation(installation)
        if not begun:
            return []
        if not module.check_mode:
            if store.runtime() and not store.values():
                call(given["command"], installation.directory, ["secrets-fetch", "--deadline", "1"])
            call(given["command"], installation.directory, [*RESUME, "--settings", "-"], {"source": asked}, 1500)
        return [f"the rotation of {', '.join(begun)} that was interrupted"]

    def stay_in_file(changes: list[str]) -> dict[str, object]:
        before = store.settings()
        if before and before.source != "file":
            refuse(
                [
                    f"the secrets of {installation.directory} come from {before.source}: set scutum_secrets_source to it again, "
                    "and scutum_secrets_injection: env_file to have them in config/.env"
                ]
            )
        changes += store.forget(module.check_mode) if before else []
        return {"changed": bool(changes), "changes": changes}

    ansible_door.run(module, work)


if __name__ == "__main__":
    main()
