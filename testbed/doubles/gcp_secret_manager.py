"""A double of Google Cloud Secret Manager's REST API (v1), as far as the collection asks it. README.md says what it keeps to.

Secrets, versions and their states, listing, access tokens of service accounts; a fault mode. What it accepts, Google accepts:
test_double_gcp.py holds it to that with Google's client. Everything is in memory.

Without --token nothing is checked. With it, a request needs that token, or a service account: a token of POST /token or a JWT
the account signed itself. Signatures are not checked. Accounts whose client_email begins with `writer` may do everything, all
others may access, get and list (roles/secretmanager.secretAccessor and viewer).

Google answers with the project's number in names where the project's ID was asked for; the double answers as it was asked.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import datetime
import http.server
import json
import re
import secrets
import threading
import time
import urllib.parse
from typing import Any

PATH = re.compile(r"/v1/(projects/[^/]+)/secrets(?:/([^/:]+)(/versions(?:/([^/:]+))?)?)?(?::(\w+))?")
STATES = {"enable": "ENABLED", "disable": "DISABLED", "destroy": "DESTROYED"}
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
UNAUTHENTICATED = (
    "Expected OAuth 2 access token, login cookie or other valid authentication credential. "
    "See https://developers.google.com/identity/sign-in/web/devconsole-project."
)


class Refusal(Exception):
    """An answer that is an error of Google's form."""

    def __init__(self, code: int, status: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.content = {"error": {"code": code, "message": message, "status": status}}


def crc32c(data: bytes) -> int:
    """The checksum that the API sends and takes (Castagnoli); the standard library has only the other CRC-32."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for unused in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def account_of(token: str) -> str | None:
    """The service account that a JWT names, if it is one and has not expired."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return str(claims["iss"]) if claims["exp"] > time.time() else None
    except (IndexError, KeyError, TypeError, ValueError):
        return None


def page(found: list[dict[str, Any]], kind: str, query: dict[str, str]) -> dict[str, Any]:
    """A page of a list, newest first, of those that the filter leaves."""
    left = [item for item in reversed(found) if matches(item, query.get("filter", ""))]
    try:
        start, size = int(query.get("pageToken") or 0), int(query.get("pageSize") or 0)
    except ValueError:
        raise Refusal(400, "INVALID_ARGUMENT", "Invalid page token or size.") from None
    end = start + (size or 25000)
    content: dict[str, Any] = {kind: left[start:end], "totalSize": len(left)} if left else {}
    return content | ({"nextPageToken": str(end)} if end < len(left) else {})


def matches(item: dict[str, Any], given: str) -> bool:
    """Whether a filter of terms joined by OR and AND takes it: name:PART, state:STATE, labels.KEY=VALUE."""

    def term(text: str) -> bool:
        field, sign, value = re.split(r"([:=])", text.strip(), maxsplit=1)
        if field == "name" and sign == ":":
            return value in str(item["name"]).rpartition("/")[2]
        if field == "state" and "state" in item:
            return bool(item["state"] == value)
        if field.startswith("labels."):
            return bool(item.get("labels", {}).get(field.removeprefix("labels.")) == value)
        raise ValueError(field)

    try:
        return not given or any(all(term(t) for t in part.split(" AND ")) for part in given.split(" OR "))
    except ValueError:
        raise Refusal(400, "INVALID_ARGUMENT", f"Filter [{given}] is not valid.") from None


class SecretManager:
    """The state of the service."""

    def __init__(self, token: str | None) -> None:
        self.root = token
        self.tokens: dict[str, str] = {}
        self.secrets: dict[str, dict[str, Any]] = {}
        self.versions: dict[str, list[dict[str, Any]]] = {}
        self.data: dict[str, bytes] = {}
        self.fault = "none"
        self.reads = 0
        self.lock = threading.Lock()

    def put(self, name: str, data: bytes) -> dict[str, Any]:
        """Add a version to a secret, which is made if it is missing."""
        self.secrets.setdefault(name, {"name": name, "createTime": now(), "replication": {"automatic": {}}})
        versions = self.versions.setdefault(name, [])
        version: dict[str, Any] = {
            "name": f"{name}/versions/{len(versions) + 1}",
            "createTime": now(),
            "state": "ENABLED",
            "replicationStatus": {"automatic": {}},
            "etag": etag(),
        }
        versions.append(version)
        self.data[version["name"]] = data
        return version

    def answer(self, method: str, path: str, query: dict[str, str], headers: Any, body: Any) -> tuple[int, Any]:
        """Status and JSON of an answer; a Refusal is one too."""
        if path == "/test/fault":
            self.fault = str(body["mode"])
            return 200, {}
        if path == "/test/reads":
            return 200, {"reads": self.reads}
        if path == "/token" and method == "POST":
            return self._token(body)
        if self.fault in FAULTS:
            raise Refusal(*FAULTS[self.fault])
        return 200, self._api(method, path, query, headers, body)

    def _token(self, body: Any) -> tuple[int, Any]:
        """Google's token endpoint is another service: faults of this one do not reach it."""
        account = account_of(str(body.get("assertion")))
        if body.get("grant_type") != GRANT:
            return 400, {"error": "unsupported_grant_type", "error_description": "Invalid grant_type"}
        if account is None or self.fault == "revoked":
            return 400, {"error": "invalid_grant", "error_description": "Invalid grant: account not found"}
        token = "ya29." + secrets.token_urlsafe(24)
        self.tokens[token] = account
        return 200, {"access_token": token, "expires_in": 3599, "token_type": "Bearer"}

    def _api(self, method: str, path: str, query: dict[str, str], headers: Any, body: Any) -> dict[str, Any]:
        matched = PATH.fullmatch(path)
        if matched is None:
            raise Refusal(404, "NOT_FOUND", f"Method not found: {method} {path}")
        project, secret, versions, number, verb = matched.groups()
        name = f"{project}/secrets/{secret or query.get('secretId', '')}"
        resource = project if secret is None else f"{name}{versions}/{number}" if number else name
        self._authorize(method, resource, headers)
        self.reads += verb == "access"
        asked = (method, *(bool(part) for part in (secret, versions, number)), verb)
        if asked == ("GET", False, False, False, None):
            return page([s for n, s in self.secrets.items() if n.startswith(f"{project}/")], "secrets", query)
        if asked == ("POST", False, False, False, None):
            return self._create(name, body)
        if name not in self.secrets:
            # Google says "or has no versions" to who names a version; to others that the secret is not there.
            raise Refusal(404, "NOT_FOUND", f"Secret [{name}] not found{' or has no versions' if number else ''}.")
        if asked == ("GET", True, False, False, None):
            return self.secrets[name]
        if asked == ("POST", True, False, False, "addVersion"):
            return self._add(name, body.get("payload") or {})
        if asked == ("GET", True, True, False, None):
            return page(self.versions[name], "versions", query)
        if not number or asked[:1] + asked[4:] not in METHODS:
            raise Refusal(404, "NOT_FOUND", f"Method not found: {method} {path}")
        return self._version(self._find(name, number), verb)

    def _authorize(self, method: str, resource: str, headers: Any) -> None:
        if self.root is None:
            return
        given = str(headers.get("Authorization") or "")
        if not given:
            raise Refusal(
                401, "UNAUTHENTICATED", f"Request is missing required authentication credential. {UNAUTHENTICATED}"
            )
        token = given.removeprefix("Bearer ")
        account = "writer" if token == self.root else self.tokens.get(token) or account_of(token)
        if account is None:
            raise Refusal(401, "UNAUTHENTICATED", f"Request had invalid authentication credentials. {UNAUTHENTICATED}")
        if method != "GET" and not account.startswith("writer"):
            permission = "secretmanager.versions.add" if "/secrets/" in resource else "secretmanager.secrets.create"
            raise Refusal(
                403,
                "PERMISSION_DENIED",
                f"Permission '{permission}' denied for resource '{resource}' (or it may not exist).",
            )

    def _create(self, name: str, body: Any) -> dict[str, Any]:
        if not re.fullmatch(r"[\w-]{1,255}", name.rpartition("/")[2], re.ASCII):
            raise Refusal(400, "INVALID_ARGUMENT", f"Resource ID [{name}] is not in a valid format.")
        if not body.get("replication"):
            raise Refusal(400, "INVALID_ARGUMENT", "Secret.replication must be provided.")
        if name in self.secrets:
            raise Refusal(409, "ALREADY_EXISTS", f"Secret [{name}] already exists.")
        kept = {key: body[key] for key in ("replication", "labels", "annotations") if key in body}
        self.secrets[name] = {"name": name, "createTime": now(), "etag": etag(), **kept}
        self.versions[name] = []
        return self.secrets[name]

    def _add(self, name: str, payload: Any) -> dict[str, Any]:
        try:
            data = base64.b64decode(payload.get("data", ""), validate=True)
        except (binascii.Error, TypeError):
            raise Refusal(400, "INVALID_ARGUMENT", "Invalid value at 'payload.data', base64 decoding failed.") from None
        if not data:
            raise Refusal(400, "INVALID_ARGUMENT", "Secret Payload cannot be empty.")
        if len(data) > 65536:
            raise Refusal(400, "INVALID_ARGUMENT", "The payload is larger than 65536 bytes.")
        if "dataCrc32c" in payload and str(payload["dataCrc32c"]) != str(crc32c(data)):
            raise Refusal(400, "INVALID_ARGUMENT", "The checksum of the payload is not that of the data.")
        version = self.put(name, data)
        if "dataCrc32c" in payload:
            version["clientSpecifiedPayloadChecksum"] = True
        return version

    def _find(self, name: str, number: str) -> dict[str, Any]:
        """The version of that number. `latest` is the newest, whatever its state, as Google has it."""
        versions = self.versions[name]
        if number == "latest" and not versions:
            raise Refusal(404, "NOT_FOUND", f"Secret [{name}] not found or has no versions.")
        if number == "latest":
            return versions[-1]
        if not number.isdecimal():
            raise Refusal(400, "INVALID_ARGUMENT", f"Resource ID [{name}/versions/{number}] is not in a valid format.")
        if not 0 < int(number) <= len(versions):
            raise Refusal(404, "NOT_FOUND", f"Secret Version [{name}/versions/{number}] not found.")
        return versions[int(number) - 1]

    def _version(self, version: dict[str, Any], verb: str | None) -> dict[str, Any]:
        name, state = version["name"], version["state"]
        if (verb == "access" and state != "ENABLED") or (verb and state == "DESTROYED"):
            raise Refusal(400, "FAILED_PRECONDITION", f"Secret Version [{name}] is in {state} state.")
        if verb == "access":
            data = self.data[name]
            held = {"data": base64.b64encode(data).decode(), "dataCrc32c": str(crc32c(data))}
            return {"name": name, "payload": held}
        if verb:
            version |= {"state": STATES[verb], "etag": etag()}
        if verb == "destroy":
            version["destroyTime"] = now()
            del self.data[name]
        return version


def content_of(path: str, raw: bytes) -> Any:
    """The body of a request: the token endpoint takes a form, all else JSON."""
    if path == "/token":
        return dict(urllib.parse.parse_qsl(raw.decode()))
    try:
        return json.loads(raw) if raw else {}
    except ValueError:
        raise Refusal(400, "INVALID_ARGUMENT", "Invalid JSON payload received.") from None


def now() -> str:
    """The time, as Google writes it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def etag() -> str:
    """A new one."""
    return f'"{secrets.token_hex(7)}"'


METHODS = {("GET", None), ("GET", "access"), *(("POST", verb) for verb in STATES)}
FAULTS: dict[str, tuple[int, str, str]] = {
    "denied": (
        403,
        "PERMISSION_DENIED",
        "Permission 'secretmanager.versions.access' denied on resource (or it may not exist).",
    ),
    "busy": (
        429,
        "RESOURCE_EXHAUSTED",
        "Quota exceeded for quota metric 'Access requests' and limit 'Access requests per minute' of service "
        "'secretmanager.googleapis.com' for consumer 'project_number:1'.",
    ),
    "unavailable": (503, "UNAVAILABLE", "The service is currently unavailable."),
    "broken": (500, "INTERNAL", "Internal error encountered."),
}


class Handler(http.server.BaseHTTPRequestHandler):
    """HTTP around it; faults that are no answers are made here."""

    server: Server

    def _any(self) -> None:
        manager = self.server.manager
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(parts.path)
        query = dict(urllib.parse.parse_qsl(parts.query))
        asked = path.startswith("/v1/")
        if asked and manager.fault == "slow":
            time.sleep(self.server.slow)
        if asked and manager.fault == "closed":
            self.connection.close()
            return
        try:
            with manager.lock:
                status, content = manager.answer(self.command, path, query, self.headers, content_of(path, raw))
        except Refusal as refusal:
            status, content = refusal.code, refusal.content
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=UTF-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if asked and manager.fault == "truncated" else data)

    do_GET = do_POST = do_PATCH = do_DELETE = _any

    def log_message(self, *unused: Any) -> None:
        """Say nothing: paths are enough to know, and tokens are in headers."""


class Server(http.server.ThreadingHTTPServer):
    """The server; `slow` is how many seconds the fault of that name takes."""

    daemon_threads = True

    def __init__(self, token: str | None = None, port: int = 0, slow: float = 30) -> None:
        super().__init__(("0.0.0.0", port), Handler)
        self.manager = SecretManager(token)
        self.slow = slow


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8300)
    parser.add_argument("--token", help="ask for this token or a service account; nothing is checked without it")
    given = parser.parse_args()
    Server(given.token, given.port).serve_forever()


if __name__ == "__main__":
    main()
