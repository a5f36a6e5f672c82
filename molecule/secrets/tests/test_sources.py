"""An installed host, whose secrets lie in config/.env, goes through every source, each way that it allows, and back."""

from __future__ import annotations

import json
from typing import Any

import leaks
import sources
from scenario import Host, Run, playbook

host = Host("scutum-moved")
KEYS = ("SCUTUM_API_KEY", "JWT_SECRET_KEY", "INTERNAL_SERVICE_KEY", "POSTGRES_PASSWORD", "LITELLM_SALT_KEY")
first = {key: host.env()[key] for key in KEYS}
API_KEY = first["SCUTUM_API_KEY"]
vault, aws, gcp = sources.Vault("moved"), sources.Aws(), sources.Gcp()
sops = sources.Sops(host)


def play(name: str, *options: str, **variables: Any) -> Run:
    """A playbook on this host."""
    common = {
        "scutum_hosts": "moved",
        "scutum_version": "0.1.0",
        "scutum_bind_address": "0.0.0.0",
        "scutum_smoke_models": ["gpt-4o-mini"],
    }
    return playbook(f"{name}.yml", "--limit", "moved", *options, **common | variables)


def held() -> dict[str, str]:
    """The values in force."""
    text = host.run("cat /run/scutum-ops/scutum/values.json 2>/dev/null || true")
    values = json.loads(text) if text else {}
    return {key: host.env().get(key) or values[key] for key in KEYS}


def jwt_accepts_login() -> bool:
    token = host.http(8086, "/auth/login", {"api_key": API_KEY}).json()["access_token"]
    return host.http(8086, "/api/v1/audit-logs?limit=1", token=token).status == 200


def moved_to(source: Any, way: str, twice: bool = True) -> None:
    """Moved there; a second run changes nothing; a value of its own tells that it was really asked."""
    mark = f"canary-{source.name}-{way}"
    source.put(held() | {"PAGERDUTY_ROUTING_KEY": mark})
    run = play("secrets", **sources.variables(source, way))
    assert run.rc == 0, run.out[-3000:]
    env = host.env()
    if way == "runtime":
        assert not [key for key in KEYS if env[key]] and not env.get("PAGERDUTY_ROUTING_KEY")
        assert mark in host.run("cat /run/scutum-ops/scutum/values.json")
    else:
        assert env["PAGERDUTY_ROUTING_KEY"] == mark and all(env[key] for key in KEYS)
        assert host.fails("test -e /etc/systemd/system/scutum-ops-secrets-scutum.service")
    assert host.serves(API_KEY)
    if twice:
        again = play("secrets", **sources.variables(source, way))
        assert again.rc == 0 and again.recap(host.name)["changed"] == 0, again.out[-3000:]


def rotates(source: Any, way: str) -> None:
    """A new JWT key goes into the source, and is in force."""
    before = held()
    extra = {"scutum_rotate": "jwt", "scutum_rotate_credential": source.writer}
    run = play("rotate_secrets", **sources.variables(source, way) | extra)
    assert run.rc == 0 and "jwt: the new value is accepted and the old one refused by admin-api" in run.flat, run.out[
        -3000:
    ]
    after = held()
    assert {key for key in KEYS if after[key] != before[key]} == {"JWT_SECRET_KEY"}
    assert source.held()["JWT_SECRET_KEY"] == after["JWT_SECRET_KEY"] and jwt_accepts_login()
    again = play("secrets", **sources.variables(source, way))
    assert again.rc == 0 and again.recap(host.name)["changed"] == 0, again.out[-3000:]


def test_generated_ones_are_rotated_in_their_file() -> None:
    before = host.containers()
    run = play("rotate_secrets", scutum_rotate=["jwt", "internal"])
    assert run.rc == 0 and "internal: not provable here" in run.flat, run.out[-3000:]
    env, after = host.env(), host.containers()
    assert env["JWT_SECRET_KEY"] != first["JWT_SECRET_KEY"] == env["JWT_SECRET_KEY_PREVIOUS"] and jwt_accepts_login()
    assert {name for name in before if before[name] != after[name]} == {"scutum-admin-api"}
    assert host.run("stat -c %a /opt/scutum/config/.env") == "600"


def test_variables_of_the_play() -> None:
    values = held()
    run = play("secrets", scutum_secrets_source="file", scutum_secrets_values=values)
    assert run.rc == 0 and run.recap(host.name)["changed"] == 1, run.out[-3000:]
    new = values | {"JWT_SECRET_KEY": "canary-file-jwt-5b0c27d1e98f4a63a1b2"}
    refused = play("secrets", scutum_secrets_source="file", scutum_secrets_values=new)
    assert refused.rc != 0 and "rotate_secrets.yml -e scutum_rotate=jwt" in refused.flat, refused.out[-3000:]
    same = play("rotate_secrets", scutum_rotate="jwt", scutum_secrets_source="file", scutum_secrets_values=values)
    assert same.rc != 0 and "can only be read, and still holds today's JWT_SECRET_KEY" in same.flat, same.out[-3000:]
    taken = play("rotate_secrets", scutum_rotate="jwt", scutum_secrets_source="file", scutum_secrets_values=new)
    assert taken.rc == 0 and held() == new and jwt_accepts_login(), taken.out[-3000:]
    again = play("secrets", scutum_secrets_source="file", scutum_secrets_values=new)
    assert again.rc == 0 and again.recap(host.name)["changed"] == 0, again.out[-3000:]


def test_a_source_that_holds_something_else_is_refused() -> None:
    containers, before = host.containers(), host.env()
    vault.put(held() | {"POSTGRES_PASSWORD": "another-password"})
    run = play("secrets", **sources.variables(vault))
    assert run.rc != 0 and "POSTGRES_PASSWORD in hashi_vault" in run.flat and "not what is in force" in run.flat
    assert host.containers() == containers and host.env() == before


def test_moving_to_vault_leaves_nothing_behind_and_loses_nothing() -> None:
    host.psql("CREATE TABLE witness(x int); INSERT INTO witness VALUES (7)")
    secrets = held()
    moved_to(vault, "runtime")
    assert host.psql("SELECT x FROM witness") == "7"
    found = {place for places in leaks.places(host, secrets).values() for place in places}
    # The engine's database may keep what it deleted until it needs the space: docs/roles/secrets.md says so.
    assert found <= {"/var/lib/containerd/io.containerd.metadata.v1.bolt/meta.db"}


def test_aws_at_run_time() -> None:
    moved_to(aws, "runtime")
    rotates(aws, "runtime")
    aws.down()
    run = play("secrets", **sources.variables(aws, "runtime"))
    aws.up()
    assert run.rc != 0 and "it cannot be reached" in run.flat and host.serves(API_KEY), run.out[-3000:]


def test_google_at_run_time() -> None:
    moved_to(gcp, "runtime")
    rotates(gcp, "runtime")
    gcp.down()
    run = play("secrets", **sources.variables(gcp, "runtime"))
    gcp.up()
    assert run.rc != 0 and "ServiceUnavailable (503)" in run.flat and host.serves(API_KEY), run.out[-3000:]


def test_sops_at_run_time() -> None:
    moved_to(sops, "runtime")
    values = held()
    same = play("rotate_secrets", scutum_rotate="jwt", **sources.variables(sops))
    assert same.rc != 0 and "can only be read" in same.flat and "sops edit, then commit" in same.flat, same.out[-3000:]
    sops.put(values | {"JWT_SECRET_KEY": "canary-sops-jwt-81f0c5d2a7b34e96c0d1"})
    taken = play("rotate_secrets", scutum_rotate="jwt", **sources.variables(sops))
    assert taken.rc == 0 and jwt_accepts_login(), taken.out[-3000:]
    assert held() == values | {"JWT_SECRET_KEY": "canary-sops-jwt-81f0c5d2a7b34e96c0d1"}
    again = play("secrets", **sources.variables(sops))
    assert again.rc == 0 and again.recap(host.name)["changed"] == 0, again.out[-3000:]
    clear = play(
        "secrets",
        **sources.variables(sops) | {"scutum_secrets_options": {"content": "JWT_SECRET_KEY=canary-in-clear-9e1d"}},
    )
    assert clear.rc != 0 and "is no file that SOPS encrypted" in clear.flat, clear.out[-3000:]
    wrong = {"age_key": str(type(sops.identity).generate())}
    refused = play("secrets", **sources.variables(sops) | {"scutum_secrets_credential": wrong})
    assert refused.rc != 0 and "no key of this host opens it" in refused.flat and host.serves(API_KEY), refused.out[
        -3000:
    ]
    hits = leaks.places(host, {**held(), "age": sops.credential["age_key"]})
    assert hits == {"age": ["/opt/scutum/.scutum-ops/secrets-credential.json"]}


def test_back_into_the_file() -> None:
    """From one source; the others, and reboots, are in long_secrets."""
    moved_to(vault, "env_file", twice=False)
    rotates(vault, "env_file")
    assert host.run("stat -c %a /opt/scutum/config/.env") == "600"
    assert host.psql("SELECT x FROM witness") == "7" and host.env()["LITELLM_SALT_KEY"] == first["LITELLM_SALT_KEY"]
