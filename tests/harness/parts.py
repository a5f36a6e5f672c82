"""What there is to run: each part is a command with a name and what it needs."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHON = sys.executable
BIN = Path(PYTHON).parent
COLLECTIONS = ROOT / ".cache" / "collections"
PACKAGE = "ansible_collections.scutum.ops"
MINUTE = 60


class Unknown(Exception):
    """A part or scenario that does not exist."""


@dataclass(frozen=True)
class Part:
    """One test as the closing line counts it."""

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()
    env: dict[str, str] = field(default_factory=dict)
    limit: int = 20 * MINUTE
    cwd: Path = ROOT
    # What must exist for the part to make sense, as patterns below the root.
    wants: tuple[str, ...] = ()
    # Environment variables that the command must not see.
    drop: tuple[str, ...] = ()

    def missing(self) -> str:
        """The first pattern that nothing matches, or nothing."""
        return next((pattern for pattern in self.wants if not any(ROOT.glob(pattern))), "")


def tool(name: str) -> str:
    return str(BIN / name)


def lint() -> list[Part]:
    """Everything that reads the sources and runs none of them."""
    return [
        Part("lint-yaml", (tool("yamllint"), "--strict", ".")),
        Part(
            "lint-ansible",
            (tool("ansible-lint"), "--offline", "--strict", "--nocolor"),
            # A home of its own: ansible-lint caches there, and would find this checkout's links through ours.
            env={"ANSIBLE_HOME": str(ROOT / ".cache" / "ansible-lint")},
        ),
        Part(
            "lint-python",
            ("bash", "-c", f"rc=0; {tool('ruff')} check . || rc=1; {tool('ruff')} format --check . || rc=1; exit $rc"),
        ),
        *types(),
    ]


def types() -> list[Part]:
    """mypy, once for the code that is imported as a collection and once for each program beside it."""
    found: list[Part] = [
        Part("types-tests", (tool("mypy"), "tests/run.py"), env={"MYPYPATH": "tests:tests/harness"}),
    ]
    if any((ROOT / "plugins").rglob("*.py")):
        packages = [
            f"{PACKAGE}.plugins.{kind}"
            for kind in ("module_utils", "modules", "filter", "lookup", "action")
            if any((ROOT / "plugins" / kind).glob("*.py"))
        ]
        command = [tool("mypy"), "--config-file", str(ROOT / "pyproject.toml")]
        for package in packages:
            command += ["-p", package]
        found.append(Part("types-plugins", tuple(command), cwd=COLLECTIONS, env={"MYPYPATH": str(COLLECTIONS)}))
    if (ROOT / "testbed").is_dir():
        found.append(Part("types-testbed", ("bash", "tests/harness/types_testbed.sh")))
    return found


def static() -> list[Part]:
    """What the collection must keep to, and what a build of it contains."""
    return [Part("static", (tool("pytest"), "tests/static"))]


def sanity() -> list[Part]:
    """ansible-test sanity."""
    return [Part("sanity", (PYTHON, "tests/harness/sanity.py"))]


def unit() -> list[Part]:
    """Unit tests, with the collection importable under its own name."""
    return [Part("unit", (tool("pytest"), "tests/unit"), wants=("tests/unit/**/test_*.py",))]


def newest(needs: tuple[str, ...] = ()) -> list[Part]:
    """The newest ansible-core, in a container."""
    return [Part("newest", (PYTHON, "tests/harness/newest.py"), needs=needs, wants=("testbed/hosts/images.py",))]


def testbed(*arguments: str) -> tuple[str, ...]:
    return (PYTHON, "testbed/testbed.py", *arguments)


def testbed_up() -> Part:
    """Engine, images, registry and release server."""
    return Part("testbed-up", testbed("up"), wants=("testbed/testbed.py",))


def golden() -> Part:
    """The host with Scutum installed that scenarios clone."""
    return Part(
        "testbed-golden",
        testbed("golden"),
        needs=("testbed-up",),
        wants=("testbed/testbed.py", "playbooks/day_one.yml"),
    )


def contract(needs: tuple[str, ...] = ()) -> list[Part]:
    """What the stand-in has to do, asked of it."""
    script = "testbed/standin/contract/run.py"
    return [Part("contract", (PYTHON, script), needs=needs, wants=(script,))]


AUDIT_FAULTS = tuple(f"tests/faults/test_{name}.py" for name in ("partitions", "archive", "audit_job"))


def backup_faults(needs: tuple[str, ...] = ()) -> list[Part]:
    """Every fault of backups, their verification and restores, against the library with a real Postgres and a real S3."""
    command = (tool("pytest"), "tests/faults", *(f"--ignore={path}" for path in AUDIT_FAULTS))
    return [Part("backup-faults", command, needs=needs, limit=30 * MINUTE, wants=("tests/faults/test_*.py",))]


def audit_faults(needs: tuple[str, ...] = ()) -> list[Part]:
    """The same of partitions, archives and the job that looks after both."""
    command = (tool("pytest"), *AUDIT_FAULTS)
    return [Part("audit-faults", command, needs=needs, limit=30 * MINUTE, wants=AUDIT_FAULTS)]


def all_steps(needs: tuple[str, ...] = ()) -> list[Part]:
    """A restore and a conversion that are killed at every one of their steps, and nights of daylight saving at their own pace; some
    of them are in the parts above."""
    files = ("tests/faults/test_restore.py", "tests/faults/test_scheduler.py", AUDIT_FAULTS[0])
    return [
        Part(
            "all-steps",
            (tool("pytest"), *files, "-k", "killed or step or left"),
            needs=needs,
            env={"SCUTUM_ALL_STEPS": "1"},
            limit=30 * MINUTE,
            wants=files,
        )
    ]


def scenarios() -> list[str]:
    """Names of all scenarios, those with the most tests first: they take longest. Names with an underscore are shared files."""
    names = [path.parent.name for path in (ROOT / "molecule").glob("*/molecule.yml")]
    tests = {name: sum(path.stat().st_size for path in (ROOT / "molecule" / name).rglob("test_*.py")) for name in names}
    return sorted((name for name in names if not name.startswith("_")), key=lambda name: (-tests[name], name))


def clones(name: str) -> bool:
    """Whether a scenario's hosts are clones of the installed one."""
    return "from: golden" in (ROOT / "molecule" / name / "molecule.yml").read_text(encoding="utf-8")


def scenario(name: str, needs: tuple[str, ...]) -> Part:
    """One Molecule scenario, from its first cleanup to its last. A base.yml in molecule/_shared is its base."""
    base = ROOT / "molecule" / "_shared" / "base.yml"
    options = ("--base-config", str(base)) if base.exists() else ()
    return Part(
        f"molecule-{name}",
        (tool("molecule"), *options, "test", "--scenario-name", name),
        needs=needs,
        limit=(120 if name.startswith("long_") else 30) * MINUTE,
        # Molecule writes a configuration of its own: what ours says must reach it as environment or in its base.
        drop=("ANSIBLE_CONFIG",),
    )


def choose(*, scenario: str | None = None, part: str | None = None, long: bool = False) -> list[Part]:
    """The parts of one call, in the order of the report."""
    # The command line wins over a name that is shadowed here.
    one = globals()["scenario"]
    names = scenarios()
    up = testbed_up()
    if scenario:
        if scenario not in names:
            raise Unknown(f"no scenario molecule/{scenario}; there are: {', '.join(names) or 'none'}")
        return [up, one(scenario, (up.name,))]
    if part:
        known = {"lint": lint, "static": static, "sanity": sanity, "unit": unit, "newest": newest, "contract": contract}
        known["backup-faults"], known["audit-faults"] = backup_faults, audit_faults
        if part not in known:
            raise Unknown(f"no part {part}; there are: {', '.join(known)}")
        return known[part]()
    chosen = [name for name in names if name.startswith("long_") == long]
    gold = golden()
    # The first that can run is run: the testbed and what waits for it come first, and the rest fills the other place.
    hosts = [up, gold, *(one(name, (up.name, *((gold.name,) if clones(name) else ()))) for name in chosen)]
    if long:
        return [*hosts, *all_steps((up.name,))]
    return [
        *hosts,
        *backup_faults((up.name,)),
        *audit_faults((up.name,)),
        *contract((up.name,)),
        *newest((up.name,)),
        *sanity(),
        *lint(),
        *unit(),
        *static(),
    ]


def demo() -> list[Part]:
    """From nothing to Scutum serving on a host."""
    playbook = (tool("ansible-playbook"), "-i", "inventories/demo", "playbooks/day_one.yml")
    timing = {
        "ANSIBLE_CALLBACKS_ENABLED": "ansible.posix.profile_tasks",
        "PROFILE_TASKS_TASK_OUTPUT_LIMIT": "10",
        "PROFILE_TASKS_SUMMARY_ONLY": "true",
        "ANSIBLE_FORCE_COLOR": "1" if os.isatty(1) else "0",
    }
    create = (
        f"{PYTHON} testbed/testbed.py ip scutum-demo 2>/dev/null || {PYTHON} testbed/testbed.py host create scutum-demo"
    )
    return [
        Part("testbed", testbed("up")),
        Part("host scutum-demo", ("bash", "-c", create)),
        Part("playbooks/day_one.yml", playbook, env=timing),
    ]


def demo_down() -> list[Part]:
    """The host and the testbed; caches stay, so that the next demo is fast."""
    return [
        Part("host scutum-demo", testbed("host", "rm", "scutum-demo")),
        Part("testbed", testbed("down")),
    ]
