"""What `ansible-galaxy collection build` makes, and what a user gets from it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
NAME = "scutum.ops"
# Nothing but these may be at the top level of the collection.
WANTED = {
    "inventories",
    "CHANGELOG.md",
    "CHANGELOG.rst",
    "FILES.json",
    "LICENSE",
    "MANIFEST.json",
    "README.md",
    "changelogs",
    "docs",
    "execution-environment.yml",
    "meta",
    "playbooks",
    "plugins",
    "roles",
}
NEEDED = ("LICENSE", "README.md", "meta/runtime.yml", "meta/execution-environment.yml", "playbooks/day_one.yml")
PLUGINS = {"modules": "module", "filter": "filter", "lookup": "lookup", "test": "test", "inventory": "inventory"}


def run(*command: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
    env |= {"PATH": f"{BIN}:{env['PATH']}", "LC_ALL": "C.UTF-8", "ANSIBLE_NOCOLOR": "1", **variables}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def tarball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("build")
    built = run("ansible-galaxy", "collection", "build", "--output-path", str(folder), cwd=ROOT)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = folder.glob("*.tar.gz")
    return path


@pytest.fixture(scope="session")
def members(tarball: Path) -> list[str]:
    with tarfile.open(tarball) as archive:
        return archive.getnames()


@pytest.fixture(scope="session")
def installed(tarball: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of collections with this one in it. What it depends on comes with the package `ansible`."""
    folder = tmp_path_factory.mktemp("collections")
    done = run(
        "ansible-galaxy", "collection", "install", str(tarball), "--no-deps", "-p", str(folder), cwd=folder
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_only_the_collection_is_in_the_build(members: list[str]) -> None:
    strange = sorted({name.split("/")[0] for name in members} - WANTED)
    assert not strange, f"add to build_ignore in galaxy.yml (or to WANTED here): {strange}"
    junk = [name for name in members if name.endswith((".pyc", ".tar.gz", ".retry", ".log")) or "__pycache__" in name]
    assert not junk
    assert not [name for name in members if "stand" in name.lower() and "in" in name.lower().split("stand")[1][:3]]


@pytest.mark.parametrize("name", NEEDED)
def test_needed_file_is_in_the_build(members: list[str], name: str) -> None:
    assert name in members


def test_build_has_no_symlinks_out_of_it(tarball: Path) -> None:
    with tarfile.open(tarball) as archive:
        links = [member.name for member in archive if member.issym() or member.islnk()]
    assert not links


def test_build_is_small(tarball: Path) -> None:
    """A megabyte of text is a lot; more is a file that does not belong there."""
    assert tarball.stat().st_size < 1_000_000


def documented() -> list[tuple[str, str]]:
    found = []
    for folder, kind in PLUGINS.items():
        for path in sorted((ROOT / "plugins" / folder).glob("*.py")):
            # A file of filters or tests holds several; their documentation is in YAML files beside it.
            if path.stem != "__init__" and not (kind in ("filter", "test") and not path.with_suffix(".yml").exists()):
                found.append((kind, f"{NAME}.{path.stem}"))
        if kind in ("filter", "test"):
            found += [(kind, f"{NAME}.{path.stem}") for path in sorted((ROOT / "plugins" / folder).glob("*.y*ml"))]
    return sorted(set(found))


def test_every_plugin_has_documentation(installed: Path) -> None:
    """As the user of the installed collection sees it."""
    by_kind: dict[str, list[str]] = {}
    for kind, name in documented():
        by_kind.setdefault(kind, []).append(name)
    for kind, names in by_kind.items():
        shown = run(
            "ansible-doc", "-t", kind, "--json", *names, cwd=installed, ANSIBLE_COLLECTIONS_PATH=str(installed)
        )  # fmt: skip
        assert shown.returncode == 0, shown.stderr
        answer: dict[str, Any] = json.loads(shown.stdout)
        for name in names:
            assert answer.get(name, {}).get("doc"), f"ansible-doc -t {kind} {name}: {answer.get(name)} {shown.stderr}"


def test_every_role_has_documentation(installed: Path) -> None:
    roles = sorted(path.name for path in (ROOT / "roles").glob("*") if path.is_dir())
    shown = run(
        "ansible-doc", "-t", "role", "--json", *[f"{NAME}.{role}" for role in roles],
        cwd=installed, ANSIBLE_COLLECTIONS_PATH=str(installed),
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    answer = json.loads(shown.stdout)
    missing = [role for role in roles if not answer.get(f"{NAME}.{role}", {}).get("entry_points")]
    assert not missing


def test_every_playbook_works_from_the_installed_collection(installed: Path) -> None:
    """`ansible-playbook scutum.ops.day_one`: with no file of the checkout in reach."""
    failed = []
    for path in sorted((ROOT / "playbooks").glob("*.yml")):
        checked = run(
            "ansible-playbook", "-i", "localhost,", "--syntax-check", f"{NAME}.{path.stem}",
            cwd=installed, ANSIBLE_COLLECTIONS_PATH=str(installed), ANSIBLE_INJECT_FACT_VARS="False",
        )  # fmt: skip
        if checked.returncode:
            failed.append(f"{path.name}: {checked.stdout}{checked.stderr}")
    assert not failed, "\n".join(failed)


def test_a_project_that_imports_a_playbook_by_name(installed: Path, tmp_path: Path) -> None:
    """README, "From AWX": a project of the operator's own, and the collection beside it."""
    (tmp_path / "day_one.yml").write_text("---\n- import_playbook: scutum.ops.day_one\n")
    checked = run(
        "ansible-playbook", "-i", "localhost,", "--syntax-check", "day_one.yml",
        cwd=tmp_path, ANSIBLE_COLLECTIONS_PATH=str(installed), ANSIBLE_INJECT_FACT_VARS="False",
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout + checked.stderr
    example = installed / "ansible_collections/scutum/ops/inventories/example/group_vars/scutum.yml"
    assert example.exists() and not (example.parents[2] / "demo").exists()


def test_every_playbook_works_in_place() -> None:
    """From a checkout after `make venv`: ansible.cfg alone finds the collection, its roles and its modules."""
    failed = []
    for path in sorted((ROOT / "playbooks").glob("*.yml")):
        checked = run(
            "ansible-playbook", "-i", "localhost,", "--syntax-check", str(path.relative_to(ROOT)), cwd=ROOT
        )  # fmt: skip
        if checked.returncode:
            failed.append(f"{path.name}: {checked.stdout}{checked.stderr}")
    assert not failed, "\n".join(failed)


def test_used_collections_are_dependencies() -> None:
    """A role that uses community.x works only where galaxy.yml brings community.x, and the other way round."""
    import re

    galaxy = yaml.safe_load((ROOT / "galaxy.yml").read_text(encoding="utf-8"))
    names = "|".join(("ansible.posix", "ansible.utils", r"community\.[a-z_]+", r"containers\.podman", r"amazon\.aws"))
    pattern = re.compile(rf"\b({names})\.[a-z_]+\b")
    used: dict[str, str] = {}
    for folder in ("roles", "playbooks", "plugins"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".yml", ".yaml", ".py", ".j2") and path.is_file():
                for match in pattern.finditer(path.read_text(encoding="utf-8")):
                    used.setdefault(match[1], str(path.relative_to(ROOT)))
    undeclared = {name: where for name, where in used.items() if name not in galaxy["dependencies"]}
    assert not undeclared, f"not in galaxy.yml: {undeclared}"
