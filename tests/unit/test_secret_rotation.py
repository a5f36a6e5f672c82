"""Rotation in a small world: a source, a server with its password, services that hold what they were started with. It is stopped at
every step; whatever comes next, a key opens the platform."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.scutum.ops.plugins.module_utils import (
    schedule,
    secret_ages,
    secret_fetch,
    secret_proof,
    secret_rotation,
    secret_sources,
    secret_store,
    secret_unit,
    stack,
)
from ansible_collections.scutum.ops.plugins.module_utils.database import Database
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation
from ansible_collections.scutum.ops.plugins.module_utils.secret_rotation import Request, rotate

OLD = {
    "SCUTUM_API_KEY": "sk-" + "a" * 64,
    "JWT_SECRET_KEY": "j" * 64,
    "INTERNAL_SERVICE_KEY": "i" * 64,
    "POSTGRES_PASSWORD": "p" * 32,
    "LITELLM_SALT_KEY": "s" * 64,
}
KEYS = ["JWT_SECRET_KEY", "INTERNAL_SERVICE_KEY", "POSTGRES_PASSWORD"]
NAMES = ["jwt", "internal", "postgres"]


class Killed(BaseException):
    """The process ends here."""


class World:
    """What is outside of the library."""

    def __init__(self, directory: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.installation = Installation(str(directory))
        self.kind = kind
        self.server = OLD["POSTGRES_PASSWORD"]
        self.versions = [dict(OLD)]
        self.reachable = True
        self.refuses: str | None = None
        self.kill_after: int | None = None
        self.steps: list[str] = []
        (directory / "config").mkdir(parents=True)
        (directory / ".scutum-ops").mkdir()
        runtime = kind in ("versions", "previous", "readonly")
        env = "POSTGRES_USER=u\n" + ("" if runtime else "".join(f"{key}={value}\n" for key, value in OLD.items()))
        (directory / "config/.env").write_text(env)
        monkeypatch.setattr(secret_store, "RUNTIME", str(directory / "run"))
        monkeypatch.setattr(secret_store.Store, "_refuse_disk", lambda self: None)
        monkeypatch.setattr(secret_store.os, "chown", lambda *_: None)
        (directory / "run").mkdir()
        store = self.installation.store()
        source = {"generated": None, "file": "file"}.get(kind, "double")
        monkeypatch.setitem(secret_sources.MODULES, "double", self)
        if source:
            store.configure(secret_store.Settings(source, {}, "runtime" if runtime else "env_file"), {})
        if source == "double":
            store.keep(dict(OLD))
            if runtime:
                store.save_places({"api": {"user": 0, "environment": {key: f"${{{key}}}" for key in OLD}}})
        if kind == "versions":
            self.older = lambda options, credential, timeout: list(reversed(self.versions[:-1]))
        if kind not in ("readonly", "file"):
            self.write = self._write
        self.running = self.held()
        secret_ages.Record(self.installation.private).note(OLD, now=0)
        monkeypatch.setattr(Database, "__init__", lambda self, installation: None)
        monkeypatch.setattr(Database, "set_password", lambda _self, text: self.set_password(text))
        monkeypatch.setattr(secret_rotation.scram, "verifier", lambda text: text)
        monkeypatch.setattr(secret_proof, "accepted", self.accepted)
        for home in (schedule, secret_unit):
            monkeypatch.setattr(home, "systemctl", lambda *_: None)
        monkeypatch.setattr(schedule, "UNITS", str(directory))
        monkeypatch.setattr(stack, "plan", lambda compose, model: {})
        monkeypatch.setattr(Installation, "compose", lambda self: Nothing())
        monkeypatch.setattr(stack, "recreate", self.recreate)
        real = secret_rotation.write_file
        monkeypatch.setattr(secret_rotation, "write_file", lambda *words: self.step("write", lambda: real(*words)))
        keep = secret_store.Store.keep
        monkeypatch.setattr(
            secret_store.Store, "keep", lambda store, values: self.step("keep", lambda: keep(store, values))
        )
        note = secret_ages.Record.note
        monkeypatch.setattr(secret_ages.Record, "note", lambda *a, **k: self.step("note", lambda: note(*a, **k)))

    # --- a source

    where = staticmethod(lambda options: "double d")
    problems = staticmethod(lambda options, credential: [])

    def read(self, options: dict[str, Any], credential: dict[str, str], timeout: float) -> dict[str, Any]:
        if not self.reachable:
            raise ScutumError("double d: it cannot be reached", next_step="wait")
        return dict(self.versions[-1])

    def _write(self, options: Any, credential: Any, timeout: float, changes: dict[str, str]) -> None:
        self.read({}, {}, 0)
        self.step("source", lambda: self.versions.append({**self.versions[-1], **changes}))

    # --- the world

    def step(self, name: str, do: Callable[[], Any]) -> Any:
        """Something that stays; the process may be killed before or after it."""
        self.steps.append(name)
        if self.kill_after == 2 * len(self.steps) - 1:
            raise Killed
        result = do()
        if self.kill_after == 2 * len(self.steps):
            raise Killed
        return result

    def set_password(self, text: str) -> None:
        self.step("alter", lambda: setattr(self, "server", text))

    def held(self) -> dict[str, str]:
        """What a service would get that starts now."""
        found = self.installation.secrets_in_force()
        return {key: found[key] for key in OLD}

    def recreate(self, installation: Any, services: list[str], timeout: float) -> None:
        self.step("recreate", lambda: setattr(self, "running", self.held()))

    def accepted(self, installation: Any, key: str, value: str) -> bool | None:
        if self.refuses == key and value != OLD[key]:
            return False
        return value == (self.server if key == "POSTGRES_PASSWORD" else self.running[key])

    def reboot(self) -> bool:
        """The tmpfs is empty; secrets are fetched before the engine starts, and an open rotation is finished after it. False: not up."""
        shutil.rmtree(self.installation.path("run"))
        os.mkdir(self.installation.path("run"))
        store = self.installation.store()
        if not store.runtime():
            # Containers keep their environment.
            self.resume()
            return True
        try:
            secret_fetch.fetch(self.installation, None, 0.01, lambda line: None)
        except ScutumError:
            return False
        self.running = self.held()
        self.resume()
        return True

    def resume(self) -> None:
        """What the unit does."""
        with contextlib.suppress(ScutumError):
            self.rotate(names=[])

    def opens(self) -> bool:
        """Whether the services' password is the server's, and what starts next gets what runs."""
        return self.running["POSTGRES_PASSWORD"] == self.server and self.running == self.held()

    def rotate(self, names: list[str] | None = None, **more: Any) -> dict[str, Any]:
        self.steps.clear()
        request = Request(names=NAMES if names is None else names, **more)
        return rotate(self.installation, request, lambda line: None)


class Nothing:
    """Compose, which knows that Postgres runs."""

    def containers(self, project: str) -> dict[str, Any]:
        return {"postgres": {"State": {"Status": "running"}}}

    def model(self) -> dict[str, Any]:
        return {}


@pytest.fixture(name="world")
def fixture_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], World]]:
    numbers = iter(range(1000))

    def make(kind: str) -> World:
        patches.undo()
        return World(tmp_path / f"w{next(numbers)}", kind, patches)

    patches = pytest.MonkeyPatch()
    yield make
    patches.undo()


KINDS = ["generated", "env_file", "versions", "previous"]


@pytest.mark.parametrize("kind", KINDS)
def test_new_values_are_in_force_and_the_old_ones_kept(world: Any, kind: str) -> None:
    one = world(kind)
    result = one.rotate()
    assert result["rotated"] == NAMES and result["changed"] and set(result["proofs"]) == set(NAMES)
    assert one.opens() and not [key for key in KEYS if one.running[key] == OLD[key]]
    assert one.running["SCUTUM_API_KEY"] == OLD["SCUTUM_API_KEY"]
    env = one.installation.env().as_dict()
    kept = {
        "generated": lambda: {key: env[key + "_PREVIOUS"] for key in KEYS},
        "versions": lambda: {key: one.versions[-2][key] for key in KEYS},
    }.get(kind, lambda: {key: one.versions[-1][key + "_PREVIOUS"] for key in KEYS})()
    assert kept == {key: OLD[key] for key in KEYS}
    assert not [key for key in env if key.endswith("_NEXT")] and not secret_rotation.open_rotation(one.installation)
    ages = {item["key"]: item["since"] for item in secret_ages.Record(one.installation.private).ages()}
    assert ages["SCUTUM_API_KEY"].startswith("1970") and not ages["JWT_SECRET_KEY"].startswith("1970")
    # And once more: the first new ones are old now.
    first = one.held()
    one.rotate()
    assert one.opens() and not [key for key in KEYS if one.held()[key] == first[key]]


@pytest.mark.parametrize("kind", KINDS)
def test_killed_anywhere_the_next_run_finishes(world: Any, kind: str) -> None:
    full = world(kind)
    full.rotate()
    for point in range(1, 2 * len(full.steps) + 1):
        one = world(kind)
        one.kill_after = point
        with pytest.raises(Killed):
            one.rotate()
        one.kill_after = None
        one.rotate(names=[])
        assert one.opens(), f"killed at {point} of {full.steps}"
        assert not secret_rotation.open_rotation(one.installation)
        # What the next fetch takes is what runs.
        if kind in ("versions", "previous", "env_file"):
            assert {key: one.versions[-1][key] for key in KEYS} == {key: one.running[key] for key in KEYS}, point


@pytest.mark.parametrize("kind", KINDS)
def test_killed_anywhere_and_the_source_down_it_still_opens(world: Any, kind: str) -> None:
    full = world(kind)
    full.rotate()
    for point in range(1, 2 * len(full.steps) + 1):
        one = world(kind)
        one.kill_after = point
        with pytest.raises(Killed):
            one.rotate()
        one.kill_after, one.reachable = None, False
        try:
            one.rotate(names=[])
        except ScutumError as error:
            assert "double d" in str(error) or "can be found" in str(error)
        assert one.opens(), f"killed at {point} of {full.steps}, source down"
        one.reachable = True
        one.rotate(names=[])
        assert one.opens() and not secret_rotation.open_rotation(one.installation)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_proven_is_undone(world: Any, kind: str, key: str) -> None:
    one = world(kind)
    one.refuses = key
    with pytest.raises(ScutumError) as error:
        one.rotate()
    assert "the new value is REFUSED" in error.value.what and "the old values are in force again" in error.value.left
    assert one.opens() and one.running == OLD and not secret_rotation.open_rotation(one.installation)
    if kind != "generated":
        assert {name: one.versions[-1][name] for name in OLD} == OLD
    assert all(item["since"].startswith("1970") for item in secret_ages.Record(one.installation.private).ages())
    one.refuses = None
    assert one.rotate()["rotated"] == NAMES and one.opens()


@pytest.mark.parametrize("kind", KINDS)
def test_killed_on_the_way_back_the_next_run_goes_on_back(world: Any, kind: str) -> None:
    full = world(kind)
    full.refuses = "JWT_SECRET_KEY"
    with pytest.raises(ScutumError):
        full.rotate()
    for point in range(1, 2 * len(full.steps) + 1):
        one = world(kind)
        one.refuses = "JWT_SECRET_KEY"
        one.kill_after = point
        with pytest.raises(Killed):
            one.rotate()
        one.kill_after = None
        try:
            one.rotate(names=[])
        except ScutumError as error:
            assert "old values are in force again" in str(error)
        assert one.opens() and one.running == OLD, f"killed at {point} of {full.steps}"
        assert not secret_rotation.open_rotation(one.installation)


def test_a_source_that_is_read_only_is_taken_up_or_refused(world: Any) -> None:
    one = world("readonly")
    with pytest.raises(ScutumError, match="can only be read, and still holds today's JWT_SECRET_KEY") as error:
        one.rotate(["jwt"])
    assert error.value.left == "nothing was changed" and not secret_rotation.open_rotation(one.installation)
    one.versions.append({**OLD, "JWT_SECRET_KEY": "t" * 64, "POSTGRES_PASSWORD": "n" * 32})
    assert one.rotate(["jwt", "postgres"])["rotated"] == ["jwt", "postgres"]
    assert one.opens() and one.running["JWT_SECRET_KEY"] == "t" * 64 and one.server == "n" * 32


def test_variables_of_the_play_are_taken_up(world: Any) -> None:
    one = world("file")
    given = {"source": "file", "options": {}, "credential": {**OLD, "JWT_SECRET_KEY": "t" * 64}}
    assert one.rotate(["jwt"], given=given)["rotated"] == ["jwt"]
    assert one.opens() and one.running["JWT_SECRET_KEY"] == "t" * 64
    assert one.installation.env().get("JWT_SECRET_KEY_PREVIOUS") == OLD["JWT_SECRET_KEY"]
    for point in range(1, 40):
        one = world("file")
        one.kill_after = point
        given = {"source": "file", "options": {}, "credential": {**OLD, "POSTGRES_PASSWORD": "t" * 32}}
        try:
            one.rotate(["postgres"], given=given)
            break
        except Killed:
            one.kill_after = None
        # Nobody gives the values to a host that starts.
        one.rotate([])
        assert one.opens(), f"killed at {point}"
    assert point > 5


def test_unfit_values_in_the_source_are_refused_before_anything(world: Any) -> None:
    one = world("readonly")
    one.versions.append({**OLD, "POSTGRES_PASSWORD": "canary@x", "JWT_SECRET_KEY": "canary"})
    with pytest.raises(ScutumError) as error:
        one.rotate()
    text = str(error.value)
    assert "still holds today's INTERNAL" in text
    one.versions.append({**one.versions[-1], "INTERNAL_SERVICE_KEY": "n" * 64})
    with pytest.raises(ScutumError) as error:
        one.rotate()
    text = str(error.value)
    assert "'@' (commercial at)" in text and "JWT_SECRET_KEY has 6 bytes" in text and "canary" not in text
    assert one.opens() and one.running == OLD and not secret_rotation.open_rotation(one.installation)


def test_what_cannot_begin_says_why(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one = world("versions")
    with pytest.raises(ScutumError, match="scutum_rotate: cookies is none of jwt, internal, postgres, api_key"):
        one.rotate(["cookies"])
    with pytest.raises(ScutumError, match="api_key: every application that calls the gateway holds it"):
        one.rotate(["api_key"])
    one.running["JWT_SECRET_KEY"] = "another"
    with pytest.raises(ScutumError, match="JWT_SECRET_KEY: today's value is not accepted"):
        one.rotate(["jwt"])
    one.running["JWT_SECRET_KEY"] = OLD["JWT_SECRET_KEY"]
    one.versions[-1].pop("LITELLM_SALT_KEY")
    one.installation.store().keep({key: value for key, value in OLD.items() if key != "LITELLM_SALT_KEY"})
    with pytest.raises(ScutumError, match="LITELLM_SALT_KEY is not set"):
        one.rotate(["api_key"], api_key_confirmed=True)
    given = {"source": "sops", "options": {}, "credential": {}}
    with pytest.raises(ScutumError, match="come from double, not from sops"):
        one.rotate(["jwt"], given=given)
    monkeypatch.setattr(stack, "plan", lambda compose, model: {"litellm": "recreate"})
    with pytest.raises(ScutumError, match=r"not what the files say \(litellm: recreate\)"):
        one.rotate(["jwt"])
    assert len(one.versions) == 1 and not secret_rotation.open_rotation(one.installation)


def test_only_what_is_due_is_rotated(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one = world("versions")
    result = one.rotate(only_due=True, due_days={"postgres": 10**6})
    assert result["rotated"] == ["jwt", "internal"]
    again = one.rotate(only_due=True, due_days={"postgres": 10**6})
    assert again["rotated"] == [] and not again["changed"]
    assert one.rotate(["api_key"], only_due=True)["rotated"] == [], "never due by itself"


def test_a_check_changes_nothing(world: Any) -> None:
    one = world("versions")
    before = json.dumps([one.running, one.versions, one.server])
    result = rotate(one.installation, Request(names=NAMES), lambda line: None, check=True)
    assert (
        result["changed"] and result["rotated"] == NAMES and result["text"] == ["would rotate jwt, internal, postgres"]
    )
    assert json.dumps([one.running, one.versions, one.server]) == before and one.steps == []


def interrupted(world: Any, kind: str) -> Iterator[tuple[World, str]]:
    """The world after a kill at every point of a rotation, that of a file that was changed included."""

    def fresh() -> World:
        one: World = world(kind)
        if kind == "readonly":
            one.versions.append(
                {**OLD, "JWT_SECRET_KEY": "t" * 64, "INTERNAL_SERVICE_KEY": "u" * 64, "POSTGRES_PASSWORD": "n" * 32}
            )
        return one

    full = fresh()
    full.rotate()
    for point in range(1, 2 * len(full.steps) + 1):
        one = fresh()
        one.kill_after = point
        with pytest.raises(Killed):
            one.rotate()
        one.kill_after = None
        yield one, f"killed at {point} of {full.steps}"


@pytest.mark.parametrize("kind", [*KINDS, "readonly"])
def test_a_host_that_is_lost_comes_back_with_keys_that_open(world: Any, kind: str) -> None:
    for one, where in interrupted(world, kind):
        assert one.reboot() and one.opens(), where
        assert not secret_rotation.open_rotation(one.installation), where


@pytest.mark.parametrize("kind", [*KINDS, "readonly"])
def test_a_host_that_is_lost_while_its_source_is_down_waits_and_comes_back(world: Any, kind: str) -> None:
    for one, where in interrupted(world, kind):
        one.reachable = False
        if one.reboot():
            assert one.opens(), where
        one.reachable = True
        assert one.reboot() and one.opens(), where
        assert not secret_rotation.open_rotation(one.installation), where


@pytest.mark.parametrize("kind", [*KINDS, "readonly"])
def test_a_failing_rotation_and_then_a_lost_host(world: Any, kind: str) -> None:
    for one, where in interrupted(world, kind):
        one.refuses = "JWT_SECRET_KEY"
        one.resume()
        one.refuses = None
        assert one.reboot() and one.opens(), where
        one.resume()
        assert one.opens() and not secret_rotation.open_rotation(one.installation), where


def test_a_source_that_was_changed_before_a_reboot_is_taken_up(world: Any) -> None:
    one = world("readonly")
    one.versions.append({**OLD, "JWT_SECRET_KEY": "t" * 64, "POSTGRES_PASSWORD": "n" * 32})
    assert one.reboot() and one.opens() and one.server == "n" * 32 and one.running["JWT_SECRET_KEY"] == "t" * 64
    assert not secret_rotation.open_rotation(one.installation)
    one.versions.append({**one.versions[-1], "LITELLM_SALT_KEY": "x" * 64})
    assert not one.reboot(), "what is encrypted with the salt is not risked"
    one.versions.pop()
    assert one.reboot() and one.opens()
    kept = world("versions")
    kept.versions.append({**OLD, "POSTGRES_PASSWORD": "n" * 32})
    assert kept.reboot() and kept.opens() and kept.server == OLD["POSTGRES_PASSWORD"], (
        "the version before is the one in force"
    )


def test_a_source_that_differs_in_another_key_is_not_rotated(world: Any) -> None:
    one = world("versions")
    one.versions.append({**OLD, "POSTGRES_PASSWORD": "n" * 32})
    with pytest.raises(
        ScutumError, match="POSTGRES_PASSWORD in double d: not what is in force on this host, and not to be rotated"
    ):
        one.rotate(["jwt"])
    assert len(one.versions) == 2 and one.opens()


def test_a_fetch_drops_what_a_rotation_kept_and_names_what_differs(world: Any) -> None:
    one = world("previous")
    one.rotate(["jwt"])
    assert "JWT_SECRET_KEY_PREVIOUS" in one.versions[-1]
    secret_fetch.fetch(one.installation, None, 0, lambda line: None)
    assert "JWT_SECRET_KEY_PREVIOUS" not in one.installation.store().values()
    one.versions.append({**one.versions[-1], "JWT_SECRET_KEY": "t" * 64})
    with pytest.raises(ScutumError, match=r"JWT_SECRET_KEY in double d: not what is in force") as error:
        secret_fetch.fetch(one.installation, None, 0, lambda line: None)
    assert "rotate_secrets.yml -e scutum_rotate=jwt" in error.value.next_step
