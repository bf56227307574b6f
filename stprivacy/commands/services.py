"""`stprivacy services`: Postgres, S3, MLflow and Ray on this machine, to try and to test with. Imports wait until a command runs."""

import sys
from pathlib import Path

import click

from stprivacy.errors import UserError

FOLDER = click.option(
    "--folder", type=click.Path(path_type=Path), default=Path(".cache/stprivacy/services"), show_default=True, help="Where their data are."
)


@click.group()
def services() -> None:
    """Start and stop MLflow, Postgres, S3 and Ray on this machine.

    A tracking server with a password, as a team has it, and a small cluster: to try, and for tests (docs/services.md). All but Ray
    listens on loopback alone. Passwords are made once, in a file that only you can read.

    \b
    stprivacy services start                  what `make services` does
    eval "$(stprivacy services env)"          this shell's commands use them from now on
    stprivacy services stop                   what `make services-stop` does; data stay
    """


@services.command()
@click.option("--ray", "with_ray", is_flag=True, help="Two Ray nodes as well, with a dashboard to submit jobs to.")
@click.option("--port", "ports", multiple=True, metavar="NAME=N", help="A port for postgres, s3, mlflow or ray. Default: a free one.")
@FOLDER
def start(with_ray: bool, ports: tuple[str, ...], folder: Path) -> None:
    """Start what doesn't run yet; what runs is left alone.

    \b
    stprivacy services start --ray
    stprivacy services start --port mlflow=5000
    """
    from stprivacy.services import together

    together.start(folder, with_ray, _numbers(ports, together.PORTS))
    if with_ray:
        click.echo("note: Ray's own ports listen on all of this machine's addresses; who has no token is refused there (docs/services.md)")
    click.echo(f"passwords: {folder / 'secrets.json'}")
    click.echo(f'for this shell: eval "$({_this_command()} services env)"')


@services.command()
@click.option("--purge", is_flag=True, help="Remove their data and passwords, too: runs, models, everything in the bucket.")
@FOLDER
def stop(purge: bool, folder: Path) -> None:
    """End what was started here, crashed or not, and nothing else. Data stay."""
    from stprivacy.services import together

    together.stop(folder, purge)


@services.command()
@FOLDER
def status(folder: Path) -> None:
    """Say what runs, and whether it answers; exit code 1 when something is missing."""
    from stprivacy.services import together

    sys.exit(0 if together.status(folder) else 1)


@services.command()
@FOLDER
def env(folder: Path) -> None:
    """Print the variables that lead `make repro`, DVC and boto3 to the services, passwords among them, as lines for a shell.

    \b
    eval "$(stprivacy services env)"
    """
    from stprivacy.services import together

    click.echo(together.exports(folder), nl=False)


def _numbers(ports: tuple[str, ...], known: tuple[str, ...]) -> dict[str, int]:
    """NAME=N as numbers by name. Raises UserError for other forms."""
    found = {}
    for given in ports:
        name, _, number = given.partition("=")
        if name not in known or not (number.isdigit() and 0 < int(number) < 65536):
            raise UserError(f"--port {given}: give NAME=NUMBER with one of {', '.join(known)}")
        found[name] = int(number)
    return found


def _this_command() -> str:
    """How the reader's shell finds this command: `make` has another PATH."""
    local = Path(".venv/bin/stprivacy")
    return str(local) if local.exists() else "stprivacy"
