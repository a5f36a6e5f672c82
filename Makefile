# Every target works on an empty machine: root, git, make and Python 3.11 are enough.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

ROOT := $(CURDIR)
PY := .venv/bin/python
# SCENARIO=install narrows `make test` to one Molecule scenario; NAME=install names a benchmark.
SCENARIO ?=
NAME ?=

export PATH := $(ROOT)/.venv/bin:$(PATH)
export ANSIBLE_CONFIG := $(ROOT)/ansible.cfg
export ANSIBLE_COLLECTIONS_PATH := $(ROOT)/.cache/collections
export ANSIBLE_HOME := $(ROOT)/.cache/ansible
# The virtual environment counts as a step of what follows it.
export SCUTUM_STARTED := $(shell date +%s)

VENV := requirements/venv.sh
# A machine where not even the environment can be made still gets the closing line of a test run.
TEST_VENV := $(VENV) || { echo "0 passed, 1 failed"; exit 1; }

.PHONY: help venv requirements demo demo-down test test-long lint static sanity unit newest contract backup-faults audit-faults bench clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1|\2/' | column -t -s '|'

venv: ## the virtual environment, and the checkout as a collection
	@$(VENV)

requirements: ## pin requirements/dev.txt anew from requirements/dev.in
	@requirements/compile.sh

demo: ## everything from nothing, then playbooks/day_one.yml against a real host
	@$(VENV)
	@exec $(PY) tests/run.py demo

demo-down: ## remove the demo host and the testbed
	@$(VENV)
	@exec $(PY) tests/run.py demo-down

test: ## lint, sanity, unit tests, every Molecule scenario; SCENARIO=install: just that one
	@$(TEST_VENV)
	@exec $(PY) tests/run.py test $(if $(SCENARIO),--scenario $(SCENARIO))

test-long: ## the Molecule scenarios named long_*
	@$(TEST_VENV)
	@exec $(PY) tests/run.py test --long

lint static sanity unit newest contract backup-faults audit-faults: ## one part of the tests
	@$(TEST_VENV)
	@exec $(PY) tests/run.py test --part $@

bench: ## NAME=install: bench/bench_install.py, figures in build/bench/install.json
	@test -n "$(NAME)" || { echo "make bench NAME=<one of: $(patsubst bench/bench_%.py,%,$(wildcard bench/bench_*.py))>" >&2; exit 2; }
	@$(VENV)
	@mkdir -p build/bench
	@exec $(PY) bench/bench_$(NAME).py

clean: ## forget logs and results; .cache and .venv stay
	rm -rf build
