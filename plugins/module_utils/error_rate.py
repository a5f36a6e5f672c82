# Copyright (c) 2026, scutum.ops maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a new version is worse than the one before: rules over counted answers, no questions.

Three values: good, bad, not enough data. A share of failures counts as risen when chance alone does not explain it: it is not the share
itself that is compared, but the lower end of what it may really be (Wilson's interval, 95 %), so that one failure of three decides nothing
and four of twenty do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

# Completions of LiteLLM's users, from its metrics; completions and calls of the admin API that were asked for to watch.
COMPLETIONS, PROBED, ADMIN = SIGNALS = ("completions", "probed completions", "admin API")
GOOD, BAD, UNKNOWN, UNDECIDED = "good", "bad", "not_enough_data", ""

_Z = 1.96
# Fewer answers, or fewer failures among them, are chance whatever their share: a service that is recreated fails a few times in a row.
LEAST_ANSWERS, LEAST_FAILED = 10, 4
# A mean of fewer answers says nothing, and a rise below this (seconds) is felt by nobody, however fast it was before.
LEAST_TIMED, LEAST_RISE = 20, 0.5


@dataclass(frozen=True)
class Counts:
    """Requests of one signal.

    Args:
        requests: all of them.
        failed: those among them without a good answer.
        seconds: that the good answers took, all together.
    """

    requests: int = 0
    failed: int = 0
    seconds: float = 0.0

    @property
    def answered(self) -> int:
        """Those with a good answer."""
        return max(0, self.requests - self.failed)

    @property
    def share(self) -> float:
        """Of failures, between 0 and 1."""
        return min(1.0, self.failed / self.requests) if self.requests else 0.0

    @property
    def mean(self) -> float:
        """Seconds of a good answer; 0 when there is none."""
        return self.seconds / self.answered if self.answered else 0.0

    def plus(self, other: Counts) -> Counts:
        """Both together."""
        return Counts(self.requests + other.requests, self.failed + other.failed, self.seconds + other.seconds)

    def minus(self, other: Counts) -> Counts:
        """What came since the other."""
        return Counts(
            max(0, self.requests - other.requests),
            max(0, self.failed - other.failed),
            max(0.0, self.seconds - other.seconds),
        )


@dataclass(frozen=True)
class Rules:
    """What an operator decides.

    Args:
        margin: share of failures beyond the baseline's that is still good.
        latency_factor: how many times slower than the baseline is still good.
        minimum: completions without which nothing is good; of the admin API half as many answers.
        window: seconds that count as recent.
    """

    margin: float = 0.05
    latency_factor: float = 3.0
    minimum: int = 50
    window: float = 60.0


@dataclass(frozen=True)
class Finding:
    """A verdict: `good`, `bad`, `not_enough_data` or empty, why, and which signals are at fault."""

    value: str
    reasons: list[str]
    faulty: tuple[str, ...] = ()


def lower_bound(failed: int, requests: int) -> float:
    """The least share of failures that such a count speaks for (Wilson, 95 %)."""
    if requests <= 0 or failed <= 0:
        return 0.0
    share = min(1.0, failed / requests)
    square = _Z * _Z
    half = _Z * math.sqrt(share * (1 - share) / requests + square / (4 * requests * requests))
    found = (share + square / (2 * requests) - half) / (1 + square / requests)
    return min(share, max(0.0, found))


def verdict(
    baseline: Mapping[str, Counts],
    whole: Mapping[str, Counts],
    recent: Mapping[str, Counts],
    restarts: Mapping[str, int],
    ended: bool,
    rules: Rules,
) -> Finding:
    """What the counts say.

    Args:
        baseline: by signal, before.
        whole: by signal, since the beginning.
        recent: by signal, in the last `rules.window` seconds.
        restarts: by service, of containers that restarted or do not run.
        ended: no more is counted: decide.
    """
    reasons = [f"{name} restarted, or does not run ({count})" for name, count in sorted(restarts.items()) if count > 0]
    faulty = []
    for name in dict.fromkeys([*whole, *recent]):
        before = baseline.get(name, Counts())
        found = [
            *_failing(before, recent.get(name, Counts()), f"in the last {rules.window:g} s", rules),
            *_failing(before, whole.get(name, Counts()), "since the beginning", rules),
        ][:1] + _slow(before, recent.get(name, Counts()), whole.get(name, Counts()), rules)
        if found:
            faulty.append(name)
            reasons += [f"{name}: {text}" for text in found]
    if reasons:
        return Finding(BAD, reasons, tuple(faulty))
    if not ended:
        return Finding(UNDECIDED, [])
    lacking = lacks(whole, rules)
    if lacking:
        return Finding(UNKNOWN, lacking)
    return Finding(GOOD, [f"{name}: {said(counts, baseline.get(name))}" for name, counts in whole.items()])


def lacks(whole: Mapping[str, Counts], rules: Rules) -> list[str]:
    """What is missing for a decision; empty when there is enough."""
    found = []
    completions = whole.get(COMPLETIONS, Counts()).requests + whole.get(PROBED, Counts()).requests
    if completions < rules.minimum:
        found.append(
            f"{completions} completions, {rules.minimum} are needed (wait for traffic, watch longer, or let it ask for more)"
        )
    answers = whole.get(ADMIN, Counts()).requests
    if answers < rules.minimum / 2:
        found.append(f"{answers} calls of the admin API, {math.ceil(rules.minimum / 2)} are needed (watch longer)")
    return found


def said(counts: Counts, before: Counts | None = None) -> str:
    """Counts in words, beside those from before."""
    if not counts.requests:
        return "none"
    text = f"{counts.failed} of {counts.requests} failed ({counts.share:.1%}), {counts.mean:.2f} s on average"
    if before is not None and before.requests:
        text += f"; before {before.share:.1%}, {before.mean:.2f} s"
    return text


def _failing(before: Counts, now: Counts, when: str, rules: Rules) -> list[str]:
    if now.requests < LEAST_ANSWERS or now.failed < LEAST_FAILED:
        return []
    if lower_bound(now.failed, now.requests) <= before.share + rules.margin:
        return []
    return [
        f"{now.failed} of {now.requests} failed {when} ({now.share:.1%}); before {before.share:.1%}, and {rules.margin:.1%} more is allowed"
    ]


def _slow(before: Counts, recent: Counts, whole: Counts, rules: Rules) -> list[str]:
    # A batch with long answers makes a minute slow, and no release: both have to be.
    if not all(_slower(before, now, rules) for now in (recent, whole)):
        return []
    return [
        f"answers took {recent.mean:.2f} s on average in the last {rules.window:g} s, {whole.mean:.2f} s since the beginning; "
        f"before {before.mean:.2f} s, and {rules.latency_factor:g} times as long is allowed"
    ]


def _slower(before: Counts, now: Counts, rules: Rules) -> bool:
    # Without a time from before there is nothing to be slower than.
    if now.answered < LEAST_TIMED or not before.mean:
        return False
    return now.mean > before.mean * rules.latency_factor and now.mean - before.mean >= LEAST_RISE
