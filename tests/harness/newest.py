"""Unit tests and a syntax check of every playbook with the newest ansible-core of PyPI, on Python 3.13 in a container.

Wheels are fetched on this machine and installed in the container without any network, once for each version.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tree import ROOT

PYTHON = "3.13"
CACHE = ROOT / ".cache" / "newest"
REQUIREMENTS = ROOT / "requirements" / "newest.in"
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
GLIBC = ("2_17", "2_28", "2_34")


class Missing(Exception):
    """Something that this part needs is not there."""


def image() -> str:
    """An image of the testbed that has Python 3.13."""
    sys.path.insert(0, str(ROOT / "testbed"))
    try:
        from hosts import engine, images
    except ImportError as exc:
        raise Missing(f"testbed/hosts cannot be imported: {exc}") from exc
    engine.ensure()
    images.ensure()
    return str(images.image("noengine"))


def newest() -> str:
    """The newest version that PyPI has; without network, the newest that is in the cache."""
    asked = subprocess.run(
        [*PIP, "index", "versions", "ansible-core", "--python-version", PYTHON],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"^ansible-core \(([^)]+)\)", asked.stdout, re.MULTILINE)
    if found:
        return found.group(1)
    cached = sorted(CACHE.glob("*/ok"), key=lambda path: path.stat().st_mtime)
    if not cached:
        raise Missing(f"no version of ansible-core: {asked.stderr.strip()}")
    version = cached[-1].read_text(encoding="utf-8").strip()
    print(f"newest: the package index does not answer, {version} is in the cache", flush=True)
    return version


def docker(tag: str, *arguments: str, script: str) -> int:
    command = ["docker", "run", "--rm", "--network", "none", *arguments, tag, "sh", "-euc", script]
    return subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode


def install(tag: str, version: str) -> Path:
    """A folder with ansible-core of that version and what the unit tests need, for Python 3.13."""
    machine = platform.machine()
    key = hashlib.sha256(f"{version} {machine} {REQUIREMENTS.read_text(encoding='utf-8')}".encode()).hexdigest()[:12]
    folder = CACHE / f"{version}-{key}"
    if (folder / "ok").exists():
        (folder / "ok").touch()
        return folder / "site"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "site").mkdir(parents=True)
    platforms = [f"--platform=manylinux_{glibc}_{machine}" for glibc in GLIBC] + [f"--platform=manylinux2014_{machine}"]
    command = [*PIP, "download", "--quiet", "--dest", str(folder / "wheels"), "--only-binary=:all:"]
    command += ["--python-version", PYTHON, "--implementation", "cp", *platforms]
    command += [f"ansible-core=={version}", "--requirement", str(REQUIREMENTS)]
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True)
    script = (
        "python3 $(echo /work/wheels/pip-*.whl)/pip install --quiet --root-user-action=ignore --no-index --no-compile "
        f"--find-links /work/wheels --target /work/site ansible-core=={version} -r /newest.in"
    )
    mounts = ["-v", f"{folder}:/work", "-v", f"{REQUIREMENTS}:/newest.in:ro"]
    if docker(tag, *mounts, script=script):
        raise Missing(f"ansible-core {version} could not be installed in a container of {tag}")
    shutil.rmtree(folder / "wheels")
    (folder / "ok").write_text(f"{version}\n", encoding="utf-8")
    return folder / "site"


def main() -> int:
    try:
        tag, version = image(), newest()
        site = install(tag, version)
    except Missing as exc:
        print(f"newest: {exc}", file=sys.stderr)
        return 1
    import ansible_collections  # type: ignore[import-untyped]

    script = ["python3 --version", "python3 -m ansible adhoc --version | head -n 1", f"cd '{ROOT}'", "failed=0"]
    if any((ROOT / "tests" / "unit").rglob("test_*.py")):
        script.append("python3 -m pytest -q -o cache_dir=/tmp/pytest tests/unit || failed=1")
    else:
        print("newest: tests/unit has no test", flush=True)
    for playbook in sorted((ROOT / "playbooks").glob("*.yml")):
        name = playbook.relative_to(ROOT)
        script.append(f"python3 -m ansible playbook -i localhost, --syntax-check {name} || failed=1")
    script.append("exit $failed")
    bundled = os.path.dirname(next(iter(ansible_collections.__path__)) + "/")
    options = ["-v", f"{ROOT}:{ROOT}:ro", "-v", f"{site}:/site:ro", "-v", f"{bundled}:/bundled/ansible_collections:ro"]
    for name, value in {
        "PYTHONPATH": f"/site:{ROOT}/.cache/collections",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": "/tmp",
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_CONFIG": f"{ROOT}/ansible.cfg",
        "ANSIBLE_COLLECTIONS_PATH": f"{ROOT}/.cache/collections:/bundled",
        "ANSIBLE_HOME": "/tmp/ansible",
        "HYPOTHESIS_STORAGE_DIRECTORY": "/tmp/hypothesis",
    }.items():
        options += ["-e", f"{name}={value}"]
    return docker(tag, *options, script="\n".join(script))


if __name__ == "__main__":
    sys.exit(main())
