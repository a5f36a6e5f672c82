"""For bench/bench_<name>.py: hosts of the testbed, with the demo's variables, and playbooks against them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import _measure as measure

sys.path.insert(0, str(measure.ROOT / ".cache/collections"))

from ansible_collections.scutum.ops.plugins.module_utils.engine import Engine

BIN = Path(sys.executable).parent


def verb(*arguments: str) -> str:
    """A verb of the testbed; its messages are shown."""
    command = [sys.executable, "testbed/testbed.py", *arguments]
    return subprocess.run(command, cwd=measure.ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def on(host: str, command: str, stdin: str = "") -> str:
    """A shell command on a host: its standard output. A failure stops the benchmark."""
    # The library's own way: what the engine did not even start is tried again.
    done = Engine().run("exec", "-i", host, "bash", "-c", command, stdin=stdin)
    if done.rc:
        raise SystemExit(f"{command}: {done.out[-2000:]}{done.err[-2000:]}")
    return done.out.strip()


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
    url = f"http://{verb('ip', name)}:4000/health/liveliness"
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


def clones(names: list[str]) -> None:
    """Clones of the installed host, side by side, all serving."""
    tag = verb("golden").splitlines()[-1]
    for name in names:
        verb("host", "create", name, "--from", tag)
    for name in names:
        wait_until_serving(name)
