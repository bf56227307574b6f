"""`python -m infra.check`: every file of infra/ by a tool that knows its form, then by this house's own rules. Part of `make lint`.

A tool that isn't here is named and its check skipped; the exit code is 1 when a check that ran has found something.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from infra.checks import images, kubernetes, plain, ray_cluster, services, terraform
from infra.checks.tools import ToolMissing

INFRA = Path(__file__).resolve().parent
CHECKS: dict[str, Callable[[Path], list[str]]] = {
    "yamllint": plain.yaml_files,
    "shellcheck": plain.shell_scripts,
    "hadolint": images.hadolint,
    "rules of images": images.rules,
    "compose-spec": services.compose_spec,
    "docker compose config": services.docker_compose,
    "rules of services": services.rules,
    "schemas of KubeRay and Kubernetes": kubernetes.schemas,
    "kubectl kustomize": kubernetes.kustomize,
    "rules of manifests": kubernetes.rules,
    "Ray's validator": ray_cluster.validator,
    "rules of the Ray cluster": ray_cluster.rules,
    "terraform fmt": terraform.fmt,
    "HCL parser": terraform.parsed,
    "rules of terraform": terraform.rules,
}
"""Name → what it finds in the folder given, a line each. Raises ToolMissing."""


def main() -> None:
    argparse.ArgumentParser(prog="python -m infra.check", description=__doc__).parse_args()
    passed, failed = 0, False
    for name, check in CHECKS.items():
        try:
            found = check(INFRA)
        except ToolMissing as missing:
            print(f"infra: {name}: skipped, {missing}")
            continue
        for line in found:
            print(f"infra: {name}: {line}")
        passed, failed = passed + (not found), failed or bool(found)
    print(f"infra: {passed} of {len(CHECKS)} checks passed")
    sys.exit(failed)


if __name__ == "__main__":
    main()
