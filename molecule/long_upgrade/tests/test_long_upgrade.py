"""Upgrades that are killed in each phase, whose Postgres or host restarts, whose watch finds too little, and which nobody goes back from by
himself."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import pytest
from scenario import REPO, Host, Run, playbook
from store import KEYS, S3, fixture_s3  # noqa: F401

sys.path.insert(0, str(REPO / "molecule/upgrade/tests"))

import upgrading
from upgrading import SHORT, Going, Ledger, Load, copies, head, production, record, releases, state, until

host = Host("scutum-long-upgrade")
UNIT = "scutum-ops-upgrade-watch-scutum.service"


def variables(s3: S3, **extra: Any) -> dict[str, Any]:
    return {"scutum_backup_store": s3.settings, "scutum_env": KEYS, **SHORT, **extra}


def play(name: str, s3: S3, *options: str, **extra: Any) -> Run:
    return playbook(f"{name}.yml", *options, **variables(s3, **extra))


def serves(release: str) -> None:
    assert releases(host) == {release} and host.serves(host.env()["SCUTUM_API_KEY"])


def finalize(s3: S3) -> None:
    """Drop the database that a rollback by restore kept."""
    if record(host).get("rollback", {}).get("way") == "restore":
        assert play("restore", s3, scutum_restore_finalize=host.name).rc == 0


def back(s3: S3) -> None:
    """To 0.1.0, whatever it takes."""
    run = play("rollback", s3, scutum_rollback_accept_export=host.name)
    assert run.rc == 0, run.out[-4000:]
    serves("0.1.0")
    finalize(s3)


def killed_in(s3: S3, name: str, phase: str, after: float = 0.5, **extra: Any) -> None:
    """A playbook, whose controller and whose work on the host are killed in a phase."""
    going = Going(f"{name}.yml", **variables(s3, **extra))
    until(lambda: state(host, phase) == "running", f"{phase} begins", 400)
    time.sleep(after)
    upgrading.kill(host)
    going.kill()


@pytest.fixture(name="installed", scope="module", autouse=True)
def fixture_installed(s3: S3) -> None:
    """A place for backups, and a history."""
    assert playbook("day_one.yml", scutum_backup_store=s3.settings, scutum_env=KEYS).rc == 0
    host.psql(
        "INSERT INTO audit_logs(actor_id, action, resource_type, timestamp) "
        "SELECT 'u' || i, 'a', 'r', now() - i * interval '1 hour' FROM generate_series(1, 3000) i"
    )


@pytest.mark.parametrize("phase", ["preflight", "stage", "migrate", "smoke"])
def test_killed_before_anything_is_promoted(s3: S3, phase: str) -> None:
    """Each leaves production as it was, and what it leaves the next one takes."""
    before, data = production(host), upgrading.database(host)
    killed_in(s3, "upgrade", phase, scutum_version="0.2.0")
    assert state(host, "promote") == "" and production(host) == before and upgrading.database(host) == data
    assert "interrupted" in host.run("scutum-ops upgrade-status || true")


@pytest.mark.parametrize("after", [0.0, 4.0, 12.0])
def test_killed_while_it_is_promoted(s3: S3, after: float) -> None:
    load, ledger = Load(host.address, host.env()["SCUTUM_API_KEY"]), Ledger(host)
    killed_in(s3, "upgrade", "promote", after, scutum_version="0.2.0")
    run = play("upgrade", s3, scutum_version="0.2.0")
    load.end()
    ledger.end()
    assert run.rc == 0 and record(host)["outcome"] == "good", run.out[-4000:]
    serves("0.2.0")
    assert not copies(host) and upgrading.lost(host, load, ledger) == set()
    again = play("upgrade", s3, scutum_version="0.2.0")
    assert again.rc == 0 and again.recap(host.name)["changed"] == 0, again.out[-3000:]
    killed_in(s3, "rollback", "rollback", after / 2)
    back(s3)
    assert head(host) == "029" and upgrading.lost(host, load, ledger) == set()


def test_after_a_rollback_the_install_agrees(s3: S3) -> None:
    assert play("day_one", s3).rc == 0
    before = production(host)
    again = play("day_one", s3)
    assert again.rc == 0 and again.recap(host.name)["changed"] == 0 and production(host) == before, again.out[-3000:]


def test_postgres_restarts_while_production_is_migrated(s3: S3) -> None:
    """Somebody holds the table that the migration changes, so that it is there when Postgres goes."""
    load, ledger = Load(host.address, host.env()["SCUTUM_API_KEY"]), Ledger(host)
    before = record(host).get("id")
    going = Going(
        "upgrade.yml", **variables(s3, scutum_version="0.2.0", scutum_upgrade_without_staging="0.2.0",
                                   scutum_upgrade_accept_export=True),
    )  # fmt: skip
    until(lambda: record(host).get("id") != before and bool(record(host).get("safety")), "the safety backup", 400)
    env = host.env()
    hold = f"psql -U {env['POSTGRES_USER']} -d {env['POSTGRES_DB']} -c 'BEGIN; LOCK TABLE request_logs; SELECT pg_sleep(300)'"
    host.run(f'docker exec -d scutum-postgres sh -c "{hold}"')
    waits = "SELECT count(*) FROM pg_locks l JOIN pg_class c ON c.oid = l.relation WHERE c.relname = 'request_logs' AND NOT l.granted"
    until(lambda: host.psql(waits) != "0" or going.ended, "the migration waits")
    host.run("docker restart -t 5 scutum-postgres; until docker exec scutum-postgres pg_isready -q; do sleep 0.3; done")
    said = going.wait()[1]
    time.sleep(2)
    load.end()
    ledger.end()
    held = record(host)
    assert held["outcome"] in ("rolled_back", "good"), said[-4000:]
    serves("0.1.0" if held["outcome"] == "rolled_back" else "0.2.0")
    more = upgrading.exported(host)
    assert upgrading.lost(host, load, ledger, more) == set()
    if held["outcome"] == "good":
        back(s3)
    finalize(s3)


def test_a_host_that_restarts_in_the_middle_goes_on_by_itself(s3: S3) -> None:
    """Between the migration and the new images: the old admin-api would never start on the newer schema."""
    settings = {"scutum_version": "0.2.0", "scutum_upgrade_without_staging": "0.2.0"}
    going = Going("upgrade.yml", **variables(s3, **settings))
    until(lambda: state(host, "promote") == "running" and head(host) == "030", "the migration", 400)
    host.reboot()
    going.kill()
    until(lambda: not host.fails("docker exec scutum-postgres pg_isready -q"), "the host is back")
    until(lambda: bool(record(host)["outcome"]), "the verdict", 400)
    assert record(host)["outcome"] == "good" and state(host, "promote") == "done"
    serves("0.2.0")
    until(lambda: host.fails("ls /etc/systemd/system/scutum-ops-upgrade-*"), "its units are gone", 30)
    back(s3)


def test_a_watch_that_finds_too_little_says_so_and_survives_its_controller_and_a_restart(s3: S3) -> None:
    little = {
        "scutum_version": "0.2.0",
        "scutum_upgrade_watch": 60,
        "scutum_upgrade_minimum_requests": 100000,
        "scutum_upgrade_completion_interval": 0,
    }
    assert play("upgrade_preflight", s3, **little).rc == 0
    assert play("upgrade_stage", s3, **little).rc == 0
    assert play("upgrade_promote", s3, **little).rc == 0
    left = play("upgrade_watch", s3, scutum_upgrade_wait=False, **little)
    assert left.rc == 0 and state(host, "watch") == "running", left.out[-3000:]
    waiting = Going("upgrade_watch.yml", **variables(s3, **little))
    time.sleep(8)
    waiting.kill()
    host.run(f"systemctl kill -s KILL {UNIT}")
    until(lambda: host.run(f"systemctl is-active {UNIT} || true") == "active", "systemd starts it again", 60)
    host.reboot()
    until(lambda: not host.fails("docker exec scutum-postgres pg_isready -q"), "the host is back")
    until(lambda: bool(record(host)["outcome"]), "the verdict")
    assert record(host)["outcome"] == "not_enough_data" and record(host)["verdict"]["reasons"]
    serves("0.2.0")
    said = play("upgrade_watch", s3, **little)
    assert said.rc != 0 and "without enough data" in said.flat and record(host)["outcome"] == "not_enough_data"
    back(s3)


def test_a_bad_release_stays_when_that_is_wanted_and_goes_back_with_a_confirmation(s3: S3) -> None:
    load, ledger = Load(host.address, host.env()["SCUTUM_API_KEY"]), Ledger(host)
    run = play(
        "upgrade", s3, scutum_version="0.4.0", scutum_upgrade_without_staging="0.4.0", scutum_upgrade_watch=60,
        scutum_upgrade_automatic_rollback="false",
    )  # fmt: skip
    assert run.rc != 0 and record(host)["outcome"] == "bad", run.out[-4000:]
    assert releases(host) == {"0.4.0"}
    refused = play("rollback", s3)
    assert refused.rc != 0 and "would lose what was written since" in refused.flat, refused.out[-4000:]
    assert "scutum_rollback_accept_export" in refused.flat and releases(host) == {"0.4.0"}
    other = play("rollback", s3, scutum_rollback_accept_export="another")
    assert other.rc != 0 and releases(host) == {"0.4.0"}, other.out[-3000:]
    done = play("rollback", s3, scutum_rollback_accept_export=host.name)
    time.sleep(2)
    load.end()
    ledger.end()
    assert done.rc == 0 and record(host)["outcome"] == "rolled_back", done.out[-4000:]
    serves("0.1.0")
    assert upgrading.lost(host, load, ledger, upgrading.exported(host)) == set()
    finalize(s3)


def test_a_receipt_is_bound_to_its_images(s3: S3) -> None:
    assert play("upgrade", s3, "--tags", "preflight,stage,migrate,smoke", scutum_version="0.2.0").rc == 0
    before, held = production(host), record(host)
    wrong = json.loads(json.dumps(held))
    wrong["receipt"]["images"]["target"]["litellm"] = {"id": "sha256:" + "0" * 64, "digest": "sha256:" + "0" * 64}
    host.run(f"cat > /opt/scutum/{upgrading.RECORD}", stdin=json.dumps(wrong))
    run = play("upgrade_promote", s3, scutum_version="0.2.0")
    assert run.rc != 0 and "there is no receipt that counts" in run.flat, run.out[-3000:]
    other = play("upgrade_promote", s3, scutum_version="0.3.0")
    assert other.rc != 0 and "Next:" in other.flat and production(host) == before, other.out[-3000:]
