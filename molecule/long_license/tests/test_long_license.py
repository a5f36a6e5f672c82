"""Licences with the product's own five minutes between two looks of a worker."""

from __future__ import annotations

import time

import pytest
from licensing import Licensed, expected

INTERVAL = 300
host = Licensed("scutum-long-license", INTERVAL)


def test_the_trap_is_there_without_the_role() -> None:
    """An activation by hand, over an old LICENSE_KEY: accepted, shown, and replaced within five minutes."""
    host.old_environment(host.token("trap-old", "trial", 20))
    key = host.token("trap-new", "business", 200)
    login = host.http(8086, "/auth/login", {"api_key": host.env()["SCUTUM_API_KEY"]}).json()["access_token"]
    assert host.http(8086, "/api/v1/license/activate", {"license_key": key}, login).status == 200
    assert host.served() == expected("business", 200)
    time.sleep(INTERVAL + 10)
    assert host.served() == expected("trial", 20)


@pytest.mark.parametrize("workers", [1, 4])
def test_with_the_role_it_stays_after_five_minutes(workers: int) -> None:
    if workers > 1:
        host.with_workers(workers)
        host.old_environment(host.token(f"old-{workers}", "trial", 25))
    run = host.license(host.token(f"new-{workers}", "business", 300 + workers))
    assert run.rc == 0 and "status: active" in run.flat, run.out[-3000:]
    time.sleep(INTERVAL + 10)
    assert host.served(80) == expected("business", 300 + workers)


def test_a_renewal_over_four_workers_waits_for_the_last_of_them() -> None:
    started = time.monotonic()
    code, result = host.job(host.token("renewal", "business", 400))
    assert (code, result["status"]) == (0, "active"), result
    print(f"active after {time.monotonic() - started:.0f} s, {result['revalidation_seconds']} s of them waiting")
    assert 0 < result["revalidation_seconds"] <= INTERVAL + 15
    assert host.served(80) == expected("business", 400)


def test_no_token_lies_about() -> None:
    assert not [name for name, token in host.tokens.items() if token in "\n".join(host.spoken)]
