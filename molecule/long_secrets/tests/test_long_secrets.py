"""The matrix: source, way; install, second run, rotation, source down, reboot, reboot with the source down."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import sources
from scenario import Host, Run, bed, playbook

NAME = "scutum-long-secrets"
ROWS = [
    ("generated", "env_file"),
    ("file", "env_file"),
    *((name, way) for name in ("hashi_vault", "aws", "gcp", "sops") for way in ("runtime", "env_file")),
]
KEYS = ("JWT_SECRET_KEY", "INTERNAL_SERVICE_KEY", "POSTGRES_PASSWORD")


class Given:
    """Variables of the play, as a source."""

    name = "file"

    def __init__(self) -> None:
        self.values: dict[str, str] = {}

    def put(self, values: dict[str, str]) -> None:
        self.values = dict(values)

    def held(self) -> dict[str, str]:
        return {}


class Row:
    """One row on a fresh host."""

    def __init__(self, name: str, way: str) -> None:
        bed("host", "create", NAME, "--from", "bare")
        self.host = Host(NAME)
        self.way = way
        makers: dict[str, Any] = {
            "generated": lambda: None,
            "file": Given,
            "hashi_vault": self._vault,
            "aws": sources.Aws,
            "gcp": sources.Gcp,
            "sops": lambda: sources.Sops(self.host),
        }
        self.source = makers[name]()
        if self.source:
            self.source.put(sources.CANARIES)

    @staticmethod
    def _vault() -> sources.Vault:
        sources.Vault.start()
        return sources.Vault("long", "approle")

    def variables(self) -> dict[str, Any]:
        if self.source is None:
            return {}
        if self.source.name == "file":
            return {"scutum_secrets_source": "file", "scutum_secrets_values": self.source.values}
        return sources.variables(self.source, self.way)

    def play(self, name: str, **more: Any) -> Run:
        return playbook(f"{name}.yml", **self.variables() | more)

    def held(self) -> dict[str, str]:
        text = self.host.run("cat /run/scutum-ops/scutum/values.json 2>/dev/null || true")
        values: dict[str, str] = json.loads(text) if text else {}
        env = self.host.env()
        return {key: env.get(key) or values[key] for key in (*KEYS, "SCUTUM_API_KEY")}

    def serves(self) -> bool:
        return self.host.serves(self.held()["SCUTUM_API_KEY"])

    def wait(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._up():
            assert time.monotonic() < deadline, self.host.run(
                "docker ps -a; journalctl -b --no-pager | tail -50", check=False
            )
            time.sleep(1)

    def _up(self) -> bool:
        try:
            return self.serves()
        except (AssertionError, KeyError):
            return False

    def can_be_down(self) -> bool:
        return self.source is not None and self.source.name != "file"


@pytest.mark.parametrize(("name", "way"), ROWS, ids=lambda value: value)
def test_row(name: str, way: str) -> None:
    row = Row(name, way)
    installed = row.play("day_one")
    assert installed.rc == 0 and row.serves(), installed.out[-3000:]
    second = row.play("day_one")
    assert second.rc == 0 and second.recap(NAME)["changed"] == 0, second.out[-3000:]

    before = row.held()
    writer = getattr(row.source, "writer", {})
    if name in ("file", "sops"):
        new = {"JWT_SECRET_KEY": "canary-new-jwt-77b0de51c2a94f6f8e31", "POSTGRES_PASSWORD": "canary-new-postgres-4c1e"}
        row.source.put(sources.CANARIES | new | {"INTERNAL_SERVICE_KEY": "canary-new-internal-2f8a40d7c9e6b135"})
    rotated = row.play("rotate_secrets", scutum_rotate="jwt,internal,postgres", scutum_rotate_credential=writer)
    assert rotated.rc == 0, rotated.out[-3000:]
    for words in (
        "jwt: the new value is accepted",
        "internal: the new value is accepted",
        "postgres: the new value is accepted",
    ):
        assert words in rotated.flat, rotated.out[-3000:]
    after = row.held()
    assert not [key for key in KEYS if after[key] == before[key]] and row.serves()
    held = row.source.held() if row.source else {}
    assert not held or {key: held[key] for key in KEYS} == {key: after[key] for key in KEYS}
    third = row.play("day_one")
    assert third.rc == 0 and third.recap(NAME)["changed"] == 0, third.out[-3000:]

    row.host.reboot()
    row.wait(180)
    assert row.held() == after
    if row.can_be_down():
        row.source.down()
        refused = row.play("secrets")
        assert refused.rc != 0 and "nothing was changed" in refused.flat and row.serves(), refused.out[-3000:]
        row.host.reboot()
        if way == "env_file":
            row.wait(180)
        else:
            time.sleep(20)
            said = row.host.run("journalctl -b -u scutum-ops-secrets-scutum --no-pager")
            assert "waiting for secrets" in said and (name != "sops" or "sops is not on this host" in said), said
            # Asked of systemd: a client of the engine would start it by its socket, and wait.
            assert row.host.run("systemctl is-active docker || true") != "active"
        row.source.up()
        row.wait(180)
    fourth = row.play("day_one")
    assert fourth.rc == 0 and fourth.recap(NAME)["changed"] == 0, fourth.out[-3000:]
