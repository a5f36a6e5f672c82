"""Restoring without a database: what is refused, what is settled, what an empty host gets."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.scutum.ops.plugins.module_utils import (
    backup,
    backup_archive,
    backup_catalog,
    database,
    object_store,
    restore,
    restore_host,
    restore_record,
)
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation

ID = "20261125T031700Z"
HOST = restore_record.host_name()


def record(phase: str, back: bool = False, age: float = 60) -> restore_record.Open:
    return restore_record.Open(phase, ID, time.time() - age, incoming="in", outgoing="out", back=back)


@pytest.fixture(name="installation")
def fixture_installation(tmp_path: Path) -> Installation:
    return Installation(str(tmp_path / "scutum"))


def test_a_confirmation_names_this_host_and_one_thing() -> None:
    assert restore.confirmed(restore.Settings()) == ""
    assert restore.confirmed(restore.Settings(undo=HOST)) == "undo"
    for wrong, words in (
        (restore.Settings(confirm="true"), f"scutum_restore_confirm is 'true', and this host is {HOST}"),
        (restore.Settings(confirm=HOST, finalize=HOST), "exclude each other"),
    ):
        with pytest.raises(ScutumError, match=words):
            restore.confirmed(wrong)


@pytest.mark.parametrize(
    ("word", "phase", "back", "settled"),
    [
        ("confirm", "", False, False),
        *(("confirm", phase, False, False) for phase in ("prepared", "restoring", "ready", "swapping", "swapped")),
        ("confirm", "kept", False, True),
        *(("confirm", phase, True, None) for phase in ("ready", "swapping", "swapped", "kept")),
        ("undo", "", False, True),
        *(("undo", phase, False, False) for phase in ("prepared", "restoring", "ready", "swapping", "swapped", "kept")),
        *(("undo", phase, True, False) for phase in ("ready", "swapping", "swapped")),
        ("undo", "kept", True, True),
        ("finalize", "", False, True),
        *(("finalize", phase, False, None) for phase in ("prepared", "restoring", "ready", "swapping", "swapped")),
        ("finalize", "kept", False, False),
        ("finalize", "kept", True, False),
        ("finalize", "swapped", True, None),
    ],
)
def test_each_phase_knows_what_may_follow(word: str, phase: str, back: bool, settled: bool | None) -> None:
    """True: it is so already; False: there is something to do; None: an open restore stands in the way."""
    held = record(phase, back) if phase else None
    if settled is None:
        with pytest.raises(ScutumError) as caught:
            restore_record.settled(held, "", word)
        assert f"={HOST}" in caught.value.next_step and "nothing was" in caught.value.left
    else:
        assert restore_record.settled(held, "", word) is settled


def test_another_backup_has_to_wait_for_an_open_restore() -> None:
    for phase in ("swapping", "swapped", "kept"):
        with pytest.raises(ScutumError, match="a restore is open"):
            restore_record.settled(record(phase), "20260101T000000Z", "confirm")
    assert restore_record.settled(record("restoring"), "20260101T000000Z", "confirm") is False


def test_one_that_was_forgotten_is_not_taken_for_what_is_meant_today() -> None:
    long_ago = 30 * 86400
    for phase in ("prepared", "restoring", "ready", "swapping", "swapped", "kept"):
        with pytest.raises(ScutumError, match="a restore is open") as caught:
            restore_record.settled(record(phase, age=long_ago), "", "confirm")
        assert f"scutum_restore_undo={HOST}" in caught.value.next_step
        # What it says to do is not refused in its turn.
        assert phase == "kept" or f"scutum-ops restore --confirm {HOST} --name {ID}" in caught.value.next_step
        assert restore_record.settled(record(phase, age=long_ago), ID, "confirm") is (phase == "kept")
    held = restore_record.Open("ready", ID, time.time() - long_ago, safety="20200101T000000Z", fresh=True)
    assert restore._wants_safety(restore.Settings(), held), "a backup from back then is none of what is there now"


def test_a_spool_is_a_path(installation: Installation) -> None:
    with pytest.raises(ScutumError, match="scutum_restore_spool: ~/x is no absolute path"):
        restore.run(installation, restore.Settings(spool="~/x"), lambda line: None)


def test_names_fit_into_postgres() -> None:
    long = "ä" * 31
    for name in ("scutum", long):
        made = restore._beside(name, "restored", ID.lower())
        assert len(made.encode()) <= 63 and made.endswith("_restored_20261125t031700z")


def test_only_roles_that_are_missing_are_created(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def query(self: Any, sql: str, timeout: float = 600) -> list[list[str]]:
        asked.append(sql)
        return [["scutum"], ["here"]]

    monkeypatch.setattr(database.Database, "query", query)
    statements = "\n".join(
        [
            "-- a comment",
            "SET client_encoding = 'UTF8';",
            "CREATE ROLE scutum;",
            "ALTER ROLE scutum WITH SUPERUSER;",
            "CREATE ROLE here;",
            'CREATE ROLE "odd ""name";',
            'ALTER ROLE "odd ""name" WITH NOSUPERUSER LOGIN;',
            'GRANT here TO "odd ""name" WITH INHERIT TRUE GRANTED BY scutum;',
            "GRANT pg_read_all_data TO here;",
        ]
    )
    assert database.Database(installation, "c", "scutum", "scutum").bring_roles(statements) == ['odd "name']
    assert asked[1].splitlines() == ["BEGIN;", *statements.splitlines()[5:8], "COMMIT;"]


def stored(installation: Installation, tmp_path: Path, env: str, left_out: list[str]) -> dict[str, Any]:
    """A backup in a directory: its manifest and configuration archive. The settings of the store."""
    import hashlib
    import io
    import tarfile

    (tmp_path / "store").mkdir()
    settings = {"directory": str(tmp_path / "store")}
    place = object_store.open_store(settings)
    data = io.BytesIO()
    texts = {"config/.env": env, ".scutum-ops/state.json": '{"adopted": true}', "left-out.json": json.dumps(left_out)}
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name, text in texts.items():
            info = tarfile.TarInfo(name)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    content = data.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    objects = {"configuration.tar.gz": {"size": len(content), "sha256": digest, "plain_sha256": digest}}
    manifest = {
        "format": 1,
        "id": ID,
        **dict.fromkeys(backup_catalog._NEEDED, 0),
        "release": "0.1.0",
        "objects": objects,
    }
    place.put(f"{ID}/configuration.tar.gz", content)
    place.put(f"{ID}/manifest.json", json.dumps(manifest).encode())
    return settings


def test_an_empty_host_gets_what_the_backup_holds_and_names_what_was_nowhere(
    installation: Installation, tmp_path: Path
) -> None:
    env = (
        "SCUTUM_VERSION=0.1.0\nCOMPOSE_FILE=scutum-ops.compose.yaml\nCOMPOSE_PROFILES=finops\nSCUTUM_OPS_MARK_LITELLM=x\n"
        "POSTGRES_USER=scutum\nPOSTGRES_DB=scutum\nPOSTGRES_PASSWORD=\nSCUTUM_API_KEY=\nJWT_SECRET_KEY=\nINTERNAL_SERVICE_KEY=\n"
        "LITELLM_SALT_KEY=\nOPENAI_API_KEY=\nLITELLM_PORT=4001\n"
    )
    hidden = [
        "POSTGRES_PASSWORD",
        "SCUTUM_API_KEY",
        "JWT_SECRET_KEY",
        "INTERNAL_SERVICE_KEY",
        "LITELLM_SALT_KEY",
        "OPENAI_API_KEY",
    ]
    wanted = restore.Settings(
        store=stored(installation, tmp_path, env, hidden), environment={"SCUTUM_API_KEY": "sk-" + "a" * 64}
    )
    planned = restore_host.prepare(installation, wanted)
    assert planned["empty"] and not installation.exists()
    wanted.confirm = HOST
    checked = restore_host.prepare(installation, wanted, check=True)
    assert checked["empty"] and checked["changed"] and not installation.exists()
    done = restore_host.prepare(installation, wanted)
    assert done["install"] and done["release"] == "0.1.0" and not done["empty"]
    made = installation.env().as_dict()
    assert (
        made["SCUTUM_API_KEY"] == "sk-" + "a" * 64
        and made["LITELLM_PORT"] == "4001"
        and made["COMPOSE_PROFILES"] == "finops"
    )
    assert len(made["POSTGRES_PASSWORD"]) == 32 and len(made["LITELLM_SALT_KEY"]) == 64
    assert not {"SCUTUM_VERSION", "COMPOSE_FILE", "SCUTUM_OPS_MARK_LITELLM"} & made.keys()
    assert installation.adopted()
    held = restore_record.load(installation)
    assert held and held.phase == restore_record.PREPARED and held.fresh
    assert set(held.new_secrets) == {*hidden} - {"SCUTUM_API_KEY"}
    assert "OPENAI_API_KEY is nowhere: set it again" in done["text"]
    # A run that was killed after it goes on, with the same values; a host with an installation stays as it is.
    assert restore_host.prepare(installation, wanted)["install"] and installation.env().as_dict() == made
    restore_record.save(installation, held, phase=restore_record.KEPT)
    assert not restore_host.prepare(installation, wanted)["install"]


def test_the_marks_of_a_restore_keep_a_backup_from_being_the_newest(tmp_path: Path) -> None:
    place = object_store.open_store({"directory": str(tmp_path)})
    for name, parts in ((ID, ("manifest.json",)), ("20261125T040000Z", ("safety.json", "manifest.json"))):
        for part in parts:
            place.put(f"{name}/{part}", b"{}")
    now = backup_catalog.moment("20261126T000000Z")
    assert [entry.id for entry in backup_catalog.complete(place, now)] == [ID]
    assert backup_catalog.choose(place).id == ID and backup_catalog.choose(place, "20261125T040000Z").safety
    assert [one.name for one in backup_catalog.for_retention(backup_catalog.entries(place), {})] == [ID]
    with pytest.raises(ScutumError, match="there is no complete backup 2000"):
        backup_catalog.choose(place, "20000101T000000Z")


def test_an_archive_that_was_changed_is_not_read(installation: Installation, tmp_path: Path) -> None:
    settings = stored(installation, tmp_path, "A=1\n", [])
    place = backup.store(installation, backup.Settings(store=settings))
    manifest = backup_catalog.manifest(place, ID)
    assert backup_archive.read(place, manifest, []).texts["config/.env"] == "A=1\n"
    place.put(f"{ID}/configuration.tar.gz", b"x", replace=True)
    with pytest.raises(ScutumError, match="it is not what was uploaded"):
        backup_archive.read(place, manifest, [])
