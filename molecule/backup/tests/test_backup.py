"""Backups of a host into a real S3: taken, counted, proven by a restore, and loud when they fail."""

from __future__ import annotations

import hashlib
import json
import re
import time
from typing import Any

from scenario import Host, Run, playbook
from store import KEYS, S3, fixture_s3  # noqa: F401

host = Host("scutum-backup")


def play(name: str, s3: S3, *options: str, **extra: Any) -> Run:
    return playbook(f"{name}.yml", *options, **{"scutum_backup_store": s3.settings, "scutum_env": KEYS} | extra)


def metric(name: str) -> float:
    text = host.run("cat /var/lib/prometheus/node-exporter/scutum_backup.prom")
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert found, text
    return float(found.group(1))


def test_day_one_puts_it_on_its_schedule_and_touches_nothing_else(s3: S3) -> None:
    before = host.containers()
    checked = play("day_one", s3, "--check")
    assert checked.rc == 0 and host.fails("ls /etc/cron.d/scutum-ops-backup"), checked.out[-3000:]
    run = play("day_one", s3)
    assert run.rc == 0 and host.containers() == before, run.out[-3000:]
    line = host.run("grep root /etc/cron.d/scutum-ops-backup")
    assert line.startswith(
        "17 3 * * * root nice -n 10 ionice -c 3 timeout 21600 /usr/local/sbin/scutum-ops --dir /opt/scutum backup"
    )
    assert "%" not in line and host.run("stat -c '%a %U' /etc/cron.d/scutum-ops-backup") == "644 root"
    assert "scutum-ops-verify-restore.timer" in host.run("systemctl list-timers --all --no-pager")
    again = play("day_one", s3)
    assert again.rc == 0 and again.recap(host.name)["changed"] == 0, again.out[-3000:]
    assert s3.names() == []


def test_a_backup_is_there_when_its_manifest_is(s3: S3) -> None:
    host.psql(
        "INSERT INTO audit_logs(actor_id, action, resource_type, timestamp) "
        "SELECT 'u' || i, 'a', 'r', now() - i * interval '1 hour' FROM generate_series(1, 5000) i"
    )
    run = play("backup", s3)
    assert run.rc == 0, run.out[-3000:]
    name = s3.newest()
    assert set(s3.names()) == {f"{name}/{part}" for part in ("database.dump", "configuration.tar.gz", "manifest.json")}
    manifest = json.loads(s3.get(f"{name}/manifest.json"))
    dump = manifest["objects"]["database.dump"]
    assert hashlib.sha256(s3.get(f"{name}/database.dump")).hexdigest() == dump["sha256"]
    assert manifest["tables"]["public.audit_logs"]["rows"] == int(host.psql("SELECT count(*) FROM audit_logs"))
    assert "public.LiteLLM_SpendLogs" in manifest["tables"] and manifest["release"] == "0.1.0"
    assert manifest["alembic_head"] == host.psql("SELECT version_num FROM alembic_version")
    assert metric("scutum_backup_up") == 1 and metric("scutum_backup_verified_timestamp_seconds") == 0
    assert time.time() - metric("scutum_backup_last_success_timestamp_seconds") < 120
    secrets = [value for key, value in host.env().items() if re.search("KEY|PASSWORD", key) and len(value) > 8]
    whole = b"".join(s3.get(f"{name}/{part}") for part in ("database.dump", "manifest.json"))
    assert secrets and not [value for value in secrets if value.encode() in whole]


def test_the_line_of_cron_does_the_same(s3: S3) -> None:
    first = s3.newest()
    command = host.run("grep root /etc/cron.d/scutum-ops-backup").split(" root ", 1)[1]
    host.run(command)
    assert s3.newest() > first
    assert "MiB in" in host.run("journalctl -q --no-pager -t scutum-ops-backup")


def test_a_restore_proves_it(s3: S3) -> None:
    host.psql("INSERT INTO audit_logs(actor_id, action, resource_type) VALUES ('later', 'a', 'r')")
    before = host.containers()
    planned = play("verify_restore", s3, "--check")
    assert planned.rc == 0 and f"backup {s3.newest()} would be verified" in planned.flat, planned.out[-3000:]
    run = play("verify_restore", s3)
    assert run.rc == 0, run.out[-3000:]
    for words in (
        f"backup {s3.newest()} restores, in",
        "ok   rows and contents:".replace("   ", " "),
        "indexes agree with their tables",
        "admin-api serves it: audit-logs?limit=1 answered",
        "public.audit_logs +1",
    ):
        assert words in run.flat, words
    report = json.loads(s3.get(f"{s3.newest()}/verified.json"))
    assert report["ok"] and report["recovery_time_seconds"] > 0
    assert metric("scutum_backup_verified_timestamp_seconds") > 0
    # Nothing of it is left, and production did not notice.
    assert host.containers() == before
    assert host.run("docker network ls -q --filter label=ops.scutum.verification") == ""
    assert host.fails("ls /opt/scutum/.scutum-ops/restore-spool/*")
    page = host.run("cat /opt/scutum/.scutum-ops/restore-verification-report.html")
    assert f"backup {s3.newest()} restores" in page and "<table" in page
    again = play("verify_restore", s3)
    assert again.rc != 0 and "was verified before, and nothing newer is there" in again.flat


def test_a_changed_bit_does_not_pass(s3: S3) -> None:
    run = play("backup", s3)
    assert run.rc == 0, run.out[-3000:]
    name = f"{s3.newest()}/database.dump"
    data = bytearray(s3.get(name))
    data[len(data) // 2] ^= 1
    s3.put(name, bytes(data))
    verified = play("verify_restore", s3)
    assert verified.rc != 0 and "it is not what was uploaded (SHA-256" in verified.flat, verified.out[-3000:]
    assert "DOES NOT RESTORE" in verified.flat and f"{s3.newest()}/verified.json" not in s3.names()


def test_a_store_that_is_gone_is_said_and_counts_for_nothing(s3: S3) -> None:
    names = s3.names()
    success = metric("scutum_backup_last_success_timestamp_seconds")
    run = play("backup", s3, scutum_backup_store=s3.settings | {"bucket": "no-such-bucket"})
    assert run.rc != 0 and "no-such-bucket" in run.flat and "Next:" in run.flat, run.out[-3000:]
    assert s3.names() == names and metric("scutum_backup_up") == 0
    assert metric("scutum_backup_last_success_timestamp_seconds") == success
    good = play("backup", s3)
    assert good.rc == 0 and metric("scutum_backup_up") == 1, good.out[-3000:]


def test_encrypted_for_age_and_proven_with_its_identity(s3: S3) -> None:
    import pyrage

    identity = pyrage.x25519.Identity.generate()
    extra = {"scutum_backup_age_recipients": [str(identity.to_public())]}
    run = play("backup", s3, **extra)
    assert run.rc == 0, run.out[-3000:]
    assert s3.get(f"{s3.newest()}/database.dump.age").startswith(b"age-encryption.org/v1")
    without = play("verify_restore", s3, **extra)
    assert without.rc != 0 and "this host has no age identity" in without.flat, without.out[-3000:]
    # As the source of secrets would bring it.
    keyed = {"scutum_env": KEYS | {"SCUTUM_BACKUP_AGE_IDENTITY": str(identity)}}
    assert play("install", s3, **extra, **keyed).rc == 0
    verified = play("verify_restore", s3, **extra, **keyed)
    assert verified.rc == 0 and "restores, in" in verified.flat, verified.out[-3000:]


def test_bad_settings_are_all_named_before_anything() -> None:
    wrong = {
        "scutum_backup_store": {"bukket": "x"},
        "scutum_backup_age_recipients": ["no-recipient"],
        "scutum_backup_keep_daily": 0,
        "scutum_backup_compression_level": 99,
    }
    run = playbook("backup.yml", **wrong)
    assert run.rc != 0
    for words in (
        "scutum_backup_store.bukket",
        "scutum_backup_age_recipients",
        "scutum_backup_keep_daily",
        "compression_level",
    ):
        assert words in run.flat, words
    late = playbook("backup.yml", scutum_backup_store={"directory": "/srv/backups"}, scutum_backup_time="25:00")
    assert late.rc != 0 and "scutum_backup_time is 25:00" in late.flat


def test_two_at_once_and_a_host_that_goes_away_leave_nothing_that_counts(s3: S3) -> None:
    good = s3.newest()
    # Enough that it takes a while.
    host.psql(
        "CREATE TABLE filler AS SELECT i, sha512(i::text::bytea) a, sha512((i + 1)::text::bytea) b FROM generate_series(1, 600000) i"
    )
    begun = "until grep -q '\"running\": {' /opt/scutum/.scutum-ops/backup-status.json; do sleep 0.05; done"
    dumping = "until docker exec scutum-postgres sh -c 'grep -qs pg_dump /proc/[0-9]*/comm'; do sleep 0.05; done"
    # Postgres dies in the middle.
    host.run(
        f"(scutum-ops backup > /tmp/killed.log 2>&1; echo $? >> /tmp/killed.log) & {dumping}; docker kill scutum-postgres; wait"
    )
    assert "pg_dump" in host.run("cat /tmp/killed.log") and host.run("tail -1 /tmp/killed.log") == "1"
    host.run("docker start scutum-postgres; until docker exec scutum-postgres pg_isready -q; do sleep 0.3; done")
    assert (
        s3.newest() == good
        and json.loads(host.run("cat /opt/scutum/.scutum-ops/backup-status.json"))["running"] is None
    )
    # Somebody holds a table: the next one waits for it as long as it takes.
    env = host.env()
    locked = (
        f"psql -U {env['POSTGRES_USER']} -d {env['POSTGRES_DB']} -c 'BEGIN; LOCK TABLE filler; SELECT pg_sleep(50)'"
    )
    host.run(f'docker exec -d scutum-postgres sh -c "{locked}"')
    before = float(host.run("date +%s"))
    host.run(f"setsid scutum-ops backup > /tmp/first.log 2>&1 & {begun}")
    second = host.run("scutum-ops backup 2>&1 || true")
    assert "another backup is running on this host" in second
    host.reboot()
    assert s3.newest() == good, host.run("cat /tmp/first.log")
    host.run("until docker exec scutum-postgres pg_isready -q; do sleep 1; done")
    host.psql("DROP TABLE filler")
    # The engine goes before the job does: told when there was time for it, and found by the next run when there was none.
    held = json.loads(host.run("cat /opt/scutum/.scutum-ops/backup-status.json"))
    said = host.run("scutum-ops backup 2>&1")
    assert "was killed" in said or held["last_failure"]["at"] >= before, (said, held)
    assert s3.newest() > good
    assert metric("scutum_backup_up") == 1


def test_a_disk_that_is_too_small_is_said_before_anything(s3: S3) -> None:
    good = s3.newest()
    host.run("mkdir -p /mnt/small && mount -t tmpfs -o size=64k tmpfs /mnt/small")
    run = play("backup", s3, scutum_backup_spool="/mnt/small")
    assert run.rc != 0 and "scutum_backup_spool: /mnt/small has 0 MiB free, and the dump may need" in run.flat, run.out[
        -3000:
    ]
    assert s3.newest() == good and metric("scutum_backup_up") == 0
    verified = play("verify_restore", s3, scutum_restore_verification_spool="/mnt/small")
    assert verified.rc != 0 and "/mnt/small has 0 MiB free, and the restore needs" in verified.flat, verified.out[
        -3000:
    ]
    assert "COULD NOT BE VERIFIED" in verified.flat
    host.run("umount /mnt/small")
    spooled = play("backup", s3, scutum_backup_spool="/var/tmp")
    assert spooled.rc == 0 and s3.newest() > good and host.fails("ls /var/tmp/*.dump"), spooled.out[-3000:]
    assert play("verify_restore", s3).rc == 0
