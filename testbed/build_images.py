"""The stand-in images and release bundles: built when something that goes into them has changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

from hosts import images as host_images
from hosts.common import SETTINGS, digest, docker_ok, run, step

STANDIN = Path(__file__).resolve().parent / "standin"
VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0")

# Name of the product's image: target in the Dockerfile, and the folders that go into it.
PRODUCT = {
    "litellm": ("litellm", ("litellm",)),
    "admin-api": ("admin-api", ("admin-api", "licences")),
    "sre-agent": ("service", ("services",)),
    "cost-predictor": ("service", ("services",)),
    "budget-webhook": ("service", ("services",)),
    "admin-ui": ("static", ("static",)),
    "docs": ("static", ("static",)),
}
# Targets that serve several images, and the argument that says which.
NAMED = {"static": "PAGE", "service": "SERVICE"}
OFFICIAL = {"postgres": "16-alpine", "redis": "7-alpine"}


class Image(NamedTuple):
    """A local image, and the repository and tag under which the registry has it."""

    local: str
    repository: str
    tag: str


def _context(folder: Path) -> Path:
    context = folder / "context"
    shutil.copytree(STANDIN, context, ignore=shutil.ignore_patterns("__pycache__", "contract", "*.md"))
    bundle = os.environ.get("SSL_CERT_FILE", "")
    (context / "ca.crt").write_bytes(Path(bundle).read_bytes() if bundle and Path(bundle).is_file() else b"")
    return context


def _build(context: Path, target: str, name: str, **arguments: str) -> None:
    options = [word for key, value in arguments.items() for word in ("--build-arg", f"{key}={value}")]
    command: list[str | Path] = ["docker", "build", "-q", "--target", target, "--label", SETTINGS.label, "-t", name]
    run(*command, *options, context, env={**os.environ, "DOCKER_BUILDKIT": "0"})


def ensure_base() -> str:
    """A Debian with the suite's Python, for tests on another Python than this machine's."""
    name = f"{SETTINGS.name}/python:{digest(host_images.base(), STANDIN / 'Dockerfile')}"
    if not docker_ok("image", "inspect", name):
        with tempfile.TemporaryDirectory() as folder, step("image with Python"):
            _build(_context(Path(folder)), "builder", name, BASE=host_images.base())
    return name


def ensure_images(versions: tuple[str, ...] = VERSIONS) -> list[Image]:
    """Build what is missing; every image that the registry has to have."""
    base = host_images.base()
    common = digest(base, STANDIN / "Dockerfile", os.environ.get("PIP_INDEX_URL", ""))
    wanted: list[tuple[Image, str, dict[str, str]]] = []
    for name, tag in OFFICIAL.items():
        local = f"{SETTINGS.name}/{name}:{digest(common, STANDIN / name)}"
        wanted.append((Image(local, f"library/{name}", tag), name, {}))
    for name, (target, folders) in PRODUCT.items():
        key = digest(common, *(STANDIN / folder for folder in folders))
        for version in versions:
            image = Image(f"{SETTINGS.name}/{name}:{version}-{key}", f"scutum-dev/scutum-{name}", version)
            arguments = {"VERSION": version}
            if target in NAMED:
                arguments[NAMED[target]] = name
            wanted.append((image, target, arguments))
    missing = [item for item in wanted if not docker_ok("image", "inspect", item[0].local)]
    if missing:
        with tempfile.TemporaryDirectory() as folder:
            context = _context(Path(folder))
            for image, target, arguments in missing:
                with step(f"stand-in {image.repository}:{image.tag}"):
                    _build(context, target, image.local, BASE=base, **arguments)
    return [item[0] for item in wanted]


def write_releases(out: Path | str) -> None:
    """Write install.sh and release/v<version>/ for every release below a directory."""
    subprocess.run([sys.executable, str(STANDIN / "release/write.py"), str(out), *VERSIONS], check=True)


if __name__ == "__main__":
    for built in ensure_images():
        print(*built)
