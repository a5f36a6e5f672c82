# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests counted while services are recreated: against a server that goes away and comes back."""

from __future__ import annotations

import http.server
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from ansible_collections.scutum.ops.plugins.module_utils import request_probe
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation
from ansible_collections.scutum.ops.plugins.module_utils.request_probe import Probe, Tally
from hypothesis import given
from hypothesis import strategies as st

JWT = "j" * 64


class Service:
    """A service on a port of its own that can be stopped, started, and made to fail or to hang."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.server: http.server.ThreadingHTTPServer | None = None
        self.seen: list[tuple[str, str]] = []
        self.status = 200
        self.hang = 0.0

    def start(self) -> None:
        """Listen."""
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def _answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                service.seen.append((self.path, self.headers.get("Authorization", "")))
                time.sleep(service.hang)
                self.send_response(service.status)
                self.end_headers()
                self.wfile.write(b'{"access_token": "t"}' if self.path == "/auth/login" else b"[]")

            do_GET = do_POST = _answer

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections."""
        if self.server:
            self.server.shutdown()
            self.server.server_close()
            self.server = None


class Place(Installation):
    """An installation of two such services."""

    def __init__(self, directory: str) -> None:
        super().__init__(directory)
        self.services = {name: Service() for name in request_probe.SERVICES}
        self.secrets = {"SCUTUM_API_KEY": "sk-1", "JWT_SECRET_KEY": JWT}
        self.asked = 0
        self.published = True

    def url(self, service: str, deadline: float = 0.0) -> str:
        self.asked += 1
        if not self.published:
            raise ScutumError(f"{service} publishes no port on this host")
        return f"http://127.0.0.1:{self.services[service].port}"

    def secret(self, key: str) -> str:
        return self.secrets.get(key, "")


@pytest.fixture(name="place")
def fixture_place(tmp_path: Path) -> Iterator[Place]:
    place = Place(str(tmp_path))
    for service in place.services.values():
        service.start()
    yield place
    for service in place.services.values():
        service.stop()


def until(true: Callable[[], object], seconds: float = 5) -> None:
    """Wait until something is so."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)


def test_one_that_goes_away_is_counted_and_the_other_is_not(place: Place) -> None:
    with Probe(place, 0.05) as probe:
        until(lambda: probe.result()["litellm"]["requests"] >= 3)
        place.services["litellm"].stop()
        stopped = time.monotonic()
        time.sleep(0.5)
        place.services["litellm"].start()
        away = time.monotonic() - stopped
        until(lambda: probe.result()["litellm"]["down_seconds"])
        time.sleep(0.2)
    found = probe.result()
    gateway, admin = found["litellm"], found["admin-api"]
    assert away - 0.05 <= gateway["down_seconds"] == gateway["longest"] <= away + 1, (away, found)
    assert 5 <= gateway["failed"] < gateway["requests"] - 3
    assert admin == {"requests": admin["requests"], "failed": 0, "down_seconds": 0, "longest": 0}
    assert admin["requests"] >= 10 and place.asked == 2
    # It asks no more.
    time.sleep(0.15)
    assert probe.result() == found
    assert {path for path, unused in place.services["litellm"].seen} == {"/v1/models"}
    assert {path for path, unused in place.services["admin-api"].seen} == {"/api/v1/audit-logs?limit=1"}
    token = place.services["admin-api"].seen[-1][1].removeprefix("Bearer ")
    assert jwt.decode(token, JWT, algorithms=["HS256"])["is_admin"] is True


@pytest.mark.parametrize("status", [401, 429, 500, 503])
def test_an_error_is_a_failure_and_is_not_tried_again(place: Place, status: int) -> None:
    place.services["admin-api"].status = place.services["litellm"].status = status
    with Probe(place, 0.05) as probe:
        until(lambda: min(item["requests"] for item in probe.result().values()) >= 4)
    for name, item in probe.result().items():
        assert item["failed"] == item["requests"], (name, item)
        assert len(place.services[name].seen) == item["requests"]
        # It never answered well: it was down from the beginning to the end.
        assert item["down_seconds"] == item["longest"] >= 0.15


def test_one_that_hangs_is_down_after_the_time_out(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_probe, "TIMEOUT", 0.2)
    place.services["litellm"].hang = 1.0
    with Probe(place, 0.05) as probe:
        until(lambda: probe.result()["litellm"]["failed"] >= 2)
    assert probe.result()["litellm"]["failed"] == probe.result()["litellm"]["requests"]
    assert not probe.result()["admin-api"]["failed"]


def test_a_port_that_is_not_published_yet_is_found_later(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_probe, "_LOOK", 0.1)
    place.published = False
    with Probe(place, 0.02) as probe:
        until(lambda: min(item["failed"] for item in probe.result().values()) >= 10)
        # A look is dearer than a request.
        assert place.asked < 10
        place.published = True
        until(lambda: all(item["failed"] < item["requests"] for item in probe.result().values()))
    assert all(item["down_seconds"] > 0.1 for item in probe.result().values())


def test_without_the_key_that_signs_tokens_it_logs_in_once(place: Place) -> None:
    del place.secrets["JWT_SECRET_KEY"]
    with Probe(place, 0.02) as probe:
        until(lambda: probe.result()["admin-api"]["requests"] >= 5)
    seen = [path for path, unused in place.services["admin-api"].seen]
    assert seen.count("/auth/login") == 1 and probe.result()["admin-api"]["failed"] == 0


def test_no_interval_asks_nothing(place: Place) -> None:
    with Probe(place, 0) as probe:
        time.sleep(0.05)
    assert probe.result() == {} and not place.asked


def test_a_failure_inside_ends_it_too(place: Place) -> None:
    with pytest.raises(RuntimeError), Probe(place, 0.02) as probe:
        raise RuntimeError
    before = probe.result()
    time.sleep(0.1)
    assert probe.result() == before


@given(st.lists(st.booleans(), max_size=40))
def test_gaps_reach_from_the_last_good_answer_to_the_next(answers: list[bool]) -> None:
    """An answer a second, against a plain reading of the list."""
    tally = Tally(0.0)
    for second, ok in enumerate(answers, 1):
        tally.add(ok, float(second))
    end = float(len(answers) + 1)
    tally.end(end)
    tally.end(end + 100)
    good = [0, *(second for second, ok in enumerate(answers, 1) if ok)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(good) if later - earlier > 1]
    if answers and not answers[-1]:
        gaps.append(int(end) - good[-1])
    assert (tally.requests, tally.failed) == (len(answers), answers.count(False))
    assert (tally.down_seconds, tally.longest) == (sum(gaps), max(gaps, default=0))
