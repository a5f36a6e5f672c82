"""make bench NAME=install: what a run without changes costs, on one host and on ten, and a first install."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import _measure as measure

ROUNDS = 5
HOSTS = [f"bench-{number}" for number in range(10)]
FRESH = "bench-fresh"
BIN = Path(sys.executable).parent
# Gathers what the role gathers where it gathers anything: the reference for a run without changes.
FACTS_ONLY = """---
- hosts: scutum
  become: true
  gather_facts: true
  gather_subset: ["!all", "!min", distribution, pkg_mgr]
  tasks: []
"""


def testbed(*arguments: str) -> str:
    """A verb of the testbed; its messages are shown."""
    command = [sys.executable, "testbed/testbed.py", *arguments]
    return subprocess.run(command, cwd=measure.ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def inventory(path: Path, names: list[str]) -> None:
    """The demo's variables, other hosts."""
    hosts = {
        name: {
            "ansible_connection": "community.docker.docker",
            "ansible_host": name,
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        for name in names
    }
    variables = {
        "scutum_version": "0.1.0",
        "scutum_release_base_url": "http://releases.testbed/release",
        "scutum_bind_address": "0.0.0.0",
        "scutum_smoke_models": ["gpt-4o-mini", "claude-3-5-sonnet"],
        "scutum_litellm_workers": 1,
    }
    path.write_text(json.dumps({"scutum": {"hosts": hosts, "vars": variables}}))


def wait_until_serving(name: str) -> None:
    """A clone's containers start with its engine."""
    url = f"http://{testbed('ip', name)}:4000/health/liveliness"
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        try:
            if urllib.request.urlopen(url, timeout=5).status == 200:
                return
        except OSError:
            time.sleep(1)
    raise SystemExit(f"{name} does not serve after 180 s")


def playbook(path: str, hosts: Path) -> list[str]:
    """The whole process that an operator starts."""
    return [str(BIN / "ansible-playbook"), "-i", str(hosts), path]


def main() -> None:
    """Measure."""
    build = measure.ROOT / "build" / "bench"
    build.mkdir(parents=True, exist_ok=True)
    facts, one, ten, fresh = (build / name for name in ("facts.yml", "one.yml", "ten.yml", "fresh.yml"))
    facts.write_text(FACTS_ONLY)
    inventory(one, HOSTS[:1])
    inventory(ten, HOSTS)
    inventory(fresh, [FRESH])
    env = {"ANSIBLE_FORKS": "20"}
    samples: dict[str, list[float]] = {"facts": [], "noop": [], "ten": [], "install": []}
    try:
        testbed("up")
        # Images present: the pull is the network's, not ours.
        testbed("host", "create", FRESH)
        services = ("litellm", "admin-api", "admin-ui", "docs")
        images = [f"ghcr.io/scutum-dev/scutum-{name}:0.1.0" for name in services] + [
            "postgres:16-alpine",
            "redis:7-alpine",
        ]
        for image in images:
            testbed("exec", FRESH, "--", "docker", "pull", "-q", image)
        samples["install"] = measure.seconds(playbook("playbooks/day_one.yml", fresh), repeat=1, env=env)
        testbed("host", "rm", FRESH)
        tag = testbed("golden").splitlines()[-1]
        testbed("host", "create", HOSTS[0], "--from", tag)
        wait_until_serving(HOSTS[0])
        noop = playbook("playbooks/day_one.yml", one)
        measure.seconds(noop, repeat=1, env=env)
        for unused in range(ROUNDS):
            samples["facts"] += measure.seconds(playbook(str(facts), one), repeat=1, env=env)
            samples["noop"] += measure.seconds(noop, repeat=1, env=env)
        for name in HOSTS[1:]:
            testbed("host", "create", name, "--from", tag)
        for name in HOSTS[1:]:
            wait_until_serving(name)
        samples["one_of_ten"] = []
        for unused in range(3):
            samples["one_of_ten"] += measure.seconds(noop, repeat=1, env=env)
            samples["ten"] += measure.seconds(playbook("playbooks/day_one.yml", ten), repeat=1, env=env)
    finally:
        testbed("host", "rm", FRESH, *HOSTS)
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
