"""For bench_audit.py: one client that inserts audit rows as the product does, and how long each insert took.

_audit_writer.py FILE RATE DSN: until its standard input ends. A line for each: when it began (seconds since 1970), how long it took,
whether it went well.
"""

from __future__ import annotations

import gc
import sys
import threading
import time

import psycopg

INSERT = (
    "INSERT INTO audit_logs (actor_id, actor_ip, action, resource_type, resource_name, changes) "
    "VALUES (%s, '10.0.0.7', 'team.update', 'team', %s, '{\"field\": \"budget\"}')"
)


def main() -> None:
    """Command line."""
    path, rate, dsn = sys.argv[1], float(sys.argv[2]), sys.argv[3]
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), stop.set()), daemon=True).start()
    gc.disable()
    with psycopg.connect(dsn, autocommit=True) as connection, open(path, "w", encoding="utf-8") as out:
        due, number = time.perf_counter(), 0
        while not stop.is_set():
            begun, start, good, number = time.time(), time.perf_counter(), 1, number + 1
            try:
                connection.execute(INSERT, ("bench", f"row {number}"))
            except psycopg.Error as error:
                good = 0
                print(error, file=sys.stderr, flush=True)
            now = time.perf_counter()
            out.write(f"{begun} {now - start} {good}\n")
            # What a wait held up is not made up for: one client, at most its rate.
            due = max(due + 1 / rate, now)
            time.sleep(max(0.0, due - now))


if __name__ == "__main__":
    main()
