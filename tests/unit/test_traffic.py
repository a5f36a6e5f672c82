# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measured traffic, where LiteLLM's table has none, and the signals for leaving one host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.scutum.ops.plugins.module_utils import cgroup, litellm, traffic
from ansible_collections.scutum.ops.plugins.module_utils.compose import Compose
from ansible_collections.scutum.ops.plugins.module_utils.database import Database
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from ansible_collections.scutum.ops.plugins.module_utils.http_client import Response
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation

METRICS = """# HELP litellm_proxy_total_requests_metric_total Total number of requests
# TYPE litellm_proxy_total_requests_metric_total counter
litellm_proxy_total_requests_metric_total{{model="a",status_code="200"}} {0}
litellm_proxy_total_requests_metric_total{{model="b",status_code="500"}} 2.0
litellm_proxy_total_requests_metric_created{{model="b"}} 1.7e+09
"""


@pytest.fixture(name="place")
def fixture_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    """A host whose table is empty, and whose cache has five keys."""
    monkeypatch.setattr(
        Database, "traffic", lambda self, days: {"requests": 0.0, "audit": 7.0, "peak": 0.0, "days": 0.0}
    )
    monkeypatch.setattr(traffic.limits, "redis", lambda *unused: "5\n")
    monkeypatch.setattr(Installation, "litellm", lambda self: litellm.LiteLLM("http://x", "k"))
    return Installation(str(tmp_path))


def served(monkeypatch: pytest.MonkeyPatch, *texts: str, status: int = 200) -> None:
    """What LiteLLM answers, one after the other."""
    answers = iter(texts)
    monkeypatch.setattr(litellm.http, "request", lambda *words, **more: Response(status, {}, next(answers).encode()))


def test_metrics_of_all_workers_and_models_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    client = litellm.LiteLLM("http://x", "k")
    served(monkeypatch, METRICS.format("40.0"), "# nothing yet\n", "")
    assert client.requests_served() == 42
    assert client.requests_served() is None
    served(monkeypatch, "no such page", status=404)
    assert client.requests_served() is None


def test_without_a_whole_day_the_metrics_tell_the_rate(place: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    served(monkeypatch, METRICS.format("40.0"), METRICS.format("140.0"))
    found = traffic.measure(place, 7, 0.2)
    assert 250 < found["peak"] <= 500 and found["per_day"] is None, found
    assert (found["audit_per_day"], found["cached_prompts"]) == (7, 5) and "metrics" in found["source"]


@pytest.mark.parametrize(("after", "says"), [("40.0", "counted no request in"), ("3.0", "counted no request in")])
def test_no_traffic_is_said(place: Installation, monkeypatch: pytest.MonkeyPatch, after: str, says: str) -> None:
    served(monkeypatch, METRICS.format("40.0"), METRICS.format(after))
    with pytest.raises(ScutumError, match=says) as caught:
        traffic.measure(place, 7, 0.01)
    assert "scutum_limits_requests_per_day" in caught.value.next_step


def watched(monkeypatch: pytest.MonkeyPatch, idle: float, own: float, host: float) -> list[str]:
    """The reasons, when a transaction has been idle for so long, and LiteLLM and the host have used so much of a second."""
    groups = iter([cgroup.Group(0, 2.0, 0, 0, 0, 10.0), cgroup.Group(0, 2.0, 0, 0, 0, 10.0 + own)])
    busy = iter([100.0, 100.0 + host])
    clock = iter([0.0, 1.0])
    containers: dict[str, Any] = {"litellm": {"State": {"Pid": 7}}}
    monkeypatch.setattr(Compose, "containers", lambda self, project: containers)
    monkeypatch.setattr(Database, "idle_in_transaction", lambda self: idle)
    monkeypatch.setattr(traffic.cgroup, "of", lambda pid: next(groups))
    monkeypatch.setattr(traffic, "_busy", lambda: next(busy))
    monkeypatch.setattr(traffic.os, "cpu_count", lambda: 4)
    monkeypatch.setattr(traffic.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(traffic.time, "sleep", lambda seconds: None)
    return list(traffic.signals(Installation("/nonexistent"), 1, lambda line: None)["scale_out"])


@pytest.mark.parametrize(
    ("idle", "own", "host", "says"),
    [
        (5, 0.5, 1.0, []),
        (90, 0.5, 1.0, ["Postgres: a transaction has been open and idle for 90 s"]),
        # 95 % of its two cores, and the host has half of its four to spare.
        (5, 1.9, 2.0, ["LiteLLM uses 95% of its CPUs and the host 50%"]),
        # The whole box is busy: that is no sign of too few workers.
        (5, 1.9, 3.9, []),
    ],
)
def test_signals(monkeypatch: pytest.MonkeyPatch, idle: float, own: float, host: float, says: list[str]) -> None:
    found = watched(monkeypatch, idle, own, host)
    assert len(found) == len(says) and all(text in reason for text, reason in zip(says, found, strict=True)), found


def test_signals_need_a_litellm_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Compose, "containers", lambda self, project: {})
    with pytest.raises(ScutumError, match="litellm does not run"):
        traffic.signals(Installation("/nonexistent"), 1, lambda line: None)
