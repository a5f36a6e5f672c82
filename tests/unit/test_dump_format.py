"""Whether a dump in custom format is whole, told from its lengths; what real servers write is in tests/faults/test_dump_format.py."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
from ansible_collections.scutum.ops.plugins.module_utils.dump_format import Followed, NotWholeError
from hypothesis import given
from hypothesis import strategies as st


def number(value: int) -> bytes:
    return bytes([value < 0]) + abs(value).to_bytes(4, "little")


def text(value: str | None) -> bytes:
    data = (value or "").encode()
    return number(-1 if value is None else len(data)) + data


def entry(minor: int, id_: int, tag: str, data: bool) -> bytes:
    """A line of the table of contents."""
    return b"".join(
        [
            number(id_), number(int(data)), text("0"), text("0"), text(tag), text("TABLE DATA"), number(3),
            text(None), text(""), text("COPY x FROM stdin;\n"), text("public"), text(""), text(""),
            number(0) if minor >= 16 else b"", text("owner"), text("false"), text("7"), text(None),
            bytes([1 if data else 3]) + bytes(8),
        ]
    )  # fmt: skip


def archive(tables: dict[str, list[bytes]], minor: int = 16, schema: int = 2) -> bytes:
    """A dump of these tables' data, in blocks, and of some entries without any."""
    head = b"PGDMP" + bytes([1, minor, 0, 4, 8, 1]) + (b"\x03" if minor >= 15 else number(-1))
    head += b"".join(number(part) for part in (1, 2, 3, 4, 10, 126, 0)) + text("db") + text("17.1") + text("17.1")
    entries = [entry(minor, 100 + place, f"view{place}", False) for place in range(schema)]
    entries += [entry(minor, place, name, True) for place, name in enumerate(tables)]
    data = b""
    for place, blocks in enumerate(tables.values()):
        chunks = b"".join(number(len(block)) + block for block in blocks)
        data += b"\x01" + number(place) + chunks + number(0)
    return head + number(len(entries)) + b"".join(entries) + data


TABLES = {"audit_logs": [b"x" * 5000, b"y" * 70], "teams": [], "models": [b"z"]}


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[place : place + size] for place in range(0, len(data), size))


def follow(chunks: Iterable[bytes]) -> bytes:
    return b"".join(Followed(iter(chunks)))


@pytest.mark.parametrize("minor", [14, 15, 16])
@pytest.mark.parametrize("size", [1, 7, 4096, 1 << 20])
def test_a_whole_one_goes_through_unchanged(minor: int, size: int) -> None:
    data = archive(TABLES, minor)
    assert follow(pieces(data, size)) == data


@pytest.mark.parametrize("minor", [14, 15, 16])
def test_each_cut_is_noticed(minor: int) -> None:
    data = archive(TABLES, minor)
    for length in range(len(data)):
        with pytest.raises(NotWholeError):
            follow([data[:length]])


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=6), st.lists(st.binary(min_size=1, max_size=40), max_size=4), max_size=4
    ),
    st.integers(1, 60),
    st.data(),
)
def test_any(tables: dict[str, list[bytes]], size: int, data: st.DataObject) -> None:
    made = archive(tables)
    assert follow(pieces(made, size)) == made
    cut = data.draw(st.integers(0, len(made) - 1))
    with pytest.raises(NotWholeError):
        follow(pieces(made[:cut], size))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "it is empty"),
        (b"pg_dump: error: no memory", "does not begin like a dump"),
        (b"PGDMP\x01\x10\x00\x04\x08\x03" + bytes(50), "it is of another format"),
        (b"PGDMP", "it ends after 5 bytes, in its head"),
        (archive(TABLES)[:300], "it ends after 300 bytes, in its table of contents"),
        (archive(TABLES)[:-2], "in the data of public.models"),
        (archive({**TABLES, "last": [b"1"]})[: len(archive(TABLES))], "in the data of public.audit_logs"),
        (archive(TABLES)[:-17], "without the data of public.models"),
        (archive(TABLES) + b"\x01" + number(0) + number(0), "or twice: entry 0"),
        (archive(TABLES) + b"\x02" + number(0), "what follows is no data"),
        (archive(TABLES)[:-17] + b"\x01" + number(2) + number(-5), "a length that is none"),
    ],
)  # fmt: skip
def test_what_is_said(data: bytes, says: str) -> None:
    with pytest.raises(NotWholeError, match=says):
        follow([data] if data else [])


def test_two_tables_missing_are_counted() -> None:
    data = archive(TABLES)
    begin = data.index(b"\x01" + number(1) + number(0))
    with pytest.raises(NotWholeError, match="without the data of public.teams and 1 more"):
        follow([data[:begin]])


def test_large_objects_are_followed() -> None:
    blob = entry(16, 9, "BLOBS", True)
    whole = archive({}, schema=0)[:-5] + number(1) + blob
    content = b"".join(number(oid) + number(3) + b"abc" + number(0) for oid in (16401, 16402)) + number(0)
    whole += b"\x03" + number(9) + content
    assert follow(pieces(whole, 11)) == whole
    for cut in range(len(whole)):
        with pytest.raises(NotWholeError):
            follow([whole[:cut]])


@pytest.mark.parametrize("minor", [13, 17])
def test_an_unknown_version_passes(minor: int) -> None:
    data = archive(TABLES, minor)[:400]
    followed = Followed(iter([data]))
    assert b"".join(followed) == data and not followed.known


def test_a_failure_is_said_at_the_end() -> None:
    """What made the stream may have failed, and says so itself."""

    def words() -> Iterator[bytes]:
        yield b"pg_dump: error: no memory"
        yield b" left"
        raise OSError("pg_dump: exit 1")

    with pytest.raises(OSError, match="exit 1"):
        follow(words())
