"""The last test of every scenario: no secret lies where its mode does not say so, and none was printed."""

from __future__ import annotations

import leaks


def test_no_secret_lies_about_and_none_was_printed() -> None:
    problems, values = [], set()
    for host in leaks.hosts():
        held = leaks.of_host(host)
        values |= set(held.values())
        problems += leaks.unexpected(host, leaks.places(host, leaks.planted() | held))
    assert values or leaks.planted(), "a search without needles finds nothing"
    problems += leaks.in_outputs(values)
    # Canaries stand in the checkout, being planted there.
    problems += leaks.in_checkout(value for value in values if "canary" not in value)
    assert not problems, "\n".join(problems)
