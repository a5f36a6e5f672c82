"""Stand-in for the start of the release's LiteLLM: the schema push, by SQL; then the real LiteLLM, without a database.

LiteLLM's own Prisma engines cannot be had in the testbed. What the push does to a database is played: it creates LiteLLM's
tables, changes nothing under DISABLE_SCHEMA_UPDATE, and in release 0.5.0 drops a table that is not LiteLLM's.
"""

from __future__ import annotations

import os
import sys
import time

import psycopg

TABLES = {
    "LiteLLM_SpendLogs": """
        request_id text PRIMARY KEY, call_type text NOT NULL DEFAULT '', api_key text NOT NULL DEFAULT '',
        spend double precision NOT NULL DEFAULT 0, total_tokens int NOT NULL DEFAULT 0,
        prompt_tokens int NOT NULL DEFAULT 0, completion_tokens int NOT NULL DEFAULT 0,
        "startTime" timestamp(3) NOT NULL DEFAULT now(), "endTime" timestamp(3) NOT NULL DEFAULT now(),
        model text NOT NULL DEFAULT '', model_id text DEFAULT '', model_group text DEFAULT '',
        custom_llm_provider text DEFAULT '', api_base text DEFAULT '', "user" text DEFAULT '',
        metadata jsonb DEFAULT '{}', cache_hit text DEFAULT '', status text""",
    "LiteLLM_VerificationToken": "token text PRIMARY KEY, key_name text, spend double precision DEFAULT 0, team_id text",
    "LiteLLM_UserTable": "user_id text PRIMARY KEY, user_email text, spend double precision DEFAULT 0",
    "LiteLLM_TeamTable": "team_id text PRIMARY KEY, team_alias text, spend double precision DEFAULT 0",
    "LiteLLM_CredentialsTable": "credential_id text PRIMARY KEY, credential_name text UNIQUE, credential_values jsonb",
    "LiteLLM_Config": "param_name text PRIMARY KEY, param_value jsonb",
}


def say(text: str) -> None:
    print(f"stand-in litellm: {text}", flush=True)


def connect(url: str) -> psycopg.Connection:
    """Wait for Postgres, as Prisma's retries do."""
    for attempt in range(60):
        try:
            return psycopg.connect(url, autocommit=True, connect_timeout=5)
        except psycopg.OperationalError as error:
            if attempt == 59 or "authentication failed" in str(error):
                say(f"database: {error}")
                sys.exit(1)
            time.sleep(1)
    raise AssertionError


def push(connection: psycopg.Connection, version: str) -> None:
    """What `prisma db push --accept-data-loss` leaves behind."""
    for name, columns in TABLES.items():
        connection.execute(f'CREATE TABLE IF NOT EXISTS "{name}" ({columns})')
    if version == "0.5.0":
        say("db push: dropping tables that are not in the schema")
        connection.execute("DROP TABLE IF EXISTS audit_logs CASCADE")
    say("db push done")


def main() -> None:
    arguments = [item for item in sys.argv[1:] if item != "--use_prisma_db_push"]
    version = os.environ.get("SCUTUM_STANDIN_VERSION", "")
    url = os.environ.pop("DATABASE_URL", "")
    if url:
        with connect(url) as connection:
            if os.environ.get("DISABLE_SCHEMA_UPDATE", "").lower() in ("true", "1", "t", "y", "yes"):
                row = connection.execute("SELECT to_regclass('public.\"LiteLLM_SpendLogs\"')").fetchone()
                say("schema updates are off" + ("" if row and row[0] else ": LiteLLM's tables are missing"))
            else:
                push(connection, version)
        os.environ["SCUTUM_STANDIN_DATABASE_URL"] = url
    directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if directory:
        os.makedirs(directory, exist_ok=True)
    os.execvp("litellm", ["litellm", *arguments])  # noqa: S606 - this process becomes LiteLLM


if __name__ == "__main__":
    main()
