"""Faults of what makes the dump: it is killed, it lies about having ended well, it leaves something out."""

from __future__ import annotations

import pytest
from faults import PRODUCER, REFUSED, Fault
from world import Case, docker


@pytest.mark.parametrize("fault", PRODUCER, ids=str)
def test_producer(case: Case, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    case.verify_quickly(monkeypatch)
    case.shim(fault.how)
    if fault.outcome == REFUSED:
        try:
            case.refuses(fault)
        finally:
            case.settled()
            if "server" in fault.name:
                docker("start", case.world.postgres)
                case.world.wait()
        assert case.dumping() == []
        return
    before = case.counting()
    name = case.backup()["id"]
    # It looks like a good one: only a restore shows what it lacks.
    assert case.counting() == [name, *before] and case.metric("up") == 1
    assert case.unproven(fault)["id"] == name
    case.world.sql("DELETE FROM audit_logs WHERE actor_id = 'x'")
