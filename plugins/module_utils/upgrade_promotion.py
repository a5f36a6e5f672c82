# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Promotion: the release in force, in the order that keeps completions down as briefly as one start of LiteLLM takes.

safety backup → files in force → migration, by a container of its own while the old services serve → LiteLLM → the rest → verified
"""

from __future__ import annotations

import os
from typing import Any

from . import (
    backup,
    compose,
    deployment,
    error_rate_watch,
    host_job,
    images,
    migration,
    smoke_test,
    stack,
    upgrade_rehearsal,
    verification,
)
from . import upgrade_record as records
from .errors import ScutumError
from .files import read_text, write_file
from .images import references
from .installation import Installation
from .override import LITELLM_CONFIG
from .report import Say, step
from .request_probe import Probe
from .upgrade_preflight import request
from .upgrade_record import Record
from .upgrade_settings import Settings

# What an upgrade replaces; kept as it was, for a person.
_KEPT = (
    compose.VENDOR_FILE, compose.OVERRIDE_FILE, compose.MERGED_FILE, compose.ENV_FILE, LITELLM_CONFIG, ".scutum-ops/state.json",
    ".scutum-ops/project.json",
)  # fmt: skip


def promote(installation: Installation, wanted: Settings, record: Record, report: dict[str, Any], say: Say) -> None:
    """Have the target in force and verified. A run that was killed is gone on with.

    Raises:
        ScutumError: production is in between; upgrade.py goes back.
    """
    promoting = record.steps[records.PROMOTE]
    if wanted.staged and not record.touched:
        why = upgrade_rehearsal.fresh(installation, record, wanted)
        if why:
            raise ScutumError(
                f"there is no receipt that counts: {why}",
                left="nothing was changed",
                next_step="playbooks/upgrade_stage.yml rehearses it",
            )
    if not record.baseline:
        with step(installation, report, "what is replaced", say) as told:
            told(f"kept in {_keep_files(installation, record)}")
        with step(installation, report, "baseline", say) as told:
            record.baseline = error_rate_watch.baseline(
                installation, wanted.baseline, wanted.watch_interval, model(wanted), say
            )
            told(_signals(record.baseline))
        promoting["litellm_schema"] = installation.state().get("litellm_schema")
        promoting["environment"] = _replaced_values(installation, wanted)
        records.save(installation, record)
    # The nightly dump, or the archiving, would hold the migration up, and writers behind it.
    with host_job.turn(installation, say, "playbooks/upgrade_promote.yml"):
        _promote(installation, wanted, record, report, say)


def _promote(installation: Installation, wanted: Settings, record: Record, report: dict[str, Any], say: Say) -> None:
    promoting = record.steps[records.PROMOTE]
    if not record.safety:
        with step(installation, report, "safety backup", say) as told:
            taken = backup.take(installation, backup.settings(installation), say, safety=True)
            record.safety = taken["id"]
            records.save(installation, record)
            told(f"{taken['id']}, {taken['rows']} rows, in {taken['where']}")
    # From here on there may be something to go back from.
    promoting["touched"] = True
    record.previous = {}
    records.save(installation, record)
    images.keep(installation, {record.source: record.images["source"], record.target: record.images["target"]})
    asked = request(installation, wanted, record.target, wanted.environment)
    with Probe(installation, wanted.probe_interval) as probe:
        try:
            deployment.converge(
                installation, asked, starting=lambda: _in_order(installation, wanted, record, report, say)
            )
            with step(installation, report, "services", say) as told:
                told(f"all of {record.target} run")
            check(installation, wanted, record.target, report, say)
        finally:
            record.requests[records.PROMOTE] = probe.result()
    report["checks"].append(
        {"name": "requests meanwhile", "ok": True, "detail": requests(record.requests[records.PROMOTE]), "seconds": 0}
    )


def _in_order(installation: Installation, wanted: Settings, record: Record, report: dict[str, Any], say: Say) -> None:
    """The schema first, then LiteLLM alone: what customers call is away for one start, on a host that has nothing else to do."""
    with step(installation, report, "migration", say) as told:
        done = migration.run(installation, wanted.migration_timeout, say)
        told(f"alembic {done['before']} → {done['after']} in {done['seconds']} s, while {record.source} served")
    image = references(installation.compose().model())["litellm"]
    if stack.window_needed(installation, image) and record.receipt and not record.receipt["litellm_changes"]:
        # It changed nothing in the copy, from the same image on the same data: no window, and so no stop, is needed.
        installation.save_state(litellm_schema={"image_id": record.images["target"]["litellm"]["id"], "image": image})
    if not stack.window_needed(installation, image):
        with step(installation, report, "LiteLLM", say) as told:
            stack.recreate(installation, ["litellm"], wanted.start_timeout)
            told("recreated alone, and serves")


def check(installation: Installation, wanted: Settings, version: str, report: dict[str, Any], say: Say) -> None:
    """Verify and smoke-test what is in force."""
    with step(installation, report, "verified", say) as told:
        found = verification.verify(installation, version, [])
        if not found["ok"]:
            raise ScutumError(verification.report(installation, found, 5), next_step="scutum-ops verify")
        told(f"{len(found['checks'])} checks")
    with step(installation, report, "smoke test", say) as told:
        found = smoke_test.run(installation, version, wanted.models)
        if not found["ok"]:
            raise ScutumError("; ".join(smoke_test.text(found)), next_step="scutum-ops smoke-test")
        told(
            "; ".join(f"{item['name']} {item['seconds']} s" for item in found["checks"] if item["name"].startswith("/"))
        )


def _keep_files(installation: Installation, record: Record) -> str:
    """Keep what is replaced, without secrets: going back needs none of it, a person who compares does."""
    place = records.folder(installation, record, "before")
    for name in _KEPT:
        text = read_text(installation.path(name))
        if text is not None:
            write_file(os.path.join(place, name.replace("/", "_")), installation.redact(text), 0o600)
    return place


def _replaced_values(installation: Installation, wanted: Settings) -> dict[str, str]:
    """Values of config/.env that come with the target (scutum_env) and replace others, as they were; secrets are never written down."""
    env = installation.env()
    secret = env.secrets()
    return {
        key: value
        for key, value in env.as_dict().items()
        if key in wanted.environment and value != wanted.environment[key] and key not in secret
    }


def model(wanted: Settings) -> str:
    """The model that the watch asks: the first of those of the smoke test; empty for one that it finds itself."""
    return next(iter(wanted.models), "")


def _signals(found: dict[str, Any]) -> str:
    return "; ".join(
        f"{name}: {item['requests']} answers, {item['failed']} failed"
        for name, item in sorted(found["signals"].items())
    )


def requests(found: dict[str, Any]) -> str:
    """What a probe counted, in words."""
    if not found:
        return "not counted (scutum_upgrade_probe_interval: 0)"
    return "; ".join(
        f"{service}: {item['failed']} of {item['requests']} failed, away for {item['down_seconds']:.1f} s"
        for service, item in sorted(found.items())
    )
