# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""config/.env: reading it, what may stand in it, and what a first install and a later run make of it.

Two programs read the file: Compose, and the vendor's CLI, which exports its lines into a shell unquoted. What one of
them would change in a value is refused here, because no quoting exists that both understand.
"""

from __future__ import annotations

import re
import secrets
import unicodedata
from collections.abc import Callable
from typing import Any

from .errors import ScutumError

_LINE = re.compile(r"^(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)$")

# Generated at the first install (formats: the vendor's template), and never changed by a later one.
GENERATED: dict[str, Callable[[], str]] = {
    "SCUTUM_API_KEY": lambda: "sk-" + secrets.token_hex(32),
    "JWT_SECRET_KEY": lambda: secrets.token_hex(32),
    "INTERNAL_SERVICE_KEY": lambda: secrets.token_hex(32),
    "POSTGRES_PASSWORD": lambda: secrets.token_hex(16),
    # Without it LiteLLM encrypts what it stores with SCUTUM_API_KEY, which could then never be rotated.
    "LITELLM_SALT_KEY": lambda: secrets.token_hex(32),
    # The release's Compose file falls back to "admin".
    "GRAFANA_ADMIN_PASSWORD": lambda: secrets.token_hex(16),
}

# Fixed once data exists: the server, or what it stores, keeps the first value.
FIXED = frozenset(GENERATED) - {"GRAFANA_ADMIN_PASSWORD"} | {"POSTGRES_USER", "POSTGRES_DB"}

# Decided by other variables of the role.
OWNED = {
    "SCUTUM_VERSION": "scutum_version",
    "COMPOSE_FILE": "(the role itself)",
    "COMPOSE_PROFILES": "scutum_profiles",
    "COMPOSE_PROJECT_NAME": "(the name of the directory in scutum_dir)",
}

# The release's Compose file falls back to these, and its template holds CHANGE-ME placeholders.
REFUSED_VALUES = {
    "POSTGRES_PASSWORD": ("", "litellm"),
    "JWT_SECRET_KEY": ("", "change-in-production"),
    "INTERNAL_SERVICE_KEY": ("",),
    "SCUTUM_API_KEY": ("",),
    "GRAFANA_ADMIN_PASSWORD": ("admin",),
}

_NOT_SECRET = frozenset(
    [
        "SCUTUM_VERSION",
        "COMPOSE_FILE",
        "COMPOSE_PROFILES",
        "COMPOSE_PROJECT_NAME",
        "POSTGRES_USER",
        "POSTGRES_DB",
        "AWS_REGION_NAME",
        "AZURE_API_BASE",
        "AZURE_API_VERSION",
        "LITELLM_PORT",
        "ADMIN_API_PORT",
        "ADMIN_UI_PORT",
        "DOCS_SITE_PORT",
        "PROMETHEUS_PORT",
        "GRAFANA_PORT",
        "JAEGER_PORT",
        "LITELLM_MEMORY_LIMIT",
        "REDIS_MEMORY_LIMIT",
        "SRE_AGENT_MODEL",
        "SRE_AUTO_APPROVE",
        "SRE_RISK_THRESHOLD",
    ]
)

_LIKE_A_SECRET = re.compile(r"KEY|PASSWORD|SECRET|TOKEN|WEBHOOK")

# Our own notes in the file (secret_store.MARK).
_OURS = "SCUTUM_OPS_"

# RFC 3986: what can stand in the user part of a URL without encoding, less what a shell takes for its own. DATABASE_URL is
# built by plain interpolation.
_URL_UNSAFE = re.compile(r"[^A-Za-z0-9._~+=!*,-]")


def _unquote(raw: str) -> str:
    value = raw.strip()
    quoted = re.match(r"""^(["'])(.*?)\1\s*(?:#.*)?$""", value)
    if quoted:
        return quoted.group(2)
    # Compose takes " #" for the start of a comment.
    return re.split(r"\s+#", value, maxsplit=1)[0]


class EnvFile:
    """The lines of an environment file; comments and order are kept."""

    def __init__(self, text: str = "") -> None:
        self.lines = text.splitlines()

    def as_dict(self) -> dict[str, str]:
        """Every key with its value; the last line wins, as it does for Compose."""
        found = {}
        for line in self.lines:
            match = _LINE.match(line)
            if match:
                found[match.group(1)] = _unquote(match.group(2))
        return found

    def get(self, key: str, default: str = "") -> str:
        """One value."""
        return self.as_dict().get(key, default)

    def set(self, key: str, value: str) -> bool:
        """Give a key a value, in its place or at the end; true when that changes something."""
        if self.as_dict().get(key) == value:
            return False
        kept: list[str] = []
        place = None
        for line in self.lines:
            match = _LINE.match(line)
            if match and match.group(1) == key:
                if place is None:
                    place = len(kept)
                    kept.append("")
                continue
            kept.append(line)
        if place is None:
            kept.append(f"{key}={value}")
        else:
            kept[place] = f"{key}={value}"
        self.lines = kept
        return True

    def update(self, values: dict[str, str]) -> bool:
        """Give several keys their values; true when that changes something."""
        return bool([key for key, value in values.items() if self.set(key, value)])

    def drop(self, keys: list[str]) -> bool:
        """Take the lines of some keys away; true when there were some."""
        kept = [line for line in self.lines if not ((match := _LINE.match(line)) and match.group(1) in keys)]
        changed = len(kept) != len(self.lines)
        self.lines = kept
        return changed

    def render(self) -> str:
        """The text of the file."""
        return "\n".join(self.lines) + "\n"

    def secrets(self) -> dict[str, str]:
        """What must never be shown: every value that is not known to be harmless."""
        return secrets_of(self.as_dict())


def secrets_of(values: dict[str, str]) -> dict[str, str]:
    """Those of some values that must never be shown."""
    return {
        key: value for key, value in values.items() if value and key not in _NOT_SECRET and not key.startswith(_OURS)
    }


def hidden_of(variables: dict[str, Any]) -> list[str]:
    """What must never be shown of an operator's values, whatever is wrong with their names and types."""
    found: list[str] = []
    for key, value in variables.items():
        if isinstance(value, (dict, list)):
            items = value.values() if isinstance(value, dict) else value
            found += hidden_of({f"{key}.{number}": item for number, item in enumerate(items)})
        elif value is not None and key not in _NOT_SECRET:
            found.append(str(value))
    return found


def problem_with(key: str, value: str) -> str | None:
    """Why a value cannot stand in config/.env, without the value; None when it can.

    Sources: docker-compose.yaml of the release (interpolation, defaults), the vendor's CLI (unquoted export).
    """
    if "CHANGE-ME" in value:
        return f"{key} still holds the template's CHANGE-ME placeholder"
    if value in REFUSED_VALUES.get(key, ()):
        return f"{key} is empty or the vendor's published default"
    unsafe = _URL_UNSAFE.search(value) if key in ("POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB") else None
    if unsafe:
        return (
            f"{key} holds {unsafe.group()!r} ({unicodedata.name(unsafe.group(), 'a control character').lower()}): it is put "
            "into DATABASE_URL as it is, where only letters, digits and . _ ~ + = ! * , - are safe"
        )
    if "$" in value:
        return f"{key} must not hold a dollar sign: Compose would interpolate it, and the vendor's CLI would not unescape it"
    if re.search(r"\s", value):
        return f"{key} must not hold white space: the vendor's CLI splits the line there"
    if re.search(r"""["'\\`]""", value) or value.startswith("#"):
        return (
            f"{key} must not hold quotes, backslashes or backticks: Compose and the vendor's CLI read them differently"
        )
    if key == "SCUTUM_API_KEY" and not value.startswith("sk-"):
        return "SCUTUM_API_KEY must begin with sk- : LiteLLM accepts no other master key"
    return None


def problems_in_file(values: dict[str, str]) -> list[str]:
    """Why values cannot stand in config/.env; never a value."""
    names = [key for key in values if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key)]
    problems = [f"{key} is not the name of a variable: letters, digits and _ only" for key in names]
    return problems + [text for key, value in sorted(values.items()) if (text := problem_with(key, value))]


def problems_of_source(values: dict[str, str]) -> list[str]:
    """Why values from a source cannot be used, whatever way they take; never a value.

    What only a file cannot hold (quotes, dollar signs, white space) is no problem here.
    """
    problems = []
    for key, value in sorted(values.items()):
        unsafe = _URL_UNSAFE.search(value) if key in ("POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB") else None
        if "CHANGE-ME" in value or value in REFUSED_VALUES.get(key, ()) or unsafe:
            problems.append(problem_with(key, value) or key)
        elif key in FIXED and value != value.strip():
            problems.append(f"{key} begins or ends with white space (a line break that echo added?)")
        elif "\0" in value:
            problems.append(f"{key} holds a null character, which no environment can")
        elif key in ("JWT_SECRET_KEY", "INTERNAL_SERVICE_KEY") and len(value.encode()) < 32:
            problems.append(f"{key} has {len(value.encode())} bytes: 32 are the least (openssl rand -hex 32)")
        elif key == "SCUTUM_API_KEY" and not value.startswith("sk-"):
            problems.append("SCUTUM_API_KEY must begin with sk- : LiteLLM accepts no other master key")
        elif key == "LICENSE_KEY":
            problems.append(
                "LICENSE_KEY: a licence goes through scutum_license_key; in the environment it would win over renewals"
            )
        elif key in OWNED:
            problems.append(f"{key} is no secret: it is decided by {OWNED[key]}")
    return problems


def texts(variables: dict[str, Any]) -> tuple[dict[str, str], list[str]]:
    """Values for config/.env from variables of Ansible, and what is wrong with them in words (never a value)."""
    found = {}
    problems = []
    for key, value in variables.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", str(key)):
            problems.append(f"{key} is not the name of a variable: letters, digits and _ only")
        elif value is None:
            problems.append(f'{key} has no value: leave the line out, or write "" for an empty one')
        elif isinstance(value, (dict, list)):
            problems.append(f"{key} has to be a text")
        else:
            found[str(key)] = str(value).lower() if isinstance(value, bool) else str(value)
    return found, problems


def refuse(problems: list[str]) -> None:
    """Fail with everything that is wrong with the operator's values."""
    if problems:
        raise ScutumError(
            "scutum_env: " + "; ".join(problems),
            left="nothing was changed",
            next_step="correct scutum_env, and run again",
        )


def refuse_both(wanted: dict[str, str], from_source: dict[str, str]) -> None:
    """Refuse a key that two places give."""
    both = sorted(wanted.keys() & from_source.keys())
    if both:
        raise ScutumError(
            "; ".join(f"{key} is set in scutum_env and in the source of secrets" for key in both),
            left="nothing was changed",
            next_step="take it out of one of them",
        )


def plan(
    existing: str | None,
    template: str,
    wanted: dict[str, str],
    profiles: str = "",
    held: dict[str, str] | None = None,
) -> tuple[EnvFile, list[str]]:
    """What config/.env has to be.

    Args:
        existing: the text of today's file, None at a first install.
        template: the text of the release's .env.example.
        wanted: the operator's values (`scutum_env`).
        profiles: COMPOSE_PROFILES; a service that is switched on gets its secret.
        held: secrets that services get by another way: they have no place in the file.

    Returns:
        The file and the names of the keys that change (never a value).

    Raises:
        ScutumError: with every problem at once, before anything is written.
    """
    first = existing is None
    result = EnvFile(template if existing is None else existing)
    today = result.as_dict()
    problems = []
    changed = []
    held = held or {}
    # Before anything is set: what a line cannot hold would be read back as something else.
    unfit = problems_in_file({key: value for key, value in wanted.items() if value and key not in OWNED})
    if result.drop([key + ending for key in held for ending in ("_PREVIOUS", "_NEXT")]):
        changed.append("what a rotation kept")
    for key in sorted(held):
        current = today.get(key, "")
        if current and current != held[key] and not (first or problem_with(key, current)):
            problems.append(
                f"{key} in config/.env and {key} in the source differ: running data depends on the first. Write it into the "
                "source, then run this again"
            )
        elif current and result.set(key, ""):
            changed.append(key)
    for key in sorted(wanted):
        value = wanted[key]
        if key in held:
            problems.append(f"{key} is set in scutum_env and in the source of secrets: take it out of one of them")
        elif key in OWNED:
            problems.append(f"{key} cannot be set through scutum_env: it is decided by {OWNED[key]}")
        elif not first and key in FIXED and today.get(key) not in ("", value):
            # Empty is what a source at run time leaves behind, and the way back from it.
            problems.append(
                f"{key} in scutum_env differs from config/.env: an install never changes it, since the running data "
                "depends on it; remove it from scutum_env"
            )
        elif not unfit and result.set(key, value):
            changed.append(key)
    for key, make in GENERATED.items():
        if key in held or (held and key == "GRAFANA_ADMIN_PASSWORD"):
            continue
        current = result.get(key)
        if first and key not in wanted and (not current or problem_with(key, current)):
            result.set(key, make())
            changed.append(key)
        elif not first and not current and key == "LITELLM_SALT_KEY":
            # What LiteLLM falls back to: anything that it stored so far is encrypted with it.
            result.set(key, result.get("SCUTUM_API_KEY"))
            changed.append(key)
        elif not first and not current and key == "GRAFANA_ADMIN_PASSWORD" and _has_grafana(profiles):
            result.set(key, make())
            changed.append(key)
    if held:
        problems += _left_in_file(result, held, profiles, changed)
    for key, value in sorted(result.as_dict().items()):
        problem = None if key in held else problem_with(key, value)
        if problem and (value or key in REFUSED_VALUES):
            problems.append(problem)
    problems = list(dict.fromkeys([*unfit, *problems]))
    there = result.as_dict().keys() | held.keys() | wanted.keys()
    missing = sorted(k for k in REFUSED_VALUES if k != "GRAFANA_ADMIN_PASSWORD" and k not in there)
    problems.extend(f"{key} is missing" for key in missing)
    if problems:
        # Postgres keeps the password with which it was initialised: the file alone would lock every service out.
        first_step = (
            "first the server: ALTER ROLE … PASSWORD in psql, then POSTGRES_PASSWORD in config/.env; "
            if not first and any("POSTGRES_PASSWORD" in text for text in problems)
            else ""
        )
        raise ScutumError(
            "config/.env: " + "; ".join(problems),
            left="nothing was changed",
            next_step=f"{first_step}correct scutum_env, or config/.env on the host, and run the playbook again",
        )
    return result, sorted(set(changed))


def _left_in_file(result: EnvFile, held: dict[str, str], profiles: str, changed: list[str]) -> list[str]:
    """What would still lie in the file although secrets come another way."""
    if not _has_grafana(profiles) and "GRAFANA_ADMIN_PASSWORD" not in held and result.get("GRAFANA_ADMIN_PASSWORD"):
        # Made at every first install, and used by nobody.
        result.set("GRAFANA_ADMIN_PASSWORD", "")
        changed.append("GRAFANA_ADMIN_PASSWORD")
    left = [
        key
        for key in secrets_of(result.as_dict())
        if key not in held and key != "LICENSE_KEY" and _LIKE_A_SECRET.search(key)
    ]
    if _has_grafana(profiles) and not held.get("GRAFANA_ADMIN_PASSWORD"):
        left.append("GRAFANA_ADMIN_PASSWORD")
    return [
        f"{key} is not in the source of secrets, and would still lie in config/.env: write it into the source, and take it out "
        "of scutum_env (or empty it in config/.env when nobody needs it)"
        for key in dict.fromkeys(left)
    ]


def _has_grafana(profiles: str) -> bool:
    return bool({"observability", "full"} & set(profiles.split(",")))
