# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Have a licence in force."""

from __future__ import annotations

DOCUMENTATION = r"""
module: license
short_description: Activate a licence so that it stays, and prove it
version_added: 0.1.0
author: scutum.ops maintainers (@scutum-ops)
description:
  - Checks the token offline first - shape, EdDSA, the signature by the key of the pinned release's bundle, claims, dates -
    and against the licence in force.
  - Activates it through the admin API, then proves it - in the table C(licenses), and on fresh connections, of which every
    worker process of admin-api has to answer with it.
  - A E(LICENSE_KEY) in admin-api's environment wins over every activation within five minutes; another licence there is
    taken out, and admin-api alone is recreated.
  - A licence that is in force already changes nothing and sends nothing that writes.
extends_documentation_fragment: scutum.ops.installation.directory
attributes:
  check_mode:
    description: Checks the token and says what would be done.
    support: full
  diff_mode:
    description: Tier, customer, expiry, features and whose licence the environment holds; never a token.
    support: full
requirements:
  - OpenSSL 3.0 or newer on the host (the command openssl)
options:
  license_key:
    description:
      - The token from the vendor, one line. White space around it is taken off.
    type: str
    required: true
  state:
    description:
      - What the licence shall be.
    type: str
    choices: [active]
    default: active
  allow_customer_change:
    description:
      - Take a licence for another customer - neither C(sub) nor the mail address is that of the licence in force.
    type: bool
    default: false
  allow_downgrade:
    description:
      - Take a licence of a lower tier, or one that lacks features of the licence in force.
    type: bool
    default: false
  allow_earlier_expiry:
    description:
      - Take a licence that expires before the one in force.
    type: bool
    default: false
  longer_licenses:
    description:
      - What to do with active rows that expire later. The product takes the row that expires last, so they would win at
        its next start.
      - V(refuse) fails and names them; V(deactivate) sets their C(is_active) to false and keeps the rows.
    type: str
    choices: [refuse, deactivate]
    default: refuse
  environment_key:
    description:
      - What to do with another licence in E(LICENSE_KEY), in C(config/.env) or in the running container.
      - V(clear) empties it and recreates admin-api, while everything else goes on serving; V(refuse) fails before
        anything is activated. A licence that the table does not hold is kept below C(.scutum-ops/replaced).
    type: str
    choices: [clear, refuse]
    default: clear
  wait:
    description:
      - Seconds to wait for worker processes that have not looked again. They look every 300 seconds.
      - V(0) returns RV(status=pending) instead.
    type: int
    default: 315
  connections:
    description:
      - Fresh connections for each worker process of admin-api that have to agree.
    type: int
    default: 20
  timeout:
    description:
      - Seconds in which admin-api has to answer, with retries on 429 and 503. After a 429 the product asks for a minute.
    type: int
    default: 90
"""

EXAMPLES = r"""
- name: The renewal
  scutum.ops.license:
    directory: /opt/scutum
    license_key: "{{ scutum_license_key }}"
"""

RETURN = r"""
status:
  description: V(active), proven; V(pending), in the table and not yet with every worker; V(planned), check mode.
  returned: success
  type: str
  sample: active
actions:
  description: What was done, or would be in check mode.
  returned: success
  type: list
  elements: str
  sample: ["activate business for ops@example.com until 2027-11-24T00:00:00Z"]
before:
  description: The licence that was in force, and whose licence the environment held.
  returned: success
  type: dict
after:
  description: The licence in force now.
  returned: success
  type: dict
answers:
  description: Fresh connections that were asked.
  returned: success
  type: int
agreeing:
  description: Those of them that answered with this licence.
  returned: success
  type: int
seconds:
  description: From the offline check to the proof, without waiting for a revalidation.
  returned: success
  type: float
revalidation_seconds:
  description: The wait for workers that had not looked again.
  returned: success
  type: float
duration:
  description: Seconds.
  returned: success
  type: float
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.scutum.ops.plugins.module_utils import ansible_door, licence_activation, licence_token
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "license_key": {"type": "str", "required": True, "no_log": True},
            "state": {"type": "str", "choices": ["active"], "default": "active"},
            "allow_customer_change": {"type": "bool", "default": False},
            "allow_downgrade": {"type": "bool", "default": False},
            "allow_earlier_expiry": {"type": "bool", "default": False},
            "longer_licenses": {"type": "str", "choices": ["refuse", "deactivate"], "default": "refuse"},
            # Names what to do with a key, and is none.
            "environment_key": {"type": "str", "choices": ["clear", "refuse"], "default": "clear", "no_log": False},
            "wait": {"type": "int", "default": 315},
            "connections": {"type": "int", "default": 20},
            "timeout": {"type": "int", "default": 90},
        },
        supports_check_mode=True,
    )
    given = module.params
    # Without the white space around it, it would not be found in what the module returns.
    ansible_door.mask_only(module, [given["license_key"], given["license_key"].strip()])
    installation = Installation(given["directory"])
    request = licence_activation.Request(
        token=given["license_key"],
        allow_customer_change=given["allow_customer_change"],
        allow_downgrade=given["allow_downgrade"],
        allow_earlier_expiry=given["allow_earlier_expiry"],
        longer_rows=given["longer_licenses"],
        environment=given["environment_key"],
        wait=given["wait"],
        connections=given["connections"],
        timeout=given["timeout"],
    )

    def work() -> dict[str, object]:
        if module.check_mode and not installation.exists():
            # The key to check it with comes with the release; its shape can be checked without.
            licence_token.read(given["license_key"])
            return {"changed": True, "status": "planned", "actions": ["activate the licence"]}
        ansible_door.installed(installation)
        result = licence_activation.activate(installation, request, check=module.check_mode)
        return {**result, "diff": {"before": result["before"], "after": result["after"]}}

    ansible_door.run(module, work)


if __name__ == "__main__":
    main()
