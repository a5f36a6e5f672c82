"""Containers of the stand-in on a network of their own, for the contract: plain `docker run`, always removed."""

from __future__ import annotations

import json
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

HERE = Path(__file__).resolve().parent
TESTBED = HERE.parents[1]
sys.path[:0] = [str(TESTBED), str(TESTBED / "standin")]
LABEL = "org.scutum.contract"
USER, DATABASE = "scutum", "scutum"


class StackError(Exception):
    """A container that did not come up; the message has the last lines of its log."""


def docker(*argv: str, check: bool = True) -> str:
    """Run the docker CLI; its output, standard error included for `logs`."""
    done = subprocess.run(["docker", *argv], capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise StackError(f"docker {' '.join(argv[:4])} …: {done.stderr.strip()}")
    return (done.stdout + (done.stderr if argv[0] == "logs" else "")).strip()


def free_port() -> int:
    """A port that nothing listens on now; fixed, so that it survives a stop and start of its container."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(what: str, probe: Callable[[], Any], seconds: float = 60) -> Any:
    """Poll until the probe answers something true."""
    deadline = time.monotonic() + seconds
    while True:
        found = probe()
        if found:
            return found
        if time.monotonic() > deadline:
            raise StackError(f"{what}: not after {seconds:.0f} s")
        time.sleep(0.2)


def answers(url: str) -> bool:
    """Whether a URL answers 200."""
    try:
        with urllib.request.urlopen(url, timeout=3) as reply:
            return bool(reply.status == 200)
    except (OSError, urllib.error.HTTPError):
        return False


class Stack:
    """A network and the containers on it; leaving the context removes all of it."""

    def __init__(self, images: dict[tuple[str, str], str]) -> None:
        self.images = images
        self.prefix = f"scutum-contract-{secrets.token_hex(4)}"
        self.label = f"{LABEL}={self.prefix}"
        self.api_key = f"sk-{secrets.token_hex(32)}"
        self.service_key = secrets.token_hex(32)
        self.jwt_secret = secrets.token_hex(32)
        self.password = secrets.token_hex(16)
        self.database_port = 0

    def __enter__(self) -> Stack:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: sys.exit(143))
        docker("network", "create", "--label", self.label, self.prefix)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        found = docker("ps", "-aq", "--filter", f"label={self.label}", check=False).split()
        if found:
            docker("rm", "-fv", *found, check=False)
        docker("network", "rm", self.prefix, check=False)

    def name(self, name: str) -> str:
        """The container's name."""
        return f"{self.prefix}-{name}"

    def gateway(self) -> str:
        """This machine's address as the containers see it."""
        found = json.loads(docker("network", "inspect", self.prefix))
        return str(found[0]["IPAM"]["Config"][0]["Gateway"])

    def start(
        self,
        name: str,
        image: tuple[str, str],
        env: dict[str, str],
        *words: str,
        port: int = 0,
        options: tuple[str, ...] = (),
    ) -> str:
        """Start a container; the base URL of its port on loopback."""
        host = free_port()
        publish = ["-p", f"127.0.0.1:{host}:{port}"] if port else []
        variables = [word for key, value in env.items() for word in ("-e", f"{key}={value}")]
        docker(
            *("run", "-d", "--name", self.name(name), "--label", self.label, "--network", self.prefix),
            *("--network-alias", name, "--restart", "unless-stopped", *publish, *variables, *options),
            *(self.images[image], *words),
        )
        return f"http://127.0.0.1:{host}"

    def start_database(self) -> None:
        """Postgres; durability is not needed here."""
        env = {"POSTGRES_USER": USER, "POSTGRES_PASSWORD": self.password, "POSTGRES_DB": DATABASE}
        url = self.start("postgres", ("postgres", ""), env, "postgres", "-c", "fsync=off", port=5432)
        self.database_port = int(url.rpartition(":")[2])
        # Over TCP: during initialisation the server listens on its socket only.
        ready = ("exec", self.name("postgres"), "pg_isready", "-q", "-h", "127.0.0.1", "-U", USER)
        until("postgres", lambda: subprocess.run(["docker", *ready], check=False, capture_output=True).returncode == 0)

    def dsn(self, database: str = DATABASE) -> str:
        """The database from this machine."""
        return f"postgresql://{USER}:{self.password}@127.0.0.1:{self.database_port}/{database}"

    def inside(self, database: str = DATABASE) -> str:
        """The database from a container."""
        return f"postgresql://{USER}:{self.password}@postgres:5432/{database}"

    def sql(self, statement: str, database: str = DATABASE) -> str:
        """psql, as the superuser over the container's socket."""
        psql = ("psql", "-X", "-At", "-v", "ON_ERROR_STOP=1", "-U", USER, "-d", database, "-c", statement)
        return docker("exec", self.name("postgres"), *psql)

    def start_admin(self, name: str, version: str, database: str = DATABASE, **more: str) -> str:
        """admin-api with the environment of the release's Compose file."""
        env = {
            "DATABASE_URL": self.inside(database),
            "LITELLM_URL": "http://litellm:4000",
            "LITELLM_MASTER_KEY": self.api_key,
            "JWT_SECRET_KEY": self.jwt_secret,
            "REDIS_URL": "redis://redis:6379",
            "INTERNAL_SERVICE_KEY": self.service_key,
            "LICENSE_KEY": "",
            **more,
        }
        return self.start(name, ("admin-api", version), env, port=8086)

    def start_litellm(
        self, name: str, version: str, database: str = "", config: Path | None = None, **more: str
    ) -> str:
        """LiteLLM with one worker."""
        env = {"LITELLM_MASTER_KEY": self.api_key, **more}
        if database:
            env["DATABASE_URL"] = self.inside(database)
        options = ("-v", f"{config}:/etc/litellm/config.yaml:ro") if config else ()
        words = ("--config", "/etc/litellm/config.yaml", "--port", "4000", "--num_workers", "1", "--use_prisma_db_push")
        return self.start(name, ("litellm", version), env, *words, port=4000, options=options)

    def log(self, name: str) -> str:
        """A container's log."""
        return docker("logs", self.name(name), check=False)

    def once(self, image: tuple[str, str], env: dict[str, str], *words: str, entrypoint: str = "") -> str:
        """Run a container to its end; what it says."""
        variables = [word for key, value in env.items() for word in ("-e", f"{key}={value}")]
        start = ("--entrypoint", entrypoint) if entrypoint else ()
        options = ("--rm", "--name", self.name("once"), "--label", self.label, "--network", self.prefix)
        return docker("run", *options, *start, *variables, self.images[image], *words)

    def save_logs(self, folder: Path) -> None:
        """Keep what the containers said."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in docker("ps", "-a", "--format", "{{.Names}}", "--filter", f"label={self.label}").split():
            text = docker("logs", name, check=False)
            (folder / f"{name.removeprefix(self.prefix + '-')}.log").write_text(text + "\n")

    def wait(self, name: str, url: str, path: str = "/health", seconds: float = 60) -> None:
        """Wait until a service answers."""
        try:
            until(name, lambda: answers(url + path), seconds)
        except StackError as error:
            raise StackError(f"{error}\n" + "\n".join(self.log(name).splitlines()[-15:])) from error
