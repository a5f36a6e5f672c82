# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Limits on their way into the Compose override, their record, and control groups of both versions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.scutum.ops.plugins.module_utils import cgroup, limit_plan, limits, sizing, traffic
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation
from ansible_collections.scutum.ops.plugins.module_utils.yaml_text import Replaced

GIB = 1 << 30
SERVICES = ("postgres", "redis", "litellm", "admin-api", "admin-ui", "docs-site")
RELEASE: dict[str, Any] = {
    "services": {
        "postgres": {"image": "postgres:16-alpine"},
        "redis": {
            "image": "r",
            "command": ["redis-server", "--appendonly", "yes", "--maxmemory", "${REDIS_MEMORY_LIMIT:-512mb}"],
        },
        "litellm": {
            "image": "l",
            "command": ["--num_workers", "4"],
            "deploy": {"resources": {"limits": {"memory": "2g"}}},
        },
        "admin-api": {"image": "a"},
        "sre-agent": {"image": "s"},
    }
}


def made(per_day: float = 100_000, **more: Any) -> limits.Limits:
    return limits.Limits(sizing.plan(sizing.Request(4, 16 * GIB, SERVICES, per_day=per_day, **more)))


def added(bounds: limits.Limits, extra: Any = None, command: list[str] | None = None) -> dict[str, Any]:
    found = limits.additions(RELEASE, bounds, extra or {}, command)
    for service in found.values():
        if isinstance(service.get("command"), Replaced):
            service["command"] = service["command"].value
    return found


def test_each_service_gets_its_numbers_where_compose_takes_them() -> None:
    found = added(made())
    assert found["litellm"]["deploy"]["resources"] == {
        "limits": {"memory": str(1952 << 20), "cpus": "3.6", "pids": 320}, "reservations": {"memory": str(976 << 20)}
    }  # fmt: skip
    assert "mem_limit" not in found["litellm"] and "command" not in found["litellm"]
    assert found["postgres"]["mem_limit"] == str(2 * GIB) and found["postgres"]["shm_size"] == str(256 << 20)
    assert found["postgres"]["command"][:3] == ["postgres", "-c", "effective_cache_size=1228MB"]
    assert found["redis"]["command"] == ["redis-server", "--appendonly", "yes", "--maxmemory", str(512 << 20)]
    assert "command" not in found["admin-api"]
    # A service whose profile is off is not planned; its logs are kept small all the same.
    assert set(found["sre-agent"]) == {"logging", "ulimits"}
    assert found["sre-agent"]["logging"] == {"driver": "json-file", "options": {"max-size": "10m", "max-file": "5"}}


def test_admin_api_migrates_before_its_workers_start() -> None:
    found = added(made(1_000_000), command=["uvicorn", "main:app", "--port", "8086"])["admin-api"]["command"]
    assert found == [
        "sh",
        "-c",
        'alembic upgrade head && exec "$$@"',
        "scutum",
        "uvicorn",
        "main:app",
        "--port",
        "8086",
        "--workers",
        "4",
    ]
    with pytest.raises(ScutumError, match="admin-api: the release's command cannot be told"):
        added(made(1_000_000), command=["gunicorn"])


def test_a_command_of_the_release_is_kept() -> None:
    release = {
        "services": {
            "postgres": {"command": ["postgres", "-c", "wal_level=logical"]},
            "redis": {"command": "redis-server --save '' --maxmemory ${M:-512mb} --maxmemory-policy allkeys-lru"},
        }
    }
    found = limits.additions(release, made(), {})
    assert found["postgres"]["command"].value[:5] == [
        "postgres",
        "-c",
        "wal_level=logical",
        "-c",
        "effective_cache_size=1228MB",
    ]
    assert found["redis"]["command"].value == [
        "redis-server",
        "--save",
        "",
        "--maxmemory",
        str(512 << 20),
        "--maxmemory-policy",
        "allkeys-lru",
    ]


@pytest.mark.parametrize("key", ["mem_limit", "cpus", "pids_limit", "deploy", "shm_size"])
def test_two_places_for_one_number_are_refused(key: str) -> None:
    with pytest.raises(ScutumError, match=rf"scutum_compose_override.services.redis.{key}: limits, workers"):
        added(made(), {"services": {"redis": {key: "1"}, "admin-api": None}})


@pytest.mark.parametrize(
    ("name", "command", "refused"),
    [
        ("postgres", ["postgres", "-c", "max_connections=20"], True),
        ("redis", "redis-server", True),
        ("admin-api", "uvicorn main:app --workers 4", True),
        ("admin-api", ["uvicorn", "main:app", "--workers", "1", "--log-level", "debug"], False),
        ("admin-api", ["uvicorn", "main:app"], False),
        ("litellm", ["--config", "x", "--num_workers", "4"], False),
        ("litellm", ["--config", "x", "--num_workers", "8"], True),
        ("docs-site", ["nginx"], False),
    ],
)
def test_a_command_with_other_numbers_is_refused(name: str, command: Any, refused: bool) -> None:
    extra = {"services": {name: {"command": command}}}
    if not refused:
        assert added(made(), extra)
        return
    with pytest.raises(ScutumError, match=rf"scutum_compose_override.services.{name}.command: limits, workers"):
        added(made(), extra)


def test_the_operator_s_own_log_driver_gets_none_of_our_options() -> None:
    found = added(made(), {"services": {"redis": {"logging": {"driver": "syslog"}, "ulimits": {"nofile": 5}}}})
    assert "logging" not in found["redis"] and "ulimits" not in found["redis"] and "logging" in found["postgres"]
    quiet = replace(made(), log_driver="", open_files=0)
    assert not {"logging", "ulimits"} & set(added(quiet)["redis"])
    assert added(replace(made(), log_driver="journald"))["redis"]["logging"] == {"driver": "journald"}


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"log_driver": "syslog"}, "scutum_limits_log_driver: 'syslog' is none of"),
        ({"log_size": "lots"}, "scutum_limits_log_max_size: 'lots' is no size"),
        ({"log_size": 0}, "scutum_limits_log_max_size"),
        ({"log_files": 0}, "scutum_limits_log_max_files: 0 is not a whole number of at least 1"),
        ({"open_files": 10}, "scutum_limits_open_files: 10 is not between"),
    ],
)
def test_settings_that_the_engine_would_refuse(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(ScutumError, match=says):
        limits.check_settings(replace(made(), **changed))


def test_the_record_goes_back_once(tmp_path: Path) -> None:
    place = Installation(str(tmp_path))
    assert limits.load(place) == limits.Record() and not limits.save(place, limits.Record())
    (tmp_path / ".scutum-ops").mkdir()
    record = limits.Record(made(), made(10_000), True)
    assert limits.save(place, record) and not limits.save(place, record) and limits.load(place) == record
    # What the record makes of it gives the same file: else the next run would recreate services.
    assert (again := limits.load(place).current) and json.dumps(added(again)) == json.dumps(added(made()))
    assert limits.save(place, limits.Record()) and limits.load(place) == limits.Record()


def test_a_diff_shows_old_and_new_numbers() -> None:
    before, after = limits.changes(made(10_000), made(100_000))
    assert "postgres: memory 512m" in before and "postgres: memory 2g" in after
    assert "redis maxmemory: 64m" in before and "postgres shared_buffers: 512MB" in after
    assert limits.changes(None, None) == ("", "")


def test_services_by_profile(tmp_path: Path) -> None:
    place = Installation(str(tmp_path))
    assert limits.services(place, []) == tuple(sorted(SERVICES))
    assert set(limits.services(place, ["finops"])) - set(SERVICES) == {"budget-webhook", "cost-predictor"}
    assert len(limits.services(place, ["full"])) == 12


def test_measured_traffic_that_is_near_keeps_the_plan() -> None:
    asked = sizing.Request(4, 16 * GIB, SERVICES)
    held = made(100_000, peak=10.0, audit_per_day=100.0, cached_prompts=1000)
    measured = {"per_day": 110_000.0, "peak": 12.0, "audit_per_day": 90.0, "cached_prompts": 1200}
    kept = limit_plan._with(asked, measured, held)
    assert (kept.per_day, kept.peak, kept.audit_per_day, kept.cached_prompts) == (100_000, 10.0, 100.0, 1000)
    assert sizing.plan(kept) == held.plan
    assert limit_plan._with(asked, {**measured, "per_day": 200_000.0}, held).per_day == 200_000
    assert traffic.near(None, 5) and not traffic.near(5, 1)
    # A cache that is empty but for a few keys is the same cache.
    assert (
        limit_plan._with(asked, {**measured, "cached_prompts": 3}, made(100_000, cached_prompts=0)).cached_prompts == 0
    )


def group_files(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")


def test_version_1_of_control_groups(tmp_path: Path) -> None:
    group_files(
        tmp_path,
        {
            "proc/7/cgroup": "13:pids:/docker/x\n9:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n0::/",
            "sys/memory/docker/x/memory.limit_in_bytes": str(2 * GIB),
            "sys/memory/docker/x/memory.usage_in_bytes": "1000",
            "sys/memory/docker/x/memory.stat": "cache 1\ntotal_inactive_file 400",
            "sys/memory/docker/x/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3",
            "sys/cpu/docker/x/cpu.cfs_quota_us": "180000",
            "sys/cpu/docker/x/cpu.cfs_period_us": "100000",
            "sys/cpuacct/docker/x/cpuacct.usage": "2500000000",
            "sys/pids/docker/x/pids.max": "192",
        },
    )
    found = cgroup.of(7, str(tmp_path / "sys"), str(tmp_path / "proc"))
    assert found == cgroup.Group(2 * GIB, 1.8, 192, 600, 3, 2.5)
    group_files(
        tmp_path,
        {
            "sys/memory/docker/x/memory.limit_in_bytes": "9223372036854771712",
            "sys/cpu/docker/x/cpu.cfs_quota_us": "-1",
            "sys/pids/docker/x/pids.max": "max",
        },
    )
    free = cgroup.of(7, str(tmp_path / "sys"), str(tmp_path / "proc"))
    assert (free.memory, free.cpus, free.pids) == (0, 0, 0)


def test_version_2_of_control_groups(tmp_path: Path) -> None:
    place = "sys/system.slice/docker-x.scope"
    group_files(
        tmp_path,
        {
            "proc/7/cgroup": "0::/system.slice/docker-x.scope",
            f"{place}/memory.max": str(GIB),
            f"{place}/memory.current": "1000",
            f"{place}/memory.stat": "anon 1\ninactive_file 400",
            f"{place}/memory.events": "low 0\noom 4\noom_kill 2",
            f"{place}/cpu.max": "50000 100000",
            f"{place}/cpu.stat": "usage_usec 1500000\nuser_usec 1",
            f"{place}/pids.max": "128",
        },
    )
    assert cgroup.of(7, str(tmp_path / "sys"), str(tmp_path / "proc")) == cgroup.Group(GIB, 0.5, 128, 600, 2, 1.5)
    group_files(tmp_path, {f"{place}/memory.max": "max", f"{place}/cpu.max": "max 100000", f"{place}/pids.max": "max"})
    free = cgroup.of(7, str(tmp_path / "sys"), str(tmp_path / "proc"))
    assert (free.memory, free.cpus, free.pids) == (0, 0, 0)
    with pytest.raises(ScutumError, match="it does not run"):
        cgroup.of(8, str(tmp_path / "sys"), str(tmp_path / "proc"))
