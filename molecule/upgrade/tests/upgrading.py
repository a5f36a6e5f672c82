"""What the tests of upgrades share: load with a memory, whoever reads every committed row, and a host as it stands."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from scenario import Host, start_playbook

RECORD = ".scutum-ops/upgrade-record.json"
# Short, and enough for a verdict.
SHORT: dict[str, Any] = {
    "scutum_upgrade_baseline": 3,
    "scutum_upgrade_watch": 20,
    "scutum_upgrade_watch_interval": 0.5,
    "scutum_upgrade_completion_interval": 2,
    "scutum_upgrade_minimum_requests": 20,
    "scutum_upgrade_probe_interval": 0.2,
    # The testbed's releases count so: 0.3.0 and 0.4.0 are tried from 0.1.0.
    "scutum_upgrade_allow_skipped_minor": True,
}


def record(host: Host) -> dict[str, Any]:
    """What the host knows of its last upgrade; empty when there was none."""
    return dict(json.loads(host.run(f"cat {host.directory}/{RECORD} 2>/dev/null || true") or "{}"))


def state(host: Host, phase: str) -> str:
    """How far a phase is."""
    return str(record(host).get("steps", {}).get(phase, {}).get("state", ""))


def until(condition: Callable[[], bool], what: str, seconds: float = 240) -> None:
    """Wait."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.2)


def production(host: Host) -> dict[str, str]:
    """Id and start of each running container of the installation, by service: equal means that nothing was recreated or restarted."""
    lines = host.run(
        "docker inspect -f '{{index .Config.Labels \"com.docker.compose.service\"}} {{.Id}} {{.State.StartedAt}}' "
        "$(docker ps -q --filter label=com.docker.compose.project=scutum)"
    ).splitlines()
    return {line.split()[0]: " ".join(line.split()[1:]) for line in lines}


def releases(host: Host) -> set[str]:
    """The release labels of what runs, of Scutum's own images."""
    lines = host.run(
        "docker inspect -f '{{.Config.Image}} {{index .Config.Labels \"org.opencontainers.image.version\"}}' "
        "$(docker ps -q --filter label=com.docker.compose.project=scutum)"
    ).splitlines()
    return {line.split()[1] for line in lines if "/scutum-" in line.split()[0]}


def head(host: Host) -> str:
    """Alembic's."""
    return host.psql("SELECT version_num FROM alembic_version")


def database(host: Host) -> str:
    """Schema and contents that an upgrade must leave alone, as a hash; what services write by themselves left out."""
    return host.psql(
        "SELECT md5(string_agg(t::text, '|' ORDER BY t::text)) FROM (SELECT table_name, column_name, data_type "
        "FROM information_schema.columns WHERE table_schema = 'public') t "
        "UNION ALL SELECT md5(string_agg(a::text, '|' ORDER BY a.id)) FROM audit_logs a "
        "UNION ALL SELECT md5(string_agg(t::text, '|' ORDER BY t::text)) FROM teams t "
        "UNION ALL SELECT version_num FROM alembic_version"
    )


def copies(host: Host) -> list[str]:
    """Containers of a staged copy."""
    return host.run("docker ps -aq --filter label=ops.scutum.staged").split()


def of_copy(host: Host, service: str) -> str:
    """The running container of a service of the copy; empty when there is none."""
    found = host.run(
        f"docker ps -q --filter label=ops.scutum.staged --filter label=com.docker.compose.service={service}"
    )
    return found.split()[0] if found else ""


def kill(host: Host) -> None:
    """What works on the host is killed, at once and without a word; the watch is a service of its own, and is not."""
    host.run("kill -9 $(pgrep -f 'scutum_ops[.]cli.* (upgrade|rollback)( |$)') 2>/dev/null; true")


class Going:
    """A playbook that goes on beside the test; what it says is read all the time, or it would wait for its reader."""

    def __init__(self, name: str, *options: str, **variables: Any) -> None:
        self.process = start_playbook(name, *options, **variables)
        self.lines: list[str] = []
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        assert self.process.stdout
        self.lines.extend(self.process.stdout)

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def wait(self, seconds: float = 900) -> tuple[int, str]:
        """Its exit code, and what it said."""
        rc = self.process.wait(timeout=seconds)
        self.thread.join()
        return rc, "".join(self.lines)

    def kill(self) -> None:
        """The controller, too."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@dataclass
class Answer:
    """One request of the load: when, what came of it (0: no answer), and what it created."""

    kind: str
    begun: float
    ended: float
    status: int
    name: str = ""

    @property
    def good(self) -> bool:
        return self.status in (200, 201)


class Load:
    """Completions, and calls of the admin API that each write an audit row: at a fixed rate, whatever is answered.

    Args:
        completions, admin: a second.
    """

    CALLERS = 4

    def __init__(self, address: str, key: str, completions: float = 14, admin: float = 12) -> None:
        self.address, self.key = address, key
        self.answers: list[Answer] = []
        self.stopped = threading.Event()
        rates = {"completions": completions, "admin": admin}
        self.threads = [
            threading.Thread(target=self._call, args=(kind, rate / self.CALLERS, number / rate), daemon=True)
            for kind, rate in rates.items()
            for number in range(self.CALLERS)
        ]
        for thread in self.threads:
            thread.start()

    def end(self) -> None:
        """Stop, when all have their answer."""
        self.stopped.set()
        for thread in self.threads:
            thread.join()
        self.answers.sort(key=lambda answer: answer.ended)

    def _call(self, kind: str, rate: float, first: float) -> None:
        caller = _Caller(self.address, self.key, kind)
        due = time.monotonic() + first
        while not self.stopped.is_set():
            self.answers.append(caller.ask())
            # What a pause held up is not made up for.
            due = max(due + 1 / rate, time.monotonic())
            self.stopped.wait(max(0.0, due - time.monotonic()))

    def good(self, kind: str, since: float = 0) -> list[Answer]:
        """Good answers."""
        return [item for item in list(self.answers) if item.kind == kind and item.good and item.ended >= since]

    def away(self, kind: str, since: float = 0, until: float = float("inf"), least: float = 1.0) -> float:
        """Seconds without a good answer: all pauses between two that are longer than any pause of a service that serves.

        Args:
            least: seconds.
        """
        moments = sorted(item.ended for item in list(self.answers) if item.kind == kind and item.good)
        moments = [moment for moment in moments if since <= moment <= until]
        return sum(after - before for before, after in itertools.pairwise(moments) if after - before > least)

    def rate(self) -> float:
        """Requests a second."""
        return len(self.answers) / (max(a.ended for a in self.answers) - min(a.begun for a in self.answers))


class _Caller:
    """One connection that is kept."""

    def __init__(self, address: str, key: str, kind: str) -> None:
        self.kind, self.key, self.token = kind, key, ""
        self.line = http.client.HTTPConnection(address, 4000 if kind == "completions" else 8086, timeout=10)

    def ask(self) -> Answer:
        name = f"load-{uuid.uuid4()}"
        begun = time.time()
        try:
            if self.kind == "completions":
                body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": name}]}
                status = self._post("/v1/chat/completions", body, self.key)[0]
            else:
                if not self.token:
                    told = self._post("/auth/login", {"api_key": self.key}, "")[1]
                    self.token = str(json.loads(told)["access_token"])
                status = self._post("/api/v1/teams", {"name": name}, self.token)[0]
                self.token = "" if status == 401 else self.token
        except (http.client.HTTPException, OSError, ValueError, KeyError):
            self.line.close()
            status = 0
        return Answer(self.kind, begun, time.time(), status, name)

    def _post(self, path: str, body: Any, token: str) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        self.line.request("POST", path, json.dumps(body), headers)
        answer = self.line.getresponse()
        return answer.status, answer.read()


class Ledger:
    """Remembers every committed row of the audit history and of LiteLLM's spend, by reading them all the time."""

    MARK = "/tmp/ledger"
    QUERY = (
        "SELECT 'audit ' || id FROM audit_logs WHERE timestamp > now() - interval '20 seconds' UNION ALL "
        "SELECT 'spend ' || request_id FROM \\\"LiteLLM_SpendLogs\\\" WHERE \\\"startTime\\\" > now()::timestamp - interval '20 seconds'"
    )

    def __init__(self, host: Host) -> None:
        self.host = host
        env = host.env()
        read = f'psql -X -At -U {env["POSTGRES_USER"]} -d {env["POSTGRES_DB"]} -c "{self.QUERY}" 2>/dev/null'
        loop = f"touch {self.MARK}; while [ -e {self.MARK} ]; do {read}; sleep 0.4; done"
        self.command = ["docker", "exec", "-i", host.name, "docker", "exec", "-i", "scutum-postgres", "sh", "-c", loop]
        self.seen: set[str] = set()
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        while not self.stopped.is_set():
            with subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            ) as process:
                assert process.stdout
                for line in process.stdout:
                    self.seen.add(line.strip())
            # Postgres was restarted.
            self.stopped.wait(0.5)

    def end(self) -> None:
        """Stop, after one more look."""
        time.sleep(1.5)
        self.stopped.set()
        self.host.run(f"docker exec scutum-postgres rm -f {self.MARK}")
        self.thread.join(timeout=30)

    def missing(self, more: str = "") -> set[str]:
        """Rows that were committed, and are neither in the database in force nor in a text.

        Args:
            more: an export.
        """
        live = self.host.psql(
            "SELECT 'audit ' || id FROM audit_logs UNION ALL SELECT 'spend ' || request_id FROM \"LiteLLM_SpendLogs\""
        )
        return {row for row in self.seen - set(live.splitlines()) if row.split()[1] not in more}


def exported(host: Host) -> str:
    """All that a rollback exported."""
    place = f"{host.directory}/.scutum-ops/upgrades/{record(host)['id']}/export"
    return host.run(f"find {place} -type f -exec zcat -f {{}} + 2>/dev/null || true")


def lost(host: Host, load: Load, ledger: Ledger, more: str = "") -> set[str]:
    """What was committed, by any account, and is nowhere: rows that were seen, and teams whose creation was answered."""
    teams = set(host.psql("SELECT name FROM teams").splitlines())
    made = {answer.name for answer in load.good("admin")}
    return ledger.missing(more) | {name for name in made - teams if name not in more}
