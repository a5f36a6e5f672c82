#!/usr/bin/env python
"""Start the stand-in with plain `docker run` and hold it to the contract: run.py [--release 0.1.0|0.2.0|…|all] [-- PYTEST].

Without an option: release 0.1.0 has to keep the whole contract, and every other release has to behave as its README says.
All of it lives on a network of its own and is removed at the end. Against a real Scutum use pytest alone: see ../README.md.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from stack import HERE, TESTBED, Stack, StackError

Lap = Callable[[str], None]
FIRST = "0.1.0"
OTHERS = ("0.2.0", "0.3.0", "0.4.0", "0.5.0")
INTERVAL = "2"
LOGS = TESTBED.parent / "build/contract"


def images(versions: tuple[str, ...]) -> dict[tuple[str, str], str]:
    """Local names of the images, built when they are missing."""
    import build_images

    found: dict[tuple[str, str], str] = {}
    for image in build_images.ensure_images(versions):
        kind, _, name = image.repository.partition("/")
        found[(name, "") if kind == "library" else (name.removeprefix("scutum-"), image.tag)] = image.local
    return found


def clone(stack: Stack, name: str) -> str:
    """A database with release 0.1.0's schema."""
    stack.sql(f"CREATE DATABASE {name} TEMPLATE base", "postgres")
    return name


def start_slow(stack: Stack, folder: Path, first: bool, others: tuple[str, ...]) -> dict[str, str]:
    """Both LiteLLMs, which take longest: the tests that need them wait for them."""
    env: dict[str, str] = {}
    if first:
        # Operators mount their own configuration: the image's, and the callback that /metrics/ needs.
        config = folder / "config.yaml"
        text = (HERE.parent / "litellm/config.yaml").read_text()
        config.write_text(text.replace("litellm_settings:\n", 'litellm_settings:\n  callbacks: ["prometheus"]\n'))
        env["SCUTUM_LITELLM_URL"] = stack.start_litellm("litellm", FIRST, "scutum", config)
    if "0.4.0" in others:
        url = stack.start_litellm("litellm-040", "0.4.0", SCUTUM_STANDIN_FAULT_AFTER="0")
        env["SCUTUM_RELEASES_LITELLM_040"] = url
    return env


def start_first(stack: Stack) -> dict[str, str]:
    """The rest of release 0.1.0; the environment of the contract."""
    import issue_licence

    service_env = {"INTERNAL_SERVICE_KEY": stack.service_key}
    service = stack.start("budget-webhook", ("budget-webhook", FIRST), service_env, port=8080)
    admin = stack.start_admin("admin-api", FIRST, SCUTUM_STANDIN_LICENSE_INTERVAL=INTERVAL)
    old = issue_licence.issue("team", 10, email="environment@example.com", subject="c-env")
    trap = stack.start_admin(
        "admin-api-env", FIRST, clone(stack, "envkey"), SCUTUM_STANDIN_LICENSE_INTERVAL=INTERVAL, LICENSE_KEY=old
    )
    for name, url in (("admin-api", admin), ("admin-api-env", trap), ("budget-webhook", service)):
        stack.wait(name, url)
    return {
        "SCUTUM_ADMIN_URL": admin,
        "SCUTUM_API_KEY": stack.api_key,
        "SCUTUM_SERVICE_URL": service,
        "SCUTUM_SERVICE_KEY": stack.service_key,
        "SCUTUM_DATABASE_DSN": stack.dsn(),
        "SCUTUM_LICENCE_KEYS_DIR": str(HERE.parent / "licences"),
        "SCUTUM_CONTRACT_STANDIN": "1",
        "SCUTUM_CONTRACT_INTERVAL": INTERVAL,
        "SCUTUM_CONTRACT_SINK_HOST": stack.gateway(),
        "SCUTUM_CONTRACT_ADMIN_CONTAINER": stack.name("admin-api"),
        "SCUTUM_CONTRACT_DATABASE_CONTAINER": stack.name("postgres"),
        "SCUTUM_CONTRACT_ENV_ADMIN_URL": trap,
    }


def start_others(stack: Stack, versions: tuple[str, ...]) -> dict[str, str]:
    """The other releases, each on a database that release 0.1.0 has migrated; the tests look at what became of them."""
    env = {
        "SCUTUM_API_KEY": stack.api_key,
        "SCUTUM_RELEASES": " ".join(versions),
        "SCUTUM_RELEASES_STACK": stack.prefix,
        "SCUTUM_RELEASES_DSN": stack.dsn("@DATABASE@"),
        "SCUTUM_RELEASES_INSIDE": stack.inside("@DATABASE@"),
        "SCUTUM_RELEASES_OLD_IMAGE": stack.images["admin-api", FIRST],
        "SCUTUM_RELEASES_JWT": stack.jwt_secret,
    }
    for version in versions:
        short = version.replace(".", "")
        if version == "0.5.0":
            # The schema push alone: it comes before LiteLLM itself, which would take long to start.
            code = "import os, entrypoint; os.execvp = lambda *_: None; entrypoint.main()"
            for database, more in ((f"r{short}", {}), (f"r{short}off", {"DISABLE_SCHEMA_UPDATE": "true"})):
                given = {"DATABASE_URL": stack.inside(clone(stack, database)), **more}
                stack.once(("litellm", version), given, "-c", code, entrypoint="python3")
        else:
            more = {"SCUTUM_STANDIN_FAULT_AFTER": "0"} if version == "0.4.0" else {}
            url = stack.start_admin(f"admin-{short}", version, clone(stack, f"r{short}"), **more)
            env[f"SCUTUM_RELEASES_URL_{short}"] = url
    return env


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", choices=(FIRST, *OTHERS, "all"), default="all", help="default: %(default)s")
    parser.add_argument("pytest", nargs="*", help="arguments for pytest, after --")
    given = parser.parse_args()
    first = given.release in (FIRST, "all")
    others = OTHERS if given.release == "all" else tuple({given.release} - {FIRST})
    begin = last = time.monotonic()

    def lap(what: str) -> None:
        nonlocal last
        now = time.monotonic()
        print(f"contract: {what}  {now - last:.1f} s", flush=True)
        last = now

    try:
        found = images((FIRST, *others))
        lap("images")
        with tempfile.TemporaryDirectory(prefix="scutum-contract-") as folder, Stack(found) as stack:
            try:
                rc = run(stack, Path(folder), first, others, given.pytest, lap)
            finally:
                last = time.monotonic()
        lap("removed")
    except StackError as error:
        print(f"contract: {error}", file=sys.stderr)
        rc = 1
    print(f"contract: {'passed' if rc == 0 else 'FAILED'}, {time.monotonic() - begin:.1f} s in all", flush=True)
    return rc


def run(stack: Stack, folder: Path, first: bool, others: tuple[str, ...], words: list[str], lap: Lap) -> int:
    """Start what is asked for, run pytest on it."""
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    suites: list[str] = []
    stack.start_database()
    env |= start_slow(stack, folder, first, others)
    stack.sql("CREATE DATABASE base", "postgres")
    stack.once(("admin-api", FIRST), {"DATABASE_URL": stack.inside("base")}, "alembic", "upgrade", "head")
    lap("postgres, schema of 0.1.0")
    if first:
        env |= start_first(stack)
        suites.append(str(HERE / "test_contract.py"))
        lap("release 0.1.0, but for LiteLLM")
    if others:
        env |= start_others(stack, others)
        suites.append(str(HERE / "test_releases.py"))
        lap(f"releases {' '.join(others)}")
    options = (
        "-p",
        "no:cacheprovider",
        "-c",
        "/dev/null",
        "--rootdir",
        str(HERE),
        "--import-mode=importlib",
        "-ra",
        "--durations=5",
        "-q",
    )
    done = subprocess.run([sys.executable, "-m", "pytest", *options, *suites, *words], env=env, check=False)
    lap("pytest")
    if done.returncode:
        stack.save_logs(LOGS)
        print(f"contract: the containers' logs are in {LOGS}", flush=True)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
