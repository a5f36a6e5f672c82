"""Secrets from Vault at run time, seen from outside and from the host: they work, and they lie nowhere."""

from __future__ import annotations

import subprocess
import time
import uuid

import vault_of_the_scenario as vault
from scenario import Host, assert_no_leaks, nothing_at_rest, playbook
from vault_of_the_scenario import CANARIES

host = Host("scutum-secrets")
CREDENTIAL = "canary-secret-id-9f2b6d"
spoken: list[str] = []


def completion() -> int:
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": str(uuid.uuid4())}]}
    return host.http(4000, "/v1/chat/completions", body, CANARIES["SCUTUM_API_KEY"]).status


def serves() -> bool:
    try:
        login = host.http(8086, "/auth/login", {"api_key": CANARIES["SCUTUM_API_KEY"]}, timeout=5)
        return login.status == 200 and completion() == 200
    except OSError:
        return False


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
    hits = nothing_at_rest(host, {**CANARIES, "credential": CREDENTIAL})
    assert hits == {"credential": [f"{host.directory}/.scutum-ops/secrets-credential.json"]}


def test_the_search_finds_what_is_left_lying_about() -> None:
    host.run("cat > /srv/forgotten", stdin=f"note to self: {CANARIES['JWT_SECRET_KEY']}\n")
    hits = nothing_at_rest(host, CANARIES)
    host.run("rm /srv/forgotten")
    assert hits == {"JWT_SECRET_KEY": ["/srv/forgotten"]}


def test_a_second_run_in_full_voice_changes_nothing_and_tells_nothing() -> None:
    before = host.containers()
    run = playbook("day_one.yml", "-vvvv", "--diff")
    assert run.rc == 0 and run.recap(host.name)["changed"] == 0, run.out[-3000:]
    checked = playbook("day_one.yml", "-vvvv", "--diff", "--check")
    assert checked.rc == 0 and checked.recap(host.name)["changed"] == 0, checked.out[-3000:]
    assert host.containers() == before
    assert_no_leaks(host, (run.out + checked.out).split("PLAY [", 1)[1], CANARIES)
    assert CREDENTIAL not in run.out + checked.out


def test_the_vendors_cli_recreates_nothing() -> None:
    before = host.containers()
    host.run("cd /opt/scutum && ./scutum up")
    assert host.containers() == before and serves()


def test_a_changed_value_reaches_its_service_and_no_other() -> None:
    before = host.containers()
    vault.write(OPENAI_API_KEY="canary-openai-second")
    run = playbook("secrets.yml", "-vvv")
    assert run.rc == 0, run.out[-3000:]
    after = host.containers()
    assert {name for name in before if before[name] != after[name]} == {"scutum-proxy"}
    assert "OPENAI_API_KEY=canary-openai-second" in host.run(
        "docker exec scutum-proxy sh -c \"tr '\\0' '\\n' < /proc/1/environ\""
    )
    assert_no_leaks(host, run.out.split("PLAY [", 1)[1], {**CANARIES, "OPENAI_API_KEY": "canary-openai-second"})


def test_what_cannot_work_is_refused_and_the_platform_goes_on() -> None:
    before = host.containers()
    vault.fault("sealed")
    sealed = playbook("secrets.yml", "-vvv")
    vault.fault("none")
    vault.write(JWT_SECRET_KEY=None)
    missing = playbook("secrets.yml")
    vault.write(POSTGRES_PASSWORD="canary@postgres")
    unfit = playbook("secrets.yml")
    vault.write()
    wrong = playbook("secrets.yml", scutum_secrets_credential={"role_id": "scutum-hosts"})
    other = playbook("secrets.yml", scutum_secrets_source="generated", scutum_secrets_injection="runtime")
    both = playbook("day_one.yml", scutum_env={"JWT_SECRET_KEY": "x" * 40})
    for run, words in (
        (sealed, "hashi_vault http://vault.testbed:8200, secret/scutum/production: it is sealed (503)"),
        (missing, "hashi_vault, scutum/production: JWT_SECRET_KEY missing or empty"),
        (unfit, "POSTGRES_PASSWORD holds '@' (commercial at)"),
        (wrong, "scutum_secrets_credential.secret_id is missing (auth approle)"),
        (other, "generated cannot be asked again after a reboot: use env_file"),
        (both, "JWT_SECRET_KEY is set in scutum_env and in the source of secrets"),
    ):
        assert run.rc != 0 and words in run.flat, run.out[-3000:]
        assert "nothing was changed" in run.flat
        assert_no_leaks(host, run.out.split("PLAY [", 1)[1], CANARIES)
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


def test_after_a_reboot_the_engine_waits_for_the_secrets() -> None:
    vault.fault("sealed")
    subprocess.run(["docker", "stop", "-t", "60", host.name], check=True, capture_output=True)
    subprocess.run(["docker", "start", host.name], check=True, capture_output=True)
    host.__dict__.pop("address", None)
    deadline = time.monotonic() + 60
    while "it is sealed (503)" not in host.run("journalctl -b -u scutum-ops-secrets --no-pager || true", check=False):
        assert time.monotonic() < deadline, "the unit does not say what it waits for"
        time.sleep(0.5)
    assert "waiting for secrets" in host.run("journalctl -b -u scutum-ops-secrets --no-pager")
    assert host.run("systemctl is-active docker || true") in ("inactive", "activating")
    assert host.fails("test -e /run/scutum-ops/scutum/values.json")
    vault.fault("none")
    deadline = time.monotonic() + 150
    while not serves():
        assert time.monotonic() < deadline, host.run(
            "docker ps -a; journalctl -b -u scutum-ops-secrets --no-pager", check=False
        )
        time.sleep(1)
    # The value that was changed in the meantime is not mixed with the old one.
    assert host.run("systemctl is-active scutum-ops-secrets docker").split() == ["active", "active"]
    hits = nothing_at_rest(host, {**CANARIES, "credential": CREDENTIAL})
    assert set(hits) == {"credential"}


def test_an_engine_that_starts_again_does_not_wait_for_a_source_that_is_down() -> None:
    vault.fault("closed")
    host.run("systemctl restart docker")
    vault.fault("none")
    deadline = time.monotonic() + 120
    while not serves():
        assert time.monotonic() < deadline, "the platform did not come back"
        time.sleep(1)
