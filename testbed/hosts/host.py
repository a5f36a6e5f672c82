"""Target hosts: containers with systemd as PID 1, their own engine, their own address; snapshots of them."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

from . import images, network, storage
from .common import CLI, SETTINGS, TestbedError, docker, docker_ok, lock, log, run, step, wait_for

KIND = "org.scutum.testbed.kind=host"
SNAPSHOT = "org.scutum.testbed.snapshot"
VARIANTS = {"bare": "bare", "noengine": "noengine", "bare-noengine": "noengine"}
BOOT_DEADLINE = 60
CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Spec:
    """What a host is made from."""

    name: str
    source: str = "bare"
    ssh: bool = False
    disk_limit: str | None = None


def _snapshot_image(tag: str) -> str:
    return f"{SETTINGS.name}/snapshot:{tag}"


def _is_ours(name: str) -> bool:
    return docker("inspect", "-f", '{{index .Config.Labels "org.scutum.testbed"}}', name, check=False) == SETTINGS.name


def require(name: str) -> None:
    """Fail unless the host exists and is ours."""
    if not _is_ours(name):
        raise TestbedError(f"there is no host {name} in the testbed {SETTINGS.name}; see `{CLI} host list`")


def names() -> list[str]:
    """All hosts, running or not."""
    filters = ("--filter", f"label={SETTINGS.label}", "--filter", f"label={KIND}")
    return sorted(docker("ps", "-a", *filters, "--format", "{{.Names}}").split())


def address(name: str) -> str:
    """The host's address on the testbed's network, reachable from this machine."""
    raw = docker("inspect", "-f", "{{json .NetworkSettings.Networks}}", name)
    found: str = json.loads(raw).get(SETTINGS.name, {}).get("IPAddress", "")
    if not found:
        raise TestbedError(f"{name} has no address: it is stopped; start it with `{CLI} host start {name}`")
    return found


def _image_of(source: str) -> str:
    if source in VARIANTS:
        return images.image(VARIANTS[source])
    if not snapshot_exists(source):
        known = ", ".join((*VARIANTS, *snapshots()))
        raise TestbedError(f"there is no snapshot {source} (known: {known}); nothing was created")
    return _snapshot_image(source)


def ssh_key() -> Path:
    """The key pair that opens the hosts over SSH."""
    key = SETTINGS.cache / "ssh" / "id_ed25519"
    if not key.exists():
        key.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "scutum-testbed", "-f", key)
    return key


def _cgroup_parent(name: str) -> str | None:
    """A cgroup of its own for the engine inside, where cgroup v1 is shared with this machine.

    Clones run containers with the same ids: without this, two of them would share limits and accounting.
    """
    return None if (CGROUPS / "cgroup.controllers").exists() else f"/{SETTINGS.name}/{name}"


def _daemon_json(name: str) -> bytes:
    done = run("docker", "cp", f"{name}:/etc/docker/daemon.json", "-", check=False)
    settings: dict[str, object] = {}
    if done.returncode == 0:
        with tarfile.open(fileobj=io.BytesIO(done.stdout.encode())) as tar:
            member = tar.extractfile("daemon.json")
            settings = json.loads(member.read()) if member else {}
    parent = _cgroup_parent(name)
    settings.pop("cgroup-parent", None)
    if parent:
        settings["cgroup-parent"] = parent
    return json.dumps(settings, indent=2).encode() + b"\n"


def _personal_files(spec: Spec) -> bytes:
    """A tar of what makes a host this host: engine settings, machine id, SSH key."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:

        def add(path: str, content: bytes = b"", mode: int = 0o644, link: str = "", folder: bool = False) -> None:
            info = tarfile.TarInfo(path)
            info.size, info.mode, info.mtime = len(content), mode, int(time.time())
            if link or folder:
                info.type, info.linkname = (tarfile.SYMTYPE, link) if link else (tarfile.DIRTYPE, "")
            tar.addfile(info, io.BytesIO(content))

        add("etc/docker/daemon.json", _daemon_json(spec.name))
        add("etc/machine-id", os.urandom(16).hex().encode() + b"\n", 0o444)
        if spec.ssh:
            add("root/.ssh", mode=0o700, folder=True)
            add("root/.ssh/authorized_keys", ssh_key().with_suffix(".pub").read_bytes(), 0o600)
            wants = "etc/systemd/system/multi-user.target.wants/ssh.service"
            add(wants, link="/usr/lib/systemd/system/ssh.service")
    return buffer.getvalue()


def create(spec: Spec) -> None:
    """Create and boot a host; a host of that name is replaced."""
    image = _image_of(spec.source)
    network.ensure()
    with step(f"host {spec.name} from {spec.source}"):
        remove(spec.name, quiet=True)
        with lock("disk.lock"):
            disk = storage.create(spec.name, None if spec.source in VARIANTS else spec.source, spec.disk_limit)
        try:
            docker(
                "create", "--name", spec.name, "--hostname", spec.name, "--network", SETTINGS.name,
                "--label", SETTINGS.label, "--label", KIND, "--label", f"org.scutum.testbed.source={spec.source}",
                "--cap-add=ALL", "--cap-drop=SYS_RESOURCE", "--security-opt", "seccomp=unconfined",
                "--security-opt", "apparmor=unconfined", "--security-opt", "systempaths=unconfined",
                "--cgroupns=host", "-v", "/sys/fs/cgroup:/sys/fs/cgroup:rw", "--tmpfs", "/run", "--tmpfs", "/run/lock",
                "-v", f"{disk}:/var/lib/docker", "--stop-signal", "SIGRTMIN+3", image, "/sbin/init",
            )  # fmt: skip
            docker("cp", "-", f"{spec.name}:/", stdin=_personal_files(spec))
            _boot(spec.name)
            if spec.ssh:
                wait_for(f"sshd on {spec.name}", _exec(spec.name, "systemctl", "is-active", "-q", "ssh"), seconds=20)
        except TestbedError as exc:
            raise TestbedError(
                f"{exc}\nThe host {spec.name} was left as it is: `{CLI} exec {spec.name} -- journalctl -b`, "
                f"then `{CLI} host rm {spec.name}`."
            ) from exc


def _exec(name: str, *command: str) -> tuple[str, ...]:
    return ("docker", "exec", name, *command)


def _boot(name: str) -> None:
    docker("start", name)

    def booted() -> bool:
        state = run(*_exec(name, "systemctl", "is-system-running"), check=False).stdout.strip()
        return state in ("running", "degraded")

    wait_for(f"systemd on {name}", seconds=BOOT_DEADLINE, call=booted)
    if run(*_exec(name, "systemctl", "is-enabled", "-q", "docker"), check=False).returncode == 0:
        wait_for(f"the engine on {name}", _exec(name, "docker", "info"), seconds=BOOT_DEADLINE)


def start(name: str) -> None:
    """Boot a stopped host."""
    require(name)
    storage.ensure()
    with step(f"start {name}"):
        _boot(name)


def running(name: str) -> bool:
    """True when the host exists and runs."""
    return _is_ours(name) and docker("inspect", "-f", "{{.State.Running}}", name) == "true"


def stop(name: str) -> None:
    """Shut a host down cleanly."""
    require(name)
    with step(f"shut down {name}"):
        docker("stop", "-t", "90", name)


def remove(name: str, quiet: bool = False) -> None:
    """Remove a host and its disk; a missing one is no error."""
    exists = docker_ok("container", "inspect", name)
    if exists and not _is_ours(name):
        raise TestbedError(f"the container {name} does not belong to the testbed {SETTINGS.name}: choose another name")
    with contextlib.nullcontext() if quiet or not exists else step(f"remove host {name}"):
        if exists:
            docker("rm", "-f", "-v", name)
        storage.remove(name)
        _prune_cgroups(name)


def _prune_cgroups(name: str) -> None:
    parent = _cgroup_parent(name)
    for controller in CGROUPS.iterdir() if parent else []:
        top = controller / f"{parent}".lstrip("/")
        for folder in sorted((p for p in top.rglob("*") if p.is_dir()), reverse=True) if top.is_dir() else []:
            with contextlib.suppress(OSError):
                folder.rmdir()
        for folder in (top, top.parent):
            with contextlib.suppress(OSError):
                folder.rmdir()


# --- snapshots -------------------------------------------------------------------------------------------------------


def snapshots() -> list[str]:
    """Tags of the complete snapshots."""
    listed = docker("image", "ls", "--format", "{{.Tag}}", f"{SETTINGS.name}/snapshot").split()
    return sorted(set(listed) & set(storage.snapshots()))


def snapshot_exists(tag: str) -> bool:
    """True when both halves of a snapshot are there: the root file system and the engine's data."""
    return tag in snapshots()


def snapshot(name: str, tag: str) -> None:
    """Stop a host cleanly and keep its root file system and /var/lib/docker; the host stays stopped."""
    require(name)
    if tag in VARIANTS:
        raise TestbedError(f"{tag} is the name of a host image, choose another tag")
    if running(name):
        stop(name)
    with step(f"snapshot {name} as {tag}"), lock("disk.lock"):
        storage.save(name, tag)
        labels = ("--change", f"LABEL {SETTINGS.label} {SNAPSHOT}={tag}")
        docker("commit", *labels, name, _snapshot_image(tag))
    log(f"  - {name} is stopped: `{CLI} host start {name}` boots it again")


def snapshot_remove(tag: str) -> None:
    """Remove a snapshot; hosts cloned from it go on."""
    with step(f"remove snapshot {tag}"):
        docker("image", "rm", "-f", _snapshot_image(tag), check=False)
        storage.forget(tag)
