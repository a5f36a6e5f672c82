# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The command line's jobs about audit history: their arguments, and what they print."""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import time
from collections.abc import Callable
from typing import Any

from . import audit_archive as archive
from . import audit_arrange, audit_job, audit_report, audit_settings
from .files import write_file
from .installation import Installation

Result = tuple[bool, dict[str, Any], str]


def show_audit(installation: Installation, arguments: argparse.Namespace) -> Result:
    """What audit history there is, in Postgres and in the archive, and what is wrong with it."""
    result = audit_job.look(installation)
    result["text"] = audit_report.text(result)
    if arguments.page:
        write_file(arguments.page, audit_report.page(installation, result), 0o644)
    return bool(result["ok"]) or arguments.exit_zero, result, "\n".join(result["text"])


def retain_audit(installation: Installation, arguments: argparse.Namespace) -> Result:
    """The daily job: months ahead, months that are due into the archive, read back, dropped."""
    if arguments.delay:
        time.sleep(secrets.randbelow(int(arguments.delay) + 1))
    given = audit_settings.from_words(json.load(sys.stdin)) if arguments.settings == "-" else None
    result = audit_job.run(installation, arguments.metrics, arguments.say, arguments.check, given)
    lines = [*result["text"], *(f"WARNING: {text}" for text in result["warnings"])]
    return True, result, "\n".join(lines)


def partition_audit(installation: Installation, arguments: argparse.Namespace) -> Result:
    """The tables in partitions by month, or plain again, or a detached month back."""
    given = audit_settings.from_words(json.load(sys.stdin)) if arguments.settings == "-" else None
    wanted = given or audit_job.settings(installation)
    if arguments.attach:
        result = audit_arrange.attach(installation, arguments.attach, arguments.say, arguments.check)
    elif arguments.undo is not None:
        result = audit_arrange.undo(installation, wanted, arguments.undo, arguments.say, arguments.check)
    else:
        result = audit_arrange.arrange(installation, wanted, arguments.say, arguments.check)
    return True, result, "\n".join(result["text"])


def verify_audit(installation: Installation, arguments: argparse.Namespace) -> Result:
    """Whether the archive is what was written: no month removed, none altered."""
    if arguments.remove_leftovers is not None:
        result = archive.remove_leftovers(installation, arguments.remove_leftovers, arguments.say)
        return True, result, "\n".join(result["text"])
    result = archive.verify(installation, arguments.deep, arguments.say)
    return bool(result["ok"]), result, "\n".join(result["text"])


def query_audit(installation: Installation, arguments: argparse.Namespace) -> Result:
    """SQL over the archive."""
    months = (getattr(arguments, "from"), arguments.to)
    result = archive.query(installation, arguments.sql, *months, arguments.say, arguments.limit)
    return True, result, "\n".join(result["text"])


def rehydrate_audit(installation: Installation, arguments: argparse.Namespace) -> Result:
    """Months of the archive back into a schema of their own, or that schema away."""
    if arguments.forget is not None:
        result = archive.forget(installation, arguments.forget)
    else:
        result = archive.rehydrate(
            installation, arguments.table, getattr(arguments, "from"), arguments.to, arguments.say
        )
    return True, result, "\n".join(result["text"])


JOBS: dict[str, Callable[[Installation, argparse.Namespace], Result]] = {
    "audit": show_audit,
    "audit-retention": retain_audit,
    "audit-partitions": partition_audit,
    "audit-verify": verify_audit,
    "audit-query": query_audit,
    "audit-rehydrate": rehydrate_audit,
}


def add(jobs: Any) -> None:
    """Add the jobs to a command line.

    Args:
        jobs: what argparse's add_subparsers made.
    """
    given = "-: settings from standard input, as the role gives them, and none of them kept"
    month = {"default": "", "metavar": "MONTH", "help": "as 2026-03"}
    job = jobs.add_parser("audit", help="what audit history is there, and what is wrong with it? changes nothing")
    job.add_argument("--page", default="", metavar="FILE", help="write the same as a page")
    job.add_argument("--exit-zero", action="store_true", help="exit 0 also when something is wrong")
    job = jobs.add_parser("audit-retention", help="archive the months that are due, and drop what was read back")
    job.add_argument("--check", action="store_true", help="only say what would be done")
    job.add_argument("--settings", default="", help=given)
    job.add_argument("--metrics", default="", help="directory for the metrics")
    job.add_argument("--delay", type=float, default=0, help="seconds by which the start is put off at random, at most")
    job = jobs.add_parser("audit-partitions", help="have the tables in partitions by month, while they are in use")
    job.add_argument("--check", action="store_true", help="only say what would be done")
    job.add_argument("--undo", metavar="HOST", default=None, help="this host's name: plain tables again")
    job.add_argument("--attach", metavar="NAME", default="", help="a month that was detached, back into its table")
    job.add_argument("--settings", default="", help=given)
    job = jobs.add_parser("audit-verify", help="is the archive what was written? changes nothing")
    job.add_argument("--deep", action="store_true", help="read every file, not only the manifests")
    job.add_argument(
        "--remove-leftovers", metavar="HOST", default=None, help="this host's name: files without a manifest go"
    )
    job = jobs.add_parser("audit-query", help="SQL over the archive, by DuckDB; the tables have their names")
    job.add_argument("sql", help="a SELECT")
    job.add_argument("--limit", type=int, default=1000, help="rows that are shown at most (default: %(default)s)")
    job.add_argument("--from", **month)
    job.add_argument("--to", **month)
    job = jobs.add_parser("audit-rehydrate", help="months of the archive back into a schema of their own, for an audit")
    job.add_argument("--from", **month)
    job.add_argument("--to", **month)
    job.add_argument("--table", default="audit_logs", help="(default: %(default)s)")
    job.add_argument("--forget", metavar="HOST", default=None, help="this host's name: drop that schema")
