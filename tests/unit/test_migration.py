"""Migrations without a database: reading alembic, calling a one-off, a failure in words, the head that is written back."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.scutum.ops.plugins.module_utils import migration, secret_injection, staging, upgrade_rehearsal
from ansible_collections.scutum.ops.plugins.module_utils.database import Database
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation
from ansible_collections.scutum.ops.plugins.module_utils.interpolation import escape
from ansible_collections.scutum.ops.plugins.module_utils.upgrade_record import Record
from ansible_collections.scutum.ops.plugins.module_utils.upgrade_settings import Settings

HISTORY = """\
030 -> 031 (head), Break.
029 -> 030, Add request tags.
028 -> 029, Something, with a comma -> and an arrow.
<base> -> 028 (branchpoint), The first.
"""
TRACEBACK = """\
INFO  [alembic.runtime.migration] Running upgrade 030 -> 031, Break.
Traceback (most recent call last):
  File "/opt/app/psycopg/cursor.py", line 117, in execute
    raise ex.with_traceback(None)
psycopg.errors.UndefinedTable: relation "no_such_table" does not exist

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/opt/app/sqlalchemy/base.py", line 1, in execute
    cursor.execute(statement)
sqlalchemy.exc.ProgrammingError: (psycopg.errors.UndefinedTable) relation "no_such_table" does not exist
LINE 3: UPDATE no_such_table SET x = 1;
"""


def test_history_is_told_from_the_oldest_on() -> None:
    lines = HISTORY.splitlines()
    assert migration.parse_history(lines[:2], "029") == ["030 Add request tags.", "031 Break."]
    assert migration.parse_history(lines, "")[:2] == ["028 The first.", "029 Something, with a comma -> and an arrow."]
    assert migration.parse_history(lines[:3], "029") == ["030 Add request tags.", "031 Break."]
    assert migration.parse_history(["INFO something else"], "") == []


INJECTED = ["/bin/sh", "-c", escape(f'. {secret_injection.TARGET} && exec "$@"'), "scutum"]


@pytest.mark.parametrize(
    ("entrypoint", "image", "options", "words"),
    [
        (None, None, [], ["alembic", "upgrade", "head"]),
        (None, ["/entrypoint.sh"], ["--entrypoint", "alembic"], ["upgrade", "head"]),
        (["/own.sh"], None, ["--entrypoint", "alembic"], ["upgrade", "head"]),
        (INJECTED, None, [], ["alembic", "upgrade", "head"]),
        (
            [*INJECTED, "/entrypoint.sh"],
            ["/entrypoint.sh"],
            ["--entrypoint", f"""/bin/sh -c '. {secret_injection.TARGET} && exec "$@"' scutum"""],
            ["alembic", "upgrade", "head"],
        ),
    ],
    ids=["plain", "image's", "release's", "secrets", "secrets before the image's"],
)
def test_alembic_runs_where_the_service_would(
    entrypoint: list[str] | None, image: list[str] | None, options: list[str], words: list[str]
) -> None:
    assert migration.call({"entrypoint": entrypoint}, {"Entrypoint": image}) == (options, words)


def test_a_failure_is_told_without_the_calls_that_led_to_it() -> None:
    told = migration.reason(TRACEBACK)
    assert told.startswith("sqlalchemy.exc.ProgrammingError:")
    assert told.endswith("UPDATE no_such_table SET x = 1;") and "File" not in told
    assert migration.reason("one\ntwo") == "one\ntwo"
    assert migration.reason("alembic.util.exc.CommandError: Can't locate revision identified by '031'").startswith(
        "alembic"
    )


def test_how_it_ended_is_told() -> None:
    assert migration.why({"Status": "exited", "ExitCode": 1}, 60) == "exit code 1"
    assert "memory" in migration.why({"Status": "exited", "ExitCode": 137, "OOMKilled": True}, 60)
    late = migration.why({"Status": "running", "ExitCode": 0}, 60, "process 7 (psql, idle in transaction)")
    assert "longer than 60 s (scutum_upgrade_migration_timeout)" in late and late.endswith("idle in transaction)")


class Rows(Database):
    """An alembic_version in memory, for the one statement that writes it."""

    def __init__(self, installation: Installation, revisions: list[str], foreign: str = "f") -> None:
        super().__init__(installation, "container", "scutum", "scutum")
        self.revisions = revisions
        self.foreign = foreign

    def query(self, sql: str, timeout: float = 600) -> list[list[str]]:
        if sql.startswith("SELECT to_regclass"):
            return [["t"]]
        if sql.startswith("SELECT"):
            return [[revision] for revision in self.revisions]
        assert sql.startswith("BEGIN;") and sql.endswith("COMMIT;\n")
        if len(self.revisions) != 1:
            return []
        self.revisions = [sql.split("SET version_num = '")[1].split("'")[0]]
        return [[*self.revisions, self.foreign]]


def test_a_head_is_written_into_one_row_only(tmp_path: Path) -> None:
    installation = Installation(str(tmp_path))
    one = Rows(installation, ["030"])
    assert migration.write_head(one, "029") == "" and one.revisions == ["029"]
    for wrong in ([], ["028", "029"]):
        with pytest.raises(ScutumError, match="exactly one row"):
            migration.write_head(Rows(installation, list(wrong)), "029")


def test_somebody_elses_comment_is_told(tmp_path: Path) -> None:
    one = Rows(Installation(str(tmp_path)), ["030"], foreign="t")
    assert "somebody else's" in migration.write_head(one, "029") and one.revisions == ["029"]


class Silent:
    """An engine whose alembic fails, or says something."""

    def __init__(self, rc: int, out: str) -> None:
        self.result: Any = type("Result", (), {"rc": rc, "out": out, "err": ""})()
        self.asked: tuple[str, ...] = ()

    def run(self, *arguments: str, **unused: Any) -> Any:
        self.asked = arguments
        return self.result


def test_an_image_is_asked_without_a_network_and_never_pulled() -> None:
    engine: Any = Silent(0, "030 (head)\n")
    assert migration.head(engine, "image") == "030"
    assert "none" in engine.asked and engine.asked[2:4] == ("--pull", "never")
    assert migration.head(Silent(1, "trouble"), "image") == ""  # type: ignore[arg-type]
    assert migration.notes(Silent(1, ""), "image", "029") == []  # type: ignore[arg-type]


class Migrating:
    """An installation whose database notes revisions in memory, and whose image knows a history that alembic goes to the end of."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, head: str, noted: str, known: tuple[str, ...]) -> None:
        self.head, self.noted, self.known, self.fails, self.does = head, noted, known, False, ""
        self.events: list[str] = []
        self.said: list[str] = []
        self.installation: Any = SimpleNamespace(
            engine=self, project="p", directory="/d", compose=lambda: self, redact=str, private="/nowhere"
        )
        monkeypatch.setattr(migration, "Database", lambda _installation: self)
        monkeypatch.setattr(migration, "ahead", lambda _database: self.noted)
        monkeypatch.setattr(migration, "write_head", self.write_head)
        monkeypatch.setattr(migration, "_end", lambda *unused: None)
        monkeypatch.setattr(migration, "_watch", self.watch)

    # --- of the database

    def alembic_version(self) -> str:
        return self.head

    def query(self, sql: str) -> list[list[str]]:
        assert sql == "COMMENT ON TABLE public.alembic_version IS NULL"
        self.events.append("forget")
        self.noted = ""
        return []

    def write_head(self, database: Any, revision: str) -> str:
        assert database is self
        self.events.append(f"write {revision}")
        self.noted = "" if self.noted == revision else self.noted or self.head
        self.head = revision
        return ""

    # --- of the engine, and of Compose

    def model(self) -> dict[str, Any]:
        return {"services": {"admin-api": {"image": "admin:2"}}}

    def command(self, *words: str) -> str:
        return " ".join(words)

    def images(self, references: list[str]) -> dict[str, Any]:
        return {reference: {"Config": {}} for reference in references}

    def run(self, *words: str, **unused: Any) -> Any:
        if words[0] == "logs":
            return SimpleNamespace(rc=0, out="E: ValueError: no" if self.fails else "", err="")
        assert words[-3:] == ("history", "-r", "base:head") and "admin:2" in words
        self.events.append("asked")
        text = "".join(f"something -> {new}, Something.\n" for new in reversed(self.known))
        return SimpleNamespace(rc=0 if text else 1, out=text, err="")

    def must(self, *words: str, **unused: Any) -> str:
        self.events.append(" ".join(words[-3:]))
        return ""

    def watch(self, *unused: Any) -> tuple[dict[str, Any], str]:
        self.head = self.does or (self.head if self.fails else self.known[-1])
        return {"Status": "exited", "ExitCode": int(self.fails)}, ""

    def migrate(self) -> dict[str, Any]:
        return migration.run(self.installation, 60, self.said.append)


ALEMBIC = "alembic upgrade head"


@pytest.mark.parametrize(
    ("head", "noted", "known", "events", "again", "says"),
    [
        ("029", "", ("029", "030"), [ALEMBIC], "", ""),
        ("029", "030", ("028", "029", "030"), ["asked", "write 030", ALEMBIC], "030", "that of revision 030 already"),
        ("029", "030", ("029", "030", "031"), ["asked", "write 030", ALEMBIC], "030", "images alone led back to 029"),
        ("028", "030", ("028", "029"), ["asked", ALEMBIC], "", "030, which this image does not know: it begins at 028"),
        ("030", "030", ("029", "030"), ["asked", "forget", ALEMBIC], "", "the note is taken away"),
        ("031", "030", ("029", "030", "031"), ["asked", "forget", ALEMBIC], "", "the note is taken away"),
    ],
    ids=["nothing noted", "the same release", "a newer one", "one between", "it is there", "it is past it"],
)
def test_a_migration_goes_on_from_the_revision_that_the_schema_has(
    monkeypatch: pytest.MonkeyPatch,
    head: str,
    noted: str,
    known: tuple[str, ...],
    events: list[str],
    again: str,
    says: str,
) -> None:
    world = Migrating(monkeypatch, head, noted, known)
    found = world.migrate()
    assert world.events == events and says in "\n".join(world.said)
    assert (found["before"], found["after"], found["again"]) == (head, known[-1], again)
    # What the image does not know stays noted, for one that does.
    assert world.noted == (noted if noted and noted not in known else "")


def test_an_image_that_does_not_answer_migrates_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Migrating(monkeypatch, "029", "030", ())
    with pytest.raises(ScutumError, match="does not tell") as caught:
        world.migrate()
    assert (
        world.events == ["asked"]
        and (world.head, world.noted) == ("029", "030")
        and "history" in caught.value.next_step
    )


def test_a_migration_that_did_nothing_leaves_the_head_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Migrating(monkeypatch, "029", "030", ("029", "030", "031"))
    world.fails = True
    with pytest.raises(migration.Failed, match="alembic stands at 029, as before"):
        world.migrate()
    assert (world.head, world.noted) == ("029", "030")
    # A revision that went through stays.
    world.does = "031"
    with pytest.raises(migration.Failed, match="alembic stands at 031, and stood at 029"):
        world.migrate()
    assert (world.head, world.noted) == ("031", "")


@pytest.mark.parametrize(
    ("source", "noted", "after", "refused"),
    [
        ("029", "030", "030", ""),
        ("030", "", "030", ""),
        ("029", "", "030", "is not noted"),
        ("029", "031", "030", "is not noted"),
        ("029", "030", "029", "and not at 030"),
    ],
    ids=["noted", "nothing to migrate", "not noted", "another is noted", "not there"],
)
def test_the_rehearsal_comes_again_after_the_way_back(
    monkeypatch: pytest.MonkeyPatch, source: str, noted: str, after: str, refused: str
) -> None:
    events: list[str] = []
    copy: Any = SimpleNamespace(
        project="p",
        compose=lambda: SimpleNamespace(containers=lambda _project: {"admin-api": {"Id": "old"}}),
        engine=SimpleNamespace(must=lambda *words, **unused: events.append(" ".join(words))),
    )

    def run(*unused: Any) -> dict[str, Any]:
        events.append("migrate")
        return {"before": source, "after": after, "seconds": 1.0}

    monkeypatch.setattr(upgrade_rehearsal, "Database", lambda _copy: None)
    monkeypatch.setattr(migration, "ahead", lambda _database: noted)
    monkeypatch.setattr(migration, "run", run)
    monkeypatch.setattr(staging, "put_in_force", lambda _copy, _wanted, version: events.append(f"files of {version}"))
    record = Record("r", 0, source="0.2.0", target="0.3.0")
    record.heads = {"source": source, "target": "030"}
    if refused:
        with pytest.raises(ScutumError, match=refused):
            upgrade_rehearsal._forward(copy, Settings(version="0.3.0"), record, print)
    else:
        told = upgrade_rehearsal._forward(copy, Settings(version="0.3.0"), record, print)
        assert told.startswith(f"alembic {source} → 030")
    # The old version's would write its own head, and the migration is the target's.
    assert events == ([] if "noted" in refused else ["rm -f old", "files of 0.3.0", "migrate"])
