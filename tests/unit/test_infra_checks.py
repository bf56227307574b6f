"""`python -m infra.check`: what is shipped passes, and each check finds what it is there for."""

import shutil
import sys
from pathlib import Path

import pytest

from infra import check
from infra.checks import tools
from infra.checks.tools import ToolMissing

INFRA = Path(check.__file__).parent
DOCKERFILE, COMPOSE, CLUSTER = "docker/Dockerfile", "compose/compose.yaml", "ray/cluster.aws.yaml"
ROLE, BUCKET, DATABASE = "terraform/role.tf", "terraform/bucket.tf", "terraform/database.tf"

BROKEN = [
    # check, file, what stands there (None: at the end), what is put in its place, what is told
    ("yamllint", COMPOSE, "volumes:\n  postgres:\n", "volumes:\n  postgres:\n  postgres:\n", "duplication of key"),
    ("shellcheck", "docker/install.sh", 'rm -rf {} +', 'rm -rf {} +\nrm -rf $venv/*', "SC2086"),
    ("hadolint", DOCKERFILE, "FROM ${RUNTIME} AS runtime\n", "FROM ${RUNTIME} AS runtime\nRUN cd /tmp && sudo ls\n", "DL3004"),
    ("rules of images", DOCKERFILE, "USER 1000:1000\n", "", "target cpu runs as root"),
    ("rules of images", DOCKERFILE, "USER 1000:1000\n", "USER root\n", "target cuda runs as root"),
    ("rules of images", DOCKERFILE, "COPY params params\n", "COPY . .\n", "copy files by name"),
    ("rules of images", DOCKERFILE, "COPY params params\n", "ARG RAY_AUTH_TOKEN\nCOPY params params\n", "stays readable"),
    ("rules of images", DOCKERFILE, "FROM runtime AS cuda", "FROM runtime AS gpu", "no target cuda"),
    ("compose-spec", COMPOSE, "    mem_limit: 3g\n", "    mem_limits: 3g\n", "mem_limits"),
    ("docker compose config", COMPOSE, "    mem_limit: 3g\n", "    mem_limits: 3g\n", "mem_limits"),
    ("rules of services", COMPOSE, '"127.0.0.1:8265:8265"', '"8265:8265"', "ray-head: port 8265:8265 is open beyond this machine"),
    ("rules of services", COMPOSE, '"127.0.0.1:5000:5000"', '"0.0.0.0:5000:5000"', "mlflow: port 0.0.0.0:5000:5000 is open"),
    ("rules of services", COMPOSE, '["127.0.0.1:9000:9000"]', "[{ target: 9000, published: 9000 }]", "store: port 9000:9000 is open"),
    ("rules of services", COMPOSE, "${RAY_AUTH_TOKEN:?set it in .env}", "abc", "RAY_AUTH_TOKEN: a secret that is written down"),
    ("rules of services", COMPOSE, "${RAY_AUTH_TOKEN:?set it in .env}", "${RAY_AUTH_TOKEN:-abc}", "may be empty"),
    ("rules of services", COMPOSE, "    mem_limit: 3g\n", "", "mlflow: no mem_limit"),
    ("rules of services", COMPOSE, "rclone/rclone:1.75.2", "rclone/rclone:latest", "name a version"),
    ("rules of services", "compose/.env.example", "RAY_AUTH_TOKEN=", "RAY_AUTH_TOKEN=abc", "gives RAY_AUTH_TOKEN a value"),
    ("schemas of KubeRay and Kubernetes", "k8s/cluster/raycluster.yaml", "maxReplicas: 8", "maxReplica: 8", "maxReplica"),
    ("schemas of KubeRay and Kubernetes", "k8s/train/rayjob.yaml", "cpu: 500m", "cpu: lots", "lots"),
    ("schemas of KubeRay and Kubernetes", "k8s/sweep/rayjob.yaml", "containers:", "container:", "container"),
    ("schemas of KubeRay and Kubernetes", "k8s/base/network.yaml", "policyTypes:", "policyType:", "policyType"),
    ("kubectl kustomize", "k8s/cluster/kustomization.yaml", "raycluster.yaml", "rayclusters.yaml", "k8s/cluster"),
    ("kubectl kustomize", "k8s/pvc/kustomization.yaml", "/spec/workerGroupSpecs/1/", "/spec/workerGroupSpecs/2/", "with-pvc/cluster"),
    ("rules of manifests", "k8s/cluster/raycluster.yaml", "mode: token", "mode: disabled", "authOptions.mode: token"),
    ("rules of manifests", "k8s/train/rayjob.yaml", "runAsNonRoot: true", "runAsNonRoot: false", "may run as root"),
    ("rules of manifests", "k8s/sweep/rayjob.yaml", "drop: [ALL]", "drop: [NET_RAW]", "keeps privileges"),
    ("rules of manifests", "k8s/base/network.yaml", "  ingress:\n    - from:", "  ingress:\n    - {}\n    - from:", "lets everybody in"),
    ("rules of manifests", "k8s/base/accounts.yaml", None, "---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: x\n", "a Secret"),
    ("Ray's validator", CLUSTER, "max_workers: 8\nupscaling", "max_worker: 8\nupscaling", "max_worker"),
    ("Ray's validator", CLUSTER, "head_node_type: head", "head_node_type: master", "head_node_type"),
    ("rules of the Ray cluster", CLUSTER, "203.0.113.7/32", "0.0.0.0/0", "0.0.0.0/0 is everybody"),
    ("rules of the Ray cluster", CLUSTER, "    - --env RAY_AUTH_MODE=token\n", "", "no token is asked for"),
    ("rules of the Ray cluster", CLUSTER, "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", "the dashboard listens beyond"),
    ("rules of the Ray cluster", CLUSTER, "Encrypted: true, ", "", "a disk that isn't encrypted"),
    ("terraform fmt", BUCKET, "  bucket = ", "  bucket   = ", "bucket.tf"),
    ("HCL parser", BUCKET, "block_public_acls       = true", "block_public_acls       = {", "bucket.tf"),
    ("HCL parser", BUCKET, "var.deleted_days", "var.deletd_days", "var.deletd_days"),
    ("HCL parser", "terraform/outputs.tf", "aws_db_instance.tracking", "aws_db_instance.other", "aws_db_instance.other"),
    ("rules of terraform", ROLE, '"s3:GetObject"', '"s3:*"', "allows s3:*"),
    ("rules of terraform", ROLE, "[aws_kms_key.storage.arn]", '["*"]', "kms:Decrypt, kms:GenerateDataKey on every resource"),
    ("rules of terraform", BUCKET, "block_public_policy     = true", "block_public_policy     = false", "block_public_policy"),
    ("rules of terraform", BUCKET, '"aws_s3_bucket_versioning" "', '"aws_s3_bucket_logging" "', "no aws_s3_bucket_versioning"),
    ("rules of terraform", DATABASE, "storage_encrypted           = true", "storage_encrypted           = false", "storage_encrypted"),
    ("rules of terraform", DATABASE, "manage_master_user_password = true", 'password = "abc"', "a secret that is written down"),
    ("rules of terraform", "terraform/registry.tf", "scan_on_push = true", "scan_on_push = false", "scan_on_push"),
    ("rules of terraform", "terraform/versions.tf", '      version = "~> 6.0"\n', "", "every provider's version"),
]  # fmt: skip


def _found(name: str, infra: Path) -> list[str]:
    try:
        return check.CHECKS[name](infra)
    except ToolMissing as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("name", check.CHECKS)
def test_what_is_shipped_passes(name: str) -> None:
    assert _found(name, INFRA) == []


@pytest.mark.parametrize(("name", "file", "old", "new", "told"), BROKEN, ids=[f"{name}: {told}" for name, _, _, _, told in BROKEN])
def test_a_broken_file_is_found(tmp_path: Path, name: str, file: str, old: str | None, new: str, told: str) -> None:
    infra = tmp_path / "infra"
    shutil.copytree(INFRA, infra, ignore=shutil.ignore_patterns("__pycache__", ".terraform", ".env"))
    text = (infra / file).read_text()
    assert old is None or old in text
    (infra / file).write_text(text + new if old is None else text.replace(old, new))

    found = "\n".join(_found(name, infra))

    assert told in found


def test_every_check_is_shown_to_find_something() -> None:
    assert {name for name, *_ in BROKEN} == set(check.CHECKS)


def test_compose_must_not_start_without_a_secret(tmp_path: Path) -> None:
    infra = tmp_path / "infra"
    shutil.copytree(INFRA / "compose", infra / "compose")
    text = (infra / COMPOSE).read_text()
    (infra / COMPOSE).write_text(text.replace(":?set it in .env}", ":-}").replace("services:\n", "x-note: ${NOTE:-}\nservices:\n", 1))
    assert any("may be empty" in line for line in _found("rules of services", infra))
    assert any("starts without a secret" in line for line in _found("docker compose config", infra))


def test_a_missing_tool_is_named_and_its_check_skipped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def found_by_nobody(infra: Path) -> list[str]:
        return [tools.tool("no-such-linter", "pip install no-such-linter")]

    monkeypatch.setattr(check, "CHECKS", {"a linter": found_by_nobody, "another": lambda infra: []})
    monkeypatch.setattr(sys, "argv", ["check"])
    with pytest.raises(SystemExit) as ended:
        check.main()
    assert ended.value.code == 0
    told = capsys.readouterr().out
    assert "a linter: skipped, no-such-linter is missing (pip install no-such-linter)" in told
    assert "1 of 2 checks passed" in told


def test_a_finding_ends_with_code_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(check, "CHECKS", {"a linter": lambda infra: ["x.yaml: bad"]})
    monkeypatch.setattr(sys, "argv", ["check"])
    with pytest.raises(SystemExit) as ended:
        check.main()
    assert ended.value.code == 1
    assert "a linter: x.yaml: bad" in capsys.readouterr().out
