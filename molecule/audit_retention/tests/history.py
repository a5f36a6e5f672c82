"""What the tests of the audit history share: rows by a hash of their own, wherever they lie, and whoever writes and reads meanwhile."""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
import time
import uuid
from collections import Counter
from pathlib import Path

import duckdb
from scenario import Host
from store import AUDIT, S3

COLUMNS = (
    "id", "actor_id", "actor_email", "actor_ip", "org_id", "action", "resource_type", "resource_id", "resource_name", "changes",
    "request_metadata",
)  # fmt: skip
TIMES = ("timestamp", "created_at")


def _hashed(micros: str) -> str:
    """An expression that Postgres and DuckDB understand alike; how to get microseconds since 1970 they do not agree on."""
    texts = [f"coalesce({name}::text, '~')" for name in COLUMNS]
    texts += [f"coalesce({micros.format(name)}::text, '~')" for name in TIMES]
    return f"id::text || ' ' || md5(concat_ws('|', {', '.join(texts)}))"


def hot(host: Host, table: str = "audit_logs") -> Counter[str]:
    """Rows in Postgres: each as `id hash`."""
    expression = _hashed('(extract(epoch FROM "{}") * 1000000)::bigint')
    return Counter(host.psql(f"SELECT {expression} FROM {table}").splitlines())


def counting(s3: S3) -> list[str]:
    """Files of the archive that count: those that a manifest names."""
    manifests = [name for name in s3.names(AUDIT) if name.startswith("_manifests/audit_logs/")]
    return sorted(json.loads(s3.get(name, AUDIT))["key"] for name in manifests)


def archived(s3: S3, month: str = "") -> Counter[str]:
    """Rows in the archive, of one month or of all, as somebody reads them who has the files and DuckDB, and nothing of ours."""
    with tempfile.TemporaryDirectory() as folder:
        names = counting(s3)
        for name in names:
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(s3.get(name, AUDIT))
        if not names:
            return Counter()
        year, _dash, number = month.partition("-")
        where = f"WHERE year = {int(year)} AND month = {int(number)}" if month else ""
        files = f"read_parquet('{folder}/table=audit_logs/*/*/*.parquet', hive_partitioning = true)"
        expression = _hashed('epoch_us("{}")')
        rows = duckdb.connect().execute(f"SELECT {expression} FROM {files} {where}").fetchall()
    return Counter(str(row[0]) for row in rows)


def ids(rows: Counter[str]) -> Counter[str]:
    """Of rows."""
    return Counter({row.split()[0]: count for row, count in rows.items()})


class Writer:
    """Inserts 250 rows a second, each by a statement of its own that does not name a time, as the product does."""

    def __init__(self, host: Host) -> None:
        env = host.env()
        who = ["-U", env["POSTGRES_USER"], "-d", env["POSTGRES_DB"]]
        command = ["docker", "exec", "-i", host.name, "docker", "exec", "-i", "scutum-postgres", "psql", "-X", "-q"]
        self.process = subprocess.Popen(
            [*command, "-v", "ON_ERROR_STOP=1", *who, "-f", "-"],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.ids: list[str] = []
        self.stopped = threading.Event()
        self.begun = time.monotonic()
        self.thread = threading.Thread(target=self._write, daemon=True)
        self.thread.start()

    def _write(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("SET synchronous_commit = off;\n")
        due = time.monotonic()
        while not self.stopped.is_set() and self.process.poll() is None:
            new = [str(uuid.uuid4()) for _number in range(5)]
            self.process.stdin.writelines(
                "INSERT INTO audit_logs(id, actor_id, action, resource_type, changes) "
                f"VALUES ('{one}', 'writer', 'team.update', 'team', '{{\"n\": 1}}');\n"
                for one in new
            )
            self.process.stdin.flush()
            self.ids += new
            due += 0.02
            time.sleep(max(0.0, due - time.monotonic()))

    def end(self) -> float:
        """Stop it: rows a second, until the last one was in. No insert may have failed."""
        self.stopped.set()
        self.thread.join()
        said = self.process.communicate()[1]
        took = time.monotonic() - self.begun
        assert self.process.returncode == 0 and not said, said
        return len(self.ids) / took


class Reader:
    """Somebody who looks at the list and takes the export all the time."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.token = host.http(8086, "/auth/login", {"api_key": host.env()["SCUTUM_API_KEY"]}).json()["access_token"]
        self.answers: Counter[int] = Counter()
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        while not self.stopped.is_set():
            for path in ("/api/v1/audit-logs?limit=50", "/api/v1/audit-logs/export?format=csv"):
                try:
                    self.answers[self.host.http(8086, path, token=self.token).status] += 1
                except OSError:
                    self.answers[0] += 1
            time.sleep(1)

    def end(self) -> Counter[int]:
        """Stop it: how often each status came."""
        self.stopped.set()
        self.thread.join()
        return self.answers
