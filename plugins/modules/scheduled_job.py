# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Have a job of this collection on its schedule."""

from __future__ import annotations

DOCUMENTATION = r"""
module: scheduled_job
short_description: Have a job of scutum-ops run on a schedule
version_added: 0.1.0
author: scutum.ops maintainers (@scutum-ops)
description:
  - Writes a systemd service and its timer, which run C(scutum-ops) on the host without Ansible, at low priority.
  - A run that was missed while the host was off is made up for.
extends_documentation_fragment: scutum.ops.installation.directory
attributes:
  check_mode:
    description: Says what would be written.
    support: full
  diff_mode:
    description: The names of what is written are in RV(changes).
    support: none
options:
  name:
    description:
      - Name of the job; the units are C(scutum-ops-<name>.service) and C(.timer).
    type: str
    required: true
  state:
    description:
      - V(absent) removes the units; settings and state of the job stay.
    type: str
    choices: [present, absent]
    default: present
  description:
    description:
      - What it does, for C(systemctl list-timers).
    type: str
    default: ""
  arguments:
    description:
      - Arguments of C(scutum-ops), the job's name first.
    type: list
    elements: str
    default: []
  calendar:
    description:
      - When, as C(man systemd.time) describes calendar events.
      - A daily one (V(daily), or beginning with V(*-*-* )) is due 26 hours after its last run, too, since systemd leaves out a time that
        daylight saving skips.
    type: str
    default: daily
  scheduler:
    description:
      - V(timer) of systemd, which makes up for a run that was missed while the host was off, or V(cron); O(calendar) is in its words.
    type: str
    choices: [timer, cron]
    default: timer
  random_delay:
    description:
      - Seconds by which a start is put off at random.
    type: int
    default: 300
  timeout:
    description:
      - Seconds after which a run is ended.
    type: int
    default: 600
  directories:
    description:
      - Directories on the host that the job writes into, created when they are missing.
    type: list
    elements: path
    default: []
  notifications:
    description:
      - Where jobs on this host tell people. Kept in C(.scutum-ops/notifications.json), 0600.
      - When it changes, a test message is sent first by each way; one that fails ends the task.
    type: dict
    suboptions:
      mail:
        description: A mail server; no mail without O(notifications.mail.to).
        type: dict
        suboptions:
          host:
            description: Its name or address.
            type: str
            default: localhost
          port:
            description: Its port.
            type: int
            default: 25
          sender:
            description: The sender's address.
            type: str
            default: scutum-ops@localhost
          to:
            description: Addresses.
            type: list
            elements: str
            default: []
          starttls:
            description: Use STARTTLS, and check the certificate.
            type: bool
            default: false
          username:
            description: Login; empty for none.
            type: str
            default: ""
          password:
            description: Its password.
            type: str
            default: ""
      webhook:
        description: A URL that gets a JSON object for each message.
        type: dict
        suboptions:
          url:
            description: The URL; empty for none.
            type: str
            default: ""
          headers:
            description: Headers for it.
            type: dict
            default: {}
  metrics:
    description:
      - Files with metrics that the job writes. Removed with it, because old ones would raise an alert for ever.
    type: list
    elements: path
    default: []
  run_now:
    description:
      - Run it once although nothing about the job has changed.
    type: bool
    default: false
  run_when_changed:
    description:
      - Run it once when it is new or changed.
    type: bool
    default: true
  command:
    description:
      - The command line of this collection on the host.
    type: path
    default: /usr/local/sbin/scutum-ops
"""

EXAMPLES = r"""
- name: Watch the licence
  scutum.ops.scheduled_job:
    directory: /opt/scutum
    name: license-watch
    description: Watch the licence of Scutum
    arguments: [license-watch]
    calendar: hourly
"""

RETURN = r"""
changes:
  description: What was changed, or would be.
  returned: success
  type: list
  elements: str
  sample: [/etc/systemd/system/scutum-ops-license-watch.timer]
duration:
  description: Seconds.
  returned: success
  type: float
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.scutum.ops.plugins.module_utils import ansible_door, schedule
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation

NOTIFICATIONS = {
    "mail": {
        "type": "dict",
        "options": {
            "host": {"type": "str", "default": "localhost"},
            "port": {"type": "int", "default": 25},
            "sender": {"type": "str", "default": "scutum-ops@localhost"},
            "to": {"type": "list", "elements": "str", "default": []},
            "starttls": {"type": "bool", "default": False},
            "username": {"type": "str", "default": ""},
            "password": {"type": "str", "default": "", "no_log": True},
        },
    },
    "webhook": {
        "type": "dict",
        "options": {
            "url": {"type": "str", "default": "", "no_log": True},
            "headers": {"type": "dict", "default": {}, "no_log": True},
        },
    },
}


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "description": {"type": "str", "default": ""},
            "arguments": {"type": "list", "elements": "str", "default": []},
            "calendar": {"type": "str", "default": "daily"},
            "scheduler": {"type": "str", "choices": ["timer", "cron"], "default": "timer"},
            "random_delay": {"type": "int", "default": 300},
            "timeout": {"type": "int", "default": 600},
            "directories": {"type": "list", "elements": "path", "default": []},
            "notifications": {"type": "dict", "options": NOTIFICATIONS},
            "metrics": {"type": "list", "elements": "path", "default": []},
            "run_now": {"type": "bool", "default": False},
            "run_when_changed": {"type": "bool", "default": True},
            "command": {"type": "path", "default": "/usr/local/sbin/scutum-ops"},
        },
        supports_check_mode=True,
    )
    given = module.params
    told = given["notifications"] or {}
    webhook = told.get("webhook") or {}
    secrets = [(told.get("mail") or {}).get("password"), webhook.get("url"), *(webhook.get("headers") or {}).values()]
    # Just the values, stripped too, as they are sent: not the words of every header.
    shown = [str(secret) for secret in secrets if secret]
    ansible_door.mask_only(module, [*shown, *(text.strip() for text in shown)])
    job = schedule.Job(
        name=given["name"],
        description=given["description"] or f"Scutum: {given['name']}",
        arguments=given["arguments"],
        calendar=given["calendar"],
        scheduler=given["scheduler"],
        delay=given["random_delay"],
        timeout=given["timeout"],
        directories=given["directories"],
        notifications=given["notifications"],
        metrics=given["metrics"],
    )

    def work() -> dict[str, object]:
        if given["state"] == "absent":
            changes = schedule.remove(job, module.check_mode)
        else:
            changes = schedule.ensure(Installation(given["directory"]), job, given["command"], module.check_mode)
            wanted = given["run_now"] or (changes and given["run_when_changed"])
            if wanted and not module.check_mode:
                problem = schedule.run_now(job)
                if problem:
                    module.warn(problem)
        return {"changed": bool(changes), "changes": changes}

    ansible_door.run(module, work)


if __name__ == "__main__":
    main()
