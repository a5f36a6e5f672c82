"""make bench NAME=upgrade: seconds without completions and without the admin API in a promotion and on the way back, beside the vendor's
way, and how soon a release that turns bad is found."""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import _measure as measure
import _testbed as testbed

sys.path.insert(0, str(measure.ROOT / "molecule/_shared"))
sys.path.insert(0, str(measure.ROOT / "molecule/upgrade/tests"))

from upgrading import Load

HOST = "bench-upgrade"
ROUNDS = 3
OLD, NEW, BAD = "0.1.0", "0.2.0", "0.4.0"
# A second, of both kinds together: customers' completions, and calls of the admin API that write.
COMPLETIONS, ADMIN = 12, 8
# Nobody's service pauses for so long while it serves.
LEAST = 1.0
VARIABLES: dict[str, Any] = {
    "scutum_backup_store": {"directory": "/srv/backups"},
    "scutum_upgrade_allow_skipped_minor": True,
    "scutum_upgrade_accept_export": True,
    "scutum_upgrade_baseline": 10,
    "scutum_upgrade_minimum_requests": 50,
}
# The way that the vendor describes, less its trap: nothing of config/.env is in the environment of Compose. Images are pulled before.
VENDOR = (
    "cd /opt/scutum && sed -i 's/^SCUTUM_VERSION=.*/SCUTUM_VERSION={0}/' config/.env && "
    'compose() {{ env -i PATH="$PATH" HOME=/root docker compose --env-file config/.env -f scutum-ops.compose.yaml "$@"; }} && '
    "compose pull -q && compose up -d"
)


def on(command: str) -> str:
    """A shell command on the host."""
    return testbed.on(HOST, command)


def record() -> dict[str, Any]:
    """Of the host's last upgrade."""
    return dict(json.loads(on("cat /opt/scutum/.scutum-ops/upgrade-record.json")))


def play(hosts: Path, name: str, fails: bool = False, **more: Any) -> None:
    """A playbook of the collection."""
    command = [*testbed.playbook(f"playbooks/{name}.yml", hosts), "-e", json.dumps({**VARIABLES, **more})]
    if fails:
        command = ["bash", "-c", '"$@" && exit 1 || exit 0', "bash", *command]
    measure.seconds(command, repeat=1)


def fresh() -> None:
    """A clone of the installed host, which serves; whatever was there before is gone."""
    testbed.clones([HOST])
    on("mkdir -p -m 0700 /srv/backups")


def load() -> Load:
    """Begun, and steady."""
    key = on("sed -n 's/^SCUTUM_API_KEY=//p' /opt/scutum/config/.env")
    begun = Load(testbed.verb("ip", HOST), key, COMPLETIONS, ADMIN)
    time.sleep(5)
    return begun


def settle(running: Load, kinds: tuple[str, ...], seconds: float = 180) -> None:
    """Until there are good answers again, and for a while longer."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        since = time.time() - 3
        if all(len(running.good(kind, since)) >= 6 for kind in kinds):
            return
        time.sleep(0.5)
    raise SystemExit(f"no good answers of {', '.join(kinds)} after {seconds:.0f} s")


def away(samples: dict[str, list[float]], name: str, work: Any, kinds: tuple[str, ...]) -> None:
    """Seconds without good answers while something is done, by kind of request."""
    running = load()
    begun = time.time()
    try:
        work()
        settle(running, kinds)
    finally:
        running.end()
    for kind in kinds:
        samples[f"{name}_{kind}"].append(running.away(kind, begun - 2, least=LEAST))
        print(
            f"{name}: {samples[f'{name}_{kind}'][-1]:.1f} s without {kind}, {running.rate():.0f} requests a second",
            flush=True,
        )


def vendor(samples: dict[str, list[float]]) -> None:
    """There, and as far back as it gets: the old admin-api does not start on the newer schema."""
    fresh()
    away(samples, "vendor", lambda: on(VENDOR.format(NEW)), ("completions", "admin"))
    away(samples, "vendor_back", lambda: on(VENDOR.format(OLD)), ("completions",))


def ours(samples: dict[str, list[float]], hosts: Path) -> None:
    """There, rehearsed; back by images only; and to a release that turns bad, which the watch has to find."""
    fresh()
    play(hosts, "day_one")
    play(hosts, "upgrade_preflight", scutum_version=NEW)
    play(hosts, "upgrade_stage", scutum_version=NEW)
    away(samples, "ours", lambda: play(hosts, "upgrade_promote", scutum_version=NEW), ("completions", "admin"))
    away(samples, "ours_back", lambda: play(hosts, "rollback"), ("completions", "admin"))
    if record()["rollback"]["way"] != "images":
        raise SystemExit("it did not go back by images only")
    running = load()
    try:
        play(
            hosts,
            "upgrade",
            fails=True,
            scutum_version=BAD,
            scutum_upgrade_without_staging=BAD,
            scutum_upgrade_watch=300,
        )
    finally:
        running.end()
    held = record()
    promoted = held["steps"]["promote"]["ended"]
    bad = [answer.ended for answer in running.answers if answer.status == 500]
    if not bad or held["outcome"] != "rolled_back" or held["verdict"].get("verdict") != "bad":
        raise SystemExit(f"{BAD} was not found bad by its watch: {held['outcome']}, {held['verdict']}")
    samples["detect"].append(held["rollback"]["at"] - bad[0])
    print(
        f"detected in {samples['detect'][-1]:.1f} s, {bad[0] - promoted:.1f} s after the promotion's end; "
        f"{running.rate():.0f} requests a second",
        flush=True,
    )


def main() -> None:
    """Measure."""
    build = measure.ROOT / "build" / "bench"
    build.mkdir(parents=True, exist_ok=True)
    hosts = build / "upgrade-hosts.yml"
    testbed.inventory(hosts, [HOST])
    names = ("vendor_completions", "vendor_admin", "vendor_back_completions", "ours_completions", "ours_admin")
    samples: dict[str, list[float]] = {
        name: [] for name in (*names, "ours_back_completions", "ours_back_admin", "detect")
    }
    try:
        for unused in range(ROUNDS):
            vendor(samples)
            ours(samples, hosts)
    finally:
        testbed.verb("host", "rm", HOST)
    measure.write(
        "upgrade",
        {
            "completions_down_ratio": (
                measure.ratio(samples["ours_completions"], samples["vendor_completions"]),
                1.0,
                "x",
            ),
            "admin_down_ratio": (measure.ratio(samples["ours_admin"], samples["vendor_admin"]), 1.0, "x"),
            "rollback_down_ratio": (
                measure.ratio(samples["ours_back_completions"], samples["vendor_back_completions"]),
                1.1,
                "x",
            ),
            "detect_s": (round(statistics.median(samples["detect"]), 1), 60, "s"),
        },
        {
            "rounds": ROUNDS,
            "workers": 1,
            "releases": f"{OLD} to {NEW} and back; {BAD} for detect_s",
            "load": f"{COMPLETIONS} completions and {ADMIN} writing calls of the admin API a second, from the same machine; down is every "
            f"pause of more than {LEAST} s between two good answers",
            "reference": "SCUTUM_VERSION in config/.env, docker compose pull, docker compose up -d with a clean environment, with the same "
            "merged Compose file; back the same way, where its admin-api never answers again, so completions are compared. Each on a fresh "
            "clone of the installed host, in turn.",
            "rollback": "by images only, as it was rehearsed",
        },
        samples,
    )


if __name__ == "__main__":
    main()
