# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An upgrade, from phase to phase, and its way back: which may run now, what each left on the record, one report of all.

preflight → stage → migrate → smoke → promote → watch; a promotion that fails, and a watch that finds it bad, go back by themselves.
"""

from __future__ import annotations

import os
import time
from typing import Any, Callable

from . import backup_catalog as catalog
from . import report as report_module
from . import (
    restore,
    upgrade_preflight,
    upgrade_promotion,
    upgrade_rehearsal,
    upgrade_rollback,
    upgrade_settings,
    upgrade_units,
    upgrade_watch,
)
from . import upgrade_record as records
from .errors import ScutumError, as_error
from .installation import Installation
from .report import Say
from .upgrade_record import Record
from .upgrade_settings import Settings

# Seconds for which a preflight counts for phases that are called on their own.
_PREFLIGHT = 24 * 3600


def run(
    installation: Installation, wanted: Settings, phases: list[str], say: Say, check: bool = False, wait: bool = True
) -> dict[str, Any]:
    """Go through phases in their order, those that are done already left out.

    Args:
        phases: of upgrade_record.PHASES.
        wait: for the verdict of the watch; else it is left to the host.

    Returns:
        The report: `ok`, `outcome` (planned, done, unchanged, and those of the record), `changed`, `source`, `target`, `checks` (name, ok,
        detail, seconds), `phases` (state and seconds by phase), `warnings`, `plan`, `verdict`, `requests`, `text` (for people).

    Raises:
        ScutumError: a phase failed; what state was left, and what is next, is in it.
    """
    unknown = [phase for phase in phases if phase not in records.PHASES]
    if unknown or not phases:
        raise ScutumError(
            f"{', '.join(unknown) or 'no phase'}: the phases are {', '.join(records.PHASES)}",
            left="nothing was changed",
            next_step="name some of them",
        )
    report = _report(wanted.version)
    if check:
        return _planned(installation, wanted, phases, report, say)
    with records.alone(installation):
        record = _opened(installation, wanted)
        if record is None:
            report.update(ok=True, outcome="unchanged")
            report["warnings"].append(f"{wanted.version} is installed already")
            return {**report, "text": text(report)}
        upgrade_settings.keep(installation, wanted)
        for phase in (phase for phase in records.PHASES if phase in phases):
            if _needed(installation, wanted, record, phase):
                _phase(installation, wanted, record, phase, report, say)
    if records.WATCH in phases and wait and not record.outcome:
        upgrade_watch.wait(installation, say)
        record = records.load(installation) or record
    return _told(installation, record, report)


def back(
    installation: Installation, say: Say, check: bool = False, accept_export: bool = False, reason: str = "by hand"
) -> dict[str, Any]:
    """Go back from the last upgrade; a rollback that was interrupted is gone on with. Returns a report as `run` does."""
    record = upgrade_rollback.refuse(installation, records.last(installation))
    report = _report(record.target)
    report["source"] = record.source
    wanted = upgrade_settings.kept(installation)
    if record.outcome == records.ROLLED_BACK:
        report.update(ok=True, outcome="unchanged")
        report["warnings"].append(records.standing(record))
        return {**report, "text": text(report)}
    if check:
        way = upgrade_rollback.way(installation, record)
        words = {
            upgrade_rollback.IMAGES: f"images only: alembic's head {record.heads.get('source')} is written back, the files and images of "
            f"{record.source} are in force again; no row is lost",
            upgrade_rollback.RESTORE: f"the backup {record.safety} is restored beside, rows that were written since are carried over where "
            "tables only grow; what else differs is exported, and that has to be accepted first",
        }
        report.update(ok=True, outcome="planned", changed=True, plan=[words[way]])
        return {**report, "text": text(report)}
    with records.alone(installation):
        record = upgrade_rollback.refuse(installation, records.last(installation))
        upgrade_units.stop_watch(installation)
        _back(installation, wanted, record, reason, report, say, accept_export)
    upgrade_watch.tell(installation, wanted, record)
    report["changed"] = True
    return _told(installation, record, report, quiet=True)


def watch(installation: Installation, say: Say) -> dict[str, Any]:
    """The service that watches on the host."""

    def go_back(where: Installation, wanted: Settings, record: Record, reason: str) -> None:
        report = _report(record.target)
        _back(where, wanted, record, reason, report, say, wanted.accept_export)

    found = upgrade_watch.run(installation, say, go_back)
    record = records.load(installation)
    if record:
        _told(installation, record, _report(record.target), quiet=True)
    return found


def resume(installation: Installation, say: Say) -> dict[str, Any]:
    """Go on with what a restart of the host interrupted: a rollback first of all, else a promotion and its watch."""
    record = records.last(installation)
    if record and record.touched and record.state(records.ROLLBACK) == records.RUNNING:
        return back(installation, say, accept_export=bool(record.rollback.get("accepted")))
    if record and record.touched and not record.outcome and record.state(records.PROMOTE) == records.RUNNING:
        wanted = upgrade_settings.kept(installation)
        return run(installation, wanted, [records.PROMOTE, records.WATCH], say, wait=False)
    upgrade_units.remove_resume(installation)
    report = _report(record.target if record else "")
    report.update(ok=True, outcome="unchanged")
    return {**report, "text": ["nothing was interrupted"]}


def look(installation: Installation) -> dict[str, Any]:
    """Where the last upgrade stands; changes nothing."""
    record = records.load(installation)
    if record is None:
        report = _report("")
        report.update(ok=True, outcome="unchanged")
        report["warnings"].append("no upgrade was ever begun here")
        return {**report, "text": text(report)}
    report = _report(record.target)
    found = _told(installation, record, report, quiet=True)
    if record.state(records.WATCH) == records.RUNNING and not record.outcome:
        found["text"].append(upgrade_watch.progress(upgrade_watch.status(installation)))
    return found


# --- which phase may run


def _opened(installation: Installation, wanted: Settings) -> Record | None:
    """The upgrade that is open, or a new one; None when there is nothing to do. Refuses what stands in the way."""
    record = records.load(installation)
    now = str(installation.state().get("version") or "")
    if not now:
        raise ScutumError(
            f"{installation.directory} was not installed by this collection",
            left="nothing was changed",
            next_step="playbooks/install.yml adopts it at the release that runs",
        )
    touched = record is not None and record.touched
    if record and record.going_back:
        held = record.steps[records.ROLLBACK]
        raise ScutumError(
            f"going back from {record.target} was not finished" + (f": {held['error']}" if held.get("error") else ""),
            left=records.standing(record),
            next_step="playbooks/rollback.yml goes on with it (on the host: scutum-ops rollback)",
        )
    if record and touched and not record.outcome:
        if record.target != wanted.version:
            raise ScutumError(
                f"an upgrade to {record.target} is open, and {wanted.version} is asked for",
                left=records.standing(record),
                next_step=f"set scutum_version to {record.target} and go on, or playbooks/rollback.yml",
            )
        return record
    if record and touched and record.target == wanted.version == now:
        if record.outcome == records.BAD:
            raise _ended(record)
        if record.outcome == records.UNKNOWN:
            # Watched again, from the beginning.
            record.outcome, record.verdict = "", {}
            record.steps.pop(records.WATCH, None)
            record.staged["watched_again"] = time.time()
            return record
    if now == wanted.version:
        return None
    if record and not touched and not record.outcome and (record.source, record.target) == (now, wanted.version):
        return record
    # Before anything is written down: what was the last upgrade stays so.
    upgrade_preflight.version_path(now, wanted.version, wanted.allow_skipped_minor)
    return Record(catalog.new_id(), time.time(), now, wanted.version, previous=records.following(record))


def _needed(installation: Installation, wanted: Settings, record: Record, phase: str) -> bool:
    """Whether a phase has to run; refuses one that lacks what comes before it."""
    touched = record.touched
    if phase == records.PREFLIGHT:
        # What it looks at is in between once a promotion has begun.
        return not touched
    if phase in records.REHEARSED:
        if touched or not wanted.staged:
            return False
        if not upgrade_rehearsal.fresh(installation, record, wanted):
            return False
    if phase == records.PROMOTE and record.state(phase) == records.DONE:
        return False
    if phase == records.WATCH:
        _after(record, records.PROMOTE, phase)
        return not record.outcome
    before = {records.STAGE: records.PREFLIGHT, records.MIGRATE: records.STAGE, records.SMOKE: records.MIGRATE}
    _after(record, before.get(phase, records.PREFLIGHT), phase)
    looked = float(record.steps.get(records.PREFLIGHT, {}).get("ended", 0))
    if not touched and time.time() - looked > _PREFLIGHT:
        raise ScutumError(
            f"the preflight is {(time.time() - looked) / 3600:.0f} hours old",
            left="nothing was changed",
            next_step="run the phase preflight again (playbooks/upgrade_preflight.yml)",
        )
    return True


def _after(record: Record, before: str, phase: str) -> None:
    if record.state(before) != records.DONE:
        raise ScutumError(
            f"{phase} comes after {before}, which {'failed' if record.state(before) == records.FAILED else 'was not done'}",
            left=records.standing(record),
            next_step=f"playbooks/upgrade.yml --tags {before},{phase}",
        )


# --- running one


def _phase(
    installation: Installation, wanted: Settings, record: Record, phase: str, report: dict[str, Any], say: Say
) -> None:
    work: dict[str, Callable[[dict[str, Any]], None]] = {
        records.PREFLIGHT: lambda own: upgrade_preflight.run(installation, wanted, record, own, say),
        records.STAGE: lambda own: upgrade_rehearsal.stage(installation, wanted, record, own, say),
        records.MIGRATE: lambda own: upgrade_rehearsal.migrate(installation, wanted, record, own, say),
        records.SMOKE: lambda own: upgrade_rehearsal.smoke(installation, wanted, record, own, say),
        records.PROMOTE: lambda own: upgrade_promotion.promote(installation, wanted, record, own, say),
        records.WATCH: lambda own: _start_watch(installation, record),
    }
    try:
        _recorded(installation, record, phase, report, say, work[phase])
    except ScutumError as error:
        if phase == records.PROMOTE and record.touched:
            _return(installation, wanted, record, error, report, say)
        _told(installation, record, report, quiet=True)
        raise ScutumError(
            error.what,
            error.left or (records.standing(record) if record.touched else "nothing that is in force was changed"),
            error.next_step or "correct the cause and run it again: it goes on from there",
        ) from error


def _start_watch(installation: Installation, record: Record) -> None:
    again = float(record.staged.get("watched_again", 0))
    held = upgrade_watch.status(installation)
    if not record.verdict and (held.get("id") != record.id or float(held.get("began", 0)) < again):
        upgrade_watch.begin(installation)
    records.save(installation, record)
    upgrade_units.start_watch(installation, record.target)


def _recorded(
    installation: Installation,
    record: Record,
    phase: str,
    report: dict[str, Any],
    say: Say,
    work: Callable[[dict[str, Any]], None],
) -> None:
    """A phase, with its beginning, its end or its failure on the record."""
    number = f"({records.PHASES.index(phase) + 1}/{len(records.PHASES)}) " if phase in records.PHASES else ""
    say(f"{number}{phase}")
    start = time.time()
    held = record.steps.setdefault(phase, {})
    for key in ("error", "next_step"):
        held.pop(key, None)
    held |= {"state": records.RUNNING, "began": start, "checks": []}
    if phase in (records.PROMOTE, records.ROLLBACK):
        upgrade_units.ensure_resume(installation)
    # A preflight that found everything in its place changed nothing.
    own = {
        "checks": held["checks"], "warnings": report["warnings"], "plan": report["plan"], "changed": phase != records.PREFLIGHT,
    }  # fmt: skip
    records.save(installation, record)
    try:
        work(own)
    except Exception as problem:
        error = as_error(problem)
        held |= {
            "state": records.FAILED,
            "error": report_module.shown(installation, error.what),
            "next_step": error.next_step,
        }
        if error is problem:
            raise
        raise error from problem
    else:
        # The watch has only begun: its end is recorded on the host.
        held["state"] = records.RUNNING if phase == records.WATCH else records.DONE
    finally:
        report["plan"] = own["plan"]
        report["changed"] = report["changed"] or own["changed"]
        held |= {"ended": time.time(), "seconds": round(time.time() - start, 1)}
        if phase != records.WATCH:
            records.save(installation, record)
        if phase in (records.PROMOTE, records.ROLLBACK):
            upgrade_units.remove_resume(installation)


def _return(
    installation: Installation, wanted: Settings, record: Record, error: ScutumError, report: dict[str, Any], say: Say
) -> None:
    """After a promotion that failed: back by itself, or how to; always ends in a failure."""
    if not wanted.automatic_rollback:
        raise ScutumError(
            error.what,
            left=f"production is between {record.source} and {record.target}, and nothing goes back by itself "
            "(scutum_upgrade_automatic_rollback)",
            next_step=f"playbooks/rollback.yml goes back; or correct the cause ({error.next_step}) and run it again",
        ) from error
    say(f"promotion failed: {report_module.shown(installation, error.what)}; going back")
    try:
        _back(installation, wanted, record, f"promotion failed: {error.what}", report, say, wanted.accept_export)
    except ScutumError as second:
        _told(installation, record, report, quiet=True)
        raise ScutumError(
            f"the promotion failed: {error.what}; and going back failed, too: {second.what}",
            left=second.left,
            next_step=second.next_step,
        ) from error
    upgrade_watch.tell(installation, wanted, record)
    _told(installation, record, report, quiet=True)
    raise ScutumError(
        f"the promotion failed: {error.what}",
        left=f"{record.source} serves again, and was verified ({_way(record)}); evidence: {record.rollback['evidence']}",
        next_step="find the cause there; playbooks/upgrade_stage.yml tries the release again in a copy",
    ) from error


def _back(
    installation: Installation,
    wanted: Settings,
    record: Record,
    reason: str,
    report: dict[str, Any],
    say: Say,
    accept_export: bool,
) -> None:
    watched = upgrade_units.watching(installation) or (
        record.state(records.WATCH) == records.RUNNING and not record.outcome
    )
    before = record.outcome
    # Whatever it was: from here on it is between two releases, until this has ended.
    record.outcome = ""
    record.rollback = {key: value for key, value in record.rollback.items() if key not in ("refused", "next_step")}
    if accept_export:
        record.rollback["accepted"] = True
    try:
        _recorded(
            installation,
            record,
            records.ROLLBACK,
            report,
            say,
            lambda own: upgrade_rollback.run(
                installation, wanted, record, report_module.shown(installation, reason), own, say, accept_export
            ),
        )
    except ScutumError as error:
        refused = upgrade_rollback.not_accepted(error)
        if refused is None:
            raise ScutumError(
                error.what,
                error.left or records.standing(record),
                f"{error.next_step or 'correct the cause'}; then playbooks/rollback.yml goes on (on the host: scutum-ops rollback)",
            ) from error
        # Nothing in force was changed: the release stays, as if nobody had tried.
        restore.abandon(installation)
        record.outcome = before
        record.steps.pop(records.ROLLBACK)
        record.rollback = {"refused": report_module.shown(installation, error.what), "next_step": refused.next_step}
        records.save(installation, record)
        if watched:
            upgrade_units.start_watch(installation, record.target)
        raise ScutumError(error.what, f"{records.standing(record)}; {refused.left}", refused.next_step) from error
    records.save(installation, record)
    records.remember(installation, record)


def _planned(
    installation: Installation, wanted: Settings, phases: list[str], report: dict[str, Any], say: Say
) -> dict[str, Any]:
    """What would be done; the preflight looks at everything that it can look at without fetching anything."""
    record = _opened(installation, wanted)
    if record is None:
        report.update(ok=True, outcome="unchanged")
        report["warnings"].append(f"{wanted.version} is installed already")
        return {**report, "text": text(report)}
    report.update(source=record.source, outcome="planned", changed=True)
    if record.touched:
        report["plan"] = [records.standing(record), "it would be gone on with"]
    elif records.PREFLIGHT in phases:
        upgrade_preflight.run(installation, wanted, record, report, say, check=True)
    else:
        report["plan"] = [f"{', '.join(phases)}: from {record.source} to {record.target}"]
    report["ok"] = True
    return {**report, "text": text(report)}


# --- saying it


def _report(target: str) -> dict[str, Any]:
    return {
        "ok": False, "outcome": "failed", "changed": False, "source": "", "target": target, "checks": [], "phases": {}, "warnings": [],
        "plan": [], "verdict": {}, "requests": {}, "undo": "",
    }  # fmt: skip


def _told(installation: Installation, record: Record, report: dict[str, Any], quiet: bool = False) -> dict[str, Any]:
    """The whole of an upgrade from its record, kept as JSON and page in its directory.

    Args:
        quiet: a bad end is told by somebody else already.

    Raises:
        ScutumError: it ended otherwise than as it should.
    """
    report.update(
        source=record.source, target=record.target, id=record.id, verdict=record.verdict, requests=record.requests,
        rollback=record.rollback, standing=records.standing(record), outcome=record.outcome or "done",
        phases={name: {key: step.get(key) for key in ("state", "seconds")} for name, step in record.steps.items()},
        checks=[{**item, "name": f"{phase}: {item['name']}"} for phase, step in record.steps.items() for item in step.get("checks", [])],
        ok=all(step.get("state") != records.FAILED for step in record.steps.values()) and record.outcome in ("", records.GOOD),
    )  # fmt: skip
    if record.outcome == records.ROLLED_BACK:
        report["ok"] = record.state(records.ROLLBACK) == records.DONE
    report["undo"] = _undo(record)
    records.folder(installation, record)
    name = os.path.join(records.FOLDER, record.id, "report")
    report["where"] = os.path.join(installation.private, f"{name}.html")
    report_module.keep(installation, name, report, report_module.page(report["standing"], report, _rest(report)))
    report["text"] = text(report)
    if not quiet and record.outcome in (records.BAD, records.UNKNOWN):
        raise _ended(record)
    if not quiet and record.outcome == records.ROLLED_BACK and record.verdict:
        raise ScutumError(
            f"{record.target} was found bad: {'; '.join(record.verdict.get('reasons', []))}",
            left=f"{record.source} serves again, and was verified ({_way(record)}); evidence: {record.rollback.get('evidence')}",
            next_step="find the cause there before you try again",
        )
    return report


def _ended(record: Record) -> ScutumError:
    reasons = "; ".join(record.verdict.get("reasons", []))
    if record.outcome == records.UNKNOWN:
        return ScutumError(
            f"the watch ended without enough data: {reasons}",
            left=f"{record.target} is in force; nobody knows whether it is good",
            next_step="playbooks/upgrade_watch.yml watches again; playbooks/rollback.yml goes back",
        )
    tried = record.steps.get(records.ROLLBACK, {})
    why = record.rollback.get("refused") or tried.get("error")
    if why:
        return ScutumError(
            f"{record.target} was found bad: {reasons}; and going back did not succeed: {why}",
            left=records.standing(record),
            next_step=str(record.rollback.get("next_step") or tried.get("next_step"))
            + "; playbooks/rollback.yml goes back (on the host: scutum-ops rollback)",
        )
    return ScutumError(
        f"{record.target} was found bad: {reasons}",
        left=f"{record.target} is in force: it did not go back by itself",
        next_step="playbooks/rollback.yml goes back (on the host: scutum-ops rollback)",
    )


def _way(record: Record) -> str:
    return {"images": "by images only", "restore": f"by restoring {record.safety}"}.get(
        record.rollback.get("way", ""), ""
    )


def _undo(record: Record) -> str:
    if record.outcome == records.ROLLED_BACK or not record.touched:
        return ""
    how = "by images only, no row is lost" if record.receipt.get("images_only") else f"by restoring {record.safety}"
    return f"playbooks/rollback.yml (on the host: scutum-ops rollback), {how}"


def text(report: dict[str, Any]) -> list[str]:
    """The report for people."""
    head = report.get("standing") or f"upgrade to {report['target'] or '(none)'}: {report['outcome']}"
    return [head, *report_module.lines(report), *_rest(report)]


def _rest(report: dict[str, Any]) -> list[str]:
    found = [f"would: {line}" if report["outcome"] == "planned" else f"plan: {line}" for line in report["plan"]]
    took = [
        f"{phase} {step['seconds']} s" for phase, step in report["phases"].items() if step.get("seconds") is not None
    ]
    if took:
        found.append(f"took: {', '.join(took)}")
    rollback = report.get("rollback") or {}
    if rollback.get("refused"):
        found.append(f"going back was refused: {rollback['refused']}")
    if rollback.get("way"):
        found.append(f"rolled back because: {rollback.get('reason')}")
        found.append(f"evidence: {rollback.get('evidence')}")
    if rollback.get("export"):
        found.append(f"exported: {rollback['export']}")
    found += [f"NOTE: {line}" for line in report["warnings"]]
    if report["undo"]:
        found.append(f"the way back: {report['undo']}")
    if report.get("where"):
        found.append(f"report: {report['where']}")
    return found
