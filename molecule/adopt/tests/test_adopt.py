"""The adopted installation as somebody outside sees it."""

from __future__ import annotations

from scenario import Host, playbook

host = Host("scutum-adopt", "/srv/gateway/scutum")


def test_only_litellm_was_recreated() -> None:
    before = dict(line.split() for line in host.run("cat /root/before").splitlines())
    after = {"/" + name: value.split()[0] for name, value in host.containers().items()}
    assert set(before) == set(after)
    assert {name for name in before if before[name] != after[name]} == {"/scutum-proxy"}


def test_nothing_was_regenerated_and_the_salt_is_todays_key() -> None:
    before = dict(line.split("=", 1) for line in host.run("grep -E '^[A-Z_]+=' /run/env.before").splitlines())
    after = host.env()
    assert {key: after[key] for key in before} == before
    assert set(after) - set(before) == {"LITELLM_SALT_KEY", "COMPOSE_FILE"} and after["COMPOSE_PROFILES"] == "finops"
    assert (
        host.run("docker inspect -f '{{.State.Running}}' scutum-budget-webhook scutum-cost-predictor") == "true\ntrue"
    )
    assert after["LITELLM_SALT_KEY"] == before["SCUTUM_API_KEY"]


def test_no_data_was_lost() -> None:
    assert host.psql("SELECT count(*) FROM audit_logs WHERE actor_id = 'witness'") == "500"


def test_bindings_and_ports_stay_until_they_are_set() -> None:
    assert host.http(18086, "/health").json() == {"status": "healthy"}
    assert host.run("docker port scutum-proxy 4000").splitlines()[0] == "0.0.0.0:4000"


def test_setting_an_address_moves_the_bindings_and_keeps_the_ports() -> None:
    run = playbook("day_one.yml", scutum_bind_address="127.0.0.1")
    assert run.rc == 0, run.out[-3000:]
    assert host.run("docker port scutum-admin-api 8086").splitlines() == ["127.0.0.1:18086"]


def test_the_vendors_cli_keeps_the_new_binding() -> None:
    before = host.containers()
    host.run("cd /srv/gateway/scutum && ./scutum up")
    assert host.containers() == before
