"""The testbed's network: hosts and services reach each other by name, the mirror by NAT."""

from __future__ import annotations

import json

from .common import CLI, SETTINGS, TestbedError, docker, docker_ok, run, step

# Outside the pools that an engine inside a host picks from: a cloned host's networks never clash with the outer one.
SUBNETS = tuple(f"10.{n}.0.0/24" for n in range(213, 230))


def _owner() -> str:
    raw = docker("network", "inspect", SETTINGS.name, check=False)
    return json.loads(raw)[0]["Labels"].get("org.scutum.testbed.cache", "") if raw else ""


def exists() -> bool:
    """True when the network is there and belongs to this cache folder."""
    if not docker_ok("network", "inspect", SETTINGS.name):
        return False
    if _owner() != str(SETTINGS.cache):
        label = ("--filter", f"label={SETTINGS.label}")
        if not docker("ps", "-q", *label).split():
            # Left over from another checkout, after its machine or engine stopped: nothing of it runs.
            with step(f"remove what is left of the testbed of {_owner() or 'an unknown checkout'}"):
                stopped = docker("ps", "-aq", *label).split()
                if stopped:
                    docker("rm", "-f", "-v", *stopped)
                docker("network", "rm", SETTINGS.name)
            return False
        raise TestbedError(
            f"a testbed named {SETTINGS.name} runs on this machine with the cache {_owner() or '(unknown)'}.\n"
            f"Run `{CLI} down` in that checkout, or set SCUTUM_TESTBED_NAME to another name here."
        )
    return True


def ensure() -> None:
    """Create the network in the first subnet that is free."""
    if exists():
        return
    with step(f"network {SETTINGS.name}"):
        labels = ("--label", SETTINGS.label, "--label", f"org.scutum.testbed.cache={SETTINGS.cache}")
        for subnet in (SETTINGS.subnet,) if SETTINGS.subnet else SUBNETS:
            done = run("docker", "network", "create", *labels, "--subnet", subnet, SETTINGS.name, check=False)
            if done.returncode == 0:
                return
        raise TestbedError(f"no free subnet for the network: set SCUTUM_TESTBED_SUBNET\n{done.stderr.strip()}")
