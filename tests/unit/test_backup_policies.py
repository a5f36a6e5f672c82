# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The policies of docs/roles/backup.md, as they stand there, enforced by moto: each does its work, nothing else, and is the least."""

from __future__ import annotations

import copy
import datetime
import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.scutum.ops.plugins.module_utils import backup, backup_catalog
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation
from ansible_collections.scutum.ops.plugins.module_utils.object_store import MIB, Store, open_store

PAGE = Path(__file__).resolve().parents[2] / "docs/roles/backup.md"
# What the page's first example has.
BUCKET, PREFIX = "my-backups", "scutum/production"
# The smallest that the API takes.
PART = 5 * MIB
DAY = 86400.0
_ids = itertools.count()
Policy = dict[str, Any]


def _policies() -> dict[str, Policy]:
    found = re.findall(r"^The (\w+)'s[^\n]*:\n\n```json\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return {name: json.loads(text) for name, text in found}


POLICIES = _policies()


def _less() -> Iterator[Any]:
    """Every policy without one of its actions, or one of several resources."""
    for name, policy in POLICIES.items():
        for number, statement in enumerate(policy["Statement"]):
            for part in ("Action", "Resource"):
                held = statement[part] if isinstance(statement[part], list) else [statement[part]]
                for one in held if part == "Action" or len(held) > 1 else []:
                    smaller = copy.deepcopy(policy)
                    smaller["Statement"][number][part] = [other for other in held if other != one]
                    if not smaller["Statement"][number][part]:
                        del smaller["Statement"][number]
                    action = one if part == "Action" else statement["Action"]
                    # Without a permission to see a lock nothing is refused, but none is seen.
                    fails = "until" if name == "pruner" and "s3:Get" in action else rf"may not do {action}\b"
                    yield pytest.param(name, smaller, fails, id=f"{name} without {one}")


class Cloud:
    """moto that enforces IAM, with an owner who may do all, and one bucket with Object Lock."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._key = {"access_key_id": "anybody", "secret_access_key": "anything"}
        # The three requests that moto does not check: see INITIAL_NO_AUTH_ACTION_COUNT below.
        self.iam = self.client("iam")
        self._key = self.user({"Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]})
        self.iam, self.s3 = self.client("iam"), self.client("s3")
        self.s3.create_bucket(Bucket=BUCKET, ObjectLockEnabledForBucket=True)

    def client(self, service: str) -> Any:
        import boto3

        keys = {f"aws_{name}": value for name, value in self._key.items()}
        return boto3.client(service, region_name="us-east-1", endpoint_url=self.endpoint, **keys)

    def user(self, policy: Policy) -> dict[str, str]:
        """The credential of a new user who has this policy and nothing else."""
        name = f"user{next(_ids)}"
        self.iam.create_user(UserName=name)
        document = json.dumps({"Version": "2012-10-17", **policy})
        self.iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=document)
        key = self.iam.create_access_key(UserName=name)["AccessKey"]
        return {"access_key_id": key["AccessKeyId"], "secret_access_key": key["SecretAccessKey"]}

    def settings(self, prefix: str = PREFIX) -> dict[str, Any]:
        return {"bucket": BUCKET, "prefix": prefix, "endpoint_url": self.endpoint, "attempts": 1}

    def store(self, credential: dict[str, str], prefix: str = PREFIX) -> Any:
        return open_store(self.settings(prefix), credential)

    def has(self, key: str, content: bytes = b"x", prefix: str = PREFIX) -> None:
        self.s3.put_object(Bucket=BUCKET, Key=f"{prefix}/{key}", Body=content)


@pytest.fixture(name="cloud", scope="module")
def fixture_cloud() -> Iterator[Cloud]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("moto_iam.py"))],
        env={**variables, "INITIAL_NO_AUTH_ACTION_COUNT": "3"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout and process.stdin
        yield Cloud(process.stdout.readline().strip())
        process.stdin.close()


def _new() -> str:
    return f"key{next(_ids)}"


def _chunks(count: int, problem: Exception | None = None) -> Iterator[bytes]:
    yield from [bytes(MIB)] * count
    if problem:
        raise problem


def _upload(cloud: Cloud, store: Store) -> None:
    """All that a backup, and a verification of it on the same host, do with a store."""
    name = _new()
    cloud.s3.create_multipart_upload(Bucket=BUCKET, Key=f"{PREFIX}/{name}/killed")
    store.check()
    assert store.abort_stale(name, -60) == [f"{name}/killed"]
    store.upload(f"{name}/database.dump", _chunks(6), part_size=PART)
    store.upload(f"{name}/configuration.tar.gz", _chunks(1))
    with pytest.raises(ScutumError, match=r"the dump died(?s:.*)its parts were removed"):
        store.upload(f"{name}/bad", _chunks(6, ScutumError("the dump died")), part_size=PART)
    store.put(f"{name}/manifest.json", b"{}")
    store.put(f"{name}/verified.json", b"1")
    store.put(f"{name}/verified.json", b"2", replace=True)
    assert store.get(f"{name}/verified.json") == b"2" and len(b"".join(store.open(f"{name}/database.dump"))) == 6 * MIB
    found = [item.key.partition("/")[2] for item in store.list(f"{name}/")]
    assert found == ["configuration.tar.gz", "database.dump", "manifest.json", "verified.json"]
    assert store.abort_stale("", -60) == []


def _prune(cloud: Cloud, store: Store) -> None:
    """All that pruning does with a store."""
    name = _new()
    for part in ("free", "retained", "held"):
        cloud.has(f"{name}/{part}")
    until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    cloud.s3.put_object_retention(
        Bucket=BUCKET, Key=f"{PREFIX}/{name}/retained", Retention={"Mode": "COMPLIANCE", "RetainUntilDate": until}
    )
    cloud.s3.put_object_legal_hold(Bucket=BUCKET, Key=f"{PREFIX}/{name}/held", LegalHold={"Status": "ON"})
    assert len(store.list(name)) == 3 and store.locked(f"{name}/free") == ""
    assert store.locked(f"{name}/retained") == until.strftime("until %Y-%m-%d %H:%M UTC")
    assert store.locked(f"{name}/held") == "until its legal hold is taken off"
    store.delete(f"{name}/free")
    assert len(store.list(name)) == 2


def _read(cloud: Cloud, store: Store) -> None:
    """All that a verification on another host does with a store."""
    name = _new()
    cloud.has(f"{name}/database.dump", b"dump")
    assert [item.key for item in store.list(name)] == [f"{name}/database.dump"]
    assert store.get(f"{name}/database.dump") == b"".join(store.open(f"{name}/database.dump")) == b"dump"
    for mark in (backup_catalog.VERIFIED, backup_catalog.FAILED):
        store.put(f"{name}/{mark}", b"{}", replace=True)


WORK: dict[str, Callable[[Cloud, Store], None]] = {"uploader": _upload, "pruner": _prune, "reader": _read}


def _refused(action: Callable[[], Any], what: str) -> None:
    with pytest.raises(ScutumError) as error:
        action()
    assert f"may not do {what}" in error.value.what, str(error.value)
    assert error.value.left and f"allow {what}" in error.value.next_step and "docs/roles/backup.md" in str(error.value)


def test_only_who_has_a_policy_gets_in(cloud: Cloud) -> None:
    assert POLICIES.keys() == WORK.keys()
    unknown = cloud.store({"access_key_id": "AKIACANARY00000000", "secret_access_key": "x"})
    with pytest.raises(ScutumError, match="does not know the access key"):
        unknown.check()
    wrong = cloud.store({**cloud.user(POLICIES["uploader"]), "secret_access_key": "x"})
    with pytest.raises(ScutumError, match="the signature does not match"):
        wrong.check()


@pytest.mark.parametrize("name", WORK)
def test_each_does_its_work_with_its_policy(cloud: Cloud, name: str) -> None:
    WORK[name](cloud, cloud.store(cloud.user(POLICIES[name])))


@pytest.mark.parametrize(("name", "policy", "fails"), list(_less()))
def test_nothing_in_a_policy_is_too_much(cloud: Cloud, name: str, policy: Policy, fails: str) -> None:
    """moto enforces each of these actions; s3:GetObjectRetention and s3:GetObjectLegalHold by what moto_iam.py adds."""
    with pytest.raises((ScutumError, AssertionError), match=fails):
        WORK[name](cloud, cloud.store(cloud.user(policy)))


def test_nobody_does_another_s_work(cloud: Cloud) -> None:
    uploader, pruner, reader = (cloud.store(cloud.user(POLICIES[name])) for name in ("uploader", "pruner", "reader"))
    cloud.has("kept/manifest.json", b"{}")
    for store in (uploader, reader):
        _refused(lambda store=store: store.delete("kept/manifest.json"), "s3:DeleteObject")
    for store, key in ((pruner, "new/verified.json"), (reader, "kept/manifest.json"), (reader, "new/database.dump")):
        _refused(lambda store=store, key=key: store.put(key, b"", replace=True), "s3:PutObject")
        _refused(lambda store=store: store.upload(_new(), _chunks(6), part_size=PART), "s3:PutObject")
    for store in (pruner, reader):
        _refused(lambda store=store: store.abort_stale("", 0), "s3:ListBucketMultipartUploads")
    assert uploader.get("kept/manifest.json") == b"{}"


@pytest.mark.parametrize("prefix", ["scutum/production2", "scutum", "other"])
@pytest.mark.parametrize("name", WORK)
def test_another_prefix_is_refused(cloud: Cloud, name: str, prefix: str) -> None:
    """But for the list of unfinished uploads: AWS knows no condition by which it could be narrowed to a prefix."""
    cloud.has("a/verified.json", prefix=prefix)
    store = cloud.store(cloud.user(POLICIES[name]), prefix)
    _refused(lambda: store.get("a/verified.json"), "s3:GetObject")
    _refused(lambda: store.put("a/verified.json", b"", replace=True), "s3:PutObject")
    _refused(lambda: store.delete("a/verified.json"), "s3:DeleteObject")
    _refused(store.list, "s3:ListBucket")
    assert store.locked("a/verified.json") == ""
    if name == "uploader":
        cloud.s3.create_multipart_upload(Bucket=BUCKET, Key=f"{prefix}/a/killed")
        _refused(lambda: store.abort_stale("a/", -60), "s3:AbortMultipartUpload")


def test_a_job_prunes_as_the_pruner_only(cloud: Cloud, tmp_path: Path) -> None:
    """With both identities in the installation's secrets, with the uploader's alone, and with less where there are no locks."""
    less = copy.deepcopy(POLICIES["pruner"])
    less["Statement"][0]["Action"] = ["s3:DeleteObject"]
    (tmp_path / ".scutum-ops").mkdir()
    (tmp_path / "config").mkdir()
    installation = Installation(str(tmp_path))
    wanted = backup.Settings(store=cloud.settings(), keep_daily=1, keep_weekly=1)

    def prune(**policies: Policy) -> tuple[list[str], list[str]]:
        users = {f"SCUTUM_BACKUP{which}": cloud.user(policy) for which, policy in policies.items()}
        lines = [f"{which}_{key.upper()}={value}\n" for which, user in users.items() for key, value in user.items()]
        (tmp_path / "config/.env").write_text("".join(lines))
        return backup._prune(installation, wanted, lambda line: None)

    uploader, dump = POLICIES["uploader"], backup_catalog.DUMP
    names = [backup_catalog.new_id(time.time() - days * DAY) for days in (40, 30, 20, 1)]
    for name in names:
        cloud.has(f"{name}/{dump}")
        cloud.has(f"{name}/manifest.json")
    cloud.has(f"{names[-1]}/verified.json")
    removed, warnings = prune(**{"": uploader})
    assert not removed and len(warnings) == 3 and all("may not do s3:DeleteObject" in text for text in warnings)
    held = {"Bucket": BUCKET, "Key": f"{PREFIX}/{names[1]}/{dump}"}
    cloud.s3.put_object_legal_hold(**held, LegalHold={"Status": "ON"})
    assert prune(**{"": uploader, "_PRUNE": POLICIES["pruner"]}) == ([names[0], names[2]], [])
    cloud.s3.put_object_legal_hold(**held, LegalHold={"Status": "OFF"})
    assert prune(**{"": uploader, "_PRUNE": less}) == ([names[1]], [])
    place = cloud.store(cloud.user(POLICIES["reader"]))
    assert [entry.id for entry in backup_catalog.complete(place)] == names[3:]
