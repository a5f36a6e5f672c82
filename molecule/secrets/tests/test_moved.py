"""An installed host, whose secrets lie in config/.env, is moved to Vault and back."""

from __future__ import annotations

import uuid
from typing import Any

import vault_of_the_scenario as vault
from scenario import Host, Run, nothing_at_rest, playbook

host = Host("scutum-moved")
KEYS = ("SCUTUM_API_KEY", "JWT_SECRET_KEY", "INTERNAL_SERVICE_KEY", "POSTGRES_PASSWORD", "LITELLM_SALT_KEY")
before = host.env()
SECRETS = {key: before[key] for key in KEYS} if before["SCUTUM_API_KEY"] else {}


def day_one(*options: str, **extra: Any) -> Run:
    """The play on this host, with Vault as its source."""
    variables = {
        "scutum_hosts": "moved",
        "scutum_version": "0.1.0",
        "scutum_bind_address": "0.0.0.0",
        "scutum_smoke_models": ["gpt-4o-mini"],
        "scutum_secrets_source": "hashi_vault",
        "scutum_secrets_options": {"url": "http://vault.testbed:8200", "path": "scutum/moved"},
        "scutum_secrets_credential": {"token": vault.ROOT},
    }
    return playbook("day_one.yml", "--limit", "moved", *options, **(variables | extra))


def serves() -> bool:
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": str(uuid.uuid4())}]}
    login = host.http(8086, "/auth/login", {"api_key": SECRETS["SCUTUM_API_KEY"]})
    return (
        login.status == 200 and host.http(4000, "/v1/chat/completions", body, SECRETS["SCUTUM_API_KEY"]).status == 200
    )


def test_a_source_that_holds_something_else_is_refused() -> None:
    containers = host.containers()
    vault.write_to("moved", SECRETS | {"POSTGRES_PASSWORD": "another-password"})
    run = day_one()
    assert run.rc != 0 and "POSTGRES_PASSWORD in config/.env and POSTGRES_PASSWORD in the source differ" in run.flat
    assert host.containers() == containers and host.env() == before


def test_moving_leaves_nothing_behind_and_loses_nothing() -> None:
    host.psql("CREATE TABLE witness(x int); INSERT INTO witness VALUES (7)")
    vault.write_to("moved", SECRETS)
    run = day_one()
    assert run.rc == 0, run.out[-3000:]
    assert serves() and host.psql("SELECT x FROM witness") == "7"
    assert not [key for key in KEYS if host.env()[key]]
    assert nothing_at_rest(host, SECRETS) == {}
    again = day_one()
    assert again.rc == 0 and again.recap(host.name)["changed"] == 0, again.out[-3000:]


def test_the_way_back_is_one_variable() -> None:
    run = day_one(scutum_secrets_injection="env_file")
    assert run.rc == 0, run.out[-3000:]
    assert {key: host.env()[key] for key in KEYS} == SECRETS and serves()
    assert host.run("stat -c %a /opt/scutum/config/.env") == "600"
    assert host.fails("test -e /etc/systemd/system/scutum-ops-secrets.service")
    again = day_one(scutum_secrets_injection="env_file")
    assert again.rc == 0 and again.recap(host.name)["changed"] == 0, again.out[-3000:]
