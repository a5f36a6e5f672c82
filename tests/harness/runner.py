"""Runs parts, two at once, each with a log, and reports."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType

from .parts import BIN, COLLECTIONS, ROOT, Part

LOGS = ROOT / "build" / "logs"
TAIL = 60
# Each of the two cores has one; a third only makes all of them slower (measured: no core is idle with two scenarios).
AT_ONCE = 2
STARTED = float(os.environ.get("SCUTUM_STARTED") or time.time())


@dataclass(frozen=True)
class Result:
    """How one part ended."""

    name: str
    passed: bool
    seconds: float
    note: str = ""


def environment(part: Part) -> dict[str, str]:
    env = {**os.environ}
    env["PATH"] = f"{BIN}:{env.get('PATH', '')}"
    env["ANSIBLE_CONFIG"] = str(ROOT / "ansible.cfg")
    env["ANSIBLE_COLLECTIONS_PATH"] = str(COLLECTIONS)
    env["ANSIBLE_HOME"] = str(ROOT / ".cache" / "ansible")
    env["PYTHONUNBUFFERED"] = "1"
    env.setdefault("LC_ALL", "C.UTF-8")
    # Molecule breaks every line of a log at the terminal's width.
    env["COLUMNS"] = "180"
    env.update(part.env)
    for name in part.drop:
        env.pop(name, None)
    return env


def minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Run:
    """The parts that wait, those that are running, and what has ended."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.parts = parts
        self.waiting = list(parts)
        self.results: dict[str, Result] = {}
        self.changed = threading.Condition()
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.stopped = False

    def say(self, text: str) -> None:
        print(text, flush=True)

    def stop(self, signum: int, _frame: FrameType | None) -> None:
        """Ends what this run started, by process group, then reports what there is."""
        self.stopped = True
        for process in list(self.running.values()):
            try:
                os.killpg(process.pid, signal.SIGTERM if signum != signal.SIGINT else signal.SIGINT)
            except ProcessLookupError:
                pass

    def next(self) -> Part | None:
        """The first part in order whose needs have ended; waits for one, and answers nothing when none is left."""
        known = {part.name for part in self.parts}
        with self.changed:
            while self.waiting:
                for part in self.waiting:
                    if self.stopped or all(need in self.results for need in part.needs if need in known):
                        self.waiting.remove(part)
                        return part
                self.changed.wait(1)
        return None

    def refused(self, part: Part) -> str:
        """Why the part cannot run."""
        if absent := part.missing():
            return f"nothing matches {absent}"
        for need in part.needs:
            if need in self.results and not self.results[need].passed:
                return f"needs {need}, which failed"
        return "interrupted" if self.stopped else ""

    def execute(self, part: Part) -> Result:
        if reason := self.refused(part):
            (LOGS / f"{part.name}.log").write_text(f"{reason}\n", encoding="utf-8")
            return Result(part.name, False, 0.0, reason)
        log = LOGS / f"{part.name}.log"
        start = time.monotonic()
        with log.open("wb") as output:
            output.write(f"$ {' '.join(part.command)}\n".encode())
            output.flush()
            try:
                process = subprocess.Popen(
                    part.command,
                    cwd=part.cwd,
                    env=environment(part),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as exc:
                return Result(part.name, False, 0.0, str(exc))
            self.running[part.name] = process
            note = ""
            try:
                code = process.wait(part.limit)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    code = process.wait(30)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    code = process.wait()
                note = f"stopped after {part.limit} s"
                code = code or 1
            del self.running[part.name]
        return Result(
            part.name, code == 0, time.monotonic() - start, note or ("" if code == 0 else f"exit code {code}")
        )

    def report(self, result: Result) -> None:
        state = "passed" if result.passed else "FAILED"
        self.say(
            f"[{minutes(time.time() - STARTED):>5}] {state} {result.name} {result.seconds:.1f} s {result.note}".rstrip()
        )
        if not result.passed:
            log = LOGS / f"{result.name}.log"
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
            self.say("\n".join(f"    {line}" for line in lines[-TAIL:]))
            self.say(f"    -- the whole log: {log.relative_to(ROOT)}")

    def work(self) -> None:
        while part := self.next():
            if not self.stopped:
                self.say(f"[{minutes(time.time() - STARTED):>5}] start  {part.name}")
            result = self.execute(part)
            with self.changed:
                self.results[part.name] = result
                self.changed.notify_all()
                self.report(result)

    def all(self) -> int:
        LOGS.mkdir(parents=True, exist_ok=True)
        threads = [threading.Thread(target=self.work) for unused in range(AT_ONCE)]
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self.stop)
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.5)
        results = [self.results[part.name] for part in self.parts]
        # What went before: `make` made or checked the virtual environment.
        print()
        table(results)
        passed = sum(result.passed for result in results)
        print(f"\n{passed} passed, {len(results) - passed} failed", flush=True)
        return 0 if passed == len(results) else 1


BEGAN = time.time()


def table(results: Sequence[Result]) -> None:
    width = max([len(result.name) for result in results] + [len("virtual environment")])
    before = BEGAN - STARTED
    if before >= 1:
        print(f"{'virtual environment':{width}}  {before:7.1f} s")
    for result in results:
        state = "" if result.passed else "  FAILED"
        print(f"{result.name:{width}}  {result.seconds:7.1f} s{state}")
    print(f"{'total (wall clock)':{width}}  {time.time() - STARTED:7.1f} s")


def run(parts: Sequence[Part]) -> int:
    """Runs all parts; returns the exit code."""
    return Run(parts).all()


def steps(title: str, parts: Sequence[Part]) -> int:
    """Runs parts one after the other, for a person who watches; stops at the first that fails."""
    results: list[Result] = []
    code = 0
    for number, part in enumerate(parts, 1):
        print(f"\n== {title} {number}/{len(parts)}: {part.name}", flush=True)
        start = time.monotonic()
        code = subprocess.run(
            part.command, cwd=part.cwd, env=environment(part), stdin=subprocess.DEVNULL, check=False
        ).returncode
        results.append(Result(part.name, code == 0, time.monotonic() - start))
        if code:
            break
    print()
    table(results)
    if code:
        left = [part.name for part in parts[len(results) :]]
        print(
            f"\n{title}: {results[-1].name} failed (exit code {code})"
            + (f", not started: {', '.join(left)}" if left else "")
            + f". What is there stays; the next command is again: make {title}",
            file=sys.stderr,
        )
    return 1 if code else 0
