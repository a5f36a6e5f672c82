# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Before an upgrade: everything that would make it fail, found before anything is touched; and what it is going to do.

The target's bundle and images come to the host, and are kept there. Nothing that is in force changes.
"""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import Any, Callable

from . import backup, deployment, images, licence, migration, restore_record, restore_verification, verification
from . import backup_catalog as catalog
from . import report as report_module
from . import upgrade_record as records
from .database import Database
from .engine import version_tuple
from .errors import ScutumError
from .files import existing, free_bytes
from .installation import Installation
from .project import recorded
from .report import Say
from .secret_rotation import open_rotation
from .upgrade_record import Record
from .upgrade_settings import Settings

_LITELLM = "from importlib.metadata import version; print(version('litellm'))"
# Beside the copy: WAL of a restore, logs, containers.
_SPARE = 1 << 30


def request(
    installation: Installation, wanted: Settings, version: str, environment: dict[str, str] | None = None
) -> deployment.Request:
    """A release with the settings with which this installation was last put in force.

    Args:
        environment: further values for config/.env, as the role has them.
    """
    return deployment.Request(
        settings=replace(recorded(installation), version=version),
        base_url=wanted.base_url,
        sums=wanted.sums if version == wanted.version else {},
        env=environment or {},
        archive=wanted.archive if version == wanted.version else "",
        username=wanted.registry_username,
        password=wanted.registry_password,
        digests=wanted.digests if version == wanted.version else {},
        timeout=wanted.start_timeout,
    )


def run(
    installation: Installation, wanted: Settings, record: Record, report: dict[str, Any], say: Say, check: bool = False
) -> None:
    """Look at everything, and refuse with all problems at once; fills `record.images`, `record.heads`, and `report["plan"]`.

    Args:
        check: nothing is fetched; what needs the target's images is left out while they are not here.
    """
    problems: list[ScutumError] = []

    def look(name: str, function: Callable[[], str]) -> None:
        try:
            with report_module.step(installation, report, name, say) as told:
                told(function())
        except ScutumError as error:
            problems.append(error)

    look("version path", lambda: version_path(record.source, record.target, wanted.allow_skipped_minor))
    look("nothing open", lambda: _nothing_open(installation))
    if not problems:
        # Nothing is fetched for an upgrade that will not be.
        look("release and images", lambda: _bring(installation, wanted, record, report, check))
    if record.images.get("target"):
        if not check:
            look("images kept from pruning", lambda: _keep(installation, record, report))
        look("LiteLLM", lambda: _litellm(installation, wanted, record))
        look("schema", lambda: _schema(installation, record))
        look("PostgreSQL", lambda: _postgres(installation, record))
    look("what runs now", lambda: _healthy(installation, record))
    look("licence", lambda: _licence(installation, wanted))
    look("disk", lambda: _disk(installation))
    if not problems:
        look("verified backup", lambda: _backup(installation, wanted, report, say, check))
    if problems:
        texts = [error.what for error in problems]
        steps = dict.fromkeys(error.next_step for error in problems if error.next_step)
        raise ScutumError(
            texts[0] if len(texts) == 1 else "\n".join(["", *(f"- {text}" for text in texts)]),
            left="nothing that is in force was changed",
            next_step="; ".join(steps) or "correct this and run the playbook again",
        )
    report["plan"] = _plan(installation, wanted, record)


def version_path(source: str, target: str, allow_skipped_minor: bool) -> str:
    """Whether a step from one release to the other is one that the vendor's migrations are made for, in words; refuses others.

    Whitepaper, "Upgrade procedure": one minor release at a time. Going back has a playbook of its own.
    """
    old, new = version_tuple(source), version_tuple(target)
    if new < old:
        raise ScutumError(
            f"{target} is older than {source}, which is installed",
            left="nothing was changed",
            next_step="playbooks/rollback.yml goes back from the last upgrade; anything older comes back by playbooks/restore.yml",
        )
    skipped = new[0] != old[0] or new[1] > old[1] + 1
    if skipped and not allow_skipped_minor:
        raise ScutumError(
            f"from {source} to {target} at least one minor release is left out",
            left="nothing was changed",
            next_step=f"upgrade to {old[0]}.{old[1] + 1} first; or, when the vendor's notes allow it, "
            "scutum_upgrade_allow_skipped_minor: true",
        )
    kind = "patch" if new[:2] == old[:2] else "minor" if new[0] == old[0] else "MAJOR"
    return f"{source} → {target}, a {kind} step" + (", over releases that are left out" if skipped else "")


def _nothing_open(installation: Installation) -> str:
    state = installation.state()
    begun = open_rotation(installation)
    if begun:
        raise ScutumError(
            f"a rotation of {', '.join(begun)} was interrupted", next_step="playbooks/secrets.yml finishes it"
        )
    restoring = restore_record.load(installation)
    if restoring:
        raise ScutumError(
            f"a restore is open: {restore_record.standing(restoring)}", next_step=restore_record.next_call(restoring)
        )
    if state.get("target") not in (None, state.get("version")):
        raise ScutumError(
            f"an install of {state['target']} has not ended",
            next_step=f"playbooks/install.yml with scutum_version: {state.get('version')} or {state['target']} finishes it",
        )
    if state.get("schema_window"):
        raise ScutumError("a schema window of LiteLLM was interrupted", next_step="playbooks/install.yml finishes it")
    return "no rotation, restore or install is open"


def _bring(installation: Installation, wanted: Settings, record: Record, report: dict[str, Any], check: bool) -> str:
    done = deployment.bring(installation, request(installation, wanted, record.target), check)
    known = installation.state().get("images", {})
    complete = not check or not any(item.startswith("image ") for item in done["changes"])
    record.images = {"source": dict(known.get(record.source, {})), "target": dict(done["images"]) if complete else {}}
    if not record.images["source"]:
        raise ScutumError(
            f"no images were recorded for {record.source}, so there would be no way back to them",
            next_step=f"playbooks/install.yml with scutum_version: {record.source} records them",
        )
    lost = images.gone(installation, record.images["source"])
    if lost:
        raise ScutumError(
            f"images of {record.source} are not on this host any more ({', '.join(lost)}): there would be no way back",
            next_step="docker pull them again, by the digests in .scutum-ops/state.json",
        )
    new = [item for item in done["changes"] if check or item.startswith("image ")]
    report["changed"] = report["changed"] or bool(done["changes"])
    if check and new:
        return f"would be fetched: {', '.join(new)}; what needs them is looked at then"
    number = f"{len(record.images['target'])} images"
    return f"sums and digests of {number} are recorded" + (f"; fetched: {', '.join(new)}" if new else "; all were here")


def _keep(installation: Installation, record: Record, report: dict[str, Any]) -> str:
    known = {record.source: record.images["source"], record.target: record.images["target"]}
    if record.previous:
        # The way back from the upgrade before stays open until this one changes production.
        known.setdefault(record.previous["source"], record.previous["images"]["source"])
    begun = images.keep(installation, known)
    report["changed"] = report["changed"] or bool(begun)
    number = len({item["id"] for part in record.images.values() for item in part.values()})
    return f"{number} images of {record.source} and {record.target}"


def _ask(installation: Installation, image: str, *command: str) -> str:
    """What a command says in a throwaway of an image, without a network; empty when it fails."""
    entry, *words = command
    result = installation.engine.run(
        *("run", "--rm", "--network", "none", "--entrypoint", entry, image, *words), timeout=60
    )
    return result.out.strip() if result.rc == 0 else ""


def _litellm(installation: Installation, wanted: Settings, record: Record) -> str:
    found = [
        _ask(installation, record.images[side]["litellm"]["id"], "python3", "-c", _LITELLM)
        for side in ("source", "target")
    ]
    if not all(found):
        return "its version is not told by the images; the digests are recorded"
    if version_tuple(found[0])[0] != version_tuple(found[1])[0] and not wanted.staged:
        raise ScutumError(
            f"LiteLLM goes from {found[0]} to {found[1]}, a step of its major version: without a rehearsal that is refused",
            next_step="leave scutum_upgrade_without_staging out",
        )
    return f"version {found[0]}" + (f" → {found[1]}" if found[0] != found[1] else " in both")


def _schema(installation: Installation, record: Record) -> str:
    image = record.images["target"]["admin-api"]["id"]
    database = Database(installation)
    now = database.alembic_version()
    ahead = migration.ahead(database)
    head = migration.head(installation.engine, image)
    record.heads = {"source": now, "target": head}
    if not head:
        raise ScutumError(
            f"the image of admin-api {record.target} does not tell its alembic head",
            next_step=f"docker run --rm --network none --entrypoint alembic {image} heads",
        )
    if head == now:
        return f"stays at {now}"
    steps = migration.notes(installation.engine, image, ahead or now)
    known = f" (the schema is that of {ahead} already, since images alone led back)" if ahead else ""
    return f"{now} → {head}{known}: " + ("; ".join(steps) or "nothing is left to migrate")


def _postgres(installation: Installation, record: Record) -> str:
    if "postgres" not in record.images["target"]:
        return "it is none of this release's services"
    told = _ask(installation, record.images["target"]["postgres"]["id"], "postgres", "--version")
    found = re.search(r"(\d+)", told)
    running = Database(installation).server_version()
    if found and int(found.group(1)) != running:
        raise ScutumError(
            f"the release brings PostgreSQL {found.group(1)}, and the data here is of {running}: its server does not start on it",
            next_step="move the database to the new version first (dump and restore), as the vendor's notes say",
        )
    return f"{running} in both, and the dump's client is the server's own"


def _healthy(installation: Installation, record: Record) -> str:
    result = verification.verify(installation, record.source, [])
    if not result["ok"]:
        raise ScutumError(verification.report(installation, result, 5), next_step="scutum-ops verify, until it is well")
    return f"{len(result['checks'])} checks of {record.source} are good"


def _licence(installation: Installation, wanted: Settings) -> str:
    found = licence.describe(installation.admin_api().licence())
    if not found["present"]:
        return "there is none (traffic is served all the same)"
    left = found["days_remaining"]
    if found["expired"] or (left is not None and left < wanted.license_days):
        ends = "has expired" if found["expired"] else f"ends in {left:.1f} days"
        raise ScutumError(
            f"the licence {ends} (scutum_upgrade_license_days: {wanted.license_days})",
            next_step="playbooks/license.yml with the new one, or scutum_upgrade_license_days: 0",
        )
    return f"{found['tier']}, {left:.0f} days left" if left is not None else str(found["tier"])


def _disk(installation: Installation) -> str:
    size = Database(installation).size()
    needed = int(size * 1.2) + _SPARE
    root = existing(installation.engine.versions()["root"] or "/var/lib/docker")
    free = free_bytes(root)
    if free < needed:
        raise ScutumError(
            f"{root} has {free // 2**20} MiB free, and a copy of the database with its restore needs {needed // 2**20} MiB",
            next_step=f"free space there (docker system df; df -h {root})",
        )
    return f"{free // 2**20} MiB free, {needed // 2**20} MiB needed for a copy of the database"


def verified(installation: Installation) -> catalog.Entry | None:
    """The newest backup that a restore has proven."""
    place = backup.store(installation, backup.settings(installation))
    return next((entry for entry in catalog.complete(place) if entry.verified), None)


def _backup(installation: Installation, wanted: Settings, report: dict[str, Any], say: Say, check: bool) -> str:
    newest = verified(installation)
    age = (time.time() - newest.taken) / 3600 if newest else None
    if newest and age is not None and age <= wanted.backup_max_age:
        return f"{newest.id}, {age:.1f} hours old"
    had = f"the newest is {age:.1f} hours old" if age is not None else "there is none"
    if check:
        return f"{had}: one would be taken and verified"
    report["changed"] = True
    say(f"{had}: taking one, and proving it")
    taken = backup.run(installation, wanted.metrics, say)
    identity = installation.secret("SCUTUM_BACKUP_AGE_IDENTITY")
    proof = restore_verification.Settings(name=taken["id"], again=True, identities=[identity] if identity else [])
    result = restore_verification.verify(installation, proof, wanted.metrics, say)
    if not result["ok"]:
        raise ScutumError(
            f"the backup {taken['id']} was taken, and is not proven: {result['error']}",
            next_step=str(result.get("next_step") or "playbooks/verify_restore.yml"),
        )
    return f"{taken['id']}, taken and proven now ({had})"


def _plan(installation: Installation, wanted: Settings, record: Record) -> list[str]:
    """What will happen, and how long it took last time."""
    took = records.durations(installation)

    def last(*phases: str) -> str:
        seconds = sum(took.get(phase, 0) for phase in phases)
        return f" (the last time: {seconds:.0f} s)" if seconds else ""

    copy = (
        f"stage, migrate, smoke: a copy from the verified backup, cut off from everything, goes to {record.target} and back"
        if wanted.staged
        else f"NOTHING IS REHEARSED (scutum_upgrade_without_staging: {wanted.without_staging}): the way back is a restore"
    )
    back = "goes back by itself when it is bad" if wanted.automatic_rollback else "says so when it is bad"
    return [
        copy + (last(*records.REHEARSED) if wanted.staged else ""),
        "promote: safety backup; migration while the old services serve; then LiteLLM is recreated, then the rest"
        + last(records.PROMOTE),
        f"watch: {wanted.watch / 60:g} minutes on the host; {back}" + last(records.WATCH),
    ]
