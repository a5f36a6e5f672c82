# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Going back from an upgrade: evidence first; then images only, where that was rehearsed, or the backup from before restored beside.

By images: the old files in force; LiteLLM; alembic's old head written back, since the old image does not know the new one; the rest.
By restore: beside what serves; then writers stop, what was written since is carried over or exported, both databases swap names.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import replace
from typing import Any

from . import (
    backup_catalog,
    deployment,
    images,
    migration,
    restore,
    schema_guard,
    stack,
    upgrade_export,
    upgrade_promotion,
    upgrade_settings,
)
from . import upgrade_record as records
from .database import Database
from .errors import ScutumError
from .files import write_file
from .installation import Installation
from .project import Project, recorded
from .report import Say, shown, step
from .request_probe import Probe
from .restore_record import host_name
from .upgrade_preflight import request
from .upgrade_record import Record

IMAGES, RESTORE = "images", "restore"


class NotAccepted(ScutumError):
    """It would lose what was written since, and nobody has accepted that."""


# Lines of each service's log that are kept.
_LINES = 5000


def way(installation: Installation, record: Record) -> str:
    """How to go back: `images` where the rehearsal did, or where the schema was not touched; else `restore`."""
    if record.rollback.get("way"):
        return str(record.rollback["way"])
    schema = installation.state().get("litellm_schema")
    same = (
        Database(installation).alembic_version() == record.heads.get("source")
        and schema == record.steps[records.PROMOTE].get("litellm_schema")
        and not installation.state().get("schema_window")
    )
    return IMAGES if same or record.receipt.get("images_only") else RESTORE


def refuse(installation: Installation, record: Record | None) -> Record:
    """The upgrade to go back from; refuses where there is none."""
    if record is None or not record.touched:
        raise ScutumError(
            "there is no upgrade to go back from" + (f": {records.standing(record)}" if record else ""),
            left="nothing was changed",
            next_step="an older state of the data comes back by playbooks/restore.yml",
        )
    now = str(installation.state().get("version") or "")
    if record.outcome != records.ROLLED_BACK and now not in (record.source, record.target):
        raise ScutumError(
            f"{now} is installed, and the last upgrade went from {record.source} to {record.target}",
            left="nothing was changed",
            next_step="an older state of the data comes back by playbooks/restore.yml",
        )
    lost = images.gone(installation, record.images["source"])
    if lost and record.outcome != records.ROLLED_BACK:
        raise ScutumError(
            f"images of {record.source} are not on this host any more: {', '.join(lost)}",
            left="nothing was changed",
            next_step="docker pull them by the digests in .scutum-ops/state.json, or docker load them, then go back again",
        )
    return record


def run(
    installation: Installation,
    wanted: upgrade_settings.Settings,
    record: Record,
    reason: str,
    report: dict[str, Any],
    say: Say,
    accept_export: bool = False,
) -> None:
    """Go back, and verify; a run that was killed is gone on with.

    Args:
        reason: why, for the report.
        accept_export: rows that cannot be carried over may be exported only.
    """
    if not record.rollback.get("way"):
        with step(installation, report, "evidence", say) as told:
            place = _evidence(installation, record)
            told(f"logs, metrics and both states are in {place}")
        record.rollback |= {"way": way(installation, record), "reason": reason, "evidence": place, "at": time.time()}
        records.save(installation, record)
    with Probe(installation, wanted.probe_interval) as probe:
        try:
            if record.rollback["way"] == IMAGES:
                _by_images(installation, wanted, record, report, say)
            else:
                _by_restore(installation, wanted, record, report, say, accept_export)
            upgrade_promotion.check(installation, wanted, record.source, report, say)
        finally:
            record.requests[records.ROLLBACK] = probe.result()
    detail = upgrade_promotion.requests(record.requests[records.ROLLBACK])
    report["checks"].append({"name": "requests meanwhile", "ok": True, "detail": detail, "seconds": 0})
    record.outcome = records.ROLLED_BACK


def _by_images(
    installation: Installation, wanted: upgrade_settings.Settings, record: Record, report: dict[str, Any], say: Say
) -> None:
    def in_order() -> None:
        if installation.state().get("schema_window"):
            # Else the old LiteLLM would open another one, and push its own schema over the newer.
            schema_guard.settle(installation, Database(installation))
        # What customers call first; admin-api serves until then.
        installation.save_state(litellm_schema=record.steps[records.PROMOTE].get("litellm_schema"))
        with step(installation, report, "LiteLLM", say) as told:
            stack.recreate(installation, ["litellm"], wanted.start_timeout)
            told(f"{record.source} serves")
        with step(installation, report, "schema", say) as told:
            told(_old_head(installation, record))

    deployment.converge(installation, _request(installation, wanted, record), starting=in_order)
    with step(installation, report, "services", say) as told:
        told(f"all of {record.source} run; no data was moved")


def _request(installation: Installation, wanted: upgrade_settings.Settings, record: Record) -> deployment.Request:
    """The old release, with the values of config/.env that the upgrade replaced."""
    return request(installation, wanted, record.source, record.steps[records.PROMOTE].get("environment"))


def _old_head(installation: Installation, record: Record) -> str:
    """Have alembic's record where the old image expects it; its own admin-api must not run meanwhile, and would write it forward again."""
    database, old = Database(installation), record.heads["source"]
    now = database.alembic_version()
    if now == old:
        return f"alembic stays at {old}"
    container = installation.compose().containers(installation.project).get("admin-api")
    if container and container["Image"] != record.images["source"].get("admin-api", {}).get("id"):
        installation.engine.must("stop", container["Id"], timeout=120)
    not_noted = migration.write_head(database, old)
    told = f"alembic {now} → {old}; the old release lives with the newer schema, as it was rehearsed"
    return "; ".join(filter(None, [told, not_noted]))


def _files(installation: Installation, record: Record) -> None:
    """The old release's files in force, and nothing started; again as often as it is needed."""
    Project(installation, replace(recorded(installation), version=record.source)).converge()
    installation.save_state(version=record.source, target=None)


def _by_restore(
    installation: Installation,
    wanted: upgrade_settings.Settings,
    record: Record,
    report: dict[str, Any],
    say: Say,
    accept_export: bool,
) -> None:
    containers = installation.compose().containers(installation.project)
    source = record.images["source"]
    never_started = all(
        containers[name]["Image"] == image["id"] for name, image in source.items() if name in containers
    )
    if never_started:
        # The new release never started: whatever is started from here on is the old one.
        _files(installation, record)

    def filled(live: Database, restored: Database) -> None:
        if not accept_export:
            # Its migration stands half done below the old services, which run on: until they are started again.
            left = f"{record.source} still serves, on a schema on which its admin-api does not start again: do not restart it"
            _refuse(
                upgrade_export.differences(live, restored), left if never_started else "nothing in force was changed"
            )

    def stopped(live: Database, restored: Database) -> None:
        place = records.folder(installation, record, "export")
        with step(installation, report, "what was written since", say) as told:
            taken = backup_catalog.moment(record.safety)
            found = upgrade_export.carry(live, restored, taken, place)
            record.rollback |= {
                "export": place,
                "carried": found.carried,
                "exported": found.exported,
                "noted": found.noted,
            }
            records.save(installation, record)
            told("; ".join(upgrade_export.lines(found, place)))
        if found.exported and not accept_export:
            # Written since it was looked at. The old images cannot be started on the newer schema, to refuse it then.
            if not never_started:
                _refuse(found.exported, "nothing in force was changed")
            report["warnings"].append(
                f"written in the last moment, and only exported: {', '.join(sorted(found.exported))}"
            )

    around = restore.Around(record.source, filled, stopped, lambda: _files(installation, record))
    identity = installation.secret("SCUTUM_BACKUP_AGE_IDENTITY")
    asked = restore.Settings(
        name=record.safety, confirm=host_name(), safety=False, identities=[identity] if identity else [],
        timeout=wanted.start_timeout, around=around,
    )  # fmt: skip
    done = restore.run(installation, asked, say)
    report["checks"] += done["checks"]
    record.rollback["kept"] = done["kept"]
    report["warnings"].append(
        f"the database of {record.target} is kept as {done['kept']}: scutum_restore_finalize={host_name()} (playbooks/restore.yml) drops it"
    )
    # All that does not write: pages, agents.
    deployment.converge(installation, _request(installation, wanted, record))


def _refuse(exported: dict[str, int], left: str) -> None:
    try:
        upgrade_export.refuse(exported, host_name())
    except ScutumError as error:
        raise NotAccepted(error.what, left, error.next_step) from error


def not_accepted(error: BaseException | None) -> NotAccepted | None:
    """The refusal to lose rows that a failure is, or comes from; None when it is something else."""
    while error is not None and not isinstance(error, NotAccepted):
        error = error.__cause__
    return error


def _evidence(installation: Installation, record: Record) -> str:
    """What somebody wants to see afterwards; what cannot be had is left out, since nothing may keep a rollback."""
    place = records.folder(installation, record, "evidence")
    compose = installation.compose()

    def keep(name: str, text: str) -> None:
        write_file(os.path.join(place, name), shown(installation, text) + "\n", 0o600)

    containers: dict[str, Any] = {}
    with contextlib.suppress(ScutumError):
        containers = compose.containers(installation.project)
    states = {
        name: {key: item.get(key) for key in ("Id", "Image", "Created", "RestartCount", "State")}
        for name, item in containers.items()
    }
    keep("containers.json", json.dumps(states, indent=1))
    for name in sorted(containers):
        with contextlib.suppress(ScutumError):
            keep(f"{name}.log", compose.logs(name, _LINES))
    with contextlib.suppress(ScutumError):
        keep("litellm-metrics.txt", installation.litellm(0).metrics())
    with contextlib.suppress(ScutumError):
        database = Database(installation)
        state = {"alembic": database.alembic_version(), "before": record.heads, "rows": database.estimates()}
        keep("database.json", json.dumps(state, indent=1))
    keep(
        "upgrade.json",
        json.dumps({"baseline": record.baseline, "verdict": record.verdict, "steps": record.steps}, indent=1),
    )
    return place
