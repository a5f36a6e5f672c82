# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SQL on the installation's Postgres: every statement that this collection sends stands here.

It is sent through psql inside the server's own container, where the image trusts local connections: no password is
handed around, and the client is of the server's version.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tempfile
import threading
import uuid
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, cast

from .engine import clean_environment
from .errors import ScutumError
from .installation import Installation

# r: table, p: partitioned table, v: view, m: materialised view. Partitions are counted through their parent.
_RELATIONS = """
SELECT n.nspname, c.relname, c.relkind
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v', 'm') AND NOT c.relispartition
   AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_%'
 ORDER BY 1, 2
"""

# The product takes the first active one (vendor: _load_from_db in src/admin-api/license.py).
_LICENCES = """
SELECT json_build_object('id', id, 'fingerprint', encode(sha256(convert_to(license_key, 'UTF8')), 'hex'), 'tier', tier,
         'customer_id', customer_id, 'customer_email', customer_email, 'company', company, 'features', features,
         'active', is_active, 'issued_at', extract(epoch FROM issued_at), 'expires_at', extract(epoch FROM expires_at),
         'created_at', extract(epoch FROM created_at), 'activated_by', activated_by)
  FROM public.licenses ORDER BY is_active DESC, expires_at DESC, created_at DESC
"""


@dataclass(frozen=True)
class Dump:
    """A dump on this host."""

    path: str
    sha256: str
    size: int


class Database:
    """The Postgres of an installation."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        env = installation.env()
        self.user = env.get("POSTGRES_USER") or "litellm"
        self.name = env.get("POSTGRES_DB") or "litellm"
        self._container = ""

    def _in_container(self, *command: str) -> list[str]:
        """Arguments of the engine for a command in the server's container."""
        if not self._container:
            self._container = self.installation.compose().container_id(self.installation.project, "postgres")
        if not self._container:
            raise ScutumError("Postgres: its container does not run", next_step=self._look())
        return ["exec", "-i", self._container, *command, "-U", self.user, "-d", self.name]

    def _look(self) -> str:
        compose = self.installation.compose()
        return f"cd {self.installation.directory} && {compose.command('logs', '--tail', '50', 'postgres')}"

    def query(self, sql: str, timeout: float = 600) -> list[list[str]]:
        """Rows of one statement, every value as text."""
        psql = ("psql", "-X", "-q", "-At", "-F", "\x1f", "-v", "ON_ERROR_STOP=1", "-f", "-")
        result = self.installation.engine.run(*self._in_container(*psql), stdin=sql, timeout=timeout)
        if result.rc != 0:
            # psql always says why; without a word it was the engine's `exec` that failed.
            why = self.installation.redact((result.err or result.out).strip()[-400:])
            raise ScutumError(
                f"Postgres: {why or f'the engine ended psql with exit code {result.rc} and no word'}",
                left="the statement that failed changed nothing",
                next_step=self._look(),
            )
        return [line.split("\x1f") for line in result.out.splitlines()]

    def relations(self) -> dict[str, int]:
        """Every table with its exact number of rows, and every view with -1; the names carry their schema."""
        found: dict[str, int] = {}
        tables = []
        for schema, name, kind in self.query(_RELATIONS):
            quoted = '"' + schema.replace('"', '""') + '"."' + name.replace('"', '""') + '"'
            if kind in "rp":
                tables.append((f"{schema}.{name}", quoted))
            else:
                found[f"{schema}.{name}"] = -1
        if tables:
            parts = [f"SELECT {i}, count(*) FROM {quoted}" for i, (unused, quoted) in enumerate(tables)]
            for index, rows in self.query(" UNION ALL ".join(parts)):
                found[tables[int(index)][0]] = int(rows)
        return found

    def alembic_version(self) -> str:
        """The schema's revision; empty when admin-api has not migrated anything yet."""
        if self.query("SELECT to_regclass('public.alembic_version') IS NOT NULL") != [["t"]]:
            return ""
        rows = self.query("SELECT version_num FROM public.alembic_version ORDER BY 1")
        return ",".join(row[0] for row in rows)

    def litellm_tables(self) -> list[str]:
        """LiteLLM's own tables; it creates them itself, in a schema window."""
        sql = "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relname LIKE 'LiteLLM\\_%' ORDER BY 1"
        return [row[0] for row in self.query(sql)]

    def licences(self) -> list[dict[str, Any]]:
        """Every licence, active ones first, in the order in which the product prefers them; tokens never leave the server.

        Keys: `id`, `fingerprint` (SHA-256 of the token), `tier`, `customer_id`, `customer_email`, `company`, `features`,
        `active`, `issued_at`, `expires_at`, `created_at` (seconds since 1970), `activated_by`.
        """
        try:
            rows = self.query(_LICENCES)
        except ScutumError as error:
            # Before the first migration.
            if 'relation "public.licenses" does not exist' in error.what:
                return []
            raise
        return [dict(json.loads(row[0])) for row in rows]

    def deactivate_licences(self, ids: list[str]) -> None:
        """Switch licences off by their ids; the rows stay."""
        if ids:
            listed = ", ".join("'" + str(uuid.UUID(item)) + "'" for item in ids)
            self.query(f"UPDATE public.licenses SET is_active = false WHERE is_active AND id IN ({listed})")

    def set_password(self, verifier: str) -> None:
        """Give the product's role a password, as a SCRAM verifier: the password itself is in no log and in no statistics."""
        role = '"' + self.user.replace('"', '""') + '"'
        self.query(f"ALTER ROLE {role} PASSWORD '{verifier}'", timeout=60)

    def password_works(self, password: str) -> bool:
        """Whether the server lets the product's role in with a password, asked over the network from a container of its own.

        Inside the server's container the image trusts everybody. The password goes through standard input.
        """
        engine, project = self.installation.engine, self.installation.project
        server = self.installation.compose().containers(project).get("postgres")
        networks = sorted((server or {}).get("NetworkSettings", {}).get("Networks") or {})
        if server is None or not networks:
            raise ScutumError("Postgres: its container does not run", next_step=self._look())
        script = (
            'IFS= read -r PGPASSWORD; export PGPASSWORD; exec psql -X -w -h postgres -U "$1" -d "$2" -Atc "SELECT 1"'
        )
        run = ("run", "--rm", "-i", "--network", networks[0], "--entrypoint", "sh", str(server["Image"]))
        result = engine.run(
            *run, "-c", script, "sh", self.user, self.name, stdin=password + "\n", timeout=60,
            environment=clean_environment({"PGCONNECT_TIMEOUT": "10"}),
        )  # fmt: skip
        if result.rc == 0 and result.out.strip() == "1":
            return True
        if "password authentication failed" in result.err:
            return False
        raise ScutumError(
            f"Postgres: a login over the network failed ({result.rc}): {result.err.replace(password, '…').strip()[-300:]}",
            next_step=self._look(),
        )

    def size(self) -> int:
        """Bytes of the database."""
        return int(self.query("SELECT pg_database_size(current_database())")[0][0])

    def server_version(self) -> int:
        """The server's major version."""
        return int(self.query("SHOW server_version_num")[0][0]) // 10000

    def check_space(self, directory: str) -> None:
        """Refuse a dump that may not fit."""
        needed, free = self.size(), _free(directory)
        if free < needed:
            raise ScutumError(
                f"{directory} has {free // 2**20} MiB free, the dump may need {needed // 2**20} MiB",
                left="the database was not touched",
                next_step=f"free space below {directory}",
            )

    def dump(self, path: str, timeout: float = 3600) -> Dump:
        """A dump in custom format by the server's own pg_dump: complete under its name, or not there at all.

        Args:
            timeout: seconds after which it is ended, also when it waits for a lock.
        """
        compose = self.installation.compose()
        method = ["-Z", "zstd:3"] if self.server_version() >= 16 else []
        directory = os.path.dirname(path)
        self.check_space(directory)
        command = [compose.engine.binary, *self._in_container("pg_dump", "-Fc", *method)]
        descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=".dump-")
        digest = hashlib.sha256()
        try:
            # A file and not a pipe: nobody reads it while the dump is read.
            with os.fdopen(descriptor, "wb") as handle, tempfile.TemporaryFile() as problems:
                with subprocess.Popen(
                    command,
                    env=clean_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=problems,
                ) as process:
                    output = cast(BinaryIO, process.stdout)
                    end = threading.Timer(timeout, process.kill)
                    end.start()
                    for block in iter(partial(output.read, 1 << 20), b""):
                        digest.update(block)
                        handle.write(block)
                    rc = process.wait()
                    end.cancel()
                problems.seek(0)
                problem = problems.read().decode("utf-8", "replace")
                handle.flush()
                os.fsync(handle.fileno())
            if rc != 0:
                raise ScutumError(
                    f"pg_dump failed ({rc}): {self.installation.redact(problem.strip()[-400:])}",
                    left="the database is as it was; no incomplete dump was kept",
                    next_step=self._look(),
                )
            os.replace(temporary, path)
        finally:
            if os.path.exists(temporary):
                os.unlink(temporary)
        return Dump(path, digest.hexdigest(), os.path.getsize(path))

    def restore_command(self, path: str) -> str:
        """What an operator types to put a dump back over the database, all or nothing."""
        compose = self.installation.compose()
        restore = compose.command(
            *("exec", "-T", "postgres", "pg_restore", "-U", self.user, "-d", self.name),
            *("--clean", "--if-exists", "--no-owner", "--exit-on-error", "--single-transaction"),
        )
        return f"cd {self.installation.directory} && {restore} < {path}"


def _free(directory: str) -> int:
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize
