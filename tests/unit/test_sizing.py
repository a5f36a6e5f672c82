# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Sizing: a table of hosts and traffic, what always has to hold, and what is refused."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from ansible.errors import AnsibleFilterError
from ansible_collections.scutum.ops.plugins.filter import sizing as filters
from ansible_collections.scutum.ops.plugins.module_utils import limit_plan, sizing
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from ansible_collections.scutum.ops.plugins.module_utils.sizing import GIB, MIB, DoesNotFit, Request, plan
from hypothesis import given
from hypothesis import strategies as st

SERVICES = filters.SERVICES
EVERYTHING = (*SERVICES, "sre-agent", "cost-predictor", "budget-webhook", "prometheus", "grafana", "jaeger")


def host(cores: float, gib: float, **more: Any) -> Request:
    return Request(cores, int(gib * GIB), more.pop("services", SERVICES), **more)


# Cores, GiB, requests a day: MiB of Postgres, Redis, LiteLLM and all together; LiteLLM's and admin-api's workers; connections.
FITS = [
    (1, 2, 1_000, (512, 128, 640, 1600), (1, 1), 100),
    (1, 2, 10_000, (512, 128, 640, 1600), (1, 1), 100),
    (4, 24, 1_000, (512, 128, 1952, 2912), (4, 1), 100),
    (4, 24, 100_000, (2048, 800, 1952, 5120), (4, 1), 100),
    (4, 24, 1_000_000, (8192, 800, 1952, 11744), (4, 4), 120),
    (4, 16, 10_000, (512, 128, 1952, 2912), (4, 1), 100),
    (4, 16, 1_000_000, (8192, 800, 1952, 11744), (4, 4), 120),
    (16, 64, 1_000, (512, 128, 1952, 2912), (4, 1), 100),
    (16, 64, 1_000_000, (8192, 800, 1952, 11744), (4, 4), 120),
    (16, 64, 10_000_000, (8192, 800, 3712, 13504), (8, 4), 170),
]


@pytest.mark.parametrize(("cores", "gib", "per_day", "memory", "workers", "connections"), FITS)
def test_the_table(
    cores: int, gib: int, per_day: int, memory: tuple[int, ...], workers: tuple[int, int], connections: int
) -> None:
    found = plan(host(cores, gib, per_day=per_day))
    sizes = [found["services"][name]["memory"] // MIB for name in ("postgres", "redis", "litellm")]
    assert (*sizes, found["total"] // MIB) == memory
    assert (found["litellm_workers"], found["admin_workers"]) == workers and found["connections"]["max"] == connections
    assert bool(found["scale_out"]) == (per_day > 1_000_000)


@pytest.mark.parametrize(
    ("cores", "gib", "per_day", "says", "nearest"),
    [
        (1, 2, 100_000, "need 3808m of memory .postgres 2g, redis 800m, litellm 640m", 12_000),
        (1, 2, 10_000_000, "579 requests a second at peak need 8 workers", 12_000),
        (4, 24, 10_000_000, "need 8 workers of LiteLLM, a core each, and the host has 4", 5_500_000),
        (4, 16, 10_000_000, "need 8 workers", 5_500_000),
    ],
)
def test_what_does_not_fit_says_what_would(cores: int, gib: int, per_day: int, says: str, nearest: int) -> None:
    with pytest.raises(DoesNotFit, match=says) as caught:
        plan(host(cores, gib, per_day=per_day))
    assert f"nearest that fits here: {nearest} requests a day" in caught.value.next_step
    assert plan(host(cores, gib, per_day=nearest))["total"] and caught.value.left == "nothing was changed"


def test_the_release_s_own_number_for_four_workers_comes_out() -> None:
    """V: LITELLM_MEMORY_LIMIT is 2g, with four workers."""
    found = plan(host(4, 16, per_day=1_000, litellm_workers=4))["services"]["litellm"]
    assert 1.85 * GIB < found["memory"] <= 2 * GIB


def test_postgres_has_room_for_its_settings() -> None:
    found = plan(host(4, 16, per_day=100_000))
    assert found["postgres"] == {
        "settings": {
            "max_connections": "100", "shared_buffers": "512MB", "effective_cache_size": "1228MB", "work_mem": "7MB",
            "maintenance_work_mem": "128MB",
        },
        "shm": 256 * MIB,
    }  # fmt: skip


def test_redis_keeps_room_for_a_background_save() -> None:
    found = plan(host(4, 16, per_day=100_000, cached_prompts=100_000))
    # In steps of 16 MiB: a few entries more are the same plan.
    assert found["redis_maxmemory"] == 512 * MIB + 1184 * MIB > 512 * MIB + 100_000 * 12 * 1024
    assert found["services"]["redis"]["memory"] >= found["redis_maxmemory"] * 1.5
    fixed = plan(host(4, 16, per_day=100_000, fixed={"redis": {"memory": float(GIB)}}))
    assert fixed["redis_maxmemory"] * 1.5 + 32 * MIB <= fixed["services"]["redis"]["memory"] == GIB


def test_unsaid_traffic_is_what_fits() -> None:
    assert plan(host(4, 16))["traffic"]["per_day"] == 100_000
    small = plan(host(1, 2))
    assert small["traffic"]["per_day"] == 10_000 and "nobody said how much traffic" in small["notes"][0]


def test_an_impossible_host_says_how_large_one_has_to_be() -> None:
    with pytest.raises(DoesNotFit) as caught:
        plan(host(1, 1))
    found = re.search(r"needs 1 core and (\w+) of memory", caught.value.next_step)
    assert found, caught.value.next_step
    size = sizing.bytes_of(found[1], "x")
    assert plan(host(1, size / GIB))["total"] < size
    with pytest.raises(DoesNotFit):
        plan(host(1, (size - 64 * MIB) / GIB))


def test_connections_above_the_line_are_refused() -> None:
    wanted = host(4, 16, per_day=1_000, litellm_workers=4, admin_workers=4, max_connections=100)
    with pytest.raises(
        DoesNotFit,
        match=r"4 LiteLLM workers × 10, 4 admin-api workers × 10 and 10 others are 90 connections, above the",
    ):
        plan(wanted)
    assert plan(replace(wanted, max_connections=None))["connections"] == {"used": 90, "max": 120, "line": 96}
    with pytest.raises(DoesNotFit) as caught:
        plan(replace(wanted, max_connections=50, litellm_workers=8))
    assert "whatever the traffic" in caught.value.next_step


def test_what_is_typed_beside_the_requests_is_not_made_smaller() -> None:
    with pytest.raises(DoesNotFit) as caught:
        plan(host(4, 16, per_day=100_000, cached_prompts=1_000_000))
    assert "lower scutum_limits_cached_prompts (1000000, 12 KiB each)" in caught.value.next_step
    with pytest.raises(DoesNotFit) as caught:
        plan(host(4, 16, per_day=1_000_000, cached_prompts=300_000))
    found = re.search(r"nearest that fits here: (\d+) requests", caught.value.next_step)
    assert found and plan(host(4, 16, per_day=int(found[1]), cached_prompts=300_000))


def test_other_workers_get_their_memory_or_are_refused() -> None:
    found = plan(host(4, 16, per_day=1_000, litellm_workers=1))
    more = sizing.with_workers(found, 4)
    assert more == plan(host(4, 16, per_day=1_000, litellm_workers=4)) | {"connections": found["connections"]}
    with pytest.raises(DoesNotFit, match="scutum_litellm_workers: 40 workers need"):
        sizing.with_workers(found, 40)


def test_reasons_to_leave_the_host() -> None:
    assert "Postgres" in plan(host(16, 64, per_day=2_000_000, peak=100))["scale_out"][0]
    assert "replicas" in plan(host(4, 16, per_day=1_000, peak=300))["scale_out"][0]
    assert "3 regions" in plan(host(4, 16, per_day=1_000, regions=3))["scale_out"][0]
    assert plan(host(4, 16, per_day=1_000))["scale_out"] == []


TRAFFIC = st.one_of(st.integers(1, 20_000), st.integers(1, 3_000_000))
HOSTS = st.tuples(st.sampled_from([1.0, 1.5, 2.0, 4.0, 8.0, 16.0, 64.0]), st.integers(1, 256))
RUNNING = st.lists(st.sampled_from(EVERYTHING[4:]), unique=True).map(lambda more: (*EVERYTHING[:4], *more))


@given(HOSTS, TRAFFIC, st.integers(0, 2_000_000), RUNNING)
def test_never_above_the_host_and_never_over_the_line(
    on: tuple[float, int], per_day: int, cached: int, services: tuple[str, ...]
) -> None:
    cores, gib = on
    try:
        found = plan(host(cores, gib, per_day=per_day, cached_prompts=cached, services=services))
    except DoesNotFit as problem:
        assert problem.next_step
        return
    assert found["total"] == sum(item["memory"] for item in found["services"].values())
    assert found["total"] + found["reserve"] <= gib * GIB and found["reserve"] >= 384 * MIB
    assert all(0 < item["cpus"] <= cores and item["pids"] > 0 for item in found["services"].values())
    assert all(item["reservation"] <= item["memory"] for item in found["services"].values())
    assert found["connections"]["used"] <= 0.8 * found["connections"]["max"]
    assert found["redis_maxmemory"] * 1.5 < found["services"]["redis"]["memory"]
    assert all(item["memory"] >= sizing.LEAST.get(name, 16) * MIB for name, item in found["services"].items())
    shared = sizing.bytes_of(found["postgres"]["settings"]["shared_buffers"], "x")
    assert shared + found["connections"]["max"] * 2 * MIB < found["services"]["postgres"]["memory"]
    assert plan(host(cores, gib, per_day=per_day, cached_prompts=cached, services=services)) == found


@given(HOSTS, TRAFFIC, st.floats(1, 50), st.integers(0, 100_000))
def test_more_traffic_never_gives_less(on: tuple[float, int], per_day: int, times: float, cached: int) -> None:
    def sizes(much: float, prompts: int) -> dict[str, Any] | None:
        try:
            found = plan(host(*on, per_day=much, cached_prompts=prompts))
        except DoesNotFit:
            return None
        numbers = {name: item["memory"] for name, item in found["services"].items()}
        return {
            **numbers,
            "workers": found["litellm_workers"],
            "admin": found["admin_workers"],
            "max": found["connections"]["max"],
        }

    little, much = sizes(per_day, cached), sizes(per_day * times, cached * 2)
    if much is not None:
        assert little is not None and all(little[name] <= much[name] for name in little)


@given(st.integers(1, 1 << 40))
def test_a_size_is_read_back(size: int) -> None:
    text = sizing.text_of(size)
    assert 0 <= sizing.bytes_of(text, "x") - size < MIB


@pytest.mark.parametrize(
    "text",
    [
        "2g",
        "2G",
        "2gb",
        "2GB",
        "2GiB",
        "2gib",
        "2048m",
        "2048mb",
        "2048MiB",
        "2097152k",
        "2147483648",
        "2147483648b",
        2147483648,
        "2.0g",
        " 2g ",
    ],
)
def test_all_units_of_compose(text: Any) -> None:
    assert sizing.bytes_of(text, "x") == 2 * GIB


@pytest.mark.parametrize("text", ["0", 0, "-2g", "two", "2x", "g", "", "2 gigs", "0m", "1e9", None])
def test_what_is_no_size(text: Any) -> None:
    with pytest.raises(ScutumError, match=r"scutum_limits_host_memory: .* is no size: write 512m, 2g, 2GiB"):
        sizing.bytes_of(text, "scutum_limits_host_memory")


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"requests_per_day": 0}, "scutum_limits_requests_per_day: 0 is not a number above 0"),
        ({"requests_per_day": -5}, "scutum_limits_requests_per_day: -5 is not a number above 0"),
        ({"requests_per_day": "many"}, "scutum_limits_requests_per_day: 'many' is not a number above 0"),
        ({"requests_per_second": "nan"}, "scutum_limits_requests_per_second: 'nan' is not"),
        ({"requests_per_second": "inf"}, "scutum_limits_requests_per_second: 'inf' is not"),
        ({"audit_writes_per_day": "-1"}, "scutum_limits_audit_writes_per_day"),
        ({"cached_prompts": 1.5}, "scutum_limits_cached_prompts: 1.5 is not a whole number"),
        ({"host_cores": 0}, "scutum_limits_host_cores: 0 is not a number above 0"),
        ({"host_memory": "-16g"}, "scutum_limits_host_memory: '-16g' is no size"),
        ({"litellm_workers": "2.5"}, "scutum_litellm_workers: '2.5' is not a whole number of at least 1"),
        ({"admin_api_workers": 0}, "scutum_limits_admin_api_workers: 0 is not a whole number of at least 1"),
        ({"postgres_max_connections": "x"}, "scutum_limits_postgres_max_connections"),
        ({"regions": 0}, "scutum_limits_regions"),
        ({"fixed": {"litellm": "2g"}}, "scutum_limits_fixed.litellm: a mapping with memory, cpus or both"),
        ({"fixed": {"litellm": {"mem": "2g"}}}, "scutum_limits_fixed.litellm: a mapping"),
        ({"fixed": {"litellm": {"memory": "lots"}}}, "scutum_limits_fixed.litellm.memory: 'lots' is no size"),
        (
            {"fixed": {"litellm": {"memory": "100m"}}},
            "scutum_limits_fixed.litellm.memory: 100m is below the 1370m that litellm needs to start with 4 workers",
        ),
        ({"fixed": {"litellm": {"cpus": 8}}}, "scutum_limits_fixed.litellm.cpus: 8, and the host has 4"),
        (
            {"fixed": {"litelm": {"memory": "2g"}}},
            "scutum_limits_fixed names litelm; the services that run are postgres",
        ),
    ],
)
def test_bad_input_names_the_variable(wanted: dict[str, Any], says: str) -> None:
    asked = limit_plan.Wanted(**{"host_cores": 4, "host_memory": "16g", "requests_per_day": 1000, **wanted})
    with pytest.raises(ScutumError, match=re.escape(says)) as caught:
        plan(limit_plan.request(asked, SERVICES))
    assert caught.value.left == "nothing was changed" and caught.value.next_step


def test_the_filter_plans_alone() -> None:
    found = filters.sizing({"requests_per_day": "1_000_000"}, 4, "16GiB")
    assert found["plan"] == plan(host(4, 16, per_day=1_000_000))
    assert any(line.startswith("postgres ") and " 8g " in line for line in found["text"]), found["text"]
    with pytest.raises(AnsibleFilterError, match="nearest that fits here"):
        filters.sizing({"requests_per_day": 1_000_000}, 1, "2g")
    with pytest.raises(AnsibleFilterError, match="requests_per_dya"):
        filters.sizing({"requests_per_dya": 1}, 1, "2g")
