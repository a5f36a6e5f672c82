"""A proxy in front of moto that fails as it is told: what a store, and the line to it, can do to a backup."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ALWAYS = 1 << 30
HOP = {"connection", "expect", "transfer-encoding", "content-length", "keep-alive"}


@dataclass(frozen=True)
class Rule:
    """What happens to some requests.

    Args:
        method: of the request.
        path: a pattern that is searched in path and query.
        act: answer (refuse with status and code), page (a web page, 200), ok (acknowledge and keep nothing), reset (hang up), lost (keep,
            hang up), slow, stall (silence), cut (half of the answer, hang up), short (half of the answer, as if it were all), half (keep
            half of what was sent), flip (keep it with a changed bit), hold (wait, keep nothing), held (keep, then wait), call (the hook).
        times: how often, from the first request on that matches.
    """

    method: str
    path: str
    act: str = "answer"
    status: int = 0
    code: str = ""
    times: int = ALWAYS


class Proxy:
    """The server; `rules` are those of the case that runs."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.rules: list[Rule] = []
        self.told: list[dict[str, Any]] = []
        self.hook: Callable[[], object] = lambda: None
        self.reached, self.released = threading.Event(), threading.Event()
        self._counts: dict[Rule, int] = {}
        self._lock = threading.Lock()
        outer = self

        class Handler(_Handler):
            proxy = outer

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def reset(self, *rules: Rule) -> None:
        """Let go whoever waits, and fail in another way from now on."""
        self.released.set()
        with self._lock:
            self.rules, self._counts = list(rules), {}
        self.reached, self.released = threading.Event(), threading.Event()
        self.told.clear()
        self.hook = lambda: None

    def close(self) -> None:
        """At the end."""
        self.reset()
        self.server.shutdown()
        self.server.server_close()

    def rule(self, method: str, path: str) -> Rule | None:
        """The one for a request, counted."""
        with self._lock:
            for rule in self.rules:
                if rule.method == method and re.search(rule.path, path):
                    self._counts[rule] = self._counts.get(rule, 0) + 1
                    return rule if self._counts[rule] <= rule.times else None
        return None


class Server(ThreadingHTTPServer):
    """One that is used to clients that hang up."""

    def handle_error(self, *unused: Any) -> None:
        """Silent."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy

    def log_message(self, *unused: Any) -> None:
        """Silent."""

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _say(self, status: int, body: bytes, headers: list[tuple[str, str]], promised: int | None = None) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if promised is None else promised))
        self.end_headers()
        self.wfile.write(body)

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        store = http.client.HTTPConnection(*self.proxy.target, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
        store.request(self.command, self.path, body, headers)
        answer = store.getresponse()
        data = answer.read()
        store.close()
        return answer.status, answer.getheaders(), data

    def _handle(self) -> None:
        proxy, released = self.proxy, self.proxy.released
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/hook":
            proxy.told.append(json.loads(body))
            return self._say(200, b"", [])
        rule = proxy.rule(self.command, self.path)
        act = rule.act if rule else ""
        if rule and act == "answer":
            text = f"<Error><Code>{rule.code}</Code><Message>no</Message></Error>"
            return self._say(rule.status, text.encode(), [("Content-Type", "application/xml")])
        if act in ("page", "ok"):
            text = "<html><body>Please log in</body></html>" if act == "page" else ""
            return self._say(200, text.encode(), [("Content-Type", "text/html"), ("ETag", '"0"')])
        if act == "reset":
            return self._hang_up()
        if act == "slow":
            time.sleep(0.3)
        elif act == "call":
            proxy.hook()
        elif act in ("hold", "stall"):
            proxy.reached.set()
            released.wait(60)
            return self._hang_up()
        elif act == "half":
            body = body[: len(body) // 2]
        elif act == "flip":
            body = body[:-1] + bytes([body[-1] ^ 1])
        status, headers, data = self._forward(body)
        if act == "held":
            proxy.reached.set()
            released.wait(60)
        if act in ("held", "lost"):
            return self._hang_up()
        if act in ("cut", "short"):
            promised = len(data) if act == "cut" else None
            self._say(status, data[: len(data) // 2], headers, promised)
            return self._hang_up()
        return self._say(status, data, headers)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle
