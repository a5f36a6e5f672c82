# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Watch error rate and latency against a baseline."""

from __future__ import annotations

DOCUMENTATION = r"""
module: error_rate_watch
short_description: Watch Scutum's error rate and latency against a baseline
version_added: 0.1.0
author: scutum.ops maintainers (@scutum-ops)
description:
  - Counts failures and times of completions (from LiteLLM's metrics, and of some that it asks for itself) and of the admin
    API, and restarts of containers, and compares them with a baseline that was measured before a change.
  - The verdict has three values, V(good), V(bad) and V(not_enough_data). A share of failures counts as risen when chance does
    not explain it (the lower end of Wilson's 95 % interval), over the last minute or over the whole. It ends early on V(bad).
  - It asks from the host, for as long as the play runs. Role C(upgrade) runs the same watch detached, where a dead controller
    does not stop it.
  - Completions are asked for with fallbacks and caches switched off. Each costs a few tokens.
extends_documentation_fragment: scutum.ops.installation.directory
requirements:
  - Docker Engine 20.10 or newer with Compose 2.24.4 or newer on the host
attributes:
  check_mode:
    description: Asks nothing, and says what it would ask.
    support: full
  diff_mode:
    description: Nothing to show.
    support: none
options:
  state:
    description:
      - V(baseline) measures and decides nothing; V(watched) watches against O(baseline).
    type: str
    choices: [baseline, watched]
    default: watched
  baseline:
    description:
      - What RV(signals) was, as this module returned it with O(state=baseline). Without it every failure beyond
        O(error_margin) counts, and no latency.
    type: dict
    default: {}
  duration:
    description:
      - Seconds. Without it 30 for a baseline and 1800 for a watch.
    type: float
  interval:
    description:
      - Seconds between two rounds.
    type: float
    default: 2
  completion_interval:
    description:
      - Seconds between two completions that the watch asks for; V(0) for none. It asks more often while there is too little
        traffic for a verdict, and after one has failed.
    type: float
    default: 10
  model:
    description:
      - The model that is asked. Without it the first that LiteLLM knows.
    type: str
    default: ""
  minimum_requests:
    description:
      - Completions without which nothing is good; of the admin API half as many answers are needed.
    type: int
    default: 50
  error_margin:
    description:
      - Share of failures beyond the baseline's that is still good, between 0 and 1.
    type: float
    default: 0.05
  latency_factor:
    description:
      - How many times slower than the baseline is still good. A rise of less than half a second always is.
    type: float
    default: 3
  fail_on:
    description:
      - Verdicts on which the task fails.
    type: list
    elements: str
    choices: [bad, not_enough_data]
    default: [bad, not_enough_data]
"""

EXAMPLES = r"""
- name: How it is now
  scutum.ops.error_rate_watch:
    directory: /opt/scutum
    state: baseline
  register: before

- name: Whether it is still so after a change
  scutum.ops.error_rate_watch:
    directory: /opt/scutum
    baseline: "{{ before.signals }}"
    duration: 300
    fail_on: [bad]
"""

RETURN = r"""
verdict:
  description: V(good), V(bad) or V(not_enough_data); empty for a baseline and in check mode.
  returned: always
  type: str
reasons:
  description: Why.
  returned: always
  type: list
  elements: str
  sample: ["admin API: 12 of 60 failed in the last 60 s (20.0%); before 0.0%, and 5.0% more is allowed"]
signals:
  description: V(requests), V(failed) and V(seconds) (of the good answers together) by signal.
  returned: always
  type: dict
  sample: {"admin API": {"requests": 60, "failed": 12, "seconds": 1.4}}
restarts:
  description: By service, restarts of its container; 1 as well for one that does not run.
  returned: always
  type: dict
lasted:
  description: Seconds for which was asked.
  returned: always
  type: float
first_bad:
  description: When that was first seen which made it bad, in seconds since 1970; null when nothing did.
  returned: always
  type: float
text:
  description: All of it for people.
  returned: always
  type: list
  elements: str
duration:
  description: Seconds.
  returned: success
  type: float
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.scutum.ops.plugins.module_utils import ansible_door, error_rate_watch
from ansible_collections.scutum.ops.plugins.module_utils.error_rate import Rules
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation

NOTHING: dict[str, Any] = {
    "verdict": "", "reasons": [], "signals": {}, "restarts": {}, "lasted": 0.0, "first_bad": None,
}  # fmt: skip


def check(given: dict[str, Any]) -> None:
    """Refuse what cannot work."""
    wrong = [f"{name} has to be more than 0" for name in ("interval", "latency_factor") if given[name] <= 0]
    wrong += [f"{name} must not be negative" for name in ("duration", "completion_interval") if (given[name] or 0) < 0]
    if not 0 < given["error_margin"] < 1:
        wrong.append("error_margin is a share, between 0 and 1")
    if given["minimum_requests"] < 1:
        wrong.append("minimum_requests has to be at least 1: nothing is never good")
    for name, counts in given["baseline"].items():
        if not isinstance(counts, dict) or {"requests", "failed", "seconds"} - set(counts):
            wrong.append(f"baseline.{name} has to have requests, failed and seconds (the signals of state: baseline)")
    if wrong:
        raise ScutumError("; ".join(wrong), next_step="correct the options of the task and run it again")


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["baseline", "watched"], "default": "watched"},
            "baseline": {"type": "dict", "default": {}},
            "duration": {"type": "float"},
            "interval": {"type": "float", "default": 2},
            "completion_interval": {"type": "float", "default": 10},
            "model": {"type": "str", "default": ""},
            "minimum_requests": {"type": "int", "default": 50},
            "error_margin": {"type": "float", "default": 0.05},
            "latency_factor": {"type": "float", "default": 3},
            "fail_on": {
                "type": "list",
                "elements": "str",
                "choices": ["bad", "not_enough_data"],
                "default": ["bad", "not_enough_data"],
            },
        },
        supports_check_mode=True,
    )
    given = module.params
    installation = Installation(given["directory"])
    baseline = given["state"] == "baseline"
    seconds = given["duration"] if given["duration"] is not None else 30.0 if baseline else 1800.0

    def work() -> dict[str, Any]:
        check(given)
        if module.check_mode:
            what = "measure the signals" if baseline else "watch LiteLLM, admin-api and the containers"
            return {"changed": False, **NOTHING, "text": [f"would {what} for {seconds:g} s"]}
        ansible_door.installed(installation)
        if baseline:
            found = error_rate_watch.baseline(installation, seconds, given["interval"], given["model"], module.debug)
        else:
            before = {
                name: {
                    "requests": int(item["requests"]),
                    "failed": int(item["failed"]),
                    "seconds": float(item["seconds"]),
                }
                for name, item in given["baseline"].items()
            }
            found = error_rate_watch.watch(
                installation,
                {"signals": before},
                Rules(given["error_margin"], given["latency_factor"], given["minimum_requests"]),
                seconds,
                given["interval"],
                given["completion_interval"],
                given["model"],
                module.debug,
            )
        result = {name: found.get(name, empty) for name, empty in NOTHING.items()}
        result["text"] = error_rate_watch.text(found)
        if result["verdict"] in given["fail_on"]:
            module.fail_json(msg="\n".join(result["text"]), **result)
        return {"changed": False, **result}

    ansible_door.run(module, work)


if __name__ == "__main__":
    main()
