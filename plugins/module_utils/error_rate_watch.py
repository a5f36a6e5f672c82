# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The watch over a new version: what is asked and counted, round by round. What the counts mean is decided in error_rate.py.

A gateway can answer with an error before LiteLLM counts a request, so LiteLLM's metrics alone are not believed: completions of our own
are asked for as well. They go to their provider in any case (no fallback, no cache), and so cost a few tokens each.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from typing import Any

from . import error_rate
from .admin_api import AdminApi
from .error_rate import ADMIN, COMPLETIONS, PROBED, Counts, Rules
from .errors import ScutumError
from .http_client import NoAnswer
from .installation import Installation
from .litellm import LiteLLM, Probe, Served

Say = Callable[[str], None]

# Seconds for a call of the admin API or of the metrics, and for a completion: more counts as failed.
_TIMEOUT, _COMPLETION_TIMEOUT = 5.0, 30.0
# Completions that are under way at once, at the most.
_AT_ONCE = 5
# Seconds for which a container may be away before it counts: somebody recreates it. As long before and after that its service may fail: a
# container that is told to end accepts nothing any more, but is running until it has ended, and one that was started is not ready at once.
_AWAY = 10.0
# Seconds after which one that is still starting by its health check is late.
_STARTING = 120.0
# Whose container answers for what is asked.
_SERVICES = {ADMIN: "admin-api", PROBED: "litellm"}
# Metrics are read so rarely that reading them takes no more than this share of a LiteLLM worker's time.
_READING = 0.05


@dataclass(frozen=True)
class _Failure:
    """A request without a good answer: its signal, when that was seen (monotonic), and whether nothing answered at all."""

    signal: str
    at: float
    silent: bool


@dataclass(frozen=True)
class _Sum:
    """Everything that has been counted up to a moment."""

    served: Served
    probed: Counts
    admin: Counts

    def since(self, other: _Sum) -> dict[str, Counts]:
        """By signal, what came after another moment."""
        now, then = self.served, other.served
        completions = _of_metrics(
            Served(
                now.requests - then.requests,
                now.failed - then.failed,
                now.seconds - then.seconds,
                now.timed - then.timed,
            )
        )
        return {
            COMPLETIONS: completions,
            PROBED: self.probed.minus(other.probed),
            ADMIN: self.admin.minus(other.admin),
        }


_NOTHING = _Sum(Served(), Counts(), Counts())


def _of_metrics(served: Served) -> Counts:
    """LiteLLM's counters as counts. Times are those of other requests, too, so their mean counts, not their sum."""
    failed = min(served.failed, served.requests)
    mean = served.seconds / served.timed if served.timed else 0.0
    return Counts(served.requests, failed, mean * (served.requests - failed))


class _Services:
    """Asks both services and adds up what they say. Nothing that they do makes it fail."""

    def __init__(self, installation: Installation, model: str) -> None:
        self.installation = installation
        self._pool = ThreadPoolExecutor(max_workers=_AT_ONCE + 4)
        self._admin: AdminApi | None = None
        self._litellm: LiteLLM | None = None
        self._pending: set[Future[Probe]] = set()
        self._failed: list[_Failure] = []
        self._started: str | None = None
        self._highest = Served()
        self._read_again = 0.0
        self.served = Served()
        self.probed = Counts()
        self.admin = Counts()
        self.model = model
        self.find_model()

    def sum(self) -> _Sum:
        """What has been counted by now."""
        return _Sum(self.served, self.probed, self.admin)

    def close(self) -> None:
        """Ask no more, and wait for nothing."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def litellm(self) -> LiteLLM | None:
        """LiteLLM where it was found; None while its port is published nowhere."""
        if self._litellm is None:
            with contextlib.suppress(ScutumError):
                key = self.installation.secret("SCUTUM_API_KEY")
                self._litellm = LiteLLM(self.installation.url("litellm"), key, 0, _TIMEOUT)
        return self._litellm

    def find_model(self) -> str:
        """The model that is asked; where none is named, the first that LiteLLM knows, and empty while it tells none."""
        client = None if self.model else self.litellm()
        if client is not None:
            with contextlib.suppress(ScutumError):
                self.model = next(iter(client.providers().values()), "")
        return self.model

    def ask_admin_api(self) -> None:
        """Ask the three endpoints at once. /health touches nothing behind it: its yes is no evidence and is not counted, its no is."""
        client = self._admin
        if client is None:
            with contextlib.suppress(ScutumError):
                key = self.installation.secret("SCUTUM_API_KEY")
                client = AdminApi(self.installation.url("admin-api"), key, 0, _TIMEOUT)
        if client is None:
            self._fail(ADMIN, silent=True)
            self._fail(ADMIN, silent=True)
            return
        health = self._pool.submit(client.health)
        calls = [self._pool.submit(_timed, ask) for ask in (client.licence, client.audit_logs)]
        answers = [call.result() for call in calls]
        for ok, seconds, nothing in answers:
            if ok:
                self.admin = self.admin.plus(Counts(1, 0, seconds))
            else:
                self._fail(ADMIN, nothing)
        silent = all(nothing for unused, unused_seconds, nothing in answers)
        if not health.result():
            self._fail(ADMIN, silent)
        # A container that was recreated may be published elsewhere, and have another key.
        self._admin = None if silent else client

    def ask_completions(self, number: int) -> None:
        """Ask for completions, without waiting for them."""
        client = self.litellm()
        for unused in range(min(number, _AT_ONCE - len(self._pending))):
            if client is None:
                self._fail(PROBED, silent=True)
            else:
                self._pending.add(self._pool.submit(client.probe, self.model, _COMPLETION_TIMEOUT))

    def collect(self, seconds: float = 0.0) -> None:
        """Count the completions that have come; those that have not are waited for (seconds)."""
        done, self._pending = wait(self._pending, timeout=seconds)
        for future in done:
            probe = future.result()
            if probe.ok:
                self.probed = self.probed.plus(Counts(1, 0, probe.seconds))
                continue
            silent = not probe.error.startswith("HTTP ")
            self._fail(PROBED, silent)
            if silent:
                self._litellm = None

    def _fail(self, signal: str, silent: bool) -> None:
        self._failed.append(_Failure(signal, time.monotonic(), silent))

    def settle(self, containers: _Containers | None = None, ended: bool = True) -> dict[str, float]:
        """Count what failed, but for what is explained by somebody who recreates a container; by signal, when the first of it failed.

        An error is an answer, and counts at once. Where nothing answered, a container may be ending whose end is not seen yet: that is
        counted when a look long enough after it has found no change.

        Args:
            containers: looked at since; None where nothing is explained.
            ended: there is no look after this: count everything.
        """
        first: dict[str, float] = {}
        failed, self._failed = self._failed, []
        for failure in failed:
            service = _SERVICES[failure.signal]
            if containers is not None and containers.replaced(service, failure.at):
                # A client that was made before has another key, perhaps.
                self._forget(service)
            elif containers is not None and not ended and failure.silent and containers.looked < failure.at + _AWAY:
                self._failed.append(failure)
            else:
                first.setdefault(failure.signal, failure.at)
                if failure.signal == ADMIN:
                    self.admin = self.admin.plus(Counts(1, 1))
                else:
                    self.probed = self.probed.plus(Counts(1, 1))
        return first

    def _forget(self, service: str) -> None:
        if service == "litellm":
            self._litellm = None
        else:
            self._admin = None

    def asked(self) -> int:
        """Completions that were asked for or counted."""
        held = sum(failure.signal == PROBED for failure in self._failed)
        return self.served.requests + self.probed.requests + len(self._pending) + held

    def read_metrics(self, started: str, replaced: bool = False) -> None:
        """Add what LiteLLM's counters have risen by.

        Args:
            started: when its container was started: counters of another start begin at 0. Within one start a lower number is that of
                one worker among several that do not share their counters, and is passed over.
            replaced: somebody has just recreated it: what failed since is no fault.
        """
        client = self.litellm()
        begin = time.monotonic()
        if client is None or not started or begin < self._read_again:
            return
        try:
            now = client.served()
        except ScutumError:
            self._litellm = None
            return
        finally:
            self._read_again = time.monotonic() + (time.monotonic() - begin) / _READING
        if now is None:
            return
        if self._started is None:
            self._highest = now
        elif started != self._started:
            self._highest = Served()
        self._started = started
        before = self._highest
        self._highest = Served(
            max(before.requests, now.requests),
            max(before.failed, now.failed),
            max(before.seconds, now.seconds),
            max(before.timed, now.timed),
        )
        self.served = Served(
            self.served.requests + self._highest.requests - before.requests,
            self.served.failed + (0 if replaced else self._highest.failed - before.failed),
            self.served.seconds + self._highest.seconds - before.seconds,
            self.served.timed + self._highest.timed - before.timed,
        )


class _Containers:
    """Restarts of containers, containers that do not run, and what is explained by somebody who recreates one.

    A container that somebody recreates, and the engine's own restart, are new starts and no restarts.
    """

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self._compose = installation.compose()
        model = self._compose.model()
        self._project = str(model["name"])
        self._services = sorted(model["services"])
        self._seen: dict[str, tuple[str, int]] = {}
        self._away: dict[str, float] = {}
        # What ran when a service was last seen to serve, and when that was; and from when to when its container was away or changed.
        self._ran: dict[str, tuple[str, str]] = {}
        self._well: dict[str, float] = {}
        self._replaced: dict[str, tuple[float, float]] = {}
        # When the last look was, of those that found something (monotonic).
        self._began = self.looked = time.monotonic()
        self.restarts: dict[str, int] = {}
        # When the first of them happened, as far as it was seen (monotonic).
        self.first: float | None = None

    def look(self) -> dict[str, dict[str, Any]]:
        """Look once; the containers by service. An engine that does not answer says nothing about them."""
        found = self._compose.containers(self._project)
        if not found:
            return {}
        now = time.monotonic()
        for service in self._services:
            container = found.get(service)
            if container is not None:
                self._count(service, str(container.get("Id")), int(container.get("RestartCount") or 0))
            if container is not None and _serves(container):
                self._away.pop(service, None)
            elif now - self._away.setdefault(service, now) >= _AWAY:
                self._note(service, max(1, self.restarts.get(service, 0)), self._away[service])
            self._follow(service, container, now)
        self.looked = now
        return found

    def replaced(self, service: str, at: float) -> bool:
        """Whether a failure of a service at a moment (monotonic) is explained: its container was away, recreated or started anew.

        One that stays away, or that the engine restarts, is bad by itself, whatever failed meanwhile.
        """
        begin, end = self._replaced.get(service, (math.inf, -math.inf))
        return begin <= at <= end + _AWAY

    def _follow(self, service: str, container: dict[str, Any] | None, now: float) -> None:
        begin = self._well.get(service, self._began) - _AWAY
        if container is None or not _serves(container):
            self._replaced[service] = (begin, now)
            return
        ran = (str(container.get("Id")), str(container["State"].get("StartedAt")))
        # What the first look finds was started before the watch: that is the release's own start.
        if ran != self._ran.get(service, ran):
            self._replaced[service] = (begin, now)
        elif service in self._replaced and (container["State"].get("Health") or {}).get("Status") == "starting":
            begin = self._replaced[service][0]
            if now < begin + _STARTING:
                self._replaced[service] = (begin, now)
        self._ran[service], self._well[service] = ran, now

    def _count(self, service: str, identity: str, number: int) -> None:
        known = self._seen.get(service)
        # What the first look finds was before the watch; a container made later has restarted since.
        base = (
            known[1] if known and known[0] == identity else number if known is None and service not in self._away else 0
        )
        if number > base:
            self._note(service, self.restarts.get(service, 0) + number - base, time.monotonic())
        self._seen[service] = (identity, number)

    def _note(self, service: str, number: int, since: float) -> None:
        self.restarts[service] = number
        self.first = since if self.first is None else self.first


def _serves(container: dict[str, Any]) -> bool:
    """Whether it runs, or did what it is for and ended well."""
    state = container["State"]
    policy = ((container.get("HostConfig") or {}).get("RestartPolicy") or {}).get("Name") or "no"
    return state["Status"] == "running" or state["Status"] == "exited" and policy == "no" and state.get("ExitCode") == 0


def baseline(
    installation: Installation, seconds: float, interval: float, model: str, say: Say = lambda line: None
) -> dict[str, Any]:
    """Measure the signals as they are, before anything changes.

    Args:
        seconds: for which is asked; 0 for one round. LiteLLM's metrics are those since its start in any case.
        interval: seconds between two rounds, each with one completion.
        model: that is asked; empty for the first that LiteLLM knows.

    Returns:
        `signals` (by name `requests`, `failed`, `seconds`), `model` (asked), `at` (epoch), `lasted`.
    """
    begin = time.monotonic()
    services = _Services(installation, model)
    try:
        while True:
            tick = time.monotonic()
            services.ask_admin_api()
            if services.find_model():
                services.ask_completions(1)
            services.collect()
            pause = max(0.0, tick + interval - time.monotonic())
            if time.monotonic() + pause - begin >= seconds:
                break
            time.sleep(pause)
        services.collect(_COMPLETION_TIMEOUT)
        services.settle()
        served = None
        client = services.litellm()
        if client is not None:
            with contextlib.suppress(ScutumError):
                served = client.served()
        found = _Sum(served or Served(), services.probed, services.admin).since(_NOTHING)
    finally:
        services.close()
    for name, counts in found.items():
        say(f"before: {name}: {error_rate.said(counts)}")
    return {
        "signals": _plain(found),
        "model": services.model,
        "at": time.time(),
        "lasted": round(time.monotonic() - begin, 1),
    }


def watch(
    installation: Installation,
    before: dict[str, Any],
    rules: Rules,
    seconds: float,
    interval: float,
    completion_interval: float,
    model: str,
    say: Say = lambda line: None,
    told: Callable[[dict[str, Any]], None] | None = None,
    began: float | None = None,
) -> dict[str, Any]:
    """Watch until it is over, or bad.

    What fails while somebody recreates or restarts the container of a service (a licence, a secret, an update of the engine) says nothing
    about the release, and is not counted.

    Args:
        before: what `baseline` returned.
        interval: seconds between the beginnings of two rounds.
        completion_interval: seconds between two completions that are asked for; 0 for none. More are asked for while there is too little
            traffic for a verdict, and as long as one has failed lately.
        model: that is asked; empty for the one that was asked before, else the first that LiteLLM knows.
        told: called with the state of things after each round.
        began: when the watch was begun (epoch), where another process goes on with it. What that one counted is not known: this one
            counts anew, for as long as is left.

    Returns:
        `verdict`, `reasons`, `signals` (by name `requests`, `failed`, `seconds`), `restarts` (by service), `lasted` (seconds),
        `first_bad` (when what made it bad was first seen), `decided` (both epoch), `rounds`.
    """
    was = {name: Counts(**counts) for name, counts in (before.get("signals") or {}).items()}
    start = time.monotonic()
    already = 0.0
    if began is not None:
        # A clock that was put back, and a host that was off for longer than the watch: a look is still taken.
        already = min(max(0.0, time.time() - began), seconds - min(seconds, rules.window))
        if already > 2 * interval:
            say(f"the watch goes on after {already:.0f} of {seconds:.0f} s")
    services = _Services(installation, model or str(before.get("model") or ""))
    try:
        containers = _Containers(installation)
        history: deque[tuple[float, _Sum]] = deque()
        failures: dict[str, deque[float]] = {}
        rounds, next_completion = 0, 0.0
        say_again = 0.0
        while True:
            tick = time.monotonic()
            lasted = tick - start
            ended = already + lasted >= seconds
            services.ask_admin_api()
            services.collect(min(_COMPLETION_TIMEOUT, max(interval, _TIMEOUT)) if ended else 0.0)
            # After the questions: what has just failed is explained by what is seen now.
            found = containers.look()
            failed = services.settle(containers, ended)
            services.read_metrics(
                str((found.get("litellm") or {}).get("State", {}).get("StartedAt") or ""),
                containers.replaced("litellm", time.monotonic()),
            )
            if completion_interval and not ended and services.find_model():
                # The number is reached when four fifths of the time are over.
                pace = min(1.0, lasted / max(0.8 * (seconds - already), interval))
                number = max(0, math.ceil(rules.minimum * pace) - services.asked())
                if tick >= next_completion or PROBED in failures and tick - failures[PROBED][-1] < rules.window:
                    number = max(1, number)
                    next_completion = tick + completion_interval
                services.ask_completions(number)
            rounds += 1
            now = services.sum()
            _remember(failures, history[-1][1] if history else _NOTHING, now, failed)
            history.append((tick, now))
            while len(history) > 1 and history[1][0] <= tick - rules.window:
                history.popleft()
            whole = now.since(_NOTHING)
            recent = now.since(history[0][1] if history[0][0] <= tick - rules.window else _NOTHING)
            finding = error_rate.verdict(was, whole, recent, containers.restarts, ended, rules)
            result = {
                "verdict": finding.value,
                "reasons": finding.reasons,
                "signals": _plain(whole),
                "restarts": dict(containers.restarts),
                "lasted": round(already + time.monotonic() - start, 1),
                "first_bad": _first(failures, containers.first, finding, tick - rules.window),
                "decided": time.time() if finding.value else None,
                "rounds": rounds,
            }
            if told is not None:
                told(result)
            if finding.value or tick >= say_again:
                say_again = tick + rules.window
                say(f"{result['lasted']:.0f} of {seconds:.0f} s: {_line(whole)}")
            if finding.value:
                for text in finding.reasons:
                    say(f"{finding.value}: {text}")
                return result
            left = seconds - already - (time.monotonic() - start)
            time.sleep(max(0.0, min(tick + interval - time.monotonic(), left)))
    finally:
        services.close()


def text(result: dict[str, Any]) -> list[str]:
    """A verdict, or a baseline, for a person."""
    told = [f"{name}: {error_rate.said(Counts(**counts))}" for name, counts in (result.get("signals") or {}).items()]
    if "verdict" not in result:
        return told
    words = {error_rate.GOOD: "good", error_rate.BAD: "BAD", error_rate.UNKNOWN: "not enough data"}
    head = f"{words.get(result['verdict'], 'undecided')} after {result['lasted']:.0f} s and {result['rounds']} rounds"
    reasons = result["reasons"] if result["verdict"] != error_rate.GOOD else []
    return [head, *(f"- {reason}" for reason in reasons), *told]


def _timed(ask: Callable[[], Any]) -> tuple[bool, float, bool]:
    """Whether a call was answered well, the seconds that it took, and whether nothing answered at all."""
    begin = time.monotonic()
    try:
        ask()
    except NoAnswer:
        return False, 0.0, True
    except ScutumError:
        return False, 0.0, False
    return True, time.monotonic() - begin, False


def _remember(failures: dict[str, deque[float]], before: _Sum, now: _Sum, seen: dict[str, float]) -> None:
    """Note by signal when something failed (monotonic): when it was seen, else now."""
    for name, counts in now.since(before).items():
        if counts.failed:
            failures.setdefault(name, deque(maxlen=10000)).append(seen.get(name, time.monotonic()))


def _first(
    failures: dict[str, deque[float]], restarted: float | None, finding: error_rate.Finding, recently: float
) -> float | None:
    """When that began which made it bad (epoch): the first failure of a signal in the window, else its first at all."""
    if finding.value != error_rate.BAD:
        return None
    found = [] if restarted is None else [restarted]
    for times in (failures[name] for name in finding.faulty if name in failures):
        found.append(next((moment for moment in times if moment >= recently), times[0]))
    return time.time() - time.monotonic() + min(found, default=time.monotonic())


def _plain(signals: dict[str, Counts]) -> dict[str, dict[str, Any]]:
    return {name: {**asdict(counts), "seconds": round(counts.seconds, 3)} for name, counts in signals.items()}


def _line(signals: dict[str, Counts]) -> str:
    return ", ".join(f"{name} {counts.failed} of {counts.requests} failed" for name, counts in signals.items())
