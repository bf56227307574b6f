"""What the checks share: finding a tool, running it, and what a secret is called."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SECRET = re.compile(r"password|secret|token|access_key|auth_key", re.IGNORECASE)
"""In the name of what holds one."""


class ToolMissing(Exception):
    """A check's tool isn't here; the message says which and how to get it."""


def tool(name: str, how: str) -> str:
    """The path of a program of this environment or of the system. Raises ToolMissing."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise ToolMissing(f"{name} is missing ({how})")
    return found


def complaints(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> list[str]:
    """The lines of a program that ended with another code than 0; none of one that found nothing."""
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60)
    return [line for line in (done.stdout + done.stderr).splitlines() if line.strip()] if done.returncode else []


def walk(node: Any) -> Iterator[dict[str, Any]]:
    """Every mapping within a document, itself first."""
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from walk(child)
