"""One Postgres, one store and the good backups for all faults; a fresh installation for each."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

# moto reads it when it is imported: parts of 1 MiB keep the dumps small.
os.environ["S3_UPLOAD_PART_MIN_SIZE"] = "1024"

import pyrage  # type: ignore[import-untyped]
import pytest
from ansible_collections.scutum.ops.plugins.module_utils import object_store
from damage import Good, newest
from world import PART, Case, World

logging.getLogger("werkzeug").setLevel(logging.ERROR)


@pytest.fixture(name="world", scope="session")
def fixture_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    # Whoever ends the tests waits until what was started is gone. No Exception: the library would take it for a failure.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    found = World(tmp_path_factory.mktemp("faults"))
    try:
        found.start()
        yield found
    finally:
        found.close()


@pytest.fixture(name="fast", autouse=True)
def fixture_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """No credential of the machine, no waiting between attempts, small parts."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *unused: 0)
    monkeypatch.setattr(object_store.S3Store.upload, "__defaults__", (PART, 2, None))


@pytest.fixture(name="good", scope="session")
def fixture_good(world: World) -> Good:
    """Three backups; rows came between the first and the second."""
    key = pyrage.x25519.Identity.generate()
    taken: list[dict[str, bytes]] = []
    for number, recipients in enumerate(((), (), (str(key.to_public()),))):
        case = Case(world, world.folder / f"good-{number}")
        case.configure(recipients)
        case.backup()
        taken.append(case.objects())
        case.close()
        if not number:
            world.sql("INSERT INTO audit_logs(actor_id, action, resource_type) VALUES ('later', 'a', 'r')")
    old, new, aged = taken
    return Good(old, new, aged, str(key))


@pytest.fixture(name="case")
def fixture_case(world: World, good: Good, tmp_path: Path) -> Iterator[Case]:
    """An installation that has a good backup, taken a little while ago."""
    found = Case(world, tmp_path / "case")
    found.put(good.new)
    found.private("backup-status.json", {"last_success": {"at": time.time() - 60, "id": newest(good.new)}})
    yield found
    found.close()
