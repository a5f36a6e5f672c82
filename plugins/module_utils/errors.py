# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one way in which the library fails: what happened, what state was left, what to do next."""

from __future__ import annotations


class ScutumError(Exception):
    """A failure that an operator can act on.

    Args:
        what: what went wrong, naming the variable, file or service.
        left: the state that was left behind; empty when nothing was changed.
        next_step: the exact next command or edit.
    """

    def __init__(self, what: str, left: str = "", next_step: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.left = left
        self.next_step = next_step

    def __str__(self) -> str:
        parts = [self.what]
        if self.left:
            parts.append("State: " + self.left)
        if self.next_step:
            parts.append("Next: " + self.next_step)
        return "\n".join(parts)


def as_error(problem: Exception) -> ScutumError:
    """What the system refused (a full disk, a file that is no text, a command that hangs), in the same three parts."""
    if isinstance(problem, ScutumError):
        return problem
    return ScutumError(
        f"{type(problem).__name__}: {problem}",
        left="what was finished before stays; files are replaced as a whole or not at all",
        next_step="correct the cause (df -h; ls -l of the file that is named) and run it again: it continues there",
    )
