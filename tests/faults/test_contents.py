"""Faults of a backup that lies in the store: objects changed, swapped or gone, keys that do not fit, a dump that lacks something."""

from __future__ import annotations

import subprocess

import pyrage  # type: ignore[import-untyped]
import pytest
from damage import Good, newest, resealed
from faults import OBJECTS, ROWS, Fault
from world import USER, Case


@pytest.mark.parametrize("fault", OBJECTS, ids=str)
def test_objects(case: Case, good: Good, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    case.verify_quickly(monkeypatch)
    identity = good.identity
    if fault.how == "wrong":
        identity = str(pyrage.x25519.Identity.generate())
    case.forget()
    case.put(good.aged if isinstance(fault.how, str) else fault.how(good))
    report = case.unproven(fault, identities=[] if fault.how == "none" else [identity])
    assert identity not in str(report)


@pytest.mark.parametrize("fault", ROWS, ids=str)
def test_rows(case: Case, good: Good, fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    case.verify_quickly(monkeypatch)
    name = f"lossy_{abs(hash(fault.name))}"
    case.world.sql(f"CREATE DATABASE {name} TEMPLATE {USER}", "postgres")
    try:
        case.world.sql(fault.how, name)
        command = ["docker", "exec", case.world.postgres, "pg_dump", "-Fc", "-Z", "zstd:1", "-U", USER, name]
        dump = subprocess.run(command, check=True, capture_output=True).stdout
    finally:
        case.world.sql(f"DROP DATABASE {name} WITH (FORCE)", "postgres")
    case.put(resealed(good.new, dump))
    assert case.unproven(fault)["id"] == newest(good.new)
