# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The client for Scutum's admin API. Every call to port 8086 is made here."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

from . import http_client as http
from .errors import ScutumError


class AdminApi:
    """Scutum's admin API at a base URL, logged in with SCUTUM_API_KEY when a call needs it.

    Args:
        base_url: such as `http://127.0.0.1:8086`.
        api_key: SCUTUM_API_KEY; exchanged for a token at the first call that needs one.
        deadline: seconds within which 429, 502, 503, 504 and refused connections are tried again.
        timeout: seconds for one try.
    """

    def __init__(self, base_url: str, api_key: str = "", deadline: float = 30.0, timeout: float = 10.0) -> None:
        self.base_url = base_url.rstrip("/")
        self._api_key = api_key
        self._token = ""
        self.deadline = deadline
        self.timeout = timeout

    def _call(self, method: str, path: str, body: Any = None, auth: bool = True) -> http.Response:
        headers = {"Authorization": "Bearer " + self._login()} if auth else {}
        answer = self._request(method, path, body, headers)
        if auth and answer.status == 401:
            # A token dies with JWT_SECRET_KEY or after 8 hours: log in once more, then believe the answer.
            self._token = ""
            answer = self._request(method, path, body, {"Authorization": "Bearer " + self._login()})
        return answer

    def _request(self, method: str, path: str, body: Any, headers: dict[str, str] | None = None) -> http.Response:
        # One try takes no longer than all of them may.
        timeout = min(self.timeout, self.deadline) if self.deadline >= 1 else self.timeout
        url = self.base_url + path
        return http.request(method, url, body=body, headers=headers, timeout=timeout, deadline=self.deadline)

    def _json(self, method: str, path: str, body: Any = None, auth: bool = True) -> Any:
        answer = self._call(method, path, body, auth)
        if answer.status >= 400:
            raise ScutumError(f"admin-api: {method} {path} answered {answer.status}: {_detail(answer)}")
        return answer.json()

    def _login(self) -> str:
        if self._token:
            return self._token
        answer = self._request("POST", "/auth/login", {"api_key": self._api_key})
        if answer.status in (401, 403):
            raise ScutumError(
                f"admin-api: login refused ({answer.status}: {_detail(answer)})",
                next_step="compare SCUTUM_API_KEY in config/.env with the one in the running container: "
                "the container keeps the value with which it was created until it is recreated",
            )
        data = answer.json()
        if answer.status != 200 or not isinstance(data, dict) or not data.get("access_token"):
            raise ScutumError(f"admin-api: POST /auth/login answered {answer.status}: {_detail(answer)}")
        self._token = str(data["access_token"])
        return self._token

    def accepts_key(self) -> bool:
        """Whether it lets SCUTUM_API_KEY in."""
        return self._verdict(self._request("POST", "/auth/login", {"api_key": self._api_key}), "POST /auth/login")

    def accepts_token(self, token: str) -> bool:
        """Whether it takes a token for one of its own."""
        path = "/api/v1/audit-logs?limit=1"
        return self._verdict(self._request("GET", path, None, {"Authorization": "Bearer " + token}), f"GET {path}")

    @staticmethod
    def _verdict(answer: http.Response, call: str) -> bool:
        if answer.status in (200, 401, 403):
            return answer.status == 200
        raise ScutumError(f"admin-api: {call} answered {answer.status}: {_detail(answer)}")

    def health(self) -> bool:
        """Whether the process answers. It says nothing about the database: use `audit_logs` for that."""
        try:
            return self._call("GET", "/health", auth=False).status == 200
        except http.NoAnswer:
            return False

    def health_state(self) -> dict[str, Any]:
        """What /health says."""
        return self._object("/health")

    def reported_version(self) -> str:
        """What it calls its own version; empty when it does not say. The image's label is what counts."""
        try:
            about = self._object("/openapi.json").get("info")
        except ScutumError:
            return ""
        return str(about.get("version") or "") if isinstance(about, dict) else ""

    def licence(self) -> dict[str, Any]:
        """The licence state of the worker process that happens to answer (each worker has its own)."""
        return self._object("/api/v1/license")

    def _object(self, path: str) -> dict[str, Any]:
        found = self._json("GET", path, auth=False) or {}
        if not isinstance(found, dict):
            raise ScutumError(f"admin-api: GET {path} did not answer with an object")
        return found

    def activate_licence(self, token: str) -> dict[str, Any]:
        """Activate a licence; the answer is the state of the worker that took it.

        Raises:
            ScutumError: the product refuses it (400, 422), or us (401, 403).
            NoAnswer: nothing answered; it may have been accepted all the same.
        """
        path = "/api/v1/license/activate"
        answer = self._call("POST", path, {"license_key": token})
        if answer.status in (400, 422):
            raise ScutumError(
                f"admin-api refused the licence ({answer.status}): {_detail(answer)}",
                left="the licence in force stays",
                next_step="if the token was checked here without a complaint, compare the clocks of host and container "
                "(date -u), and the release's license-public.pem with the one in the image",
            )
        if answer.status in (401, 403):
            raise ScutumError(
                f"admin-api does not let SCUTUM_API_KEY activate a licence ({answer.status}: {_detail(answer)})",
                left="the licence in force stays",
                next_step="use the key of an administrator: SCUTUM_API_KEY in config/.env",
            )
        if answer.status == 429:
            raise ScutumError(
                f"admin-api: too many requests ({_detail(answer)}), also after {self.deadline:.0f} s",
                left="the licence in force stays",
                next_step=f"run the playbook again in {answer.headers.get('retry-after', '60')} s, or raise "
                "scutum_license_timeout",
            )
        data = answer.json()
        if answer.status != 200 or not isinstance(data, dict):
            raise ScutumError(
                f"admin-api: POST {path} answered {answer.status}: {_detail(answer)}",
                left="the licence may have been stored: the next run looks",
                next_step="run the playbook again when admin-api is well (scutum-ops verify)",
            )
        return data

    def subscribe(self, name: str) -> str:
        """Make an event subscription that reaches nobody; its id."""
        body = {
            "name": name,
            "event_types": ["budget.exceeded"],
            "channel": "webhook",
            "config": {"url": "http://127.0.0.1:9/"},
            "filters": {},
        }
        return str((self._json("POST", "/api/v1/events/subscriptions", body) or {}).get("id", ""))

    def subscription(self, key: str) -> str:
        """The name of an event subscription."""
        return str((self._json("GET", f"/api/v1/events/subscriptions/{key}") or {}).get("name", ""))

    def audit_logs(self, limit: int = 1) -> list[dict[str, Any]]:
        """The newest audit rows: the cheapest call that needs login, database and schema."""
        rows = self._json("GET", f"/api/v1/audit-logs?limit={int(limit)}")
        if not isinstance(rows, list):
            raise ScutumError("admin-api: GET /api/v1/audit-logs did not answer with a list")
        return rows


def sign_token(secret: str) -> str:
    """A token as admin-api makes it at a login (vendor: create_access_token in src/admin-api/auth.py), for a minute.

    Args:
        secret: JWT_SECRET_KEY.
    """
    now = int(time.time())
    claims = {"sub": "scutum-ops", "role": "admin", "is_admin": True, "iat": now, "exp": now + 60}
    body = ".".join(_base64(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
    return f"{body}.{_base64(hmac.new(secret.encode(), body.encode(), hashlib.sha256).digest())}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _detail(answer: http.Response) -> str:
    data = answer.json()
    if isinstance(data, dict) and isinstance(data.get("detail"), list):
        # FastAPI's 422 repeats what was sent, which may be a secret: only the place and the reason are shown.
        found = [item for item in data["detail"] if isinstance(item, dict)]
        return "; ".join(f"{'.'.join(map(str, item.get('loc', [])))}: {item.get('msg')}" for item in found)[:300]
    if isinstance(data, dict) and "detail" in data:
        return str(data["detail"])[:300]
    return answer.text[:300]
