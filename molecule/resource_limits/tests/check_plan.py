"""Before anything is applied: a plan that changes nothing."""

from __future__ import annotations

from scenario import Host, playbook

host = Host("scutum-limits")


def test_check_mode_prints_the_plan_and_changes_nothing() -> None:
    before = host.containers(), host.fingerprint()
    run = playbook("limits.yml", "--check")
    assert run.rc == 0, run.out[-3000:]
    assert "20000 requests a day, 1.2 a second at peak, on 2 cores and 8g" in run.flat
    assert "would change: limits" in run.flat and "postgres: recreate" in run.flat
    # The numbers before and after, in the diff.
    assert "-postgres: memory 2g" in run.flat and "+postgres: memory 688m" in run.flat
    assert (host.containers(), host.fingerprint()) == before
