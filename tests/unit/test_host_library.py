"""The library on a host: its sources, its isolated environment without a network, its command."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest
from ansible_collections.scutum.ops.plugins.module_utils import host_library
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError


def wheel(folder: Path) -> None:
    """A wheel of one module, as small as they come."""
    info = "tiny_part-1.0.dist-info"
    with zipfile.ZipFile(folder / "tiny_part-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("tiny_part.py", "ANSWER = 42\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-part\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")


def test_the_command_runs_the_same_code_without_ansible(tmp_path: Path) -> None:
    command = tmp_path / "scutum-ops"
    changes = host_library.install(str(tmp_path / "lib"), str(command), [])
    assert str(command) in changes
    assert host_library.install(str(tmp_path / "lib"), str(command), []) == []
    installed = {path.name for path in (tmp_path / "lib/scutum_ops").glob("*.py")}
    assert {"cli.py", "verification.py", "schema_guard.py", "database.py"} <= installed
    assert "ansible_door.py" not in installed, "what only Ansible needs stays with Ansible"
    done = subprocess.run([str(command), "--dir", str(tmp_path), "verify"], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "holds no installation" in done.stdout and "Next: name it with --dir" in done.stdout


def test_a_file_that_is_no_longer_part_of_it_is_removed(tmp_path: Path) -> None:
    host_library.install(str(tmp_path / "lib"), str(tmp_path / "c"), [])
    (tmp_path / "lib/scutum_ops/old.py").write_text("")
    assert host_library.install(str(tmp_path / "lib"), str(tmp_path / "c"), [], check=True)
    assert (tmp_path / "lib/scutum_ops/old.py").exists()
    host_library.install(str(tmp_path / "lib"), str(tmp_path / "c"), [])
    assert not (tmp_path / "lib/scutum_ops/old.py").exists()


def test_third_party_parts_come_from_the_wheelhouse_into_their_own_environment(tmp_path: Path) -> None:
    wheel(tmp_path)
    lib, command = str(tmp_path / "lib"), str(tmp_path / "c")
    assert host_library.install(lib, command, ["tiny-part==1.0"], str(tmp_path))
    assert host_library.install(lib, command, ["tiny-part==1.0"], str(tmp_path)) == []
    python = tmp_path / "lib/venv/bin/python3"
    assert subprocess.check_output([python, "-c", "import tiny_part; print(tiny_part.ANSWER)"], text=True) == "42\n"
    assert str(python) in Path(command).read_text()
    with pytest.raises(ScutumError, match="tiny-part==2.0") as caught:
        host_library.install(lib, command, ["tiny-part==2.0"], str(tmp_path))
    assert "isolated environment is not" in str(caught.value)


def test_parts_that_are_not_pinned_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ScutumError, match="not pinned: boto3>=1"):
        host_library.install(str(tmp_path / "lib"), str(tmp_path / "c"), ["boto3>=1"])
    assert not (tmp_path / "lib").exists()
