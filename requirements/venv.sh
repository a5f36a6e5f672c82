#!/usr/bin/env bash
# Makes .venv from requirements/dev.txt and the symlink that lets a checkout work in place as the
# collection scutum.ops. Does nothing when neither the requirements nor the checkout's place changed.
# PYTHON=/path/to/python3.12 chooses the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=.venv
# Not the interpreter that is about to be removed: make puts it first.
PATH=$(tr ':' '\n' <<<"$PATH" | grep -vFx "$PWD/$venv/bin" | paste -sd:)
link=.cache/collections/ansible_collections/scutum/ops
log=build/logs/venv.log
start=$SECONDS

if ! [ "$link" -ef . ]; then
  mkdir -p "$(dirname "$link")"
  ln -sfn ../../../.. "$link"
fi

key="$(sha256sum requirements/dev.txt | cut -d' ' -f1) $PWD ${PYTHON:-}"
if [ "$(cat $venv/.stamp 2>/dev/null || true)" = "$key" ] && $venv/bin/python -c '' 2>/dev/null; then
  exit 0
fi

# A pyenv shim can be on the path for a version that is not there: try each, do not just look.
suits() {
  "$1" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}
choose() {
  local candidate
  for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3 /usr/bin/python3}; do
    if suits "$candidate"; then
      command -v "$candidate"
      return 0
    fi
  done
  return 1
}

mkdir -p build/logs
: >"$log"
if ! python=$(choose); then
  if [ -z "${PYTHON:-}" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "venv: no Python 3.11 to 3.13 with ensurepip, installing python3-venv" >&2
    {
      apt-get -q update || true
      DEBIAN_FRONTEND=noninteractive apt-get -qy -o DPkg::Lock::Timeout=120 install python3-venv
    } >>"$log" 2>&1 </dev/null || tail -n 20 "$log" >&2
  fi
  if ! python=$(choose); then
    echo "venv: needs Python 3.11, 3.12 or 3.13 with the modules venv and ensurepip" \
      "(Debian: apt-get install python3-venv; elsewhere: PYTHON=/path/to/python3.12 make venv)" >&2
    exit 1
  fi
fi

echo "venv: $($python --version), requirements/dev.txt (about a minute the first time; log: $log)"
rm -rf $venv
# Bytecode is left to first use: compiling all of `ansible` costs more than everything else here.
if ! { "$python" -m venv $venv &&
  $venv/bin/python -m pip install --no-input --disable-pip-version-check --no-compile --retries 5 \
    -r requirements/dev.txt && $venv/bin/python -m pip check; } >>"$log" 2>&1 </dev/null; then
  tail -n 40 "$log" >&2
  echo "venv: failed after $((SECONDS - start)) s, nothing usable is left; the log is $log, the next command: make venv" >&2
  exit 1
fi
echo "$key" >$venv/.stamp
echo "venv: ready after $((SECONDS - start)) s"
