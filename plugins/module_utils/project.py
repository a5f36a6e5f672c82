# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Compose project on disk: from a release bundle and the operator's settings to the files that are in force."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from . import compose as compose_module
from . import images, limits, litellm_config, override, release, secret_injection, secret_sources, stack
from .compose import Compose
from .engine import mirrored
from .env_file import EnvFile, secrets_of
from .errors import ScutumError
from .files import ensure_directory, read_text, sha256_bytes, write_file
from .installation import Installation
from .interpolation import escape, interpolate
from .secret_store import MARK

# From the bundle to its place in the directory, as the vendor's installer puts them, with the mode.
PLACES = {
    "license-public.pem": ("config/license-public.pem", 0o644),
    ".env.example": ("config/.env.example", 0o644),
    "scutum": ("scutum", 0o755),
    "docker-compose.yaml": (compose_module.VENDOR_FILE, 0o644),
}


@dataclass
class Settings:
    """What an operator decides about a project: the variables of the role, without their prefix."""

    version: str
    image_registry: str = ""
    bind_address: str = ""
    litellm_workers: int | None = None
    litellm_config: dict[str, Any] = field(default_factory=dict)
    profiles: list[str] = field(default_factory=list)
    compose_override: dict[str, Any] = field(default_factory=dict)


SETTINGS = "project.json"


def recorded(installation: Installation) -> Settings:
    """The settings with which the project was last put in force."""
    text = read_text(os.path.join(installation.private, SETTINGS))
    if text is None:
        raise ScutumError(
            f"{installation.directory} was not installed by this collection, or by an older one, which kept no settings",
            left="nothing was changed",
            next_step="run playbooks/install.yml once",
        )
    return Settings(**json.loads(text))


@dataclass(frozen=True)
class Before:
    """What was in force; None for no limits."""

    limits: limits.Limits | None


@dataclass
class Change:
    """What a convergence changes: names of files, texts of those that hold no secrets, and what Compose will do."""

    files: list[str] = field(default_factory=list)
    before: str = ""
    after: str = ""
    actions: dict[str, str] = field(default_factory=dict)


class Project:
    """A release put together with settings.

    Args:
        installation: where it goes.
        settings: what the operator decides.
        bundle: the directory with the release's files; by default its place in the installation.
        env_file: the environment file to interpolate with; by default the installation's config/.env.
        bounds: limits of the services; by default those that are recorded.
        bounded: False for none, whatever is recorded.
        postgres: its limits alone, of another plan: Postgres comes last, and is what it was before.
    """

    def __init__(
        self,
        installation: Installation,
        settings: Settings,
        bundle: str = "",
        env_file: str = compose_module.ENV_FILE,
        bounds: limits.Limits | None = None,
        bounded: bool = True,
        postgres: Before | None = None,
    ) -> None:
        self.installation = installation
        self.bounds = (bounds or limits.load(installation).current) if bounded else None
        if self.bounds:
            self.bounds = limits.for_workers(self.bounds, settings.litellm_workers)
        self._postgres = postgres
        self.settings = settings
        self.bundle = bundle or release.directory(installation.directory, settings.version)
        self.env_file = env_file
        self._release: dict[str, Any] | None = None
        # In force before config/.env says so: the version and the profiles that are being switched to.
        self._ahead = {"SCUTUM_VERSION": settings.version, "COMPOSE_PROFILES": self.profiles()}
        self._marks: dict[str, str] = {}

    def _compose(self, *more: str) -> Compose:
        vendor = os.path.join(self.bundle, compose_module.VENDOR_FILE)
        return Compose(
            self.installation.directory,
            [vendor, *more],
            self._ahead,
            self.installation.engine,
            elsewhere=True,
            env_file=self.env_file,
        )

    def profiles(self) -> str:
        """COMPOSE_PROFILES: what was set; an adopted host keeps its own until something is set."""
        if not self.settings.profiles and self.installation.adopted():
            return self.installation.env().get("COMPOSE_PROFILES")
        return ",".join(self.settings.profiles)

    def bind_address(self) -> str | None:
        """Where ports are published: what was set, else loopback; an adopted host keeps the vendor's bindings."""
        return self.settings.bind_address or (None if self.installation.adopted() else "127.0.0.1")

    def override_text(self, config_sha256: str = "", secrets: dict[str, Any] | None = None) -> str:
        """Our override for this release and these settings."""
        if secrets is None and self.installation.store().runtime():
            secrets = {}
        if self._release is None:
            self._release = self._compose().raw_model()
        workers, extra = self.settings.litellm_workers, self.settings.compose_override
        bounded: dict[str, Any] = {}
        if self.bounds:
            own = self._own_command("admin-api") if self.bounds.plan["admin_workers"] > 1 else None
            bounded = limits.additions(self._release, self.bounds, extra, own)
            if "--num_workers" in (self._release["services"].get("litellm", {}).get("command") or []):
                workers = self.bounds.plan["litellm_workers"]
        if self._postgres:
            before = self._postgres.limits
            bounded["postgres"] = limits.additions(self._release, before, extra)["postgres"] if before else {}
        return override.build(
            self._release,
            image_registry=self.settings.image_registry,
            bind_address=self.bind_address(),
            litellm_workers=workers,
            limits=bounded,
            litellm_config_sha256=config_sha256,
            extra=self.settings.compose_override,
            secrets=secrets,
        )

    def _own_command(self, service: str) -> list[str] | None:
        """What a service runs by its Compose file, else by its image; None when the image is not here yet."""
        written = (self._release or {})["services"][service]
        if written.get("command"):
            return limits.words_of(written["command"])
        image = interpolate(str(written.get("image", "")), self._plain())
        if self.settings.image_registry:
            image = mirrored(image, self.settings.image_registry)
        found = self.installation.engine.images([image]).get(image)
        if found is None:
            return None
        config = found.get("Config", {})
        if config.get("Entrypoint") or not config.get("Cmd"):
            raise limits.unreadable(service)
        return [escape(word) for word in config["Cmd"]]

    def _plain(self) -> dict[str, str]:
        """config/.env with what it is about to say: for variables that are no secrets."""
        text = read_text(os.path.join(self.installation.directory, self.env_file)) or ""
        return {**EnvFile(text).as_dict(), **self._ahead}

    def _with_secrets(self, config_sha256: str, check: bool) -> tuple[str, dict[str, Any]]:
        """Our override, and which service uses which secret when they come from the tmpfs."""
        store = self.installation.store()
        if not store.runtime():
            return self.override_text(config_sha256), {}
        engine = self.installation.engine
        with self._together(self.override_text(config_sha256, {})) as together:
            raw, model = together.raw_model(), together.model()
        # Nothing may have been fetched yet in check mode.
        keys = set(secrets_of(store.values())) or set(secret_sources.REQUIRED)
        services = {name: raw["services"][name] for name in model["services"]}
        known = dict(self.installation.state().get("image_users", {}))
        users = secret_injection.users(engine, model, known)
        if not check and self.installation.managed():
            self.installation.save_state(image_users=known)
        places = secret_injection.places({"services": services}, keys, users)
        # Ahead of config/.env, like the version: what Compose would do with them is asked before it is written.
        self._marks = store.marks(self._plain(), places) if store.values() else {}
        self._ahead |= self._marks
        files = {name: store.file(name) for name in places}
        injected = secret_injection.override(engine, raw, model, places, files)
        return self.override_text(config_sha256, injected), places

    @contextlib.contextmanager
    def _together(self, text: str) -> Iterator[Compose]:
        """Compose over the bundle's file and an override that is not in force yet."""
        base = images.RUNTIME_DIRECTORY if os.access(images.RUNTIME_DIRECTORY, os.W_OK) else None
        with tempfile.TemporaryDirectory(prefix="scutum-ops-", dir=base) as directory:
            path = os.path.join(directory, compose_module.OVERRIDE_FILE)
            write_file(path, text, 0o600)
            yield self._compose(path)

    def images(self) -> dict[str, str]:
        """Image by service, for the services that the profiles switch on."""
        with self._together(self.override_text()) as together:
            return images.references(together.model())

    def converge(self, replace_compose: bool = False, check: bool = False) -> Change:
        """Put the files of this release and these settings in force; config/.env, which names them, comes last.

        Args:
            replace_compose: give up edits that somebody made in the vendor's Compose file (a copy is kept).
            check: find out what would change, write nothing.
        """
        installation = self.installation
        self._refuse_lost_edits(replace_compose, check)
        image = self.images()["litellm"]
        config = litellm_config.build(self.baked(image, check), self.settings.litellm_config)
        override_text, places = self._with_secrets(sha256_bytes(config.encode()), check)
        with self._together(override_text) as together:
            # Compose has read all of it by now: what it refuses never replaces what works.
            merged = together.merged()
            model = together.model()
            actions = stack.plan(together, model)
        missing = override.lost(model)
        if missing:
            raise ScutumError(
                f"scutum_compose_override takes away what must stay: {'; '.join(missing)}",
                left="nothing was changed",
                next_step="take that out of scutum_compose_override; add to it, do not replace it",
            )
        wanted: dict[str, tuple[str, int]] = {
            # Its directory is closed to others: the file may hold provider keys, and any user of the image reads it.
            override.LITELLM_CONFIG: (config, 0o644),
            compose_module.OVERRIDE_FILE: (override_text, 0o600),
            compose_module.MERGED_FILE: (merged, 0o600),
        }
        for name, (place, mode) in PLACES.items():
            wanted[place] = (read_text(os.path.join(self.bundle, name)) or "", mode)
        change = Change(actions=actions)
        old_override = read_text(installation.path(compose_module.OVERRIDE_FILE)) or ""
        if not check:
            # What config/.env will name before it is true.
            installation.save_state(target=self.settings.version)
            # For who changes limits or a release later, without the variables of the role install.
            kept = json.dumps(asdict(self.settings), indent=1, sort_keys=True) + "\n"
            write_file(os.path.join(installation.private, SETTINGS), kept, 0o600)
        store = installation.store()
        if (places or store.places()) and store.save_places(places, check):
            change.files.append("places of secrets")
        if places and not check:
            # Before any container is recreated, and known to the next start of the host already.
            store.place(self._plain(), places)
        if not check:
            ensure_directory(installation.path("config"), 0o755)
            ensure_directory(os.path.dirname(installation.path(override.LITELLM_CONFIG)), 0o700)
        for place, (text, mode) in wanted.items():
            if write_file(installation.path(place), text, mode, check):
                change.files.append(place)
        env = installation.env()
        keys = self._switch(env)
        if keys:
            change.files.append(f"{compose_module.ENV_FILE} ({', '.join(keys)})")
            if not check:
                write_file(installation.path(compose_module.ENV_FILE), env.render(), 0o600)
        if old_override != override_text:
            change.before, change.after = old_override, override_text
        return change

    def _switch(self, env: EnvFile) -> list[str]:
        values = {"SCUTUM_VERSION": self.settings.version, "COMPOSE_FILE": compose_module.MERGED_FILE}
        if self.profiles() or env.get("COMPOSE_PROFILES"):
            values["COMPOSE_PROFILES"] = self.profiles()
        stale = [key for key in env.as_dict() if key.startswith(MARK) and key not in self._marks]
        gone = stale if env.drop(stale) else []
        return [key for key, value in {**values, **self._marks}.items() if env.set(key, value)] + gone

    def baked(self, image: str, check: bool = False) -> dict[str, Any]:
        """The image's own LiteLLM configuration; in check mode, before the image is there, nothing."""
        engine = self.installation.engine
        found = engine.images([image])
        if not found and check:
            return {}
        # An image never changes: asked once, since it takes a container to ask.
        kept = os.path.join(
            self.installation.private, f"litellm-config-{found[image]['Id'][-16:]}.json" if found else ""
        )
        text = read_text(kept) if found else None
        if text is not None:
            return dict(json.loads(text))
        baked = litellm_config.from_image(engine, image)
        if found and not check:
            write_file(kept, json.dumps(baked, indent=1), 0o600)
        return baked

    def _refuse_lost_edits(self, replace: bool, check: bool) -> None:
        """Refuse to take away what somebody changed in the vendor's Compose file, a volume's place for instance."""
        installation = self.installation
        path = installation.path(compose_module.VENDOR_FILE)
        current = read_text(path)
        kept = os.path.dirname(release.directory(installation.directory, self.settings.version))
        bundles = [
            self.bundle,
            *(os.path.join(kept, name) for name in (os.listdir(kept) if os.path.isdir(kept) else [])),
        ]
        known = [read_text(os.path.join(bundle, compose_module.VENDOR_FILE)) for bundle in bundles]
        if current is None or current in known:
            return
        if replace:
            if not check:
                kept = os.path.join(installation.private, "replaced")
                ensure_directory(kept, 0o700)
                shutil.copy2(
                    path, os.path.join(kept, time.strftime("%Y%m%dT%H%M%SZ-docker-compose.yaml", time.gmtime()))
                )
            return
        expected = read_text(os.path.join(self.bundle, compose_module.VENDOR_FILE)) or ""
        difference = "".join(
            _hide_values(line)
            for line in difflib.unified_diff(
                expected.splitlines(True), current.splitlines(True), f"release {self.settings.version}", path, n=0
            )
        )
        raise ScutumError(
            f"{path} is not the file of release {self.settings.version}: it was edited, or it is an older release's, "
            f"which the vendor's upgrade keeps:\n{difference[:1500]}",
            left="nothing was changed",
            next_step="carry what you need into scutum_compose_override, then set scutum_install_replace_compose: true "
            "(a copy is kept in .scutum-ops/replaced)",
        )


def _hide_values(line: str) -> str:
    """A line of a Compose file without what somebody wrote in clear into an environment: only variables are shown."""
    found = re.match(r"""^([-+]\s*(?:-\s*)?["']?[A-Z][A-Z0-9_]*["']?\s*[:=]\s*)(.+)$""", line, re.DOTALL)
    if found and not found.group(2).lstrip("\"' ").startswith("${"):
        return found.group(1) + "…\n"
    return line
