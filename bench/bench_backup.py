"""make bench NAME=backup: a backup against the vendor's own line and a bare dump, its proof against a bare restore, its memory.

BENCH_ROWS=200000 BENCH_LARGE_GB=1 make bench NAME=backup tries it out; the defaults take about 35 minutes of a quiet machine.
moto holds an object three times in memory when its upload is completed: 8 GB need more than 24.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import _measure as measure
import _testbed as testbed
import boto3
import botocore.config

sys.path.insert(0, str(measure.ROOT / "molecule/_shared"))

from sources import gateway

HOST, BUCKET, REFERENCE = "bench-backup", "bench", "bench-reference"
VENDOR_FILE = "/var/backups/bench.sql.gz"
STEPS = ("pulled from the store, hashes", "restored", "rows and contents", "schema", "indexes (amcheck)")
COMPOSE = "cd /opt/scutum && docker compose --env-file config/.env -f scutum-ops.compose.yaml exec -T postgres"
# By month, with the vendor's primary key extended by what it is partitioned by; the indexes keep their names.
PARTITION = """
DO $$
DECLARE made text[]; index text; month timestamptz;
BEGIN
  SELECT array_agg(pg_get_indexdef(indexrelid)) INTO made
    FROM pg_index WHERE indrelid = 'public.audit_logs'::regclass AND NOT indisprimary;
  ALTER TABLE audit_logs RENAME TO audit_logs_whole;
  CREATE TABLE audit_logs (LIKE audit_logs_whole INCLUDING DEFAULTS, PRIMARY KEY (id, "timestamp")) PARTITION BY RANGE ("timestamp");
  CREATE TABLE audit_logs_default PARTITION OF audit_logs DEFAULT;
  FOR month IN SELECT generate_series(date_trunc('month', min("timestamp")), now(), '1 month') FROM audit_logs_whole LOOP
    EXECUTE format('CREATE TABLE audit_logs_%s PARTITION OF audit_logs FOR VALUES FROM (%L) TO (%L)',
                   to_char(month, 'YYYYMM'), month, month + interval '1 month');
  END LOOP;
  INSERT INTO audit_logs SELECT * FROM audit_logs_whole;
  DROP TABLE audit_logs_whole;
  FOREACH index IN ARRAY made LOOP EXECUTE index; END LOOP;
END $$;
"""
# What cannot be compressed: an upload that is nearly as large as its table.
NOISE = """
CREATE TABLE bench_noise (data bytea);
ALTER TABLE bench_noise ALTER data SET STORAGE EXTERNAL;
INSERT INTO bench_noise SELECT pg_read_binary_file('/dev/urandom', 0, 1 << 20) FROM generate_series(1, {mib});
"""
# Runs on the host: a whole process, the peak of its own memory, and how busy the machine's cores were meanwhile.
WATCH = """
import json, subprocess, sys, tempfile, time
def busy():
    with open("/proc/stat") as stat:
        ticks = [int(word) for word in stat.readline().split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / 100
with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
    start, used, peak = time.perf_counter(), busy(), 0
    job = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=out, stderr=err)
    while job.poll() is None:
        with open(f"/proc/{job.pid}/status") as status:
            peak = max([peak, *(int(line.split()[1]) for line in status if line.startswith("VmHWM"))])
        time.sleep(0.1)
    said = {"rc": job.returncode, "seconds": time.perf_counter() - start, "busy": busy() - used, "peak_mb": peak / 1024}
    out.seek(0), err.seek(0)
    print(json.dumps({**said, "out": out.read().decode(), "err": err.read().decode()[-4000:]}))
"""


class Bench:
    """Samples by name; each is told while it is taken."""

    def __init__(self) -> None:
        self.samples: dict[str, list[float]] = {}
        self.begin = time.monotonic()

    def say(self, text: str) -> None:
        """A line of progress."""
        print(f"[{time.monotonic() - self.begin:5.0f} s, load {os.getloadavg()[0]:.1f}] {text}", flush=True)

    def add(self, name: str, value: float) -> None:
        """A sample."""
        self.samples.setdefault(name, []).append(value)

    def timed(self, name: str, *command: str) -> dict[str, Any]:
        """A process on the host: its `out`, `seconds`, `peak_mb`. Nothing is left to be written before; a failure stops the benchmark."""
        os.sync()
        words = ["docker", "exec", "-i", HOST, "python3", "-c", WATCH, *command]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        said: dict[str, Any] = json.loads(done.stdout or "{}")
        if said.get("rc") != 0:
            raise SystemExit(f"{name}: {' '.join(command)}: {json.dumps(said, indent=1)[-6000:]}{done.stderr[-2000:]}")
        self.add(name, said["seconds"])
        self.say(f"{name}: {said['seconds']:.1f} s, {said['busy'] / said['seconds']:.2f} cores busy")
        return said


@contextlib.contextmanager
def bucket(port: int, memory: bool) -> Iterator[Any]:
    """moto in a process of its own, with an empty bucket: a client for it.

    Args:
        memory: keep everything there; else what is larger than 1 MiB goes to files.
    """
    env = {**os.environ, "MOTO_S3_DEFAULT_KEY_BUFFER_SIZE": str(1 << (40 if memory else 20))}
    command = [str(testbed.BIN / "moto_server"), "-H", "0.0.0.0", "-p", str(port)]
    server = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        client = boto3.client(
            "s3", region_name="eu-central-1", endpoint_url=f"http://127.0.0.1:{port}",
            aws_access_key_id="x", aws_secret_access_key="x",
            config=botocore.config.Config(retries={"total_max_attempts": 10}),
        )  # fmt: skip
        client.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        yield client
    finally:
        server.terminate()
        server.wait()


def on(command: str, stdin: str = "") -> str:
    """A shell command on the host."""
    return testbed.on(HOST, command, stdin)


def sql(text: str) -> str:
    """Rows of a statement on the installation's database."""
    return on(f"docker exec -i scutum-postgres psql -X -q -At -v ON_ERROR_STOP=1 {role()} -f -", text)


def role() -> str:
    """Who asks which database, as clients of Postgres are told."""
    env = dict(line.split("=", 1) for line in on("grep -E '^POSTGRES_[A-Z]+=.' /opt/scutum/config/.env").splitlines())
    return f"-U {env['POSTGRES_USER']} -d {env['POSTGRES_DB']}"


def change(bench: Bench, what: str, text: str = "") -> int:
    """Change much data, and have the server do now what it would do later: bytes of the database."""
    for statement in (text, "VACUUM ANALYZE", "CHECKPOINT"):
        sql(statement)
    size = int(sql("SELECT pg_database_size(current_database())"))
    bench.say(f"{what}: a database of {size / 1e9:.2f} GB")
    return size


def install(port: int, rows: float) -> None:
    """A clone with the bucket as its store, and audit rows of three years; no schedule may come in between."""
    build = measure.ROOT / "build" / "bench"
    build.mkdir(parents=True, exist_ok=True)
    hosts, settings = build / "backup-hosts.yml", build / "backup-settings.yml"
    testbed.clones([HOST])
    testbed.inventory(hosts, [HOST])
    store = {"bucket": BUCKET, "region": "eu-central-1", "addressing_style": "path"}
    variables = {
        "scutum_backup_store": {**store, "endpoint_url": f"http://{gateway()}:{port}"},
        "scutum_env": {"SCUTUM_BACKUP_ACCESS_KEY_ID": "bench", "SCUTUM_BACKUP_SECRET_ACCESS_KEY": "bench-secret"},
        "scutum_backup_scheduler": "none",
        "scutum_restore_verification": False,
        "scutum_audit": False,
    }
    settings.write_text(json.dumps(variables))
    measure.seconds([*testbed.playbook("playbooks/day_one.yml", hosts), "-e", f"@{settings}"], repeat=1)
    # Partitions are made below, when the time for them comes.
    on(f"scutum-ops audit-partitions --undo {HOST}")
    generator = [sys.executable, "testbed/standin/generate_audit.py", "--rows", str(rows), "--months", "36"]
    psql = f"docker exec -i {HOST} docker exec -i scutum-postgres psql {role()}"
    subprocess.run([*generator, "--psql", psql], cwd=measure.ROOT, check=True)


def back_up(bench: Bench, client: Any, name: str) -> tuple[int, float]:
    """The whole job, into an empty bucket: bytes stored, and the peak of its memory in MB."""
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for item in page.get("Contents", []):
            client.delete_object(Bucket=BUCKET, Key=item["Key"])
    run = bench.timed(name, "scutum-ops", "--json", "backup")
    size = int(json.loads(run["out"])["bytes"])
    bench.say(f"{name}: {size / 1e6:.1f} MB stored, peak {run['peak_mb']:.1f} MB")
    return size, run["peak_mb"]


def vendor(bench: Bench, name: str) -> int:
    """The whitepaper's line: bytes of its file."""
    line = f"{COMPOSE} pg_dump {role()} --clean --if-exists --no-owner | gzip -9 > {VENDOR_FILE}"
    bench.timed(name, "bash", "-o", "pipefail", "-c", line)
    return int(on(f"stat -c %s {VENDOR_FILE}"))


def restore(bench: Bench, name: str) -> None:
    """The vendor's file into a throwaway with the image's defaults, without a pipe through the engine on its way."""
    who, image = role(), on("docker inspect -f '{{.Image}}' scutum-postgres")
    user, database = who.split()[1::2]
    try:
        on(
            f"docker run -d --name {REFERENCE} -e POSTGRES_USER={user} -e POSTGRES_DB={database} -e POSTGRES_PASSWORD=x "
            f"--mount type=bind,source={VENDOR_FILE},target=/bench.sql.gz,readonly {image} && "
            f"for try in $(seq 100); do docker exec {REFERENCE} pg_isready -q -h 127.0.0.1 {who} && exit; sleep 0.3; done; exit 1"
        )
        line = f"gunzip -c /bench.sql.gz | psql -X -q {who} >/dev/null"
        bench.timed(name, "docker", "exec", REFERENCE, "bash", "-o", "pipefail", "-c", line)
        count = "SELECT count(*) FROM audit_logs"
        found = on(f"docker exec {REFERENCE} psql -X -At {who} -c '{count}'")
        if found != sql(count):
            raise SystemExit(f"the reference's restore brought {found} rows")
    finally:
        on(f"docker rm -f -v {REFERENCE}")


def verify(bench: Bench, name: str) -> None:
    """The job's own steps; what belongs to no restore (admin-api, the throwaway's start and end) apart."""
    report = json.loads(bench.timed(f"{name}_whole", "scutum-ops", "--json", "verify-restore", "--again")["out"])
    spent = {check["name"]: check["seconds"] for check in report["checks"]}
    bench.add(name, sum(spent[step] for step in STEPS))
    for step, seconds in spent.items():
        bench.add(f"{name}: {step}", seconds)
    bench.add(f"{name}: start, end and choice", report["recovery_time_seconds"] - sum(spent.values()))
    bench.say(f"{name}: " + ", ".join(f"{step} {seconds}" for step, seconds in spent.items()))


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    for option, default in (("rounds", 3), ("rows", 4_000_000), ("large-gb", 4)):
        value = os.environ.get(f"BENCH_{option.upper().replace('-', '_')}", str(default))
        parser.add_argument(f"--{option}", type=float, default=float(value), help="(default: %(default)g)")
    given = parser.parse_args()
    bench, peaks = Bench(), []
    with socket.socket() as free:
        free.bind(("0.0.0.0", 0))
        port = free.getsockname()[1]
    load = [round(os.getloadavg()[0], 1)]
    try:
        with bucket(port, memory=True) as client:
            install(port, given.rows)
            size = change(bench, "audit_logs in one piece")
            for unused in range(int(given.rounds)):
                theirs = vendor(bench, "vendor")
                bench.timed("raw", "bash", "-c", f"{COMPOSE} pg_dump {role()} -Fc -Z0 --no-sync -f /dev/null")
                bench.timed("raw_piped", "bash", "-c", f"{COMPOSE} pg_dump {role()} -Fc -Z0 > /dev/null")
                ours, peak = back_up(bench, client, "backup")
                peaks.append(peak)
            for unused in range(int(given.rounds)):
                restore(bench, "restore")
                verify(bench, "verify")
            change(bench, "audit_logs by month", PARTITION)
            vendor(bench, "vendor_partitioned")
            back_up(bench, client, "backup_partitioned")
            for unused in range(int(given.rounds)):
                restore(bench, "restore_partitioned")
                verify(bench, "verify_partitioned")
        load.append(round(os.getloadavg()[0], 1))
        large = change(bench, "with noise", NOISE.format(mib=max(1, int((given.large_gb * 1e9 - size) / 2**20))))
        with bucket(port, memory=False) as client:
            large_bytes, large_peak = back_up(bench, client, "backup_large")
    finally:
        testbed.verb("host", "rm", HOST)
    load.append(round(os.getloadavg()[0], 1))
    samples, small = bench.samples, statistics.median(peaks)
    partitioned = measure.ratio(samples["verify_partitioned"], samples["restore_partitioned"])
    measure.write(
        "backup",
        {
            "backup_speedup": (measure.ratio(samples["vendor"], samples["backup"]), 5, "x"),
            "backup_over_raw": (measure.ratio(samples["backup"], samples["raw"]), 1.5, "ratio"),
            "backup_size_ratio": (round(ours / theirs, 3), 0.9, "ratio"),
            "verify_over_restore": (measure.ratio(samples["verify"], samples["restore"]), 1.2, "ratio"),
            "verify_over_restore_partitioned": (partitioned, 0.9, "ratio"),
            "uploader_peak_mb": (round(max(small, large_peak), 1), 150, "MB"),
            "uploader_growth_mb": (round(large_peak - small, 1), None, "MB"),
        },
        {
            "rounds": given.rounds,
            "rows": given.rows,
            "load_average": load,
            "database_gb": [round(size / 1e9, 2), round(large / 1e9, 2)],
            "bytes": {"vendor": theirs, "backup": ours, "backup_large": large_bytes},
            "peaks_mb": [round(peak, 1) for peak in (*peaks, large_peak)],
            "store": "moto in a process of its own on the same cores; in memory, for the large one in files",
            "large": "the same data, and bytea that cannot be compressed",
            "raw": "pg_dump -Fc -Z0 --no-sync -f /dev/null in the container; raw_piped: through docker compose exec",
            "restore": "gunzip | psql in a container of the same image with its defaults, from a file there",
            "verify": f"the sum of {'; '.join(STEPS)}; the other steps and the whole are among the samples",
        },
        samples,
    )


if __name__ == "__main__":
    main()
