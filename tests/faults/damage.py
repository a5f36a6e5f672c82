"""What can become of a backup that was right: its objects changed in the store, or its dump before anybody took its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Objects = dict[str, bytes]
DUMP, CONFIGURATION, MANIFEST = "database.dump", "configuration.tar.gz", "manifest.json"


@dataclass
class Good:
    """Backups that are right: an older one, the newest, and one for age; its identity."""

    old: Objects
    new: Objects
    aged: Objects
    identity: str


# Gives what lies in the store instead.
Damage = Callable[[Good], Objects]


def newest(objects: Objects) -> str:
    """The id of a backup."""
    return next(iter(objects)).partition("/")[0]


def part(objects: Objects, name: str) -> bytes:
    """One object of a backup."""
    return objects[f"{newest(objects)}/{name}"]


def changed(change: Callable[[bytes], bytes | None], name: str = DUMP, aged: bool = False) -> Damage:
    """One object becomes another, or is gone."""

    def damage(good: Good) -> Objects:
        found = dict(good.aged if aged else good.new)
        key = f"{newest(found)}/{name}"
        made = change(found.pop(key))
        return found if made is None else {**found, key: made}

    return damage


def flip(at: float) -> Callable[[bytes], bytes]:
    """One bit, at a share of the length."""

    def change(data: bytes) -> bytes:
        where = min(int(len(data) * at), len(data) - 1)
        return data[:where] + bytes([data[where] ^ 1]) + data[where + 1 :]

    return change


def said(change: Callable[[dict[str, Any]], object]) -> Damage:
    """The manifest says something else."""

    def made(data: bytes) -> bytes:
        manifest = json.loads(data)
        change(manifest)
        return json.dumps(manifest).encode()

    return changed(made, MANIFEST)


def from_old(name: str) -> Damage:
    """An object of the older backup lies in the newest one's place."""
    return lambda good: {**good.new, f"{newest(good.new)}/{name}": part(good.old, name)}


def swapped(good: Good) -> Objects:
    """Dump and configuration have changed places."""
    name = newest(good.new)
    return {
        **good.new,
        f"{name}/{DUMP}": part(good.new, CONFIGURATION),
        f"{name}/{CONFIGURATION}": part(good.new, DUMP),
    }


def renamed(**claims: str) -> Damage:
    """The older backup was uploaded again under the newest one's name."""

    def damage(good: Good) -> Objects:
        found = {f"{newest(good.new)}/{key.partition('/')[2]}": data for key, data in good.old.items()}
        manifest = {**json.loads(part(found, MANIFEST)), **claims}
        if claims:
            manifest["id"] = newest(found)
            manifest["taken"] -= 2 * 86400
        return {**found, f"{newest(found)}/{MANIFEST}": json.dumps(manifest).encode()}

    return damage


def resealed(objects: Objects, dump: bytes) -> Objects:
    """Another dump, whose hashes the manifest knows: it was damaged before they were taken. What it has to hold stays as it was."""
    name = newest(objects)
    manifest = json.loads(part(objects, MANIFEST))
    digest = hashlib.sha256(dump).hexdigest()
    manifest["objects"][DUMP] = {"size": len(dump), "sha256": digest, "plain_sha256": digest}
    return {**objects, f"{name}/{DUMP}": dump, f"{name}/{MANIFEST}": json.dumps(manifest).encode()}
