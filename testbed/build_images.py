"""The stand-in images and release bundles: built when something that goes into them has changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent))

from hosts import images as host_images
from hosts.common import SETTINGS, digest, docker_ok, run, step

STANDIN = Path(__file__).resolve().parent / "standin"
VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0")

OFFICIAL = {"postgres": "16-alpine", "redis": "7-alpine"}
# Name of the product's image: the folders that go into it.
PRODUCT = {
    "litellm": ("litellm",),
    "admin-api": ("admin-api", "licences"),
    "sre-agent": ("services",),
    "cost-predictor": ("services",),
    "budget-webhook": ("services",),
    "admin-ui": ("static",),
    "docs": ("static",),
}
# Targets that serve several images, and the argument that says which.
TARGET = {
    **dict.fromkeys(("sre-agent", "cost-predictor", "budget-webhook"), ("service", "SERVICE")),
    **dict.fromkeys(("admin-ui", "docs"), ("static", "PAGE")),
}
# The Dockerfile of each target; those of one file are built one after the other.
FILES = {
    "litellm": "litellm",
    "admin-api": "app",
    "service": "app",
    "postgres": "data",
    "redis": "data",
    "static": "data",
}


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


def _build(context: Path, file: str, target: str, name: str, **arguments: str) -> None:
    options = [word for key, value in arguments.items() for word in ("--build-arg", f"{key}={value}")]
    command: list[str | Path] = ["docker", "build", "-q", "--target", target, "--label", SETTINGS.label, "-t", name]
    command += ["-f", context / f"{file}.Dockerfile", *options, context]
    run(*command, env={**os.environ, "DOCKER_BUILDKIT": "0"})


def _base_images() -> dict[str, str]:
    """What all images are built on, by build argument; the names change with what goes into them."""
    key = digest(host_images.base(), STANDIN / "base.Dockerfile", os.environ.get("PIP_INDEX_URL", ""))
    return {name.upper(): f"{SETTINGS.name}/{name}:{key}" for name in ("runtime", "builder")}


@dataclass(frozen=True)
class _Wanted:
    image: Image
    target: str
    arguments: dict[str, str]


def _wanted(versions: tuple[str, ...]) -> list[_Wanted]:
    base = _base_images()

    def local(name: str, target: str, folders: tuple[str, ...], tag: str = "") -> str:
        key = digest(base["RUNTIME"], STANDIN / f"{FILES[target]}.Dockerfile", *(STANDIN / part for part in folders))
        return f"{SETTINGS.name}/{name}:{tag}{key}"

    found = [
        _Wanted(Image(local(name, name, (name,)), f"library/{name}", tag), name, {}) for name, tag in OFFICIAL.items()
    ]
    for name, folders in PRODUCT.items():
        target, argument = TARGET.get(name, (name, ""))
        for version in versions:
            image = Image(local(name, target, folders, f"{version}-"), f"scutum-dev/scutum-{name}", version)
            found.append(_Wanted(image, target, {"VERSION": version} | ({argument: name} if argument else {})))
    return found


def ensure_images(versions: tuple[str, ...] = VERSIONS) -> list[Image]:
    """Build what is missing, the Dockerfiles side by side; every image that the registry has to have."""
    wanted = _wanted(versions)
    missing = [item for item in wanted if not docker_ok("image", "inspect", item.image.local)]
    if missing:
        with tempfile.TemporaryDirectory() as folder:
            context = _context(Path(folder))
            base = _base_images()
            for argument, name in base.items():
                if not docker_ok("image", "inspect", name):
                    with step(f"stand-in {argument.lower()}"):
                        _build(context, "base", argument.lower(), name, BASE=host_images.base())

            def build_file(file: str) -> None:
                for item in missing:
                    if FILES[item.target] == file:
                        with step(f"stand-in {item.image.repository}:{item.image.tag}"):
                            _build(context, file, item.target, item.image.local, **base, **item.arguments)

            with ThreadPoolExecutor() as pool:
                list(pool.map(build_file, sorted(set(FILES.values()))))
    return [item.image for item in wanted]


def write_releases(out: Path | str) -> None:
    """Write install.sh and release/v<version>/ for every release below a directory."""
    subprocess.run([sys.executable, str(STANDIN / "release/write.py"), str(out), *VERSIONS], check=True)


if __name__ == "__main__":
    for built in ensure_images():
        print(*built)
