"""Every role says what it takes, and says it only once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path for path in (ROOT / "roles").glob("*") if path.is_dir())
PUBLIC = [role for role in ROLES if not role.name.startswith("_")]
TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "path": (str,),
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "list": (list,),
    "dict": (dict,),
    "raw": (object,),
}
NOTHING = object()


class Loader(yaml.SafeLoader):
    """YAML with Ansible's and Compose's own tags read as what they mark."""


def _tagged(loader: yaml.SafeLoader, _suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.ScalarNode):
        return loader.construct_scalar(node)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    assert isinstance(node, yaml.MappingNode)
    return loader.construct_mapping(node, deep=True)


Loader.add_multi_constructor("!", _tagged)


def read(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)  # noqa: S506 (a safe loader with tags)


def either(folder: Path, stem: str) -> Path | None:
    return next((path for end in ("yml", "yaml") if (path := folder / f"{stem}.{end}").exists()), None)


def options(role: Path) -> dict[str, dict[str, Any]]:
    """The options of every entry point."""
    path = either(role / "meta", "argument_specs")
    assert path, f"{role.name}: no meta/argument_specs.yml"
    found: dict[str, dict[str, Any]] = {}
    for entry, spec in read(path)["argument_specs"].items():
        assert spec.get("short_description"), f"{role.name}: entry point {entry} has no short_description"
        found.update(spec.get("options") or {})
    return found


def defaults(role: Path) -> dict[str, Any]:
    path = either(role / "defaults", "main")
    return (read(path) or {}) if path else {}


def is_template(value: Any) -> bool:
    return isinstance(value, str) and ("{{" in value or "{%" in value)


def text(description: Any) -> str:
    return " ".join(description) if isinstance(description, list) else str(description or "")


def differences(role: Path) -> Iterator[str]:
    specified, given = options(role), defaults(role)
    for name in sorted(given.keys() - specified.keys()):
        yield f"{name} is in defaults/main.yml and not in meta/argument_specs.yml"
    for name, spec in sorted(specified.items()):
        if not text(spec.get("description")):
            yield f"{name} has no description"
        if spec.get("type") not in TYPES:
            yield f"{name} has no known type: {spec.get('type')}"
            continue
        said, value = spec.get("default", NOTHING), given.get(name, NOTHING)
        if spec.get("required") and (said is not NOTHING or value is not NOTHING):
            yield f"{name} is required and has a default"
        elif value is NOTHING:
            if said is not NOTHING:
                yield f"{name} has a default in meta/argument_specs.yml and none in defaults/main.yml"
            elif not spec.get("required") and "no default" not in text(spec["description"]).lower():
                yield f"{name} has no default: give it one, or required: true, or let the description say 'No default'"
        elif is_template(value):
            # What it comes to depends on the host. The specification repeats the template or explains it.
            if said not in (NOTHING, value):
                yield f"{name}: {value!r} in defaults/main.yml, {said!r} in meta/argument_specs.yml"
        elif said is NOTHING:
            yield f"{name}: {value!r} in defaults/main.yml, no default in meta/argument_specs.yml"
        elif said != value or type(said) is not type(value):
            yield f"{name}: {value!r} in defaults/main.yml, {said!r} in meta/argument_specs.yml"
        else:
            yield from misfits(name, spec, value)


def misfits(name: str, spec: dict[str, Any], value: Any) -> Iterator[str]:
    """A default that its own specification would refuse."""
    kind = spec["type"]
    if value is None:
        yield f"{name}: null is no {kind}"
        return
    if not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind in ("int", "float")):
        yield f"{name}: the default {value!r} is no {kind}"
        return
    if (choices := spec.get("choices")) and not set(value if isinstance(value, list) else [value]) <= set(choices):
        yield f"{name}: the default {value!r} is not among the choices {choices}"
    if kind == "list" and "elements" not in spec:
        yield f"{name} is a list and does not say of what: elements"
    nested = spec.get("options")
    if nested is not None and kind == "dict":
        for key in sorted(value.keys() - nested.keys()):
            yield f"{name}.{key} is in the default and not among the options"


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_argument_specs_and_defaults_agree(role: Path) -> None:
    found = list(differences(role))
    assert not found, f"roles/{role.name}:\n" + "\n".join(found)


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_names_have_the_prefix(role: Path) -> None:
    """Public: scutum_. What a role keeps to itself: __<role>_ or _scutum_."""
    public = [*options(role), *defaults(role)]
    prefixes = ("scutum_",) if role in PUBLIC else ("scutum_", "_scutum_")
    wrong = [name for name in public if not name.startswith(prefixes)]
    private = re.compile(rf"_{{0,2}}scutum_|__{role.name.lstrip('_')}_")
    wrong += [name for name in own_names(role) if not private.match(name)]
    assert not wrong, f"roles/{role.name}: {sorted(set(wrong))}"


def own_names(role: Path) -> Iterator[str]:
    """Names from vars/, set_fact, register, vars of tasks and loop_var."""
    for path in sorted((role / "vars").glob("*.y*ml")):
        yield from read(path) or {}
    for folder in ("tasks", "handlers"):
        for path in sorted((role / folder).rglob("*.y*ml")):
            yield from task_names(read(path) or [])


def task_names(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for item in node:
            yield from task_names(item)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key in ("register", "loop_var", "index_var") and isinstance(value, str):
                yield value
            elif key == "vars" and isinstance(value, dict):
                # ansible_python_interpreter and its kind are Ansible's.
                yield from (name for name in value if not name.startswith("ansible_"))
            elif key in ("set_fact", "ansible.builtin.set_fact") and isinstance(value, dict):
                yield from (name for name in value if name != "cacheable")
            elif key in ("block", "rescue", "always", "loop_control"):
                yield from task_names(value)


def test_shared_variables_mean_the_same_in_every_role() -> None:
    seen: dict[str, tuple[str, dict[str, Any]]] = {}
    wrong = []
    for role in ROLES:
        for name, spec in options(role).items():
            facts = {key: spec.get(key) for key in ("type", "elements", "choices", "default")}
            other, first = seen.setdefault(name, (role.name, facts))
            if first != facts:
                wrong.append(f"{name}: {other} says {first}, {role.name} says {facts}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("role", PUBLIC, ids=lambda role: role.name)
def test_public_role_has_a_page(role: Path) -> None:
    """docs/roles/<role>.md names every option."""
    page = ROOT / "docs" / "roles" / f"{role.name}.md"
    assert page.exists(), f"{page.relative_to(ROOT)} is missing"
    content = page.read_text(encoding="utf-8")
    absent = [name for name in options(role) if not re.search(rf"\b{re.escape(name)}\b", content)]
    assert not absent, f"{page.relative_to(ROOT)} does not mention {absent}"


def test_there_are_roles() -> None:
    """An empty list of roles would let every check above pass."""
    assert PUBLIC, "roles/ has no public role"
