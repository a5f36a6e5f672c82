# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The smoke test: each endpoint with its shape, each model, each container; all of them, also after one has failed."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.scutum.ops.plugins.module_utils import smoke_test
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation

LICENCE = dict.fromkeys(smoke_test.LICENCE_KEYS)
ROW = {"id": "1", "timestamp": "2026-01-01T00:00:00Z", "actor_id": "a", "action": "x", "org_id": None}
KEY = "sk-" + "a" * 64
NAMES = {"litellm": "litellm", "admin-api": "admin-api", "postgres": "postgres:16-alpine"}
ENDPOINTS = ["/health", "/api/v1/license", "/v1/chat/completions gpt", "/v1/chat/completions claude"]
ALL = [*ENDPOINTS, "/api/v1/audit-logs?limit=1", "release", "image digests"]


class World(http.server.ThreadingHTTPServer):
    """Both services, as they should answer; a test changes an answer to (status, JSON)."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        listed = [("gpt", "openai/gpt"), ("broken", "openai/broken"), ("claude", "anthropic/claude")]
        self.answers: dict[str, tuple[int, Any]] = {
            "/health": (200, {"status": "healthy"}),
            "/auth/login": (200, {"access_token": "t"}),
            "/api/v1/license": (200, LICENCE),
            "/api/v1/audit-logs?limit=1": (200, [ROW]),
            "/openapi.json": (200, {"info": {"title": "admin API", "version": "0.2.0"}}),
            "/v1/model/info": (
                200,
                {"data": [{"model_name": name, "litellm_params": {"model": route}} for name, route in listed]},
            ),
        }
        self.models: dict[str, tuple[int, Any]] = {}
        self.asked: list[dict[str, Any]] = []
        self.refuse = 0


class Handler(http.server.BaseHTTPRequestHandler):
    server: World

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        world = self.server
        status, answer = world.answers.get(self.path, (404, {"detail": "Not Found"}))
        if self.path == "/v1/chat/completions":
            world.asked.append(json.loads(body))
            status, answer = world.models.get(world.asked[-1]["model"], (200, {"choices": [{}]}))
        if world.refuse > 0:
            world.refuse -= 1
            status = 503
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    do_GET = do_POST = _answer

    def log_message(self, *arguments: Any) -> None:
        pass


class Place(Installation):
    """An installation of three containers, whose services are a server of the test's."""

    def __init__(self, directory: str, world: World) -> None:
        super().__init__(directory)
        self.world = world
        self.labels = {"litellm": "0.2.0", "admin-api": "0.2.0", "postgres": "16"}
        self.ids = {name: f"sha256:{name}" for name in NAMES}
        self.gone = ""
        self.looked: list[str] = []
        self.save_state(images={"0.2.0": {name: {"digest": "", "id": f"sha256:{name}"} for name in NAMES}})
        Path(directory, "config").mkdir()
        Path(directory, "config", ".env").write_text(f"SCUTUM_API_KEY={KEY}\n")

    def url(self, service: str, deadline: float = 0.0) -> str:
        self.looked.append(service)
        if service == self.gone:
            raise ScutumError(f"{service} publishes no port on this host: its container is exited")
        return f"http://127.0.0.1:{self.world.server_port}"

    def compose(self) -> Any:
        return self

    def model(self) -> dict[str, Any]:
        images = {name: f"ghcr.io/scutum-dev/scutum-{image}:0.2.0" for name, image in NAMES.items()}
        return {"name": "x", "services": {name: {"image": image} for name, image in images.items()}}

    def containers(self, project: str) -> dict[str, dict[str, Any]]:
        return {
            name: {
                "Image": self.ids[name],
                "State": {"Status": "running"},
                "Config": {"Labels": {"org.opencontainers.image.version": self.labels[name]}},
            }
            for name in NAMES
            if name in self.labels
        }


@pytest.fixture(name="world")
def fixture_world() -> Iterator[World]:
    world = World()
    threading.Thread(target=world.serve_forever, args=(0.02,), daemon=True).start()
    yield world
    world.shutdown()
    world.server_close()


@pytest.fixture(name="place")
def fixture_place(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> Place:
    place = Place(str(tmp_path), world)
    place.labels["postgres"] = "0.2.0"
    monkeypatch.setattr(
        place.engine, "inspect", lambda kind, names: [{"Id": name, "RepoDigests": []} for name in names]
    )
    return place


def run(place: Place, **more: Any) -> dict[str, Any]:
    """A smoke test of 0.2.0."""
    return smoke_test.run(place, more.pop("version", "0.2.0"), deadline=more.pop("deadline", 1), **more)


def failing(result: dict[str, Any]) -> dict[str, str]:
    """What failed, with the detail; all the rest must have been looked at."""
    assert result["ok"] == all(item["ok"] for item in result["checks"])
    return {item["name"]: item["detail"] for item in result["checks"] if not item["ok"]}


def test_all_is_well(place: Place, world: World) -> None:
    said: list[str] = []
    result = run(place, say=said.append)
    assert failing(result) == {} and result["ok"], result
    assert [item["name"] for item in result["checks"]] == ALL and len(said) == len(ALL)
    assert (result["version"], result["models"]) == ("0.2.0", ["gpt", "claude"])
    assert all(isinstance(item["seconds"], float) for item in result["checks"]) and json.dumps(result)
    # Only the provider itself can answer, and no answer is an old one.
    assert all(body["disable_fallbacks"] and body["cache"]["no-cache"] for body in world.asked)
    assert len({body["messages"][0]["content"] for body in world.asked}) == 2
    assert sorted(place.looked) == ["admin-api", "litellm"]
    text = smoke_test.text(result)
    assert len(text) == len(ALL) + 1 and text[-1] == "the smoke test passed; admin-api calls itself 0.2.0"


@pytest.mark.parametrize(
    ("path", "answer", "check", "says"),
    [
        ("/health", (200, {"status": "degraded"}), "/health", "without status healthy"),
        ("/health", (200, ["healthy"]), "/health", "did not answer with an object"),
        ("/health", (500, {"detail": "no"}), "/health", "answered 500: no"),
        ("/api/v1/license", (200, {**LICENCE, "tier": ...}), "/api/v1/license", "without tier"),
        ("/api/v1/license", (200, []), "/api/v1/license", "without present, valid"),
        ("/api/v1/license", (500, {}), "/api/v1/license", "answered 500"),
        ("/api/v1/audit-logs?limit=1", (200, {"items": []}), ALL[4], "did not answer with a list"),
        ("/api/v1/audit-logs?limit=1", (200, [{**ROW, "action": ...}]), ALL[4], "a row without action"),
        ("/api/v1/audit-logs?limit=1", (200, [ROW, ROW]), ALL[4], "answered with 2 rows"),
        ("/api/v1/audit-logs?limit=1", (200, ["row"]), ALL[4], "a row without id"),
        ("/api/v1/audit-logs?limit=1", (500, {"detail": "boom"}), ALL[4], "answered 500: boom"),
        ("/auth/login", (401, {"detail": "Invalid API key"}), ALL[4], "login refused"),
    ],
)
def test_each_shape_counts_and_one_failure_ends_nothing(
    place: Place, world: World, path: str, answer: tuple[int, Any], check: str, says: str
) -> None:
    status, body = answer
    for item in body if isinstance(body, list) else [body]:
        if isinstance(item, dict):
            for key in [key for key, value in item.items() if value is ...]:
                del item[key]
    world.answers[path] = (status, body)
    result = run(place)
    assert list(failing(result)) == [check] and says in failing(result)[check], result
    assert [item["name"] for item in result["checks"]] == ALL
    assert smoke_test.text(result)[-1].startswith("the smoke test failed: 1 of 7 checks")


def test_an_empty_audit_table_is_well(place: Place, world: World) -> None:
    world.answers["/api/v1/audit-logs?limit=1"] = (200, [])
    assert run(place)["ok"]


def test_models_that_are_named_are_asked_and_no_others(place: Place, world: World) -> None:
    world.models["broken"] = (500, {"error": {"message": f"Connection error, key {KEY}"}})
    result = run(place, models=["broken", "gpt"])
    assert list(failing(result)) == ["/v1/chat/completions broken"]
    detail = failing(result)["/v1/chat/completions broken"]
    assert detail.startswith("HTTP 500: Connection error") and KEY not in json.dumps(result)
    assert [body["model"] for body in world.asked] == ["broken", "gpt"]


@pytest.mark.parametrize("answer", [(404, {}), (200, {"data": []}), (200, [])])
def test_no_model_is_a_failure_that_names_the_variable(place: Place, world: World, answer: tuple[int, Any]) -> None:
    world.answers["/v1/model/info"] = answer
    result = run(place)
    assert "scutum_smoke_models" in failing(result)["/v1/chat/completions"]
    assert len(failing(result)) == 1 and result["models"] == []


def test_release_and_digest_of_each_container(place: Place) -> None:
    place.labels["litellm"] = "0.1.0"
    place.ids["admin-api"] = "sha256:other"
    found = failing(run(place))
    assert "litellm is 0.1.0" in found["release"] and "admin-api" in found["image digests"] and len(found) == 2
    place.labels.clear()
    assert "no container runs an image of Scutum" in failing(run(place))["release"]


def test_a_pinned_digest_counts(place: Place) -> None:
    found = failing(run(place, pinned={"litellm": "sha256:" + "1" * 64}))
    assert list(found) == ["image digests"] and "litellm" in found["image digests"]


def test_a_service_that_is_down_fails_its_checks_and_the_others_are_run(place: Place) -> None:
    place.gone = "admin-api"
    result = run(place)
    assert list(failing(result)) == ["/health", "/api/v1/license", ALL[4]] and result["version"] == ""
    assert all("its container is exited" in detail for detail in failing(result).values())


def test_a_service_that_does_not_say_its_version_is_well(place: Place, world: World) -> None:
    answers: list[tuple[int, Any]] = [(404, {}), (200, {"info": None}), (200, {"info": {}}), (200, [])]
    for answer in answers:
        world.answers["/openapi.json"] = answer
        result = run(place)
        assert result["ok"] and result["version"] == ""


def test_one_that_has_just_started_is_waited_for_but_all_wait_together_no_longer_than_the_deadline(
    place: Place, world: World
) -> None:
    world.refuse = 1
    assert run(place, deadline=10)["ok"]
    world.refuse = 1000
    begin = time.monotonic()
    result = run(place, deadline=1, models=["gpt"])
    assert {"/health", "/api/v1/license", ALL[4]} <= set(failing(result))
    assert time.monotonic() - begin < 3
    # Once the deadline is over each call is tried once.
    assert 1000 - world.refuse <= 7
