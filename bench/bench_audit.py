"""make bench NAME=audit: what converting, splitting and archiving the audit history costs whoever inserts, asks, or waits for it.

BENCH_ROWS=100000 BENCH_ROUNDS=1 BENCH_CONVERSIONS=1 make bench NAME=audit tries it out; the defaults take about 30 minutes of a
quiet machine and 30 GB of its disk.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

import _measure as measure
import psycopg
from _audit_world import FOLDER, NAME, USER, Insert, World, docker, longest, reference_python
from ansible_collections.scutum.ops.plugins.module_utils import partition_conversion, partitions
from bench_backup import PARTITION, Bench

ROWS = int(float(os.environ.get("BENCH_ROWS", "4e6")))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
CONVERSIONS = int(os.environ.get("BENCH_CONVERSIONS", "5"))
IDLE = 10.0
TABLE, MONTH = "audit_logs", "2025-03"
# Its documentation's way of converting online, with its own defaults: the old table becomes the DEFAULT partition.
PARTMAN = """
CREATE SCHEMA partman; CREATE EXTENSION pg_partman SCHEMA partman;
BEGIN;
ALTER TABLE audit_logs RENAME TO audit_logs_whole;
ALTER TABLE audit_logs_whole ALTER "timestamp" SET NOT NULL, DROP CONSTRAINT audit_logs_pkey;
CREATE TABLE audit_logs (LIKE audit_logs_whole INCLUDING DEFAULTS) PARTITION BY RANGE ("timestamp");
DO $$ DECLARE made text; BEGIN
  FOR made IN SELECT regexp_replace(pg_get_indexdef(indexrelid), '^CREATE INDEX .* ON public.audit_logs_whole',
                                    'CREATE INDEX ON public.audit_logs')
    FROM pg_index WHERE indrelid = 'audit_logs_whole'::regclass LOOP EXECUTE made; END LOOP;
END $$;
SELECT partman.create_parent('public.audit_logs', 'timestamp', '1 month', p_default_table := false,
  p_start_partition := date_trunc('month', now() + interval '1 month')::text);
ALTER TABLE audit_logs ATTACH PARTITION audit_logs_whole DEFAULT;
COMMIT;
"""
MOVE = "CALL partman.partition_data_proc('public.audit_logs')"
# A month's rows are as large as those of the figures that the goals come from, 826 MB a million as binary COPY: what was changed is told in
# full, and by which browser.
TEXT = " || ".join(f"md5(n || '{letter}')" for letter in "abcdefgh")
LARGER = (
    ("'field', 'f' || n % 9)", f"'field', 'f' || n % 9, 'text', {TEXT})"),
    (
        "'scutum-ui/1.' || n % 7)",
        "'Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/1' || n % 47 || '.0.0.0 Safari/537.36', "
        "'path', '/api/v1/' || kind || '/' || md5(n::text), 'ms', n % 977)",
    ),
)
# As admin-api builds it, for a week in the middle of three years.
QUERY = "SELECT * FROM audit_logs WHERE true AND timestamp >= %s AND timestamp <= %s ORDER BY timestamp DESC LIMIT {limit} OFFSET 0"
WEEK = "SELECT date_trunc('day', now() - interval '18 months'), date_trunc('day', now() - interval '18 months') + interval '7 days'"


def fill(world: World, name: str, rows: float, months: int) -> None:
    """Realistic rows, over months until now."""
    generator = [sys.executable, "testbed/standin/generate_audit.py", "--rows", str(rows), "--months", str(months)]
    subprocess.run([*generator, "--psql", world.psql(name)], cwd=measure.ROOT, check=True, stdout=subprocess.DEVNULL)
    world.settle(name)


def converted(bench: Bench, world: World, name: str) -> float:
    """Our conversion, with the split: seconds. It has to have done what it says."""
    database, start = world.database(name), time.perf_counter()
    partition_conversion.convert(database, TABLE, 3, bench.say)
    took = time.perf_counter() - start
    left = [part.name for part in partitions.look(database, TABLE).parts if part.kind not in ("month", "default")]
    if left:
        raise SystemExit(f"{name}: not every month has its partition: {', '.join(left)}")
    return took


def converting(bench: Bench, world: World) -> None:
    """One conversion under inserts: the longest wait before and during it, and how long it took."""
    world.copy("live")
    before = int(world.sql("live", f"SELECT count(*) FROM {TABLE}"))
    with world.inserting("live") as seen:
        time.sleep(IDLE)
        begin = time.time()
        took = converted(bench, world, "live")
        end = time.time()
    if not all(insert.good for insert in seen):
        raise SystemExit("an insert failed while the table was converted")
    after = int(world.sql("live", f"SELECT count(*) FROM {TABLE}"))
    if after != before + len(seen):
        raise SystemExit(f"{after} rows are there, {before} were, and {len(seen)} were inserted")
    during = [insert for insert in seen if begin <= insert.begun <= end]
    bench.add("conversion", took)
    bench.add("max_wait_ms", longest(seen, begin, end))
    bench.add("idle_max_wait_ms", longest(seen, begin - IDLE, begin - 0.1))
    bench.add("inserts_a_second", len(during) / took)
    slowest = max(during, key=lambda insert: insert.took)
    idle = bench.samples["idle_max_wait_ms"][-1]
    bench.say(
        f"conversion: {took:.1f} s, longest wait {bench.samples['max_wait_ms'][-1]:.1f} ms, {slowest.begun - begin:.1f} s after its begin; "
        f"idle {idle:.1f} ms"
    )


def copy_and_rename(bench: Bench, world: World) -> None:
    """The reference for waiting: one transaction."""
    world.copy("whole")
    with world.inserting("whole") as seen:
        time.sleep(1)
        begin = time.time()
        world.sql("whole", PARTITION)
    bench.add("copy_and_rename_max_wait_ms", longest(seen, begin, time.time()))
    bench.say(f"copy and rename: longest wait {bench.samples['copy_and_rename_max_wait_ms'][-1]:.0f} ms")
    world.drop("whole")


def partman(bench: Bench, world: World) -> str:
    """pg_partman on the same table under the same inserts: until it is done, or fails; what it said then."""
    world.copy("partman")
    seen: list[Insert]
    with world.inserting("partman") as seen:
        time.sleep(1)
        begin = time.time()
        world.sql("partman", PARTMAN)
        done = subprocess.run([*world.psql("partman").split(), "-c", MOVE], capture_output=True, text=True, check=False)
        end = time.time()
    left = world.sql("partman", "SELECT count(*) FROM audit_logs_whole")
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()[-1:]
    said = f"failed: {errors[0]}" if done.returncode else "done"
    bench.add("partman", end - begin)
    bench.add("partman_max_wait_ms", longest(seen, begin, end))
    bench.say(
        f"pg_partman: {end - begin:.1f} s, longest wait {bench.samples['partman_max_wait_ms'][-1]:.0f} ms, {said}, {left} rows in DEFAULT"
    )
    world.drop("partman")
    return f"{said}; {left} rows were still in DEFAULT"


def one_month(bench: Bench, world: World, name: str, rows: int) -> str:
    """A database whose audit table has so many rows of one month; its partition."""
    sys.path.insert(0, str(measure.ROOT / "testbed/standin"))
    from generate_audit import MONTH as STATEMENT

    world.drop(name)
    world.sql("postgres", f"CREATE DATABASE {name} TEMPLATE {USER}_empty STRATEGY file_copy")
    when = (
        "now() - interval '{age} months' + interval '1 month'",
        f"timestamptz '{MONTH}-01 00:00:00+00' + interval '30 days'",
    )
    placed = STATEMENT
    for text, other in (when, *LARGER):
        assert text in placed, text
        placed = placed.replace(text, other)
    world.sql(name, placed.format(seed=0.5, age=0, rows=rows))
    world.settle(name)
    converted(bench, world, name)
    world.settle(name)
    [part] = [part for part in partitions.look(world.database(name), TABLE).parts if part.month == MONTH]
    bench.say(f"{name}: {rows} rows of one month, {part.bytes / 1e6:.0f} MB")
    return part.name


def child(*command: str) -> dict[str, Any]:
    """A program of this folder: what it says."""
    done = subprocess.run(command, cwd=measure.ROOT / "bench", capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[1]}: {done.stdout[-2000:]}{done.stderr[-4000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def archived(bench: Bench, world: World, name: str, relation: str) -> dict[str, Any]:
    """Ours, into an empty store."""
    subprocess.run(["rm", "-rf", str(FOLDER / "store"), str(FOLDER / "spool")], check=True)
    for place in ("store", "spool"):
        (FOLDER / place).mkdir()
    given = {"directory": str(FOLDER / "scutum"), "container": world.container, "user": USER, "database": name, "relation": relation,
             "month": MONTH, "store": str(FOLDER / "store"), "spool": str(FOLDER / "spool")}  # fmt: skip
    said = child(sys.executable, "_audit_archiver.py", json.dumps(given))
    bench.say(f"archived {name}: {json.dumps({key: round(value, 1) for key, value in said.items()})}")
    return said


def archives(bench: Bench, world: World) -> int:
    """Ours, the reference and the bare copy on one month, then ours on four times as many rows: bytes of the first as binary COPY."""
    python = reference_python()
    month = max(ROWS // 4, 1000)
    relation = one_month(bench, world, "month_small", month)
    copy = f"psql -X -U {USER} -d month_small -c 'COPY public.{relation} TO STDOUT (FORMAT binary)'"
    raw, size = f"{copy} > /dev/null", int(docker("exec", NAME, "sh", "-c", f"{copy} | wc -c"))
    for _round in range(ROUNDS):
        [took] = measure.seconds(["docker", "exec", NAME, "sh", "-c", raw], repeat=1)
        bench.add("raw_copy", took)
        said = archived(bench, world, "month_small", relation)
        bench.add("archive", said["seconds"])
        bench.add("archive_peak_mb", said["peak_mb"])
        if said["rows"] != month:
            raise SystemExit(f"{said['rows']} rows were archived, {month} are there")
        told = child(
            python, "_audit_reference.py", world.dsn("month_small"), relation, str(FOLDER / "reference.parquet")
        )
        bench.add("psycopg", told["seconds"])
        bench.add("psycopg_peak_mb", told["peak_mb"])
        bench.say(f"raw copy {took:.1f} s, psycopg {told['seconds']:.1f} s, ours {said['seconds']:.1f} s")
    world.drop("month_small")
    relation = one_month(bench, world, "month_large", 4 * month)
    said = archived(bench, world, "month_large", relation)
    bench.add("archive_large", said["seconds"])
    bench.add("archive_large_peak_mb", said["peak_mb"])
    world.drop("month_large")
    return size


def asked(bench: Bench, world: World) -> None:
    """The week's query on the plain table and on the converted one, in turn, prepared as admin-api's driver prepares."""
    world.settle("live")
    world.settle(USER)
    week = world.sql(USER, WEEK).split("|")
    lines = {place: psycopg.connect(world.dsn(place), autocommit=True) for place in (USER, "live")}
    for limit in (100, 1000):
        for turn in range(420):
            for place, line in lines.items():
                start = time.perf_counter()
                found = line.execute(QUERY.format(limit=limit), week, prepare=True).fetchall()
                # The first ones are planned for their values, and fill the caches.
                if turn >= 20:
                    bench.add(
                        f"week_{limit}_{'plain' if place == USER else 'converted'}_ms",
                        (time.perf_counter() - start) * 1000,
                    )
                if not found:
                    raise SystemExit("the week has no rows")
    for line in lines.values():
        line.close()


def run(bench: Bench, world: World) -> dict[str, Any]:
    """All of it: what setup tells beside the samples."""
    world.sql("postgres", f"CREATE DATABASE {USER}_empty TEMPLATE {USER}")
    fill(world, USER, ROWS, 36)
    size = int(world.sql(USER, f"SELECT pg_total_relation_size('{TABLE}')"))
    bench.say(f"{ROWS} rows over 36 months: {size / 1e9:.2f} GB")
    told = ""
    for number in range(max(CONVERSIONS, ROUNDS)):
        if number < ROUNDS:
            told = partman(bench, world)
        if not number:
            copy_and_rename(bench, world)
        if number < CONVERSIONS:
            converting(bench, world)
    asked(bench, world)
    world.drop("live")
    month = archives(bench, world)
    return {
        "rows": ROWS,
        "month_rows": ROWS // 4,
        "month_bytes_as_binary_copy": month,
        "table_bytes": size,
        "pg_partman": told,
        "postgres": world.sql(USER, "SHOW server_version"),
    }


def main() -> None:
    """Everything, and the server away at its end."""
    bench = Bench()
    FOLDER.mkdir(parents=True, exist_ok=True)
    world = World()
    try:
        setup = run(bench, world)
    finally:
        world.close()
    samples = bench.samples
    middle = {name: statistics.median(values) for name, values in samples.items()}
    weeks = {name: middle[f"week_{name}_converted_ms"] / middle[f"week_{name}_plain_ms"] for name in (100, 1000)}
    measure.write(
        "audit",
        {
            "max_insert_wait_ms": (round(middle["max_wait_ms"], 1), 50, "ms"),
            "idle_max_insert_wait_ms": (round(middle["idle_max_wait_ms"], 1), None, "ms"),
            "split_speedup": (measure.ratio(samples["partman"], samples["conversion"]), 2, "x"),
            "archive_speedup": (measure.ratio(samples["psycopg"], samples["archive"]), 2.5, "x"),
            "archive_of_raw": (measure.ratio(samples["raw_copy"], samples["archive"]), 0.6, "x"),
            "archiver_peak_mb": (
                round(max(samples["archive_peak_mb"] + samples["archive_large_peak_mb"]), 1),
                350,
                "MB",
            ),
            "range_query_ratio": (round(weeks[100], 2), 1.1, "x"),
        },
        {
            **setup,
            "archiver_peak_mb": {
                "small": max(samples["archive_peak_mb"]),
                "large": max(samples["archive_large_peak_mb"]),
            },
            "copy_and_rename_max_wait_ms": middle["copy_and_rename_max_wait_ms"],
            "range_query_ratio_of_1000_rows": round(weeks[1000], 2),
            "medians": {name: round(value, 3) for name, value in middle.items()},
        },
        {name: values for name, values in samples.items() if not name.startswith("week_")},
    )


if __name__ == "__main__":
    main()
