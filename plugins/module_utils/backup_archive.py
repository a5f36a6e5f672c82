# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration archive of a backup: what an empty host needs beside the database. Writing it, and reading it again."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import time
from dataclasses import dataclass
from typing import Any

from . import backup_catalog as catalog
from . import backup_reading
from . import compose as compose_module
from .database import Database
from .env_file import EnvFile, secrets_of
from .files import read_text
from .installation import Installation
from .object_store import Store

STATE = ".scutum-ops/state.json"
# What a configuration archive holds, below the installation's directory.
FILES = (
    compose_module.VENDOR_FILE,
    compose_module.OVERRIDE_FILE,
    compose_module.MERGED_FILE,
    "config/litellm/config.yaml",
    "config/license-public.pem",
    STATE,
)
GLOBALS = "globals.sql"
_LEFT_OUT = "left-out.json"


@dataclass(frozen=True)
class Archive:
    """What an archive held.

    Args:
        texts: by name, without the two below.
        globals: roles, as SQL.
        left_out: keys of config/.env whose values are not in it.
    """

    texts: dict[str, str]
    globals: str
    left_out: list[str]


def build(installation: Installation, database: Database, secrets: bool) -> bytes:
    """The configuration archive: what an empty host needs beside the database.

    Args:
        secrets: whether config/.env goes with its secrets (the archive is encrypted), or without.
    """
    env = EnvFile(read_text(installation.path(compose_module.ENV_FILE)) or "")
    hidden = [] if secrets else list(secrets_of(env.as_dict()))
    texts = {name: read_text(installation.path(name)) for name in FILES}
    if not secrets:
        for key in hidden:
            env.set(key, "")
        # A comment may hold an old one, and somebody may have written one into another file.
        env.lines = [line for line in env.lines if not line.lstrip().startswith("#")]
        texts = {name: installation.redact(text) if text else text for name, text in texts.items()}
    texts[compose_module.ENV_FILE] = env.render()
    texts[GLOBALS] = database.globals()
    texts[_LEFT_OUT] = json.dumps(sorted(hidden), indent=1) + "\n"
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name, text in sorted(texts.items()):
            if text is not None:
                info = tarfile.TarInfo(name)
                info.size, info.mode, info.mtime = len(text.encode()), 0o600, int(time.time())
                archive.addfile(info, io.BytesIO(text.encode()))
    return data.getvalue()


def read(place: Store, manifest: dict[str, Any], identities: list[str]) -> Archive:
    """The archive of a backup, after its hashes were compared with the manifest."""
    part = backup_reading.object_of(manifest, catalog.CONFIGURATION)
    data = b"".join(backup_reading.chunks(place, manifest, part, identities))
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        texts = {
            item.name: handle.read().decode() for item in archive if (handle := archive.extractfile(item)) is not None
        }
    return Archive(
        {name: text for name, text in texts.items() if name not in (GLOBALS, _LEFT_OUT)},
        texts.get(GLOBALS, ""),
        list(json.loads(texts.get(_LEFT_OUT, "[]"))),
    )


def salt_mark(installation: Installation) -> str:
    """The beginning of a hash of LITELLM_SALT_KEY; empty when that is so short that it could be guessed from it."""
    salt = installation.secret("LITELLM_SALT_KEY")
    return hashlib.sha256(salt.encode()).hexdigest()[:16] if len(salt) >= 32 else ""
