"""ansible-test sanity on a copy of the checkout, with everything it installs kept in .cache/sanity.

ansible-test wants a path that ends in ansible_collections/scutum/ops and refuses one that git ignores, so the copy
is a (never committed) git repository of its own. Further arguments are passed on: `--test validate-modules`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tree import ROOT, copy_checkout, pythons

CACHE = ROOT / ".cache" / "sanity"
COPY = CACHE / "ansible_collections" / "scutum" / "ops"
HOME = CACHE / "home"

# ansible-test fetches get-pip.py from a server of its own, just to put pip into an empty environment. The standard
# library carries a wheel of pip, which only has to be unpacked.
GET_PIP = """\
import ensurepip
import glob
import os
import sysconfig
import zipfile

folders = [os.path.join(os.path.dirname(ensurepip.__file__), "_bundled"), "/usr/share/python-wheels"]
wheels = [wheel for folder in folders for wheel in sorted(glob.glob(os.path.join(folder, "pip-*.whl")))]
if wheels:
    with zipfile.ZipFile(wheels[-1]) as wheel:
        wheel.extractall(sysconfig.get_path("purelib"))
else:
    ensurepip.bootstrap()
"""


def provide_pip() -> None:
    import ansible_test._internal as internal

    source = Path(internal.__file__).with_name("python_requirements.py").read_text(encoding="utf-8")
    for version in set(re.findall(r"\bpip='([0-9.]+)'", source)):
        path = HOME / ".ansible" / "test" / "cache" / f"get_pip_{version.replace('.', '_')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(GET_PIP, encoding="utf-8")


def environment() -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    # Its environments go to ~/.ansible/test: another home keeps them in the cache. pip's settings stay.
    for settings in (".config/pip/pip.conf", ".pip/pip.conf"):
        if "PIP_CONFIG_FILE" not in env and (Path.home() / settings).exists():
            env["PIP_CONFIG_FILE"] = str(Path.home() / settings)
    env["HOME"] = str(HOME)
    return env


def main() -> int:
    COPY.mkdir(parents=True, exist_ok=True)
    provide_pip()
    if not (COPY / ".git").exists():
        subprocess.run(["git", "init", "--quiet", str(COPY)], check=True)
    # Not part of the collection, and held to our own linters.
    copied = copy_checkout(COPY, ("testbed/", "molecule/", "bench/"))
    targets = pythons((3, 9), (3, 13))
    controller = f"{sys.version_info.major}.{sys.version_info.minor}"
    print(f"sanity: {copied} files, controller Python {controller}, targets {', '.join(targets)}", flush=True)
    command = [str(ROOT / ".venv/bin/ansible-test"), "sanity", "--color", "no", *sys.argv[1:]]
    command += ["--controller", f"origin:python={controller}"]
    for version, path in targets.items():
        command += ["--target-python", f"{version}@{path}"]
    return subprocess.run(command, cwd=COPY, env=environment(), stdin=subprocess.DEVNULL, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
