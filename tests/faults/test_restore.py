"""A restore that is killed at each of its steps: what serves is the one database or the other, whole, and the same call ends it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.scutum.ops.plugins.module_utils import backup, backup_reading, restore, restore_record
from ansible_collections.scutum.ops.plugins.module_utils.compose import Compose
from ansible_collections.scutum.ops.plugins.module_utils.database import Database
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation
from world import USER, Case, World, docker

LIVE = "mine"
HOST = restore_record.host_name()
STEPS = [
    "save restoring", "take", "pull", "create_beside", "restore_from", "save ready", "save swapping", "must", "before swap",
    "halfway into swap", "swap", "save_state", "save swapped", "_start", "save kept",
]  # fmt: skip
LEFT = ("pull", "restore_from", "save ready", "before swap", "halfway into swap")
# Those that differ most; all of them in `make test-long`.
CHOSEN = STEPS if os.environ.get("SCUTUM_ALL_STEPS") else ["pull", "before swap", "halfway into swap", "swap", "_start"]


class Killed(BaseException):
    """Nothing handles it."""


@pytest.fixture(name="mine")
def fixture_mine(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    """An installation with a database of its own, one backup, and rows that are gone since then."""
    case = Case(world, tmp_path / "case")
    case.env["POSTGRES_DB"] = LIVE
    case.configure()
    world.sql(f"CREATE DATABASE {LIVE} TEMPLATE {USER}", "postgres")
    world.sql("DROP TABLE noise CASCADE", LIVE)
    monkeypatch.setattr(restore, "_writers", lambda installation: ["litellm"])
    monkeypatch.setattr(restore, "_start", lambda *unused: None)
    monkeypatch.setattr(Compose, "must", lambda *unused, **more: "")
    case.backup()
    case.many = rows(world)
    world.sql("DELETE FROM audit_logs WHERE actor_id <> 'u1'", LIVE)
    yield case
    for name in databases(world):
        world.sql(f"DROP DATABASE {name} WITH (FORCE)", "postgres")
    case.close()


def databases(world: World) -> list[str]:
    return world.sql(f"SELECT datname FROM pg_database WHERE datname LIKE '{LIVE}%' ORDER BY 1", "postgres").split()


def rows(world: World) -> int:
    return int(world.sql("SELECT count(*) FROM audit_logs", LIVE))


def call(case: Case, **wanted: Any) -> dict[str, Any]:
    return restore.run(case.installation, restore.Settings(spool=str(case.folder), **wanted), case.log.append)


def kill_at(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Let the process end in, or right after, one of its steps."""

    def after(place: Any, name: str) -> None:
        true: Callable[..., Any] = getattr(place, name)

        def killed(*words: Any, **more: Any) -> Any:
            true(*words, **more)
            raise Killed(step)

        monkeypatch.setattr(place, name, killed)

    places: dict[str, Any] = {
        "take": backup, "pull": backup_reading, "create_beside": Database, "restore_from": Database, "must": Compose, "swap": Database,
        "save_state": Installation, "_start": restore,
    }  # fmt: skip
    if step in places:
        after(places[step], step)
    elif step == "before swap":

        def stopped(*unused: Any) -> None:
            raise Killed(step)

        monkeypatch.setattr(Database, "swap", stopped)
    elif step == "halfway into swap":
        # Connections are refused already, and the names are what they were.
        true = Database._maintenance

        def stopping(self: Database, sql: str, timeout: float = 60) -> list[list[str]]:
            if sql.startswith("BEGIN"):
                raise Killed(step)
            return true(self, sql, timeout)

        monkeypatch.setattr(Database, "_maintenance", stopping)
    else:
        save = restore.save

        def saved(*words: Any, **changes: Any) -> restore_record.Open:
            record = save(*words, **changes)
            if changes.get("phase") == step.split()[1]:
                raise Killed(step)
            return record

        monkeypatch.setattr(restore, "save", saved)


@pytest.mark.parametrize("step", CHOSEN)
def test_killed_at_a_step_the_same_call_ends_it(mine: Case, world: World, step: str) -> None:
    few, many = 1, mine.many
    with pytest.MonkeyPatch.context() as broken:
        kill_at(broken, step)
        with pytest.raises(Killed):
            call(mine, confirm=HOST)
    if step != "halfway into swap":
        assert rows(world) in (few, many)
    report = call(mine, confirm=HOST)
    assert report["outcome"] == ("unchanged" if step == "save kept" else "restored")
    assert rows(world) == many and len(databases(world)) == 2, databases(world)
    # Taken once, however often it was begun.
    assert len([name for name in mine.names() if name.endswith("/safety.json")]) == 1 + (step == "take")
    # And back, killed in the same place of the way back, where it has one.
    if step.split()[-1] in ("swapping", "must", "swap", "save_state", "swapped", "_start"):
        with pytest.MonkeyPatch.context() as broken:
            kill_at(broken, step)
            with pytest.raises(Killed):
                call(mine, undo=HOST)
    assert call(mine, undo=HOST)["outcome"] == "undone" and rows(world) == few
    assert call(mine, undo=HOST)["outcome"] == "unchanged" and rows(world) == few
    assert call(mine, finalize=HOST)["outcome"] == "finalized" and databases(world) == [LIVE]
    assert not [*mine.folder.rglob("*.dump")]
    mine.quiet(report)


@pytest.mark.parametrize("step", [step for step in CHOSEN if step in LEFT])
def test_left_before_the_swap_nothing_of_it_stays(mine: Case, world: World, step: str) -> None:
    with pytest.MonkeyPatch.context() as broken:
        kill_at(broken, step)
        with pytest.raises(Killed):
            call(mine, confirm=HOST)
    assert call(mine, undo=HOST)["outcome"] == "undone"
    assert databases(world) == [LIVE] and rows(world) == 1 and restore_record.load(mine.installation) is None


def test_whoever_is_connected_does_not_keep_the_swap(mine: Case, world: World) -> None:
    """A pool that holds connections, and one that connects again and again."""
    call_in_container = ("exec", "-d", world.postgres, "sh", "-c")
    docker(*call_in_container, f"psql -U {USER} -d {LIVE} -c 'SELECT pg_sleep(60)'")
    docker(*call_in_container, f"for i in $(seq 300); do psql -U {USER} -d {LIVE} -c 'SELECT pg_sleep(1)'; done")
    assert call(mine, confirm=HOST)["outcome"] == "restored" and rows(world) == mine.many


def test_a_swap_that_is_refused_leaves_what_served(mine: Case, world: World) -> None:
    with pytest.MonkeyPatch.context() as broken:
        true = Database._maintenance

        def refused(self: Database, sql: str, timeout: float = 60) -> list[list[str]]:
            return true(self, "SELECT 1/0" if sql.startswith("BEGIN") else sql, timeout)

        broken.setattr(Database, "_maintenance", refused)
        broken.setattr(restore.stack, "recreate", lambda *unused: None)
        with pytest.raises(restore.ScutumError, match="division by zero") as caught:
            call(mine, confirm=HOST)
    assert f"nothing was swapped: {LIVE} is what it was" in caught.value.left and rows(world) == 1
    assert call(mine, confirm=HOST)["outcome"] == "restored"


def test_what_does_not_serve_in_either_state_leaves_a_way_on(mine: Case, world: World) -> None:
    """The database that is gone back to was broken before, which is why it was restored."""

    def fails(*unused: object) -> None:
        raise restore.ScutumError("admin-api does not answer", next_step="look at its log")

    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(restore, "_start", fails)
        with pytest.raises(restore.ScutumError, match="the restored database did not serve") as caught:
            call(mine, confirm=HOST)
        assert "does not serve well either" in caught.value.left and rows(world) == 1
    assert call(mine, finalize=HOST)["outcome"] == "finalized" and databases(world) == [LIVE]
    assert call(mine, confirm=HOST)["outcome"] == "restored"
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(restore, "_start", fails)
        with pytest.raises(restore.ScutumError, match="admin-api does not answer"):
            call(mine, undo=HOST)
    assert rows(world) == 1 and call(mine, finalize=HOST)["outcome"] == "finalized"


def test_databases_that_somebody_else_dropped_are_missed(mine: Case, world: World) -> None:
    with pytest.MonkeyPatch.context() as broken:
        kill_at(broken, "save ready")
        with pytest.raises(Killed):
            call(mine, confirm=HOST)
    [other] = [name for name in databases(world) if name != LIVE]
    world.sql(f"DROP DATABASE {other}", "postgres")
    with pytest.raises(restore.ScutumError, match=f"neither {other} nor .* is there any more"):
        call(mine, confirm=HOST)
    assert call(mine, undo=HOST)["outcome"] == "undone" and rows(world) == 1
    assert call(mine, confirm=HOST)["outcome"] == "restored"
    [other] = [name for name in databases(world) if name != LIVE]
    world.sql(f"DROP DATABASE {other}", "postgres")
    with pytest.raises(restore.ScutumError, match="is there any more"):
        call(mine, undo=HOST)
    assert rows(world) == mine.many
