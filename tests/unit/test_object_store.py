"""Both stores through their one interface, and what each failure of a store leaves and says."""

from __future__ import annotations

import errno
import functools
import hashlib
import itertools
import os
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.scutum.ops.plugins.module_utils import object_store
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from ansible_collections.scutum.ops.plugins.module_utils.object_store import (
    MIB,
    PROBE,
    DirectoryStore,
    S3Store,
    Store,
    open_store,
    problems,
)

# The smallest that the API takes.
PART = 5 * MIB
BLOCK = bytes(range(256)) * 4096
KEYS = {"access_key_id": "AKIACANARY00000000", "secret_access_key": "canary-secret-access-key"}
COLLECTIONS = Path(__file__).resolve().parents[2] / ".cache/collections"


def post(url: str, data: bytes = b"") -> None:
    with urllib.request.urlopen(urllib.request.Request(url, data, {"Content-Type": "text/plain"}), timeout=10):
        pass


@pytest.fixture(name="clean", autouse=True)
def fixture_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """No credential of the machine, and no waiting between attempts."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *unused: 0)


@functools.cache
def client(endpoint: str) -> Any:
    import boto3

    return boto3.client(
        "s3", region_name="us-east-1", endpoint_url=endpoint, aws_access_key_id="x", aws_secret_access_key="x"
    )


@pytest.fixture(name="s3")
def fixture_s3(moto: str) -> str:
    """An endpoint with one empty bucket."""
    post(f"{moto}/moto-api/reset")
    client(moto).create_bucket(Bucket="backups")
    return moto


def bucket(endpoint: str, credential: dict[str, str] | None = None, **settings: Any) -> Any:
    options = {"bucket": "backups", "prefix": "scutum/prod", "endpoint_url": endpoint, "attempts": 2, **settings}
    return open_store(options, KEYS if credential is None else credential)


@pytest.fixture(name="store", params=["s3", "directory"])
def fixture_store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "s3":
        return bucket(request.getfixturevalue("s3"))  # type: ignore[no-any-return]
    return open_store({"directory": str(tmp_path)}, {})


def blocks(count: int) -> Iterator[bytes]:
    for unused in range(count):
        yield BLOCK


def dies(count: int, problem: BaseException) -> Iterator[bytes]:
    yield from blocks(count)
    raise problem


def refused(action: Callable[[], Any], store: Any) -> str:
    """What a failure says: place and next step, and nothing of the credential."""
    with pytest.raises(ScutumError) as error:
        action()
    assert store.where in error.value.what and error.value.left and error.value.next_step
    text = str(error.value)
    assert "canary" not in text.lower() and error.value.__cause__ is None or not isinstance(store, S3Store)
    return text


def unfinished(endpoint: str) -> list[Any]:
    return list(client(endpoint).list_multipart_uploads(Bucket="backups").get("Uploads", []))


def answers(store: S3Store, operation: str, *replies: tuple[int, str] | None, message: str = "canary") -> list[int]:
    """Give these replies (status, code) to an operation instead of the store's, the last one for ever; None: let it through."""
    from botocore.awsrequest import AWSResponse

    class Raw:
        def __init__(self, text: str) -> None:
            self.text = text.encode()

        def stream(self, *unused: Any, **also_unused: Any) -> Iterator[bytes]:
            yield self.text

    calls: list[int] = []

    def reply(request: Any, **unused: Any) -> Any:
        calls.append(1)
        wanted = replies[min(len(calls), len(replies)) - 1]
        if wanted is None:
            return None
        body = f"<Error><Code>{wanted[1]}</Code><Message>{message}</Message></Error>"
        return AWSResponse(request.url, wanted[0], {}, Raw(body))

    store._client.meta.events.register(f"before-send.s3.{operation}", reply)
    return calls


# --- both stores


@pytest.mark.parametrize("count", [0, 1, 5, 12])
def test_what_is_uploaded_is_read_back(store: Store, count: int) -> None:
    stored = store.upload("a/dump", blocks(count), part_size=PART)
    assert (stored.key, stored.size, stored.sha256) == (
        "a/dump",
        count * MIB,
        hashlib.sha256(BLOCK * count).hexdigest(),
    )
    assert b"".join(store.open("a/dump")) == store.get("a/dump") == BLOCK * count
    [found] = store.list()
    assert (found.key, found.size) == ("a/dump", count * MIB) and abs(found.modified - time.time()) < 60


def test_chunks_of_any_size_are_cut_the_same(store: Store) -> None:
    data = BLOCK * 11
    cuts = [0, 1, 1, PART - 1, PART, 2 * PART + 7, len(data)]
    chunks = (data[begin:end] for begin, end in itertools.pairwise(cuts))
    assert store.upload("k", chunks, part_size=PART).sha256 == hashlib.sha256(data).hexdigest()
    assert store.get("k") == data


def test_small_objects_lists_and_deletes(store: Store) -> None:
    for key in ("a/2", "a/1", "b/ü", "c"):
        store.put(key, key.encode())
    assert [item.key for item in store.list()] == ["a/1", "a/2", "b/ü", "c"]
    assert [item.key for item in store.list("a/")] == ["a/1", "a/2"] and store.list("none") == []
    store.put("c", b"new", replace=True)
    assert store.get("c") == b"new"
    store.delete("c")
    store.delete("c")
    assert "c" not in [item.key for item in store.list()]
    for action in (lambda: store.get("c"), lambda: store.open("c")):
        assert "not there" in (text := refused(action, store)) or "no such object" in text


def test_an_object_is_never_overwritten(store: Store) -> None:
    store.put("k", b"first")
    store.put("k2", b"another that begins the same")
    assert "exists already" in refused(lambda: store.put("k", b"second"), store)
    assert "exists already" in refused(lambda: store.upload("k", blocks(1)), store)
    assert store.get("k") == b"first"


@pytest.mark.parametrize("key", ["", "/a", "a//b", "../a", "a/..", ".hidden", "a/"])
def test_a_key_is_a_plain_path(store: Store, key: str) -> None:
    assert "is no key" in refused(lambda: store.put(key, b""), store)


@pytest.mark.parametrize(
    "problem", [ScutumError("pg_dump died"), OSError(errno.ENOSPC, "the producer's"), KeyboardInterrupt()]
)
@pytest.mark.parametrize("count", [0, 1, 12])
def test_nothing_is_left_of_a_producer_that_fails(store: Store, problem: BaseException, count: int) -> None:
    with pytest.raises(type(problem)) as error:
        store.upload("a/dump", dies(count, problem), part_size=PART)
    assert error.value is problem, "it goes on as it is"
    assert store.list() == [] and store.abort_stale("", -60) == []


def test_a_killed_producer_that_raises_leaves_nothing(store: Store) -> None:
    def dump() -> Iterator[bytes]:
        command = "head -c 7000000 /dev/zero; kill -9 $$"
        with subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE) as process:
            assert process.stdout
            while chunk := process.stdout.read(MIB):
                yield chunk
        if process.returncode:
            raise ScutumError(f"the dump ended with {process.returncode}")

    with pytest.raises(ScutumError, match="the dump ended with -9"):
        store.upload("a/dump", dump(), part_size=PART)
    assert store.list() == [] and store.abort_stale("", -60) == []


def test_what_a_killed_uploader_left_is_invisible_and_swept(store: Any, s3: str, tmp_path: Path) -> None:
    settings = {"directory": str(tmp_path)} if isinstance(store, DirectoryStore) else store._settings
    code = f"""
import os, sys
sys.path.insert(0, {str(COLLECTIONS)!r})
from ansible_collections.scutum.ops.plugins.module_utils.object_store import open_store
def chunks():
    for unused in range(12):
        yield bytes({MIB})
    os._exit(9)
open_store({settings!r}, {KEYS if "bucket" in settings else {}!r}).upload("a/dump", chunks(), part_size={PART})
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert store.list() == []
    assert store.abort_stale("b/", -60) == [] and store.abort_stale("a/", 40 * 365 * 86400) == [], "not yet"
    [swept] = store.abort_stale("a/du", -60)
    assert swept.startswith("a/") and store.abort_stale("", -60) == [] and unfinished(s3) == []


def test_the_probe_reads_what_it_wrote(store: Store) -> None:
    store.check()
    store.check()
    assert store.list() == [] and store.get(PROBE) == object_store.PROBE_TEXT


def test_a_probe_that_reads_something_else_is_said(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(store), "get", lambda *unused: b"old")
    assert "not what was written" in refused(store.check, store)


def test_a_small_object_has_a_limit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("k", b"123456789")
    monkeypatch.setattr(object_store, "SMALL", 8)
    assert "larger than" in refused(lambda: store.get("k"), store)


# --- settings


@pytest.mark.parametrize(
    ("settings", "credential", "words"),
    [
        ({}, {}, "bucket is missing"),
        ({"directory": "backups"}, {}, "directory is no absolute path"),
        ({"directory": "/b", "bucket": "b"}, {}, "bucket is none of directory (directory and bucket exclude"),
        ({"bucket": "b", "buckett": "b"}, {}, "buckett is none of bucket, prefix"),
        ({"bucket": "b", "region": 1}, {}, "region is no text"),
        ({"bucket": "b", "sse": "yes"}, {}, "sse is none of AES256, aws:kms"),
        ({"bucket": "b", "checksums": "never"}, {}, "checksums is none of when_required"),
        ({"bucket": "b", "attempts": "5"}, {}, "attempts is no whole number from 1 to 20"),
        ({"bucket": "b", "kms_key_id": "k"}, {}, "kms_key_id needs"),
        ({"bucket": "b", "endpoint_url": "s3.example.org"}, {}, "endpoint_url does not begin with"),
        ({"bucket": "b", "endpoint_url": "https://a:canary@h"}, {}, "endpoint_url has a credential in it"),
        ({"bucket": "b"}, {"access_key_id": "canary"}, "go together"),
        ({"bucket": "b"}, {"session_token": "canary"}, "session_token needs"),
        ({"bucket": "b"}, {"password": "canary"}, "password is none of access_key_id"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], credential: dict[str, Any], words: str) -> None:
    [text] = problems(settings, credential)
    assert words in text and text.startswith("scutum_backup_store.") and "canary" not in text
    with pytest.raises(ScutumError, match="scutum_backup_store"):
        open_store(settings, credential)


def test_good_settings_have_no_problem() -> None:
    full = {
        "bucket": "b", "prefix": "p", "endpoint_url": "https://s3.example.org", "region": "r", "addressing_style": "path",
        "sse": "aws:kms", "kms_key_id": "k", "storage_class": "STANDARD_IA", "checksums": "when_supported", "attempts": 9,
        "ca_file": "/ca.pem",
    }  # fmt: skip
    assert problems(full, {**KEYS, "session_token": "t"}) == problems({"bucket": "b", "region": None}, {}) == []
    assert open_store({"bucket": "b"}).where == "bucket b/ at AWS us-east-1"
    assert "there is no file /ca.pem" in refused(lambda: open_store(full).list(), open_store(full))


def test_encryption_class_and_checksums_reach_the_store(s3: str) -> None:
    store = bucket(
        s3, sse="aws:kms", kms_key_id="k", storage_class="STANDARD_IA", checksums="when_supported", prefix=""
    )
    store.put("small", b"1")
    store.upload("large", blocks(6), part_size=PART)
    assert store.get("small") == b"1" and store.get("large") == BLOCK * 6
    for key in ("small", "large"):
        head = client(s3).head_object(Bucket="backups", Key=key)
        assert (head["ServerSideEncryption"], head["SSEKMSKeyId"], head["StorageClass"]) == (
            "aws:kms",
            "k",
            "STANDARD_IA",
        )


# --- memory and limits


@pytest.mark.parametrize(
    ("parallel", "buffers", "flying", "held"), [(2, 64, 2, 3), (4, 64, 4, 5), (4, 10, 1, 2), (2, 5, 1, 1)]
)
def test_parts_in_memory_are_bounded(
    monkeypatch: pytest.MonkeyPatch, parallel: int, buffers: int, flying: int, held: int
) -> None:
    class Slow:
        """A client that counts the parts in flight."""

        now = most = 0
        lock, reached = threading.Lock(), threading.Event()

        def __getattr__(self, name: str) -> Any:
            return lambda **unused: {"UploadId": "u"}

        def upload_part(self, **unused: Any) -> dict[str, str]:
            with self.lock:
                self.now += 1
                self.most = max(self.most, self.now)
            if self.most == flying:
                self.reached.set()
            self.reached.wait(20)
            time.sleep(0.005)
            with self.lock:
                self.now -= 1
            return {"ETag": "e"}

    monkeypatch.setattr(object_store, "BUFFERS", buffers * MIB)
    store = bucket("http://127.0.0.1:9")
    store.__dict__["_client"] = slow = Slow()
    tracemalloc.start()
    try:
        assert store.upload("k", blocks(80), part_size=PART, parallel=parallel).size == 80 * MIB
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert slow.most == flying and peak < held * PART + 2 * MIB


def test_parts_grow_with_the_size_and_their_number_has_a_limit(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert object_store._part_size(16 * MIB, None) == object_store._part_size(16 * MIB, 100 << 30) == 16 * MIB
    grown = object_store._part_size(16 * MIB, 1 << 40)
    assert grown % MIB == 0 and (1 << 40) / grown < 9_100
    monkeypatch.setattr(object_store, "MAX_PARTS", 2)
    store = bucket(s3)
    text = refused(lambda: store.upload("k", blocks(11), part_size=PART), store)
    assert "more than 2 parts" in text and "its parts were removed" in text and "expected size" in text
    assert store.list() == [] and unfinished(s3) == []
    assert store.upload("k", blocks(11), part_size=PART, expected_size=11 * MIB).size == 11 * MIB


def test_a_list_has_more_than_one_page(s3: str) -> None:
    store = bucket(s3)
    for number in range(7):
        store.put(f"{number}", b"")
    client(s3).put_object(Bucket="backups", Key="scutum/production/other")
    pages: list[int] = []

    def two_a_page(params: dict[str, Any], **unused: Any) -> None:
        pages.append(1)
        params["MaxKeys"] = 2

    store._client.meta.events.register("provide-client-params.s3.ListObjectsV2", two_a_page)
    assert [item.key for item in store.list()] == list("0123456") and len(pages) == 4


# --- a bucket that fails


REPLIES = [
    (503, "SlowDown", "overloaded, still at attempt 2 (SlowDown, 503)"),
    (500, "InternalError", "the store fails, still at attempt 2"),
    (403, "AccessDenied", "may not do s3:PutObject (AccessDenied, 403)"),
    (403, "SignatureDoesNotMatch", "the signature does not match"),
    (403, "RequestTimeTooSkewed", "clock differs too much"),
    (400, "ExpiredToken", "session token has expired"),
    (507, "XMinioStorageFull", "the store is full"),
    (403, "QuotaExceeded", "the store is full, or a quota"),
    (400, "KMS.DisabledException", "the key of the key service cannot be used"),
    (400, "BadDigest", "it was damaged on the way"),
    (404, "NoSuchUpload", "the unfinished upload is gone"),
    (418, "Teapot", "the store refuses s3:PutObject (Teapot, 418)"),
    (403, "<b>canary</b>", "its answer cannot be used (TypeError)"),
]


@pytest.mark.parametrize(("status", "code", "words"), REPLIES[::3])
def test_a_part_that_fails_undoes_the_upload(s3: str, status: int, code: str, words: str) -> None:
    store = bucket(s3)
    calls = answers(store, "UploadPart", None, None, (status, code))
    text = refused(lambda: store.upload("a/dump", blocks(22), part_size=PART), store)
    assert words in text and "a/dump, part" in text and "its parts were removed" in text
    assert store.list() == [] and unfinished(s3) == [] and len(calls) >= 3


@pytest.mark.parametrize(("status", "code", "words"), REPLIES)
def test_a_single_put_that_fails_is_said(s3: str, status: int, code: str, words: str) -> None:
    store = bucket(s3)
    answers(store, "PutObject", (status, code))
    text = refused(lambda: store.put("k", b"1"), store)
    assert words in text and "as a whole or not at all" in text and store.list() == []


def test_a_cap_that_is_only_in_the_text_is_understood(s3: str) -> None:
    store = bucket(s3)
    answers(store, "PutObject", (403, "AccessDenied"), message="Cannot upload files, storage cap exceeded. canary")
    assert "the store is full" in refused(lambda: store.put("k", b"1"), store)


def test_a_short_storm_is_waited_out(s3: str) -> None:
    store = bucket(s3, attempts=4)
    answers(store, "UploadPart", (503, "SlowDown"), (500, "InternalError"), None)
    assert store.upload("k", blocks(11), part_size=PART).size == 11 * MIB and store.get("k") == BLOCK * 11


def test_parts_that_cannot_be_removed_are_told(s3: str) -> None:
    store = bucket(s3)
    answers(store, "UploadPart", (403, "AccessDenied"))
    answers(store, "AbortMultipartUpload", (403, "AccessDenied"))
    text = refused(lambda: store.upload("k", blocks(6), part_size=PART), store)
    assert "may not do s3:PutObject" in text and "kept until the next clean-up" in text
    assert "may not do s3:AbortMultipartUpload" in text and store.list() == []
    assert bucket(s3).abort_stale("", 60) == ["k"] and unfinished(s3) == []


def test_a_completion_is_not_undone_when_its_answer_is_lost(s3: str) -> None:
    store, raw = bucket(s3), client(s3)

    def complete_first(params: dict[str, Any], **unused: Any) -> None:
        raw.complete_multipart_upload(**params)

    store._client.meta.events.register("provide-client-params.s3.CompleteMultipartUpload", complete_first)
    answers(store, "CompleteMultipartUpload", (404, "NoSuchUpload"))
    assert store.upload("k", blocks(6), part_size=PART).size == 6 * MIB and store.get("k") == BLOCK * 6


def test_a_completion_that_fails_leaves_nothing(s3: str) -> None:
    store = bucket(s3)
    answers(store, "CompleteMultipartUpload", (500, "InternalError"))
    assert "its parts were removed" in refused(lambda: store.upload("k", blocks(6), part_size=PART), store)
    assert store.list() == [] and unfinished(s3) == []


def test_no_bucket_and_no_credential(s3: str) -> None:
    missing = bucket(s3, bucket="none")
    for action in (lambda: missing.upload("k", blocks(1)), missing.check, missing.list, lambda: missing.get("k")):
        assert "there is no such bucket" in refused(action, missing)
    nobody = bucket(s3, credential={})
    assert "there is no credential on this host" in refused(nobody.check, nobody)


def test_a_locked_bucket_takes_uploads_and_keeps_them(moto: str, s3: str) -> None:
    raw = client(moto)
    raw.create_bucket(Bucket="locked", ObjectLockEnabledForBucket=True)
    rule = {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": 30}}
    raw.put_object_lock_configuration(
        Bucket="locked", ObjectLockConfiguration={"ObjectLockEnabled": "Enabled", "Rule": rule}
    )
    store = bucket(s3, bucket="locked", prefix="")
    store.check()
    store.put("small", b"1")
    store.upload("k", blocks(6), part_size=PART)
    store.delete("small")
    assert [item.key for item in store.list()] == ["k"], "a delete marker hides it"
    [version] = raw.list_object_versions(Bucket="locked", Prefix="small")["Versions"]

    # AWS refuses the deletion of a version only; other stores refuse the plain request in the same way.
    def one_version(params: dict[str, Any], **unused: Any) -> None:
        params["VersionId"] = version["VersionId"]

    store._client.meta.events.register("provide-client-params.s3.DeleteObject", one_version)
    assert "or the object is locked" in refused(lambda: store.delete("small"), store)
    assert raw.get_object(Bucket="locked", Key="small", VersionId=version["VersionId"])["Body"].read() == b"1"


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (400, "ObjectLocked", "Object is WORM protected and cannot be overwritten"),
        (403, "RetentionPolicyNotMet", ""),
        (403, "AccessDenied", "Access Denied because object protected by object lock."),
    ],
)
def test_every_store_s_word_for_a_lock_is_known(s3: str, status: int, code: str, message: str) -> None:
    store = bucket(s3)
    store.put("k", b"1")
    answers(store, "DeleteObject", (status, code), message=message)
    assert "it is locked" in refused(lambda: store.delete("k"), store) and store.get("k") == b"1"


# --- a line that fails


class Broken(BaseHTTPRequestHandler):
    """Lists nothing, promises 1000 bytes and sends 500, and takes no upload."""

    protocol_version = "HTTP/1.1"
    silence = threading.Event()

    def log_message(self, *unused: Any) -> None:
        pass

    def do_GET(self) -> None:
        body, size = b"<ListBucketResult></ListBucketResult>", None
        if "list-type" not in self.path:
            body, size = b"x" * 500, 1000
        self.send_response(200)
        self.send_header("Content-Length", str(size or len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def do_PUT(self) -> None:
        if "silent" in self.path:
            self.silence.wait(3)
        self.close_connection = True


@pytest.fixture(name="broken", scope="module")
def fixture_broken() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Broken)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    Broken.silence.set()
    server.shutdown()
    server.server_close()


def test_a_truncated_download_is_noticed(broken: str) -> None:
    store = bucket(broken)
    assert "it ended after 500 of 1000 bytes" in refused(lambda: store.get("k"), store)
    assert "it ended after 500 of 1000 bytes" in refused(lambda: list(store.open("k")), store)


def test_a_broken_line_and_a_silent_store(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "READ_TIMEOUT", 0.3)
    store = bucket(broken)
    assert "the connection broke (ConnectionClosedError)" in refused(lambda: store.put("k", b"1"), store)
    assert "no answer in time" in refused(lambda: store.put("silent", b"1"), store)


def test_each_way_of_not_reaching_a_store_is_said(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = bucket("http://127.0.0.1:9", attempts=1)
    assert "the connection is refused" in refused(nowhere.list, nowhere)
    plain = bucket(s3.replace("http:", "https:"), attempts=1)
    assert "no secure connection" in refused(plain.list, plain)

    def unknown(*unused: Any, **also_unused: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    nameless = bucket("http://store.invalid", attempts=1)
    assert "the name of the endpoint is not known" in refused(nameless.list, nameless)


# --- a directory that fails


def test_a_directory_that_is_not_mounted_is_not_made_up(tmp_path: Path) -> None:
    store = open_store({"directory": str(tmp_path / "nfs")})
    assert "there is no such directory" in refused(store.check, store) and not (tmp_path / "nfs").exists()
    assert "it is not there" in refused(store.list, store), "no empty list"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "it is full (ENOSPC)"),
        (errno.EDQUOT, "it is full"),
        (errno.EACCES, "may not"),
        (errno.EIO, "fails"),
    ],
)
def test_a_disk_that_refuses_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def full(unused: int) -> None:
        raise OSError(number, "canary")

    monkeypatch.setattr(os, "fsync", full)
    store = open_store({"directory": str(tmp_path)})
    assert words in refused(lambda: store.upload("a/dump", blocks(2)), store)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_full_disk_is_said() -> None:
    """A real one: /dev/full is what a stream is written to."""
    store = DirectoryStore("/dev")
    full = pytest.raises(ScutumError, match="it is full \\(ENOSPC\\)")
    with full, store._said("full"), open("/dev/full", "wb", buffering=0) as handle:
        handle.write(b"1")


def test_a_file_that_shrinks_while_it_is_read_is_noticed(tmp_path: Path) -> None:
    store = open_store({"directory": str(tmp_path)})
    store.upload("k", blocks(3))
    reader = store.open("k")
    assert next(reader) == BLOCK
    os.truncate(tmp_path / "k", 2 * MIB)
    assert f"it ended after {2 * MIB} of {3 * MIB} bytes" in refused(lambda: list(reader), store)


def test_files_are_for_their_owner_only(tmp_path: Path) -> None:
    open_store({"directory": str(tmp_path)}).put("a/k", b"1")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o700 and (tmp_path / "a/k").stat().st_mode & 0o777 == 0o600
