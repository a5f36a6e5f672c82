"""The container engine of this machine: use the one that answers, else install and start one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from .common import CLI, SETTINGS, TestbedError, apt_install, docker, docker_ok, log, run, step, wait_for

SOCKET_DEADLINE = 60


def _pid_file() -> Path:
    return SETTINGS.cache / "dockerd.pid"


def answers() -> bool:
    """True when `docker info` works."""
    return bool(shutil.which("docker")) and docker_ok("info")


def _storage_driver() -> tuple[str, ...]:
    """Overlay2, unless the machine's own settings name a driver (dockerd refuses both)."""
    settings = Path("/etc/docker/daemon.json")
    if settings.exists() and "storage-driver" in json.loads(settings.read_text()):
        return ()
    return ("--storage-driver", "overlay2")


def ensure() -> None:
    """Make sure that an engine answers; remember the pid when we had to start it."""
    if answers():
        log("  ✓ container engine answers")
        return
    if os.environ.get("DOCKER_HOST"):
        raise TestbedError("DOCKER_HOST is set but that engine does not answer: start it, or unset DOCKER_HOST")
    if not shutil.which("dockerd"):
        apt_install("docker.io", "iptables")
    if not shutil.which("docker"):
        apt_install("docker-cli")  # part of docker.io up to Debian 12, its own package since
    if Path("/run/systemd/system").is_dir():
        # A machine with a service manager: the package's own unit runs the engine.
        with step("systemctl start docker"):
            run("systemctl", "start", "docker")
            wait_for("the engine (journalctl -u docker)", seconds=SOCKET_DEADLINE, call=answers)
        return
    SETTINGS.cache.mkdir(parents=True, exist_ok=True)
    logfile = SETTINGS.cache / "dockerd.log"
    with step("start dockerd"):
        _forget_dead()
        with logfile.open("ab") as out:
            process = subprocess.Popen(
                ["dockerd", *_storage_driver()],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        _pid_file().write_text(f"{process.pid}\n")

        def up() -> bool:
            if process.poll() is not None:
                tail = "\n".join(logfile.read_text(errors="replace").splitlines()[-8:])
                raise TestbedError(f"dockerd stopped at once; {logfile} ends with:\n{tail}")
            return answers()

        wait_for(f"dockerd (log: {logfile})", seconds=SOCKET_DEADLINE, call=up)
    _stop_left_over()


def _forget_dead() -> None:
    """Remove pid files of an engine that was killed: their numbers may belong to something else by now."""
    for path in (Path("/var/run/docker.pid"), Path("/var/run/docker/containerd/containerd.pid")):
        if path.exists():
            # Empty for one that is dead and waits for its parent.
            command = Path(f"/proc/{path.read_text().strip() or 'x'}/cmdline")
            if not command.exists() or not any(name in command.read_bytes() for name in (b"dockerd", b"containerd")):
                path.unlink()


def _stop_left_over() -> None:
    """Stop what came up with a new engine by a restart policy: whoever used it went away with the old engine."""
    found = docker("ps", "-q", "--filter", f"label={SETTINGS.label}").split()
    if found:
        with step(f"stop {len(found)} container(s) of an earlier testbed"):
            docker("update", "--restart", "no", *found)
            docker("stop", "-t", "2", *found)


def stop() -> None:
    """Stop the dockerd that `ensure` started; one that somebody else started is left alone."""
    if not _pid_file().exists():
        log("  - the engine was not started by the testbed: left running")
        return
    pid = int(_pid_file().read_text())
    cmdline = Path(f"/proc/{pid}/cmdline")
    if not cmdline.exists() or b"dockerd" not in cmdline.read_bytes():
        log(f"  - pid {pid} is no dockerd any more: nothing to stop")
        _pid_file().unlink()
        return
    with step(f"stop dockerd (pid {pid})"):
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 60
        while cmdline.exists() and cmdline.read_bytes():
            if time.monotonic() > deadline:
                raise TestbedError(f"dockerd (pid {pid}) still runs after 60 s; then: {CLI} down --engine")
            time.sleep(0.2)
        _pid_file().unlink()
