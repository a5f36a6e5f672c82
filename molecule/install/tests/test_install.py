"""The installation as somebody outside sees it."""

from __future__ import annotations

import re
import time
import uuid

from scenario import Host, playbook

host = Host("scutum-install")


def token() -> str:
    answer = host.http(8086, "/auth/login", {"api_key": host.env()["SCUTUM_API_KEY"]})
    assert answer.status == 200, answer.text
    return str(answer.json()["access_token"])


def test_a_completion_is_answered_and_recorded() -> None:
    before = int(host.psql('SELECT count(*) FROM "LiteLLM_SpendLogs"'))
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": f"hello {uuid.uuid4()}"}]}
    answer = host.http(4000, "/v1/chat/completions", body, host.env()["SCUTUM_API_KEY"])
    assert answer.status == 200 and answer.json()["choices"][0]["message"]["content"]
    deadline = time.monotonic() + 20
    while int(host.psql('SELECT count(*) FROM "LiteLLM_SpendLogs"')) == before:
        assert time.monotonic() < deadline, "no spend row was written"
        time.sleep(0.5)
    assert host.http(4000, "/v1/chat/completions", body, "sk-wrong").status in (400, 401)


def test_the_admin_api_reaches_its_database() -> None:
    answer = host.http(8086, "/api/v1/audit-logs?limit=1", token=token())
    assert answer.status == 200 and isinstance(answer.json(), list)
    assert host.http(8086, "/api/v1/license").json()["present"] is False


def test_metrics_add_up_over_workers() -> None:
    key = host.env()["SCUTUM_API_KEY"]

    def count() -> float:
        text = host.http(4000, "/metrics/", token=key).text
        found = re.findall(r"^litellm_proxy_total_requests_metric_total\{.*\} ([0-9.e+]+)$", text, re.MULTILINE)
        return sum(float(value) for value in found)

    before = count()
    for unused in range(6):
        body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": str(uuid.uuid4())}]}
        assert host.http(4000, "/v1/chat/completions", body, key).status == 200
    time.sleep(1)
    assert {count() for unused in range(6)} == {before + 6}, "each worker must tell the sum of all"


def test_secrets_file_and_generated_values() -> None:
    assert host.run("stat -c '%a %U' /opt/scutum/config/.env") == "600 root"
    env = host.env()
    assert re.fullmatch(r"sk-[0-9a-f]{64}", env["SCUTUM_API_KEY"])
    assert re.fullmatch(r"[0-9a-f]{64}", env["LITELLM_SALT_KEY"]) and env["LITELLM_SALT_KEY"] != env["SCUTUM_API_KEY"]
    assert not [key for key, value in env.items() if "CHANGE-ME" in value]
    in_litellm = host.run("docker exec scutum-proxy env")
    assert f"LITELLM_SALT_KEY={env['LITELLM_SALT_KEY']}" in in_litellm and "DISABLE_SCHEMA_UPDATE=true" in in_litellm
    assert "OPENAI_API_KEY=sk-canary-7d1c0f5e9b3a" in in_litellm


def test_workers_are_what_was_asked_for() -> None:
    assert host.run("docker inspect -f '{{join .Args \" \"}}' scutum-proxy").count("--num_workers 2") == 1


def test_the_vendors_cli_works_on_and_recreates_nothing() -> None:
    before = host.containers()
    host.run("cd /opt/scutum && ./scutum up")
    assert host.containers() == before
    assert "scutum-proxy" in host.run("cd /opt/scutum && ./scutum ps")


def test_the_command_on_the_host_says_the_same() -> None:
    out = host.run("scutum-ops verify --model gpt-4o-mini")
    assert "FAIL" not in out and "ok   completion gpt-4o-mini" in out and "ok   migrations: at head 029" in out


def test_one_broken_provider_fails_the_run_although_a_fallback_answers() -> None:
    body = {"model": "broken-provider", "messages": [{"role": "user", "content": str(uuid.uuid4())}]}
    assert host.http(4000, "/v1/chat/completions", body, host.env()["SCUTUM_API_KEY"]).status == 200, (
        "the fallback answers"
    )
    run = playbook("day_one.yml", scutum_smoke_models=["gpt-4o-mini", "broken-provider"])
    assert run.rc != 0
    assert "completion broken-provider: HTTP" in run.flat and "1 of" in run.flat
    assert "Last lines of litellm" in run.flat


def test_second_run_changes_nothing() -> None:
    before = host.containers()
    run = playbook("day_one.yml")
    assert run.rc == 0, run.out[-3000:]
    assert run.recap(host.name)["changed"] == 0
    assert host.containers() == before


def test_check_mode_says_what_a_change_would_do_and_does_nothing() -> None:
    before = host.fingerprint()
    run = playbook("day_one.yml", "--check", "--diff", scutum_litellm_workers=3)
    assert run.rc == 0, run.out[-3000:]
    assert "litellm: recreate" in run.flat and '+ - "3"' in run.flat
    assert "postgres: recreate" not in run.flat and run.recap(host.name)["changed"] >= 1
    assert host.fingerprint() == before


def test_a_changed_setting_recreates_only_its_service() -> None:
    before = host.containers()
    config = {"litellm_settings": {"request_timeout": 321}}
    run = playbook("day_one.yml", scutum_litellm_config=config)
    assert run.rc == 0, run.out[-3000:]
    after = host.containers()
    assert {name for name in before if before[name] != after[name]} == {"scutum-proxy"}
    assert "321" in host.run("docker exec scutum-proxy cat /etc/litellm/config.yaml")
    assert "gpt-4o-mini" in host.run("docker exec scutum-proxy cat /etc/litellm/config.yaml"), (
        "the image's part is kept"
    )


def test_uninstall_keeps_data_and_asks_for_the_hosts_name() -> None:
    host.psql("CREATE TABLE IF NOT EXISTS witness(x int); INSERT INTO witness VALUES (42)")
    refused = playbook("uninstall.yml", scutum_remove_data="true")
    assert (
        refused.rc != 0
        and "scutum_remove_data_of=scutum-install" in refused.flat
        and "Nothing was removed" in refused.flat
    )
    assert "scutum-postgres" in host.containers()
    key = host.env()["SCUTUM_API_KEY"]
    assert playbook("uninstall.yml").rc == 0
    assert not host.containers()
    again = playbook("day_one.yml")
    assert again.rc == 0, again.out[-3000:]
    assert host.psql("SELECT x FROM witness") == "42" and host.env()["SCUTUM_API_KEY"] == key


def test_uninstall_with_data_leaves_nothing() -> None:
    run = playbook("uninstall.yml", scutum_remove_data="true", scutum_remove_data_of="scutum-install")
    assert run.rc == 0, run.out[-3000:]
    assert host.fails("test -e /opt/scutum") and host.run("docker volume ls -q") == ""
    assert host.fails("ls /etc/systemd/system/scutum-ops-*") and "scutum" not in host.run("systemctl list-timers --all")
