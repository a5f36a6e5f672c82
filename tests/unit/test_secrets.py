# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets on a host: interpolation, files that a shell reads back, what may stand where, ages, a verifier that Postgres knows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.scutum.ops.plugins.module_utils import (
    env_file,
    override,
    scram,
    secret_ages,
    secret_injection,
    secret_store,
)
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from ansible_collections.scutum.ops.plugins.module_utils.interpolation import escape, interpolate, variables
from hypothesis import given
from hypothesis import strategies as st

VALUES = {
    "SCUTUM_API_KEY": "sk-" + "a" * 64,
    "JWT_SECRET_KEY": "j" * 64,
    "INTERNAL_SERVICE_KEY": "i" * 64,
    "POSTGRES_PASSWORD": "p" * 32,
    "LITELLM_SALT_KEY": "s" * 64,
}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a$$b", "a$b"),
        ("$A-${A}", "1-1"),
        ("${A:-x}${B:-x}${B-x}${C:-x}${C-x}", "1xxx"),
        ("${B:-${C:-${A}}}", "1"),
        ("postgresql://${U:-l}:${A}@h/${D:-d}", "postgresql://l:1@h/d"),
        ("${A:+y}${B:+y}${C+y}", "yy"),
        ("$", "$"),
        ("100%", "100%"),
    ],
)
def test_interpolation_is_composes(text: str, wanted: str) -> None:
    assert interpolate(text, {"A": "1", "C": ""}) == wanted


def test_interpolation_names_what_is_missing() -> None:
    with pytest.raises(ScutumError, match="B is needed"):
        interpolate("${B:?is needed}", {})
    with pytest.raises(ScutumError, match="not closed"):
        interpolate("${B", {})
    assert variables("${A:-${B}} $C $$D ${E?x}") == {"A", "B", "C", "E"}


@given(st.text(max_size=30))
def test_an_escaped_text_comes_back(text: str) -> None:
    assert interpolate(escape(text), {}) == text


HARD = [
    "a$b",
    "it's",
    'say "x"',
    "two\nlines",
    "# no comment",
    "  blank first",
    "ünï→",
    "x" * 10_000,
    "`id`",
    "\\n",
    "!",
]


def test_a_services_file_is_read_back_by_a_shell_whatever_it_holds(tmp_path: Path) -> None:
    store = secret_store.Store(str(tmp_path), "p")
    store.directory = str(tmp_path)
    (tmp_path / "values.json").write_text(json.dumps({f"K{n}": value for n, value in enumerate(HARD)}))
    places = {"s": {"user": 0, "environment": {f"N{n}": f"${{K{n}}}" for n in range(len(HARD))}}}
    file = tmp_path / "file"
    file.write_text(store.render({}, places)["s"])
    show = "import json, os; print(json.dumps({k: v for k, v in os.environ.items() if k[0] == 'N'}))"
    command = ["sh", "-c", f'. {file} && exec "$@"', "scutum", sys.executable, "-c", show]
    out = subprocess.run(command, capture_output=True, text=True, check=True, env={"LC_ALL": "C.UTF-8"}).stdout
    assert json.loads(out) == {f"N{n}": value for n, value in enumerate(HARD)}


def test_a_mark_changes_with_the_secret_and_tells_nothing(tmp_path: Path) -> None:
    store = secret_store.Store(str(tmp_path), "p")
    store.directory = str(tmp_path)
    one, other = secret_store.mark_variable("admin-api"), secret_store.mark_variable("other")
    places = {
        "admin-api": {"user": 0, "environment": {"N": "${K}"}},
        "other": {"user": 0, "environment": {"M": "${L}"}},
    }
    (tmp_path / "values.json").write_text('{"K": "one", "L": "x"}')
    first = store.marks({}, places)
    assert store.marks({}, places) == first and one == "SCUTUM_OPS_MARK_ADMIN_API"
    (tmp_path / "values.json").write_text('{"K": "two", "L": "x"}')
    second = store.marks({}, places)
    assert second[one] != first[one] and second[other] == first[other]
    elsewhere = secret_store.Store(str(tmp_path / "host2"), "p")
    elsewhere.directory = str(tmp_path)
    assert elsewhere.marks({}, places)[one] != second[one], "another host has another key"


def test_a_new_password_does_not_recreate_postgres(tmp_path: Path) -> None:
    store = secret_store.Store(str(tmp_path), "p")
    store.directory = str(tmp_path)
    places = {name: {"user": 0, "environment": {"POSTGRES_PASSWORD": "${P}"}} for name in ("postgres", "other")}
    (tmp_path / "values.json").write_text('{"P": "one"}')
    first = store.marks({}, places)
    (tmp_path / "values.json").write_text('{"P": "two"}')
    second = store.marks({}, places)
    assert {name for name in first if first[name] != second[name]} == {"SCUTUM_OPS_MARK_OTHER"}


MODEL = {
    "services": {
        "litellm": {
            "image": "l",
            "command": ["--port", "4000"],
            "environment": {
                "LITELLM_MASTER_KEY": "${SCUTUM_API_KEY:-${LITELLM_MASTER_KEY:-}}",
                "DATABASE_URL": "postgresql://${POSTGRES_USER:-l}:${POSTGRES_PASSWORD:-l}@postgres:5432/${POSTGRES_DB:-l}",
                "AWS_REGION_NAME": "${AWS_REGION_NAME:-us-east-1}",
            },
        },
        "admin-ui": {"image": "u", "environment": {"ADMIN_API_URL": "http://admin-api:8086"}},
    }
}


class Images:
    """The engine, as far as it is asked for images."""

    def images(self, references: list[str]) -> dict[str, Any]:
        known = {
            "l": {"Id": "i", "Config": {"User": "1000", "Entrypoint": ["python3", "-m", "entrypoint"], "Cmd": ["x"]}}
        }
        return {name: known[name] for name in references if name in known}


def test_each_service_gets_just_its_keys_and_runs_what_it_ran() -> None:
    engine: Any = Images()
    assert secret_injection.users(engine, MODEL, {}) == {"litellm": 1000}
    places = secret_injection.places(MODEL, set(VALUES), {"litellm": 1000, "admin-ui": 0})
    assert set(places) == {"litellm"} and set(places["litellm"]["environment"]) == {
        "LITELLM_MASTER_KEY",
        "DATABASE_URL",
    }
    made = secret_injection.override(engine, MODEL, MODEL, places, {"litellm": "/run/x"})
    service = made["services"]["litellm"]
    assert service["entrypoint"][2:] == ['. /run/scutum-secrets && exec "$$@"', "scutum", "python3", "-m", "entrypoint"]
    assert service["labels"] == {"ops.scutum.secrets": "${SCUTUM_OPS_MARK_LITELLM:-}"}
    assert service["command"] == ["--port", "4000"] and set(service["environment"].values()) == {""}
    del MODEL["services"]["litellm"]["command"]
    made = secret_injection.override(engine, MODEL, MODEL, places, {"litellm": "/run/x"})
    assert made["services"]["litellm"]["command"] == ["x"], "the image's own, which an entrypoint would drop"
    text = override.build(MODEL, secrets=made)
    assert "us-east-1" not in text and ":?" not in text and "ppp" not in text


def test_what_a_source_may_hold() -> None:
    assert env_file.problems_of_source({**VALUES, "OPENAI_API_KEY": "a$b 'c'\n", "X": "ü" * 5000}) == []
    wrong = {
        "POSTGRES_PASSWORD": "canary@x",
        "JWT_SECRET_KEY": "short",
        "INTERNAL_SERVICE_KEY": "CHANGE-ME-canary-openssl-rand-hex-32",
        "SCUTUM_API_KEY": "canary",
        "LICENSE_KEY": "canary",
        "SCUTUM_VERSION": "canary",
        "N": "canary\0",
    }
    text = "; ".join(env_file.problems_of_source(wrong))
    assert (
        "canary" not in text
        and "'@' (commercial at)" in text
        and "JWT_SECRET_KEY has 5 bytes: 32 are the least" in text
    )
    assert all(key in text for key in wrong)


def test_config_env_with_secrets_elsewhere() -> None:
    template = "SCUTUM_API_KEY=sk-CHANGE-ME\nJWT_SECRET_KEY=CHANGE-ME\nPOSTGRES_USER=scutum\nOPENAI_API_KEY=\n"
    fresh, changed = env_file.plan(None, template, {}, "", VALUES)
    assert not set(changed) & {"JWT_SECRET_KEY", "POSTGRES_PASSWORD"} - {"JWT_SECRET_KEY"}
    assert all(value not in fresh.render() for value in VALUES.values()) and "CHANGE-ME" not in fresh.render()
    assert env_file.plan(fresh.render(), template, {}, "", VALUES)[1] == []
    today = "".join(f"{key}={value}\n" for key, value in VALUES.items())
    moved, changed = env_file.plan(today, template, {}, "", VALUES)
    assert set(changed) == set(VALUES) and not [value for value in moved.as_dict().values() if value]
    back, changed = env_file.plan(moved.render(), template, VALUES)
    assert set(changed) == set(VALUES) and back.as_dict().items() >= VALUES.items()
    with pytest.raises(ScutumError, match=r"JWT_SECRET_KEY in config/.env and JWT_SECRET_KEY in the source differ"):
        env_file.plan(today, template, {}, "", {**VALUES, "JWT_SECRET_KEY": "k" * 64})
    with pytest.raises(ScutumError, match="SCUTUM_API_KEY is set in scutum_env and in the source"):
        env_file.plan(today, template, {"SCUTUM_API_KEY": "sk-x"}, "", VALUES)


DAY = 86400.0


def test_the_record_knows_what_is_in_force_without_values(tmp_path: Path) -> None:
    record = secret_ages.Record(str(tmp_path))
    assert record.is_in_force("JWT_SECRET_KEY", "one") is None
    assert record.note({"JWT_SECRET_KEY": "one", "OPENAI_API_KEY": "x"}, now=0) == ["JWT_SECRET_KEY", "OPENAI_API_KEY"]
    assert record.note({"JWT_SECRET_KEY": "one", "OPENAI_API_KEY": "x"}, now=DAY) == []
    assert record.is_in_force("JWT_SECRET_KEY", "one") is True and record.is_in_force("JWT_SECRET_KEY", "x") is False
    texts = "".join(path.read_text() for path in tmp_path.iterdir())
    assert "one" not in texts and (tmp_path / secret_ages.FILE).stat().st_mode & 0o777 == 0o600
    ages = {item["key"]: item for item in record.ages(now=90 * DAY)}
    assert ages["JWT_SECRET_KEY"]["due"] and ages["JWT_SECRET_KEY"]["due_at"] == "1970-04-01T00:00:00Z"
    assert not ages["OPENAI_API_KEY"]["due"] and ages["OPENAI_API_KEY"]["due_at"] == ""
    assert not [item for item in record.ages({"jwt": 91}, now=90 * DAY) if item["due"]]
    assert not [item for item in record.ages({"jwt": 0}, now=900 * DAY) if item["due"]]
    assert [item["key"] for item in record.ages({"OPENAI_API_KEY": 30}, now=30 * DAY) if item["due"]] == [
        "OPENAI_API_KEY"
    ]
    # A value that comes back has its age again; a key that is gone is forgotten.
    record.note({"JWT_SECRET_KEY": "two"}, now=91 * DAY)
    record.note({"JWT_SECRET_KEY": "one"}, now=92 * DAY, since={"JWT_SECRET_KEY": 0})
    assert [item["age_days"] for item in record.ages(now=92 * DAY)] == [92]


def test_the_verifier_is_the_one_that_postgres_makes() -> None:
    # Made by PostgreSQL 17: SET password_encryption='scram-sha-256'; CREATE ROLE r PASSWORD 'pencil'; SELECT rolpassword …
    stored, server = "GjlKrYOQRPrY3p/zMNsezSA19nMz88NIvlS7bjUkufE=", "kiIllQBZ+m+nI3mYbv3micNHUSgWSHKEPOwl8yKZWzw="
    made = f"SCRAM-SHA-256$4096:xGE1Q6iE2moa3vb5ruGNhQ==${stored}:{server}"
    salt = made.split("$")[1].split(":")[1]
    import base64

    assert scram.verifier("pencil", base64.b64decode(salt)) == made
    assert scram.verifier("pencil") != scram.verifier("pencil"), "a salt of its own"


def test_nothing_secret_stays_in_a_file_beside_a_source_at_run_time() -> None:
    template = "SCUTUM_API_KEY=\nGRAFANA_ADMIN_PASSWORD=CHANGE-ME\nPOSTGRES_USER=scutum\nLITELLM_PORT=4000\n"
    fresh, unused = env_file.plan(None, template, {}, "", VALUES)
    assert fresh.get("GRAFANA_ADMIN_PASSWORD") == "" and not fresh.secrets()
    today = "GRAFANA_ADMIN_PASSWORD=made\nLITELLM_PORT=4000\n" + "".join(
        f"{key}={value}\n" for key, value in VALUES.items()
    )
    moved, changed = env_file.plan(today + "JWT_SECRET_KEY_PREVIOUS=old\nJWT_SECRET_KEY_NEXT=new\n", "", {}, "", VALUES)
    assert not moved.secrets() and "GRAFANA_ADMIN_PASSWORD" in changed and moved.get("LITELLM_PORT") == "4000"
    for wanted, profiles, words in (
        (
            {"OPENAI_API_KEY": "canary"},
            "",
            "OPENAI_API_KEY is not in the source of secrets, and would still lie in config/.env",
        ),
        ({}, "observability", "GRAFANA_ADMIN_PASSWORD is not in the source"),
    ):
        with pytest.raises(ScutumError) as error:
            env_file.plan(today, "", wanted, profiles, VALUES)
        assert words in str(error.value) and "canary" not in str(error.value)
    kept, unused = env_file.plan(today, "", {}, "observability", {**VALUES, "GRAFANA_ADMIN_PASSWORD": "made"})
    assert not kept.secrets()


def test_what_a_line_cannot_hold_is_refused_before_it_is_written() -> None:
    today = "".join(f"{key}={value}\n" for key, value in VALUES.items())
    wanted = {"OPENAI_API_KEY": "canary\nLICENSE_KEY=x", "tls/key": "canary", "N": " canary", "M": "a #canary"}
    with pytest.raises(ScutumError) as error:
        env_file.plan(today, "", wanted)
    text = str(error.value)
    assert "OPENAI_API_KEY must not hold white space" in text and "tls/key is not the name of a variable" in text
    assert "N must not" in text and "M must not" in text and "canary" not in text
    assert env_file.problems_of_source({**VALUES, "JWT_SECRET_KEY": "j" * 64 + "\n"}) == [
        "JWT_SECRET_KEY begins or ends with white space (a line break that echo added?)"
    ]
    with pytest.raises(ScutumError, match="A is set in scutum_env and in the source of secrets"):
        env_file.refuse_both({"A": "1"}, {"A": "2"})
