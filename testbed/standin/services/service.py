"""Stand-in for sre-agent, cost-predictor and budget-webhook: what matters of them is that they check X-Service-Key.

As the vendor's ServiceAuthMiddleware does: before any route, on every path but those for health.
"""

import hmac
import os
from collections.abc import Awaitable, Callable

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

NAME = os.environ.get("SCUTUM_STANDIN_SERVICE", "service")
OPEN = {"/health", "/ready", "/live", "/healthz"}
app = FastAPI(title=f"Scutum {NAME} (stand-in)")


@app.middleware("http")
async def service_key(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """The key that all internal services share; without one in the environment everybody passes, as in the vendor's."""
    wanted = os.environ.get("INTERNAL_SERVICE_KEY", "")
    given = request.headers.get("X-Service-Key", "")
    if wanted and request.url.path not in OPEN and not hmac.compare_digest(given.encode(), wanted.encode()):
        return JSONResponse({"detail": "Unauthorized: invalid or missing service key"}, status_code=401)
    return await call_next(request)


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "healthy"}


@app.post("/api/v1/run")
def run() -> dict[str, str]:
    return {"service": NAME, "status": "accepted"}
