"""Backups without a database: what counts in a store, what is pruned, what a configuration archive holds, what a report says."""

from __future__ import annotations

import email
import io
import json
import socket
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from ansible_collections.scutum.ops.plugins.module_utils import (
    admin_api,
    backup,
    backup_archive,
    backup_catalog,
    cli,
    host_job,
    notify,
    object_store,
    restore_verification,
    schedule,
)
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation

DAY = 86400.0


def put(store: Any, name: str, *parts: str) -> None:
    for part in parts:
        held = {"format": 1, "id": name, **dict.fromkeys(backup_catalog._NEEDED, 0)}
        content = json.dumps(held).encode() if part == "manifest.json" else b"x"
        store.put(f"{name}/{part}", content)


@pytest.fixture(name="installation")
def fixture_installation(tmp_path: Path) -> Installation:
    (tmp_path / "here/config").mkdir(parents=True)
    (tmp_path / "here/.scutum-ops").mkdir()
    (tmp_path / "store").mkdir()
    env = "POSTGRES_USER=u\nPOSTGRES_PASSWORD=canary-password\n# OPENAI_API_KEY=sk-canary-old\nLITELLM_PORT=4000\n"
    (tmp_path / "here/config/.env").write_text(env)
    found = Installation(str(tmp_path / "here"))
    backup.configure(found, backup.Settings(store={"directory": str(tmp_path / "store")}))
    return found


def test_what_counts_is_what_has_a_manifest_and_a_time(tmp_path: Path) -> None:
    store = object_store.open_store({"directory": str(tmp_path)})
    now = time.time()
    old, new, ahead = (backup_catalog.new_id(now + delta) for delta in (-2 * DAY, -DAY, 5 * DAY))
    put(store, old, "database.dump", "configuration.tar.gz", "manifest.json", "verified.json")
    put(store, new, "database.dump", "manifest.json")
    put(store, ahead, "database.dump", "manifest.json")
    put(store, backup_catalog.new_id(now), "database.dump")
    put(store, "20261399T999999Z", "manifest.json")
    put(store, "somebody-elses", "manifest.json")
    assert [entry.id for entry in backup_catalog.complete(store)] == [new, old]
    assert [entry.verified for entry in backup_catalog.complete(store)] == [False, True]
    assert len(backup_catalog.entries(store)) == 4
    for broken in ([], {"format": 1, "id": new}):
        store.put(f"{ahead}/manifest.json", json.dumps(broken).encode(), replace=True)
        with pytest.raises(ScutumError):
            backup_catalog.manifest(store, ahead)
    time.sleep(0.01)
    store.put(f"{old}/verification-failed.json", b"{}")
    assert [entry.verified for entry in backup_catalog.complete(store)] == [False, False]
    assert backup_catalog.manifest(store, new)["id"] == new
    store.put(f"{old}/manifest.json", json.dumps({"format": 1, "id": new}).encode(), replace=True)
    with pytest.raises(ScutumError, match=f"it is of backup {new}"):
        backup_catalog.manifest(store, old)


def test_pruning_takes_the_manifest_first_and_never_fails_a_backup(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = backup.store(installation, backup.settings(installation))
    now = time.time()
    names = [backup_catalog.new_id(now - number * 3600) for number in range(72, 0, -1)]
    for name in names:
        put(store, name, "database.dump", "manifest.json", *(["verified.json"] if name == names[-1] else []))
    unfinished = backup_catalog.new_id(now - 2 * DAY - 60)
    put(store, unfinished, "database.dump")
    wanted = backup.settings(installation)
    # Without a week the first would stay on a Wednesday after 23:00: it is the last of its Sunday then.
    wanted.keep_daily = wanted.keep_weekly = 1
    gone: list[str] = []
    real = type(store).delete

    def delete(self: Any, key: str) -> None:
        gone.append(key)
        if key.startswith(names[0]):
            raise ScutumError("the object is locked")
        real(self, key)

    monkeypatch.setattr(type(store), "delete", delete)
    removed, warnings = backup._prune(installation, wanted, lambda line: None)
    assert unfinished in removed and names[-1] not in removed and len(removed) > 60
    assert warnings == [f"{names[0]} was not taken away: the object is locked"]
    first = {}
    for key in gone:
        first.setdefault(key.split("/")[0], key.split("/")[1])
    assert set(first.values()) <= {"manifest.json", "database.dump"} and first[removed[0]] == "manifest.json"


def test_a_configuration_archive_holds_no_secret_unless_it_is_encrypted(installation: Installation) -> None:
    class Roles:
        def globals(self) -> str:
            return "CREATE ROLE u;\n"

    database: Any = Roles()
    (Path(installation.directory) / "scutum-ops.override.yaml").write_text("x: canary-password\n")

    def held(secrets: bool) -> dict[str, str]:
        data = backup_archive.build(installation, database, secrets)
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            members = [(member.name, archive.extractfile(member)) for member in archive]
            return {name: file.read().decode() for name, file in members if file}

    plain = held(False)
    assert "canary" not in "".join(plain.values()) and "LITELLM_PORT=4000" in plain["config/.env"]
    assert json.loads(plain["left-out.json"]) == ["POSTGRES_PASSWORD"] and plain["globals.sql"] == "CREATE ROLE u;\n"
    assert "POSTGRES_PASSWORD=canary-password" in held(True)["config/.env"]


def test_settings_that_cannot_work_are_all_named() -> None:
    wrong = backup.Settings(
        store={"bukket": "x"},
        age_recipients=["canary"],
        keep_daily=0,
        keep_weekly=0,
        compression_level=99,
        timeout=1,
        spool="/nowhere",
    )
    found = "; ".join(backup.problems(wrong))
    for name in ("bukket", "age_recipients", "keep_daily", "keep_weekly", "compression_level", "timeout", "/nowhere"):
        assert name in found
    assert "canary" not in found
    assert backup.problems(backup.Settings(store={"directory": "/srv/backups"})) == []


def test_a_report_says_which_of_three_ways_it_went() -> None:
    report: dict[str, Any] = {
        "ok": False, "outcome": "failed", "id": "20261125T031700Z", "recovery_time_seconds": 9.5, "recovery_point_seconds": 7200,
        "checks": [{"name": "rows", "ok": False, "detail": "audit_logs <is> empty", "seconds": 1}], "drift": {"public.a": 2},
        "next_step": "take another one",
    }  # fmt: skip
    text = "\n".join(restore_verification.text(report))
    assert "backup 20261125T031700Z DOES NOT RESTORE, in 9.5 s" in text and "2.0 hours before" in text
    assert "FAIL rows: audit_logs <is> empty" in text and "public.a +2" in text and "Next: take another one" in text
    page = restore_verification.page(report)
    assert "audit_logs &lt;is&gt; empty" in page and "<is>" not in page
    report["outcome"] = "unknown"
    assert "COULD NOT BE VERIFIED" in restore_verification.text(report)[0]


def test_a_report_goes_by_mail_as_text_and_as_a_page(installation: Installation, tmp_path: Path) -> None:
    """Also when the verification could not even begin, and the status of the store is unknown."""
    got: list[Any] = []

    class Inbox:
        async def handle_DATA(self, unused: Any, session: Any, envelope: Any) -> str:
            got.append(email.message_from_bytes(envelope.content))
            return "250 OK"

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Controller(Inbox(), hostname="127.0.0.1", port=port)
    mail = {"host": "127.0.0.1", "port": port, "sender": "a@example.com", "to": ["on-call@example.com"]}
    Path(installation.private, notify.FILE).write_text(json.dumps({"mail": mail}))
    server.start()
    try:
        report = restore_verification.verify(installation, restore_verification.Settings(), "", lambda line: None)
    finally:
        server.stop()
    parts = {
        part.get_content_type(): part.get_payload(decode=True).decode()
        for part in got[0].walk()
        if not part.is_multipart()
    }
    assert report["outcome"] == "unknown" and "COULD NOT BE VERIFIED" in got[0]["Subject"].replace("\n", "")
    assert "there is no complete backup" in parts["text/plain"] and "<table" in parts["text/html"]
    assert (
        parts["text/html"].splitlines()
        == Path(installation.private, "restore-verification-report.html").read_text().splitlines()
    )


def test_a_spool_has_no_name_and_needs_space(tmp_path: Path) -> None:
    with backup._spooled(iter([b"a" * 10, b"b"]), str(tmp_path), 11) as chunks:
        assert list(tmp_path.iterdir()) == [] and b"".join(chunks) == b"a" * 10 + b"b"
    with (
        pytest.raises(ScutumError, match="scutum_backup_spool: .* has .* MiB free"),
        backup._spooled(iter([]), str(tmp_path), 1 << 60),
    ):
        pass


def test_rows_that_postgres_quotes_are_not_reported(installation: Installation) -> None:
    text = (
        'pg_restore failed: ERROR: bad\nCONTEXT:  COPY a, line 1: "secret row"\nDETAIL:  Key (x)=(1)\ncanary-password'
    )
    assert restore_verification.shown(installation, text) == "pg_restore failed: ERROR: bad\n[POSTGRES_PASSWORD]"


def test_a_token_is_what_pyjwt_reads() -> None:
    import jwt

    claims = jwt.decode(admin_api.sign_token("s" * 64), "s" * 64, algorithms=["HS256"])
    assert claims["is_admin"] and claims["role"] == "admin" and claims["exp"] - claims["iat"] == 60


def test_a_line_for_cron(installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "CRON", str(tmp_path / "cron.d"))
    monkeypatch.setattr(schedule, "UNITS", str(tmp_path / "units"))
    job = schedule.Job("backup", "a backup", ["backup", "--metrics", "/a b"], "17 3 * * *", 60, 600, scheduler="cron")
    with pytest.raises(ScutumError, match=r"this host has no cron"):
        schedule.ensure(installation, job, "/usr/local/sbin/scutum-ops")
    (tmp_path / "cron.d").mkdir()
    (tmp_path / "units").mkdir()

    class There:
        rc = 0

    monkeypatch.setattr(schedule, "run", lambda *words, **more: There())
    changes = schedule.ensure(installation, job, "/usr/local/sbin/scutum-ops")
    text = (tmp_path / "cron.d/scutum-ops-backup").read_text()
    assert (
        changes == [str(tmp_path / "cron.d/scutum-ops-backup")] and "--metrics '/a b' --delay 60 2>&1 | logger" in text
    )
    assert "17 3 * * * root nice -n 10 ionice -c 3 timeout 660 " in text
    assert schedule.ensure(installation, job, "/usr/local/sbin/scutum-ops") == []
    assert [found.name for found in schedule.jobs(installation)] == ["backup"]
    assert schedule.remove(job) == changes and schedule.jobs(installation) == []


def test_a_job_that_waits_for_a_source_just_ends() -> None:
    """A host that shuts down must not wait for it; a backup says why it ended."""
    assert {"backup", "verify-restore", "audit-retention"} == cli.ENDED and "secrets-fetch" in cli.JOBS
    with pytest.raises(ScutumError, match="ended from outside") as error:
        host_job.end(15, None)
    with pytest.raises(ScutumError, match="ended from outside"):
        host_job.check_end()
    host_job._END.clear()
    assert error.value.left and error.value.next_step
