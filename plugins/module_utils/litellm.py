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
    """LiteLLM's proxy at a base URL, called with SCUTUM_API_KEY."""

    def __init__(self, base_url: str, api_key: str = "", deadline: float = 30.0) -> None:
        self.base_url = base_url.rstrip("/")
        self._headers = {"Authorization": "Bearer " + api_key}
        self.deadline = deadline

    def alive(self) -> bool:
        """Whether the proxy serves; says nothing about providers or the database."""
        try:
            return http.request("GET", self.base_url + "/health/liveliness", timeout=5).status == 200
        except http.NoAnswer:
            return False

    def accepts_key(self) -> bool:
        """Whether it lets SCUTUM_API_KEY in; without a database it refuses a wrong key with 400."""
        answer = http.request("GET", self.base_url + "/v1/models", headers=self._headers, deadline=self.deadline)
        if answer.status in (200, 400, 401, 403):
            return answer.status == 200
        raise ScutumError(f"litellm: GET /v1/models answered {answer.status}: {answer.text[:200]}")

    def models(self) -> list[str]:
        """Names of the models that it offers."""
        answer = http.request("GET", self.base_url + "/v1/models", headers=self._headers, deadline=self.deadline)
        data = answer.json()
        if answer.status != 200 or not isinstance(data, dict):
            return []
        return [str(item.get("id")) for item in data.get("data", [])]

    def requests_served(self) -> float | None:
        """Requests to models since its start, of all workers together; None when it has no metrics."""
        answer = http.request("GET", self.base_url + "/metrics/", headers=self._headers, deadline=self.deadline)
        if answer.status != 200:
            return None
        name = "litellm_proxy_total_requests_metric"
        counts = re.findall(rf"^{name}(?:_total)?(?:{{[^\n]*}})? (\S+)", answer.text, re.M)
        return sum(float(count) for count in counts) if counts or name in answer.text else None

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
