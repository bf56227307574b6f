#!/usr/bin/env bash
# Libraries of the project into a venv, at the versions of constraints.txt:  install.sh VENV TORCH_INDEX EXTRA…
# TORCH_INDEX: where torch comes from, or '' for pip's default. Run where constraints.txt and pyproject.toml are.
set -euo pipefail
venv="$1" torch_index="$2"
shift 2
python3 -m venv "$venv"
export PATH="$venv/bin:$PATH" PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1

install() { python -m pip install --constraint constraints.txt "$@"; }

install setuptools ninja
# Alone and first: torch's own index has other versions of the libraries below it than the lock.
install ${torch_index:+--index-url "$torch_index"} --no-deps "$(grep '^torch==' constraints.txt)"
# What pyproject.toml asks for, without DeepSpeed, which builds against torch and so comes after it.
python - "$@" > requirements.txt <<'PYTHON'
import sys
import tomllib

project = tomllib.load(open("pyproject.toml", "rb"))["project"]
wanted = project["dependencies"] + [line for extra in sys.argv[1:] for line in project["optional-dependencies"][extra]]
print("\n".join(line for line in wanted if not line.startswith("deepspeed")))
print("Flask-WTF\npsycopg2-binary")  # mlflow server with logins, on Postgres
PYTHON
install --no-build-isolation --requirement requirements.txt
DS_BUILD_OPS=0 install --no-build-isolation deepspeed
find "$venv" -name __pycache__ -type d -prune -exec rm -rf {} +
