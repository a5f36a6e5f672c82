"""Settings, running of commands, and the timed log that every verb prints."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
CLI = "python3 testbed/testbed.py"


class TestbedError(Exception):
    """An error that the operator can act on: the message says what was left and what to do next."""


def _env(name: str, default: str) -> str:
    return os.environ.get(f"SCUTUM_TESTBED_{name}") or default


@dataclass(frozen=True)
class Settings:
    """Everything that may differ between machines; each one is an environment variable SCUTUM_TESTBED_<NAME>."""

    name: str = field(default_factory=lambda: _env("NAME", "scutum-testbed"))
    cache: Path = field(default_factory=lambda: Path(_env("CACHE", str(REPO / ".cache" / "testbed"))).resolve())
    mirror: str = field(default_factory=lambda: _env("MIRROR", "http://deb.debian.org/debian"))
    suite: str = field(default_factory=lambda: _env("SUITE", "trixie"))
    disk: str = field(default_factory=lambda: _env("DISK", "60G"))
    subnet: str = field(default_factory=lambda: _env("SUBNET", ""))
    registry: str = field(default_factory=lambda: _env("REGISTRY", "registry.testbed"))

    @property
    def label(self) -> str:
        """The label that marks what belongs to this testbed, and nothing else."""
        return f"org.scutum.testbed={self.name}"


SETTINGS = Settings()


def log(message: str) -> None:
    """Print one line on standard error; standard output is kept for answers (a tag, an address)."""
    print(message, file=sys.stderr, flush=True)


@contextlib.contextmanager
def step(title: str) -> Iterator[None]:
    """Print the title and how long the work inside took."""
    start = time.monotonic()
    try:
        yield
    except BaseException:
        log(f"  ✗ {title}  {time.monotonic() - start:.1f} s")
        raise
    log(f"  ✓ {title}  {time.monotonic() - start:.1f} s")


def run(
    *argv: str | Path, check: bool = True, stdin: bytes | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command and return its output; a failure becomes a TestbedError with the last lines of its stderr."""
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(words, input=stdin, capture_output=True, check=False, env=env)
    except FileNotFoundError as exc:
        raise TestbedError(f"the command {words[0]} is not installed on this machine") from exc
    out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    if check and done.returncode != 0:
        tail = "\n".join((err.strip() or out.strip()).splitlines()[-12:])
        raise TestbedError(f"failed (rc {done.returncode}): {shlex.join(words)}\n{tail}")
    return subprocess.CompletedProcess(words, done.returncode, out, err)


def docker(*argv: str | Path, check: bool = True, stdin: bytes | None = None) -> str:
    """Run the docker CLI; returns its stripped standard output ("" on a failure when check is off)."""
    done = run("docker", *argv, check=check, stdin=stdin)
    return done.stdout.strip() if done.returncode == 0 else ""


def docker_ok(*argv: str | Path) -> bool:
    """True when the docker command succeeds."""
    return run("docker", *argv, check=False).returncode == 0


def wait_for(what: str, probe: Sequence[str] | None = None, *, seconds: float, call: object = None) -> None:
    """Poll a command (or a callable) until it succeeds; TestbedError after the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        if callable(call):
            if call():
                return
        elif probe and run(*probe, check=False).returncode == 0:
            return
        if time.monotonic() > deadline:
            raise TestbedError(f"{what}: not there after {seconds:.0f} s")
        time.sleep(0.2)


def need(command: str, package: str) -> None:
    """Make sure that a command exists; installs its Debian package when it does not."""
    if shutil.which(command) or any(Path(p, command).exists() for p in ("/usr/sbin", "/sbin")):
        return
    apt_install(package)


def apt_install(*packages: str) -> None:
    """Install packages on this machine (Debian or a derivative, as root)."""
    if not shutil.which("apt-get") or os.geteuid() != 0:
        raise TestbedError(
            f"install {' '.join(packages)} first (no apt-get here, or not root), then run the command again"
        )
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with step(f"apt-get install {' '.join(packages)}"):
        install = ("apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages)
        run("apt-get", "update", "-qq", check=False, env=env)
        run(*install, env=env)


@contextlib.contextmanager
def lock(name: str = "lock") -> Iterator[None]:
    """One testbed command at a time per cache folder may change shared things; the others wait here."""
    SETTINGS.cache.mkdir(parents=True, exist_ok=True)
    with (SETTINGS.cache / name).open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log("  … another testbed command holds the lock, waiting")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def digest(*parts: str | bytes | Path) -> str:
    """A short hash of strings and of files or folders (names and contents)."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            files = sorted(p for p in part.rglob("*") if p.is_file()) if part.is_dir() else [part]
            for file in files:
                if "__pycache__" not in file.parts and file.exists():
                    sha.update(str(file.relative_to(part if part.is_dir() else part.parent)).encode() + b"\0")
                    sha.update(hashlib.sha256(file.read_bytes()).digest())
        else:
            sha.update((part.encode() if isinstance(part, str) else part) + b"\0")
    return sha.hexdigest()[:12]
