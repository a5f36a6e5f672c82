"""A staged copy without an engine: what its Compose file is made of, which secrets and places never get into it, what is refused."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.scutum.ops.plugins.module_utils import (
    env_file,
    override,
    project,
    quarantine,
    staged_copy,
    staging,
    upgrade_record,
    upgrade_rehearsal,
)
from ansible_collections.scutum.ops.plugins.module_utils.engine import Engine
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation
from ansible_collections.scutum.ops.plugins.module_utils.upgrade_settings import Settings
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
RELEASE = yaml.safe_load((ROOT / "testbed/standin/release/docker-compose.yaml").read_text())
OF, NAME = "/opt/scutum", "scutum-staging"


@pytest.fixture(name="installation")
def fixture_installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    installation = Installation(str(tmp_path / "scutum"))
    (tmp_path / "scutum/config").mkdir(parents=True)
    monkeypatch.setattr(Engine, "must", lambda *unused, **options: "")
    return installation


def test_the_quarantine_can_be_kept_as_settings_of_a_project() -> None:
    settings = project.Settings("0.2.0", compose_override=quarantine.override(RELEASE, NAME, OF, 1.0))
    assert json.loads(json.dumps(settings.compose_override)) == settings.compose_override


def test_every_service_is_capped_named_anew_and_published_nowhere() -> None:
    services = quarantine.override(RELEASE, NAME, OF, 0.5)["services"]
    assert services.keys() == RELEASE["services"].keys()
    for name, service in services.items():
        assert service["container_name"] == f"{NAME}-{name}" and service["restart"] == "no"
        assert service["labels"] == {staged_copy.LABEL: OF}
        assert service["deploy"]["resources"]["limits"]["cpus"] == "0.5"
        assert service.get("ports", []) == [] and ("ports" in service) == ("ports" in RELEASE["services"][name])
    text = override.build(RELEASE, bind_address="127.0.0.1", extra=quarantine.override(RELEASE, NAME, OF, 1.0))
    assert "ports: !override []" in text and "4000" not in text.replace(":4000/", "").split("networks:")[1]
    assert "127.0.0.1" not in text


def test_a_release_with_its_own_limits_gets_no_second_kind() -> None:
    release = {"services": {"a": {"image": "a", "mem_limit": "1g"}, "b": {"image": "b"}}}
    services = quarantine.override(release, NAME, OF, 1.0)["services"]
    assert "deploy" not in services["a"] and services["a"]["cpus"] == 1.0
    assert "mem_limit" not in services["b"]


def test_networks_are_internal_and_volumes_the_copys_own() -> None:
    found = quarantine.override(RELEASE, NAME, OF, 1.0)
    for name, network in found["networks"].items():
        assert network["internal"] is True and network["name"] == f"{NAME}_{name}"
        assert len(network["driver_opts"]["com.docker.network.bridge.name"]) <= 15
    assert {item["name"] for item in found["volumes"].values()} == {f"{NAME}_{name}" for name in RELEASE["volumes"]}


@given(st.text(min_size=1), st.text(min_size=1), st.text(min_size=1))
def test_an_interface_has_a_name_that_fits_and_is_its_own(of: str, one: str, other: str) -> None:
    assert len(quarantine.bridge(of, one).encode()) <= 15
    assert (quarantine.bridge(of, one) == quarantine.bridge(of, other)) == (one == other)


GOOD: dict[str, Any] = {
    "services": {
        "litellm": {
            "container_name": f"{NAME}-litellm",
            "volumes": [
                {"type": "bind", "source": "/opt/scutum-staging/config/litellm/config.yaml", "target": "/etc/x"}
            ],
        }
    },
    "networks": {"n": {"name": f"{NAME}_n", "internal": True}},
    "volumes": {"v": {"name": f"{NAME}_v"}},
}


@pytest.mark.parametrize(
    ("where", "value", "words"),
    [
        ("ports", [{"published": "4000"}], "publishes ports"),
        ("network_mode", "host", "has the network host"),
        ("privileged", True, "reaches into the host"),
        ("devices", ["/dev/kvm"], "reaches into the host"),
        ("volumes", [{"type": "bind", "source": "/opt/scutum/config", "target": "/x"}], "mounts /opt/scutum/config"),
        ("volumes", [{"type": "bind", "source": "/opt/scutum-staging-2/x", "target": "/x"}], "mounts"),
        ("volumes", [{"type": "bind", "source": "/var/run/docker.sock", "target": "/x"}], "mounts"),
        ("container_name", "scutum-proxy", "would be the container scutum-proxy"),
    ],
)
def test_what_leaks_is_found(where: str, value: Any, words: str) -> None:
    assert quarantine.leaks(GOOD, "/opt/scutum-staging", NAME) == []
    service = {**GOOD["services"]["litellm"], where: value}
    found = quarantine.leaks({**GOOD, "services": {"litellm": service}}, "/opt/scutum-staging", NAME)
    assert len(found) == 1 and words in found[0]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("networks", {"n": {"name": f"{NAME}_n"}}),
        ("networks", {"n": {"internal": True, "external": True}}),
        ("networks", {"default": None}),
        ("volumes", {"v": {"name": "scutum_postgres-data"}}),
        ("volumes", {"v": {"name": f"{NAME}_v", "external": True}}),
    ],
)
def test_a_network_that_leads_out_and_a_volume_of_others_are_found(key: str, value: Any) -> None:
    assert len(quarantine.leaks({**GOOD, key: value}, "/opt/scutum-staging", NAME)) == 1


BAKED = {
    "model_list": [{"model_name": "old", "litellm_params": {"model": "openai/old", "api_key": "none"}}],
    "litellm_settings": {"num_retries": 0, "success_callback": ["langfuse"]},
    "general_settings": {"master_key": "os.environ/LITELLM_MASTER_KEY", "alerting": ["slack"]},
}
CHANGES = {
    "model_list": [
        {
            "model_name": "gpt",
            "litellm_params": {
                "model": "azure/gpt", "api_key": "sk-production-key", "api_base": "https://production.example", "rpm": 10,
                "api_version": "2025", "extra_headers": {"Authorization": "Bearer sk-production-key"},
            },
            "model_info": {"mode": "chat"},
        },
        {"model_name": "mock", "litellm_params": {"model": "openai/x", "mock_response": "mine"}},
    ],
    "litellm_settings": {"cache": True, "cache_params": {"type": "redis", "password": "redis-password"}},
}  # fmt: skip


def test_models_are_mocks_and_nobody_is_told() -> None:
    found = quarantine.mocked(BAKED, CHANGES, False)
    assert [model["model_name"] for model in found["model_list"]] == ["gpt", "mock"]
    assert found["model_list"][0]["litellm_params"] == {
        "model": "azure/gpt",
        "rpm": 10,
        "api_key": "none",
        "mock_response": quarantine.MOCK,
    }
    assert found["model_list"][0]["model_info"] == {"mode": "chat"}
    assert found["model_list"][1]["litellm_params"]["mock_response"] == "mine"
    whole = override.merge(BAKED, found)
    assert whole["litellm_settings"]["success_callback"] == [] and whole["litellm_settings"]["num_retries"] == 0
    assert whole["general_settings"] == {"master_key": "os.environ/LITELLM_MASTER_KEY", "alerting": None}
    for secret in ("sk-production-key", "production.example", "redis-password"):
        assert secret not in json.dumps(whole)


def test_real_providers_are_asked_as_in_production_and_still_nobody_is_told() -> None:
    found = quarantine.mocked(BAKED, CHANGES, True)
    assert found["model_list"] == CHANGES["model_list"]
    assert found["litellm_settings"]["success_callback"] == []


ENV = """\
SCUTUM_VERSION=0.1.0
COMPOSE_FILE=x
SCUTUM_API_KEY=sk-production
JWT_SECRET_KEY=production-jwt
POSTGRES_PASSWORD=production-pg
POSTGRES_USER=scutum
POSTGRES_DB=scutum
LITELLM_SALT_KEY=production-salt
OPENAI_API_KEY=sk-openai
AZURE_API_BASE=https://production.example
SLACK_WEBHOOK_URL=https://hooks.example
LICENSE_KEY=production-licence
LITELLM_PORT=4444
AZURE_API_VERSION=2025-01-01
SRE_RISK_THRESHOLD=40
SMTP_HOST=mail.example
"""


def test_no_secret_and_no_place_gets_into_the_copys_environment(installation: Installation) -> None:
    Path(installation.path("config/.env")).write_text(ENV)
    wanted = Settings(
        version="0.2.0", environment={"NEW_WEBHOOK_URL": "https://new.example", "NEW_MODE": "fast", "UI_PORT": "1"}
    )
    found = quarantine.environment(installation, wanted)
    placeholder = found.pop("NEW_WEBHOOK_URL")
    assert placeholder.startswith("staged-") and env_file.problem_with("NEW_WEBHOOK_URL", placeholder) is None
    assert found == {
        "POSTGRES_USER": "scutum", "POSTGRES_DB": "scutum", "AZURE_API_VERSION": "2025-01-01", "SRE_RISK_THRESHOLD": "40",
        "NEW_MODE": "fast",
    }  # fmt: skip
    allowed = quarantine.environment(installation, Settings(version="0.2.0", staging_providers=True))
    assert allowed["OPENAI_API_KEY"] == "sk-openai" and allowed["LITELLM_SALT_KEY"] == "production-salt"
    assert not {"SLACK_WEBHOOK_URL", "LICENSE_KEY", "SCUTUM_API_KEY", "POSTGRES_PASSWORD"} & allowed.keys()


def refused(installation: Installation, wanted: Settings) -> str:
    with pytest.raises(ScutumError) as error:
        staging.create(installation, wanted, ["0.1.0", "0.2.0"], "id", lambda line: None)
    return error.value.what


def test_a_place_that_is_not_ours_is_refused_and_left_as_it_is(installation: Installation, tmp_path: Path) -> None:
    place = tmp_path / "scutum-staging"
    place.mkdir()
    (place / "file").write_text("somebody's")
    assert "nobody's copy" in refused(installation, Settings(version="0.2.0"))
    staged_copy.StagedCopy(str(place), "/opt/other").note()
    assert "a copy of /opt/other" in refused(installation, Settings(version="0.2.0"))
    assert staged_copy.load(installation, Settings(version="0.2.0")) is None
    assert (place / "file").read_text() == "somebody's"


@pytest.mark.parametrize("place", ["", "scutum", "scutum/staging"])
def test_a_copy_lies_beside_and_not_inside_or_around(installation: Installation, tmp_path: Path, place: str) -> None:
    assert "is not beside" in refused(installation, Settings(version="0.2.0", staging_directory=str(tmp_path / place)))


def test_a_copy_is_another_project(installation: Installation, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere/scutum"
    assert "production's" in refused(installation, Settings(version="0.2.0", staging_directory=str(other)))


def test_a_project_of_somebody_else_is_refused(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    def must(self: Engine, *words: str, **unused: Any) -> str:
        return "abc\n" if words[-1].endswith("project=scutum-staging") else ""

    monkeypatch.setattr(Engine, "must", must)
    assert "containers of a project scutum-staging that are nobody's copy: abc" in refused(
        installation, Settings(version="0.2.0")
    )


def test_real_providers_need_a_way_out_and_a_way_out_has_a_name(installation: Installation) -> None:
    assert "reaches nothing" in refused(installation, Settings(version="0.2.0", staging_providers=True))
    wrong = Settings(version="0.2.0", staging_egress=["10.0.0.1:443", "api.openai.com:443"])
    assert refused(installation, wrong).startswith("scutum_upgrade_staging_egress: 10.0.0.1:443:")


def test_a_copy_is_known_by_its_mark(installation: Installation, tmp_path: Path) -> None:
    wanted = Settings(version="0.2.0")
    assert staged_copy.load(installation, wanted) is None
    copy = staged_copy.StagedCopy(str(tmp_path / "scutum-staging"), installation.directory)
    copy.note(upgrade="one", state="restored")
    copy.note(state="")
    held = staged_copy.load(installation, wanted)
    assert held and held.mark() == {"of": installation.directory, "upgrade": "one", "state": ""}
    assert held.outside_url("litellm") == ""


# --- what a rehearsal finds


def test_what_became_of_a_schema_is_told() -> None:
    before = {"table public.a": "1", "column public.a.x": "1", "index public.LiteLLM_i": "1"}
    after = {"table public.a": "1", "column public.a.x": "2", "table public.b": "1"}
    assert upgrade_rehearsal.changed(before, after) == [
        ("index public.LiteLLM_i", "- index public.LiteLLM_i"),
        ("column public.a.x", "~ column public.a.x"),
        ("table public.b", "+ table public.b"),
    ]
    assert upgrade_rehearsal.own("index public.LiteLLM_i") and not upgrade_rehearsal.own("column public.a.x")


tables = st.dictionaries(st.sampled_from(["public.a", "public.b", "public.LiteLLM_SpendLogs"]), st.integers(0, 5))


@given(tables, tables)
def test_a_table_that_is_gone_or_smaller_is_lost(before: dict[str, int], after: dict[str, int]) -> None:
    gone = {name for name, rows in before.items() if name not in after or after[name] < rows}
    assert {text.split(" ")[0] for text in upgrade_rehearsal.lost(before, after)} == gone


def record(**receipt: Any) -> upgrade_record.Record:
    found = upgrade_record.Record("20261125T031700Z", time.time(), "0.1.0", "0.2.0")
    held = {"source": "0.1.0", "target": "0.2.0", "at": time.time(), "images": {}}
    found.receipt = {**held, **receipt} if receipt else {}
    return found


@pytest.mark.parametrize(
    ("receipt", "words"),
    [
        ({}, "was not rehearsed"),
        ({"at": 0.0}, "hours old"),
        ({"at": time.time() + 7200}, "hours old"),
        ({"target": "0.3.0"}, "from 0.1.0 to 0.3.0"),
        ({"source": "0.0.9"}, "from 0.0.9 to 0.2.0"),
        ({"at": time.time()}, "names no images of 0.1.0"),
    ],
    ids=["none", "old", "from the future", "other target", "other source", "bound to nothing"],
)
def test_a_receipt_that_does_not_count(installation: Installation, receipt: dict[str, Any], words: str) -> None:
    Path(installation.private).mkdir()
    (Path(installation.private) / project.SETTINGS).write_text(json.dumps({"version": "0.1.0"}))
    assert words in upgrade_rehearsal.fresh(installation, record(**receipt), Settings(version="0.2.0"))
