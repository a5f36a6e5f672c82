"""Faults of the archive of the audit history, with a real Postgres and moto: what fails counts for nothing, and the next run does it."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import itertools
import json
import os
import random
import secrets
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from ansible_collections.scutum.ops.plugins.module_utils import audit_catalog as catalog
from ansible_collections.scutum.ops.plugins.module_utils import (
    audit_reading,
    audit_tables,
    container_pipe,
    copy_session,
    parquet_archive,
    parquet_file,
)
from ansible_collections.scutum.ops.plugins.module_utils.database import Database
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation
from ansible_collections.scutum.ops.plugins.module_utils.object_store import open_store
from proxy import Rule
from world import BUCKET, CANARY, ROOT, USER, World

AUDIT = """(id uuid DEFAULT gen_random_uuid(), "timestamp" timestamptz NOT NULL DEFAULT current_timestamp, actor_id varchar(255) NOT NULL,
  actor_email varchar(255), actor_ip varchar(45), org_id uuid, action varchar(100) NOT NULL DEFAULT 'a', resource_type varchar(100) NOT NULL
  DEFAULT 'r', resource_id varchar(255), resource_name varchar(255), changes jsonb DEFAULT '{}', request_metadata jsonb DEFAULT '{}',
  created_at timestamptz DEFAULT current_timestamp, PRIMARY KEY (id, "timestamp"))"""
TABLE = audit_tables.TABLES["audit_logs"]
MONTH = "2026-03"
FILE, MANIFEST = r"month%3D03/part|month=03/part", "_manifests/audit_logs/0"
DATABASE = "archived"
DRIVER = """
import json, sys
from ansible_collections.scutum.ops.plugins.module_utils import audit_tables, object_store, parquet_archive
from ansible_collections.scutum.ops.plugins.module_utils.database import Database
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation
directory, container, user, name, relname, month, store, spool = sys.argv[1:]
place = object_store.open_store(json.loads(store), {"access_key_id": "x", "secret_access_key": "x"})
table = audit_tables.TABLES["audit_logs"]
parquet_archive.archive(Database(Installation(directory), container, user, name), table, relname, month, place, spool, print)
"""


class Place:
    """A relation of one month, an archive with a prefix of its own, and a spool."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.folder = world, folder
        self.relname = f"p_{secrets.token_hex(4)}"
        self.spool = folder / "spool"
        self.spool.mkdir()
        (folder / "scutum/config").mkdir(parents=True)
        (folder / "scutum/config/.env").write_text(f"POSTGRES_PASSWORD={CANARY}\n")
        (folder / "scutum/docker-compose.yaml").write_text("services: {postgres: {image: postgres}}\n")
        installation = Installation(str(folder / "scutum"))
        self.database = Database(installation, world.postgres, USER, DATABASE)
        self.settings: dict[str, Any] = {
            "bucket": BUCKET, "prefix": f"a-{secrets.token_hex(4)}", "endpoint_url": world.proxy.url, "attempts": 2,
        }  # fmt: skip
        self.said: list[str] = []
        world.proxy.reset()

    # --- rows

    def sql(self, text: str) -> str:
        return self.world.sql(text, DATABASE)

    def create(self, rows: int = 0, definition: str = AUDIT) -> None:
        self.sql(f'CREATE TABLE {self.relname} {definition}; CREATE INDEX ON {self.relname} ("timestamp" DESC)')
        if rows:
            self.insert(rows)

    def insert(self, rows: int, size: int = 0) -> None:
        """Rows of March, `size` bytes of what does not compress in each."""
        noise = f"(SELECT string_agg(md5(i::text || j), '') FROM generate_series(1, {size // 32}) j)"
        name = noise if size else "'name ' || i"
        self.sql(
            f"INSERT INTO {self.relname}(actor_id, resource_name, changes, \"timestamp\") SELECT 'u' || i % 7, left({name}, 255), "
            f"jsonb_build_object('n', i, 'x', {name}), timestamptz '2026-03-01 00:00+00' + i * interval '7 minutes' "
            f"FROM generate_series(0, {rows - 1}) i"
        )

    def rows(self, relation: str = "") -> list[str]:
        """Each as text, in hexadecimal: what Postgres itself says about them."""
        listed = f"SELECT encode(convert_to(r::text, 'UTF8'), 'hex') FROM {relation or self.relname} r ORDER BY 1"
        return self.sql(f"SET timezone = 'UTC'; {listed}").splitlines()

    # --- the archive

    def store(self, proxy: bool = True, **more: Any) -> Any:
        host, port = self.world.proxy.target
        settings = {**self.settings, **more} if proxy else {**self.settings, "endpoint_url": f"http://{host}:{port}"}
        return open_store(settings, {"access_key_id": "x", "secret_access_key": f"{CANARY}-key"})

    def archive(self, table: audit_tables.Table = TABLE, month: str = MONTH, **store: Any) -> catalog.Entry:
        return parquet_archive.archive(
            self.database, table, self.relname, month, self.store(**store), str(self.spool), self.said.append
        )

    def entries(self) -> list[catalog.Entry]:
        """What counts, as whoever looks now sees it."""
        return catalog.entries(self.store(proxy=False))

    def names(self) -> list[str]:
        return [item.key for item in self.store(proxy=False).list()]

    def verify(self, deep: bool = True) -> catalog.Report:
        return catalog.verify(self.store(proxy=False), deep, self.said.append, str(self.spool))

    def refuses(self, says: str, **more: Any) -> ScutumError:
        """It fails loudly; what counted before still does, and nothing else; neither a file nor a session stays."""
        before = self.entries()
        with pytest.raises(ScutumError, match=says) as caught:
            self.archive(**more)
        self.world.proxy.reset()
        assert caught.value.left and caught.value.next_step and CANARY not in str(caught.value)
        assert self.entries() == before
        self.quiet()
        return caught.value

    def quiet(self) -> None:
        """Nothing is left on the host, and in the server."""
        assert list(self.spool.iterdir()) == []
        sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'scutum-ops-copy-%'"
        assert self.world.sql(sessions, "postgres") == "0"

    def whole(self) -> None:
        """Every row is in files that count, once, and as it was: read by DuckDB alone, and compared with what Postgres says."""
        assert self.verify().ok, self.said
        host = self.folder / f"download-{secrets.token_hex(4)}"
        for entry in self.entries():
            path = host / entry.key
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self.store(proxy=False).get(entry.key))
        files = host / "**/*.parquet"
        query = f"SELECT id::text, {hexed('actor_id')}, {hexed('resource_name')}, {hexed('changes')}, timestamp::text, org_id::text FROM "
        with contextlib.closing(duckdb.connect()) as found:
            found.execute("SET timezone = 'UTC'")
            have = found.execute(f"{query} read_parquet('{files}')").fetchall()
        listed = (
            "SELECT id::text, encode(convert_to(actor_id, 'UTF8'), 'hex'), encode(convert_to(resource_name, 'UTF8'), 'hex'), "
            f"encode(convert_to(changes::text, 'UTF8'), 'hex'), \"timestamp\"::text, org_id::text FROM {self.relname}"
        )
        want = self.sql(
            f"SET timezone = 'UTC'; SELECT json_agg(json_build_array({listed[7:].partition(' FROM ')[0]})) FROM {self.relname}"
        )
        assert sorted(map(str, have)) == sorted(str(tuple(row)) for row in json.loads(want or "null") or [])


def hexed(name: str) -> str:
    return f"lower(hex(encode({name}::VARCHAR)))"


@pytest.fixture(name="server", scope="session")
def fixture_server(world: World) -> World:
    world.sql(f"CREATE DATABASE {DATABASE}", "postgres")
    return world


@pytest.fixture(name="place")
def fixture_place(server: World, tmp_path: Path) -> Iterator[Place]:
    found = Place(server, tmp_path)
    yield found
    server.proxy.reset()
    found.sql(f"DROP TABLE IF EXISTS {found.relname}")


# --- what is archived

ODD = ["", " ", " a ", "\\N", "NULL", "\\.", "a\n\\.\nb", "'", '"', '""', "\x01", "a\x01\x01,\x01b", ",", "\t", "\r", "\r\n", "a\r\nb\n",
       "\\", "\\\\n", "\u2028\u2029\x85", "\U0001f600 \u202e", "e\u0301", "\x7f\x02\x1f", "#", "{}", "x" * 255]  # fmt: skip


def test_unusual_text_comes_back(place: Place) -> None:
    place.create()
    for number, text in enumerate(ODD):
        value = "'" + text.replace("'", "''") + "'"
        place.sql(
            f'INSERT INTO {place.relname}(actor_id, resource_name, actor_email, changes, "timestamp") VALUES ({value}, {value}, NULL, '
            f"jsonb_build_object({value}, {value}), timestamptz '2026-03-0{number % 9 + 1} 02:30+02')"
        )
    entry = place.archive()
    assert (entry.rows, entry.part, entry.seq, entry.month) == (len(ODD), 0, 1, MONTH)
    assert entry.first == "2026-03-01T00:30:00.000000Z" and entry.last == "2026-03-09T00:30:00.000000Z"
    assert entry.key == "table=audit_logs/year=2026/month=03/part-0000.parquet" and entry.server
    place.whole()
    loaded = audit_reading.rehydrate(
        place.database, place.store(), "audit_logs", MONTH, MONTH, str(place.spool), place.said.append
    )
    assert loaded["rows"] == len(ODD) and place.rows("audit_rehydrated.audit_logs") == place.rows()
    assert audit_reading.forget(place.database) == 1
    place.quiet()


def test_a_large_json(place: Place) -> None:
    place.create(3)
    place.sql(
        f"UPDATE {place.relname} SET changes = jsonb_build_object('a', repeat('x\"\\u2028', 1000000), 'b', repeat('y', 9000000)) "
        "WHERE actor_id = 'u1'"
    )
    assert place.archive().rows == 3 and "it has very long rows" in place.said[0]
    place.whole()


def test_a_row_that_is_too_long_is_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_file, "USUAL", dataclasses.replace(parquet_file.USUAL, row=1 << 20))
    monkeypatch.setattr(parquet_file, "LARGE", dataclasses.replace(parquet_file.LARGE, row=2 << 20))
    place.create(3)
    place.sql(
        f"UPDATE {place.relname} SET id = '{'ab' * 16}', changes = to_jsonb(repeat('y', 3000000)) WHERE actor_id = 'u1'"
    )
    place.refuses("a row, or many rows together, are too long for .*: the row whose id timestamp is abababab-abab")
    assert "it has very long rows; once more, with more memory" in place.said[-1]


def test_moments(place: Place) -> None:
    """On the month's bounds, leap days, a night without 02:30, and as far as both know time."""
    place.create()
    for text in ("0001-01-01 00:00+00", "1582-10-10 00:00+00", "1969-12-31 23:59:59.999999+00", "2024-02-29 23:59:59.999999+00",
                 "2026-03-01 00:00+00", "2026-03-31 23:59:59.999999+00", "2026-03-29 03:30+03", "2026-10-25 03:30+02",
                 "4000-02-29 12:00+14", "9999-12-31 23:59:59.999999+00", "12000-01-01 00:00+00", "2026-03-01 00:00:00.1+00"):  # fmt: skip
        place.sql(f"INSERT INTO {place.relname}(actor_id, \"timestamp\", created_at) VALUES ('u', '{text}', '{text}')")
    place.sql(f"INSERT INTO {place.relname}(actor_id, created_at, \"timestamp\") VALUES ('u', NULL, '2026-03-01')")
    entry = place.archive()
    assert (entry.first, entry.last) == ("0001-01-01T00:00:00.000000Z", "12000-01-01T00:00:00.000000Z")
    place.whole()


@pytest.mark.parametrize("moment", ["infinity", "-infinity", "0044-03-15 12:00+00 BC", "294276-12-31 23:59+00"])
def test_a_moment_that_parquet_has_not_is_named(place: Place, moment: str) -> None:
    place.create(5)
    place.sql(f"UPDATE {place.relname} SET id = '{'ab' * 16}', created_at = '{moment}' WHERE actor_id = 'u3'")
    error = place.refuses(
        f"{place.relname}: column created_at holds .*: the row whose id timestamp is abababab-abab.* 2026-03-01 00:21:00"
    )
    assert "correct that row" in error.next_step and place.names() == [], "before anything was uploaded"


def test_an_empty_month(place: Place) -> None:
    place.create()
    entry = place.archive()
    assert (entry.rows, entry.first, entry.last) == (0, "", "") and catalog.months(place.entries(), "audit_logs") == {
        MONTH: 0
    }
    assert place.archive() == entry, "not twice"
    place.whole()
    names, rows = audit_reading.query(
        place.store(), "SELECT count(*) AS n FROM audit_logs", str(place.spool), place.said.append
    )
    assert (names, rows) == (["n"], [["0"]])
    place.insert(2)
    assert place.archive().part == 1
    place.whole()


WIDE = """(id bigserial PRIMARY KEY, "timestamp" timestamptz NOT NULL, b bool, s smallint, i int, f4 float4, f8 float8, n numeric, n2
  numeric(18,8), t text, c char(5), j json, d date, tm time, ts timestamp, tz timetz, iv interval, ip inet, net cidr, mac macaddr, by bytea,
  bits bit(3), ai int[], at text[], au uuid[], mood mood, dom positive, "a ""b"", c" text, xs varchar(3)[])"""


def test_all_types(place: Place) -> None:
    with contextlib.suppress(AssertionError):
        place.sql(
            "CREATE TYPE mood AS ENUM ('sad', 'it''s, ok'); CREATE DOMAIN positive AS numeric(10,2) CHECK (VALUE > 0)"
        )
    place.create(definition=WIDE)
    place.sql(
        f"""INSERT INTO {place.relname} VALUES
        (-1, '2026-03-01', true, -32768, 2147483647, 1.1, 0.1, 'NaN', 1.5, 'x', 'ab', '{{"a" : 1, "a": "\\ud800"}}', '0001-01-01',
         '24:00', '2026-03-29 02:30', '10:00+03:30', '1 year 2 days 03:04:05.6', '10.0.0.1/8', '10.0.0.0/8', '08:00:2b:01:02:03',
         '\\x00ff01', '101', '{{1,NULL,3}}', '{{"a,b","NULL",NULL,"q\\"",""}}', ARRAY[gen_random_uuid()], 'it''s, ok', 7, '"', '{{a}}'),
        (-2, '2026-03-02', false, 0, -1, '-0', 'NaN', 1e300, -0.00000001, '', '', 'null', '5000-01-01', '00:00:00.000001',
         '0001-01-01', '23:59:59.999999-15:59', '-1 mon', '::1', 'fe80::/10', '08:00:2b:01:02:03', '', '000', '{{}}', '{{}}', '{{}}', 'sad',
         0.01, '', '{{}}')"""
        f"; INSERT INTO {place.relname}(id, \"timestamp\") VALUES (-3, '2026-03-03')"
    )
    # Numbers whose texts differ in form between the two.
    chance = random.Random(7)
    floats = [struct.unpack("<d", chance.randbytes(8))[0] for unused in range(3000)]
    floats += [
        sign * digit * 10.0**power
        for power in range(-8, 22)
        for digit in (1, 1.5, 1.23456789, 9.999999999999999)
        for sign in (1, -1)
    ]
    floats += [chance.uniform(1e14, 1e17) for unused in range(500)] + [
        2.0**53 + 1,
        1e15,
        1e16,
        1234567890123456.5,
        float("inf"),
        float("-inf"),
    ]
    values = ",".join(f"('2026-03-04', '{number!r}', '{number!r}'::float8::text)" for number in floats)
    place.sql(f'INSERT INTO {place.relname}("timestamp", f8, t) VALUES {values}')
    singles = ",".join(f"('2026-03-05', '{number!r}')" for number in floats if 1e-37 < abs(number) < 3e38)
    place.sql(f'INSERT INTO {place.relname}("timestamp", f4) VALUES {singles}')
    entry = place.archive()
    kinds = {column.name: (column.type, column.stored) for column in entry.columns}
    assert kinds["n2"] == ("numeric(18,8)", "DECIMAL(18,8)") and kinds["dom"] == ("public.positive", "DECIMAL(10,2)")
    assert kinds["f4"] == ("real", "FLOAT") and kinds["by"] == ("bytea", "BLOB") and kinds["ip"] == ("inet", "VARCHAR")
    assert (
        kinds["mood"] == ("public.mood", "VARCHAR")
        and kinds["id"] == ("bigint", "BIGINT")
        and kinds['a "b", c'][0] == "text"
    )
    assert place.verify().ok
    # Loss-free: what Postgres reads back is what it had.
    audit_reading.rehydrate(
        place.database, place.store(), "audit_logs", MONTH, MONTH, str(place.spool), place.said.append
    )
    assert place.rows("audit_rehydrated.audit_logs") == place.rows()
    types = "SELECT string_agg(format_type(atttypid, atttypmod), ' ' ORDER BY attnum) FROM pg_attribute WHERE attnum > 0 AND attrelid = "
    assert place.sql(f"{types} 'audit_rehydrated.audit_logs'::regclass") == place.sql(
        f"{types} '{place.relname}'::regclass"
    )
    audit_reading.forget(place.database)


def test_a_number_that_is_none_is_named(place: Place) -> None:
    place.create(definition='(id int PRIMARY KEY, "timestamp" timestamptz NOT NULL, price numeric(10,2))')
    place.sql(f"INSERT INTO {place.relname} VALUES (1, '2026-03-01', 1), (77, '2026-03-01', 'NaN')")
    place.refuses("column price holds a value that Parquet cannot keep without loss: the row whose id is 77")


def test_a_type_that_nobody_has_tried_is_named(place: Place) -> None:
    place.create(definition='(id int PRIMARY KEY, "timestamp" timestamptz NOT NULL, place point)')
    place.refuses("column place is of the type point, which nobody has proven to come back")


def test_other_tables(place: Place) -> None:
    table = audit_tables.TABLES["provider_health_metrics"]
    place.sql(
        f"CREATE TABLE {place.relname} (id bigserial, provider varchar(100), status varchar(50), latency_ms int, checked_at timestamptz, "
        f"PRIMARY KEY (id, checked_at)); INSERT INTO {place.relname}(provider, latency_ms, checked_at) VALUES ('p', 3, '2026-03-05')"
    )
    entry = place.archive(table)
    assert (
        entry.key.startswith("table=provider_health_metrics/year=2026/")
        and entry.first == "2026-03-05T00:00:00.000000Z"
    )
    assert place.verify().ok and catalog.entries(place.store(), "audit_logs") == []


def test_others_read_it_as_it_is(place: Place) -> None:
    """DuckDB without us: the layout's columns, the types, and statistics by which a range of time is cheap."""
    place.create(0)
    place.sql(
        f"INSERT INTO {place.relname}(actor_id, \"timestamp\") SELECT 'u', timestamptz '2026-03-01+00' + i * interval '20 s' "
        "FROM generate_series(1, 100000) i ORDER BY random()"
    )
    entry = place.archive()
    path = place.folder / "lake" / entry.key
    path.parent.mkdir(parents=True)
    path.write_bytes(place.store().get(entry.key))
    with contextlib.closing(duckdb.connect()) as found:
        found.execute("SET timezone = 'UTC'")
        lake = f"read_parquet('{place.folder}/lake/**/*.parquet', hive_partitioning = true)"
        types = dict(row[:2] for row in found.execute(f"DESCRIBE SELECT * FROM {lake}").fetchall())
        assert types["id"] == "UUID" and types["timestamp"] == "TIMESTAMP WITH TIME ZONE" and types["changes"] == "JSON"
        assert types["year"] == types["month"] == "BIGINT" or types["month"] == "VARCHAR", types
        counted = found.execute(
            f'SELECT count(*), any_value("table") FROM {lake} WHERE year = 2026 AND month = 3'
        ).fetchone()
        assert counted == (100000, "audit_logs")
        groups = found.execute(
            "SELECT row_group_id, row_group_num_rows, stats_min_value, stats_max_value, compression FROM "
            f"parquet_metadata('{path}') WHERE path_in_schema = 'timestamp' ORDER BY 1"
        ).fetchall()
        assert len(groups) == 4 and all(
            group[1] < parquet_file.USUAL.group * 1.1 and group[4] == "ZSTD" for group in groups
        )
        assert all(before[3] <= after[2] for before, after in itertools.pairwise(groups)), "sorted by time"
        logical = dict(found.execute(f"SELECT name, logical_type FROM parquet_schema('{path}')").fetchall())
        assert "UUID" in logical["id"] and "isAdjustedToUTC=1" in logical["timestamp"].replace("true", "1"), logical


def test_it_is_read_in_the_order_of_its_index(place: Place) -> None:
    """No sort of a whole month, which would be written to the server's disk."""
    place.create(3000)
    place.sql(f"ANALYZE {place.relname}")
    select = f'SELECT r.* FROM {place.relname} r ORDER BY r."timestamp", r.id'
    plan = place.sql(f"SET enable_sort = off; SET max_parallel_workers_per_gather = 0; EXPLAIN {select}")
    assert "Incremental Sort" in plan and "Index Scan Backward" in plan, plan


# --- the store


def denied(method: str, path: str) -> Rule:
    return Rule(method, path, status=403, code="AccessDenied")


STORE: dict[str, tuple[Rule, str]] = {
    "down": (Rule("PUT", FILE, "reset"), "part-0000.parquet: the connection broke"),
    "down before anything": (Rule("GET", "", "reset"), "the connection broke"),
    "403": (denied("PUT", FILE), r"part-0000.parquet: .*may not do s3:PutObject \(AccessDenied, 403\)"),
    "full": (Rule("PUT", FILE, status=507, code="XMinioStorageFull"), "part-0000.parquet: the store is full"),
    "acknowledged, not kept": (Rule("PUT", FILE, "ok"), "part-0000.parquet: there is no such object"),
    "half kept": (
        Rule("PUT", FILE, "half"),
        r"part-0000.parquet: (what is read is not what was sent|it was damaged on the way)",
    ),
    "a bit changed on the way in": (
        Rule("PUT", FILE, "flip"),
        r"part-0000.parquet: (what is read is not what was sent|it was damaged)",
    ),
    "reading: 403": (denied("GET", FILE + "-0000.parquet$"), "may not do s3:GetObject"),
    "reading: cut": (Rule("GET", FILE + "-0000.parquet$", "cut"), r"it ended after \d+ of|the connection broke"),
    "reading: half, as if it were all": (
        Rule("GET", FILE + "-0000.parquet$", "short"),
        r"what is read is not what was sent \(\d+ bytes",
    ),
    "reading: a web page": (Rule("GET", FILE + "-0000.parquet$", "page"), "what is read is not what was sent"),
    "a web page for lists": (
        Rule("GET", "list-type", "page"),
        "acknowledged, and the store has nothing|its answer cannot be used",
    ),
    "manifest: 403": (denied("PUT", MANIFEST), "000001.json: .*may not do s3:PutObject"),
    "manifest: acknowledged, not kept": (Rule("PUT", MANIFEST, "ok"), "000001.json: there is no such object"),
    "manifest: half kept": (
        Rule("PUT", MANIFEST, "half"),
        "000001.json(: it was damaged| is not there as it was sent)",
    ),
    "manifest: not read again": (
        denied("GET", MANIFEST + "00001.json$"),
        "000001.json: .*may not do s3:GetObject",
    ),
}


@pytest.mark.parametrize("name", STORE)
def test_store(place: Place, name: str) -> None:
    rule, says = STORE[name]
    place.create(50)
    place.world.proxy.reset(rule)
    if name in ("manifest: half kept", "manifest: not read again"):
        # It may be there: whether it counts is seen by who looks again.
        with pytest.raises(ScutumError, match=says):
            place.archive()
        place.world.proxy.reset()
        if name == "manifest: not read again":
            assert place.archive().seq == 1 and [e.rows for e in place.entries()] == [50]
            place.whole()
        return
    place.refuses(says)
    assert place.archive().rows == 50
    assert [entry.rows for entry in place.entries()] == [50]
    place.whole()


def test_a_slow_store_works(place: Place) -> None:
    place.create(50)
    place.world.proxy.reset(Rule("PUT", "", "slow"), Rule("GET", "", "slow"))
    assert place.archive().rows == 50
    place.whole()


def test_what_is_read_again_is_another(place: Place) -> None:
    """Between the acknowledgement and the second look, a bit changes in the store."""
    place.create(50)
    place.world.proxy.reset(Rule("GET", FILE + "-0000.parquet$", "call"))
    place.world.proxy.hook = lambda: place_bit(place, catalog.file_key("audit_logs", MONTH, 0))
    error = place.refuses(r"what is read is not what was sent \(\d+ bytes, SHA-256 [0-9a-f]{12}…; it was \d+ bytes")
    assert "no row was removed" in error.left
    [problem] = [check["detail"] for check in place.verify().checks if not check["ok"]]
    assert "part-0000.parquet: a run was killed there" in problem
    # The store may lock what it has: the next one does not need its name.
    assert place.archive().part == 1
    place.whole()


def place_bit(place: Place, key: str) -> None:
    """One bit in the middle."""
    s3, name = place.world.s3, f"{place.settings['prefix']}/{key}"
    data = bytearray(s3.get_object(Bucket=BUCKET, Key=name)["Body"].read())
    data[len(data) // 2] ^= 1
    s3.put_object(Bucket=BUCKET, Key=name, Body=bytes(data))


def test_a_writer_that_lies_is_found(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """DuckDB writes a value that Postgres did not send: only the rendered rows tell."""
    place.create(50)
    real = parquet_file._kept
    monkeypatch.setattr(
        parquet_file, "_kept", lambda c: "replace(actor_id, 'u3', 'u4')" if c.name == "actor_id" else real(c)
    )
    place.refuses("its rows are not those that Postgres sent")
    monkeypatch.setattr(
        parquet_file, "_kept", lambda c: "nullif(resource_id, '')" if c.name == "resource_id" else real(c)
    )
    place.sql(f"UPDATE {place.relname} SET resource_id = ''")
    place.refuses("its rows are not those that Postgres sent")


def test_object_lock(place: Place) -> None:
    """What is archived is kept by the store, and a run that failed is in nobody's way."""
    with contextlib.suppress(place.world.s3.exceptions.BucketAlreadyOwnedByYou):
        place.world.s3.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    place.settings.update(bucket="locked", lock_mode="compliance", lock_days=400)
    place.create(50)
    place.world.proxy.reset(denied("PUT", MANIFEST))
    place.refuses("000001.json: .*may not do s3:PutObject")
    entry = place.archive()
    assert entry.part == 1 and entry.rows == 50
    store, until = place.store(proxy=False), datetime.date.today() + datetime.timedelta(days=400)
    for key in place.names():
        assert store.locked(key).startswith(f"until {until:%Y-%m}"), key
    held = place.world.s3.head_object(Bucket="locked", Key=f"{place.settings['prefix']}/{entry.key}")
    assert held["ObjectLockMode"] == "COMPLIANCE"
    report = catalog.verify(store, False, place.said.append)
    assert report.ok and len(report.orphans) == 1
    with pytest.raises(ScutumError, match="is not removed: it is locked until"):
        catalog.remove_leftovers(store, report.orphans)


# --- the disk


@contextlib.contextmanager
def disk(path: Path, size: str) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def test_a_spool_that_is_too_small(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.create(10)
    place.insert(5000, 600)
    with disk(place.spool, "512k"):
        error = place.refuses(r"scutum_audit_spool: .*spool has 0 MiB free, and \d+\.\d MiB are needed")
        assert "scutum_audit_spool" in error.next_step
        assert place.names() == []
        with monkeypatch.context() as patch:
            patch.setattr(parquet_file, "space", lambda *unused: None)
            place.refuses("scutum_audit_spool: it is full")
        assert place.names() == []
    assert place.archive().rows == 5010
    # Full when it is fetched again.
    place.insert(5000, 600)
    with disk(place.spool, "4m"):
        place.world.proxy.reset(Rule("GET", "part-0001.parquet$", "call"))
        place.world.proxy.hook = lambda: fill(place.spool)
        with monkeypatch.context() as patch:
            patch.setattr(parquet_file, "space", lambda *unused: None)
            with pytest.raises(ScutumError, match=r"scutum_audit_spool: .*No space left on device"):
                place.archive()
    with pytest.raises(ScutumError, match=r"scutum_audit_spool: /nowhere cannot be used \(ENOENT\)"):
        parquet_archive.archive(place.database, TABLE, place.relname, MONTH, place.store(), "/nowhere", print)
    assert [entry.rows for entry in place.entries()] == [5010]


def fill(path: Path) -> None:
    with contextlib.suppress(OSError), (path / "filler").open("wb", buffering=0) as handle:
        while True:
            handle.write(bytes(4096))


# --- processes


def test_killed_before_the_manifest(place: Place) -> None:
    place.create(50)
    place.world.proxy.reset(Rule("PUT", MANIFEST, "hold"))
    env = {**os.environ, "PYTHONPATH": str(ROOT / ".cache/collections")}
    words = [
        str(place.folder / "scutum"),
        place.world.postgres,
        USER,
        DATABASE,
        place.relname,
        MONTH,
        json.dumps(place.settings),
    ]
    job = subprocess.Popen([sys.executable, "-c", DRIVER, *words, str(place.spool)], env=env, stdout=subprocess.DEVNULL)
    assert place.world.proxy.reached.wait(60)
    job.send_signal(signal.SIGKILL)
    job.wait()
    place.world.proxy.reset()
    place.quiet()
    left = catalog.file_key("audit_logs", MONTH, 0)
    assert place.names() == [left] and place.entries() == [] and place.verify().orphans == [left]
    entry = place.archive()
    assert entry.part == 1 and entry.rows == 50 and place.verify().orphans == [left]
    place.whole()
    assert catalog.remove_leftovers(place.store(), [left]) == [left] and place.verify().orphans == []


@pytest.mark.parametrize("direct", [True, False])
def test_ended_midway(place: Place, direct: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A month of which only the beginning arrived is none; be it the server itself that writes to the pipe, or psql."""
    place.create(10)
    place.insert(16000, 640)
    monkeypatch.setattr(copy_session, "_direct", lambda *unused: direct)
    real = container_pipe.Pipe.read
    terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'scutum-ops-copy-%'"

    def read(self: container_pipe.Pipe, process: subprocess.Popen[bytes]) -> Iterator[bytes]:
        for number, block in enumerate(real(self, process)):
            if number == 1:
                ends(process)
            yield block

    def session(process: subprocess.Popen[bytes]) -> None:
        place.world.sql(terminate, "postgres")

    ends: Callable[[subprocess.Popen[bytes]], None]
    for ends in (session, subprocess.Popen.kill):  # noqa: B007 -- `read` uses it
        with monkeypatch.context() as patch:
            patch.setattr(container_pipe.Pipe, "read", read)
            place.refuses(
                "Postgres: (.*terminating connection|.*closed the connection|the session that read the rows was ended)"
            )
        assert place.names() == []
    assert place.archive().rows == 16010 and place.verify().ok


def test_two_at_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two hosts write the next manifest of one chain: one of them counts, the other says so and drops nothing."""
    place.create(50)
    ready, real = threading.Barrier(2), catalog._manifests

    def manifests(store: Any, table: str) -> Iterator[Any]:
        found = list(real(store, table))
        # Both have looked before one of them writes.
        with contextlib.suppress(threading.BrokenBarrierError):
            ready.wait(20)
        return iter(found)

    ends: dict[str, Any] = {}

    def run(month: str) -> None:
        try:
            ends[month] = place.archive(month=month)
        except ScutumError as error:
            ends[month] = error

    with monkeypatch.context() as patch:
        patch.setattr(catalog, "_manifests", manifests)
        threads = [threading.Thread(target=run, args=(month,)) for month in ("2026-03", "2026-04")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    [counting] = place.entries()
    lost = ends["2026-04" if counting.month == "2026-03" else "2026-03"]
    if isinstance(lost, ScutumError):
        assert "exists already" in lost.what or "is not there as it was sent" in lost.what, lost.what
    else:
        # The store let the later one replace it: the last look before a drop finds that.
        with pytest.raises(ScutumError, match="is not in the archive as it was written"):
            catalog.check(place.store(), [lost])
    catalog.check(place.store(), [counting])
    assert len(place.verify().orphans) == 1 and not place.verify().ok


# --- later


def test_rows_that_came_late(place: Place) -> None:
    place.create(2000)
    first = place.archive()
    assert place.archive() == first and len(place.names()) == 2, "nothing is new"
    place.insert(30)
    second = place.archive()
    assert (second.part, second.rows, second.seq) == (1, 30, 2)
    place.insert(1)
    assert place.archive().part == 2
    assert catalog.months(place.entries(), "audit_logs") == {MONTH: 2031}
    place.whole()
    place.quiet()


def test_late_rows_without_a_key(place: Place) -> None:
    place.create(5)
    place.archive()
    place.sql(f"ALTER TABLE {place.relname} DROP CONSTRAINT {place.relname}_pkey")
    place.refuses(f"{place.relname} has no primary key: rows that came late cannot be told")


def test_a_column_that_came_later(place: Place) -> None:
    place.create(5)
    place.archive()
    place.sql(f"ALTER TABLE {place.relname} ADD COLUMN region text DEFAULT 'eu'")
    place.insert(3)
    assert [column.name for column in place.archive().columns][-1] == "region"
    names, rows = audit_reading.query(
        place.store(),
        "SELECT region, count(*) FROM audit_logs GROUP BY 1 ORDER BY 1",
        str(place.spool),
        place.said.append,
    )
    assert names[0] == "region" and rows == [["eu", "3"], ["", "5"]]
    audit_reading.rehydrate(
        place.database, place.store(), "audit_logs", MONTH, MONTH, str(place.spool), place.said.append
    )
    counted = place.sql("SELECT count(*), count(region) FROM audit_rehydrated.audit_logs")
    assert counted == "8|3"
    audit_reading.forget(place.database)


def test_verify_looks_into_the_files(place: Place) -> None:
    place.create(50)
    entry = place.archive()
    assert place.verify().ok and place.verify(deep=False).ok
    place_bit(place, entry.key)
    assert place.verify(deep=False).ok, "of the same size"
    [problem] = [check for check in place.verify().checks if not check["ok"]]
    assert problem["name"] == entry.key and "what is read is not what was sent" in problem["detail"]
    # A manifest of which only the hash of the rows is another.
    place_bit(place, entry.key)
    other = dataclasses.replace(entry, content="0" * 64)
    with catalog.fetched(place.store(), entry, str(place.spool)) as path:
        assert catalog.compare(entry, path) == (entry.first, entry.last)
        with pytest.raises(catalog.NotProven, match="its rows are not those that Postgres sent"):
            catalog.compare(other, path)
        with pytest.raises(catalog.NotProven, match="it has 50 rows, and 51 were archived"):
            catalog.compare(dataclasses.replace(entry, rows=51), path)


# --- reading


@pytest.fixture(name="lake", scope="session")
def fixture_lake(server: World, tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Three months, of which one has two files."""
    place = Place(server, tmp_path_factory.mktemp("lake"))
    place.create(200)
    for month in ("2026-01", "2026-02", MONTH):
        place.archive(month=month)
    place.insert(10)
    place.archive()
    place.said.clear()
    return place


def ask(place: Place, sql: str, **more: Any) -> tuple[list[str], list[list[str]]]:
    return audit_reading.query(place.store(), sql, str(place.spool), place.said.append, **more)


def test_query(lake: Place) -> None:
    lake.said.clear()
    assert ask(lake, "SELECT count(*) AS rows, min(timestamp) AS t FROM audit_logs")[1] == [
        ["610", "2026-03-01 00:00:00+00:00"]
    ]
    assert len(lake.said) == 4
    lake.said.clear()
    names, rows = ask(
        lake,
        "SELECT id, changes->>'n' AS n, org_id FROM audit_logs ORDER BY 2 DESC LIMIT 2",
        from_month="2026-02",
        to_month="2026-02",
    )
    assert names == ["id", "n", "org_id"] and [row[1:] for row in rows] == [["99", ""], ["98", ""]]
    assert lake.said == [text for text in lake.said if "month=02" in text] and len(lake.said) == 1, (
        "only what is needed"
    )
    for sql, more, says in (
        ("SELECT * FROM event_log", {}, "names no table that is archived"),
        (
            "SELECT * FROM audit_logs",
            {"from_month": "2027-01"},
            "names no table that is archived between 2027-01 and the last one",
        ),
        ("SELECT * FROM audit_logs", {"from_month": "2026-13"}, "'2026-13' is no month"),
        ("SELECT * FROM audit_logs", {"limit": 100}, "the answer has more than 100 rows"),
        ("SELECT nothing FROM audit_logs", {}, "the statement was refused: .*nothing"),
    ):
        with pytest.raises(ScutumError, match=says) as caught:
            ask(lake, sql, **more)
        assert caught.value.left and caught.value.next_step
    with (
        disk(lake.spool, "16k"),
        pytest.raises(ScutumError, match=r"scutum_audit_spool: .*needed for 4 files of the archive; give --from"),
    ):
        ask(lake, "SELECT * FROM audit_logs")
    lake.quiet()


REACHING = [
    "SELECT * FROM read_text('/etc/passwd'), audit_logs", "COPY (SELECT * FROM audit_logs) TO '/tmp/scutum-stolen.csv'",
    "CREATE TABLE x AS SELECT * FROM read_csv('/etc/passwd') -- audit_logs", "ATTACH '/tmp/x.db' AS audit_logs",
    "INSTALL httpfs; -- audit_logs", "SET enable_external_access = true; -- audit_logs",
    "SET allowed_paths = ['/etc/passwd']; -- audit_logs", "SELECT * FROM audit_logs, glob('/etc/*')",
    "SELECT * FROM read_parquet('https://example.com/x.parquet') -- audit_logs", "EXPORT DATABASE '/tmp/scutum-stolen' -- audit_logs",
    "LOAD '/tmp/x.duckdb_extension' -- audit_logs", "SELECT 1; COPY (SELECT 1) TO '/tmp/scutum-stolen.csv' -- audit_logs",
]  # fmt: skip


def test_a_query_reaches_nothing_else(lake: Place) -> None:
    for sql in REACHING:
        with pytest.raises(
            ScutumError, match=r"the statement was refused: .*(Permission|disabled|locked|not allowed|Cannot change)"
        ):
            ask(lake, sql, from_month="2026-01", to_month="2026-01")
    assert not Path("/tmp/scutum-stolen.csv").exists() and not Path("/tmp/scutum-stolen").exists()
    lake.quiet()


def test_rehydrate(lake: Place) -> None:
    def load(first: str, last: str) -> dict[str, Any]:
        return audit_reading.rehydrate(
            lake.database, lake.store(), "audit_logs", first, last, str(lake.spool), lake.said.append
        )

    found = load("2026-02", "2026-03")
    assert (found["table"], found["months"], found["rows"]) == (
        "audit_rehydrated.audit_logs",
        ["2026-02", "2026-03"],
        410,
    )
    counted = "SELECT count(*) FROM audit_rehydrated.audit_logs"
    assert lake.sql(counted) == "410" and len(found["loaded"]) == 3
    again = load("2026-02", "2026-03")
    assert (
        again["rows"] == 0
        and again["loaded"] == []
        and again["months"] == found["months"]
        and lake.sql(counted) == "410"
    )
    # A file that is not as it was: nothing of that call is there.
    place_bit(lake, catalog.file_key("audit_logs", "2026-01", 0))
    with pytest.raises(ScutumError, match="month=01/part-0000.parquet: what is read is not what was sent"):
        load("2026-01", "2026-03")
    assert lake.sql(counted) == "410"
    with pytest.raises(ScutumError, match="no month of audit_logs is archived between 2025-01 and 2025-02"):
        load("2025-01", "2025-02")
    # A manifest that somebody wrote: what it says never becomes a statement.
    key = catalog.manifest_key("audit_logs", 1)
    held = lake.store(proxy=False).get(key)
    for text, says in (
        ("text); DROP SCHEMA audit_rehydrated CASCADE; --", "names a type that is none"),
        ("public.gone", "has no type 'public.gone'"),
    ):
        altered = held.replace(b'"type": "jsonb"', b'"type": "%s"' % text.encode())
        assert altered != held
        lake.world.s3.put_object(Bucket=BUCKET, Key=f"{lake.settings['prefix']}/{key}", Body=altered)
        with pytest.raises(ScutumError, match=says):
            load("2026-01", "2026-01")
        assert lake.sql(counted) == "410"
    lake.world.s3.put_object(Bucket=BUCKET, Key=f"{lake.settings['prefix']}/{key}", Body=held)
    # A row that somebody put there makes the count wrong: the next load says so.
    place_bit(lake, catalog.file_key("audit_logs", "2026-01", 0))
    lake.sql("INSERT INTO audit_rehydrated.audit_logs SELECT * FROM audit_rehydrated.audit_logs LIMIT 1")
    with pytest.raises(ScutumError, match="not all rows arrived in audit_rehydrated, or somebody changed") as caught:
        load("2026-01", "2026-01")
    assert caught.value.left.startswith("nothing was loaded") and lake.sql(counted) == "411"
    assert lake.sql("SELECT privilege_type FROM information_schema.role_table_grants WHERE table_schema = 'audit_rehydrated' "
                    "AND table_name = 'audit_logs'") == "SELECT"  # fmt: skip
    assert audit_reading.forget(lake.database) == 1
    assert lake.sql("SELECT count(*) FROM pg_namespace WHERE nspname = 'audit_rehydrated'") == "0"
    assert audit_reading.forget(lake.database) == 0 and load("2026-01", "2026-03")["rows"] == 610
    audit_reading.forget(lake.database)
    lake.quiet()
