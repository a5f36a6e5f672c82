# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The second door to this library: jobs on the host, without Ansible, for schedules and for a person at 3 a.m.

Installed by the role _host_library as /usr/local/sbin/scutum-ops. A job prints one JSON object on standard output with
--json, else text; it exits 0 when what it checked is right, 1 when it is not, 2 when it could not be called like that.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

from . import verification
from .errors import ScutumError
from .installation import Installation


def verify(installation: Installation, arguments: argparse.Namespace) -> tuple[bool, dict[str, Any], str]:
    """Every check of the role install, run on the host."""
    version = arguments.release or str(installation.state().get("version") or "")
    result = verification.verify(installation, version, arguments.model or [])
    lines = [f"{'ok  ' if item['ok'] else 'FAIL'} {item['name']}: {item['detail']}" for item in result["checks"]]
    return bool(result["ok"]), result, "\n".join(lines)


JOBS: dict[str, Callable[[Installation, argparse.Namespace], tuple[bool, dict[str, Any], str]]] = {"verify": verify}


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, run one job, print its result."""
    parser = argparse.ArgumentParser(prog="scutum-ops", description="Jobs on a host that runs Scutum.")
    parser.add_argument("--dir", default="/opt/scutum", help="the installation (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    jobs = parser.add_subparsers(dest="job", required=True)
    job = jobs.add_parser("verify", help="is this installation what it should be? changes nothing")
    job.add_argument("--release", default="", help="the release to expect (default: the recorded one)")
    job.add_argument("--model", action="append", help="a model that has to answer by itself; may be repeated")
    arguments = parser.parse_args(argv)
    installation = Installation(arguments.dir)
    try:
        if not installation.exists():
            raise ScutumError(f"{installation.directory} holds no installation", next_step="name it with --dir")
        good, result, text = JOBS[arguments.job](installation, arguments)
    except ScutumError as error:
        good, result, text = False, {"ok": False, "error": str(error)}, str(error)
    print(json.dumps(result, sort_keys=True) if arguments.json else text)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
