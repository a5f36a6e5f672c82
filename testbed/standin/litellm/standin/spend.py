"""Stand-in for LiteLLM's database writes: one row of "LiteLLM_SpendLogs" for each completion."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
import uuid
from typing import Any

import litellm
import psycopg
from litellm.integrations.custom_logger import CustomLogger

INSERT = """
INSERT INTO "LiteLLM_SpendLogs"
  (request_id, call_type, spend, total_tokens, prompt_tokens, completion_tokens, model, model_group, status)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, 'success')"""


class Spend(CustomLogger):
    """Writes in a thread: a database that is away must not slow a completion."""

    async def async_log_success_event(self, kwargs: Any, response_obj: Any, start_time: Any, end_time: Any) -> None:
        usage = getattr(response_obj, "usage", None)
        counts = [int(getattr(usage, name, 0) or 0) for name in ("total_tokens", "prompt_tokens", "completion_tokens")]
        model = str(kwargs.get("model") or "")
        group = str((kwargs.get("litellm_params") or {}).get("metadata", {}).get("model_group") or model)
        row = (str(uuid.uuid4()), "acompletion", float(kwargs.get("response_cost") or 0), *counts, model, group)
        threading.Thread(target=_write, args=(row,), daemon=True).start()


def _write(row: tuple[Any, ...]) -> None:
    try:
        with psycopg.connect(
            os.environ["SCUTUM_STANDIN_DATABASE_URL"], autocommit=True, connect_timeout=5
        ) as connection:
            connection.execute(INSERT, row)
    except psycopg.Error as error:
        print(f"stand-in litellm: spend row lost: {error}", file=sys.stderr, flush=True)


class EveryFifth:
    """Release 0.4.0: healthy for some seconds, then every fifth completion is answered with 500."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.start = time.monotonic()
        self.count = itertools.count(1)
        self.after = float(os.environ.get("SCUTUM_STANDIN_FAULT_AFTER", "20"))

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        faulty = scope["type"] == "http" and scope["path"].endswith("/chat/completions")
        if faulty and time.monotonic() - self.start > self.after and next(self.count) % 5 == 0:
            body = b'{"error": {"message": "Internal Server Error", "type": "None", "code": "500"}}'
            await send(
                {"type": "http.response.start", "status": 500, "headers": [(b"content-type", b"application/json")]}
            )
            await send({"type": "http.response.body", "body": body})
            return
        await self.app(scope, receive, send)


def join(proxy: Any) -> None:
    """Join the proxy that was just imported."""
    if os.environ.get("SCUTUM_STANDIN_DATABASE_URL"):
        litellm.logging_callback_manager.add_litellm_callback(Spend())
    if os.environ.get("SCUTUM_STANDIN_VERSION") == "0.4.0":
        proxy.app.add_middleware(EveryFifth)
