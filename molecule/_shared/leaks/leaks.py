"""The one search for secrets, of every scenario: where they lie on a host, and what was printed.

Needles are the values that a host has (config/.env, the tmpfs, the source's credential), and the canaries that stand in the scenario's own
files. docs/roles/secrets.md has the table of where a value may be found.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

import yaml
from scenario import INVENTORY, OUTPUTS, REPO, Host

CANARY = re.compile(r"[A-Za-z0-9-]*canary-[A-Za-z0-9-]{4,}")
SECRET = re.compile(r"KEY|PASSWORD|SECRET|TOKEN|WEBHOOK")
# The product keeps licence tokens in its table; they are in its dumps.
_EXCEPT = ("LICENSE_KEY",)
# What mode env_file promises, beside the places of mode runtime.
IN_FILE = (
    r"{dir}/config/\.env",
    r"/var/lib/docker/containers/[0-9a-f]+/config\.v2\.json",
    r"/var/lib/containerd/io\.containerd\.metadata\.v1\.bolt/meta\.db",
    r"docker inspect",
    r"docker compose config",
)
AT_RUN_TIME = (r"{dir}/\.scutum-ops/secrets-credential\.json",)


def hosts() -> list[Host]:
    """The scenario's hosts that are there, with the directory of their installation."""
    found = []
    inventory = yaml.safe_load(Path(INVENTORY).read_text())

    def walk(group: dict[str, object], seen: dict[str, str]) -> None:
        for name, content in group.items():
            if name == "hosts" and isinstance(content, dict):
                for host, variables in content.items():
                    seen.setdefault(host, "")
                    if isinstance(variables, dict) and variables.get("scutum_dir"):
                        seen[host] = str(variables["scutum_dir"])
            elif isinstance(content, dict):
                walk(content, seen)

    names: dict[str, str] = {}
    walk(inventory, names)
    directory = next(iter(re.findall(r"scutum_dir: (\S+)", (_scenario() / "molecule.yml").read_text())), "/opt/scutum")
    for name, own in names.items():
        host = Host(name, own or directory)
        if not host.fails("true"):
            found.append(host)
    return found


def _scenario() -> Path:
    return Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])


def planted() -> dict[str, str]:
    """Canaries that stand in the scenario's files, and in those that all share."""
    files = [*_scenario().rglob("*.*"), *(REPO / "molecule/_shared").glob("*.py"), REPO / "testbed/doubles/vault.py"]
    texts = [path.read_text() for path in files if path.suffix in (".yml", ".py", ".json")]
    return {text: text for found in map(CANARY.findall, texts) for text in found}


def of_host(host: Host) -> dict[str, str]:
    """The secrets that a host has, by name; without a value that is a word."""
    held: dict[str, str] = {}
    for line in host.run(f"cat {host.directory}/config/.env 2>/dev/null || true").splitlines():
        key, equals, value = line.partition("=")
        if equals and SECRET.search(key) and key not in _EXCEPT and not key.startswith("SCUTUM_OPS_"):
            held[f"{key} in .env"] = value.strip("'\"")
    for place in ("/run/scutum-ops/*/values.json", f"{host.directory}/.scutum-ops/secrets-credential.json"):
        text = host.run(f"cat {place} 2>/dev/null || true")
        held |= {f"{key} of the source": str(value) for key, value in (json.loads(text) if text else {}).items()}
    return {name: value for name, value in held.items() if len(value) >= 8 and value not in ("scutum-hosts",)}


def runtime(host: Host) -> bool:
    """Whether its services get their secrets from the tmpfs."""
    text = host.run(f"cat {host.directory}/.scutum-ops/secrets.json 2>/dev/null || true")
    return bool(text) and json.loads(text)["injection"] == "runtime"


def places(host: Host, needles: dict[str, str]) -> dict[str, list[str]]:
    """Where needles are, by name.

    Searched: every file outside tmpfs, the engine's own files and the containers' writable layers (layers of images left out),
    `docker inspect` of everything, `docker compose config`, the journal, arguments of processes, environments as another user.
    """
    # A value of several words is looked for by its first, which is the recognisable one.
    firsts = {name: value.split()[0] for name, value in needles.items() if value.split()}
    host.run("cat > /run/needles.json", stdin=json.dumps({"needles": firsts, "directory": host.directory}))
    host.run("cat > /run/search.py", stdin=_SEARCH)
    out = host.run("python3 /run/search.py; rm -f /run/needles.json /run/needles.txt /run/search.py")
    return {name: sorted(found) for name, found in json.loads(out).items() if found}


def unexpected(host: Host, found: dict[str, list[str]]) -> list[str]:
    """What should not be, for the mode that the host is in."""
    allowed = AT_RUN_TIME if runtime(host) else (*AT_RUN_TIME, *IN_FILE)
    patterns = [re.compile(text.replace("{dir}", re.escape(host.directory)) + "$") for text in allowed]
    return [
        f"{host.name}: {name} in {place}"
        for name, all_places in found.items()
        for place in all_places
        if not any(pattern.match(place) for pattern in patterns)
    ]


def in_text(text: str, needles: Iterable[str]) -> list[str]:
    """The needles that a text holds, each shortened so that the report is no leak; any other word with canary in it as well."""
    found = {needle for needle in needles if needle in text} | set(CANARY.findall(text))
    return sorted(f"{needle[:14]}…" for needle in found)


def in_outputs(needles: Iterable[str]) -> list[str]:
    """What playbooks printed, and their fact cache."""
    files = [path for path in OUTPUTS.rglob("*") if path.is_file()]
    return [f"{path.name}: {needle}" for path in files for needle in in_text(path.read_text(), needles)]


def in_checkout(values: Iterable[str]) -> list[str]:
    """The checkout, Ansible's temporary files and the logs of the tests included; environments and caches left out."""
    wanted = [value.encode() for value in values]
    skip = {".git", ".venv", "collections", "testbed", "node_modules", "npm-sops-age", "__pycache__"}
    found = []
    for folder, folders, names in os.walk(REPO):
        folders[:] = [name for name in folders if name not in skip or Path(folder) == REPO / "docs"]
        for name in names:
            path = Path(folder, name)
            if path.is_file() and path.stat().st_size < 64 << 20:
                data = path.read_bytes()
                found += [str(path) for value in wanted if value in data]
    return found


_SEARCH = r"""
import json, os, subprocess
given = json.load(open("/run/needles.json"))
needles = {name: value.encode() for name, value in given["needles"].items()}
found = {name: [] for name in needles}
with open("/run/needles.txt", "wb") as handle:
    handle.write(b"\n".join(needles.values()) + b"\n")

def look(place, data):
    for name, needle in needles.items():
        if needle in data:
            found[name].append(place)

def shell(command):
    return subprocess.run(["bash", "-c", command], stdin=subprocess.DEVNULL, capture_output=True).stdout

engine = bool(shell("docker info -f '{{.ServerVersion}}' 2>/dev/null").strip())
uppers = shell("docker inspect -f '{{.GraphDriver.Data.UpperDir}}' $(docker ps -aq)").decode().split() if engine else []
tops = [os.path.join("/", name) for name in os.listdir("/") if name not in ("proc", "sys", "dev", "run")]
grep = ["grep", "-rlaFf", "/run/needles.txt", "--exclude-dir=overlay2"]
for command in ([*grep, *tops], ["grep", "-rlaFf", "/run/needles.txt", *uppers] if uppers else ["true"]):
    for path in subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True).stdout.decode().splitlines():
        try:
            with open(path, "rb") as handle:
                look(path, handle.read())
        except OSError:
            pass
told = {
    "the journal": "journalctl -q --no-pager",
    "process arguments": "cat /proc/[0-9]*/cmdline",
    "environments as another user": "setpriv --reuid=65534 --regid=65534 --clear-groups cat /proc/[0-9]*/environ",
}
if engine:
    told["docker inspect"] = (
        "docker inspect $(docker ps -aq) $(docker images -q) $(docker volume ls -q) $(docker network ls -q)"
    )
merged = os.path.join(given["directory"], "scutum-ops.compose.yaml")
if engine and os.path.exists(merged):
    told["docker compose config"] = (
        "cd %s && docker compose --env-file config/.env -f scutum-ops.compose.yaml --profile '*' config" % given["directory"]
    )
for place, command in told.items():
    data = shell(command)
    assert data or place == "environments as another user", place
    look(place, data)
print(json.dumps(found))
"""
