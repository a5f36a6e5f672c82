"""Which phase of an upgrade may run when, what is refused before anything changes, and how a watch ends."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.scutum.ops.plugins.module_utils import (
    upgrade,
    upgrade_preflight,
    upgrade_promotion,
    upgrade_rehearsal,
    upgrade_rollback,
    upgrade_settings,
    upgrade_units,
    upgrade_watch,
)
from ansible_collections.scutum.ops.plugins.module_utils import upgrade_record as records
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation
from ansible_collections.scutum.ops.plugins.module_utils.upgrade_record import Record
from ansible_collections.scutum.ops.plugins.module_utils.upgrade_settings import Settings

ALL = list(records.PHASES)


def silent(line: str) -> None:
    """Say nothing."""


@pytest.fixture(name="installation")
def fixture_installation(tmp_path: Path) -> Installation:
    """One that runs 0.1.0."""
    found = Installation(str(tmp_path / "scutum"))
    Path(found.private).mkdir(parents=True)
    Path(found.private, "state.json").write_text(json.dumps({"version": "0.1.0"}))
    return found


class World:
    """The phases, played: which ran, and which shall fail."""

    def __init__(self, installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
        self.installation = installation
        self.failing: set[str] = set()
        self.fresh = "nothing was rehearsed"
        self.ran: list[str] = []
        self.units: list[str] = []
        self.raises: dict[str, ScutumError] = {}
        monkeypatch.setattr(upgrade_preflight, "run", self._phase("preflight"))
        for name in ("stage", "migrate", "smoke"):
            monkeypatch.setattr(upgrade_rehearsal, name, self._phase(name))
        monkeypatch.setattr(upgrade_rehearsal, "fresh", lambda *unused: self.fresh)
        monkeypatch.setattr(upgrade_promotion, "promote", self._phase("promote"))
        monkeypatch.setattr(upgrade_rollback, "run", self._phase("rollback"))
        monkeypatch.setattr(upgrade_units, "start_watch", lambda *unused: self.ran.append("watch"))
        for name in ("stop_watch", "ensure_resume", "remove_resume"):
            monkeypatch.setattr(upgrade_units, name, lambda *unused, name=name: self.units.append(name))
        monkeypatch.setattr(upgrade_units, "watching", lambda *unused: False)
        monkeypatch.setattr(upgrade.restore, "abandon", lambda *unused: self.units.append("abandoned"))
        monkeypatch.setattr(upgrade_watch, "tell", lambda *unused, **more: None)
        monkeypatch.setattr(upgrade_watch, "wait", lambda *unused: self._good())

    def _phase(self, name: str) -> Any:
        def work(*arguments: Any, **unused: Any) -> None:
            self.ran.append(name)
            record = next(item for item in arguments if isinstance(item, Record))
            if name == "preflight":
                record.images = {"source": {}, "target": {}}
            if name == "smoke":
                self.fresh = ""
            if name == "promote":
                record.steps["promote"]["touched"] = True
            if name == "rollback" and name not in self.raises:
                record.outcome = records.ROLLED_BACK
                record.rollback = {"way": "images", "reason": "", "evidence": "/evidence"}
            if name in self.raises:
                raise self.raises[name]
            if name in self.failing:
                raise ScutumError(f"{name} is broken", next_step="mend it")
            if name == "promote":
                self.installation.save_state(version=record.target)

        return work

    def _good(self) -> None:
        record = self.record
        record.outcome = records.GOOD
        records.save(self.installation, record)

    @property
    def record(self) -> Record:
        found = records.load(self.installation)
        assert found
        return found

    def run(self, *phases: str, **given: Any) -> dict[str, Any]:
        self.ran.clear()
        wanted = Settings(**{"version": "0.2.0", **given})
        return upgrade.run(self.installation, wanted, list(phases) or ALL, silent)


@pytest.fixture(name="world")
def fixture_world(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> World:
    return World(installation, monkeypatch)


def test_all_phases_in_their_order_and_again_nothing(world: World) -> None:
    done = world.run()
    assert world.ran == ALL and done["changed"] and done["outcome"] == "good" and done["ok"]
    again = world.run()
    assert world.ran == [] and not again["changed"] and again["outcome"] == "unchanged"


def test_one_by_one_as_a_workflow_does(world: World) -> None:
    for phase in ALL:
        world.run(phase)
        assert world.ran == [phase]


@pytest.mark.parametrize(
    ("phase", "words"),
    [
        ("stage", "stage comes after preflight, which was not done"),
        ("promote", "promote comes after preflight"),
        ("watch", "watch comes after promote"),
    ],
)
def test_a_phase_that_lacks_what_comes_before_is_refused(world: World, phase: str, words: str) -> None:
    with pytest.raises(ScutumError, match=words):
        world.run(phase)
    assert world.ran == []


def test_what_failed_in_the_copy_is_done_again_and_nothing_is_promoted(world: World) -> None:
    world.failing = {"migrate"}
    with pytest.raises(ScutumError, match="migrate is broken") as caught:
        world.run()
    assert (caught.value.left, caught.value.next_step) == ("nothing that is in force was changed", "mend it")
    assert world.ran == ["preflight", "stage", "migrate"] and world.record.state("migrate") == records.FAILED
    with pytest.raises(ScutumError, match="smoke comes after migrate, which failed"):
        world.run("smoke")
    world.failing = set()
    assert world.run()["outcome"] == "good" and world.ran == ALL


def test_a_receipt_that_counts_is_not_made_again(world: World) -> None:
    world.run("preflight", "stage", "migrate", "smoke")
    world.run("stage", "migrate", "smoke")
    assert world.ran == []


def test_a_preflight_of_yesterday_does_not_count(world: World) -> None:
    world.run("preflight", "stage", "migrate", "smoke")
    record = world.record
    record.steps["preflight"]["ended"] = time.time() - 25 * 3600
    records.save(world.installation, record)
    with pytest.raises(ScutumError, match="the preflight is 25 hours old"):
        world.run("promote")


def test_a_promotion_that_fails_goes_back_by_itself_and_says_so(world: World) -> None:
    world.failing = {"promote"}
    with pytest.raises(ScutumError) as caught:
        world.run(without_staging="0.2.0")
    assert world.ran == ["preflight", "promote", "rollback"]
    assert "promote is broken" in caught.value.what and "0.1.0 serves again" in caught.value.left
    assert world.record.outcome == records.ROLLED_BACK and world.record.state("promote") == records.FAILED
    # The next one begins anew.
    world.failing = set()
    assert world.run(without_staging="0.2.0")["outcome"] == "good" and world.record.state("rollback") == ""


def test_it_stays_in_between_where_nothing_may_go_back_by_itself(world: World) -> None:
    world.failing = {"promote"}
    with pytest.raises(ScutumError, match="promote is broken") as caught:
        world.run(automatic_rollback=False)
    assert "rollback" not in world.ran and "playbooks/rollback.yml" in caught.value.next_step
    with pytest.raises(ScutumError, match="an upgrade to 0.2.0 is open, and 0.3.0 is asked for"):
        world.run(version="0.3.0")
    world.failing = set()
    assert world.run()["outcome"] == "good" and world.ran == ["promote", "watch"]


def test_a_rollback_that_failed_has_to_be_finished_first(world: World) -> None:
    world.failing = {"promote", "rollback"}
    with pytest.raises(ScutumError, match="and going back failed, too: rollback is broken"):
        world.run()
    record = world.record
    record.outcome = ""
    records.save(world.installation, record)
    with pytest.raises(ScutumError, match="going back from 0.2.0 was not finished"):
        world.run()


@pytest.mark.parametrize(("verdict", "words"), [("bad", "was found bad"), ("not_enough_data", "without enough data")])
def test_a_watch_that_did_not_find_it_good_is_no_success(
    world: World, monkeypatch: pytest.MonkeyPatch, verdict: str, words: str
) -> None:
    def end(*unused: Any) -> None:
        record = world.record
        record.outcome, record.verdict = verdict, {"verdict": verdict, "reasons": ["because"]}
        records.save(world.installation, record)

    monkeypatch.setattr(upgrade_watch, "wait", end)
    with pytest.raises(ScutumError, match=words):
        world.run()
    if verdict == "not_enough_data":
        monkeypatch.setattr(upgrade_watch, "wait", lambda *unused: world._good())
        assert world.run("watch")["outcome"] == "good" and world.ran == ["watch"]


def test_the_way_back_stays_until_another_upgrade_changes_production(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upgrade_rollback.images, "gone", lambda *unused: [])
    world.run()
    first = world.record.id
    with pytest.raises(ScutumError, match=r"0\.1\.0 is older than 0\.2\.0"):
        world.run(version="0.1.0")
    assert world.record.id == first
    world.run("preflight", version="0.3.0")
    assert world.record.target == "0.3.0" and world.record.previous["id"] == first
    done = upgrade.back(world.installation, silent)
    assert (done["source"], done["target"], done["outcome"]) == ("0.1.0", "0.2.0", "rolled_back")
    assert world.record.id == first and world.units[-2:] == ["ensure_resume", "remove_resume"]


def test_a_rollback_that_nobody_accepts_leaves_everything_as_it_was_and_the_watch_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upgrade_rollback.images, "gone", lambda *unused: [])
    monkeypatch.setattr(upgrade_watch, "wait", lambda *unused: None)
    world.run()
    assert world.record.outcome == "" and world.record.state("watch") == records.RUNNING
    outer = ScutumError("it would lose rows", "left", "run it again")
    outer.__cause__ = upgrade_rollback.NotAccepted("it would lose rows", "nothing in force was changed", "accept it")
    world.raises = {"rollback": outer}
    world.ran.clear()
    with pytest.raises(ScutumError, match="it would lose rows") as caught:
        upgrade.back(world.installation, silent)
    assert caught.value.next_step == "accept it" and "nothing in force was changed" in caught.value.left
    assert world.ran == ["rollback", "watch"] and "abandoned" in world.units and world.record.state("rollback") == ""
    world.raises = {}
    world.run("watch")
    assert "going back was refused: it would lose rows" in "\n".join(upgrade.look(world.installation)["text"])


def test_a_rollback_of_a_good_upgrade_that_was_interrupted_is_finished_first(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upgrade_rollback.images, "gone", lambda *unused: [])
    world.run()
    world.raises = {"rollback": ScutumError("the disk is full", "in between", "free space")}
    with pytest.raises(ScutumError, match="the disk is full") as caught:
        upgrade.back(world.installation, silent)
    assert (
        caught.value.left == "in between"
        and "free space; then playbooks/rollback.yml goes on" in caught.value.next_step
    )
    assert "going back failed" in records.standing(world.record)
    for version in ("0.2.0", "0.3.0"):
        with pytest.raises(ScutumError, match="going back from 0.2.0 was not finished: the disk is full"):
            world.run(version=version)
    world.raises = {}
    assert upgrade.back(world.installation, silent)["outcome"] == "rolled_back"


@pytest.mark.parametrize(("phase", "ran"), [("promote", ["promote", "watch"]), ("rollback", ["rollback"]), ("", [])])
def test_a_host_that_comes_back_goes_on_by_itself(
    world: World, monkeypatch: pytest.MonkeyPatch, phase: str, ran: list[str]
) -> None:
    monkeypatch.setattr(upgrade_rollback.images, "gone", lambda *unused: [])
    monkeypatch.setattr(upgrade_watch, "wait", lambda *unused: None)
    world.run("preflight", "stage", "migrate", "smoke", "promote")
    record = world.record
    if phase:
        record.steps[phase] = {"state": "running", "touched": True}
    records.save(world.installation, record)
    world.ran.clear()
    upgrade.resume(world.installation, silent)
    assert world.ran == ran and world.units[-1] == "remove_resume"


def test_two_at_once(world: World) -> None:
    with records.alone(world.installation), pytest.raises(ScutumError, match="another upgrade or rollback is running"):
        world.run()


@pytest.mark.parametrize(
    ("source", "target", "allowed", "words"),
    [
        ("0.1.0", "0.1.1", False, "a patch step"),
        ("0.1.9", "0.2.0", False, "a minor step"),
        ("0.1.0", "0.3.0", True, "left out"),
        ("0.9.0", "1.0.0", True, "a MAJOR step"),
    ],
)
def test_paths_that_are_allowed(source: str, target: str, allowed: bool, words: str) -> None:
    assert words in upgrade_preflight.version_path(source, target, allowed)


@pytest.mark.parametrize(
    ("source", "target", "words"),
    [
        ("0.2.0", "0.1.0", "is older than 0.2.0"),
        ("0.1.0", "0.3.0", "at least one minor release is left out"),
        ("0.9.0", "1.0.0", "at least one minor release is left out"),
    ],
)
def test_paths_that_are_not(source: str, target: str, words: str) -> None:
    with pytest.raises(ScutumError, match=words):
        upgrade_preflight.version_path(source, target, False)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"version": "latest"}, "it has to name one exact release"),
        ({"without_staging": "0.9.9"}, "scutum_upgrade_without_staging is '0.9.9', and the upgrade goes to 0.2.0"),
        ({"watch": 0}, "scutum_upgrade_watch has to be more than 0"),
        ({"minimum_requests": 0}, "nothing is never good"),
        ({"error_margin": 5}, "scutum_upgrade_error_margin is a share"),
        ({"staging_egress": ["https://api.openai.com"]}, "is not host:port"),
        ({"staging_directory": "here"}, "scutum_upgrade_staging_directory is no absolute path"),
    ],
)
def test_bad_values_are_named_before_anything_is_done(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ScutumError, match=words):
        upgrade_settings.from_words({"version": "0.2.0", **given})


def test_no_secret_is_kept(installation: Installation) -> None:
    wanted = Settings(
        version="0.2.0", environment={"A": "hidden-1"}, registry_password="hidden-2", registry_username="u"
    )
    upgrade_settings.keep(installation, wanted)
    assert "hidden" not in Path(installation.private, upgrade_settings.FILE).read_text()
    assert upgrade_settings.kept(installation).version == "0.2.0"


def test_there_is_nothing_to_go_back_from_before_a_promotion(installation: Installation) -> None:
    with pytest.raises(ScutumError, match="there is no upgrade to go back from"):
        upgrade.back(installation, silent)


IMAGES = {
    side: {name: {"id": f"sha256:{side}-{name}", "digest": ""} for name in ("litellm", "admin-api", "postgres")}
    for side in ("source", "target")
}


def looked_at() -> Record:
    return Record("20260101T000000Z", 0.0, "0.1.0", "0.2.0", images=IMAGES)


def test_a_step_of_litellms_major_version_needs_the_rehearsal(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {"sha256:source-litellm": "1.80.2", "sha256:target-litellm": "2.0.0"}
    monkeypatch.setattr(upgrade_preflight, "_ask", lambda _installation, image, *unused: told[image])
    with pytest.raises(ScutumError, match=r"LiteLLM goes from 1\.80\.2 to 2\.0\.0"):
        upgrade_preflight._litellm(installation, Settings(version="0.2.0", without_staging="0.2.0"), looked_at())
    assert "1.80.2 → 2.0.0" in upgrade_preflight._litellm(installation, Settings(version="0.2.0"), looked_at())
    told["sha256:target-litellm"] = "1.81.0"
    wanted = Settings(version="0.2.0", without_staging="0.2.0")
    assert "1.80.2 → 1.81.0" in upgrade_preflight._litellm(installation, wanted, looked_at())


def test_another_postgres_is_refused(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrade_preflight, "_ask", lambda *unused: "postgres (PostgreSQL) 18.1")
    monkeypatch.setattr(upgrade_preflight.Database, "server_version", lambda _self: 17)
    with pytest.raises(ScutumError, match="brings PostgreSQL 18, and the data here is of 17"):
        upgrade_preflight._postgres(installation, looked_at())
    monkeypatch.setattr(upgrade_preflight, "_ask", lambda *unused: "postgres (PostgreSQL) 17.6 (Debian)")
    assert upgrade_preflight._postgres(installation, looked_at()).startswith("17 in both")


@pytest.mark.parametrize(
    ("days", "expired", "words"), [(3.0, False, "ends in 3.0 days"), (-1.0, True, "has expired"), (90.0, False, "")]
)
def test_a_licence_that_is_about_to_end_is_refused(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, days: float, expired: bool, words: str
) -> None:
    found = {"present": True, "expired": expired, "days_remaining": days, "tier": "team"}
    monkeypatch.setattr(Installation, "admin_api", lambda _self: type("Api", (), {"licence": lambda _api: {}})())
    monkeypatch.setattr(upgrade_preflight.licence, "describe", lambda unused: found)
    wanted = Settings(version="0.2.0", license_days=7)
    if not words:
        assert "90 days left" in upgrade_preflight._licence(installation, wanted)
        return
    with pytest.raises(ScutumError, match=words):
        upgrade_preflight._licence(installation, wanted)


def test_too_little_disk_for_a_copy_is_refused(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upgrade_preflight.Database, "size", lambda _self: 10 << 30)
    monkeypatch.setattr(upgrade_preflight, "free_bytes", lambda unused: 12 << 30)
    monkeypatch.setattr(installation.engine, "versions", lambda: {"root": "/"})
    with pytest.raises(ScutumError, match=r"has 12288 MiB free, and a copy .* needs 13312 MiB"):
        upgrade_preflight._disk(installation)


@pytest.mark.parametrize(
    ("alembic", "schema", "images_only", "way"),
    [
        ("029", "old", False, "images"),
        ("030", "old", True, "images"),
        ("030", "old", False, "restore"),
        ("029", "new", False, "restore"),
    ],
)
def test_the_way_back_is_images_only_where_that_was_rehearsed_or_nothing_was_touched(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, alembic: str, schema: str, images_only: bool, way: str
) -> None:
    record = looked_at()
    record.heads = {"source": "029", "target": "030"}
    record.steps["promote"] = {"litellm_schema": {"image_id": "old"}}
    record.receipt = {"images_only": True} if images_only else {}
    installation.save_state(litellm_schema={"image_id": schema})
    monkeypatch.setattr(upgrade_rollback.Database, "alembic_version", lambda _self: alembic)
    assert upgrade_rollback.way(installation, record) == way
    record.rollback["way"] = "restore"
    assert upgrade_rollback.way(installation, record) == "restore"


class Watched:
    """A promoted upgrade whose watch ends as a test says."""

    def __init__(self, installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
        self.installation = installation
        self.verdict, self.watches, self.gone_back, self.removed = "good", 0, 0, 0
        self.fails = False
        upgrade_settings.keep(installation, Settings(version="0.2.0"))
        steps = {"promote": {"state": "done", "touched": True}, "watch": {"state": "running"}}
        records.save(installation, Record("20260101T000000Z", 0.0, "0.1.0", "0.2.0", steps=steps))
        monkeypatch.setattr(upgrade_watch.error_rate_watch, "watch", self._watch)
        monkeypatch.setattr(upgrade_units, "remove_watch", self._remove)
        monkeypatch.setattr(Installation, "compose", self._no_engine)

    def _no_engine(self, *unused: Any) -> Any:
        raise ScutumError("no engine here")

    def _remove(self, *unused: Any) -> list[str]:
        self.removed += 1
        return []

    def _watch(self, *unused: Any) -> dict[str, Any]:
        self.watches += 1
        return {"verdict": self.verdict, "reasons": ["because"], "lasted": 3.0, "signals": {}, "restarts": {}}

    def back(self, installation: Installation, wanted: Settings, record: Record, reason: str) -> None:
        self.gone_back += 1
        assert reason == "because"
        if self.fails:
            raise ScutumError("it does not go back")
        record.outcome = records.ROLLED_BACK
        record.rollback = {"way": "images"}

    def run(self, **changes: Any) -> Record:
        record = records.load(self.installation)
        assert record
        for key, value in changes.items():
            setattr(record, key, value)
        records.save(self.installation, record)
        upgrade_watch.run(self.installation, silent, self.back)
        found = records.load(self.installation)
        assert found
        return found


@pytest.fixture(name="watched")
def fixture_watched(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(installation, monkeypatch)


@pytest.mark.parametrize("verdict", ["good", "not_enough_data"])
def test_a_verdict_is_the_outcome_and_the_unit_goes(watched: Watched, verdict: str) -> None:
    watched.verdict = verdict
    assert watched.run().outcome == verdict and watched.gone_back == 0 and watched.removed == 1
    # Somebody starts it again.
    watched.run()
    assert watched.watches == 1


def test_a_bad_verdict_goes_back(watched: Watched) -> None:
    watched.verdict = "bad"
    record = watched.run()
    assert record.outcome == records.ROLLED_BACK and record.state("watch") == records.FAILED and watched.gone_back == 1


def test_a_service_that_was_killed_while_it_went_back_goes_on_with_that(watched: Watched) -> None:
    bad = {"verdict": "bad", "reasons": ["because"], "lasted": 3.0}
    assert watched.run(verdict=bad).outcome == records.ROLLED_BACK
    assert watched.watches == 0 and watched.gone_back == 1


def test_going_back_that_fails_is_said_and_not_tried_for_ever(watched: Watched) -> None:
    watched.verdict, watched.fails = "bad", True
    assert watched.run().outcome == records.BAD and watched.removed == 1
    watched.run()
    assert watched.gone_back == 1
