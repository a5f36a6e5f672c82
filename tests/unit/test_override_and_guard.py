# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The override with the operator's additions, the guard's comparison, what a preflight refuses by itself."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible_collections.scutum.ops.plugins.module_utils import override, preflight, project, schema_guard, stack
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError, as_error

RELEASE = {
    "services": {
        "litellm": {
            "image": "l",
            "command": ["--port", "4000", "--num_workers", "4"],
            "ports": ["${LITELLM_PORT:-4000}:4000"],
        },
        "docs-site": {"image": "d", "ports": ["${DOCS_SITE_PORT:-8089}:80"]},
        "postgres": {"image": "postgres:16-alpine"},
    }
}


class Loader(yaml.SafeLoader):
    """Compose's own tags."""


Loader.add_constructor("!override", lambda loader, node: {"!override": loader.construct_sequence(node, deep=True)})


def built(extra: dict[str, Any] | None = None, **settings: Any) -> dict[str, Any]:
    """The override's services."""
    found = yaml.load(override.build(RELEASE, extra=extra, **settings), Loader)  # noqa: S506 - our own loader
    return dict(found["services"])


@pytest.mark.parametrize("extra", [None, {}, {"services": None}, {"services": {"litellm": None}}])
def test_the_guard_is_in_every_override(extra: Any) -> None:
    litellm = built(extra)["litellm"]
    assert litellm["environment"]["DISABLE_SCHEMA_UPDATE"] == "true" and litellm["volumes"]
    assert {service["pull_policy"] for service in built(extra).values()} == {"missing"}


def test_additions_take_nothing_of_ours_away() -> None:
    extra = {
        "environment": ["HTTPS_PROXY=http://p:1", "EMPTY"],
        "volumes": ["./ca.pem:/ca.pem:ro"],
        "tmpfs": ["/x"],
        "labels": ["a=b"],
    }
    litellm = built({"services": {"litellm": extra}})["litellm"]
    assert litellm["environment"]["HTTPS_PROXY"] == "http://p:1" and litellm["environment"]["EMPTY"] is None
    assert litellm["environment"]["DISABLE_SCHEMA_UPDATE"] == "true"
    assert len(litellm["volumes"]) == len(litellm["tmpfs"]) == 2
    assert litellm["labels"]["a"] == "b" and override.LABEL_CONFIG in litellm["labels"]


def test_ports_of_the_operator_replace_the_vendors() -> None:
    services = built(
        {"services": {"docs-site": {"ports": []}, "litellm": {"ports": ["127.0.0.1:1:4000"]}}}, bind_address="::1"
    )
    assert services["docs-site"]["ports"] == {"!override": []}
    assert services["litellm"]["ports"] == {"!override": ["127.0.0.1:1:4000"]}


def test_what_is_lost_all_the_same_is_named() -> None:
    good = {
        "environment": {
            "DISABLE_SCHEMA_UPDATE": "true",
            "LITELLM_SALT_KEY": "x",
            "PROMETHEUS_MULTIPROC_DIR": override.PROMETHEUS_DIRECTORY,
        },
        "volumes": [{"type": "bind", "target": override.LITELLM_CONFIG_IN_IMAGE}],
    }
    assert override.lost({"services": {"litellm": good}}) == []
    off = {**good, "environment": {**good["environment"], "DISABLE_SCHEMA_UPDATE": "false"}}  # type: ignore[dict-item]
    assert "each start may destroy tables" in override.lost({"services": {"litellm": off}})[0]
    assert len(override.lost({"services": {"litellm": {}}})) == 4


def test_workers() -> None:
    assert override.with_workers(["--num_workers", "4", "-x"], 1) == ["--num_workers", "1", "-x"]
    assert override.with_workers(["--num_workers"], 1) == ["--num_workers"] and override.with_workers([], 1) == []
    assert built(litellm_workers=2)["litellm"]["command"] == {"!override": ["--port", "4000", "--num_workers", "2"]}


def test_fewer_rows_and_missing_tables_are_losses_and_more_rows_are_none() -> None:
    before = {
        "public.audit_logs": 500,
        "public.gone": 3,
        "public.view": -1,
        "public.LiteLLM_Config": 7,
        "public.same": 0,
    }
    after = {"public.audit_logs": 520, "public.LiteLLM_Config": 0, "public.same": 0, "public.new": 1}
    assert schema_guard.losses(before, after) == ["public.gone is gone (it had 3 rows)", "public.view is gone (a view)"]
    assert schema_guard.losses({"public.a": 5}, {"public.a": 4}) == ["public.a has 4 rows (it had 5)"]


def test_everything_that_writes_is_stopped_for_a_window() -> None:
    model = {
        "services": {
            "litellm": {"environment": {"DATABASE_URL": "x"}},
            "budget-webhook": {"environment": {"DATABASE_URL": "x"}},
            "postgres": {"environment": {"POSTGRES_DB": "x"}},
            "redis": {},
        }
    }
    assert schema_guard.writers(model) == ["budget-webhook", "litellm"]


class Containers:
    """Compose, as far as a plan asks it."""

    class engine:
        @staticmethod
        def images(references: list[str]) -> dict[str, Any]:
            return {name: {"Id": name} for name in references}

    def __init__(self, **containers: dict[str, Any]) -> None:
        self.found = containers

    def containers(self, unused: str) -> dict[str, Any]:
        return self.found

    def hashes(self) -> dict[str, str]:
        return {"a": "h", "b": "h", "c": "h"}


def container(status: str = "running", digest: str = "h", image: str = "i") -> dict[str, Any]:
    return {"Config": {"Labels": {stack.LABEL_HASH: digest}}, "State": {"Status": status}, "Image": image}


def test_a_plan_names_what_has_to_be_done() -> None:
    model = {"name": "scutum", "services": {name: {"image": "i"} for name in "abc"}}
    found = Containers(a=container(), b=container(digest="other"), off=container(), gone=container("exited"))
    assert stack.plan(found, model) == {"b": "recreate", "c": "create", "off": "stop"}  # type: ignore[arg-type]
    found = Containers(a=container("exited"), b=container(image="older"), c=container())
    assert stack.plan(found, model) == {"a": "start", "b": "recreate"}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("engine", "installed", "source", "words"),
    [
        ({"present": False}, False, "auto", ""),
        ({"present": False}, True, "auto", "its daemon does not answer"),
        ({"present": False}, False, "none", "there is none"),
        ({"present": True, "server": "26.1", "compose": ""}, True, "auto", "Docker Compose is missing"),
        ({"present": True, "server": "26.1", "compose": "2.20.3"}, True, "auto", "2.20.3 is too old"),
        ({"present": True, "server": "19.3", "compose": "2.26.1"}, True, "auto", "Docker Engine 19.3 is too old"),
        ({"present": True, "server": "26.1", "compose": "2.26.1"}, True, "auto", ""),
    ],
)
def test_engines_that_will_do(engine: dict[str, Any], installed: bool, source: str, words: str) -> None:
    problems = " ".join(preflight._engine_problems(engine, installed, source))
    assert words in problems and bool(words) == bool(problems)


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("http://h/x", True),
        ("https://h:8443", True),
        ("ftp://x", False),
        ("http://exa mple/x", False),
        ("http://h:P/x", False),
    ],
)
def test_urls(url: str, good: bool) -> None:
    assert preflight._is_url(url) is good


def test_an_edited_compose_file_is_shown_without_what_stands_in_clear_in_it() -> None:
    assert project._hide_values("+      OPENAI_API_KEY: sk-canary\n") == "+      OPENAI_API_KEY: …\n"
    assert project._hide_values('+      - "API_KEY=sk-canary"\n') == '+      - "API_KEY=…\n'
    kept = "+      JWT_SECRET_KEY: ${JWT_SECRET_KEY}\n"
    assert project._hide_values(kept) == kept and project._hide_values("+    - 5174:80\n") == "+    - 5174:80\n"


def test_what_the_system_refuses_has_the_same_three_parts() -> None:
    error = as_error(OSError(28, "No space left on device", "/opt/x"))
    assert "No space left on device: '/opt/x'" in error.what and error.left and "df -h" in error.next_step
    known = ScutumError("x")
    assert as_error(known) is known
