"""What the scenarios' tests share: a host as somebody outside sees it, and playbooks run against it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
INVENTORY = os.environ.get("SCENARIO_INVENTORY", "")


@dataclass
class Answer:
    """One HTTP answer."""

    status: int
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


@dataclass
class Run:
    """One run of a playbook."""

    rc: int
    out: str

    def recap(self, host: str) -> dict[str, int]:
        """The host's line of the play recap."""
        line = re.search(rf"^{re.escape(host)}\s+:(.*)$", self.out, re.MULTILINE)
        assert line, f"no recap for {host} in:\n{self.out[-3000:]}"
        return {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", line.group(1))}

    @property
    def flat(self) -> str:
        """The output with all white space folded, so that a message can be looked for whatever its line breaks."""
        return " ".join(self.out.replace("\\n", " ").replace('\\"', '"').split())


class Host:
    """A host of the testbed, reached through the engine (inside) and through its address (outside)."""

    def __init__(self, name: str, directory: str = "/opt/scutum") -> None:
        self.name = name
        self.directory = directory

    def run(self, command: str, check: bool = True, stdin: str | None = None) -> str:
        """A shell command on the host; its standard output."""
        done = subprocess.run(
            ["docker", "exec", "-i", self.name, "bash", "-c", command],
            capture_output=True, text=True, check=False, input=stdin if stdin is not None else "",
        )  # fmt: skip
        assert not check or done.returncode == 0, f"{command}: rc {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout.strip()

    def fails(self, command: str) -> bool:
        """Whether a shell command on the host fails."""
        done = subprocess.run(["docker", "exec", self.name, "bash", "-c", command], capture_output=True, check=False)
        return done.returncode != 0

    @cached_property
    def address(self) -> str:
        """The host's address on the testbed's network; it stays while the host is not restarted."""
        return bed("ip", self.name).strip()

    def http(self, port: int, path: str, body: Any = None, token: str = "", timeout: float = 30) -> Answer:
        """A request from outside the host."""
        request = urllib.request.Request(
            f"http://{self.address}:{port}{path}", data=None if body is None else json.dumps(body).encode()
        )
        request.add_header("Content-Type", "application/json")
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                return Answer(answer.status, answer.read().decode())
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read().decode())

    def env(self) -> dict[str, str]:
        """config/.env."""
        lines = self.run(f"cat {self.directory}/config/.env").splitlines()
        return dict(line.split("=", 1) for line in lines if re.match(r"^[A-Z_]+=", line))

    def psql(self, sql: str) -> str:
        """Rows of a statement, unaligned."""
        env = self.env()
        return self.run(
            f"docker exec -i scutum-postgres psql -X -At -v ON_ERROR_STOP=1 -U {env['POSTGRES_USER']} "
            f"-d {env['POSTGRES_DB']} -f -",
            stdin=sql,
        )

    def containers(self) -> dict[str, str]:
        """Id and start time by container name: equal means that nothing was recreated or restarted."""
        names = self.run("docker ps -a --format '{{.Names}}'").split()
        if not names:
            return {}
        lines = self.run("docker inspect -f '{{.Name}} {{.Id}} {{.State.StartedAt}}' " + " ".join(names)).splitlines()
        return {line.split()[0].lstrip("/"): " ".join(line.split()[1:]) for line in lines}

    def fingerprint(self) -> str:
        """Everything that an install may touch: files with content, containers, images, packages."""
        return self.run(
            f"(find {self.directory} /usr/local /etc/docker /etc/systemd /etc/apt -xdev -type f -not -name lock -print0 "
            "2>/dev/null | sort -z | xargs -0 sha256sum; ls -la --time-style=+ " + self.directory + " 2>&1; dpkg -l; "
            "command -v docker >/dev/null && docker ps -a --no-trunc --format '{{.ID}} {{.Names}}'; "
            "command -v docker >/dev/null && docker images -q --no-trunc | sort; ls /run | grep scutum; true)"
        )


def bed(*arguments: str) -> str:
    """A verb of the testbed."""
    done = subprocess.run(
        [sys.executable, str(REPO / "testbed/testbed.py"), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def playbook(name: str, *options: str, **extra: Any) -> Run:
    """Run a playbook of the collection against the scenario's inventory; extra arguments are variables."""
    return Run(*_finish(start_playbook(name, *options, **extra)))


def _finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    out = process.communicate(timeout=900)[0]
    return process.returncode, out


def start_playbook(name: str, *options: str, **extra: Any) -> subprocess.Popen[str]:
    """Start a playbook, in a session of its own so that a test can end it as a whole."""
    command = [str(BIN / "ansible-playbook"), f"playbooks/{name}", "-i", INVENTORY, *options]
    if extra:
        command += ["-e", json.dumps(extra)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MOLECULE_")}
    for name in ("ANSIBLE_CONFIG", "ANSIBLE_FORCE_COLOR"):
        environment.pop(name, None)
    environment["ANSIBLE_NOCOLOR"] = "1"
    environment["ANSIBLE_HOST_KEY_CHECKING"] = "false"
    environment["ANSIBLE_COLLECTIONS_PATH"] = str(REPO / ".cache/collections")
    environment["PATH"] = f"{BIN}:{environment['PATH']}"
    return subprocess.Popen(
        command, cwd=REPO, env=environment, text=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def assert_no_leaks(host: Host, output: str, canaries: dict[str, str]) -> None:
    """The one search for secrets: in what Ansible printed, in the journal and logs, in processes, in files.

    Args:
        output: what runs printed, as verbose as they come.
        canaries: name to value; the values of config/.env are added.
    """
    secrets = {k: v for k, v in host.env().items() if re.search(r"KEY|PASSWORD|SECRET", k) and len(v) >= 8} | canaries
    assert canaries.items() <= secrets.items() and len(secrets) >= 4
    found = [f"{name} in Ansible's output" for name, value in secrets.items() if value in output]
    # The mode env_file promises: config/.env, and what the engine keeps of the containers' environment; nothing else.
    search = (
        "cat > /run/canaries; "
        f"grep -rlFf /run/canaries {host.directory} /etc /var/log /tmp /var/tmp /root /home /usr/local "
        f"--exclude-dir=guard 2>/dev/null | grep -v '^{host.directory}/config/.env$'; "
        "journalctl -q --no-pager 2>/dev/null | grep -qFf /run/canaries && echo the journal; "
        "grep -lFf /run/canaries /proc/[0-9]*/cmdline 2>/dev/null | grep -v /proc/$$; rm -f /run/canaries; true"
    )
    found += host.run(search, stdin="\n".join(secrets.values()) + "\n").splitlines()
    assert not found, f"secrets leaked: {found}"


def nothing_at_rest(host: Host, canaries: dict[str, str]) -> dict[str, list[str]]:
    """Where secrets lie on a host's disks and in what its engine tells, by canary: the test says which places are right.

    Searched: every file outside tmpfs, the engine's own files and the containers' writable layers (layers of images left out),
    `docker inspect` of everything, `docker compose config`, the journal, arguments of processes, and environments as another user.
    """
    # A value of several words is looked for by its first, which is the recognisable one.
    needles = {name: value.split()[0] for name, value in canaries.items()}
    host.run("cat > /run/needles.json", stdin=json.dumps({"needles": needles, "directory": host.directory}))
    host.run("cat > /run/search.py", stdin=_SEARCH)
    out = host.run("python3 /run/search.py; rm -f /run/needles.json /run/search.py")
    return {name: sorted(places) for name, places in json.loads(out).items() if places}


_SEARCH = r"""
import json, os, subprocess
given = json.load(open("/run/needles.json"))
needles = {name: value.encode() for name, value in given["needles"].items()}
found = {name: [] for name in needles}

def look(place, data):
    for name, needle in needles.items():
        if needle in data:
            found[name].append(place)

def shell(command):
    return subprocess.run(["bash", "-c", command], stdin=subprocess.DEVNULL, capture_output=True).stdout

uppers = shell("docker inspect -f '{{.GraphDriver.Data.UpperDir}}' $(docker ps -aq)").decode().split()
skip = {"/proc", "/sys", "/dev", "/run", "/var/lib/docker/overlay2"}
for top in ["/", *uppers]:
    for folder, folders, names in os.walk(top):
        folders[:] = [name for name in folders if os.path.join(folder, name) not in skip]
        for name in names:
            path = os.path.join(folder, name)
            try:
                if os.path.isfile(path) and not os.path.islink(path):
                    with open(path, "rb") as handle:
                        look(path, handle.read())
            except OSError:
                pass
told = {
    "docker inspect": "docker inspect $(docker ps -aq) $(docker images -q) $(docker volume ls -q) $(docker network ls -q)",
    "docker compose config": "cd %s && docker compose --env-file config/.env -f scutum-ops.compose.yaml --profile '*' config"
    % given["directory"],
    "the journal": "journalctl -q --no-pager",
    "process arguments": "cat /proc/[0-9]*/cmdline",
    "environments as another user": "setpriv --reuid=65534 --regid=65534 --clear-groups cat /proc/[0-9]*/environ",
}
for place, command in told.items():
    data = shell(command)
    assert data or place == "environments as another user", place
    look(place, data)
print(json.dumps(found))
"""
