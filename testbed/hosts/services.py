"""Registry and release server: what the hosts pull and download from."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

from . import images
from .common import CLI, HERE, SETTINGS, TestbedError, docker, docker_ok, log, run, step, wait_for

MANIFESTS = (
    "application/vnd.docker.distribution.manifest.v2+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.oci.image.index.v1+json"
)


def container(service: str) -> str:
    """The name of a service's container."""
    return f"{SETTINGS.name}-{service}"


def running(service: str) -> bool:
    """True when the service's container runs the current image."""
    state = docker("inspect", "-f", "{{.State.Running}} {{.Config.Image}}", container(service), check=False)
    return state == f"true {images.image('services')}"


def _start(service: str, aliases: tuple[str, ...], extra: tuple[str, ...], command: tuple[str, ...]) -> None:
    if running(service):
        return
    with step(f"start the {service}"):
        docker("rm", "-f", "-v", container(service), check=False)
        # No restart policy: an engine that starts again must not bring up what another checkout left behind.
        names = [word for alias in aliases for word in ("--network-alias", alias)]
        docker(
            "run", "-d", "--name", container(service), "--label", SETTINGS.label, "--network", SETTINGS.name,
            *names, *extra, images.image("services"), *command,
        )  # fmt: skip


def registry_address() -> str:
    """Where this machine pushes to: loopback, which every engine accepts without TLS."""
    return docker("port", container("registry"), "80/tcp").splitlines()[0]


def _manifest(repository: str, tag: str) -> str:
    """The image id that the registry has under repository:tag; "" when it has none."""
    url = f"http://{registry_address()}/v2/{repository}/manifests/{tag}"
    request = urllib.request.Request(url, headers={"Accept": MANIFESTS})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            body = json.load(answer)
            return " ".join((body.get("config", {}).get("digest", ""), answer.headers["Docker-Content-Digest"] or ""))
    except (urllib.error.URLError, ConnectionError):
        return ""


def _registry_answers() -> bool:
    try:
        with urllib.request.urlopen(f"http://{registry_address()}/v2/", timeout=2):
            return True
    except (OSError, IndexError, TestbedError):
        return False


def ensure_registry() -> None:
    """Start Debian's docker-registry under the names that the hosts pull from, and once more behind a login."""
    data = SETTINGS.cache / "registry"
    data.mkdir(parents=True, exist_ok=True)
    volume = ("-v", f"{data}:/var/lib/docker-registry")
    command = ("docker-registry", "serve")
    names = (SETTINGS.registry, "ghcr.io")
    _start("registry", names, ("-p", "127.0.0.1::80", *volume), (*command, "/etc/testbed-registry.yml"))
    _start("private", ("private.testbed",), volume, (*command, "/etc/testbed-registry-private.yml"))
    wait_for(f"the registry (docker logs {container('registry')})", seconds=20, call=_registry_answers)


def repository_path(repository: str) -> str:
    """The path on the registry: ghcr.io/a/b → a/b, postgres → library/postgres."""
    for prefix in ("ghcr.io/", "docker.io/", f"{SETTINGS.registry}/"):
        repository = repository.removeprefix(prefix)
    return repository if "/" in repository else f"library/{repository}"


def push(local: str, repository: str, tag: str) -> bool:
    """Push one image of this machine's engine unless the registry has it; returns whether something was pushed."""
    path = repository_path(repository)
    image_id = docker("image", "inspect", "-f", "{{.Id}}", local)
    if image_id in _manifest(path, tag).split():
        return False
    target = f"{registry_address()}/{path}:{tag}"
    with step(f"push {path}:{tag}"):
        docker("tag", local, target)
        try:
            docker("push", "-q", target)
        finally:
            docker("image", "rm", "--no-prune", target, check=False)
    return True


def _builder() -> ModuleType:
    sys.path.insert(0, str(HERE.parent))
    try:
        return importlib.import_module("build_images")
    except ModuleNotFoundError as exc:
        raise TestbedError("testbed/build_images.py is missing: there are no stand-in images to push") from exc


def ensure_images() -> None:
    """Build the stand-in images and push what the registry does not have yet."""
    builder = _builder()
    with step("stand-in images"):
        wanted = list(builder.ensure_images())
    # Images of one repository share layers, and are pushed one after the other.
    repositories: dict[str, list[tuple[str, str, str]]] = {}
    for local, repository, tag in wanted:
        repositories.setdefault(str(repository), []).append((str(local), str(repository), str(tag)))
    with ThreadPoolExecutor(max_workers=4) as pool:
        pushed = sum(pool.map(lambda images: sum(push(*image) for image in images), repositories.values()))
    log(f"  ✓ registry holds {len(wanted)} images, {pushed} pushed now")


def _write_www(www: Path) -> None:
    builder = _builder()
    www.mkdir(parents=True, exist_ok=True)
    for entry in www.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    builder.write_releases(www)
    for installer in sorted(www.glob("release/**/install.sh")):
        if not (www / "install.sh").exists():
            shutil.copy2(installer, www / "install.sh")
    # The same bundles, with a compose file that does not match SHA256SUMS any more.
    if (www / "release").is_dir():
        shutil.copytree(www / "release", www / "corrupt")
        for compose in www.glob("corrupt/*/docker-compose.y*ml"):
            with compose.open("a") as handle:
                handle.write("# changed after the sums were written\n")


def ensure_releases() -> None:
    """Write the release bundles and serve them."""
    www = SETTINGS.cache / "www"
    with step("release bundles"):
        _write_www(www)
    _start("releases", ("releases.testbed",), ("-v", f"{www}:/srv:ro"), ("python3", "-u", "/usr/local/bin/serve.py"))


def start_double(name: str) -> str:
    """Start a double under <name>.testbed, anew and empty; its address."""
    program = HERE.parent / "doubles" / f"{name}.py"
    if not program.exists():
        raise TestbedError(
            f"there is no double {name}; there are: {', '.join(sorted(p.stem for p in program.parent.glob('[a-z]*.py')))}"
        )
    docker("rm", "-f", "-v", container(name), check=False)
    mount = ("-v", f"{program}:/double.py:ro")
    _start(name, (f"{name}.testbed",), mount, ("python3", "-u", "/double.py"))
    found = json.loads(docker("inspect", "-f", "{{json .NetworkSettings.Networks}}", container(name)))
    return str(found[SETTINGS.name]["IPAddress"])


def set_running(service: str, wanted: bool) -> None:
    """Stop or start a service: the fault "registry down"."""
    if not docker_ok("inspect", container(service)):
        raise TestbedError(f"the {service} does not exist; run `{CLI} up` first")
    with step(f"{'start' if wanted else 'stop'} the {service}"):
        run("docker", *(("start",) if wanted else ("stop", "-t", "2")), container(service))
        if wanted and service == "registry":
            wait_for("the registry", seconds=20, call=_registry_answers)
