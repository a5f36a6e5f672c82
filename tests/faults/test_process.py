"""Faults of the process: killed at every stage, two at once, two servers in one place, one that hangs."""

from __future__ import annotations

import fcntl
import re
import signal
import time
from typing import Any

import pytest
from ansible_collections.scutum.ops.plugins.module_utils import backup, backup_catalog, restore_verification
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from damage import Good, newest, said
from faults import BORNE, KILLED, REFUSED, TOGETHER, UNKNOWN, Fault
from proxy import Rule
from world import Case, docker

FREE = "20200101T000000Z"


def reach(case: Case, how: Any) -> None:
    """Wait until the job is where it has to be."""
    end = time.monotonic() + 90
    mark = ("--filter", f"label={restore_verification.LABEL}={case.directory}")
    while not (case.world.proxy.reached.is_set() if isinstance(how, Rule) else docker("ps", "-q", *mark)):
        assert time.monotonic() < end, "the job did not get there"
        time.sleep(0.1)


@pytest.mark.parametrize("fault", KILLED, ids=str)
def test_killed(case: Case, good: Good, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    job, how, number = fault.how
    if "taken away" in fault.name:
        one_is_free(case, good)
    before, success = case.counting(), case.status()["last_success"]
    case.world.proxy.reset(*([how] if isinstance(how, Rule) else []))
    if job == "verify-restore":
        case.verify_quickly(monkeypatch)
    words = ("--spool", str(case.spool)) if job == "verify-restore" else ()
    with case.start(job, *words) as process:
        try:
            reach(case, how)
        finally:
            process.send_signal(number)
            if number == signal.SIGKILL:
                process.wait()
            case.world.proxy.released.set()
            told = process.communicate(timeout=60)[0]
    events = [item["event"] for item in case.world.proxy.told]
    case.world.proxy.reset()
    if job == "verify-restore":
        verification_goes_on(case)
        return
    # What was being written counts for nothing, but for what was whole already.
    whole = [name for name in case.counting() if name not in before]
    assert len(whole) == ("after the manifest" in fault.name or "taken away" in fault.name)
    for name in whole:
        case.whole(name)
    status = case.status()
    if number == signal.SIGKILL:
        assert status["running"] and status["last_success"] == success and events == []
    else:
        assert "ended from outside" in told and "ended from outside" in status["last_failure"]["error"], told
        assert events == ["backup.failed"] and case.metric("up") == 0 and case.unfinished() == []
    # The next one says so, is whole, and takes away what is left; of a run that may still go on only after a day.
    monkeypatch.setattr(backup, "_STALE", -5)
    name = case.backup()["id"]
    case.whole(name)
    assert any("was killed" in line for line in case.log) == (number == signal.SIGKILL), case.log
    kept = [entry for entry in before if entry != FREE]
    assert case.counting() == [name, *whole, *kept] and case.metric("up") == 1 and not case.status()["running"]
    assert case.unfinished() == [] and backup.info(case.installation)["incomplete"] == []
    assert case.dumping() == [], "a dump that nobody reads holds its locks"
    case.quiet(told, case.status())


def one_is_free(case: Case, good: Good) -> None:
    """A verified backup; an older one of a week that has a newer one is free to go."""
    case.put({f"{newest(good.new)}/verified.json": b"{}"})
    for name in (FREE, "20200101T000001Z"):
        case.put({f"{name}/{key.partition('/')[2]}": data for key, data in good.old.items()})


def verification_goes_on(case: Case) -> None:
    """Nothing was proven by one that was killed; the next one takes away what it left, and proves it."""
    assert "verified.json" not in str(case.names()) and "last_verified" not in case.status()
    report = case.verify()
    assert report["ok"], report
    case.nothing_left()
    assert case.status()["last_verified"]["id"] == report["id"] and "verified.json" in str(case.names())
    case.quiet(restore_verification.text(report))


@pytest.mark.parametrize("fault", TOGETHER, ids=str)
def test_together(case: Case, good: Good, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    before, proxy = case.counting(), case.world.proxy
    if fault.how == "two":
        proxy.reset(Rule("PUT", "partNumber=3", "hold", times=1))
        with case.start("backup") as process:
            reach(case, proxy.rules[0])
            with pytest.raises(ScutumError, match=fault.says) as caught:
                case.backup()
            assert caught.value.left and caught.value.next_step and case.counting() == before
            proxy.released.set()
            told = process.communicate(timeout=60)[0]
        # The first one did not even notice.
        assert process.returncode == 0 and len(case.counting()) == len(before) + 1 and case.metric("up") == 1, told
        return
    if fault.how == "server":
        case.put(said(lambda text: text.update(server="7" * 19))(good))
    elif fault.how == "second":
        monkeypatch.setattr(backup_catalog, "new_id", lambda: newest(good.new))
    elif fault.how == "upgrade":
        proxy.reset(Rule("PUT", "configuration", "call"))
        proxy.hook = lambda: case.private("state.json", {"version": "0.2.0"})
    elif fault.how == "record":
        (case.directory / ".scutum-ops/backup-status.json").write_text('{"last_succ')
    elif fault.how == "hangs":
        case.private("backup-status.json", {"last_success": {"at": time.time() - 27 * 3600}})
    lock = {"hangs": "backup.lock", "verifications": "verification.lock"}.get(fault.how, "other.lock")
    with (case.directory / ".scutum-ops" / lock).open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        if fault.outcome == REFUSED:
            case.refuses(fault)
        elif fault.outcome == UNKNOWN:
            case.unproven(fault)
        else:
            name = case.backup()["id"]
            assert fault.outcome == BORNE and case.counting() == [name, *before] and case.metric("up") == 1
            case.whole(name)
    assert re.match(r"\d{8}T\d{6}Z$", case.counting()[0])
