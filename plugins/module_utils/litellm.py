# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The client for LiteLLM. Every call to port 4000 is made here."""

from __future__ import annotations

import re
import secrets
import time
from dataclasses import dataclass

from . import http_client as http
from .errors import ScutumError

# What we call ourselves, so that our requests can be told from others' in the metrics.
_AGENT = "scutum.ops"
_REQUESTS = "litellm_proxy_total_requests_metric"
_FAILED = "litellm_proxy_failed_requests_metric"
_LATENCY = "litellm_request_total_latency_metric"
# A failure with one of these is a client's own: a key that has expired, a model that there is not, a budget or a rate that is used up. Not
# 408: with that LiteLLM says that a provider did not answer in time. A failure whose exception has no status is labelled "None".
_CLIENTS = re.compile(r'[{,]exception_status="4(?!08)\d\d"')
# Modes of models that /v1/chat/completions serves.
_CHAT = ("chat", "completion", "responses")


@dataclass(frozen=True)
class Served:
    """Counters of LiteLLM's: requests, those that failed by no fault of the client, and the seconds that a number of answers took."""

    requests: int = 0
    failed: int = 0
    seconds: float = 0.0
    timed: int = 0


@dataclass
class Probe:
    """What one completion said: a model, whether it answered, how long it took, and why not."""

    model: str
    ok: bool
    seconds: float
    error: str = ""

    def as_dict(self) -> dict[str, object]:
        """The probe as plain data."""
        return {"model": self.model, "ok": self.ok, "seconds": round(self.seconds, 3), "error": self.error}


class LiteLLM:
    """LiteLLM's proxy at a base URL, called with SCUTUM_API_KEY.

    Args:
        deadline: seconds within which 429, 502, 503, 504 and refused connections are tried again.
        timeout: seconds for one try of anything but a completion.
    """

    def __init__(self, base_url: str, api_key: str = "", deadline: float = 30.0, timeout: float = 10.0) -> None:
        self.base_url = base_url.rstrip("/")
        self._headers = {"Authorization": "Bearer " + api_key, "User-Agent": _AGENT}
        self.deadline = deadline
        self.timeout = timeout

    def _get(self, path: str) -> http.Response:
        url = self.base_url + path
        return http.request("GET", url, headers=self._headers, timeout=self.timeout, deadline=self.deadline)

    def alive(self) -> bool:
        """Whether the proxy serves; says nothing about providers or the database."""
        try:
            return http.request("GET", self.base_url + "/health/liveliness", timeout=5).status == 200
        except http.NoAnswer:
            return False

    def accepts_key(self) -> bool:
        """Whether it lets SCUTUM_API_KEY in; without a database it refuses a wrong key with 400."""
        answer = self._get("/v1/models")
        if answer.status in (200, 400, 401, 403):
            return answer.status == 200
        raise ScutumError(f"litellm: GET /v1/models answered {answer.status}: {answer.text[:200]}")

    def models(self) -> list[str]:
        """Names of the models that it offers."""
        answer = self._get("/v1/models")
        data = answer.json()
        if answer.status != 200 or not isinstance(data, dict):
            return []
        return [str(item.get("id")) for item in data.get("data", [])]

    def providers(self) -> dict[str, str]:
        """The model that stands first in its list for each provider, of those that answer chat completions.

        A model that exists only to be replaced by a fallback stands after the one that works, so it is not taken.

        Raises:
            ScutumError: it does not tell.
        """
        answer = self._get("/v1/model/info")
        data = answer.json()
        if answer.status != 200 or not isinstance(data, dict):
            raise ScutumError(f"litellm: GET /v1/model/info answered {answer.status}: {answer.text[:200]}")
        found: dict[str, str] = {}
        for item in data.get("data") or []:
            name = str(item.get("model_name") or "")
            info = item.get("model_info") or {}
            route = str((item.get("litellm_params") or {}).get("model") or "")
            # A name with * stands for many, and none of them is known.
            if not name or "*" in name or (info.get("mode") or "chat") not in _CHAT:
                continue
            provider = route.split("/", 1)[0] if "/" in route else str(info.get("litellm_provider") or route)
            found.setdefault(provider, name)
        return found

    def metrics(self) -> str:
        """Its metrics as they are.

        Raises:
            ScutumError: it has none.
        """
        answer = self._get("/metrics/")
        if answer.status != 200:
            raise ScutumError(f"litellm: GET /metrics/ answered {answer.status}: {answer.text[:200]}")
        return answer.body.decode("utf-8", "replace")

    def requests_served(self) -> float | None:
        """Requests to models since its start, of all workers together; None when it has no metrics."""
        answer = self._get("/metrics/")
        if answer.status != 200:
            return None
        counts = _samples(answer, _REQUESTS)
        return sum(value for unused, value in counts) if counts or _REQUESTS in answer.text else None

    def served(self) -> Served | None:
        """What its metrics say about its users' requests since its start; None when it has no metrics.

        Our own requests are left out: they are counted by whoever sends them. The times are of all requests, for LiteLLM does not tell
        whose they are.

        What a client did wrong counts as answered, for an answer of 401 or 429 is a good one to such a request. The price: a release that
        refuses what it should not is seen only by the completions that are asked for to watch, which count as failed whatever their status,
        and these have SCUTUM_API_KEY and one model.
        """
        answer = self._get("/metrics/")
        if answer.status != 200:
            return None
        own = f'user_agent="{_AGENT}"'
        requests = sum(value for labels, value in _samples(answer, _REQUESTS) if own not in labels)
        failed = sum(
            value for labels, value in _samples(answer, _FAILED) if own not in labels and not _CLIENTS.search(labels)
        )
        seconds, timed = (
            sum(value for unused, value in _samples(answer, _LATENCY + part)) for part in ("_sum", "_count")
        )
        return Served(int(requests), int(failed), seconds, int(timed))

    def probe(self, model: str, timeout: float = 60.0) -> Probe:
        """Ask one model for a few tokens, in a way that only that model's provider can answer.

        The product is configured with fallbacks and a semantic cache, so a plain completion can succeed while the
        provider is dead: both are switched off in the request, and a fresh nonce makes the prompt unlike any before.
        """
        body = {
            "model": model,
            "messages": [{"role": "user", "content": f"Reply with OK. Nonce {secrets.token_hex(8)}."}],
            "max_tokens": 16,
            "disable_fallbacks": True,
            "num_retries": 0,
            "cache": {"no-cache": True, "no-store": True},
        }
        start = time.monotonic()
        try:
            answer = http.request(
                "POST",
                self.base_url + "/v1/chat/completions",
                body=body,
                headers=self._headers,
                timeout=timeout,
                # A gateway that has just started may not accept connections yet; an error answer is an answer.
                deadline=self.deadline,
                retry=frozenset(),
            )
        except http.NoAnswer as error:
            return Probe(model, False, time.monotonic() - start, error.what)
        seconds = time.monotonic() - start
        data = answer.json()
        if answer.status == 200 and isinstance(data, dict) and data.get("choices"):
            return Probe(model, True, seconds)
        message = answer.text
        if isinstance(data, dict) and isinstance(data.get("error"), dict):
            message = str(data["error"].get("message", message))
        return Probe(model, False, seconds, f"HTTP {answer.status}: {' '.join(message.split())[:300]}")


def _samples(answer: http.Response, name: str) -> list[tuple[str, float]]:
    """The labels and values of a metric; a counter may carry the ending `_total`."""
    text = answer.body.decode("utf-8", "replace")
    found = re.findall(rf"^{name}(?:_total)?({{[^\n]*}})? (\S+)", text, re.M)
    return [(labels, float(value)) for labels, value in found]
