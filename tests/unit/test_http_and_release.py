# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP retries and release bundles, against a real server on loopback."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.scutum.ops.plugins.module_utils import http_client as client
from ansible_collections.scutum.ops.plugins.module_utils import release
from ansible_collections.scutum.ops.plugins.module_utils.admin_api import AdminApi
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError


class Server(http.server.ThreadingHTTPServer):
    """Answers from a table of path to list of (status, headers, body); the last one stays."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, list[tuple[int, dict[str, str], bytes]]] = {}
        self.seen: list[tuple[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append((self.path, self.headers.get("Authorization", "")))
        known = self.server.answers.get(self.path, [(404, {}, b"")])
        status, headers, body = known.pop(0) if len(known) > 1 else known[0]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _answer

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture(name="server")
def fixture_server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


def test_tries_again_on_429_and_503_until_it_works(server: Server) -> None:
    server.answers["/x"] = [(429, {"Retry-After": "0"}, b""), (503, {}, b""), (200, {}, b'{"a": 1}')]
    assert client.request("GET", server.url + "/x", deadline=10).json() == {"a": 1}
    assert len(server.seen) == 3


def test_gives_the_last_answer_when_the_deadline_is_over(server: Server) -> None:
    server.answers["/x"] = [(503, {}, b"busy")]
    assert client.request("GET", server.url + "/x", deadline=0.1).status == 503


def test_no_proxy_sees_what_is_said_to_an_address(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    server.answers["/x"] = [(200, {}, b"{}")]
    assert client.request("GET", server.url + "/x").status == 200
    with pytest.raises(client.NoAnswer):
        client.request("GET", "http://releases.example/x")


def test_what_is_no_http_is_no_answer_and_no_traceback() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def talk() -> None:
            with contextlib.suppress(OSError):
                connection = listener.accept()[0]
                connection.sendall(b"SSH-2.0-OpenSSH\r\n")
                connection.close()

        threading.Thread(target=talk, daemon=True).start()
        with pytest.raises(client.NoAnswer):
            client.request("GET", f"http://127.0.0.1:{listener.getsockname()[1]}/x", timeout=5)
    for url in ("http://exa mple/x", "http://h:PORT/x", "nonsense"):
        with pytest.raises(ScutumError):
            client.request("GET", url)


def test_says_where_nothing_answers() -> None:
    with pytest.raises(client.NoAnswer, match=r"127.0.0.1:9/x: no answer"):
        client.request("GET", "http://127.0.0.1:9/x")


def test_a_dead_token_is_renewed_once(server: Server) -> None:
    server.answers["/auth/login"] = [(200, {}, b'{"access_token": "t1"}'), (200, {}, b'{"access_token": "t2"}')]
    server.answers["/api/v1/audit-logs?limit=1"] = [(200, {}, b"[]"), (401, {}, b""), (200, {}, b"[]")]
    api = AdminApi(server.url, "sk-x", deadline=10)
    assert api.audit_logs() == [] and api.audit_logs() == []
    assert [auth for path, auth in server.seen if "audit" in path] == ["Bearer t1", "Bearer t1", "Bearer t2"]


def test_a_refused_login_names_the_key_and_not_its_value(server: Server) -> None:
    server.answers["/auth/login"] = [(401, {}, b'{"detail": "Invalid API key"}')]
    with pytest.raises(ScutumError, match="Invalid API key") as caught:
        AdminApi(server.url, "sk-canary", deadline=10).audit_logs()
    assert "SCUTUM_API_KEY" in str(caught.value) and "canary" not in str(caught.value)


def test_no_database_is_said_in_the_products_words(server: Server) -> None:
    server.answers["/auth/login"] = [(200, {}, b'{"access_token": "t"}')]
    server.answers["/api/v1/audit-logs?limit=1"] = [(503, {}, b'{"detail": "Database not available"}')]
    with pytest.raises(ScutumError, match="503: Database not available"):
        AdminApi(server.url, "k", deadline=0.1).audit_logs()


@pytest.fixture(name="bundle")
def fixture_bundle(server: Server) -> dict[str, bytes]:
    files = {name: f"text of {name}".encode() for name in release.FILES}
    for name, data in files.items():
        server.answers[f"/v0.1.0/{name}"] = [(200, {}, data)]
    sums = "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items())
    server.answers["/v0.1.0/SHA256SUMS"] = [(200, {}, sums.encode())]
    return files


def test_a_bundle_is_fetched_once_and_checked_afterwards(
    server: Server, bundle: dict[str, bytes], tmp_path: Path
) -> None:
    assert release.fetch(str(tmp_path), "0.1.0", server.url, {})
    count = len(server.seen)
    assert not release.fetch(str(tmp_path), "0.1.0", server.url, {})
    assert len(server.seen) == count, "a bundle that is there needs no server"
    (tmp_path / "releases/0.1.0/scutum").write_text("altered")
    with pytest.raises(ScutumError, match="scutum from .* does not match the sums recorded"):
        release.fetch(str(tmp_path), "0.1.0", server.url, {})


def test_a_wrong_sum_leaves_nothing_behind(server: Server, bundle: dict[str, bytes], tmp_path: Path) -> None:
    server.answers["/v0.1.0/docker-compose.yaml"] = [(200, {}, b"other")]
    with pytest.raises(ScutumError, match="docker-compose.yaml from .* does not match .*SHA256SUMS"):
        release.fetch(str(tmp_path), "0.1.0", server.url, {})
    assert not (tmp_path / "releases").exists()


def test_the_operators_sum_binds_as_well(server: Server, bundle: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(ScutumError, match="does not match scutum_release_sha256"):
        release.fetch(str(tmp_path), "0.1.0", server.url, {"scutum": "0" * 64})


def test_an_unknown_version_is_named_with_its_url(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ScutumError, match=r"release 9.9.9 was not found: .*/v9.9.9/docker-compose.yaml answered 404"):
        release.fetch(str(tmp_path), "9.9.9", server.url, {})


def test_sums_that_cannot_be_read_are_no_reason_to_do_without(
    server: Server, bundle: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answers["/v0.1.0/SHA256SUMS"] = [(500, {}, b"")]
    with pytest.raises(ScutumError, match="SHA256SUMS answered 500: the bundle cannot be checked"):
        release.fetch(str(tmp_path), "0.1.0", server.url, {})
    assert not (tmp_path / "releases").exists()


def test_without_published_sums_a_bundle_is_taken(server: Server, bundle: dict[str, bytes], tmp_path: Path) -> None:
    server.answers["/v0.1.0/SHA256SUMS"] = [(404, {}, b"")]
    assert release.fetch(str(tmp_path), "0.1.0", server.url, {})
