"""KubeRay's schemas, made small enough to keep: `python -m infra.checks.crds FOLDER` writes infra/k8s/crds from the CRDs in FOLDER.

FOLDER holds ray.io_rayclusters.yaml and ray.io_rayjobs.yaml of KubeRay's helm-chart/kuberay-operator/crds. What is left out are
descriptions and versions before v1; parts that occur several times are written once. What validates is the same.
"""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

SCHEMAS = Path(__file__).resolve().parents[1] / "k8s" / "crds"
KINDS = {"RayCluster": "ray.io_rayclusters.yaml", "RayJob": "ray.io_rayjobs.yaml"}
WORTH_A_NAME = 400
"""Characters from which a repeated part is written once."""


def without_descriptions(node: Any) -> Any:
    """The schema without its prose. A property that is called `description` has a schema as its value and stays."""
    if isinstance(node, dict):
        return {key: without_descriptions(value) for key, value in node.items() if not (key == "description" and isinstance(value, str))}
    return [without_descriptions(value) for value in node] if isinstance(node, list) else node


def _text(node: Any) -> str:
    return json.dumps(node, sort_keys=True)


def with_definitions(schema: dict[str, Any]) -> dict[str, Any]:
    """The same schema with each large part that is repeated below `$defs`."""
    times: Counter[str] = Counter()

    def count(node: Any) -> None:
        children = list(node.values()) if isinstance(node, dict) else node if isinstance(node, list) else []
        if isinstance(node, dict) and "type" in node and len(_text(node)) >= WORTH_A_NAME:
            times[_text(node)] += 1
            if times[_text(node)] > 1:
                return  # its parts are counted
        for child in children:
            count(child)

    count(schema)
    repeated = sorted((text for text, number in times.items() if number > 1), key=lambda text: (len(text), text))
    names = {text: f"part{position}" for position, text in enumerate(repeated)}

    def named(node: Any, whole: bool = False) -> Any:
        if isinstance(node, dict):
            if not whole and "type" in node and _text(node) in names:
                return {"$ref": f"#/$defs/{names[_text(node)]}"}
            return {key: named(value) for key, value in node.items()}
        return [named(value) for value in node] if isinstance(node, list) else node

    definitions = {name: named(json.loads(text), whole=True) for text, name in names.items()}
    return named(schema, whole=True) | {"$defs": definitions}


def main(folder: Path) -> None:
    for kind, name in KINDS.items():
        definition = yaml.safe_load((folder / name).read_text())
        version = next(version for version in definition["spec"]["versions"] if version["name"] == "v1")
        schema = with_definitions(without_descriptions(version["schema"]["openAPIV3Schema"]))
        (SCHEMAS / f"{kind}.json").write_text(json.dumps(schema, sort_keys=True, separators=(",", ":")).replace('},"', '},\n"') + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
