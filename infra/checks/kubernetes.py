"""The manifests: KubeRay's schemas for its kinds, Kubernetes' own for the others, and what this house asks of a pod.

Both schemas are taken strictly, as the API server does with `kubectl apply`: a key that they don't know is a mistake, not a remark.
"""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from infra.checks.crds import KINDS, SCHEMAS
from infra.checks.tools import SECRET, ToolMissing, tool, walk

FOLDERS = ("base", "cluster", "train", "sweep")
VERSION = "1.32"
"""Of Kubernetes: not the newest, since clusters aren't."""


def schemas(infra: Path) -> list[str]:
    """Every document of k8s/, as it is written."""
    try:
        import jsonschema  # noqa: F401
        import kubernetes_validate  # noqa: F401
    except ImportError as error:
        raise ToolMissing(f"{error.name} is missing (pip install {str(error.name).replace('_', '-')})") from None
    files = sorted(path for path in (infra / "k8s").rglob("*.yaml") if path.name != "kustomization.yaml")
    found = []
    for path in files:
        for document in yaml.safe_load_all(path.read_text()):
            found += [f"{path.relative_to(infra)}: {problem}" for problem in _problems(document)]
    return found


def kustomize(infra: Path) -> list[str]:
    """What `kubectl apply -k` would send, with a bucket and with a volume, is valid and obeys the rules, too."""
    command = [tool("kubectl", "kubernetes.io/docs/tasks/tools"), "kustomize"]
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        volume = Path(scratch) / "with-pvc"
        shutil.copytree(infra / "k8s", volume)
        for name in FOLDERS:
            chosen = volume / name / "kustomization.yaml"
            chosen.write_text(chosen.read_text().replace("# - ", "- "))
        for place, name in [(place, name) for place in (infra / "k8s", volume) for name in FOLDERS]:
            done = subprocess.run([*command, name], cwd=place, capture_output=True, text=True, check=False, timeout=60)
            where = f"{place.name}/{name}, as kustomize writes it"
            if done.returncode:
                found.append(f"{where}: {' '.join(done.stderr.split())[:400]}")
                continue
            documents = list(yaml.safe_load_all(done.stdout))
            found += [f"{where}: {problem}" for document in documents for problem in [*_problems(document), *_of_document(document)]]
            if ("stprivacy-storage" in done.stdout) != (place == volume):
                found.append(f"{where}: with the volume where none was asked for, or without; it is chosen by `# - ../pvc`")
    return found


def rules(infra: Path) -> list[str]:
    """Pods without privileges and with limits, tokens for Ray, a closed dashboard, and no Secret in a file."""
    found = []
    for path in sorted((infra / "k8s").rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            found += [f"{path.relative_to(infra)}: {problem}" for problem in _of_document(document)]
    return found


# ------------------------------------------------------------------------------------------------ schemas


def _problems(document: dict[str, Any]) -> list[str]:
    import jsonschema
    import kubernetes_validate

    name = f"{document.get('kind')} {document.get('metadata', {}).get('name', '')}"
    if document.get("kind") in KINDS:
        errors = jsonschema.Draft202012Validator(_kuberay(document["kind"])).iter_errors(document)
        return [f"{name}: {'.'.join(map(str, error.absolute_path))}: {error.message[:300]}" for error in errors]
    try:
        kubernetes_validate.validate(document, VERSION, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [f"{name}: {'.'.join(map(str, error.path))}: {error.message[:300]}"]
    except kubernetes_validate.SchemaNotFoundError:
        return [f"{name}: {document.get('apiVersion')} has no such kind"]
    return []


def _kuberay(kind: str) -> dict[str, Any]:
    """The kind's schema, with no room for unknown keys."""
    schema: dict[str, Any] = json.loads((SCHEMAS / f"{kind}.json").read_text())
    for part in walk(schema):
        if isinstance(part.get("properties"), dict) and part.get("type") == "object" and "x-kubernetes-preserve-unknown-fields" not in part:
            part.setdefault("additionalProperties", False)
    return schema


# ------------------------------------------------------------------------------------------------ rules


def _of_document(document: dict[str, Any]) -> Iterator[str]:
    kind = document.get("kind")
    if kind == "Secret":
        yield "a Secret: make it with kubectl, it has no place in a file"
    if kind == "NetworkPolicy" and any(not rule.get("from") for rule in document["spec"].get("ingress", [])):
        yield f"NetworkPolicy {document['metadata']['name']}: an ingress rule without `from` lets everybody in"
    for part in walk(document):
        if "headGroupSpec" in part and part.get("authOptions", {}).get("mode") != "token":
            yield f"{kind}: whoever reaches the dashboard runs code; authOptions.mode: token"
        if isinstance(part.get("containers"), list):
            yield from (f"{kind}: {problem}" for problem in _of_pod(part))


def _of_pod(pod: dict[str, Any]) -> Iterator[str]:
    if pod.get("securityContext", {}).get("runAsNonRoot") is not True:
        yield "a pod may run as root; securityContext.runAsNonRoot: true"
    for container in pod["containers"]:
        name, context = container["name"], container.get("securityContext", {})
        if context.get("allowPrivilegeEscalation") is not False or "ALL" not in context.get("capabilities", {}).get("drop", []):
            yield f"{name}: keeps privileges; allowPrivilegeEscalation: false, capabilities.drop: [ALL]"
        if not {"cpu", "memory"} <= container.get("resources", {}).get("limits", {}).keys():
            yield f"{name}: no limits of cpu and memory"
        if ":" not in container.get("image", "") or container["image"].endswith(":latest"):
            yield f"{name}: image {container.get('image')}: name a version"
        for variable in container.get("env", []):
            if SECRET.search(variable["name"]) and "value" in variable:
                yield f"{name}: {variable['name']}: a secret that is written down; take it from a Secret"
