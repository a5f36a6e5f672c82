"""For bench_audit.py: the archiver in a process of its own, so that its memory is its own.

_audit_archiver.py JSON: how long it took, what it made, and the highest resident memory of the process.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / ".cache/collections"))

from ansible_collections.scutum.ops.plugins.module_utils import audit_tables, parquet_archive
from ansible_collections.scutum.ops.plugins.module_utils.database import Database
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation
from ansible_collections.scutum.ops.plugins.module_utils.object_store import open_store


def main() -> None:
    """Command line."""
    given = json.loads(sys.argv[1])
    database = Database(Installation(given["directory"]), given["container"], given["user"], given["database"])
    store, table = open_store({"directory": given["store"]}, {}), audit_tables.table("audit_logs")
    start = time.perf_counter()
    entry = parquet_archive.archive(
        database, table, given["relation"], given["month"], store, given["spool"], lambda text: None
    )
    took = time.perf_counter() - start
    peak = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(encoding="utf-8"), re.M)
    print(json.dumps({"seconds": took, "rows": entry.rows, "bytes": entry.bytes, "peak_mb": int(peak[1]) / 1024}))


if __name__ == "__main__":
    main()
