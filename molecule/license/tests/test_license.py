"""Licences on a real host, seen from outside: the table, the endpoint over fresh connections, containers, files, mail."""

from __future__ import annotations

import email
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import leaks
import pytest
from aiosmtpd.controller import Controller
from licensing import Licensed, expected, issue
from scenario import BIN, REPO

INTERVAL = 5
host = Licensed("scutum-license", INTERVAL)


def recreated(before: dict[str, str]) -> set[str]:
    after = host.containers()
    return {name for name in before if before[name] != after.get(name)}


def test_a_first_licence_goes_through_the_api_and_the_environment_stays_empty() -> None:
    before = host.containers()
    key = host.token("first", "team", 20)
    planned = host.license(key, "--check")
    assert planned.rc == 0 and "activate team for ops@example.com" in planned.flat and "+ tier: team" in planned.flat
    assert host.writes() == 0 and host.psql("SELECT count(*) FROM licenses") == "0"
    run = host.license(f"\n {key}\n")
    assert run.rc == 0 and "active: activate team" in run.flat, run.out[-3000:]
    assert host.served() == expected("team", 20) and recreated(before) == set()
    assert host.env()["LICENSE_KEY"] == ""
    again = host.license(key)
    assert again.recap("scutum-license")["changed"] == 0 and host.writes() == 1, again.out[-3000:]
    assert "it was in force already" in again.flat


def test_a_renewal_keeps_the_old_row_and_needs_no_restart() -> None:
    before = host.containers()
    run = host.license(host.token("renewal", "business", 365))
    assert run.rc == 0 and run.recap("scutum-license")["changed"] >= 1, run.out[-3000:]
    time.sleep(INTERVAL + 1)
    assert host.served() == expected("business", 365) and recreated(before) == set()
    assert host.psql("SELECT tier, is_active FROM licenses ORDER BY created_at") == "team|t\nbusiness|t"


@pytest.mark.parametrize("workers", [1, 4])
def test_an_old_key_in_the_environment_does_not_come_back(workers: int) -> None:
    if workers > 1:
        host.with_workers(workers, SCUTUM_STANDIN_LICENSE_INTERVAL=str(INTERVAL))
    host.old_environment(host.token(f"old-{workers}", "trial", 30))
    assert host.served() == expected("trial", 30)
    count = host.writes()
    key = host.token(f"over-old-{workers}", "business", 400 + workers)
    code, result = host.job(key, "--environment-key", "refuse")
    assert code == 1 and "environment_key forbids to touch it" in result["error"] and host.writes() == count
    before = host.containers()
    run = host.license(key)
    assert run.rc == 0, run.out[-3000:]
    assert "recreate admin-api, whose environment has another LICENSE_KEY; all else goes on serving" in run.flat
    assert recreated(before) == {"scutum-admin-api"} and host.env()["LICENSE_KEY"] == ""
    after = host.containers()
    host.run("cd /opt/scutum && ./scutum up")
    assert host.containers() == after, "once is enough"
    time.sleep(INTERVAL + 2)
    host.settles(expected("business", 400 + workers))
    code, result = host.job(key)
    assert (code, result["changed"], host.writes()) == (0, False, count + 1)


def test_four_workers_are_pending_until_each_has_looked_again() -> None:
    # On a busy machine each may have looked again before it was asked.
    for attempt in range(3):
        days = 500 + attempt
        key = host.token(f"four-{attempt}", "business", days)
        code, result = host.job(key, "--wait", "0")
        if result["status"] == "pending":
            break
    assert (code, result["status"], result["answers"]) == (0, "pending", 80) and result["agreeing"] < 80, result
    code, result = host.job(key)
    assert (code, result["status"], result["changed"]) == (0, "active", False) and result["agreeing"] == 80
    host.settles(expected("business", days))


def test_workers_that_stay_stale_are_named() -> None:
    host.run("docker exec scutum-admin-api touch /tmp/standin-stale")
    code, result = host.job(host.token("stale", "business", 600), "--wait", "8")
    assert code == 1 and "a worker of admin-api still answers with another licence" in result["error"], result
    assert "restart admin-api: cd /opt/scutum && docker compose" in result["error"]
    host.run("docker exec scutum-admin-api rm /tmp/standin-stale; docker restart scutum-admin-api")
    host.answering()
    code, result = host.job(host.tokens["stale"])
    assert (code, result["status"], result["changed"]) == (0, "active", False)


def test_a_longer_row_is_refused_or_switched_off_and_kept() -> None:
    rows = host.psql("SELECT count(*) FROM licenses")
    short = host.token("shorter", "enterprise", 300)
    code, result = host.job(short)
    assert code == 1 and "allow_earlier_expiry" in result["error"] and "longer_licenses=deactivate" in result["error"]
    code, result = host.job(short, "--allow-earlier-expiry", "--longer-licenses", "deactivate")
    assert (code, result["status"]) == (0, "active"), result
    assert host.psql("SELECT count(*) FROM licenses") == str(int(rows) + 1)
    time.sleep(INTERVAL + 1)
    host.settles(expected("enterprise", 300))


def test_bad_tokens_are_refused_before_anything_is_sent() -> None:
    count = host.writes()
    good = host.token("never", "enterprise", 900)
    head, body, signature = good.split(".")
    altered = f"{head}.{body}.{signature[:40]}{'A' if signature[40] != 'A' else 'B'}{signature[41:]}"
    for name, key, wanted in (
        ("cut", good[:-20], "a paste that was cut"),
        ("altered", altered, "not signed by the key"),
        ("expired", issue("enterprise", -3), "expired 3 day(s) ago"),
        ("foreign", issue("enterprise", 900, email="other@example.org"), "another customer"),
        ("less", issue("team", 900), "tier team instead of enterprise"),
    ):
        # Refused tokens are the likeliest to be repeated in a message.
        host.tokens[f"refused-{name}"] = key
        code, result = host.job(key)
        assert code == 1 and wanted in result["error"] and "nothing was sent" in result["error"], result
    run = host.license(good[:-20])
    assert run.rc != 0 and "scutum_license_key has a signature of" in run.flat
    both = host.license(good, scutum_env={"LICENSE_KEY": "x"})
    assert both.rc != 0 and "scutum_env.LICENSE_KEY and scutum_license_key are both set" in both.flat
    assert host.writes() == count


@pytest.mark.parametrize(
    ("status", "detail", "wanted"),
    [
        (401, "Invalid or expired token", "does not let SCUTUM_API_KEY activate a licence (401"),
        (403, "Admin access required", "does not let SCUTUM_API_KEY activate a licence (403"),
        (422, "license_key", "admin-api refused the licence (422"),
    ],
)
def test_what_the_product_refuses_is_said(status: int, detail: str, wanted: str) -> None:
    host.fault(status=status, detail=detail, times=2)
    code, result = host.job(host.token(f"refused-{status}", "enterprise", 700))
    assert code == 1 and wanted in result["error"] and "State: the licence in force stays" in result["error"], result


def test_429_and_503_are_tried_again_and_a_late_answer_counts() -> None:
    for number, options in enumerate(({"status": 429, "headers": {"Retry-After": "1"}}, {"status": 503})):
        host.fault(**options)
        code, result = host.job(host.token(f"again-{number}", "enterprise", 710 + number))
        assert (code, result["status"]) == (0, "active"), result
    count = host.psql("SELECT count(*) FROM licenses")
    host.fault(delay=4, times=9)
    code, result = host.job(host.token("late", "enterprise", 720), "--timeout", "2")
    host.fault(times=0, delay=0)
    assert (code, result["status"]) == (0, "active"), "accepted, although the answer came too late"
    assert host.psql("SELECT count(*) FROM licenses") == str(int(count) + 1)
    code, result = host.job(host.tokens["late"])
    assert (code, result["changed"]) == (0, False)


def test_admin_api_down_is_said_and_found_again() -> None:
    host.run("docker stop -t 2 scutum-admin-api")
    code, result = host.job(host.token("down", "enterprise", 730), "--timeout", "2")
    host.run("docker start scutum-admin-api")
    host.answering()
    assert code == 1 and "admin-api publishes no port on this host: its container is exited" in result["error"], result
    assert "up -d admin-api" in result["error"]
    code, result = host.job(host.tokens["down"])
    assert (code, result["status"]) == (0, "active"), result


def info(**arguments: object) -> str:
    """The module license_info, on this machine: it has neither the host's files nor its keys."""
    command = [str(BIN / "ansible"), "localhost", "-m", "scutum.ops.license_info", "-a", json.dumps(arguments)]
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(REPO / ".cache/collections"), "ANSIBLE_NOCOLOR": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=REPO)
    return " ".join(done.stdout.split())


def test_license_info_needs_no_credentials() -> None:
    found = info(url=f"http://{host.address}:8086", connections=10)
    for text in ("tier: enterprise", "valid: true", "expired: false", "consistent: true", "answers: 10", "warning: ''"):
        assert text in found, found
    assert "audit_retention_days: 2555" in found and "table:" not in found
    assert "no answer (" in info(url="http://127.0.0.1:9", timeout=0)


def test_a_key_in_the_environment_that_the_table_does_not_hold_is_kept() -> None:
    host.old_environment("no-token-at-all-but-somebodys")
    assert "conflict  LICENSE_KEY in the environment" in host.run("scutum-ops license || true")
    # As an AWX survey sends it: there are only texts.
    run = host.license(
        host.token("kept", "enterprise", 1600), scutum_license_allow_downgrade="false", scutum_license_watch="true"
    )
    assert run.rc == 0 and "environment: another licence" in run.flat, run.out[-3000:]
    kept = host.run(f"cd {host.directory}/.scutum-ops/replaced && stat -c %a license-key-* && cat license-key-*")
    assert kept == "600\nno-token-at-all-but-somebodys" and host.env()["LICENSE_KEY"] == ""


def test_the_command_on_the_host_says_the_same() -> None:
    out = host.run("scutum-ops license")
    assert "served    enterprise for ops@example.com" in out and "retention 2555 days" in out and "agreement yes" in out


class Inbox:
    """What a real mail server received."""

    def __init__(self) -> None:
        self.subjects: list[str] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.subjects.append(str(email.message_from_bytes(envelope.content)["Subject"]))
        return "250 OK"


@pytest.fixture(name="inbox")
def fixture_inbox() -> Iterator[Inbox]:
    inbox = Inbox()
    server = Controller(inbox, hostname="0.0.0.0", port=2525)
    server.start()
    yield inbox
    server.stop()


def test_metrics_and_one_mail_for_each_step(inbox: Inbox) -> None:
    gateway = host.run("ip -4 route show default").split()[2]
    mail = {
        "scutum_notify_mail_to": ["on-call@example.com"],
        "scutum_notify_smtp_host": gateway,
        "scutum_notify_smtp_port": 2525,
    }
    key = host.token("short", "enterprise", 6.5)
    options = {"scutum_license_allow_earlier_expiry": True, "scutum_license_longer_licenses": "deactivate"}
    run = host.license(key, **options, **mail)
    assert run.rc == 0, run.out[-3000:]
    host.run("systemctl start scutum-ops-license-watch.service")
    first = "Scutum: messages of the jobs on scutum-license arrive here"
    assert inbox.subjects == [first, "Scutum licence expires in 6 day(s) (/opt/scutum)"]
    text = host.run("cat /var/lib/prometheus/node-exporter/scutum_license.prom")
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert values["scutum_license_consistent"] == values["scutum_license_endpoint_valid"] == "1"
    assert values["scutum_license_table_active_rows"] != "0" and values["scutum_license_environment_conflict"] == "0"
    assert abs(float(values["scutum_license_table_expires_timestamp_seconds"]) - time.time() - 6.5 * 86400) < 600
    assert host.run("systemctl is-enabled scutum-ops-license-watch.timer") == "enabled"


WRONG_TYPES: dict[str, object] = {
    "scutum_license_allow_customer_change": "perhaps",
    "scutum_license_allow_downgrade": "perhaps",
    "scutum_license_allow_earlier_expiry": "perhaps",
    "scutum_license_longer_licenses": "drop",
    "scutum_license_environment_key": "keep",
    "scutum_license_wait": "soon",
    "scutum_license_timeout": "soon",
    "scutum_license_watch": "perhaps",
    "scutum_license_watch_random_delay": "soon",
    "scutum_notify_mail_to": {"a": 1},
    "scutum_notify_smtp_port": "mail",
    "scutum_notify_smtp_starttls": "perhaps",
    "scutum_notify_webhook_headers": "x",
}


def test_wrong_types_are_all_named_and_a_wrong_calendar_is_explained() -> None:
    run = host.license("", **WRONG_TYPES)
    missing = [name for name in WRONG_TYPES if f"'{name}'" not in run.flat and f"{name} must be one" not in run.flat]
    assert run.rc != 0 and not missing, f"not refused: {missing}\n{run.out[-3000:]}"
    run = host.license("", scutum_license_watch_calendar="now and then")
    assert run.rc != 0 and "'now and then' of scutum-ops-license-watch is not one that systemd understands" in run.flat
    assert "systemd-analyze calendar 'now and then' says why" in run.flat


def test_a_mail_server_that_does_not_take_mail_is_seen_at_once() -> None:
    run = host.license("", scutum_notify_mail_to="a@example.com", scutum_notify_smtp_host="127.0.0.1")
    assert run.rc != 0 and "not told: Scutum: messages of the jobs" in run.flat and "scutum_notify_" in run.flat


def test_the_watch_is_taken_away_with_its_metrics() -> None:
    off = host.license("", scutum_license_watch="no")
    assert off.rc == 0 and off.recap(host.name)["changed"] == 1, off.out[-3000:]
    assert host.fails("ls /etc/systemd/system/scutum-ops-license-watch.*")
    assert host.fails("test -e /var/lib/prometheus/node-exporter/scutum_license.prom")
    assert host.license("", scutum_license_watch="no").recap(host.name)["changed"] == 0


def test_no_token_lies_about() -> None:
    assert not [name for name, token in host.tokens.items() if token in "\n".join(host.spoken)]
    # The table's own files, dumps of it, what was taken out of an environment, and the environment that a test gave one.
    allowed = re.compile(
        r"/var/lib/docker/volumes/[^/]*postgres-data/|/opt/scutum/\.scutum-ops/(guard|replaced)/|/var/lib/docker/containers/|docker inspect"
    )
    found = {place for hits in leaks.places(host, host.tokens).values() for place in hits}
    assert found and not [place for place in found if not allowed.match(place)]
