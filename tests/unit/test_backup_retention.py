# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which backups stay: cases by hand, and what has to be true for any set of backups."""

from __future__ import annotations

import dataclasses
import datetime
import random
import zoneinfo

import pytest
from ansible_collections.scutum.ops.plugins.module_utils.backup_retention import Backup, Plan, plan
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from hypothesis import given
from hypothesis import strategies as st

DAY = 86400.0
# A Monday, 03:17 UTC.
MONDAY = datetime.datetime(2026, 3, 2, 3, 17, tzinfo=datetime.UTC).timestamp()
NOW = MONDAY + 1000 * DAY
HELSINKI = "Europe/Helsinki"


def _each(*days: float, verified: tuple[float, ...] = (), locked: tuple[float, ...] = ()) -> list[Backup]:
    """Backups of days since MONDAY, named by them."""
    return [Backup(f"{day:g}", MONDAY + day * DAY, day in verified, "until 2030" * (day in locked)) for day in days]


def _helsinki(text: str, fold: int = 0) -> float:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=zoneinfo.ZoneInfo(HELSINKI), fold=fold).timestamp()


@pytest.mark.parametrize(
    ("backups", "daily", "weekly", "removed"),
    [
        pytest.param([], 14, None, "", id="none"),
        pytest.param(_each(0), 14, None, "", id="one"),
        pytest.param(
            _each(*range(21), verified=(20,)), 14, None, "0 1 2 3 4 5", id="14 days, the Sunday of the week before"
        ),
        pytest.param(_each(*range(21), verified=(20,)), 14, 1, "0 1 2 3 4 5 6", id="one week"),
        pytest.param(
            _each(*range(21), verified=(20,)), 1, 2, " ".join(map(str, [*range(13), *range(14, 20)])), id="2 weeks"
        ),
        pytest.param(_each(*range(21)), 14, None, "", id="none verified"),
        pytest.param(
            _each(*range(21), verified=(3,)), 14, None, "0 1 2", id="verified long ago: what came after stays"
        ),
        pytest.param(_each(*range(21), verified=(0,)), 14, None, "", id="only the oldest is verified"),
        pytest.param(_each(0, 1, 2, 2.1, 2.2, verified=(2.2,)), 3, None, "2 2.1", id="several on a day"),
        pytest.param(
            _each(0, 1, 2, 2.1, 2.2, verified=(2.1,)), 1, None, "0 1 2", id="the verified is not the newest of its day"
        ),
        pytest.param(_each(0, 100, 200, 300, verified=(300,)), 3, 1, "0", id="gaps: days with a backup count"),
        pytest.param(_each(0, 1, 2, 3, verified=(3,), locked=(1,)), 1, 1, "0 2", id="locked"),
        pytest.param(_each(0, 1, 2, 2000, verified=(2000,)), 1, 1, "", id="only one from the future is verified"),
        pytest.param(_each(0, 1, 2, 2000, verified=(2,)), 2, 1, "0", id="one from the future fills no day"),
    ],
)
def test_what_goes(backups: list[Backup], daily: int, weekly: int | None, removed: str) -> None:
    decided = plan(backups, daily, weekly, now=NOW)
    assert decided.remove == removed.split()
    assert decided.keep.keys() == {one.name for one in backups} - set(decided.remove)


def test_the_words() -> None:
    backups = _each(0, 1, 2, 3, 4, 2000, verified=(1, 2), locked=(0,))
    assert plan(backups, 1, 1, now=NOW) == Plan(
        keep={
            "2000": "its date is not in the past (did the clock jump?)",
            "4": "the newest; the newest of day 2026-03-06; the newest of week 2026-W10",
            "3": "no newer backup was verified",
            "2": "the newest verified",
            "0": "locked in the store (Object Lock) until 2030",
        },
        remove=["1"],
    )


def test_the_default_is_the_whitepapers() -> None:
    decided = plan(_each(*range(100), verified=(99,)), now=NOW)
    assert len([why for why in decided.keep.values() if "of day" in why]) == 14
    assert len([why for why in decided.keep.values() if "of week" in why]) == 15
    assert plan(_each(*range(3)), now=NOW) == plan(_each(*range(3)), 14, None, "UTC", NOW)
    assert not plan(_each(0)).remove, "now is the clock's when it is not given"


@pytest.mark.parametrize("seconds", [{"a": True, "b": False, "c": False}, {"a": False, "b": False, "c": True}])
def test_of_one_second_the_verified_one_counts(seconds: dict[str, bool]) -> None:
    backups = [Backup(name, MONDAY, verified) for name, verified in seconds.items()]
    good = next(name for name, verified in seconds.items() if verified)
    decided = plan(backups, 1, 1, now=NOW)
    assert decided.keep[good].startswith("the newest; the newest verified; the newest of day")
    assert not decided.remove, "one of the same second is not newer"
    later = plan([*backups, Backup("z", MONDAY + DAY, True)], 1, 1, now=NOW)
    assert later.remove == sorted(seconds, key=lambda name: (seconds[name], name))


def test_a_short_and_a_long_day_are_one_day_each() -> None:
    # 29 March 2026 has 23 hours: 03:17 is skipped, the job runs at 04:00. 25 October has 25: 03:17 happens twice.
    short = ["2026-03-28T03:17", "2026-03-29T00:00", "2026-03-29T04:00", "2026-03-29T23:59", "2026-03-30T00:00"]
    backups = [Backup(text, _helsinki(text), False) for text in short]
    decided = plan([*backups, Backup("last", NOW, True)], 4, 1, HELSINKI, NOW)
    assert decided.remove == ["2026-03-29T00:00", "2026-03-29T04:00"]
    assert _helsinki("2026-03-30T00:00") - _helsinki("2026-03-29T00:00") == 23 * 3600

    long = [
        Backup("before", _helsinki("2026-10-24T23:59"), False),
        Backup("midnight", _helsinki("2026-10-25T00:00"), False),
        Backup("first", _helsinki("2026-10-25T03:17"), False),
        Backup("second", _helsinki("2026-10-25T03:17", fold=1), False),
        Backup("evening", _helsinki("2026-10-25T23:59"), False),
        Backup("after", _helsinki("2026-10-26T00:00"), False),
    ]
    assert long[3].taken - long[2].taken == 3600 and long[5].taken - long[1].taken == 25 * 3600
    decided = plan([*long, Backup("last", NOW, True)], 4, 1, HELSINKI, NOW)
    assert decided.remove == ["midnight", "first", "second"]
    assert "2026-10-25" in plan(long, now=NOW, timezone=HELSINKI).keep["evening"]


def test_days_and_weeks_begin_at_local_midnight() -> None:
    # 22:30 UTC on a Sunday is Monday in Helsinki.
    sunday = datetime.datetime(2026, 1, 4, 21, 30, tzinfo=datetime.UTC).timestamp()
    backups = [Backup("a", sunday, True), Backup("b", sunday + 3600, True)]
    assert plan(backups, 1, now=NOW).remove == ["a"]
    decided = plan(backups, 1, timezone=HELSINKI, now=NOW)
    assert not decided.remove and "2026-W01" in decided.keep["a"] and "2026-W02" in decided.keep["b"]


def test_the_last_days_of_a_year_belong_to_the_next_years_first_week() -> None:
    new_year = datetime.datetime(2025, 12, 29, 3, 17, tzinfo=datetime.UTC).timestamp()
    backups = [Backup(str(day), new_year + day * DAY, True) for day in range(7)]
    decided = plan(backups, 1, now=NOW)
    assert list(decided.keep) == ["6"] and "2026-W01" in decided.keep["6"]


@pytest.mark.parametrize("number", [0, -1, 1.5, "14", True, float("nan")])
def test_a_number_that_would_remove_too_much_is_refused(number: int) -> None:
    with pytest.raises(ScutumError, match="scutum_backup_keep_daily"):
        plan([], daily=number)
    with pytest.raises(ScutumError, match="scutum_backup_keep_weekly"):
        plan([], weekly=number)
    with pytest.raises(ScutumError, match="scutum_backup_keep_daily"):
        plan([], daily=None)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["Europe/Nowhere", "Europe", "", "../etc/passwd", "/etc/localtime"])
def test_an_unknown_zone_is_refused(name: str) -> None:
    with pytest.raises(ScutumError, match="tz database"):
        plan(_each(0), timezone=name)


def test_without_a_tz_database_utc_still_works(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(key: str) -> None:
        raise zoneinfo.ZoneInfoNotFoundError(key)

    monkeypatch.setattr(zoneinfo, "ZoneInfo", missing)
    assert plan(_each(0), now=NOW).keep
    with pytest.raises(ScutumError, match="tzdata"):
        plan(_each(0), timezone=HELSINKI, now=NOW)


def test_one_name_twice_is_refused_and_one_backup_listed_twice_is_not() -> None:
    with pytest.raises(ScutumError, match="name 0"):
        plan([*_each(0), *_each(0, verified=(0,))], now=NOW)
    assert plan([*_each(0), *_each(0)], now=NOW) == plan(_each(0), now=NOW)


@pytest.mark.parametrize("taken", [float("nan"), float("inf"), float("-inf"), -1.0, 1e300])
def test_a_moment_that_is_none_keeps_a_backup(taken: float) -> None:
    odd = Backup("odd", taken, True)
    for backups in ([odd, *_each(0, 1)], [*_each(0, 1), odd]):
        decided = plan(backups, 1, 1, now=NOW)
        assert "clock" in decided.keep["odd"] and not decided.remove


# Whole minutes over 60 days around a change of the clocks, so that days, weeks and seconds are shared; few from after "now".
START = _helsinki("2026-03-01T00:00")
LATEST = START + 60 * DAY
_MOMENTS = st.one_of(
    st.integers(0, 62 * 1440).map(lambda minute: START + minute * 60.0),
    st.integers(0, 61).map(lambda day: START + day * DAY + 3 * 3600 + 17 * 60),
)
_SETS = st.lists(
    st.tuples(_MOMENTS, st.sampled_from([False, False, False, True]), st.sampled_from([""] * 5 + ["until 2030"])),
    max_size=40,
).map(lambda rows: [Backup(f"b{n}", *row) for n, row in enumerate(rows)])
_DAILY = st.integers(1, 20)
_WEEKLY = st.none() | st.integers(1, 10)
_ZONES = st.sampled_from(["UTC", HELSINKI])


@given(_SETS, _DAILY, _WEEKLY, _ZONES)
def test_the_rules_hold_for_any_set(backups: list[Backup], daily: int, weekly: int | None, zone: str) -> None:
    decided = plan(backups, daily, weekly, zone, LATEST)
    by_name = {one.name: one for one in backups}
    assert sorted([*decided.keep, *decided.remove]) == sorted(by_name), "each stays or goes"
    assert all(decided.keep.values()), "with a reason"
    gone = [by_name[name] for name in decided.remove]
    assert gone == sorted(gone, key=lambda one: (one.taken, one.verified, one.name)), "the oldest first"
    past = [one for one in backups if one.taken <= LATEST]
    good = max((one.taken for one in past if one.verified), default=None)
    for one in gone:
        assert not one.locked and one.taken <= LATEST
        assert good is not None and one.taken < good, "a newer verified one exists"
        day = _day(one, zone)
        better = [
            other for other in past if (other.taken, other.verified, other.name) > (one.taken, one.verified, one.name)
        ]
        assert (
            any(_day(other, zone) == day for other in better) or len({_day(other, zone) for other in better}) >= daily
        )
        week = day.isocalendar()[:2]
        newer = {_day(other, zone).isocalendar()[:2] for other in better}
        assert week in newer or (weekly is not None and len(newer) >= weekly), "weeks stay for ever"
    kept = [by_name[name] for name in decided.keep if by_name[name].taken <= LATEST]
    assert not past or max(one.taken for one in kept) == max(one.taken for one in past), "the newest stays"
    assert good is None or any(one.verified and one.taken == good for one in kept), "the newest verified stays"
    for number, days in ((daily, 1), (weekly, 7)):
        # An ISO week is the Monday's: days counted from one.
        held = [{(_day(one, zone) - datetime.date(2026, 2, 2)).days // days for one in each} for each in (past, kept)]
        assert set(sorted(held[0], reverse=True)[:number]) <= held[1], "so many have a backup afterwards"


def _day(one: Backup, zone: str) -> datetime.date:
    return datetime.datetime.fromtimestamp(one.taken, zoneinfo.ZoneInfo(zone)).date()


@given(_SETS, _DAILY, _WEEKLY, _ZONES, st.randoms(use_true_random=False))
def test_a_run_that_is_killed_and_repeated_ends_where_one_run_ends(
    backups: list[Backup], daily: int, weekly: int | None, zone: str, chance: random.Random
) -> None:
    decided = plan(backups, daily, weekly, zone, LATEST)
    gone = {name for name in decided.remove if chance.random() < 0.5}
    again = plan([one for one in backups if one.name not in gone], daily, weekly, zone, LATEST)
    assert again == Plan(decided.keep, [name for name in decided.remove if name not in gone])
    kept = [one for one in backups if one.name in decided.keep]
    assert plan(kept, daily, weekly, zone, LATEST) == Plan(decided.keep, []), "of what it keeps it removes nothing"


@given(_SETS, _DAILY, _WEEKLY, _DAILY, st.integers(0, 10), _ZONES)
def test_keeping_more_removes_no_more(
    backups: list[Backup], daily: int, weekly: int | None, more: int, weeks: int, zone: str
) -> None:
    removed = set(plan(backups, daily, weekly, zone, LATEST).remove)
    assert set(plan(backups, daily + more, weekly, zone, LATEST).remove) <= removed
    assert set(plan(backups, daily, weekly + weeks if weekly else None, zone, LATEST).remove) <= removed
    assert set(plan(backups, daily, None, zone, LATEST).remove) <= removed


@given(_SETS, _DAILY, _WEEKLY, st.randoms(use_true_random=False))
def test_the_order_of_the_listing_does_not_matter(
    backups: list[Backup], daily: int, weekly: int | None, chance: random.Random
) -> None:
    mixed = list(backups)
    chance.shuffle(mixed)
    one, other = (plan(each, daily, weekly, HELSINKI, LATEST) for each in (backups, mixed))
    assert one == other and list(one.keep) == list(other.keep)


@given(_SETS, _DAILY, _WEEKLY, st.integers(1, 5000))
def test_time_that_passes_without_backups_removes_nothing(
    backups: list[Backup], daily: int, weekly: int | None, days: int
) -> None:
    past = [one for one in backups if one.taken <= LATEST]
    assert plan(past, daily, weekly, HELSINKI, LATEST + days * DAY) == plan(past, daily, weekly, HELSINKI, LATEST)


@given(_SETS, _DAILY, _WEEKLY, st.integers(0, 60), st.integers(1, 200))
def test_a_gap_removes_no_more(backups: list[Backup], daily: int, weekly: int | None, day: int, weeks: int) -> None:
    """Older ones further back: between two days with weeks kept for ever, between two weeks with any number."""
    past = [one for one in backups if one.taken <= LATEST]
    monday = datetime.datetime(2026, 3, 2, tzinfo=datetime.UTC).timestamp()
    for number, cut in ((None, monday + day * DAY), (weekly, monday + day // 7 * 7 * DAY)):
        moved = [
            dataclasses.replace(one, taken=one.taken - weeks * 7 * DAY) if one.taken < cut else one for one in past
        ]
        before, after = (plan(each, daily, number, "UTC", LATEST).remove for each in (past, moved))
        assert set(after) <= set(before)
        assert number is None or after == before


@given(_SETS, _DAILY, _WEEKLY, st.integers(0, 2000))
def test_bad_dumps_push_out_nothing_that_a_good_one_does_not(
    backups: list[Backup], daily: int, weekly: int | None, days: int
) -> None:
    """However many unverified backups come after the last verified one, it stays, and so does all that is as new."""
    good = max((one.taken for one in backups if one.verified), default=0.0)
    bad = [Backup(f"bad{n}", LATEST + 10 * DAY + n * DAY, False) for n in range(days % 50)]
    removed = set(plan([*backups, *bad], daily, weekly, HELSINKI, LATEST + 100 * DAY).remove)
    assert not removed & {one.name for one in [*backups, *bad] if one.taken >= good}
