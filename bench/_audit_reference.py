"""For bench_audit.py: what one would write first, psycopg's server cursor into pyarrow, without a read-back.

_audit_reference.py DSN RELATION FILE: how long it took, and the highest resident memory. It needs a venv with pyarrow.
"""

from __future__ import annotations

import json
import resource
import sys
import time

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq

BATCH = 20_000
TEXT, TIME = pa.string(), pa.timestamp("us", tz="UTC")
# Texts already for uuid and jsonb: nothing is parsed only to be written again.
COLUMNS = {
    "id::text": TEXT, '"timestamp"': TIME, "actor_id": TEXT, "actor_email": TEXT, "actor_ip": TEXT, "org_id::text": TEXT, "action": TEXT,
    "resource_type": TEXT, "resource_id": TEXT, "resource_name": TEXT, "changes::text": TEXT, "request_metadata::text": TEXT,
    "created_at": TIME,
}  # fmt: skip


def main() -> None:
    """Command line."""
    dsn, relation, path = sys.argv[1:4]
    schema = pa.schema([(name.partition("::")[0].strip('"'), kind) for name, kind in COLUMNS.items()])
    start, rows = time.perf_counter(), 0
    with psycopg.connect(dsn) as connection, connection.cursor(name="reference") as cursor:
        connection.execute("SET timezone = 'UTC'")
        cursor.itersize = BATCH
        cursor.execute(f"SELECT {', '.join(COLUMNS)} FROM {relation}")
        with pq.ParquetWriter(path, schema, compression="zstd", compression_level=3) as writer:
            while batch := cursor.fetchmany(BATCH):
                arrays = [
                    pa.array(column, type=kind)
                    for column, kind in zip(zip(*batch, strict=True), COLUMNS.values(), strict=True)
                ]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
                rows += len(batch)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": time.perf_counter() - start, "rows": rows, "peak_mb": peak}))


if __name__ == "__main__":
    main()
