"""Stand-in for Scutum's admin API: what an operator can see of it, its traps and silent failures included."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import itertools
import json
import logging
import os
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import events
import faults
import jwt
import licence
from alembic import command
from alembic.config import Config
from fastapi import Body, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, Field
from standin_sql import COST_VIEW, HAS_SPEND_LOGS

logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(levelname)s %(name)s %(message)s")
log = logging.getLogger("admin-api")
VERSION = os.environ.get("SCUTUM_STANDIN_VERSION", "")
INTERVAL = float(os.environ.get("SCUTUM_STANDIN_LICENSE_INTERVAL", "300"))
RATE = int(os.environ.get("SCUTUM_STANDIN_RATE_PER_MINUTE", "6000"))
FAULT_AFTER = float(os.environ.get("SCUTUM_STANDIN_FAULT_AFTER", "20"))
MAX_BODY = 1 << 20
SESSION = 28800

state = licence.State()
pool: asyncpg.Pool | None = None
started = time.monotonic()


async def open_pool() -> None:
    """The pool of 2 to 10; without a database the process serves on, and says so only where it needs one."""
    global pool
    with contextlib.suppress(Exception):
        pool = await asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=2, max_size=10, timeout=5)


async def background() -> None:
    """Every five minutes, in each worker for itself."""
    while True:
        await asyncio.sleep(INTERVAL)
        try:
            if pool is None:
                await open_pool()
            if not faults.stale():
                await licence.revalidate(state, pool)
            if pool is not None:
                await events.collect(pool)
        except Exception as error:  # the product keeps its loop alive
            log.warning("background: %s", error)


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    try:
        await asyncio.to_thread(command.upgrade, Config("/app/alembic.ini"), "head")
    except Exception as error:
        log.error("Migration failed: %s", error)
        raise
    log.info("Database migrations completed")
    await open_pool()
    if pool is not None and await pool.fetchval(HAS_SPEND_LOGS):
        await pool.execute(COST_VIEW)
    with contextlib.suppress(Exception):
        await licence.revalidate(state, pool)
    task = asyncio.create_task(background())
    yield
    task.cancel()


app = FastAPI(title="Scutum admin API (stand-in)", version=VERSION, lifespan=lifespan)
app.middleware("http")(faults.middleware)
requests_of_api = itertools.count(1)
window: list[float] = []


@app.middleware("http")
async def limits(request: Request, call_next: Any) -> Response:
    """Body size, the global rate limit, and release 0.4.0's fault."""
    if int(request.headers.get("content-length") or 0) > MAX_BODY:
        return JSONResponse({"detail": "Request body too large"}, 413)
    now = time.monotonic()
    while window and window[0] < now - 60:
        window.pop(0)
    if len(window) >= RATE and request.url.path != "/health":
        return JSONResponse({"detail": "Rate limit exceeded"}, 429, {"Retry-After": "1"})
    window.append(now)
    faulty = VERSION == "0.4.0" and request.url.path.startswith("/api/v1/") and now - started > FAULT_AFTER
    if faulty and next(requests_of_api) % 5 == 0:
        return JSONResponse({"detail": "Internal Server Error"}, 500)
    return await call_next(request)


def database() -> asyncpg.Pool:
    """The pool, or the product's 503."""
    if pool is None:
        raise HTTPException(503, "Database not available")
    return pool


@app.exception_handler(OSError)
@app.exception_handler(asyncpg.PostgresConnectionError)
@app.exception_handler(asyncpg.InterfaceError)
@app.exception_handler(asyncpg.CannotConnectNowError)
async def no_database(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "Database not available"}, 503)


bearer = HTTPBearer(auto_error=False)


def admin(credentials: HTTPAuthorizationCredentials | None = Depends(bearer)) -> dict[str, Any]:
    """The claims of a valid session."""
    if credentials is None:
        raise HTTPException(401, "Not authenticated")
    try:
        return dict(jwt.decode(credentials.credentials, os.environ["JWT_SECRET_KEY"], algorithms=["HS256"]))
    except jwt.PyJWTError as error:
        raise HTTPException(401, "Invalid or expired token") from error


async def audit(request: Request, actor: str, action: str, kind: str, name: str, changes: dict[str, Any]) -> None:
    """Fire and forget: an insert that fails is only a warning in the log."""

    async def write() -> None:
        try:
            forwarded = request.headers.get("x-forwarded-for", "").split(",")[0].strip()
            await database().execute(
                "INSERT INTO audit_logs (actor_id, actor_ip, action, resource_type, resource_name, changes) "
                "VALUES ($1, $2, $3, $4, $5, $6::jsonb)",
                actor, forwarded or (request.client.host if request.client else None), action, kind, name,
                json.dumps(changes),
            )  # fmt: skip
        except Exception as error:  # the product catches everything here
            log.warning("audit log write failed: %s", error)

    task = asyncio.create_task(write())
    tasks.add(task)
    task.add_done_callback(tasks.discard)


tasks: set[asyncio.Task[None]] = set()


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "healthy"}


class Login(BaseModel):
    api_key: str


@app.post("/auth/login")
async def login(body: Login) -> dict[str, Any]:
    if body.api_key == os.environ.get("SCUTUM_STANDIN_USER_KEY"):
        raise HTTPException(403, "Admin access required")
    if not body.api_key or body.api_key != os.environ.get("LITELLM_MASTER_KEY"):
        raise HTTPException(401, "Invalid API key")
    expires = datetime.now(UTC) + timedelta(seconds=SESSION)
    claims = {"sub": "admin", "role": "admin", "exp": expires, "iat": datetime.now(UTC)}
    token = jwt.encode(claims, os.environ["JWT_SECRET_KEY"], algorithm="HS256")
    return {"access_token": token, "token_type": "bearer", "expires_in": SESSION, "expires_at": expires.isoformat()}


@app.get("/api/v1/license")
async def get_license() -> dict[str, Any]:
    return state.describe()


class Activation(BaseModel):
    license_key: str = Field(min_length=20)


@app.post("/api/v1/license/activate")
async def activate(request: Request, body: Activation, who: dict[str, Any] = Depends(admin)) -> dict[str, Any]:
    try:
        claims = licence.decode(body.license_key)
    except licence.Refused as refused:
        raise HTTPException(400, str(refused)) from refused
    days = licence.late(claims)
    if days.total_seconds() >= 0:
        raise HTTPException(400, f"license expired {days.days} day(s) ago")
    await licence.remember(pool, body.license_key, claims, f"admin:{who['sub']}")
    state.take(body.license_key)
    await audit(request, who["sub"], "license.activate", "license", str(claims["email"]), {"tier": claims["tier"]})
    return state.describe()


def plain(row: asyncpg.Record) -> dict[str, Any]:
    """A row as JSON can hold it."""
    found = {}
    for key, value in row.items():
        if isinstance(value, datetime):
            value = value.isoformat()
        elif isinstance(value, str) and key in (
            "changes",
            "request_metadata",
            "config",
            "filters",
            "event_types",
            "payload",
        ):
            value = json.loads(value)
        elif value is not None and not isinstance(value, (str, int, float, bool)):
            value = str(value)
        found[key] = value
    return found


@app.get("/api/v1/audit-logs")
async def audit_logs(
    limit: int = 100,
    offset: int = 0,
    actor_id: str | None = None,
    resource_type: str | None = None,
    action: str | None = None,
    org_id: str | None = None,
    start_date: str | None = None,
    end_date: str | None = None,
    who: dict[str, Any] = Depends(admin),
) -> list[dict[str, Any]]:
    if not 1 <= limit <= 1000:
        raise HTTPException(422, "limit must be between 1 and 1000")
    conditions, values = ["true"], []
    given = {"actor_id = ": actor_id, "resource_type = ": resource_type, "action = ": action, "org_id::text = ": org_id}
    # Bound as strings to a timestamptz parameter, which asyncpg refuses: the product's fault, kept.
    given |= {"timestamp >= ": start_date, "timestamp <= ": end_date}
    for text, value in given.items():
        if value is not None:
            values.append(value)
            conditions.append(f"{text}${len(values)}")
    sql = f"SELECT * FROM audit_logs WHERE {' AND '.join(conditions)} ORDER BY timestamp DESC LIMIT {limit} OFFSET {offset}"
    return [plain(row) for row in await database().fetch(sql, *values)]


@app.get("/api/v1/audit-logs/export")
async def export(kind: str = Query(default="json", alias="format"), who: dict[str, Any] = Depends(admin)) -> Response:
    rows = [
        plain(row) for row in await database().fetch("SELECT * FROM audit_logs ORDER BY timestamp DESC LIMIT 10000")
    ]
    if kind == "json":
        return Response(json.dumps(rows), media_type="application/json")
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]) if rows else ["id"])
    writer.writeheader()
    writer.writerows(rows)
    return Response(out.getvalue(), media_type="text/csv")


class Team(BaseModel):
    name: str
    monthly_budget: float | None = None


@app.get("/api/v1/teams")
async def teams(who: dict[str, Any] = Depends(admin)) -> list[dict[str, Any]]:
    return [plain(row) for row in await database().fetch("SELECT * FROM teams ORDER BY name LIMIT 1000")]


@app.post("/api/v1/teams", status_code=201)
async def create_team(request: Request, body: Team, who: dict[str, Any] = Depends(admin)) -> dict[str, Any]:
    try:
        row = await database().fetchrow(
            "INSERT INTO teams (name, monthly_budget) VALUES ($1, $2) RETURNING *", body.name, body.monthly_budget
        )
    except asyncpg.UniqueViolationError as error:
        raise HTTPException(409, "team exists") from error
    await audit(request, who["sub"], "team.create", "team", body.name, {"monthly_budget": body.monthly_budget})
    return plain(row)


class Subscription(BaseModel):
    name: str
    event_types: list[str]
    channel: str
    config: dict[str, Any] = {}
    filters: dict[str, Any] = {}
    is_active: bool = True


def checked(body: Subscription) -> tuple[Any, ...]:
    """A subscription's columns; unknown types and channels are refused."""
    if body.channel not in events.CHANNELS or not set(body.event_types) <= set(events.KNOWN):
        raise HTTPException(422, "unknown channel or event type")
    lists = (json.dumps(body.event_types), body.channel, json.dumps(body.config), json.dumps(body.filters))
    return (body.name, *lists, body.is_active)


@app.get("/api/v1/events/subscriptions")
async def subscriptions(who: dict[str, Any] = Depends(admin)) -> list[dict[str, Any]]:
    return [plain(row) for row in await database().fetch("SELECT * FROM event_subscriptions ORDER BY created_at")]


@app.post("/api/v1/events/subscriptions", status_code=201)
async def subscribe(body: Subscription, who: dict[str, Any] = Depends(admin)) -> dict[str, Any]:
    sql = (
        "INSERT INTO event_subscriptions (name, event_types, channel, config, filters, is_active) "
        "VALUES ($1, $2::jsonb, $3, $4::jsonb, $5::jsonb, $6) RETURNING *"
    )
    return plain(await database().fetchrow(sql, *checked(body)))


async def one(sql: str, *values: Any) -> dict[str, Any]:
    """A row that has to be there."""
    try:
        row = await database().fetchrow(sql, *values)
    except asyncpg.DataError as error:
        raise HTTPException(404, "Subscription not found") from error
    if row is None:
        raise HTTPException(404, "Subscription not found")
    return plain(row)


@app.get("/api/v1/events/subscriptions/{key}")
async def get_subscription(key: str, who: dict[str, Any] = Depends(admin)) -> dict[str, Any]:
    return await one("SELECT * FROM event_subscriptions WHERE id::text = $1", key)


@app.put("/api/v1/events/subscriptions/{key}")
async def put_subscription(key: str, body: Subscription, who: dict[str, Any] = Depends(admin)) -> dict[str, Any]:
    sql = (
        "UPDATE event_subscriptions SET name = $2, event_types = $3::jsonb, channel = $4, config = $5::jsonb, "
        "filters = $6::jsonb, is_active = $7 WHERE id::text = $1 RETURNING *"
    )
    return await one(sql, key, *checked(body))


@app.delete("/api/v1/events/subscriptions/{key}")
async def delete_subscription(key: str, who: dict[str, Any] = Depends(admin)) -> dict[str, Any]:
    return await one("DELETE FROM event_subscriptions WHERE id::text = $1 RETURNING *", key)


@app.get("/api/v1/events/log")
async def event_log(
    event_type: str | None = None, limit: int = 100, offset: int = 0, who: dict[str, Any] = Depends(admin)
) -> list[dict[str, Any]]:
    sql = "SELECT * FROM event_log WHERE $1::text IS NULL OR event_type = $1 ORDER BY id DESC LIMIT $2 OFFSET $3"
    return [plain(row) for row in await database().fetch(sql, event_type, limit, offset)]


@app.post("/api/v1/events/test")
async def test_event(body: dict[str, Any] = Body(default={}), who: dict[str, Any] = Depends(admin)) -> dict[str, Any]:
    """Writes to the log and delivers nothing: it cannot prove that a subscription works."""
    kind = str(body.get("event_type") or "provider.unhealthy")
    await database().execute(
        "INSERT INTO event_log (event_type, payload) VALUES ($1, $2::jsonb)", kind, json.dumps({"test": True})
    )
    return {"status": "published", "event_type": kind}


@app.post("/_standin/emit")
async def emit(body: dict[str, Any] = Body(), who: dict[str, Any] = Depends(admin)) -> dict[str, int]:
    """Not the product's: makes an event happen, so that delivery can be tested."""
    return {"deliveries": await events.emit(database(), str(body["event_type"]), dict(body.get("payload") or {}))}
