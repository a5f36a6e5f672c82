"""What the engine's command line is given, and what it says when it fails."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.scutum.ops.plugins.module_utils import engine
from ansible_collections.scutum.ops.plugins.module_utils.engine import Engine
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError

SECRET = "canary-of-a-variable"


def test_a_value_for_a_container_is_in_the_environment_and_nowhere_else(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    binary = tmp_path / "engine"
    binary.write_text(f'#!/bin/sh\necho "$* [$POSTGRES_PASSWORD]" > {seen}\nexit 125\n')
    binary.chmod(0o755)
    with pytest.raises(ScutumError) as failed:
        Engine(str(binary)).start({"POSTGRES_PASSWORD": SECRET}, "--name", "x", "image", timeout=10)
    assert seen.read_text() == f"run -d -e POSTGRES_PASSWORD --name x image [{SECRET}]\n"
    assert SECRET not in str(failed.value)
    assert SECRET not in failed.value.next_step


FLAKE = "OCI runtime exec failed: exec failed: unable to start container process: "
SETNS = FLAKE + "error executing setns process: exit status 1: unknown"


def counting(tmp_path: Path, text: str, code: int, good_at: int, to: str = "1") -> Engine:
    """An engine that says a text until a certain call, which echoes its standard input."""
    binary, calls = tmp_path / "engine", tmp_path / "calls"
    (tmp_path / "text").write_text(text)
    binary.write_text(
        f"#!/bin/sh\necho x >> {calls}\n[ $(wc -l < {calls}) -lt {good_at} ] || exec cat\n"
        f"cat {tmp_path}/text >&{to}; exit {code}\n"
    )
    binary.chmod(0o755)
    return Engine(str(binary))


def calls(tmp_path: Path) -> int:
    return len((tmp_path / "calls").read_text().splitlines())


@pytest.mark.parametrize("to", ["1", "2"])
@pytest.mark.parametrize(
    "words", ["error executing setns process: exit status 1", "procReady not received", "can't find pid"]
)
def test_an_exec_that_never_started_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, to: str
) -> None:
    monkeypatch.setattr(engine.time, "sleep", lambda seconds: None)
    result = counting(tmp_path, f"{FLAKE}{words}: unknown\r\n", 126, 3, to).run(
        "exec", "-i", "c", "cat", stdin="SELECT 1"
    )
    assert (result.rc, result.out, calls(tmp_path)) == (0, "SELECT 1", 3)


def test_an_exec_that_never_starts_fails_in_the_engine_s_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine.time, "sleep", lambda seconds: None)
    with pytest.raises(ScutumError, match="setns process"):
        counting(tmp_path, SETNS, 126, 9, "2").must("exec", "c", "true")
    assert calls(tmp_path) == 3


@pytest.mark.parametrize(
    ("words", "text", "code"),
    [
        ("run", SETNS, 126),
        ("exec", FLAKE + 'exec: "pg_dump": executable file not found in $PATH: unknown', 127),
        ("exec", "ERROR:  canary\n" + SETNS, 126),
        ("exec", SETNS + "\nand more", 126),
        ("exec", SETNS, 1),
        ("exec", "Error response from daemon: container c is not running", 1),
        ("exec", "", 126),
    ],
)
def test_whatever_may_have_begun_is_not_done_twice(tmp_path: Path, words: str, text: str, code: int) -> None:
    result = counting(tmp_path, text, code, 2).run(words, "c", "true")
    assert (result.rc, calls(tmp_path)) == (code, 1)
