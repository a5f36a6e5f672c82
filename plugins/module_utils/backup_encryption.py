# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""age encryption (age-encryption.org/v1) of a stream of any length in a few MiB of memory, with the PyPI package pyrage.

pyrage wants to read and write files itself; so it runs in a thread, which gets a piece and hands back what became of the one before.
The source of the bytes is asked in the caller's thread only: the thread never waits for anybody but us.
"""

from __future__ import annotations

import atexit
import hashlib
import importlib
import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from typing import Any, Callable

from .errors import ScutumError

VARIABLE = "scutum_backup_age_recipients"
_KINDS = "age1…, ssh-ed25519 … or ssh-rsa …"
_PIECE = 1024 * 1024


def encrypt(chunks: Iterable[bytes], recipients: list[str]) -> Generator[bytes, None, None]:
    """The age file of some bytes, in pieces of about 1 MiB.

    What `chunks` raises reaches the caller as it is, and the file's last part, without which no reader accepts it, is then never given out.
    Whoever stops early calls `close()`; closing `chunks` is the caller's, too.

    Args:
        recipients: who can open it, each of them alone; `problems` says what may stand there.

    Raises:
        ScutumError: at once for a wrong recipient or none; while it runs when pyrage fails.
    """
    wrong = problems(recipients) or (
        [] if recipients else [f"{VARIABLE}: it is empty, so nobody could open the backup"]
    )
    if wrong:
        raise ScutumError("; ".join(wrong), left="nothing was encrypted", next_step=f"correct {VARIABLE}")
    pyrage = _pyrage()
    keys = [_recipient(text) for text in _normal(recipients)]
    return _through(chunks, lambda reader, writer: pyrage.encrypt_io(reader, writer, keys), _not_encrypted)


def decrypt(chunks: Iterable[bytes], identities: list[str]) -> Generator[bytes, None, None]:
    """The bytes in an age file, in pieces of about 1 MiB; what `chunks` raises reaches the caller as it is.

    Each piece is authenticated before it is given out, but only the end of the stream proves that nothing was cut off: use nothing of it
    before.

    Args:
        identities: each a line `AGE-SECRET-KEY-1…`, the text of a file of age-keygen, or an SSH private key without passphrase.

    Raises:
        ScutumError: at once for a text that is no identity or for none; while it runs when no identity fits, or when the file was cut
            short or changed.
    """
    keys = [key for number, text in enumerate(identities, 1) for key in _identities(text, number)]
    if not keys:
        raise ScutumError(
            "no age identity was given", left="nothing was decrypted", next_step="give the identity (AGE-SECRET-KEY-1…)"
        )
    pyrage = _pyrage()
    return _through(chunks, lambda reader, writer: pyrage.decrypt_io(reader, writer, keys), _not_decrypted)


def problems(recipients: list[str]) -> list[str]:
    """What is wrong with recipients, by their number; a text is never repeated, since it may be a secret key. An empty list is right."""
    found = []
    for number, text in enumerate(recipients, 1):
        where = f"{VARIABLE}: number {number}"
        if "PRIVATE KEY" in str(text).upper() or "AGE-SECRET-KEY" in str(text).upper():
            found.append(
                f"{where} is a secret key, not a recipient: replace that key, give what `age-keygen -y` prints"
            )
            continue
        try:
            _recipient(" ".join(str(text).split()[:2]))
        except (_pyrage().RecipientError, ValueError):
            found.append(f"{where} is no recipient ({_KINDS})")
    return found


def fingerprint(recipients: list[str]) -> str:
    """A short text for the manifest that tells for whom a backup was encrypted; order, repetition and comments of SSH keys do not count."""
    return "sha256:" + hashlib.sha256("\n".join(_normal(recipients)).encode()).hexdigest()[:16]


def _pyrage() -> Any:
    try:
        return importlib.import_module("pyrage")
    except ImportError as problem:
        raise ScutumError(
            f"the Python package pyrage is needed for {VARIABLE}: {problem}",
            left="nothing was changed",
            next_step="run the job as `scutum-ops`, whose environment has it (role _host_library)",
        ) from problem


def _normal(recipients: list[str]) -> list[str]:
    """Sorted, each once, SSH keys without their comment, age's in lower case."""
    words = [" ".join(text.split()[:2]) for text in recipients]
    return sorted({text if text.startswith("ssh-") else text.lower() for text in words})


def _recipient(text: str) -> Any:
    pyrage = _pyrage()
    kind = pyrage.ssh if text.startswith("ssh-") else pyrage.x25519
    return kind.Recipient.from_str(text)


def _identities(text: str, number: int) -> Iterator[Any]:
    pyrage = _pyrage()
    try:
        if "PRIVATE KEY" in text:
            yield pyrage.ssh.Identity.from_buffer((text.strip() + "\n").encode())
            return
        for line in text.splitlines():
            if line.strip() and not line.lstrip().startswith("#"):
                yield pyrage.x25519.Identity.from_str(line.strip())
    except (pyrage.IdentityError, ValueError) as problem:
        # pyrage's words hold nothing of the key.
        raise ScutumError(
            f"identity number {number} is no age identity: {problem}",
            left="nothing was decrypted",
            next_step="give a line AGE-SECRET-KEY-1…, or an SSH private key (ed25519, RSA) without passphrase",
        ) from None


def _not_encrypted(problem: BaseException) -> ScutumError:
    return ScutumError(
        f"age could not encrypt: {problem}",
        left="the encrypted stream has no end and cannot be opened",
        next_step=f"correct {VARIABLE} and run it again",
    )


def _not_decrypted(problem: BaseException) -> ScutumError:
    if "No matching keys" in str(problem):
        return ScutumError(
            "no key of this host opens it (or its first lines were changed)",
            left="nothing was decrypted",
            next_step="give the identity of a recipient that its manifest names",
        )
    return ScutumError(
        f"it was cut short or changed, or is no age file: {problem}",
        left="what came before that is not the whole: throw it away",
        next_step="fetch it again; when that fails too, take another backup",
    )


class _Stopped(Exception):
    """The caller has gone; goes through pyrage and to nobody else."""


# Streams that nobody has finished or closed.
_RUNNING: dict[threading.Thread, _Exchange] = {}


class _Exchange:
    """The thread's side: the file that pyrage reads and the file that it writes."""

    def __init__(self) -> None:
        # A piece; empty bytes at the end; None when the caller has gone.
        self.pieces: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        # For each piece what came of the one before it (first of none), then the rest; or what pyrage raised.
        self.results: queue.SimpleQueue[bytes | BaseException] = queue.SimpleQueue()
        self._piece: bytes | None = b""
        self._at = 0
        self._made: list[bytes] = []
        self._ended = False

    def read(self, size: int = -1) -> bytes:
        """For pyrage: up to `size` bytes; empty at the end."""
        if self._piece is not None and self._at >= len(self._piece) and not self._ended:
            self.results.put(self._taken())
            self._piece, self._at = self.pieces.get(), 0
            self._ended = self._piece == b""
        if self._piece is None:
            raise _Stopped
        start, self._at = self._at, len(self._piece) if size < 0 else min(self._at + size, len(self._piece))
        return self._piece[start : self._at]

    def write(self, data: bytes) -> int:
        """For pyrage."""
        self._made.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """For pyrage."""

    def _taken(self) -> bytes:
        made, self._made = b"".join(self._made), []
        return made

    def run(self, work: Callable[[Any, Any], None]) -> None:
        """The whole life of the thread."""
        try:
            work(self, self)
            self.results.put(self._taken())
            # Read only when it returned before the end of its input was asked for: nobody waits for ever.
            self.results.put(EOFError("pyrage stopped before the end"))
        # A panic of pyrage's is no Exception.
        except BaseException as problem:
            self.results.put(problem)


def _through(
    chunks: Iterable[bytes], work: Callable[[Any, Any], None], failed: Callable[[BaseException], ScutumError]
) -> Generator[bytes, None, None]:
    exchange = _Exchange()
    thread = threading.Thread(target=exchange.run, args=(work,), name="scutum-ops-age", daemon=True)

    def result() -> bytes:
        got = exchange.results.get()
        if isinstance(got, bytes):
            return got
        raise failed(got) from got

    thread.start()
    _RUNNING[thread] = exchange
    try:
        for piece in _pieces(chunks):
            made = result()
            exchange.pieces.put(piece)
            # The caller works on this while the thread works on the piece.
            if made:
                yield made
        made = result()
        exchange.pieces.put(b"")
        if made:
            yield made
        made = result()
        if made:
            yield made
    finally:
        exchange.pieces.put(None)
        thread.join()
        _RUNNING.pop(thread, None)


def _stop_all() -> None:
    """At the end of the process: a thread that is inside pyrage while Python goes away would abort it."""
    for thread, exchange in list(_RUNNING.items()):
        exchange.pieces.put(None)
        thread.join()


atexit.register(_stop_all)


def _pieces(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of 1 MiB, the last one shorter; none of them is empty."""
    held = bytearray()
    for chunk in chunks:
        view = memoryview(chunk).cast("B")
        for start in range(0, len(view), _PIECE):
            held += view[start : start + _PIECE]
            if len(held) >= _PIECE:
                yield bytes(held[:_PIECE])
                del held[:_PIECE]
    if held:
        yield bytes(held)
