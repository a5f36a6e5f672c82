"""What the faults are injected into: a real Postgres, moto behind a proxy, and an installation for each case."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from ansible_collections.scutum.ops.plugins.module_utils import backup, backup_catalog, restore_verification
from ansible_collections.scutum.ops.plugins.module_utils.database import Database
from ansible_collections.scutum.ops.plugins.module_utils.engine import Engine
from ansible_collections.scutum.ops.plugins.module_utils.errors import ScutumError
from ansible_collections.scutum.ops.plugins.module_utils.installation import Installation
from ansible_collections.scutum.ops.plugins.module_utils.object_store import Store, open_store
from faults import Fault
from moto.server import ThreadedMotoServer
from proxy import Proxy

ROOT = Path(__file__).resolve().parents[2]
BUCKET, USER, RELEASE = "backups", "scutum", "0.1.0"
# Few tables, for speed; some thousands of rows, and what does not compress: a dump of five parts.
ROWS = """
DO $$ DECLARE name text; BEGIN
  FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename NOT IN
    ('alembic_version', 'audit_logs', 'teams', 'guardrails', 'models', 'licenses', 'event_subscriptions') LOOP
    EXECUTE format('DROP TABLE %I CASCADE', name);
  END LOOP;
END $$;
INSERT INTO audit_logs(actor_id, action, resource_type, timestamp)
  SELECT 'u' || i, 'a', 'r', now() - i * interval '1 hour' FROM generate_series(1, 3000) i;
CREATE TABLE noise(id serial PRIMARY KEY, data bytea NOT NULL);
INSERT INTO noise(data) SELECT (SELECT string_agg(sha256((i * 1000 + j)::text::bytea), '') FROM generate_series(1, 800) j)
  FROM generate_series(1, 200) i;
CREATE INDEX noise_by_data ON noise(md5(data));
CREATE VIEW seen AS SELECT id FROM noise;
"""
PART = 1 << 20
# The job as the host starts it, with smaller parts.
DRIVER = f"""
import sys
from ansible_collections.scutum.ops.plugins.module_utils import cli, object_store
object_store.S3Store.upload.__defaults__ = ({PART}, 2, None)
sys.exit(cli.main())
"""
CANARY = "canary-4f0c77e1"


def docker(*words: str, stdin: str | None = None, check: bool = True) -> str:
    """One call of the command line."""
    done = subprocess.run(["docker", *words], input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, f"docker {' '.join(words[:4])} …: {done.stderr[-500:]}"
    return done.stdout.strip()


class World:
    """Shared by all cases: nothing in it is changed by one, but for databases and prefixes of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spool = folder / "spool"
        self.project = f"scutum-faults-{secrets.token_hex(4)}"
        self.password = f"{CANARY}-{secrets.token_hex(8)}"
        self.postgres = self.network = self.admin_image = ""
        self.moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self.moto.start()
        host, port = self.moto.get_host_and_port()
        self.proxy = Proxy((host, port))
        keys = {"aws_access_key_id": "x", "aws_secret_access_key": "x"}
        self.s3: Any = boto3.client("s3", region_name="us-east-1", endpoint_url=f"http://{host}:{port}", **keys)
        self.s3.create_bucket(Bucket=BUCKET)

    def start(self) -> None:
        """All of it."""
        sys.path.insert(0, str(ROOT / "testbed"))
        # Built when they are missing; after `testbed up` they are there.
        images = {
            image.repository: image.local for image in importlib.import_module("build_images").ensure_images((RELEASE,))
        }
        self.admin_image = docker("image", "inspect", "-f", "{{.Id}}", images["scutum-dev/scutum-admin-api"])
        self.network = docker("network", "create", self.project)
        labels = {"project": self.project, "service": "postgres", "oneoff": "False"}
        marks = [word for key, value in labels.items() for word in ("--label", f"com.docker.compose.{key}={value}")]
        env = {"POSTGRES_USER": USER, "POSTGRES_DB": USER, "POSTGRES_PASSWORD": self.password}
        given = [word for key, value in env.items() for word in ("-e", f"{key}={value}")]
        self.spool.mkdir()
        mount = ("--mount", f"type=bind,source={self.spool},target=/spool,readonly")
        run = ("run", "-d", "--network", self.network, "--network-alias", "postgres", *mount, *marks, *given)
        self.postgres = docker(*run, images["library/postgres"], "postgres", "-c", "fsync=off")
        self.wait()
        url = f"DATABASE_URL=postgresql://{USER}:{self.password}@postgres:5432/{USER}"
        docker("run", "--rm", "--network", self.network, "-e", url, self.admin_image, "alembic", "upgrade", "head")
        self.sql(ROWS)

    def wait(self) -> None:
        """For Postgres. A kill that a fault injects may come after the start that follows it: it is started until it answers."""
        end = time.monotonic() + 120
        ready = ["docker", "exec", self.postgres, "pg_isready", "-q", "-h", "127.0.0.1", "-U", USER]
        while subprocess.run(ready, check=False, capture_output=True).returncode:
            assert time.monotonic() < end, self.last_words()
            if docker("inspect", "-f", "{{.State.Running}}", self.postgres) != "true":
                docker("start", self.postgres)
            time.sleep(0.2)

    def last_words(self) -> str:
        """Why Postgres does not answer."""
        state = docker("inspect", "-f", "{{json .State}}", self.postgres)
        logs = subprocess.run(
            ["docker", "logs", "--tail", "12", self.postgres], capture_output=True, text=True, check=False
        )
        return f"{state}\n{logs.stdout}{logs.stderr}"

    def sql(self, text: str, database: str = USER) -> str:
        """Statements on one database."""
        psql = ("psql", "-X", "-q", "-At", "-v", "ON_ERROR_STOP=1", "-U", USER, "-d", database)
        return docker("exec", "-i", self.postgres, *psql, stdin=text)

    @contextlib.contextmanager
    def throwaway(self, installation: Installation, *unused: object) -> Iterator[restore_verification._Throwaway]:
        """A database of the shared server instead of a throwaway of its own: seconds less for a fault that has nothing to do with it."""
        self.sql("DROP DATABASE IF EXISTS restored WITH (FORCE)", "postgres")
        self.sql("CREATE DATABASE restored", "postgres")
        try:
            database = Database(installation, self.postgres, USER, "restored")
            yield restore_verification._Throwaway(database, "", self.password)
        finally:
            self.sql("DROP DATABASE restored WITH (FORCE)", "postgres")

    def close(self) -> None:
        """Remove what was started, and what killed verifications left."""
        mark = restore_verification.LABEL
        for kind in ("container", "network"):
            listed = docker(kind, "ls", *(["-a"] if kind == "container" else []), "--filter", f"label={mark}",
                            "--format", f'{{{{.ID}}}} {{{{.Label "{mark}"}}}}')  # fmt: skip
            for line in listed.splitlines():
                name, unused, directory = line.partition(" ")
                if directory.startswith(str(self.folder.parent)):
                    docker(kind, "rm", *(["-f", "-v"] if kind == "container" else []), name, check=False)
        for words in (("rm", "-f", "-v", self.postgres), ("network", "rm", self.network)):
            if words[-1]:
                docker(*words, check=False)
        self.proxy.close()
        self.moto.stop()


# docker exec -i CONTAINER sh -c SCRIPT PIPE env … pg_dump …
PIPED = """exec > "/proc/$(docker inspect -f '{{.State.Pid}}' "$3")/root$7" || exit 99
in=$3; shift 7; set -- exec -i "$in" "$@"
"""


class Case:
    """One installation with its own directory and prefix. A good backup of before is there, which has to stay the newest that counts."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world, self.folder = world, folder
        self.directory, self.metrics, self.prefix = folder / "scutum", folder / "metrics", f"p-{secrets.token_hex(4)}"
        (self.directory / "config").mkdir(parents=True)
        (self.directory / ".scutum-ops").mkdir()
        self.metrics.mkdir()
        self.env = {
            "POSTGRES_USER": USER, "POSTGRES_DB": USER, "POSTGRES_PASSWORD": world.password, "COMPOSE_PROJECT_NAME": world.project,
            "SCUTUM_BACKUP_ACCESS_KEY_ID": "AKIAFAULTS", "SCUTUM_BACKUP_SECRET_ACCESS_KEY": f"{CANARY}-store",
        }  # fmt: skip
        (self.directory / "docker-compose.yaml").write_text("services: {postgres: {image: postgres}}\n")
        self.installation = Installation(str(self.directory))
        self.configure()
        self.private("state.json", {"version": RELEASE, "images": {RELEASE: {"admin-api": {"id": world.admin_image}}}})
        self.private("notifications.json", {"webhook": {"url": f"{world.proxy.url}/hook"}})
        self.log: list[str] = []
        # Rows of the audit table that its backup has.
        self.many = 0
        self.spool = self.directory / ".scutum-ops/restore-spool"

    def private(self, name: str, content: Any) -> None:
        """Write a file of the private directory."""
        (self.directory / ".scutum-ops" / name).write_text(json.dumps(content))

    def configure(self, recipients: tuple[str, ...] = (), store: dict[str, Any] | None = None) -> None:
        """The settings as the role writes them, and config/.env."""
        usual = {"bucket": BUCKET, "prefix": self.prefix, "endpoint_url": self.world.proxy.url, "attempts": 2}
        place = store if store and "directory" in store else {**usual, **(store or {})}
        backup.configure(self.installation, backup.Settings(store=place, age_recipients=list(recipients)))
        (self.directory / "config/.env").write_text("".join(f"{key}={value}\n" for key, value in self.env.items()))

    # --- the store, not through the proxy

    def store(self) -> Store:
        """The prefix as it is."""
        url = "http://{}:{}".format(*self.world.proxy.target)
        settings = {"bucket": BUCKET, "prefix": self.prefix, "endpoint_url": url}
        return open_store(settings, {"access_key_id": "x", "secret_access_key": "x"})

    def objects(self) -> dict[str, bytes]:
        """Everything below the prefix."""
        get = self.world.s3.get_object
        return {name: get(Bucket=BUCKET, Key=f"{self.prefix}/{name}")["Body"].read() for name in self.names()}

    def names(self) -> list[str]:
        """Of the objects."""
        found = self.world.s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{self.prefix}/").get("Contents", [])
        return [item["Key"][len(self.prefix) + 1 :] for item in found]

    def put(self, objects: dict[str, bytes]) -> None:
        """Put objects below the prefix."""
        for name, data in objects.items():
            self.world.s3.put_object(Bucket=BUCKET, Key=f"{self.prefix}/{name}", Body=data)

    def forget(self) -> None:
        """Nothing lies below the prefix any more."""
        for name in self.names():
            self.world.s3.delete_object(Bucket=BUCKET, Key=f"{self.prefix}/{name}")

    def counting(self) -> list[str]:
        """What counts, as whoever looks now sees it: newest first, whole to the last byte."""
        return self.counting_at(None)

    def counting_at(self, now: float | None) -> list[str]:
        """The same, at another time."""
        return [entry.id for entry in backup_catalog.complete(self.store(), now)]

    def whole(self, name: str) -> None:
        """A backup is what its manifest says."""
        for part, said in backup_catalog.manifest(self.store(), name)["objects"].items():
            assert hashlib.sha256(b"".join(self.store().open(f"{name}/{part}"))).hexdigest() == said["sha256"], part

    def unfinished(self) -> list[str]:
        """Uploads that were begun and not ended."""
        found = self.world.s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
        return [item["Key"] for item in found if item["Key"].startswith(f"{self.prefix}/")]

    # --- the jobs

    def shim(self, body: str, command: str = "pg_dump") -> None:
        """Let an engine's call fail as a few lines of sh say; every other call goes through.

        What the lines print in place of pg_dump goes into its pipe, and `docker "$@"` is a pg_dump that prints.
        """
        path = self.folder / "docker-shim"
        piped = PIPED if command == "pg_dump" else ""
        path.write_text(f'#!/bin/sh\ncase " $* " in *" {command} "*) ;; *) exec docker "$@" ;; esac\n{piped}{body}\n')
        path.chmod(0o755)
        self.installation.engine = Engine(str(path))

    def settled(self) -> None:
        """Wait until no shim runs any more: what it does comes late on a busy machine, and would hit the next case."""
        end, shim = time.monotonic() + 60, str(self.folder / "docker-shim").encode()

        def runs(path: Path) -> bool:
            with contextlib.suppress(OSError):
                return shim in path.read_bytes()
            return False

        while any(runs(path) for path in Path("/proc").glob("[0-9]*/cmdline")):
            assert time.monotonic() < end, "a shim does not end"
            time.sleep(0.1)

    def backup(self) -> dict[str, Any]:
        """One in this process."""
        return backup.run(self.installation, str(self.metrics), self.log.append)

    def verify(self, **wanted: Any) -> dict[str, Any]:
        """One in this process."""
        settings = restore_verification.Settings(**{"memory": "1g", "spool": str(self.spool), **wanted})
        return restore_verification.verify(self.installation, settings, str(self.metrics), self.log.append)

    def verify_quickly(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Verifications of this case restore into the shared server, and do not start admin-api."""
        monkeypatch.setattr(restore_verification, "_throwaway", self.world.throwaway)
        monkeypatch.setattr(restore_verification, "_serve", lambda *unused: "not asked")
        self.spool = self.world.spool

    def start(self, *words: str) -> subprocess.Popen[str]:
        """The job as a process of its own, which can be killed."""
        env = {**os.environ, "PYTHONPATH": str(ROOT / ".cache/collections"), "AWS_EC2_METADATA_DISABLED": "true"}
        command = [sys.executable, "-c", DRIVER, "--dir", str(self.directory), *words, "--metrics", str(self.metrics)]
        return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def metric(self, name: str) -> float:
        """Of a backup."""
        found = re.search(rf"^scutum_backup_{name} (\S+)$", (self.metrics / "scutum_backup.prom").read_text(), re.M)
        assert found, name
        return float(found[1])

    def status(self) -> dict[str, Any]:
        """What is recorded."""
        return backup.status(self.installation)

    # --- what has to be true

    def quiet(self, *texts: object) -> None:
        """No secret in what was said to anybody."""
        said = json.dumps([str(text) for text in texts] + self.log + self.world.proxy.told)
        said += "".join(path.read_text() for path in self.metrics.glob("*.prom"))
        assert CANARY not in said

    def refuses(self, fault: Fault) -> ScutumError:
        """The backup fails loudly, and what counted before still does, and nothing else."""
        before, success = self.counting(), self.status().get("last_success")
        with pytest.raises(ScutumError) as caught:
            self.backup()
        error, held = caught.value, self.status()
        assert re.search(fault.says, error.what), str(error)
        assert error.left and error.next_step, str(error)
        # The message, the status, the metrics and people: all of them say it.
        assert re.search(fault.says, held["last_failure"]["error"]) and held.get("last_success") == success
        assert not held["running"] and self.metric("up") == 0 and self.metric("last_failure_timestamp_seconds") > 0
        assert [told["event"] for told in self.world.proxy.told] == ["backup.failed"], self.world.proxy.told
        assert re.search(fault.says, self.world.proxy.told[0]["error"])
        self.quiet(error, held)
        assert self.counting() == before and self.unfinished() == []
        return error

    def unproven(self, fault: Fault, **wanted: Any) -> dict[str, Any]:
        """The verification does not let it pass, says why, and leaves neither a server nor a dump in clear."""
        report = self.verify(**wanted)
        assert not report["ok"] and report["outcome"] == fault.outcome, report
        said = "\n".join(restore_verification.text(report))
        assert re.search(fault.says, said), said
        assert {"failed": "DOES NOT RESTORE", "unknown": "COULD NOT BE VERIFIED"}[fault.outcome] in said
        assert [told["event"] for told in self.world.proxy.told][-1:] == ["backup.verification_failed"]
        names = self.names()
        assert not [name for name in names if name.endswith("/verified.json")], sorted(names)
        assert (f"{report['id']}/verification-failed.json" in names) == (fault.outcome == "failed"), sorted(names)
        self.nothing_left()
        assert not (self.status().get("last_verified"))
        self.quiet(said)
        return report

    def nothing_left(self) -> None:
        """No throwaway, and no dump in clear."""
        mark = ("--filter", f"label={restore_verification.LABEL}={self.directory}")
        assert docker("ps", "-aq", *mark) == docker("network", "ls", "-q", *mark) == ""
        assert [*self.spool.glob("*")] == []

    def dumping(self) -> list[str]:
        """Sessions of dumps on the server: none may hold locks when nobody reads it."""
        sql = "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'scutum-ops-dump-%'"
        return self.world.sql(sql, "postgres").split()

    def close(self) -> None:
        """What it has on the disk is large."""
        self.world.proxy.reset()
        shutil.rmtree(self.folder, ignore_errors=True)
