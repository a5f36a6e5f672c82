"""The daily job of the audit history: killed between its steps, without its store, with rows that come late; nothing is lost or hidden."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.scutum.ops.plugins.module_utils import (
    audit_archive,
    audit_arrange,
    audit_catalog,
    audit_job,
    audit_proof,
    audit_report,
    audit_settings,
    audit_tables,
    backup_catalog,
    licence,
    parquet_archive,
    partition_upkeep,
    partitions,
    restore_record,
)
from ansible_collections.scutum.ops.plugins.module_utils.database import Database
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from proxy import Rule
from world import BUCKET, USER, Case, World

TEMPLATE = "audit_template"
HASH = "count(*), coalesce(sum(hash_record_extended(ROW(t.*), 0)::numeric), 0)"
# Months that ended more than 30 days ago, whatever day it is.
OLD = [audit_tables.shift(audit_tables.month_of(time.time() - 31 * 86400), -number) for number in (2, 1)]
ROWS = f"""
TRUNCATE audit_logs;
INSERT INTO audit_logs(actor_id, action, resource_type, changes, timestamp)
  SELECT 'u' || i, E'ä\\n\\t"', 'r', jsonb_build_object('n', i, 't', E'a\\nb'), '{OLD[0]}-01'::timestamptz + i * interval '1 hour'
    FROM generate_series(0, 24 * 55) i WHERE '{OLD[0]}-01'::timestamptz + i * interval '1 hour' < now();
INSERT INTO audit_logs(actor_id, action, resource_type) SELECT 'now', 'a', 'r' FROM generate_series(1, 50);
CREATE TABLE "LiteLLM_SpendLogs"(request_id text PRIMARY KEY, "startTime" timestamp NOT NULL);
INSERT INTO "LiteLLM_SpendLogs" SELECT i::text, now() AT TIME ZONE 'UTC' - i * interval '1 day' FROM generate_series(0, 99) i;
"""


class Killed(BaseException):
    """The process is gone: nothing of it that cleans up after failures runs."""


class Audit:
    """A case whose database has the audit table in partitions."""

    def __init__(self, world: World, folder: Path, name: str) -> None:
        self.case, self.world, self.name = Case(world, folder), world, name
        self.case.env["POSTGRES_DB"] = name
        self.case.configure()
        self.installation = self.case.installation
        self.database = Database(self.installation)
        self.prefix = f"{self.case.prefix}-audit"
        self.configure()

    def configure(self, **more: Any) -> None:
        """The settings as the role keeps them."""
        store = {"bucket": BUCKET, "prefix": self.prefix, "endpoint_url": self.world.proxy.url, "attempts": 2}
        usual = {"store": store, "hot_days": 30, "without_backup": True, "lock_patience": 5}
        audit_job.configure(self.installation, audit_settings.Settings(**{**usual, **more}))

    def sql(self, text: str) -> str:
        return self.world.sql(f"SET timezone = 'UTC'; {text}", self.name)

    def run(self, check: bool = False) -> dict[str, Any]:
        return audit_job.run(self.installation, str(self.case.metrics), self.case.log.append, check)

    def store(self) -> Any:
        return audit_settings.needed_store(self.installation, audit_job.settings(self.installation))

    def months(self) -> list[str]:
        """Those that are in Postgres, and seen."""
        return [
            part.month
            for part in partitions.look(self.database, "audit_logs").parts
            if part.month and part.month in OLD
        ]

    def archived(self) -> dict[str, int]:
        return audit_catalog.months(audit_catalog.entries(self.store()), "audit_logs")

    def fingerprint(self) -> str:
        """Of every row, in Postgres or in the archive: count and hash of the multiset."""
        where = "audit_logs"
        if self.archived():
            self.rehydrate()
            # A month that is archived and not dropped is in both places.
            where = "(SELECT * FROM audit_logs UNION SELECT * FROM audit_rehydrated.audit_logs)"
        return self.sql(f"SELECT {HASH} FROM {where} t")

    def rehydrate(self) -> dict[str, Any]:
        host = restore_record.host_name()
        audit_archive.forget(self.installation, host)
        return audit_archive.rehydrate(self.installation, "audit_logs", "1990-01", "2100-01", self.case.log.append)

    def metric(self, name: str, table: str = "audit_logs") -> float:
        label = f'{{table="{table}"}}' if table else ""
        text = (self.case.metrics / "scutum_audit.prom").read_text()
        [line] = [line for line in text.splitlines() if line.startswith(f"scutum_audit_{name}{label} ")]
        return float(line.split()[-1])

    def status(self) -> dict[str, Any]:
        return audit_job.job(self.installation).status()

    def fails(self, says: str) -> ScutumError:
        """It fails loudly: the message, the record, the metrics and people say it."""
        self.world.proxy.told.clear()
        with pytest.raises(ScutumError, match=says) as caught:
            self.run()
        assert caught.value.left and caught.value.next_step, str(caught.value)
        assert self.metric("up", "") == 0 and not self.status()["running"]
        assert [told["event"] for told in self.world.proxy.told] == ["audit_retention.failed"]
        self.case.quiet(caught.value, self.status())
        return caught.value

    def whole(self, before: str, deep: bool = False) -> None:
        """No row is lost, none is there twice, none is hidden; the archive is whole (each file was read for that, by its hash)."""
        assert self.fingerprint() == before
        assert partitions.look(self.database, "audit_logs").detached == []
        assert audit_archive.verify(self.installation, deep, self.case.log.append)["ok"]


@pytest.fixture(name="template", scope="module")
def fixture_template(world: World, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The audit table, converted by the library; each case has a copy."""
    world.sql(f"CREATE DATABASE {TEMPLATE} TEMPLATE {USER}", "postgres")
    world.sql(f"SET timezone = 'UTC'; {ROWS}", TEMPLATE)
    audit = Audit(world, tmp_path_factory.mktemp("template") / "case", TEMPLATE)
    wanted = audit_job.settings(audit.installation)
    said = audit_arrange.arrange(audit.installation, wanted, audit.case.log.append, check=True)
    assert said["changes"] and not partitions.look(audit.database, "audit_logs").partitioned
    before = audit.sql(f"SELECT {HASH} FROM audit_logs t")
    result = audit_arrange.arrange(audit.installation, wanted, audit.case.log.append)
    assert result["changes"] and audit.sql(f"SELECT {HASH} FROM audit_logs t") == before
    assert audit_arrange.arrange(audit.installation, wanted, audit.case.log.append)["changes"] == []
    audit.case.close()
    return TEMPLATE


@pytest.fixture(name="audit")
def fixture_audit(world: World, template: str, tmp_path: Path) -> Iterator[Audit]:
    name = f"audit_{tmp_path.name.replace('-', '_').lower()[-20:]}_{time.monotonic_ns() % 10**9}"
    world.sql(f"CREATE DATABASE {name} TEMPLATE {template}", "postgres")
    found = Audit(world, tmp_path / "case", name)
    yield found
    found.case.close()
    world.sql(f"DROP DATABASE {name} WITH (FORCE)", "postgres")


def test_months_leave_and_can_be_read_back(audit: Audit) -> None:
    before = audit.fingerprint()
    planned = audit.run(check=True)
    assert (
        len(planned["changes"]) == 2
        and "would be archived and dropped" in planned["changes"][0]
        and audit.archived() == {}
    )
    result = audit.run()
    assert (
        result["archived"] == result["dropped"] == [f"audit_logs {month}" for month in OLD] and result["waiting"] == {}
    )
    assert audit.months() == [] and list(audit.archived()) == OLD and result["rows"] == sum(audit.archived().values())
    audit.whole(before)
    assert (
        audit.metric("up", "") == 1 and audit.metric("months_archived") == 2 and audit.metric("archive_lag_days") == 0
    )
    assert audit.metric("retention_days") == 30 and 0 < audit.metric("database_disk_ratio", "") < 1
    assert audit_tables.month_of(audit.metric("oldest_hot_timestamp_seconds")) > OLD[-1]
    # Once more: nothing is due.
    again = audit.run()
    assert again["changes"] == [] and "nothing is due" in again["text"]
    found = audit_job.look(audit.installation)
    assert found["ok"], found["problems"]
    assert "2 months" in audit_report.text(found)[0] and "<table" in audit_report.page(audit.installation, found)
    answer = audit_archive.query(
        audit.installation, "SELECT count(*) FROM audit_logs", OLD[0], OLD[0], audit.case.log.append
    )
    assert answer["rows"] == [[str(audit.archived()[OLD[0]])]]


# Between which steps the process is gone: the function, and whether it was before or after it did its work.
STEPS = [
    (parquet_archive, "archive", "after"),
    (partition_upkeep, "detach", "after"),
    (audit_proof, "proven", "after"),
    (partition_upkeep, "drop", "before"),
    (partition_upkeep, "drop", "after"),
]


@pytest.mark.parametrize(
    ("where", "name", "when"), STEPS, ids=lambda item: getattr(item, "__name__", item).split(".")[-1]
)
def test_killed_between_steps(audit: Audit, monkeypatch: pytest.MonkeyPatch, where: Any, name: str, when: str) -> None:
    before, real = audit.fingerprint(), getattr(where, name)

    def gone(*given: Any, **named: Any) -> Any:
        if when == "after":
            real(*given, **named)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(where, name, gone)
        with pytest.raises(Killed):
            audit.run()
    assert audit.status()["running"]
    audit.run()
    assert any("was killed" in line for line in audit.case.log) and audit.months() == []
    audit.whole(before)


def test_killed_while_it_uploads(audit: Audit) -> None:
    """A process of its own, by SIGKILL, and another one by SIGTERM, which says so and leaves nothing hidden."""
    before = audit.fingerprint()
    for number in (signal.SIGKILL, signal.SIGTERM):
        audit.world.proxy.reset(Rule("PUT", r"_manifests/audit_logs/000001", "hold"))
        with audit.case.start("audit-retention") as process:
            assert audit.world.proxy.reached.wait(60)
            process.send_signal(number)
            if number == signal.SIGKILL:
                process.wait()
            audit.world.proxy.released.set()
            told = process.communicate(timeout=60)[0]
        events = [item["event"] for item in audit.world.proxy.told]
        audit.world.proxy.reset()
        assert (events == ["audit_retention.failed"]) == ("ended from outside" in told) == (number == signal.SIGTERM), (
            told
        )
        assert audit.months() == OLD
    audit.run()
    assert audit.months() == []
    audit.whole(before)
    left = audit_archive.verify(audit.installation, False, print)["orphans"]
    assert left
    with pytest.raises(ScutumError, match="and this host is"):
        audit_archive.remove_leftovers(audit.installation, "other", print)
    removed = audit_archive.remove_leftovers(audit.installation, restore_record.host_name(), print)
    assert removed["removed"] == left and removed["kept"] == []
    audit.whole(before)


STORE = {
    "gone": (Rule("GET", "", "reset"), "the connection broke"),
    "refuses": (Rule("PUT", r"part-0000\.parquet", "answer", 403, "AccessDenied"), "may not do s3:PutObject"),
    "changes what it gets": (Rule("PUT", r"part-0000\.parquet", "flip"), "is not what was sent"),
    "keeps no manifest": (Rule("PUT", "_manifests", "ok"), "000001.json"),
}


@pytest.mark.parametrize("how", STORE)
def test_a_store_that_fails_hides_nothing(audit: Audit, how: str) -> None:
    before, (rule, says) = audit.fingerprint(), STORE[how]
    # Months ahead are made all the same.
    ahead = audit_tables.shift(audit_tables.month_of(time.time()), 4)
    audit.configure(partitions_ahead=4)
    # One that a killed run had detached is seen again.
    relname = partition_upkeep.detach(audit.database, "audit_logs", OLD[1])
    audit.world.proxy.reset(rule)
    audit.fails(says)
    state = partitions.look(audit.database, "audit_logs")
    assert audit.months() == OLD and state.detached == [] and state.of_month(ahead)
    assert state.of_month(OLD[1]) == next(part for part in state.parts if part.name == relname)
    audit.world.proxy.reset()
    assert audit.archived() == {}
    audit.run()
    assert audit.months() == []
    audit.whole(before)


def test_rows_that_come_late_become_a_further_file(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    real, late = (
        partition_upkeep.detach,
        f"INSERT INTO audit_logs(actor_id, action, resource_type, timestamp) VALUES ('late', 'a', 'r', '{OLD[0]}-02')",
    )

    def detach(database: Database, table: str, month: str, *more: Any) -> str:
        # After it was archived, right before it leaves; and one more that finds no partition of its month.
        if month == OLD[0]:
            audit.sql(late)
        name = real(database, table, month, *more)
        if month == OLD[0]:
            audit.sql(late)
        return name

    with monkeypatch.context() as patch:
        patch.setattr(partition_upkeep, "detach", detach)
        result = audit.run()
    assert result["archived"].count(f"audit_logs {OLD[0]}") == 2 and any(
        "1 rows that came late archived" in line for line in result["changes"]
    )
    assert audit.sql("SELECT count(*) FROM audit_logs_default") == "1" and audit.metric("default_rows") == 1
    assert any("1 rows in the default partition" in line for line in audit_job.look(audit.installation)["problems"])
    before = audit.fingerprint()
    # The next run has it in a partition of its own, archives it beside the others, and drops only that.
    result = audit.run()
    assert result["dropped"] == [f"audit_logs {OLD[0]}"] and audit.months() == [] and audit.metric("default_rows") == 0
    parts = audit_catalog.of_month(audit_catalog.entries(audit.store()), "audit_logs", OLD[0])
    assert [entry.part for entry in parts] == [0, 1, 2] and [entry.rows for entry in parts[1:]] == [1, 1]
    audit.whole(before)


@pytest.mark.parametrize(
    "change",
    ["UPDATE audit_logs SET actor_id = 'forged' WHERE id = {one}", "DELETE FROM audit_logs WHERE id = {one}"],
    ids=["changed", "removed"],
)
def test_a_month_that_somebody_changed_is_never_dropped(audit: Audit, change: str) -> None:
    # Archived, and waiting for a backup.
    audit.configure(without_backup=False)
    assert len(audit.run()["waiting"]) == 2
    one = f"(SELECT id FROM audit_logs WHERE timestamp >= '{OLD[1]}-01' ORDER BY timestamp LIMIT 1)"
    audit.sql(change.format(one=one))
    audit.configure()
    error = audit.fails(f"audit_logs {OLD[1]}: its rows are not those that were archived")
    assert "audit-rehydrate" in error.next_step and "dropped audit_logs" in error.left
    # The others left; this one is seen, and the archive has what it was.
    assert audit.months() == [OLD[1]] and partitions.look(audit.database, "audit_logs").detached == []
    audit.rehydrate()
    differ = "SELECT count(*) FROM (SELECT * FROM audit_rehydrated.audit_logs EXCEPT SELECT * FROM audit_logs) a WHERE timestamp >= "
    assert audit.sql(f"{differ} '{OLD[1]}-01'") == "1"


def test_a_drop_waits_for_a_verified_backup_of_its_last_row(audit: Audit) -> None:
    before = audit.fingerprint()
    audit.configure(without_backup=False)
    result = audit.run()
    assert list(audit.archived()) == OLD and audit.months() == OLD and result["dropped"] == []
    assert "there is no verified backup: playbooks/verify_restore.yml" in result["waiting"][f"audit_logs {OLD[0]}"]
    # One of before the last month's end, and a later one that was never proven.
    moment = audit_tables.begin(OLD[1]) + 86400
    old, new = backup_catalog.new_id(moment), backup_catalog.new_id()
    audit.case.put({f"{old}/manifest.json": b"{}", f"{old}/verified.json": b"{}", f"{new}/manifest.json": b"{}"})
    result = audit.run()
    assert result["dropped"] == [f"audit_logs {OLD[0]}"] and audit.months() == [OLD[1]]
    assert "is older than its last row" in result["waiting"][f"audit_logs {OLD[1]}"] and result["archived"] == []
    assert any("waits" in line for line in result["text"]) and audit.metric("up", "") == 1
    audit.case.put({f"{new}/verified.json": b"{}"})
    assert audit.run()["waiting"] == {} and audit.months() == []
    audit.whole(before)


def test_backups_that_are_not_known_keep_a_month(audit: Audit) -> None:
    audit.configure(without_backup=False)
    audit.world.proxy.reset(Rule("GET", f"prefix={audit.case.prefix}%2F&", "answer", 403, "AccessDenied"))
    result = audit.run()
    assert (
        "the newest verified backup is not known: " in result["waiting"][f"audit_logs {OLD[0]}"]
        and audit.months() == OLD
    )


def test_a_licence_decides_and_fewer_days_are_confirmed(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    said: dict[str, Any] = {
        "audit_retention_days": None, "tier": "business", "endpoint_error": "", "table_error": "", "consistent": True, "present": True,
        "expired": True,
    }  # fmt: skip
    monkeypatch.setattr(licence, "status", lambda installation: said)
    audit.configure(hot_days=None)
    result = audit.run()
    assert result["hot_days"] == {"audit_logs": None} and audit.months() == OLD and audit.archived() == {}
    assert "the licence has expired" in result["warnings"][0] and audit.metric("retention_days") == 0
    said.update(expired=False, audit_retention_days=365)
    assert audit.run()["changes"] == [] and audit.metric("retention_days") == 365
    # Downgraded: nothing leaves until somebody says so, with the number; and an expiry in between forgets nothing.
    for number in (None, 30):
        said.update(audit_retention_days=number, expired=number is None)
        result = audit.run()
    assert result["hot_days"] == {"audit_logs": 365} and audit.months() == OLD and audit.archived() == {}
    assert "scutum_audit_confirm_fewer_days: 30" in result["warnings"][0]
    audit.configure(hot_days=None, confirm_fewer_days=60)
    assert audit.run()["changes"] == []
    audit.configure(hot_days=None, confirm_fewer_days=30)
    assert len(audit.run()["dropped"]) == 2


def test_two_at_once_and_the_nightly_backup(audit: Audit) -> None:
    audit.world.proxy.reset(Rule("PUT", "_manifests", "hold", times=1))
    with audit.case.start("audit-retention") as process:
        assert audit.world.proxy.reached.wait(60)
        with pytest.raises(ScutumError, match="another audit retention is running on this host"):
            audit.run()
        # The backup waits for its turn, and says so.
        with audit.case.start("backup") as night:
            time.sleep(1.5)
            assert night.poll() is None and audit.case.counting() == []
            audit.world.proxy.released.set()
            process.communicate(timeout=60)
            told = night.communicate(timeout=60)[0]
    assert "another job works on the database: waiting for it" in told and len(audit.case.counting()) == 1, told


def test_without_a_store_nothing_leaves_and_partitions_are_kept(audit: Audit) -> None:
    ahead = audit_tables.shift(audit_tables.month_of(time.time()), 3)
    audit.sql(f'DROP TABLE "audit_logs_{ahead.replace("-", "_")}"' if partitions.look(audit.database, "audit_logs").of_month(ahead) is None
              else f'DROP TABLE {partitions.look(audit.database, "audit_logs").of_month(ahead).name}')  # type: ignore[union-attr]  # fmt: skip
    audit.configure(store={})
    result = audit.run()
    assert (
        audit.months() == OLD
        and result["archived"] == []
        and partitions.look(audit.database, "audit_logs").of_month(ahead)
    )
    assert f"{', '.join(OLD)} should leave, and stay: scutum_audit_store is empty" in result["warnings"][0]
    with pytest.raises(ScutumError, match="scutum_audit_store is empty"):
        audit_archive.verify(audit.installation, False, print)


def test_litellms_rows_leave_only_when_that_is_asked_for(audit: Audit) -> None:
    count = 'SELECT count(*) FROM "LiteLLM_SpendLogs"'
    audit.configure(store={})
    assert audit.run()["removed"] == 0 and audit.sql(count) == "100"
    audit.configure(store={}, litellm_days=40)
    assert (
        any("would be deleted, and not archived" in line for line in audit.run(check=True)["changes"])
        and audit.sql(count) == "100"
    )
    result = audit.run()
    assert (
        result["removed"] == 60
        and audit.sql(count) == "40"
        and "60 rows of more than 40 days deleted" in str(result["changes"])
    )


def test_a_table_that_is_gone_or_plain_is_told_and_the_others_are_done(audit: Audit) -> None:
    audit.configure(tables={"request_logs": {}, "audit_logs": {}})
    audit.fails("public.request_logs does not exist: did LiteLLM's schema push drop it?")
    assert audit.months() == []
    audit.sql("CREATE TABLE request_logs(id uuid PRIMARY KEY, created_at timestamptz)")
    error = audit.fails("request_logs: it is one plain table")
    assert "audit-partitions" in error.next_step


def test_a_manifest_that_somebody_removed_is_told_the_next_day(audit: Audit) -> None:
    audit.run()
    audit.world.s3.delete_object(Bucket=BUCKET, Key=f"{audit.prefix}/{audit_catalog.manifest_key('audit_logs', 2)}")
    error = audit.fails("the archive is not whole: manifests of audit_logs: the manifests 000002 are gone")
    assert "audit-verify" in error.next_step
    assert any("the last run failed" in line for line in audit_job.look(audit.installation)["problems"])


def test_plain_again_and_a_month_that_was_detached(audit: Audit) -> None:
    before, wanted, host = audit.fingerprint(), audit_job.settings(audit.installation), restore_record.host_name()
    planned = audit_arrange.undo(audit.installation, wanted, "", print)
    assert (
        planned["changes"] == []
        and planned["text"][-1] == f"nothing was changed: scutum-ops audit-partitions --undo {host} does it"
    )
    relname = partition_upkeep.detach(audit.database, "audit_logs", OLD[0])
    assert OLD[0] in str(audit_job.look(audit.installation)["problems"])
    with pytest.raises(ScutumError, match=f"nothing is no month that was detached; {relname} is"):
        audit_arrange.attach(audit.installation, "nothing", print)
    assert audit_arrange.attach(audit.installation, relname, print)["changes"] == [f"{relname}: is back in audit_logs"]
    assert audit.fingerprint() == before
    result = audit_arrange.undo(audit.installation, wanted, host, print)
    assert (
        result["changes"]
        and not partitions.look(audit.database, "audit_logs").partitioned
        and audit.fingerprint() == before
    )
    assert "one plain table" in result["after"]["audit_logs"] and "in partitions" in result["before"]["audit_logs"]
