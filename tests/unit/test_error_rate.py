# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The verdict over a new version: its rules, and the watch that counts, against a real server."""

from __future__ import annotations

import http.server
import json
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.scutum.ops.plugins.module_utils import error_rate, error_rate_watch, http_client
from ansible_collections.scutum.ops.plugins.module_utils.error_rate import (
    ADMIN,
    BAD,
    COMPLETIONS,
    GOOD,
    PROBED,
    UNDECIDED,
    UNKNOWN,
    Counts,
    Finding,
    Rules,
    lower_bound,
    verdict,
)
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation
from ansible_collections.scutum.ops.plugins.module_utils.litellm import LiteLLM, Served
from hypothesis import given
from hypothesis import strategies as st

ENOUGH = {COMPLETIONS: Counts(1000, 0, 300), PROBED: Counts(100, 0, 30), ADMIN: Counts(1000, 0, 30)}


def found(was: dict[str, Counts], now: dict[str, Counts], ended: bool = False, **more: Any) -> Finding:
    """A verdict over counts that are all recent."""
    return verdict(was, now, now, more.pop("restarts", {}), ended, Rules(**more))


@st.composite
def counts(draw: st.DrawFn, most: int = 2000) -> Counts:
    """Counts that can be."""
    requests = draw(st.integers(0, most))
    failed = draw(st.integers(0, requests))
    return Counts(requests, failed, draw(st.floats(0, 5)) * (requests - failed))


signals = st.fixed_dictionaries({COMPLETIONS: counts(), PROBED: counts(), ADMIN: counts()})


@given(st.integers(0, 5000), st.integers(1, 5000))
def test_the_bound_is_below_the_share_and_comes_nearer_with_evidence(failed: int, requests: int) -> None:
    failed = min(failed, requests)
    share = failed / requests
    assert 0 <= lower_bound(failed, requests) <= share
    assert lower_bound(failed * 10, requests * 10) >= lower_bound(failed, requests) - 1e-12
    assert lower_bound(failed, requests + 1) <= lower_bound(failed, requests) + 1e-12
    assert share - lower_bound(failed * 10000, requests * 10000) < 0.02


def test_the_bound_is_wilsons() -> None:
    # Newcombe (1998), table I: 15 of 148, and 81 of 263.
    assert lower_bound(15, 148) == pytest.approx(0.0624, abs=5e-5)
    assert lower_bound(81, 263) == pytest.approx(0.2553, abs=5e-5)


@pytest.mark.parametrize(
    ("failed", "requests", "bad"),
    [(4, 20, True), (1, 3, False), (3, 20, False), (1, 1, False), (9, 9, False), (10, 10, True), (60, 1000, False), (80, 1000, True)],
)  # fmt: skip
def test_few_answers_are_enough_and_fewer_are_not(failed: int, requests: int, bad: bool) -> None:
    finding = found({}, {ADMIN: Counts(requests, failed)})
    assert finding.value == (BAD if bad else UNDECIDED)
    assert finding.faulty == ((ADMIN,) if bad else ())


@given(signals, signals, st.integers(0, 3), st.booleans())
def test_only_the_end_decides_anything_but_bad(
    was: dict[str, Counts], now: dict[str, Counts], restarts: int, ended: bool
) -> None:
    finding = found(was, now, ended, restarts={"litellm": restarts})
    assert finding.value in ((GOOD, BAD, UNKNOWN) if ended else (UNDECIDED, BAD))
    assert bool(finding.reasons) == (finding.value != UNDECIDED)
    assert finding.value == BAD or not restarts
    if finding.value == BAD and not restarts:
        assert finding.faulty and all(any(text.startswith(name) for text in finding.reasons) for name in finding.faulty)


@given(counts(), st.integers(1, 5), st.floats(0.01, 0.5))
def test_what_failed_before_may_fail_now(was: Counts, times: int, margin: float) -> None:
    now = Counts(was.requests * times, was.failed * times, was.seconds * times)
    assert found({ADMIN: was}, {ADMIN: now}, margin=margin).value == UNDECIDED


@given(signals, signals, st.sampled_from([COMPLETIONS, PROBED, ADMIN]), st.integers(1, 500))
def test_more_failures_never_make_it_better(
    was: dict[str, Counts], now: dict[str, Counts], name: str, more: int
) -> None:
    one = now[name]
    # Times are left out: a failure takes an answer away, and with it its time.
    worse = {**now, name: Counts(one.requests + more, one.failed + more, 0.0)}
    now = {**now, name: Counts(one.requests, one.failed, 0.0)}
    if found(was, now).value == BAD:
        assert found(was, worse).value == BAD


@given(signals, signals, st.floats(0.01, 0.3), st.floats(0.01, 0.3))
def test_a_wider_margin_and_a_worse_baseline_forgive(
    was: dict[str, Counts], now: dict[str, Counts], margin: float, more: float
) -> None:
    if found(was, now, margin=margin).value != BAD:
        assert found(was, now, margin=margin + more).value != BAD
        # Times from before are kept, for a baseline without any forgives everything.
        failing = {
            name: Counts(item.requests + 1, item.requests + 1, 0.0) if not item.answered else item
            for name, item in was.items()
        }
        assert found(failing, now, margin=margin).value != BAD


def test_an_error_rate_of_thirty_percent_that_was_there_before_is_no_fault() -> None:
    was = {COMPLETIONS: Counts(100, 30, 20)}
    assert found(was, {**ENOUGH, COMPLETIONS: Counts(1000, 300, 200)}, True).value == GOOD
    assert found(was, {**ENOUGH, COMPLETIONS: Counts(1000, 400, 200)}, True).value == BAD


def test_a_burst_is_bad_though_the_whole_is_not() -> None:
    whole = {**ENOUGH, ADMIN: Counts(10000, 12, 300)}
    assert verdict({}, whole, ENOUGH, {}, False, Rules()).value == UNDECIDED
    burst = verdict({}, whole, {ADMIN: Counts(60, 12, 2)}, {}, False, Rules())
    assert burst.value == BAD and "12 of 60 failed in the last 60 s" in burst.reasons[0]
    # And slowly, over the whole, where no window has enough of it.
    assert verdict({}, {ADMIN: Counts(100, 20)}, {ADMIN: Counts(5, 1)}, {}, False, Rules()).value == BAD


@pytest.mark.parametrize(
    ("was", "now", "bad"),
    [
        (Counts(50, 0, 50), Counts(20, 0, 61), True),
        (Counts(50, 0, 50), Counts(20, 0, 59), False),
        (Counts(50, 0, 50), Counts(19, 0, 190), False),
        # Ten times as slow, and nobody feels it.
        (Counts(50, 0, 1), Counts(50, 0, 10), False),
        (Counts(50, 0, 1), Counts(50, 0, 30), True),
        # Failures take no time: the mean is that of the good answers.
        (Counts(50, 25, 25), Counts(40, 20, 40), False),
        (Counts(50, 25, 25), Counts(40, 20, 70), True),
        (Counts(), Counts(50, 0, 500), False),
    ],
)
def test_slower(was: Counts, now: Counts, bad: bool) -> None:
    finding = found({PROBED: was}, {PROBED: now})
    assert finding.value == (BAD if bad else UNDECIDED)
    assert not bad or "times as long is allowed" in finding.reasons[0]


@pytest.mark.parametrize(
    ("whole", "recent", "bad"),
    [
        # A batch with long answers, in one minute of thirty.
        (Counts(3000, 0, 3900), Counts(100, 0, 1000), False),
        (Counts(3000, 0, 9900), Counts(100, 0, 1000), True),
        # It was slow, and is no more.
        (Counts(3000, 0, 9900), Counts(100, 0, 100), False),
    ],
)
def test_one_slow_minute_is_none(whole: Counts, recent: Counts, bad: bool) -> None:
    finding = verdict({COMPLETIONS: Counts(50, 0, 50)}, {COMPLETIONS: whole}, {COMPLETIONS: recent}, {}, False, Rules())
    assert finding.value == (BAD if bad else UNDECIDED)
    assert not bad or "10.00 s on average in the last 60 s, 3.30 s since the beginning" in finding.reasons[0]


def test_too_little_is_said_with_its_number() -> None:
    was = {COMPLETIONS: Counts(10, 0, 3)}
    finding = found(was, {COMPLETIONS: Counts(30), PROBED: Counts(19), ADMIN: Counts(24)}, True)
    assert finding.value == UNKNOWN
    assert "49 completions, 50 are needed" in finding.reasons[0] and "24 calls" in finding.reasons[1]
    finding = found(was, {COMPLETIONS: Counts(30), PROBED: Counts(20), ADMIN: Counts(25)}, True)
    assert finding.value == GOOD and len(finding.reasons) == 3
    assert found({}, {}, True).value == UNKNOWN


# The watch, against a server.


class World(http.server.ThreadingHTTPServer):
    """Both services: what they answer can be changed while they are asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status: dict[str, int] = {}
        self.served = Served(100, 2, 30.0, 98)
        self.seen: list[str] = []
        self.lock = threading.Lock()
        self.delay = 0.0
        # Beginnings of paths whose connections are closed without an answer.
        self.dead: tuple[str, ...] = ()
        # More of the metrics.
        self.lines = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def metrics(self) -> str:
        labels = 'model="a",user_agent="openai-python"'
        return (
            f"litellm_proxy_total_requests_metric_total{{{labels}}} {self.served.requests}.0\n"
            'litellm_proxy_total_requests_metric_total{model="a",user_agent="scutum.ops"} 5000.0\n'
            f"litellm_proxy_failed_requests_metric_total{{{labels}}} {self.served.failed}.0\n"
            f'litellm_request_total_latency_metric_sum{{model="a"}} {self.served.seconds}\n'
            f'litellm_request_total_latency_metric_count{{model="a"}} {self.served.timed}.0\n' + self.lines
        )


class Handler(http.server.BaseHTTPRequestHandler):
    server: World

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.split("?")[0]
        world = self.server
        with world.lock:
            world.seen.append(path)
        if path.startswith(world.dead):
            return
        if path == "/v1/chat/completions":
            time.sleep(world.delay)
        bodies: dict[str, Any] = {
            "/health": {"status": "healthy"},
            "/auth/login": {"access_token": "t"},
            "/api/v1/license": {"present": False},
            "/api/v1/audit-logs": [],
            "/v1/model/info": {"data": [{"model_name": "first", "litellm_params": {"model": "openai/x"}}]},
            "/v1/chat/completions": {"choices": [{}]},
        }
        text = world.metrics() if path == "/metrics/" else json.dumps(bodies.get(path))
        self.send_response(world.status.get(path, 200 if path in bodies or path == "/metrics/" else 404))
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_POST = _answer

    def log_message(self, *arguments: Any) -> None:
        pass


class Compose:
    """The containers of an installation."""

    def __init__(self) -> None:
        self.found = {name: container(name) for name in ("litellm", "admin-api", "postgres")}

    def model(self) -> dict[str, Any]:
        return {"name": "scutum", "services": {"litellm": {}, "admin-api": {}, "postgres": {}}}

    def containers(self, project: str) -> dict[str, dict[str, Any]]:
        assert project == "scutum"
        return dict(self.found)


def container(name: str, **more: Any) -> dict[str, Any]:
    """One that runs."""
    state = {"Status": "running", "StartedAt": "2026-01-01", **more.pop("state", {})}
    return {"Id": name, "RestartCount": 0, "State": state, "HostConfig": {"RestartPolicy": {"Name": "always"}}, **more}


class Place(Installation):
    """An installation whose services are a server of the test's."""

    def __init__(self, directory: str, world: World) -> None:
        super().__init__(directory)
        self.world = world
        self.there = Compose()
        self.asked_for: list[str] = []
        self.gone: set[str] = set()

    def url(self, service: str, deadline: float = 0.0) -> str:
        self.asked_for.append(service)
        if service in self.gone:
            raise ScutumError(f"{service} publishes no port on this host")
        return self.world.url

    def secret(self, key: str) -> str:
        return "sk-1"

    def compose(self) -> Any:
        return self.there


@pytest.fixture(name="world")
def fixture_world() -> Iterator[World]:
    world = World()
    threading.Thread(target=world.serve_forever, args=(0.05,), daemon=True).start()
    yield world
    world.shutdown()
    world.server_close()


@pytest.fixture(name="place")
def fixture_place(tmp_path: Path, world: World) -> Place:
    return Place(str(tmp_path / "scutum"), world)


BEFORE = {
    "signals": {
        COMPLETIONS: {"requests": 100, "failed": 2, "seconds": 30.0},
        PROBED: {"requests": 10, "failed": 0, "seconds": 1.0},
        ADMIN: {"requests": 20, "failed": 0, "seconds": 0.2},
    }
}


def watch(place: Place, seconds: float = 0.6, completions: float = 0.1, **more: Any) -> dict[str, Any]:
    """A short watch."""
    rules = Rules(minimum=more.pop("minimum", 10), window=more.pop("window", 60.0))
    before = more.pop("before", BEFORE)
    return error_rate_watch.watch(place, before, rules, seconds, 0.05, completions, more.pop("model", ""), **more)


def test_metrics_are_read_without_our_own_requests(world: World) -> None:
    client = LiteLLM(world.url, "k", 0)
    assert client.served() == Served(100, 2, 30.0, 98)
    assert "litellm_proxy_total" in client.metrics()
    world.status["/metrics/"] = 404
    assert client.served() is None
    with pytest.raises(ScutumError, match="404"):
        client.metrics()


@pytest.mark.parametrize(
    ("status", "failed"),
    [*((str(status), 2) for status in (400, 401, 403, 404, 422, 429)), ("408", 9), ("500", 9), ("503", 9), ("None", 9), ("", 9)],
)  # fmt: skip
def test_what_a_client_did_wrong_is_no_failure(world: World, status: str, failed: int) -> None:
    labels = f'api_key_alias="a,b",exception_class="X",exception_status="{status}",user="u"'
    world.lines = f"litellm_proxy_failed_requests_metric_total{{{labels}}} 7.0\n"
    assert LiteLLM(world.url, "k", 0).served() == Served(100, failed, 30.0, 98)


def test_no_name_passes_for_a_clients_error(world: World) -> None:
    labels = r'api_key_alias=",exception_status=\"404\"",not_exception_status="404"'
    world.lines = f"litellm_proxy_failed_requests_metric_total{{{labels}}} 7.0\n"
    assert LiteLLM(world.url, "k", 0).served() == Served(100, 9, 30.0, 98)


def test_the_first_model_of_each_provider_that_chats(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    def model(name: str, route: str, **info: Any) -> dict[str, Any]:
        return {"model_name": name, "litellm_params": {"model": route}, "model_info": info}

    listed = [
        model("embed", "openai/text-embedding-3-small", mode="embedding"),
        model("openai/*", "openai/*"),
        model("gpt", "openai/gpt", mode="chat"),
        model("broken", "openai/broken"),
        model("claude", "claude-x", litellm_provider="anthropic", mode=None),
        model("gemini", "gemini/g"),
    ]
    answer = json.dumps({"data": listed}).encode()
    client = LiteLLM(world.url, "k", 0)
    monkeypatch.setattr(http_client, "request", lambda *words, **more: http_client.Response(200, {}, answer))
    assert client.providers() == {"openai": "gpt", "anthropic": "claude", "gemini": "gemini"}
    answer = b"[]"
    with pytest.raises(ScutumError, match="/v1/model/info answered 200"):
        client.providers()


def test_a_baseline_of_no_seconds_is_one_round(place: Place, world: World) -> None:
    told: list[str] = []
    found = error_rate_watch.baseline(place, 0, 0.05, "", told.append)
    assert found["signals"][COMPLETIONS] == {"requests": 100, "failed": 2, "seconds": 30.0}
    assert (found["signals"][PROBED]["requests"], found["signals"][ADMIN]["requests"]) == (1, 2)
    assert found["model"] == "first" and len(told) == 3 and json.dumps(found)
    world.status["/api/v1/license"] = 500
    found = error_rate_watch.baseline(place, 0.3, 0.1, "first")
    signals = found["signals"]
    assert signals[ADMIN]["failed"] * 2 == signals[ADMIN]["requests"] >= 4, signals
    assert signals[PROBED]["requests"] >= 2 and world.seen.count("/v1/model/info") == 1


def test_good_needs_its_number_and_completions_are_asked_for_to_reach_it(place: Place, world: World) -> None:
    states: list[dict[str, Any]] = []
    result = watch(place, completions=100, told=states.append)
    assert result["verdict"] == GOOD, result
    assert result["signals"][PROBED]["requests"] >= 10 and result["signals"][COMPLETIONS]["requests"] == 0
    assert 0.6 <= result["lasted"] < 3 and result["rounds"] == len(states) and json.dumps(states)
    assert {item["verdict"] for item in states[:-1]} == {UNDECIDED} and states[-1] == result
    # Found once.
    assert place.asked_for.count("litellm") == place.asked_for.count("admin-api") == 1
    assert world.seen.count("/auth/login") == 1


def test_without_completions_of_its_own_there_is_not_enough(place: Place, world: World) -> None:
    result = watch(place, 0.3, completions=0)
    assert result["verdict"] == UNKNOWN and "0 completions" in result["reasons"][0]
    assert "/v1/chat/completions" not in world.seen
    assert "not enough data" in error_rate_watch.text(result)[0]


@pytest.mark.parametrize("path", ["/api/v1/audit-logs", "/v1/chat/completions", "/auth/login"])
def test_what_fails_is_bad_before_the_end(place: Place, world: World, path: str) -> None:
    world.status[path] = 500
    begin = time.time()
    result = watch(place, 60, completions=60)
    assert result["verdict"] == BAD and time.time() - begin < 5, result
    assert begin <= result["first_bad"] <= result["decided"] <= time.time()
    assert result["reasons"][0].startswith(PROBED if "chat" in path else ADMIN)


def test_health_that_says_yes_hides_nothing_and_its_no_counts(place: Place, world: World) -> None:
    services = error_rate_watch._Services(place, "m")
    services.ask_admin_api()
    assert (services.admin.requests, services.admin.failed) == (2, 0)
    world.status["/health"] = 503
    services.ask_admin_api()
    services.settle()
    assert (services.admin.requests, services.admin.failed) == (5, 1)
    services.close()


def test_a_service_that_is_nowhere_fails_and_is_found_again(place: Place) -> None:
    services = error_rate_watch._Services(place, "m")
    place.gone = {"admin-api"}
    services.ask_admin_api()
    services.settle()
    assert (services.admin.requests, services.admin.failed) == (2, 2)
    place.gone = set()
    services.ask_admin_api()
    assert (services.admin.requests, services.admin.failed) == (4, 2)
    services.close()


def test_failing_traffic_is_bad_though_ours_is_not(place: Place, world: World) -> None:
    def told(state: dict[str, Any]) -> None:
        world.served = Served(world.served.requests + 10, world.served.failed + 3, world.served.seconds + 2, 100)

    result = watch(place, 20, told=told)
    assert result["verdict"] == BAD and result["reasons"][0].startswith(COMPLETIONS), result
    assert result["signals"][PROBED]["failed"] == 0


def test_slow_answers_are_bad(place: Place, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(error_rate, "LEAST_TIMED", 5)
    world.delay = 0.65
    result = watch(place, 30, completions=0.01, minimum=200)
    assert result["verdict"] == BAD and "times as long is allowed" in result["reasons"][0], result


def test_counters_of_another_start_begin_at_nothing_and_those_of_another_worker_are_passed_over(
    place: Place, world: World
) -> None:
    services = error_rate_watch._Services(place, "m")

    def read(requests: int, failed: int, started: str) -> tuple[int, int]:
        world.served = Served(requests, failed, requests * 0.5, requests)
        services._read_again = 0.0
        services.read_metrics(started)
        return services.served.requests, services.served.failed

    assert read(100, 2, "a") == (0, 0)
    assert read(110, 3, "a") == (10, 1)
    # A worker of four, without shared counters.
    assert read(7, 0, "a") == (10, 1)
    assert read(112, 3, "a") == (12, 1)
    # Recreated.
    assert read(5, 4, "b") == (17, 5)
    # Not there: nothing is read.
    assert read(900, 4, "") == (17, 5)
    assert services.served.seconds == pytest.approx(17 * 0.5)
    # What fails after it was recreated by hand is no fault, and what fails later is.
    services._read_again, world.served = 0.0, Served(10, 8, 5.0, 10)
    services.read_metrics("c", replaced=True)
    assert (services.served.requests, services.served.failed) == (27, 5)
    assert read(11, 9, "c") == (28, 6)
    services.close()


@pytest.mark.parametrize(
    ("served", "counts"),
    [
        (Served(10, 2, 8.0, 16), Counts(10, 2, 4.0)),
        (Served(10, 2, 0.0, 0), Counts(10, 2, 0.0)),
        (Served(3, 5, 1.0, 1), Counts(3, 3, 0.0)),
    ],
)
def test_the_mean_of_the_metrics_is_kept(served: Served, counts: Counts) -> None:
    assert error_rate_watch._of_metrics(served) == counts


def test_a_container_that_restarts_is_bad_and_one_that_was_recreated_is_not(place: Place) -> None:
    place.there.found["postgres"]["RestartCount"] = 7

    def recreated(state: dict[str, Any]) -> None:
        if state["rounds"] == 2:
            place.there.found["postgres"] = container("other")

    assert watch(place, 0.6, told=recreated)["verdict"] == GOOD

    def restarted(state: dict[str, Any]) -> None:
        if state["rounds"] == 3:
            place.there.found["postgres"]["RestartCount"] += 1

    result = watch(place, 30, told=restarted)
    assert (result["verdict"], result["restarts"]) == (BAD, {"postgres": 1})
    assert result["reasons"] == ["postgres restarted, or does not run (1)"] and result["rounds"] == 4


def test_one_that_was_recreated_and_restarts_then_is_bad(place: Place) -> None:
    place.there.found["postgres"]["RestartCount"] = 7

    def told(state: dict[str, Any]) -> None:
        if state["rounds"] == 2:
            place.there.found["postgres"] = container("other", RestartCount=2)

    result = watch(place, 30, told=told)
    assert (result["verdict"], result["restarts"]) == (BAD, {"postgres": 2})


@pytest.mark.parametrize(
    ("changes", "bad"),
    [
        ({"state": {"Status": "exited", "ExitCode": 1}}, True),
        ({"state": {"Status": "exited", "ExitCode": 0}}, True),
        ({"state": {"Status": "exited", "ExitCode": 0}, "HostConfig": {"RestartPolicy": {"Name": "no"}}}, False),
        (None, True),
    ],
)
def test_one_that_does_not_run_is_bad_after_a_while(
    place: Place, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any] | None, bad: bool
) -> None:
    monkeypatch.setattr(error_rate_watch, "_AWAY", 0.3)
    if changes is None:
        del place.there.found["postgres"]
    else:
        place.there.found["postgres"] = container("postgres", **changes)
    result = watch(place)
    assert result["verdict"] == (BAD if bad else GOOD)
    assert not bad or result["lasted"] >= 0.3 and result["decided"] - result["first_bad"] >= 0.3


def test_one_that_is_recreated_meanwhile_and_an_engine_that_says_nothing_are_no_fault(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(error_rate_watch, "_AWAY", 0.5)
    kept = dict(place.there.found)

    def told(state: dict[str, Any]) -> None:
        place.there.found = dict(kept)
        if state["rounds"] in (3, 15):
            del place.there.found["postgres"]
        if state["rounds"] > 17:
            place.there.found = {}

    assert watch(place, 1.6, told=told)["verdict"] == GOOD


BOTH = ("litellm", "admin-api")
DEAD = ("/v1/", "/api/", "/health", "/auth/")
FAULTY = dict.fromkeys(("/v1/chat/completions", "/api/v1/license", "/api/v1/audit-logs", "/health"), 500)
ANOTHER: dict[str, Any] = {"Id": "other"}
ANEW: dict[str, Any] = {"state": {"StartedAt": "2026-01-02"}}
STARTING: dict[str, Any] = {"Id": "other", "state": {"Health": {"Status": "starting"}}}


class Story:
    """What happens to both services after which round: `gone`, `silent` engine, `back` (changes), `dead`, `faulty`, `well`."""

    def __init__(self, place: Place, world: World, told: dict[int, tuple[str, dict[str, Any]]]) -> None:
        self.place, self.world, self.told = place, world, told
        self.kept = {name: container(name, RestartCount=7) for name in place.there.found}
        self.place.there.found = dict(self.kept)

    def __call__(self, state: dict[str, Any]) -> None:
        what, changes = self.told.get(state["rounds"], ("", {}))
        there, world = self.place.there, self.world
        if what == "gone":
            there.found = {"postgres": self.kept["postgres"]}
        elif what == "silent":
            there.found = {}
        elif what == "back":
            there.found = {**self.kept, **{name: container(name, **changes) for name in BOTH}}
        elif what:
            world.dead = DEAD if what == "dead" else ()
            world.status = dict(FAULTY) if what == "faulty" else {}


@pytest.mark.parametrize(
    "told",
    [
        # Recreated, and it answers badly until it is ready.
        {3: ("gone", {}), 4: ("faulty", {}), 7: ("back", ANOTHER), 10: ("well", {})},
        {3: ("back", ANOTHER), 4: ("faulty", {}), 8: ("well", {})},
        # Started anew; it accepts nothing for a while before it has ended, which the engine calls running.
        {3: ("dead", {}), 7: ("back", ANEW), 10: ("well", {})},
        # The engine is updated: it says nothing for longer than a container may be away.
        {3: ("silent", {}), 4: ("dead", {}), 23: ("back", ANEW), 25: ("well", {})},
        # It takes long to start, and its health check says so.
        {3: ("dead", {}), 4: ("back", STARTING), 23: ("back", ANOTHER), 25: ("well", {})},
    ],
)
def test_what_fails_while_somebody_recreates_a_service_is_no_fault(
    place: Place, world: World, monkeypatch: pytest.MonkeyPatch, told: dict[int, tuple[str, dict[str, Any]]]
) -> None:
    monkeypatch.setattr(error_rate_watch, "_AWAY", 0.6)
    result = watch(place, 2.5, completions=0.01, told=Story(place, world, told))
    assert result["verdict"] == GOOD, result
    assert {name: item["failed"] for name, item in result["signals"].items()} == {COMPLETIONS: 0, PROBED: 0, ADMIN: 0}
    # Another start may have another key.
    assert place.asked_for.count("admin-api") > 1 and place.asked_for.count("litellm") > 1


@pytest.mark.parametrize(
    ("told", "least", "reason"),
    [
        # It fails for longer than somebody's recreating explains.
        ({2: ("back", ANOTHER), 3: ("faulty", {})}, 0.4, ADMIN),
        ({2: ("back", STARTING), 3: ("faulty", {})}, 1.0, ADMIN),
        # It answers nothing, and nothing was changed.
        ({2: ("dead", {})}, 0.4, ADMIN),
        # It stays away.
        ({2: ("gone", {}), 3: ("dead", {})}, 0.4, "admin-api restarted, or does not run"),
        # The engine started it anew, and again.
        ({2: ("dead", {}), 3: ("back", {**ANEW, "RestartCount": 8})}, 0.0, "admin-api restarted, or does not run"),
    ],
)
def test_what_nobody_explains_is_a_fault(
    place: Place,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    told: dict[int, tuple[str, dict[str, Any]]],
    least: float,
    reason: str,
) -> None:
    monkeypatch.setattr(error_rate_watch, "_AWAY", 0.4)
    monkeypatch.setattr(error_rate_watch, "_STARTING", 1.2)
    begin = time.time()
    result = watch(place, 30, completions=0.01, told=Story(place, world, told))
    assert result["verdict"] == BAD and least <= result["lasted"] < 5, result
    assert any(text.startswith(reason) for text in result["reasons"]), result
    assert begin <= result["first_bad"] <= result["decided"]
    if told == {2: ("dead", {})}:
        # It is told when it was seen, not when it was counted.
        assert result["decided"] - result["first_bad"] >= 0.4


def test_another_services_container_explains_nothing(place: Place, world: World) -> None:
    def told(state: dict[str, Any]) -> None:
        if state["rounds"] == 2:
            place.there.found["litellm"] = container("other")
            world.status = {path: 500 for path in FAULTY if path != "/v1/chat/completions"}

    result = watch(place, 30, told=told)
    assert result["verdict"] == BAD and result["reasons"][0].startswith(ADMIN), result


def test_another_process_goes_on_with_what_is_left(place: Place) -> None:
    told: list[str] = []
    result = watch(place, 1000, window=0.3, began=time.time() - 999, completions=0.05, say=told.append)
    assert result["verdict"] == GOOD and 1000 <= result["lasted"] < 1003, result
    assert told[0] == "the watch goes on after 999 of 1000 s"
    # The host was off for longer than the watch: a look of a window is taken all the same. A clock that went back is no future.
    result = watch(place, 1000, window=0.3, began=time.time() - 9999, completions=0.05)
    assert result["verdict"] == GOOD and result["rounds"] > 3
    assert watch(place, 0.2, began=time.time() + 5000)["lasted"] < 2


def test_old_failures_leave_the_window(place: Place, world: World) -> None:
    """Three failures at the beginning are neither enough then, nor later."""

    def told(state: dict[str, Any]) -> None:
        world.status = {"/api/v1/license": 500} if state["rounds"] < 3 else {}

    result = watch(place, 0.6, told=told, window=0.2)
    assert result["verdict"] == GOOD and result["signals"][ADMIN]["failed"] == 2
    assert error_rate_watch.text(result)[0].startswith("good after")


def test_a_burst_after_a_good_while_is_judged_by_its_window(place: Place, world: World) -> None:
    def told(state: dict[str, Any]) -> None:
        if state["rounds"] >= 20:
            world.status = {"/api/v1/license": 500}

    result = watch(place, 30, told=told, window=0.4)
    words = re.match(rf"{ADMIN}: (\d+) of (\d+) failed in the last 0.4 s", result["reasons"][0])
    assert words and result["verdict"] == BAD, result
    # What was good before has left the window.
    assert int(words[2]) <= result["signals"][ADMIN]["requests"] - 20, result


def test_the_rules_say_what_was_before() -> None:
    assert error_rate.said(Counts(10, 1, 9.0), Counts(4, 0, 2.0)) == (
        "1 of 10 failed (10.0%), 1.00 s on average; before 0.0%, 0.50 s"
    )
    assert error_rate.said(Counts()) == "none"
