# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The daily job: partitions for the months to come, months that are due into the archive, read back, and only then out of Postgres.

For each month: archive -> (a verified backup has it) -> compare -> detach -> compare again -> drop. A run that is killed in between is
continued by the next one, from what Postgres and the store say, and from no record of its own. Nothing that cannot be archived is hidden:
a month that was detached, and cannot be dropped now, goes back into its table.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from . import audit_catalog as catalog
from . import (
    audit_proof,
    audit_report,
    audit_settings,
    audit_tables,
    backup,
    backup_catalog,
    parquet_archive,
    partition_upkeep,
    partitions,
    row_batches,
)
from . import audit_retention as rules
from .audit_settings import Settings
from .audit_tables import Table
from .database import Database
from .errors import ScutumError, as_error
from .host_job import Ended, HostJob, Kind, check_end
from .installation import Installation
from .object_store import Store
from .report import Say

# Rows of LiteLLM's table in one transaction.
_BATCH = 5000

_KIND = Kind(
    name="audit-retention",
    noun="audit retention",
    event="audit_retention.failed",
    last="The last good run was",
    again="scutum-ops audit-retention",
    show="scutum-ops audit",
    metrics=audit_report.METRICS,
    gauges=audit_report.gauges,
    heartbeat="SCUTUM_AUDIT_HEARTBEAT_URL",
)
SETTINGS = _KIND.settings


def job(installation: Installation, directory: str = "") -> HostJob:
    """The job's settings, locks and records on a host.

    Args:
        directory: where metrics go; empty for nowhere.
    """
    return HostJob(installation, _KIND, directory)


def settings(installation: Installation) -> Settings:
    """What is kept on the host."""
    held = job(installation).kept()
    if held is None:
        raise ScutumError(
            f"{installation.directory} has no settings for its audit history",
            left="nothing was done",
            next_step="run playbooks/audit_retention.yml (or day_one.yml), which keeps them",
        )
    return audit_settings.from_words(held)


def configure(installation: Installation, wanted: Settings, check: bool = False) -> list[str]:
    """Keep settings; names of what was (or would be) changed."""
    return job(installation).keep(vars(wanted), check)


def look(installation: Installation) -> dict[str, Any]:
    """What audit history there is, and what is wrong with it; see `audit_report.measure`, and `ok`, `problems`, `where`, `archive_error`,
    `last_success`, `last_failure`."""
    wanted, held = settings(installation), job(installation).status()
    entries, problem, where = None, "", ""
    try:
        place = audit_settings.store(installation, wanted)
        if place:
            where = place.where
            entries = catalog.entries(place)
    except (ScutumError, ImportError) as error:
        problem = as_error(error).what
    hot = audit_settings.hot(installation, wanted, held.get("in_force", {}))
    found = {
        **audit_report.measure(Database(installation), hot, entries),
        "where": where,
        "archive_error": problem,
        "last_success": held.get("last_success", {}),
        "last_failure": held.get("last_failure", {}),
    }
    found["problems"] = audit_report.problems(found, wanted.partitions_ahead)
    return {**found, "ok": not found["problems"]}


def run(
    installation: Installation, directory: str, say: Say, check: bool = False, given: Settings | None = None
) -> dict[str, Any]:
    """One run.

    Args:
        directory: where metrics go; empty for nowhere.
        check: only say what would be done.
        given: other settings than those that are kept.

    Returns:
        `hot_days` (by table), `archived`, `dropped` ("table month" each), `waiting` (the reason by "table month"), `rows` (archived),
        `removed` (rows of LiteLLM), `changes`, `warnings`, `seconds`, `text`.

    Raises:
        ScutumError: something of it failed, and all else was done. No month was lost, and none is hidden.
    """
    begin = time.monotonic()
    its = job(installation, directory)
    if check:
        work = _Run(installation, given or settings(installation), its.status(), say, check=True)
        work.all()
        work.fail()
        return work.result(begin)
    with its.alone(say):
        with its.begun(say):
            work = _Run(installation, given or settings(installation), its.status(), say)
            try:
                work.all()
            finally:
                its.record(in_force=work.in_force(), heads=work.heads)
            with work.goes_on():
                measured = audit_report.measure(work.database, work.hot, work.entries)
                its.record(measured=measured)
            work.fail()
        result = work.result(begin)
        its.succeeded(result)
    return result


class _Run:
    """One run over all tables. What fails for one month or table is kept, and the others are done all the same."""

    def __init__(
        self, installation: Installation, wanted: Settings, held: Mapping[str, Any], say: Say, check: bool = False
    ) -> None:
        self.installation = installation
        self.wanted = wanted
        self.say = say
        self.check = check
        self.database = Database(installation)
        self.before: dict[str, int] = dict(held.get("in_force", {}))
        # No store can show by itself that the newest manifests are gone.
        self.heads: catalog.Heads = dict(held.get("heads", {}))
        self.hot = {name: rules.Hot(None, "it could not be found out") for name in wanted.tables}
        self.entries: list[catalog.Entry] | None = None
        self.backup = rules.Backup(needed=not wanted.without_backup)
        # The units' own end comes two minutes later: this one can still say why.
        self.end = time.monotonic() + max(wanted.timeout - 120, 60)
        self.now = time.time()
        self.errors: list[ScutumError] = []
        self.changes: list[str] = []
        self.archived: list[str] = []
        self.dropped: list[str] = []
        self.waiting: dict[str, str] = {}
        self.warnings: list[str] = []
        self.rows = self.removed = 0

    @contextlib.contextmanager
    def goes_on(self) -> Iterator[None]:
        """A part whose failure is kept, and does not keep the rest from being done."""
        try:
            yield
        except Ended:
            raise
        except (ScutumError, OSError, ImportError) as problem:
            check_end()
            error = as_error(problem)
            if error.what not in [known.what for known in self.errors]:
                self.errors.append(error)
                self.say(f"FAIL {error.what}")

    def fail(self) -> None:
        """Raise what was kept: the first failure, with the others named."""
        if not self.errors:
            return
        first = self.errors[0]
        others = "".join(f"; {error.what}" for error in self.errors[1:])
        done = [f"archived {', '.join(self.archived)}"] * bool(self.archived)
        done += [f"dropped {', '.join(self.dropped)}"] * bool(self.dropped)
        left = "; ".join([*done, first.left or "no month was lost, and none is hidden"])
        raise ScutumError(f"{first.what}{others}", left=left, next_step=first.next_step or _KIND.again)

    def in_force(self) -> dict[str, int]:
        """Days in force by table, for the next run: fewer than these have to be confirmed then."""
        return {**self.before, **{name: item.days for name, item in self.hot.items() if item.days is not None}}

    def result(self, begin: float) -> dict[str, Any]:
        """What was done, for people and programs."""
        days = {name: item.days for name, item in self.hot.items()}
        lines = [
            f"{name}: rows stay in Postgres {f'for {item.days} days' if item.days else 'for now'} ({item.source})"
            for name, item in self.hot.items()
        ]
        lines += [*self.changes, *(f"{name} is archived and waits: {reason}" for name, reason in self.waiting.items())]
        if not self.changes and not self.waiting:
            lines.append("nothing is due")
        return {
            "hot_days": days,
            "archived": self.archived,
            "dropped": self.dropped,
            "waiting": self.waiting,
            "rows": self.rows,
            "removed": self.removed,
            "changes": self.changes,
            "warnings": self.warnings,
            "seconds": round(time.monotonic() - begin, 1),
            "text": lines,
        }

    # --- the steps

    def all(self) -> None:
        """All of it. First what inserts need; a store that is down keeps nothing of that away."""
        tables = [audit_tables.table(name) for name in self.wanted.tables]
        good: list[Table] = []
        for table in tables:
            with self.goes_on():
                self._keep(table)
                good.append(table)
        with self.goes_on():
            self.hot = audit_settings.hot(self.installation, self.wanted, self.before)
            self.warnings += [text for item in self.hot.values() for text in item.warnings]
        place = self._archive()
        for table in good:
            with self.goes_on():
                self._table(table, place)
        if self.wanted.litellm_days:
            with self.goes_on():
                self._litellm()
        if place is not None and not self.check:
            with self.goes_on():
                self._verify(place)

    def _keep(self, table: Table) -> None:
        """Months ahead, and rows of the default partition where they belong. It raises when no month of the table can leave."""
        state = partitions.look(self.database, table.name)
        if not state.exists:
            raise ScutumError(
                f"public.{table.name} does not exist: did LiteLLM's schema push drop it?",
                left="nothing was done with it",
                next_step=f"scutum-ops verify; where the release has no such table, take {table.name} out of scutum_audit_tables",
            )
        if state.partitioned:
            ahead = self.wanted.partitions_ahead
            self.changes += partition_upkeep.keep(self.database, table.name, ahead, self.say, self.check)
        if state.open in ("convert", "undo") or not state.partitioned:
            what = f"the operation {state.open} was interrupted" if state.open else "it is one plain table"
            raise ScutumError(
                f"{table.name}: {what}: no month of it can leave",
                left="its rows are all there",
                next_step="playbooks/audit_retention.yml, or scutum-ops audit-partitions",
            )

    def _archive(self) -> Store | None:
        """The archive, when it answers; its list of months and that of the backups."""
        found: Store | None = None
        with self.goes_on():
            place = audit_settings.store(self.installation, self.wanted)
            if place is not None:
                self.entries = catalog.entries(place)
                if self.backup.needed:
                    self.backup = self._backup()
                found = place
        return found

    def _backup(self) -> rules.Backup:
        """The newest verified backup, by the word of the store that keeps them."""
        try:
            place = backup.store(self.installation, backup.settings(self.installation))
            return rules.Backup(
                max((item.taken for item in backup_catalog.complete(place) if item.verified), default=0.0)
            )
        except ScutumError as error:
            return rules.Backup(problem=error.what)

    def _table(self, table: Table, place: Store | None) -> None:
        state = partitions.look(self.database, table.name)
        hot = self.hot[table.name]
        for part in sorted(state.detached, key=lambda part: part.month):
            with self.goes_on():
                self._left(table, part, hot, place)
        months = [part for part in state.parts if part.kind == "month" and rules.due(part.month, hot.days, self.now)]
        if months and not self.wanted.store:
            names = ", ".join(part.month for part in months)
            self.warnings.append(f"{table.name}: {names} should leave, and stay: scutum_audit_store is empty")
        for part in sorted(months, key=lambda part: part.month):
            if place is None or not self._time():
                return
            failures = len(self.errors)
            with self.goes_on():
                self._month(table, part, hot, place)
            if len(self.errors) > failures:
                # A store that is down would fail for each month anew, after all its attempts.
                self.entries = catalog.entries(place)

    def _time(self) -> bool:
        if time.monotonic() < self.end:
            return True
        text = f"the time (scutum_audit_timeout: {self.wanted.timeout} s) is over: what is left is done by the next run"
        if text not in self.warnings:
            self.warnings.append(text)
        return False

    def _left(self, table: Table, part: partitions.Part, hot: rules.Hot, place: Store | None) -> None:
        """A month that a killed run detached: go on where it stopped, or have it seen again."""
        name = f"{table.name} {part.month}"
        decision = self._decide(table, part, hot)
        if self.check:
            then = "dropped" if decision.what == rules.DROP else "attached"
            self.changes.append(f"{name} was detached by a run that was killed: it would be {then}")
            return
        if place is None or decision.what != rules.DROP:
            self._attach(table, part.name, decision.reason or "the archive does not answer")
            return
        self.say(f"{name}: a run that was killed had detached it; going on there")
        try:
            self._finish(table, part.month, part.name, place)
        except ScutumError:
            self._attach(table, part.name, "it cannot be dropped now")
            raise

    def _month(self, table: Table, part: partitions.Part, hot: rules.Hot, place: Store) -> None:
        name = f"{table.name} {part.month}"
        decision = self._decide(table, part, hot)
        rows = partitions.count(self.database, part.name)
        before = self._of(table, part.month)
        known = bool(before) and rows == sum(entry.rows for entry in before)
        if self.check:
            words = [] if known else ["archived"]
            words += ["dropped"] if decision.what == rules.DROP else [f"kept until its drop may be: {decision.reason}"]
            self.changes.append(f"{name} ({rows} rows) would be {' and '.join(words)}")
            return
        sent = not known and self._send(table, part.month, part.name, place)
        if decision.what == rules.WAITS:
            self.waiting[name] = decision.reason
            self.say(f"{name}: it waits: {decision.reason}")
            return
        if not sent and self._proven(table, part.month, part.name, place) is None:
            # Found before it is detached: it is seen all the while.
            raise _changed(table, part.month, "it is in its table as before")
        relname = partition_upkeep.detach(self.database, table.name, part.month, self.wanted.lock_patience)
        try:
            self._finish(table, part.month, relname, place)
        except ScutumError:
            self._attach(table, relname, "it cannot be dropped now")
            raise

    def _finish(self, table: Table, month: str, relname: str, place: Store) -> None:
        """Of a detached month: the proof, rows that came late, the drop."""
        rows = self._proven(table, month, relname, place)
        if rows is None and self._send(table, month, relname, place):
            rows = self._proven(table, month, relname, place)
        if rows is None:
            raise _changed(table, month, "it goes back into its table")
        catalog.check(place, self._of(table, month))
        partition_upkeep.drop(self.database, table.name, relname, rows)
        self.dropped.append(f"{table.name} {month}")
        self.changes.append(f"{table.name} {month}: {rows} rows dropped, they are in the archive")
        self.say(self.changes[-1])

    def _send(self, table: Table, month: str, relname: str, place: Store) -> bool:
        """Into the archive with all rows that are not there yet; whether there were any, or the month was not there at all."""
        late = bool(self._of(table, month))
        spool = audit_settings.spool(self.installation, self.wanted)
        entry = parquet_archive.archive(self.database, table, relname, month, place, spool, self.say, self._left_over())
        if entry in (self.entries or []):
            return False
        self.entries = [*(self.entries or []), entry]
        self.rows += entry.rows
        self.archived.append(f"{table.name} {month}")
        self.changes.append(f"{table.name} {month}: {entry.rows} rows {'that came late ' * late}archived and read back")
        return True

    def _proven(self, table: Table, month: str, relname: str, place: Store) -> int | None:
        """How many rows a relation has, when the archive has them all just so."""
        spool, files = audit_settings.spool(self.installation, self.wanted), self._of(table, month)
        return (
            audit_proof.proven(self.database, table, relname, files, place, spool, self._left_over()) if files else None
        )

    def _left_over(self) -> float:
        """Seconds that a step may take."""
        return max(60.0, self.end - time.monotonic())

    def _of(self, table: Table, month: str) -> list[catalog.Entry]:
        return catalog.of_month(self.entries or [], table.name, month)

    def _decide(self, table: Table, part: partitions.Part, hot: rules.Hot) -> rules.Decision:
        newest = partitions.newest(self.database, part.name, table.column)
        return rules.decide(part.month, newest, hot.days, self.backup, self.now)

    def _attach(self, table: Table, relname: str, why: str) -> None:
        with self.goes_on():
            partition_upkeep.attach(self.database, table.name, relname)
            self.changes.append(f"{table.name}: {relname} is back in its table: {why}")
            self.say(self.changes[-1])

    def _litellm(self) -> None:
        """LiteLLM's own table: rows leave in batches, and go nowhere."""
        before = self.now - self.wanted.litellm_days * rules.DAY
        for foreign in audit_tables.FOREIGN.values():
            oldest = row_batches.oldest(self.database, foreign.name, foreign.column)
            if not oldest or oldest >= before:
                continue
            if self.check:
                self.changes.append(
                    f"{foreign.name}: rows of more than {self.wanted.litellm_days} days would be deleted, and not archived"
                )
                continue
            gone = row_batches.remove(self.database, foreign.name, foreign.column, before, _BATCH, self.say, self.end)
            self.removed += gone
            self.changes.append(
                f"{foreign.name}: {gone} rows of more than {self.wanted.litellm_days} days deleted, and not archived"
            )

    def _verify(self, place: Store) -> None:
        """The chain of manifests, each day: a month that somebody removed is told then, and not at an audit."""
        report = catalog.verify(place, False, lambda line: None, heads=self.heads)
        if not report.ok:
            wrong = "; ".join(f"{item['name']}: {item['detail']}" for item in report.checks if not item["ok"])
            raise ScutumError(
                f"{place.where}: the archive is not whole: {wrong[:600]}",
                left="what was archived by this run is there",
                next_step="scutum-ops audit-verify; find out who removes or changes objects there",
            )
        self.heads = report.heads


def _changed(table: Table, month: str, left: str) -> ScutumError:
    return ScutumError(
        f"{table.name} {month}: its rows are not those that were archived: somebody changed or removed some after that",
        left=f"nothing was dropped; {left}",
        next_step=f"compare both: scutum-ops audit-rehydrate --table {table.name} --from {month} --to {month} has the archive's rows "
        "beside it, in the schema audit_rehydrated; put the table right, and the next run goes on",
    )
