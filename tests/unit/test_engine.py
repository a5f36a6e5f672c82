"""What the engine's command line is given, and what it says when it fails."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.scutum.ops.plugins.module_utils.engine import Engine
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError

SECRET = "canary-of-a-variable"


def test_a_value_for_a_container_is_in_the_environment_and_nowhere_else(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    binary = tmp_path / "engine"
    binary.write_text(f'#!/bin/sh\necho "$* [$POSTGRES_PASSWORD]" > {seen}\nexit 125\n')
    binary.chmod(0o755)
    with pytest.raises(ScutumError) as failed:
        Engine(str(binary)).start({"POSTGRES_PASSWORD": SECRET}, "--name", "x", "image", timeout=10)
    assert seen.read_text() == f"run -d -e POSTGRES_PASSWORD --name x image [{SECRET}]\n"
    assert SECRET not in str(failed.value)
    assert SECRET not in failed.value.next_step
