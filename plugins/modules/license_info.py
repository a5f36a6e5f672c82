# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Say which licence is in force."""

from __future__ import annotations

DOCUMENTATION = r"""
module: license_info
short_description: Say which licence is in force, and whether all places agree
version_added: 0.1.0
author: scutum.ops maintainers (@scutum-ops)
description:
  - With O(url) alone it says what the public endpoint of admin-api answers; neither credentials nor the host are needed.
  - With O(directory), on the host, it looks into the table C(licenses) and the container's environment as well.
attributes:
  check_mode:
    description: Changes nothing anyway.
    support: full
  diff_mode:
    description: Nothing to show.
    support: none
options:
  directory:
    description:
      - The directory of the installation on this host, as an absolute path.
    type: path
  url:
    description:
      - Base URL of admin-api, such as V(https://scutum.example.com). Used when there is no O(directory).
    type: str
  connections:
    description:
      - Fresh connections to ask, for each worker process of admin-api. State is per process, so one answer proves nothing.
    type: int
    default: 20
  timeout:
    description:
      - Seconds in which admin-api has to answer.
    type: int
    default: 30
"""

EXAMPLES = r"""
- name: The licence, from anywhere
  scutum.ops.license_info:
    url: https://scutum.example.com
  delegate_to: localhost
  register: licence

- name: Nothing may be dropped without a licence that says how much
  ansible.builtin.assert:
    that: licence.audit_retention_days is not none
"""

RETURN = r"""
present:
  description: Whether admin-api has a licence at all. None when it does not answer, as are the next ones.
  returned: success
  type: bool
valid:
  description: Whether its signature is right; an expired licence is valid.
  returned: success
  type: bool
expired:
  description: Whether it has expired.
  returned: success
  type: bool
tier:
  description: V(trial), V(team), V(business) or V(enterprise).
  returned: success
  type: str
customer_email:
  description: Whose it is.
  returned: success
  type: str
company:
  description: Whose it is.
  returned: success
  type: str
features:
  description: The licence's features.
  returned: success
  type: dict
expires_at:
  description: When it expires, UTC.
  returned: success
  type: str
days_remaining:
  description: Days until then; negative afterwards.
  returned: success
  type: float
warning:
  description: The step of the ladder that is due - V(30), V(14), V(7) or V(1) days, V(expired), or empty.
  returned: success
  type: str
audit_retention_days:
  description:
    - Days for which audit rows stay online. None is unknown (no licence, expired, an unknown tier, places that do not
      agree), and nothing may be dropped on it.
  returned: success
  type: int
consistent:
  description: Whether every answer was the same and, with O(directory), whether table and environment agree with them.
  returned: success
  type: bool
served:
  description: What the answers said, in words, each once.
  returned: success
  type: list
  elements: str
answers:
  description: Number of answers.
  returned: success
  type: int
environment_conflict:
  description: Whether E(LICENSE_KEY) holds another licence than the table's.
  returned: with O(directory)
  type: bool
table:
  description: Number of C(rows) and C(active) ones, and of the operative row tier, customer_email, expires_at, features.
  returned: with O(directory)
  type: dict
in_force:
  description: The licence that counts - the environment's, else the operative row - with tier, customer_email, expires_at, features.
  returned: with O(directory)
  type: dict
table_error:
  description: Why Postgres did not answer; empty when it did.
  returned: with O(directory)
  type: str
endpoint_error:
  description: Why admin-api did not answer; empty when it did.
  returned: with O(directory)
  type: str
text:
  description: All of it for a person.
  returned: success
  type: list
  elements: str
duration:
  description: Seconds.
  returned: success
  type: float
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.scutum.ops.plugins.module_utils import ansible_door, licence, licence_watch
from ansible_collections.scutum.ops.plugins.module_utils.admin_api import AdminApi
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path"},
            "url": {"type": "str"},
            "connections": {"type": "int", "default": 20},
            "timeout": {"type": "int", "default": 30},
        },
        required_one_of=[("directory", "url")],
        supports_check_mode=True,
    )
    given = module.params

    def work() -> dict[str, object]:
        if given["directory"]:
            installation = Installation(given["directory"])
            ansible_door.installed(installation)
            found = licence.status(installation, given["connections"], given["timeout"])
        else:
            found = licence.look(AdminApi(given["url"], deadline=given["timeout"]), given["connections"])
        warning = licence_watch.due(found)
        return {"changed": False, **found, "warning": warning, "text": licence.text(found).splitlines()}

    ansible_door.run(module, work)


if __name__ == "__main__":
    main()
