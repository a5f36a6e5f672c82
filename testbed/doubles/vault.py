"""A double of Vault's HTTP API, as far as the collection asks it: no package carries the server. README.md says what it keeps to.

KV 2 with versions, KV 1, AppRole and token auth, namespaces; a fault mode. What it accepts, Vault accepts: contract_vault.py holds it
to that with hvac. Everything is in memory.
"""

from __future__ import annotations

import argparse
import http.server
import json
import secrets
import threading
import time
import urllib.parse
from typing import Any


class Vault:
    """The state of one server."""

    def __init__(self, root_token: str) -> None:
        self.tokens: dict[str, str] = {root_token: "root"}
        self.roles: dict[str, str] = {}
        # By method and role: the JWT that is accepted; a certificate is checked by TLS, which a double does not speak.
        self.logins: dict[str, str] = {}
        self.kv2: dict[str, list[dict[str, Any] | None]] = {}
        self.kv1: dict[str, dict[str, Any]] = {}
        # Policies of tokens that a login gave: paths below which a reader may read, and a writer (a role_id that begins so) write as well.
        self.readable = ("secret/data/scutum", "kv1/scutum", "ns/secret/data/scutum")
        self.fault = "none"
        self.reads = 0
        self.lock = threading.Lock()

    def answer(self, method: str, path: str, query: dict[str, str], headers: Any, body: Any) -> tuple[int, Any]:
        """Status and JSON of an answer."""
        if path == "/test/fault":
            self.fault = str(body["mode"])
            return 200, {}
        if path == "/test/reads":
            return 200, {"reads": self.reads}
        if path in ("/v1/sys/seal-status", "/v1/sys/health"):
            # Only the health check changes its status: who asks for the seal gets an answer.
            status = 503 if self.fault == "sealed" and path.endswith("health") else 200
            return status, {"sealed": self.fault == "sealed", "initialized": True}
        if self.fault in FAULTS:
            return FAULTS[self.fault]
        if path == "/v1/auth/approle/login" and method == "POST":
            return self._approle(body)
        if path in ("/v1/auth/jwt/login", "/v1/auth/cert/login") and method == "POST":
            return self._login(path.split("/")[3], body)
        policy = self.tokens.get(headers.get("X-Vault-Token", ""))
        if policy is None:
            return 403, {"errors": ["permission denied"]}
        namespace = (headers.get("X-Vault-Namespace") or "").strip("/")
        place = (namespace + "/" if namespace else "") + path.removeprefix("/v1/")
        allowed = method == "GET" or policy == "writer"
        if policy != "root" and not (allowed and place.startswith(self.readable)):
            return 403, {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}
        if place.startswith("auth/approle/role/") and method == "POST":
            self.roles[str(body["role_id"])] = str(body["secret_id"])
            return 204, None
        return self._kv2(method, place, query, body) if "/data/" in place else self._kv1(method, place, body)

    def _approle(self, body: Any) -> tuple[int, Any]:
        if self.roles.get(str(body.get("role_id"))) != str(body.get("secret_id")):
            return 400, {"errors": ["invalid role or secret ID"]}
        return self._give_token("writer" if str(body["role_id"]).startswith("writer") else "reader")

    def _login(self, method: str, body: Any) -> tuple[int, Any]:
        wanted = self.logins.get(f"{method}:{body.get('role') or body.get('name')}")
        if wanted is None or wanted != str(body.get("jwt") or ""):
            return 400, {
                "errors": [
                    "error validating token: invalid audience (aud) claim" if method == "jwt" else "invalid certificate"
                ]
            }
        return self._give_token()

    def _give_token(self, policy: str = "reader") -> tuple[int, Any]:
        token = "hvs." + secrets.token_urlsafe(24)
        self.tokens[token] = policy
        return 200, {"auth": {"client_token": token, "lease_duration": 3600, "renewable": True, "policies": [policy]}}

    def _kv2(self, method: str, place: str, query: dict[str, str], body: Any) -> tuple[int, Any]:
        versions = self.kv2.setdefault(place, [])
        if method in ("POST", "PUT"):
            wanted = (body.get("options") or {}).get("cas")
            if wanted is not None and wanted != len(versions):
                return 400, {"errors": ["check-and-set parameter did not match the current version"]}
            versions.append(dict(body["data"]))
            return 200, {"data": {"version": len(versions)}}
        if method == "DELETE" and versions:
            versions[-1] = None
            return 204, None
        self.reads += 1
        number = int(query.get("version") or 0) or len(versions)
        if not 0 < number <= len(versions):
            return 404, {"errors": []}
        data = versions[number - 1]
        metadata = {"version": number, "destroyed": False, "deletion_time": "" if data else "2026-01-01T00:00:00Z"}
        return (200 if data is not None else 404), {"data": {"data": data, "metadata": metadata}}

    def _kv1(self, method: str, place: str, body: Any) -> tuple[int, Any]:
        if method in ("POST", "PUT"):
            self.kv1[place] = dict(body)
            return 204, None
        self.reads += 1
        return (200, {"data": self.kv1[place]}) if place in self.kv1 else (404, {"errors": []})


FAULTS: dict[str, tuple[int, Any]] = {
    "sealed": (503, {"errors": ["Vault is sealed"]}),
    "denied": (403, {"errors": ["permission denied"]}),
    "busy": (429, {"errors": ["rate limit quota exceeded"]}),
    "broken": (500, {"errors": ["internal error"]}),
}


class Handler(http.server.BaseHTTPRequestHandler):
    """HTTP around it; faults that are no answers are made here."""

    server: Server

    def _any(self) -> None:
        vault = self.server.vault
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(parts.query))
        asked = not parts.path.startswith("/test/")
        if asked and vault.fault == "slow":
            time.sleep(self.server.slow)
        if asked and vault.fault == "closed":
            self.connection.close()
            return
        with vault.lock:
            status, content = vault.answer(
                self.command, parts.path, query, self.headers, json.loads(raw) if raw else {}
            )
        data = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if asked and vault.fault == "truncated" else data)

    do_GET = do_POST = do_PUT = do_DELETE = _any

    def log_message(self, *unused: Any) -> None:
        """Say nothing: paths are enough to know, and tokens are in headers."""


class Server(http.server.ThreadingHTTPServer):
    """The server; `slow` is how many seconds the fault of that name takes."""

    daemon_threads = True

    def __init__(self, root_token: str, port: int = 0, slow: float = 30) -> None:
        super().__init__(("0.0.0.0", port), Handler)
        self.vault = Vault(root_token)
        self.slow = slow


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8200)
    parser.add_argument("--root-token", default="canary-root-token-1b7e")
    given = parser.parse_args()
    Server(given.root_token, given.port).serve_forever()


if __name__ == "__main__":
    main()
