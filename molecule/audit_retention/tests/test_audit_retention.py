"""The audit history of a host: into months while it is written and read, out into a real S3, and back; nothing lost on the way."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from history import Reader, Writer, archived, counting, hot, ids
from scenario import REPO, Host, Run, playbook
from store import AUDIT, AUDIT_KEYS, KEYS, S3, fixture_s3  # noqa: F401

host = Host("scutum-audit")
# Of 36 months: three or four leave with the first, as many again with the second.
DAYS, FEWER = 1000, 880
SETTINGS = "../molecule/audit_retention/settings.yml"
INDEXES = "SELECT indexname FROM pg_indexes WHERE schemaname = 'public' AND tablename = 'audit_logs' ORDER BY 1"
OLDEST = "SELECT extract(epoch FROM min(timestamp)) FROM audit_logs"
KIND = "SELECT relkind FROM pg_class WHERE oid = 'public.audit_logs'::regclass"
# A row without a time, one on a bound, text and JSON that are easily spoiled.
ODD = r"""
INSERT INTO audit_logs(actor_id, action, resource_type, timestamp, created_at)
  VALUES ('no-time', 'a', 'r', NULL, now() - interval '1050 days');
INSERT INTO audit_logs(actor_id, action, resource_type, timestamp)
  SELECT 'bound', 'a', 'r', (date_trunc('month', now() AT TIME ZONE 'UTC') - interval '35 months') AT TIME ZONE 'UTC'
    + i * interval '1 microsecond' FROM generate_series(-1, 1) i;
INSERT INTO audit_logs(actor_id, action, resource_type, timestamp, resource_name, changes)
  SELECT U&'\00e9\4e2d\+01f511', 'tab', 'r', now() - interval '1040 days', E'line\nbreak,"quoted"\ttab\\.',
    jsonb_build_object(E'k"\n', repeat('x', 300000));
"""


class World:
    """What was written to the table, and by whom."""

    def __init__(self) -> None:
        self.loaded: Counter[str] = Counter()
        self.written: list[str] = []
        self.indexes = ""


@pytest.fixture(name="world", scope="module")
def fixture_world() -> Iterator[World]:
    """A host that serves, with a store on the other side of the bridge, and history of three years."""
    key, end = host.env()["SCUTUM_API_KEY"], time.monotonic() + 300
    while not host.serves(key):
        assert time.monotonic() < end, "the host does not serve"
        time.sleep(1)
    yield World()


def play(name: str, s3: S3, *options: str, **extra: Any) -> Run:
    common = {
        "scutum_backup_store": s3.settings,
        "scutum_audit_store": s3.settings | {"prefix": AUDIT},
        "scutum_env": KEYS | AUDIT_KEYS,
        "scutum_audit_hot_days": DAYS,
    }
    return playbook(f"{name}.yml", *options, **common | extra)


def job(words: str) -> tuple[int, str]:
    """The command on the host: its exit code and what it says, in one line."""
    out = host.run(f"scutum-ops {words} 2>&1; echo rc=$?")
    said, _rc, code = out.rpartition("rc=")
    return int(code), " ".join(said.split())


def metric(name: str) -> float:
    text = host.run("cat /var/lib/prometheus/node-exporter/scutum_audit.prom")
    found = re.search(rf'^{name}(?:\{{(?:[^}}]*table="audit_logs"[^}}]*|)\}})? (\S+)$', text, re.MULTILINE)
    assert found, text
    return float(found.group(1))


def oldest() -> str:
    return host.psql("SELECT to_char(min(timestamp) AT TIME ZONE 'UTC', 'YYYY-MM') FROM audit_logs")


def boundary(days: int) -> str:
    """The first month that stays: its last day is not older than that."""
    return host.psql(f"SELECT to_char((now() - interval '{days} days') AT TIME ZONE 'UTC', 'YYYY-MM')")


def all_there(world: World, s3: S3) -> None:
    """Hot and archived together are what was written: no row is missing, none is there twice, none was changed."""
    found = hot(host) + archived(s3)
    lost, more = world.loaded - found, found - world.loaded
    assert not lost, f"{len(lost)} rows are lost or changed: {list(lost)[:3]}"
    assert ids(more) == Counter(world.written), f"{len(more)} rows more, {len(world.written)} were written meanwhile"


def test_a_plain_table_again_only_for_who_names_the_host(world: World) -> None:
    containers = host.containers()
    assert host.psql(KIND) == "p", "day_one.yml had it in months"
    code, said = job("audit-partitions --undo another-host")
    assert code != 0 and f"this host is {host.name}" in said and host.psql(KIND) == "p", said
    code, said = job("audit-partitions --undo ''")
    assert code == 0 and "nothing was changed" in said and host.psql(KIND) == "p", said
    code, said = job(f"audit-partitions --undo {host.name}")
    assert code == 0 and host.psql(KIND) == "r", said
    assert host.psql("SELECT count(*) FROM pg_tables WHERE tablename LIKE 'audit_logs%'") == "1"
    assert host.containers() == containers
    world.indexes = host.psql(INDEXES)
    assert "idx_audit_logs_timestamp" in world.indexes
    host.psql("TRUNCATE audit_logs")
    generator = [sys.executable, "testbed/standin/generate_audit.py", "--rows", "18000", "--months", "36"]
    psql = f"docker exec -i {host.name} docker exec -i scutum-postgres psql -U scutum -d scutum"
    subprocess.run([*generator, "--psql", psql], cwd=REPO, check=True, stdout=subprocess.DEVNULL)
    host.psql(ODD)
    # What a row without a time will get is known before.
    host.psql("CREATE TABLE x AS TABLE audit_logs; UPDATE x SET timestamp = created_at WHERE timestamp IS NULL")
    world.loaded = hot(host, "x")
    host.psql("DROP TABLE x")
    assert len(world.loaded) == sum(world.loaded.values()) == int(host.psql("SELECT count(*) FROM audit_logs")) > 18000


def test_day_one_has_it_in_months_while_it_is_written_and_read(world: World, s3: S3) -> None:
    containers = host.containers()
    rows = host.psql("SELECT count(*) FROM audit_logs")
    checked = play("day_one", s3, "--check")
    assert checked.rc == 0, checked.out[-3000:]
    for words in (
        "would be converted into partitions by month",
        "change places: ACCESS EXCLUSIVE",
        f"copy {rows} rows",
    ):
        assert words in checked.flat, checked.out[-3000:]
    assert host.psql(KIND) == "r" and host.psql("SELECT count(*) FROM audit_logs") == rows
    assert host.containers() == containers
    writer, reader = Writer(host), Reader(host)
    run = play("day_one", s3)
    answers, rate = reader.end(), writer.end()
    world.written = writer.ids
    assert run.rc == 0 and host.psql(KIND) == "p", run.out[-3000:]
    assert rate >= 200, f"{rate:.0f} rows a second"
    assert set(answers) == {200} and answers[200] >= 6, answers
    assert host.containers() == containers
    assert host.psql(INDEXES) == world.indexes, "under their original names"
    assert host.psql("SELECT count(*) FROM audit_logs WHERE timestamp IS NULL") == "0"
    all_there(world, s3)
    again = play("day_one", s3)
    assert again.rc == 0 and again.recap(host.name)["changed"] == 0, again.out[-3000:]
    assert "scutum-ops-audit-retention.timer" in host.run("systemctl list-timers --all --no-pager")
    # The next release's migrations find what they look for.
    host.run("docker exec scutum-admin-api alembic upgrade head")
    assert host.psql(INDEXES) == world.indexes


def test_every_month_has_its_own_and_a_week_is_looked_for_in_one() -> None:
    missing = host.psql(
        "SELECT m FROM generate_series((SELECT date_trunc('month', min(timestamp)) FROM audit_logs), "
        "date_trunc('month', now()) + interval '3 months', '1 month') m WHERE NOT EXISTS (SELECT FROM pg_inherits i "
        "JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'audit_logs'::regclass AND pg_get_expr(c.relpartbound, c.oid) "
        "= format('FOR VALUES FROM (%L) TO (%L)', m, m + interval '1 month'))"
    )
    assert missing == ""
    others = host.psql(
        "SELECT pg_get_expr(c.relpartbound, c.oid) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid "
        "WHERE i.inhparent = 'audit_logs'::regclass "
        "AND pg_get_expr(c.relpartbound, c.oid) NOT LIKE 'FOR VALUES FROM (''%-01 00:00:00+00'') TO %'"
    )
    assert others == "DEFAULT", others
    month = "date_trunc('month', now() - interval '10 months')"
    begin, end = host.psql(f"SELECT {month} + interval '9 days', {month} + interval '16 days'").split("|")
    plan = host.psql(
        f"EXPLAIN SELECT * FROM audit_logs WHERE timestamp >= '{begin}' AND timestamp <= '{end}' ORDER BY timestamp DESC LIMIT 100"
    )
    assert len(set(re.findall(r" on (audit_logs\w*)", plan))) == 1, plan


def test_nothing_leaves_before_a_verified_backup(world: World, s3: S3) -> None:
    count, first = host.psql("SELECT count(*) FROM audit_logs"), oldest()
    assert first < boundary(DAYS)
    waits = play("audit_retention", s3)
    assert waits.rc == 0 and "waits" in waits.flat and "there is no verified backup" in waits.flat, waits.out[-3000:]
    assert host.psql("SELECT count(*) FROM audit_logs") == count and oldest() == first
    assert metric("scutum_audit_default_rows") == 0
    for name in ("backup", "verify_restore"):
        run = play(name, s3)
        assert run.rc == 0, run.out[-3000:]
    run = play("audit_retention", s3)
    assert run.rc == 0 and f"audit_logs {first}" in run.flat, run.out[-3000:]
    assert oldest() == boundary(DAYS), "the months before are gone, and no other"
    assert int(host.psql("SELECT count(*) FROM audit_logs")) < int(count)
    all_there(world, s3)
    names = counting(s3)
    year, month = first.split("-")
    assert f"table=audit_logs/year={year}/month={month}/part-0000.parquet" in names
    assert archived(s3, first) and not [row for row in archived(s3, first) if row not in world.loaded]
    assert metric("scutum_audit_months_archived") == len(names) and metric("scutum_audit_archive_lag_days") == 0
    assert metric("scutum_audit_up") == 1 and metric("scutum_audit_hot_bytes") > 0 <= metric("scutum_audit_hot_rows")
    assert 0 < metric("scutum_audit_database_disk_ratio") < 1 and metric("scutum_audit_partitions_ahead") == 3
    assert abs(metric("scutum_audit_oldest_hot_timestamp_seconds") - float(host.psql(OLDEST))) < 1
    again = play("audit_retention", s3)
    assert again.rc == 0 and again.recap(host.name)["changed"] == 0, again.out[-3000:]


def test_fewer_days_have_to_be_confirmed_and_a_killed_run_is_continued(world: World, s3: S3) -> None:
    first, names = oldest(), s3.names(AUDIT)
    run = play("audit_retention", s3, scutum_audit_hot_days=FEWER)
    assert run.rc == 0 and f"scutum_audit_confirm_fewer_days: {FEWER}" in run.flat, run.out[-3000:]
    assert oldest() == first and s3.names(AUDIT) == names
    kept = play(SETTINGS.removesuffix(".yml"), s3, scutum_audit_hot_days=FEWER, scutum_audit_confirm_fewer_days=FEWER)
    assert kept.rc == 0 and oldest() == first, kept.out[-3000:]
    host.run(
        "setsid sh -c 'echo $$ > /run/job.pid; exec scutum-ops audit-retention' > /tmp/killed.log 2>&1 < /dev/null &"
    )
    deadline = time.monotonic() + 60
    while len(s3.names(AUDIT)) < len(names) + 2:
        assert time.monotonic() < deadline, host.run("cat /tmp/killed.log")
        time.sleep(0.05)
    host.run("kill -9 $(cat /run/job.pid)")
    assert oldest() < boundary(FEWER), f"it was done before: {host.run('cat /tmp/killed.log')}"
    # Whoever asks in between sees every row that is not in the archive.
    assert not world.loaded - hot(host) - archived(s3)
    code, said = job("audit-retention --metrics /var/lib/prometheus/node-exporter")
    assert code == 0 and "was killed" in said, said
    assert oldest() == boundary(FEWER)
    assert host.psql("SELECT count(*) FROM pg_tables WHERE tablename LIKE 'audit_logs%' AND NOT EXISTS "
                     "(SELECT FROM pg_inherits WHERE inhrelid = format('%I.%I', schemaname, tablename)::regclass)") == "1"  # fmt: skip
    all_there(world, s3)
    code, said = job("audit-verify")
    # What was on its way when it was killed counts for nothing, and is shown.
    assert code == 0 or "files without a manifest" in said, said
    assert job(f"audit-verify --remove-leftovers {host.name}")[0] == 0
    code, said = job("audit-verify --deep")
    assert code == 0, said


def test_the_archive_is_asked_and_brought_back(world: World, s3: S3) -> None:
    there = archived(s3)
    code, said = job('audit-query "SELECT count(*) AS n FROM audit_logs"')
    assert code == 0 and f"n {sum(there.values())}" in said, said
    code, said = job("audit-query \"SELECT count(*) AS n FROM audit_logs WHERE actor_id = 'bound'\"")
    assert code == 0 and said.endswith("n 3"), said
    first = "-".join(min(re.findall(r"year=(\d+)/month=(\d+)", " ".join(counting(s3)))))
    code, said = job(f"audit-rehydrate --from {first} --to {first}")
    assert code == 0, said
    rows = host.psql("SELECT count(*) FROM audit_rehydrated.audit_logs")
    assert int(rows) == sum(archived(s3, first).values()) > 0
    all_there(world, s3)
    code, said = job("audit-rehydrate --forget another-host")
    assert code != 0 and host.psql("SELECT to_regnamespace('audit_rehydrated') IS NOT NULL") == "t", said
    code, said = job(f"audit-rehydrate --forget {host.name}")
    assert code == 0 and host.psql("SELECT to_regnamespace('audit_rehydrated') IS NULL") == "t", said


def test_what_somebody_did_to_the_archive_is_found(s3: S3) -> None:
    assert job("audit-verify")[0] == 0
    files = counting(s3)
    good = s3.get(files[1], AUDIT)
    s3.put(files[1], good[: len(good) // 2] + bytes([good[len(good) // 2] ^ 1]) + good[len(good) // 2 + 1 :], AUDIT)
    code, said = job("audit-verify --deep")
    assert code != 0 and files[1] in said, said
    s3.put(files[1], good, AUDIT)
    manifests = sorted(name for name in s3.names(AUDIT) if name.startswith("_manifests/audit_logs/"))
    gone = manifests[len(manifests) // 2]
    kept = s3.get(gone, AUDIT)
    s3.remove(gone, AUDIT)
    code, said = job("audit-verify")
    assert code != 0 and gone.rpartition("/")[2].removesuffix(".json") in said, said
    s3.put(gone, kept, AUDIT)
    code, said = job("audit-verify --deep")
    assert code == 0, said


def test_a_store_that_is_gone_is_said_and_hides_nothing(world: World, s3: S3) -> None:
    first, count = oldest(), host.psql("SELECT count(*) FROM audit_logs")
    missing = s3.settings | {"bucket": "no-such-bucket"}
    fewer = {"scutum_audit_hot_days": 800, "scutum_audit_confirm_fewer_days": 800}
    run = play("audit_retention", s3, scutum_audit_store=missing, **fewer)
    assert run.rc != 0 and "no-such-bucket" in run.flat and "Next:" in run.flat, run.out[-3000:]
    assert oldest() == first and host.psql("SELECT count(*) FROM audit_logs") == count
    assert metric("scutum_audit_up") == 0
    reader = Reader(host)
    time.sleep(1)
    assert set(reader.end()) == {200}
    good = play("audit_retention", s3, **fewer)
    assert good.rc == 0 and oldest() == boundary(800) and metric("scutum_audit_up") == 1, good.out[-3000:]
    all_there(world, s3)


def test_bad_settings_are_all_named_before_anything(s3: S3) -> None:
    before = host.psql("SELECT count(*) FROM audit_logs")
    wrong = {
        "scutum_audit_store": {"bukket": "x"},
        "scutum_audit_tables": {"teams": {}},
        "scutum_audit_hot_days": -1,
        "scutum_audit_partitions_ahead": 0,
    }
    run = playbook("audit_retention.yml", **wrong)
    assert run.rc != 0
    for words in ("bukket", "teams", "scutum_audit_hot_days", "scutum_audit_partitions_ahead"):
        assert words in run.flat, run.out[-3000:]
    late = playbook("audit_retention.yml", scutum_audit_time="25:00")
    assert late.rc != 0 and "scutum_audit_time is 25:00" in late.flat
    assert host.psql("SELECT count(*) FROM audit_logs") == before
