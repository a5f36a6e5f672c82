"""/var/lib/docker of the hosts: btrfs subvolumes on one loop-mounted file, so that a snapshot or clone is instant.

Where btrfs or loop devices are not to be had, plain folders and `cp -a` do the same, slower.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from .common import SETTINGS, TestbedError, log, need, run, step


def _root() -> Path:
    return SETTINGS.cache / "disks"


def _image() -> Path:
    return SETTINGS.cache / "disks.btrfs"


def _small() -> Path:
    return SETTINGS.cache / "small"


def host_path(host: str) -> Path:
    """The folder that is /var/lib/docker of a host."""
    small = _small() / host
    return small if small.is_dir() else _root() / "hosts" / host


def snapshot_path(tag: str) -> Path:
    """The folder that holds /var/lib/docker of a snapshot."""
    return _root() / "snapshots" / tag


def _is_btrfs() -> bool:
    return run("stat", "-f", "-c", "%T", _root(), check=False).stdout.strip() == "btrfs"


def ensure() -> None:
    """Make and mount the disk once."""
    _root().mkdir(parents=True, exist_ok=True)
    plain = SETTINGS.cache / "disks.plain"
    if not _is_btrfs() and not plain.exists():
        try:
            with step(f"mount the hosts' disk ({SETTINGS.disk}, sparse, btrfs)"):
                need("mkfs.btrfs", "btrfs-progs")
                if not _image().exists():
                    fresh = _image().with_suffix(".new")
                    run("truncate", "-s", SETTINGS.disk, fresh)
                    run("mkfs.btrfs", "-q", fresh)
                    fresh.rename(_image())
                run("mount", "-o", "loop,noatime", _image(), _root())
        except TestbedError as exc:
            log(f"  - no btrfs disk here, plain folders instead (clones take longer): {str(exc).splitlines()[-1]}")
            _image().unlink(missing_ok=True)
            plain.touch()
    for folder in ("hosts", "snapshots"):
        (_root() / folder).mkdir(exist_ok=True)


def _copy(source: Path, target: Path) -> None:
    if _is_btrfs() and not target.is_relative_to(_small()) and not source.is_relative_to(_small()):
        run("btrfs", "subvolume", "snapshot", source, target)
    else:
        _new(target)
        run("cp", "-a", "--reflink=auto", f"{source}/.", target)


def _new(target: Path) -> None:
    if _is_btrfs() and not target.is_relative_to(_small()):
        run("btrfs", "subvolume", "create", target)
    else:
        target.mkdir(parents=True, exist_ok=True)
    target.chmod(0o710)


def _delete(target: Path) -> None:
    if not target.exists():
        return
    if _is_btrfs() and run("btrfs", "subvolume", "delete", target, check=False).returncode == 0:
        return
    shutil.rmtree(target)


def create(host: str, snapshot: str | None = None, limit: str | None = None) -> Path:
    """A fresh /var/lib/docker for a host: empty or a copy of a snapshot, unlimited or on its own small disk."""
    remove(host)
    target = _root() / "hosts" / host
    if limit:
        target = _small() / host
        target.mkdir(parents=True)
        disk = _small() / f"{host}.ext4"
        run("truncate", "-s", limit, disk)
        run("mkfs.ext4", "-q", "-F", "-m", "0", disk)
        run("mount", "-o", "loop,noatime", disk, target)
    if snapshot:
        _copy(snapshot_path(snapshot), target)
    elif not limit:
        _new(target)
    return target


def remove(host: str) -> None:
    """Give back the disk of a host."""
    small = _small() / host
    if small.is_dir():
        if os.path.ismount(small):
            run("umount", small)
        small.rmdir()
    (_small() / f"{host}.ext4").unlink(missing_ok=True)
    _delete(_root() / "hosts" / host)


def save(host: str, tag: str) -> None:
    """Keep /var/lib/docker of a stopped host as a snapshot."""
    forget(tag)
    _copy(host_path(host), snapshot_path(tag))


def forget(tag: str) -> None:
    """Remove a snapshot's disk."""
    _delete(snapshot_path(tag))


def snapshots() -> list[str]:
    """Tags of the snapshots on the disk."""
    folder = _root() / "snapshots"
    return sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []


def tear_down() -> None:
    """Remove every host's and snapshot's disk, unmount and delete the file."""
    for folder in (_small(), _root() / "hosts"):
        for entry in sorted(folder.iterdir()) if folder.is_dir() else []:
            if entry.is_dir():
                remove(entry.name)
    if _is_btrfs() and os.path.ismount(_root()):
        run("umount", _root())
    elif _root().is_dir():
        for tag in snapshots():
            forget(tag)
    _image().unlink(missing_ok=True)
    (SETTINGS.cache / "disks.plain").unlink(missing_ok=True)
