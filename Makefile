# `make` alone lists what there is. Needs Python ≥ 3.11, git, make and g++; everything else comes into .venv from constraints.txt.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:
.PHONY: help setup repro ui services services-stop test bench lint readme lock clean

EXTRAS ?= dev
BIN := $(CURDIR)/.venv/bin
# DVC starts the stages by `python`: it has to be this one.
export PATH := $(BIN):$(PATH)
# A busy machine needs more than Ray's minute to start its dashboard.
export RAY_DASHBOARD_STARTUP_TIMEOUT_S := 300
# Two OpenMP threads on two busy cores cost a time slice an operation; Ray and torch bring the parallelism.
export OMP_NUM_THREADS := 1
# Activations are given back to the allocator, not to the system: a quarter less system time in training.
export MALLOC_MMAP_THRESHOLD_ := 268435456
export MALLOC_TRIM_THRESHOLD_ := 536870912
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# MLflow and Ray report their use to their makers otherwise.
export MLFLOW_DISABLE_TELEMETRY := true
export RAY_USAGE_STATS_ENABLED := 0

# The stamp is named after the content of the lock, so that a checkout that only touches the files rebuilds nothing.
LOCK := $(shell cat constraints.txt pyproject.toml 2>/dev/null | cksum | tr -d ' ')
STAMP := .venv/installed-$(LOCK)-$(EXTRAS)

help:  ## this list
	@echo "Two commands are enough:  make repro   and   make test"
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-20s %s\n", $$1, $$2 }'
	@echo
	@echo "Another data set:  .venv/bin/stprivacy params use weizmann && make repro      The command line:  .venv/bin/stprivacy --help"

setup: $(STAMP)  ## make .venv from the lock, when it is missing or stale (EXTRAS=dev,gpu,k8s for more)

$(STAMP):
	@command -v git > /dev/null || { echo "error: git is missing; install it (Debian: apt-get install git)" >&2; exit 2; }
	command -v g++ > /dev/null || { echo "error: g++ is missing, and DeepSpeed needs it; install it (Debian: apt-get install g++)" >&2; exit 2; }
	python=""
	for candidate in $${PYTHON:-python3.11 python3.12 python3.13 python3}; do
		if "$$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2> /dev/null; then python="$$candidate"; break; fi
	done
	if [ -z "$$python" ]; then
		echo "error: no Python from 3.11 with venv here; install one (Debian: apt-get install python3 python3-venv) or name it: make setup PYTHON=/path/to/python3.11" >&2
		exit 2
	fi
	if ! $(BIN)/python -m pip --version > /dev/null 2>&1; then "$$python" -m venv --clear .venv; fi
	rm -f .venv/installed-*
	pip="$(BIN)/python -m pip install --quiet --constraint constraints.txt"
	echo "setup: torch and build tools, into .venv (minutes the first time)"
	# torch by name, or pip may take another version's build; DeepSpeed after it, since it builds against it, without kernels.
	$$pip setuptools ninja "$$(grep '^torch==' constraints.txt)"
	echo "setup: DeepSpeed"
	DS_BUILD_OPS=0 $$pip --no-build-isolation deepspeed
	echo "setup: everything else"
	$$pip --no-build-isolation --editable ".[$(EXTRAS)]"
	# Postgres for `make services` and tests/services, and a browser for tests/browser. What is missing skips its tests by name, so it
	# stops nothing here.
	if [[ ",$(EXTRAS)," == *,dev,* ]] && ! compgen -G '/usr/lib/postgresql/*/bin/initdb' > /dev/null && ! command -v initdb > /dev/null; then
		if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
			echo "setup: Postgres, for make services"
			apt="apt-get -qq --no-install-recommends -o Dpkg::Use-Pty=0 install -y postgresql"
			{ $$apt || { apt-get -qq update && $$apt; } } > /dev/null 2>&1 || echo "setup: Postgres could not be installed; make services won't work"
		else
			echo "setup: no Postgres here, so make services won't work; for it: apt-get install postgresql"
		fi
	fi
	if [[ ",$(EXTRAS)," == *,dev,* ]] && ! command -v chromium chromium-browser google-chrome > /dev/null; then
		if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
			echo "setup: chromium, for tests in a browser"
			apt="apt-get -qq --no-install-recommends -o Dpkg::Use-Pty=0 install -y chromium"
			{ $$apt || { apt-get -qq update && $$apt; } } > /dev/null 2>&1 || echo "setup: chromium could not be installed; tests/browser are skipped"
		else
			echo "setup: no chromium here, so tests/browser are skipped; for them: apt-get install chromium"
		fi
	fi
	touch $@

repro: setup  ## the whole pipeline (dvc repro), what came out of it, and where the time went
	@dvc repro
	stprivacy show
	stprivacy times

ui: setup  ## MLflow's UI on this folder's store, and where in it the front is (PORT=5001 for another port)
	@stprivacy ui

services: setup  ## MLflow on Postgres and S3, with a password, on loopback (SERVICES=--ray for two Ray nodes as well; docs/services.md)
	@stprivacy services start $(SERVICES)

services-stop: setup  ## end them; their data stay
	@stprivacy services stop

test: setup  ## all tests, slowest named at the end (PYTEST="-k words" for some)
ifdef PYTEST
	@python -m pytest $(PYTEST)
else
	@failed=0
	python -m pytest --numprocesses logical --maxprocesses 4 tests/unit tests/docs || failed=$$?
	[ $$failed -ne 2 ] || exit 2  # interrupted
	python -m pytest --ignore tests/unit --ignore tests/docs || failed=1  # these start clusters, and have the cores to themselves
	exit $$failed
endif

bench: setup  ## speed beside the authors' modules, in one run (STPRIVACY_REFERENCE names their folder)
	@python -m benchmarks.run

lint: setup  ## ruff, mypy, codespell, and infra/ by tools that know its files
	@ruff check .
	mypy
	codespell
	python -m infra.check

readme: setup  ## put the last run's table and picture into README.md and docs/
	@stprivacy show --into README.md --figure docs/released.png

lock: setup  ## write constraints.txt anew from what .venv holds (EXTRAS=dev,gpu,k8s, or it loses theirs)
	@head -2 constraints.txt > constraints.new
	python -m pip freeze --all --exclude pip --exclude wheel --exclude-editable | sed 's/^\(torch==[^+]*\)+.*/\1/' | LC_ALL=C sort -f >> constraints.new
	mv constraints.new constraints.txt

clean:  ## what tools leave behind (not .venv, data, models or results)
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
