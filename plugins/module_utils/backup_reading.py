# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a backup: its objects as they were before encryption, compared with the manifest's hashes while they stream."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import Any

from . import backup_catalog as catalog
from . import backup_encryption
from .errors import ScutumError
from .files import existing, free_bytes
from .installation import Installation
from .object_store import Store

_KINDS = {catalog.DUMP: "dump", catalog.CONFIGURATION: "configuration archive"}


class NotProven(ScutumError):
    """It was tried, and the backup does not bring everything back."""


def check_space(installation: Installation, manifest: dict[str, Any], spool: str, variable: str) -> None:
    """Refuse a restore that would not fit: the dump in the spool, the database below the engine's root.

    Args:
        variable: that names the spool, for the message.
    """
    size = sum(item["size"] for name, item in manifest["objects"].items() if name.startswith(catalog.DUMP))
    root = installation.engine.versions()["root"] or "/var/lib/docker"
    # The restored database, and its WAL.
    needs: dict[int, tuple[str, int]] = {}
    for where, bytes_ in (
        (existing(spool), size),
        (root, int(manifest["database_bytes"] * 1.2) + (1 << 30)),
    ):
        device = os.stat(where).st_dev
        before = needs.get(device, (where, 0))
        needs[device] = (before[0], before[1] + bytes_)
    for where, needed in needs.values():
        free = free_bytes(where)
        if free < needed:
            raise ScutumError(
                f"{where} has {free // 2**20} MiB free, and the restore needs {needed // 2**20} MiB",
                left="nothing was restored",
                next_step=f"free space there, or set {variable} to another disk",
            )


def _all_there(place: Store, manifest: dict[str, Any]) -> None:
    """Refuse a backup that lacks objects: it does not restore, and whoever is just not let in does not find that."""
    there = {item.key for item in place.list(f"{manifest['id']}/")}
    gone = [name for name in manifest["objects"] if f"{manifest['id']}/{name}" not in there]
    if gone:
        raise NotProven(
            f"{place.where}: {manifest['id']}: its manifest names {', '.join(gone)}, which the store does not have",
            left="nothing was restored",
            next_step="take another backup (scutum-ops backup), and look at who can delete there",
        )


def pull(place: Store, manifest: dict[str, Any], identities: list[str], path: str) -> str:
    """The dump into a private file; its size in words."""
    _all_there(place, manifest)
    part = object_of(manifest, catalog.DUMP)
    size = 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        for chunk in chunks(place, manifest, part, identities):
            size += len(chunk)
            handle.write(chunk)
    return f"{size / 2**20:.1f} MiB"


def object_of(manifest: dict[str, Any], kind: str) -> str:
    """The name of a backup's object: `catalog.DUMP` or `catalog.CONFIGURATION`, with `.age` when it is encrypted."""
    part = next((name for name in manifest["objects"] if name.startswith(kind)), "")
    if not part:
        raise NotProven(
            f"{manifest['id']}: its manifest names no {_KINDS[kind]}",
            left="nothing was restored",
            next_step="take another backup",
        )
    return part


def need_identity(manifest: dict[str, Any], identities: list[str]) -> None:
    """Refuse an encrypted backup that nobody here can read."""
    if not identities and any(name.endswith(".age") for name in manifest["objects"]):
        raise ScutumError(
            f"{manifest['id']} is encrypted, and this host has no age identity",
            left="nothing was restored",
            next_step="write one into the source of secrets as SCUTUM_BACKUP_AGE_IDENTITY",
        )


def chunks(place: Store, manifest: dict[str, Any], part: str, identities: list[str]) -> Iterator[bytes]:
    """An object of a backup, decrypted, in blocks; what is not as uploaded raises NotProven, in the end at the latest."""
    said = manifest["objects"][part]
    stored, plain = hashlib.sha256(), hashlib.sha256()
    unread: list[ScutumError] = []

    def counted() -> Iterator[bytes]:
        try:
            for chunk in place.open(f"{manifest['id']}/{part}"):
                stored.update(chunk)
                yield chunk
        except ScutumError as error:
            unread.append(error)
            raise

    source = counted()
    found: Iterator[bytes] = source
    if part.endswith(".age"):
        need_identity(manifest, identities)
        found = backup_encryption.decrypt(source, identities)
    try:
        for chunk in found:
            plain.update(chunk)
            yield chunk
    except ScutumError:
        # What cannot be decrypted is another key, or was changed: the hash of all of it tells.
        for unused in source:
            pass
        # What could not be read says nothing about the backup.
        if unread or stored.hexdigest() == said["sha256"]:
            raise
    _same(f"{manifest['id']}/{part}", stored.hexdigest(), said["sha256"])
    _same(f"{manifest['id']}/{part} (decrypted)", plain.hexdigest(), said["plain_sha256"])


def _same(name: str, found: str, wanted: str) -> None:
    if found != wanted:
        raise NotProven(
            f"{name}: it is not what was uploaded (SHA-256 {found[:12]}…, manifest {wanted[:12]}…)",
            left="nothing was restored",
            next_step="the object was changed, cut short or swapped in the store: take another backup, and look at who can write there",
        )
