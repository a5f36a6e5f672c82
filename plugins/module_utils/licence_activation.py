# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Activating a licence so that it stays, and proving it.

offline check -> what speaks against it here -> activate -> switch off rows that would win -> empty the environment ->
proof in the table and on fresh connections. What decides is looked at again under the installation's lock. Each step is
found done or done again by the next run, so a kill between any two loses nothing.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from . import compose as compose_module
from . import licence, licence_token, stack
from .database import Database
from .errors import ScutumError
from .files import ensure_directory, write_file
from .http_client import NoAnswer
from .installation import Installation
from .licence import ENV_KEY, Survey, as_row, row_identity, summary, told
from .licence_token import TIERS, Token, moment

# Seconds after which each worker looks again (vendor: REVALIDATE_INTERVAL_SECONDS in src/admin-api/license.py).
REVALIDATION = 300.0
_UNTOUCHED = "nothing was sent and nothing was changed"


@dataclass
class Request:
    """What an operator wants: the arguments of M(scutum.ops.license)."""

    token: str
    allow_customer_change: bool = False
    allow_downgrade: bool = False
    allow_earlier_expiry: bool = False
    longer_rows: str = "refuse"
    environment: str = "clear"
    wait: float = REVALIDATION + 15
    connections: int = licence.CONNECTIONS
    # More than the minute that the product asks to wait after a 429.
    timeout: float = 90


def _objections(installation: Installation, token: Token, found: Survey, request: Request) -> list[str]:
    """Everything that speaks against this token here, with what would allow it."""
    problems = []
    # The environment's licence is in force, and the table's row is what was paid for: a token must be no step down from either.
    for current in _others(token, found):
        # The vendor's tool makes a new `sub` for each licence unless told otherwise: the address decides as well.
        same = current["customer_id"] == token.customer or current["customer_email"].lower() == token.email.lower()
        if not same and not request.allow_customer_change:
            problems.append(
                f"it is for another customer ({token.email}, today {current['customer_email']}): allow_customer_change"
            )
        lost = downgrades(current, token)
        if lost and not request.allow_downgrade:
            problems.append(f"it gives less than the licence in force ({'; '.join(lost)}): allow_downgrade")
        if token.expires_at < current["expires_at"] and not request.allow_earlier_expiry:
            problems.append(
                f"it expires at {moment(token.expires_at)}, before the licence in force "
                f"({moment(current['expires_at'])}): allow_earlier_expiry"
            )
    longer = _longer(token, found.rows)
    if longer and request.longer_rows == "refuse":
        names = ", ".join(f"{row['tier']} until {moment(row['expires_at'])} (id {row['id']})" for row in longer)
        problems.append(
            f"the table holds active licences that expire later: {names}. The product takes the one that expires last, "
            "so this one would lose at the next start: longer_licenses=deactivate switches those rows off, and keeps them"
        )
    if request.environment == "refuse" and (_foreign(found.container_key, token) or _foreign(found.file_key, token)):
        problems.append(
            f"{ENV_KEY} holds another licence, which would take over again within five minutes, and environment_key "
            "forbids to touch it: environment_key=clear empties it and recreates admin-api"
        )
    elif _foreign(found.container_key, token):
        other = stack.other_image(installation, "admin-api")
        if other:
            problems.append(
                f"{ENV_KEY} in admin-api's environment has to go, which recreates admin-api, and that would start another "
                f"image ({other}): run playbooks/day_one.yml first, so that the change of version is not made by accident"
            )
    return list(dict.fromkeys(problems))


def _others(token: Token, found: Survey) -> list[dict[str, Any]]:
    """Licences that the token takes over from."""
    known = {row["fingerprint"]: row for row in (found.current, found.operative) if row}
    return [row for fingerprint, row in known.items() if fingerprint != token.fingerprint]


def downgrades(current: dict[str, Any], token: Token) -> list[str]:
    """What a licence gives that a new one does not. A feature that is absent counts as given, as it does in the product."""
    lost = []
    ranks = list(TIERS)
    if current["tier"] in ranks and ranks.index(token.tier) < ranks.index(current["tier"]):
        lost.append(f"tier {token.tier} instead of {current['tier']}")
    for name, value in sorted(current["features"].items()):
        new = token.features.get(name, value)
        if name == "audit_retention_days":
            # Absent is the tier's number, and Enterprise keeps its own whatever stands here.
            value = licence.retention_days(str(current["tier"]), current["features"], True)
            new = licence.retention_days(token.tier, token.features, True)
        if not _as_much(value, new):
            lost.append(f"{name} {_shown(new)} instead of {_shown(value)}")
    return lost


def _as_much(old: Any, new: Any) -> bool:
    """Whether a feature's new value gives at least as much. What cannot be compared counts as less: it is asked for."""
    if old == new and isinstance(old, bool) == isinstance(new, bool):
        return True
    if isinstance(old, bool) or isinstance(new, bool):
        return not old and isinstance(new, bool)
    if isinstance(old, (int, float)):
        # None is unlimited.
        return new is None or (isinstance(new, (int, float)) and new >= old)
    if isinstance(old, list) and isinstance(new, list):
        return all(item in new for item in old)
    return False


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "unlimited" if value is None else str(value)


def _longer(token: Token, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Active rows that the product prefers to the token's.

    Of rows that end together it prefers the one made last: a row that is there already keeps its place.
    """
    known = _known(token, rows)
    # A row that is not there yet will be the last one made.
    ours = (token.expires_at, known["created_at"] if known else float("inf"))
    return [row for row in rows if row["active"] and row is not known and (row["expires_at"], row["created_at"]) > ours]


def _known(token: Token, rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    return next((row for row in rows if row["fingerprint"] == token.fingerprint), None)


def _foreign(key: str, token: Token) -> bool:
    return bool(key) and key != token.text


def activate(installation: Installation, request: Request, check: bool = False) -> dict[str, Any]:
    """Have a licence in force, proven in the table and at the endpoint.

    Returns:
        `changed`, `status` (`active`; `pending` while a worker has not looked again; `planned` in check mode),
        `actions` (what was or would be done), `before` and `after` (tier, customer_email, expires_at, features,
        environment), `answers` and `agreeing` (fresh connections), `seconds` (all of it without the wait) and
        `revalidation_seconds` (the wait).

    Raises:
        ScutumError: the token is refused here or by the product, or the proof failed.
    """
    start = time.monotonic()
    token = licence_token.check(request.token, licence.public_key(installation))
    found, steps = _decide(installation, token, request)
    if steps and not check:
        with installation.lock():
            # Another run may have changed it before this one got the lock.
            found, steps = _decide(installation, token, request)
            _apply(installation, token, found, steps, request)
    key = found.container_key or found.file_key
    environment = "empty" if not key else "another licence" if _foreign(key, token) else "this licence"
    cleared = "empty" if {"environment", "recreate"} & steps.keys() else environment
    result: dict[str, Any] = {
        "changed": bool(steps),
        "actions": list(steps.values()),
        "before": {**summary(found.current), "environment": environment},
        "after": {**summary(as_row(token)), "environment": cleared},
    }
    if check and steps:
        return {**result, "status": "planned", "answers": 0, "agreeing": 0, "seconds": 0.0, "revalidation_seconds": 0.0}
    # What was just asked is asked again only when something was done since.
    rows = Database(installation).licences() if steps else found.rows
    proof = _prove(installation, token, found, rows, request, waiting=not check)
    spent = time.monotonic() - start - proof["revalidation_seconds"]
    return {**result, **proof, "seconds": round(spent, 2)}


def _decide(installation: Installation, token: Token, request: Request) -> tuple[Survey, dict[str, str]]:
    """What is there and what has to be done; refuses when something speaks against it."""
    found = licence.survey(installation)
    problems = _objections(installation, token, found, request)
    if problems:
        raise ScutumError(
            "this licence is refused: " + "; ".join(problems),
            left=_UNTOUCHED,
            next_step="use another token, or set what is named (in the role: scutum_license_<name>)",
        )
    return found, _steps(token, found)


def _steps(token: Token, found: Survey) -> dict[str, str]:
    """What has to be done, in its order, with the words for it; empty when the licence is in force already."""
    steps = {}
    row = _known(token, found.rows)
    if row is None or not row["active"]:
        steps["activate"] = f"activate {token.tier} for {token.email} until {moment(token.expires_at)}"
    longer = _longer(token, found.rows)
    if longer:
        steps["deactivate"] = "switch off in the table, rows kept: " + ", ".join(
            f"{item['tier']} until {moment(item['expires_at'])}" for item in longer
        )
    if _foreign(found.file_key, token):
        steps["environment"] = f"empty {ENV_KEY} in {compose_module.ENV_FILE}"
    if _foreign(found.container_key, token):
        steps["recreate"] = f"recreate admin-api, whose environment has another {ENV_KEY}; all else goes on serving"
    return steps


def _apply(installation: Installation, token: Token, found: Survey, steps: dict[str, str], request: Request) -> None:
    """The steps, each of which the next run finds done or does again: a kill between any two loses nothing."""
    database = Database(installation)
    if "activate" in steps:
        _send(installation, token, request.timeout)
    if "deactivate" in steps:
        database.deactivate_licences([row["id"] for row in _longer(token, database.licences())])
    if "environment" in steps:
        _keep(installation, found.file_key, found.rows)
        env = installation.env()
        env.set(ENV_KEY, "")
        write_file(installation.path(compose_module.ENV_FILE), env.render(), 0o600)
    if "recreate" in steps:
        _keep(installation, found.container_key, found.rows)
        stack.recreate(installation, ["admin-api"], request.timeout)
        if _foreign(licence.container_key(licence.container(installation)), token):
            raise ScutumError(
                f"admin-api's container still has another {ENV_KEY}, although {compose_module.ENV_FILE} has none",
                left="the licence is in the table; the other one takes over again within five minutes",
                next_step=f"grep -n {ENV_KEY} {installation.directory}/*.y*ml, take it out there (or out of "
                "scutum_compose_override) and run the playbook again",
            )
        # While the old environment was there, a revalidation may have switched its row on again.
        longer = _longer(token, database.licences())
        if longer and request.longer_rows == "deactivate":
            database.deactivate_licences([row["id"] for row in longer])


def _keep(installation: Installation, key: str, rows: list[dict[str, Any]]) -> None:
    """Keep a licence that is taken out of the environment, when the table does not hold it."""
    try:
        token = licence_token.read(key)
        name = token.fingerprint[:12]
        if _known(token, rows):
            return
    except ScutumError:
        name = time.strftime("unreadable-%Y%m%dT%H%M%SZ", time.gmtime())
    directory = f"{installation.private}/replaced"
    ensure_directory(directory, 0o700)
    write_file(f"{directory}/license-key-{name}", key + "\n", 0o600)


def _send(installation: Installation, token: Token, timeout: float) -> None:
    try:
        answer = installation.admin_api(timeout).activate_licence(token.text)
    except NoAnswer as error:
        # The server may have accepted it all the same: the table knows.
        row = _known(token, Database(installation).licences())
        if row is None or not row["active"]:
            raise ScutumError(
                f"admin-api did not answer to the activation within {timeout:.0f} s ({error.what})",
                left="the licence is not in the table; if it is accepted later, the next run finds it there",
                next_step="run the playbook again when admin-api answers",
            ) from error
        return
    if licence.identity(answer) != row_identity(as_row(token)):
        raise ScutumError(
            f"admin-api accepted the licence and answered with another one: {told(answer)}",
            left="the licence may be in the table; what is served is the other one",
            next_step="run playbooks/license.yml again; if it stays so, restart admin-api",
        )


def _prove(
    installation: Installation,
    token: Token,
    before: Survey,
    rows: list[dict[str, Any]],
    request: Request,
    waiting: bool,
) -> dict[str, Any]:
    """The rollover in the table, then the same answer on every fresh connection, at once or after a revalidation."""
    gone = {row["id"] for row in before.rows} - {row["id"] for row in rows}
    row = _known(token, rows)
    first = rows[0] if rows else None
    if gone or row is None or first is None or first["fingerprint"] != token.fingerprint or not row["active"]:
        what = (
            "rows of other licences are gone" if gone
            else "admin-api accepted the licence and did not store it" if row is None
            else f"another active row comes first: {summary(first)}"
        )  # fmt: skip
        raise ScutumError(
            f"the table licenses does not show the rollover: {what}",
            left="what is served now may be forgotten at the next start of admin-api",
            next_step=f"cd {installation.directory} && {installation.compose().command('logs', '--tail', '50', 'admin-api')}",
        )
    return _agreement(installation, token, request, waiting)


def _agreement(installation: Installation, token: Token, request: Request, waiting: bool) -> dict[str, Any]:
    """Ask fresh connections until all of them answer with the licence.

    In between only a few are asked: the product counts all requests of a minute together and answers 429 above its limit
    (vendor: GlobalRateLimitMiddleware in src/admin-api/main.py).
    """
    wanted = row_identity(as_row(token))
    processes = licence.workers(licence.container(installation))
    start = time.monotonic()
    waited, connections = 0.0, request.connections * processes
    while True:
        problem = ""
        try:
            answers = licence.ask(installation.admin_api(request.timeout), connections)
            others = [answer for answer in answers if licence.identity(answer) != wanted]
            if not others and connections < request.connections * processes:
                connections = request.connections * processes
                continue
            result = {"answers": len(answers), "agreeing": len(answers) - len(others), "revalidation_seconds": waited}
            if not others:
                return {**result, "status": "active"}
            if not waiting or request.wait <= 0:
                return {**result, "status": "pending"}
            problem = (
                f"a worker of admin-api still answers with another licence: {len(others)} of {len(answers)} answers say "
                f"{told(others[0])}"
            )
        except ScutumError as error:
            # It restarts, or has had enough of us: asked again as long as there is time.
            problem = f"admin-api does not answer: {error.what}"
        if time.monotonic() - start >= (request.wait if waiting else 0):
            raise ScutumError(
                f"after {time.monotonic() - start:.0f} s {problem}",
                left="the licence is operative in the table; what is served is not proven",
                next_step=f"restart admin-api: cd {installation.directory} && "
                f"{installation.compose().command('restart', 'admin-api')}; then run playbooks/license.yml again",
            )
        connections = max(4, 2 * processes)
        time.sleep(min(5.0, max(1.0, request.wait / 30)))
        waited = round(time.monotonic() - start, 2)
