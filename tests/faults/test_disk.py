"""Faults of disks: a small one of its own stands for each that can be full."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from faults import BORNE, DISK, Fault
from proxy import Rule
from world import Case

# A throwaway whose data lie on a disk of their own, which is full when the restore begins.
FULL = """
case "$1 $*" in
"run "*" postgres "*) shift; exec docker run --tmpfs /var/lib/postgresql/data:size=200m "$@" ;;
*"pg_restore --exit-on-error"*) docker exec $3 sh -c 'cat /dev/zero > /var/lib/postgresql/data/filler' 2> /dev/null ;;
esac
exec docker "$@"
"""


@contextlib.contextmanager
def disk(path: Path, size: str) -> Iterator[Path]:
    """A directory becomes a disk; what was in it stays."""
    path.mkdir(exist_ok=True)
    held = path.with_name(path.name + ".held")
    shutil.copytree(path, held)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=True)
    try:
        shutil.copytree(held, path, dirs_exist_ok=True)
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill(path: Path) -> None:
    """To the last byte."""
    with contextlib.suppress(OSError), (path / "filler").open("wb", buffering=0) as handle:
        while True:
            handle.write(bytes(4096))


@pytest.mark.parametrize("fault", DISK, ids=str)
def test_disk(case: Case, fault: Fault) -> None:
    before, private, name = case.counting(), case.directory / ".scutum-ops", fault.how
    if name in ("small", "spool"):
        with disk(case.folder / "spool", "2m" if name == "small" else "9m") as spool:
            case.world.proxy.reset(Rule("GET", "database.dump", "call"))
            case.world.proxy.hook = lambda: fill(spool)
            case.unproven(fault, spool=str(spool))
            assert [path.name for path in spool.iterdir()] == ([] if name == "small" else ["filler"])
    elif name == "throwaway":
        case.shim(FULL, "-d")
        case.unproven(fault)
    elif name == "private":
        with disk(private, "1m"):
            fill(private)
            with pytest.raises(ScutumError, match=fault.says) as caught:
                case.backup()
            # The record cannot say it; people and the metrics do.
            assert [told["event"] for told in case.world.proxy.told] == ["backup.failed"]
            assert case.metric("up") == 0 and caught.value.left and caught.value.next_step
            assert "last_failure" not in case.status() and case.counting() == before
    elif name == "directory":
        with disk(case.folder / "store", "3m") as store:
            case.configure(store={"directory": str(store)})
            case.refuses(fault)
            assert not [path for path in store.rglob("*") if path.is_file()]
    else:
        with disk(case.metrics, "1m"):
            fill(case.metrics)
            result = case.backup()
            assert fault.outcome == BORNE and len(result["warnings"]) == 1
            assert "No space left on device" in result["warnings"][0] and case.status()["last_success"]["id"]
            case.whole(result["id"])
