"""The golden snapshot: a host with Scutum installed by the playbook, cloned by scenarios in seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from . import host, images
from .common import CLI, REPO, SETTINGS, TestbedError, digest, lock, log, step

STANDIN = ("admin-api", "licences", "litellm", "postgres", "redis", "release", "services", "static")
DOCKERFILES = ("base", "app", "data", "litellm")
INPUTS = (
    *("roles", "plugins", "playbooks", "inventories/demo", "galaxy.yml", "testbed/build_images.py"),
    *(f"testbed/standin/{part}" for part in STANDIN),
    *(f"testbed/standin/{part}.Dockerfile" for part in DOCKERFILES),
)
INVENTORY = """\
---
scutum:
  hosts:
    {name}:
      ansible_connection: community.docker.docker
      ansible_host: {name}
      ansible_python_interpreter: /usr/bin/python3
"""


def tag() -> str:
    """Changes when the collection or the testbed changes."""
    return f"installed-{digest(images.key(), *(REPO / part for part in INPUTS if (REPO / part).exists()))}"


def collections_path() -> Path:
    """A collections folder in which this checkout is scutum.ops."""
    link = REPO / ".cache" / "collections" / "ansible_collections" / "scutum" / "ops"
    if not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(REPO)
    return link.parents[2]


def ensure(playbook: str = "playbooks/day_one.yml") -> str:
    """Return the tag of the golden snapshot; make it when it is missing."""
    with lock("golden.lock"):
        return _ensure(playbook)


def _ensure(playbook: str) -> str:
    wanted = tag()
    if host.snapshot_exists(wanted):
        log(f"  ✓ golden snapshot {wanted} is there")
        return wanted
    name = f"{SETTINGS.name}-golden"
    inventory = SETTINGS.cache / "golden.yml"
    inventory.write_text(INVENTORY.format(name=name))
    host.create(host.Spec(name))
    bindir = Path(sys.executable).parent
    command = [
        str(bindir / "ansible-playbook"), playbook, "-i", "inventories/demo", "-i", str(inventory), "--limit", name,
    ]  # fmt: skip
    paths = [str(collections_path()), os.environ.get("ANSIBLE_COLLECTIONS_PATH", "")]
    env = {
        **os.environ,
        "PATH": f"{bindir}:{os.environ['PATH']}",
        "ANSIBLE_COLLECTIONS_PATH": ":".join(filter(None, paths)),
        "ANSIBLE_PIPELINING": "1",
    }
    if not (bindir / "ansible-playbook").exists():
        raise TestbedError(
            f"no ansible-playbook beside {sys.executable}: run `.venv/bin/python testbed/testbed.py golden`"
        )
    with step(f"{playbook} on {name}"):
        # Ansible's output belongs to the log, standard output is for the tag alone.
        done = subprocess.run(command, cwd=REPO, env=env, stdout=sys.stderr, check=False)
        if done.returncode != 0:
            raise TestbedError(
                f"the playbook failed (rc {done.returncode}); the host {name} was left for you to look at:\n"
                f"  {CLI} exec {name} -- journalctl -b    then    {CLI} host rm {name}"
            )
    host.snapshot(name, wanted)
    host.remove(name)
    for old in host.snapshots():
        if old.startswith("installed-") and old != wanted:
            host.snapshot_remove(old)
    return wanted
