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
      - Where the secrets are. V(generated) and V(file) leave them to C(config/.env).
    type: str
    choices: [generated, file, hashi_vault]
    required: true
  options:
    description:
      - Of the source, no secret among them. V(hashi_vault) has C(url), C(path), C(mount), C(kv_version), C(version), C(namespace),
        C(ca_file), C(auth) (token, approle, jwt, cert), C(auth_mount), C(role), C(cert_file), C(key_file).
    type: dict
    default: {}
  credential:
    description:
      - The source's own credential, kept 0600 below C(.scutum-ops). V(hashi_vault) has C(token), C(role_id) and C(secret_id), or C(jwt).
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

import json
import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.scutum.ops.plugins.module_utils import ansible_door, secret_sources, secret_store, secret_unit
from ansible_collections.scutum.ops.plugins.module_utils.engine import run
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation

UNTOUCHED = "nothing was changed"


def refuse(problems: list[str]) -> None:
    """Fail with everything that is wrong with the settings."""
    if problems:
        raise ScutumError(
            "; ".join(problems), left=UNTOUCHED, next_step="docs/roles/secrets.md has an example for each source"
        )


def fetch(command: str, directory: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Have the host's own command fetch with these settings: the clients are in its environment."""
    done = run(
        [command, "--dir", directory, "--json", "secrets-fetch", "--settings", "-"],
        stdin=json.dumps(settings),
        timeout=120,
    )
    try:
        result = dict(json.loads(done.out))
    except ValueError as error:
        what = f"{command} said nothing that can be read ({done.rc}): {done.err.strip()[-300:]}"
        raise ScutumError(what, left=UNTOUCHED, next_step="run playbooks/secrets.yml, which installs it") from error
    if done.rc != 0:
        what, unused, after = str(result.get("error")).partition("\nNext: ")
        raise ScutumError(what.partition("\nState: ")[0], left=UNTOUCHED, next_step=after)
    return result


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "source": {"type": "str", "choices": ["generated", "file", "hashi_vault"], "required": True},
            "options": {"type": "dict", "default": {}},
            "credential": {"type": "dict", "default": {}, "no_log": True},
            "injection": {"type": "str", "choices": ["auto", "runtime", "env_file"], "default": "auto"},
            "start_deadline": {"type": "int", "default": 900},
            "command": {"type": "path", "default": "/usr/local/sbin/scutum-ops"},
        },
        supports_check_mode=True,
    )
    given = module.params
    credential = {key: str(value) for key, value in given["credential"].items()}
    ansible_door.mask_only(module, credential.values())
    installation = Installation(given["directory"])
    store = installation.store()

    def work() -> dict[str, object]:
        source, injection = given["source"], given["injection"]
        if source not in secret_sources.SOURCES:
            if injection == "runtime":
                refuse(
                    [
                        f"scutum_secrets_injection is runtime, but {source} cannot be asked again after a reboot: use env_file"
                    ]
                )
            before = store.settings()
            if before:
                refuse(
                    [
                        f"the secrets of {installation.directory} come from {before.source}: set scutum_secrets_source to it again, "
                        "and scutum_secrets_injection: env_file to have them in config/.env"
                    ]
                )
            return {"changed": False, "changes": [], "keys": [], "injection": "env_file"}
        refuse(secret_sources.SOURCES[source].problems(given["options"], credential))
        if given["start_deadline"] < 1:
            refuse(["scutum_secrets_start_deadline has to be at least 1 (seconds)"])
        settings = secret_store.Settings(source, given["options"], "runtime" if injection == "auto" else injection)
        if module.check_mode and not os.path.exists(given["command"]):
            return {"changed": True, "changes": [secret_store.SETTINGS], "keys": [], "injection": settings.injection}
        keys: list[str] = []
        if not module.check_mode:
            asked = {"source": source, "options": given["options"], "credential": credential}
            keys = list(fetch(given["command"], installation.directory, asked)["keys"])
        changes = store.configure(settings, credential, module.check_mode)
        if settings.injection == "runtime":
            changes += secret_unit.ensure(
                installation, source, given["command"], given["start_deadline"], module.check_mode
            )
        else:
            changes += secret_unit.remove(module.check_mode)
        return {"changed": bool(changes), "changes": changes, "keys": keys, "injection": settings.injection}

    ansible_door.run(module, work)


if __name__ == "__main__":
    main()
