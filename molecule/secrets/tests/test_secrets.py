"""Secrets from Vault at run time, seen from outside and from the host: they work, and they lie nowhere."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import leaks
import sources
from scenario import Host, Run, playbook, start_playbook

host = Host("scutum-secrets")
vault = sources.Vault("production", "approle")
CANARIES = sources.CANARIES | json.loads((Path(__file__).parents[1] / "more.json").read_text())
CREDENTIAL = vault.credential["secret_id"]
API_KEY = CANARIES["SCUTUM_API_KEY"]
WRAPPED = """
import os, sys
sys.path.insert(0, "/usr/local/lib/scutum-ops")
from scutum_ops import cli, {module}
real = {owner}.{name}
def wrapper(*words, **more):
    {body}
{owner}.{name} = wrapper
sys.exit(cli.main(sys.argv[1:]))
"""


def serves() -> bool:
    return host.serves(API_KEY)


def put(**changes: str | None) -> None:
    """A new version in Vault; None leaves a key out."""
    vault.put({key: value for key, value in (CANARIES | changes).items() if value is not None})


def rotate(names: str, *options: str, **extra: object) -> Run:
    """The playbook, with the credential that may write."""
    return playbook(
        "rotate_secrets.yml", *options, **{"scutum_rotate": names, "scutum_rotate_credential": vault.writer} | extra
    )


def rotate_on_host(names: str, owner: str, name: str, body: str) -> subprocess.CompletedProcess[str]:
    """The host's own command with one function of the library wrapped: a fault at that very place."""
    host.run(
        "cat > /run/wrapped.py", stdin=WRAPPED.format(module=owner.split(".")[0], owner=owner, name=name, body=body)
    )
    settings = {"source": None, "writer": vault.writer}
    command = ["docker", "exec", "-i", host.name, "/usr/local/lib/scutum-ops/venv/bin/python3", "/run/wrapped.py"]
    return subprocess.run(
        [*command, "--json", "secrets-rotate", names, "--settings", "-"],
        input=json.dumps(settings), capture_output=True, text=True, check=False,
    )  # fmt: skip


def held() -> dict[str, str]:
    """What services get."""
    return dict(json.loads(host.run("cat /run/scutum-ops/scutum/values.json")))


def accepted_inside(service: str, key: str) -> int:
    """What an internal service answers to a key, asked inside the network."""
    address = host.run(
        f"docker inspect -f '{{{{range .NetworkSettings.Networks}}}}{{{{.IPAddress}}}}{{{{end}}}}' {service}"
    )
    return int(
        host.run(f"curl -s -o /dev/null -w '%{{http_code}}' -H 'X-Service-Key: {key}' http://{address}:8080/any")
    )


def database_opens(password: str) -> bool:
    """Whether Postgres lets the role in over the network, from a container of somebody else's."""
    script = f"PGPASSWORD={password} psql -w -h postgres -U scutum -d scutum -Atc 'SELECT 1'"
    return not host.fails(
        f'docker run --rm --network scutum_scutum-network --entrypoint sh postgres:16-alpine -c "{script}"'
    )


def test_the_platform_serves_with_what_vault_holds() -> None:
    assert serves()
    token = host.http(8086, "/auth/login", {"api_key": CANARIES["SCUTUM_API_KEY"]}).json()["access_token"]
    assert host.http(8086, "/api/v1/audit-logs?limit=1", token=token).status == 200
    environment = host.run("docker exec scutum-proxy sh -c \"tr '\\0' '\\n' < /proc/1/environ\"")
    assert f"OPENAI_API_KEY={CANARIES['OPENAI_API_KEY']}" in environment, "hard characters arrive as they are"
    assert f"LITELLM_SALT_KEY={CANARIES['LITELLM_SALT_KEY']}" in environment and "JWT_SECRET_KEY" not in environment


def test_each_service_has_a_file_of_its_own_for_its_own_user() -> None:
    place = "/run/scutum-ops/scutum"
    assert host.run(f"stat -c '%a %U' /run/scutum-ops {place} {place}/services").splitlines() == ["700 root"] * 3
    names = set(host.run(f"ls {place}/services").split())
    assert names == {"admin-api", "budget-webhook", "cost-predictor", "litellm", "postgres"}
    assert host.run(f"stat -c '%a %u' {place}/services/admin-api {place}/services/litellm").splitlines() == [
        "400 1000",
        "400 0",
    ]
    lines = host.run(f"cut -d= -f1 {place}/services/cost-predictor").splitlines()
    assert lines == ["export INTERNAL_SERVICE_KEY"]
    assert host.fails(f"setpriv --reuid=1000 --regid=1000 --clear-groups cat {place}/services/admin-api")
    assert host.run("findmnt -n -o FSTYPE -T /run/scutum-ops") == "tmpfs"


def test_nothing_lies_on_a_disk() -> None:
    hits = leaks.places(host, {**CANARIES, "credential": CREDENTIAL})
    assert hits == {"credential": [f"{host.directory}/.scutum-ops/secrets-credential.json"]}


def test_the_search_finds_what_is_left_lying_about() -> None:
    host.run("cat > /srv/forgotten", stdin=f"note to self: {CANARIES['JWT_SECRET_KEY']}\n")
    hits = leaks.places(host, CANARIES)
    host.run("rm /srv/forgotten")
    assert hits == {"JWT_SECRET_KEY": ["/srv/forgotten"]}


def test_the_search_finds_a_task_that_leaks() -> None:
    out = start_playbook("../molecule/secrets/leaking.yml").communicate(timeout=300)[0]
    found = leaks.in_text(out, held().values())
    assert len(found) >= 5 and not [value for value in held().values() if value in " ".join(found)], (
        "and does not leak itself"
    )


def test_a_second_run_changes_nothing() -> None:
    before = host.containers()
    run = playbook("day_one.yml")
    assert run.rc == 0 and run.recap(host.name)["changed"] == 0, run.out[-3000:]
    checked = playbook("day_one.yml", "--check")
    assert checked.rc == 0 and checked.recap(host.name)["changed"] == 0, checked.out[-3000:]
    assert host.containers() == before


def test_the_vendors_cli_recreates_nothing() -> None:
    before = host.containers()
    host.run("cd /opt/scutum && ./scutum up")
    assert host.containers() == before and serves()


def test_a_changed_value_reaches_its_service_and_no_other() -> None:
    before = host.containers()
    put(OPENAI_API_KEY="canary-openai-second")
    run = playbook("secrets.yml")
    assert run.rc == 0, run.out[-3000:]
    after = host.containers()
    assert {name for name in before if before[name] != after[name]} == {"scutum-proxy"}
    assert "OPENAI_API_KEY=canary-openai-second" in host.run(
        "docker exec scutum-proxy sh -c \"tr '\\0' '\\n' < /proc/1/environ\""
    )


def test_rotated_secrets_are_accepted_and_the_old_ones_refused() -> None:
    before, values = host.containers(), held()
    old_token = host.http(8086, "/auth/login", {"api_key": API_KEY}).json()["access_token"]
    assert host.http(8086, "/api/v1/audit-logs?limit=1", token=old_token).status == 200
    # The host's own credential may only read.
    refused = rotate("jwt", scutum_rotate_credential={})
    assert refused.rc != 0 and "the credential may not do that (403)" in refused.flat, refused.out[-3000:]
    assert (
        held() == values
        and host.containers() == before
        and host.fails("test -e /opt/scutum/.scutum-ops/secrets-rotation.json")
    )
    checked = rotate("jwt,internal,postgres", "--check")
    assert checked.rc == 0 and "would rotate jwt, internal, postgres" in checked.flat and held() == values
    run = rotate("jwt,internal,postgres")
    assert run.rc == 0, run.out[-3000:]
    new = held()
    for words in (
        "jwt: the new value is accepted and the old one refused by admin-api",
        "internal: the new value is accepted and the old one refused by the services that check it",
        "postgres: the new value is accepted and the old one refused by Postgres, over the network",
    ):
        assert words in run.flat, run.out[-3000:]
    assert {key for key in values if values[key] != new[key]} == {
        "JWT_SECRET_KEY",
        "INTERNAL_SERVICE_KEY",
        "POSTGRES_PASSWORD",
    }
    # From outside: what the reports say is so.
    assert serves() and host.http(8086, "/api/v1/audit-logs?limit=1", token=old_token).status == 401
    for service in ("scutum-cost-predictor", "scutum-budget-webhook"):
        assert accepted_inside(service, values["INTERNAL_SERVICE_KEY"]) == 401
        assert accepted_inside(service, new["INTERNAL_SERVICE_KEY"]) == 404
    assert database_opens(new["POSTGRES_PASSWORD"]) and not database_opens(values["POSTGRES_PASSWORD"])
    after = host.containers()
    consumers = {"scutum-admin-api", "scutum-budget-webhook", "scutum-cost-predictor", "scutum-proxy"}
    assert {name for name in before if before[name] != after[name]} == consumers, (
        "only those that use them, and Postgres not"
    )
    # Vault holds the new one, and the old one as the version before.
    assert vault.held()["JWT_SECRET_KEY"] == new["JWT_SECRET_KEY"]
    second = playbook("day_one.yml")
    assert second.rc == 0 and second.recap(host.name)["changed"] == 0 and host.containers() == after, second.out[-3000:]


def test_postgres_never_saw_the_password() -> None:
    logged = host.psql("SELECT rolpassword FROM pg_authid WHERE rolname = 'scutum'")
    assert logged.startswith("SCRAM-SHA-256$4096:")
    assert held()["POSTGRES_PASSWORD"] not in host.run("docker logs scutum-postgres 2>&1")


def test_what_the_services_refuse_is_undone() -> None:
    values, version = held(), vault.held()
    old = values["JWT_SECRET_KEY"]
    lie = f"return False if words[1] == 'JWT_SECRET_KEY' and words[2] != {old!r} else real(*words, **more)"
    done = rotate_on_host("jwt,postgres", "secret_proof", "accepted", lie)
    assert done.returncode == 1, done.stdout + done.stderr
    error = json.loads(done.stdout)["error"]
    assert "jwt: the new value is REFUSED" in error and "the old values are in force again, and accepted" in error
    assert held() == values == vault.held() == version and serves() and database_opens(values["POSTGRES_PASSWORD"])
    assert host.fails("test -e /opt/scutum/.scutum-ops/secrets-rotation.json")


def test_a_killed_rotation_is_finished_by_the_next_run() -> None:
    values = held()
    killed = rotate_on_host("jwt,postgres", "scram", "verifier", "os._exit(9)")
    assert killed.returncode == 9 and held() == values and vault.held() != values
    assert serves(), "it goes on with the old values"
    refused = playbook("install.yml")
    assert refused.rc != 0 and "a rotation of jwt, postgres was interrupted" in refused.flat, refused.out[-3000:]
    run = playbook("secrets.yml")
    assert run.rc == 0, run.out[-3000:]
    new = held()
    assert new["JWT_SECRET_KEY"] != values["JWT_SECRET_KEY"] and new == vault.held()
    assert serves() and database_opens(new["POSTGRES_PASSWORD"]) and not database_opens(values["POSTGRES_PASSWORD"])
    again = playbook("secrets.yml")
    assert again.rc == 0 and again.recap(host.name)["changed"] == 0, again.out[-3000:]


def test_the_api_key_needs_the_hosts_name() -> None:
    values = held()
    run = rotate("api_key")
    assert run.rc != 0 and "-e scutum_rotate_api_key_confirm=scutum-secrets" in run.flat and held() == values


def test_ages_have_no_values() -> None:
    run = rotate("jwt,internal", scutum_rotate_only_due=True)
    assert run.rc == 0 and run.recap(host.name)["changed"] == 0 and "nothing to rotate" in run.flat, run.out[-3000:]
    assert "ok JWT_SECRET_KEY: 0 days old, due" in run.flat and "rotated after a leak only" in run.flat
    shown = host.run("scutum-ops secrets-age; cat /opt/scutum/.scutum-ops/secrets-in-force.json")
    assert not [value for value in held().values() if value in shown]


def test_what_cannot_work_is_refused_and_the_platform_goes_on() -> None:
    before = host.containers()
    vault.fault("sealed")
    sealed = playbook("secrets.yml")
    vault.fault("none")
    current = held()
    vault.put({key: value for key, value in current.items() if key != "JWT_SECRET_KEY"})
    missing = playbook("secrets.yml")
    vault.put(current | {"POSTGRES_PASSWORD": "canary@postgres"})
    unfit = playbook("secrets.yml")
    vault.put(current | {"POSTGRES_PASSWORD": "another-password"})
    differs = playbook("secrets.yml")
    vault.put(current)
    wrong = playbook("secrets.yml", scutum_secrets_credential={"role_id": "scutum-hosts"})
    other = playbook("secrets.yml", scutum_secrets_source="generated", scutum_secrets_injection="runtime")
    both = playbook("day_one.yml", scutum_env={"JWT_SECRET_KEY": "x" * 40})
    for run, words in (
        (sealed, "hashi_vault http://vault.testbed:8200, secret/scutum/production: it is sealed (503)"),
        (missing, "secret/scutum/production: JWT_SECRET_KEY missing or empty"),
        (
            differs,
            "POSTGRES_PASSWORD in hashi_vault http://vault.testbed:8200, secret/scutum/production: not what is in force",
        ),
        (differs, "playbooks/rotate_secrets.yml -e scutum_rotate=postgres"),
        (unfit, "POSTGRES_PASSWORD holds '@' (commercial at)"),
        (wrong, "scutum_secrets_credential.secret_id is missing (auth approle)"),
        (other, "generated cannot be asked again after a reboot: use env_file"),
        (both, "JWT_SECRET_KEY is set in scutum_env and in the source of secrets"),
    ):
        assert run.rc != 0 and words in run.flat, run.out[-3000:]
        assert "nothing was changed" in run.flat
    assert host.containers() == before and serves()


def test_wrong_types_are_all_named() -> None:
    wrong: dict[str, object] = {
        "scutum_secrets_source": "drawer",
        "scutum_secrets_options": "x",
        "scutum_secrets_credential": "x",
        "scutum_secrets_injection": "magic",
        "scutum_secrets_start_deadline": "soon",
    }
    run = playbook("secrets.yml", **wrong)
    missing = [name for name in wrong if f"'{name}'" not in run.flat and f"{name} must be one" not in run.flat]
    assert run.rc != 0 and not missing, f"not refused: {missing}\n{run.out[-3000:]}"


def test_after_a_reboot_in_a_rotation_the_engine_waits_for_the_secrets_and_the_rotation_is_finished() -> None:
    values = held()
    killed = rotate_on_host("jwt,postgres", "secret_store.Store", "place", "os._exit(9)")
    assert killed.returncode == 9 and database_opens(vault.held()["POSTGRES_PASSWORD"]), "the server has the new one"
    vault.fault("sealed")
    host.reboot()
    deadline = time.monotonic() + 180
    while "it is sealed (503)" not in host.run(
        "journalctl -b -u scutum-ops-secrets-scutum --no-pager || true", check=False
    ):
        assert time.monotonic() < deadline, "the unit does not say what it waits for"
        time.sleep(0.5)
    assert "waiting for secrets" in host.run("journalctl -b -u scutum-ops-secrets-scutum --no-pager")
    assert host.run("systemctl is-active docker || true") in ("inactive", "activating")
    assert host.fails("test -e /run/scutum-ops/scutum/values.json")
    vault.fault("none")
    deadline = time.monotonic() + 300
    while not serves():
        assert time.monotonic() < deadline, host.run(
            "docker ps -a; journalctl -b -u scutum-ops-secrets-scutum --no-pager", check=False
        )
        time.sleep(1)
    finish = "test ! -e /opt/scutum/.scutum-ops/secrets-rotation.json"
    deadline = time.monotonic() + 180
    while host.fails(finish):
        assert time.monotonic() < deadline, host.run(
            "journalctl -b -u scutum-ops-secrets-rotation-scutum --no-pager", check=False
        )
        time.sleep(1)
    new = held()
    assert new == vault.held() and new["JWT_SECRET_KEY"] != values["JWT_SECRET_KEY"] and serves()
    assert database_opens(new["POSTGRES_PASSWORD"]) and not database_opens(values["POSTGRES_PASSWORD"])
    assert host.run("systemctl is-active scutum-ops-secrets-scutum docker").split() == ["active", "active"]
    hits = leaks.places(host, {**CANARIES, **held(), "credential": CREDENTIAL})
    assert set(hits) == {"credential"}


def test_an_engine_that_starts_again_does_not_wait_for_a_source_that_is_down() -> None:
    vault.fault("closed")
    host.run("systemctl restart docker")
    vault.fault("none")
    deadline = time.monotonic() + 240
    while not serves():
        assert time.monotonic() < deadline, "the platform did not come back"
        time.sleep(1)
