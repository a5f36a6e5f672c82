# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Work that goes on beside other work of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Work:
    """Work in a thread, whose failure comes out where its result is asked for."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._found: list[Any] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self._thread.start()

    def _run(self, work: Callable[[], Any]) -> None:
        try:
            self._found.append(work())
        except BaseException as error:
            self._error = error

    @property
    def ended(self) -> bool:
        """Whether it has, well or not."""
        return not self._thread.is_alive()

    def wait(self) -> None:
        """Until it has ended."""
        self._thread.join()

    def result(self) -> Any:
        """What it made."""
        self.wait()
        if self._error is not None:
            raise self._error
        return self._found[0]
