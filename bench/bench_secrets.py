"""make bench NAME=secrets: what secrets from Vault cost in a run without changes, and how long an endpoint is down in a rotation."""

from __future__ import annotations

import json
import secrets
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from typing import Any

import _measure as measure
import _testbed as testbed
import yaml

sys.path.insert(0, str(measure.ROOT / "molecule/_shared"))

from sources import Vault, variables

ROUNDS = 5
VAULT, FILE = "bench-vault", "bench-file"
KEYS = 30


def on(host: str, command: str, stdin: str = "") -> str:
    """A shell command on a host."""
    done = subprocess.run(
        ["docker", "exec", "-i", host, "bash", "-c", command], input=stdin, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def without_secrets() -> list[dict[str, Any]]:
    """playbooks/day_one.yml as it is, but for the role."""
    plays: list[dict[str, Any]] = yaml.safe_load((measure.ROOT / "playbooks/day_one.yml").read_text())
    for play in plays:
        play["tasks"] = [
            task
            for task in play["tasks"]
            if task.get("ansible.builtin.include_role", {}).get("name") != "scutum.ops.secrets"
        ]
    return plays


def down(host: str, command: str) -> float:
    """Seconds for which admin-api does not answer while a command runs on a host."""
    url = f"http://{testbed.verb('ip', host)}:8086/health"
    moments: list[tuple[float, bool]] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            try:
                good = urllib.request.urlopen(url, timeout=0.5).status == 200
            except OSError:
                good = False
            moments.append((time.perf_counter(), good))
            time.sleep(0.02)

    watcher = threading.Thread(target=watch)
    watcher.start()
    time.sleep(0.5)
    on(host, command)
    deadline = time.monotonic() + 60
    while not moments[-1][1] and time.monotonic() < deadline:
        time.sleep(0.1)
    ended.set()
    watcher.join()
    bad = [moment for moment, good in moments if not good]
    if not bad:
        raise SystemExit("admin-api was never down: it was not recreated")
    back = next(moment for moment, good in moments if good and moment > bad[-1])
    return back - bad[0]


# The same change without the collection: other values of the same two keys, and Compose's own `up`.
PLAIN = (
    "cd /opt/scutum && for key in JWT_SECRET_KEY INTERNAL_SERVICE_KEY; do "
    'sed -i "s/^$key=.*/$key=$(openssl rand -hex 32)/" config/.env; done && '
    "docker compose --env-file config/.env -f scutum-ops.compose.yaml up -d 2>&1"
)


def main() -> None:
    """Measure."""
    build = measure.ROOT / "build" / "bench"
    build.mkdir(parents=True, exist_ok=True)
    reference, settings = build / "day_one_without_secrets.yml", build / "secrets-vault.yml"
    reference.write_text(yaml.safe_dump(without_secrets()))
    vault_hosts, file_hosts = build / "secrets-on-vault.yml", build / "secrets-in-file.yml"
    testbed.inventory(vault_hosts, [VAULT])
    testbed.inventory(file_hosts, [FILE])
    samples: dict[str, list[float]] = {"without": [], "with": [], "rotate_down": [], "plain_down": []}
    try:
        testbed.clones([VAULT, FILE])
        Vault.start()
        source = Vault("bench", "approle")
        env = dict(
            line.split("=", 1) for line in on(VAULT, "grep -E '^[A-Z_]+=.' /opt/scutum/config/.env").splitlines()
        )
        names = ("SCUTUM_API_KEY", "JWT_SECRET_KEY", "INTERNAL_SERVICE_KEY", "POSTGRES_PASSWORD", "LITELLM_SALT_KEY")
        values = {name: env[name] for name in names}
        values |= {f"BENCH_KEY_{number}": secrets.token_hex(16) for number in range(KEYS - len(values))}
        source.put(values)
        settings.write_text(json.dumps(variables(source)))
        settings.chmod(0o600)
        with_vault = [*testbed.playbook("playbooks/day_one.yml", vault_hosts), "-e", f"@{settings}"]
        without = testbed.playbook(str(reference), file_hosts)
        # The first puts it there; the profile gives internal services to both.
        measure.seconds(with_vault, repeat=1)
        measure.seconds(without, repeat=1)
        for unused in range(ROUNDS):
            samples["without"] += measure.seconds(without, repeat=1)
            samples["with"] += measure.seconds(with_vault, repeat=1)
        for unused in range(ROUNDS):
            samples["rotate_down"].append(down(FILE, "scutum-ops secrets-rotate jwt,internal"))
            samples["plain_down"].append(down(FILE, PLAIN))
    finally:
        for path in (settings,):
            path.unlink(missing_ok=True)
        testbed.verb("host", "rm", VAULT, FILE)
    median = statistics.median
    measure.write(
        "secrets",
        {
            "noop_extra_s": (round(median(samples["with"]) - median(samples["without"]), 2), 1.5, "s"),
            "rotate_down_ratio": (measure.ratio(samples["rotate_down"], samples["plain_down"]), 1.1, "ratio"),
            "rotate_down_s": (round(median(samples["rotate_down"]), 2), None, "s"),
        },
        {
            "rounds": ROUNDS,
            "keys": KEYS,
            "reference": "day_one.yml without the role on a host with config/.env; docker compose up -d with two other values",
            "down": "admin-api's /health, asked every 20 ms, from its first failure to its last",
        },
        samples,
    )


if __name__ == "__main__":
    main()
