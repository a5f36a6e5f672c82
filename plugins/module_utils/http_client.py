# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP for everybody: JSON in and out, retries until a deadline, clear errors.

Standard library only: it has to run inside an Ansible module on a host that has nothing but Python.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any

from .errors import ScutumError

# Worth another try: the server asks for it (429, 503) or a proxy in front of it is not ready yet (502, 504).
RETRY_STATUS = frozenset({429, 502, 503, 504})


@dataclass
class Response:
    """Status, headers (lower-case names) and body of one answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON; None when it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    @property
    def text(self) -> str:
        """The first 500 characters of the body, for a message."""
        return self.body[:500].decode("utf-8", "replace")


class NoAnswer(ScutumError):
    """Nothing answered before the deadline: refused, unreachable, reset or too slow."""


class _OnlyReadsAreRedirected(urllib.request.HTTPRedirectHandler):
    """A redirected POST would become a GET without its body, whose 200 says nothing: its 3xx is the answer."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if req.get_method() not in ("GET", "HEAD"):
            return None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _by_address(url: str) -> bool:
    """Whether a URL names its host by address: a service on this host, which no proxy may see, let alone its keys."""
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        return host == "localhost" or bool(ipaddress.ip_address(host))
    except ValueError:
        return False


def _once(request: urllib.request.Request, timeout: float) -> Response:
    proxies = [urllib.request.ProxyHandler({})] if _by_address(request.full_url) else []
    opener = urllib.request.build_opener(_OnlyReadsAreRedirected, *proxies)
    try:
        with opener.open(request, timeout=timeout) as answer:
            return Response(answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Response(error.code, {k.lower(): v for k, v in error.headers.items()}, error.read())


def request(
    method: str,
    url: str,
    *,
    body: Any = None,
    headers: dict[str, str] | None = None,
    timeout: float = 10.0,
    deadline: float = 0.0,
    retry: frozenset[int] = RETRY_STATUS,
) -> Response:
    """Send a request; try again on 429, 502, 503, 504 and on connection errors until the deadline.

    Proxies of the environment are used, but not for a host that is named by its address.

    Args:
        body: sent as JSON when not None.
        timeout: seconds for one try.
        deadline: seconds for all tries together; 0 means a single try. Retry-After (seconds) is honoured within it.
        retry: statuses that are tried again.

    Raises:
        NoAnswer: no HTTP answer at all before the deadline.
    """
    data = None if body is None else json.dumps(body).encode("utf-8")
    all_headers = {"Accept": "application/json", "User-Agent": "scutum.ops"}
    if data is not None:
        all_headers["Content-Type"] = "application/json"
    all_headers.update(headers or {})
    end = time.monotonic() + deadline
    pause = 0.5
    while True:
        answer: Response | None = None
        try:
            answer = _once(urllib.request.Request(url, data=data, headers=all_headers, method=method), timeout)
            if answer.status not in retry:
                return answer
            problem = f"HTTP {answer.status}"
        except (OSError, http.client.HTTPException) as error:
            problem = str(getattr(error, "reason", error)) or type(error).__name__
        except ValueError as error:
            # The error repeats what it did not like, which may be a secret header.
            raise ScutumError(f"{url} or a header for it is not valid ({type(error).__name__})") from error
        wait = pause
        if answer is not None and answer.headers.get("retry-after", "").isdigit():
            wait = max(wait, float(answer.headers["retry-after"]))
        if time.monotonic() + wait > end:
            if answer is not None:
                return answer
            raise NoAnswer(f"{method} {url}: no answer ({problem})")
        time.sleep(wait)
        pause = min(pause * 2, 5.0)
