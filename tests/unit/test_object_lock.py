# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pruning where objects are locked (S3 Object Lock): what is locked stays in the listing, and goes once its lock is over.

moto applies a bucket's retention to objects of one part, refuses no plain DELETE (a delete marker hides what is locked, as in AWS), and
shows a lock to everybody; who may see one is in test_backup_policies.py.
"""

from __future__ import annotations

import datetime
import functools
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.scutum.ops.plugins.module_utils import backup, backup_catalog, object_store
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation

DAY = 86400.0
NOW = time.time()
# The last one is verified, so that all but it may go.
NAMES = [backup_catalog.new_id(NOW - days * DAY) for days in (50, 40, 30, 1)]


@functools.cache
def client(endpoint: str) -> Any:
    import boto3

    keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x"}
    return boto3.client("s3", region_name="us-east-1", endpoint_url=endpoint, **keys)


class Bucket:
    """A bucket with Object Lock, an installation that keeps its backups there, and what pruning asked and said."""

    def __init__(self, endpoint: str, directory: Path) -> None:
        self.s3 = client(endpoint)
        self.s3.create_bucket(Bucket="locks", ObjectLockEnabledForBucket=True)
        (directory / ".scutum-ops").mkdir()
        (directory / "config").mkdir()
        text = "SCUTUM_BACKUP_ACCESS_KEY_ID=x\nSCUTUM_BACKUP_SECRET_ACCESS_KEY=x\n"
        (directory / "config/.env").write_text(text)
        self.installation = Installation(str(directory))
        store = {"bucket": "locks", "prefix": "p", "endpoint_url": endpoint, "attempts": 1}
        self.wanted = backup.Settings(store=store, keep_daily=1, keep_weekly=1)
        self.place: Any = backup.store(self.installation, self.wanted)
        self.asked: list[str] = []
        self.answer: dict[str, Any] = {}
        self.said: list[str] = []

    def fill(self, *more: str) -> None:
        for name in NAMES:
            for part in ("database.dump", *more, "manifest.json"):
                self.place.put(f"{name}/{part}", b"x")
        self.place.put(f"{NAMES[-1]}/verified.json", b"{}", replace=True)

    def prune(self, monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[str]]:
        """One run, with its requests for locks counted, and the store's answers to them changed by `answer`."""
        self.asked, self.said = [], []
        place = backup.store(self.installation, self.wanted)
        events = place._client.meta.events  # type: ignore[attr-defined]
        events.register("before-call.s3.HeadObject", lambda params, **unused: self.asked.append(params["url_path"]))
        events.register("after-call.s3.HeadObject", lambda parsed, **unused: parsed.update(self.answer))
        monkeypatch.setattr(backup, "store", lambda *unused, **more: place)
        return backup._prune(self.installation, self.wanted, self.said.append)

    def hold(self, key: str, status: str = "ON") -> None:
        self.s3.put_object_legal_hold(Bucket="locks", Key=f"p/{key}", LegalHold={"Status": status})

    def retain(self, key: str, until: float) -> None:
        retention = {"Mode": "GOVERNANCE", "RetainUntilDate": datetime.datetime.fromtimestamp(until, datetime.UTC)}
        self.s3.put_object_retention(Bucket="locks", Key=f"p/{key}", Retention=retention)

    @property
    def listed(self) -> list[str]:
        return [entry.id for entry in reversed(backup_catalog.complete(self.place))]

    @property
    def markers(self) -> set[str]:
        """Backups with a delete marker."""
        found = self.s3.list_object_versions(Bucket="locks").get("DeleteMarkers", [])
        return {item["Key"].split("/")[1] for item in found}


@pytest.fixture(name="bucket")
def fixture_bucket(moto: str, tmp_path: Path) -> Bucket:
    with urllib.request.urlopen(urllib.request.Request(f"{moto}/moto-api/reset", b""), timeout=10):
        pass
    return Bucket(moto, tmp_path)


def test_a_bucket_s_own_retention_keeps_backups(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 30}}
    lock = {"ObjectLockEnabled": "Enabled", "Rule": rule}
    bucket.s3.put_object_lock_configuration(Bucket="locks", ObjectLockConfiguration=lock)
    bucket.fill()
    assert bucket.prune(monkeypatch) == ([], []) and bucket.listed == NAMES and not bucket.markers
    assert sorted(bucket.asked) == [f"/p/{name}/manifest.json" for name in NAMES[:3]], "one request for each"
    [line] = bucket.said
    assert line.startswith(f"{NAMES[0]} stays, locked in the store (Object Lock) until 20") and "UTC; so do 2 o" in line


def test_the_plan_gives_the_lock_as_its_reason(bucket: Bucket) -> None:
    bucket.fill()
    bucket.retain(f"{NAMES[0]}/manifest.json", NOW + DAY)
    found = backup_catalog.entries(bucket.place)
    locks = backup_catalog.locked(bucket.place, found)
    decided = backup.backup_retention.plan(backup_catalog.for_retention(found, locks), 1, 1)
    until = time.strftime("until %Y-%m-%d %H:%M UTC", time.gmtime(NOW + DAY))
    assert decided.keep[NAMES[0]] == f"locked in the store (Object Lock) {until}" and decided.remove == NAMES[1:3]


def test_a_legal_hold_on_any_object_keeps_its_backup(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.fill("verified.json")
    held = list(zip(NAMES, ("manifest.json", "database.dump", "verified.json"), strict=False))
    for name, part in held:
        bucket.hold(f"{name}/{part}")
    assert bucket.prune(monkeypatch) == ([], []) and bucket.listed == NAMES and not bucket.markers
    assert f"{NAMES[0]} stays, locked in the store (Object Lock) until its legal hold is taken off" in bucket.said[0]
    for name, part in held[1:]:
        bucket.hold(f"{name}/{part}", "OFF")
    assert bucket.prune(monkeypatch) == (NAMES[1:3], []) and bucket.listed == [NAMES[0], NAMES[3]]


def test_it_goes_in_a_run_after_its_lock(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.fill()
    end = time.time() + 4
    bucket.retain(f"{NAMES[0]}/database.dump", NOW - DAY)
    bucket.retain(f"{NAMES[1]}/manifest.json", end)
    assert bucket.prune(monkeypatch) == ([NAMES[0], NAMES[2]], []) and bucket.listed == [NAMES[1], NAMES[3]]
    time.sleep(max(0.0, end - time.time()) + 0.1)
    assert bucket.prune(monkeypatch) == ([NAMES[1]], []) and bucket.listed == NAMES[3:]


def test_what_was_never_finished_waits_for_its_lock_too(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.fill()
    unfinished = backup_catalog.new_id(NOW - 2 * DAY)
    bucket.place.put(f"{unfinished}/database.dump", b"x")
    bucket.hold(f"{unfinished}/database.dump")
    assert bucket.prune(monkeypatch) == (NAMES[:3], []) and unfinished not in bucket.markers
    bucket.hold(f"{unfinished}/database.dump", "OFF")
    assert bucket.prune(monkeypatch) == ([unfinished], [])


def test_a_store_that_shows_no_lock_decides_when_it_is_asked_to_delete(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may not see locks (AWS leaves the headers out), or may not even look (403): as before there were locks."""
    bucket.fill()
    bucket.hold(f"{NAMES[0]}/manifest.json")
    bucket.answer = {"ObjectLockLegalHoldStatus": None}
    assert bucket.prune(monkeypatch)[0] == NAMES[:3] and bucket.markers == set(NAMES[:3])
    assert bucket.place.locked("none/manifest.json") == "", "gone meanwhile"
    bucket.hold(f"{NAMES[3]}/manifest.json")
    assert bucket.place.locked(f"{NAMES[3]}/manifest.json")
    _head_is(403, bucket.place)
    assert bucket.place.locked(f"{NAMES[3]}/manifest.json") == ""


def _head_is(status: int, place: Any) -> None:
    """From now on the store answers HEAD with this status; such an answer has no body."""
    from botocore.awsrequest import AWSResponse

    class Nothing:
        def stream(self, *unused: Any, **also_unused: Any) -> Iterator[bytes]:
            yield b""

    def reply(request: Any, **unused: Any) -> Any:
        return AWSResponse(request.url, status, {}, Nothing())

    place._client.meta.events.register_first("before-send.s3.HeadObject", reply)


def test_a_store_that_fails_is_not_taken_for_one_without_locks(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.fill()
    bucket.hold(f"{NAMES[0]}/manifest.json")
    place = backup.store(bucket.installation, bucket.wanted)
    _head_is(503, place)
    with pytest.raises(ScutumError, match=r"overloaded, still at attempt 1 \(503, 503\)"):
        place.locked(f"{NAMES[0]}/manifest.json")
    monkeypatch.setattr(backup, "store", lambda *unused, **more: place)
    removed, [warning] = backup._prune(bucket.installation, bucket.wanted, bucket.said.append)
    assert not removed and warning.startswith("old backups were not taken away: ") and "overloaded" in warning
    assert bucket.listed == NAMES and not bucket.markers


def test_stores_that_know_no_lock(bucket: Bucket, tmp_path: Path) -> None:
    bucket.s3.create_bucket(Bucket="plain")
    places = [
        object_store.open_store({"directory": str(tmp_path)}),
        object_store.open_store(
            {**bucket.wanted.store, "bucket": "plain"}, {"access_key_id": "x", "secret_access_key": "x"}
        ),
    ]
    for place in places:
        place.put("a/manifest.json", b"x")
        assert place.locked("a/manifest.json") == ""


# --- a lock that we ask for


@pytest.mark.parametrize("mode", ["compliance", "governance"])
def test_what_is_stored_is_locked(bucket: Bucket, mode: str) -> None:
    """Both ways of uploading ask for it; what may be replaced is not locked. moto keeps the lock of an object of one part only."""
    place: Any = object_store.open_store(
        {**bucket.wanted.store, "lock_mode": mode, "lock_days": 90}, {"access_key_id": "x", "secret_access_key": "x"}
    )
    sent: list[dict[str, Any]] = []
    events = place._client.meta.events
    events.register("before-call.s3.CreateMultipartUpload", lambda params, **unused: sent.append(params["headers"]))
    place.put("a/manifest.json", b"x")
    place.upload("a/small", [b"x"])
    place.upload("a/large", [bytes(object_store.MIB)] * 6, part_size=5 * object_store.MIB)
    place.put("a/note", b"x", replace=True)
    place.check()
    until = time.time() + 90 * DAY
    for key in ("a/manifest.json", "a/small"):
        held = bucket.s3.head_object(Bucket="locks", Key=f"p/{key}")
        assert held["ObjectLockMode"] == mode.upper()
        assert abs(held["ObjectLockRetainUntilDate"].timestamp() - until) < 120
        assert place.locked(key).startswith("until 20")
    [headers] = sent
    assert headers["x-amz-object-lock-mode"] == mode.upper()
    assert headers["x-amz-object-lock-retain-until-date"][:10] == time.strftime("%Y-%m-%d", time.gmtime(until))
    assert place.locked("a/note") == place.locked(object_store.PROBE) == ""


def test_a_lock_that_cannot_be() -> None:
    def wrong(**more: Any) -> str:
        return "; ".join(object_store.problems({"bucket": "b", **more}))

    assert not wrong(lock_mode="compliance", lock_days=2555)
    assert wrong(lock_mode="forever", lock_days=1) == "scutum_backup_store.lock_mode is none of compliance, governance"
    for days in (0, 36501, True, "30", 1.5):
        assert "lock_days is no whole number from 1 to 36500" in wrong(lock_mode="governance", lock_days=days)
    assert "lock_mode and scutum_backup_store.lock_days go together" in wrong(lock_days=3) and "go together" in wrong(
        lock_mode="governance"
    )
    assert "lock_mode is none of directory" in "; ".join(
        object_store.problems({"directory": "/x", "lock_mode": "governance", "lock_days": 1})
    )


def test_a_bucket_without_object_lock_refuses_it(bucket: Bucket) -> None:
    bucket.s3.create_bucket(Bucket="plain")
    place = object_store.open_store(
        {**bucket.wanted.store, "bucket": "plain", "lock_mode": "compliance", "lock_days": 1},
        {"access_key_id": "x", "secret_access_key": "x"},
    )
    with pytest.raises(ScutumError, match="the bucket has no Object Lock") as caught:
        place.put("a", b"x")
    assert "lock_mode" in caught.value.next_step and place.list() == []
