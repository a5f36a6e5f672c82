# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SQL on the installation's Postgres: every statement that this collection sends stands here.

It is sent through psql inside the server's own container, where the image trusts local connections: no password is
handed around, and the client is of the server's version.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from . import container_pipe
from .engine import Result, clean_environment
from .errors import ScutumError
from .files import free_bytes
from .installation import Installation
from .redact import without_rows

# r: table, p: partitioned table, v: view, m: materialised view. Partitions are counted through their parent.
_RELATIONS = """
SELECT n.nspname, c.relname, c.relkind
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v', 'm') AND NOT c.relispartition
   AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_%'
 ORDER BY 1, 2
"""

# Order of rows and partitions do not matter, and versions agree (measured on 15 and 17): the sum of hashes of whole rows. Types without
# a hash of their own take the sum of a part of the MD5 of the row's text, which the settings of the session pin.
HASHED = (
    "bool int2 int4 int8 float4 float8 numeric text varchar bpchar uuid date time timetz timestamp timestamptz interval jsonb inet cidr "
    "macaddr bytea name oid char"
)
_COLUMNS = f"""
SELECT encode(convert_to(n.nspname, 'UTF8'), 'hex'), encode(convert_to(c.relname, 'UTF8'), 'hex'),
       bool_and(t.typname = ANY (string_to_array('{HASHED}', ' '))
         OR t.typcategory = 'A' AND e.typname = ANY (string_to_array('{HASHED}', ' ')) OR t.typtype = 'e'),
       max(CASE WHEN n.nspname = 'public' AND c.relname = 'audit_logs' AND a.attname = 'timestamp' THEN 1 ELSE 0 END)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
       JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_type e ON e.oid = t.typelem
 WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped
   AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_%'
 GROUP BY 1, 2 ORDER BY 1, 2
"""
_OWN = "n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\\_%'"
# Who may do what. The owner is called so, whoever it is; a default that was never written down is written out.
_GRANTS = f"""
SELECT 'relation ' || n.nspname || '.' || c.relname AS object, c.relowner AS owner,
       coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's'::"char" ELSE 'r' END, c.relowner)) AS acl
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S') AND {_OWN}
UNION ALL
SELECT 'column ' || n.nspname || '.' || c.relname || '.' || t.attname, c.relowner, t.attacl
  FROM pg_attribute t JOIN pg_class c ON c.oid = t.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE t.attacl IS NOT NULL AND {_OWN}
UNION ALL
SELECT 'schema ' || n.nspname, n.nspowner, coalesce(n.nspacl, acldefault('n', n.nspowner)) FROM pg_namespace n
 WHERE (n.oid >= 16384 OR n.nspname = 'public') AND {_OWN}
UNION ALL
SELECT 'function ' || n.nspname || '.' || p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')', p.proowner,
       coalesce(p.proacl, acldefault('f', p.proowner))
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE {_OWN} AND NOT EXISTS (SELECT 1 FROM pg_depend x WHERE x.classid = 'pg_proc'::regclass AND x.objid = p.oid AND x.deptype = 'e')
"""
# What a restore has to bring back beside rows: each object with its definition. Owners are left out: a restore may be another role's.
_SCHEMA = f"""
SELECT 'view ' || n.nspname || '.' || c.relname, concat(pg_get_viewdef(c.oid), ' ', c.relispopulated)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('v', 'm') AND {_OWN}
UNION ALL
SELECT 'index ' || n.nspname || '.' || c.relname, pg_get_indexdef(c.oid)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('i', 'I') AND {_OWN}
UNION ALL
SELECT 'constraint ' || n.nspname || '.' || c.relname || '.' || k.conname, pg_get_constraintdef(k.oid)
  FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {_OWN}
UNION ALL
SELECT 'partition ' || n.nspname || '.' || c.relname, pg_get_expr(c.relpartbound, c.oid)
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relispartition AND c.relkind IN ('r', 'p') AND {_OWN}
UNION ALL
SELECT 'column ' || n.nspname || '.' || c.relname || '.' || a.attname,
       format_type(a.atttypid, a.atttypmod) || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END
         || coalesce(' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid), '')
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
       LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped AND {_OWN}
UNION ALL
SELECT 'function ' || n.nspname || '.' || p.proname || '(' || pg_get_function_identity_arguments(p.oid) || ')', pg_get_functiondef(p.oid)
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
 WHERE {_OWN} AND p.prokind IN ('f', 'p')
   AND NOT EXISTS (SELECT 1 FROM pg_depend x WHERE x.classid = 'pg_proc'::regclass AND x.objid = p.oid AND x.deptype = 'e')
UNION ALL
SELECT 'table ' || n.nspname || '.' || c.relname,
       concat(c.relpersistence, ' ', c.relrowsecurity, ' ', c.relforcerowsecurity, ' ', pg_get_partkeydef(c.oid))
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p') AND {_OWN}
UNION ALL
SELECT 'policy ' || n.nspname || '.' || c.relname || '.' || y.polname, concat(y.polcmd, pg_get_expr(y.polqual, y.polrelid))
  FROM pg_policy y JOIN pg_class c ON c.oid = y.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace WHERE {_OWN}
UNION ALL
SELECT 'enum ' || n.nspname || '.' || t.typname, string_agg(e.enumlabel, ',' ORDER BY e.enumsortorder)
  FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace JOIN pg_enum e ON e.enumtypid = t.oid WHERE {_OWN} GROUP BY 1
UNION ALL
SELECT 'domain ' || n.nspname || '.' || t.typname,
       concat(format_type(t.typbasetype, t.typtypmod), ' ', t.typnotnull, ' ', t.typdefault,
         (SELECT string_agg(pg_get_constraintdef(k.oid), ' ' ORDER BY k.conname) FROM pg_constraint k WHERE k.contypid = t.oid))
  FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.typtype = 'd' AND {_OWN}
UNION ALL
SELECT 'trigger ' || n.nspname || '.' || c.relname || '.' || t.tgname, pg_get_triggerdef(t.oid)
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE NOT t.tgisinternal AND {_OWN}
UNION ALL
SELECT 'rule ' || n.nspname || '.' || c.relname || '.' || r.rulename, pg_get_ruledef(r.oid)
  FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE r.rulename <> '_RETURN' AND {_OWN}
UNION ALL
SELECT 'statistics ' || n.nspname || '.' || s.stxname, pg_get_statisticsobjdef(s.oid)
  FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace WHERE {_OWN}
UNION ALL
SELECT 'publication ' || pubname, concat(puballtables, pubinsert, pubupdate, pubdelete, pubtruncate,
       (SELECT string_agg(prrelid::regclass::text, ',' ORDER BY prrelid::regclass::text) FROM pg_publication_rel WHERE prpubid = p.oid))
  FROM pg_publication p
UNION ALL
SELECT 'comment ' || pg_describe_object(d.classoid, d.objoid, d.objsubid), d.description FROM pg_description d
 WHERE d.objoid >= 16384
UNION ALL
SELECT 'grants ' || g.object, string_agg(g.granted, ',' ORDER BY g.granted)
  FROM (SELECT o.object, concat(CASE a.grantee WHEN 0 THEN 'public' WHEN o.owner THEN 'the owner' ELSE pg_get_userbyid(a.grantee) END,
               ' ', a.privilege_type, ' ', a.is_grantable) AS granted
          FROM ({_GRANTS}) o LEFT JOIN LATERAL aclexplode(o.acl) a ON true) g GROUP BY 1
UNION ALL
SELECT concat('default privileges of ', pg_get_userbyid(d.defaclrole), ' ', n.nspname, ' ', d.defaclobjtype), d.defaclacl::text
  FROM pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace
UNION ALL
SELECT 'extension ' || extname, 'installed' FROM pg_extension WHERE extname <> 'plpgsql'
"""
# For a session whose answers are compared: the same text everywhere, and no time-out of the server's.
SETTINGS = (
    "SET timezone = 'UTC'; SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; SET extra_float_digits = 1; "
    "SET bytea_output = 'hex'; SET xmlbinary = 'base64'; SET search_path = ''; SELECT set_config(name, '0', false) FROM pg_settings "
    "WHERE name IN ('statement_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout', 'transaction_timeout')"
)

# The product takes the first active one (vendor: _load_from_db in src/admin-api/license.py).
_LICENCES = """
SELECT json_build_object('id', id, 'fingerprint', encode(sha256(convert_to(license_key, 'UTF8')), 'hex'), 'tier', tier,
         'customer_id', customer_id, 'customer_email', customer_email, 'company', company, 'features', features,
         'active', is_active, 'issued_at', extract(epoch FROM issued_at), 'expires_at', extract(epoch FROM expires_at),
         'created_at', extract(epoch FROM created_at), 'activated_by', activated_by)
  FROM public.licenses ORDER BY is_active DESC, expires_at DESC, created_at DESC
"""

LARGE_OBJECTS = "large objects"

_PSQL = ("psql", "-X", "-q", "-At", "-F", "\x1f", "-v", "ON_ERROR_STOP=1", "-f", "-")
_END = "-- end of answer --"
_RESTORE = ("pg_restore", "--exit-on-error", "--no-owner")
# Where a session that renames databases is: in none of them.
_MAINTENANCE = "postgres"


class Snapshot:
    """A session that sees one moment of the database. Its name is what pg_dump takes."""

    def __init__(
        self, process: subprocess.Popen[bytes], problems: BinaryIO, redact: Callable[[str], str], look: str
    ) -> None:
        self.name = ""
        self._process = process
        self._problems = problems
        self._redact = redact
        self._look = look

    def query(self, sql: str) -> list[list[str]]:
        """Rows of one statement, every value as text; line breaks in a value would be taken for rows."""
        sent, got = cast(BinaryIO, self._process.stdin), cast(BinaryIO, self._process.stdout)
        with contextlib.suppress(BrokenPipeError):
            sent.write(f"{sql};\n\\echo {_END}\n".encode())
            sent.flush()
        rows: list[list[str]] = []
        for raw in got:
            line = raw.decode("utf-8", "replace").rstrip("\n")
            if line == _END:
                return rows
            rows.append(line.split("\x1f"))
        self._problems.seek(0)
        why = self._problems.read().decode("utf-8", "replace").strip()[-400:]
        raise ScutumError(
            f"Postgres: {self._redact(why) or 'the session that held the snapshot was ended'}",
            left="the database is as it was",
            next_step=self._look,
        )

    def tables(self) -> dict[str, dict[str, Any]]:
        """By table: `rows`, `hash` (a number as text, equal for equal rows), `method` (of the hash), `newest` (of audit_logs)."""
        found: dict[str, dict[str, Any]] = {}
        for encoded_schema, encoded_name, hashed, audit in self.query(_COLUMNS):
            schema, name = (bytes.fromhex(text).decode() for text in (encoded_schema, encoded_name))
            quoted = ".".join('"' + part.replace('"', '""') + '"' for part in (schema, name))
            method = "hash_record_extended" if hashed == "t" else "md5"
            each = (
                "hash_record_extended(ROW(t.*), 0)"
                if hashed == "t"
                else "('x' || substr(md5(ROW(t.*)::text), 1, 16))::bit(64)::bigint"
            )
            newest = ', max(t."timestamp")' if audit == "1" else ""
            row = self.query(f"SELECT count(*), coalesce(sum({each}), 0){newest} FROM {quoted} t")[0]
            found[f"{schema}.{name}"] = {"rows": int(row[0]), "hash": row[1], "method": method}
            if newest:
                found[f"{schema}.{name}"]["newest"] = row[2]
        # Not rows of a table of anybody's, and dumped all the same.
        count, content = self.query(
            "SELECT (SELECT count(*) FROM pg_largeobject_metadata), coalesce(sum(hash_record_extended(ROW(l.*), 0)::numeric), 0) "
            "FROM pg_largeobject l"
        )[0]
        if int(count):
            found[LARGE_OBJECTS] = {"rows": int(count), "hash": content, "method": "hash_record_extended"}
        return found

    def sequences(self) -> dict[str, int]:
        """By sequence, its last value; one that was never used is left out.

        They do not belong to the snapshot: a dump, which is made later, holds these values or higher ones.
        """
        sql = (
            "SELECT encode(convert_to(schemaname || '.' || sequencename, 'UTF8'), 'hex'), last_value FROM pg_sequences "
            "WHERE last_value IS NOT NULL AND schemaname NOT IN ('pg_catalog', 'information_schema')"
        )
        return {bytes.fromhex(name).decode(): int(value) for name, value in self.query(sql)}

    def alembic_version(self) -> str:
        """The schema's revision at that moment; empty when there is none."""
        if self.query("SELECT to_regclass('public.alembic_version') IS NOT NULL") != [["t"]]:
            return ""
        return ",".join(row[0] for row in self.query("SELECT version_num FROM public.alembic_version ORDER BY 1"))

    def server(self) -> str:
        """What tells this server's cluster from any other."""
        return self.query("SELECT system_identifier FROM pg_control_system()")[0][0]

    def schema(self) -> dict[str, str]:
        """By object (view, index, constraint, column, function, enum, …): the beginning of a SHA-256 of its definition."""
        # A definition comes back from a dump with other casts and brackets around the same text (measured: varchar IN, partial indexes).
        plain = "regexp_replace(coalesce(d, ''), '::(character varying|text|bpchar)(\\[\\])?|[()\\s]', '', 'g')"
        digest_of = f"encode(sha256(convert_to({plain}, 'UTF8')), 'hex')"
        encoded = f"SELECT encode(convert_to(o, 'UTF8'), 'hex'), {digest_of} FROM ({_SCHEMA}) s(o, d)"
        return {bytes.fromhex(name).decode(): digest[:16] for name, digest in sorted(self.query(encoded))}


@dataclass(frozen=True)
class Dump:
    """A dump on this host."""

    path: str
    sha256: str
    size: int


class Database:
    """The Postgres of an installation.

    Args:
        container: another server's, with `user` and `name` (of the database): a throwaway's, for instance.
    """

    def __init__(self, installation: Installation, container: str = "", user: str = "", name: str = "") -> None:
        self.installation = installation
        env = installation.env()
        self.user = user or env.get("POSTGRES_USER") or "litellm"
        self.name = name or env.get("POSTGRES_DB") or "litellm"
        self._container = container

    def container(self) -> str:
        """The id of the server's container."""
        if not self._container:
            self._container = self.installation.compose().container_id(self.installation.project, "postgres")
        if not self._container:
            raise ScutumError(
                "Postgres: its container does not run", left="nothing was asked of it", next_step=self._look()
            )
        return self._container

    def _in_container(self, *command: str, connect: bool = True) -> list[str]:
        """Arguments of the engine for a command in the server's container."""
        who = ["-U", self.user, "-d", self.name] if connect else []
        return ["exec", "-i", self.container(), *command, *who]

    def _look(self) -> str:
        compose = self.installation.compose()
        return f"cd {self.installation.directory} && {compose.command('logs', '--tail', '50', 'postgres')}"

    def psql(self, *options: str) -> list[str]:
        """The command for a psql in the server's container that takes statements from its standard input."""
        return [self.installation.engine.binary, *self._in_container(*_PSQL, *options)]

    def look(self) -> str:
        """What an operator types to see what the server says."""
        return self._look()

    def query(self, sql: str, timeout: float = 600) -> list[list[str]]:
        """Rows of one statement, every value as text."""
        result = self.installation.engine.run(*self._in_container(*_PSQL), stdin=sql, timeout=timeout)
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

    def estimates(self) -> dict[str, int]:
        """Every table with its number of rows as the server's statistics have it: at once, however large it is."""
        rows = self.query("SELECT schemaname || '.' || relname, n_live_tup FROM pg_stat_user_tables ORDER BY 1", 10)
        return {name: int(number) for name, number in rows}

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
        end = time.monotonic() + 60
        while True:
            try:
                self.query(f"ALTER ROLE {quoted(self.user)} PASSWORD '{verifier}'", timeout=60)
                return
            except ScutumError as error:
                # At the host's start it may not take connections yet.
                if "connection to server on socket" not in error.what or time.monotonic() > end:
                    raise
            time.sleep(1)

    def password_works(self, password: str) -> bool:
        """Whether the server lets the product's role in with a password, asked over the network from a container of its own.

        Inside the server's container the image trusts everybody.
        """
        result = self._over_network('psql -X -w -h postgres -U "$1" -d "$2" -Atc "SELECT 1"', password)
        if result.rc == 0 and result.out.strip() == "1":
            return True
        if "password authentication failed" in result.err:
            return False
        raise ScutumError(
            f"Postgres: a login over the network failed ({result.rc}): {result.err.replace(password, '…').strip()[-300:]}",
            next_step=self._look(),
        )

    def _over_network(
        self,
        command: str,
        password: str,
        *words: str,
        mount: str = "",
        timeout: float = 60,
        server: str = "postgres",
        client: str = "",
    ) -> Result:
        """A client of the server's own image, in a container of its own on the project's network; the password goes through standard input.

        Args:
            command: for a shell, with `$1` the role, `$2` the database, and `$3` … the further words.
            mount: directory of the host, read only at /spool.
            client: name of the container.
        """
        engine, project = self.installation.engine, self.installation.project
        container = self.installation.compose().containers(project).get(server)
        networks = sorted((container or {}).get("NetworkSettings", {}).get("Networks") or {})
        if container is None or not networks:
            raise ScutumError(
                "Postgres: its container does not run", left="nothing was asked of it", next_step=self._look()
            )
        mounts = ("--mount", f"type=bind,source={mount},target=/spool,readonly") if mount else ()
        named = ("--name", client) if client else ()
        run = (
            "run",
            "--rm",
            "-i",
            *named,
            "--network",
            networks[0],
            *mounts,
            "--entrypoint",
            "sh",
            str(container["Image"]),
        )
        script = f"IFS= read -r PGPASSWORD; export PGPASSWORD; export PGCONNECT_TIMEOUT=10; exec {command}"
        return engine.run(
            *run, "-c", script, "sh", self.user, self.name, *words, stdin=password + "\n", timeout=timeout
        )

    @contextlib.contextmanager
    def snapshot(self, timeout: float = 6 * 3600) -> Iterator[Snapshot]:
        """One moment of the database, held open: a dump and queries see the same rows.

        Args:
            timeout: seconds after which the session is ended.
        """
        command = [self.installation.engine.binary, *self._in_container(*_PSQL)]
        with tempfile.TemporaryFile() as problems:
            process = subprocess.Popen(
                command, env=clean_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=problems
            )
            end = threading.Timer(timeout, process.kill)
            end.daemon = True
            end.start()
            try:
                found = Snapshot(process, problems, self.installation.redact, self._look())
                found.query(f"{SETTINGS}; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
                found.name = found.query("SELECT pg_export_snapshot()")[0][0]
                yield found
            finally:
                end.cancel()
                process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    if pipe:
                        with contextlib.suppress(OSError):
                            pipe.close()

    def dump_stream(
        self, snapshot: str = "", level: int = 1, timeout: float = 6 * 3600, limit: str = ""
    ) -> Generator[bytes]:
        """A dump in custom format, as it comes from the server's own pg_dump, in blocks.

        It raises when pg_dump fails or is ended, however much came before: a stream that just ends is a complete one. Close it when it is
        not read to its end, or pg_dump goes on holding its locks.

        Args:
            snapshot: name of an exported snapshot; empty for one of its own.
            level: of zstd; a server before 16 has gzip only.
            timeout: seconds after which it is ended.
            limit: the variable that sets the time-out, for the message.
        """
        # Without long-distance matching: it makes a dump of audit rows a sixth smaller, and has pg_dump take twice the CPU, of one core
        # (measured, level 1, 4 million rows: 5.8 seconds and 2.6).
        method = ["-Z", f"zstd:level={level}"] if self.server_version() >= 16 else ["-Z", "6"]
        # A lock that somebody else holds must not keep it, and those behind it, waiting for ever. Production goes first on the CPU.
        name = f"scutum-ops-dump-{uuid.uuid4().hex[:12]}"
        words = (
            "env",
            f"PGAPPNAME={name}",
            "nice",
            "-n",
            "10",
            "pg_dump",
            "-Fc",
            *method,
            *([f"--snapshot={snapshot}"] if snapshot else []),
            "--lock-wait-timeout=60s",
        )
        late: list[bool] = []
        with (
            tempfile.TemporaryFile() as problems,
            container_pipe.pipe(self.installation.engine, self.container()) as pipe,
        ):
            command = [self.installation.engine.binary, *self._in_container(*pipe.output_of(*words))]
            process = subprocess.Popen(
                command, env=clean_environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=problems
            )

            def give_up() -> None:
                late.append(True)
                process.kill()

            end = threading.Timer(timeout, give_up)
            end.daemon = True
            end.start()
            try:
                yield from pipe.read(process)
                rc = process.wait()
            finally:
                end.cancel()
                process.kill()
                if process.wait() != 0:
                    # The engine's client is gone; what it started in the container is not, and holds its locks (measured).
                    with contextlib.suppress(ScutumError):
                        self.query(
                            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{name}'",
                            30,
                        )
            problems.seek(0)
            problem = problems.read().decode("utf-8", "replace")
        if rc != 0:
            named = f" ({limit})" if limit else ""
            why = f"it took longer than {timeout:.0f} s{named}" if late else "it was ended"
            raise ScutumError(
                f"pg_dump failed ({rc}): {self.installation.redact(_reason(problem)) or why}",
                left="the database is as it was",
                next_step=self._look(),
            )

    def image(self) -> str:
        """The id of the image that the server runs."""
        return str(self.installation.engine.inspect("container", [self.container()])[0]["Image"])

    def restore(self, path: str, jobs: int, timeout: float = 12 * 3600) -> None:
        """Restore a dump, which lies in the server's container, into this empty database. Owners are left to the role here.

        Args:
            path: in the container.
            jobs: side by side; more than one cannot read a pipe, hence the file.
            timeout: seconds after which it is ended.
        """
        command = [*self._in_container(*_RESTORE, "-j", str(jobs)), path]
        self._restored(self.installation.engine.run(*command, timeout=timeout))

    def restore_from(self, path: str, jobs: int, password: str, timeout: float = 12 * 3600) -> None:
        """The same with a file of this host, by a client in a container of its own: the server's has no place for it.

        Args:
            path: on this host.
            password: of the product's role.
        """
        directory, name = os.path.split(path)
        command = f'{" ".join(_RESTORE)} -h postgres -U "$1" -d "$2" -j "$3" "/spool/$4"'
        # Ended with this process, or by the next one: else it would go on at all cores beside production.
        client = f"scutum-ops-restore-{self.installation.project}"
        self.installation.engine.run("rm", "-f", client, timeout=60)
        try:
            self._restored(
                self._over_network(command, password, str(jobs), name, mount=directory, timeout=timeout, client=client)
            )
        finally:
            self.installation.engine.run("rm", "-f", client, timeout=60)

    def _restored(self, result: Result) -> None:
        if result.rc != 0:
            raise ScutumError(
                f"pg_restore failed ({result.rc}): {self.installation.redact(without_rows(result.err or result.out).strip()[-600:])}",
                left="nothing but the empty database for it was written to",
                next_step="the dump cannot be restored: take another backup, and find out why",
            )

    def bring_roles(self, statements: str) -> list[str]:
        """Create the roles of `globals()` that this server lacks, with their attributes and memberships; their names.

        They come without passwords, which are secrets. What the server has already stays as it is.
        """
        have = {row[0] for row in self.query("SELECT rolname FROM pg_roles")}
        found = [line for line in statements.splitlines() if line.startswith(("CREATE ROLE", "ALTER ROLE", "GRANT"))]
        missing = {
            name: _identifier(name)
            for line in found
            if line.startswith("CREATE ROLE") and _identifier(name := line[len("CREATE ROLE ") : -1]) not in have
        }
        wanted = [
            line
            for line in found
            if any(
                line.startswith((f"CREATE ROLE {name};", f"ALTER ROLE {name} ")) or f" TO {name} " in f"{line[:-1]} "
                for name in missing
            )
        ]
        if wanted:
            self.query("\n".join(["BEGIN;", *wanted, "COMMIT;"]))
        return sorted(missing.values())

    def roles_without_password(self) -> list[str]:
        """Roles that may log in, and could not over the network."""
        sql = "SELECT rolname FROM pg_authid WHERE rolcanlogin AND rolpassword IS NULL ORDER BY 1"
        return [row[0] for row in self.query(sql)]

    def check_indexes(self, jobs: int = 1) -> int | None:
        """Every B-tree index against its table (amcheck, with all tuples); their number, or None where the server lacks amcheck."""
        if self.query("SELECT 1 FROM pg_available_extensions WHERE name = 'amcheck'") != [["1"]]:
            return None
        there = self.query("SELECT 1 FROM pg_extension WHERE extname = 'amcheck'") == [["1"]]
        self.query("CREATE EXTENSION IF NOT EXISTS amcheck")
        listed = (
            "SELECT c.oid FROM pg_class c JOIN pg_am a ON a.oid = c.relam "
            "JOIN pg_index i ON i.indexrelid = c.oid JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE a.amname = 'btree' AND c.relkind = 'i' AND i.indisready AND i.indisvalid AND c.relpersistence <> 't' "
            "AND n.nspname NOT IN ('pg_catalog', 'pg_toast', 'information_schema') ORDER BY c.relpages DESC"
        )
        indexes = [row[0] for row in self.query(listed)]
        # A session for each core, the large ones spread over them.
        parts = [part for number in range(jobs) if (part := indexes[number::jobs])]

        def check(part: list[str]) -> list[list[str]]:
            return self.query(
                f"SELECT bt_index_check(i, true) FROM unnest(ARRAY[{','.join(part)}]::oid[]) i", timeout=6 * 3600
            )

        with ThreadPoolExecutor(max_workers=max(1, len(parts))) as pool:
            list(pool.map(check, parts))
        if not there:
            self.query("DROP EXTENSION amcheck")
        return len(indexes)

    # --- databases beside each other

    def _maintenance(self, sql: str, timeout: float = 60) -> list[list[str]]:
        """Rows of a statement about databases, sent from none of them."""
        place = "template1" if self.name == _MAINTENANCE else _MAINTENANCE
        return Database(self.installation, self._container, self.user, place).query(sql, timeout)

    def databases(self) -> set[str]:
        """Names of all databases of the server."""
        return {row[0] for row in self._maintenance("SELECT datname FROM pg_database")}

    def create_beside(self, name: str) -> None:
        """Create an empty database with encoding, locale and owner of this one."""
        # LOCALE_PROVIDER's own column has another name in each version.
        statement = (
            "SELECT format('CREATE DATABASE %I TEMPLATE template0 OWNER %I ENCODING %L LC_COLLATE %L LC_CTYPE %L', "
            f"{literal(name)}, pg_get_userbyid(d.datdba), pg_encoding_to_char(d.encoding), d.datcollate, d.datctype) "
            "|| CASE d.datlocprovider WHEN 'i' THEN format(' LOCALE_PROVIDER icu ICU_LOCALE %L', "
            "coalesce(to_jsonb(d)->>'datlocale', to_jsonb(d)->>'daticulocale')) ELSE '' END "
            f"FROM pg_database d WHERE datname = {literal(self.name)}"
        )
        self._maintenance(self._maintenance(statement)[0][0], timeout=600)

    def drop_beside(self, name: str) -> None:
        """Drop a database that is not this one, and whatever is connected to it."""
        if name == self.name:
            raise ScutumError(
                f"{name} is the database in force",
                left="it was not dropped",
                next_step=f"look at what is there: {self._look()}",
            )
        self._maintenance(f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE)", timeout=600)

    def own_settings(self) -> list[str]:
        """What a dump does not bring along: settings and grants of this database as a whole, in words."""
        sql = (
            "SELECT 'setting ' || unnest(s.setconfig) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase "
            f"WHERE d.datname = {literal(self.name)} "
            "UNION ALL SELECT 'grants ' || array_to_string(d.datacl, ' ') FROM pg_database d "
            f"WHERE d.datname = {literal(self.name)} AND d.datacl IS NOT NULL"
        )
        return [row[0] for row in self._maintenance(sql)]

    def analyze(self) -> None:
        """Have the planner's statistics, which no dump holds."""
        self.query("ANALYZE", timeout=6 * 3600)

    def swap(self, incoming: str, outgoing: str) -> None:
        """Give the database `incoming` this one's name, and this one the name `outgoing`: both in one transaction, or neither.

        Whoever is connected to either is disconnected. When it fails, this one takes connections as before.
        """
        live, new = quoted(self.name), quoted(incoming)
        both = f"{literal(self.name)}, {literal(incoming)}"
        renamed = (
            f"BEGIN; ALTER DATABASE {live} RENAME TO {quoted(outgoing)}; ALTER DATABASE {new} RENAME TO {live}; "
            f"ALTER DATABASE {live} ALLOW_CONNECTIONS true; ALTER DATABASE {quoted(outgoing)} ALLOW_CONNECTIONS true; COMMIT"
        )
        try:
            # A pool that connects again at once would keep the name for ever.
            self._maintenance(
                f"ALTER DATABASE {live} ALLOW_CONNECTIONS false; ALTER DATABASE {new} ALLOW_CONNECTIONS false"
            )
            for attempt in range(20):
                self._maintenance(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname IN ({both})")
                try:
                    self._maintenance(renamed)
                    return
                except ScutumError as error:
                    if "being accessed by other users" not in error.what or attempt == 19:
                        raise
                    time.sleep(0.5)
        except ScutumError:
            with contextlib.suppress(ScutumError):
                self.allow_connections()
            raise

    def allow_connections(self, patience: float = 0) -> None:
        """Let this database take connections; a swap that was killed may have left it closed.

        Args:
            patience: seconds for which a server that does not answer is asked again.
        """
        end = time.monotonic() + patience
        while True:
            try:
                self._maintenance(f"ALTER DATABASE {quoted(self.name)} ALLOW_CONNECTIONS true")
                return
            except ScutumError:
                if time.monotonic() > end:
                    raise
                time.sleep(2)

    def silence(self) -> int:
        """Switch off every event subscription of a copy: they would page the real on-call. Their number."""
        if self.query("SELECT to_regclass('public.event_subscriptions') IS NOT NULL") != [["t"]]:
            return 0
        return len(self.query("DELETE FROM public.event_subscriptions RETURNING id"))

    def globals(self) -> str:
        """Roles and their grants as SQL, without passwords: they are secrets, and come from their source."""
        command = ("pg_dumpall", "--globals-only", "--no-role-passwords", "-U", self.user, "-l", self.name)
        result = self.installation.engine.run(*self._in_container(*command, connect=False), timeout=120)
        if result.rc != 0:
            raise ScutumError(
                f"pg_dumpall failed ({result.rc}): {self.installation.redact(result.err.strip()[-300:])}",
                left="the database is as it was",
                next_step=self._look(),
            )
        return result.out

    def settings(self, names: list[str]) -> dict[str, int]:
        """Server settings that are numbers, by name; memory in bytes."""
        listed = ", ".join(literal(name) for name in names)
        sql = (
            "SELECT name, CASE WHEN unit IN ('B', 'kB', '8kB', 'MB') THEN pg_size_bytes(current_setting(name)) ELSE setting::bigint END "
            f"FROM pg_settings WHERE name IN ({listed}) AND vartype = 'integer'"
        )
        return {name: int(value) for name, value in self.query(sql)}

    def traffic(self, days: int) -> dict[str, float]:
        """What LiteLLM and admin-api wrote: of the busiest of the last whole days (UTC) `requests` and `audit`, `peak` (requests a second
        in the busiest minute), `days` (that have any). Empty without LiteLLM's table."""
        if self.query("""SELECT to_regclass('public."LiteLLM_SpendLogs"') IS NOT NULL""") != [["t"]]:
            return {}
        since = f"date_trunc('day', now() AT TIME ZONE 'UTC') - interval '{int(days)} days'"
        until = "date_trunc('day', now() AT TIME ZONE 'UTC')"
        # LiteLLM writes UTC without a zone.
        minutes = (
            """SELECT date_trunc('minute', "startTime") AS m, count(*) AS n FROM public."LiteLLM_SpendLogs" """
            f"""WHERE "startTime" >= {since} AND "startTime" < {until} GROUP BY 1"""
        )
        busiest = (
            f"SELECT coalesce(max(s), 0), count(*) FROM (SELECT sum(n) AS s FROM ({minutes}) a GROUP BY m::date) b"
        )
        requests, counted = self.query(busiest)[0]
        peak = self.query(f"SELECT coalesce(max(n), 0) FROM ({minutes}) a")[0][0]
        audit = 0.0
        if self.query("SELECT to_regclass('public.audit_logs') IS NOT NULL") == [["t"]]:
            audit = float(
                self.query(
                    "SELECT coalesce(max(n), 0) FROM (SELECT count(*) AS n FROM public.audit_logs WHERE timestamp >= "
                    f"({since}) AT TIME ZONE 'UTC' AND timestamp < ({until}) AT TIME ZONE 'UTC' "
                    "GROUP BY (timestamp AT TIME ZONE 'UTC')::date) a"
                )[0][0]
            )
        return {"requests": float(requests), "audit": audit, "peak": float(peak) / 60, "days": float(counted)}

    def idle_in_transaction(self) -> float:
        """Seconds for which the session has waited longest that holds a transaction open and does nothing."""
        sql = (
            "SELECT coalesce(max(extract(epoch FROM now() - state_change)), 0) FROM pg_stat_activity "
            "WHERE state LIKE 'idle in transaction%'"
        )
        return float(self.query(sql)[0][0])

    def size(self) -> int:
        """Bytes of the database."""
        return int(self.query("SELECT pg_database_size(current_database())")[0][0])

    def server_version(self) -> int:
        """The server's major version."""
        return int(self._maintenance("SHOW server_version_num")[0][0]) // 10000

    def check_space(self, directory: str) -> None:
        """Refuse a dump that may not fit."""
        needed, free = self.size(), free_bytes(directory)
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
        directory = os.path.dirname(path)
        self.check_space(directory)
        descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=".dump-")
        digest = hashlib.sha256()
        try:
            with os.fdopen(descriptor, "wb") as handle, contextlib.closing(self.dump_stream(timeout=timeout)) as dump:
                for block in dump:
                    digest.update(block)
                    handle.write(block)
                handle.flush()
                os.fsync(handle.fileno())
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


def quoted(name: str) -> str:
    """A name as an identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as a constant of SQL."""
    return "'" + text.replace("'", "''") + "'"


def _identifier(text: str) -> str:
    """The name that an identifier in SQL stands for."""
    return text[1:-1].replace('""', '"') if text.startswith('"') else text


def _reason(problem: str) -> str:
    """What pg_dump says, without the statement that it repeats after it: that may be long, and the reason stands before it."""
    return re.split(r"\n\S+: detail: (?:Query|Command) was:", problem)[0].strip()[-400:]
