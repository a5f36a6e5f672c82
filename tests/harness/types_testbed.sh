#!/usr/bin/env bash
# mypy on the testbed's own programs. What runs inside images (standin/, hosts/image/) needs packages that are only there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../testbed"
mapfile -t files < <(git ls-files --cached --others --exclude-standard '*.py' | grep -Ev '^(standin|hosts/image)/')
exec ../.venv/bin/mypy --config-file ../pyproject.toml --cache-dir ../.cache/mypy-testbed "${files[@]}"
