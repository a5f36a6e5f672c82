"""Molecule's platforms: hosts created side by side, and the instance config that says how to connect to each."""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from . import golden, host
from .common import TestbedError, log

KEYS = {"name", "from", "ssh", "disk_limit", "groups", "children", "hostname"}
PARALLEL = 4


def _spec(platform: dict[str, Any]) -> host.Spec:
    unknown = sorted(set(platform) - KEYS)
    if unknown:
        raise TestbedError(f"platform {platform.get('name')}: unknown keys {', '.join(unknown)}; known: {sorted(KEYS)}")
    limit = platform.get("disk_limit")
    return host.Spec(platform["name"], platform.get("from", "bare"), bool(platform.get("ssh")), limit)


def _connection(spec: host.Spec) -> dict[str, Any]:
    if spec.ssh:
        return {
            "instance": spec.name,
            "address": host.address(spec.name),
            "user": "root",
            "port": 22,
            "identity_file": str(host.ssh_key()),
        }
    return {
        "instance": spec.name,
        "address": spec.name,
        "user": "root",
        "connection": "community.docker.docker",
    }


def _each(work: Any, items: Iterable[Any]) -> None:
    """Run the work for all items, some at a time; all of them finish before the first error is raised."""
    with ThreadPoolExecutor(PARALLEL) as pool:
        futures = [pool.submit(work, item) for item in items]
    errors = [str(future.exception()) for future in futures if future.exception()]
    if errors:
        raise TestbedError("\n".join(errors))


def apply(action: str, platforms: list[dict[str, Any]], instance_config: Path) -> None:
    """Create or remove all platforms of a scenario."""
    specs = [_spec(platform) for platform in platforms]
    if action == "destroy":
        _each(host.remove, [spec.name for spec in specs])
        instance_config.unlink(missing_ok=True)
        return
    if any(spec.source == "golden" for spec in specs):
        tag = golden.ensure()
        specs = [host.Spec(s.name, tag if s.source == "golden" else s.source, s.ssh, s.disk_limit) for s in specs]
    if any(spec.ssh for spec in specs):
        host.ssh_key()
    _each(host.create, specs)
    # JSON is YAML, which is what molecule reads here.
    instance_config.write_text(json.dumps([_connection(spec) for spec in specs], indent=2) + "\n")
    log(f"  ✓ {instance_config}")
