# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Making a copy of an installation, in quarantine, and taking it away; what an earlier rehearsal left goes first, nothing else does."""

from __future__ import annotations

import os
import re
import shutil
import time
from dataclasses import replace

from . import compose as compose_module
from . import deployment, project, quarantine, release
from .compose import Compose
from .database import Database
from .errors import ScutumError
from .files import ensure_directory
from .installation import PRIVATE, Installation
from .project import Project
from .report import Say
from .staged_copy import LABEL, MARK, StagedCopy, directory_of, load
from .upgrade_settings import PREFIX, Settings


def create(
    installation: Installation, wanted: Settings, versions: list[str], upgrade: str, say: Say
) -> tuple[StagedCopy, list[str]]:
    """A copy with the bundles of some releases, the last one's files in force, nothing started; what an earlier run left goes first.

    Args:
        versions: whose bundles the installation has.
        upgrade: id of the record.

    Returns:
        The copy, and what of the installation is not in it, in words.
    """
    directory = directory_of(installation, wanted)
    _refuse(installation, wanted, directory)
    gone = remove(installation, wanted, say)
    if gone:
        say(f"left by an earlier rehearsal, and removed: {', '.join(gone)}")
    ensure_directory(directory, 0o700)
    copy = StagedCopy(directory, installation.directory)
    copy.note(upgrade=upgrade, state="")
    for version in versions:
        shutil.copytree(release.directory(installation.directory, version), release.directory(directory, version))
    # The images that were recorded for the installation are those that are rehearsed.
    copy.save_state(adopted=False, images=installation.state().get("images", {}))
    known = project.recorded(installation)
    asked = project.Settings(versions[-1], image_registry=known.image_registry)
    values = quarantine.environment(installation, wanted)
    deployment.prepare(
        copy,
        deployment.Request(
            asked, env=values, archive=wanted.archive, username=wanted.registry_username, password=wanted.registry_password,
            digests=wanted.digests,
        ),
    )  # fmt: skip
    put_in_force(copy, wanted, versions[-1])
    notes = []
    if known.compose_override:
        notes.append("scutum_compose_override is not in the copy: what it mounts or publishes may be production's")
    if known.profiles:
        notes.append(f"the services of the profiles {', '.join(known.profiles)} are not in the copy")
    return copy, notes


def put_in_force(copy: StagedCopy, wanted: Settings, version: str) -> None:
    """Put a release's files in force in the copy; nothing is started."""
    Project(copy, settings(copy, wanted, version)).converge()
    copy.save_state(version=version, target=None)
    found = quarantine.leaks(copy.compose().model(), copy.directory, copy.project)
    found += quarantine.secrets_in(copy, wanted)
    if found:
        raise ScutumError(
            f"a copy of {version} would not be in quarantine: {'; '.join(found)}",
            left="nothing of it was started",
            next_step="report the release to the maintainers of this collection; until then a rehearsal needs a host of its own",
        )


def settings(copy: StagedCopy, wanted: Settings, version: str) -> project.Settings:
    """The settings of a release in the copy: production's, in quarantine."""
    known = project.recorded(Installation(copy.of))
    plain = project.Settings(version, image_registry=known.image_registry)
    bundle = os.path.join(release.directory(copy.directory, version), compose_module.VENDOR_FILE)
    raw = Compose(copy.directory, [bundle], {"SCUTUM_VERSION": version}, copy.engine, elsewhere=True).raw_model()
    bare = Project(copy, plain)
    baked = bare.baked(bare.images()["litellm"])
    command = [str(word) for word in raw["services"]["litellm"].get("command") or []]
    return replace(
        plain,
        litellm_workers=1 if "--num_workers" in command else None,
        litellm_config=quarantine.mocked(baked, known.litellm_config, wanted.staging_providers),
        compose_override=quarantine.override(raw, copy.project, copy.of, wanted.staging_cpus),
    )


def _refuse(installation: Installation, wanted: Settings, directory: str) -> None:
    """Refuse a place that is somebody else's."""
    copy = StagedCopy(directory, installation.directory)
    untouched = "nothing was changed"
    other = f"set {PREFIX}staging_directory to another one"
    home = os.path.realpath(installation.directory)
    if os.path.commonpath([home, os.path.realpath(directory)]) in (home, os.path.realpath(directory)):
        raise ScutumError(f"{directory} is not beside {installation.directory}", untouched, other)
    if copy.project == installation.project:
        raise ScutumError(
            f"a copy in {directory} would be the project {copy.project}, which is production's", untouched, other
        )
    owner = copy.mark().get("of")
    if any(item[2] for item in os.walk(directory)) and owner != installation.directory:
        whose = f"a copy of {owner}" if owner else "nobody's copy"
        raise ScutumError(f"{directory} is there, and is {whose}", untouched, f"move it away, or {other}")
    # A directory may be gone, and its project go on.
    engine = installation.engine
    labelled = (f"{compose_module.LABEL_PROJECT}={copy.project}", f"{LABEL}={installation.directory}")
    asked: list[tuple[str, tuple[str, ...]]] = [("containers", ("ps", "-aq")), ("volumes", ("volume", "ls", "-q"))]
    for kind, words in asked:
        theirs, ours = (
            set(engine.must(*words, "--filter", f"label={label}", timeout=60).split()) for label in labelled
        )
        if theirs - ours:
            raise ScutumError(
                f"there are {kind} of a project {copy.project} that are nobody's copy: {', '.join(sorted(theirs - ours))}",
                untouched,
                f"remove them, or {other}",
            )
    if wanted.staging_providers and not wanted.staging_egress:
        raise ScutumError(
            f"{PREFIX}staging_providers asks real providers from a copy that reaches nothing",
            untouched,
            f"name them in {PREFIX}staging_egress, as host:port (api.openai.com:443)",
        )
    numbers = [place for place in wanted.staging_egress if re.fullmatch(r"[\d.]+", place.rpartition(":")[0])]
    if numbers:
        raise ScutumError(
            f"{PREFIX}staging_egress: {', '.join(numbers)}: a copy reaches a place by its name only",
            untouched,
            "name it as the copy's configuration does",
        )


def await_postgres(copy: StagedCopy, database: Database, timeout: float) -> None:
    """Wait until the copy's Postgres takes connections over its network; the release's own check looks too seldom for that."""
    engine, container, end = copy.engine, database.container(), time.monotonic() + timeout
    # The image starts a server for its preparations first, which listens on no network.
    ready = ("exec", container, "pg_isready", "-q", "-h", "127.0.0.1", "-U", database.user, "-d", database.name)
    while engine.run(*ready, timeout=10).rc != 0:
        found = engine.inspect("container", [container])
        if time.monotonic() > end or not found or not found[0]["State"]["Running"]:
            log = engine.run("logs", "--tail", "5", container, timeout=10)
            raise ScutumError(f"the copy's Postgres did not start: {copy.redact((log.out + log.err).strip()[-400:])}")
        time.sleep(0.2)


def remove(installation: Installation, wanted: Settings, say: Say) -> list[str]:
    """Remove the copy, whatever is left of it, data and all; names of what was removed. Nothing without our mark is touched."""
    engine, label = installation.engine, f"label={LABEL}={installation.directory}"
    directory = directory_of(installation, wanted)
    networks = engine.must("network", "ls", "-q", "--filter", label, timeout=60).split()
    ids = engine.must("ps", "-aq", "--filter", label, timeout=60).split()
    for network in networks:
        # Clients of its database, which carry no mark, keep a network.
        ids += engine.must("ps", "-aq", "--filter", f"network={network}", timeout=60).split()
    found = [f"container {str(item['Name']).lstrip('/')}" for item in engine.inspect("container", sorted(set(ids)))]
    if ids:
        engine.must("rm", "-f", "-v", *sorted(set(ids)), timeout=120)
    if networks:
        engine.must("network", "rm", *networks, timeout=60)
    volumes = engine.must("volume", "ls", "-q", "--filter", label, timeout=60).split()
    if volumes:
        engine.must("volume", "rm", *volumes, timeout=120)
        found += [f"volume {name}" for name in volumes]
    copy = load(installation, wanted)
    quarantine.open_again(StagedCopy(directory, installation.directory).project)
    if copy:
        # The mark last: as long as it is there, a run that was killed goes on with it.
        for place, kept in ((directory, PRIVATE), (copy.private, MARK)):
            for name in set(os.listdir(place)) - {kept}:
                path = os.path.join(place, name)
                shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
        os.unlink(os.path.join(copy.private, MARK))
        os.rmdir(copy.private)
        os.rmdir(directory)
        found.append(directory)
    return sorted(found)
