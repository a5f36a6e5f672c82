"""make bench NAME=install: what a run without changes costs, on one host and on ten, and a first install."""

from __future__ import annotations

import statistics

import _measure as measure
import _testbed as testbed

ROUNDS = 5
HOSTS = [f"bench-{number}" for number in range(10)]
FRESH = "bench-fresh"
# Gathers what the role gathers where it gathers anything: the reference for a run without changes.
FACTS_ONLY = """---
- hosts: scutum
  become: true
  gather_facts: true
  gather_subset: ["!all", "!min", distribution, pkg_mgr]
  tasks: []
"""


def main() -> None:
    """Measure."""
    build = measure.ROOT / "build" / "bench"
    build.mkdir(parents=True, exist_ok=True)
    facts, one, ten, fresh = (build / name for name in ("facts.yml", "one.yml", "ten.yml", "fresh.yml"))
    facts.write_text(FACTS_ONLY)
    testbed.inventory(one, HOSTS[:1])
    testbed.inventory(ten, HOSTS)
    testbed.inventory(fresh, [FRESH])
    env = {"ANSIBLE_FORKS": "20"}
    samples: dict[str, list[float]] = {"facts": [], "noop": [], "ten": [], "install": []}
    try:
        testbed.verb("up")
        # Images present: the pull is the network's, not ours.
        testbed.verb("host", "create", FRESH)
        services = ("litellm", "admin-api", "admin-ui", "docs")
        images = [f"ghcr.io/scutum-dev/scutum-{name}:0.1.0" for name in services] + [
            "postgres:16-alpine",
            "redis:7-alpine",
        ]
        for image in images:
            testbed.verb("exec", FRESH, "--", "docker", "pull", "-q", image)
        samples["install"] = measure.seconds(testbed.playbook("playbooks/day_one.yml", fresh), repeat=1, env=env)
        testbed.verb("host", "rm", FRESH)
        testbed.clones(HOSTS[:1])
        noop = testbed.playbook("playbooks/day_one.yml", one)
        measure.seconds(noop, repeat=1, env=env)
        for unused in range(ROUNDS):
            samples["facts"] += measure.seconds(testbed.playbook(str(facts), one), repeat=1, env=env)
            samples["noop"] += measure.seconds(noop, repeat=1, env=env)
        testbed.clones(HOSTS[1:])
        samples["one_of_ten"] = []
        for unused in range(3):
            samples["one_of_ten"] += measure.seconds(noop, repeat=1, env=env)
            samples["ten"] += measure.seconds(testbed.playbook("playbooks/day_one.yml", ten), repeat=1, env=env)
    finally:
        testbed.verb("host", "rm", FRESH, *HOSTS)
    measure.write(
        "install",
        {
            "noop_ratio": (measure.ratio(samples["noop"], samples["facts"]), 6, "x"),
            "ten_hosts_ratio": (measure.ratio(samples["ten"], samples["one_of_ten"]), 6, "x"),
            "install_s": (round(statistics.median(samples["install"]), 1), None, "s"),
        },
        {"rounds": ROUNDS, "hosts": len(HOSTS), "connection": "docker exec, pipelined", "litellm_workers": 1},
        samples,
    )


if __name__ == "__main__":
    main()
