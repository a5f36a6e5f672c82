#!/usr/bin/env bash
# Pins requirements/dev.txt anew from requirements/dev.in, with the oldest Python that is supported.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tools=.cache/pip-tools
if ! [ -x $tools/bin/pip-compile ]; then
  python3.11 -m venv $tools
  $tools/bin/python -m pip install --quiet pip-tools
fi
exec env CUSTOM_COMPILE_COMMAND="make requirements" $tools/bin/pip-compile --quiet --upgrade --strip-extras \
  --no-emit-find-links --no-emit-index-url --annotation-style=line --output-file requirements/dev.txt requirements/dev.in
