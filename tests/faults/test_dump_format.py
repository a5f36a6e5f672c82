"""What a real pg_dump writes into a pipe, cut anywhere: it has to be noticed, as the server's own pg_restore would notice it."""

from __future__ import annotations

import random
import subprocess

import pytest
from ansible_collections.scutum.ops.plugins.module_utils.dump_format import Followed, NotWholeError
from world import USER, Case

_NAME = "lengths"
_CONTENT = """
CREATE TABLE empty(id int);
CREATE TABLE "odd.näme"(t text);
INSERT INTO "odd.näme" SELECT repeat(md5(i::text), 20) FROM generate_series(1, 2000) i;
SELECT lo_from_bytea(0, decode(repeat('ab', 5000 * i), 'hex')) FROM generate_series(0, 3) i;
COMMENT ON TABLE empty IS 'of nothing';
"""


def _whole(data: bytes) -> bool:
    try:
        return b"".join(Followed(data[place : place + 997] for place in range(0, len(data), 997))) == data
    except NotWholeError:
        return False


@pytest.mark.parametrize("method", ["0", "6", "zstd:level=1", "lz4"])
def test_real_dumps(case: Case, method: str) -> None:
    container = case.world.postgres
    case.world.sql(f"DROP DATABASE IF EXISTS {_NAME}", "postgres")
    case.world.sql(f"CREATE DATABASE {_NAME}", "postgres")
    try:
        case.world.sql(_CONTENT, _NAME)
        # Into a pipe, as a backup is: into a file it would write its table of contents a second time.
        line = f"pg_dump -Fc -Z {method} -U {USER} {_NAME} | cat"
        data = subprocess.run(["docker", "exec", container, "sh", "-c", line], check=True, capture_output=True).stdout
    finally:
        case.world.sql(f"DROP DATABASE {_NAME}", "postgres")
    assert _whole(data)
    assert not _whole(data + b"\x01")
    chosen = random.Random(7)
    assert not [
        cut for cut in [len(data) - 1, *(chosen.randrange(len(data)) for unused in range(300))] if _whole(data[:cut])
    ]
    # What pg_restore takes for whole is whole here, and the other way about.
    for cut in [len(data), len(data) - 1, *(chosen.randrange(len(data)) for unused in range(4))]:
        restored = subprocess.run(
            ["docker", "exec", "-i", container, "pg_restore", "-f", "/dev/null"],
            input=data[:cut],
            capture_output=True,
            check=False,
        )
        assert (restored.returncode == 0) == (cut == len(data)) == _whole(data[:cut]), cut
