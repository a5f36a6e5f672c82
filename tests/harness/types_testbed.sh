#!/usr/bin/env bash
# mypy on the testbed: its program with what it imports. What runs inside images is checked where it is written.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../../testbed"
exec ../.venv/bin/mypy --config-file ../pyproject.toml --cache-dir ../.cache/mypy-testbed testbed.py
