"""Limits of a real host, seen from the kernel, from Postgres, from Redis and from whoever uses the services."""

from __future__ import annotations

import json
import re
import threading
import time
import urllib.error
from collections.abc import Callable
from typing import Any

import pytest
from scenario import Host, Run, playbook, start_playbook

host = Host("scutum-limits")
MIB = 1 << 20
NAMES = {
    "postgres": "scutum-postgres", "redis": "scutum-redis", "litellm": "scutum-proxy", "admin-api": "scutum-admin-api",
    "admin-ui": "scutum-admin-ui", "docs-site": "scutum-docs",
}  # fmt: skip
# A process of the service's own group that takes memory until the kernel ends it.
HOG = "import time\nheld = []\nwhile True:\n    held.append(bytearray(b'x') * (8 << 20)); time.sleep(0.01)\n"


def limits(**extra: Any) -> Run:
    return playbook("limits.yml", **extra)


def group(service: str, controller: str, *files: str) -> list[str]:
    """Files of the control group of a running container, of either version."""
    pid = host.run(f"docker inspect -f '{{{{.State.Pid}}}}' {NAMES[service]}")
    lines = [line.split(":", 2) for line in host.run(f"cat /proc/{pid}/cgroup").splitlines()]
    path = next((path for unused, names, path in lines if controller in names.split(",")), "")
    place = f"/sys/fs/cgroup/{controller}{path}" if path else f"/sys/fs/cgroup{lines[0][2]}"
    return [host.run(f"cat {place}/{name} 2>/dev/null || true") for name in files]


def memory(service: str) -> int:
    first, second = group(service, "memory", "memory.limit_in_bytes", "memory.max")
    return int(first or second)


def kills(service: str) -> int:
    found = re.search(r"oom_kill (\d+)", "\n".join(group(service, "memory", "memory.oom_control", "memory.events")))
    assert found
    return int(found[1])


def cpus(service: str) -> float:
    quota, period, both = group(service, "cpu", "cpu.cfs_quota_us", "cpu.cfs_period_us", "cpu.max")
    quota, period = (quota, period) if quota else both.split()
    return int(quota) / int(period)


def setting(name: str) -> str:
    return host.psql(f"SHOW {name}")


def recreated(before: dict[str, str]) -> set[str]:
    after = host.containers()
    return {name for name in after if before.get(name) != after[name]}


def ready() -> bool:
    """Whether both doors answer."""
    try:
        return (
            host.http(8086, "/health", timeout=3).status
            == host.http(4000, "/health/liveliness", timeout=3).status
            == 200
        )
    except OSError:
        return False


def test_the_kernel_has_the_plan_s_numbers() -> None:
    planned = {"postgres": 688, "redis": 208, "litellm": 640, "admin-api": 256, "admin-ui": 32, "docs-site": 32}
    assert {name: memory(name) // MIB for name in planned} == planned
    assert {name: cpus(name) for name in planned} == {
        "postgres": 1.5, "redis": 1.0, "litellm": 1.8, "admin-api": 1.0, "admin-ui": 0.5, "docs-site": 0.5
    }  # fmt: skip
    assert group("litellm", "pids", "pids.max") == ["128"] and group("postgres", "pids", "pids.max") == ["164"]
    assert (setting("shared_buffers"), setting("max_connections")) == ("172MB", "100")
    assert (setting("effective_cache_size"), setting("work_mem")) == ("412MB", "2MB")
    assert host.run("docker exec scutum-postgres df -m /dev/shm | tail -1 | awk '{print $2}'") == "96"
    assert host.run("docker exec scutum-redis redis-cli CONFIG GET maxmemory").split()[1] == str(114 * MIB)
    assert host.run("docker exec scutum-proxy sh -c 'ulimit -n'") == "16384"
    # On the host, without Ansible.
    said = host.run("scutum-ops limits")
    assert "postgres             688m" in said and "NOT IN FORCE" not in said


def test_what_somebody_changed_by_hand_is_told_and_put_right() -> None:
    host.run("docker update --memory 64m --memory-swap 64m scutum-docs")
    assert host.fails("scutum-ops limits")
    told = host.run("scutum-ops limits || true")
    assert f"NOT IN FORCE docs-site: memory is {64 * MIB // 4096}, planned is {32 * MIB // 4096}" in told
    checked = playbook("limits.yml", "--check")
    assert checked.rc == 0 and "would change: docs-site: recreate" in checked.flat, checked.out[-3000:]
    before = host.containers()
    assert limits().rc == 0 and recreated(before) == {"scutum-docs"} and memory("docs-site") == 32 * MIB
    assert limits().recap(host.name)["changed"] == 0


def test_only_what_changes_is_recreated_and_one_variable_goes_back() -> None:
    before = host.containers()
    fixed = {"docs-site": {"memory": "48m"}, "redis": {"memory": "256m"}}
    run = limits(scutum_limits_fixed=fixed)
    assert run.rc == 0 and recreated(before) == {"scutum-docs", "scutum-redis"}, run.out[-3000:]
    assert memory("docs-site") == 48 * MIB and memory("redis") == 256 * MIB
    # Below its limit by what a background save needs.
    assert host.run("docker exec scutum-redis redis-cli CONFIG GET maxmemory").split()[1] == str(149 * MIB)
    assert "-docs-site: memory 32m" in run.flat and "+docs-site: memory 48m" in run.flat
    assert limits(scutum_limits_fixed=fixed).recap(host.name)["changed"] == 0
    back = limits(scutum_limits_state="previous")
    assert back.rc == 0 and memory("docs-site") == 32 * MIB and memory("redis") == 208 * MIB, back.out[-3000:]
    # Going back twice is going back once.
    again = limits(scutum_limits_state="previous")
    assert again.recap(host.name)["changed"] == 0 and memory("docs-site") == 32 * MIB
    assert limits().recap(host.name)["changed"] == 0


def test_postgres_comes_last_and_keeps_what_it_has() -> None:
    host.psql(
        "INSERT INTO audit_logs(actor_id, action, resource_type) SELECT 'kept', 'a', 'r' FROM generate_series(1, 1000)"
    )
    before = host.containers()
    run = limits(scutum_limits_requests_per_day=30000)
    assert run.rc == 0, run.out[-3000:]
    started = {name: text.split()[1] for name, text in host.containers().items()}
    changed = recreated(before)
    assert "scutum-postgres" in changed and "scutum-docs" not in changed and "scutum-admin-ui" not in changed
    assert max(changed, key=lambda name: started[name]) == "scutum-postgres", started
    assert (
        setting("shared_buffers") == "216MB"
        and host.psql("SELECT count(*) FROM audit_logs WHERE actor_id = 'kept'") == "1000"
    )
    assert ready()


def pressure(service: str, probes: dict[str, Callable[[], bool]]) -> dict[str, int]:
    """Memory pressure from a service's own process, while the probes of all others go on: their failures by name."""
    failed, stop = dict.fromkeys(probes, 0), threading.Event()

    def ask(name: str, probe: Callable[[], bool]) -> None:
        while not stop.is_set():
            try:
                failed[name] += not probe()
            except (OSError, urllib.error.URLError):
                failed[name] += 1
            time.sleep(0.1)

    threads = [threading.Thread(target=ask, args=item) for item in probes.items()]
    for thread in threads:
        thread.start()
    before = kills(service)
    host.run(f"docker exec -i {NAMES[service]} python3 - || true", stdin=HOG)
    assert kills(service) > before, "the kernel killed nothing in that group"
    end = time.monotonic() + 30
    while not ready() and time.monotonic() < end:
        time.sleep(0.2)
    stop.set()
    for thread in threads:
        thread.join()
    return failed


@pytest.mark.parametrize("service", ["admin-api", "litellm"])
def test_memory_pressure_stays_in_one_service(service: str) -> None:
    rows = host.psql("SELECT count(*) FROM audit_logs")
    begun = host.psql("SELECT pg_postmaster_start_time()")
    probes: dict[str, Callable[[], bool]] = {
        "admin-ui": lambda: host.http(5173, "/", timeout=5).status == 200,
        "docs-site": lambda: host.http(8089, "/", timeout=5).status == 200,
        "admin-api": lambda: host.http(8086, "/health", timeout=5).status == 200,
        "litellm": lambda: host.http(4000, "/health/liveliness", timeout=5).status == 200,
    }
    failed = pressure(service, {name: probe for name, probe in probes.items() if name != service})
    assert not any(failed.values()), failed
    assert ready(), f"{service} does not answer 30 s after"
    assert (
        host.psql("SELECT count(*) FROM audit_logs") == rows and host.psql("SELECT pg_postmaster_start_time()") == begun
    )
    assert not host.fails("scutum-ops limits")


def test_logs_cannot_fill_the_disk() -> None:
    talk = "with open('/proc/1/fd/1', 'w') as out:\n    for i in range(20000): print('x' * 200, file=out)\n"
    host.run("docker exec -i scutum-docs python3 -", stdin=talk)
    place = host.run("dirname $(docker inspect -f '{{.LogPath}}' scutum-docs)")
    end = time.monotonic() + 30
    while (
        size := int(host.run(f"du -bc {place}/*-json.log* | tail -1").split()[0])
    ) < 200_000 and time.monotonic() < end:
        time.sleep(0.5)
    # 4 MB were written; three files of 100 KB stay.
    assert 200_000 <= size <= 3 * 110_000, size


def test_admin_api_s_workers_find_the_migrations_done() -> None:
    run = limits(scutum_limits_admin_api_workers=2, scutum_limits_log_driver="journald")
    assert run.rc == 0, run.out[-3000:]
    # The other log driver, too: what a container says is in the host's journal, which has a size of its own.
    assert host.run("docker inspect -f '{{.HostConfig.LogConfig.Type}}' scutum-admin-api") == "journald"
    log = host.run("journalctl -q --no-pager CONTAINER_NAME=scutum-admin-api")
    assert log.count("Database migrations completed") == 2, log[-2000:]
    assert "alembic upgrade head && exec" in host.run("docker inspect -f '{{.Args}}' scutum-admin-api")
    assert (
        host.run("docker exec scutum-admin-api sh -c 'cat /proc/[0-9]*/cmdline' | tr '\\0' ' '").count("spawn_main")
        >= 2
    )
    assert ready() and "2 workers of 160 MiB" in run.flat
    assert playbook("install.yml").recap(host.name)["changed"] == 0


def test_measured_traffic_makes_the_plan() -> None:
    # Completions of an install before midnight.
    host.psql('DELETE FROM "LiteLLM_SpendLogs"')
    nothing = limits(scutum_limits_measure=True, scutum_limits_requests_per_day="", scutum_limits_measure_seconds=2)
    assert (
        nothing.rc != 0
        and "there is no traffic to measure" in nothing.flat
        and "scutum_limits_requests_per_day" in nothing.flat
    )
    host.psql(
        "INSERT INTO \"LiteLLM_SpendLogs\"(request_id, \"startTime\") SELECT 'y' || i, date_trunc('day', now() AT TIME ZONE 'UTC') "
        "- interval '12 hours' + (i % 600) * interval '1 second' FROM generate_series(1, 30000) i"
    )
    both = limits(scutum_limits_measure=True)
    assert both.rc != 0 and "leave one of them out" in both.flat
    run = limits(scutum_limits_measure=True, scutum_limits_requests_per_day="")
    assert run.rc == 0, run.out[-3000:]
    assert "30000 requests a day, 50 a second at peak" in run.flat and "s table, 1 of the last 7 days" in run.flat
    # Nearly the same traffic is the same plan.
    host.psql("DELETE FROM \"LiteLLM_SpendLogs\" WHERE request_id ~ '^y.*7$'")
    again = limits(scutum_limits_measure=True, scutum_limits_requests_per_day="")
    assert again.recap(host.name)["changed"] == 0, again.out[-3000:]
    host.psql('DELETE FROM "LiteLLM_SpendLogs"')


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"scutum_limits_requests_per_day": "2g"}, "scutum_limits_requests_per_day: '2g' is not a number above 0"),
        ({"scutum_limits_requests_per_day": 10_000_000}, "nearest that fits here: "),
        (
            {"scutum_limits_fixed": {"postgres": {"memory": "10m"}}},
            "scutum_limits_fixed.postgres.memory: 10m is below the 64m",
        ),
        ({"scutum_limits_host_memory": "1g"}, "needs 1 core and"),
        ({"scutum_limits_host_cores": 500}, "scutum_limits_host_cores: 500, and this host has"),
        ({"scutum_limits_timeout": 0}, "scutum_limits_timeout: 0 is not a number of at least 1"),
        (
            {"scutum_litellm_workers": 2, "scutum_limits_postgres_max_connections": 40},
            "above the line of 32 (80% of 40)",
        ),
    ],
)
def test_bad_input_changes_nothing(given: dict[str, Any], says: str) -> None:
    before = host.containers(), host.fingerprint()
    run = limits(**given)
    assert run.rc != 0 and says in run.flat and "State: nothing was changed" in run.flat, run.out[-3000:]
    assert (host.containers(), host.fingerprint()) == before


def test_a_run_that_was_killed_is_finished_by_the_next() -> None:
    """In its middle: the containers before Postgres are recreated already."""
    created = "docker inspect -f '{{.Created}}' scutum-redis"
    before = host.run(created)
    process = start_playbook("limits.yml", "-e", json.dumps({"scutum_limits_requests_per_day": 60000}))
    end = time.monotonic() + 120
    # Compose gives a container another name while it replaces it.
    while host.run(created, check=False) in (before, "") and time.monotonic() < end:
        time.sleep(0.1)
    host.run("pkill -9 -f '^/usr/bin/python3$'")
    process.communicate(timeout=60)
    assert process.returncode != 0 and setting("shared_buffers") != "344MB"
    run = limits(scutum_limits_requests_per_day=60000)
    assert run.rc == 0 and setting("shared_buffers") == "344MB", run.out[-3000:]
    assert limits(scutum_limits_requests_per_day=60000).recap(host.name)["changed"] == 0
    assert ready() and not host.fails("scutum-ops limits")


def test_without_limits_again() -> None:
    run = limits(scutum_limits_state="absent")
    assert run.rc == 0, run.out[-3000:]
    assert host.run("docker inspect -f '{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}}' scutum-postgres") == "0 0"
    # The release's own.
    assert memory("litellm") == 2 << 30 and setting("shared_buffers") == "128MB"
    assert limits(scutum_limits_state="absent").recap(host.name)["changed"] == 0
    assert host.fails("scutum-ops limits")
