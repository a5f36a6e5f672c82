# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""age streams: what goes in comes out, in little memory, and nothing that failed looks whole."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.scutum.ops.plugins.module_utils import backup_encryption
from ansible_collections.scutum.ops.plugins.module_utils.backup_encryption import (
    decrypt,
    encrypt,
    fingerprint,
    problems,
)
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from hypothesis import given
from hypothesis import strategies as st

pyrage = pytest.importorskip("pyrage")

MIB = 1024 * 1024
# A chunk of the format: 64 KiB and a tag of 16 bytes.
CHUNK, SEALED = 65536, 65536 + 16


def _pair() -> tuple[str, str]:
    identity = pyrage.x25519.Identity.generate()
    return str(identity), str(identity.to_public())


IDENTITY, RECIPIENT = _pair()
OTHER_IDENTITY, OTHER_RECIPIENT = _pair()


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert "scutum-ops-age" not in [thread.name for thread in threading.enumerate()]


@pytest.fixture(scope="session")
def ssh_keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """Private and public texts; "closed" has a passphrase."""
    if not shutil.which("ssh-keygen"):
        pytest.skip("ssh-keygen is not on PATH")
    folder, keys = tmp_path_factory.mktemp("ssh"), {}
    for name, kind, phrase in (
        ("ed25519", "ed25519", ""),
        ("rsa", "rsa", ""),
        ("ecdsa", "ecdsa", ""),
        ("closed", "ed25519", "x"),
    ):
        path = folder / name
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", phrase, "-C", "me@host", "-f", path], check=True)
        keys[name] = (path.read_text(), path.with_suffix(".pub").read_text())
    return keys


def _sealed(data: bytes, *recipients: str) -> bytes:
    return b"".join(encrypt([data], list(recipients or [RECIPIENT])))


def _opened(data: bytes, identity: str = IDENTITY) -> bytes:
    return b"".join(decrypt([data], [identity]))


SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, MIB - 1, MIB, MIB + 1, 2 * MIB, 5 * MIB + 7]


@pytest.mark.parametrize("size", SIZES)
def test_what_goes_in_comes_out(size: int) -> None:
    data = os.urandom(size)
    sealed = _sealed(data)
    assert _opened(sealed) == data
    assert pyrage.decrypt(sealed, [pyrage.x25519.Identity.from_str(IDENTITY)]) == data
    assert _opened(pyrage.encrypt(data, [pyrage.x25519.Recipient.from_str(RECIPIENT)])) == data


@given(st.lists(st.binary(max_size=200), max_size=20), st.integers(1, 300))
def test_the_cut_into_chunks_does_not_matter(chunks: list[bytes], cut: int) -> None:
    sealed = b"".join(encrypt(iter(chunks), [RECIPIENT]))
    parts = [sealed[start : start + cut] for start in range(0, len(sealed), cut)]
    assert b"".join(decrypt(iter(parts), [IDENTITY])) == b"".join(chunks)


def test_any_bytes_like_chunk_will_do() -> None:
    chunks = [b"a", bytearray(b"b"), memoryview(b"c"), b""]
    assert _opened(b"".join(encrypt(chunks, [RECIPIENT]))) == b"abc"  # type: ignore[arg-type]


# In a process of its own: what other tests hold, or give back, does not count.
MEMORY = """
import json, os, sys
from pathlib import Path
from ansible_collections.scutum.ops.plugins.module_utils.backup_encryption import decrypt, encrypt
chunk, total, recipient, identity = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
block, told = os.urandom(chunk), {"in": 0, "out": 0, "ahead": 0}
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
def source():
    for unused in range(total // chunk):
        told["in"] += chunk
        yield block
b"".join(decrypt(encrypt([block[:1 << 20]], [recipient]), [identity]))
before = highest = resident()
for piece in decrypt(encrypt(source(), [recipient]), [identity]):
    told["out"] += len(piece)
    told["ahead"] = max(told["ahead"], told["in"] - told["out"])
    highest = max(highest, resident())
print(json.dumps({**told, "more": highest - before}))
"""


def apart(program: str, *words: str) -> subprocess.CompletedProcess[str]:
    """A program in a Python of its own that finds what this one finds."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", program, *words]
    return subprocess.run(command, env=environment, timeout=120, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("chunk", [4096, 8 * MIB], ids=["4 KiB", "8 MiB"])
def test_memory_is_bounded(chunk: int) -> None:
    total = 128 * MIB
    done = apart(MEMORY, str(chunk), str(total), RECIPIENT, IDENTITY)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["in"] == told["out"] == total
    assert told["ahead"] <= chunk + 6 * MIB, "the source is asked only when somebody takes"
    assert told["more"] < 32 * MIB, f"{told['more'] / MIB:.1f} MiB more for two streams of 128 MiB"


def test_each_recipient_opens_it_alone() -> None:
    sealed = _sealed(b"x" * 100_000, RECIPIENT, OTHER_RECIPIENT)
    for identity in (IDENTITY, OTHER_IDENTITY):
        assert _opened(sealed, identity) == b"x" * 100_000
    assert b"".join(decrypt([_sealed(b"x")], [OTHER_IDENTITY, IDENTITY])) == b"x", "a host may have several"
    file = f"# created: 2026-01-01\n# public key: {RECIPIENT}\n\n{IDENTITY}\n"
    assert _opened(_sealed(b"x"), file) == b"x", "the text of a file of age-keygen"


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_ssh_keys(ssh_keys: dict[str, tuple[str, str]], kind: str) -> None:
    private, public = ssh_keys[kind]
    assert problems([public]) == []
    assert _opened(_sealed(b"x", public), private) == b"x"
    assert _opened(_sealed(b"x", public), private.strip()) == b"x", "a variable often has no last newline"
    with pytest.raises(ScutumError, match="no key of this host opens it"):
        _opened(_sealed(b"x"), private)


@pytest.mark.skipif(not shutil.which("age"), reason="the program age is not on PATH")
@pytest.mark.parametrize("size", [0, 1, CHUNK, MIB + 1])
def test_the_program_age_reads_and_writes_the_same(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    key = tmp_path / "key"
    key.write_text(IDENTITY + "\n")
    read = subprocess.run(
        ["age", "-d", "-i", key], input=_sealed(data, OTHER_RECIPIENT, RECIPIENT), capture_output=True, check=True
    )
    assert read.stdout == data
    written = subprocess.run(["age", "-r", RECIPIENT], input=data, capture_output=True, check=True)
    assert _opened(written.stdout) == data


# How it fails ---------------------------------------------------------------------------------------------------------


class Died(Exception):
    pass


@pytest.mark.parametrize("size", [0, 1, CHUNK, MIB, MIB + CHUNK, 3 * MIB])
@pytest.mark.parametrize("way", [encrypt, decrypt])
def test_a_source_that_dies_reaches_the_caller_and_leaves_nothing_whole(
    way: Callable[..., Iterator[bytes]], size: int
) -> None:
    data = os.urandom(size)
    sent = data if way is encrypt else _sealed(data)

    def source() -> Iterator[bytes]:
        yield sent
        raise Died("pg_dump: exit 1")

    got = []
    with pytest.raises(Died, match="pg_dump: exit 1"):
        for piece in way(source(), [RECIPIENT if way is encrypt else IDENTITY]):
            got.append(piece)
    if way is encrypt:
        with pytest.raises(ScutumError, match="it was cut short or changed"):
            _opened(b"".join(got))


@pytest.mark.parametrize("error", [InterruptedError, BlockingIOError, EOFError, OSError, KeyboardInterrupt, SystemExit])
def test_no_error_of_the_source_is_taken_for_its_end(error: type[BaseException]) -> None:
    def source() -> Iterator[bytes]:
        yield b"x" * (2 * MIB)
        raise error

    got = []
    with pytest.raises(error):
        for piece in encrypt(source(), [RECIPIENT]):
            got.append(piece)
    with pytest.raises(ScutumError, match="cut short"):
        _opened(b"".join(got))


@pytest.mark.parametrize("taken", [0, 1, 2])
@pytest.mark.parametrize("way", [encrypt, decrypt])
def test_a_caller_that_stops_early_leaves_no_thread(way: Callable[..., Iterator[bytes]], taken: int) -> None:
    block = os.urandom(MIB)
    asked = 0

    def endless() -> Iterator[bytes]:
        nonlocal asked
        while True:
            asked += 1
            yield block

    source = endless() if way is encrypt else encrypt(endless(), [RECIPIENT])
    stream = way(source, [RECIPIENT if way is encrypt else IDENTITY])
    for unused in range(taken):
        next(stream)
    stream.close()  # type: ignore[attr-defined]
    source.close()  # type: ignore[attr-defined]
    assert asked <= taken + 5
    assert "scutum-ops-age" not in [thread.name for thread in threading.enumerate()]


def test_a_stream_that_is_forgotten_does_not_hold_up_the_end_of_the_process_nor_abort_it() -> None:
    program = (
        "import itertools, sys\n"
        "from ansible_collections.scutum.ops.plugins.module_utils.backup_encryption import encrypt\n"
        "for number in range(40):\n"
        f"    stream = encrypt(itertools.repeat(bytes(1 << 20)), [{RECIPIENT!r}])\n"
        "    next(stream); sys.modules[f'kept{number}'] = stream\n"
        "sys.exit(7)\n"
    )
    done = apart(program)
    assert (done.returncode, done.stderr) == (7, "")


def test_a_wrong_key() -> None:
    with pytest.raises(ScutumError, match="no key of this host opens it"):
        _opened(_sealed(os.urandom(3 * MIB)), OTHER_IDENTITY)


# One file for all lengths: a header has a stanza of random length.
WHOLE = _sealed(bytes(3 * CHUNK))


def _lengths() -> list[int]:
    head = len(WHOLE) - 3 * SEALED - 16
    edges = [head, head + 16, *(head + 16 + n * SEALED for n in (1, 2))]
    return sorted(
        {0, 1, 21, 22, head // 2, len(WHOLE) - 1, len(WHOLE) - 16, *(e + d for e in edges for d in (-1, 0, 1))}
    )


@pytest.mark.parametrize("length", _lengths(), ids=lambda length: f"{length - len(WHOLE)}")
def test_cut_short(length: int) -> None:
    with pytest.raises(ScutumError, match="it was cut short or changed") as caught:
        _opened(WHOLE[:length])
    assert caught.value.left and caught.value.next_step


@pytest.mark.parametrize("more", [b"\0", b"x" * 17, b"x" * SEALED, b"x" * (3 * MIB)], ids=len)
@pytest.mark.parametrize("size", [0, 1, CHUNK, 2 * CHUNK])
def test_something_after_the_end(size: int, more: bytes) -> None:
    with pytest.raises(ScutumError, match="it was cut short or changed"):
        _opened(_sealed(bytes(size)) + more)


def test_parts_that_were_swapped() -> None:
    sealed = _sealed(os.urandom(3 * CHUNK))
    start = len(sealed) - 3 * SEALED
    swapped = sealed[:start] + sealed[start + SEALED : start + 2 * SEALED] + sealed[start : start + SEALED]
    with pytest.raises(ScutumError, match="it was cut short or changed"):
        _opened(swapped + sealed[start + 2 * SEALED :])


SAMPLE = _sealed(os.urandom(CHUNK + 500))


@given(st.integers(0, 400) | st.integers(0, len(SAMPLE) - 1), st.integers(0, 7))
def test_any_flipped_bit(at: int, bit: int) -> None:
    changed = bytearray(SAMPLE)
    changed[at] ^= 1 << bit
    # A changed stanza of the header looks like one for somebody else.
    with pytest.raises(ScutumError, match="it was cut short or changed|no key of this host opens it"):
        _opened(bytes(changed))


@given(st.binary(max_size=400))
def test_what_is_no_age_file(data: bytes) -> None:
    with pytest.raises(ScutumError, match="no age file"):
        _opened(data)
    with pytest.raises(ScutumError):
        _opened(b"age-encryption.org/v1\n" + data)


def test_a_panic_and_an_early_end_in_pyrage_reach_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    class Panic(BaseException):
        pass

    def panics(reader: object, writer: object, keys: object) -> None:
        raise Panic("at src/lib.rs")

    monkeypatch.setattr(pyrage, "encrypt_io", panics)
    with pytest.raises(ScutumError, match="could not encrypt: at src"):
        _sealed(b"x")
    monkeypatch.setattr(pyrage, "encrypt_io", lambda reader, writer, keys: None)
    with pytest.raises(ScutumError, match="before the end"):
        _sealed(bytes(3 * MIB))


# What may be given ----------------------------------------------------------------------------------------------------


def test_problems_name_the_variable_and_repeat_nothing(ssh_keys: dict[str, tuple[str, str]]) -> None:
    assert problems([RECIPIENT, RECIPIENT.upper(), f" {RECIPIENT}\n"]) == [] and problems([]) == []
    wrong = [
        "",
        "age1abc",
        RECIPIENT[:-1],
        f"{RECIPIENT} {OTHER_RECIPIENT}",
        "ssh-rsa AAAA",
        ssh_keys["ecdsa"][1],
        "ünï→",
    ]
    found = problems([RECIPIENT, *wrong])
    assert [text.split(" is ")[0] for text in found] == [
        f"scutum_backup_age_recipients: number {n}" for n in range(2, len(wrong) + 2)
    ]
    for secret in (IDENTITY, IDENTITY.lower(), ssh_keys["ed25519"][0]):
        (text,) = problems([secret])
        assert "is a secret key" in text and secret[20:40] not in text
        with pytest.raises(ScutumError, match="scutum_backup_age_recipients") as caught:
            encrypt([], [RECIPIENT, secret])
        assert secret[20:40] not in str(caught.value)


@given(
    st.text(max_size=60) | st.text(max_size=60).map("ssh-ed25519 {}".format) | st.text(max_size=60).map("age1{}".format)
)
def test_any_text_is_judged(text: str) -> None:
    assert problems([text])
    with pytest.raises(ScutumError):
        decrypt([], [text])


def test_nobody_to_open_it_is_refused_before_anything_runs(ssh_keys: dict[str, tuple[str, str]]) -> None:
    with pytest.raises(ScutumError, match="scutum_backup_age_recipients: it is empty"):
        encrypt([], [])
    for none in ([], ["# a comment\n"]):
        with pytest.raises(ScutumError, match="no age identity was given"):
            decrypt([], none)
    for wrong in ("AGE-SECRET-KEY-1XXXX", RECIPIENT, ssh_keys["closed"][0], ssh_keys["ecdsa"][0]):
        with pytest.raises(ScutumError, match="identity number 2 is no age identity") as caught:
            decrypt([], [IDENTITY, wrong])
        assert wrong.strip() not in str(caught.value)


def test_a_fingerprint_is_of_the_set(ssh_keys: dict[str, tuple[str, str]]) -> None:
    ssh = ssh_keys["ed25519"][1]
    one = fingerprint([RECIPIENT, ssh])
    assert one == fingerprint([" ".join(ssh.split()[:2]), RECIPIENT.upper(), RECIPIENT]), "order, repetition, comment"
    assert (
        len({one, fingerprint([RECIPIENT]), fingerprint([OTHER_RECIPIENT]), fingerprint([RECIPIENT, OTHER_RECIPIENT])})
        == 4
    )
    # Manifests hold it: it has to stay.
    assert fingerprint(["age1b", "age1a"]) == "sha256:7889df2cb9b8edc1"


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyrage", None)
    with pytest.raises(ScutumError, match="pyrage is needed"):
        backup_encryption.encrypt([], [RECIPIENT])
