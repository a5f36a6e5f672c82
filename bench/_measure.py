"""For bench/bench_<name>.py: times whole commands and writes build/bench/<name>.json. It measures and asserts nothing."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def seconds(command: Sequence[str], *, repeat: int = 3, env: Mapping[str, str] | None = None) -> list[float]:
    """Wall-clock time of each run of the whole process. A command that fails stops the benchmark and is shown."""
    times = []
    for _run in range(repeat):
        start = time.perf_counter()
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        times.append(time.perf_counter() - start)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout[-8000:]}")
    return times


def ratio(dividend: Sequence[float], divisor: Sequence[float]) -> float:
    """How many times longer the first takes, by medians."""
    return round(statistics.median(dividend) / statistics.median(divisor), 2)


def write(
    name: str,
    figures: Mapping[str, tuple[float, float | None, str]],
    setup: Mapping[str, Any],
    samples: Mapping[str, Sequence[float]] | None = None,
) -> Path:
    """Writes the figures (value, goal, unit), what they were computed from and the machine; prints them as a table.

    A goal of None marks a figure that is only information.
    """
    path = ROOT / "build" / "bench" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    machine = {"cores": os.cpu_count(), "python": platform.python_version()}
    content = {
        "figures": {key: {"value": value, "goal": goal, "unit": unit} for key, (value, goal, unit) in figures.items()},
        "setup": {
            **machine,
            **setup,
            "samples_s": {key: [round(value, 3) for value in values] for key, values in (samples or {}).items()},
        },
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(f"{'figure':<20} {'value':>8} {'goal':>8}  unit")
    for key, (value, goal, unit) in figures.items():
        print(f"{key:<20} {value:>8} {'-' if goal is None else goal:>8}  {unit}")
    print(f"written to {path.relative_to(ROOT)}")
    return path
