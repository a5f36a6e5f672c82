# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A named pipe from a command in a container to this process: what goes through it does not pass the engine.

The engine's `exec` copies every byte through its client, its daemon and its shim, which costs as much CPU as the dump itself (measured:
2 GB, 20 s in the container, 41 s through `exec`). The pipe lies in the container's /dev/shm, a tmpfs that every container has: no layer and
no volume is touched, and it is reached from the host below /proc.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import stat
import subprocess
import time
import uuid
from collections.abc import Iterator

from .engine import Engine
from .errors import ScutumError

_SIZE = 1 << 20
# Seconds between two looks at whether the command has ended.
_LOOK = 0.1
# A read that brought less comes from a slow writer: a pause lets the pipe fill, and saves most of the reads (measured: half a second of CPU
# for a million rows).
_SHORT, _PAUSE = 1 << 16, 0.002


class Pipe:
    """Both ends are open here, too: neither side waits for the other to open it, and an end is never seen too early.

    Args:
        inside: its path in the container.
    """

    def __init__(self, inside: str, reading: int, writing: int) -> None:
        self.inside = inside
        self._reading, self._writing = reading, writing

    def output_of(self, *command: str) -> list[str]:
        """Words for a command whose standard output goes into the pipe."""
        return ["sh", "-c", 'exec "$@" > "$0"', self.inside, *command]

    def read(self, process: subprocess.Popen[bytes]) -> Iterator[bytes]:
        """What the command writes, in blocks of 1 MiB, until its process has ended; of one that failed, perhaps not all."""
        held = bytearray()
        while True:
            # Asked before it is read: what was written before its end is in the pipe then.
            rc = process.poll()
            if rc:
                return
            if select.select([self._reading], [], [], 0 if rc == 0 else _LOOK)[0]:
                block = os.read(self._reading, _SIZE)
                held += block
                if len(block) < _SHORT and rc is None:
                    time.sleep(_PAUSE)
                if len(held) >= _SIZE:
                    yield bytes(held)
                    held.clear()
            elif rc == 0:
                break
        if held:
            yield bytes(held)

    def close(self) -> None:
        """Both ends."""
        os.close(self._writing)
        os.close(self._reading)


@contextlib.contextmanager
def pipe(engine: Engine, container: str) -> Iterator[Pipe]:
    """A pipe into a running container, which goes with the block; of a process that was killed, an empty name stays until its restart."""
    state = next(iter(engine.inspect("container", [container])), {}).get("State", {})
    number = int(state.get("Pid") or 0)
    # A directory of its own: in one that everybody may write to, kernels let only its owner open a pipe (fs.protected_fifos).
    inside = f"/dev/shm/scutum-ops-{uuid.uuid4().hex}"  # noqa: S108 -- nobody can know it, and nothing that exists is opened
    directory = f"/proc/{number}/root{inside}"
    path = f"{directory}/pipe"
    try:
        if not number:
            raise OSError("it does not run")
        os.mkdir(directory, 0o700)
    except OSError as error:
        raise ScutumError(
            f"the container {container[:12]} cannot be reached from this host: {error.strerror or error}",
            left="nothing was read from it",
            next_step="run this as root on the host that runs the container: docker ps",
        ) from error
    try:
        os.mkfifo(path, 0o600)
        # Whoever the container runs as; its root may open it all the same.
        owner = os.stat(f"/proc/{number}")
        for place in (path, directory):
            os.chown(place, owner.st_uid, owner.st_gid, follow_symlinks=False)
        ends = Pipe(f"{inside}/pipe", _open(path, os.O_RDONLY), _open(path, os.O_WRONLY))
        try:
            yield ends
        finally:
            ends.close()
    finally:
        # The container may be gone, and its tmpfs with it.
        with contextlib.suppress(OSError):
            os.unlink(path)
        with contextlib.suppress(OSError):
            os.rmdir(directory)


def _open(path: str, way: int) -> int:
    """One end. What lies in a container is not trusted: no link is followed, and nothing but a pipe is taken."""
    descriptor = os.open(path, way | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ScutumError(
            f"{path} is no pipe any more",
            left="nothing was read from it",
            next_step="something in the container replaced it: look at what runs there",
        )
    with contextlib.suppress(OSError):
        # Its name is known to Python from 3.10 on.
        fcntl.fcntl(descriptor, getattr(fcntl, "F_SETPIPE_SZ", 1031), _SIZE)
    return descriptor
