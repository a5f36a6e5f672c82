"""Tables that grow, into partitions and back, under an application that writes: no insert fails, no row is lost, who was killed goes on."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from ansible_collections.scutum.ops.plugins.module_utils import (
    audit_tables,
    partition_conversion,
    partition_session,
    partitions,
    row_batches,
)
from ansible_collections.scutum.ops.plugins.module_utils import partition_upkeep as upkeep
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from ansible_collections.scutum.ops.plugins.module_utils.partition_copy import Copy
from partition_world import NEWEST, ROOT, ROWS, USER, Case, World, docker, longest, total, world_connection, writing

TABLE = "audit_logs"
# Every object that the product's own table does not have, and somebody's may.
HANGING = """
CREATE ROLE reader; CREATE ROLE auditor;
GRANT SELECT ON audit_logs TO reader WITH GRANT OPTION; GRANT SELECT (id, actor_id), UPDATE (action) ON audit_logs TO auditor;
GRANT INSERT ON audit_logs TO PUBLIC;
COMMENT ON TABLE audit_logs IS 'the audit''s history'; COMMENT ON COLUMN audit_logs.actor_id IS 'who';
COMMENT ON INDEX idx_audit_logs_org IS 'by org'; COMMENT ON CONSTRAINT audit_logs_pkey ON audit_logs IS 'key';
CREATE INDEX "by Name %" ON audit_logs (lower(resource_name)) WHERE resource_name IS NOT NULL AND action <> 'x';
CREATE INDEX idx_gin ON audit_logs USING gin (changes) WITH (fastupdate = off);
ALTER TABLE audit_logs ADD CONSTRAINT short CHECK (length(action) < 100), SET (fillfactor = 90, autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE audit_logs ADD COLUMN dropped int; ALTER TABLE audit_logs DROP COLUMN dropped;
ALTER TABLE audit_logs ADD COLUMN size int GENERATED ALWAYS AS (length(action)) STORED;
ALTER TABLE audit_logs ALTER actor_id SET STATISTICS 500, ALTER actor_id SET (n_distinct = 400), ALTER changes SET STORAGE EXTERNAL;
ALTER TABLE audit_logs ADD COLUMN team uuid REFERENCES teams (id) ON DELETE SET NULL;
CREATE STATISTICS by_kind (dependencies) ON action, resource_type FROM audit_logs;
COMMENT ON STATISTICS by_kind IS 'they go together';
CREATE VIEW recent WITH (security_barrier = true) AS
  SELECT id, timestamp, actor_id FROM audit_logs WHERE timestamp > now() - interval '1 day';
CREATE VIEW counted AS SELECT count(*) AS n FROM recent; CREATE VIEW everything AS SELECT a.* FROM audit_logs a;
GRANT SELECT ON recent TO reader; COMMENT ON VIEW recent IS 'a day';
CREATE TABLE told (id uuid, op text);
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.told VALUES (NEW.id, TG_OP); RETURN NULL; END $$;
CREATE TRIGGER tell AFTER INSERT OR UPDATE ON audit_logs FOR EACH ROW WHEN (NEW.action = 'key.use') EXECUTE FUNCTION tell();
CREATE TRIGGER off AFTER DELETE ON audit_logs FOR EACH STATEMENT EXECUTE FUNCTION tell(); ALTER TABLE audit_logs DISABLE TRIGGER off;
COMMENT ON TRIGGER tell ON audit_logs IS 'tells';
CREATE PUBLICATION out FOR TABLE audit_logs (id, timestamp, actor_id, action), teams
  WITH (publish_via_partition_root = true, publish = 'insert');
CREATE PUBLICATION part FOR TABLE audit_logs WHERE (actor_id <> 'x') WITH (publish_via_partition_root = true, publish = 'insert');
CREATE INDEX idx_request_logs_created ON request_logs (created_at);
"""
NAMES = itertools.count()


class Killed(BaseException):
    """Nothing handles it."""


@pytest.fixture(name="server", scope="module")
def fixture_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    found = World(tmp_path_factory.mktemp("partitions") / "scutum", os.environ.get("SCUTUM_POSTGRES_IMAGE", ""))
    yield found
    found.close()


@pytest.fixture(name="bare")
def fixture_bare(server: World) -> Iterator[Case]:
    """The product's schema, and no rows."""
    found = Case(server, f"case_{next(NAMES)}")
    yield found
    found.close()


@pytest.fixture(name="case")
def fixture_case(bare: Case) -> Case:
    """36 months of rows, and odd ones."""
    bare.sql(ROWS)
    return bare


def convert(case: Case, table: str = TABLE, patience: float = 60, ahead: int = 3) -> dict[str, Any]:
    return partition_conversion.convert(case.database, table, ahead, case.say, patience)


def undo(case: Case, table: str = TABLE, patience: float = 60) -> dict[str, Any]:
    return partition_conversion.undo(case.database, table, case.say, patience)


def look(case: Case, table: str = TABLE) -> partitions.State:
    return partitions.look(case.database, table)


def wanted(case: Case) -> tuple[int, int]:
    """What the rows are after a conversion: those without a time have that of their creation."""
    names = [row[0] for row in case.sql(
        "SELECT attname FROM pg_attribute WHERE attrelid = 'audit_logs'::regclass AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
    )]  # fmt: skip
    return case.content(
        columns=", ".join("coalesce(t.timestamp, t.created_at)" if n == "timestamp" else f"t.{n}" for n in names)
    )


def changed(before: dict[str, str], after: dict[str, str]) -> dict[str, tuple[str | None, str | None]]:
    return {
        key: (before.get(key), after.get(key))
        for key in before.keys() | after.keys()
        if before.get(key) != after.get(key)
    }


def in_order(case: Case) -> None:
    """The whole table is in partitions, each row where it belongs, and nothing of the way is left."""
    state = look(case)
    assert state.partitioned and not state.open and {part.kind for part in state.parts} == {"month", "default"}
    for part in state.parts:
        if part.kind == "month":
            sql = f"SELECT count(*) FROM {part.name} WHERE timestamp < '{part.lower}' OR timestamp >= '{part.upper}'"
            assert case.one(sql) == 0, part
    now = audit_tables.month_of(time.time())
    assert all(state.of_month(audit_tables.shift(now, by)) for by in range(4))
    case.nothing_left()


# --- the whole way


def test_there_and_back_with_everything_that_hangs_on_it(case: Case) -> None:
    case.sql(HANGING)
    before, rows = case.schema(), wanted(case)
    with writing(case) as writers:
        result = convert(case)
    assert result["null_rows"] == 2 and result["beyond_rows"] == 4 and result["rows"] >= 3618
    assert "audit_logs is in partitions by month" in result["changes"][0]
    assert case.content() == total(rows, writers)
    in_order(case)
    assert look(case).default_rows == 4

    after = case.schema()
    for key in before:
        # The key is another one, and what a partitioned table has no storage parameters for.
        known = ("column public.audit_logs.timestamp", "constraint public.audit_logs.audit_logs_pkey", "index public.audit_logs_pkey",
                 "table public.audit_logs", "options audit_logs", "settings audit_logs.size")  # fmt: skip
        if not key.startswith(known) and "index" not in key:
            assert after.get(key) == before[key], key
    found = {key for key in after if key.startswith("index") and not re.search(r"audit_logs_(p\d|default)", key)}
    assert found == {key for key in before if key.startswith("index")}
    # Every row was told once, by whoever inserted it: not by what was copied.
    assert case.one("SELECT count(*) FROM told") == sum(writer.rows for writer in writers)
    assert case.one("SELECT reloptions::text FROM pg_class WHERE relname = 'audit_logs_p2025_01'") == (
        "{fillfactor=90,autovacuum_vacuum_scale_factor=0.05}"
    )
    assert case.one("SELECT n FROM counted") == case.one(
        "SELECT count(*) FROM audit_logs WHERE timestamp > now() - interval '1 day'"
    )
    assert case.one("SELECT has_table_privilege('reader', 'audit_logs', 'SELECT WITH GRANT OPTION')")
    again = convert(case)
    assert again["changes"] == [] and again["rows"] == 0

    name = upkeep.detach(case.database, TABLE, "2025-01")
    with writing(case) as more:
        result = undo(case)
    assert result["changes"] == ["audit_logs is a plain table"]
    assert case.content() == total(total(rows, writers), more)
    assert changed(before, case.schema()) == {} and case.one(f"SELECT to_regclass('{name}')") is None
    case.nothing_left()
    assert undo(case)["changes"] == []


def test_the_other_tables_keep_their_sequences(bare: Case) -> None:
    bare.sql(
        "INSERT INTO request_logs (model, created_at) SELECT 'm', now() - n * interval '1 hour' FROM generate_series(1, 2000) n;"
        "INSERT INTO event_log (event_type) VALUES ('x'); INSERT INTO request_logs (created_at) VALUES (NULL)"
    )
    before = bare.schema()
    for table in audit_tables.TABLES:
        convert(bare, table)
        assert look(bare, table).partitioned
    # A row without any time has that of the conversion.
    assert bare.one("SELECT count(*) FROM request_logs WHERE created_at > now() - interval '1 minute'") == 1
    assert bare.sql("INSERT INTO request_logs (model) VALUES ('next') RETURNING id") == [(2002,)]
    assert bare.one("SELECT pg_get_serial_sequence('request_logs', 'id')") == "public.request_logs_id_seq"
    # The next release's own way over them.
    bare.world.migrate(NEWEST, bare.name)
    assert bare.one("SELECT count(*) FROM request_logs WHERE tags = '{}'") == 2002
    assert bare.one("SELECT version_num FROM alembic_version") == "030"
    for table in audit_tables.TABLES:
        undo(bare, table)
    assert set(changed(before, bare.schema())) <= {
        "column public.request_logs.tags", "settings request_logs.tags", "table public.request_tags",
        *(key for key in bare.schema() if "request_tags" in key),
    }  # fmt: skip
    bare.nothing_left()


def test_an_empty_table(bare: Case) -> None:
    plan = partition_conversion.plan(bare.database, TABLE, 3)
    assert plan.rows == 0 and plan.hindrances == [] and len(plan.months) == 4
    convert(bare)
    in_order(bare)
    bare.sql("INSERT INTO audit_logs (actor_id, action, resource_type) VALUES ('a', 'b', 'c')")
    assert look(bare).default_rows == 0 and bare.one("SELECT count(*) FROM audit_logs") == 1


def test_queries_with_a_range_read_their_months_only(case: Case) -> None:
    convert(case)
    plan = "\n".join(
        row[0]
        for row in case.sql(
            "EXPLAIN SELECT * FROM audit_logs WHERE true AND timestamp >= '2025-03-03' AND timestamp <= '2025-03-10' "
            "ORDER BY timestamp DESC LIMIT 100 OFFSET 0"
        )
    )
    assert "audit_logs_p2025_03" in plan and "audit_logs_p2025_04" not in plan and "default" not in plan, plan


def test_an_insert_of_any_time_finds_its_place(case: Case) -> None:
    case.sql(f"ALTER DATABASE {case.name} SET timezone = 'America/New_York'")
    convert(case)
    in_order(case)
    # Bounds are those of UTC, whatever the zone of whoever inserts.
    for time_of, month in (
        ("2025-02-28 23:59:59.999999+00", "2025_02"), ("2025-03-01 00:00:00+00", "2025_03"), ("2025-02-28 19:00:00-05", "2025_03"),
        ("2024-02-29 12:00:00", "2024_02"), ("2025-03-09 02:30:00", "2025_03"), ("2024-11-03 01:30:00", "2024_11"),
    ):  # fmt: skip
        values = (
            f"INSERT INTO audit_logs (timestamp, actor_id, action, resource_type) VALUES ('{time_of}', 'a', 'b', 'c')"
        )
        assert case.one(f"{values} RETURNING tableoid::regclass::text") == f"audit_logs_p{month}", time_of
    for time_of in ("infinity", "-infinity", "3999-12-31", "0001-01-01", "2150-05-05"):
        case.sql(
            f"INSERT INTO audit_logs (timestamp, actor_id, action, resource_type) VALUES ('{time_of}', 'far', 'b', 'c')"
        )
    assert look(case).default_rows == 9
    done = upkeep.keep(case.database, TABLE, 3, case.say)
    assert done == [
        "created the partition of 2150-05 of audit_logs",
        "moved 1 rows of 2150-05 out of the DEFAULT partition of audit_logs",
    ]
    assert "8 rows stay in the DEFAULT partition" in case.said[-1]
    assert look(case).default_rows == 8
    in_order(case)


# --- the plan, and what prevents it


def test_the_plan_changes_nothing(case: Case) -> None:
    before = case.schema()
    plan = partition_conversion.plan(case.database, TABLE, 3)
    assert (plan.rows, plan.null_rows, plan.beyond_rows, plan.hindrances) == (3618, 2, 4, [])
    text = "\n".join(plan.text())
    for part in (
        "3618 rows",
        "ACCESS EXCLUSIVE",
        "MiB more on the disk",
        "2 rows without timestamp created_at",
        "4 rows outside",
    ):
        assert part in text, text
    assert case.schema() == before and look(case).partitioned is False
    assert partition_conversion.undo_plan(case.database, TABLE) == []


HINDRANCES = {
    "the foreign key": "CREATE TABLE notes (audit uuid REFERENCES audit_logs (id))",
    "materialized view public.sums depends": "CREATE MATERIALIZED VIEW sums AS SELECT count(*) FROM audit_logs",
    "row level security": "ALTER TABLE audit_logs ENABLE ROW LEVEL SECURITY",
    "the rule quiet": "CREATE RULE quiet AS ON DELETE TO audit_logs DO INSTEAD NOTHING",
    "inherits": "CREATE TABLE more () INHERITS (audit_logs)",
    "the exclusion constraint": "ALTER TABLE audit_logs ADD CONSTRAINT once EXCLUDE (resource_id WITH =)",
    "the unique index one does not": "CREATE UNIQUE INDEX one ON audit_logs (resource_id)",
    "DROP CONSTRAINT one_constraint": "ALTER TABLE audit_logs ADD CONSTRAINT one_constraint UNIQUE (resource_id)",
    "function public.f(public.audit_logs) depends": "CREATE FUNCTION f(a audit_logs) RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "function public.g() depends": "CREATE FUNCTION g() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM audit_logs; END",
    "table public.holds": "CREATE TABLE holds (a audit_logs)",
    "view public.grouped depends": "CREATE VIEW grouped AS SELECT id, actor_id FROM audit_logs GROUP BY id",
    "GENERATED AS IDENTITY": "ALTER TABLE audit_logs ADD COLUMN seq bigint GENERATED ALWAYS AS IDENTITY",
    "NO INHERIT": "ALTER TABLE audit_logs ADD CHECK (action <> '#') NO INHERIT",
    "not validated": "ALTER TABLE audit_logs ADD CHECK (action <> '#') NOT VALID",
    "permanent": "ALTER TABLE audit_logs SET UNLOGGED",
    "replica identity": "ALTER TABLE audit_logs REPLICA IDENTITY FULL",
    "publish_via_partition_root = true": "CREATE PUBLICATION p FOR TABLE audit_logs",
    "has all tables": "CREATE PUBLICATION p FOR ALL TABLES WITH (publish_via_partition_root = true)",
    "transition table": "CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; CREATE TRIGGER t AFTER INSERT "
    "ON audit_logs REFERENCING NEW TABLE AS fresh FOR EACH ROW EXECUTE FUNCTION t()",
    'may change "timestamp"': "CREATE FUNCTION t() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.timestamp := now(); RETURN NEW; END'; "
    "CREATE TRIGGER t BEFORE INSERT ON audit_logs FOR EACH ROW EXECUTE FUNCTION t()",
    "primary key is not (id)": "ALTER TABLE audit_logs DROP CONSTRAINT audit_logs_pkey, ADD PRIMARY KEY (id, actor_id)",
    "audit_logs_p2025_01 is a relation": "CREATE TABLE audit_logs_p2025_01 ()",
    "not a timestamptz": "ALTER TABLE audit_logs ALTER timestamp TYPE timestamp",
}  # fmt: skip


def test_what_prevents_it_is_named(bare: Case) -> None:
    """Each in a transaction's place: it is made, seen, refused, and taken back."""
    for says, made in HINDRANCES.items():
        case = Case(bare.world, f"{bare.name}_h")
        case.sql(made)
        with pytest.raises(ScutumError) as caught:
            convert(case)
        assert says in caught.value.what, (says, caught.value.what)
        assert "then: " in caught.value.what and caught.value.left == "the table serves as it did"
        case.nothing_left()
        case.close()


def test_a_full_disk_is_refused_before_anything(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    before = case.schema()
    monkeypatch.setattr(partition_session, "free_bytes", lambda session: 1 << 20)
    with pytest.raises(ScutumError, match="the disk of Postgres has 1 MiB free, the copy may need 6"):
        convert(case)
    assert case.schema() == before
    monkeypatch.undo()
    with partition_session.open_session(case.database) as session:
        assert (partition_session.free_bytes(session) or 0) > 1 << 20


def test_ids_that_are_there_twice_prevent_the_way_back(case: Case) -> None:
    convert(case)
    case.sql(
        "INSERT INTO audit_logs (id, actor_id, action, resource_type, timestamp) SELECT id, 'b', 'b', 'b', now() FROM audit_logs LIMIT 1"
    )
    with pytest.raises(ScutumError, match="1 ids are there more than once") as caught:
        undo(case)
    assert "GROUP BY id HAVING count(*) > 1" in caught.value.next_step
    in_order(case)


def test_a_table_that_is_not_there(bare: Case) -> None:
    bare.sql("DROP TABLE event_log")
    with pytest.raises(ScutumError, match="there is no table public.event_log"):
        convert(bare, "event_log")
    assert look(bare, "event_log") == partitions.State(False)
    with pytest.raises(ScutumError, match="users is no table"):
        convert(bare, "users")


# --- locks


@contextlib.contextmanager
def holding(case: Case, statement: str) -> Iterator[None]:
    """Somebody whose transaction does not end."""
    with world_connection(case.world, case.name) as connection, connection.transaction():
        connection.execute(statement)
        yield


def test_a_reader_that_never_ends(case: Case) -> None:
    rows = wanted(case)
    with writing(case) as writers:
        with holding(case, "SELECT count(*) FROM audit_logs"):
            with pytest.raises(
                ScutumError,
                match="could not be put in partitions: its lock was not to be had in 3 s; it is held by process",
            ) as caught:
                convert(case, patience=3)
            assert "pg_terminate_backend" in caught.value.next_step
            assert not look(case).partitioned and look(case).open == "convert"
            # Its daily job says so, and changes nothing.
            assert upkeep.keep(case.database, TABLE, 3, case.say) == []
        # No insert waits for longer than a lock is asked for.
        assert longest(writers) < 400
        convert(case)
    assert case.content() == total(rows, writers)
    in_order(case)


def test_a_writer_whose_transaction_does_not_end(case: Case) -> None:
    before = case.schema()
    with holding(case, "INSERT INTO audit_logs (actor_id, action, resource_type) VALUES ('slow', 'b', 'c')"):
        with pytest.raises(ScutumError, match='public."audit_logs" could not be watched for changes'):
            convert(case, patience=1)
        assert case.schema() == before
        case.nothing_left()
    convert(case)
    assert case.one("SELECT count(*) FROM audit_logs WHERE actor_id = 'slow'") == 1


def test_two_at_once(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition_session, "_LOCK_PATIENCE", 1.0)
    with partition_session.open_session(case.database):
        for call in (convert, undo, lambda c: upkeep.keep(c.database, TABLE, 3, c.say)):
            with pytest.raises(ScutumError, match="another run changes partitions"):
                call(case)
    assert convert(case)["rows"]


# --- changes that are no inserts, while it goes on


def test_updates_and_deletes_during_the_copy_are_not_lost(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.sql(
        "INSERT INTO audit_logs (actor_id, action, resource_type, timestamp) "
        "SELECT 'c' || n, 'a', 'r', now() - n * interval '1 minute' FROM generate_series(1, 20000) n"
    )
    copy, calls = Copy, iter(range(100))
    monkeypatch.setattr("ansible_collections.scutum.ops.plugins.module_utils.partition_copy._BLOCKS", 40)

    def with_changes(real: Callable[..., Any]) -> Callable[..., Any]:
        def step(self: Any, *given: Any) -> Any:
            number = next(calls)
            case.sql(
                f"UPDATE audit_logs SET action = 'changed{number}' WHERE actor_id LIKE 'c%{number}7'; "
                f"UPDATE audit_logs SET timestamp = timestamp - interval '2 months' WHERE actor_id LIKE 'c%{number}8'; "
                f"DELETE FROM audit_logs WHERE actor_id LIKE 'c%{number}9'; "
                f"WITH x AS (DELETE FROM audit_logs WHERE actor_id LIKE 'c%{number}6' RETURNING *) "
                "INSERT INTO audit_logs (id, actor_id, action, resource_type) SELECT id, actor_id, 'again', 'r' FROM x"
            )
            return real(self, *given)

        return step

    for step in ("copy", "index", "compare", "swap"):
        monkeypatch.setattr(copy, step, with_changes(getattr(copy, step)))
    real_swap = copy.swap
    seen: list[tuple[int, int]] = []

    def swap(self: Any, *given: Any) -> None:
        real_swap(self, *given)
        seen.append(case.content())

    monkeypatch.setattr(copy, "swap", swap)
    source: list[tuple[int, int]] = []
    drain = copy.drain

    def noted(self: Any) -> None:
        source.append(wanted(case))
        drain(self)

    monkeypatch.setattr(copy, "drain", noted)
    convert(case)
    # Nobody writes during the swap: what was read of the plain table before it is what the partitions have.
    assert seen == [source[-1]] and case.content() == seen[0]
    assert case.one("SELECT count(*) FROM audit_logs WHERE action = 'again'") > 100
    in_order(case)


def test_a_truncate_meanwhile_is_refused(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[str] = []
    real = Copy.index

    def index(self: Any) -> None:
        with pytest.raises(Exception) as caught:
            case.sql("TRUNCATE audit_logs")
        refused.append(str(caught.value))
        real(self)

    monkeypatch.setattr(Copy, "index", index)
    convert(case)
    assert "it cannot be truncated" in refused[0]
    case.sql("TRUNCATE audit_logs")


def test_a_copy_that_differs_is_not_used(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, before, real = wanted(case), case.schema(), Copy.index

    def index(self: Any) -> None:
        real(self)
        case.sql(
            "SET session_replication_role = replica; UPDATE scutum_ops.audit_logs SET action = 'other' WHERE actor_id = 'odd'"
        )

    monkeypatch.setattr(Copy, "index", index)
    with pytest.raises(ScutumError, match="the copy differs in 1 months, first in that of 20"):
        convert(case)
    assert not look(case).partitioned and look(case).open == "convert"
    # What was begun can be given up.
    assert undo(case)["changes"] == ["what the operation convert of audit_logs left was removed"]
    assert wanted(case) == rows and changed(before, case.schema()) == {}
    case.nothing_left()


# --- killed


Where = Callable[[int, tuple[str, ...]], bool]


def killed_at(where: Where, case: Case, call: Callable[[Case], Any], after: bool) -> bool:
    """Kill it at one of the messages that it sends, before it is sent or after it was answered; whether it came so far."""
    numbers = itertools.count(1)
    real = partition_session.Session.run

    def run(self: Any, *statements: str) -> Any:
        here = where(next(numbers), statements)
        answer = None if here and not after else real(self, *statements)
        if here:
            raise Killed
        return answer

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
        patch.setattr(partition_session.Session, "run", run)
        call(case)
        return False
    return True


def says(text: str) -> Where:
    """The first message that has a text in it."""
    return lambda number, statements: any(text in statement for statement in statements)


def at(wanted_number: int) -> Where:
    """A message by its number."""
    return lambda number, statements: number == wanted_number


# Where it is killed, whether after that message, and whether the same goes on or the other way is taken.
STEPS: list[tuple[Where, bool, bool]] = [
    (says("CREATE TRIGGER"), True, True), (says('INSERT INTO scutum_ops."audit_logs" ('), True, False),
    (says("SET SCHEMA public"), False, True), (says("SET SCHEMA public"), True, True), (says("SET SCHEMA public"), True, False),
]  # fmt: skip
if os.environ.get("SCUTUM_ALL_STEPS"):
    STEPS += [(at(number), bool(number % 2), bool(number % 4 > 1)) for number in range(14, 150, 3)]
FEW = (
    "INSERT INTO audit_logs (actor_id, action, resource_type, timestamp, created_at) SELECT 'few', 'a', 'r', t, t FROM "
    "(SELECT now() - n * interval '10 days' AS t FROM generate_series(0, 9) n) s"
)


@pytest.mark.parametrize("call", [convert, undo])
def test_killed_at_a_step_the_next_run_goes_on_or_back(bare: Case, call: Callable[[Case], Any]) -> None:
    other = undo if call is convert else convert
    hit = 0
    for where, after, on in STEPS:
        case = Case(bare.world, f"{bare.name}_k")
        case.sql(FEW)
        before, schema = case.content(), case.schema()
        if call is undo:
            convert(case)
        with writing(case) as writers:
            hit += killed_at(where, case, call, after)
            # Whoever was killed left the one shape or the other, whole.
            assert case.content()[0] >= before[0]
            ended = call if on else other
            ended(case)
        assert case.content() == total(before, writers)
        if ended is convert:
            in_order(case)
        else:
            assert changed(schema, case.schema()) == {}
            case.nothing_left()
        case.close()
    assert hit >= min(len(STEPS), 20)


DRIVER = """
import sys
from ansible_collections.scutum.ops.plugins.module_utils import partition_conversion, partition_copy
from ansible_collections.scutum.ops.plugins.module_utils.database import Database
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation
# Slowly.
partition_copy._BLOCKS, partition_copy._REST = 1, 30
directory, container, user, name = sys.argv[1:]
database = Database(Installation(directory), container, user, name)
partition_conversion.convert(database, "audit_logs", 3, lambda text: print(text, flush=True))
"""


def test_a_process_that_is_killed_and_a_server_that_starts_anew(case: Case) -> None:
    rows = wanted(case)
    env = {**os.environ, "PYTHONPATH": str(ROOT / ".cache/collections")}
    words = [case.world.installation.directory, case.world.container, USER, case.name]
    with writing(case) as writers:
        process = subprocess.Popen([sys.executable, "-c", DRIVER, *words], env=env, stdout=subprocess.PIPE, text=True)
        assert process.stdout and "changes are noted" in process.stdout.readline()
        time.sleep(0.7)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert look(case).open == "convert"
    rows = total(rows, writers)
    process = subprocess.Popen([sys.executable, "-c", DRIVER, *words], env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout and "goes on" in process.stdout.readline()
    time.sleep(0.5)
    docker("restart", "-t", "5", case.world.container)
    case.world.wait()
    assert process.wait(30) != 0
    with writing(case) as writers:
        convert(case)
    assert case.content() == total(rows, writers)
    in_order(case)


def test_a_lost_connection_is_an_error_that_says_what_next(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Copy.compare

    def compare(self: Any) -> None:
        case.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
        )
        real(self)

    monkeypatch.setattr(Copy, "compare", compare)
    with pytest.raises(ScutumError, match="the session was ended: .*terminating connection") as caught:
        convert(case)
    assert "run the same again" in caught.value.next_step
    monkeypatch.undo()
    convert(case)
    in_order(case)


# --- upkeep


def without_months(case: Case, *months: str) -> None:
    """As if the job had not run: these months have no partition, and rows of theirs come into the DEFAULT partition."""
    for month in months:
        name = f"audit_logs_p{month.replace('-', '_')}"
        case.sql(
            f"ALTER TABLE audit_logs DETACH PARTITION {name}; INSERT INTO audit_logs_default SELECT * FROM {name}; DROP TABLE {name}"
        )


@pytest.mark.parametrize("many", [False, True])
def test_months_without_the_job(case: Case, many: bool) -> None:
    convert(case)
    now = audit_tables.month_of(time.time())
    without_months(case, *(audit_tables.shift(now, by) for by in range(4)))
    if many:
        case.sql(
            "INSERT INTO audit_logs (actor_id, action, resource_type) SELECT 'many', 'a', 'r' FROM generate_series(1, 5000)"
        )
    rows = case.content()
    with writing(case) as writers:
        assert look(case).default_rows > 4
        done = upkeep.keep(case.database, TABLE, 3, case.say, check=True)
        assert [text for text in done if "create the partition" in text and now not in text] and any(
            "move" in text for text in done
        )
        done = upkeep.keep(case.database, TABLE, 3, case.say)
        assert [text for text in done if "out of the DEFAULT partition" in text]
        # What came between the looking and the moving.
        upkeep.keep(case.database, TABLE, 3, case.say)
    assert case.content() == total(rows, writers)
    in_order(case)
    assert look(case).default_rows == 4 and upkeep.keep(case.database, TABLE, 3, case.say) == []
    # The way back knows all the same what the table was.
    undo(case)
    assert (
        case.one(
            "SELECT attnotnull FROM pg_attribute WHERE attrelid = 'audit_logs'::regclass AND attname = 'timestamp'"
        )
        is False
    )


def test_moving_many_is_killed_and_goes_on(case: Case) -> None:
    convert(case)
    now = audit_tables.month_of(time.time())
    without_months(case, now)
    case.sql(
        "INSERT INTO audit_logs (actor_id, action, resource_type) SELECT 'many', 'a', 'r' FROM generate_series(1, 1000)"
    )
    rows = case.content()

    def keep(one: Case) -> list[str]:
        return upkeep.keep(one.database, TABLE, 3, one.say)

    # Further and further: what is found is what was left.
    for where in (
        says("CREATE TRIGGER"),
        says('INSERT INTO scutum_ops."audit_logs" ('),
        says("DETACH PARTITION"),
        says("DROP CONSTRAINT"),
    ):
        assert killed_at(where, case, keep, True)
    keep(case)
    assert case.content() == rows
    in_order(case)


def test_a_month_leaves_and_comes_back(case: Case) -> None:
    convert(case)
    rows, month = case.content(), "2025-01"
    inside = case.content("public.audit_logs_p2025_01")
    with writing(case) as writers:
        name = upkeep.detach(case.database, TABLE, month)
        assert name == "audit_logs_p2025_01" == upkeep.detach(case.database, TABLE, month)
        state = look(case)
        assert [(part.name, part.month) for part in state.detached] == [(name, month)] and not state.of_month(month)
        # A late row: it is in the DEFAULT partition, and stays there as long as its month is out.
        case.sql(
            "INSERT INTO audit_logs (actor_id, action, resource_type, timestamp) VALUES ('late', 'a', 'r', '2025-01-15')"
        )
        assert upkeep.keep(case.database, TABLE, 3, case.say) == [] and look(case).default_rows == 5
        with pytest.raises(ScutumError, match=f"{name} was not dropped: {inside[0]} rows are there, 3 were expected"):
            upkeep.drop(case.database, TABLE, name, 3)
        upkeep.attach(case.database, TABLE, name)
        assert look(case).detached == [] and look(case).default_rows == 4
        upkeep.detach(case.database, TABLE, month)
        upkeep.drop(case.database, TABLE, name, inside[0] + 1)
    assert case.content()[0] == total(rows, writers)[0] - inside[0]
    in_order(case)
    none = "is no month of audit_logs that was detached"
    with pytest.raises(ScutumError, match=none):
        upkeep.drop(case.database, TABLE, "audit_logs_p2025_02", 1)
    with pytest.raises(ScutumError, match=none):
        upkeep.attach(case.database, TABLE, "teams")
    with pytest.raises(ScutumError, match="has no partition of 2025-01"):
        upkeep.detach(case.database, TABLE, month)


def test_a_month_does_not_leave_under_a_reader(case: Case) -> None:
    convert(case)
    with writing(case) as writers, holding(case, "SELECT count(*) FROM audit_logs"):
        with pytest.raises(ScutumError, match="could not be rid of a partition"):
            upkeep.detach(case.database, TABLE, "2025-01", patience=2)
        assert longest(writers) < 400
    in_order(case)
    assert look(case).detached == []


# --- an insert that is on its way while a partition comes


def test_an_insert_that_waits_for_a_new_partition_is_not_refused(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the lock that ATTACH takes by itself, this fails: 'violates partition constraint'."""
    monkeypatch.setattr(upkeep, "_FEW_ROWS", 10**6)
    convert(case)
    now = audit_tables.month_of(time.time())
    without_months(case, now)
    stop, failed = threading.Event(), []

    def insert() -> None:
        with world_connection(case.world, case.name) as connection:
            while not stop.is_set():
                try:
                    connection.execute(
                        "INSERT INTO audit_logs (actor_id, action, resource_type) VALUES ('w', 'a', 'r')"
                    )
                except Exception as error:
                    failed.append(str(error))

    threads = [threading.Thread(target=insert) for unused in range(4)]
    for thread in threads:
        thread.start()
    for unused in range(3):
        upkeep.keep(case.database, TABLE, 3, case.say)
        in_order(case)
        without_months_online(case, now)
    stop.set()
    for thread in threads:
        thread.join()
    assert failed == []


def without_months_online(case: Case, month: str) -> None:
    """A month's partition goes, its rows into the DEFAULT partition, under one lock."""
    name = f"audit_logs_p{month.replace('-', '_')}"
    case.sql(f"BEGIN; LOCK TABLE audit_logs IN ACCESS EXCLUSIVE MODE; ALTER TABLE audit_logs DETACH PARTITION {name}; "
             f"INSERT INTO audit_logs_default SELECT * FROM {name} LIMIT 50; DROP TABLE {name}; COMMIT")  # fmt: skip


# --- LiteLLM's tables


def test_rows_leave_in_batches(bare: Case) -> None:
    bare.sql(
        """CREATE TABLE "LiteLLM_SpendLogs" (request_id text PRIMARY KEY, "startTime" timestamp);
        INSERT INTO "LiteLLM_SpendLogs" SELECT n::text, (now() AT TIME ZONE 'UTC') - n * interval '1 hour' FROM generate_series(1, 1000) n;
        INSERT INTO "LiteLLM_SpendLogs" VALUES ('none', NULL);
        CREATE TABLE referring (request_id text REFERENCES "LiteLLM_SpendLogs" ON DELETE CASCADE);
        INSERT INTO referring SELECT n::text FROM generate_series(1, 1000, 100) n"""
    )
    name, column, database = "LiteLLM_SpendLogs", "startTime", bare.database
    assert abs(row_batches.oldest(database, name, column) - (time.time() - 3600_000)) < 60
    before = time.time() - 100.5 * 3600
    with holding(bare, """SELECT * FROM "LiteLLM_SpendLogs" WHERE request_id = '500' FOR UPDATE"""):
        assert row_batches.remove(database, name, column, before, 70, bare.say, time.monotonic() - 1) == 0
        # A row that somebody holds is the next run's.
        assert row_batches.remove(database, name, column, before, 70, bare.say, time.monotonic() + 60) == 899
    assert row_batches.remove(database, name, column, before, 70, bare.say, time.monotonic() + 60) == 1
    assert bare.one('SELECT count(*) FROM "LiteLLM_SpendLogs"') == 101
    assert bare.one("SELECT string_agg(request_id, ' ') FROM referring") == "1", "what refers to a row goes with it"
    assert row_batches.remove(database, "LiteLLM_Other", column, before, 70, bare.say, time.monotonic() + 60) == 0
    assert row_batches.oldest(database, "LiteLLM_Other", column) == 0


def test_edges_of_a_partition(case: Case) -> None:
    assert partitions.count(case.database, TABLE) == 3618
    assert 3990 < partitions.newest(case.database, TABLE, "timestamp") / 31556952 + 1970 < 4010
    convert(case)
    assert partitions.count(case.database, "audit_logs_p1999_06") == 1
    assert partitions.oldest(case.database, "audit_logs_p1999_06", "timestamp") == 929448000
    assert (
        partitions.newest(
            case.database,
            f"audit_logs_p{audit_tables.shift(audit_tables.month_of(time.time()), 2).replace('-', '_')}",
            "timestamp",
        )
        == 0
    )
