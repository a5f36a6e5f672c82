# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deploying: the way from an operator's request to a running stack, and back.

release bundle -> config/.env -> images -> Compose files -> schema guard -> containers. Each step leaves the host so
that the next run continues there. Check mode goes the same way with a copy of what would be written.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from . import compose as compose_module
from . import env_file, images, limits, release, schedule, secret_unit, stack, upgrade_units
from .errors import ScutumError
from .files import ensure_directory, read_text, write_file
from .installation import Installation
from .project import Before, Change, Project, Settings, recorded
from .secret_ages import Record
from .secret_rotation import open_rotation


@dataclass
class Request:
    """What an operator wants on a host: the variables of the role."""

    settings: Settings
    base_url: str = ""
    sums: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    archive: str = ""
    username: str = ""
    password: str = ""
    digests: dict[str, str] = field(default_factory=dict)
    replace_compose: bool = False
    timeout: float = 300
    # None leaves what is recorded.
    bounds: limits.Limits | None = None


def _refuse_open_rotation(installation: Installation) -> None:
    begun = open_rotation(installation)
    if begun:
        raise ScutumError(
            f"a rotation of {', '.join(begun)} was interrupted: which value is in force is not settled",
            left="nothing was changed",
            next_step="run playbooks/secrets.yml, which finishes it (or rotate_secrets.yml with scutum_rotate_credential, if a "
            "credential of its own writes into the source)",
        )


@contextlib.contextmanager
def _staged(installation: Installation, request: Request, check: bool) -> Iterator[tuple[Project, list[str]]]:
    """The project of a request with its bundle and config/.env in place (in check mode: in a directory on a tmpfs)."""
    if not check:
        _refuse_open_rotation(installation)
    version = request.settings.version
    changes = []
    with contextlib.ExitStack() as cleanup:
        scratch = ""
        if check:
            base = images.RUNTIME_DIRECTORY if os.access(images.RUNTIME_DIRECTORY, os.W_OK) else None
            scratch = cleanup.enter_context(tempfile.TemporaryDirectory(prefix="scutum-ops-", dir=base))
        home = installation.directory
        if check and not os.path.exists(os.path.join(release.directory(home, version), release.SUMS)):
            home = scratch
        if release.fetch(home, version, request.base_url, request.sums):
            changes.append(f"releases/{version}")
        bundle = release.directory(home, version)
        today = read_text(installation.path(compose_module.ENV_FILE))
        template = read_text(os.path.join(bundle, ".env.example")) or ""
        path = compose_module.ENV_FILE
        profiles = Project(installation, request.settings, bundle, path).profiles()
        store = installation.store()
        if store.runtime() and not store.values() and not check:
            raise ScutumError(
                f"the secrets of {installation.directory} are not on this host: nothing was fetched since it started",
                left="nothing was changed",
                next_step=f"scutum-ops --dir {installation.directory} secrets-fetch says why",
            )
        # In a file they are the operator's values; at runtime they have no place in it.
        from_source = store.values() if store.settings() else {}
        env_file.refuse_both(request.env, from_source)
        held = env_file.secrets_of(from_source) if store.runtime() else {}
        wanted = {**{key: value for key, value in from_source.items() if key not in held}, **request.env}
        planned, keys = env_file.plan(today, template, wanted, profiles, held)
        if check:
            path = os.path.join(scratch, "env")
            write_file(path, planned.render(), 0o600)
        else:
            installation.begin()
            ensure_directory(installation.path("config"), 0o755)
        if keys:
            changes.append(f"{compose_module.ENV_FILE} ({', '.join(keys)})")
        place = installation.path(compose_module.ENV_FILE)
        if write_file(place, planned.render(), 0o600, check) and not keys:
            changes.append(f"{compose_module.ENV_FILE} (mode)")
        yield Project(installation, request.settings, bundle, path, request.bounds), changes


def prepare(installation: Installation, request: Request, check: bool = False) -> dict[str, Any]:
    """Have the bundle, config/.env and the images on the host; no container is touched.

    Returns:
        `changes`, `images` (digest by service).
    """
    if not check:
        ensure_directory(installation.directory, 0o755)
    if check and not installation.engine.versions()["server"]:
        with _staged(installation, request, check) as (_project, changes):
            return {"changes": [*changes, f"images of {request.settings.version}"], "images": {}}
    with _locked(installation, check), _staged(installation, request, check) as (project, changes):
        return _with_images(installation, request, project, changes, check)


def bring(installation: Installation, request: Request, check: bool = False) -> dict[str, Any]:
    """Have the bundle and the images of a release on the host, and touch nothing that is in force; returns what `prepare` does."""
    with _locked(installation, check):
        version, changes = request.settings.version, []
        if not check and release.fetch(installation.directory, version, request.base_url, request.sums):
            changes.append(f"releases/{version}")
        with _staged(installation, request, True) as (project, _planned):
            return _with_images(installation, request, project, changes, check)


def _with_images(
    installation: Installation, request: Request, project: Project, changes: list[str], check: bool
) -> dict[str, Any]:
    """Have a project's images here, those that are pinned and those that were recorded when the release came first."""
    wanted = project.images()
    if check:
        changes += [f"image {name}" for name in images.missing(installation.engine, wanted)]
        return {"changes": changes, "images": images.record(installation, wanted)}
    brought = images.provide(
        installation,
        wanted,
        archive=request.archive,
        registry=request.settings.image_registry.split("/")[0],
        username=request.username,
        password=request.password,
    )
    changes += [f"image {name}" for name in brought]
    actual = images.record(installation, wanted)
    recorded = installation.state().get("images", {})
    first = recorded.get(request.settings.version, {})
    problems = images.check_digests(actual, request.digests)
    problems += images.check_record(actual, first, request.digests)
    if problems:
        raise ScutumError(
            "; ".join(problems),
            left="the images are on the host; no container was changed",
            next_step="find out why the registry serves another image before you change scutum_image_digests",
        )
    # A pin overrules what was recorded.
    pinned = {service: image for service, image in actual.items() if service in request.digests}
    known = {**actual, **first, **pinned}
    installation.save_state(images={**recorded, request.settings.version: known})
    return {"changes": changes, "images": actual}


def converge(
    installation: Installation,
    request: Request,
    check: bool = False,
    starting: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Put the files in force and the containers to them; returns `changes`, `actions`, `guard`, `diff`.

    Args:
        starting: what has to be done when the files are in force, and no container was touched yet.
    """
    if check and not installation.engine.versions()["server"]:
        return {"changes": ["Compose files", "containers"], "actions": {}, "guard": {}, "diff": Change()}
    with _locked(installation, check), _staged(installation, request, check) as (project, changes):
        window = stack.window_needed(installation, project.images()["litellm"]) if check else False
        first = Change()
        held = limits.load(installation)
        if project.bounds and project.bounds != held.current:
            changes.append("limits")
            if not check:
                # All that can be refused is refused before anything is written.
                project.converge(request.replace_compose, check=True)
                _note_limits(installation, project.bounds, check)
                if _only_limits(installation, project):
                    before = held.current if held.settled else held.previous
                    first = _limit_steps(installation, request.settings, project.bounds, before, request.timeout)
        change = project.converge(request.replace_compose, check)
        change.before, change.after = first.before or change.before, change.after or first.after
        changes += [*first.files, *(name for name in change.files if name not in first.files)]
        actions, guard = change.actions, {}
        if not check:
            if starting:
                starting()
            done = stack.apply(installation, request.timeout)
            actions, guard = {**first.actions, **done["actions"]}, done["guard"]
            installation.save_state(version=request.settings.version, target=None)
            limits.settle(installation)
            Record(installation.private).note(installation.secrets_in_force())
            if not installation.store().runtime():
                # Only now does no container start with a file from the tmpfs any more.
                changes += secret_unit.remove(installation)
        changes += [f"{service}: {action}" for service, action in sorted(actions.items())]
        if guard or window:
            changes.append("schema window (litellm, admin-api and all else that writes stop for it)")
        return {"changes": changes, "actions": actions, "guard": guard, "diff": change}


def _note_limits(
    installation: Installation, wanted: limits.Limits | None, check: bool, record: limits.Record | None = None
) -> bool:
    """Record limits as those in force, before anything is done; whether they are others than before."""
    held = limits.load(installation)
    if held.current == wanted:
        return False
    # What never was in force is nothing to go back to.
    before = held.current if held.settled else held.previous
    return limits.save(installation, record or limits.Record(wanted, before), check)


def _only_limits(installation: Installation, project: Project) -> bool:
    """Whether the release that is asked for runs already, so that Postgres can come last."""
    state, image = installation.state(), project.images()["litellm"]
    same = state.get("version") == project.settings.version and state.get("target") in (None, project.settings.version)
    return (
        same
        and not stack.window_needed(installation, image)
        and bool(installation.compose().containers(installation.project))
    )


def _limit_steps(
    installation: Installation,
    settings: Settings,
    wanted: limits.Limits | None,
    before: limits.Limits | None,
    timeout: float,
) -> Change:
    """Recreate what other limits change, Postgres last: whoever depends on it has restarted by then."""
    whole = Change()
    for postgres in (Before(before), None):
        step = Project(installation, settings, bounds=wanted, bounded=wanted is not None, postgres=postgres)
        change = step.converge()
        whole.files += [name for name in change.files if name not in whole.files]
        whole.actions |= change.actions
        whole.before, whole.after = whole.before or change.before, change.after or whole.after
        stack.recreate(installation, sorted(name for name, act in change.actions.items() if act != "stop"), timeout)
    return whole


def limit(
    installation: Installation, wanted: limits.Limits | None, timeout: float, check: bool = False, revert: bool = False
) -> dict[str, Any]:
    """Put limits in force: only services whose numbers change are recreated, Postgres last.

    Args:
        wanted: None takes all limits away.
        timeout: seconds until every service has to be healthy again.
        revert: they are the ones before; the record says so.

    Returns:
        `changes`, `actions` by service.
    """
    with _locked(installation, check):
        held = limits.load(installation)
        settings = recorded(installation)
        if wanted and settings.litellm_workers:
            settings = replace(settings, litellm_workers=wanted.plan["litellm_workers"])
        drifted = limits.differences(installation, wanted) if wanted and wanted == held.current else {}
        if wanted and wanted == held.current and held.settled and not drifted:
            return {"changes": [], "actions": {}}
        # All that can be refused is refused before anything is written.
        planned = Project(installation, settings, bounds=wanted, bounded=wanted is not None).converge(check=True)
        _ready_for_limits(installation)
        if check:
            changes = (["limits"] if wanted != held.current else []) + planned.files
            planned.actions |= {name: "recreate" for name in drifted if name not in planned.actions}
            return _changed(changes, planned.actions)
        before = held.current if held.settled else held.previous
        if wanted and not held.settled and "postgres" not in limits.differences(installation, wanted):
            # The run that was killed had come as far.
            before = wanted
        record = limits.Record(wanted, held.current, True) if revert else None
        changes = ["limits"] if _note_limits(installation, wanted, check, record) else []
        try:
            change = _limit_steps(installation, settings, wanted, before, timeout)
            actions = change.actions
            if wanted:
                left = sorted(limits.differences(installation, wanted))
                stack.recreate(installation, left, timeout, force=True)
                actions |= dict.fromkeys(left, "recreate")
        except ScutumError as error:
            if before and wanted:
                error.next_step += "; the numbers before: playbooks/limits.yml with scutum_limits_state: previous"
            raise
        compose = installation.compose()
        model = compose.model()
        stack.wait(installation, compose, model, sorted(model["services"]), timeout)
        if wanted:
            limits.must_be_in_force(installation, wanted)
        limits.settle(installation)
        installation.save_state(target=None)
    return _changed([*changes, *change.files], actions)


def _changed(changes: list[str], actions: dict[str, str]) -> dict[str, Any]:
    return {"changes": [*changes, *(f"{name}: {act}" for name, act in sorted(actions.items()))], "actions": actions}


def _ready_for_limits(installation: Installation) -> None:
    """Refuse to start services where an install, or a rotation, has to be finished first."""
    _refuse_open_rotation(installation)
    state = installation.state()
    if state.get("target") not in (None, state.get("version")):
        raise ScutumError(
            f"an install of {installation.directory} has not ended: its services are not those of its Compose file",
            left="nothing was changed",
            next_step="run playbooks/install.yml (or day_one.yml), which finishes it",
        )


def remove(installation: Installation, data: bool, check: bool = False) -> list[str]:
    """Remove containers, network and scheduled jobs; volumes and the directory stay unless `data` is given.

    Everything that is removed is named in the result. Images stay: they can be pulled again, but not always. So does the
    library for jobs, which other installations on the host may use.
    """
    if not installation.exists():
        return []
    with _locked(installation, check):
        compose = installation.compose()
        project = installation.project
        label = f"label={compose_module.LABEL_PROJECT}={project}"
        # Asked so that it fails: no answer must not read as nothing.
        volumes = installation.engine.must("volume", "ls", "-q", "--filter", label).split()
        jobs = schedule.jobs(installation)
        store = installation.store()
        removed = [f"container {name}" for name in sorted(compose.containers(project))]
        removed += [f"job {job.unit}" for job in jobs]
        removed += [f"container {name}" for name in images.kept(installation)]
        # With its data the source is forgotten; else the same secrets open the data again.
        removed += [secret_unit.fetch_unit(installation)] if data and store.settings() else []
        if data:
            removed += [f"volume {name}" for name in sorted(volumes)] + [installation.directory]
        if check or not removed:
            return removed
        for job in jobs:
            schedule.remove(job)
        upgrade_units.stop_watch(installation)
        upgrade_units.remove_resume(installation)
        images.keep(installation, {})
        if data:
            secret_unit.remove_resume(installation)
        if data and store.settings():
            secret_unit.remove(installation)
            shutil.rmtree(store.directory, ignore_errors=True)
        compose.must("--profile", "*", "down", *(["--volumes"] if data else []), timeout=300)
        if data:
            _remove_directory(installation)
    return removed


def _remove_directory(installation: Installation) -> None:
    """Everything, config/.env last: as long as it is there, a run that was killed is done again."""
    for name in os.listdir(installation.directory):
        path = installation.path(name)
        if name == "config":
            continue
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    config = installation.path("config")
    for name in os.listdir(config):
        path = os.path.join(config, name)
        if path == installation.path(compose_module.ENV_FILE):
            continue
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    shutil.rmtree(os.path.realpath(installation.directory))
    if os.path.islink(installation.directory):
        os.unlink(installation.directory)


@contextlib.contextmanager
def _locked(installation: Installation, check: bool) -> Iterator[None]:
    with contextlib.nullcontext() if check else installation.lock():
        yield
