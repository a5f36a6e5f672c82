# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line's jobs about upgrades: their arguments, and what they print."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from . import smoke_test, upgrade, upgrade_record, upgrade_settings
from .errors import ScutumError
from .installation import Installation
from .restore_record import host_name

Result = tuple[bool, dict[str, Any], str]


# What starts in containers goes first on the CPU: each look of ours, while LiteLLM starts, would lengthen the time that it is away.
_NICE = 10


def run(installation: Installation, arguments: argparse.Namespace) -> Result:
    """Phases of an upgrade."""
    os.nice(_NICE)
    if arguments.settings == "-":
        wanted = upgrade_settings.from_words(json.load(sys.stdin))
    else:
        wanted = upgrade_settings.kept(installation)
        wanted = upgrade_settings.from_words({**vars(wanted), "version": arguments.to or wanted.version})
    phases = [name for name in arguments.phases.split(",") if name]
    result = upgrade.run(installation, wanted, phases, arguments.say, arguments.check, not arguments.no_wait)
    return True, result, "\n".join(result["text"])


def show(installation: Installation, arguments: argparse.Namespace) -> Result:
    """Where the last upgrade stands."""
    result = upgrade.look(installation)
    return bool(result["ok"]), result, "\n".join(result["text"])


def watch(installation: Installation, arguments: argparse.Namespace) -> Result:
    """The service that watches."""
    os.nice(_NICE)
    found = upgrade.watch(installation, arguments.say)
    return True, found, "\n".join([found["verdict"] or "nothing to watch", *found["reasons"]])


def resume(installation: Installation, arguments: argparse.Namespace) -> Result:
    """What a restart of the host interrupted."""
    os.nice(_NICE)
    result = upgrade.resume(installation, arguments.say)
    return True, result, "\n".join(result["text"])


def back(installation: Installation, arguments: argparse.Namespace) -> Result:
    """Back from the last upgrade."""
    os.nice(_NICE)
    accepted = arguments.accept_export
    if accepted and accepted != host_name():
        raise ScutumError(
            f"scutum_rollback_accept_export is {accepted!r}, and this host is {host_name()}",
            left="nothing was changed",
            next_step=f"look whether it is the host that you mean; if so: -e scutum_rollback_accept_export={host_name()}",
        )
    result = upgrade.back(installation, arguments.say, arguments.check, bool(accepted))
    return True, result, "\n".join(result["text"])


def smoke(installation: Installation, arguments: argparse.Namespace) -> Result:
    """Do all parts answer, with their shapes?"""
    version = arguments.release or str(installation.state().get("version") or "")
    result = smoke_test.run(installation, version, arguments.model)
    return bool(result["ok"]), result, "\n".join(smoke_test.text(result))


JOBS: dict[str, Callable[[Installation, argparse.Namespace], Result]] = {
    "upgrade": run,
    "upgrade-status": show,
    "upgrade-watch": watch,
    "upgrade-resume": resume,
    "rollback": back,
    "smoke-test": smoke,
}


def add(jobs: Any) -> None:
    """Their arguments."""
    job = jobs.add_parser("upgrade", help="go through phases of an upgrade; goes on where an earlier run stopped")
    job.add_argument("--to", default="", metavar="RELEASE", help="the release to go to (default: of the last upgrade)")
    job.add_argument(
        "--phases", default=",".join(upgrade_record.PHASES), help="separated by commas (default: %(default)s)"
    )
    job.add_argument("--check", action="store_true", help="only say what would be done")
    job.add_argument("--no-wait", action="store_true", help="leave the watch to the host")
    job.add_argument("--settings", default="", help="-: settings from standard input, as the role gives them")
    jobs.add_parser("upgrade-status", help="where does the last upgrade stand? changes nothing")
    jobs.add_parser("upgrade-watch", help="watch an upgrade to its verdict; the service on the host runs it")
    jobs.add_parser(
        "upgrade-resume", help="go on with what a restart of the host interrupted; a service on the host runs it"
    )
    job = jobs.add_parser("rollback", help="go back from the last upgrade")
    job.add_argument("--check", action="store_true", help="only say what would be done")
    job.add_argument(
        "--accept-export",
        default="",
        metavar="HOST",
        help="this host's name: rows that cannot be carried over are only exported",
    )
    job = jobs.add_parser("smoke-test", help="do all parts answer, with their shapes? changes nothing")
    job.add_argument("--release", default="", help="the release to expect (default: the recorded one)")
    job.add_argument(
        "--model", action="append", help="that has to answer; may be repeated (default: one of each provider)"
    )
