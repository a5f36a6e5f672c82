"""At build time: leave only the migrations that a release knows, so that an older image cannot locate a newer revision."""

import sys
from pathlib import Path

LAST = {"0.1.0": "029", "0.2.0": "030", "0.3.0": "031", "0.4.0": "030", "0.5.0": "030"}

for file in sorted(Path("alembic/versions").glob("*.py")):
    if file.name[:3] > LAST[sys.argv[1]]:
        file.unlink()
