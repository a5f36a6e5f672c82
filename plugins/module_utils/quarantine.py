# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The quarantine of a copy: what lets it reach nothing, nobody, and none of production's secrets; and the proof, from inside.

Containers of its networks reach each other and nothing else: the networks are internal, which keeps them from other networks; a rule of
the host's firewall keeps them from the host itself, which an internal network does not (measured); names of the outside are not
resolved. Its secrets are throwaway ones and its models are mocks: what stored credentials there are in restored data cannot be
read with another salt.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shlex
import socket
from typing import Any

from . import compose as compose_module
from . import env_file, litellm_config
from .engine import run as run_command
from .env_file import GENERATED, OWNED
from .errors import ScutumError
from .files import read_text
from .installation import Installation
from .override import LITELLM_CONFIG, merge
from .secret_injection import TARGET
from .staged_copy import LABEL, StagedCopy, addresses
from .upgrade_settings import PREFIX, Settings

# Production's values for providers, where they may be asked; what is stored encrypted is read with the salt.
PROVIDER_KEYS = (
    *("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GOOGLE_API_KEY", "XAI_API_KEY", "DEEPSEEK_API_KEY", "AWS_ACCESS_KEY_ID"),
    *("AWS_SECRET_ACCESS_KEY", "AZURE_API_KEY", "AZURE_API_BASE", "LITELLM_SALT_KEY"),
)
MOCK = "OK from a staged copy"
# No server: a name of the outside is refused at once. An engine before 25.0.4 would ask the host's servers (CVE-2024-29018).
_NO_NAMES = "192.0.2.1"
_BRIDGE = "com.docker.network.bridge.name"
# A LiteLLM worker takes 350 MB (measured); a start of the next one beside it is a container of its own.
_MEMORY = {"litellm": "1g", "postgres": "2g", "redis": "768m"}
_MEMORY_ELSE = "512m"
# Of 1024: what production leaves over.
_SHARES = 128
# Variables that may hold secrets, or name places of production's: none of them goes into a copy.
_PRIVATE_VARIABLE = re.compile(
    r"KEY|PASSWORD|SECRET|TOKEN|WEBHOOK|CREDENTIAL|DSN|UR[LI]|HOST|ENDPOINT|BASE|MAIL|SMTP|PROXY|PORT$|^SCUTUM_|^COMPOSE_"
)
# Where LiteLLM sends what happens, and asks others about it.
_LISTENERS = ("callbacks", "success_callback", "failure_callback", "service_callback", "audit_log_callbacks")
_TOLD = ("alerting", "alert_types", "alert_to_webhook_url", "pass_through_endpoints")


def override(raw: dict[str, Any], name: str, of: str, cpus: float) -> dict[str, Any]:
    """What makes a release a copy that keeps to itself, as additions to its Compose file.

    Args:
        raw: the release's own model, every profile, not interpolated.
        name: of the copy's project.
        of: directory of the installation.
        cpus: for each service.
    """
    label = {LABEL: of}
    services: dict[str, Any] = {}
    for service, written in raw.get("services", {}).items():
        memory = _MEMORY.get(service, _MEMORY_ELSE)
        ours: dict[str, Any] = {
            "container_name": f"{name}-{service}",
            "restart": "no",
            "labels": label,
            "dns": [_NO_NAMES],
            "cpu_shares": _SHARES,
            # When memory runs out it goes before production does.
            "oom_score_adj": 500,
        }
        if {"mem_limit", "cpus"} & written.keys():
            # Compose refuses both kinds beside each other.
            ours |= {"mem_limit": memory, "cpus": cpus}
        else:
            ours["deploy"] = {"resources": {"limits": {"cpus": str(cpus), "memory": memory}}}
        if written.get("ports"):
            ours["ports"] = []
        if service in ("postgres", "redis"):
            if "healthcheck" in written:
                # Others wait for them, and the release looks every ten seconds only.
                ours["healthcheck"] = {"interval": "1s"}
        else:
            ours["stop_grace_period"] = "1s"
        services[service] = ours
    networks = {
        item: {
            "internal": True, "enable_ipv6": False, "name": f"{name}_{item}", "labels": label,
            "driver_opts": {_BRIDGE: bridge(of, item)},
        }
        for item in raw.get("networks", {})
    }  # fmt: skip
    volumes = {item: {"name": f"{name}_{item}", "labels": label} for item in raw.get("volumes", {})}
    return {"services": services, "networks": networks, "volumes": volumes}


def bridge(of: str, network: str) -> str:
    """The name of a network's interface on the host, which takes fifteen characters."""
    return "stg" + hashlib.sha256(f"{of}\n{network}".encode()).hexdigest()[:10]


def mocked(baked: dict[str, Any], changes: dict[str, Any], providers: bool) -> dict[str, Any]:
    """What a copy changes in an image's LiteLLM configuration: production's changes, with mocks for models, and nobody told.

    Args:
        baked: the image's own.
        changes: production's (`scutum_litellm_config`).
        providers: the models are asked as in production.
    """
    whole = merge(baked, changes)
    quiet: dict[str, Any] = {
        "litellm_settings": {key: [] for key in _LISTENERS if (whole.get("litellm_settings") or {}).get(key)},
        "general_settings": dict.fromkeys(key for key in _TOLD if (whole.get("general_settings") or {}).get(key)),
    }
    found = merge(changes, {key: part for key, part in quiet.items() if part})
    if providers:
        return found
    hidden = set(litellm_config.literal_secrets(whole).values())
    found = dict(_without(found, hidden))
    found["model_list"] = [_mock(model) for model in whole.get("model_list") or []]
    return found


def _mock(model: dict[str, Any]) -> dict[str, Any]:
    """A model that answers by itself: of what its provider is asked with, only the name and numbers stay."""
    given = model.get("litellm_params") or {}
    kept = {key: value for key, value in given.items() if isinstance(value, (bool, int, float))}
    kept |= {key: given[key] for key in ("model", "custom_llm_provider") if key in given}
    answer = given.get("mock_response") or MOCK
    return {**model, "litellm_params": {**kept, "api_key": "none", "mock_response": answer}}


def _without(value: Any, hidden: set[str]) -> Any:
    """A configuration without what some of its texts are."""
    if isinstance(value, dict):
        return {key: _without(item, hidden) for key, item in value.items()}
    if isinstance(value, list):
        return [_without(item, hidden) for item in value]
    return "none" if isinstance(value, str) and value in hidden else value


def environment(installation: Installation, wanted: Settings) -> dict[str, str]:
    """What config/.env of a copy has of production's: no secret, no place, and providers' keys only where they may be asked."""
    given = {**installation.env().as_dict(), **wanted.environment}
    found = {
        key: value
        for key, value in given.items()
        if value
        and key not in OWNED
        and key not in GENERATED
        and not _PRIVATE_VARIABLE.search(key)
        and env_file.problem_with(key, value) is None
    }
    # A release may refuse to start without a value; any will do.
    found |= {
        key: f"staged-{secrets.token_hex(8)}"
        for key, value in wanted.environment.items()
        if value and key not in (*found, *OWNED, *GENERATED, "LICENSE_KEY") and not key.endswith("PORT")
    }
    if wanted.staging_providers:
        held = {key: wanted.environment.get(key) or installation.secret(key) for key in PROVIDER_KEYS}
        found |= {key: value for key, value in held.items() if value}
    return found


def leaks(model: dict[str, Any], directory: str, name: str) -> list[str]:
    """What in a Compose model would let a copy out of its quarantine, or into what is production's, in words."""
    found = []
    for service, item in model.get("services", {}).items():
        if item.get("ports"):
            found.append(f"{service} publishes ports")
        if item.get("network_mode") not in (None, "none"):
            found.append(f"{service} has the network {item['network_mode']}")
        if item.get("privileged") or item.get("pid") == "host" or item.get("ipc") == "host" or item.get("devices"):
            found.append(f"{service} reaches into the host (privileged, pid, ipc, devices)")
        for mount in item.get("volumes") or []:
            source = os.path.realpath(str(mount.get("source") or ""))
            if mount.get("type") == "bind" and not source.startswith(os.path.realpath(directory) + os.sep):
                found.append(f"{service} mounts {mount.get('source')}")
            if mount.get("target") == TARGET:
                found.append(f"{service} has production's secrets")
        if not str(item.get("container_name", "")).startswith(f"{name}-"):
            found.append(f"{service} would be the container {item.get('container_name')}")
    for key, item in model.get("networks", {}).items():
        if not (item or {}).get("internal") or (item or {}).get("external"):
            found.append(f"the network {key} is not internal")
    for key, item in model.get("volumes", {}).items():
        if (item or {}).get("external") or not str((item or {}).get("name", "")).startswith(f"{name}_"):
            found.append(f"the volume {key} is not the copy's own")
    return found


def secrets_in(copy: StagedCopy, wanted: Settings) -> list[str]:
    """Secrets of production's that are in the copy's files, by their names."""
    allowed = PROVIDER_KEYS if wanted.staging_providers else ()
    held = {
        key: value
        for key, value in Installation(copy.of).secrets_in_force().items()
        if len(value) >= 8 and _PRIVATE_VARIABLE.search(key) and key not in allowed
    }
    files = (compose_module.ENV_FILE, compose_module.OVERRIDE_FILE, compose_module.MERGED_FILE, LITELLM_CONFIG)
    texts = [read_text(copy.path(name)) or "" for name in files]
    return [f"it has production's {key}" for key, value in sorted(held.items()) if any(value in text for text in texts)]


def close(copy: StagedCopy) -> str:
    """Keep the copy's networks from the host itself; why that could not be done, empty when it was. `prove` decides."""
    networks = copy.compose().model().get("networks", {})
    for item in networks.values():
        rule = _rule(copy.project, str(item["driver_opts"][_BRIDGE]))
        if run_command(["iptables", "-w", "10", "-C", "INPUT", *rule], timeout=30).rc == 0:
            continue
        done = run_command(["iptables", "-w", "10", "-I", "INPUT", *rule], timeout=30)
        if done.rc != 0:
            return f"iptables: {done.err.strip()[-200:]}"
    return ""


def _rule(name: str, interface: str) -> list[str]:
    # Answers to what the host asks of the copy are let through: it is not they that are new.
    match = ["-i", interface, "-m", "conntrack", "--ctstate", "NEW"]
    return [*match, "-m", "comment", "--comment", _comment(name), "-j", "REJECT"]


def _comment(name: str) -> str:
    return f"scutum.ops: staged copy {name}"


def open_again(name: str) -> None:
    """Take the rules away."""
    for line in run_command(["iptables", "-w", "10", "-S", "INPUT"], timeout=30).out.splitlines():
        if _comment(name) in line and line.startswith("-A INPUT"):
            run_command(["iptables", "-w", "10", "-D", *shlex.split(line)[1:]], timeout=30)


_FORWARD = """
import asyncio, sys

async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()

def to(places, port):
    async def serve(reader, writer):
        for place in places:
            try:
                there, out = await asyncio.wait_for(asyncio.open_connection(place, port), 10)
            except (OSError, asyncio.TimeoutError):
                continue
            await asyncio.gather(pump(reader, out), pump(there, writer))
            return
        writer.close()
    return serve

async def main():
    places = sys.argv[1].split(",")
    servers = [await asyncio.start_server(to(places, int(port)), "0.0.0.0", int(port)) for port in sys.argv[2:]]
    await asyncio.gather(*(server.serve_forever() for server in servers))

asyncio.run(main())
"""


def open_egress(copy: StagedCopy, wanted: Settings, image: str) -> list[str]:
    """Have the copy reach what it may, by a forwarder for each host: its name leads to the forwarder, and that knows one way only.

    Args:
        image: with a Python.
    """
    hosts: dict[str, list[str]] = {}
    for place in wanted.staging_egress:
        host, unused, port = place.rpartition(":")
        hosts.setdefault(host.lower(), []).append(port)
    if not hosts:
        return []
    engine, outside = copy.engine, f"{copy.project}_egress"
    label = ("--label", f"{LABEL}={copy.of}")
    engine.must("network", "create", *label, outside, timeout=60)
    inside = [str(item["name"]) for item in copy.compose().model()["networks"].values()]
    for number, (host, ports) in enumerate(sorted(hosts.items())):
        # Inside, the name leads back to the forwarder.
        places = _resolved(host)
        name = f"{copy.project}-egress-{number}"
        capped = ("--memory", "128m", "--pids-limit", "64", "--cpu-shares", str(_SHARES))
        call = ("--entrypoint", "python3", image, "-c", _FORWARD, ",".join(places), *ports)
        engine.start({}, "--pull", "never", "--name", name, "--network", outside, *label, *capped, *call, timeout=60)
        for network in inside:
            engine.must("network", "connect", "--alias", host, network, name, timeout=60)
    return sorted(wanted.staging_egress)


def _resolved(host: str) -> list[str]:
    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        raise ScutumError(
            f"{PREFIX}staging_egress: {host}: {error}",
            left="nothing of production was touched",
            next_step="correct it, or the host's resolver (getent hosts)",
        ) from error
    return list(dict.fromkeys(str(item[4][0]) for item in found))


# Each place is tried, all at once; what answers is said. A refusal is no way out, either.
_TRY = """
import json, socket, sys, threading
asked = json.load(sys.stdin)
found, lock = {"reached": [], "named": []}, threading.Lock()

def connect(host, port):
    try:
        socket.create_connection((host, port), 1).close()
    except OSError:
        return
    with lock:
        found["reached"].append(f"{host}:{port}")

def name(host):
    try:
        socket.getaddrinfo(host, 443)
    except OSError:
        return
    with lock:
        found["named"].append(host)

work = [threading.Thread(target=connect, args=place) for place in asked["places"]]
work += [threading.Thread(target=name, args=(host,)) for host in asked["names"]]
for item in work: item.start()
for item in work: item.join()
print(json.dumps(found))
"""


def prove(copy: StagedCopy, wanted: Settings, image: str) -> str:
    """Try to get out of the copy, from a container on each of its networks; in words what was tried. Refuses when something was reached.

    Args:
        image: with a Python.
    """
    shut = _outside(copy)
    allowed = [(place.rpartition(":")[0].lower(), int(place.rpartition(":")[2])) for place in wanted.staging_egress]
    names = ["scutum.dev", "api.openai.com", "hooks.slack.com"]
    names = [name for name in names if name not in dict(allowed)]
    asked = json.dumps({"places": [*shut, *allowed], "names": names})
    open_ones = {f"{host}:{port}" for host, port in allowed}
    missing: set[str] = set()
    for item in copy.compose().model()["networks"].values():
        label = ("--label", f"{LABEL}={copy.of}", "--dns", _NO_NAMES)
        call = (
            "run",
            "--rm",
            "-i",
            "--pull",
            "never",
            "--network",
            str(item["name"]),
            *label,
            "--entrypoint",
            "python3",
            image,
        )
        found = json.loads(copy.engine.must(*call, "-c", _TRY, stdin=asked, timeout=60))
        out = sorted(set(found["reached"]) - open_ones) + sorted(f"the name {name}" for name in found["named"])
        if out:
            raise ScutumError(
                f"the copy is not in quarantine: from inside it {', '.join(out)} was reached",
                left="nothing of the new release was started in it",
                next_step="look at the host's firewall (iptables -S INPUT) and the engine's settings (iptables: true)",
            )
        missing |= open_ones - set(found["reached"])
    told = f"{len(shut)} places outside were tried from inside, and none reached, no name resolved"
    if open_ones - missing:
        told += f"; the only way out: {', '.join(sorted(open_ones - missing))}"
    return told + (f"; NOT reached, though listed: {', '.join(sorted(missing))}" if missing else "")


def must_be_closed(copy: StagedCopy) -> None:
    """Look at the containers that run whether they are where `prove` has tried it: on the copy's own networks, and published nowhere."""
    own = {str(item["name"]) for item in copy.compose().model()["networks"].values()}
    found = []
    for service, container in sorted(copy.compose().containers(copy.project).items()):
        astray = sorted(set(container["NetworkSettings"]["Networks"]) - own)
        published = [port for port, places in (container["NetworkSettings"].get("Ports") or {}).items() if places]
        found += [f"{service} is on {name}" for name in astray] + [f"{service} publishes {port}" for port in published]
    if found:
        raise ScutumError(f"the copy is not in quarantine: {'; '.join(found)}")


def _outside(copy: StagedCopy) -> list[tuple[str, int]]:
    """Places that the copy must not reach: this host by all its addresses, production's containers, the world."""
    engine = copy.engine
    ids = engine.must("network", "ls", "-q", timeout=60).split()
    hosts = {
        str(config["Gateway"])
        for network in engine.inspect("network", ids)
        for config in (network.get("IPAM") or {}).get("Config") or []
        if config.get("Gateway") and ":" not in str(config["Gateway"])
    }
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        # Connecting a datagram socket sends nothing: it only chooses the address that leads outside.
        probe.connect((_NO_NAMES, 9))
        hosts.add(str(probe.getsockname()[0]))
    ports = sorted({22, *_listening()})[:100]
    found = {(host, port) for host in hosts for port in ports}
    production = Installation(copy.of)
    for container in production.compose().containers(production.project).values():
        inside = [int(port.partition("/")[0]) for port in container["Config"].get("ExposedPorts") or {}]
        found |= {(address, port) for address in addresses(container) for port in (*inside, 4000, 5432, 6379, 8086)}
    found |= {("1.1.1.1", 443), ("8.8.8.8", 53), ("169.254.169.254", 80)}
    return sorted(found)


def _listening() -> set[int]:
    """Ports on which something listens on this host, loopback alone left out."""
    found = set()
    for name in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in (read_text(name) or "").splitlines()[1:]:
            local, unused, state = line.split()[1:4]
            address, unused, port = local.partition(":")
            # 0A: listening. Bytes of an address stand in the host's order.
            if state == "0A" and not address.endswith("7F") and address != "0" * 24 + "01000000":
                found.add(int(port, 16))
    return found
