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
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from . import (
    audit_cli,
    backup,
    host_job,
    licence,
    licence_activation,
    licence_watch,
    limits,
    metrics,
    restore,
    restore_host,
    restore_verification,
    secret_ages,
    secret_fetch,
    secret_rotation,
    sizing,
    upgrade_cli,
    verification,
)
from .errors import ScutumError, as_error
from .installation import Installation


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def verify(installation: Installation, arguments: argparse.Namespace) -> tuple[bool, dict[str, Any], str]:
    """Every check of the role install, run on the host."""
    version = arguments.release or str(installation.state().get("version") or "")
    result = verification.verify(installation, version, arguments.model or [])
    lines = [f"{'ok  ' if item['ok'] else 'FAIL'} {item['name']}: {item['detail']}" for item in result["checks"]]
    return bool(result["ok"]), result, "\n".join(lines)


def show_limits(installation: Installation, arguments: argparse.Namespace) -> tuple[bool, dict[str, Any], str]:
    """The limits that are recorded, and whether they are in force."""
    held = limits.load(installation).current
    if held is None:
        return False, {"limits": {}, "differences": []}, "no limits are recorded: playbooks/limits.yml"
    found = limits.differences(installation, held)
    lines = [*sizing.table(held.plan), *(f"NOT IN FORCE {text}" for text in limits.in_words(found))]
    return not found, {"limits": held.plan, "differences": found}, "\n".join(lines)


def show_license(installation: Installation, arguments: argparse.Namespace) -> tuple[bool, dict[str, Any], str]:
    """What the table, the environment and the endpoint say about the licence."""
    found = licence.status(installation)
    return bool(found["consistent"] and not found["expired"]), found, licence.text(found)


def activate_license(installation: Installation, arguments: argparse.Namespace) -> tuple[bool, dict[str, Any], str]:
    """Have the licence on standard input in force: an argument would show in the list of processes."""
    request = licence_activation.Request(
        token=sys.stdin.read(),
        allow_customer_change=arguments.allow_customer_change,
        allow_downgrade=arguments.allow_downgrade,
        allow_earlier_expiry=arguments.allow_earlier_expiry,
        longer_rows=arguments.longer_licenses,
        environment=arguments.environment_key,
        wait=arguments.wait,
        timeout=arguments.timeout,
    )
    result = licence_activation.activate(installation, request, arguments.check)
    held = result["after"]
    lines = [
        f"{result['status']}: {held['tier']} for {held['customer_email']} until {held['expires_at']} "
        f"({result['agreeing']} of {result['answers']} answers)",
        *(f"  {action}" for action in result["actions"] or ["it was in force already"]),
    ]
    return True, result, "\n".join(lines)


def watch_license(installation: Installation, arguments: argparse.Namespace) -> tuple[bool, dict[str, Any], str]:
    """The licence's metrics, and a message when a step on the way to its end is due."""
    result = licence_watch.watch(installation, arguments.metrics)
    said = {True: ", told", False: ""}[result["told"]]
    due = {"": "no warning is due", licence_watch.EXPIRED: "it has expired"}
    lines = [
        due.get(result["warning"], f"the {result['warning']}-day warning is due") + said,
        f"metrics: {result['metrics']}",
    ]
    # A licence that runs out is not a failure of the job: the metrics and the message say it.
    return True, result, "\n".join([licence.text(result["status"]), *lines])


def fetch_secrets(installation: Installation, arguments: argparse.Namespace) -> tuple[bool, dict[str, Any], str]:
    """Have the secrets on the tmpfs: asked of the source, again and again until the deadline."""
    given = json.load(sys.stdin) if arguments.settings == "-" else None
    result = secret_fetch.fetch(installation, given, arguments.deadline, _say)
    services = ", ".join(result["services"]) or "none"
    return (
        True,
        result,
        f"{len(result['keys'])} secrets from {result['source']}; services whose file changed: {services}",
    )


def rotate_secrets(installation: Installation, arguments: argparse.Namespace) -> tuple[bool, dict[str, Any], str]:
    """Rotate secrets and prove it; or finish what an earlier run began."""
    given = json.load(sys.stdin) if arguments.settings == "-" else {}
    request = secret_rotation.Request(
        names=[] if arguments.resume else [name for name in arguments.names.split(",") if name],
        api_key_confirmed=arguments.api_key_confirmed,
        only_due=arguments.only_due,
        due_days=_days(arguments),
        given=given.get("source"),
        writer=given.get("writer") or None,
        timeout=arguments.timeout,
    )
    result = secret_rotation.rotate(installation, request, _say, arguments.check)
    return True, result, "\n".join(result["text"])


def show_ages(installation: Installation, arguments: argparse.Namespace) -> tuple[bool, dict[str, Any], str]:
    """How old each secret is, and when it is due."""
    found = secret_ages.Record(installation.private).ages(_days(arguments))
    result = {"secrets": found, "open_rotation": secret_rotation.open_rotation(installation)}
    return (
        not any(item["due"] for item in found),
        result,
        "\n".join(secret_ages.text(found) or ["nothing was recorded yet"]),
    )


def take_backup(installation: Installation, arguments: argparse.Namespace) -> tuple[bool, dict[str, Any], str]:
    """One backup into the store."""
    if arguments.delay:
        time.sleep(secrets.randbelow(int(arguments.delay) + 1))
    result = backup.run(installation, arguments.metrics, _say)
    lines = [
        f"{result['id']}: {result['bytes'] / 2**20:.1f} MiB in {result['seconds']} s, {result['rows']} rows of {result['tables']} tables, "
        f"in {result['where']}",
        *(f"taken away: {name}" for name in result["removed"]),
        *(f"WARNING: {text}" for text in result["warnings"]),
    ]
    return True, result, "\n".join(lines)


def verify_restore(installation: Installation, arguments: argparse.Namespace) -> tuple[bool, dict[str, Any], str]:
    """The newest backup, or a named one, restored and compared."""
    identity = installation.secret("SCUTUM_BACKUP_AGE_IDENTITY")
    wanted = restore_verification.Settings(
        max_age=arguments.max_age,
        again=arguments.again,
        name=arguments.name,
        memory=arguments.memory,
        spool=arguments.spool,
        identities=[identity] if identity else [],
    )
    if arguments.check:
        result = restore_verification.planned(installation, wanted)
    else:
        result = restore_verification.verify(installation, wanted, arguments.metrics, _say)
    result["text"] = restore_verification.text(result)
    if not result["ok"] and not arguments.check:
        # For whoever reads the result as a failure.
        result["error"] = "\n".join(result["text"])
    return bool(result["ok"]) or arguments.check, result, "\n".join(result["text"])


def restore_backup(installation: Installation, arguments: argparse.Namespace) -> tuple[bool, dict[str, Any], str]:
    """A backup restored into production, or the way back, or its end; without a confirmation only what would be done."""
    given = json.load(sys.stdin) if arguments.settings == "-" else {}
    environment = {key: str(value) for key, value in given.get("environment", {}).items()}
    identity = environment.get("SCUTUM_BACKUP_AGE_IDENTITY") or installation.secret("SCUTUM_BACKUP_AGE_IDENTITY")
    wanted = restore.Settings(
        name=arguments.name,
        confirm=arguments.confirm,
        undo=arguments.undo,
        finalize=arguments.finalize,
        safety=not arguments.no_safety_backup,
        drill=arguments.drill,
        spool=arguments.spool,
        store=given.get("store", {}),
        identities=[identity] if identity else [],
        environment=environment,
        timeout=arguments.timeout,
    )
    if arguments.prepare:
        result = restore_host.prepare(installation, wanted, arguments.check)
    elif not installation.exists():
        raise ScutumError(
            f"{installation.directory} holds no installation",
            left="nothing was changed",
            next_step="playbooks/restore.yml installs the release of the backup first; or name the directory with --dir",
        )
    else:
        result = restore.run(installation, wanted, _say, arguments.check)
    return True, result, "\n".join(result["text"])


def show_backups(installation: Installation, arguments: argparse.Namespace) -> tuple[bool, dict[str, Any], str]:
    """Which backups there are."""
    result = backup.info(installation)
    lines = [
        f"{item['id']}  {item['bytes'] / 2**20:10.1f} MiB  {'verified' if item['verified'] else ''}".rstrip()
        for item in result["backups"]
    ]
    lines += [f"{name}  taken before a restore" for name in result["before_restores"]]
    lines += [f"{name}  was begun and never finished: it counts for nothing" for name in result["incomplete"]]
    return bool(result["backups"]), result, "\n".join(lines or [f"there is no backup in {result['where']}"])


def _days(arguments: argparse.Namespace) -> dict[str, int]:
    return secret_ages.days(
        {name: days for name, unused, days in (text.partition("=") for text in arguments.due or [])}
    )


# A schedule's time-out, or a host that shuts down, is said like any failure and cleaned up after. All other jobs just end: one that waits
# for a source would take it for another failed try, and keep the host from shutting down; a restore, for a database that does not serve.
ENDED = frozenset({"backup", "verify-restore", "audit-retention"})
# What runs before there is an installation.
EARLY = frozenset({"secrets-fetch", "restore"})

JOBS: dict[str, Callable[[Installation, argparse.Namespace], tuple[bool, dict[str, Any], str]]] = {
    "verify": verify,
    "limits": show_limits,
    "license": show_license,
    "license-activate": activate_license,
    "license-watch": watch_license,
    "backup": take_backup,
    "backup-info": show_backups,
    "verify-restore": verify_restore,
    "restore": restore_backup,
    **audit_cli.JOBS,
    **upgrade_cli.JOBS,
    "secrets-fetch": fetch_secrets,
    "secrets-rotate": rotate_secrets,
    "secrets-age": show_ages,
}


def main(argv: list[str] | None = None) -> int:
    """Parse the command line, run one job, print its result."""
    parser = argparse.ArgumentParser(prog="scutum-ops", description="Jobs on a host that runs Scutum.")
    parser.add_argument("--dir", default="/opt/scutum", help="the installation (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(say=_say)
    jobs = parser.add_subparsers(dest="job", required=True)
    job = jobs.add_parser("verify", help="is this installation what it should be? changes nothing")
    job.add_argument("--release", default="", help="the release to expect (default: the recorded one)")
    job.add_argument("--model", action="append", help="a model that has to answer by itself; may be repeated")
    jobs.add_parser("limits", help="which limits are planned, and are they in force? changes nothing")
    jobs.add_parser("license", help="which licence is in force, where, and do all places agree? changes nothing")
    job = jobs.add_parser("license-activate", help="have the licence on standard input in force, and prove it")
    job.add_argument("--check", action="store_true", help="only say what would be done")
    job.add_argument("--allow-customer-change", action="store_true")
    job.add_argument("--allow-downgrade", action="store_true")
    job.add_argument("--allow-earlier-expiry", action="store_true")
    job.add_argument("--longer-licenses", choices=["refuse", "deactivate"], default="refuse")
    job.add_argument("--environment-key", choices=["clear", "refuse"], default="clear")
    job.add_argument(
        "--wait", type=float, default=licence_activation.REVALIDATION + 15, help="seconds for stale workers"
    )
    job.add_argument("--timeout", type=float, default=90, help="seconds for admin-api to answer")
    job = jobs.add_parser("license-watch", help="write the licence's metrics; send a warning that is due, once")
    job.add_argument("--metrics", default=metrics.DIRECTORY, help="directory for the metrics (default: %(default)s)")
    job = jobs.add_parser("backup", help="take a backup into the store, and prune it")
    job.add_argument("--metrics", default="", help="directory for the metrics")
    job.add_argument("--delay", type=float, default=0, help="seconds by which the start is put off at random, at most")
    jobs.add_parser("backup-info", help="which backups are there? changes nothing")
    job = jobs.add_parser(
        "verify-restore", help="restore the newest backup into a throwaway, and compare it with its manifest"
    )
    job.add_argument("--name", default="", help="of a backup (default: the newest)")
    job.add_argument("--again", action="store_true", help="also one that was verified before")
    job.add_argument(
        "--max-age", type=float, default=36, help="hours; an older newest one is a failure (default: %(default)s)"
    )
    job.add_argument("--memory", default="2g", help="of the throwaway (default: %(default)s)")
    job.add_argument("--spool", default="", help="directory for the dump while it is restored")
    job.add_argument("--metrics", default="", help="directory for the metrics")
    job.add_argument("--check", action="store_true", help="only say which one it would be")
    job = jobs.add_parser(
        "restore", help="restore a backup into production; without --confirm it only says what it would do"
    )
    job.add_argument("--name", default="", help="of a backup (default: the newest)")
    job.add_argument("--confirm", default="", metavar="HOST", help="this host's name: restore")
    job.add_argument("--undo", default="", metavar="HOST", help="this host's name: go back to what served before")
    job.add_argument("--finalize", default="", metavar="HOST", help="this host's name: drop the database that was kept")
    job.add_argument("--no-safety-backup", action="store_true", help="take no backup of what is there first")
    job.add_argument(
        "--drill", action="store_true", help="take event subscriptions out: they would page the real on-call"
    )
    job.add_argument("--spool", default="", help="directory for the dump while it is restored")
    job.add_argument("--timeout", type=float, default=300, help="seconds for services to be healthy again")
    job.add_argument("--check", action="store_true", help="only say what would be done")
    job.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    job.add_argument(
        "--settings", default="", help="-: store and environment from standard input, as the role gives them"
    )
    audit_cli.add(jobs)
    upgrade_cli.add(jobs)
    job = jobs.add_parser(
        "secrets-fetch", help="have the source's secrets on the tmpfs; runs before the engine at boot"
    )
    job.add_argument("--deadline", type=float, default=0, help="seconds for which a silent source is asked again")
    job.add_argument("--settings", default="", help="-: try other settings, from standard input, and keep none of them")
    job = jobs.add_parser("secrets-rotate", help="rotate secrets and prove it; goes on where an earlier run stopped")
    job.add_argument("names", nargs="?", default="", help=f"of {', '.join(secret_ages.ROTATED)}, separated by commas")
    job.add_argument("--resume", action="store_true", help="only finish what an earlier run began")
    job.add_argument(
        "--api-key-confirmed", action="store_true", help="yes, all applications will get a new SCUTUM_API_KEY"
    )
    job.add_argument("--only-due", action="store_true", help="leave out what is not due")
    job.add_argument("--due", action="append", metavar="NAME=DAYS", help="days after which one is due; may be repeated")
    job.add_argument("--timeout", type=float, default=300, help="seconds for services to be healthy again")
    job.add_argument("--check", action="store_true", help="only say what would be done")
    job.add_argument(
        "--settings", default="", help="-: the source's settings from standard input, as the role gives them"
    )
    job = jobs.add_parser("secrets-age", help="how old each secret is, and when it is due")
    job.add_argument("--due", action="append", metavar="NAME=DAYS", help="days after which one is due; may be repeated")
    arguments = parser.parse_args(argv)
    if arguments.job in ENDED:
        signal.signal(signal.SIGTERM, host_job.end)
    installation = Installation(arguments.dir)
    try:
        if not installation.exists() and arguments.job not in EARLY:
            raise ScutumError(f"{installation.directory} holds no installation", next_step="name it with --dir")
        good, result, text = JOBS[arguments.job](installation, arguments)
    except (
        ScutumError,
        OSError,
        ValueError,
        TypeError,
        LookupError,
        ImportError,
        subprocess.SubprocessError,
    ) as problem:
        error = str(as_error(problem))
        good, result, text = False, {"ok": False, "error": error}, error
    print(json.dumps(result, sort_keys=True) if arguments.json else text)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
