"""A client of the contract's own, on the standard library: what it sends and gets is what is on the wire."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any, NamedTuple


class Reply(NamedTuple):
    """Status, body as text, headers."""

    status: int
    text: str
    headers: dict[str, str]

    @property
    def body(self) -> Any:
        """The body as JSON."""
        return json.loads(self.text)


class Api:
    """A base URL, and a bearer that goes with every request."""

    def __init__(self, url: str, bearer: str = "") -> None:
        self.url = url.rstrip("/")
        self.bearer = bearer

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """Send JSON (or raw bytes); a status of 4xx or 5xx is an answer like any other."""
        sent = {"Content-Type": "application/json", **{key.replace("_", "-"): value for key, value in headers.items()}}
        if self.bearer:
            sent.setdefault("Authorization", f"Bearer {self.bearer}")
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, sent, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return Reply(reply.status, reply.read().decode(), dict(reply.headers))
        except urllib.error.HTTPError as error:
            with error:
                return Reply(error.code, error.read().decode(), dict(error.headers))

    def answers(self, path: str) -> bool:
        """Whether a GET is answered with 200; a service that is not there does not."""
        try:
            return self("GET", path).status == 200
        except OSError:
            return False

    def login(self, api_key: str) -> Api:
        """The same with a session of the admin API."""
        reply = self("POST", "/auth/login", {"api_key": api_key})
        assert reply.status == 200, reply
        return Api(self.url, reply.body["access_token"])


def eventually(probe: Callable[[], Any], seconds: float = 15) -> Any:
    """What the probe says as soon as it is true, or what it says at the end."""
    deadline = time.monotonic() + seconds
    while True:
        found = probe()
        if found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)
