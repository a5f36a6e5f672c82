# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Restoring a backup into production: beside the database that serves, compared there, and then the two swap names.

restoring → ready → swapping → swapped → kept → (finalized: the other database is dropped, the record goes)

The phase is recorded on the host before its work begins, so that whoever comes after a kill goes on from there. Both names change in one
transaction: a database has the name in force, or it has not. What served before is kept under another name until somebody finalizes; until
then there is a way back, which is the same swap.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from . import backup, backup_archive, backup_reading, restore_verification, schema_guard, stack, verification
from . import backup_catalog as catalog
from . import report as report_module
from .compose import MERGED_FILE
from .database import Database
from .errors import ScutumError, as_error
from .files import ensure_directory, read_text, write_file
from .images import references
from .installation import Installation
from .object_store import Store
from .report import Say, step
from .restore_record import (
    KEPT,
    PREPARED,
    READY,
    RECORD,
    RESTORING,
    SWAPPED,
    SWAPPING,
    Open,
    host_name,
    load,
    next_call,
    save,
    settled,
    standing,
)
from .secret_rotation import open_rotation

REPORT = "restore-report"
_SPOOL = "restore-dump"
# Sessions that fill a database beside those that serve.
_JOBS = 4
# Beside the files in force, when a backup's differ from them.
_COPIES = "restored"
# What the host's record says about the database in force: it changes with the database.
_ABOUT_DATABASE = ("litellm_schema", "schema_window")


@dataclass(frozen=True)
class Around:
    """What a rollback does at certain points of a restore; each may be called again by a run that goes on.

    Args:
        release: that will be in force when it is restored, whichever is now.
        filled: the database in force and the restored one, before anything stops; may refuse.
        stopped: the same two, when nothing writes any more, before they swap names.
        swapped: before services start.
    """

    release: str
    filled: Callable[[Database, Database], None]
    stopped: Callable[[Database, Database], None]
    swapped: Callable[[], None]


@dataclass
class Settings:
    """What an operator asks for: the variables of the role, without their prefix.

    Args:
        name: of a backup; empty for the newest.
        confirm, undo, finalize: this host's name, as a confirmation; without one nothing is done.
        safety: take a backup of what is there first.
        drill: take event subscriptions out, which would page the real on-call.
        spool: directory for the dump; empty for one below the installation's private directory.
        store: where the backup is; empty for the place of this host's own backups.
        identities: of age, for an encrypted backup.
        environment: values of config/.env that are not on the host yet; a credential of the store, for instance.
        timeout: seconds until services have to be healthy.
        around: it is part of a rollback.
    """

    name: str = ""
    confirm: str = ""
    undo: str = ""
    finalize: str = ""
    safety: bool = True
    drill: bool = False
    spool: str = ""
    store: dict[str, Any] = field(default_factory=dict)
    identities: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    timeout: float = 300
    around: Around | None = None

    def release(self, installation: Installation) -> str:
        """The release that a backup has to be of."""
        return self.around.release if self.around else str(installation.state().get("version") or "")


def confirmed(wanted: Settings) -> str:
    """Which of `confirm`, `undo`, `finalize` is asked for; empty for none. Refuses two, and another host's name."""
    asked = {word: str(getattr(wanted, word)) for word in ("confirm", "undo", "finalize") if getattr(wanted, word)}
    if len(asked) > 1:
        raise ScutumError(
            f"{' and '.join(f'scutum_restore_{word}' for word in asked)} exclude each other",
            left="nothing was changed",
            next_step="set one of them",
        )
    for word, value in asked.items():
        if value != host_name():
            raise ScutumError(
                f"scutum_restore_{word} is {value!r}, and this host is {host_name()}",
                left="nothing was changed",
                next_step=f"look whether it is the host that you mean; if so: -e scutum_restore_{word}={host_name()}",
            )
    return next(iter(asked), "")


def run(installation: Installation, wanted: Settings, say: Say, check: bool = False) -> dict[str, Any]:
    """Restore, go back, or finalize, by what is confirmed; without a confirmation, or in check mode, say what would be done.

    Returns:
        The report: `ok`, `outcome` (planned, restored, undone, finalized, unchanged; failed, in the one that is kept on the host),
        `changed`, `id`, `checks` (name, ok, detail, seconds), `warnings`, `plan`, `recovery_point_seconds`, `recovery_time_seconds`,
        `kept` (name of the other database), `drift` (rows that it has more or less, by table), `safety` (id of the backup before),
        `text` (for people).

    Raises:
        ScutumError: what state was left, and what is next, is in it.
    """
    word = confirmed(wanted)
    if wanted.spool and not wanted.spool.startswith("/"):
        raise ScutumError(
            f"scutum_restore_spool: {wanted.spool} is no absolute path",
            "nothing was changed",
            "correct it, or leave it out",
        )
    report: dict[str, Any] = {
        "ok": False, "asked": word, "outcome": "planned", "changed": False, "id": wanted.name, "checks": [], "warnings": [], "drift": {},
        "plan": [], "kept": "", "safety": "", "at": time.time(),
    }  # fmt: skip
    try:
        if check or not word:
            report["changed"] = _plan(installation, wanted, word, report) and bool(word)
        else:
            with installation.lock():
                record = load(installation)
                _refuse_rollback(record, wanted, word)
                if settled(record, wanted.name, word):
                    report.update(outcome="unchanged", kept=record.outgoing if record else "")
                    report["warnings"].append(standing(record))
                elif word == "confirm":
                    _restore(installation, record, wanted, report, say)
                elif record and word == "undo":
                    _undo(installation, record, wanted, report, say)
                elif record:
                    _finalize(installation, record, wanted, report, say)
                report["changed"] = report["outcome"] != "unchanged"
        report["ok"] = True
    except Exception as problem:
        error = as_error(problem)
        report["outcome"] = "failed"
        report["error"], report["next_step"] = report_module.shown(installation, error.what), error.next_step
        raise error from problem
    finally:
        if report["checks"]:
            with contextlib.suppress(OSError):
                report_module.keep(
                    installation, REPORT, report, report_module.page(_head(report), report, _rest(report))
                )
    return {**report, "text": text(report)}


# --- forward


def _refuse_rollback(record: Open | None, wanted: Settings, word: str) -> None:
    """Refuse to go on with, or back from, a rollback's restore without the rest of it: rows carried over, the other release's files."""
    if record and record.rollback and not wanted.around and word in ("confirm", "undo"):
        raise ScutumError(
            f"this restore is part of a rollback of an upgrade: {standing(record)}",
            left="nothing was changed",
            next_step=next_call(record),
        )


def abandon(installation: Installation) -> None:
    """Give up a rollback's restore that changed nothing in force yet: what stands beside is dropped."""
    record = load(installation)
    if record and record.rollback and record.phase in (PREPARED, RESTORING, READY):
        Database(installation).drop_beside(record.incoming)
        _forget_dump(record)
        _close(installation)


def _plan(installation: Installation, wanted: Settings, word: str, report: dict[str, Any]) -> bool:
    """What would be done; whether that is anything."""
    record = load(installation)
    if record:
        report.update(id=record.id, safety=record.safety)
        report["warnings"].append(standing(record))
        report["next_step"] = next_call(record)
    done = bool(word) and settled(record, wanted.name, word)
    forgotten = record is not None and record.old and not wanted.name
    if word in ("undo", "finalize") or (
        record and (forgotten or record.back or record.phase in (SWAPPING, SWAPPED, KEPT))
    ):
        return not done
    place = _place(installation, wanted)
    manifest = _manifest(place, wanted, record)
    report.update(id=manifest["id"], recovery_point_seconds=round(time.time() - manifest["taken"], 1))
    database = _refuse_unfit(installation, manifest, wanted)
    rows = sum(int(item["rows"]) for item in manifest["tables"].values())
    safety = (
        f"a safety backup into {_own_place(installation).where}"
        if _wants_safety(wanted, record)
        else "no safety backup"
    )
    report["plan"] = [
        safety,
        f"{rows} rows of {len(manifest['tables'])} tables into a new database beside {database.name}, compared with the manifest",
        f"{', '.join(_writers(installation))} stop, the two databases swap names, and they start again",
        f"the database that serves now is kept until scutum_restore_finalize={host_name()}",
    ]
    report["next_step"] = (
        f"scutum_restore_confirm={host_name()} restores it (on the host: scutum-ops restore --confirm {host_name()})"
    )
    if not catalog.choose(place, manifest["id"]).verified:
        report["warnings"].append(
            f"{manifest['id']} was never proven by a restore: playbooks/verify_restore.yml -e scutum_restore_verification_name="
            f"{manifest['id']} does that beside production"
        )
    return True


def _restore(
    installation: Installation, record: Open | None, wanted: Settings, report: dict[str, Any], say: Say
) -> None:
    if record is None or record.phase not in (SWAPPING, SWAPPED):
        record = _fill(installation, wanted, record, report, say)
        if wanted.around:
            wanted.around.filled(*_both(installation, record))
    report.update(id=record.id, safety=record.safety)
    report["warnings"] += record.notes
    _switch(installation, record, wanted, report, say)
    report["outcome"] = "restored"


def _fill(installation: Installation, wanted: Settings, record: Open | None, report: dict[str, Any], say: Say) -> Open:
    """Have the backup in a database beside the one that serves, compared with its manifest; nothing in force is touched."""
    if record and record.phase == READY and _reusable(installation, record, wanted):
        return record
    place = _place(installation, wanted)
    manifest = _manifest(place, wanted, record)
    name = report["id"] = manifest["id"]
    report["recovery_point_seconds"] = round(time.time() - manifest["taken"], 1)
    # What an earlier run left first: it takes the space of this one.
    if record and record.incoming:
        Database(installation).drop_beside(record.incoming)
    _forget_dump(record)
    database = _refuse_unfit(installation, manifest, wanted)
    stamp = catalog.new_id().lower()
    if record and record.old:
        record = Open(PREPARED, name, time.time(), new_secrets=record.new_secrets)
    spool = _spool(installation, wanted)
    ensure_directory(spool, 0o700)
    record = save(
        installation,
        record or Open(PREPARED, name, time.time()),
        phase=RESTORING,
        id=name,
        release=manifest["release"],
        incoming=_beside(database.name, "restored", stamp),
        outgoing=_beside(database.name, "before", stamp),
        about=_about(manifest),
        drill=wanted.drill,
        dump=os.path.join(spool, f"{name}.dump"),
        rollback=wanted.around is not None,
    )
    if _wants_safety(wanted, record):
        with step(installation, report, "safety backup", say) as told:
            taken = _safety(installation, say)
            record = save(installation, record, safety=taken["id"])
            told(f"{taken['id']}, {taken['rows']} rows, in {taken['where']}")
            report["warnings"] += [f"safety backup: {text}" for text in taken["warnings"]]
    try:
        notes = _beside_production(installation, database, record, place, manifest, wanted, report, say)
    except ScutumError as error:
        # What a verification advises, another backup, would be one of what is there now.
        older = "choose an older one (scutum-ops backup-info; scutum_restore_name)"
        raise ScutumError(
            error.what,
            left=f"nothing in force was changed; what was begun beside it ({record.incoming}) goes with the next call",
            next_step=f"{older if isinstance(error, backup_reading.NotProven) else error.next_step}; {next_call(record)}",
        ) from error
    finally:
        _forget_dump(record)
    return save(installation, record, phase=READY, notes=notes)


def _reusable(installation: Installation, record: Open, wanted: Settings) -> bool:
    """Whether what stands ready is what is asked for, and still fits what is installed."""
    same = wanted.name in ("", record.id) and record.drill == wanted.drill and not record.old
    same = same and record.rollback == (wanted.around is not None)
    return same and record.release == wanted.release(installation) and not open_rotation(installation)


def _beside_production(
    installation: Installation,
    database: Database,
    record: Open,
    place: Store,
    manifest: dict[str, Any],
    wanted: Settings,
    report: dict[str, Any],
    say: Say,
) -> list[str]:
    """Fill the new database, and compare it with the manifest. What is not brought back, in words."""
    with step(installation, report, "pulled from the store, hashes", say) as told:
        told(backup_reading.pull(place, manifest, wanted.identities, record.dump))
        archive = backup_archive.read(place, manifest, wanted.identities)
        told(f"configuration archive with {len(archive.texts)} files")
    new = Database(installation, name=record.incoming)
    with step(installation, report, "restored beside", say) as told:
        database.create_beside(record.incoming)
        new.bring_roles(archive.globals)
        jobs = min(_JOBS, os.cpu_count() or 1)
        new.restore_from(record.dump, jobs, installation.secret("POSTGRES_PASSWORD"))
        new.analyze()
        told(f"{record.incoming}, {jobs} jobs")
    restore_verification.compare(installation, manifest, new, report, say)
    notes = _not_brought(installation, database, new, manifest, archive, record)
    if wanted.drill:
        notes.append(f"a drill: {new.silence()} event subscriptions were taken out of the restored data")
    return notes


def _forget_dump(record: Open | None) -> None:
    """No dump in clear stays behind."""
    if record and record.dump:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(record.dump)


def _not_brought(
    installation: Installation,
    database: Database,
    new: Database,
    manifest: dict[str, Any],
    archive: backup_archive.Archive,
    record: Open,
) -> list[str]:
    """What a restore does not bring back, in words."""
    found = [f"{key} was nowhere: {CONSEQUENCES.get(key, NOWHERE)}" for key in record.new_secrets]
    if manifest.get("salt") and manifest["salt"] != backup_archive.salt_mark(installation):
        found.append(f"LITELLM_SALT_KEY is not the one of the backup: {CONSEQUENCES['LITELLM_SALT_KEY']}")
    roles = new.roles_without_password()
    if roles:
        found.append(f"roles that may log in and have no password: {', '.join(roles)} (ALTER ROLE … PASSWORD)")
    found += [
        f"{what} of the database as a whole: no dump holds it; the kept database has it"
        for what in database.own_settings()
    ]
    copies = os.path.join(installation.private, _COPIES, manifest["id"])
    for name, held in sorted(archive.texts.items()):
        # What Compose reads is made of the others.
        if (
            name in backup_archive.FILES
            and name not in (MERGED_FILE, backup_archive.STATE)
            and read_text(installation.path(name)) != held
        ):
            ensure_directory(os.path.dirname(os.path.join(copies, name)), 0o700)
            write_file(os.path.join(copies, name), held, 0o600)
            found.append(
                f"{name} is another one than in the backup, whose is {os.path.join(copies, name)}: variables decide it"
            )
    return found


# --- the swap, and the way back


def _switch(installation: Installation, record: Open, wanted: Settings, report: dict[str, Any], say: Say) -> None:
    """Have `incoming` in force and everything running on it; when that fails, have what served before serve again."""
    record = _swap(installation, record, wanted, report, say)
    try:
        _start(installation, wanted, report, say)
    except Exception as problem:
        error = as_error(problem)
        if wanted.around:
            # What served before needs the other release's images: the way back to it is not the swap alone.
            record = save(installation, record, phase=KEPT)
            raise ScutumError(
                error.what,
                f"the restored database is in force, and does not serve well; {standing(record)}",
                error.next_step,
            ) from problem
        if not record.back:
            _return(installation, record, error, wanted, report, say)
        # It served badly before the restore, too, or something else is wrong: the way on must not hang on it.
        record = save(installation, record, phase=KEPT)
        raise ScutumError(
            error.what,
            f"{Database(installation).name} is the database from before the restore, and does not serve well; {standing(record)}",
            f"correct the cause ({error.next_step}); {next_call(record)}, and then another restore can begin",
        ) from problem
    record = save(installation, record, phase=KEPT)
    report["kept"] = record.outgoing
    # Only now: counting large tables takes minutes.
    with contextlib.suppress(ScutumError):
        report["drift"] = _drift(installation, record, Database(installation))
    if not record.back:
        report["recovery_time_seconds"] = round(time.time() - record.began, 1)


def _return(
    installation: Installation, record: Open, error: ScutumError, wanted: Settings, report: dict[str, Any], say: Say
) -> None:
    """Go back from a restored database that does not serve; always ends in a failure."""
    say("going back to the database that served before")
    went = _swap(installation, _turned(installation, record), wanted, report, say)
    after = "serves again"
    try:
        _start(installation, wanted, report, say)
    except Exception as problem:
        after = f"is in force again, and does not serve well either: {as_error(problem).what}"
    went = save(installation, went, phase=KEPT)
    raise ScutumError(
        f"the restored database did not serve: {error.what}",
        left=f"the database that served before {after}; the restored one is kept as {went.outgoing} for a look",
        next_step=f"find the cause; {next_call(went)}, and then another restore can begin",
    ) from error


def _both(installation: Installation, record: Open) -> tuple[Database, Database]:
    """The database in force, and the one that comes in."""
    return Database(installation), Database(installation, name=record.incoming)


def _swapped(record: Open, database: Database) -> bool:
    """Whether both names are changed already; a run that was killed may have done it. Refuses what somebody else has made of them."""
    names = database.databases()
    if record.incoming in names:
        return False
    if record.outgoing in names:
        return True
    raise ScutumError(
        f"neither {record.incoming} nor {record.outgoing} is there any more: somebody else dropped or renamed it",
        left=f"{database.name} is what it was",
        next_step=f"look at what is there: docker exec scutum-postgres psql -U {database.user} -d postgres -l; when {database.name} is "
        f"right, close it: mv {os.path.join(database.installation.private, RECORD)} /root/",
    )


def _swap(installation: Installation, record: Open, wanted: Settings, report: dict[str, Any], say: Say) -> Open:
    """Writers stopped, names swapped; they are not started again here, unless it fails."""
    if record.phase == SWAPPED:
        return record
    database = Database(installation)
    _swapped(record, database)
    state = installation.state()
    before = record
    if record.phase != SWAPPING:
        record = save(
            installation, record, phase=SWAPPING, about_outgoing={key: state.get(key) for key in _ABOUT_DATABASE}
        )
    compose, services = installation.compose(), _writers(installation)
    try:
        with step(installation, report, "writers stopped", say) as told:
            compose.must("stop", *services, timeout=120)
            told(", ".join(services))
        if wanted.around and not _swapped(record, database):
            wanted.around.stopped(*_both(installation, record))
        with step(installation, report, "names swapped", say) as told:
            if not _swapped(record, database):
                database.swap(record.incoming, record.outgoing)
            told(f"{record.incoming} is {database.name} now, and what served before is {record.outgoing}")
        installation.save_state(**record.about)
        return save(installation, record, phase=SWAPPED)
    except Exception as problem:
        _not_swapped(installation, before, as_error(problem), services, wanted)
        raise


def _not_swapped(
    installation: Installation, before: Open, error: ScutumError, services: list[str], wanted: Settings
) -> None:
    """Have what is in force serve again after a swap that failed, and say what state that is; always ends in a failure."""
    database = Database(installation)
    try:
        # The server may be starting again.
        database.allow_connections(patience=60)
        done = _swapped(before, database)
    except ScutumError as second:
        raise ScutumError(
            error.what,
            f"{', '.join(services)} are stopped, and the server does not answer: {second.what}",
            next_call(before),
        ) from error
    if done:
        raise ScutumError(
            error.what,
            f"the names are swapped already, {', '.join(services)} are stopped",
            f"correct the cause, then: {next_call(before)}",
        ) from error
    left = f"nothing was swapped: {database.name} is what it was, {before.incoming} stands beside it; "
    try:
        stack.recreate(installation, services, wanted.timeout)
        left += f"{', '.join(services)} run"
    except Exception as second:
        left += f"{', '.join(services)} do not all run: {as_error(second).what}"
    with contextlib.suppress(OSError):
        save(installation, before)
    raise ScutumError(error.what, left, f"correct the cause, then run it again: {next_call(before)}") from error


def _start(installation: Installation, wanted: Settings, report: dict[str, Any], say: Say) -> None:
    """What reaches the database running on what is in force, and verified. Others are left alone, in whatever state they were."""
    if wanted.around:
        wanted.around.swapped()
    services = _writers(installation)
    with step(installation, report, "services started", say) as told:
        if stack.window_needed(installation, references(installation.compose().model())["litellm"]):
            # Another LiteLLM prepared this database.
            stack.apply(installation, wanted.timeout, say)
        else:
            stack.recreate(installation, services, wanted.timeout)
        told(", ".join(services))
    with step(installation, report, "installation verified", say) as told:
        end = time.monotonic() + wanted.timeout
        while True:
            found = verification.verify(installation, str(installation.state().get("version") or ""), [])
            wrong = {item["name"]: f"{item['name']}: {item['detail']}" for item in found["checks"] if not item["ok"]}
            bad = [text for name, text in wrong.items() if _concerns(name, services)]
            if not bad:
                break
            # One that has just started on a busy host answers once and then not for a while (measured).
            if time.monotonic() > end:
                raise ScutumError("; ".join(bad), left="services run", next_step="scutum-ops verify")
            time.sleep(5)
        told(
            f"{len(found['checks']) - len(wrong)} of {len(found['checks'])} checks; admin-api answered with rows of it"
        )
    report["warnings"] += [f"not because of the database, so it was left: {text}" for text in wrong.values()]


def _concerns(check: str, services: list[str]) -> bool:
    """Whether a failing check may be the fault of the database in force: an image or a page that is wrong was wrong before."""
    kind, unused, service = check.partition(" ")
    return check not in ("release", "image digests") and (kind != "container" or service in (*services, "postgres"))


def _writers(installation: Installation) -> list[str]:
    return schema_guard.writers(installation.compose().model())


def _turned(installation: Installation, record: Open) -> Open:
    """The way back from a record: what was put aside comes in again."""
    database = Database(installation)
    _swapped(replace(record, incoming=record.outgoing), database)
    return save(
        installation,
        record,
        phase=READY,
        back=True,
        incoming=record.outgoing,
        outgoing=_beside(database.name, "undone", catalog.new_id().lower()),
        about=record.about_outgoing,
    )


def _undo(installation: Installation, record: Open, wanted: Settings, report: dict[str, Any], say: Say) -> None:
    report.update(id=record.id, safety=record.safety, outcome="undone")
    _forget_dump(record)
    if record.phase == PREPARED:
        _close(installation)
        return
    database = Database(installation)
    filled = record.phase in (RESTORING, READY) or (record.phase == SWAPPING and not _swapped(record, database))
    if filled and not record.back:
        with step(installation, report, "restored database dropped", say) as told:
            database.allow_connections()
            database.drop_beside(record.incoming)
            told(f"{record.incoming}, a copy of the backup")
        # Whether what is in force serves well is not this restore's doing.
        _close(installation)
        _start(installation, wanted, report, say)
        return
    _switch(installation, record if record.back else _turned(installation, record), wanted, report, say)


def _close(installation: Installation) -> None:
    """No restore is open any more."""
    os.unlink(os.path.join(installation.private, RECORD))


def _finalize(installation: Installation, record: Open, wanted: Settings, report: dict[str, Any], say: Say) -> None:
    report.update(id=record.id, safety=record.safety, outcome="finalized")
    database = Database(installation)
    with step(installation, report, "kept database dropped", say) as told:
        if database.name not in database.databases():
            raise ScutumError(
                f"there is no database {database.name}: the kept one is the only one",
                left="nothing was dropped",
                next_step=f"look at what is there: docker exec scutum-postgres psql -U {database.user} -d postgres -l",
            )
        database.drop_beside(record.outgoing)
        told(record.outgoing)
    _forget_dump(record)
    _close(installation)


# --- small decisions


def _place(installation: Installation, wanted: Settings) -> Store:
    kept = backup.Settings(store=wanted.store) if wanted.store else backup.settings(installation)
    return backup.store(installation, kept, given=wanted.environment)


def _own_place(installation: Installation) -> Store:
    """Where a safety backup goes."""
    try:
        return backup.store(installation, backup.settings(installation))
    except ScutumError as error:
        raise ScutumError(
            f"there is no place for a safety backup: {error.what}", error.left, _without_safety(error)
        ) from error


def _without_safety(error: ScutumError) -> str:
    return (
        f"{error.next_step}; or go on without it (scutum_restore_safety_backup: false): the database that serves now is kept beside the "
        "restored one in any case"
    )


def _manifest(place: Store, wanted: Settings, record: Open | None) -> dict[str, Any]:
    """Of the backup that is asked for; without a name of the one that was begun with, else of the newest."""
    begun = record.id if record else ""
    return catalog.manifest(place, catalog.choose(place, wanted.name or begun).id)


def _wants_safety(wanted: Settings, record: Open | None) -> bool:
    return wanted.safety and not (record and not record.old and (record.fresh or record.safety))


def _safety(installation: Installation, say: Say) -> dict[str, Any]:
    try:
        return backup.take(installation, backup.settings(installation), say, safety=True)
    except ScutumError as error:
        raise ScutumError(
            f"the safety backup failed: {error.what}", "nothing in force was changed", _without_safety(error)
        ) from error


def _refuse_unfit(installation: Installation, manifest: dict[str, Any], wanted: Settings) -> Database:
    """Refuse what could not end well, before anything is changed; the database in force."""
    name, here = manifest["id"], wanted.release(installation)
    untouched = "nothing was changed"
    if manifest["release"] != here:
        raise ScutumError(
            f"{name} is of release {manifest['release'] or '(not recorded)'}, and {here or 'none'} is installed here: its database "
            "belongs to that release's images",
            left=untouched,
            next_step=f"choose a backup of {here} (scutum-ops backup-info); or restore on an empty host, which gets that release",
        )
    database = Database(installation)
    if database.name not in database.databases():
        raise ScutumError(
            f"the server has no database {database.name}, whose name the restored one would take",
            left=untouched,
            next_step=f"have an empty one: docker exec scutum-postgres createdb -U {database.user} {database.name}; then run it again "
            "with scutum_restore_safety_backup: false",
        )
    server = database.server_version()
    if manifest["postgres"] > server:
        raise ScutumError(
            f"{name} is of PostgreSQL {manifest['postgres']}, and {server} runs here",
            left=untouched,
            next_step="restore it where that version runs",
        )
    backup_reading.need_identity(manifest, wanted.identities)
    begun = open_rotation(installation)
    if begun:
        raise ScutumError(
            f"a rotation of {', '.join(begun)} was interrupted",
            left=untouched,
            next_step="run playbooks/secrets.yml, which finishes it",
        )
    backup_reading.check_space(installation, manifest, _spool(installation, wanted), "scutum_restore_spool")
    return database


def _spool(installation: Installation, wanted: Settings) -> str:
    """A directory of its own: others may keep dumps in the one that was given."""
    return os.path.join(wanted.spool or installation.private, _SPOOL)


def _beside(name: str, word: str, stamp: str) -> str:
    """A name for a database beside another one; Postgres cuts names after 63 bytes."""
    ending = f"_{word}_{stamp}"
    return name.encode()[: 63 - len(ending)].decode("utf-8", "ignore") + ending


def _about(manifest: dict[str, Any]) -> dict[str, Any]:
    """What the host's record has to say about a restored database: which LiteLLM prepared it."""
    image = manifest["images"].get("litellm", {})
    known = {"image_id": image["id"], "image": manifest["release"]} if image.get("id") else None
    return {"litellm_schema": known, "schema_window": None}


def _drift(installation: Installation, record: Open, database: Database) -> dict[str, int]:
    """Rows that only the database has that was put aside, by table."""
    now, aside = database.relations(), Database(installation, name=record.outgoing).relations()
    return {table: rows - now.get(table, 0) for table, rows in aside.items() if rows != now.get(table, 0)}


# --- saying it

# What it means that a secret could not be brought back.
NOWHERE = "set it again"
CONSEQUENCES = {
    "LITELLM_SALT_KEY": "what LiteLLM stored encrypted (credentials of models) cannot be read: enter it again",
    "SCUTUM_API_KEY": "a new one was made: every application needs it (config/.env, or the source of secrets)",
    "JWT_SECRET_KEY": "a new one was made: every administrator logs in again",
    "INTERNAL_SERVICE_KEY": "a new one was made: the services have it",
    "POSTGRES_PASSWORD": "a new one was made: the services have it",
    "GRAFANA_ADMIN_PASSWORD": "a new one was made",
}


def text(report: dict[str, Any]) -> list[str]:
    """The report for people."""
    return [_head(report), *report_module.lines(report), *_rest(report)]


def _head(report: dict[str, Any]) -> str:
    name = f"backup {report['id']}" if report["id"] else "the newest backup"
    if report.get("error"):
        failed = {"undo": "GOING BACK FAILED", "finalize": "NOT FINAL"}.get(report["asked"], "NOT RESTORED")
        return f"{name}: {failed}: {report['error']}"
    words = {
        "planned": f"{name}: nothing was changed",
        "restored": f"{name} is in force",
        "undone": f"what served before the restore of {name} serves again",
        "finalized": f"the restore of {name} is final",
        "unchanged": f"{name}: nothing was changed",
    }
    return words[report["outcome"]]


def _rest(report: dict[str, Any]) -> list[str]:
    found = [f"would: {line}" for line in report["plan"]]
    if "recovery_point_seconds" in report:
        found.append(f"recovery point: {report['recovery_point_seconds'] / 3600:.1f} hours before")
    if "recovery_time_seconds" in report:
        found.append(f"recovery time: {report['recovery_time_seconds']:.0f} s from the beginning")
    found += [f"NOTE: {line}" for line in report["warnings"]]
    if report["drift"]:
        rows = ", ".join(f"{name} {number:+d}" for name, number in sorted(report["drift"].items()))
        found.append(f"rows that the other database has more or less: {rows}")
    if report["kept"] and report["outcome"] != "unchanged":
        found.append(f"kept: database {report['kept']}, until scutum_restore_finalize={host_name()}")
    if report["outcome"] == "restored":
        found.append(f"the way back: scutum_restore_undo={host_name()}")
    if report.get("next_step"):
        found.append(f"Next: {report['next_step']}")
    return found
