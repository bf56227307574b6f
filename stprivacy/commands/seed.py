"""`--seed`, which earlier versions had where pixels leave."""

from collections.abc import Callable
from typing import Any

import click

from stprivacy.errors import UserError


def refused_seed(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option as one that `--help` leaves out and that is refused in one line, before anything is done."""

    def refuse(_context: click.Context, _option: click.Parameter, value: str | None) -> None:
        if value is not None:
            raise UserError("--seed: gone, since everybody who guesses a seed can take the noise off; leave the option out")

    return click.option("--seed", hidden=True, expose_value=False, callback=refuse, help="Gone.")(command)
