"""Write the release bundles and install.sh: write.py OUT VERSION..."""

from __future__ import annotations

import hashlib
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def compose(version: str) -> str:
    """The Compose file of a release; from 0.2.0 on it differs: a new variable, a label, another interval."""
    text = (HERE / "docker-compose.yaml").read_text().replace("@VERSION@", version)
    if version == "0.1.0":
        return text
    changed = text.replace(
        "      LICENSE_PUBLIC_KEY_PATH: /app/config/license-public.pem\n",
        "      LICENSE_PUBLIC_KEY_PATH: /app/config/license-public.pem\n"
        "      REQUEST_TAGS_ENABLED: ${REQUEST_TAGS_ENABLED:-true}\n"
        "    labels:\n      dev.scutum.component: control-plane\n",
    )
    assert changed != text
    return changed


def main() -> None:
    """Command line."""
    out = Path(sys.argv[1])
    for version in sys.argv[2:]:
        folder = out / "release" / f"v{version}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "docker-compose.yaml").write_text(compose(version))
        (folder / ".env.example").write_text((HERE / "env.example").read_text().replace("@VERSION@", version))
        shutil.copy(HERE / "scutum", folder / "scutum")
        shutil.copy(HERE.parent / "licences/test-public.pem", folder / "license-public.pem")
        names = ("docker-compose.yaml", ".env.example", "scutum", "license-public.pem")
        sums = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
        (folder / "SHA256SUMS").write_text("".join(sums))
    shutil.copy(HERE / "install.sh", out / "install.sh")


if __name__ == "__main__":
    main()
