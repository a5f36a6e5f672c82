"""The images of the hosts and of the services: one minimal Debian, then a Dockerfile with three targets."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from .common import HERE, SETTINGS, digest, docker, docker_ok, need, run, step

VARIANTS = ("noengine", "bare", "services")


def _trust() -> bytes:
    bundle = os.environ.get("SSL_CERT_FILE", "")
    return Path(bundle).read_bytes() if bundle and Path(bundle).is_file() else b""


def _base_key() -> str:
    return digest(SETTINGS.suite, SETTINGS.mirror, os.environ.get("SCUTUM_TESTBED_BASE_IMAGE", ""))


def key() -> str:
    """Changes when anything that goes into the host images changes."""
    return digest(_base_key(), SETTINGS.registry, _trust(), HERE / "image")


def image(variant: str) -> str:
    """The name of an image of ours: noengine, bare or services."""
    return f"{SETTINGS.name}/host-{variant}:{key()}"


def present() -> bool:
    """True when all images are there."""
    return docker_ok("image", "inspect", *(image(v) for v in VARIANTS))


def base() -> str:
    """The minimal Debian under every image of the testbed; made when it is missing."""
    given = os.environ.get("SCUTUM_TESTBED_BASE_IMAGE")
    if given:
        return given
    name = f"{SETTINGS.name}/base:{_base_key()}"
    if docker_ok("image", "inspect", name):
        return name
    tar = SETTINGS.cache / f"base-{_base_key()}.tar"
    if not tar.exists():
        need("mmdebstrap", "mmdebstrap")
        SETTINGS.cache.mkdir(parents=True, exist_ok=True)
        with step(f"root file system: minimal {SETTINGS.suite} from {SETTINGS.mirror}"):
            fresh = tar.with_suffix(".new.tar")
            run("mmdebstrap", "--variant=minbase", SETTINGS.suite, fresh, SETTINGS.mirror)
            fresh.rename(tar)
    with step("import the root file system"):
        docker("import", "--change", f"LABEL {SETTINGS.label}", tar, name)
    return name


def ensure() -> None:
    """Build what is missing."""
    if present():
        return
    SETTINGS.cache.mkdir(parents=True, exist_ok=True)
    base_image = base()
    with tempfile.TemporaryDirectory(dir=SETTINGS.cache) as folder:
        context = Path(folder, "context")
        shutil.copytree(HERE / "image", context)
        settings = context / "files/etc/docker/daemon.json"
        settings.write_text(settings.read_text().replace("registry.testbed", SETTINGS.registry))
        (context / "files/etc/testbed-ca.crt").write_bytes(_trust())
        for variant in VARIANTS:
            with step(f"host image {variant}"):
                run(
                    "docker", "build", "-q", "--target", variant, "--build-arg", f"BASE={base_image}",
                    "--label", SETTINGS.label, "-t", image(variant), context,
                    env={**os.environ, "DOCKER_BUILDKIT": "0"},
                )  # fmt: skip


def remove_all() -> None:
    """Remove the images of ours (also those of older keys)."""
    names = docker("image", "ls", "-q", "--no-trunc", "--filter", f"label={SETTINGS.label}").split()
    for name in dict.fromkeys(names):
        docker("image", "rm", "-f", name, check=False)
