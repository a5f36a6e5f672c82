"""The fault mode: what the next requests get instead of an answer. Only the stand-in has it.

/tmp/standin-faults.json in the container is a list of faults; the first that matches a request is used up by it:
{"method": "POST", "path": "/api/v1/license/activate", "times": 2, "status": 429, "detail": "…", "headers": {"Retry-After": "1"}}
answers so; {"path": …, "times": 1, "delay": 30} does the work and answers 30 s late.
While /tmp/standin-stale exists, no worker process looks again: each goes on believing the licence that it has.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse

FAULTS = "/tmp/standin-faults.json"
STALE = "/tmp/standin-stale"


def _take(request: Request) -> dict[str, Any] | None:
    """The fault for a request; counted down for all workers together."""
    if not os.path.exists(FAULTS):
        return None
    with open(FAULTS, "r+", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        faults = json.load(handle)
        for fault in faults:
            if (
                fault["times"] > 0
                and fault.get("method", request.method) == request.method
                and fault["path"] == request.url.path
            ):
                fault["times"] -= 1
                handle.seek(0)
                handle.truncate()
                json.dump(faults, handle)
                return dict(fault)
    return None


async def middleware(request: Request, call_next: Any) -> Response:
    """Answer with a fault, or late, or as usual."""
    fault = _take(request)
    if fault is None:
        return await call_next(request)
    if "status" in fault:
        return JSONResponse({"detail": fault.get("detail", "fault")}, fault["status"], fault.get("headers"))
    answer = await call_next(request)
    await asyncio.sleep(fault["delay"])
    return answer


def stale() -> bool:
    """Whether worker processes shall not look again."""
    return os.path.exists(STALE)
