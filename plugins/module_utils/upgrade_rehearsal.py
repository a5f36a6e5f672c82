# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rehearsing an upgrade in a quarantined copy: the data of the newest verified backup, the migration, the new version, and the way back.

stage (restored) → migrate (migrated) → smoke, which ends with the receipt: what was rehearsed with which images on which data, and whether
images alone lead back. Each phase says in the copy's mark how far it is before it begins; what was interrupted begins anew.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from . import (
    backup,
    backup_archive,
    backup_reading,
    images,
    migration,
    quarantine,
    restore_verification,
    schema_guard,
    smoke_test,
    stack,
    staged_copy,
    staging,
)
from . import backup_catalog as catalog
from . import upgrade_record as records
from .compose import LABEL_SERVICE
from .database import Database
from .errors import ScutumError, as_error
from .files import write_file
from .images import references
from .installation import Installation
from .project import Project, recorded
from .report import Say, step
from .staged_copy import StagedCopy
from .upgrade_record import Record
from .upgrade_settings import PREFIX, Settings

# States of a copy; in between it is good for nothing.
RESTORED, MIGRATED, BUSY = "restored", "migrated", ""
# Tables that a release must not take rows from: what is lost there is lost for good.
_HISTORY = ("public.audit_logs", "public.LiteLLM_SpendLogs")
_SPEND = 'public."LiteLLM_SpendLogs"'
# Seconds for which a spend row is waited for; the product writes them in batches.
_SPEND_WAIT = 15.0
_LINES = 1000


# --- stage


def stage(installation: Installation, wanted: Settings, record: Record, report: dict[str, Any], say: Say) -> None:
    """Have the data of the newest verified backup in a copy that has the target's files, compared with its manifest and quarantined."""
    began = time.monotonic()
    record.receipt = {}
    with _rehearsed(installation, wanted, record, say):
        place = backup.store(installation, backup.settings(installation))
        manifest = _backup(place, record)
        with step(installation, report, "copy", say) as told:
            versions = [record.source, record.target]
            copy, notes = staging.create(installation, wanted, versions, record.id, say)
            report["warnings"] += notes
            told(f"{copy.directory}, project {copy.project}, files of {record.target}, nothing in force was touched")
        record.staged = {
            "directory": copy.directory,
            "project": copy.project,
            "backup": manifest["id"],
            "began": time.time(),
        }
        _restore(installation, copy, wanted, place, manifest, report, say)
        database = Database(copy)
        with step(installation, report, "rows and contents", say) as told:
            told(restore_verification.compare_tables(manifest, database))
        with step(installation, report, "schema", say) as told:
            told(restore_verification.compare_schema(manifest, database))
        with step(installation, report, "quarantine", say) as told:
            silenced = database.silence()
            image = references(copy.compose().model())["admin-api"]
            told(f"{silenced} event subscriptions were taken out; {quarantine.prove(copy, wanted, image)}")
        record.staged["rows"] = sum(int(item["rows"]) for item in manifest["tables"].values())
        record.staged["taken"] = manifest["taken"]
        record.staged["seconds"] = round(time.monotonic() - began, 1)
        copy.note(state=RESTORED)


def _backup(place: Any, record: Record) -> dict[str, Any]:
    """The manifest of the newest verified backup, which has to be of the source."""
    found = next((entry for entry in catalog.complete(place) if entry.verified), None)
    if found is None:
        raise ScutumError(
            f"{place.where}: there is no verified backup to make a copy from",
            next_step="scutum-ops backup takes one, scutum-ops verify-restore proves it",
        )
    manifest = catalog.manifest(place, found.id)
    if manifest["release"] != record.source:
        raise ScutumError(
            f"the newest verified backup, {found.id}, is of release {manifest['release']}, and {record.source} is in force",
            next_step="scutum-ops backup takes one, scutum-ops verify-restore proves it",
        )
    return manifest


def _restore(
    installation: Installation,
    copy: StagedCopy,
    wanted: Settings,
    place: Any,
    manifest: dict[str, Any],
    report: dict[str, Any],
    say: Say,
) -> None:
    backup_reading.check_space(installation, manifest, copy.private, f"{PREFIX}staging_directory")
    identity = installation.secret("SCUTUM_BACKUP_AGE_IDENTITY")
    identities = [identity] if identity else []
    backup_reading.need_identity(manifest, identities)
    compose = copy.compose()
    not_closed = quarantine.close(copy)
    if not_closed:
        say(f"the copy cannot be kept from this host: {not_closed}")
    # Postgres makes its cluster while the dump comes.
    compose.must("up", "-d", "--no-deps", "postgres", "redis", timeout=wanted.start_timeout)
    quarantine.open_egress(copy, wanted, references(compose.model())["admin-api"])
    dump = os.path.join(copy.private, f"{manifest['id']}.dump")
    try:
        with step(installation, report, "pulled from the store, hashes", say) as told:
            size = backup_reading.pull(place, manifest, identities, dump)
            archive = backup_archive.read(place, manifest, identities)
            told(f"{manifest['id']}, {size}")
        with step(installation, report, "backup restored", say) as told:
            database = Database(copy)
            staging.await_postgres(copy, database, wanted.start_timeout)
            roles = database.bring_roles(archive.globals)
            jobs = min(2, os.cpu_count() or 1)
            database.restore_from(dump, jobs, copy.secret("POSTGRES_PASSWORD"))
            database.analyze()
            told(
                f"PostgreSQL {database.server_version()}, {jobs} jobs"
                + (f", roles {', '.join(roles)}" if roles else "")
            )
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(dump)


# --- migrate


def migrate(installation: Installation, wanted: Settings, record: Record, report: dict[str, Any], say: Say) -> None:
    """Have LiteLLM and admin-api of the target bring the copy's schema to their version, and everything of it running."""
    copy = _ready(installation, wanted, record, RESTORED, say)
    if copy is None:
        stage(installation, wanted, record, report, say)
        copy = _copy(installation, wanted)
    with _rehearsed(installation, wanted, record, say):
        copy.note(state=BUSY)
        database = Database(copy)
        model = copy.compose().model()
        rows, shapes = database.relations(), _schema(database)
        with step(installation, report, "LiteLLM's schema", say) as told:
            record.staged["litellm_changes"] = _push(copy, wanted, model, database, rows, shapes)
            told(", ".join(record.staged["litellm_changes"]) or "it changes nothing")
        with step(installation, report, "migration", say) as told:
            done = migration.run(copy, wanted.migration_timeout, say)
            head = record.heads.get("target") or migration.head(copy.engine, references(model)["admin-api"])
            if head and done["after"] != head:
                raise ScutumError(f"alembic stands at {done['after']}, and the image's head is {head}")
            record.heads = {"source": done["before"], "target": done["after"]}
            record.staged["migration"] = done
            locks = ", ".join(f"{item['table']} {item['mode']} {item['seconds']} s" for item in done["locks"])
            told(f"alembic {done['before']} → {done['after']} in {done['seconds']} s")
            if done["again"]:
                told(f"the schema of the backup was that of {done['again']} already")
            told(f"strong locks seen: {locks}" if locks else "no strong lock was seen")
        with step(installation, report, "rows after", say) as told:
            after = database.relations()
            record.staged["lost"] = lost(rows, after)
            told(_rows_after(record.staged["lost"], rows, after))
            if record.staged["lost"]:
                report["warnings"].append(f"the migration takes away: {'; '.join(record.staged['lost'])}")
        with step(installation, report, "new version starts", say) as told:
            done = stack.apply(copy, wanted.start_timeout)
            quarantine.must_be_closed(copy)
            told(f"{', '.join(sorted(done['actions']))} of {record.target}, all of them in quarantine")
        copy.note(state=MIGRATED)


def _push(
    copy: StagedCopy,
    wanted: Settings,
    model: dict[str, Any],
    database: Database,
    rows: dict[str, int],
    shapes: dict[str, str],
) -> list[str]:
    """Let LiteLLM bring the schema to its version; what it changed, in words. Refuses what touches anything that is not its own."""
    image = references(model)["litellm"]
    known = copy.engine.images([image])[image]["Id"]
    schema_guard.run(copy, known, image, wanted.start_timeout, disposable=True)
    changes = changed(shapes, _schema(database))
    foreign = [text for name, text in changes if not own(name) and not text.startswith("+")]
    foreign += [text for text in lost(rows, database.relations()) if not own(text) or _is_history(text)]
    if foreign:
        raise ScutumError(f"{image} changes what is not its own, or takes its own history away: {'; '.join(foreign)}")
    return [text for unused, text in changes]


def _schema(database: Database) -> dict[str, str]:
    with database.snapshot() as snapshot:
        return snapshot.schema()


def changed(before: dict[str, str], after: dict[str, str]) -> list[tuple[str, str]]:
    """Objects of a schema that differ: the name of each, and what became of it, in words."""
    found = [(name, f"- {name}") for name in sorted(before.keys() - after.keys())]
    found += [(name, f"~ {name}") for name in sorted(before.keys() & after.keys()) if before[name] != after[name]]
    return found + [(name, f"+ {name}") for name in sorted(after.keys() - before.keys())]


def own(name: str) -> bool:
    """Whether an object of the schema is LiteLLM's."""
    return "LiteLLM_" in name or "_prisma_migrations" in name


def lost(before: dict[str, int], after: dict[str, int]) -> list[str]:
    """Tables and views that are gone, and tables that have fewer rows, in words; LiteLLM's own count as well."""
    found = []
    for name, rows in sorted(before.items()):
        if name not in after:
            found.append(f"{name} is gone" + (f" (it had {rows} rows)" if rows >= 0 else " (a view)"))
        elif after[name] < rows:
            found.append(f"{name} has {after[name]} rows (it had {rows})")
    return found


def _is_history(text: str) -> bool:
    return text.startswith(tuple(f"{name} " for name in _HISTORY))


def _rows_after(gone: list[str], before: dict[str, int], after: dict[str, int]) -> str:
    """What became of the rows, in words; refuses a loss of history."""
    history = [text for text in gone if _is_history(text)]
    if history:
        raise ScutumError(f"the migration destroys history: {'; '.join(history)}")
    new = sorted(name for name in after.keys() - before.keys() if after[name] >= 0)
    words = [f"{sum(rows for rows in after.values() if rows > 0)} rows of {len(after)} tables and views"]
    words += [f"new: {', '.join(new)}"] if new else []
    return "; ".join([*words, *(gone or ["nothing is gone"])])


# --- smoke


def smoke(installation: Installation, wanted: Settings, record: Record, report: dict[str, Any], say: Say) -> None:
    """Test the new version in the copy, go back to the old one there, and write the receipt; the copy is gone afterwards."""
    copy = _ready(installation, wanted, record, MIGRATED, say)
    if copy is None:
        migrate(installation, wanted, record, report, say)
        copy = _copy(installation, wanted)
    with _rehearsed(installation, wanted, record, say):
        copy.note(state=BUSY)
        with step(installation, report, "smoke test", say) as told:
            tested = _smoke(copy, record.target, wanted)
            told(_latencies(tested))
        with step(installation, report, "written through the new version", say) as told:
            written = _write(copy, tested["models"])
            told(f"an event subscription, a completion, {written['spend']} spend rows")
        why_not = "; ".join(record.staged.get("lost", []))
        try:
            _back(installation, copy, wanted, record, written, report, say)
        except ScutumError as error:
            why_not = "; ".join(filter(None, [why_not, copy.redact(error.what)]))
            # The upgrade may go on all the same; what the old services said goes with the copy.
            with contextlib.suppress(ScutumError, OSError):
                _evidence(installation, wanted, record, error)
        if why_not:
            report["warnings"].append(
                f"images alone do not lead back, a rollback restores the safety backup: {why_not}"
            )
        record.receipt = receipt(record, why_not, tested["checks"])
    if wanted.keep_staging:
        report["warnings"].append(f"the copy is left in {copy.directory}, as asked for; the next rehearsal removes it")
        return
    with step(installation, report, "copy removed", say) as told:
        told(f"{len(staging.remove(installation, wanted, say))} containers, volumes and directories")


def _smoke(copy: StagedCopy, version: str, wanted: Settings) -> dict[str, Any]:
    """The smoke test, which has to pass."""
    pinned = wanted.digests if version == wanted.version else {}
    found = smoke_test.run(copy, version, wanted.models, pinned)
    if not found["ok"]:
        failed = [f"{item['name']}: {item['detail']}" for item in found["checks"] if not item["ok"]]
        raise ScutumError(f"{version} does not pass the smoke test in the copy: {'; '.join(failed)}")
    return found


def _latencies(found: dict[str, Any]) -> str:
    timed = [f"{item['name']} {item['seconds']:.2f} s" for item in found["checks"] if item["name"].startswith("/")]
    return f"{len(found['checks'])} checks; {', '.join(timed)}"


def _write(copy: StagedCopy, models: list[str]) -> dict[str, Any]:
    """Write through whatever version runs: a subscription, and a completion with its spend row; what there is of it afterwards."""
    name = f"scutum.ops rehearsal {secrets.token_hex(6)}"
    before = _spend(copy)
    key = copy.admin_api().subscribe(name)
    if not key:
        raise ScutumError("admin-api made an event subscription and did not say its id")
    for model in models[:1]:
        probe = copy.litellm().probe(model)
        if not probe.ok:
            raise ScutumError(f"{model} did not answer: {probe.error}")
    end = time.monotonic() + _SPEND_WAIT
    while before >= 0 and models and (now := _spend(copy)) <= before:
        if time.monotonic() > end:
            break
        time.sleep(0.2)
    else:
        now = _spend(copy)
    return {
        "id": key,
        "name": name,
        "spend": max(0, now - before) if before >= 0 else 0,
        "rows": Database(copy).relations(),
    }


def _spend(copy: StagedCopy) -> int:
    """Spend rows; -1 when LiteLLM has no such table."""
    database = Database(copy)
    if database.query(f"SELECT to_regclass('{_SPEND}') IS NOT NULL") != [["t"]]:
        return -1
    return int(database.query(f"SELECT count(*) FROM {_SPEND}")[0][0])


def _back(
    installation: Installation,
    copy: StagedCopy,
    wanted: Settings,
    record: Record,
    written: dict[str, Any],
    report: dict[str, Any],
    say: Say,
) -> None:
    """Go back to the source by its images alone, on the schema of the target, and look whether all is there."""
    database = Database(copy)
    with step(installation, report, "old version starts again", say) as told:
        _without_admin_api(copy)
        migration.write_head(database, record.heads["source"])
        staging.put_in_force(copy, wanted, record.source)
        image = references(copy.compose().model())["litellm"]
        # No window: the older LiteLLM has to live with the newer schema.
        copy.save_state(litellm_schema={"image_id": copy.engine.images([image])[image]["Id"], "image": image})
        stack.apply(copy, wanted.start_timeout)
        now = database.alembic_version()
        if now != record.heads["source"]:
            raise ScutumError(
                f"alembic stands at {now} after the old version's start, and not at {record.heads['source']}"
            )
        told(f"{record.source} on the schema of {record.target}, alembic {record.heads['target']} → {now}")
    with step(installation, report, "old version serves", say) as told:
        tested = _smoke(copy, record.source, wanted)
        told(_latencies(tested))
    with step(installation, report, "what was written is there", say) as told:
        if copy.admin_api().subscription(written["id"]) != written["name"]:
            raise ScutumError("the event subscription that was written through the new version is another one now")
        gone = lost(written["rows"], database.relations())
        if gone:
            raise ScutumError(f"rows are gone that the new version had: {'; '.join(gone)}")
        again = _write(copy, tested["models"])
        told(f"and the old version writes: an event subscription, a completion, {again['spend']} spend rows")
    with step(installation, report, "and forward again", say) as told:
        told(_forward(copy, wanted, record, say))


def _forward(copy: StagedCopy, wanted: Settings, record: Record, say: Say) -> str:
    """Migrate to the target once more, on the schema that has it: after the way back somebody will come again. In words."""
    head = record.heads["target"]
    if head not in (record.heads["source"], migration.ahead(Database(copy))):
        raise ScutumError(
            f"alembic_version has another comment, and that the schema is that of {head} is not noted: "
            "an upgrade after the way back would migrate a second time"
        )
    _without_admin_api(copy)
    staging.put_in_force(copy, wanted, record.target)
    done = migration.run(copy, wanted.migration_timeout, say)
    if done["after"] != head:
        raise ScutumError(f"alembic stands at {done['after']} after a second upgrade, and not at {head}")
    return f"alembic {done['before']} → {done['after']} in {done['seconds']} s, nothing was migrated a second time"


def _without_admin_api(copy: StagedCopy) -> None:
    """Take the copy's admin-api away: whenever it starts, it would write its own head, or not start on another one's."""
    container = copy.compose().containers(copy.project).get("admin-api")
    if container:
        copy.engine.must("rm", "-f", container["Id"], timeout=60)


# --- the receipt


def receipt(record: Record, why_not: str, tested: list[dict[str, Any]]) -> dict[str, Any]:
    """What was rehearsed, bound to images and data."""
    staged = record.staged
    return {
        "id": record.id, "at": time.time(), "source": record.source, "target": record.target, "images": record.images,
        "backup": staged["backup"], "taken": staged.get("taken"), "rows": staged.get("rows"), "heads": record.heads,
        "migration": staged["migration"], "litellm_changes": staged["litellm_changes"], "lost": staged.get("lost", []),
        "images_only": not why_not, "why_not": why_not, "smoke": tested, "seconds": round(time.time() - staged["began"], 1),
    }  # fmt: skip


def fresh(installation: Installation, record: Record, wanted: Settings) -> str:
    """Why the receipt does not count; empty when it does."""
    held = record.receipt
    if not held:
        return f"the way from {record.source} to {record.target} was not rehearsed"
    if (held["source"], held["target"]) != (record.source, record.target) or held["target"] != wanted.version:
        return f"it is of the way from {held['source']} to {held['target']}"
    hours = (time.time() - held["at"]) / 3600
    # A clock that was set back must not make it young.
    if not -0.1 < hours <= wanted.receipt_max_age:
        return f"it is {hours:.1f} hours old, and counts for {wanted.receipt_max_age:g} ({PREFIX}receipt_max_age)"
    settings = recorded(installation)
    wrong = []
    for side, version in (("source", record.source), ("target", record.target)):
        if not held["images"].get(side):
            return f"it names no images of {version}"
        now = images.record(installation, Project(installation, replace(settings, version=version)).images())
        for service, image in sorted(held["images"].get(side, {}).items()):
            if service in now and not images.same(now[service], image):
                wrong.append(f"{service} of {version}")
            elif service not in now and image.get("id") and not installation.engine.inspect("image", [image["id"]]):
                wrong.append(f"{service} of {version}, which is gone")
    return f"other images are on the host than were rehearsed: {', '.join(wrong)}" if wrong else ""


# --- around a phase


def _copy(installation: Installation, wanted: Settings) -> StagedCopy:
    copy = staged_copy.load(installation, wanted)
    if copy is None:
        raise ScutumError(
            "the copy is gone: somebody else removed it", next_step="playbooks/upgrade_stage.yml makes another one"
        )
    return copy


def _ready(installation: Installation, wanted: Settings, record: Record, state: str, say: Say) -> StagedCopy | None:
    """The copy, when it is this upgrade's, in a state, and runs; else None: it is begun anew."""
    copy = staged_copy.load(installation, wanted)
    mark = copy.mark() if copy else {}
    if copy and mark.get("upgrade") == record.id and mark.get("state") == state:
        needed = ["postgres", "redis"] if state == RESTORED else sorted(copy.compose().model()["services"])
        containers = copy.compose().containers(copy.project)
        if all(containers.get(name, {}).get("State", {}).get("Status") == "running" for name in needed):
            return copy
    if record.staged:
        say(
            "the copy is not in the state that this needs (a run was interrupted, or the host restarted): it is made anew"
        )
    return None


@contextlib.contextmanager
def _rehearsed(installation: Installation, wanted: Settings, record: Record, say: Say) -> Iterator[None]:
    """A phase in the copy: when it fails, what the copy said is kept, and the copy goes."""
    try:
        yield
    except Exception as problem:
        error = as_error(problem)
        place = ""
        with contextlib.suppress(ScutumError, OSError):
            place = _evidence(installation, wanted, record, problem)
        left = "production was not touched"
        if place:
            left += f"; what the copy's services said is in {place}"
        copy = staged_copy.load(installation, wanted)
        if copy and wanted.keep_staging:
            left += f"; the copy is in {copy.directory}, as asked for"
        elif copy:
            say("the copy is removed")
            try:
                staging.remove(installation, wanted, say)
                left += "; the copy was removed"
            except (ScutumError, OSError) as second:
                left += f"; the copy in {copy.directory} could not be removed, the next rehearsal does it: {as_error(second).what}"
        # What an error in the copy advises is to be done in the copy, which is gone.
        ours = copy is None or copy.directory not in error.next_step
        keep = f"for a look: {PREFIX}keep_staging: true"
        advice = error.next_step if error.next_step and ours else f"find the cause ({keep}), or go to another release"
        again = "then playbooks/upgrade_stage.yml rehearses it again"
        raise ScutumError(
            error.what if copy is None else copy.redact(error.what), left, f"{advice}; {again}"
        ) from problem


def _evidence(installation: Installation, wanted: Settings, record: Record, problem: Exception) -> str:
    """Keep what the copy's containers said; the directory, empty when there is nothing."""
    copy = staged_copy.load(installation, wanted)
    if copy is None:
        return ""
    place = ""
    if isinstance(problem, migration.Failed):
        place = records.folder(installation, record, "evidence", "staging")
        write_file(os.path.join(place, "migration.log"), installation.redact(problem.log) + "\n", 0o600)
    for item in copy.engine.containers(f"{staged_copy.LABEL}={installation.directory}"):
        name = str((item["Config"].get("Labels") or {}).get(LABEL_SERVICE) or str(item["Name"]).lstrip("/"))
        said = copy.engine.run("logs", "--tail", str(_LINES), item["Id"], timeout=30)
        place = place or records.folder(installation, record, "evidence", "staging")
        text = installation.redact(copy.redact(said.out + said.err))
        write_file(os.path.join(place, f"{name}.log"), text, 0o600)
    return place
