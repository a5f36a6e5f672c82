"""The archive's catalogue: what counts, what a verification finds, and what may be removed. No rows: those are in tests/faults."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.scutum.ops.plugins.module_utils import audit_catalog as catalog
from ansible_collections.scutum.ops.plugins.module_utils import object_store, parquet_file
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from ansible_collections.scutum.ops.plugins.module_utils.files import sha256_bytes

COLUMNS = (
    parquet_file.Column("id", "uuid", "UUID"),
    parquet_file.Column("timestamp", "timestamp with time zone", "TIMESTAMPTZ"),
)
TABLE = "audit_logs"


def entry(month: str, part: int = 0, table: str = TABLE, rows: int = 10) -> catalog.Entry:
    """One that says what `Archive.add` stores."""
    key = catalog.file_key(table, month, part)
    return catalog.Entry(
        table, month, key, part, rows, len(key), sha256_bytes(key.encode()), "c", "", "", 0, 1.0, COLUMNS, "timestamp", "s"
    )  # fmt: skip


class Archive:
    """One in a directory, and ways to damage it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store: Any = object_store.open_store({"directory": str(root)})
        self.said: list[str] = []

    def add(self, month: str, part: int = 0, table: str = TABLE, rows: int = 10) -> catalog.Entry:
        wanted = entry(month, part, table, rows)
        self.store.put(wanted.key, wanted.key.encode())
        return catalog.append(self.store, wanted)

    def verify(self, **more: Any) -> catalog.Report:
        self.said = []
        return catalog.verify(self.store, False, self.said.append, **more)

    def failed(self, **more: Any) -> list[str]:
        """What is wrong, as `name: detail`."""
        report = self.verify(**more)
        found = [f"{check['name']}: {check['detail']}" for check in report.checks if not check["ok"]]
        assert report.ok is not bool(found)
        return found

    def manifest(self, seq: int, table: str = TABLE) -> Path:
        return self.root / catalog.manifest_key(table, seq)

    def alter(self, number: int, **values: Any) -> None:
        path = self.manifest(number)
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}, indent=1, sort_keys=True) + "\n")


@pytest.fixture(name="archive")
def fixture_archive(tmp_path: Path) -> Archive:
    """Four files of three months."""
    found = Archive(tmp_path)
    for month, part in (("2026-01", 0), ("2026-02", 0), ("2026-03", 0), ("2026-03", 1)):
        found.add(month, part)
    return found


def test_what_is_written_is_read(archive: Archive) -> None:
    archive.add("2026-01", table="event_log", rows=3)
    found = catalog.entries(archive.store)
    assert [(e.table, e.month, e.part, e.seq) for e in found] == [
        (TABLE, "2026-01", 0, 1), (TABLE, "2026-02", 0, 2), (TABLE, "2026-03", 0, 3), (TABLE, "2026-03", 1, 4),
        ("event_log", "2026-01", 0, 1),
    ]  # fmt: skip
    assert found[0] == dataclasses.replace(entry("2026-01"), seq=1)
    assert catalog.months(found, TABLE) == {"2026-01": 10, "2026-02": 10, "2026-03": 20}
    assert (
        catalog.months(found, "event_log") == {"2026-01": 3}
        and catalog.entries(archive.store, "event_log") == found[4:]
    )
    assert [e.part for e in catalog.of_month(found, TABLE, "2026-03")] == [0, 1]
    assert found[0].key == "table=audit_logs/year=2026/month=01/part-0000.parquet"
    held = [json.loads(archive.manifest(seq).read_text()) for seq in (1, 2)]
    assert held[0]["previous"] == "" and held[1]["previous"] == sha256_bytes(archive.manifest(1).read_bytes())


def test_a_whole_archive(archive: Archive) -> None:
    report = archive.verify()
    assert report.ok and report.months == {TABLE: ["2026-01", "2026-02", "2026-03"]} and report.rows == 40
    assert report.heads == {TABLE: {"seq": 4, "sha256": sha256_bytes(archive.manifest(4).read_bytes())}}
    assert not report.orphans and not archive.said and archive.verify(heads=report.heads).ok


def test_an_empty_archive(tmp_path: Path) -> None:
    archive = Archive(tmp_path)
    assert archive.verify().ok and catalog.entries(archive.store) == [] and catalog.months([], TABLE) == {}
    assert catalog.next_part(archive.store, TABLE, "2026-01") == 0


def swap(archive: Archive) -> None:
    """Manifests 1 and 2 change places, each with the number of its new place."""
    one, two = archive.manifest(1).read_text(), archive.manifest(2).read_text()
    archive.manifest(1).write_text(two)
    archive.manifest(2).write_text(one)
    archive.alter(1, seq=1)
    archive.alter(2, seq=2)


def file_of(archive: Archive, month: str = "2026-02", part: int = 0) -> Path:
    return archive.root / catalog.file_key(TABLE, month, part)


def first_month(archive: Archive) -> None:
    """Manifest and file."""
    archive.manifest(1).unlink()
    file_of(archive, "2026-01").unlink()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda a: a.manifest(2).unlink(), ["the manifests 000002 are gone", r"no manifest describes table=audit_logs/year=2026/month=02"]),
        (first_month, ["the manifests 000001 are gone"]),
        (lambda a: a.alter(2, rows=9), ["manifest 3 does not follow the one before it"]),
        (lambda a: a.alter(3, previous="0" * 64), ["manifest 3 does not follow", "manifest 4|does not follow"]),
        (swap, ["manifest 1 does not follow.*; manifest 2 does not follow.*; manifest 3 does not follow"]),
        (lambda a: a.manifest(2).write_text("no json"), ["manifest 2 cannot be read", "no manifest describes"]),
        (lambda a: a.alter(2, seq=7), ["manifest 2 cannot be read", "no manifest describes"]),
        (lambda a: a.alter(2, format=2), ["manifest 2 cannot be read", "no manifest describes"]),
        (lambda a: a.alter(2, key="table=audit_logs/year=2026/month=03/part-0000.parquet"), ["manifest 2 cannot be read", "no m"]),
        (lambda a: a.alter(2, month="2026-13"), ["manifest 2 cannot be read", "no manifest describes"]),
        (lambda a: file_of(a).unlink(), ["month=02/part-0000.parquet: it is gone"]),
        (lambda a: file_of(a).write_text("x"), ["month=02/part-0000.parquet: it has 1 bytes, its manifest says 53"]),
        (lambda a: (a.root / "table=audit_logs/x.parquet").write_text("x"), ["no manifest describes table=audit_logs/x.parquet"]),
        (lambda a: catalog.append(a.store, entry("2026-01")), ["the manifests 1 and 5 both describe it"]),
    ],
)  # fmt: skip
def test_damage_is_found(archive: Archive, damage: Callable[[Archive], object], says: list[str]) -> None:
    import re

    damage(archive)
    found = "\n".join(archive.failed())
    for pattern in says:
        assert re.search(pattern, found), found


def test_the_newest_ones_are_missed_by_who_kept_the_head(archive: Archive) -> None:
    head = archive.verify().heads
    archive.manifest(4).unlink()
    file_of(archive, "2026-03", 1).unlink()
    assert archive.failed() == [], "no store can show it"
    assert archive.failed(heads=head) == [f"manifests of {TABLE}: the manifests 000004 are gone"]
    archive.add("2026-03", 1, rows=8)
    assert archive.failed(heads=head) == [f"manifests of {TABLE}: manifest 4 is not the one that was written"]
    assert archive.failed(heads={"event_log": {"seq": 1, "sha256": "x"}}) == [
        "manifests of event_log: the manifests 000001 are gone"
    ]


def test_a_manifest_that_is_gone_stops_the_archive(archive: Archive) -> None:
    archive.manifest(2).unlink()
    with pytest.raises(ScutumError, match="000002.json is gone: months of the archive were removed"):
        archive.add("2026-04")
    assert [e.seq for e in catalog.entries(archive.store)] == [1, 3, 4]


def test_a_manifest_that_is_damaged_is_no_absence(archive: Archive) -> None:
    archive.manifest(3).write_text("{}")
    with pytest.raises(
        ScutumError, match=r"_manifests/audit_logs/000003.json is no manifest of this archive \(KeyError\)"
    ) as caught:
        catalog.entries(archive.store)
    assert caught.value.left and "audit-verify" in caught.value.next_step


def test_somebody_else_wrote_meanwhile(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number is taken between the look at the store and the write."""
    real = type(archive.store).get

    def get(self: Any, key: str) -> bytes:
        monkeypatch.undo()
        Archive(archive.root).add("2026-05")
        return bytes(real(self, key))

    monkeypatch.setattr(type(archive.store), "get", get)
    with pytest.raises(ScutumError, match=r"000005.json exists already"):
        archive.add("2026-04")
    assert list(catalog.months(catalog.entries(archive.store), TABLE)) == ["2026-01", "2026-02", "2026-03", "2026-05"]
    assert len(archive.failed()) == 1, "only the file that has no manifest"


def test_somebody_else_wrote_over_it(archive: Archive) -> None:
    """A store that replaces what is there: the one that lost is told before it drops anything."""
    mine = archive.add("2026-04")
    archive.manifest(5).unlink()
    other = archive.add("2026-05")
    with pytest.raises(
        ScutumError, match="month=04/part-0000.parquet is not in the archive as it was written"
    ) as caught:
        catalog.check(archive.store, [mine])
    assert caught.value.left == "no row was removed"
    catalog.check(archive.store, [other])
    file_of(archive, "2026-05").unlink()
    with pytest.raises(ScutumError, match="53 bytes were acknowledged, and the store has nothing"):
        catalog.check(archive.store, [other])


def test_a_store_that_keeps_something_else(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, real = entry("2026-04"), type(archive.store).put
    archive.store.put(wanted.key, wanted.key.encode())
    monkeypatch.setattr(type(archive.store), "put", lambda self, key, data: real(self, key, data.replace(b"10", b"11")))
    with pytest.raises(ScutumError, match="000005.json is not there as it was sent") as caught:
        catalog.append(archive.store, wanted)
    assert "counts for nothing" in caught.value.left


# --- what a killed run left


def test_a_file_without_a_manifest(archive: Archive) -> None:
    """It is a reason to look while its month has no other file, and it is never in the way of the next one."""
    archive.store.put(catalog.file_key(TABLE, "2026-04", 0), b"half")
    [problem] = archive.failed()
    assert "month=04/part-0000.parquet: a run was killed there, or the manifest was removed" in problem
    assert catalog.next_part(archive.store, TABLE, "2026-04") == 1
    archive.add("2026-04", 1)
    report = archive.verify()
    assert (
        report.ok
        and report.orphans == [catalog.file_key(TABLE, "2026-04", 0)]
        and "archived without it" in archive.said[0]
    )


def test_leftovers_go_when_they_are_named(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    left, part = catalog.file_key(TABLE, "2026-04", 0), catalog.file_key(TABLE, "2026-01", 0)
    archive.store.put(left, b"half")
    for key, why in (
        (part, "it is part of the archive"),
        (catalog.file_key(TABLE, "2026-06", 0), "it is not there"),
        (catalog.manifest_key(TABLE, 1), "it is not there"),
    ):
        with pytest.raises(ScutumError, match=f"is not removed: {why}"):
            catalog.remove_leftovers(archive.store, [left, key])
    monkeypatch.setattr(type(archive.store), "locked", lambda *unused: "until 2033-01-01")
    with pytest.raises(ScutumError, match="it is locked until 2033-01-01"):
        catalog.remove_leftovers(archive.store, [left])
    monkeypatch.undo()
    assert archive.verify().orphans == [left]
    assert catalog.remove_leftovers(archive.store, [left]) == [left]
    assert archive.verify().ok and not archive.verify().orphans and catalog.remove_leftovers(archive.store, []) == []


# --- types


@pytest.mark.parametrize(
    ("base", "element", "modifier", "enum", "stored"),
    [
        ("uuid", "", -1, False, "UUID"), ("jsonb", "", -1, False, "JSON"), ("json", "", -1, False, "VARCHAR"),
        ("timestamptz", "", -1, False, "TIMESTAMPTZ"), ("varchar", "", 259, False, "VARCHAR"), ("numeric", "", -1, False, "VARCHAR"),
        ("numeric", "", (18 << 16 | 8) + 4, False, "DECIMAL(18,8)"), ("numeric", "", (50 << 16 | 2) + 4, False, "VARCHAR"),
        ("numeric", "", (3 << 16 | (-2 & 0x7FF)) + 4, False, "VARCHAR"), ("numeric", "", (2 << 16 | 5) + 4, False, "VARCHAR"),
        ("_int4", "int4", -1, False, "VARCHAR"), ("mood", "", -1, True, "VARCHAR"), ("bytea", "", -1, False, "BLOB"),
        ("float4", "", -1, False, "FLOAT"), ("inet", "", -1, False, "VARCHAR"),
    ],
)  # fmt: skip
def test_types(base: str, element: str, modifier: int, enum: bool, stored: str) -> None:
    assert parquet_file.column("c", "declared", base, element, modifier, enum) == parquet_file.Column(
        "c", "declared", stored
    )


@pytest.mark.parametrize(
    ("base", "element"), [("point", ""), ("money", ""), ("public.citext", ""), ("_point", "point"), ("int4range", "")]
)
def test_a_type_that_nobody_has_tried(base: str, element: str) -> None:
    with pytest.raises(ScutumError, match="column c is of the type declared, which nobody has proven"):
        parquet_file.column("c", "declared", base, element, -1, False)
