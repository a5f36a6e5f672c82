# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Release bundles: fetching one, checking it, keeping each version beside the others."""

from __future__ import annotations

import hashlib
import os
import re

from . import http_client as http
from .errors import ScutumError
from .files import ensure_directory, read_text, write_file

# Name in the bundle and mode; the vendor's installer fetches the same four.
FILES = {"docker-compose.yaml": 0o644, "license-public.pem": 0o644, ".env.example": 0o644, "scutum": 0o755}
SUMS = "SHA256SUMS"
_VERSION = re.compile(r"^\d+\.\d+\.\d+(?:[-+][0-9A-Za-z.-]+)?$")


def check_version(version: str) -> None:
    """Refuse everything but one exact release."""
    if not _VERSION.fullmatch(version or ""):
        shown = version if version else "(not set)"
        raise ScutumError(
            f"scutum_version is {shown}: it has to name one exact release, such as 0.1.0",
            left="nothing was changed",
            next_step="set scutum_version in the inventory to the release that was tested; "
            "an unpinned install (no version, latest) is refused",
        )


def parse_sums(text: str) -> dict[str, str]:
    """`SHA256SUMS` as sha256sum(1) writes it: file name to hexadecimal sum."""
    found = {}
    for line in text.splitlines():
        match = re.match(r"^([0-9a-fA-F]{64})\s+\*?(?:\./)?(\S+)$", line.strip())
        if match:
            found[match.group(2)] = match.group(1).lower()
    return found


def directory(project: str, version: str) -> str:
    """Where a version's bundle is kept."""
    return os.path.join(project, "releases", version)


def fetch(project: str, version: str, base_url: str, sums: dict[str, str]) -> bool:
    """Have the bundle of a version on disk, whole and verified; true when it was fetched.

    A bundle that is there is not fetched again: it is checked against the sums recorded when it was.

    Args:
        project: the installation's directory.
        base_url: `<base_url>/v<version>/<file>` is fetched.
        sums: SHA-256 by file name, given by the operator; they bind in addition to the server's own SHA256SUMS.
    """
    check_version(version)
    unknown = sorted(set(sums) - set(FILES))
    if unknown:
        raise ScutumError(
            f"scutum_release_sha256 names {', '.join(unknown)}; a bundle holds {', '.join(sorted(FILES))}"
        )
    kept = directory(project, version)
    recorded = read_text(os.path.join(kept, SUMS))
    if recorded is not None:
        found = {name: _sum_of(os.path.join(kept, name)) for name in FILES}
        _compare(version, kept, found, parse_sums(recorded), "the sums recorded when it was fetched")
        _compare(version, kept, found, sums, "scutum_release_sha256")
        return False
    url = f"{base_url.rstrip('/')}/v{version}"
    contents = {name: _get(f"{url}/{name}", version) for name in FILES}
    found = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    published = http.request("GET", f"{url}/{SUMS}", timeout=30, deadline=30)
    if published.status not in (200, 404):
        raise ScutumError(
            f"{url}/{SUMS} answered {published.status}: the bundle cannot be checked",
            left="nothing was installed from it",
            next_step="try again later",
        )
    if published.status == 200:
        wanted = parse_sums(published.body.decode("utf-8", "replace"))
        _compare(version, url, found, {k: v for k, v in wanted.items() if k in FILES}, f"{url}/{SUMS}")
    _compare(version, url, found, sums, "scutum_release_sha256")
    ensure_directory(kept, 0o755)
    for name, data in contents.items():
        write_file(os.path.join(kept, name), data, FILES[name])
    # Written last: a bundle without it is incomplete and fetched again.
    write_file(os.path.join(kept, SUMS), "".join(f"{found[name]}  {name}\n" for name in sorted(FILES)), 0o644)
    return True


def _get(url: str, version: str) -> bytes:
    try:
        answer = http.request("GET", url, timeout=60, deadline=60)
    except http.NoAnswer as error:
        raise ScutumError(
            f"the release server does not answer: {error.what}",
            left="nothing was changed",
            next_step="check scutum_release_base_url and the host's way to it",
        ) from error
    if answer.status == 404:
        raise ScutumError(
            f"release {version} was not found: {url} answered 404",
            left="nothing was changed",
            next_step="check scutum_version and scutum_release_base_url",
        )
    if answer.status != 200:
        raise ScutumError(f"{url} answered {answer.status}", left="nothing was changed", next_step="try again later")
    return answer.body


def _sum_of(path: str) -> str:
    try:
        with open(path, "rb") as handle:
            return hashlib.sha256(handle.read()).hexdigest()
    except FileNotFoundError:
        return "missing"


def _compare(version: str, where: str, found: dict[str, str], wanted: dict[str, str], source: str) -> None:
    wrong = sorted(name for name, value in wanted.items() if found.get(name) != value.lower())
    if wrong:
        name = wrong[0]
        raise ScutumError(
            f"release {version}: {', '.join(wrong)} from {where} does not match {source} "
            f"({name}: expected {wanted[name].lower()}, found {found.get(name)})",
            left="nothing was installed from it",
            next_step="do not use this bundle until the vendor confirms the sum"
            + (
                f"; it was altered here, and is fetched again after: mv {where} {where}.altered"
                if where[:1] == "/"
                else ""
            ),
        )
