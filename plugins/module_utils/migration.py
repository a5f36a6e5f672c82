# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""admin-api's migrations: what an image would do, doing it in a container of its own with a deadline, and the way back of the head.

admin-api migrates at its start, in a loop when it fails. Here alembic runs once, before any service of the new release starts, and
what is locked meanwhile is looked at from beside.

Going back by images alone leaves alembic_version at the old head on the new schema. A comment on that table says of which revision the
schema is: it travels with dumps and copies. The next migration goes on from there, and does not do again what is done.
"""

from __future__ import annotations

import contextlib
import re
import shlex
import time
from collections.abc import Iterator
from typing import Any

from . import stack
from .compose import Compose
from .database import Database, literal
from .engine import Engine
from .errors import ScutumError
from .images import references
from .installation import Installation
from .partition_session import Session, open_session
from .redact import without_rows
from .report import Say
from .secret_injection import TARGET

ONE_OFF = "scutum-ops-migration"
SERVICE = "admin-api"
_ALEMBIC = ("alembic", "upgrade", "head")
# Locks that let a writer wait.
_STRONG = "'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock'"
# Seconds between two looks.
_PAUSE = 0.2
# Seconds for which it may wait for a lock, and every writer of that table behind it; seconds until it is tried again.
_PATIENCE = 5.0
_AGAIN = 3.0
# How a failure begins in a log of Python's: `sqlalchemy.exc.ProgrammingError: …`
_FAILURE = re.compile(r"^(?:[A-Za-z_][\w.]*\.)?\w*(?:Error|Exception|Locate|FAILED)\w*\b.*:")
_AWAY = re.compile(
    r"terminating connection due to administrator command|server closed the connection|the database system is (starting|shutting)"
    r"|[Cc]onnection refused|consuming input failed|server terminated abnormally|AdminShutdown|CannotConnectNow"
)
# Words of secret_injection's entrypoint before those that the image, or Compose, would have run.
_INJECTED = 4
_TABLE = "public.alembic_version"
# The comment on it, before the revision. Only exactly this is ours.
NOTE = "scutum.ops: the schema is that of revision "
_SAID = f"pg_catalog.obj_description(to_regclass('{_TABLE}'), 'pg_class')"
_NOTED = f"substring({_SAID} from '^{NOTE.replace('.', '[.]')}([^[:space:]]+)$')"


class Failed(ScutumError):
    """A migration that did not go well.

    Args:
        log: what it said.
    """

    def __init__(self, what: str, left: str, next_step: str, log: str) -> None:
        super().__init__(what, left, next_step)
        self.log = log


def _ask(engine: Engine, image: str, *words: str) -> list[str]:
    """Lines that alembic says in a throwaway container; none when it does not."""
    # An image that is not here is not brought here, either.
    call = ("run", "--rm", "--pull", "never", "--network", "none", "--entrypoint", "alembic", image)
    result = engine.run(*call, *words, timeout=60)
    return result.out.splitlines() if result.rc == 0 else []


def head(engine: Engine, image: str) -> str:
    """The revision to which an image migrates; empty when it does not tell."""
    return ",".join(sorted(line.split()[0] for line in _ask(engine, image, "heads") if line.split()))


def notes(engine: Engine, image: str, since: str) -> list[str]:
    """The revisions of an image after one of them, the oldest first, each in a line: `030 Add request tags.`"""
    return parse_history(_ask(engine, image, "history", "-r", f"{since or 'base'}:head"), since)


def parse_history(lines: list[str], since: str) -> list[str]:
    """What `alembic history` says, newest first, as `notes` returns it."""
    found = [re.match(r"^.+? -> (\S+?)(?: \([^)]*\))*, (.*)$", line) for line in lines]
    return [f"{match.group(1)} {match.group(2)}" for match in reversed(found) if match and match.group(1) != since]


def call(service: dict[str, Any], image: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Options and words for `compose run` that have alembic run in a service, with its secrets where it expects them.

    Args:
        service: of the Compose model.
        image: the `Config` of its image.
    """
    words = [str(word).replace("$$", "$") for word in service.get("entrypoint") or []]
    if any(TARGET in word for word in words[:_INJECTED]):
        # What follows is what the image would have run.
        rest = words[_INJECTED:]
        return (["--entrypoint", shlex.join(words[:_INJECTED])] if rest else []), list(_ALEMBIC)
    if words or image.get("Entrypoint"):
        return ["--entrypoint", _ALEMBIC[0]], list(_ALEMBIC[1:])
    return [], list(_ALEMBIC)


def run(installation: Installation, timeout: float, say: Say) -> dict[str, Any]:
    """Migrate with the image of the Compose file in force, in a container of its own; what runs is left alone.

    Args:
        timeout: seconds until it is ended.

    Returns:
        `before`, `after` (revisions), `again` (the revision that the schema had already, empty when that was `before`), `seconds`, `locks`
        (`table`, `mode`, `seconds`: strong ones that were seen), `log` (last lines).

    Raises:
        Failed: it failed, or took too long; revisions that were done before stay, each is a transaction of its own.
    """
    engine, compose, database = installation.engine, installation.compose(), Database(installation)
    name = f"{ONE_OFF}-{installation.project}"
    # A run that was killed may have left one at work.
    _end(database, name)
    model = compose.model()
    before = database.alembic_version()
    reference = references(model)[SERVICE]
    config = engine.images([reference]).get(reference, {}).get("Config") or {}
    options, words = call(model["services"][SERVICE], config)
    say(f"migration: alembic stands at {before or 'nothing'}")
    done = forward(database, reference, before, say)
    start = time.monotonic()
    locks: dict[tuple[str, str], float] = {}
    try:
        while True:
            compose.must("run", "-d", "--no-deps", "--name", name, *options, SERVICE, *words, timeout=120)
            state, waits = _watch(database, name, start + timeout, locks)
            printed = engine.run("logs", "--tail", "200", name, timeout=30)
            log = installation.redact(without_rows((printed.out + printed.err).strip()))
            again = f"it waits for {waits}" if waits else "Postgres went away" if _went_away(state, log) else ""
            if not again or time.monotonic() + _AGAIN > start + timeout:
                break
            # A revision is a transaction: nothing of it is left. And who came after it, and waited behind it, may write now.
            say(f"migration: {again}; it was ended, and begins again in {_AGAIN:.0f} s")
            _end(database, name)
            time.sleep(_AGAIN)
            _standing(database)
        seconds = round(time.monotonic() - start, 1)
    finally:
        _end(database, name)
    after = _standing(database)
    if state["Status"] != "exited" or state["ExitCode"] != 0:
        if done and after == done:
            # It did nothing: what still runs is of the old head, and images alone lead back as before.
            with contextlib.suppress(ScutumError):
                write_head(database, before)
                after = before
        raise _failed(database, compose, before, after, why(state, timeout, waits), log)
    seen = [{"table": table, "mode": mode, "seconds": round(held, 1)} for (table, mode), held in sorted(locks.items())]
    return {
        "before": before, "after": after, "again": done, "seconds": seconds, "locks": seen, "log": stack.telling(log)
    }  # fmt: skip


def _went_away(state: dict[str, Any], log: str) -> bool:
    """Whether a migration failed because of the server, and not by itself."""
    return state["Status"] == "exited" and state["ExitCode"] != 0 and _AWAY.search(reason(log)) is not None


def why(state: dict[str, Any], timeout: float, waits: str = "") -> str:
    """How a migration that did not go well ended, in words.

    Args:
        waits: whom it waited for.
    """
    if state["Status"] != "exited":
        late = f"it took longer than {timeout:.0f} s (scutum_upgrade_migration_timeout), and was ended"
        return late + (f"; it waited for {waits}" if waits else "")
    return "it was killed for want of memory" if state.get("OOMKilled") else f"exit code {state['ExitCode']}"


def reason(log: str) -> str:
    """The last failure that a log tells of, without the calls that led to it; the last lines when there is none."""
    lines = log.splitlines()
    found = [number for number, line in enumerate(lines) if _FAILURE.match(line)]
    return "\n".join(lines[found[-1] :] if found else lines[-5:])[:1500]


def _failed(database: Database, compose: Compose, before: str, after: str, how: str, log: str) -> Failed:
    stands = f"alembic stands at {after or 'nothing'}"
    stands += ", as before" if after == before else f", and stood at {before or 'nothing'}"
    said = f". It says:\n{reason(log)}" if log else ""
    return Failed(
        f"the migration failed ({how}); {stands}{said}",
        "a revision that failed changed nothing; those before it stay",
        f"see it again: cd {database.installation.directory} && "
        + compose.command("run", "--rm", "--no-deps", SERVICE, *_ALEMBIC),
        log,
    )


def _watch(
    database: Database, name: str, end: float, locks: dict[tuple[str, str], float]
) -> tuple[dict[str, Any], str]:
    """Look at a one-off until it ends, the time does, or it has waited too long: its state, and whom it waits for, in words.

    Args:
        locks: by table and mode the seconds for which a strong lock was seen; what is seen is added.
    """
    first: dict[tuple[str, str], float] = {}
    before = dict(locks)
    since, waits = 0.0, ""
    with _session(database) as sessions:
        while True:
            found = database.installation.engine.inspect("container", [name])
            state = dict(found[0]["State"]) if found else {"Status": "gone", "ExitCode": -1}
            now = time.monotonic()
            if state["Status"] in ("exited", "dead", "gone"):
                return state, ""
            if now > end or (waits and now > since + _PATIENCE):
                return state, waits
            try:
                addresses = _addresses(found[0])
                rows = sessions[0].rows(_locks(addresses)) if sessions else []
                holders = sessions[0].rows(_holders(addresses)) if sessions else []
            except ScutumError:
                # The server was restarted, for instance: what becomes of the migration is seen all the same.
                sessions.clear()
                rows, holders = [], []
            for row in rows:
                key = (str(row["table"]), str(row["mode"]))
                locks[key] = before.get(key, 0.0) + now - first.setdefault(key, now) + _PAUSE
            if holders and not waits:
                since = now
            waits = ", ".join(f"process {row['pid']} ({row['name'] or 'no name'}, {row['state']})" for row in holders)
            time.sleep(_PAUSE)


@contextlib.contextmanager
def _session(database: Database) -> Iterator[list[Session]]:
    """A session that looks, if one is to be had; it opens no transaction, for which a migration might wait."""
    with contextlib.ExitStack() as closing:
        found: list[Session] = []
        with contextlib.suppress(ScutumError):
            found.append(closing.enter_context(open_session(database, alone=False)))
        yield found


def _locks(addresses: list[str]) -> str:
    """The strong locks on tables that sessions from some addresses hold now."""
    listed = ", ".join(f"{literal(address)}::inet" for address in addresses) or "NULL"
    return (
        "SELECT DISTINCT n.nspname || '.' || c.relname AS \"table\", l.mode FROM pg_catalog.pg_locks l "
        "JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid JOIN pg_catalog.pg_class c ON c.oid = l.relation "
        "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
        "WHERE l.granted AND l.locktype = 'relation' AND l.database = (SELECT oid FROM pg_catalog.pg_database "
        f"WHERE datname = current_database()) AND l.mode IN ({_STRONG}) AND a.client_addr IN ({listed}) "
        "AND c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
    )


def _holders(addresses: list[str]) -> str:
    """Who holds the locks for which sessions from some addresses wait now."""
    listed = ", ".join(f"{literal(address)}::inet" for address in addresses) or "NULL"
    return (
        "SELECT DISTINCT b.pid, b.application_name AS name, coalesce(b.state, '') AS state FROM pg_catalog.pg_stat_activity a "
        "CROSS JOIN LATERAL unnest(pg_catalog.pg_blocking_pids(a.pid)) AS p(pid) JOIN pg_catalog.pg_stat_activity b ON b.pid = p.pid "
        f"WHERE a.wait_event_type = 'Lock' AND a.client_addr IN ({listed})"
    )


def _addresses(container: dict[str, Any]) -> list[str]:
    networks = container["NetworkSettings"]["Networks"].values()
    return [str(network["IPAddress"]) for network in networks if network.get("IPAddress")]


def _end(database: Database, name: str) -> None:
    """Take a one-off away, and end what it began on the server: a statement goes on, locks and all, when its client is gone."""
    found = database.installation.engine.inspect("container", [name])
    if not found:
        return
    addresses = _addresses(found[0])
    database.installation.engine.run("rm", "-f", name, timeout=60)
    if addresses:
        listed = ", ".join(f"{literal(address)}::inet" for address in addresses)
        with contextlib.suppress(ScutumError):
            database.query(
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE client_addr IN ({listed})", 30
            )


def _standing(database: Database) -> str:
    """Alembic's revision; a server that is just starting again is waited for."""
    end = time.monotonic() + 30
    while True:
        try:
            return database.alembic_version()
        except ScutumError:
            if time.monotonic() > end:
                raise
            time.sleep(1)


def ahead(database: Database) -> str:
    """The revision that the schema is of while alembic_version names an older one, as `write_head` noted; empty when nothing is."""
    return database.query(f"SELECT {_NOTED}")[0][0]


def write_head(database: Database, revision: str) -> str:
    """Have alembic's record name another revision; no table changes. An older image does not start on a head that it does not know.

    What stood there is noted in a comment on the table, unless one is noted already: that is the newest. Writing what is noted takes the
    note away. All of it is one transaction.

    Returns:
        Why nothing could be noted, in words; empty when it was, or when there is nothing to note.
    """
    one, wanted = f"(SELECT count(*) FROM {_TABLE}) = 1", literal(revision)
    comment = f"CASE WHEN {_NOTED} = {wanted} THEN NULL ELSE {literal(NOTE)} || version_num END"
    done = database.query(
        # Whoever else writes a head waits: the note would be of another one.
        f"BEGIN; LOCK TABLE {_TABLE} IN SHARE ROW EXCLUSIVE MODE;\n"
        # COMMENT takes constants only: the statement is made, and then run.
        f"SELECT format('COMMENT ON TABLE {_TABLE} IS %L', {comment}) FROM {_TABLE} "
        f"WHERE {one} AND ({_NOTED} = {wanted} OR {_SAID} IS NULL AND version_num <> {wanted}) \\gexec\n"
        f"UPDATE {_TABLE} SET version_num = {wanted} WHERE {one} RETURNING version_num, {_SAID} IS NOT NULL AND {_NOTED} IS NULL;\n"
        "COMMIT;\n"
    )
    if [row[:1] for row in done] != [[revision]]:
        raise ScutumError(
            f"alembic_version has not exactly one row (it says {database.alembic_version() or 'nothing'}): {revision} is not written",
            left="the database is as it was",
            next_step=f"look at what is there: {database.look()}",
        )
    if done[0][1] == "t":
        return (
            "the table alembic_version has a comment of somebody else's: of which revision the schema is, is not noted"
        )
    return ""


def forward(database: Database, image: str, before: str, say: Say) -> str:
    """Have alembic's record name the revision that is noted, if an image knows it: what is done is not done again.

    Args:
        before: what alembic's record names now.

    Returns:
        The revision; empty when nothing was written.

    Raises:
        ScutumError: one is noted, and the image does not tell what it knows.
    """
    noted = ahead(database)
    if not noted:
        return ""
    known = [line.split()[0] for line in notes(database.installation.engine, image, "")]
    if not known:
        # No answer is not a no: what is done would be done again.
        raise ScutumError(
            f"the schema is that of revision {noted}, and {image} does not tell whether it knows that",
            left="nothing was migrated",
            next_step=f"docker run --rm --network none --entrypoint alembic {image} history",
        )
    if noted not in known:
        say(
            f"migration: the schema is that of revision {noted}, which this image does not know: it begins at {before or 'nothing'}, "
            "and may meet what is there already"
        )
        return ""
    if before in known[known.index(noted) :]:
        # Somebody else brought it there, and knows nothing of notes.
        database.query(f"COMMENT ON TABLE {_TABLE} IS NULL")
        say(f"migration: that the schema is that of revision {noted} was noted, and is over: the note is taken away")
        return ""
    write_head(database, noted)
    say(
        f"migration: the schema is that of revision {noted} already (images alone led back to {before}): it goes on from there"
    )
    return noted
