"""compose.yaml: two readers of the form, and what this house asks of a service."""

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import yaml

from infra.checks.tools import SECRET, ToolMissing, complaints, tool

COMPOSE, EXAMPLE = Path("compose/compose.yaml"), Path("compose/.env.example")
REQUIRED, ANY = re.compile(r"\$\{(\w+):\?"), re.compile(r"\$\{?(\w+)")


def compose_spec(infra: Path) -> list[str]:
    """The Compose specification's own types, without what `${…}` becomes."""
    try:
        from compose_spec import PyCompose
    except ImportError:
        raise ToolMissing("compose_spec is missing (pip install compose-spec)") from None
    try:
        # It doesn't know YAML's merge key; what is merged is what counts.
        PyCompose.from_yaml(yaml.dump(_read(infra), sort_keys=False))
    except ValueError as error:
        return [f"{COMPOSE}: {error}"]
    return []


def docker_compose(infra: Path) -> list[str]:
    """`docker compose config` accepts the file when every value is set, and refuses it when none is."""
    command = _compose()
    needed = set(REQUIRED.findall((infra / COMPOSE).read_text()))
    without = {name: value for name, value in os.environ.items() if name not in needed}
    with tempfile.NamedTemporaryFile() as empty:  # in place of a .env that somebody has there
        command += ["--env-file", empty.name, "--file", str(COMPOSE), "config", "--quiet"]
        found = complaints(command, infra, without | dict.fromkeys(needed, "x"))
        if not found and not complaints(command, infra, without):
            found = [f"{COMPOSE}: starts without a secret"]
    return found


def _compose() -> list[str]:
    try:
        plugin = [tool("docker", "docker"), "compose"]
        if not complaints([*plugin, "version"], Path.cwd()):
            return plugin
    except ToolMissing:
        pass
    return [tool("docker-compose", "docker's compose plugin, or Debian's docker-compose")]


def rules(infra: Path) -> list[str]:
    """Loopback ports, health checks, restarts, memory limits, pinned images, no privileges, no secret that is written down."""
    text, problems = (infra / COMPOSE).read_text(), []
    for name, service in _read(infra)["services"].items():
        problems += [f"{name}: {problem}" for problem in _of_service(service)]
    needed = set(REQUIRED.findall(text))
    problems += [f"${{{name}}} may be empty; write ${{{name}:?…}}" for name in sorted(set(ANY.findall(text)) - needed)]
    example = dict(line.split("=", 1) for line in (infra / EXAMPLE).read_text().splitlines() if "=" in line and not line.startswith("#"))
    problems += [f"{EXAMPLE.name} doesn't name {name}" for name in sorted(needed - example.keys())]
    problems += [f"{EXAMPLE.name} gives {name} a value, which would be used" for name in sorted(needed) if example.get(name)]
    return [f"{COMPOSE}: {problem}" for problem in problems]


def _of_service(service: dict[str, Any]) -> list[str]:
    problems = [f"no {key}" for key in ("healthcheck", "restart", "mem_limit", "image") if key not in service]
    problems += [f"port {port} is open beyond this machine; write 127.0.0.1:{port}" for port in _public(service.get("ports", []))]
    image = service.get("image", "")
    if ":" not in image or image.endswith(":latest"):
        problems.append(f"image {image}: name a version")
    if service.get("privileged") or "no-new-privileges:true" not in service.get("security_opt", []):
        problems.append("may gain privileges; security_opt: [no-new-privileges:true]")
    if service.get("network_mode") == "host":
        problems.append("network_mode: host opens every port that it listens on")
    environment = service.get("environment", {})
    if isinstance(environment, list):
        environment = dict(entry.partition("=")[::2] for entry in environment)
    written = [name for name, value in environment.items() if _is_secret(name) and not REQUIRED.search(str(value))]
    return problems + [f"{name}: a secret that is written down; take it from the environment" for name in written]


def _public(ports: list[Any]) -> list[str]:
    """Those of the ports that aren't bound to loopback, in short or long form."""
    told = [(port.get("host_ip"), f"{port.get('published')}:{port.get('target')}") if isinstance(port, dict) else
            (str(port).rpartition(":")[0].rpartition(":")[0] or None, str(port)) for port in ports]  # fmt: skip
    return [text for address, text in told if address not in ("127.0.0.1", "[::1]", "::1")]


def _is_secret(name: str) -> bool:
    return bool(SECRET.search(name)) and not name.endswith(("_PATH", "_FILE"))


def _read(infra: Path) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((infra / COMPOSE).read_text())
    return read
