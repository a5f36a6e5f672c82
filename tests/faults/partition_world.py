"""A Postgres of its own for partitions: a database for each case, an application that writes to it, and what has to be true afterwards."""

from __future__ import annotations

import contextlib
import importlib
import json
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from ansible_collections.scutum.ops.plugins.module_utils.database import Database
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation

ROOT = Path(__file__).resolve().parents[2]
USER, BASE, PASSWORD = "scutum", "scutum", secrets.token_hex(8)
OLDEST, NEWEST = "0.1.0", "0.5.0"
# 36 months, and what is unusual: rows on a bound, leap days, hours that DST repeats, far times, long and odd texts.
ROWS = r"""
INSERT INTO audit_logs (timestamp, actor_id, actor_email, org_id, action, resource_type, resource_name, changes, created_at)
  SELECT t, 'user-' || n % 50, 'u@example.com', gen_random_uuid(), 'team.create', 'team', md5(n::text), jsonb_build_object('n', n), t
    FROM (SELECT n, now() - interval '36 months' + n * interval '36 months' / 3600 AS t FROM generate_series(1, 3599) n) s;
INSERT INTO audit_logs (timestamp, actor_id, action, resource_type, created_at)
  SELECT t::timestamptz, 'edge', 'a', 'r', now() FROM unnest(ARRAY['2024-02-29 23:59:59.999999+00', '2024-03-01 00:00:00+00',
    '2024-02-29 00:00:00+00', '2025-01-01 00:00:00+00', '2024-12-31 23:59:59.999999+00', '2024-11-03 05:30:00+00', '2024-11-03 06:30:00+00',
    '2025-03-09 07:00:00+00', '1999-06-15 12:00:00+00', 'infinity', '-infinity', '4000-01-01 00:00:00+00', '0044-03-15 00:00:00+00 BC',
    '2031-07-01 00:00:00+00']) t;
INSERT INTO audit_logs (timestamp, actor_id, action, resource_type, created_at) VALUES
  (NULL, 'null', 'a', 'r', '2025-05-05 05:05:05+00'), (NULL, 'null', 'a', 'r', '2024-02-29 12:00:00+00');
INSERT INTO audit_logs (actor_id, action, resource_type, resource_name, changes) VALUES
  ('odd', 'a', 'r', E'line\nbreak \x1f \\ '' " $d$ ; -- end of answer -- 😀 \u0301', '{"a": "\u2028 \\ \" '' :x"}'),
  ('', '', '', '', 'null'), ('long', 'a', 'r', 'x', jsonb_build_object('long', repeat('änderung ', 200000)));
"""
INSERT = (
    "INSERT INTO audit_logs (actor_id, actor_ip, action, resource_type, resource_name, changes) VALUES (%s, %s, %s, %s, %s, %s::jsonb) "
    "RETURNING hash_record_extended(ROW(audit_logs.*), 0)"
)
HASHES = "SELECT count(*), coalesce(sum(hash_record_extended(ROW({}), 0)::numeric), 0) FROM {} t"

# What a backup does not compare, and an application would notice all the same.
MORE_SCHEMA = """
SELECT 'sequence ' || s.oid::regclass || ' of', d.refobjid::regclass || ':' || d.refobjsubid
  FROM pg_class s JOIN pg_depend d ON d.objid = s.oid AND d.deptype = 'a' AND d.refclassid = 'pg_class'::regclass WHERE s.relkind = 'S'
UNION ALL
SELECT 'options ' || oid::regclass, reloptions::text FROM pg_class
 WHERE reloptions IS NOT NULL AND relnamespace = 'public'::regnamespace
UNION ALL
SELECT 'settings ' || attrelid::regclass || '.' || attname, concat(nullif(attstattarget, -1), ' ', attstorage, attcompression, ' ',
       (SELECT string_agg(o, ' ') FROM unnest(attoptions) o WHERE o LIKE 'n_distinct%'))
  FROM pg_attribute WHERE attnum > 0 AND NOT attisdropped AND attrelid IN (
       SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p'))
UNION ALL
SELECT 'trigger state ' || tgname, tgenabled::text FROM pg_trigger WHERE NOT tgisinternal AND tgparentid = 0
"""


def docker(*words: str, stdin: str | None = None) -> str:
    """One call of the command line."""
    done = subprocess.run(["docker", *words], input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"docker {' '.join(words[:4])} …: {done.stderr[-800:]}"
    return done.stdout.strip()


class World:
    """The server. Its database `scutum` is migrated, and copied for each case."""

    def __init__(self, folder: Path, image: str = "") -> None:
        sys.path.insert(0, str(ROOT / "testbed"))
        built = importlib.import_module("build_images").ensure_images((OLDEST, NEWEST))
        self.images = {(one.repository, one.tag): one.local for one in built}
        self.image = image or next(one.local for one in built if one.repository == "library/postgres")
        self.project = f"scutum-partitions-{secrets.token_hex(4)}"
        (folder / "config").mkdir(parents=True)
        (folder / "config/.env").write_text(f"POSTGRES_USER={USER}\nPOSTGRES_DB={BASE}\nPOSTGRES_PASSWORD={PASSWORD}\n")
        (folder / "docker-compose.yaml").write_text("services: {postgres: {image: postgres}}\n")
        self.installation = Installation(str(folder))
        self.network = docker("network", "create", self.project)
        env = {"POSTGRES_USER": USER, "POSTGRES_DB": BASE, "POSTGRES_PASSWORD": PASSWORD}
        given = [word for key, value in env.items() for word in ("-e", f"{key}={value}")]
        run = (
            "run",
            "-d",
            "--name",
            self.project,
            "--network",
            self.network,
            "--network-alias",
            "postgres",
            "-p",
            "127.0.0.1::5432",
            *given,
        )
        settings = ("fsync=off", "max_connections=200", "wal_level=logical")
        options = [word for setting in settings for word in ("-c", setting)]
        self.container = docker(*run, self.image, "postgres", *options)
        self.wait()
        self.migrate(OLDEST, BASE)

    @property
    def port(self) -> int:
        """Of the server, on this host; another one after each start."""
        return int(docker("port", self.container, "5432/tcp").splitlines()[0].rsplit(":", 1)[1])

    def wait(self) -> None:
        """For the server."""
        end = time.monotonic() + 60
        ready = ["docker", "exec", self.container, "pg_isready", "-q", "-h", "127.0.0.1", "-U", USER]
        while subprocess.run(ready, check=False, capture_output=True).returncode:
            assert time.monotonic() < end, "Postgres does not answer"
            time.sleep(0.2)

    def migrate(self, version: str, name: str) -> str:
        """What a release's admin-api does at its start; its words."""
        url = f"DATABASE_URL=postgresql://{USER}:{PASSWORD}@postgres:5432/{name}"
        image = self.images["scutum-dev/scutum-admin-api", version]
        return docker("run", "--rm", "--network", self.network, "-e", url, image, "alembic", "upgrade", "head")

    def close(self) -> None:
        """Remove it."""
        docker("rm", "-f", "-v", self.container)
        docker("network", "rm", self.network)


class Case:
    """A database of its own."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.said: list[str] = []
        with world_connection(world, "postgres") as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {BASE} STRATEGY file_copy")
        self.database = Database(world.installation, world.container, USER, name)

    def sql(self, text: str) -> list[tuple[Any, ...]]:
        """Statements; rows of the last one."""
        with world_connection(self.world, self.name) as connection:
            cursor = connection.execute(text)
            while cursor.nextset():
                pass
            return cursor.fetchall() if cursor.description else []

    def one(self, text: str) -> Any:
        """The one value of a query."""
        return self.sql(text)[0][0]

    def say(self, text: str) -> None:
        """Takes words."""
        self.said.append(text)

    def content(self, table: str = "public.audit_logs", columns: str = "t.*") -> tuple[int, int]:
        """Number of rows, and the sum of their hashes: equal for equal multisets."""
        count, total = self.sql(HASHES.format(columns, table))[0]
        return int(count), int(total)

    def schema(self) -> dict[str, str]:
        """Every object with its definition, as a backup compares it."""
        with self.database.snapshot() as snapshot:
            found = snapshot.schema()
        extra = self.sql(MORE_SCHEMA)
        return found | {str(name): str(value) for name, value in extra}

    def nothing_left(self) -> None:
        """Of an operation."""
        left = self.sql(
            "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'scutum%' UNION ALL "
            "SELECT tgname FROM pg_trigger WHERE tgname LIKE 'scutum%' UNION ALL "
            "SELECT conname FROM pg_constraint WHERE conname LIKE 'scutum%'"
        )
        assert left == []

    def close(self) -> None:
        """Remove it."""
        with world_connection(self.world, "postgres") as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {self.name} WITH (FORCE)")


def world_connection(world: World, name: str) -> psycopg.Connection[tuple[Any, ...]]:
    """A connection over the network, as the application has one."""
    return psycopg.connect(
        host="127.0.0.1", port=world.port, user=USER, password=PASSWORD, dbname=name, autocommit=True
    )


class Writer(threading.Thread):
    """The application: inserts at a steady pace, each of them noted with its hash. One that fails is a lost row."""

    def __init__(self, case: Case, pace: float = 125, prepared: bool = True) -> None:
        super().__init__(daemon=True)
        self.case, self.pace, self.prepared = case, pace, prepared
        self.rows = self.total = 0
        self.waits: list[float] = []
        self.failed: list[str] = []
        self.ended = threading.Event()

    def run(self) -> None:
        with world_connection(self.case.world, self.case.name) as connection:
            connection.prepare_threshold = 2 if self.prepared else None
            start, number = time.monotonic(), 0
            while not self.ended.is_set():
                number += 1
                values = (
                    f"live-{number % 9}",
                    "10.0.0.1",
                    "key.use",
                    "key",
                    f"n{number}",
                    json.dumps({"number": number}),
                )
                begun = time.monotonic()
                try:
                    row = connection.execute(INSERT, values).fetchone()
                    assert row
                    self.rows, self.total = self.rows + 1, self.total + int(row[0])
                except psycopg.Error as error:
                    self.failed.append(str(error))
                    if connection.closed:
                        return
                self.waits.append(time.monotonic() - begun)
                # Late ones are not made up for: the application would have waited as well.
                time.sleep(max(0.0, start + number / self.pace - time.monotonic()))
                if time.monotonic() > start + number / self.pace + 1:
                    start = time.monotonic() - number / self.pace


@contextlib.contextmanager
def writing(case: Case) -> Iterator[list[Writer]]:
    """Two applications write, 250 rows a second in all; no insert may fail."""
    writers = [Writer(case, prepared=True), Writer(case, prepared=False)]
    for writer in writers:
        writer.start()
    try:
        time.sleep(0.3)
        yield writers
        time.sleep(0.3)
    finally:
        for writer in writers:
            writer.ended.set()
        for writer in writers:
            writer.join(30)
    assert [text for writer in writers for text in writer.failed] == []


def total(before: tuple[int, int], writers: list[Writer]) -> tuple[int, int]:
    """What a table has to hold after all that was written."""
    return before[0] + sum(w.rows for w in writers), before[1] + sum(w.total for w in writers)


def longest(writers: list[Writer]) -> float:
    """The longest wait of an insert, in ms."""
    return max(wait for writer in writers for wait in writer.waits) * 1000
