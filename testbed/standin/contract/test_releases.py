"""The other releases of the stand-in, each on a database that 0.1.0 has migrated: started by run.py, stand-in only."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import psycopg
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from client import Api, eventually

E = os.environ.get
pytestmark = pytest.mark.skipif(not E("SCUTUM_RELEASES"), reason="run.py starts the releases")


def release(version: str) -> pytest.MarkDecorator:
    """Only when run.py has started this release."""
    return pytest.mark.skipif(version not in E("SCUTUM_RELEASES", "").split(), reason=f"--release is not {version}")


def query(database: str, sql: str) -> list[Any]:
    dsn = E("SCUTUM_RELEASES_DSN", "").replace("@DATABASE@", database)
    with psycopg.connect(dsn, autocommit=True, connect_timeout=5) as connection:
        cursor = connection.execute(sql)
        return cursor.fetchall() if cursor.description else []


def revision(database: str) -> str:
    return str(query(database, "SELECT version_num FROM alembic_version")[0][0])


def exists(database: str, name: str) -> bool:
    return bool(query(database, f"SELECT to_regclass('{name}') IS NOT NULL")[0][0])


def docker(*argv: str) -> str:
    done = subprocess.run(["docker", *argv], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def container(name: str) -> str:
    return f"{E('SCUTUM_RELEASES_STACK')}-{name}"


def restarts(name: str) -> int:
    return int(docker("inspect", "-f", "{{.RestartCount}}", container(name)))


def ready(short: str) -> Api:
    api = Api(E(f"SCUTUM_RELEASES_URL_{short}", ""))
    assert eventually(lambda: api.answers("/health"), 40), docker("logs", container(f"admin-{short}"))[-2000:]
    return api


@release("0.2.0")
def test_an_older_image_cannot_go_back() -> None:
    """TRAP: 0.1.0 on 0.2.0's schema restarts for ever, until the old head is written back."""
    ready("020")
    assert revision("r020") == "030"
    old = container("admin-old")
    environment = {
        "DATABASE_URL": E("SCUTUM_RELEASES_INSIDE", "").replace("@DATABASE@", "r020"),
        "JWT_SECRET_KEY": E("SCUTUM_RELEASES_JWT", ""),
        "LITELLM_MASTER_KEY": E("SCUTUM_API_KEY", ""),
    }
    variables = [word for key, value in environment.items() for word in ("-e", f"{key}={value}")]
    docker(
        *("run", "-d", "--name", old, "--label", f"org.scutum.contract={E('SCUTUM_RELEASES_STACK')}"),
        *("--network", E("SCUTUM_RELEASES_STACK", ""), "--restart", "unless-stopped", *variables),
        E("SCUTUM_RELEASES_OLD_IMAGE", ""),
    )
    assert eventually(lambda: restarts("admin-old") >= 2, 40)
    wanted = "Migration failed: Can't locate revision identified by '030'"
    assert wanted in docker("logs", old)
    assert "Application startup complete" not in docker("logs", old)
    query("r020", "UPDATE alembic_version SET version_num = '029'")
    assert eventually(lambda: "Application startup complete" in docker("logs", old), 60)
    assert revision("r020") == "029"


@release("0.3.0")
def test_a_migration_that_fails() -> None:
    """One transaction each: 030 stays, nothing of 031 does, and the container restarts in a loop."""
    assert eventually(lambda: restarts("admin-030") >= 1, 40)
    log = docker("logs", container("admin-030"))
    assert "Migration failed: " in log
    assert "no_such_table" in log
    assert "Database migrations completed" not in log
    assert revision("r030") == "030"
    assert not query("r030", "SELECT 1 FROM information_schema.columns WHERE column_name = 'broken'")


@release("0.4.0")
def test_every_fifth_api_answer_is_an_error() -> None:
    api = ready("040").login(E("SCUTUM_API_KEY", ""))
    assert [api("GET", "/api/v1/license").status for _ in range(20)].count(500) == 4
    assert [api("GET", "/health").status for _ in range(10)] == [200] * 10


@release("0.4.0")
def test_every_fifth_completion_is_an_error() -> None:
    api = Api(E("SCUTUM_RELEASES_LITELLM_040", ""), E("SCUTUM_API_KEY", ""))
    assert eventually(lambda: api.answers("/health/liveliness"), 90), docker("logs", container("litellm-040"))[-2000:]

    def status() -> int:
        message = {"role": "user", "content": uuid.uuid4().hex}
        body = {"model": "gpt-4o-mini", "messages": [message], "disable_fallbacks": True}
        return api("POST", "/v1/chat/completions", body).status

    found = [status() for _ in range(20)]
    assert (found.count(500), found.count(200)) == (4, 16)
    assert api("GET", "/health/liveliness").status == 200


@release("0.5.0")
def test_litellm_drops_a_table_that_is_not_its_own() -> None:
    assert exists("r050", '"LiteLLM_SpendLogs"')
    assert not exists("r050", "audit_logs")
    assert exists("r050", "licenses")


@release("0.5.0")
def test_without_schema_updates_it_leaves_the_schema_alone() -> None:
    assert exists("r050off", "audit_logs")
    assert not exists("r050off", '"LiteLLM_SpendLogs"')
