"""make bench NAME=limits: memory used of each limit under the load it was planned for, completions with limits over without, a run without
changes."""

from __future__ import annotations

import http.client
import json
import statistics
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import Any

import _measure as measure
import _testbed as testbed
import yaml

HOST = "bench-limits"
ROUNDS, NOOP_ROUNDS = 3, 5
# Seconds of load, and callers that each wait for their answer.
LASTS, CALLERS = 20, 8
PER_DAY, ROWS = 20_000, 1_000_000
VARIABLES = {
    "scutum_limits_requests_per_day": PER_DAY,
    "scutum_limits_host_memory": "8g",
    "scutum_limits_host_cores": 2,
}
# Runs on the host: the planned limits, and what each control group uses now.
USED = """
import json, sys
sys.path.insert(0, "/usr/local/lib/scutum-ops")
from scutum_ops import cgroup, limits
from scutum_ops.installation import Installation
place = Installation("/opt/scutum")
plan = limits.load(place).current.plan["services"]
for name, container in place.compose().containers(place.project).items():
    group = cgroup.of(container["State"]["Pid"])
    print(json.dumps([name, group.used / plan[name]["memory"], group.kills]))
"""


def on(command: str, stdin: str = "") -> str:
    """A shell command on the host."""
    return testbed.on(HOST, command, stdin)


def limits(hosts: Path, **more: Any) -> None:
    """playbooks/limits.yml, and both doors answer."""
    measure.seconds(
        [*testbed.playbook("playbooks/limits.yml", hosts), "-e", json.dumps({**VARIABLES, **more})], repeat=1
    )
    testbed.wait_until_serving(HOST)


def completions(address: str, key: str, seconds: float, callers: int = CALLERS, pause: float = 0) -> float:
    """Good completions a second.

    Args:
        pause: seconds that a caller waits between two.
    """
    end, good = time.monotonic() + seconds, [0] * callers
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def call(number: int) -> None:
        line = http.client.HTTPConnection(address, 4000, timeout=30)
        while time.monotonic() < end:
            body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": str(uuid.uuid4())}]}
            try:
                line.request("POST", "/v1/chat/completions", json.dumps(body), headers)
                answer = line.getresponse()
                answer.read()
                good[number] += answer.status == 200
            except (http.client.HTTPException, OSError):
                # A server closes a line that was quiet for a while: the next request opens it anew.
                line.close()
            time.sleep(pause)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(good) / seconds


def fill(role: str) -> None:
    """A table larger than Postgres's limit, and a cache as full as it gets."""
    generator = [sys.executable, "testbed/standin/generate_audit.py", "--rows", str(ROWS), "--months", "12"]
    psql = f"docker exec -i {HOST} docker exec -i scutum-postgres psql {role}"
    subprocess.run([*generator, "--psql", psql], cwd=measure.ROOT, check=True, stdout=subprocess.DEVNULL)
    # In pieces: within a script Redis evicts nothing.
    script = "for i = 1, 5000 do redis.call('SET', 'cache:' .. ARGV[1] .. ':' .. i, string.rep('x', 600)) end"
    on(f'for piece in $(seq 40); do docker exec scutum-redis redis-cli EVAL "{script}" 0 $piece || exit 1; done')


def use(address: str, key: str, role: str) -> dict[str, float]:
    """The largest share of its memory limit of each service, while it is used as planned."""
    peak: dict[str, float] = {}
    plan = json.loads(on("scutum-ops --json limits"))["limits"]["traffic"]
    load = threading.Thread(target=completions, args=(address, key, 60, 4, 4 / plan["peak"]))
    load.start()
    reads = (
        f"docker exec scutum-postgres psql {role} -qAtc 'SELECT count(*), max(length(changes::text)) FROM audit_logs'"
    )
    login = json.dumps({"api_key": key})
    while load.is_alive():
        on(reads)
        line = http.client.HTTPConnection(address, 8086, timeout=30)
        line.request("POST", "/auth/login", login, {"Content-Type": "application/json"})
        token = json.loads(line.getresponse().read()).get("access_token", "")
        line.request("GET", "/api/v1/audit-logs?limit=1000", headers={"Authorization": f"Bearer {token}"})
        line.getresponse().read()
        for text in on("/usr/bin/python3 -", USED).splitlines():
            name, share, kills = json.loads(text)
            if kills:
                raise SystemExit(f"{name}: the kernel killed {kills} processes")
            peak[name] = max(peak.get(name, 0), share)
    return {name: round(share, 3) for name, share in peak.items()}


def without_role() -> list[dict[str, Any]]:
    """playbooks/day_one.yml as it is, but for the role."""
    plays: list[dict[str, Any]] = yaml.safe_load((measure.ROOT / "playbooks/day_one.yml").read_text())
    for play in plays:
        roles = [task.get("ansible.builtin.include_role", {}).get("name") for task in play["tasks"]]
        play["tasks"] = [
            task for task, role in zip(play["tasks"], roles, strict=True) if role != "scutum.ops.resource_limits"
        ]
    return plays


def main() -> None:
    """Measure."""
    build = measure.ROOT / "build" / "bench"
    build.mkdir(parents=True, exist_ok=True)
    hosts, reference = build / "limits-hosts.yml", build / "day_one_without_limits.yml"
    testbed.inventory(hosts, [HOST])
    reference.write_text(yaml.safe_dump(without_role()))
    samples: dict[str, list[float]] = {"limited": [], "free": [], "with": [], "without": []}
    try:
        testbed.clones([HOST])
        address = testbed.verb("ip", HOST)
        env = dict(line.split("=", 1) for line in on("grep -E '^[A-Z_]+=.' /opt/scutum/config/.env").splitlines())
        key, role = env["SCUTUM_API_KEY"], f"-U {env['POSTGRES_USER']} -d {env['POSTGRES_DB']}"
        for unused in range(ROUNDS):
            for name, state in (("limited", "present"), ("free", "absent")):
                limits(hosts, scutum_limits_state=state)
                completions(address, key, 5)
                samples[name].append(completions(address, key, LASTS))
                print(f"{name}: {samples[name][-1]:.1f} completions a second", flush=True)
        limits(hosts)
        given = ["-e", json.dumps(VARIABLES)]
        measure.seconds([*testbed.playbook("playbooks/day_one.yml", hosts), *given], repeat=1)
        for unused in range(NOOP_ROUNDS):
            samples["without"] += measure.seconds([*testbed.playbook(str(reference), hosts), *given], repeat=1)
            samples["with"] += measure.seconds([*testbed.playbook("playbooks/day_one.yml", hosts), *given], repeat=1)
        fill(role)
        shares = use(address, key, role)
    finally:
        testbed.verb("host", "rm", HOST)
    median = statistics.median
    measure.write(
        "limits",
        {
            "limit_use_max": (max(shares.values()), 0.9, "share"),
            "limit_use_min": (min(shares.values()), 0.3, "share"),
            "throughput_kept": (round(median(samples["limited"]) / median(samples["free"]), 3), 0.95, "ratio"),
            "noop_extra_s": (round(median(samples["with"]) - median(samples["without"]), 2), 1, "s"),
        },
        {
            "rounds": ROUNDS,
            "planned_for": VARIABLES,
            "workers": 1,
            "limit_use": shares,
            "load": f"{LASTS} s of completions by {CALLERS} callers on the same cores; for limit_use the planned peak, a table of {ROWS} "
            "rows read whole again and again, a cache as full as it gets",
            "memory": "of the control group, without the file cache that may be taken away",
            "reference": "the vendor's limits only, interleaved; playbooks/day_one.yml without the role",
        },
        samples,
    )


if __name__ == "__main__":
    main()
