"""Faults of the store and of the line to it, at every request of a backup and of a verification."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.scutum.ops.plugins.module_utils import backup_retention, object_store
from faults import BORNE, DOWNLOAD, REFUSED, STORE, Fault
from world import Case


@pytest.mark.parametrize("fault", STORE, ids=str)
def test_store(case: Case, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    if "silence" in fault.name:
        monkeypatch.setattr(object_store, "READ_TIMEOUT", 3.0)
    before = case.counting()
    if isinstance(fault.how, dict):
        case.configure(store=fault.how)
    else:
        # Storms that end are waited out, as with the five attempts of the default.
        case.configure(store={"attempts": 4 if fault.outcome == BORNE else 2})
        case.world.proxy.reset(*fault.how)
    if "deleted" in fault.name:
        # Something has to go, so that it can be refused.
        monkeypatch.setattr(backup_retention, "plan", one_goes)
    if fault.outcome == REFUSED:
        case.refuses(fault)
        return
    result = case.backup()
    warnings = "; ".join(result["warnings"])
    case.world.proxy.reset()
    assert case.counting() == [result["id"], *before] and case.unfinished() == [] and case.metric("up") == 1
    if fault.outcome == BORNE:
        case.whole(result["id"])
        assert re.search(fault.says, warnings) if fault.says else not warnings, warnings
    else:
        assert case.unproven(fault)["id"] == result["id"]


def one_goes(found: Any, *unused: Any) -> backup_retention.Plan:
    """The oldest one is free."""
    return backup_retention.Plan(keep={}, remove=[min(entry.name for entry in found)])


@pytest.mark.parametrize("fault", DOWNLOAD, ids=str)
def test_download(case: Case, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    case.verify_quickly(monkeypatch)
    before = case.counting()
    case.world.proxy.reset(*fault.how)
    case.unproven(fault)
    case.world.proxy.reset()
    # Whoever could not look says nothing about the backup: it still counts, and the next one may look again.
    assert case.counting() == before
