"""ray/cluster.aws.yaml: Ray's own validator, and what it doesn't ask."""

from pathlib import Path
from typing import Any

import yaml

from infra.checks.tools import ToolMissing, walk

CLUSTER = Path("ray/cluster.aws.yaml")


def validator(infra: Path) -> list[str]:
    """What `ray up` does with the file before it calls the cloud."""
    try:
        import jsonschema
        from ray.autoscaler._private.util import prepare_config, validate_config
    except ImportError as error:
        raise ToolMissing(f"{error.name} is missing (pip install 'ray[default]')") from None
    try:
        validate_config(prepare_config(_read(infra)))
    except jsonschema.ValidationError as error:
        return [f"{CLUSTER}: {'.'.join(map(str, error.absolute_path))}: {error.message[:300]}"]
    except (ValueError, KeyError, TypeError, RuntimeError, AssertionError) as error:
        return [f"{CLUSTER}: {type(error).__name__}: {error}"]
    return []


def rules(infra: Path) -> list[str]:
    """Tokens, a dashboard on loopback, SSH for somebody and not for everybody, encrypted disks, roles."""
    config, problems = _read(infra), []
    if "--env RAY_AUTH_MODE=token" not in config["docker"].get("run_options", []):
        problems.append("no token is asked for; docker.run_options: --env RAY_AUTH_MODE=token")
    if not any("--dashboard-host=127.0.0.1" in command for command in config["head_start_ray_commands"]):
        problems.append("the dashboard listens beyond the head; --dashboard-host=127.0.0.1")
    permissions = config["provider"].get("security_group", {}).get("IpPermissions", [])
    if not permissions:
        problems.append("provider.security_group: without one, Ray lets the whole internet knock at SSH")
    for part in walk(permissions):
        problems += [f"{part[key]} is everybody" for key in ("CidrIp", "CidrIpv6") if part.get(key) in ("0.0.0.0/0", "::/0")]
    for name, node in config["available_node_types"].items():
        disks = [part["Ebs"] for part in walk(node) if "Ebs" in part]
        if not disks or not all(disk.get("Encrypted") for disk in disks):
            problems.append(f"{name}: a disk that isn't encrypted")
        if "IamInstanceProfile" not in node["node_config"]:
            problems.append(f"{name}: no IamInstanceProfile, so Ray would make a role that may do everything in EC2 and S3")
    return [f"{CLUSTER}: {problem}" for problem in problems]


def _read(infra: Path) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((infra / CLUSTER).read_text())
    return read
