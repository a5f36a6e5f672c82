"""Values that are wrong: refused before anything changes, naming the variable, what was wrong, what to do."""

from __future__ import annotations

from typing import Any

import pytest
from scenario import Host, playbook

host = Host("scutum-faults")

# Types and choices, refused by the argument specification: all of them in one run, which has to name each.
WRONG_TYPES: dict[str, Any] = {
    "scutum_profiles": ["everything"],
    "scutum_install_engine": "podman",
    "scutum_smoke_models": {"a": 1},
    "scutum_env": "A",
    "scutum_litellm_workers": "many",
    "scutum_image_digests": [1],
    "scutum_release_sha256": 5,
    "scutum_litellm_config": "x",
    "scutum_compose_override": "x",
    "scutum_install_min_free_mb": "lots",
    "scutum_install_start_timeout": "soon",
    "scutum_install_replace_compose": "perhaps",
    "scutum_install_engine_packages": {"a": 1},
    "scutum_install_engine_repository": "x",
}

# What types cannot say, refused by the preflight: all in one run, which has to report each.
WRONG_VALUES: dict[str, Any] = {
    "scutum_version": "0.0.1",
    "scutum_bind_address": "everywhere",
    "scutum_image_registry": "https://m.example",
    "scutum_image_digests": {"redis": "abc"},
    "scutum_release_sha256": {"scutum": "abc", "other": "0" * 64},
    "scutum_release_base_url": "ftp://x",
    "scutum_litellm_workers": 0,
    "scutum_env": {
        "POSTGRES_PASSWORD": "canary@x",
        "OPENAI_API_KEY": "canary$x",
        "SCUTUM_VERSION": "0.2.0",
        "LITELLM_PORT": "http",
        "POSTGRES_USER": "not scutum",
        "JWT_SECRET_KEY": None,
        "ANTHROPIC-API-KEY": "canary-2",
    },
    "scutum_litellm_config": {
        "model_list": [{"litellm_params": {"aws_secret_access_key": "canary-key-1"}}],
        "litellm_settings": "x",
    },
    "scutum_install_start_timeout": 0,
    "scutum_install_min_free_mb": -1,
}
MESSAGES = [
    "scutum_version is 0.0.1, but 0.1.0 is installed",
    "scutum_bind_address: everywhere is not an IP address",
    "scutum_image_registry: https://m.example has to be host",
    "scutum_image_digests: redis needs sha256: and 64 hexadecimal digits",
    "scutum_release_sha256: scutum needs 64 hexadecimal digits",
    "scutum_release_sha256: other is no file of a bundle",
    "scutum_release_base_url: ftp://x is not an http(s) URL",
    "scutum_litellm_workers: 0 is not between 1 and 256",
    "POSTGRES_PASSWORD holds '@' (commercial at): it is put into DATABASE_URL",
    "POSTGRES_USER holds ' ' (space): it is put into DATABASE_URL",
    "scutum_env: JWT_SECRET_KEY has no value",
    "scutum_env: ANTHROPIC-API-KEY is not the name of a variable",
    "scutum_install_start_timeout: 0 is too small, 1 is the least",
    "scutum_install_min_free_mb: -1 is too small, 0 is the least",
    "scutum_litellm_config.litellm_settings has to be a mapping",
    "OPENAI_API_KEY must not hold a dollar sign",
    "SCUTUM_VERSION cannot be set through scutum_env",
    "LITELLM_PORT is not a port number",
    "scutum_litellm_config.model_list.0.litellm_params.aws_secret_access_key holds a secret",
    "State: nothing was changed",
]


@pytest.fixture(name="before", scope="module")
def fixture_before() -> str:
    return host.fingerprint()


def test_wrong_types_are_all_named(before: str) -> None:
    run = playbook("day_one.yml", "--limit", "scutum", **WRONG_TYPES)
    assert run.rc != 0
    missing = [name for name in WRONG_TYPES if f"'{name}'" not in run.flat and f"{name} must be one" not in run.flat]
    assert not missing, f"not refused: {missing}\n{run.out[-3000:]}"


def test_wrong_values_are_all_reported_at_once_and_without_secrets(before: str) -> None:
    run = playbook("day_one.yml", "--limit", "scutum", **WRONG_VALUES)
    assert run.rc != 0
    missing = [text for text in MESSAGES if text not in run.flat]
    assert not missing, f"not reported: {missing}\n{run.out[-3000:]}"
    printed = run.out.split("PLAY [", 1)[1]
    assert "canary" not in printed, "a refused value was shown"


@pytest.mark.parametrize("version", ["latest", ""])
def test_an_unpinned_install_is_refused(before: str, version: str) -> None:
    run = playbook("day_one.yml", "--limit", "scutum", scutum_version=version)
    assert run.rc != 0 and "it has to name one exact release" in run.flat, run.out[-2000:]
    assert (f"scutum_version is {version}" if version else "scutum_version is (not set)") in run.flat


def test_a_relative_directory_is_refused(before: str) -> None:
    run = playbook("day_one.yml", "--limit", "scutum", scutum_dir="opt/scutum")
    assert run.rc != 0 and "scutum_dir: opt/scutum is not an absolute path" in run.flat


def test_an_override_that_takes_the_schema_guard_away_is_refused(before: str) -> None:
    taken = {"services": {"litellm": {"environment": ["DISABLE_SCHEMA_UPDATE=false"]}}}
    run = playbook("day_one.yml", "--limit", "scutum", scutum_compose_override=taken)
    assert run.rc != 0 and "scutum_compose_override takes away what must stay: DISABLE_SCHEMA_UPDATE=true" in run.flat


def test_nothing_was_changed_by_any_of_them(before: str) -> None:
    assert host.fingerprint() == before


def test_a_lost_environment_file_is_not_made_anew() -> None:
    host.run("mv /opt/scutum/config/.env /root/env")
    run = playbook("day_one.yml", "--limit", "scutum")
    host.run("mv /root/env /opt/scutum/config/.env")
    assert run.rc != 0 and "the volume scutum_postgres-data holds a database" in run.flat
    assert "put config/.env back" in run.flat
