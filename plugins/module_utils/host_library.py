# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Putting this very library on a host, so that scheduled jobs there run the same code as the modules.

Standard-library parts lie in one directory; third-party parts live in one isolated environment with pinned versions.
"""

from __future__ import annotations

import ast
import json
import os
import sys
from typing import Any

from .engine import clean_environment, run
from .errors import ScutumError
from .files import ensure_directory, read_text, sha256_bytes, write_file

PACKAGE = "scutum_ops"
# What the command line imports, directly or not: the library without the parts that only Ansible needs.
_ENTRY = "cli"

_PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "https_proxy", "http_proxy", "no_proxy")

_COMMAND = """#!/bin/sh
# Written by scutum.ops (role _host_library).
PYTHONPATH={home} exec {python} -m {package}.{entry} "$@"
"""


def sources() -> dict[str, str]:
    """File name to text of every part of the library that the command imports, read from where this module runs from."""
    found = {"__init__.py": ""}
    waiting = [_ENTRY]
    loader: Any = globals()["__loader__"]
    while waiting:
        name = waiting.pop()
        if f"{name}.py" in found:
            continue
        # The loader that loaded this file reads its neighbours too, out of Ansible's archive as well as from a folder.
        text = loader.get_data(os.path.join(os.path.dirname(__file__), f"{name}.py")).decode("utf-8")
        found[f"{name}.py"] = text
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                waiting += [node.module] if node.module else [alias.name for alias in node.names]
    return found


def install(home: str, command: str, requirements: list[str], wheelhouse: str = "", check: bool = False) -> list[str]:
    """Have library, environment and command on the host; names of what was (or would be) changed.

    Args:
        home: directory for the library.
        command: path of the executable.
        requirements: third-party parts, each pinned as `name==version`.
        wheelhouse: directory on the host from which they are installed without a network; empty for the index.
    """
    loose = [item for item in requirements if "==" not in item]
    if loose:
        raise ScutumError(
            f"not pinned: {', '.join(loose)}", left="nothing was changed", next_step="write name==version"
        )
    changes = []
    texts = sources()
    library = os.path.join(home, PACKAGE)
    if not check:
        ensure_directory(library, 0o755)
    for name, text in sorted(texts.items()):
        if write_file(os.path.join(library, name), text, 0o644, check):
            changes.append(os.path.join(library, name))
    present = os.listdir(library) if os.path.isdir(library) else []
    for name in sorted(item for item in present if item.endswith(".py") and item not in texts):
        changes.append(f"{os.path.join(library, name)} (no longer part of it)")
        if not check:
            os.unlink(os.path.join(library, name))
    python = _environment(home, requirements, wheelhouse, changes, check)
    text = _COMMAND.format(home=home, python=python, package=PACKAGE, entry=_ENTRY)
    if write_file(command, text, 0o755, check):
        changes.append(command)
    return changes


def _environment(home: str, requirements: list[str], wheelhouse: str, changes: list[str], check: bool) -> str:
    """The interpreter for jobs: the isolated environment's when there is anything to isolate, else the host's."""
    if not requirements:
        return "/usr/bin/python3"
    venv = os.path.join(home, "venv")
    stamp = os.path.join(venv, ".requirements")
    wanted = sha256_bytes("\n".join([sys.version, *sorted(requirements)]).encode())
    if read_text(stamp) != wanted:
        changes.append(venv)
        if not check:
            _must([sys.executable, "-m", "venv", "--clear", venv], "the package python3-venv is missing")
            source = ["--no-index", "--find-links", wheelhouse] if wheelhouse else []
            pip = [os.path.join(venv, "bin", "pip"), "install", "--disable-pip-version-check", "--quiet", *source]
            _must([*pip, *requirements], "a part is not in the wheelhouse or the index")
            # Last: an environment without it is incomplete and made again.
            write_file(stamp, wanted, 0o644)
    return os.path.join(venv, "bin", "python3")


def _must(command: list[str], likely: str) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    result = run(command, environment=environment, timeout=900)
    if result.rc != 0:
        raise ScutumError(
            f"{' '.join(command[:3])} failed ({likely}?): {(result.err or result.out).strip()[-400:]}",
            left="the library is installed, its isolated environment is not",
            next_step="correct the cause and run the playbook again",
        )


def call(command: str, directory: str, words: list[str], given: Any = None, timeout: float = 120) -> dict[str, Any]:
    """Run a job of the host's command line for a module that needs third-party parts; its result, or its failure as ours.

    Args:
        given: passed as JSON on standard input, where nobody sees it.
        timeout: seconds.
    """
    done = run(
        [command, "--dir", directory, "--json", *words],
        stdin=None if given is None else json.dumps(given),
        # A cloud's client may need the way out that this host has.
        environment=clean_environment({name: os.environ[name] for name in _PROXIES if name in os.environ}),
        timeout=timeout,
    )
    if done.rc == 124:
        raise ScutumError(
            f"{command} {words[0]} took longer than {timeout:.0f} s, and was ended",
            left="what was begun is finished or undone by the next run",
            next_step="run the playbook again",
        )
    try:
        result = dict(json.loads(done.out))
    except ValueError as error:
        raise ScutumError(
            f"{command} said nothing that can be read ({done.rc}): {done.err.strip()[-300:]}",
            left="what was begun is finished or undone by the next run",
            next_step="run playbooks/secrets.yml, which installs it",
        ) from error
    if done.rc != 0:
        what, unused, after = str(result.get("error")).partition("\nNext: ")
        said, unused, left = what.partition("\nState: ")
        raise ScutumError(said, left=left, next_step=after)
    return result
