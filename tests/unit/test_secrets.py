# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets from a source: interpolation, files that a shell reads back, what each failure says, the double of Vault by hvac."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.scutum.ops.plugins.module_utils import (
    env_file,
    override,
    secret_injection,
    secret_sources,
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
    places = {"s": {"user": 0, "environment": {"N": "${K}"}}, "other": {"user": 0, "environment": {"M": "${L}"}}}
    (tmp_path / "values.json").write_text('{"K": "one", "L": "x"}')
    first = store.marks({}, places)
    assert store.marks({}, places) == first
    (tmp_path / "values.json").write_text('{"K": "two", "L": "x"}')
    second = store.marks({}, places)
    assert second["s"] != first["s"] and second["other"] == first["other"]
    elsewhere = secret_store.Store(str(tmp_path / "host2"), "p")
    elsewhere.directory = str(tmp_path)
    assert elsewhere.marks({}, places)["s"] != second["s"], "another host has another key"


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
    made = secret_injection.override(engine, MODEL, MODEL, places, {"litellm": "/run/x"}, {"litellm": "m"})
    service = made["services"]["litellm"]
    assert service["entrypoint"][2:] == ['. /run/scutum-secrets && exec "$$@"', "scutum", "python3", "-m", "entrypoint"]
    assert service["command"] == ["--port", "4000"] and set(service["environment"].values()) == {""}
    del MODEL["services"]["litellm"]["command"]
    made = secret_injection.override(engine, MODEL, MODEL, places, {"litellm": "/run/x"}, {})
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


ROOT = "hvs.root-canary-51c7"


@pytest.fixture(name="vault")
def fixture_vault() -> Iterator[Any]:
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "testbed/doubles"))
    import vault

    server = vault.Server(ROOT, slow=1.5)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def url(vault: Any) -> str:
    return f"http://127.0.0.1:{vault.server_port}"


def test_the_double_keeps_to_what_hvac_expects(vault: Any) -> None:
    import hvac
    import hvac.exceptions

    root = hvac.Client(url=url(vault), token=ROOT)
    kv2 = root.secrets.kv.v2
    kv2.create_or_update_secret(path="scutum/a", secret={"K": "1"}, mount_point="secret")
    kv2.create_or_update_secret(path="scutum/a", secret={"K": "2"}, mount_point="secret")
    read = kv2.read_secret_version
    assert read(path="scutum/a", mount_point="secret", raise_on_deleted_version=True)["data"]["data"] == {"K": "2"}
    old = read(path="scutum/a", mount_point="secret", version=1, raise_on_deleted_version=True)
    assert old["data"]["data"] == {"K": "1"} and old["data"]["metadata"]["version"] == 1
    for wanted in ({"path": "none"}, {"path": "scutum/a", "version": 9}):
        with pytest.raises(hvac.exceptions.InvalidPath):
            read(mount_point="secret", raise_on_deleted_version=True, **wanted)
    root.secrets.kv.v1.create_or_update_secret(path="scutum/b", secret={"K": "3"}, mount_point="kv1")
    assert root.secrets.kv.v1.read_secret(path="scutum/b", mount_point="kv1")["data"] == {"K": "3"}
    vault.vault.roles["r"] = "s"
    reader = hvac.Client(url=url(vault))
    reader.auth.approle.login(role_id="r", secret_id="s")
    assert reader.secrets.kv.v2.read_secret_version(
        path="scutum/a", mount_point="secret", raise_on_deleted_version=True
    )
    with pytest.raises(hvac.exceptions.Forbidden):
        reader.secrets.kv.v2.read_secret_version(path="other", mount_point="secret", raise_on_deleted_version=True)
    with pytest.raises(hvac.exceptions.Forbidden):
        reader.secrets.kv.v2.create_or_update_secret(path="scutum/a", secret={"K": "9"}, mount_point="secret")
    with pytest.raises(hvac.exceptions.InvalidRequest):
        hvac.Client(url=url(vault)).auth.approle.login(role_id="r", secret_id="wrong")
    spaced = hvac.Client(url=url(vault), token=ROOT, namespace="ns")
    with pytest.raises(hvac.exceptions.InvalidPath):
        spaced.secrets.kv.v2.read_secret_version(path="scutum/a", mount_point="secret", raise_on_deleted_version=True)
    vault.vault.fault = "sealed"
    assert root.seal_status["sealed"] is True
    with pytest.raises(hvac.exceptions.VaultDown):
        read(path="scutum/a", mount_point="secret", raise_on_deleted_version=True)


def ask(vault: Any, timeout: float = 5, credential: dict[str, str] | None = None, **options: Any) -> dict[str, str]:
    settings = {"url": url(vault), "path": "scutum/production"} | options
    return secret_sources.read("hashi_vault", settings, credential or {"token": ROOT}, timeout)


def test_vault_is_asked_once_for_all_keys(vault: Any) -> None:
    vault.vault.kv2["secret/data/scutum/production"] = [{**VALUES, "JWT_SECRET_KEY": "o" * 64}, {**VALUES, "EMPTY": ""}]
    vault.vault.kv2["ns/secret/data/scutum/production"] = [{**VALUES, "N": "in the namespace"}]
    vault.vault.kv1["kv1/scutum/production"] = VALUES
    vault.vault.roles["r"] = "s"
    assert ask(vault) == VALUES and vault.vault.reads == 1
    assert ask(vault, version=1)["JWT_SECRET_KEY"] == "o" * 64
    assert ask(vault, kv_version=1, mount="kv1") == VALUES
    assert ask(vault, namespace="ns")["N"] == "in the namespace"
    assert ask(vault, auth="approle", credential={"role_id": "r", "secret_id": "s"}) == VALUES


@pytest.mark.parametrize(
    ("fault", "options", "words"),
    [
        ("none", {"path": "scutum/none"}, "secret/scutum/none: there is no such secret (404)"),
        ("denied", {}, "may not read it (403)"),
        ("sealed", {}, "it is sealed (503)"),
        ("slow", {}, "no answer within 1 s"),
        ("closed", {}, "it cannot be reached (ConnectionError)"),
        ("broken", {}, "InternalServerError"),
        ("truncated", {}, "it cannot be reached"),
        ("none", {"url": "http://127.0.0.1:9"}, "it cannot be reached"),
        ("none", {}, "JWT_SECRET_KEY, POSTGRES_PASSWORD missing or empty"),
    ],
)
def test_each_failure_names_source_and_path_and_no_value(
    vault: Any, fault: str, options: dict[str, Any], words: str
) -> None:
    held = {key: f"canary-{value}" for key, value in VALUES.items()}
    del held["POSTGRES_PASSWORD"]
    vault.vault.kv2["secret/data/scutum/production"] = [{**held, "JWT_SECRET_KEY": ""}]
    vault.vault.fault = fault
    with pytest.raises(ScutumError) as error:
        ask(vault, timeout=1, **options)
    text = str(error.value)
    assert words in text and "hashi_vault" in text and "canary" not in text and "State: nothing was changed" in text


def test_settings_that_cannot_work_are_all_named() -> None:
    problems = secret_sources.SOURCES["hashi_vault"].problems
    assert len(problems({}, {})) == 3
    assert problems({"url": "u", "path": "p", "auth": "approle"}, {"role_id": "r"}) == [
        "scutum_secrets_credential.secret_id is missing (auth approle)"
    ]
    assert "none of approle, cert, jwt, token" in problems({"url": "u", "path": "p", "auth": "ldap"}, {})[0]
    assert problems({"url": "u", "path": "p"}, {"token": "t"}) == []
