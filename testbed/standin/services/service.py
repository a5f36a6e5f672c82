"""Stand-in for sre-agent, cost-predictor and budget-webhook: what matters of them is that they check X-Service-Key."""

import hmac
import os

from fastapi import Depends, FastAPI, Header, HTTPException

NAME = os.environ.get("SCUTUM_STANDIN_SERVICE", "service")
app = FastAPI(title=f"Scutum {NAME} (stand-in)")


def service(x_service_key: str = Header(default="")) -> None:
    """The key that all internal services share; an empty one opens nothing."""
    wanted = os.environ.get("INTERNAL_SERVICE_KEY", "")
    if not wanted or not hmac.compare_digest(x_service_key.encode(), wanted.encode()):
        raise HTTPException(401, "Invalid service key")


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "healthy"}


@app.post("/api/v1/run", dependencies=[Depends(service)])
def run() -> dict[str, str]:
    return {"service": NAME, "status": "accepted"}
