"""The files of the checkout, as git sees them, for checks that need them somewhere else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def checkout_files() -> list[str]:
    """Every file that is tracked, or would be by `git add`, and still exists."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout.decode()
    return sorted({name for name in listed.split("\0") if name and (ROOT / name).exists()})


def copy_checkout(destination: Path, leave_out: tuple[str, ...] = ()) -> int:
    """Makes destination hold exactly the files of the checkout (but for some folders); returns how many they are."""
    wanted = [name for name in checkout_files() if not name.startswith(leave_out)]
    keep = set(wanted)
    for folder, _folders, names in os.walk(destination, topdown=False):
        if ".git" in Path(folder).relative_to(destination).parts:
            continue
        for name in names:
            path = Path(folder, name)
            if str(path.relative_to(destination)) not in keep:
                path.unlink()
        if folder != str(destination) and not os.listdir(folder):
            os.rmdir(folder)
    for name in wanted:
        source, target = ROOT / name, destination / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_symlink() or target.is_dir():
            target.unlink() if target.is_symlink() else shutil.rmtree(target)
        if source.is_symlink():
            target.unlink(missing_ok=True)
            target.symlink_to(os.readlink(source))
        else:
            shutil.copy2(source, target)
    return len(wanted)


def pythons(oldest: tuple[int, int], newest: tuple[int, int]) -> dict[str, str]:
    """Interpreters on this machine that really start, by version: {"3.11": "/usr/bin/python3.11"}."""
    found: dict[str, str] = {}
    for minor in range(oldest[1], newest[1] + 1):
        version = f"3.{minor}"
        for candidate in (shutil.which(f"python{version}"), f"/usr/bin/python{version}"):
            if not candidate or not os.path.exists(candidate):
                continue
            # A pyenv shim stands for versions that are not switched on, too.
            tried = subprocess.run(
                [candidate, "-c", "import sys, venv, ensurepip; print(sys.executable)"],
                capture_output=True,
                text=True,
                check=False,
            )
            if tried.returncode == 0:
                found[version] = tried.stdout.strip()
                break
    return found


if __name__ == "__main__":
    print(copy_checkout(Path(sys.argv[1])))
