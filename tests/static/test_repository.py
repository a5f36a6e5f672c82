"""The repository itself: changelog, versions, requirements."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import yaml
from tree import ROOT, checkout_files


def test_changelog_fragments() -> None:
    linted = subprocess.run(
        [str(Path(sys.executable).parent / "antsibull-changelog"), "lint"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_requirements_are_pinned() -> None:
    lines = (ROOT / "requirements" / "dev.txt").read_text(encoding="utf-8").splitlines()
    loose = [line for line in lines if line.strip() and not line.lstrip().startswith("#") and "==" not in line]
    assert not loose


def test_floor_of_ansible_core_is_what_is_tested() -> None:
    """requires_ansible names the line that requirements/dev.txt pins."""
    required = yaml.safe_load((ROOT / "meta" / "runtime.yml").read_text(encoding="utf-8"))["requires_ansible"]
    pinned = re.search(r"^ansible-core==(\d+\.\d+)\.", (ROOT / "requirements" / "dev.txt").read_text(), re.MULTILINE)
    assert pinned
    assert required.startswith(f">={pinned[1]}.")


def test_scripts_are_executable() -> None:
    """What starts with a shebang below requirements/ and .ci/ is called by name."""
    wrong = []
    for name in checkout_files():
        path = ROOT / name
        if (
            name.startswith((".ci/", "requirements/"))
            and path.read_bytes()[:2] == b"#!"
            and not path.stat().st_mode & 1
        ):
            wrong.append(name)
    assert not wrong


def test_no_registry_is_named() -> None:
    """Files that install things leave it to the machine where packages come from."""
    pattern = re.compile(r"pypi\.org|files\.pythonhosted\.org|--index-url|--extra-index-url")
    wrong = []
    for name in checkout_files():
        installs = name.startswith(("requirements/", ".ci/", "Makefile", "tests/harness/", "meta/"))
        if installs and pattern.search((ROOT / name).read_text(encoding="utf-8", errors="replace")):
            wrong.append(name)
    assert not wrong
