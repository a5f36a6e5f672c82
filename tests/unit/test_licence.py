# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Licences: the offline check against PyJWT as the oracle, what speaks against a token, retention, the ladder, messages."""

from __future__ import annotations

import base64
import email
import hashlib
import hmac
import http.server
import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any, cast

import jwt
import pytest
from aiosmtpd.controller import Controller
from ansible_collections.scutum.ops.plugins.module_utils import (
    licence,
    licence_activation,
    licence_token,
    licence_watch,
    metrics,
    notify,
    schedule,
    stack,
)
from ansible_collections.scutum.ops.plugins.module_utils.admin_api import AdminApi
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

DAY = 86400
NOW = time.time()


@pytest.fixture(scope="module", name="pair")
def fixture_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ed25519PrivateKey, str]:
    """An issuer's key, and the path of its public half."""
    key = Ed25519PrivateKey.generate()
    path = tmp_path_factory.mktemp("keys") / "license-public.pem"
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    path.write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, form))
    return key, str(path)


def claims(**changes: Any) -> dict[str, Any]:
    """The claims of a business licence; None leaves one out."""
    found = {
        "sub": "c-1",
        "email": "ops@example.com",
        "company": "Example",
        "tier": "business",
        "iat": int(NOW - 60),
        "exp": int(NOW + 365 * DAY),
        "features": {"audit_retention_days": 365},
    }
    return {name: value for name, value in (found | changes).items() if value is not None}


def sign(key: Any, **changes: Any) -> str:
    """A token."""
    return jwt.encode(claims(**changes), key, algorithm="EdDSA")


def refusal(text: str, public: str, now: float | None = None) -> str:
    """Why a token is refused; the token must not be in it."""
    with pytest.raises(ScutumError) as error:
        licence_token.check(text, public, now)
    message = str(error.value)
    assert "nothing was sent and nothing was changed" in message and error.value.next_step
    assert not text.strip() or len(text) < 20 or text.strip()[-20:] not in message
    return message


def sign_null(key: Any) -> str:
    """A token with a claim that is null."""
    return jwt.encode(claims() | {"email": None}, key, algorithm="EdDSA")


def b64(data: Any) -> str:
    """JSON as a part of a token."""
    return base64.urlsafe_b64encode(json.dumps(data).encode()).rstrip(b"=").decode()


def test_a_good_token_is_taken_white_space_and_all(pair: tuple[Any, str]) -> None:
    key, public = pair
    token = licence_token.check(f"\n  {sign(key)}\r\n", public)
    assert (token.tier, token.email, token.customer) == ("business", "ops@example.com", "c-1")
    assert token.text == sign(key) and "text" not in repr(token) and token.text not in repr(token)


def test_each_kind_of_bad_token_has_its_message(pair: tuple[Any, str]) -> None:
    key, public = pair
    good = sign(key)
    head, body, signature = good.split(".")
    other = Ed25519PrivateKey.generate()
    pem = Path(public).read_bytes()
    forged = b64({**claims(), "tier": "enterprise"})
    # PyJWT refuses to sign HS256 with a PEM: the attack is made by hand.
    hs_head = b64({"alg": "HS256", "typ": "JWT"})
    mac = base64.urlsafe_b64encode(hmac.new(pem, f"{hs_head}.{body}".encode(), hashlib.sha256).digest()).rstrip(b"=")
    cases = {
        "": "is empty",
        "  \n": "is empty",
        good[:-20]: "has a signature of",
        good[: len(head) + 30]: "2 part(s) where there have to be 3",
        f"{head}.{body[:-3]}.{signature}": "cannot be decoded",
        good[:100] + "\n" + good[100:]: "white space inside, after 100 characters",
        sign(other): "not signed by the key of this release",
        f"{head}.{forged}.{signature}": "not signed by the key of this release",
        jwt.encode(claims(), None, algorithm="none"): "alg 'none'",
        jwt.encode(claims(), None, algorithm="none") + "AAAA": "alg 'none'",
        f"{head}.{b64([])[:-2]}{'W1tb' * 500}.{signature}": "cannot be decoded",
        sign_null(key): "lacks the claim(s) email",
        f"{hs_head}.{body}.{mac.decode()}": "alg 'HS256'",
        sign(key, exp=int(NOW - 2.5 * DAY)): "expired 2 day(s) ago",
        sign(key, tier=None, email=None): "lacks the claim(s) tier, email",
        sign(key, tier="platinum"): "unknown tier 'platinum'; known are trial, team, business, enterprise",
        sign(key, features=["sso"]): "features that is not a mapping",
        sign(key, sub=""): "names no customer",
        sign(key, iat=int(NOW + DAY)): "is not valid before",
        sign(key, nbf=int(NOW + DAY)): "is not valid before",
        "x" * 100_000: "has 100000 characters",
    }
    for text, wanted in cases.items():
        assert wanted in refusal(text, public), wanted


@pytest.mark.parametrize(("shift", "wanted"), [(-1, "is not valid before"), (+1, "expired 0 day(s) ago")])
def test_a_clock_that_is_wrong_by_a_day_is_named(pair: tuple[Any, str], shift: int, wanted: str) -> None:
    key, public = pair
    text = sign(key, iat=int(NOW - 3600), exp=int(NOW + 12 * 3600))
    licence_token.check(text, public)
    message = refusal(text, public, NOW + shift * DAY)
    assert wanted in message and f"this host's clock says {licence_token.moment(NOW + shift * DAY)}" in message
    assert "timedatectl" in message


def test_without_the_key_or_openssl_nothing_is_believed(
    pair: tuple[Any, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, public = pair
    with pytest.raises(ScutumError, match="is missing: no licence can be checked"):
        licence_token.check(sign(key), str(tmp_path / "none.pem"))
    broken = tmp_path / "broken.pem"
    broken.write_text("not a key")
    with pytest.raises(ScutumError, match="openssl could not check the licence"):
        licence_token.check(sign(key), str(broken))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ScutumError, match="install the package openssl"):
        licence_token.check(sign(key), public)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_token_gets_what_pyjwt_would_say(pair: tuple[Any, str], data: st.DataObject) -> None:
    """Whatever is changed: what PyJWT, which the product uses, would refuse is refused here."""
    key, public = pair
    text = sign(key)
    place = data.draw(st.integers(0, len(text) - 1))
    text = text[:place] + data.draw(st.sampled_from("ABab01_-.=/ ")) + text[place + 1 :]
    try:
        jwt.decode(
            text, Path(public).read_bytes(), algorithms=["EdDSA"], options={"require": list(licence_token.REQUIRED)}
        )
        accepted = True
    except jwt.PyJWTError:
        accepted = False
    try:
        licence_token.check(text, public)
    except ScutumError:
        return
    assert accepted


@pytest.mark.parametrize(
    ("tier", "features", "in_force", "days"),
    [
        ("enterprise", {"audit_retention_days": 30}, True, 2555),
        ("enterprise", {}, True, 2555),
        ("business", {"audit_retention_days": 400}, True, 400),
        ("business", {}, True, 365),
        ("team", {"audit_retention_days": None}, True, 90),
        ("trial", {}, True, 30),
        ("trial", {"audit_retention_days": 0}, True, None),
        ("trial", {"audit_retention_days": True}, True, None),
        ("trial", {"audit_retention_days": "30"}, True, None),
        ("business", {}, False, None),
        ("platinum", {"audit_retention_days": 5}, True, None),
        ("None", {}, False, None),
    ],
)
def test_retention(tier: str, features: dict[str, Any], in_force: bool, days: int | None) -> None:
    assert licence.retention_days(tier, features, in_force) == days


def row(**changes: Any) -> dict[str, Any]:
    """A row of the table, as `Database.licences` gives it."""
    found = {
        "id": "00000000-0000-0000-0000-000000000001",
        "fingerprint": "f",
        "tier": "business",
        "customer_id": "c-0",
        "customer_email": "ops@example.com",
        "features": {"sso": True, "max_admins": 50, "audit_retention_days": 365},
        "active": True,
        "expires_at": NOW + 30 * DAY,
        "created_at": NOW - 300 * DAY,
    }
    return found | changes


def objections(key: Any, rows: list[dict[str, Any]], held: str = "", **request: Any) -> list[str]:
    """What speaks against a renewal with these rows in the table."""
    token = licence_token.read(sign(key, **request.pop("claims", {})))
    survey = licence.Survey(rows=rows, container_key=held, file_key=held, workers=1)
    asked = licence_activation.Request(token=token.text, **request)
    return licence_activation._objections(cast(Any, None), token, survey, asked)


def test_objections_and_what_allows_them(pair: tuple[Any, str], monkeypatch: pytest.MonkeyPatch) -> None:
    key, _public = pair
    image = [""]
    monkeypatch.setattr(stack, "other_image", lambda *unused: image[0])
    less = {"features": {"sso": False, "max_admins": 5}, "tier": "team"}
    assert objections(key, []) == [] and objections(key, [row()]) == []
    assert objections(key, [row(customer_email="OPS@example.com")]) == []
    assert "another customer" in objections(key, [row(customer_email="x@y.z")])[0]
    assert objections(key, [row(customer_email="x@y.z", customer_id="c-1")]) == []
    assert objections(key, [row(customer_email="x@y.z")], allow_customer_change=True) == []
    lost = objections(key, [row()], claims=less)
    assert (
        len(lost) == 1
        and "tier team instead of business; audit_retention_days 90 instead of 365; max_admins 5" in lost[0]
    )
    assert objections(key, [row()], claims=less, allow_downgrade=True) == []
    assert "max_admins 50 instead of unlimited" in objections(
        key, [row(features={"max_admins": None})], claims={"features": {"max_admins": 50}}
    )[0]  # fmt: skip
    early = {"exp": int(NOW + 10 * DAY)}
    both = objections(key, [row()], claims=early)
    assert len(both) == 2 and "allow_earlier_expiry" in both[0] and "longer_licenses=deactivate" in both[1]
    assert objections(key, [row()], claims=early, allow_earlier_expiry=True, longer_rows="deactivate") == []
    # A row that is not in force, but would be at the next start.
    assert "would lose at the next start" in objections(key, [row(expires_at=NOW + 900 * DAY)])[-1]
    assert objections(key, [row(active=False, expires_at=NOW + 900 * DAY)]) == []
    foreign = sign(key, sub="c-1", exp=int(NOW + DAY))
    assert objections(key, [], foreign) == []
    assert "forbids to touch it" in objections(key, [], foreign, environment="refuse")[0]
    assert objections(key, [], sign(key), environment="refuse") == []
    # The environment's licence is worth less than the row that was paid for: both count.
    paid = row(tier="enterprise", expires_at=NOW + 10 * DAY)
    assert "tier business instead of enterprise" in objections(key, [paid], foreign)[0]
    image[0] = "scutum-admin-api:0.2.0"
    assert "would start another image (scutum-admin-api:0.2.0)" in objections(key, [], foreign)[0]


@pytest.mark.parametrize(
    ("old", "new", "enough"),
    [
        (True, True, True), (False, True, True), (True, False, False), (True, None, False), (True, [], False),
        (50, 50, True), (50, 60, True), (50, 5, False), (50, None, True), (None, 50, False), (50, "50", False),
        (["a"], ["a", "b"], True), (["a", "b"], ["a"], False), ("x", "x", True), ("x", "y", False), (1, True, False),
    ],
)  # fmt: skip
def test_what_counts_as_less(old: Any, new: Any, enough: bool) -> None:
    assert licence_activation._as_much(old, new) is enough


def test_retention_that_gets_shorter_is_a_loss(pair: tuple[Any, str]) -> None:
    key, _public = pair
    long = row(features={"audit_retention_days": 400})
    assert "audit_retention_days 365 instead of 400" in objections(key, [long], claims={"features": {}})[0]
    # Enterprise keeps 2555 days whatever stands there.
    assert objections(key, [long], claims={"features": {}, "tier": "enterprise"}) == []


def test_of_two_that_end_together_the_later_row_wins(pair: tuple[Any, str]) -> None:
    key, _public = pair
    token = licence_token.read(sign(key))
    twin = row(expires_at=token.expires_at)
    ours = row(id="2", fingerprint=token.fingerprint, expires_at=token.expires_at, created_at=NOW - DAY)
    assert licence_activation._longer(token, [twin]) == []
    assert licence_activation._longer(token, [ours, twin]) == []
    assert licence_activation._longer(token, [twin | {"created_at": NOW}, ours]) == [twin | {"created_at": NOW}]


def test_workers_of_a_container() -> None:
    def count(**config: Any) -> int:
        return licence.workers({"Config": config})

    assert count(Cmd=["uvicorn", "main:app"]) == 1 and licence.workers(None) == 1
    assert count(Cmd=["uvicorn", "--workers", "4"]) == 4 and count(Entrypoint=["uvicorn", "--workers=3"], Cmd=None) == 3
    assert count(Cmd=["uvicorn"], Env=["WEB_CONCURRENCY=2"]) == 2 and count(Env=["WEB_CONCURRENCY=auto"]) == 1
    assert count(Cmd=["sh", "-c", "exec uvicorn main:app --workers 4"]) == 4 and count(Cmd=["gunicorn", "-w", "3"]) == 3
    assert count(Cmd=["uvicorn", "--workers", "0"]) == 1


@pytest.mark.parametrize(
    ("days", "wanted"),
    [
        (31, ""),
        (30, "30"),
        (14.5, "30"),
        (14, "14"),
        (7.0, "7"),
        (1.01, "7"),
        (0.5, "1"),
        (0.004, "1"),
        (0, "expired"),
        (-9, "expired"),
    ],
)
def test_the_ladder(days: float, wanted: str) -> None:
    assert licence_watch.step(days) == wanted and licence_watch.step(None) == ""


class Inbox:
    """What a real mail server received."""

    def __init__(self) -> None:
        self.subjects: list[str] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        message = email.message_from_bytes(envelope.content)
        self.subjects.append(str(message["Subject"]))
        return "250 OK"


class Place:
    """The two things that the watch asks an installation for."""

    def __init__(self, path: Path) -> None:
        self.private = str(path)
        self.directory = "/opt/scutum"


def status(days: float, **changes: Any) -> dict[str, Any]:
    """What `licence.status` returns."""
    end = licence_token.moment(NOW + days * DAY)
    table = {"rows": 1, "active": 1, "tier": "business", "customer_email": "ops@example.com", "expires_at": end}
    shown = {key: table[key] for key in ("tier", "customer_email", "expires_at")}
    found = {**shown, "valid": True, "expired": days <= 0, "days_remaining": days, "consistent": True, "table": table}
    found |= {"in_force": shown | changes.pop("in_force", {}), "table_error": "", "endpoint_error": ""}
    return {**found, "environment_conflict": False, **changes}


def test_each_step_is_said_once_and_again_only_when_it_failed(tmp_path: Path) -> None:
    def told(due: str, **more: Any) -> bool:
        return licence_watch._tell_once(cast(Any, Place(tmp_path)), status(6, **more), due)

    assert told("7") is False, "nobody to tell"
    inbox = Inbox()
    server = Controller(inbox, hostname="127.0.0.1", port=free_port())
    where = {"host": "127.0.0.1", "port": server.port, "sender": "a@example.com", "to": ["on-call@example.com"]}
    (tmp_path / notify.FILE).write_text(json.dumps({"mail": where}))
    with pytest.raises(ScutumError, match="not told: Scutum licence expires in 6"):
        told("7")
    server.start()
    try:
        assert [told("7"), told("7"), told("1"), told("1"), told("expired")] == [True, False, True, False, True]
        assert len(inbox.subjects) == 3
        assert inbox.subjects[0].startswith("Scutum licence expires in 6 day(s)")
        assert told("30", in_force={"customer_email": "renewed@example.com"}) is True, "a renewal begins anew"
        # Whichever of two licences is looked at: each of its steps was told.
        assert [told("7"), told("30", in_force={"customer_email": "renewed@example.com"})] == [False, False]
        (tmp_path / licence_watch._STATE).write_text("[]")
        assert told("7") is True, "better twice than never"
    finally:
        server.stop()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_way_that_worked_is_not_used_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "DEADLINE", 0.0)
    done: list[str] = ["mail"]
    url = f"http://127.0.0.1:{free_port()}/secret-path"
    with pytest.raises(ScutumError) as error:
        notify.send({"mail": {"to": ["x"]}, "webhook": {"url": url}}, "s", "t", {}, done)
    assert done == ["mail"] and "secret-path" not in str(error.value)


class Web(http.server.ThreadingHTTPServer):
    """Answers by a table of path to (status, headers, body) that are used up, the last one stays; keeps what came."""

    def __init__(self, answers: dict[str, list[tuple[int, dict[str, str], Any]]]) -> None:
        super().__init__(("127.0.0.1", 0), WebHandler)
        self.answers = answers
        self.came: list[tuple[str, str, dict[str, str], bytes]] = []
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server_port}"


class WebHandler(http.server.BaseHTTPRequestHandler):
    server: Web

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.server.lock:
            self.server.came.append((self.command, self.path, dict(self.headers), body))
            known = self.server.answers.get(self.path, [(404, {}, {})])
            status, headers, content = known.pop(0) if len(known) > 1 else known[0]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    do_GET = do_POST = _any

    def log_message(self, *unused: Any) -> None:
        pass


def test_a_webhook_gets_a_json_object_and_a_redirect_is_not_taken_for_told() -> None:
    web = Web({"/hook": [(204, {}, {})], "/moved": [(301, {"Location": "/hook"}, {})]})
    done: list[str] = []
    hook = {"url": web.url + "/hook", "headers": {"Authorization": "Bearer tok\n"}}
    notify.send({"webhook": hook}, "subject", "text", {"event": "license.expiry", "step": "7"}, done)
    method, _path, headers, body = web.came[0]
    assert (done, method, headers["Authorization"]) == (["webhook"], "POST", "Bearer tok")
    sent = json.loads(body)
    assert (
        sent["source"] == "scutum.ops" and sent["event"] == "license.expiry" and sent["host"] and sent["text"] == "text"
    )
    with pytest.raises(ScutumError, match="answered 301; a redirect is not followed"):
        notify.send({"webhook": {"url": web.url + "/moved"}}, "subject", "text", {}, done := [])
    assert done == [] and len(web.came) == 2
    with pytest.raises(ScutumError) as error:
        notify.send({"webhook": {"url": "no-scheme/secret", "headers": {"A": "se\ncret"}}}, "s", "t", {}, [])
    assert "secret" not in str(error.value) and "scutum_notify_webhook_url" in str(error.value)
    web.shutdown()


TOKEN_ANSWER = [(200, {}, {"access_token": "t"})]
PATH = "/api/v1/license/activate"


@pytest.mark.parametrize(
    ("answers", "wanted"),
    [
        ({PATH: [(401, {}, {"detail": "Invalid token"})]}, "does not let SCUTUM_API_KEY activate a licence (401"),
        ({PATH: [(403, {}, {"detail": "Admin required"})]}, "does not let SCUTUM_API_KEY activate a licence (403"),
        ({"/auth/login": [(403, {}, {"detail": "not an admin"})]}, "login refused (403: not an admin)"),
        ({"/auth/login": [(401, {}, {"detail": "Invalid API key"})]}, "login refused (401: Invalid API key)"),
        (
            {PATH: [(422, {}, {"detail": [{"loc": ["body", "license_key"], "msg": "too short", "input": "SECRET"}]})]},
            "admin-api refused the licence (422): body.license_key: too short",
        ),
        ({PATH: [(400, {}, {"detail": "license expired 3 day(s) ago"})]}, "(400): license expired 3 day(s) ago"),
        ({PATH: [(429, {"Retry-After": "60"}, {"detail": "slow down"})]}, "too many requests (slow down)"),
        ({PATH: [(503, {}, {"detail": "Database not available"})]}, "answered 503: Database not available"),
    ],
)  # fmt: skip
def test_what_the_product_refuses_is_said_without_the_token(answers: dict[str, Any], wanted: str) -> None:
    web = Web({"/auth/login": list(TOKEN_ANSWER)} | answers)
    with pytest.raises(ScutumError) as error:
        AdminApi(web.url, "sk-1", deadline=1).activate_licence("SECRET")
    assert wanted in str(error.value) and "SECRET" not in str(error.value)
    web.shutdown()


def test_retry_after_is_waited_for() -> None:
    web = Web({"/auth/login": list(TOKEN_ANSWER), PATH: [(429, {"Retry-After": "2"}, {}), (200, {}, {"valid": True})]})
    start = time.monotonic()
    assert AdminApi(web.url, "sk-1", deadline=30).activate_licence("SECRET") == {"valid": True}
    assert time.monotonic() - start >= 2
    web.shutdown()


def answer(tier: str, days: float) -> dict[str, Any]:
    """What GET /api/v1/license says."""
    end = licence_token.moment(NOW + days * DAY)
    return {"present": True, "valid": True, "expired": days < 0, "tier": tier, "customer_email": "a@b.c",
            "expires_at": end, "features": {}, "error": None}  # fmt: skip


def test_workers_that_disagree_make_retention_unknown() -> None:
    path = "/api/v1/license"
    web = Web({path: [(200, {}, answer("trial", 5))] * 3 + [(200, {}, answer("enterprise", 500))]})
    found = licence.look(AdminApi(web.url), 8)
    assert (found["consistent"], found["audit_retention_days"], found["tier"]) == (False, None, "trial")
    assert len(found["served"]) == 2
    found = licence.look(AdminApi(web.url), 8)
    assert (found["consistent"], found["audit_retention_days"], found["tier"]) == (True, 2555, "enterprise")
    web.shutdown()


class Asked:
    """What `licence.status` asks an installation for."""

    def __init__(self, url: str) -> None:
        self.url = url

    def admin_api(self, deadline: float) -> AdminApi:
        return AdminApi(self.url, deadline=0)


def test_status_when_a_place_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    web = Web({"/api/v1/license": [(200, {}, answer("business", 5))]})

    def refuse(unused: Any) -> licence.Survey:
        raise ScutumError("Postgres: its container does not run")

    monkeypatch.setattr(licence, "survey", refuse)
    found = licence.status(cast(Any, Asked(web.url)))
    assert found["table_error"] and found["audit_retention_days"] is None and not found["consistent"]
    assert licence_watch.due(found) == "7", "the endpoint knows when it ends"
    values = {name: value for name, (_text, _labels, value) in licence_watch.gauges(found).items()}
    assert values["scutum_license_table_up"] == 0 and values["scutum_license_endpoint_up"] == 1
    assert "table     unknown: Postgres" in licence.text(found)
    mine = row(tier="business", customer_email="a@b.c", expires_at=float(int(NOW + 5 * DAY)))
    monkeypatch.setattr(licence, "survey", lambda unused: licence.Survey([mine], "", "", 1))
    assert licence.status(cast(Any, Asked(web.url)))["consistent"] is True
    # An old trial in the environment: the endpoint shows it, the table does not, and nothing may be dropped on it.
    other = licence.Survey([mine | {"tier": "enterprise", "expires_at": NOW + 900 * DAY}], "x.y.z", "x.y.z", 1)
    monkeypatch.setattr(licence, "survey", lambda unused: other)
    found = licence.status(cast(Any, Asked(web.url)))
    assert (found["consistent"], found["environment_conflict"], found["audit_retention_days"]) == (False, True, None)
    web.shutdown()
    web.server_close()
    monkeypatch.setattr(licence, "survey", lambda unused: licence.Survey([mine], "", "", 1))
    found = licence.status(cast(Any, Asked(web.url)))
    assert found["endpoint_error"] and licence_watch.due(found) == "7", "the table knows when it ends"


def test_words_of_a_unit_are_what_they_were() -> None:
    assert schedule.quoted("/opt/scutum") == "/opt/scutum" and schedule.quoted("100%") == "100%%"
    assert schedule.quoted('/srv/my "x"$y') == '"/srv/my \\"x\\"$$y"'


def test_metrics_are_what_prometheus_reads(tmp_path: Path) -> None:
    path = metrics.write(str(tmp_path), "scutum_license", licence_watch.gauges(status(5, customer_email='a"b\\c')))
    text = Path(path).read_text()
    assert 'scutum_license_info{customer="a\\"b\\\\c",tier="business"} 1\n' in text
    assert "scutum_license_table_active_rows 1\n" in text and "scutum_license_consistent 1\n" in text
    assert f"scutum_license_table_expires_timestamp_seconds {int(NOW + 5 * DAY)}\n" in text
    assert os.stat(path).st_mode & 0o777 == 0o644
    with pytest.raises(ScutumError, match="scutum_metrics_directory"):
        metrics.write(str(tmp_path / "none"), "x", {})
