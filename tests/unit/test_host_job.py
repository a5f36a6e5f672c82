"""What jobs on a schedule have in common: who waits for whom, what is recorded, who is told."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.scutum.ops.plugins.module_utils import audit_job, backup, host_job
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from ansible_collections.scutum.ops.plugins.module_utils.host_job import HostJob, Kind, runs
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation

CANARY = "canary-6b1d"


class Hook:
    """A webhook, and the address of a heartbeat."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.beats = 0
        self.answer = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                self.send_response(outer.answer)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_POST(self) -> None:
                outer.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self._answer()

            def do_GET(self) -> None:
                outer.beats += 1
                self._answer()

            def log_message(self, *unused: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture(name="hook")
def fixture_hook() -> Iterator[Hook]:
    found = Hook()
    yield found
    found.server.shutdown()
    found.server.server_close()


def kind(name: str) -> Kind:
    return Kind(name, f"{name} run", f"{name}.failed", "The last good run was", f"scutum-ops {name}", f"scutum-ops {name}-info",
                f"scutum_{name}", lambda held: runs(held, f"scutum_{name}", "run"), f"{name.upper()}_HEARTBEAT_URL")  # fmt: skip


@pytest.fixture(name="installation")
def fixture_installation(tmp_path: Path, hook: Hook) -> Installation:
    (tmp_path / "here/config").mkdir(parents=True)
    (tmp_path / "here/.scutum-ops").mkdir()
    (tmp_path / "metrics").mkdir()
    (tmp_path / "here/config/.env").write_text(
        f"POSTGRES_PASSWORD={CANARY}\nONE_HEARTBEAT_URL={hook.url}/secret-{CANARY}\n"
    )
    (tmp_path / "here/.scutum-ops/notifications.json").write_text(json.dumps({"webhook": {"url": hook.url}}))
    return Installation(str(tmp_path / "here"))


@pytest.fixture(name="one")
def fixture_one(installation: Installation, tmp_path: Path) -> HostJob:
    return HostJob(installation, kind("one"), str(tmp_path / "metrics"))


def up(one: HostJob) -> str:
    return Path(one.directory, f"{one.kind.metrics}.prom").read_text().split("_up ")[-1].split()[0]


def once(one: HostJob, work: Any = None, said: list[str] | None = None, patience: float = 5) -> dict[str, Any]:
    """A run as the jobs have it."""
    say = (said if said is not None else []).append
    result: dict[str, Any] = {"warnings": []}
    with one.alone(say, patience):
        with one.begun(say):
            if work:
                work()
        one.succeeded(result)
    return result


def test_settings_are_kept_once_and_only_for_root(one: HostJob) -> None:
    assert one.kept() is None and one.keep({"a": 1}, check=True) == ["one.json"] and one.kept() is None
    assert one.keep({"a": 1}) == ["one.json"] and one.keep({"a": 1}) == one.keep({"a": 1}, check=True) == []
    path = Path(one.installation.private, "one.json")
    assert one.kept() == {"a": 1} and path.stat().st_mode & 0o777 == 0o600
    nowhere = HostJob(Installation(f"{one.installation.directory}/not-yet"), one.kind)
    assert nowhere.keep({"a": 1}, check=True) == ["one.json"]


def test_a_good_run_is_recorded_counted_and_beats(one: HostJob, hook: Hook) -> None:
    assert once(one) == {"warnings": []}
    held = one.status()
    assert held["last_success"]["at"] > time.time() - 60 and held["running"] is None and "last_failure" not in held
    assert up(one) == "1" and hook.beats == 1 and hook.told == []
    hook.answer = 404
    [warning] = once(one)["warnings"]
    assert warning == "the heartbeat (ONE_HEARTBEAT_URL): answered 404" and CANARY not in warning


def test_a_failed_run_is_recorded_counted_and_told_without_secrets(one: HostJob, hook: Hook) -> None:
    once(one)

    def fails() -> None:
        raise ScutumError(f"the password {CANARY} was refused", left="nothing", next_step="look")

    with pytest.raises(ScutumError, match="was refused"):
        once(one, fails)
    held = one.status()
    assert held["last_failure"]["error"] == "the password [POSTGRES_PASSWORD] was refused" and held["last_success"]
    assert up(one) == "0" and not held["running"]
    [told] = hook.told
    assert told["event"] == "one.failed" and CANARY not in json.dumps(told)
    assert "Next: look" in told["text"] and "The last good run was 0.0 hours ago." in told["text"]
    assert "Again, by hand, on the host: scutum-ops one" in told["text"]
    # What the system refuses is a failure with the same three parts.
    with pytest.raises(ScutumError, match="No space left") as caught:
        once(one, lambda: os.write(os.open("/dev/full", os.O_WRONLY), b"x"))
    assert caught.value.left and caught.value.next_step and isinstance(caught.value.__cause__, OSError)


def test_a_run_that_was_killed_is_named_by_the_next_one(one: HostJob) -> None:
    one.record(running={"began": time.time() - 60}, in_force={"audit_logs": 30})
    said: list[str] = []
    once(one, said=said)
    assert re_killed(said) and one.status()["in_force"] == {"audit_logs": 30}
    said.clear()
    once(one, said=said)
    assert not re_killed(said)


def re_killed(said: list[str]) -> bool:
    return any("was killed" in line for line in said)


@pytest.mark.parametrize("ago", [60.0, 27 * 3600.0], ids=["fresh", "for too long"])
def test_a_second_one_of_a_kind_is_refused_at_once(one: HostJob, hook: Hook, ago: float) -> None:
    one.record(last_success={"at": time.time() - ago})
    second = HostJob(one.installation, one.kind, one.directory)
    with one.alone(print), pytest.raises(ScutumError, match="another one run is running on this host") as caught:
        once(second, patience=60)
    assert caught.value.left and "scutum-ops one-info shows the last one" in caught.value.next_step
    # One that hangs keeps every later one away: people have to know, but not of each.
    assert [told["event"] for told in hook.told] == ([] if ago == 60 else ["one.failed"])
    once(second)


def test_another_kind_is_waited_for(
    one: HostJob, installation: Installation, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_job, "_POLL", 0.02)
    two = HostJob(installation, kind("two"))
    order: list[str] = []
    said: list[str] = []
    begun = threading.Event()

    def long() -> None:
        with one.alone(print):
            begun.set()
            time.sleep(0.3)
            order.append("one")

    worker = threading.Thread(target=long)
    worker.start()
    assert begun.wait(5)
    once(two, lambda: order.append("two"), said)
    worker.join()
    assert order == ["one", "two"]
    assert said == ["another job works on the database: waiting for it, at most 0 minutes"]
    with one.alone(print), pytest.raises(ScutumError, match="did not end within 0 s") as caught:
        once(two, patience=0)
    # That is a failure of its own: the night has no dump, or no archiving.
    assert [told["event"] for told in hook.told] == ["two.failed"] and "scutum-ops two" in caught.value.next_step
    assert two.status()["last_failure"]["error"].startswith("another job works on this installation's database")


def test_the_nightly_dump_and_the_archiving_share_a_lock(installation: Installation) -> None:
    night = backup._job(installation)
    refused = pytest.raises(ScutumError, match="another job works on")
    with audit_job.job(installation).alone(print), refused, night.alone(print, patience=0):
        pass


def test_a_lock_is_never_written_to_and_goes_with_its_process(one: HostJob) -> None:
    private = Path(one.installation.private)
    for name in ("one.lock", host_job.LOCK):
        (private / name).write_text("held by somebody\n")
    with one.alone(print):
        for name in ("one.lock", host_job.LOCK):
            assert (private / name).read_text() == "held by somebody\n"
            with (private / name).open() as handle, pytest.raises(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with contextlib.ExitStack() as closing:
        assert host_job.lock_file(closing, str(private / "one.lock"))
    # A process that is started meanwhile does not inherit them: they go with this one.
    with one.alone(print):
        listed = subprocess.run(
            ["ls", "-l", "/proc/self/fd"], capture_output=True, text=True, check=True, close_fds=False
        ).stdout
        assert ".lock" not in listed


def test_a_lock_that_cannot_be_opened_is_told_like_any_failure(
    one: HostJob, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.open

    def full(path: Any, *more: Any, **named: Any) -> int:
        if str(path).endswith(host_job.LOCK):
            raise OSError(28, "No space left on device", str(path))
        return real(path, *more, **named)

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(ScutumError, match="No space left on device") as caught:
        once(one)
    assert caught.value.left and caught.value.next_step and up(one) == "0"
    assert [told["event"] for told in hook.told] == ["one.failed"]
    # The first lock was given back.
    monkeypatch.undo()
    once(one)


def test_a_record_cut_short_by_a_crash_is_none(one: HostJob) -> None:
    Path(one.installation.private, "one-status.json").write_text('{"last_succ')
    assert one.status() == {}
    once(one)
    assert one.status()["last_success"]
