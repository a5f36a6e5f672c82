"""A backup back into production: nothing without a confirmation, beside what serves, killed on the way, undone, final."""

from __future__ import annotations

import json
import time
from typing import Any

import pyrage
import pytest
from scenario import Host, Run, playbook
from store import KEYS, PREFIX, S3, fixture_s3  # noqa: F401

host, drill = Host("scutum-restore"), Host("scutum-drill")
IDENTITY = pyrage.x25519.Identity.generate()
ROWS = 3000


def play(name: str, s3: S3, *options: str, **extra: Any) -> Run:
    given = {
        "scutum_backup_store": s3.settings,
        "scutum_backup_age_recipients": [str(IDENTITY.to_public())],
        "scutum_env": KEYS | {"SCUTUM_BACKUP_AGE_IDENTITY": str(IDENTITY)},
    }
    return playbook(f"{name}.yml", *options, **given | extra)


def rows() -> int:
    return int(host.psql("SELECT count(*) FROM audit_logs"))


def databases() -> set[str]:
    return set(host.psql("SELECT datname FROM pg_database WHERE datname LIKE 'scutum%'").split())


def phase() -> str:
    text = host.run("cat /opt/scutum/.scutum-ops/restore.json 2>/dev/null || true")
    return str(json.loads(text)["phase"]) if text else ""


def serves(which: Host) -> bool:
    key = which.env()["SCUTUM_API_KEY"]
    login = which.http(8086, "/auth/login", {"api_key": key})
    found = which.http(8086, "/api/v1/audit-logs?limit=1", token=str(login.json()["access_token"]))
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": f"{time.time_ns()}"}]}
    return len(found.json()) == 1 and which.http(4000, "/v1/chat/completions", body, key).status == 200


@pytest.fixture(name="lost", scope="module")
def fixture_lost(s3: S3) -> str:
    """A backup, and rows that were lost after it. Its id."""
    host.psql(
        "INSERT INTO audit_logs(actor_id, action, resource_type, timestamp) "
        f"SELECT 'u' || i, 'a', 'r', now() - i * interval '1 hour' FROM generate_series(1, {ROWS}) i; "
        "CREATE ROLE reader LOGIN; GRANT SELECT ON audit_logs TO reader; COMMENT ON TABLE audit_logs IS 'kept for seven years'; "
        "INSERT INTO event_subscriptions(name, event_types, channel, config) "
        """VALUES ('on-call', '["budget.exceeded"]', 'webhook', '{"url": "http://pager.invalid"}')"""
    )
    assert play("day_one", s3).rc == 0
    assert play("backup", s3).rc == 0
    name = s3.newest()
    host.psql("DELETE FROM audit_logs WHERE timestamp < now() - interval '50 hours'; DELETE FROM event_subscriptions")
    return name


def test_without_a_confirmation_it_only_says_what_it_would_do(s3: S3, lost: str) -> None:
    before, held = host.containers(), s3.names()
    run = play("restore", s3)
    assert run.rc == 0 and run.recap(host.name)["changed"] == 0, run.out[-3000:]
    for words in (
        f"backup {lost}: nothing was changed",
        "would: a safety backup into bucket backups/scutum/host/",
        "was never proven by a restore",
        "Next: scutum_restore_confirm=scutum-restore restores it",
    ):
        assert words in run.flat, words
    checked = play("restore", s3, "--check", scutum_restore_confirm=host.name)
    assert checked.rc == 0 and checked.recap(host.name)["changed"] == 1, checked.out[-3000:]
    for refused, words in (
        ({"scutum_restore_confirm": "another"}, "scutum_restore_confirm is 'another', and this host is scutum-restore"),
        ({"scutum_restore_confirm": host.name, "scutum_restore_undo": host.name}, "exclude each other"),
        (
            {"scutum_restore_confirm": host.name, "scutum_restore_name": "20010101T000000Z"},
            "there is no complete backup 2001",
        ),
    ):
        run = play("restore", s3, **refused)
        assert run.rc != 0 and words in run.flat and "Next:" in run.flat, run.out[-3000:]
    assert host.containers() == before and s3.names() == held and databases() == {"scutum"}


def test_a_backup_of_another_release_is_refused(s3: S3, lost: str) -> None:
    text = s3.get(f"{lost}/manifest.json")
    s3.put(f"{lost}/manifest.json", json.dumps({**json.loads(text), "release": "9.9.9"}).encode())
    run = play("restore", s3, scutum_restore_confirm=host.name)
    s3.put(f"{lost}/manifest.json", text)
    assert run.rc != 0 and f"{lost} is of release 9.9.9, and 0.1.0 is installed here" in run.flat, run.out[-3000:]


def test_killed_at_any_point_it_goes_on(s3: S3, lost: str) -> None:
    """Killed while it fills a database, and while names are swapped; the same call ends it."""
    postgres = host.containers()["scutum-postgres"]
    for wanted in ("restoring", "swapping"):
        host.run(
            "setsid scutum-ops restore --confirm $(hostname) > /tmp/restore.log 2>&1 & "
            f'until grep -q \'"phase": "{wanted}"\' /opt/scutum/.scutum-ops/restore.json; do sleep 0.05; done 2>/dev/null; '
            "kill -9 -- -$!; wait $! 2>/dev/null; true"
        )
        assert phase() == wanted, host.run("cat /tmp/restore.log")
    other = play("restore", s3, scutum_restore_confirm=host.name, scutum_restore_name="20010101T000000Z")
    assert other.rc != 0 and "a restore is open" in other.flat and "goes on with" in other.flat, other.out[-3000:]
    final = play("restore", s3, scutum_restore_finalize=host.name)
    assert final.rc != 0 and "a restore is not over" in final.flat, final.out[-3000:]
    run = play("restore", s3, scutum_restore_confirm=host.name)
    assert run.rc == 0 and f"backup {lost} is in force" in run.flat, run.out[-4000:]
    assert rows() >= ROWS and serves(host)
    assert host.psql("SELECT obj_description('audit_logs'::regclass)") == "kept for seven years"
    assert host.psql("SELECT has_table_privilege('reader', 'audit_logs', 'SELECT')") == "t"
    # The server was not restarted, nothing in clear was left behind, and what the first run had begun is gone.
    assert host.containers()["scutum-postgres"] == postgres and len(databases()) == 2
    assert host.fails("ls /opt/scutum/.scutum-ops/restore-dump/*")
    page = host.run("cat /opt/scutum/.scutum-ops/restore-report.html")
    assert f"backup {lost} is in force" in page and "<table" in page
    # The backup of what was there is one more, and never the newest.
    assert [name for name in s3.names() if name.endswith("/safety.json")] and s3.newest() == lost


def test_again_changes_nothing(s3: S3, lost: str) -> None:
    before = host.containers()
    run = play("restore", s3, scutum_restore_confirm=host.name)
    assert run.rc == 0 and run.recap(host.name)["changed"] == 0, run.out[-3000:]
    assert f"{lost} is in force; the other database is kept as scutum_before_" in run.flat
    assert play("day_one", s3).recap(host.name)["changed"] == 0
    assert host.containers() == before


def test_there_is_a_way_back_until_it_is_final(s3: S3, lost: str) -> None:
    undone = play("restore", s3, scutum_restore_undo=host.name)
    assert undone.rc == 0 and "serves again" in undone.flat, undone.out[-3000:]
    assert rows() < 100 and serves(host) and len(databases()) == 2
    again = play("restore", s3, scutum_restore_undo=host.name)
    assert again.rc == 0 and again.recap(host.name)["changed"] == 0, again.out[-3000:]
    other = play("restore", s3, scutum_restore_confirm=host.name)
    assert other.rc != 0 and "was taken back" in other.flat and "scutum_restore_finalize=" in other.flat
    final = play("restore", s3, scutum_restore_finalize=host.name)
    assert final.rc == 0 and databases() == {"scutum"} and phase() == "", final.out[-3000:]
    again = play("restore", s3, scutum_restore_finalize=host.name)
    assert again.rc == 0 and again.recap(host.name)["changed"] == 0, again.out[-3000:]


def test_a_restored_database_that_does_not_serve_is_swapped_back(s3: S3, lost: str) -> None:
    """admin-api of this release cannot start on a revision that it does not know."""
    head = host.psql("SELECT version_num FROM alembic_version")
    host.psql("UPDATE alembic_version SET version_num = '999'")
    assert play("backup", s3).rc == 0
    host.psql(f"UPDATE alembic_version SET version_num = '{head}'")
    mine = rows()
    run = play("restore", s3, scutum_restore_confirm=host.name, scutum_restore_safety_backup=False)
    assert run.rc != 0 and "the restored database did not serve" in run.flat, run.out[-4000:]
    assert "the database that served before serves again; the restored one is kept as scutum_undone_" in run.flat
    assert rows() == mine and serves(host) and host.psql("SELECT version_num FROM alembic_version") == head
    assert play("restore", s3, scutum_restore_finalize=host.name).rc == 0 and databases() == {"scutum"}


def test_an_empty_host_from_nothing_but_the_store(s3: S3, lost: str) -> None:
    empty = {
        "scutum_hosts": "empty",
        "scutum_bind_address": "0.0.0.0",
        "scutum_backup_store": {},
        "scutum_restore_store": s3.settings,
        "scutum_restore_name": lost,
    }
    planned = play("restore", s3, **empty)
    assert (
        planned.rc == 0
        and f"this host is empty: release 0.1.0 of backup {lost} has to be installed first" in planned.flat
    )
    assert drill.fails("ls /opt/scutum")
    checked = play("restore", s3, "--check", scutum_restore_confirm=drill.name, **empty)
    assert checked.rc == 0 and drill.fails("ls /opt/scutum"), checked.out[-3000:]
    held = [name for name in s3.names() if not name.endswith("safety.json")]
    run = play("restore", s3, scutum_restore_confirm=drill.name, scutum_restore_drill=True, **empty)
    assert run.rc == 0 and f"backup {lost} is in force" in run.flat, run.out[-4000:]
    assert "recovery time:" in run.flat and "event subscriptions were taken out" in run.flat
    assert "roles that may log in and have no password: reader" in run.flat
    # The same secrets and rows as production's, and nobody is paged from here.
    mine, theirs = drill.env(), host.env()
    same = ("SCUTUM_API_KEY", "LITELLM_SALT_KEY", "JWT_SECRET_KEY", "POSTGRES_PASSWORD")
    assert [key for key in same if mine[key] != theirs[key]] == [] and serves(drill)
    assert int(drill.psql("SELECT count(*) FROM audit_logs")) >= ROWS
    assert drill.psql("SELECT count(*) FROM event_subscriptions") == "0"
    assert [name for name in s3.names() if not name.endswith("safety.json")] == held, f"written to {PREFIX}"
    again = play("restore", s3, scutum_restore_confirm=drill.name, scutum_restore_drill=True, **empty)
    assert again.rc == 0 and again.recap(drill.name)["changed"] == 0, again.out[-3000:]
