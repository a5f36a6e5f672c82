"""An installed host through its upgrades: refused, killed, rehearsed, promoted, watched, rolled back; and no committed row is lost."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sources
import upgrading
from scenario import Host, Run, playbook
from store import KEYS, S3, fixture_s3  # noqa: F401
from upgrading import SHORT, Going, Ledger, Load, copies, head, production, record, releases, state, until

host = Host("scutum-upgrade")


def variables(s3: S3, **extra: Any) -> dict[str, Any]:
    return {"scutum_backup_store": s3.settings, "scutum_env": KEYS, **SHORT, **extra}


def play(name: str, s3: S3, *options: str, **extra: Any) -> Run:
    return playbook(f"{name}.yml", *options, **variables(s3, **extra))


def serves(release: str) -> None:
    assert releases(host) == {release} and host.serves(host.env()["SCUTUM_API_KEY"])
    assert host.env()["SCUTUM_VERSION"] == release


class Pager:
    """On-call's, and a provider's: counts who comes."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        calls = self.calls

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                calls.append(self.path)
                self.send_response(200)
                self.end_headers()

            do_GET = do_POST

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("0.0.0.0", 0), Handler)
        self.place = f"{sources.gateway()}:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture(name="pager", scope="module")
def fixture_pager() -> Iterator[Pager]:
    found = Pager()
    yield found
    found.server.shutdown()


@pytest.fixture(name="installed", scope="module", autouse=True)
def fixture_installed(s3: S3, pager: Pager) -> None:
    """A place for backups, a history, and a subscription that pages."""
    assert playbook("day_one.yml", scutum_backup_store=s3.settings, scutum_env=KEYS).rc == 0
    config = json.dumps({"url": f"http://{pager.place}/"})
    host.psql(
        "INSERT INTO audit_logs(actor_id, action, resource_type, timestamp) "
        "SELECT 'u' || i, 'a', 'r', now() - i * interval '1 hour' FROM generate_series(1, 3000) i; "
        "INSERT INTO event_subscriptions(name, event_types, channel, config) "
        f"""VALUES ('on-call', '["budget.exceeded", "provider.unhealthy"]', 'webhook', '{config}')"""
    )


def test_what_cannot_go_well_is_refused_before_anything(s3: S3) -> None:
    before = production(host)
    early = play("upgrade", s3, "--tags", "promote", scutum_version="0.2.0")
    assert early.rc != 0 and "comes after preflight" in early.flat and state(host, "promote") == "", early.out[-3000:]
    skipped = play("upgrade_preflight", s3, scutum_version="0.3.0", scutum_upgrade_allow_skipped_minor=False)
    assert skipped.rc != 0 and "is left out" in skipped.flat, skipped.out[-3000:]
    other = play("upgrade_preflight", s3, scutum_version="0.2.0", scutum_upgrade_without_staging="0.3.0")
    assert other.rc != 0 and "scutum_upgrade_without_staging is" in other.flat, other.out[-3000:]
    back = play("rollback", s3)
    assert back.rc != 0 and "there is no upgrade to go back from" in back.flat, back.out[-3000:]
    assert production(host) == before


def test_check_mode_says_what_would_be_done_and_a_lost_host_stops_nobody(s3: S3, tmp_path: Path) -> None:
    lost = tmp_path / "lost.yml"
    lost.write_text(
        "scutum:\n  hosts:\n    nobody:\n      ansible_connection: ssh\n      ansible_host: 127.0.0.1\n      ansible_port: 9\n"
    )
    before, images, known = production(host), host.run("docker images -q | sort"), record(host)
    run = play("upgrade", s3, "--check", "-i", str(lost), scutum_version="0.2.0")
    assert run.rc != 0 and run.recap("nobody")["unreachable"] == 1, run.out[-3000:]
    assert run.recap(host.name)["failed"] == 0, run.out[-4000:]
    for number in range(1, 7):
        assert f"({number}/6)" in run.out
    assert production(host) == before and host.run("docker images -q | sort") == images and record(host) == known
    assert not copies(host) and s3.names() == []


def test_one_at_a_time_and_killed_in_the_middle_a_copy_is_left(s3: S3) -> None:
    before = production(host)
    first = Going("upgrade.yml", "--tags", "preflight,stage", **variables(s3, scutum_version="0.2.0"))
    until(lambda: state(host, "stage") == "running" and bool(copies(host)), "the copy begins")
    # It holds still, so that it is there for as long as the second one needs.
    host.run("kill -STOP $(pgrep -f 'scutum_ops[.]cli.* upgrade ')")
    second = play("upgrade_preflight", s3, scutum_version="0.2.0")
    upgrading.kill(host)
    first.kill()
    assert second.rc != 0 and "another upgrade or rollback is running" in second.flat, second.out[-3000:]
    assert copies(host) and production(host) == before
    # The backup that did not exist was taken, and proven.
    assert f"{s3.newest()}/verified.json" in s3.names()


def test_a_migration_that_fails_stops_in_the_copy(s3: S3) -> None:
    """Another target than the copy's that was left over, which goes first."""
    before, data, backup = production(host), upgrading.database(host), s3.newest()
    run = play("upgrade", s3, scutum_version="0.3.0")
    assert run.rc != 0 and state(host, "migrate") == "failed" and state(host, "promote") == "", run.out[-4000:]
    assert production(host) == before and upgrading.database(host) == data and head(host) == "029"
    assert not copies(host) and host.fails("ls -d /opt/scutum-staging") and s3.newest() == backup
    evidence = host.run(f"ls /opt/scutum/.scutum-ops/upgrades/{record(host)['id']}/evidence/staging").split()
    assert evidence, "no log of the copy was kept"
    again = play("upgrade_promote", s3, scutum_version="0.3.0")
    assert again.rc != 0 and production(host) == before, again.out[-3000:]


def test_without_a_rehearsal_it_fails_in_production_and_comes_back_by_itself(s3: S3) -> None:
    data = upgrading.database(host)
    run = play("upgrade", s3, scutum_version="0.3.0", scutum_upgrade_without_staging="0.3.0")
    held = record(host)
    assert run.rc != 0 and held["outcome"] == "rolled_back" and not held["receipt"], run.out[-4000:]
    assert upgrading.database(host) == data and head(host) == "029"
    serves("0.1.0")
    if held["rollback"]["way"] == "restore":
        open_one = play("upgrade_preflight", s3, scutum_version="0.2.0")
        assert open_one.rc != 0 and "scutum_restore_finalize" in open_one.flat, open_one.out[-3000:]
        assert play("restore", s3, scutum_restore_finalize=host.name).rc == 0


def test_preflight_brings_all_that_is_needed_later(s3: S3) -> None:
    before = production(host)
    run = play("upgrade_preflight", s3, scutum_version="0.2.0")
    assert run.rc == 0 and production(host) == before, run.out[-4000:]
    held = record(host)
    digests = {image["digest"] for image in held["images"]["target"].values()}
    assert all(digest.startswith("sha256:") for digest in digests) and held["heads"] == {
        "source": "029",
        "target": "030",
    }
    assert "029 → 030" in run.flat


def test_faults_in_the_copy_are_no_faults_of_production(s3: S3) -> None:
    """Its disk is full; its Postgres restarts while it is migrated. The registry is gone."""
    before, data = production(host), upgrading.database(host)
    host.run("mkdir -p /mnt/small && mount -t tmpfs -o size=32k tmpfs /mnt/small")
    with host.without_registry():
        full = play("upgrade_stage", s3, scutum_version="0.2.0", scutum_upgrade_staging_directory="/mnt/small/copy")
        host.run("umount /mnt/small")
        assert full.rc != 0 and state(host, "stage") == "failed" and "No space left" in full.flat, full.out[-4000:]
        going = Going("upgrade_stage.yml", **variables(s3, scutum_version="0.2.0"))
        until(lambda: state(host, "migrate") != "", "the copy's migration")
        host.run(f"docker restart -t 0 {upgrading.of_copy(host, 'postgres')}", check=False)
        rc, said = going.wait(600)
    assert rc == 0 or state(host, "migrate") == "failed", said[-4000:]
    assert state(host, "promote") == "" and production(host) == before and upgrading.database(host) == data


def test_the_rehearsal_gives_a_receipt_and_nothing_leaves_the_copy(s3: S3, pager: Pager) -> None:
    before = production(host)
    with host.without_registry():
        run = play("upgrade_stage", s3, scutum_version="0.2.0", scutum_upgrade_keep_staging=True)
    assert run.rc == 0, run.out[-4000:]
    held = record(host)
    receipt = held["receipt"]
    assert receipt["images_only"] and receipt["target"] == "0.2.0" and receipt["backup"] == s3.newest(), receipt
    assert receipt["images"] == held["images"] and {"stage", "migrate", "smoke"} <= held["steps"].keys()
    assert production(host) == before
    # The copy was kept for a look: nobody in it reaches anybody, and it has none of production's secrets.
    assert host.run("docker ps --filter label=ops.scutum.staged --format '{{.Ports}}' | grep -c -- '->' || true") == "0"
    secrets = [value for key, value in host.env().items() if ("KEY" in key or "PASSWORD" in key) and len(value) > 8]
    inspected = host.run("docker inspect " + " ".join(copies(host)))
    assert secrets and not [value for value in secrets if value in inspected]
    gateway, port = pager.place.split(":")
    reach = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 3)"
    inside = upgrading.of_copy(host, "admin-api") or upgrading.of_copy(host, "litellm")
    assert inside and not host.fails(f"docker exec {inside} python3 -c pass"), "nothing of the copy runs"
    for place in ((gateway, port), (host.address, "4000"), (host.address, "8086"), ("ghcr.io", "80")):
        assert host.fails(f"docker exec {inside} python3 -c '{reach}' {place[0]} {place[1]}"), place
    postgres, env = upgrading.of_copy(host, "postgres"), host.env()
    # What the rehearsal itself wrote reaches nobody.
    query = "SELECT count(*) FROM event_subscriptions WHERE is_active AND name NOT LIKE 'scutum.ops rehearsal%'"
    ask = f'docker exec {postgres} psql -X -At -U {env["POSTGRES_USER"]} -d {env["POSTGRES_DB"]} -c "{query}"'
    assert host.run(ask) == "0" and pager.calls == []
    host.run("docker rm -f " + " ".join(copies(host)))
    assert host.psql(query) == "1"


def test_a_clock_that_is_wrong_does_not_make_a_receipt_count(s3: S3) -> None:
    before, held = production(host), record(host)
    path = f"/opt/scutum/{upgrading.RECORD}"
    for moved in (-25 * 3600, 25 * 3600):
        wrong = {**held, "receipt": {**held["receipt"], "at": held["receipt"]["at"] + moved}}
        host.run(f"cat > {path}", stdin=json.dumps(wrong))
        run = play("upgrade_promote", s3, scutum_version="0.2.0")
        assert run.rc != 0 and "there is no receipt that counts" in run.flat and "Next:" in run.flat, run.out[-3000:]
    host.run(f"cat > {path}", stdin=json.dumps(held))
    assert production(host) == before and head(host) == "029"


def test_promoted_under_load_although_it_is_killed_and_good(s3: S3) -> None:
    load, ledger = Load(host.address, host.env()["SCUTUM_API_KEY"]), Ledger(host)
    time.sleep(3)
    with host.without_registry():
        going = Going("upgrade_promote.yml", **variables(s3, scutum_version="0.2.0"))
        until(lambda: state(host, "promote") == "running" and head(host) == "030", "the migration")
        upgrading.kill(host)
        going.kill()
        run = play("upgrade_promote", s3, scutum_version="0.2.0")
        assert run.rc == 0, run.out[-4000:]
        promoted = time.time()
        watched = play("upgrade_watch", s3, scutum_version="0.2.0")
    load.end()
    ledger.end()
    held = record(host)
    assert watched.rc == 0 and held["outcome"] == "good" and held["verdict"]["verdict"] == "good", watched.out[-4000:]
    serves("0.2.0")
    assert head(host) == "030" and load.rate() >= 20 and held["requests"]["promote"]["litellm"]["requests"] > 0
    assert not [answer for answer in load.answers if answer.begun > promoted + 1 and not answer.good]
    assert len(ledger.seen) > 100 and upgrading.lost(host, load, ledger) == set()
    page = host.run(f"cat /opt/scutum/.scutum-ops/upgrades/{held['id']}/report.html")
    assert "0.2.0" in page and "<table" in page
    assert host.fails("ls /etc/systemd/system/scutum-ops-upgrade-watch-*")


def test_again_changes_nothing(s3: S3) -> None:
    before, held = production(host), record(host)
    run = play("upgrade", s3, scutum_version="0.2.0")
    assert run.rc == 0 and run.recap(host.name)["changed"] == 0, run.out[-4000:]
    assert production(host) == before and record(host)["id"] == held["id"] and record(host)["outcome"] == "good"


def test_back_by_images_only_with_all_that_was_written_since(s3: S3) -> None:
    """The registry is gone, and somebody has tidied up."""
    load, ledger = Load(host.address, host.env()["SCUTUM_API_KEY"]), Ledger(host)
    host.run("docker image prune -af")
    with host.without_registry():
        planned = play("rollback", s3, "--tags", "plan")
        assert planned.rc == 0 and planned.recap(host.name)["changed"] == 0, planned.out[-3000:]
        serves("0.2.0")
        run = play("rollback", s3)
    time.sleep(2)
    load.end()
    ledger.end()
    held = record(host)
    assert run.rc == 0 and held["outcome"] == "rolled_back" and held["rollback"]["way"] == "images", run.out[-4000:]
    serves("0.1.0")
    assert head(host) == "029" and upgrading.lost(host, load, ledger) == set()
    assert int(host.psql("SELECT count(*) FROM audit_logs WHERE actor_id LIKE 'u%'")) == 3000
    again = play("rollback", s3)
    assert again.rc == 0 and again.recap(host.name)["changed"] == 0, again.out[-3000:]


def test_a_release_that_turns_bad_is_caught_and_rolled_back_with_its_evidence(s3: S3) -> None:
    load, ledger = Load(host.address, host.env()["SCUTUM_API_KEY"]), Ledger(host)
    time.sleep(3)
    run = play(
        "upgrade", s3, scutum_version="0.4.0", scutum_upgrade_without_staging="0.4.0", scutum_upgrade_watch=60,
        # Teams are changed all the time: what cannot be carried over is exported.
        scutum_upgrade_accept_export=True,
    )  # fmt: skip
    time.sleep(2)
    load.end()
    ledger.end()
    held = record(host)
    assert run.rc != 0 and held["outcome"] == "rolled_back" and held["verdict"]["verdict"] == "bad", run.out[-5000:]
    assert held["verdict"]["reasons"] and held["rollback"]["way"] == "restore"
    serves("0.1.0")
    assert head(host) == "029" and load.good("completions")[-1].ended > time.time() - 30
    bad = [answer for answer in load.answers if answer.status == 500]
    assert bad and held["rollback"]["at"] - bad[0].ended < 60
    more = upgrading.exported(host)
    assert len(ledger.seen) > 100 and upgrading.lost(host, load, ledger, more) == set()
    evidence = host.run(f"ls {held['rollback']['evidence']}").split()
    assert {"litellm.log", "admin-api.log", "litellm-metrics.txt", "containers.json"} <= set(evidence), evidence
    assert json.loads(host.run(f"cat {held['rollback']['evidence']}/upgrade.json"))["verdict"]["verdict"] == "bad"
    metrics = host.run("cat /var/lib/prometheus/node-exporter/scutum_upgrade.prom")
    assert "scutum_upgrade_rolled_back{" in metrics and 'target="0.4.0"' in metrics
    assert "was rolled back" in host.run("scutum-ops upgrade-status || true")
