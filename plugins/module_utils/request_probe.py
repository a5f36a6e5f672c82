# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests that count while services are recreated: how many failed, and for how long nothing answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from .admin_api import AdminApi, sign_token
from .errors import ScutumError
from .installation import Installation
from .litellm import LiteLLM

LITELLM, ADMIN_API = SERVICES = ("litellm", "admin-api")
# Seconds for one request: whoever waits longer counts it as failed, too.
TIMEOUT = 2.0
# Seconds between two looks for a service's port where none is published: each look is a call of Compose.
_LOOK = 2.0


@dataclass
class Tally:
    """What one service answered.

    Args:
        since: when it last answered well, else when it was first asked (monotonic).
        down: whether the last request failed.
    """

    since: float
    requests: int = 0
    failed: int = 0
    down_seconds: float = 0.0
    longest: float = 0.0
    down: bool = False

    def add(self, ok: bool, now: float) -> None:
        """Count an answer that came now."""
        self.requests += 1
        if not ok:
            self.failed += 1
            self.down = True
            return
        if self.down:
            self._gap(now)
        self.since, self.down = now, False

    def end(self, now: float) -> None:
        """Nothing more is asked: a service that is still down was so until now."""
        if self.down:
            self._gap(now)
            self.since, self.down = now, False

    def _gap(self, now: float) -> None:
        self.down_seconds += now - self.since
        self.longest = max(self.longest, now - self.since)


class Probe:
    """Asks LiteLLM and admin-api again and again, each from a thread of its own, from the beginning of a `with` block to its end.

    `down_seconds` are those from the last good answer before failures to the first good one after them, so an interval more than
    the service was away at the most.

    Args:
        interval: seconds between the beginnings of two requests; 0 asks nothing.
    """

    def __init__(self, installation: Installation, interval: float) -> None:
        self.installation = installation
        self.interval = interval
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._tallies: dict[str, Tally] = {}

    def __enter__(self) -> Probe:
        if self.interval > 0:
            for service in SERVICES:
                self._tallies[service] = Tally(time.monotonic())
                thread = threading.Thread(target=self._work, args=(service,), name="probe " + service, daemon=True)
                self._threads.append(thread)
                thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ask no more. A request that is under way is waited for, and counts."""
        self._stop.set()
        for thread in self._threads:
            thread.join(2 * TIMEOUT)
        with self._lock:
            for tally in self._tallies.values():
                tally.end(time.monotonic())

    def result(self) -> dict[str, dict[str, float]]:
        """By service `requests`, `failed`, `down_seconds` and `longest` (seconds); empty when nothing was asked."""
        with self._lock:
            return {
                service: {
                    "requests": tally.requests,
                    "failed": tally.failed,
                    "down_seconds": round(tally.down_seconds, 2),
                    "longest": round(tally.longest, 2),
                }
                for service, tally in self._tallies.items()
            }

    def _work(self, service: str) -> None:
        ask: Callable[[], bool] | None = None
        look = 0.0
        due = time.monotonic()
        while not self._stop.is_set():
            if ask is None and time.monotonic() >= look:
                # A service that is down at the beginning has no port yet; until it has one, each request has failed.
                ask = self._asker(service)
                look = time.monotonic() + _LOOK
            ok = ask is not None and _good(ask)
            with self._lock:
                self._tallies[service].add(ok, time.monotonic())
            # Requests that take long are not caught up with.
            due = max(due + self.interval, time.monotonic())
            self._stop.wait(max(0.0, due - time.monotonic()))

    def _asker(self, service: str) -> Callable[[], bool] | None:
        try:
            url = self.installation.url(service)
            if service == LITELLM:
                return LiteLLM(url, self.installation.secret("SCUTUM_API_KEY"), 0, TIMEOUT).accepts_key
            client = AdminApi(url, self.installation.secret("SCUTUM_API_KEY"), 0, TIMEOUT)
            secret = self.installation.secret("JWT_SECRET_KEY")
            if secret:
                # A login could fail just when it is asked for; what is signed here is as good, and lasts a minute.
                return lambda: client.accepts_token(sign_token(secret))
            return lambda: isinstance(client.audit_logs(1), list)
        except (ScutumError, OSError):
            return None


def _good(ask: Callable[[], bool]) -> bool:
    try:
        return ask()
    except (ScutumError, OSError):
        return False
