# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A kept session for changes of a live table: one round trip for a transaction, short waits for locks, one operation at a time.

Whoever waits for a strong lock has every insert that comes later waiting behind it. So a lock is asked for with a short `lock_timeout`,
again and again, until the operator's patience ends; a transaction goes to the server as one message, so that no lock is held while
the next statement travels; and `deadlock_timeout` is short, since an autovacuum in the way is only sent away after it (measured: 45
attempts with the usual second, one with 50 ms).
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, cast

from .database import Database, literal
from .engine import clean_environment
from .errors import ScutumError

# Where everything lies that is not in force: it goes when nothing is open.
WORK, OLD = "scutum_ops", "scutum_ops_old"

AGAIN = "run the same again: it continues there (playbooks/audit_retention.yml; scutum-ops audit-partitions, with --undo for the way back)"

# A lock that was not to be had in time, a deadlock, a statement that took too long.
_BUSY = ("55P03", "40P01", "57014")
# Seconds for which a lock is waited for, and with it every insert: little at first, then as long as a reader of the product may take.
_LOCK_FIRST, _LOCK_MOST = 0.03, 0.2
_END, _ERROR = "-- end of answer --", "-- error --"
# The autovacuum that stands in the way goes after deadlock_timeout, which only a superuser may set: the product's role is one.
_SETTINGS = (
    "SET timezone = 'UTC'",
    "SET datestyle = 'ISO'",
    "SET intervalstyle = 'postgres'",
    "SET extra_float_digits = 1",
    "SET search_path = ''",
    "SET max_parallel_maintenance_workers = 0",
    "SET max_parallel_workers_per_gather = 0",
    # What is copied goes to the disk bit by bit: many dirty pages at once would let the next commit of the product wait.
    "SET backend_flush_after = '256kB'",
    "SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN "
    "('statement_timeout', 'idle_in_transaction_session_timeout', 'idle_session_timeout', 'transaction_timeout')",
    "SELECT set_config('deadlock_timeout', '10ms', false) WHERE current_setting('is_superuser') = 'on'",
    # A row that only changes its place fires nobody's trigger; ours say that they want to know all the same.
    "SELECT set_config('session_replication_role', 'replica', false) WHERE current_setting('is_superuser') = 'on'",
)
# One operation in a database: any other waits for this lock.
_LOCK = "pg_try_advisory_lock(hashtext('scutum.ops'), hashtext('partitions'))"
# A run that was killed may still have its last statement at work on the server.
_LOCK_PATIENCE = 20.0


class Refused(ScutumError):
    """A statement that the server refused.

    Args:
        state: its SQLSTATE.
    """

    def __init__(self, what: str, left: str, next_step: str, state: str) -> None:
        super().__init__(what, left, next_step)
        self.state = state

    @property
    def busy(self) -> bool:
        """Whether it may go through a little later."""
        return self.state in _BUSY


class Session:
    """One connection through psql in the server's container. `open_session` makes it."""

    def __init__(self, database: Database, process: subprocess.Popen[bytes], problems: BinaryIO) -> None:
        self.database = database
        self._process = process
        self._problems = problems

    def run(self, *statements: str) -> list[list[str]]:
        """Send statements as one message: all of them, or none, even without BEGIN. Rows of those that have some, every value as text.

        Raises:
            Refused: the server refused one; an open transaction was rolled back.
        """
        sent, got = cast(BinaryIO, self._process.stdin), cast(BinaryIO, self._process.stdout)
        text = " \\;\n".join(statements)
        with contextlib.suppress(BrokenPipeError):
            sent.write(
                f"{text};\n\\if :ERROR\n\\echo {_ERROR} :SQLSTATE\n\\echo :LAST_ERROR_MESSAGE\n\\endif\n\\echo {_END}\n".encode()
            )
            sent.flush()
        rows: list[list[str]] = []
        state, said = "", []
        for raw in got:
            line = raw.decode("utf-8", "replace").rstrip("\n")
            if line == _END:
                break
            if line.startswith(_ERROR):
                state = line[len(_ERROR) :].strip()
            elif state:
                said.append(line)
            else:
                rows.append(line.split("\x1f"))
        else:
            raise self._lost()
        if state:
            if statements[0] == "BEGIN" or statements[0].startswith("BEGIN "):
                self._rollback()
            raise Refused(
                f"Postgres: {self.database.installation.redact(' '.join(said))[-600:]}",
                "the statement that failed changed nothing",
                self.database.look(),
                state,
            )
        return rows

    def _rollback(self) -> None:
        """End a failed transaction; psql's word on there being none is not wanted."""
        sent, got = cast(BinaryIO, self._process.stdin), cast(BinaryIO, self._process.stdout)
        with contextlib.suppress(BrokenPipeError):
            sent.write(f"ROLLBACK;\n\\echo {_END}\n".encode())
            sent.flush()
        for raw in got:
            if raw.decode("utf-8", "replace").rstrip("\n") == _END:
                return
        raise self._lost()

    def _lost(self) -> ScutumError:
        self._process.wait()
        self._problems.seek(0)
        why = self._problems.read().decode("utf-8", "replace").strip()[-400:]
        return ScutumError(
            f"Postgres: the session was ended: {self.database.installation.redact(why) or 'without a word'}",
            left="the application's table serves as it did; what was done before stays",
            next_step=f"see why: {self.database.look()}; then {AGAIN}",
        )

    def rows(self, sql: str) -> list[dict[str, Any]]:
        """Rows of a query with their types, whatever their text holds."""
        answer = self.run(f"SELECT coalesce(jsonb_agg(to_jsonb(q)), '[]') FROM ({sql}) q")
        return cast("list[dict[str, Any]]", json.loads("\x1f".join(answer[0])))

    def value(self, sql: str) -> str:
        """The first value of the first row; empty when there is none."""
        answer = self.run(sql)
        return answer[0][0] if answer else ""

    def exists(self, name: str) -> bool:
        """Whether there is a relation of a name that carries its schema, quoted where it has to be."""
        return self.value(f"SELECT to_regclass({literal(name)}) IS NOT NULL") == "t"

    def patiently(
        self, statements: Callable[[], list[str]], table: str, patience: float, doing: str
    ) -> list[list[str]]:
        """Send a transaction that needs strong locks until they are to be had.

        Args:
            statements: what stands between BEGIN and COMMIT; asked for each attempt, and may prepare it.
            table: relation whose lock is the hard one to have, for the message.
            patience: seconds.
            doing: what could not be done, for the message: "converted".

        Raises:
            ScutumError: it was not to be had in that time; the message names who held it.
        """
        end = time.monotonic() + patience
        wait, pause = _LOCK_FIRST, 0.05
        while True:
            body = statements()
            limits = f"SET LOCAL lock_timeout = '{int(wait * 1000)}ms'"
            # Nobody waits for the disk under this lock. What is written next makes it durable, and a crash before that takes back both.
            quick = "SET LOCAL synchronous_commit = off"
            try:
                return self.run("BEGIN", limits, quick, *body, "COMMIT")
            except Refused as error:
                if not error.busy:
                    raise
            if time.monotonic() + pause > end:
                raise self._starved(table, patience, doing)
            time.sleep(pause)
            wait, pause = min(_LOCK_MOST, wait * 1.25), min(1.0, pause * 1.5)

    def holders(self, table: str) -> list[str]:
        """Who holds locks on a relation or has a transaction open for long, in words, the oldest first."""
        sql = f"""
            SELECT a.pid, a.application_name AS name, coalesce(a.state, '') AS state,
                   extract(epoch FROM clock_timestamp() - a.xact_start)::int AS seconds
              FROM pg_stat_activity a
             WHERE a.pid <> pg_backend_pid() AND a.xact_start IS NOT NULL AND EXISTS (SELECT 1 FROM pg_locks l
                   WHERE l.pid = a.pid AND l.granted AND l.relation = to_regclass({literal(table)}))
             ORDER BY a.xact_start LIMIT 5"""
        return [
            f"process {row['pid']} ({row['name'] or 'no name'}, {row['state']}, its transaction is {row['seconds']} s old)"
            for row in self.rows(sql)
        ]

    def _starved(self, table: str, patience: float, doing: str) -> ScutumError:
        who = self.holders(table)
        pid = who[0].split()[1] if who else "PID"
        return ScutumError(
            f"{table} could not be {doing}: its lock was not to be had in {patience:.0f} s; "
            + (f"it is held by {'; '.join(who)}" if who else "nobody holds it at this moment"),
            left="the table serves as it did; what was prepared beside it stays for the next run",
            next_step=f"wait for that to end, or end it: SELECT pg_terminate_backend({pid}); then {AGAIN}",
        )


@contextlib.contextmanager
def open_session(database: Database, alone: bool = True) -> Iterator[Session]:
    """A session with its settings.

    Args:
        alone: no other operation on partitions may go on in this database meanwhile.

    Raises:
        ScutumError: another one is at work.
    """
    with tempfile.TemporaryFile() as problems:
        process = subprocess.Popen(
            database.psql("-v", "ON_ERROR_STOP=0"),
            env=clean_environment({}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=problems,
        )
        session = Session(database, process, problems)
        try:
            for statement in _SETTINGS:
                session.run(statement)
            if alone:
                _claim(session)
            yield session
        finally:
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    with contextlib.suppress(OSError):
                        pipe.close()
            try:
                # psql ends when there is nothing more to read, and its session with it.
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _claim(session: Session) -> None:
    end = time.monotonic() + _LOCK_PATIENCE
    while session.value(f"SELECT {_LOCK}") != "t":
        if time.monotonic() > end:
            raise ScutumError(
                "another run changes partitions of this database at this moment",
                left="nothing was changed",
                next_step="wait until it has ended; then run this again",
            )
        time.sleep(0.5)


def free_bytes(session: Session) -> int | None:
    """Bytes that are free where the server keeps its data; None when its container has no `df`."""
    directory = session.value("SHOW data_directory")
    database = session.database
    result = database.installation.engine.run("exec", database.container(), "df", "-kP", directory, timeout=60)
    fields = result.out.strip().splitlines()[-1].split() if result.rc == 0 and result.out.strip() else []
    return int(fields[3]) * 1024 if len(fields) >= 6 and fields[3].isdigit() else None


def scalar(database: Database, sql: str) -> str:
    """The one value of a query, outside any operation; times in UTC."""
    rows = database.query(f"SET timezone = 'UTC'; SET datestyle = 'ISO'; {sql}")
    return rows[0][0] if rows else ""
