"""terraform/: `terraform fmt`, a parser, and what this house asks of what is made with it.

`terraform validate` would need the provider, which is fetched from the internet: `terraform init` and `plan` do that in your account.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from infra.checks.tools import SECRET, ToolMissing, complaints, tool, walk

FOLDER = Path("terraform")
WITHOUT_RESOURCE = re.compile(r"ec2:Describe\w+|ecr:GetAuthorizationToken")
"""Actions that know no resource, so that `*` is all that can be said."""
DOORS = ("block_public_acls", "block_public_policy", "ignore_public_acls", "restrict_public_buckets")
DATABASE = {"storage_encrypted": True, "publicly_accessible": False, "manage_master_user_password": True, "deletion_protection": True}


def fmt(infra: Path) -> list[str]:
    command = [tool("terraform", "developer.hashicorp.com/terraform/install"), "fmt", "-check", "-diff", "-recursive"]
    return complaints(command, infra / FOLDER)


def parsed(infra: Path) -> list[str]:
    """Every file is HCL, and every `var.…` and `local.…` is there."""
    try:
        everything = _read(infra)
    except SyntaxError as error:
        return [f"{FOLDER}: {error}"]
    known = {f"var.{name}" for name, _ in _named(everything, "variable")}
    known |= {f"local.{name}" for block in everything["locals"] for name in block}
    text = "".join(path.read_text() for path in sorted((infra / FOLDER).glob("*.tf")))
    used = set(re.findall(r"\b(?:var|local)\.\w+", text))
    made = {f"{kind}.{name}" for kind, name, _ in _resources(everything)}
    made |= {f"data.{kind}.{name}" for kind, name, _ in _data(everything)}
    named = set(re.findall(r"(?<![\w.])((?:data\.)?aws_\w+\.\w+)", text))
    return [f"{FOLDER}: {name}: nothing of that name" for name in sorted(used - known) + sorted(named - made)]


def rules(infra: Path) -> list[str]:
    """Closed and encrypted bucket and database, scanned images, no `*` among what is allowed, no secret, pinned versions."""
    try:
        everything = _read(infra)
    except SyntaxError:
        return []  # told by `parsed`
    problems = [*_closed(everything), *_policies(everything), *_secrets(everything)]
    settings = everything["terraform"]
    wanted = [part for block in settings for part in block.get("required_providers", [])]
    providers = {name: value.get("version") for part in wanted for name, value in part.items()}
    if not any("required_version" in block for block in settings) or not providers or not all(providers.values()):
        problems.append("required_version and every provider's version have to be said")
    for kind in ("variable", "output"):
        problems += [f"{kind} {name}: no description" for name, body in _named(everything, kind) if not body.get("description")]
    return [f"{FOLDER}: {problem}" for problem in problems]


def _closed(everything: dict[str, Any]) -> Iterator[str]:
    kinds: dict[str, list[dict[str, Any]]] = {}
    for kind, _, body in _resources(everything):
        kinds.setdefault(kind, []).append(body)
    for kind, name, _ in _resources(everything):
        if kind != "aws_s3_bucket":
            continue
        place = f"aws_s3_bucket.{name}.id"
        for part in ("public_access_block", "server_side_encryption_configuration", "versioning", "lifecycle_configuration", "policy"):
            if not any(place in str(body.get("bucket")) for body in kinds.get(f"aws_s3_bucket_{part}", [])):
                yield f"bucket {name}: no aws_s3_bucket_{part}"
    for block in kinds.get("aws_s3_bucket_public_access_block", []):
        yield from (f"aws_s3_bucket_public_access_block: {door} is not true" for door in DOORS if block.get(door) is not True)
    for database in kinds.get("aws_db_instance", []):
        wrong = [key for key, value in DATABASE.items() if database.get(key) is not value]
        yield from (f"aws_db_instance: {key} must be {str(DATABASE[key]).lower()}" for key in wrong)
    for repository in kinds.get("aws_ecr_repository", []):
        if not any(part.get("scan_on_push") is True for part in repository.get("image_scanning_configuration", [])):
            yield "aws_ecr_repository: scan_on_push must be true"
    for block in walk(everything["resource"]):
        for key in ("cidr_ipv4", "cidr_ipv6", "cidr_blocks", "ipv6_cidr_blocks"):
            if any(everybody in str(block.get(key)) for everybody in ("0.0.0.0/0", "::/0")):
                yield f"{key}: {block[key]} is everybody"


def _policies(everything: dict[str, Any]) -> Iterator[str]:
    for kind, name, body in _data(everything):
        if kind != "aws_iam_policy_document":
            continue
        for statement in body.get("statement", []):
            actions = statement.get("actions", [])
            if statement.get("effect", "Allow") != "Allow":
                continue
            yield from (f"policy {name}: allows {action}; name each action" for action in actions if "*" in action)
            if "not_actions" in statement or "not_resources" in statement:
                yield f"policy {name}: allows all but what is named"
            if "*" in statement.get("resources", []) and not all(WITHOUT_RESOURCE.fullmatch(action) for action in actions):
                yield f"policy {name}: {', '.join(actions)} on every resource"
    for kind, name, body in _resources(everything):
        if kind.startswith("aws_iam_") and "jsonencode" in str(body):
            yield f"{kind}.{name}: write its policy as a document, which is checked"
        if kind.endswith("_policy_attachment") or "managed_policy_arns" in body:
            yield f"{kind}.{name}: a ready-made policy allows more than is needed"


def _secrets(everything: dict[str, Any]) -> Iterator[str]:
    for part in walk(everything):
        for key, value in part.items():
            if SECRET.search(key) and isinstance(value, str) and "${" not in value:
                yield f"{key}: a secret that is written down"
            if re.search(r"AKIA[0-9A-Z]{16}", str(value)) and isinstance(value, str):
                yield f"{key}: an access key"


# ------------------------------------------------------------------------------------------------ reading


def _read(infra: Path) -> dict[str, Any]:
    """All files as one: block type → blocks. Raises SyntaxError, naming the file."""
    try:
        import hcl2
        from lark.exceptions import LarkError
    except ImportError:
        raise ToolMissing("hcl2 is missing (pip install python-hcl2)") from None
    everything: dict[str, Any] = {kind: [] for kind in ("terraform", "provider", "locals", "variable", "output", "resource", "data")}
    for path in sorted((infra / FOLDER).glob("*.tf")):
        try:
            blocks = _plain(hcl2.loads(path.read_text()))
        except LarkError as error:
            raise SyntaxError(f"{path.name}: {' '.join(str(error).split())[:300]}") from None
        for kind, found in blocks.items():
            everything.setdefault(kind, []).extend(found)
    return everything


def _plain(node: Any) -> Any:
    """Without the parser's marks: quotes around strings and keys, remarks beside values."""
    if isinstance(node, dict):
        return {_plain(key): _plain(value) for key, value in node.items() if not key.startswith("__")}
    if isinstance(node, list):
        return [_plain(value) for value in node]
    return node[1:-1] if isinstance(node, str) and len(node) > 1 and node[0] == node[-1] == '"' else node


def _named(everything: dict[str, Any], kind: str) -> list[tuple[str, dict[str, Any]]]:
    return [(name, body) for block in everything[kind] for name, body in block.items()]


def _resources(everything: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(kind, name, body) for kind, named in _named(everything, "resource") for name, body in named.items()]


def _data(everything: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(kind, name, body) for kind, named in _named(everything, "data") for name, body in named.items()]
