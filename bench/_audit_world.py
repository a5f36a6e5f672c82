"""For bench_audit.py: a Postgres of the testbed's image with pg_partman beside it, databases that are copied, one that inserts."""

from __future__ import annotations

import contextlib
import importlib
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import _measure as measure
import _testbed  # noqa: F401 -- it makes the collection importable
from ansible_collections.scutum.ops.plugins.module_utils.database import Database
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation

USER, NAME, PASSWORD, RELEASE, RATE = "scutum", "scutum-bench-audit", "bench-audit", "0.1.0", 230
FOLDER = measure.ROOT / "build" / "bench" / "audit"
PARTMAN = """
FROM {image}
RUN apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql-17-partman >/dev/null \
 && rm -rf /var/lib/apt/lists/*
"""
REFERENCE = ("psycopg[binary]==3.3.9", "pyarrow==26.0.1")
# What resource_limits plans for a host of two cores and 8 GiB.
SETTINGS = ("shared_buffers=512MB", "effective_cache_size=1228MB", "work_mem=8MB", "maintenance_work_mem=128MB")


@dataclass(frozen=True)
class Insert:
    """When it began (seconds since 1970), how long it took (seconds), whether it went well."""

    begun: float
    took: float
    good: bool


def docker(*words: str, stdin: str | None = None, check: bool = True) -> str:
    """One call; a failure stops the benchmark."""
    done = subprocess.run(["docker", *words], input=stdin, capture_output=True, text=True, check=False)
    if done.returncode and check:
        raise SystemExit(f"docker {' '.join(words[:4])} …: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout.strip()


class World:
    """The server. An installation's directory is all that the library needs beside it."""

    def __init__(self) -> None:
        sys.path.insert(0, str(measure.ROOT / "testbed"))
        built = importlib.import_module("build_images").ensure_images((RELEASE,))
        images = {image.repository: image.local for image in built}
        image = f"{NAME}:partman"
        docker("build", "-q", "-t", image, "-", stdin=PARTMAN.format(image=images["library/postgres"]))
        docker("rm", "-f", "-v", NAME, check=False)
        env = {"POSTGRES_USER": USER, "POSTGRES_DB": USER, "POSTGRES_PASSWORD": PASSWORD}
        marks = {"project": NAME, "service": "postgres", "oneoff": "False"}
        words = [word for key, value in env.items() for word in ("-e", f"{key}={value}")]
        words += [word for key, value in marks.items() for word in ("--label", f"com.docker.compose.{key}={value}")]
        words += ["--shm-size", "1g", image, "postgres", *(word for text in SETTINGS for word in ("-c", text))]
        self.container = docker("run", "-d", "--name", NAME, *words)
        self.address = docker("inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", NAME)
        while subprocess.run(
            ["docker", "exec", NAME, "pg_isready", "-q", "-h", "127.0.0.1"], check=False, capture_output=True
        ).returncode:
            time.sleep(0.3)
        url = f"DATABASE_URL=postgresql://{USER}:{PASSWORD}@{self.address}:5432/{USER}"
        docker("run", "--rm", "-e", url, images["scutum-dev/scutum-admin-api"], "alembic", "upgrade", "head")
        directory = FOLDER / "scutum"
        (directory / "config").mkdir(parents=True, exist_ok=True)
        (directory / ".scutum-ops").mkdir(mode=0o700, exist_ok=True)
        given = {**env, "COMPOSE_PROJECT_NAME": NAME}
        (directory / "config/.env").write_text("".join(f"{key}={value}\n" for key, value in given.items()))
        (directory / "docker-compose.yaml").write_text("services: {postgres: {image: postgres}}\n")
        self.installation = Installation(str(directory))

    def close(self) -> None:
        """Remove it with its data."""
        docker("rm", "-f", "-v", NAME, check=False)

    def database(self, name: str) -> Database:
        """One of its databases, as the library wants it."""
        return Database(self.installation, self.container, USER, name)

    def dsn(self, name: str) -> str:
        """The same over the network, as the product comes."""
        return f"host={self.address} user={USER} password={PASSWORD} dbname={name}"

    def psql(self, name: str) -> str:
        """How to call psql on a database."""
        return f"docker exec -i {NAME} psql -X -U {USER} -d {name}"

    def sql(self, name: str, text: str) -> str:
        """Statements on a database; a failure stops the benchmark."""
        words = ("psql", "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-U", USER, "-d", name, "-f", "-")
        return docker("exec", "-i", NAME, *words, stdin=text)

    def copy(self, name: str, template: str = USER) -> None:
        """A database anew, with what another has, and nothing left to be written."""
        self.drop(name)
        self.sql("postgres", f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        self.settle(name)

    def drop(self, name: str) -> None:
        """A database, if it is there."""
        self.sql("postgres", f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def settle(self, name: str) -> None:
        """What the server would do later, it does now."""
        for text in ("VACUUM ANALYZE", "CHECKPOINT"):
            self.sql(name, text)
        subprocess.run(["sync"], check=True)

    @contextlib.contextmanager
    def inserting(self, name: str) -> Iterator[list[Insert]]:
        """One client inserts for the time of the block; what it saw is in the list after it."""
        path, seen = FOLDER / "inserts.txt", list[Insert]()
        program = str(Path(__file__).with_name("_audit_writer.py"))
        path.unlink(missing_ok=True)
        command = [sys.executable, program, str(path), str(RATE), self.dsn(name)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
            try:
                while not path.exists():
                    if client.poll() is not None:
                        raise SystemExit(f"the client ended: {client.communicate()[1]}")
                    time.sleep(0.1)
                yield seen
            finally:
                said = client.communicate()[1]
        for line in path.read_text(encoding="utf-8").splitlines():
            begun, took, good = line.split()
            seen.append(Insert(float(begun), float(took), good == "1"))
        if client.returncode:
            raise SystemExit(f"the client failed: {said[-2000:]}")


def longest(seen: list[Insert], begin: float, end: float) -> float:
    """The longest wait, in ms, of an insert that was under way between two moments."""
    return max(insert.took for insert in seen if insert.begun + insert.took >= begin and insert.begun <= end) * 1000


def reference_python() -> str:
    """A Python that has pyarrow, which nothing else here needs."""
    place = measure.ROOT / "build" / "bench" / "venv"
    python = place / "bin/python"
    if not (place / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "-q", *REFERENCE], check=True)
        (place / "complete").touch()
    return str(python)
