"""Faults of time: clocks that jump, and the two nights in which 03:17 is skipped or doubled."""

from __future__ import annotations

import itertools
import time
import zoneinfo
from datetime import datetime, timedelta

import pytest
from ansible_collections.scutum.ops.plugins.module_utils import backup, backup_catalog, backup_retention
from faults import REFUSED, TIME, UNKNOWN, Fault
from world import Case

HELSINKI = "Europe/Helsinki"
ZONE = zoneinfo.ZoneInfo(HELSINKI)


def jump(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """The clock of this process; Postgres's stays."""
    real, name = time.time, backup_catalog.new_id
    monkeypatch.setattr(time, "time", lambda: real() + seconds)
    monkeypatch.setattr(backup_catalog, "new_id", lambda: name(real() + seconds))


@pytest.mark.parametrize("fault", [fault for fault in TIME if fault.how not in ("skipped", "doubled")], ids=str)
def test_clock(case: Case, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    before = case.counting()
    if fault.outcome == REFUSED:
        case.world.proxy.reset(*fault.how)
        case.refuses(fault)
    elif isinstance(fault.how, float):
        with monkeypatch.context() as patch:
            jump(patch, fault.how)
            case.unproven(fault)
        assert case.counting() == before
    elif fault.outcome == UNKNOWN:
        # The name is of when it began, by a clock that was three hours late; the dump is of now.
        case.forget()
        with monkeypatch.context() as patch:
            jump(patch, -3 * 3600)
            case.backup()
        case.unproven(fault)
    else:
        with monkeypatch.context() as patch:
            jump(patch, 2 * 86400)
            ahead = case.backup()["id"]
        # It would be the newest for two days: it counts for nothing, is shown, and nothing is pruned for it.
        found = backup.info(case.installation)
        assert case.counting() == before and found["ahead"] == [ahead] and found["incomplete"] == []
        name = case.backup()["id"]
        assert case.counting() == [name, *before] and backup.info(case.installation)["ahead"] == [ahead]
        plan = backup_retention.plan(
            backup_catalog.for_retention(backup_catalog.entries(case.store()), {}), 1, 1, HELSINKI
        )
        assert "did the clock jump" in plan.keep[ahead] and "the newest" in plan.keep[name]


# Debian's cron: a time that is skipped runs right after the change, one that is doubled runs once; a timer runs both.
NIGHTS = {
    "skipped": [(datetime(2027, 3, 28), [datetime(2027, 3, 28, 4, 0, tzinfo=ZONE)])],
    "doubled": [
        (datetime(2026, 10, 25), [datetime(2026, 10, 25, 3, 17, tzinfo=ZONE)]),
        (datetime(2026, 10, 25), [datetime(2026, 10, 25, 3, 17, fold=fold, tzinfo=ZONE) for fold in (0, 1)]),
    ],
}


@pytest.mark.parametrize("fault", [fault for fault in TIME if fault.how in NIGHTS], ids=str)
def test_nights(case: Case, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    for night, runs in NIGHTS[fault.how]:
        case.forget()
        moments = []
        for day in range(-20, 11):
            date = night + timedelta(days=day)
            usual = [datetime(date.year, date.month, date.day, 3, 17, tzinfo=ZONE)]
            moments += [run.timestamp() for run in (runs if not day else usual)]
        gaps = [late - early for early, late in itertools.pairwise(moments)]
        # No hour of the year is too long for the alarm of a backup that hangs, or for the verification's 36 hours.
        assert min(gaps) >= 3600 and max(gaps) <= 25 * 3600 < backup._TOO_LONG < 36 * 3600
        for moment in moments:
            name = backup_catalog.new_id(moment)
            case.put(
                {f"{name}/manifest.json": b"{}", **({f"{name}/verified.json": b"{}"} if moment == moments[-1] else {})}
            )
        assert len(case.counting_at(moments[-1] + 60)) == len(moments), "each has a name of its own"
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda end=moments[-1] + 60: end)
            patch.setattr(backup, "_zone", lambda: HELSINKI)
            removed, warnings = backup._prune(case.installation, backup.settings(case.installation), case.log.append)
        kept = [backup_catalog.moment(name) for name in case.counting_at(moments[-1] + 60)]
        days = [datetime.fromtimestamp(moment, ZONE).date() for moment in kept]
        # The newest of each of 14 days, the night's one among them once, and of every week before.
        assert warnings == [] and len(set(days)) == len(days) and max(run.timestamp() for run in runs) in kept
        assert {night.date() + timedelta(days=day) for day in range(-3, 11)} <= set(days) and removed
