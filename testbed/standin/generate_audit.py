"""Many realistic audit rows, fast: generate_audit.py --rows 4e6 --months 36 --psql 'docker exec -i scutum-postgres psql ...'.

The server makes them (generate_series), so nothing but one statement a month goes over the wire.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import time

MONTH = """
SELECT setseed({seed});
INSERT INTO audit_logs (timestamp, actor_id, actor_email, actor_ip, org_id, action, resource_type, resource_id,
                        resource_name, changes, request_metadata, created_at)
SELECT t, 'user-' || u, 'user-' || u || '@example.com', '10.' || u % 200 || '.' || n % 250 || '.7',
       ('00000000-0000-4000-8000-' || lpad((u % 20)::text, 12, '0'))::uuid,
       kind || '.' || (ARRAY['create', 'update', 'delete', 'read'])[1 + n % 4], kind, md5(n::text || u),
       kind || ' ' || n, jsonb_build_object('before', md5((n + 1)::text), 'after', md5((n + 2)::text), 'field', 'f' || n % 9),
       jsonb_build_object('request_id', md5((n + 3)::text), 'user_agent', 'scutum-ui/1.' || n % 7), t
  FROM (SELECT n, (random() * 500)::int AS u, (ARRAY['team', 'model', 'budget', 'key', 'license'])[1 + n % 5] AS kind,
               now() - interval '{age} months' + interval '1 month' * (n::float8 / {rows}) AS t
          FROM generate_series(1, {rows}) AS n) AS source;
"""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=float, default=1e6, help="in total (default: %(default)g)")
    parser.add_argument("--months", type=int, default=12, help="spread over the last N months (default: %(default)s)")
    parser.add_argument("--psql", required=True, help="how to call psql on the database, as one shell word")
    given = parser.parse_args()
    start = time.monotonic()
    rows = int(given.rows / given.months)
    command = [*shlex.split(given.psql), "-q", "-X", "-v", "ON_ERROR_STOP=1", "-f", "-"]
    for age in range(given.months, 0, -1):
        subprocess.run(
            command,
            input=MONTH.format(seed=1 / (age + 1), age=age, rows=rows),
            text=True,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        done = (given.months - age + 1) * rows
        print(f"{done} rows, {done / (time.monotonic() - start):.0f} rows/s", flush=True)


if __name__ == "__main__":
    main()
