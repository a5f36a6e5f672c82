# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rotating secrets: the new values in force and proven, or the old ones, whatever stops it in between.

source (new beside old) -> Postgres -> host (files, config/.env) -> the services that use them -> proof. A record on the host says what
was begun: by key the marks of the old and the new value. Whoever finds it (the next run, the next start of the host) looks the values up
by their marks where they were kept, and goes on; what cannot go forward goes back.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from . import compose as compose_module
from . import env_file, scram, secret_proof, secret_unit, stack
from .database import Database
from .env_file import GENERATED, EnvFile
from .errors import ScutumError
from .files import read_text, write_file
from .installation import Installation
from .secret_ages import ROTATED, Record
from .secret_sources import GIVEN, PREVIOUS, REQUIRED, Source
from .secret_store import ROTATION, Settings

# Where config/.env is all there is, it keeps a value that is to come.
NEXT = "_NEXT"
_UNTOUCHED = "nothing was changed"
_AGAIN = (
    "run playbooks/rotate_secrets.yml again (with scutum_rotate_credential, if a credential of its own writes): it goes on where "
    "this one stopped"
)


@dataclass
class Request:
    """What an operator wants.

    Args:
        names: of `secret_ages.ROTATED`.
        api_key_confirmed: that customers' applications will need a new SCUTUM_API_KEY.
        only_due: leave those out that are not due.
        due_days: days after which a secret is due, by name.
        given: settings of the source (`source`, `options`, `credential`) that the play has; None takes those that are kept.
        writer: credential for writing into the source, never kept; None takes the source's own.
        timeout: seconds until every service has to be healthy again.
    """

    names: list[str]
    api_key_confirmed: bool = False
    only_due: bool = False
    due_days: dict[str, int] = field(default_factory=dict)
    given: dict[str, Any] | None = None
    writer: dict[str, str] | None = None
    timeout: float = 300


def rotate(
    installation: Installation, request: Request, say: Callable[[str], None], check: bool = False
) -> dict[str, Any]:
    """Rotate secrets, after finishing what an earlier run began.

    Returns:
        `changed`, `rotated` (names), `proofs` (by name, in words), `services` (recreated), `finished` (what an earlier run had begun, and
        how it ended), `text` (lines for people), `seconds`.

    Raises:
        ScutumError: refused before anything changed, or the old values are in force again, or neither could be had (says which).
    """
    start = time.monotonic()
    result: dict[str, Any] = {"changed": False, "rotated": [], "proofs": {}, "services": [], "finished": ""}
    wrong = [name for name in request.names if name not in ROTATED]
    if wrong:
        raise ScutumError(
            f"scutum_rotate: {', '.join(wrong)} is none of {', '.join(ROTATED)}",
            left=_UNTOUCHED,
            next_step="name them separated by commas: -e scutum_rotate=jwt,internal,postgres",
        )
    begun = open_rotation(installation)
    if check:
        names = list(dict.fromkeys([*begun, *_wanted(installation, request)]))
        if names and not begun:
            _Rotation(installation, request, say).check([ROTATED[name][0] for name in names])
        words = [f"would rotate {', '.join(names)}"] if names else ["nothing to rotate"]
        return {**result, "changed": bool(names), "rotated": names, "seconds": 0.0, "text": words}
    with installation.lock():
        done: list[str] = []
        if begun:
            ended = _Rotation(installation, request, say).resume()
            done = [] if ended.back else ended.names
            how = "the old values are in force again" if ended.back else "the new values are in force"
            finished = f"{', '.join(ended.names)}: {how}"
            result.update(changed=True, finished=finished, proofs=ended.proofs, services=ended.services)
        else:
            secret_unit.remove_resume(installation)
        wanted = [ROTATED[name][0] for name in _wanted(installation, request) if name not in done]
        if wanted:
            ended = _Rotation(installation, request, say).begin(wanted)
            done += ended.names
            result.update(changed=True, proofs={**result["proofs"], **ended.proofs})
            result["services"] = sorted({*result["services"], *ended.services})
    return {**result, "rotated": done, "seconds": round(time.monotonic() - start, 1), "text": text(result)}


def text(result: dict[str, Any]) -> list[str]:
    """What was done, for people."""
    lines = [f"finished first, from an earlier run: {result['finished']}"] if result["finished"] else []
    lines += [f"{name}: {words}" for name, words in result["proofs"].items()]
    if result["services"]:
        lines.append(f"recreated: {', '.join(result['services'])}")
    return lines or ["nothing to rotate"]


def open_rotation(installation: Installation) -> list[str]:
    """Names of the secrets of a rotation that was begun and has not ended."""
    record = _kept(os.path.join(installation.private, ROTATION))
    return _names(list(record["marks"])) if record else []


def take_up(installation: Installation, values: dict[str, str]) -> None:
    """Begin a rotation to values with which a host had to start, since its source has no others: the unit brings it to its end."""
    if not values:
        return
    record = Record(installation.private)
    path = os.path.join(installation.private, ROTATION)
    before = _kept(path).get("marks", {})
    marks = {key: {"old": record.mark_in_force(key), "new": record.mark(key, value)} for key, value in values.items()}
    state = {"marks": {**before, **marks}, "taken": sorted(marks), "since": {}, "written": True, "back": False}
    write_file(path, json.dumps(state, indent=1, sort_keys=True) + "\n", 0o600)
    secret_unit.ensure_resume(installation, start=True)


def _kept(path: str) -> dict[str, Any]:
    return dict(json.loads(read_text(path) or "{}"))


def _names(keys: list[str]) -> list[str]:
    return [name for name, (key, unused) in ROTATED.items() if key in keys]


def _wanted(installation: Installation, request: Request) -> list[str]:
    if not request.only_due:
        return request.names
    ages = Record(installation.private).ages(request.due_days)
    due = {item["name"] for item in ages if item["due"]}
    return [name for name in request.names if name in due]


@dataclass
class _Ended:
    """How a rotation ended."""

    names: list[str]
    back: bool
    proofs: dict[str, str]
    services: list[str]


class _Rotation:
    """One rotation of some keys, under the installation's lock."""

    def __init__(self, installation: Installation, request: Request, say: Callable[[str], None]) -> None:
        self.installation = installation
        self.request = request
        self.say = say
        self.store = installation.store()
        self.record = Record(installation.private)
        self.path = os.path.join(installation.private, ROTATION)
        self.state: dict[str, Any] = _kept(self.path)
        # The source in force decides; the play's settings count where they are of the same one (a file that was committed anew).
        self.kept = self.store.source()
        self.source = self.kept
        given = request.given
        if given and self.kept and given["source"] == self.kept.name:
            self.source = Source(given["source"], given["options"], given["credential"])
        # Without a source that keeps both values, config/.env does.
        self.in_file = self.source is None or self.source.name in GIVEN
        self.old: dict[str, str] = {}
        self.new: dict[str, str] = {}

    # --- beginning

    def begin(self, keys: list[str]) -> _Ended:
        """Rotate keys, from the first check on."""
        taken = self.check(keys)
        self.new = {**{key: GENERATED[key]() for key in keys}, **taken}
        mark = self.record.mark
        self.state = {
            "marks": {key: {"old": mark(key, self.old[key]), "new": mark(key, self.new[key])} for key in keys},
            "taken": sorted(taken),
            "since": {key: moment for key, moment in self.record.since().items() if key in keys},
            "written": False,
            "back": False,
        }
        self._save()
        secret_unit.ensure_resume(self.installation)
        return self._go()

    def check(self, keys: list[str]) -> dict[str, str]:
        """Whether it could begin; what the source already holds of the new values. Changes nothing."""
        self._refuse(keys)
        in_force = self.installation.secrets_in_force()
        self.old = {key: in_force.get(key, "") for key in keys}
        self.say(f"rotating {', '.join(_names(keys))}: asking whether today's values are accepted")
        for key, value in self.old.items():
            try:
                good = bool(value) and secret_proof.accepted(self.installation, key, value) is not False
            except ScutumError as error:
                raise ScutumError(
                    f"{key}: {error.what}",
                    left=_UNTOUCHED,
                    next_step=error.next_step or "scutum-ops verify says what is wrong",
                ) from error
            if not good:
                raise ScutumError(
                    f"{key}: today's value is not accepted by the service that checks it",
                    left=_UNTOUCHED,
                    next_step="bring the host to what its variables say first (playbooks/day_one.yml), then rotate",
                )
        return self._taken(keys, in_force)

    def _refuse(self, keys: list[str]) -> None:
        """Everything that speaks against it, before anything is changed."""
        problems = []
        if "SCUTUM_API_KEY" in keys and not self.request.api_key_confirmed:
            problems.append(
                "api_key: every application that calls the gateway holds it. Rotate it only after a leak, and say so with "
                "scutum_rotate_api_key_confirm=<this host's name in the inventory>"
            )
        if "SCUTUM_API_KEY" in keys and not self.installation.secret("LITELLM_SALT_KEY"):
            problems.append(
                "api_key: LITELLM_SALT_KEY is not set, so LiteLLM's stored credentials are encrypted with SCUTUM_API_KEY and would "
                "be lost"
            )
        today = self.kept.name if self.kept else "generated"
        if self.request.given and self.request.given["source"] != today:
            other = self.request.given["source"]
            problems.append(
                f"the secrets of this host come from {today}, not from {other}: run playbooks/secrets.yml first"
            )
        pinned = self.source.pinned() if self.source else ""
        if pinned:
            problems.append(
                f"scutum_secrets_options.{pinned} names one version, so that no new one would be seen: take it out first"
            )
        if self.store.runtime() and not self.store.values():
            problems.append("the secrets are not on this host: scutum-ops secrets-fetch says why")
        compose = self.installation.compose()
        actions = stack.plan(compose, compose.model())
        if actions:
            what = ", ".join(f"{name}: {action}" for name, action in sorted(actions.items()))
            problems.append(f"the containers are not what the files say ({what}): run playbooks/day_one.yml first")
        if problems:
            raise ScutumError("; ".join(problems), left=_UNTOUCHED, next_step="correct that, and run it again")

    def _taken(self, keys: list[str], in_force: dict[str, str]) -> dict[str, str]:
        """New values that somebody wrote into the source already: they are taken up, the only way of a source that is read only."""
        if self.source is None:
            return {}
        held = self.source.read()
        others = [key for key in REQUIRED if key not in keys and held[key] != in_force.get(key)]
        if others:
            raise ScutumError(
                f"{', '.join(others)} in {self.source.where}: not what is in force on this host, and not to be rotated now",
                left=_UNTOUCHED,
                next_step="write the values in force back, or rotate these, too",
            )
        taken = {key: held[key] for key in keys if held[key] != self.old[key]}
        left = [key for key in keys if key not in taken]
        if left and not self.source.writable:
            raise ScutumError(
                f"{self.source.where} can only be read, and still holds today's {', '.join(left)}",
                left=_UNTOUCHED,
                next_step="write new values there yourself (openssl rand -hex 32; for sops: sops edit, then commit), and run this "
                "again: it takes them up and proves them",
            )
        problems = env_file.problems_of_source(taken)
        problems += [] if self.store.runtime() else env_file.problems_in_file(taken)
        if problems:
            raise ScutumError("; ".join(problems), left=_UNTOUCHED, next_step="correct the value in the source")
        return taken

    # --- going on

    def resume(self) -> _Ended:
        """Finish what an earlier run began: forward when the new values can be found, else back."""
        keys = self.state["marks"].keys()
        self.say(f"an earlier run began to rotate {', '.join(_names(list(keys)))}, and was stopped: finishing it")
        if self.store.runtime() and not self.store.values():
            raise ScutumError(
                "the secrets are not on this host: nothing was fetched since it started",
                left="the rotation is still open",
                next_step=f"scutum-ops --dir {self.installation.directory} secrets-fetch --deadline 1, then run this again",
            )
        self._look_up()
        if not self.state["back"] and self.new.keys() != keys:
            # It was stopped before they were kept anywhere.
            self._turn(back=True)
        elif self.state["back"] and self.old.keys() != keys:
            # There is nothing to go back to any more.
            self._turn(back=False)
        return self._go()

    def _look_up(self) -> None:
        """The old and new values, wherever they were kept, by their marks."""
        problem: ScutumError | None = None
        keys = self.state["marks"]
        places = self._places()
        while self.old.keys() != keys.keys() or self.new.keys() != keys.keys():
            try:
                content = next(places)
            except StopIteration:
                break
            except ScutumError as error:
                problem = error
                break
            for key, marks in keys.items():
                value = content.get(key, "")
                mark = self.record.mark(key, value) if value else ""
                if mark and mark == marks["old"]:
                    self.old[key] = value
                elif mark and mark == marks["new"]:
                    self.new[key] = value
        if keys.keys() not in (self.old.keys(), self.new.keys()):
            lost = sorted(set(keys) - set(self.old) - set(self.new))
            raise ScutumError(
                f"neither the old nor the new value of {', '.join(lost) or 'a secret'} can be found"
                + (f": {problem.what}" if problem else ""),
                left="the rotation is still open; running services were left alone",
                next_step=problem.next_step if problem else "write the values into the source again, and run it again",
            )

    def _places(self) -> Iterator[dict[str, str]]:
        env = self.installation.env().as_dict()
        yield env
        for ending in (NEXT, PREVIOUS):
            yield {key.removesuffix(ending): value for key, value in env.items() if key.endswith(ending)}
        yield self.store.values()
        # Given with a play and kept on the host: of a file that is committed, the second holds what was before.
        for source in (self.source, self.kept):
            if source is None or (source.name in GIVEN and not source.credential):
                continue
            held = source.read()
            yield held
            yield from source.older(held)

    def _turn(self, back: bool) -> None:
        self.state["back"] = back
        self._save()

    def _go(self) -> _Ended:
        names = _names(list(self.state["marks"]))
        if self.state["back"]:
            return _Ended(names, True, {}, self._back())
        try:
            proofs, services = self._forward()
        except ScutumError as error:
            self._back_after(error)
            raise
        self._close()
        return _Ended(names, False, proofs, services)

    def _forward(self) -> tuple[dict[str, str], list[str]]:
        if not self.state["written"]:
            self.write_source()
            # From here on the source need not answer.
            self.state["written"] = True
            self._save()
        self.tell_postgres(self.new)
        self.put_in_force(self.new, self.old, {})
        services = self.recreate()
        return self.prove(self.new, self.old), services

    # --- the steps; each can be done again

    def write_source(self) -> None:
        """The new values into the source, beside the old ones."""
        new = {key: value for key, value in self.new.items() if key not in self.state["taken"]}
        if self.in_file:
            env = self.installation.env()
            if env.update({key + NEXT: value for key, value in new.items() if env.get(key) != value}):
                self._write_env(env)
            return
        source = self.source
        if source is None or not new:
            return
        held = source.read()
        if any(held.get(key) != value for key, value in new.items()):
            self.say(f"writing new values into {source.where}; the old ones stay there as an older version")
            self._writing(source).write(new, self.old)

    def tell_postgres(self, values: dict[str, str]) -> None:
        """The server's password, before anything sends it."""
        if "POSTGRES_PASSWORD" not in values:
            return
        container = self.installation.compose().containers(self.installation.project).get("postgres")
        if container is None or container["State"]["Status"] != "running":
            stack.recreate(self.installation, ["postgres"], self.request.timeout)
        self.say("giving Postgres the password, as a SCRAM verifier")
        Database(self.installation).set_password(scram.verifier(values["POSTGRES_PASSWORD"]))

    def put_in_force(self, values: dict[str, str], others: dict[str, str], since: dict[str, float]) -> None:
        """The values where services and the next start of the host take them from."""
        held = self.store.values()
        if held:
            self.store.keep({**held, **values})
        env = self.installation.env()
        if self.store.runtime():
            places = self.store.places()
            self.store.place(env.as_dict(), places)
            changed = env.update(self.store.marks(env.as_dict(), places))
        else:
            changed = env.update(values)
            if self.in_file:
                changed |= env.drop([key + NEXT for key in values])
                changed |= env.update({key + PREVIOUS: others[key] for key in values if key in others})
        if changed:
            self._write_env(env)
        self.record.note(self.installation.secrets_in_force(), since=since)

    def recreate(self) -> list[str]:
        """The services that use them, in one go."""
        compose = self.installation.compose()
        services = sorted(stack.plan(compose, compose.model()))
        self.say(f"recreating {', '.join(services) or 'nothing'}")
        stack.recreate(self.installation, services, self.request.timeout)
        return services

    def prove(self, values: dict[str, str], others: dict[str, str]) -> dict[str, str]:
        """That the values are accepted, and the others refused; in words, by name."""
        self.say("asking the services which value they accept")
        proofs = {}
        failed = []
        for key, value in values.items():
            good = secret_proof.accepted(self.installation, key, value)
            known = good is not None and key in others
            bad = secret_proof.accepted(self.installation, key, others[key]) if known else False
            name = _names([key])[0]
            proofs[name] = secret_proof.said(key, good, bad if known else None)
            if good is False or bad:
                failed.append(f"{name}: {proofs[name]}")
        if failed:
            raise ScutumError("; ".join(failed))
        return proofs

    # --- back

    def _back_after(self, error: ScutumError) -> None:
        """Put the old values back after a failure, and fail with both."""
        names = ", ".join(_names(list(self.state["marks"])))
        if self.old.keys() != self.state["marks"].keys():
            raise ScutumError(
                f"rotating {names}: {error.what}",
                left="the new values are where services take them from; the old ones are nowhere to be found",
                next_step=error.next_step or _AGAIN,
            ) from error
        self.say(f"that failed, putting the old values back: {error.what.splitlines()[0]}")
        self._turn(back=True)
        try:
            self._back()
        except ScutumError as second:
            raise ScutumError(
                f"rotating {names}: {error.what}\nputting the old values back: {second.what}",
                left="old and new values are both kept; the record of what was begun is there",
                next_step=second.next_step or _AGAIN,
            ) from error
        taken = ", ".join(self.state["taken"])
        raise ScutumError(
            f"rotating {names}: {error.what}",
            left="the old values are in force again, and accepted"
            + (f"; the source still holds the other {taken}: write the old one back" if taken else ""),
            next_step=error.next_step or "correct the cause and run it again",
        ) from error

    def _back(self) -> list[str]:
        self.tell_postgres(self.old)
        self.put_in_force(self.old, {}, self.state["since"])
        services = self.recreate()
        for key, value in self.old.items():
            if secret_proof.accepted(self.installation, key, value) is False:
                raise ScutumError(f"{key}: the old value is not accepted any more", next_step=_AGAIN)
        self._restore_source()
        self._close()
        return services

    def _restore_source(self) -> None:
        """The old values into the source again, where this rotation wrote the new ones."""
        source = self.source
        old = {key: value for key, value in self.old.items() if key not in self.state["taken"]}
        if self.in_file or source is None or not old:
            return
        held = source.read()
        wrong = {key: value for key, value in old.items() if held.get(key) != value}
        if wrong:
            self.say(f"writing the old values into {source.where} again")
            self._writing(source).write(wrong, {key: held[key] for key in wrong})

    # --- what is kept

    def _writing(self, source: Source) -> Source:
        writer = self.request.writer
        return Source(source.name, source.options, writer, source.timeout) if writer else source

    def _write_env(self, env: EnvFile) -> None:
        write_file(self.installation.path(compose_module.ENV_FILE), env.render(), 0o600)

    def _save(self) -> None:
        write_file(self.path, json.dumps(self.state, indent=1, sort_keys=True) + "\n", 0o600)

    def _close(self) -> None:
        settings = self.store.settings()
        if settings and self.source and not self.state["back"] and self.source.options != settings.options:
            self.store.configure(
                Settings(self.source.name, self.source.options, settings.injection), self.source.credential
            )
        env = self.installation.env()
        if env.drop([key + NEXT for key in self.state["marks"]]):
            self._write_env(env)
        os.unlink(self.path)
        secret_unit.remove_resume(self.installation)
