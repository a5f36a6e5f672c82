# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Small parts: YAML text, redaction, atomic files, image names, sums."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.scutum.ops.plugins.module_utils import (
    engine,
    override,
    release,
    schema_guard,
    stack,
    yaml_text,
)
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from ansible_collections.scutum.ops.plugins.module_utils.files import write_file
from ansible_collections.scutum.ops.plugins.module_utils.litellm_config import build, literal_secrets
from ansible_collections.scutum.ops.plugins.module_utils.redact import redact, without_rows
from hypothesis import given
from hypothesis import strategies as st

TEXT = st.text(max_size=20)
KEYS = st.text(min_size=1, max_size=8)
LEAVES = st.none() | st.booleans() | st.integers() | TEXT
TREES = st.dictionaries(
    KEYS,
    st.recursive(
        LEAVES,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
        max_leaves=12,
    ),
    min_size=1,
    max_size=4,
)


@given(TREES)
def test_yaml_text_is_read_back_by_a_yaml_library(tree: dict[str, Any]) -> None:
    assert yaml.safe_load(yaml_text.render(tree)) == tree


def test_override_replaces_ports_and_keeps_the_vendors_variables() -> None:
    model = {
        "services": {
            "litellm": {
                "image": "ghcr.io/scutum-dev/scutum-litellm:${SCUTUM_VERSION:-0.1.0}",
                "ports": ["${LITELLM_PORT:-4000}:4000"],
                "command": ["--num_workers", "4", "--use_prisma_db_push"],
            },
            "redis": {"image": "redis:7-alpine"},
        }
    }
    text = override.build(model, image_registry="mirror.example:5000/x", bind_address="::1", litellm_workers=2)
    assert 'ports: !override\n      - "[::1]:${LITELLM_PORT:-4000}:4000"' in text
    assert '"mirror.example:5000/x/scutum-dev/scutum-litellm:${SCUTUM_VERSION:-0.1.0}"' in text
    assert '"mirror.example:5000/x/library/redis:7-alpine"' in text
    assert 'command: !override\n      - "--num_workers"\n      - "2"' in text
    assert 'DISABLE_SCHEMA_UPDATE: "true"' in text
    assert "ports" not in override.build(model, bind_address=None)


def test_an_address_before_the_port_is_replaced() -> None:
    model = {"services": {"litellm": {"ports": ["0.0.0.0:${P:-1}:4000", {"published": "${Q:-2}", "target": 80}]}}}
    text = override.build(model, bind_address="10.0.0.1")
    assert '"10.0.0.1:${P:-1}:4000"' in text and '"10.0.0.1:${Q:-2}:80"' in text


def test_workers_without_the_option_in_the_release_are_refused() -> None:
    with pytest.raises(ScutumError, match="scutum_litellm_workers"):
        override.build({"services": {"litellm": {"command": ["--port", "1"]}}}, litellm_workers=1)


@pytest.mark.parametrize(
    ("reference", "mirrored"),
    [
        ("ghcr.io/scutum-dev/scutum-docs:1", "m/scutum-dev/scutum-docs:1"),
        ("postgres:16-alpine", "m/library/postgres:16-alpine"),
        ("prom/prometheus:v2", "m/prom/prometheus:v2"),
        ("localhost:5000/a:1", "m/a:1"),
    ],
)
def test_mirror_names(reference: str, mirrored: str) -> None:
    assert engine.mirrored(reference, "m") == mirrored
    assert engine.mirrored(reference, "") == reference


def test_versions_compare_as_numbers() -> None:
    assert engine.version_tuple("v2.24.10-1") > engine.version_tuple("2.24.4")
    assert engine.version_tuple("20.10.24+dfsg1") >= engine.MINIMUM_ENGINE
    assert engine.version_tuple("nonsense") == (0, 0, 0)


def test_redaction_takes_the_longest_value_first() -> None:
    assert redact("a abcdef abcdefgh", {"X": "abcdef", "Y": "abcdefgh", "Z": "a"}) == "a [X] [Y]"


PREFIX = "2026-11-27 19:00:00.000 UTC [123] "


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("ERROR:  bad\nDETAIL:  Failing row contains (canary).\nHINT:  x", "ERROR:  bad\nHINT:  x"),
        ("DETAIL: canary\nCONTEXT: canary\nend\n", "end\n"),
        # As the server's log has it, with whatever prefix, and with the row's own ends of lines.
        (f"{PREFIX}ERROR:  bad\n{PREFIX}DETAIL:  Failing row contains (1, canary\n\tcanary\n\t\n\tcanary).\n{PREFIX}LOG:  x",
         f"{PREFIX}ERROR:  bad\n{PREFIX}LOG:  x"),
        ("me@db:[12]:CONTEXT:  COPY t, line 1: canary\n\tcanary", ""),
        ("postgres-1  | [12] DETAIL:  Key (a)=(canary\npostgres-1  | \tcanary)\npostgres-1  | [12] LOG:  x", "postgres-1  | [12] LOG:  x"),
        # What Python takes for the end of a line, and Postgres does not.
        ("DETAIL:  Failing row contains (a\x0bcanary\u2028canary\rcanary).\nend", "end"),
        # Nothing but rows goes.
        (f"{PREFIX}ERROR:  column DETAIL:  is unknown\n\tat line 2", f"{PREFIX}ERROR:  column DETAIL:  is unknown\n\tat line 2"),
        ("INFO see DETAIL: above\nno DETAIL\n\ta tab", "INFO see DETAIL: above\nno DETAIL\n\ta tab"),
        (f"{PREFIX}DETAIL:  canary\nTraceback\n\tx", "Traceback\n\tx"),
        ("A" * 200000 + "\n", "A" * 200000 + "\n"),
    ],
)  # fmt: skip
def test_rows_that_postgres_quotes_are_left_out(text: str, kept: str) -> None:
    assert without_rows(text) == kept


def test_files_are_replaced_whole_and_only_when_different(tmp_path: Path) -> None:
    path = str(tmp_path / "f")
    assert write_file(path, "one", 0o600)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert not write_file(path, "one", 0o600)
    assert write_file(path, "two", 0o600, check=True) and Path(path).read_text() == "one"
    assert write_file(path, "one", 0o640) and stat.S_IMODE(os.stat(path).st_mode) == 0o640
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("version", ["", "latest", "0.1", "v0.1.0", "0.1.x", "main"])
def test_unpinned_versions_are_refused(version: str) -> None:
    with pytest.raises(ScutumError, match="scutum_version"):
        release.check_version(version)


def test_guard_sees_every_loss_of_a_foreign_table_and_none_of_litellms() -> None:
    before = {
        "public.audit_logs": 5,
        "public.teams": 2,
        "public.LiteLLM_SpendLogs": 9,
        "public.v": -1,
        "public.gone": 0,
    }
    after = {"public.audit_logs": 5, "public.teams": 1, "public.new": 1}
    assert schema_guard.losses(before, before) == []
    found = schema_guard.losses(before, after)
    assert found == [
        "public.gone is gone (it had 0 rows)",
        "public.teams has 1 rows (it had 2)",
        "public.v is gone (a view)",
    ]


def test_litellm_configuration_always_has_the_prometheus_callback() -> None:
    for baked in (
        {},
        {"litellm_settings": {"callbacks": "other"}},
        {"litellm_settings": {"callbacks": ["prometheus"]}},
    ):
        callbacks = yaml.safe_load(build(baked, {}))["litellm_settings"]["callbacks"]
        assert callbacks.count("prometheus") == 1
    text = build({"model_list": [1], "a": {"x": 1, "y": 2}}, {"model_list": [2], "a": {"y": 3}})
    assert yaml.safe_load(text)["model_list"] == [2] and yaml.safe_load(text)["a"] == {"x": 1, "y": 3}


def test_secrets_in_the_litellm_configuration_are_found_by_place() -> None:
    config = {"model_list": [{"litellm_params": {"api_key": "canary", "model": "x"}}]}
    place = "scutum_litellm_config.model_list.0.litellm_params.api_key"
    assert literal_secrets(config) == {place: "canary"}
    assert literal_secrets({"general_settings": {"max_tokens": "x", "api_key": "os.environ/K"}}) == {}
    hidden = ("aws_secret_access_key", "vertex_credentials", "LANGFUSE_SECRET_KEY", "database_url", "master_key")
    assert len(literal_secrets({"litellm_params": dict.fromkeys(hidden, "canary")})) == len(hidden)


def test_the_cause_above_a_long_traceback_is_shown() -> None:
    log = "\n".join(["INFO start", "ERROR admin-api Migration failed: x", *(f"  frame {n}" for n in range(40))] * 3)
    shown = stack.telling(log).splitlines()
    assert shown[0] == "ERROR admin-api Migration failed: x" and len(shown) == 16 and shown[-1] == "  frame 39"
    assert stack.telling("one\ntwo") == "one\ntwo"
