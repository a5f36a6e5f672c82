"""What several files of unit tests use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

# An example may take as long as a busy machine takes.
settings.register_profile("unit", deadline=None)
settings.load_profile("unit")


@pytest.fixture(name="moto", scope="module")
def fixture_moto() -> Iterator[str]:
    """The address of a real S3 API, in memory."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()
