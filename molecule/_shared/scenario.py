"""What the scenarios' tests share: a host as somebody outside sees it, and playbooks run against it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
INVENTORY = os.environ.get("SCENARIO_INVENTORY", "")
# Beside Molecule's inventory: what playbooks printed, and their fact cache.
OUTPUTS = Path(INVENTORY or "/nonexistent").parent.parent / "outputs"


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

    def serves(self, api_key: str) -> bool:
        """Whether login and a completion succeed with a key."""
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": str(uuid.uuid4())}]}
        try:
            login = self.http(8086, "/auth/login", {"api_key": api_key}, timeout=5)
            return login.status == 200 and self.http(4000, "/v1/chat/completions", body, api_key).status == 200
        except OSError:
            return False

    def reboot(self) -> None:
        """Stop and start; its address may be another one."""
        for words in (("stop", "-t", "60"), ("start",)):
            subprocess.run(["docker", *words, self.name], check=True, capture_output=True)
        self.__dict__.pop("address", None)

    @contextlib.contextmanager
    def without_registry(self) -> Iterator[None]:
        """This host cannot reach the registry, whatever its name; the others, in other scenarios, can."""

        def no_way(action: str) -> None:
            for name in ("ghcr.io", "private.testbed"):
                address = f"$(getent hosts {name} | cut -d' ' -f1)"
                self.run(f"iptables {action} OUTPUT -p tcp --dport 80 -d {address} -j REJECT --reject-with tcp-reset")

        no_way("-I")
        try:
            yield
        finally:
            no_way("-D")

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
    """Run a playbook of the collection against the scenario's inventory; extra arguments are variables.

    It speaks as loudly as it can, and what it says is kept: leaks/test_leaks.py searches it at the end.
    """
    process = start_playbook(name, *options, **extra)
    out = process.communicate(timeout=900)[0]
    OUTPUTS.mkdir(parents=True, exist_ok=True)
    # What comes before shows the command line, and so the variables of the test itself.
    (OUTPUTS / f"{time.time_ns()}-{Path(name).stem}.txt").write_text(out.partition("PLAY [")[2])
    return Run(process.returncode, out)


def start_playbook(name: str, *options: str, **extra: Any) -> subprocess.Popen[str]:
    """Start a playbook, in a session of its own so that a test can end it as a whole."""
    command = [str(BIN / "ansible-playbook"), f"playbooks/{name}", "-i", INVENTORY, *options]
    if extra:
        command += ["-e", json.dumps(extra)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MOLECULE_")}
    for name in ("ANSIBLE_CONFIG", "ANSIBLE_FORCE_COLOR"):
        environment.pop(name, None)
    environment["ANSIBLE_NOCOLOR"] = "1"
    environment["ANSIBLE_VERBOSITY"] = "4"
    environment["ANSIBLE_DIFF_ALWAYS"] = "true"
    environment["ANSIBLE_CACHE_PLUGIN"] = "jsonfile"
    environment["ANSIBLE_CACHE_PLUGIN_CONNECTION"] = str(OUTPUTS / "facts")
    environment["ANSIBLE_HOST_KEY_CHECKING"] = "false"
    environment["ANSIBLE_COLLECTIONS_PATH"] = str(REPO / ".cache/collections")
    environment["PATH"] = f"{BIN}:{environment['PATH']}"
    return subprocess.Popen(
        command, cwd=REPO, env=environment, text=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
