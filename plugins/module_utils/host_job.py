# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the jobs on a schedule that work on the database have in common: settings, locks, the record of runs, metrics, telling people.

Two files are locked, and never written to: `<name>.lock` by each run of a kind, so that a second one is refused at once, and
`database-jobs.lock` by all kinds, so that the nightly dump and the archiving never overlap: the one waits for the other.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from . import http_client as http
from . import metrics, notify
from .errors import ScutumError, as_error
from .files import ensure_directory, read_text, write_file
from .installation import Installation
from .metrics import Gauges
from .report import Say

LOCK = "database-jobs.lock"
# Seconds for which the lock of another kind is waited for: longer than a dump of a large database takes.
PATIENCE = 2 * 3600.0
_POLL = 0.5


@dataclass(frozen=True)
class Kind:
    """A kind of job.

    Args:
        name: of its files below the private directory: `<name>.json` (settings), `<name>-status.json`, `<name>.lock`.
        noun: what a run is called: "another <noun> is running on this host".
        event: of the message about a failure, for webhooks.
        last: the beginning of "… 2.0 hours ago", about the last good run.
        again: the command that runs it by hand.
        show: the command that shows the last run.
        metrics: name of the metrics' file; `gauges` makes them from the record of runs.
        heartbeat: the secret that holds a URL, which a good run asks.
        too_long: seconds without a good run after which even a run that was refused, because one hangs, is a failure.
    """

    name: str
    noun: str
    event: str
    last: str
    again: str
    show: str
    metrics: str
    gauges: Callable[[dict[str, Any]], Mapping[str, Gauges]]
    heartbeat: str
    too_long: float = 26 * 3600

    @property
    def settings(self) -> str:
        """Name of the file with the settings."""
        return f"{self.name}.json"


class Ended(ScutumError):
    """A run was ended from outside: whoever goes on after failures does not go on after this one."""


# A library on the way may take the exception for a failure of its own, and try again: then this still says it.
_END = threading.Event()


def end(number: int, frame: object) -> None:
    """A handler for SIGTERM."""
    _END.set()
    check_end()


def check_end() -> None:
    """Raise `Ended` when the run was ended from outside."""
    if _END.is_set():
        raise Ended(
            "it was ended from outside (SIGTERM): a time-out, or the host shuts down",
            left="what was not finished counts for nothing",
            next_step="run it again",
        )


class _Taken(ScutumError):
    """A run of the same kind has the lock."""


class HostJob:
    """A kind of job on one installation.

    Args:
        directory: where metrics go; empty for nowhere.
    """

    def __init__(self, installation: Installation, kind: Kind, directory: str = "") -> None:
        self.installation = installation
        self.kind = kind
        self.directory = directory

    def _path(self, name: str) -> str:
        return os.path.join(self.installation.private, name)

    # --- settings

    def keep(self, wanted: Mapping[str, Any], check: bool = False) -> list[str]:
        """Keep settings on the host, 0600; names of what was (or would be) changed."""
        if check and not os.path.isdir(self.installation.private):
            return [self.kind.settings]
        if not check:
            ensure_directory(self.installation.private, 0o700)
        text = json.dumps(wanted, indent=1, sort_keys=True) + "\n"
        return [self.kind.settings] if write_file(self._path(self.kind.settings), text, 0o600, check) else []

    def kept(self) -> dict[str, Any] | None:
        """The settings that are kept; None when there are none."""
        text = read_text(self._path(self.kind.settings))
        return None if text is None else dict(json.loads(text))

    # --- one run

    @contextlib.contextmanager
    def alone(self, say: Say, patience: float = PATIENCE) -> Iterator[None]:
        """No other run of this kind, and none of another kind on the same database. The locks go with the process.

        Their own: an install need not wait for a long dump.

        Args:
            patience: seconds for which another kind is waited for.

        Raises:
            ScutumError: another run is going on, or the lock cannot be opened (a full disk), which people are told.
        """
        start = time.time()
        with contextlib.ExitStack() as closing:
            try:
                ensure_directory(self.installation.private, 0o700)
                if not lock_file(closing, self._path(f"{self.kind.name}.lock")):
                    raise _Taken(
                        f"another {self.kind.noun} is running on this host",
                        left="nothing was done by this one",
                        next_step=f"wait for it ({self.kind.show} shows the last one); the lock goes with its process",
                    )
                closing.enter_context(turn(self.installation, say, self.kind.again, patience))
            except _Taken as error:
                last = self.status().get("last_success", {}).get("at", 0)
                if time.time() - last > self.kind.too_long:
                    # One that hangs would keep every later one away, and nobody would know.
                    self._failed(error, start)
                raise
            except Exception as problem:
                self._fail(problem, start)
            yield

    @contextlib.contextmanager
    def begun(self, say: Say) -> Iterator[None]:
        """A run, from its record on: whatever fails in it is recorded, counted, and people are told."""
        start = time.time()
        left = self.status().get("running")
        if left:
            began = time.strftime("%Y-%m-%d %H:%M", time.localtime(left["began"]))
            say(f"the run that began at {began} was killed")
        try:
            self.record(running={"began": start})
            yield
        except Exception as problem:
            self._fail(problem, start)

    def succeeded(self, result: dict[str, Any]) -> None:
        """Record a good run; what goes wrong with that is added to its `warnings`."""
        try:
            self.gauge(self.record(running=None, last_success={**result, "at": time.time()}))
        except (ScutumError, OSError) as problem:
            # The run was good, and what follows has to be told all the same.
            result["warnings"].append(f"the status or the metrics: {problem}")
        url = self.installation.secret(self.kind.heartbeat)
        if not url:
            return
        try:
            answer = http.request("GET", url, timeout=10, deadline=30)
            problem_text = "" if answer.status < 300 else f"answered {answer.status}"
        except ScutumError:
            # The URL is a secret of its kind: no failure repeats it.
            problem_text = "no answer"
        if problem_text:
            result["warnings"].append(f"the heartbeat ({self.kind.heartbeat}): {problem_text}")

    def _fail(self, problem: Exception, start: float) -> NoReturn:
        error = as_error(problem)
        self._failed(error, start)
        if error is problem:
            raise error
        raise error from problem

    def _failed(self, error: ScutumError, start: float) -> None:
        # First of all people: the disk may be full.
        last = self.status().get("last_success", {}).get("at")
        ago = f"{(time.time() - last) / 3600:.1f} hours ago" if last else "never"
        redact, kind = self.installation.redact, self.kind
        with contextlib.suppress(ScutumError):
            notify.send(
                notify.settings(self.installation.private),
                f"Scutum: the {kind.noun} of {self.installation.directory} failed",
                f"{redact(str(error))}\n\n{kind.last} {ago}.\nAgain, by hand, on the host: {kind.again}\n",
                {"event": kind.event, "error": redact(error.what)[:500]},
                [],
            )
        failure = {"at": time.time(), "began": start, "error": redact(error.what)[:2000]}
        with contextlib.suppress(ScutumError, OSError):
            self.record(running=None, last_failure=failure)
        # They may lie on another disk than the record.
        with contextlib.suppress(ScutumError, OSError):
            self.gauge({**self.status(), "last_failure": failure})

    # --- what is left behind of each run

    def status(self) -> dict[str, Any]:
        """The record of the last runs: `last_success`, `last_failure` (each with `at`, in seconds since 1970), `running` (`began`; of a run
        that was killed, when none runs), and what the kind records beside them."""
        try:
            return dict(json.loads(read_text(self._path(f"{self.kind.name}-status.json")) or "{}"))
        except ValueError:
            # Cut short by a crash.
            return {}

    def record(self, **changes: Any) -> dict[str, Any]:
        """Record something beside what is recorded; all of it."""
        held = {**self.status(), **changes}
        text = json.dumps(held, indent=1, sort_keys=True) + "\n"
        write_file(self._path(f"{self.kind.name}-status.json"), text, 0o600)
        return held

    def gauge(self, held: dict[str, Any]) -> None:
        """Write the metrics of a record."""
        if self.directory:
            metrics.write(self.directory, self.kind.metrics, self.kind.gauges(held))


@contextlib.contextmanager
def turn(installation: Installation, say: Say, again: str, patience: float = PATIENCE) -> Iterator[None]:
    """No other job on the same database meanwhile; one that goes on is waited for.

    Args:
        again: the command that runs this one by hand.
        patience: seconds.
    """
    end = time.monotonic() + patience
    waiting = False
    with contextlib.ExitStack() as closing:
        while not lock_file(closing, os.path.join(installation.private, LOCK)):
            if time.monotonic() >= end:
                raise ScutumError(
                    f"another job works on this installation's database, and did not end within {patience:.0f} s",
                    left="nothing was done by this one",
                    next_step=f"systemctl list-units 'scutum-ops-*' and ps -ef | grep scutum-ops show it; then: {again}",
                )
            if not waiting:
                say(f"another job works on the database: waiting for it, at most {patience / 60:.0f} minutes")
                waiting = True
            time.sleep(_POLL)
        yield


def runs(held: dict[str, Any], prefix: str, noun: str) -> dict[str, Gauges]:
    """The gauges that every kind has, from its record."""
    good, bad = held.get("last_success", {}).get("at", 0), held.get("last_failure", {}).get("at", 0)
    return {
        f"{prefix}_last_success_timestamp_seconds": (f"When the last good {noun} ended; 0 for never.", {}, good),
        f"{prefix}_last_failure_timestamp_seconds": ("When the last failed one ended; 0 for never.", {}, bad),
        f"{prefix}_up": ("Whether the last run succeeded.", {}, float(good > bad)),
    }


def lock_file(closing: contextlib.ExitStack, path: str) -> bool:
    """Lock a file, for as long as `closing` is open; whether that was possible."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return False
    except OSError:
        os.close(handle)
        raise
    closing.callback(os.close, handle)
    return True
