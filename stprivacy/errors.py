"""The two ways in which a command ends early, and the exit codes that say which one it was."""

import functools
import sys
from collections.abc import Callable


class UserError(Exception):
    """Bad input: the message is one line that names file or key, what is wrong and how to mend it. Exit code 2."""


class RunError(Exception):
    """The input was fine, the run was not: the message is one line that says what happened. Exit code 1."""


def exit_with_one_line(main: Callable[..., None]) -> Callable[..., None]:
    """Wrap a command's `main`: UserError ends it with exit code 2, RunError with 1, each with one line on stderr."""

    @functools.wraps(main)
    def wrapped(*args: object, **kwargs: object) -> None:
        try:
            main(*args, **kwargs)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except RunError as error:
            print(f"failed: {error}", file=sys.stderr)
            sys.exit(1)

    return wrapped
