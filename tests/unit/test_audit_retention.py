"""Which months may leave Postgres, what the settings refuse, what is said about it: rules, without a database."""

from __future__ import annotations

import calendar
import re
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.scutum.ops.plugins.module_utils import (
    audit_arrange,
    audit_job,
    audit_proof,
    audit_report,
    audit_settings,
    audit_tables,
    licence,
    metrics,
    restore_record,
)
from ansible_collections.scutum.ops.plugins.module_utils import audit_retention as rules
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation
from hypothesis import given
from hypothesis import strategies as st

DAY = 86400.0
# From 2001 to 2100.
MOMENTS = st.floats(978307200, 4102444800)
MONTHS = st.integers(0, 1300).map(lambda number: audit_tables.shift("1995-01", number))
DAYS = st.integers(1, 4000)


@given(MONTHS, DAYS, MOMENTS)
def test_a_month_leaves_when_its_last_day_is_older(month: str, days: int, now: float) -> None:
    leaves = rules.due(month, days, now)
    assert leaves == (audit_tables.begin(audit_tables.shift(month, 1)) <= now - days * DAY)
    # Never the month that is now, nor one to come, nor a month of which any row is younger.
    assert not (leaves and month >= audit_tables.month_of(now))
    assert not (leaves and audit_tables.month_of(now - days * DAY) <= month)


@given(MONTHS, DAYS, DAYS, MOMENTS, st.floats(0, 1e8))
def test_what_left_stays_gone(month: str, days: int, more: int, now: float, later: float) -> None:
    """Time makes months leave, and more days keep them."""
    if rules.due(month, days, now):
        assert rules.due(month, days, now + later) and rules.due(audit_tables.shift(month, -1), days, now)
    else:
        assert not rules.due(month, days + more, now)
    assert not rules.due(month, None, now)


@given(MONTHS, st.one_of(st.none(), DAYS), MOMENTS, st.floats(0, 4e9), st.floats(0, 4e9), st.booleans())
def test_nothing_is_dropped_that_no_backup_has(
    month: str, days: int | None, now: float, newest: float, taken: float, needed: bool
) -> None:
    decision = rules.decide(month, newest, days, rules.Backup(taken, needed=needed), now)
    assert decision.what in (rules.STAYS, rules.WAITS, rules.DROP)
    if decision.what == rules.DROP:
        assert rules.due(month, days, now) and (not needed or not newest or taken > newest)
    else:
        assert decision.reason
    assert (decision.what == rules.STAYS) == (not rules.due(month, days, now))
    unknown = rules.decide(month, newest, days, rules.Backup(problem="the store is down"), now)
    assert unknown.what != rules.DROP or newest == 0


@given(st.one_of(st.none(), DAYS), st.one_of(st.none(), DAYS), st.one_of(st.none(), DAYS), st.one_of(st.none(), DAYS))
def test_fewer_days_than_before_have_to_be_confirmed(
    wanted: int | None, by_licence: int | None, before: int | None, confirmed: int | None
) -> None:
    found = rules.hot("audit_logs", wanted, None, by_licence, "business", before, confirmed)
    asked = wanted if wanted is not None else by_licence
    if asked is None:
        assert found.days is None and found.warnings
    elif before is None or asked >= before or confirmed == asked:
        assert found.days == asked and not found.warnings
    else:
        assert found.days == before and "scutum_audit_confirm_fewer_days" in found.warnings[0]


def test_where_the_days_come_from() -> None:
    def hot(table: str, wanted: int | None, usual: int | None, by_licence: int | None) -> rules.Hot:
        return rules.hot(table, wanted, usual, by_licence, "the licence has expired", None, None)

    assert hot("audit_logs", None, None, 365).days == 365
    assert hot("audit_logs", 400, None, 365).source == "scutum_audit_hot_days"
    # A table with a number of its own asks no licence.
    assert hot("request_logs", None, 90, None).days == 90
    assert hot("request_logs", 7, 90, None).source == "scutum_audit_tables.request_logs.hot_days"
    unknown = hot("audit_logs", None, None, None)
    assert unknown.days is None and "the licence has expired" in unknown.warnings[0]


@pytest.mark.parametrize(
    ("month", "days", "now", "leaves"),
    [
        # A leap year, the end of a year, and the very moment.
        ("2024-02", 30, "2024-03-30T23:59:59", False),
        ("2024-02", 30, "2024-03-31T00:00:00", True),
        ("2023-02", 30, "2023-03-30T23:59:59", False),
        ("2025-12", 365, "2026-12-31T23:59:59", False),
        ("2025-12", 365, "2027-01-01T00:00:00", True),
        ("2024-12", 2555, "2031-12-30T23:59:59", False),
        ("2024-12", 2555, "2031-12-31T00:00:00", True),
    ],
)
def test_moments(month: str, days: int, now: str, leaves: bool) -> None:
    moment = float(calendar.timegm(time.strptime(now, "%Y-%m-%dT%H:%M:%S")))
    assert rules.due(month, days, moment) is leaves


def test_lag_is_that_of_the_oldest_month_that_should_be_there() -> None:
    now = audit_tables.begin("2026-05") + 3 * DAY
    assert rules.lag_days(["2026-03", "2026-02"], 30, now) == pytest.approx(63 - 30 + 1, abs=0.01)
    assert (
        rules.lag_days(["2026-03"], 60, now)
        == rules.lag_days([], 30, now)
        == rules.lag_days(["2026-01"], None, now)
        == 0
    )


# --- settings


def test_settings_as_a_survey_gives_them() -> None:
    found = audit_settings.from_words(
        {"tables": {"audit_logs": None, "request_logs": {"hot_days": "30"}}, "hot_days": 0, "store": {}}
    )
    assert found.tables == {"audit_logs": {}, "request_logs": {"hot_days": 30}} and found.hot_days is None
    assert audit_settings.from_words(vars(found)) == found


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            {"tables": {"licenses": {}}},
            "scutum_audit_tables: licenses is no table that grows; those are audit_logs, request_logs",
        ),
        (
            {"tables": {"audit_logs": {"days": 3}}},
            "scutum_audit_tables.audit_logs: only hot_days may stand there, not days",
        ),
        ({"tables": {"audit_logs": {"hot_days": "x"}}}, "scutum_audit_tables.audit_logs.hot_days is 'x'"),
        ({"tables": {}}, "scutum_audit_tables names no table"),
        ({"hot_days": -1}, "scutum_audit_hot_days is -1: at least 1"),
        ({"partitions_ahead": 0}, "scutum_audit_partitions_ahead is 0"),
        ({"partitions_ahead": 99}, "at most 24 months"),
        ({"litellm_days": -1}, "scutum_audit_litellm_days is -1"),
        ({"timeout": 3}, "scutum_audit_timeout is 3: at least 300"),
        ({"store": {"bukket": "x"}}, "scutum_audit_store.bukket is none of"),
        (
            {"store": {"bucket": "x", "lock_mode": "compliance"}},
            "scutum_audit_store.lock_mode and scutum_audit_store.lock_days go together",
        ),
        ({"spool": "there"}, "scutum_audit_spool is no absolute path"),
        ({"spool": "/nowhere"}, "scutum_audit_spool: /nowhere is no directory"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_settings_that_cannot_work(words: dict[str, Any], says: str) -> None:
    with pytest.raises(ScutumError, match=re.escape(says)) as caught:
        audit_settings.from_words(words)
    assert caught.value.left == "nothing was changed" and "docs/roles/audit_retention.md" in caught.value.next_step


@pytest.mark.parametrize(
    ("status", "days", "says"),
    [
        ({"audit_retention_days": 365, "tier": "business"}, 365, "business"),
        ({"endpoint_error": "no answer"}, None, "admin-api does not say which licence is in force: no answer"),
        ({"table_error": "gone"}, None, "the table of licences cannot be read: gone"),
        ({"consistent": False}, None, "do not agree: scutum-ops license"),
        ({"expired": True, "present": True}, None, "the licence has expired"),
        ({"present": False}, None, "there is no licence"),
        ({"present": True, "tier": "odd"}, None, "the licence (odd) does not say it"),
    ],
)
def test_what_a_licence_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, status: dict[str, Any], days: int | None, says: str
) -> None:
    whole = {
        "audit_retention_days": None, "tier": None, "endpoint_error": "", "table_error": "", "consistent": True, "expired": False,
        "present": False, **status,
    }  # fmt: skip
    monkeypatch.setattr(licence, "status", lambda installation: whole)
    hot = audit_settings.hot(Installation(str(tmp_path)), audit_settings.Settings(), {})
    assert hot["audit_logs"].days == days and says in hot["audit_logs"].source


def test_the_archives_credential_is_its_own_or_that_of_the_backups(tmp_path: Any) -> None:
    (tmp_path / "config").mkdir()
    wanted = audit_settings.Settings(store={"bucket": "b", "endpoint_url": "http://127.0.0.1:9"})
    backup_keys = "SCUTUM_BACKUP_ACCESS_KEY_ID=AKIABACKUP\nSCUTUM_BACKUP_SECRET_ACCESS_KEY=x\n"
    for text, key in (
        (backup_keys, "AKIABACKUP"),
        (backup_keys + "SCUTUM_AUDIT_ACCESS_KEY_ID=AKIAAUDIT\nSCUTUM_AUDIT_SECRET_ACCESS_KEY=y\n", "AKIAAUDIT"),
    ):
        (tmp_path / "config/.env").write_text(text)
        place: Any = audit_settings.store(Installation(str(tmp_path)), wanted)
        assert place._credential["access_key_id"] == key
    assert audit_settings.store(Installation(str(tmp_path)), audit_settings.Settings()) is None


# --- what is said


def measured(**more: Any) -> dict[str, Any]:
    table = {
        "exists": True, "partitioned": True, "open": "", "rows": 1000, "bytes": 3 << 20, "default_rows": 0, "oldest": 1.0, "ahead": 3,
        "hot_days": 30, "source": "the licence (trial)", "warnings": [], "lag_days": 0.0, "months_archived": 1, "archived_rows": 7,
        "months": [
            {"month": "2026-01", "rows": 0, "bytes": 0, "state": "archived", "archived_rows": 7},
            {"month": "2026-02", "rows": 9, "bytes": 5, "state": "hot", "archived_rows": 0},
        ],
        **more,
    }  # fmt: skip
    return {"tables": {"audit_logs": table}, "database_bytes": 1 << 30, "disk_ratio": 0.5, "where": "bucket b", "at": 0}


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"exists": False}, "public.audit_logs does not exist: did LiteLLM's schema push drop it?"),
        ({"partitioned": False}, "audit_logs is one plain table: playbooks/audit_retention.yml"),
        ({"open": "convert"}, "audit_logs: convert was interrupted"),
        ({"ahead": 1}, "audit_logs has partitions for 1 months ahead, not 3"),
        ({"default_rows": 5}, "audit_logs: 5 rows in the default partition"),
        ({"lag_days": 3.5}, "the archive is 3.5 days late"),
        ({"warnings": ["fewer days"]}, "fewer days"),
        (
            {"months": [{"month": "2026-01", "rows": 1, "bytes": 1, "state": "detached", "archived_rows": 1}]},
            "2026-01 is detached",
        ),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_wrong_is_said_with_what_to_do(more: dict[str, Any], says: str) -> None:
    assert audit_report.problems(measured(), 3) == []
    [line] = audit_report.problems(measured(**more), 3)
    assert says in line


def test_a_full_disk_a_dead_archive_and_a_failed_run_are_wrong() -> None:
    found = {
        **measured(),
        "disk_ratio": 0.7,
        "archive_error": "no answer",
        "last_failure": {"at": 2, "error": "it broke"},
    }
    found["last_success"] = {"at": 1}
    wrong = audit_report.problems(found, 3)
    assert len(wrong) == 3 and "takes 70% of its disk" in wrong[1] and wrong[2] == "the last run failed: it broke"
    text = audit_report.text({**found, "problems": wrong})
    assert text[0].startswith(
        "audit_logs: 1000 rows, 3.0 MiB in Postgres, kept there 30 days (the licence (trial)); 3 months ahead"
    )
    assert any("2026-01  archived" in line and "7 archived" in line for line in text)
    assert [line for line in text if line.startswith("WRONG ")] == [f"WRONG {line}" for line in wrong]


def test_a_page_has_a_bar_for_each_month_and_no_markup_of_others(tmp_path: Any) -> None:
    found = {**measured(warnings=["<b>odd</b>"]), "last_success": {"at": 1}}
    found["problems"] = audit_report.problems(found, 3)
    page = audit_report.page(Installation(str(tmp_path)), found)
    assert "&lt;b&gt;odd" in page and "<b>odd" not in page
    # The month with the most rows has the longest one.
    assert "width:300px" in page and "width:233px" in page


def test_metrics_have_a_series_for_each_table(tmp_path: Any) -> None:
    both = measured()
    both["tables"]["request_logs"] = {**both["tables"]["audit_logs"], "hot_days": None, "lag_days": 1.5}
    held = {"measured": both, "last_success": {"at": 10}, "last_failure": {"at": 3}}
    text = Path(metrics.write(str(tmp_path), audit_report.METRICS, audit_report.gauges(held))).read_text()
    assert text.count("# TYPE scutum_audit_retention_days gauge") == 1
    for line in (
        'scutum_audit_retention_days{table="audit_logs"} 30',
        'scutum_audit_retention_days{table="request_logs"} 0',
        'scutum_audit_archive_lag_days{table="request_logs"} 1.5',
        "scutum_audit_database_disk_ratio 0.5",
        "scutum_audit_up 1",
    ):
        assert f"\n{line}\n" in text, text
    # Before the first run there is nothing to say of tables.
    assert "hot_rows" not in Path(metrics.write(str(tmp_path), "empty", audit_report.gauges({}))).read_text()


@given(st.lists(st.binary(max_size=30)), st.integers(1, 7))
def test_lines_are_the_same_however_they_are_cut_and_ordered(lines: list[bytes], size: int) -> None:
    def summed(parts: list[bytes]) -> audit_proof._Lines:
        data = b"".join(part.replace(b"\n", b"") + b"\n" for part in parts)
        found = audit_proof._Lines()
        found.add(data[at : at + size] for at in range(0, len(data), size))
        return found

    whole = summed(lines)
    assert (
        whole.sum == summed(lines[::-1]).sum == (summed(lines[:2]).sum + summed(lines[2:]).sum) % audit_proof._MODULUS
    )
    assert whole.sum != summed([*lines, b"one more"]).sum


def test_a_plain_table_again_needs_this_hosts_name(tmp_path: Any) -> None:
    with pytest.raises(ScutumError, match="'other', and this host is") as caught:
        audit_arrange.undo(Installation(str(tmp_path)), audit_settings.Settings(), "other", print)
    assert caught.value.next_step.endswith(f"--undo {restore_record.host_name()}")
    with pytest.raises(ScutumError, match="has no settings for its audit history"):
        audit_job.settings(Installation(str(tmp_path)))
