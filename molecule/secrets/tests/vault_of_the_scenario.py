"""The double of Vault as this scenario uses it: its canaries, and calls to it."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[3]
ROOT = "root"
# As Vault holds them. Each begins with something that no other file has by chance.
CANARIES = {
    "SCUTUM_API_KEY": "sk-canary-4b1d7e0a9c5f2e8d6a3b",
    "JWT_SECRET_KEY": "canary-jwt-0d94e6b15a7c48f2b39e61d05c7a",
    "INTERNAL_SERVICE_KEY": "canary-internal-7c20b8f41e6d49a3950fbe82",
    "POSTGRES_PASSWORD": "canary-postgres-5e1f93",
    "LITELLM_SALT_KEY": "canary-salt-a86f0c2d71b94e35",
    "OPENAI_API_KEY": "canary-openai $HOME 'it' \"is\" #5 \\ ünï",
}


def bed(*arguments: str) -> str:
    command = [sys.executable, str(REPO / "testbed/testbed.py"), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def address() -> str:
    """Where the double is reached from this machine."""
    networks = subprocess.run(
        ["docker", "inspect", "-f", "{{json .NetworkSettings.Networks}}", "scutum-testbed-vault"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    return str(next(iter(json.loads(networks).values()))["IPAddress"])


def call(path: str, body: Any) -> None:
    request = urllib.request.Request(f"http://{address()}:8200{path}", data=json.dumps(body).encode(), method="POST")
    request.add_header("X-Vault-Token", ROOT)
    with urllib.request.urlopen(request, timeout=10):
        pass


def fault(mode: str) -> None:
    """sealed, denied, slow, closed, …; none ends it."""
    call("/test/fault", {"mode": mode})


def write(**changes: str | None) -> None:
    """A new version of the secret; None leaves a key out."""
    values = {key: value for key, value in (CANARIES | changes).items() if value is not None}
    write_to("production", values)


def write_to(name: str, values: dict[str, str]) -> None:
    """A new version of another installation's secret."""
    call(f"/v1/secret/data/scutum/{name}", {"data": values})


def main() -> None:
    bed("double", "vault")
    for _attempt in range(50):
        try:
            fault("none")
            break
        except OSError:
            import time

            time.sleep(0.2)
    call("/v1/auth/approle/role/scutum", {"role_id": "scutum-hosts", "secret_id": "canary-secret-id-9f2b6d"})
    write()


if __name__ == "__main__":
    main()
