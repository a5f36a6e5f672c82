# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Writing files: atomically, with a mode, and only when something differs."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile


def read_text(path: str) -> str | None:
    """The text of a file, or None when there is no such file."""
    try:
        with open(path, encoding="utf-8") as handle:
            return handle.read()
    except FileNotFoundError:
        return None


def sha256_bytes(data: bytes) -> str:
    """Hexadecimal SHA-256 of some bytes."""
    return hashlib.sha256(data).hexdigest()


def existing(path: str) -> str:
    """The path, or the nearest directory above it that exists: where it would lie."""
    while path and not os.path.exists(path):
        path = os.path.dirname(path)
    return path or "/"


def free_bytes(path: str) -> int:
    """Bytes that are free where a path lies."""
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def ensure_directory(path: str, mode: int, check: bool = False) -> bool:
    """Create a directory (its mode is set at creation only); true when it was (or would be) created."""
    if os.path.isdir(path):
        return False
    if not check:
        os.makedirs(path, mode=mode, exist_ok=True)
        os.chmod(path, mode)
    return True


def write_file(path: str, content: str | bytes, mode: int, check: bool = False) -> bool:
    """Replace a file in one step (a reader sees the old or the new one); true when it was (or would be) changed.

    The owner of an existing file is kept; the mode is enforced.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    try:
        with open(path, "rb") as handle:
            same = handle.read() == data
        status = os.stat(path)
    except FileNotFoundError:
        same, status = False, None
    if same and status is not None and (status.st_mode & 0o7777) == mode:
        return False
    if check:
        return True
    if same:
        os.chmod(path, mode)
        return True
    directory = os.path.dirname(path)
    descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=".scutum-ops-")
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(temporary, mode)
        if status is not None:
            os.chown(temporary, status.st_uid, status.st_gid)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    return True
