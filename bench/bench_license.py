"""make bench NAME=license: an activation until it is proven, and what the role costs in a run without changes."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from typing import Any

import _measure as measure
import _testbed as testbed
import yaml

sys.path.insert(0, str(measure.ROOT / "testbed/standin"))

from issue_licence import issue

ROUNDS = 5
HOST = "bench-license"


def activate(days: float) -> tuple[float, float]:
    """One activation through the host's own command: seconds of the whole process without the wait, and the wait."""
    command = ["docker", "exec", "-i", HOST, "scutum-ops", "--json", "license-activate"]
    start = time.perf_counter()
    done = subprocess.run(command, input=issue("business", days), capture_output=True, text=True, check=False)
    spent = time.perf_counter() - start
    result = json.loads(done.stdout)
    if done.returncode or result["status"] != "active":
        raise SystemExit(f"the activation failed: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return spent - result["revalidation_seconds"], result["revalidation_seconds"]


def without_license() -> list[dict[str, Any]]:
    """playbooks/day_one.yml as it is, but for the role."""
    plays: list[dict[str, Any]] = yaml.safe_load((measure.ROOT / "playbooks/day_one.yml").read_text())
    for play in plays:
        roles = [task.get("ansible.builtin.include_role", {}).get("name") for task in play["tasks"]]
        play["tasks"] = [task for task, role in zip(play["tasks"], roles, strict=True) if role != "scutum.ops.license"]
        play["vars"] = {"__license_activation": {}}
    return plays


def main() -> None:
    """Measure."""
    build = measure.ROOT / "build" / "bench"
    build.mkdir(parents=True, exist_ok=True)
    # Each activation ends later than the one before: a renewal, as the vendor sends it.
    key = issue("business", 500)
    hosts, with_key = build / "license.yml", build / "license-key.yml"
    testbed.inventory(hosts, [HOST])
    with_key.write_text(json.dumps({"scutum_license_key": key}))
    with_key.chmod(0o600)
    samples: dict[str, list[float]] = {"activate": [], "wait": [], "without": [], "with": []}
    reference = build / "day_one_without_license.yml"
    reference.write_text(yaml.safe_dump(without_license()))
    without = testbed.playbook(str(reference), hosts)
    noop = [*testbed.playbook("playbooks/day_one.yml", hosts), "-e", f"@{with_key}"]
    try:
        testbed.clones([HOST])
        for number in range(ROUNDS):
            spent, waited = activate(365 + number)
            samples["activate"].append(spent)
            samples["wait"].append(waited)
        measure.seconds(noop, repeat=1)
        for unused in range(ROUNDS):
            samples["without"] += measure.seconds(without, repeat=1)
            samples["with"] += measure.seconds(noop, repeat=1)
    finally:
        with_key.unlink()
        testbed.verb("host", "rm", HOST)
    median = statistics.median
    measure.write(
        "license",
        {
            "activate_s": (round(median(samples["activate"]), 2), 3, "s"),
            "noop_extra_s": (round(median(samples["with"]) - median(samples["without"]), 2), 1, "s"),
        },
        {
            "rounds": ROUNDS,
            "workers": 1,
            "connections": 20,
            "activate": "whole process of scutum-ops license-activate on the host, without the wait for a revalidation",
            "reference": "playbooks/day_one.yml without the role, interleaved with all of it",
        },
        samples,
    )


if __name__ == "__main__":
    main()
