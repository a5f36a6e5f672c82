# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""config/.env: what may stand in it, what a first install and a later run make of it."""

from __future__ import annotations

import pytest
from ansible_collections.scutum.ops.plugins.module_utils import env_file
from ansible_collections.scutum.ops.plugins.module_utils.env_file import EnvFile, plan, problem_with
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from hypothesis import given
from hypothesis import strategies as st

TEMPLATE = """# a comment
LICENSE_KEY=
SCUTUM_VERSION=0.1.0
SCUTUM_API_KEY=sk-CHANGE-ME-openssl-rand-hex-32
JWT_SECRET_KEY=CHANGE-ME-openssl-rand-hex-32
INTERNAL_SERVICE_KEY=CHANGE-ME-openssl-rand-hex-32
POSTGRES_USER=scutum
POSTGRES_PASSWORD=CHANGE-ME-openssl-rand-hex-16
POSTGRES_DB=scutum
OPENAI_API_KEY=
"""


def test_first_install_generates_every_secret_and_keeps_the_rest() -> None:
    result, changed = plan(None, TEMPLATE, {"OPENAI_API_KEY": "sk-provider"})
    values = result.as_dict()
    assert set(env_file.GENERATED) <= set(changed)
    assert values["SCUTUM_API_KEY"].startswith("sk-") and len(values["SCUTUM_API_KEY"]) == 67
    assert len(values["JWT_SECRET_KEY"]) == 64 and len(values["POSTGRES_PASSWORD"]) == 32
    assert values["OPENAI_API_KEY"] == "sk-provider"
    assert result.render().startswith("# a comment\n")
    assert not [key for key in values if "CHANGE-ME" in values[key]]


def test_later_run_changes_nothing() -> None:
    text = plan(None, TEMPLATE, {})[0].render()
    again, changed = plan(text, TEMPLATE, {})
    assert changed == []
    assert again.render() == text


def test_adopted_host_gets_todays_key_as_salt() -> None:
    """LiteLLM encrypted what it stored with SCUTUM_API_KEY, its fallback: another salt would make that unreadable."""
    text = plan(None, TEMPLATE, {})[0].render()
    adopted = "".join(line + "\n" for line in text.splitlines() if not line.startswith("LITELLM_SALT_KEY"))
    result, changed = plan(adopted, TEMPLATE, {})
    assert changed == ["LITELLM_SALT_KEY"]
    assert result.get("LITELLM_SALT_KEY") == result.get("SCUTUM_API_KEY")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("POSTGRES_PASSWORD", "p@ss", "DATABASE_URL"),
        ("POSTGRES_PASSWORD", "pa:ss", "DATABASE_URL"),
        ("POSTGRES_PASSWORD", "pa/ss", "DATABASE_URL"),
        ("POSTGRES_PASSWORD", "pa?ss", "DATABASE_URL"),
        ("POSTGRES_PASSWORD", "pa#ss", "DATABASE_URL"),
        ("POSTGRES_PASSWORD", "pa%ss", "DATABASE_URL"),
        ("POSTGRES_PASSWORD", "pa ss", "DATABASE_URL"),
        ("POSTGRES_USER", "us@er", "DATABASE_URL"),
        ("POSTGRES_DB", "d/b", "DATABASE_URL"),
        ("POSTGRES_PASSWORD", "pa@ss", "'@' (commercial at)"),
        ("OPENAI_API_KEY", "sk-$HOME", "dollar sign"),
        ("OPENAI_API_KEY", "sk ab", "white space"),
        ("OPENAI_API_KEY", "sk'ab", "quotes"),
        ("OPENAI_API_KEY", 'sk"ab', "quotes"),
        ("OPENAI_API_KEY", "sk\\ab", "backslashes"),
        ("OPENAI_API_KEY", "#ab", "quotes"),
        ("SCUTUM_API_KEY", "abc", "sk-"),
        ("POSTGRES_PASSWORD", "litellm", "published default"),
        ("JWT_SECRET_KEY", "change-in-production", "published default"),
        ("INTERNAL_SERVICE_KEY", "", "empty"),
        ("GRAFANA_ADMIN_PASSWORD", "admin", "published default"),
        ("JWT_SECRET_KEY", "CHANGE-ME-openssl-rand-hex-32", "placeholder"),
    ],
)
def test_refused_values(key: str, value: str, words: str) -> None:
    problem = problem_with(key, value)
    assert problem is not None and key in problem and words in problem
    assert not value or value in problem.split() or value not in problem, "a message must not show the value"


def test_what_a_url_takes_as_it_is_is_taken() -> None:
    assert problem_with("POSTGRES_PASSWORD", "a+b=c!d*e,f") is None


def test_variables_that_are_no_texts_are_refused_by_name() -> None:
    found, problems = env_file.texts(
        {"A": 1, "B": True, "C": None, "D": {"canary": 1}, "OPENAI-API-KEY": "canary", "E": ""}
    )
    assert found == {"A": "1", "B": "true", "E": ""}
    assert [text.split()[0] for text in problems] == ["C", "D", "OPENAI-API-KEY"] and "canary" not in "".join(problems)
    hidden = env_file.hidden_of({"A-B": "canary1", "D": {"x": ["canary2"]}, "C": None, "LITELLM_PORT": 4000})
    assert hidden == ["canary1", "canary2"]
    with pytest.raises(ScutumError, match="scutum_env: C has no value"):
        env_file.refuse(problems)


def test_an_adopted_password_that_is_refused_is_changed_in_the_server_first() -> None:
    text = plan(None, TEMPLATE, {})[0]
    text.set("POSTGRES_PASSWORD", "litellm")
    with pytest.raises(ScutumError) as caught:
        plan(text.render(), TEMPLATE, {})
    assert "ALTER ROLE" in caught.value.next_step


def test_grafana_gets_its_password_when_its_profile_is_switched_on() -> None:
    text = plan(None, TEMPLATE, {})[0].render()
    adopted = "".join(line + "\n" for line in text.splitlines() if not line.startswith("GRAFANA"))
    assert plan(adopted, TEMPLATE, {})[1] == [] and plan(adopted, TEMPLATE, {}, "sre,full")[1] == [
        "GRAFANA_ADMIN_PASSWORD"
    ]


def test_problems_come_all_at_once_and_without_values() -> None:
    with pytest.raises(ScutumError) as caught:
        plan(None, TEMPLATE, {"OPENAI_API_KEY": "canary$1", "POSTGRES_PASSWORD": "canary@2", "SCUTUM_VERSION": "1.0.0"})
    text = str(caught.value)
    assert "OPENAI_API_KEY" in text and "POSTGRES_PASSWORD" in text and "scutum_version" in text
    assert "canary" not in text
    assert "nothing was changed" in text


def test_a_secret_of_running_data_is_never_changed() -> None:
    text = plan(None, TEMPLATE, {})[0].render()
    with pytest.raises(ScutumError, match="POSTGRES_PASSWORD in scutum_env differs"):
        plan(text, TEMPLATE, {"POSTGRES_PASSWORD": "another"})


def test_placeholder_left_in_an_existing_file_is_refused() -> None:
    with pytest.raises(ScutumError, match="CHANGE-ME placeholder"):
        plan(TEMPLATE, TEMPLATE, {})


def test_reading_as_compose_does() -> None:
    values = EnvFile("A=1 # note\nB='x y'\nexport C=3\n#D=4\nA=2\nE=\"abc\" # note\n").as_dict()
    assert values == {"A": "2", "B": "x y", "C": "3", "E": "abc"}


SAFE = st.text(alphabet="abcXYZ0189._~-/+=:@%", min_size=1, max_size=30)


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,10}", fullmatch=True), SAFE, max_size=8))
def test_what_is_set_is_read_back_and_setting_again_changes_nothing(values: dict[str, str]) -> None:
    file = EnvFile("# head\n\nA=old\n")
    for key, value in values.items():
        file.set(key, value)
    again = EnvFile(file.render())
    assert {key: again.get(key) for key in values} == values
    assert not any(again.set(key, value) for key, value in values.items())
    assert again.lines[0] == "# head"
