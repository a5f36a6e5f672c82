"""What the scenarios about licences share: a licensed host, both doors to the library, the endpoint as others see it."""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from scenario import REPO, Host, Run, playbook

sys.path.insert(0, str(REPO / "testbed/standin"))

from issue_licence import issue


class Licensed(Host):
    """A host with licences.

    Args:
        interval: seconds after which each worker of admin-api looks again.
    """

    def __init__(self, name: str, interval: int) -> None:
        super().__init__(name)
        self.interval = interval
        self.spoken: list[str] = []
        self.tokens: dict[str, str] = {}

    def token(self, name: str, tier: str, days: float, **changes: Any) -> str:
        """A licence of the test key; its name tells it apart, and it is a canary for the search at the end."""
        self.tokens[name] = issue(tier, days, email="ops@example.com", subject=f"c-{name}", **changes)
        return self.tokens[name]

    def license(self, key: str, *options: str, **extra: Any) -> Run:
        """playbooks/license.yml with a token."""
        run = playbook("license.yml", *options, scutum_license_key=key, **extra)
        self.spoken.append(run.out.partition("PLAY [")[2])
        return run

    def job(self, key: str, *options: str) -> tuple[int, dict[str, Any]]:
        """The same library through its other door, on the host."""
        wait = self.interval + 15
        out = self.run(f"scutum-ops --json license-activate --wait {wait} {' '.join(options)}; echo rc=$?", stdin=key)
        body, _unused, code = out.rpartition("rc=")
        self.spoken.append(body)
        return int(code), json.loads(body)

    def served(self, connections: int = 40) -> set[tuple[str, str]]:
        """Tier and day of the end, as fresh connections from outside see them."""
        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda _: self.http(8086, "/api/v1/license").json(), range(connections)))
        return {(answer["tier"], answer["expires_at"][:10]) for answer in answers}

    def settles(self, wanted: set[tuple[str, str]]) -> None:
        """All workers answer so, at the latest when each has looked again."""
        end = time.monotonic() + 2 * self.interval + 10
        while (found := self.served(80)) != wanted and time.monotonic() < end:
            time.sleep(0.5)
        assert found == wanted

    def writes(self) -> int:
        """How often a licence has been activated."""
        return int(self.psql("SELECT count(*) FROM audit_logs WHERE action = 'license.activate'"))

    def fault(self, **fields: Any) -> None:
        """The stand-in answers the next requests with a fault."""
        fields = {"times": 1, "path": "/api/v1/license/activate", **fields}
        self.run("docker exec -i scutum-admin-api sh -c 'cat > /tmp/standin-faults.json'", stdin=json.dumps([fields]))

    def old_environment(self, key: str) -> None:
        """What an operator has who once put his licence into config/.env."""
        file = f"{self.directory}/config/.env"
        self.run(f"sed -i '/^LICENSE_KEY=/d' {file}; cat >> {file}", stdin=f"LICENSE_KEY={key}\n")
        files = "--env-file config/.env -f scutum-ops.compose.yaml"
        self.run(f"cd {self.directory} && docker compose {files} up -d --no-deps admin-api")
        self.answering()

    def answering(self) -> None:
        """Wait until admin-api serves again."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if self.run("curl -fsS -m 2 http://127.0.0.1:8086/api/v1/license || true"):
                return
            time.sleep(0.5)
        raise AssertionError("admin-api does not answer")

    def with_workers(self, workers: int, **environment: str) -> None:
        """Have admin-api run with that many worker processes."""
        service = {"environment": environment}
        override = {"services": {"admin-api": service}}
        run = playbook("day_one.yml", scutum_compose_override=override, scutum_limits_admin_api_workers=workers)
        assert run.rc == 0, run.out[-3000:]
        assert int(self.run("docker top scutum-admin-api | grep -c python")) >= workers


def expected(tier: str, days: float) -> set[tuple[str, str]]:
    """What `served` answers when all agree."""
    return {(tier, time.strftime("%Y-%m-%d", time.gmtime(time.time() + days * 86400)))}
