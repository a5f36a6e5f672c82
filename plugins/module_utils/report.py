# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A report of long work: its steps with result, detail and seconds, as they happen, as text and as a page."""

from __future__ import annotations

import contextlib
import html
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from .errors import ScutumError
from .files import write_file
from .installation import Installation
from .redact import without_rows

Say = Callable[[str], None]
Tell = Callable[[str], None]


def shown(installation: Installation, text: str) -> str:
    """A failure's text for a report: without secrets, and without the rows that Postgres quotes."""
    return without_rows(installation.redact(text))


@contextlib.contextmanager
def step(
    installation: Installation,
    report: dict[str, Any],
    name: str,
    say: Say,
    failure: type[ScutumError] = ScutumError,
) -> Iterator[Tell]:
    """A step: its result, what is told about it, its seconds; a failure goes into the report, and on.

    Args:
        report: its `checks` (name, ok, detail, seconds) grows.
        say: called with a line when it ends.
        failure: what a failure is raised as.
    """
    start = time.monotonic()
    told: list[str] = []

    def end(ok: bool, detail: str) -> None:
        seconds = round(time.monotonic() - start, 1)
        report["checks"].append({"name": name, "ok": ok, "detail": detail, "seconds": seconds})
        say(f"{'ok  ' if ok else 'FAIL'} {name}: {detail} ({seconds} s)")

    try:
        yield told.append
    except ScutumError as error:
        end(False, shown(installation, error.what))
        if not isinstance(error, failure):
            raise failure(error.what, error.left, error.next_step) from error
        raise
    end(True, "; ".join(told))


def lines(report: dict[str, Any]) -> list[str]:
    """The steps, a line each."""
    return [f"{'ok  ' if item['ok'] else 'FAIL'} {item['name']}: {item['detail']}" for item in report["checks"]]


def page(head: str, report: dict[str, Any], rest: list[str]) -> str:
    """A page of its own: the steps as a table, with a bar for the seconds of each."""
    longest = max((item["seconds"] for item in report["checks"]), default=0) or 1
    rows = "".join(
        f"<tr style='background:{'#e6f4ea' if item['ok'] else '#fce8e6'}'><td>{'ok' if item['ok'] else 'FAIL'}</td>"
        f"<td>{html.escape(item['name'])}</td><td>{html.escape(str(item['detail']))}</td><td>{item['seconds']} s</td>"
        f"<td><div style='background:#1a73e8;height:.8em;width:{max(1, round(item['seconds'] / longest * 200))}px'></div></td></tr>"
        for item in report["checks"]
    )
    return (
        f"<!doctype html><meta charset='utf-8'><title>{html.escape(head)}</title><body style='font-family:sans-serif'>"
        f"<h1>{html.escape(head)}</h1><table cellpadding='6' style='border-collapse:collapse'>{rows}</table><p>"
        + "<br>".join(html.escape(line) for line in rest)
        + "</p></body>\n"
    )


def keep(installation: Installation, name: str, report: dict[str, Any], html_page: str) -> None:
    """Put a report below the installation's private directory, as JSON and as a page."""
    for ending, content in (("json", json.dumps(report, indent=1) + "\n"), ("html", html_page)):
        write_file(os.path.join(installation.private, f"{name}.{ending}"), content, 0o600)
