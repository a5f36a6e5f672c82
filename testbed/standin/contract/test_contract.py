"""What the product must do, seen from outside (its traps are marked TRAP); against the stand-in or a real Scutum.

SCUTUM_ADMIN_URL, SCUTUM_LITELLM_URL and SCUTUM_API_KEY say where; the rest of the environment is in ../README.md. Checks
that break something, that need a licence which only the test key can sign, or that use what only the stand-in has, are
skipped unless SCUTUM_CONTRACT_STANDIN=1.
"""

from __future__ import annotations

import csv
import io
import json
import os
import secrets
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import psycopg
import pytest

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

from client import Api, Reply, eventually  # noqa: E402

E = os.environ.get
STANDIN = E("SCUTUM_CONTRACT_STANDIN") == "1"
INTERVAL = float(E("SCUTUM_CONTRACT_INTERVAL", "300"))
MODEL = E("SCUTUM_CONTRACT_MODEL", "gpt-4o-mini")
BROKEN = E("SCUTUM_CONTRACT_BROKEN_MODEL", "broken-provider" if STANDIN else "")
KEYS = E("SCUTUM_LICENCE_KEYS_DIR", "")
FIELDS = {
    "present",
    "valid",
    "expired",
    "tier",
    "customer_email",
    "company",
    "issued_at",
    "expires_at",
    "days_remaining",
    "features",
    "error",
}

pytestmark = pytest.mark.skipif(
    not all(E(name) for name in ("SCUTUM_ADMIN_URL", "SCUTUM_LITELLM_URL", "SCUTUM_API_KEY")),
    reason="SCUTUM_ADMIN_URL, SCUTUM_LITELLM_URL, SCUTUM_API_KEY: nothing to test against (run.py starts a stand-in)",
)
standin = pytest.mark.skipif(not STANDIN, reason="destructive, or the stand-in's own: SCUTUM_CONTRACT_STANDIN=1")
signed = pytest.mark.skipif(not (STANDIN and KEYS), reason="needs SCUTUM_LICENCE_KEYS_DIR, the key that signs licences")
stored = pytest.mark.skipif(not E("SCUTUM_DATABASE_DSN"), reason="needs SCUTUM_DATABASE_DSN")


@pytest.fixture(scope="module")
def anonymous() -> Api:
    return Api(E("SCUTUM_ADMIN_URL", ""))


@pytest.fixture(scope="module")
def admin(anonymous: Api) -> Api:
    return anonymous.login(E("SCUTUM_API_KEY", ""))


@pytest.fixture(scope="module")
def litellm() -> Api:
    api = Api(E("SCUTUM_LITELLM_URL", ""), E("SCUTUM_API_KEY", ""))
    assert eventually(lambda: api.answers("/health/liveliness"), 90), "LiteLLM does not answer"
    return api


def query(sql: str, *values: Any) -> list[Any]:
    with psycopg.connect(E("SCUTUM_DATABASE_DSN", ""), autocommit=True, connect_timeout=5) as connection:
        cursor = connection.execute(sql, values or None)
        return cursor.fetchall() if cursor.description else []


def nonce(word: str = "contract") -> str:
    return f"{word}-{uuid.uuid4().hex[:12]}"


# --- health, login, limits


def test_health_needs_no_login(anonymous: Api) -> None:
    reply = anonymous("GET", "/health")
    assert (reply.status, reply.body) == (200, {"status": "healthy"})


def test_login_gives_a_session(anonymous: Api) -> None:
    body = anonymous("POST", "/auth/login", {"api_key": E("SCUTUM_API_KEY")}).body
    assert (body["token_type"], body["expires_in"]) == ("bearer", 28800)
    assert jwt.get_unverified_header(body["access_token"])["alg"] == "HS256"
    expires = datetime.fromisoformat(body["expires_at"].replace("Z", "+00:00")).timestamp()
    claims = jwt.decode(body["access_token"], options={"verify_signature": False})
    assert abs(claims["exp"] - expires) < 5
    # expires_at may come without a zone: only then is the clock's zone part of the difference.
    assert abs(claims["exp"] - time.time() - 28800) < 120


@pytest.mark.parametrize("key", ["sk-wrong", ""])
def test_login_with_a_wrong_key(anonymous: Api, key: str) -> None:
    reply = anonymous("POST", "/auth/login", {"api_key": key})
    assert (reply.status, reply.body) == (401, {"detail": "Invalid API key"})


@pytest.mark.parametrize("path", ["/api/v1/audit-logs", "/api/v1/audit-logs/export", "/api/v1/events/subscriptions"])
@pytest.mark.parametrize("bearer", ["", "not-a-token"])
def test_the_api_is_closed_without_a_session(anonymous: Api, path: str, bearer: str) -> None:
    assert Api(anonymous.url, bearer)("GET", path).status in (401, 403)


def test_a_token_of_another_secret_is_refused(anonymous: Api) -> None:
    forged = jwt.encode({"sub": "admin", "role": "admin", "exp": time.time() + 60}, "x" * 64, algorithm="HS256")
    assert Api(anonymous.url, forged)("GET", "/api/v1/audit-logs").status == 401


def test_a_body_above_one_mebibyte_is_refused(anonymous: Api) -> None:
    def login(size: int) -> Reply:
        empty = len(json.dumps({"api_key": ""}))
        return anonymous("POST", "/auth/login", json.dumps({"api_key": "x" * (size - empty)}).encode())

    assert login(1 << 20).status == 401
    assert login((1 << 20) + 1).status == 413


# --- migrations and schema


@stored
def test_migrations_are_at_head() -> None:
    assert query("SELECT version_num FROM alembic_version") == [(E("SCUTUM_CONTRACT_HEAD", "029"),)]


@stored
def test_columns_of_the_audit_table() -> None:
    rows = query(
        "SELECT column_name, data_type, character_maximum_length, is_nullable FROM information_schema.columns "
        "WHERE table_schema = 'public' AND table_name = 'audit_logs'"
    )
    zoned, text = "timestamp with time zone", "character varying"
    assert set(rows) == {
        ("id", "uuid", None, "NO"),
        ("timestamp", zoned, None, "YES"),
        ("actor_id", text, 255, "NO"),
        ("actor_email", text, 255, "YES"),
        ("actor_ip", text, 45, "YES"),
        ("org_id", "uuid", None, "YES"),
        ("action", text, 100, "NO"),
        ("resource_type", text, 100, "NO"),
        ("resource_id", text, 255, "YES"),
        ("resource_name", text, 255, "YES"),
        ("changes", "jsonb", None, "YES"),
        ("request_metadata", "jsonb", None, "YES"),
        ("created_at", zoned, None, "YES"),
    }


@stored
def test_indexes_of_the_audit_table() -> None:
    found = {
        row[0].partition(" USING btree ")[2]
        for row in query("SELECT indexdef FROM pg_indexes WHERE tablename = 'audit_logs'")
    }
    assert found >= {'("timestamp" DESC)', "(actor_id)", "(org_id)", "(resource_type, resource_id)", "(action)", "(id)"}


@stored
def test_other_tables_are_there() -> None:
    names = {row[0] for row in query("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}
    assert names >= {"request_logs", "event_log", "provider_health_metrics", "licenses", "LiteLLM_SpendLogs"}


# --- licence; the tests of this part follow each other


def licence(**changes: Any) -> str:
    """A licence of the test key with claims changed (None: removed)."""
    import issue_licence

    return issue_licence.issue(changes.pop("tier", "business"), 365, subject=nonce("c"), **changes)


def activate(api: Api, key: str) -> Reply:
    return api("POST", "/api/v1/license/activate", {"license_key": key})


def test_the_licence_is_public(anonymous: Api) -> None:
    reply = anonymous("GET", "/api/v1/license")
    assert reply.status == 200
    assert set(reply.body) == FIELDS
    assert [type(reply.body[key]) for key in ("present", "valid", "expired")] == [bool] * 3


@standin
def test_without_a_licence_all_is_false(anonymous: Api) -> None:
    body = anonymous("GET", "/api/v1/license").body
    assert [body[key] for key in ("present", "valid", "expired", "tier", "error")] == [False, False, False, None, None]


def test_activation_needs_a_session(anonymous: Api) -> None:
    assert activate(anonymous, "x" * 40).status in (401, 403)


@pytest.mark.parametrize("key", ["", "x" * 19])
def test_a_short_licence_is_not_even_read(admin: Api, key: str) -> None:
    assert activate(admin, key).status == 422


def test_a_licence_that_is_none(admin: Api) -> None:
    reply = activate(admin, "x" * 20)
    assert reply.status == 400
    assert reply.body["detail"].startswith("license could not be decoded: ")


@signed
def test_a_tampered_licence(admin: Api) -> None:
    head, body, signature = licence().split(".")
    forged = ".".join((head, body, signature[:10] + ("A" if signature[10] != "A" else "B") + signature[11:]))
    reply = activate(admin, forged)
    wanted = "license signature does not match — wrong issuer or tampered token"
    assert (reply.status, reply.body) == (400, {"detail": wanted})


@signed
@pytest.mark.parametrize("claim", ["exp", "iat", "tier", "sub", "email"])
def test_a_licence_without_a_claim(admin: Api, claim: str) -> None:
    reply = activate(admin, licence(**{claim: None}))
    assert (reply.status, reply.body) == (
        400,
        {"detail": f'license missing required claim: Token is missing the "{claim}" claim'},
    )


@signed
def test_an_expired_licence_cannot_be_activated(admin: Api) -> None:
    reply = activate(admin, licence(exp=int(time.time() - 3.5 * 86400)))
    assert (reply.status, reply.body) == (400, {"detail": "license expired 3 day(s) ago"})


@signed
def test_an_expired_licence_is_valid_and_expired(admin: Api) -> None:
    """It gets in through the table, as time would do it: only the operative row counts, and it comes back by itself."""
    key = licence(exp=int(time.time() + 5), tier="trial")
    assert activate(admin, key).body["expired"] is False
    body = eventually(lambda: (found := admin("GET", "/api/v1/license").body)["expired"] and found)
    assert body, "never expired"
    assert (body["present"], body["valid"], body["tier"], body["days_remaining"]) == (True, True, "trial", 0)


@signed
def test_an_expired_licence_stops_nothing(admin: Api, litellm: Api) -> None:
    assert admin("GET", "/api/v1/audit-logs").status == 200
    assert completion(litellm).status == 200


@signed
def test_activation_takes_effect_is_kept_and_audited(anonymous: Api, admin: Api) -> None:
    email = f"{nonce()}@example.com"
    old, new = licence(exp=int(time.time() + 90 * 86400)), licence(email=email, company="Contract GmbH")
    assert activate(admin, old).status == 200
    reply = activate(admin, new)
    assert reply.status == 200
    body = reply.body
    assert set(body) == FIELDS
    assert body == anonymous("GET", "/api/v1/license").body | {"days_remaining": body["days_remaining"]}
    given = [body[key] for key in ("present", "valid", "expired", "tier", "customer_email", "company", "error")]
    assert given == [True, True, False, "business", email, "Contract GmbH", None]
    assert body["features"]["audit_retention_days"] == 365
    assert body["days_remaining"] in (364, 365)
    if E("SCUTUM_DATABASE_DSN"):
        active = query("SELECT is_active FROM licenses WHERE license_key IN (%s, %s)", old, new)
        assert active == [(True,), (True,)]
    rows = eventually(lambda: admin("GET", "/api/v1/audit-logs?action=license.activate&limit=5").body)
    assert rows[0]["action"] == "license.activate"


@signed
@pytest.mark.skipif(not E("SCUTUM_DATABASE_DSN"), reason="needs the table")
@pytest.mark.parametrize("change", [{"tier": "platinum"}, {"features": {"note": secrets.token_urlsafe(2200)}}])
def test_a_licence_that_the_table_refuses_is_served_and_not_kept(admin: Api, change: dict[str, Any]) -> None:
    """TRAP: an unknown tier fails the table's check, a token above 2.7 kB its unique index; the failure is only logged."""
    key = licence(**change)
    assert activate(admin, key).status == 200
    assert query("SELECT count(*) FROM licenses WHERE license_key = %s", key) == [(0,)]


@signed
@pytest.mark.skipif(not E("SCUTUM_DATABASE_DSN"), reason="needs the table")
def test_activating_again_switches_a_row_on_again(admin: Api) -> None:
    key = licence()
    assert activate(admin, key).status == 200
    query("UPDATE licenses SET is_active = false WHERE license_key = %s RETURNING 1", key)
    assert activate(admin, key).status == 200
    assert query("SELECT is_active FROM licenses WHERE license_key = %s", key) == [(True,)]


@signed
@pytest.mark.skipif(INTERVAL > 10, reason="the revalidation is minutes away")
def test_the_licence_that_expires_last_wins(anonymous: Api, admin: Api) -> None:
    latest = licence(exp=int(time.time() + 2000 * 86400), tier="enterprise")
    assert activate(admin, latest).status == 200
    assert activate(admin, licence(exp=int(time.time() + 20 * 86400), tier="team")).body["tier"] == "team"
    assert eventually(lambda: anonymous("GET", "/api/v1/license").body["tier"] == "enterprise")


@signed
@pytest.mark.skipif(not E("SCUTUM_CONTRACT_ENV_ADMIN_URL"), reason="needs a second admin-api with LICENSE_KEY set")
def test_the_environments_licence_comes_back() -> None:
    """TRAP: what was activated is replaced by LICENSE_KEY at the next revalidation, older or not."""
    api = Api(E("SCUTUM_CONTRACT_ENV_ADMIN_URL", "")).login(E("SCUTUM_API_KEY", ""))
    assert api("GET", "/api/v1/license").body["customer_email"] == "environment@example.com"
    assert activate(api, licence(email="new@example.com")).body["customer_email"] == "new@example.com"
    back = lambda: api("GET", "/api/v1/license").body["customer_email"] == "environment@example.com"  # noqa: E731
    assert eventually(back, INTERVAL + 10)


# --- audit


@pytest.fixture(scope="module")
def audited(admin: Api) -> str:
    """The name of a team whose creation is in the audit log, with two more after it."""
    if not STANDIN:
        pytest.skip("makes teams: SCUTUM_CONTRACT_STANDIN=1")
    names = [nonce("team") for _ in range(3)]
    for name in names:
        assert admin("POST", "/api/v1/teams", {"name": name}, X_Forwarded_For="203.0.113.9").status == 201
    path = "/api/v1/audit-logs?action=team.create&limit=3"
    assert eventually(lambda: {row["resource_name"] for row in admin("GET", path).body} == set(names))
    return names[0]


def test_the_audit_log_is_a_list_newest_first(admin: Api) -> None:
    reply = admin("GET", "/api/v1/audit-logs?limit=50")
    assert reply.status == 200
    times = [row["timestamp"] for row in reply.body]
    assert times == sorted(times, reverse=True)


def test_limits_of_the_audit_log(admin: Api) -> None:
    assert [admin("GET", f"/api/v1/audit-logs?limit={size}").status for size in (1, 1000, 1001)] == [200, 200, 422]


def test_pages_of_the_audit_log(admin: Api, audited: str) -> None:
    path = "/api/v1/audit-logs?action=team.create"
    both = [row["id"] for row in admin("GET", f"{path}&limit=2").body]
    assert [row["id"] for row in admin("GET", f"{path}&limit=1&offset=1").body] == both[1:]


def test_filters_of_the_audit_log(admin: Api, audited: str) -> None:
    rows = admin("GET", "/api/v1/audit-logs?action=team.create&resource_type=team&limit=3").body
    row = next(row for row in rows if row["resource_name"] == audited)
    assert row["actor_ip"] == "203.0.113.9"
    assert isinstance(row["changes"], dict)
    found = admin("GET", f"/api/v1/audit-logs?actor_id={row['actor_id']}&limit=1000").body
    assert {item["actor_id"] for item in found} == {row["actor_id"]}
    for miss in (f"actor_id={nonce()}", "resource_type=none", "action=none", f"org_id={uuid.uuid4()}"):
        reply = admin("GET", f"/api/v1/audit-logs?{miss}")
        assert (reply.status, reply.body) == (200, [])


@standin
@pytest.mark.parametrize("name", ["start_date", "end_date"])
def test_dates_break_the_audit_log(admin: Api, name: str) -> None:
    """TRAP: a string is bound to a timestamptz parameter."""
    assert admin("GET", f"/api/v1/audit-logs?{name}=2026-01-01T00:00:00Z").status == 500


def test_export_of_the_audit_log(admin: Api, audited: str) -> None:
    as_json = admin("GET", "/api/v1/audit-logs/export?format=json")
    assert as_json.headers["content-type"].startswith("application/json")
    assert audited in {row["resource_name"] for row in as_json.body}
    as_csv = admin("GET", "/api/v1/audit-logs/export?format=csv")
    assert as_csv.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(as_csv.text)))
    assert audited in {row["resource_name"] for row in rows}
    assert {"id", "timestamp", "actor_id", "action", "resource_type"} <= set(rows[0])


@standin
@stored
def test_a_broken_audit_table_loses_rows_silently(admin: Api) -> None:
    """TRAP: the request succeeds, the row is only a warning in the log."""
    query("ALTER TABLE audit_logs RENAME TO audit_logs_away")
    try:
        assert admin("POST", "/api/v1/teams", {"name": nonce("lost")}).status == 201
        assert eventually(lambda: "audit log write failed" in log_of(E("SCUTUM_CONTRACT_ADMIN_CONTAINER", "")))
    finally:
        query("ALTER TABLE audit_logs_away RENAME TO audit_logs")
    assert not query("SELECT 1 FROM audit_logs WHERE resource_name LIKE 'lost-%%' AND action = %s", "team.create")


# --- events


class Sink:
    """An HTTP server that keeps what it gets."""

    def __init__(self, host: str) -> None:
        got = self.got = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                got.append((self.path, json.loads(self.rfile.read(int(self.headers["content-length"])))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer((host, 0), Handler)
        self.url = f"http://{host}:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def sink() -> Iterator[Sink]:
    found = Sink(E("SCUTUM_CONTRACT_SINK_HOST", "127.0.0.1"))
    yield found
    found.server.shutdown()
    found.server.server_close()


@pytest.fixture
def subscribe(admin: Api) -> Iterator[Any]:
    """Makes subscriptions, and deletes them."""
    made: list[str] = []

    def make(channel: str, config: dict[str, Any], kind: str = "budget.exceeded") -> dict[str, Any]:
        body = {"name": nonce(channel), "event_types": [kind], "channel": channel, "config": config, "filters": {}}
        reply = admin("POST", "/api/v1/events/subscriptions", body)
        assert reply.status in (200, 201), reply
        made.append(reply.body["id"])
        return dict(reply.body)

    yield make
    for key in made:
        admin("DELETE", f"/api/v1/events/subscriptions/{key}")


def test_subscriptions_can_be_made_read_changed_and_deleted(admin: Api, subscribe: Any) -> None:
    made = subscribe("webhook", {"url": "http://127.0.0.1:9/"})
    path = f"/api/v1/events/subscriptions/{made['id']}"
    assert made["id"] in {row["id"] for row in admin("GET", "/api/v1/events/subscriptions").body}
    assert admin("GET", path).body["config"] == {"url": "http://127.0.0.1:9/"}
    sent = {key: made[key] for key in ("name", "channel", "config", "filters")} | {"event_types": ["latency.spike"]}
    assert admin("PUT", path, sent).status == 200
    assert admin("GET", path).body["event_types"] == ["latency.spike"]
    assert admin("DELETE", path).status in (200, 204)
    assert admin("GET", path).status == 404


def test_an_event_for_test_is_only_logged(admin: Api, subscribe: Any, sink: Sink) -> None:
    """TRAP: it delivers nothing, so it cannot prove that a subscription works."""
    subscribe("webhook", {"url": f"{sink.url}/hook"})
    before = admin("GET", "/api/v1/events/log?event_type=budget.exceeded&limit=1").body
    assert admin("POST", "/api/v1/events/test", {"event_type": "budget.exceeded"}).status == 200
    after = admin("GET", "/api/v1/events/log?event_type=budget.exceeded&limit=1").body
    assert after != before
    assert after[0]["event_type"] == "budget.exceeded"
    time.sleep(1)
    assert sink.got == []


@standin
def test_what_is_delivered_and_what_is_not(admin: Api, subscribe: Any, sink: Sink) -> None:
    """TRAP: pagerduty and email are accepted, stored and never delivered."""
    hook = subscribe("webhook", {"url": f"{sink.url}/hook"})
    slack = subscribe("slack", {"webhook_url": f"{sink.url}/slack"})
    for channel in ("pagerduty", "email"):
        made = subscribe(channel, {"url": f"{sink.url}/{channel}", "webhook_url": f"{sink.url}/{channel}"})
        assert made["channel"] == channel
    subscribe("webhook", {"url": f"{sink.url}/other"}, "sla.violation")
    payload = {"nonce": nonce()}
    assert admin("POST", "/_standin/emit", {"event_type": "budget.exceeded", "payload": payload}).status == 200
    eventually(lambda: len(sink.got) >= 2)
    time.sleep(0.5)
    assert sorted(path for path, _ in sink.got) == ["/hook", "/slack"]
    body = dict(sink.got)["/hook"]
    assert set(body) == {"event_type", "payload", "subscription"}
    assert (body["event_type"], body["payload"]) == ("budget.exceeded", payload)
    assert hook["name"] in str(body["subscription"])
    assert slack["name"] in str(dict(sink.got)["/slack"])


# --- LiteLLM


def completion(api: Api, model: str = "", **more: Any) -> Reply:
    messages = [{"role": "user", "content": f"Say OK. {nonce()}"}]
    return api("POST", "/v1/chat/completions", {"model": model or MODEL, "messages": messages, "max_tokens": 5, **more})


@pytest.mark.parametrize("path", ["/health/liveliness", "/health/readiness"])
def test_litellm_is_alive(litellm: Api, path: str) -> None:
    assert Api(litellm.url)("GET", path).status == 200


def test_models(litellm: Api) -> None:
    assert MODEL in {row["id"] for row in litellm("GET", "/v1/models").body["data"]}


def test_a_completion(litellm: Api) -> None:
    reply = completion(litellm, disable_fallbacks=True, cache={"no-cache": True})
    assert reply.status == 200, reply
    assert reply.body["choices"][0]["message"]["content"]


@pytest.mark.parametrize("key", ["", "sk-wrong", "none"])
def test_a_wrong_key_gets_nothing(litellm: Api, key: str) -> None:
    # Without a database LiteLLM cannot look a key up: the stand-in says 400 (No connected db.), the product 401.
    assert completion(Api(litellm.url, key)).status == (400 if key and STANDIN else 401)


@pytest.mark.skipif(not BROKEN, reason="needs SCUTUM_CONTRACT_BROKEN_MODEL, a model whose provider is dead")
def test_a_dead_provider_hides_behind_its_fallback(litellm: Api) -> None:
    """TRAP: only with fallbacks switched off does a completion say something about its provider."""
    assert completion(litellm, BROKEN).status == 200
    assert completion(litellm, BROKEN, disable_fallbacks=True).status >= 400


def test_metrics_need_the_key(litellm: Api) -> None:
    completion(litellm)
    assert Api(litellm.url)("GET", "/metrics/").status in (401, 403)

    def found() -> bool:
        reply = litellm("GET", "/metrics/")
        return reply.status == 200 and "litellm_" in reply.text and MODEL in reply.text

    assert eventually(found), litellm("GET", "/metrics/").text[:500]


@stored
def test_a_completion_leaves_a_spend_row(litellm: Api) -> None:
    count = "SELECT count(*) FROM \"LiteLLM_SpendLogs\" WHERE model LIKE '%%' || %s || '%%'"
    before = query(count, MODEL)[0][0]
    assert completion(litellm).status == 200
    # The product writes in batches of up to a minute.
    assert eventually(lambda: query(count, MODEL)[0][0] > before, 15 if STANDIN else 90)


# --- the small services


@pytest.mark.skipif(not E("SCUTUM_SERVICE_URL"), reason="needs SCUTUM_SERVICE_URL")
def test_the_services_ask_for_their_key() -> None:
    api, path = Api(E("SCUTUM_SERVICE_URL", "")), E("SCUTUM_SERVICE_PATH", "/api/v1/run")
    assert api("GET", "/health").status == 200
    assert api("POST", path, {}).status == 401
    assert api("POST", path, {}, X_Service_Key="wrong").status == 401
    # Before any route: a path that does not exist asks for the key, too.
    assert api("GET", "/no-such-path", X_Service_Key="wrong").status == 401
    assert api("GET", "/no-such-path", X_Service_Key=E("SCUTUM_SERVICE_KEY", "")).status == 404
    assert api("POST", path, {}, X_Service_Key=E("SCUTUM_SERVICE_KEY", "")).status < 400


# --- last: without its database


def log_of(container: str) -> str:
    done = subprocess.run(["docker", "logs", container], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


@standin
def test_the_start_is_in_the_log() -> None:
    assert "Database migrations completed" in log_of(E("SCUTUM_CONTRACT_ADMIN_CONTAINER", ""))


@standin
def test_without_the_database(anonymous: Api, admin: Api) -> None:
    """TRAP: health says healthy; only what reads the database says that it is away. Then it comes back by itself."""
    database = E("SCUTUM_CONTRACT_DATABASE_CONTAINER", "")
    subprocess.run(["docker", "stop", "-t", "10", database], check=True, capture_output=True)
    try:
        assert anonymous("GET", "/health").body == {"status": "healthy"}
        assert anonymous("GET", "/api/v1/license").status == 200
        for path in ("/api/v1/audit-logs?limit=1", "/api/v1/events/subscriptions"):
            reply = admin("GET", path)
            assert (reply.status, reply.body) == (503, {"detail": "Database not available"})
        anonymous.login(E("SCUTUM_API_KEY", ""))
    finally:
        subprocess.run(["docker", "start", database], check=True, capture_output=True)
    assert eventually(lambda: admin("GET", "/api/v1/audit-logs?limit=1").status == 200, 20)
