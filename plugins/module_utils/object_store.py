# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where backups are kept: a bucket of any store with the S3 API (boto3, the official client), or a directory of the host.

An object is there as a whole under its key or not at all, whoever dies in the middle. A key is a relative path below the
store's prefix; names that begin with a dot are this file's own and are never listed. A failure is a ScutumError that names
place and key, never a credential.

Least privilege: docs/roles/backup.md has a policy for each identity. In a bucket with versions (Object Lock needs them) `delete` writes a
delete marker, even over what is locked: the lock keeps the content, but no listing shows it. So whoever deletes asks `locked` first.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import errno
import functools
import hashlib
import io
import os
import re
import socket
import ssl
import tempfile
import time
import urllib.parse
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Protocol

from .errors import ScutumError

MIB = 1024 * 1024
PART_SIZE = 16 * MIB
# The S3 API knows no more; an object without a known size ends at 156 GiB with parts of 16 MiB.
MAX_PARTS = 10_000
# All parts in memory together, the one that is being filled included.
BUFFERS = 64 * MIB
SMALL = 64 * MIB
# Seconds. The second one is for a silence, not for a whole request: a slow line is no failure.
CONNECT_TIMEOUT, READ_TIMEOUT = 10.0, 60.0
PROBE, PROBE_TEXT = ".scutum-ops-probe", b"scutum.ops asks whether it can write and read here\n"
_TEMPORARY = (".scutum-ops-", ".part")

VARIABLE = "scutum_backup_store"
CREDENTIAL = ("access_key_id", "secret_access_key", "session_token")
OPTIONS = (
    "bucket", "prefix", "endpoint_url", "region", "addressing_style", "sse", "kms_key_id", "storage_class",
    "checksums", "attempts", "ca_file", "lock_mode", "lock_days",
)  # fmt: skip
_CHOICES = {
    "addressing_style": ("auto", "path", "virtual"),
    "sse": ("AES256", "aws:kms"),
    "checksums": ("when_required", "when_supported"),
    "lock_mode": ("compliance", "governance"),
}
_NUMBERS = ("attempts", "lock_days")
# Longer than anybody's duty to keep; S3 takes no more either.
_LONGEST_LOCK = 36500

UNTOUCHED = "nothing was changed"
WHOLE = "the object is there as a whole or not at all"


@dataclass(frozen=True)
class Stored:
    """What was uploaded.

    Args:
        key: of the object.
        size: bytes.
        sha256: of all bytes, hexadecimal.
    """

    key: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Object:
    """An object of the store.

    Args:
        key: below the store's prefix.
        size: bytes.
        modified: seconds since the epoch, by the store's clock.
    """

    key: str
    size: int
    modified: float


# A class with a method `list` cannot say list[...] in its annotations.
Objects = list[Object]
Keys = list[str]


class Store(Protocol):
    """What both stores can do. Every failure of the store is a ScutumError."""

    @property
    def where(self) -> str:
        """The place, for people; no secret."""

    def upload(
        self,
        key: str,
        chunks: Iterable[bytes],
        part_size: int = PART_SIZE,
        parallel: int = 2,
        expected_size: int | None = None,
    ) -> Stored:
        """Store a stream of any size; it is visible only after the stream ended normally.

        Args:
            key: a new one; an object that exists is not replaced.
            chunks: the stream. It has to raise when its producer fails: what it raises goes on, and nothing is kept.
            part_size: bytes of a part; grows with expected_size. (S3)
            parallel: parts in flight; fewer when parts are large, so that memory stays bounded. (S3)
            expected_size: bytes, at least roughly; needed for more than 10,000 parts of part_size. (S3)
        """

    def put(self, key: str, data: bytes, replace: bool = False) -> Stored:
        """Store a small object; `replace` allows the key to exist."""

    def get(self, key: str) -> bytes:
        """A small object (at most 64 MiB)."""

    def open(self, key: str) -> Iterator[bytes]:
        """An object of any size, in chunks of at most 1 MiB; one that ends early is an error. The request is made at once."""

    def list(self, prefix: str = "") -> Objects:
        """All objects whose key begins with `prefix`, by key."""

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is none."""

    def locked(self, key: str) -> str:
        """Until when the store keeps an object whoever deletes it, in words; empty when it does not, or does not say so."""

    def abort_stale(self, prefix: str, older_than_seconds: float) -> Keys:
        """Remove what killed uploads left; the keys (for a directory: the paths of the temporary files)."""

    def check(self) -> None:
        """Write and read back a tiny object, as an uploader that may not delete."""


def problems(settings: dict[str, Any], credential: dict[str, Any] | None = None) -> list[str]:
    """What is wrong with the settings, before anything is asked."""
    credential = credential or {}
    directory = "directory" in settings
    known = ("directory",) if directory else OPTIONS
    found = [
        f"{VARIABLE}.{name} is none of {', '.join(known)}" + (" (directory and bucket exclude each other)" * directory)
        for name in settings
        if name not in known
    ]
    found += [f"{VARIABLE}.{name} is none of {', '.join(CREDENTIAL)}" for name in credential if name not in CREDENTIAL]
    given = {name: value for name, value in {**settings, **credential}.items() if value is not None}
    found += [
        f"{VARIABLE}.{name} is no text"
        for name, value in given.items()
        if name in ("directory", *OPTIONS, *CREDENTIAL) and name not in _NUMBERS and not isinstance(value, str)
    ]
    found += [
        f"{VARIABLE}.{name} is none of {', '.join(choices)}"
        for name, choices in _CHOICES.items()
        if isinstance(given.get(name), str) and given[name] not in choices
    ]
    attempts = given.get("attempts", 5)
    if isinstance(attempts, bool) or not isinstance(attempts, int) or not 1 <= attempts <= 20:
        found.append(f"{VARIABLE}.attempts is no whole number from 1 to 20")
    days = given.get("lock_days", 1)
    if isinstance(days, bool) or not isinstance(days, int) or not 1 <= days <= _LONGEST_LOCK:
        found.append(f"{VARIABLE}.lock_days is no whole number from 1 to {_LONGEST_LOCK}")
    if ("lock_mode" in given) != ("lock_days" in given):
        found.append(f"{VARIABLE}.lock_mode and {VARIABLE}.lock_days go together")
    if directory:
        if not str(given.get("directory", "")).startswith("/"):
            found.append(f"{VARIABLE}.directory is no absolute path")
    elif not given.get("bucket"):
        found.append(f"{VARIABLE}.bucket is missing (or {VARIABLE}.directory)")
    if given.get("kms_key_id") and given.get("sse") != "aws:kms":
        found.append(f"{VARIABLE}.kms_key_id needs {VARIABLE}.sse: aws:kms")
    if given.get("endpoint_url"):
        url = urllib.parse.urlsplit(str(given["endpoint_url"]))
        if url.scheme not in ("http", "https") or not url.hostname:
            found.append(f"{VARIABLE}.endpoint_url does not begin with https:// or http:// and a host")
        if "@" in url.netloc:
            found.append(f"{VARIABLE}.endpoint_url has a credential in it; it belongs into the credential")
    if bool(given.get("access_key_id")) != bool(given.get("secret_access_key")):
        found.append(f"{VARIABLE}.access_key_id and {VARIABLE}.secret_access_key go together")
    if given.get("session_token") and not given.get("access_key_id"):
        found.append(f"{VARIABLE}.session_token needs {VARIABLE}.access_key_id")
    return found


def open_store(settings: dict[str, Any], credential: dict[str, Any] | None = None) -> Store:
    """The store that the settings name.

    Errors: ScutumError when `problems` finds any.
    """
    wrong = problems(settings, credential)
    if wrong:
        raise ScutumError("; ".join(wrong), left=UNTOUCHED, next_step=f"correct {VARIABLE}")
    if "directory" in settings:
        return DirectoryStore(settings["directory"])
    return S3Store(settings, credential or {})


class S3Store:
    """A bucket. The settings are those that `problems` accepts; without a credential boto3 asks the instance.

    Args:
        settings: `bucket`; `prefix` (default none); `endpoint_url` (default AWS); `region` (default us-east-1);
            `addressing_style` (default auto); `sse`, `kms_key_id`, `storage_class` (default the bucket's); `checksums` (default
            when_required: GCS, B2 and older MinIO refuse the newer trailers); `attempts` for each request (default 5);
            `ca_file` (default the system's and botocore's); `lock_mode` and `lock_days`: what is stored is kept by the store for so long,
            whoever deletes it (the bucket needs Object Lock; default is the bucket's own rule).
        credential: `access_key_id`, `secret_access_key`, `session_token`, or none.
    """

    def __init__(self, settings: dict[str, Any], credential: dict[str, Any]) -> None:
        self._settings = {name: value for name, value in settings.items() if value not in (None, "")}
        self._credential = {name: value for name, value in credential.items() if value not in (None, "")}
        self._bucket = str(settings["bucket"])
        prefix = str(self._settings.get("prefix", "")).strip("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._checksums = str(self._settings.get("checksums", "when_required"))
        self._attempts = int(self._settings.get("attempts", 5))

    @property
    def where(self) -> str:
        """The place, for people."""
        region = self._settings.get("region", "us-east-1")
        # Without what may stand before an @.
        endpoint = str(self._settings.get("endpoint_url", f"AWS {region}")).rpartition("@")[2]
        return f"bucket {self._bucket}/{self._prefix} at {endpoint}"

    def upload(
        self,
        key: str,
        chunks: Iterable[bytes],
        part_size: int = PART_SIZE,
        parallel: int = 2,
        expected_size: int | None = None,
    ) -> Stored:
        """See Store. An own multipart upload: boto3's upload_fileobj completes a truncated object when the producer dies."""
        self._refuse_existing(key)
        part_size = _part_size(part_size, expected_size)
        digest = hashlib.sha256()
        parts = _parts(chunks, part_size, digest)
        first = next(parts, None) or io.BytesIO()
        size = _length(first)
        if size < part_size:
            self._put_object(key, first, self._locks())
        else:
            # Whoever holds a part keeps its memory; so it moves on, here and below.
            held = [first]
            del first
            size = self._multipart(key, _again(held, parts), part_size, parallel)
        return Stored(key, size, digest.hexdigest())

    def put(self, key: str, data: bytes, replace: bool = False) -> Stored:
        """See Store."""
        if not replace:
            self._refuse_existing(key)
        # What may be replaced is not locked: each version of it would stay.
        self._put_object(key, io.BytesIO(data), {} if replace else self._locks())
        return Stored(key, len(data), hashlib.sha256(data).hexdigest())

    def get(self, key: str) -> bytes:
        """See Store."""
        answer = self._get_object(key)
        if answer.get("ContentLength", 0) > SMALL:
            answer["Body"].close()
            raise _too_large(self.where, key)
        return b"".join(self._stream(key, answer))

    def open(self, key: str) -> Iterator[bytes]:
        """See Store."""
        return self._stream(key, self._get_object(key))

    def list(self, prefix: str = "") -> Objects:
        """See Store."""
        found = []
        with self._said("s3:ListBucket", prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            for page in pages:
                for item in page.get("Contents", []):
                    key = item["Key"][len(self._prefix) :]
                    if not _hidden(key):
                        found.append(Object(key, item["Size"], item["LastModified"].timestamp()))
        return sorted(found, key=lambda item: item.key)

    def delete(self, key: str) -> None:
        """See Store."""
        with self._said("s3:DeleteObject", key, WHOLE):
            self._client.delete_object(**self._named(key))

    def locked(self, key: str) -> str:
        """See Store. By HEAD: a store without Object Lock answers it too (to ?retention it may send the object). AWS shows a lock only to
        who may do s3:GetObjectRetention and s3:GetObjectLegalHold."""
        with self._said("s3:GetObject", key):
            try:
                head = self._client.head_object(**self._named(key))
            except self._client.exceptions.ClientError as error:
                # It may not be looked at, or is gone. A store that only fails must not look like one without a lock.
                if error.response["ResponseMetadata"]["HTTPStatusCode"] in (403, 404):
                    return ""
                raise
        if head.get("ObjectLockLegalHoldStatus") == "ON":
            return "until its legal hold is taken off"
        until = head.get("ObjectLockRetainUntilDate")
        if until is None or until.timestamp() <= time.time():
            return ""
        return time.strftime("until %Y-%m-%d %H:%M UTC", time.gmtime(until.timestamp()))

    def abort_stale(self, prefix: str, older_than_seconds: float) -> Keys:
        """See Store. MinIO lists unfinished uploads by their whole key only, and removes them itself after a day."""
        limit = time.time() - older_than_seconds
        with self._said("s3:ListBucketMultipartUploads", prefix):
            pages = self._client.get_paginator("list_multipart_uploads").paginate(
                Bucket=self._bucket, Prefix=self._prefix + prefix
            )
            stale = [
                (item["Key"][len(self._prefix) :], item["UploadId"])
                for page in pages
                for item in page.get("Uploads", [])
                if item["Initiated"].timestamp() <= limit
            ]
        for key, upload_id in stale:
            self._abort(key, upload_id)
        return [key for key, unused in stale]

    def check(self) -> None:
        """See Store."""
        _check(self)

    # --- uploading

    def _multipart(self, key: str, parts: Iterator[io.BytesIO], part_size: int, parallel: int) -> int:
        """Upload parts; complete only after the last one. The number of bytes."""
        with self._said("s3:PutObject", key):
            upload_id = self._client.create_multipart_upload(**self._named(key), **self._as_asked(), **self._locks())[
                "UploadId"
            ]
        # Parts that wait or fly while the next one is filled; none when two would be too much memory.
        ahead = min(parallel, max(0, BUFFERS // part_size - 1))
        pool = ThreadPoolExecutor(max_workers=max(1, ahead))
        try:
            tags, size = self._send(key, upload_id, parts, pool, ahead)
            self._complete(key, upload_id, tags, size)
        except BaseException as problem:
            # A part that arrives after the abort would stay; so those in flight come to their end first.
            pool.shutdown(wait=True, cancel_futures=True)
            left = "nothing of it is visible, and its parts were removed"
            try:
                self._abort(key, upload_id)
            except ScutumError as error:
                left = f"nothing of it is visible, but its parts are kept until the next clean-up ({error.what})"
            if isinstance(problem, ScutumError):
                problem.left = "; ".join(text for text in (problem.left, left) if text)
            raise
        pool.shutdown()
        return size

    def _send(
        self, key: str, upload_id: str, parts: Iterator[io.BytesIO], pool: ThreadPoolExecutor, ahead: int
    ) -> tuple[dict[int, str], int]:
        """Upload the parts: their tags by number, and the number of bytes."""
        pending: dict[Future[str], int] = {}
        tags: dict[int, str] = {}
        size = 0
        for part in parts:
            # Counted so, because enumerate holds the part before.
            number = len(tags) + len(pending) + 1
            if number > MAX_PARTS:
                raise ScutumError(
                    f"{self.where}: {key}: more than {MAX_PARTS} parts, which no store takes ({size} bytes so far)",
                    next_step="tell the upload the expected size: its parts grow with it",
                )
            size += _length(part)
            pending[pool.submit(self._part, key, upload_id, number, part)] = number
            # Only the thread holds it now, so that it is freed as soon as it was sent.
            del part
            _collect(pending, tags, ahead)
        _collect(pending, tags, 0)
        return tags, size

    def _part(self, key: str, upload_id: str, number: int, body: io.BytesIO) -> str:
        with self._said("s3:PutObject", f"{key}, part {number}", ""):
            body.seek(0)
            answer = self._client.upload_part(
                **self._named(key), UploadId=upload_id, PartNumber=number, Body=body, **self._sum(body)
            )
        return str(answer["ETag"])

    def _complete(self, key: str, upload_id: str, tags: dict[int, str], size: int) -> None:
        parts = [{"PartNumber": number, "ETag": tags[number]} for number in sorted(tags)]
        try:
            with self._said("s3:PutObject", key, ""):
                self._client.complete_multipart_upload(
                    **self._named(key), UploadId=upload_id, MultipartUpload={"Parts": parts}
                )
        except ScutumError:
            # When only the answer was lost, the object is there now (it was not before), and a second request finds no upload.
            there = None
            with contextlib.suppress(ScutumError):
                there = self._size(key)
            if there != size:
                raise

    def _abort(self, key: str, upload_id: str) -> None:
        with self._said("s3:AbortMultipartUpload", key), contextlib.suppress(self._client.exceptions.NoSuchUpload):
            self._client.abort_multipart_upload(**self._named(key), UploadId=upload_id)

    def _put_object(self, key: str, body: io.BytesIO, locks: dict[str, Any]) -> None:
        body.seek(0)
        with self._said("s3:PutObject", key, WHOLE):
            self._client.put_object(**self._named(key), Body=body, **self._sum(body), **self._as_asked(), **locks)

    def _sum(self, body: io.BytesIO) -> dict[str, str]:
        """A sum by which the store sees damage on the way. MD5 is what every store knows, and what Object Lock insists on."""
        if self._checksums == "when_supported":
            return {}
        with body.getbuffer() as view:
            digest = hashlib.md5(view, usedforsecurity=False).digest()
        return {"ContentMD5": base64.b64encode(digest).decode()}

    def _as_asked(self) -> dict[str, str]:
        names = {"sse": "ServerSideEncryption", "kms_key_id": "SSEKMSKeyId", "storage_class": "StorageClass"}
        return {names[name]: str(value) for name, value in self._settings.items() if name in names}

    def _locks(self) -> dict[str, Any]:
        """Object Lock from now on, when it is asked for."""
        if "lock_mode" not in self._settings:
            return {}
        now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
        until = now + datetime.timedelta(days=int(self._settings["lock_days"]))
        return {"ObjectLockMode": str(self._settings["lock_mode"]).upper(), "ObjectLockRetainUntilDate": until}

    def _refuse_existing(self, key: str) -> None:
        if self._size(key) is not None:
            raise _exists(self.where, key)

    def _size(self, key: str) -> int | None:
        """The size of an object, or None. By listing: a HEAD request has no body, so its refusal would have no reason."""
        name = self._named(key)["Key"]
        with self._said("s3:ListBucket", key):
            page = self._client.list_objects_v2(Bucket=self._bucket, Prefix=name, MaxKeys=1)
        # The shortest name of those with a common beginning comes first.
        return next((int(item["Size"]) for item in page.get("Contents", []) if item["Key"] == name), None)

    # --- downloading

    def _get_object(self, key: str) -> dict[str, Any]:
        with self._said("s3:GetObject", key):
            return dict(self._client.get_object(**self._named(key)))

    def _stream(self, key: str, answer: dict[str, Any]) -> Iterator[bytes]:
        size, got = answer.get("ContentLength"), 0
        with contextlib.closing(answer["Body"]) as body:
            while True:
                with self._said("s3:GetObject", key):
                    chunk = body.read(MIB)
                if not chunk:
                    break
                got += len(chunk)
                yield chunk
        if size is not None and got != size:
            raise _short(self.where, key, got, size)

    # --- the client

    def _named(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._prefix + _checked(self.where, key)}

    @functools.cached_property
    def _client(self) -> Any:
        import boto3
        import botocore.config

        ca_file = self._settings.get("ca_file")
        if ca_file and not os.path.isfile(ca_file):
            raise ScutumError(
                f"{self.where}: there is no file {ca_file}", left=UNTOUCHED, next_step=f"correct {VARIABLE}.ca_file"
            )
        config = botocore.config.Config(
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=READ_TIMEOUT,
            retries={"total_max_attempts": self._attempts, "mode": "standard"},
            s3={"addressing_style": self._settings.get("addressing_style", "auto")},
            request_checksum_calculation=self._checksums,
            response_checksum_validation=self._checksums,
        )
        return boto3.client(
            "s3",
            region_name=self._settings.get("region", "us-east-1"),
            endpoint_url=self._settings.get("endpoint_url"),
            aws_access_key_id=self._credential.get("access_key_id"),
            aws_secret_access_key=self._credential.get("secret_access_key"),
            aws_session_token=self._credential.get("session_token"),
            verify=ca_file,
            config=config,
        )

    @contextlib.contextmanager
    def _said(self, action: str, key: str, left: str = UNTOUCHED) -> Iterator[None]:
        """A call whose failure is said in our words.

        Args:
            action: what a policy has to allow.
            key: what it is about.
            left: the state after a failure.
        """
        import botocore.exceptions

        try:
            yield
        except botocore.exceptions.ClientError as error:
            what, next_step = _refused(error.response, action, self._attempts)
        except botocore.exceptions.BotoCoreError as error:
            what, next_step = _unreached(error)
        except ScutumError:
            raise
        except Exception as error:  # the page of a proxy, for example: the client has many failures for it
            what = f"its answer cannot be used ({type(error).__name__})"
            next_step = f"check that {VARIABLE}.endpoint_url is an S3 API, and no proxy or web page is in the way"
        else:
            return
        # Without the cause: its text is the server's, and may repeat what was sent.
        raise ScutumError(f"{self.where}: {key or 'all keys'}: {what}", left=left, next_step=next_step) from None


class DirectoryStore:
    """A directory of the host, such as an NFS mount. It has to exist: one that is not mounted is not made up on the host's own disk.

    Args:
        path: absolute.
    """

    def __init__(self, path: str) -> None:
        self._root = path.rstrip("/") or "/"

    @property
    def where(self) -> str:
        """The place, for people."""
        return f"directory {self._root}"

    def upload(
        self,
        key: str,
        chunks: Iterable[bytes],
        part_size: int = PART_SIZE,
        parallel: int = 2,
        expected_size: int | None = None,
    ) -> Stored:
        """See Store. The sizes mean nothing here."""
        return self._write(key, chunks, replace=False)

    def put(self, key: str, data: bytes, replace: bool = False) -> Stored:
        """See Store."""
        return self._write(key, [data], replace)

    def get(self, key: str) -> bytes:
        """See Store."""
        with self._said(key):
            size = os.path.getsize(self._path(key))
        if size > SMALL:
            raise _too_large(self.where, key)
        return b"".join(self.open(key))

    def open(self, key: str) -> Iterator[bytes]:
        """See Store."""
        with self._said(key):
            handle = open(self._path(key), "rb")  # noqa: SIM115  # _stream closes it
        return self._stream(key, handle)

    def list(self, prefix: str = "") -> Objects:
        """See Store."""
        found = []
        with self._said(prefix):
            for path, key, name in self._walk():
                if key.startswith(prefix) and not name.startswith("."):
                    # One that is deleted meanwhile is not there.
                    with contextlib.suppress(FileNotFoundError):
                        status = os.stat(path)
                        found.append(Object(key, status.st_size, status.st_mtime))
        return sorted(found, key=lambda item: item.key)

    def delete(self, key: str) -> None:
        """See Store."""
        with self._said(key), contextlib.suppress(FileNotFoundError):
            os.unlink(self._path(key))

    def locked(self, key: str) -> str:
        """See Store. A file that may not be removed says so when it is."""
        return ""

    def abort_stale(self, prefix: str, older_than_seconds: float) -> Keys:
        """See Store."""
        limit, removed = time.time() - older_than_seconds, []
        with self._said(prefix):
            for path, key, name in self._walk():
                ours = name.startswith(_TEMPORARY[0]) and name.endswith(_TEMPORARY[1])
                # The prefix of a key may end within the name that the file was to get.
                below = os.path.join(os.path.dirname(key), "")
                if ours and below.startswith(prefix[: prefix.rfind("/") + 1]):
                    with contextlib.suppress(FileNotFoundError):
                        if os.stat(path).st_mtime <= limit:
                            os.unlink(path)
                            removed.append(key)
        return sorted(removed)

    def check(self) -> None:
        """See Store."""
        _check(self)

    def _write(self, key: str, chunks: Iterable[bytes], replace: bool) -> Stored:
        """Write a hidden file, and give it its name when the stream ended normally and the disk has it."""
        path = self._path(key)
        digest, size = hashlib.sha256(), 0
        with self._said(key):
            if not os.path.isdir(self._root):
                raise ScutumError(
                    f"{self.where}: there is no such directory",
                    left=UNTOUCHED,
                    next_step=f"mount it (findmnt {self._root}), or correct {VARIABLE}.directory",
                )
            if not replace and os.path.lexists(path):
                raise _exists(self.where, key)
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            descriptor, temporary = tempfile.mkstemp(
                prefix=_TEMPORARY[0], suffix=_TEMPORARY[1], dir=os.path.dirname(path)
            )
        handle = os.fdopen(descriptor, "wb", buffering=0)
        try:
            for chunk in chunks:
                view = memoryview(chunk).cast("B")
                digest.update(view)
                size += len(view)
                # Only what the disk refuses is ours to say; what the stream raises goes on as it is.
                with self._said(key):
                    while view:
                        view = view[handle.write(view) :]
            with self._said(key):
                os.fsync(handle.fileno())
                # A full NFS server may say so only here.
                handle.close()
                if not replace and os.path.lexists(path):
                    raise _exists(self.where, key)
                os.replace(temporary, path)
                _sync_directory(os.path.dirname(path))
        except BaseException:
            with contextlib.suppress(OSError):
                handle.close()
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        return Stored(key, size, digest.hexdigest())

    def _stream(self, key: str, handle: Any) -> Iterator[bytes]:
        got = 0
        with handle:
            with self._said(key):
                size = os.fstat(handle.fileno()).st_size
            while True:
                with self._said(key):
                    chunk = handle.read(MIB)
                if not chunk:
                    break
                got += len(chunk)
                yield chunk
        if got != size:
            raise _short(self.where, key, got, size)

    def _walk(self) -> Iterator[tuple[str, str, str]]:
        """Path, key and name of every file."""

        def fail(error: OSError) -> None:
            # Silence would look like an empty store.
            raise error

        for directory, names, files in os.walk(self._root, onerror=fail):
            names[:] = [name for name in names if not name.startswith(".")]
            for name in files:
                path = os.path.join(directory, name)
                yield path, os.path.relpath(path, self._root), name

    def _path(self, key: str) -> str:
        return os.path.join(self._root, _checked(self.where, key))

    @contextlib.contextmanager
    def _said(self, key: str) -> Iterator[None]:
        """What the system refuses, in our words."""
        try:
            yield
        except OSError as error:
            number = error.errno or 0
            if number in (errno.ENOSPC, errno.EDQUOT):
                what, next_step = "it is full", f"make room (df -h {self._root}; quota)"
            elif number in (errno.EACCES, errno.EPERM, errno.EROFS):
                what, next_step = "it may not be used so", f"check owner, mode, attributes and mount of {self._root}"
            elif number == errno.ENOENT:
                what, next_step = "it is not there", f"check the mount (findmnt {self._root}) and the key"
            else:
                what, next_step = "the disk or the mount fails", f"check dmesg and the mount of {self._root}"
            text = f"{self.where}: {key or 'all keys'}: {what} ({errno.errorcode.get(number, number)})"
            raise ScutumError(text, left=WHOLE, next_step=next_step) from error


# --- shared


def _checked(where: str, key: str) -> str:
    """A key that is a relative path of plain names, so that both stores can hold it and none is hidden."""
    if key != PROBE and any(not name or name.startswith(".") for name in key.split("/")):
        raise ScutumError(
            f"{where}: {key!r} is no key: names joined by /, none of them empty or with a dot in front",
            left=UNTOUCHED,
            next_step="give the backup another name",
        )
    return key


def _hidden(key: str) -> bool:
    return any(name.startswith(".") for name in key.split("/"))


def _check(store: Store) -> None:
    store.put(PROBE, PROBE_TEXT, replace=True)
    if store.get(PROBE) != PROBE_TEXT:
        raise ScutumError(
            f"{store.where}: {PROBE}: what is read is not what was written",
            left=WHOLE,
            next_step="check that nothing between the host and the store changes or caches data",
        )


def _exists(where: str, key: str) -> ScutumError:
    return ScutumError(
        f"{where}: {key} exists already; a backup is never replaced",
        left=UNTOUCHED,
        next_step="check that no other host writes under this prefix, then run it again: it takes a new name",
    )


def _short(where: str, key: str, got: int, size: int) -> ScutumError:
    return ScutumError(
        f"{where}: {key}: it ended after {got} of {size} bytes", left=UNTOUCHED, next_step="run it again"
    )


def _too_large(where: str, key: str) -> ScutumError:
    return ScutumError(
        f"{where}: {key}: it is larger than {SMALL // MIB} MiB, so it is not what was asked for",
        left=UNTOUCHED,
        next_step="look at the object: something else was written under this key",
    )


def _part_size(asked: int, expected_size: int | None) -> int:
    """Bytes of a part with which the expected size, and a tenth more, fits into the number of parts that a store takes."""
    needed = -(-(expected_size or 0) * 11 // 10 // MAX_PARTS)
    if needed <= asked:
        return asked
    return -(-needed // MIB) * MIB


def _parts(chunks: Iterable[bytes], part_size: int, digest: Any) -> Iterator[io.BytesIO]:
    """Cut a stream into parts of one size (R2 wants that), the last one shorter; each part belongs to who takes it."""
    part, room = _buffer(part_size), part_size
    for chunk in chunks:
        digest.update(chunk)
        view = memoryview(chunk).cast("B")
        while view:
            written = part.write(view[:room])
            view, room = view[written:], room - written
            if not room:
                yield part
                # Freed first, when the taker is done with it: at no time one more than needed.
                del part
                part, room = _buffer(part_size), part_size
    if room < part_size:
        part.truncate()
        yield part


def _again(held: list[io.BytesIO], rest: Iterator[io.BytesIO]) -> Iterator[io.BytesIO]:
    """A part that was looked at, and the others."""
    yield held.pop()
    yield from rest


def _buffer(size: int) -> io.BytesIO:
    """A file in memory with all its room from the start: one that grows is copied, and leaves holes in the heap."""
    part = io.BytesIO()
    part.seek(size - 1)
    part.write(b"\0")
    part.seek(0)
    return part


def _length(part: io.BytesIO) -> int:
    return part.getbuffer().nbytes


def _collect(pending: dict[Future[str], int], tags: dict[int, str], limit: int) -> None:
    """Wait until no more than `limit` parts are pending; the first failure goes on."""
    while len(pending) > limit:
        for future in wait(pending, return_when=FIRST_COMPLETED).done:
            tags[pending.pop(future)] = future.result()


def _sync_directory(path: str) -> None:
    """Make a new name durable. Some file systems (CIFS, FUSE) cannot, and say so."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


# --- what the S3 API's refusals mean (code: what, next step)

_KEY = "check the key pair in the secret source, and that the clock is right (timedatectl)"
_REGION = f"correct {VARIABLE}.region and .endpoint_url"
_CODES: dict[str, tuple[str, str]] = {
    "NoSuchBucket": ("there is no such bucket", f"create it, or correct {VARIABLE}.bucket, .region and .endpoint_url"),
    "NoSuchKey": ("there is no such object", "list what is there: scutum-ops backup-info"),
    "NoSuchUpload": ("the unfinished upload is gone", "somebody aborted it (a lifecycle rule?); run it again"),
    "SignatureDoesNotMatch": ("the signature does not match: wrong secret key, or a proxy that changes requests", _KEY),
    "RequestTimeTooSkewed": ("the host's clock differs too much from the store's", "set the clock (timedatectl)"),
    "InvalidAccessKeyId": ("the store does not know the access key", _KEY),
    "ExpiredToken": ("the session token has expired", "get a new one into the secret source"),
    "InvalidToken": ("the session token is not valid", _KEY),
    "PermanentRedirect": ("the bucket is in another region", _REGION),
    "AuthorizationHeaderMalformed": ("the bucket is in another region, or the access key is malformed", _REGION),
    "InvalidObjectState": ("it lies in an archive class", "restore it from the archive first (aws s3api restore-object)"),
    "InvalidStorageClass": ("the store has no such storage class", f"correct {VARIABLE}.storage_class"),
    "BadDigest": ("it was damaged on the way", "run it again; then check memory and network of the host"),
    "NotImplemented": ("the store lacks a function", f"set {VARIABLE}.checksums: when_required; leave out sse"),
    "RequestTimeout": ("the store waited too long for data", "check the host's way to the store, then try again"),
    "InvalidPart": ("a part is gone", "run it again; if it stays, the store loses data"),
}  # fmt: skip
_SLOW = ("SlowDown", "ServiceUnavailable", "TooManyRequests", "RequestLimitExceeded", "Throttling", "BandwidthLimitExceeded")  # fmt: skip
_FULL = ("InsufficientStorage", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "QuotaExceeded", "StorageCapExceeded")  # fmt: skip
_LOCKED = ("ObjectLocked", "RetentionPolicyNotMet", "ObjectUnderActiveHold")
_LOCK_WORDS = re.compile(r"object lock|\bworm\b|retention|legal hold")
_FULL_WORDS = re.compile(r"cap exceeded|quota|storage.* full|insufficient storage")


def _refused(response: dict[str, Any], action: str, attempts: int) -> tuple[str, str]:
    """What a refusal means, and what to do. The server's own text is only searched, never repeated."""
    error = response.get("Error", {})
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    code = re.sub(r"[^\w.-]", "", str(error.get("Code", "")))[:60]
    text = str(error.get("Message", "")).lower()
    told = f"({code}, {status})"
    if code in _LOCKED or (action == "s3:DeleteObject" and status >= 400 and _LOCK_WORDS.search(text)):
        return f"it is locked: it cannot be deleted or replaced yet {told}", "wait until its retention has ended"
    if action == "s3:PutObject" and status == 400 and re.search("object ?lock", text):
        return f"the bucket has no Object Lock {told}", f"make one that has it, or leave out {VARIABLE}.lock_mode"
    if status == 507 or code in _FULL or (action == "s3:PutObject" and _FULL_WORDS.search(text)):
        return f"the store is full, or a quota is reached {told}", "make room, or raise the quota"
    if status in (429, 503) or code in _SLOW:
        return (
            f"the store is overloaded, still at attempt {attempts} {told}",
            f"try again; or raise {VARIABLE}.attempts",
        )
    if code in _CODES:
        what, next_step = _CODES[code]
        return f"{what} {told}", next_step
    if code.startswith("KMS"):
        return f"the key of the key service cannot be used {told}", f"check {VARIABLE}.kms_key_id and the key's policy"
    if status == 403:
        # Some stores say no more about a lock.
        locked = ", or the object is locked" if action == "s3:DeleteObject" else ""
        return (
            f"the credential may not do {action}{locked} {told}",
            f"allow {action} (and kms:GenerateDataKey, kms:Decrypt with a key of your own); docs/roles/backup.md has the policies",
        )
    if status >= 500:
        return (
            f"the store fails, still at attempt {attempts} {told}",
            "look at the store's log or health page; try again",
        )
    return f"the store refuses {action} {told}", f"check {VARIABLE}, then the store's log"


def _unreached(error: Exception) -> tuple[str, str]:
    """What a failure below the S3 API means, and what to do."""
    import botocore.exceptions as botocore

    causes = list(_causes(error))
    where = f"{VARIABLE}.endpoint_url"
    tls = next((cause for cause in causes if isinstance(cause, ssl.SSLError)), None)
    if isinstance(error, (botocore.NoCredentialsError, botocore.CredentialRetrievalError)):
        return (
            "there is no credential on this host",
            "give the instance a role, or set the key pair in the secret source",
        )
    if tls or isinstance(error, botocore.SSLError):
        reason = getattr(tls, "verify_message", "") or getattr(tls, "reason", "") or type(error).__name__
        return f"no secure connection ({reason})", f"check {where} and {VARIABLE}.ca_file (openssl s_client -connect)"
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return (
            "the name of the endpoint is not known",
            f"correct {where}, or name resolution on the host (getent hosts)",
        )
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return "the connection is refused", f"check that the store runs, and host and port in {where}"
    slow = (TimeoutError, socket.timeout, botocore.ReadTimeoutError, botocore.ConnectTimeoutError)
    if any(isinstance(cause, slow) for cause in causes):
        return (
            f"no answer in time (connection {CONNECT_TIMEOUT:g} s, silence {READ_TIMEOUT:g} s)",
            "check the host's way to the store (firewall, route, proxy), then try again",
        )
    if isinstance(error, botocore.IncompleteReadError):
        return (
            f"it ended after {error.kwargs['actual_bytes']} of {error.kwargs['expected_bytes']} bytes",
            "run it again",
        )
    if isinstance(error, (botocore.HTTPClientError, botocore.ConnectionError)):
        return f"the connection broke ({type(error).__name__})", "check the host's way to the store, then try again"
    return f"the client refuses ({type(error).__name__})", f"check {VARIABLE}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and all that stand behind it."""
    seen: set[int] = set()
    todo: list[Any] = [error]
    while todo:
        cause = todo.pop(0)
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            todo += [cause.__cause__, cause.__context__, *cause.args]
